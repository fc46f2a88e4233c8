/* prompts.h - files of sample prompts, as kohya's --sample_prompts reads them.
 *
 * One prompt a line; '#' first makes a comment. Options follow the text:
 *   --w W --h H --d SEED --s STEPS --l CFG --n NEGATIVE --ss SAMPLER
 * Source: kohya sd-scripts library/train_util.py line_to_prompt_dict.
 */
#ifndef SDC_TOOLS_PROMPTS_H
#define SDC_TOOLS_PROMPTS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

typedef struct {
    char *text, *negative, *sampler;   /* owned; sampler NULL: not given */
    int width, height, steps;          /* 0: not given */
    double cfg;                        /* NAN: not given */
    int64_t seed;                      /* -1: not given */
} SamplePrompt;

typedef struct {
    SamplePrompt *list;
    size_t count, cap;
} SamplePrompts;

/* ERR_USAGE "FILE:LINE: ..." for an option that is not known or has no number. */
int prompts_read(SamplePrompts *p, const char *path, Err *e);
/* The same from the text of such a file, named path in messages. */
int prompts_parse(SamplePrompts *p, const char *text, const char *path, Err *e);
void prompts_free(SamplePrompts *p);

#endif
