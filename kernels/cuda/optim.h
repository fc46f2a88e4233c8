/* optim.h - what the optimizer's kernels share: arrays by fours, AdamW.
 *
 * Same f32 operations in the same order as kernels/ref, and the same bits: every product is
 * mul(), which the compiler may not fuse with a sum.
 */
#ifndef SDC_KERNELS_CUDA_OPTIM_H
#define SDC_KERNELS_CUDA_OPTIM_H

#include "kernels/cuda/cuda.h"

enum { OPTIM_THREADS = 256 };

static __device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }

/* for each four of count elements that are this thread's: the first is i, there
 * are m of them. */
#define FOUR_EACH(count, i, m)                                                              \
    for (size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 4; i < (count);       \
         i += (size_t)gridDim.x * blockDim.x * 4)                                           \
        for (int m = (count) - i < 4 ? (int)((count) - i) : 4; m; m = 0)

static __device__ __forceinline__ void four_get(float v[4], const float *p, int m)
{
    if (m == 4) {
        float4 q = *(const float4 *)p;
        v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
    } else {
#pragma unroll
        for (int k = 0; k < 4; k++) v[k] = k < m ? p[k] : 0.0f;
    }
}

static __device__ __forceinline__ void four_put(float *p, const float v[4], int m)
{
    if (m == 4) {
        *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
    } else {
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (k < m) p[k] = v[k];
    }
}

static inline unsigned four_blocks(size_t count) { return cuda_blocks(count, OPTIM_THREADS * 4); }

/* ---- AdamW ---------------------------------------------------------------- */

typedef struct { float clip, keep, b1, c1, b2, c2, root, eps, lr; } AdamWF;

static inline AdamWF adamw_f32(const AdamW *h)
{
    AdamWF c;
    c.clip = (float)h->clip, c.keep = (float)(1 - h->lr * h->weight_decay);
    c.b1 = (float)h->beta1, c.c1 = (float)(1 - h->beta1);
    c.b2 = (float)h->beta2, c.c2 = (float)(1 - h->beta2);
    c.root = (float)sqrt(h->bias2), c.eps = (float)h->eps, c.lr = (float)(h->lr / h->bias1);
    return c;
}

/* The parameter after a step with moments m and v. */
static __device__ __forceinline__ float adamw_param(const AdamWF c, float p, float m, float v)
{
    return mul(p, c.keep) - mul(c.lr, m) / (sqrtf(v) / c.root + c.eps);
}

#endif
