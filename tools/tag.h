/* tag.h - what the parts of `sdc tag` share.
 *
 *   cmd_tag.c    options, and tagging a folder
 *   tag_train.c  --train: a tagger of one's own
 */
#ifndef SDC_TOOLS_TAG_H
#define SDC_TOOLS_TAG_H

#include "models/tagger.h"
#include "tools/options.h"

typedef struct {
    char *tagger, *device, *dtype, *interpolation, *extension, *separator, *undesired, *first,
        *replacement;
    double thresh, threshold[TAG_CATEGORIES];
    int batch, threads, recursive, dry_run, append, remove_underscore, rating, rating_last,
        character_first, character_expand, frequency, debug, compare, words;
    char *train, *init, *save_precision;
    int steps, warmup, min_count, resume, flip, stop_after;
    int64_t seed;
    double lr;
    OptionList rest;
} TagOptions;

/* Learns a tagger from the captions of DIR and writes it into o->train. */
int tag_train(const TagOptions *o, const char *dir, Err *e);

#endif
