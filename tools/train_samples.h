/* train_samples.h - sample pictures during `sdc train`, and the grid of epochs x prompts. */
#ifndef SDC_TOOLS_TRAIN_SAMPLES_H
#define SDC_TOOLS_TRAIN_SAMPLES_H

#include "tools/train.h"

/* Reads --sample_prompts and plans the graphs; before model_load. Nothing
 * happens when the option is absent. */
int train_samples_init(TrainRun *r, Err *e);
void train_samples_free(TrainRun *r);
/* Adds the wishes of their graphs to the model's slab once more. */
int train_samples_want(TrainRun *r, Err *e);
/* Before the first step (--sample_at_first), and after step done. */
int train_samples_first(TrainRun *r, Err *e);
int train_samples_after(TrainRun *r, uint32_t done, Err *e);

#endif
