/* jobs.h - what a job would need, and how fast it would be: for `sdc plan` and
 * `sdc doctor`.
 *
 * Nothing is guessed: the graphs are built and planned as the run itself would, without
 * weights; seconds come from measured speeds (engine/cost.h).
 */
#ifndef SDC_TOOLS_JOBS_H
#define SDC_TOOLS_JOBS_H

#include "engine/cost.h"
#include "models/model.h"

/* A picture; a step of a LoRA; a step of --full --full_bf16. Training: AdamW8bit. */
typedef enum { JOB_PICTURE, JOB_LORA, JOB_FULL } JobKind;

typedef struct {
    JobKind kind;
    int side, batch;           /* side x side pixels; pictures a step */
    int rank;                  /* of the LoRA */
} Job;

typedef struct {
    ModelOptions model;
    Speed speed;               /* jobs_measure; zeros: seconds mean nothing */
    size_t budget;             /* bytes; SIZE_MAX: what it needs when there is enough */
} JobMachine;

typedef struct {
    size_t bytes;              /* needed; 0: it does not fit */
    double seconds;            /* of a step */
    int again, cheap;          /* operations computed twice, and without need */
    int swap;                  /* a picture: U-Net and decoder take turns */
    int pieces;                /* pictures at a time */
} JobPlan;

int job_plan(JobPlan *p, const JobMachine *m, const Job *j, Err *e);

#endif
