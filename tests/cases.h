/* cases.h - the check of one op: every version that impl.def names against the
 * f32 reference.
 *
 * A Case lists what an op reads and writes. case_check() runs every version
 * that this machine can run, at 1, 2 and 3 threads (on a GPU: three times),
 * which must give the same bits, on inputs rounded to its dtype, between guard
 * bytes; the f32 reference on the same inputs (widened, so exactly the same)
 * says what is right.
 *
 * Bound, for an output whose terms are about `size`:
 *   |got - want| <= ulps 2^-24 (size + max|want|) + half size 2^-8 [bf16] or 2^-11 [f16]
 *                   + half an ulp, at most 2^-24, 2^-8 or 2^-11 |want| (storing).
 * `ulps` counts the f32 roundings on the way to an element: an exponential or
 * erf 4, a quotient or square root 1, a sum of m terms 6 sqrt(m) (independent
 * roundings, six deviations), and 12 for the rest. `half` counts roundings of
 * probabilities to bf16 or f16, which products of these types want. A dropped
 * term, a swapped operand or an off-by-one is of size / sqrt(m) or more.
 */
#ifndef SDC_TESTS_CASES_H
#define SDC_TESTS_CASES_H

#include "kernels/impl.h"
#include "tests/kern.h"
#include "tests/test.h"

enum { ARGS = 9, T = DT_N };                /* T: the dtype of the version */

typedef struct {
    int dt;                                 /* a Dtype, or T */
    size_t n;                               /* 0: NULL */
    KernKind kind;
    int acc;                                /* output: added to */
    double ulps, size, half;                /* output: bound */
} Arg;

typedef struct Case {
    const char *op;
    const void *p, *exact;                  /* exact: for the reference on f32; NULL: p */
    void (*call)(void (*fn)(void), Dev *d, const struct Case *c, void **in, void **out);
    void (*prepare)(Dev *d, const struct Case *c, void **in);   /* inputs made of others; f32 */
    size_t (*scratch)(const Dev *d, const struct Case *c, Dtype dt);
    Arg in[ARGS], out[ARGS];
    int ins, outs, alias;                   /* output 0 is input alias - 1 */
} Case;

/* Adds an input of n random elements, or an output with its bound. */
void reads(Case *c, int dt, size_t n, KernKind kind);
void writes(Case *c, int dt, size_t n, int acc, double ulps, double size, double half);
static inline double sum_ulps(double terms) { return 6 * sqrt(terms) + 12; }

/* 1 when all versions are right; else the test has failed. */
int case_check(const Case *c, uint64_t seed);

/* Defines call_NAME for Case.call: the call of the op with c->p and these arguments. */
#define CALL(op_, ...) ((op_##_fn *)fn)(d, c->p, __VA_ARGS__)
#define CALLER(name, ...)                                                                \
    static void call_##name(void (*fn)(void), Dev *d, const Case *c, void **in, void **out) \
    {                                                                                    \
        (void)in, (void)out;                                                             \
        __VA_ARGS__;                                                                     \
    }

#endif
