/* taglist.h - the tags that a tagger knows: selected_tags.csv, as the WD taggers have it.
 *
 *     tag_id,name,category,count
 *     9999999,general,9,807858
 *     470575,1girl,0,4225150
 *
 * A line per output of the model, in that order. Fields may be quoted as in RFC 4180.
 */
#ifndef SDC_ENGINE_TAGLIST_H
#define SDC_ENGINE_TAGLIST_H

#include <stddef.h>

#include "engine/error.h"

/* Danbooru's numbers. */
enum {
    TAG_GENERAL, TAG_ARTIST, TAG_COPYRIGHT = 3, TAG_CHARACTER, TAG_META, TAG_RATING = 9,
    TAG_CATEGORIES
};

typedef struct {
    char *name;                      /* "long_hair"; owned */
    int category;                    /* 0..9 */
    long long id, count;             /* count: pictures that had it; 0 when there is no column */
} TagEntry;

typedef struct {
    TagEntry *list;
    size_t count, cap;
} TagList;

/* ERR_INPUT names the file and the line. t is zeroed on failure. */
int taglist_read(TagList *t, const char *path, Err *e);
/* Adds a tag with the next id. ERR_MEMORY. */
int taglist_add(TagList *t, const char *name, int category, long long count, Err *e);
int taglist_write(const TagList *t, const char *path, Err *e);       /* atomically */
void taglist_free(TagList *t);                                       /* zeroed t ok */

#endif
