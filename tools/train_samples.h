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
/* After train_result: the row of the trained file, where no other row has its weights. */
int train_samples_last(TrainRun *r, Err *e);

/* A picture of each prompt with the weights of the moment, in files with this label. */
int train_samples_make(TrainRun *r, const char *label, Err *e);
/* --sample_strengths (train_strengths.c): reads it, as the run is planned; and after the end
 * of the run (train_result), whose LoRA is then left at the last of them. */
int train_strengths_init(TrainRun *r, Err *e);
int train_strengths(TrainRun *r, Err *e);

/* Is it known how near they are to the training pictures (models/near.h)? The log has it. */
int train_samples_near(const TrainRun *r);

/* The part of the prompts' tags that the tagger found in the last row; NAN: there is none, or
 * no row (train_judge.h). What it takes while it runs. */
double train_samples_found(const TrainRun *r);
size_t train_samples_judge_bytes(const TrainRun *r);

/* What a picture of each prompt costs (cost_nominal); steps from one to the next. */
double train_samples_cost(const TrainRun *r);
uint32_t train_samples_interval(const TrainRun *r);

/* For the report: prompts; the labels of moments (or of strengths) that have pictures; what
 * a label means and the path of a picture (both mem_free). */
size_t train_samples_count(const TrainRun *r);
const char *train_samples_prompt(const TrainRun *r, size_t i);
size_t train_samples_rows(const TrainRun *r, int strengths, char (*label)[24], size_t cap);
char *train_samples_row_name(const TrainRun *r, const char *label);
char *train_samples_path(const TrainRun *r, const char *label, size_t i);

#endif
