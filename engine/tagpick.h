/* tagpick.h - from a tagger's probabilities to the tags of a picture.
 *
 * Source: kohya sd-scripts, finetune/tag_images_by_wd14_tagger.py; every option means what it
 * means there, also where one would not guess it: character_tags_first and
 * always_first_tags put one tag after the other at the front, so that the last of them is
 * first. Replacing comes before everything else, so the other options name the new tag.
 */
#ifndef SDC_ENGINE_TAGPICK_H
#define SDC_ENGINE_TAGPICK_H

#include "engine/taglist.h"

/* Strings are borrowed, NULL ok. */
typedef struct {
    double threshold[TAG_CATEGORIES];    /* a tag needs that probability; of TAG_RATING unused */
    const char *separator;               /* between tags; NULL: ", " */
    const char *undesired, *first;       /* lists of tags, divided by the separator without its
                                            blanks: left out; put in front where they are found */
    const char *replacement;             /* "old,new;old,new", with \, and \; for , and ; */
    int remove_underscore;               /* "_" becomes " " in tags of more than 3 characters */
    int rating, rating_last;             /* the most probable rating, in front or at the end */
    int character_first;
    int character_expand;                /* "name_(series)" becomes "name, series" */
} TagPickConfig;

typedef struct {
    const char *name;                    /* as it is written, borrowed */
    float p;
    int category;
} TagPicked;

typedef struct {
    const TagList *tags;
    TagPickConfig c;
    char **name;                         /* (tags->count) as written; owned */
    unsigned char *undesired;            /* (tags->count) */
    size_t *first, first_count;          /* indices of tags */
    size_t *seen, *since;                /* (tags->count) how often picked; since when */
    size_t picks;
    TagPicked *picked;                   /* (tags->count + 1) */
} TagPick;

/* *tags must outlive p. ERR_USAGE names the option that makes no sense; p is zeroed. */
int tagpick_init(TagPick *p, const TagList *tags, const TagPickConfig *c, Err *e);
void tagpick_free(TagPick *p);                             /* zeroed p ok */

/* The tags of a picture, in order: p->picked. Returns how many. prob (tags->count). */
size_t tagpick_run(TagPick *p, const float *prob);

/* They as a caption. existing (NULL: none) are tags that stand before them and are not
 * repeated. *text: mem_free. */
int tagpick_caption(char **text, const TagPick *p, size_t count, const char *existing, Err *e);

/* Indices of tags that were picked so far, the commonest first, then the earliest; order
 * (tags->count). Returns how many. */
size_t tagpick_frequency(const TagPick *p, size_t *order);

#endif
