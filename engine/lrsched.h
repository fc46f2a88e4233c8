/* lrsched.h - learning rate schedules: the factor on the learning rate at each
 * optimizer step, as diffusers and transformers get_scheduler give it (the names
 * of kohya's --lr_scheduler).
 *
 * With k the step from 0, W warmup steps and S steps in all, every schedule but
 * constant starts with k / W while k < W. Then, with p = (k - W) / (S - W):
 *     constant, constant_with_warmup   1
 *     linear                           1 - p
 *     cosine                           (1 + cos(pi p)) / 2
 *     cosine_with_restarts             (1 + cos(pi frac(cycles p))) / 2
 *     polynomial                       (1 - e) (1 - p)^power + e,  e = 1e-7 / lr
 * and never below 0; past the end they stay at their last value.
 */
#ifndef SDC_ENGINE_LRSCHED_H
#define SDC_ENGINE_LRSCHED_H

#include "engine/error.h"

typedef enum {
    LRSCHED_CONSTANT, LRSCHED_CONSTANT_WITH_WARMUP, LRSCHED_LINEAR, LRSCHED_COSINE,
    LRSCHED_COSINE_WITH_RESTARTS, LRSCHED_POLYNOMIAL, LRSCHED_KINDS
} LrKind;

typedef struct {
    LrKind kind;
    int warmup, total;     /* W, S: optimizer steps */
    int cycles;            /* cosine_with_restarts: >= 1 */
    double power;          /* polynomial: > 0 */
    double lr;             /* polynomial: the base rate, above its end rate 1e-7 */
} LrSched;

/* The name of a kind; NULL past the end. */
const char *lrsched_name(int kind);

/* Case, '-' and '_' do not matter. ERR_USAGE with the list of names. */
int lrsched_find(LrKind *kind, const char *name, Err *e);

/* ERR_USAGE for fields out of range, and for constant with a warmup, which
 * kohya refuses too. W > S is allowed: the warmup is then never finished. */
int lrsched_check(const LrSched *s, Err *e);

/* The factor at step k >= 0 of a checked schedule. */
double lrsched_factor(const LrSched *s, int k);

#endif
