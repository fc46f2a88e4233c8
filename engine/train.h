/* train.h - the training loop: steps, schedule, state on disk.
 *
 * A Trainer owns the optimizer and counts steps. What a step computes is a
 * TrainTask: it runs forward and backward for one micro-batch and adds to
 * Param.grad (models/finetune.c: noise prediction; models/autoencode.c: the
 * VAE). Every random number of a run is a function of (seed, step, sample), so
 * the state on disk is small: parameters, moments, the step number.
 *
 * A resumed run ends in the same bytes as one that was never stopped.
 */
#ifndef SDC_ENGINE_TRAIN_H
#define SDC_ENGINE_TRAIN_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"
#include "engine/lrsched.h"
#include "engine/optim.h"
#include "engine/params.h"

typedef struct {
    /* Micro-batch `micro` (0..micros-1) of optimizer step `step`: forward and
     * backward, gradients scaled by 1/micros and added to Param.grad. */
    int (*run)(void *ctx, uint32_t step, int micro, float *loss, Err *e);
    /* How many micro-batches step has (gradient accumulation; the last step of
     * an epoch may have fewer). */
    int (*micros)(void *ctx, uint32_t step);
    /* After step done..: progress, saving, sampling. done counts from 1. NULL ok. */
    int (*after)(void *ctx, uint32_t done, Err *e);
    /* Asked between steps; an ErrCode (ERR_INT, ERR_TERM) ends the run after
     * the state was saved by the caller. NULL ok. */
    int (*stop)(void *ctx);
    void *ctx;
} TrainTask;

typedef struct {
    OptimConfig optim;
    const double *lr;              /* of each parameter group */
    int groups;
    LrSched sched;                 /* total: optimizer steps */
    double max_grad_norm;          /* 0: off */
    uint64_t seed;                 /* of the rounding of bf16 parameters */
    uint32_t loss_window;          /* steps that avr_loss is the mean of: an epoch, as in kohya */
} TrainConfig;

/* What a run measured on the way, besides its losses: kept in its state, so that what is
 * decided by it is decided again the same way. */
typedef struct {
    uint32_t step;
    float held_out, training;      /* mean loss; NAN: none */
} TrainPoint;

typedef struct {
    Params *ps;
    TrainConfig c;
    double lr[OPTIM_GROUPS];
    Optim *optim;
    void *state;                   /* device memory of the optimizer */
    size_t state_bytes;
    uint32_t step;                 /* optimizer steps done */
    uint32_t end;                  /* where train_run returns: sched.total, or lowered by the
                                      caller, also from TrainTask.after */
    float *window;                 /* (loss_window) the last losses */
    double loss, avr_loss, grad_norm, lr_factor;     /* of the last step */
    TrainPoint *points;            /* point_count, by step */
    size_t point_count, point_cap;
    double squares;                /* of the gradients that were streamed in this step */
} Trainer;

/* Lists every trainable parameter of ps, which is not allocated yet; then
 * train_bytes is known. */
int train_init(Trainer *t, Params *ps, const TrainConfig *c, Err *e);
size_t train_bytes(const Trainer *t);
/* After the parameters are allocated and loaded. */
int train_place(Trainer *t, Err *e);
void train_free(Trainer *t);                         /* zeroed t ok */

/* Adds to Trainer.points. */
int train_point(Trainer *t, TrainPoint p, Err *e);

/* Exec.update for graphs with streamed parameters (params.h): ctx is the Trainer. The
 * gradient of each parameter is clipped to max_grad_norm by itself. */
int train_update(void *ctx, Param *p, float *grad, Err *e);

/* Runs from t->step to t->end. ERR_FAIL naming the tensor when a loss or a
 * gradient is not finite; then the weights are those of the step before (of streamed
 * ones some may be of this step). Streamed parameters allow one micro-batch a step. */
int train_run(Trainer *t, const TrainTask *task, Err *e);

/* A fact about the run that must be equal when it is resumed. */
typedef struct { const char *key, *value; } TrainFact;

/* Writes parameters, optimizer and step atomically. */
int train_save(const Trainer *t, const char *path, const TrainFact *facts, size_t count, Err *e);
/* ERR_USAGE naming the option when a fact differs, ERR_INPUT when the file is
 * no state of this run. */
int train_load(Trainer *t, const char *path, const TrainFact *facts, size_t count, Err *e);

#endif
