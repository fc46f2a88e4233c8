/* tags.h - the captions of a folder as lists of tags, edited many at once.
 *
 * A caption file is one line of tags with commas between, as kohya's tools and
 * the web UI's taggers write it; what follows the first line is kept as it is.
 * Nothing is written before tags_save, which first puts the old texts into
 * FOLDER/.sdc_tags_undo.json, so that any moment of a crash can be undone.
 */
#ifndef SDC_ENGINE_TAGS_H
#define SDC_ENGINE_TAGS_H

#include <stddef.h>

#include "engine/error.h"

typedef struct {
    char *picture, *path;    /* the picture and its caption file, below the folder */
    char *before;            /* the file's text when it was read; NULL: there is none */
    char *rest;              /* from the first line's end on; never NULL */
    char **tag;              /* count tags, in order, owned */
    char *whole;             /* tags_put: the text that the file gets; NULL: tags and rest */
    size_t count, cap;
} TagFile;

typedef struct {
    char *dir;
    TagFile *files;          /* by name, subfolders after their parent's files */
    size_t count, cap;
    int saved;               /* tags_save has noted a step for undo */
} TagFolder;

/* Reads the captions of all pictures in dir (recursive: and below it).
 * extension NULL: ".txt". ERR_INPUT names a caption that cannot be read. */
int tags_open(TagFolder *t, const char *dir, const char *extension, int recursive, Err *e);
void tags_close(TagFolder *t);                              /* zeroed t ok */

typedef enum {
    TAGS_ADD,                /* words go behind (at_start: before) the rest, where missing */
    TAGS_REMOVE,             /* words go */
    TAGS_REPLACE,            /* words[0] becomes words[1] ("": goes); never twice in a caption */
    TAGS_FIRST,              /* words come first, in this order, added where missing */
    TAGS_DEDUPE,             /* later copies of a tag go */
    TAGS_SORT                /* by alphabet, or (by_count) the folder's commonest first */
} TagEditKind;

typedef struct {
    TagEditKind kind;
    const char *const *words;
    size_t word_count;
    int at_start, by_count;
    size_t keep;             /* sort: this many stay in front */
    const char *having, *lacking;   /* only captions with, without this tag; NULL: all */
} TagEdit;

/* Edits in memory; *changed counts captions that differ. ERR_USAGE for words
 * that cannot be tags (empty, with a comma or line end). */
int tags_edit(TagFolder *t, const TagEdit *edit, size_t *changed, Err *e);

/* The caption file's text as tags_save would write it (mem_free); NULL: no memory. */
char *tags_text(const TagFile *f);
/* 1 when tags_save would write it. */
int tags_changed(const TagFile *f);

/* The whole text of a caption file, instead of its tags; taken over. */
void tags_put(TagFile *f, char *text);

/* Writes what changed, after noting it in the undo file under `what`. Called again for the
 * same folder and `what`, it adds to the step: one undo takes back all. */
int tags_save(TagFolder *t, const char *what, Err *e);

/* Takes the newest noted step back: *what (mem_free) and how many files. A file
 * that has been edited since stays as it is and is counted in *skipped; the step
 * is forgotten. ERR_INPUT when there is nothing to undo. */
int tags_undo(const char *dir, char **what, size_t *restored, size_t *skipped, Err *e);

typedef struct {
    const char *tag;         /* borrowed from the folder */
    size_t count;            /* captions that have it */
} TagCount;

/* Every tag once, the commonest first, then by alphabet. *list: mem_free. */
int tags_count(const TagFolder *t, TagCount **list, size_t *count, Err *e);

#endif
