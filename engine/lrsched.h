/* lrsched.h - learning rate schedules: the factor on the learning rate at each
 * optimizer step, as diffusers and transformers get_scheduler give it (the names
 * of kohya's --lr_scheduler).
 *
 * With k the step from 0, W warmup steps and S steps in all, every schedule but
 * constant starts with k / W while k < W. Then, with p = (k - W) / (S - W):
 *     constant, constant_with_warmup   1
 *     adafactor                        1: that optimizer has its own
 *     piecewise_constant               of "1:10,0.1:20,0.01": 1 for k < 10, 0.1 for k < 20, then
 *                                      0.01; no warmup
 *     linear                           1 - p
 *     cosine                           (1 + cos(pi p)) / 2
 *     cosine_with_restarts             (1 + cos(pi frac(cycles p))) / 2
 *     cosine_with_min_lr               (1 - m) (1 + cos(pi cycles p)) / 2 + m
 *     polynomial                       (1 - e) (1 - p)^power + e,  e = lr_end / lr
 *     inverse_sqrt                     sqrt(T / (k + T - W)),  T = timescale, or W, or 10000
 *     warmup_stable_decay              1 until S - D, then (1 - m) (1 + cos(pi cycles q)) / 2 + m
 *                                      with q = (k - (S - D)) / D; its warmup starts at m, not 0
 * and never below 0; past the end they stay at their last value. m is min_ratio.
 * Source: transformers optimization.py, called by kohya's library/train_util.py
 * get_scheduler_fix (which halves num_cycles for the two with m).
 */
#ifndef SDC_ENGINE_LRSCHED_H
#define SDC_ENGINE_LRSCHED_H

#include "engine/error.h"

typedef enum {
    LRSCHED_CONSTANT,
    LRSCHED_CONSTANT_WITH_WARMUP,
    LRSCHED_LINEAR,
    LRSCHED_COSINE,
    LRSCHED_COSINE_WITH_RESTARTS,
    LRSCHED_POLYNOMIAL,
    LRSCHED_COSINE_WITH_MIN_LR,
    LRSCHED_INVERSE_SQRT,
    LRSCHED_WARMUP_STABLE_DECAY,
    LRSCHED_PIECEWISE_CONSTANT,
    LRSCHED_ADAFACTOR,
    LRSCHED_KINDS
} LrKind;

enum { LRSCHED_PIECES = 16 };

typedef struct {
    LrKind kind;
    int warmup, total;     /* W, S: optimizer steps */
    int decay;             /* D of warmup_stable_decay */
    int timescale;         /* T of inverse_sqrt; 0: W, or 10000 */
    double min_ratio;      /* m, 0..1; NAN: not given, which cosine_with_min_lr refuses */
    double lr_end;         /* polynomial; 0: 1e-7 */
    int cycles;            /* the cosines with more than p: >= 1 */
    double power;          /* polynomial: > 0 */
    double lr;             /* polynomial: the base rate, above lr_end */
    int pieces;            /* piecewise_constant: lrsched_rules fills these; piece i is until */
    int until[LRSCHED_PIECES];                              /* until[i], the last for ever */
    double factor[LRSCHED_PIECES];
} LrSched;

/* The name of a kind; NULL past the end. */
const char *lrsched_name(int kind);

/* Case, '-' and '_' do not matter. ERR_USAGE with the list of names. */
int lrsched_find(LrKind *kind, const char *name, Err *e);

/* diffusers' step_rules, "1:10,0.1:20,0.01". ERR_USAGE. */
int lrsched_rules(LrSched *s, const char *rules, Err *e);

/* ERR_USAGE for fields out of range, and for constant with a warmup, which
 * kohya refuses too. W > S is allowed: the warmup is then never finished. */
int lrsched_check(const LrSched *s, Err *e);

/* The factor at step k >= 0 of a checked schedule. */
double lrsched_factor(const LrSched *s, int k);

#endif
