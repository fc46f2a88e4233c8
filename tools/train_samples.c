/* train_samples.c - see train_samples.h. */
#include "tools/train_samples.h"

int train_samples_init(TrainRun *r, Err *e)
{
    if (!r->o.sample_prompts) return 0;
    return err_set(e, ERR_USAGE, "option --sample_prompts: not yet");
}

void train_samples_free(TrainRun *r) { (void)r; }
int train_samples_first(TrainRun *r, Err *e) { (void)r, (void)e; return 0; }
int train_samples_after(TrainRun *r, uint32_t done, Err *e) { (void)r, (void)done, (void)e; return 0; }
