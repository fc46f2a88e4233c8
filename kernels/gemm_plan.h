/* gemm_plan.h - how the x86 products are cut into blocks, tasks and scratch.
 *
 * Every product of ops.h is C (m,n) = sum over k of P (m,k) Q (k,n). P is read
 * one element at a time and broadcast, Q one vector at a time. A task is a
 * rectangle of C; for each block of k it packs its part of Q (meant to stay in
 * the second-level cache), then for every mr rows packs P (first-level cache)
 * and runs the micro kernel over all panels of nr columns. Blocks of k depend
 * on k alone, so sums have one order however C is cut.
 */
#ifndef SDC_KERNELS_GEMM_PLAN_H
#define SDC_KERNELS_GEMM_PLAN_H

#include "kernels/ops.h"

/* Most steps of a block of k; a step is one k, or a pair. */
enum { GEMM_STEPS = 1536 };

typedef struct {
    int m, n, k;
    int pair;               /* products of bf16 pairs: two k per step */
    int p_across;           /* k runs across the rows of P's source: packing transposes */
    int q_across;           /* same for Q: packing copies; otherwise it transposes */
} GemmShape;

typedef struct {
    int mr, nr;             /* micro tile */
    int threads;            /* at most as many as tasks */
    int kc, nk;             /* elements per block of k, number of blocks */
    int mc, nc, tm, tn;     /* tasks are mc x nc; tm x tn of them cover C */
    size_t p_stride;        /* bytes between two packed rows of P */
    size_t panel;           /* floats between two panels of Q */
    size_t p_bytes, q_bytes, acc_bytes, bytes;      /* scratch of one thread */
} GemmPlan;

/* wide: AVX-512, otherwise AVX2. */
void gemm_plan(GemmPlan *g, const GemmShape *s, int threads, int wide);

/* 1 when linear and conv2d take x as Q and w as P: few rows, so that the large
 * operand is copied and the small one transposed. */
int gemm_swap(int m, int n);
/* The same for conv2d: a strip is done as its map is. */
int gemm_swap_conv(const Conv2d *p);

/* Up to this many rows linear goes through memory once and packs nothing; it
 * keeps x in f32, padded, in its scratch. */
enum { GEMM_FEW = 4 };
static inline size_t gemm_few_stride(int k) { return ((size_t)k + 15) & ~(size_t)15; }
static inline size_t gemm_few_bytes(int k) { return gemm_few_stride(k) * GEMM_FEW * 4; }

/* The grid of pixels of dx that are reached through the same taps: those with
 * y % stride == py, x % stride == px. */
typedef struct {
    int rows, cols;         /* pixels of the class */
    int i0, j0, kh, kw;     /* taps i0 + t stride, t < kh; same for j */
    int oy0, ox0;           /* output pixel of the first pixel through tap i0, j0 */
} ConvClass;
ConvClass conv_class(const Conv2d *p, int py, int px);

#endif
