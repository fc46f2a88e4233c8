/* bench_ops.h - `sdc bench ops`: how fast each op is here on the shapes of SD 1.5. */
#ifndef SDC_TOOLS_BENCH_OPS_H
#define SDC_TOOLS_BENCH_OPS_H

#include "engine/error.h"
#include "kernels/ops.h"

typedef struct {
    const char *device;         /* dev_open */
    int threads;
    Dtype dtype;                /* of activations */
    int int8;                   /* 1: weights of DT_I8 */
    const char *only;           /* lines that have this in op or shape; NULL: all */
    int json;                   /* an object a line */
} BenchOps;

/* A line on stdout for each op and shape: milliseconds (best of several; with one thread
 * its own time, which other programs disturb less), GFLOP/s, GB/s of operands that are
 * read or written once, and percent of a peak: for products that of the fastest product
 * found here, for the rest that of adding arrays too large for the caches. Operations are
 * those of the direct product, so Winograd's algorithm can pass 100 %; so can what stays
 * in a cache. */
int bench_ops(const BenchOps *o, Err *e);

#endif
