/* caption.h - captions of pictures: read, then varied for each time they are used.
 *
 * Source: kohya sd-scripts, library/train_util.py read_caption and
 * process_caption, in that order of operations. Python's random numbers are
 * replaced by counters (rng.h), so the result depends on the key alone.
 */
#ifndef SDC_ENGINE_CAPTION_H
#define SDC_ENGINE_CAPTION_H

#include "engine/error.h"
#include "engine/rng.h"

enum { CAPTION_MAX_BYTES = 1 << 16 };

/* Reads the first line of a caption file, without blanks at its ends, a byte
 * order mark or a line ending: *text is UTF-8, perhaps empty, owned by the
 * caller (mem_free). ERR_INPUT when it is not UTF-8, has a zero byte or is over CAPTION_MAX_BYTES. */
int caption_read(char **text, const char *path, Err *e);

/* All lines that are not empty, with a line feed between: what `wildcards` chooses from. */
int caption_read_lines(char **text, const char *path, Err *e);

/* kohya's options; a zeroed one changes nothing. Strings are borrowed, NULL ok. */
typedef struct {
    const char *prefix, *suffix;       /* put around, with a blank between */
    const char *separator;             /* between tags; NULL: "," */
    const char *secondary;             /* --secondary_separator: becomes separator at the end */
    int wildcards;                     /* --enable_wildcard: one line of several; {a|b} is a or
                                          b; {{ and }} are { and } */
    int shuffle;                       /* --shuffle_caption */
    int keep_tokens;                   /* the first n tags stay where they are */
    const char *keep_tokens_separator; /* "a ||| b, c ||| d": only b, c vary */
    double dropout_rate;               /* chance of an empty caption */
    int dropout_every_n_epochs;        /* empty in every n-th epoch; 0: never */
    double tag_dropout_rate;           /* chance of losing each tag that may vary */
    int token_warmup_min;              /* tags at step 0; 0: 1 */
    double token_warmup_step;          /* steps until all tags are there; below 1: part */
    long max_train_steps;              /* of this */
} CaptionConfig;

/* ERR_USAGE names the option that makes no sense. */
int caption_check(const CaptionConfig *c, Err *e);
/* 1 when the caption of a picture is the same each time it is used. */
int caption_is_fixed(const CaptionConfig *c);

/* The caption for one use in epoch (from 0) at step (from 0). key.purpose and
 * key.step are overwritten; key.seed and key.sample say which use it is. *out is
 * owned by the caller. ERR_MEMORY. */
int caption_process(char **out, const CaptionConfig *c, const char *caption, RngKey key,
                    uint32_t epoch, uint32_t step, Err *e);

#endif
