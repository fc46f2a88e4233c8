/* i8_plan.h - how the x86 products with int8 weights (int8.h) are cut into tasks, and
 * their scratch.
 *
 * Forward: x is rounded once, row by row of channels, to bytes in the scratch; then
 * tasks, rectangles of the result, multiply bytes. Backward: the weights are widened,
 * some columns at a time, for the product of gemm.h.
 */
#ifndef SDC_KERNELS_I8_PLAN_H
#define SDC_KERNELS_I8_PLAN_H

#include "kernels/ops.h"

typedef struct {
    size_t x_rows, stride;      /* rows of x; bytes from one to the next */
    size_t x_bytes, bytes;      /* the rounded x and a row of zeros; with steps and offsets */
    int rows, cols, tm, tn;     /* tasks are rows x cols; tm x tn of them cover the result */
    int threads;
} I8Plan;

/* The result is m x n, x has x_rows rows of c channels. wide: AVX-512. */
void i8_plan(I8Plan *g, size_t x_rows, int m, int n, int taps, int c, int threads, int wide);

/* Columns of x whose weights are widened at a time, and the bytes of those weights and
 * of these columns of dx. wdt: what they are widened to. */
typedef struct { int cols; size_t w_bytes, dx_bytes; } I8Columns;
I8Columns i8_columns(size_t x_rows, int n, int taps, int c, Dtype dt, Dtype wdt);

size_t i8_linear_scratch(const Dev *d, const Linear *p, Dtype dt);
size_t i8_conv2d_scratch(const Dev *d, const Conv2d *p, Dtype dt);

#endif
