/* train_judge.h - how well sample pictures follow their prompts: the part of the prompts' tags
 * that a tagger finds in them. The tagger is --tagger, or the one in a folder `tagger` beside
 * the model (the pocket model's). It runs on the processor, in the place of the activations,
 * and is read anew for each row of samples: between them it takes no memory.
 */
#ifndef SDC_TOOLS_TRAIN_JUDGE_H
#define SDC_TOOLS_TRAIN_JUDGE_H

#include "tools/prompts.h"
#include "tools/train.h"

typedef struct {
    char *path;                    /* of the tagger; NULL: there is none */
    size_t **want, *want_count;    /* (prompts) of its tags, those that a prompt has */
    size_t prompts, known, found;  /* tags of all prompts; and in the last row's pictures */
    int rows;                      /* judged so far */
    size_t bytes;                  /* while it runs */
    double seconds;                /* for all prompts, on cost_nominal */
} TrainJudge;

/* A tag of a prompt is what stands between commas, if the tagger knows it, else its words. */
int train_judge_open(TrainJudge *j, const TrainRun *r, const SamplePrompts *prompts, Err *e);
void train_judge_close(TrainJudge *j);                     /* zeroed j ok */
/* Counts j->found in the pictures of a row. When that fails, training goes on without it. */
int train_judge_row(TrainJudge *j, TrainRun *r, const char *label, Err *e);

#endif
