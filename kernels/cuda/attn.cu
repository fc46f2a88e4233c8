/* attn.cu - softmax attention, forward, and the choice of the kernel.
 *
 * The kernels of this file run everywhere; bf16 and f16 go to attn_mma.cu
 * where device and head size allow.
 */
#include "kernels/cuda/attn_simt.h"

/* What a thread keeps of its four rows. */
typedef struct { float max[4], sum[4], o[4][SIMT_COLS]; } Rows;

/* Scores to probabilities of this step (first key: j0), in place, with what there is
 * so far rescaled to the new maximum. A thread's sum is of its own columns. */
static __device__ __forceinline__ void softmax(const Attention *p, Rows *r, float s[4][4], int i0,
                                               int j0, const int cols)
{
    int tx = threadIdx.x & 7, ty = threadIdx.x >> 3;
    float c = p->scale * ATTN_LOG2E;
    float max[4];
    UNROLL for (int i = 0; i < 4; i++) {
        max[i] = r->max[i];
        for (int j = 0; j < 4; j++) {
            int key = j0 + tx + 8 * j;
            if (key >= p->tk || (p->causal && key > i0 + 4 * ty + i)) s[i][j] = -INFINITY;
            max[i] = fmaxf(max[i], s[i][j]);
        }
    }
    lanes_max(4, 8, max);
    UNROLL for (int i = 0; i < 4; i++) {
        float old = exp2f((r->max[i] - max[i]) * c), sum = 0;
        for (int j = 0; j < 4; j++) s[i][j] = exp2f((s[i][j] - max[i]) * c), sum += s[i][j];
        r->sum[i] = r->sum[i] * old + sum;
        r->max[i] = max[i];
        UNROLL for (int k = 0; k < cols; k++) r->o[i][k] *= old;
    }
}

/* Block x: a tile of queries, and a range of columns of v. */
static __device__ __forceinline__ void forward(const int wide, const int narrow,
                                               const AttnForward *a, float *shared)
{
    const int cols = SIMT_OUT(wide, narrow), dims = SIMT_DIMS(cols);
    const Attention *p = &a->p;
    float *xs = shared, *vs = xs + SIMT_X * SIMT_STRIDE(dims);
    float *ys = vs + SIMT_Y * SIMT_STRIDE(cols);
    int tiles = (p->tq + SIMT_X - 1) / SIMT_X, i0 = blockIdx.x % tiles * SIMT_X;
    int v0 = blockIdx.x / tiles * cols, n = blockIdx.z, h = blockIdx.y, vector = p->d % VEC == 0;
    size_t step = (size_t)p->heads * p->d;
    const Elem *q = a->q + attn_at(p, p->tq, n, h, i0);
    int keys = p->causal && i0 + SIMT_X < p->tk ? i0 + SIMT_X : p->tk;
    int row = i0 + simt_row();                      /* of this warp */
    Rows r;
    UNROLL for (int i = 0; i < 4; i++) {
        r.max[i] = -INFINITY, r.sum[i] = 0;
        UNROLL for (int c = 0; c < SIMT_COLS; c++) r.o[i][c] = 0;
    }
    for (int j0 = 0; j0 < keys; j0 += SIMT_Y) {
        size_t at = attn_at(p, p->tk, n, h, j0);
        float s[4][4] = {{0}};
        int busy = row < p->tq && (!p->causal || j0 < row + 16);
        for (int c0 = 0; c0 < p->d; c0 += dims) {
            __syncthreads();
            if (!j0 || p->d > dims)
                simt_load(xs, q + c0, SIMT_X, dims, p->tq - i0, p->d - c0, step, vector);
            simt_load(ys, a->k + at + c0, SIMT_Y, dims, p->tk - j0, p->d - c0, step, vector);
            if (!c0)
                simt_load(vs, a->v + at + v0, SIMT_Y, cols, p->tk - j0, p->d - v0, step, vector);
            __syncthreads();
            if (busy) simt_scores(s, xs, ys, dims);
        }
        if (busy) softmax(p, &r, s, i0, j0, wide * 4 + narrow);
        __syncthreads();                            /* the keys make room for the probabilities */
        if (!busy) continue;
        simt_put(ys, s);
        __syncwarp();
        simt_values(r.o, ys, vs, wide, narrow);
    }
    float scale[4];
    lanes_sum(4, 8, r.sum);
    for (int i = 0; i < 4; i++) {
        int row = i0 + 4 * (threadIdx.x >> 3) + i;
        scale[i] = 1.0f / r.sum[i];
        if (a->lse && !v0 && !(threadIdx.x & 7) && row < p->tq)
            a->lse[((size_t)n * p->heads + h) * p->tq + row] =
                r.max[i] * p->scale + logf(r.sum[i]);
    }
    simt_store(a->o + attn_at(p, p->tq, n, h, i0) + v0, 0, r.o, scale, wide, narrow, p->tq - i0,
               p->d - v0, step);
}

#define KERNEL(cols, wide, narrow)                                                       \
    static __global__ void __launch_bounds__(SIMT_THREADS, cols > 80 ? 2 : 3)           \
    attn_simt_##cols(AttnForward a)                                                      \
    {                                                                                    \
        CUDA_SHARED(float, shared);                                                      \
        forward(wide, narrow, &a, shared);                                               \
    }
SIMT_WIDTHS(KERNEL)
#undef KERNEL

static void launch(Dev *d, const AttnForward *a)
{
    const Attention *p = &a->p;
    unsigned tiles = (unsigned)(p->tq + SIMT_X - 1) / SIMT_X;
#define LAUNCH(cols, wide, narrow)                                                       \
    if (SIMT_SERVES(cols, p->d)) {                                                       \
        enum { KEYS = SIMT_Y * SIMT_STRIDE(SIMT_DIMS(cols)), PROBS = SIMT_Y * SIMT_P,    \
               X = SIMT_X * SIMT_STRIDE(SIMT_DIMS(cols)), V = SIMT_Y * SIMT_STRIDE(cols), \
               BYTES = 4 * (X + V + (KEYS > PROBS ? KEYS : PROBS)) };                    \
        dim3 grid(tiles * (unsigned)((p->d + cols - 1) / cols), (unsigned)p->heads,      \
                  (unsigned)p->n);                                                       \
        CUDA_LAUNCH(d, attn_simt_##cols, grid, SIMT_THREADS, BYTES, *a);                 \
        return;                                                                          \
    }
    SIMT_WIDTHS(LAUNCH)
#undef LAUNCH
}

void OP(attention)(Dev *d, const Attention *p, void *o, float *lse, const void *q, const void *k,
                   const void *v)
{
    assert((!p->causal || p->tq == p->tk) && p->scale > 0);
    AttnForward a = {*p, (const Elem *)q, (const Elem *)k, (const Elem *)v, (Elem *)o, lse};
#ifndef SDC_F32
    if (cuda_dev(d)->sm >= ATTN_MMA_SM && OP(attn_mma)(d, &a)) return;
#endif
    launch(d, &a);
}
