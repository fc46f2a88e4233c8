/* attn_bwd.cu - softmax attention, backward, and the choice of the kernel.
 *
 * The kernels of this file run everywhere; bf16 and f16 go to attn_mma_bwd.cu
 * where device and head size allow.
 */
#include "kernels/cuda/attn_simt.h"

enum { ROWS_THREADS = 256 };

/* Scratch of the backward, each (N,H,padded): lse2 = log2(e) lse, infinite in
 * the rows behind TQ so that their probabilities are 0; delta = dout . o, there 0.
 * Eight lanes to a row. */
static __global__ void __launch_bounds__(ROWS_THREADS)
attn_rows(Attention p, int padded, float *lse2, float *delta, const Elem *dout, const Elem *o,
          const float *lse)
{
    int lane = threadIdx.x & 7, n = blockIdx.z, h = blockIdx.y;
    int row = blockIdx.x * (ROWS_THREADS / 8) + (threadIdx.x >> 3);     /* padded: a multiple */
    float s = 0;
    if (row < p.tq) {
        size_t at = attn_at(&p, p.tq, n, h, row);
        if (p.d % VEC == 0) {
            for (int c = lane * VEC; c < p.d; c += 8 * VEC) {
                ElemVec a = *(const ElemVec *)(dout + at + c), b = *(const ElemVec *)(o + at + c);
                for (int e = 0; e < VEC; e++) s = fmaf(elem_get(a.e[e]), elem_get(b.e[e]), s);
            }
        } else {
            for (int c = lane; c < p.d; c += 8)
                s = fmaf(elem_get(dout[at + c]), elem_get(o[at + c]), s);
        }
    }
    lanes_sum(1, 8, &s);
    if (lane) return;
    size_t head = (size_t)n * p.heads + h;
    delta[head * padded + row] = s;
    lse2[head * padded + row] = row < p.tq ? lse[head * p.tq + row] * ATTN_LOG2E : INFINITY;
}

/* P and dS of this step in place of S and G. keys: rows of x are keys. */
static __device__ __forceinline__ void gradients(const int keys, const AttnBackward *a, size_t head,
                                                 float s[4][4], float g[4][4], int x0, int y0)
{
    int tx = threadIdx.x & 7, ty = threadIdx.x >> 3;
    float c = a->p.scale * ATTN_LOG2E;
    const float *lse2 = a->lse2 + head * a->padded, *delta = a->delta + head * a->padded;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            int x = x0 + 4 * ty + i, y = y0 + tx + 8 * j, row = keys ? y : x;
            int seen = y < a->yt && (!a->p.causal || (keys ? x <= y : y <= x));
            float prob = seen ? exp2f(fmaf(s[i][j], c, -lse2[row])) : 0.0f;
            s[i][j] = prob;
            g[i][j] = prob * (g[i][j] - delta[row]);
        }
}

/* Block x: a tile of rows of x, a range of columns of the outputs, one of rows of y. Without
 * `keys` there is no out1. One tile of x and one of y are in shared memory, so
 * y0, which is needed twice, is loaded twice. */
static __device__ __forceinline__ void backward(const int wide, const int narrow, const int keys,
                                                const AttnBackward *a, float *shared)
{
    const int cols = SIMT_OUT(wide, narrow), dims = SIMT_DIMS(cols);
    const Attention *p = &a->p;
    float *xs = shared, *ys = xs + SIMT_X * SIMT_STRIDE(dims);
    float *ps = ys + SIMT_Y * SIMT_STRIDE(cols);
    int split = blockIdx.x % a->splits, block = blockIdx.x / a->splits;
    int tiles = (a->xt + SIMT_X - 1) / SIMT_X, x0 = block % tiles * SIMT_X;
    int c0 = block / tiles * cols, n = blockIdx.z, h = blockIdx.y, vector = p->d % VEC == 0;
    size_t step = (size_t)p->heads * p->d, head = (size_t)n * p->heads + h;
    size_t xat = attn_at(p, a->xt, n, h, x0);
    int row = x0 + simt_row();                      /* of this warp */
    int y0 = p->causal && keys ? x0 : 0, end = a->yt;
    if (p->causal && !keys && x0 + SIMT_X < end) end = x0 + SIMT_X;
    if (y0 < split * a->range) y0 = split * a->range;
    if (end > (split + 1) * a->range) end = (split + 1) * a->range;
    float o0[4][SIMT_COLS] = {{0}}, o1[4][SIMT_COLS] = {{0}};
    for (; y0 < end; y0 += SIMT_Y) {
        size_t yat = attn_at(p, a->yt, n, h, y0);
        float s[4][4] = {{0}}, g[4][4] = {{0}};
        int busy = row < a->xt && (!p->causal || (keys ? row < y0 + SIMT_Y : y0 < row + 16));
        for (int c = 0; c < p->d; c += dims) {
            __syncthreads();
            simt_load(xs, a->x0 + xat + c, SIMT_X, dims, a->xt - x0, p->d - c, step, vector);
            simt_load(ys, a->y0 + yat + c, SIMT_Y, dims, a->yt - y0, p->d - c, step, vector);
            __syncthreads();
            if (busy) simt_scores(s, xs, ys, dims);
            __syncthreads();
            simt_load(xs, a->x1 + xat + c, SIMT_X, dims, a->xt - x0, p->d - c, step, vector);
            simt_load(ys, a->y1 + yat + c, SIMT_Y, dims, a->yt - y0, p->d - c, step, vector);
            __syncthreads();
            if (busy) simt_scores(g, xs, ys, dims);
        }
        if (busy) gradients(keys, a, head, s, g, x0, y0);
        if (keys) {
            if (p->d > dims) {
                __syncthreads();
                simt_load(ys, a->y1 + yat + c0, SIMT_Y, cols, a->yt - y0, p->d - c0, step, vector);
                __syncthreads();
            }
            simt_put(ps, s);
            __syncwarp();
            if (busy) simt_values(o1, ps, ys, wide, narrow);
        }
        __syncthreads();
        simt_load(ys, a->y0 + yat + c0, SIMT_Y, cols, a->yt - y0, p->d - c0, step, vector);
        simt_put(ps, g);
        __syncthreads();
        if (busy) simt_values(o0, ps, ys, wide, narrow);
    }
    float scale[4] = {p->scale, p->scale, p->scale, p->scale}, one[4] = {1, 1, 1, 1};
    simt_store(a->out0 + xat + c0, a->part ? attn_part(a, split, 0) + xat + c0 : 0, o0, scale, wide,
               narrow, a->xt - x0, p->d - c0, step);
    if (keys)
        simt_store(a->out1 + xat + c0, a->part ? attn_part(a, split, 1) + xat + c0 : 0, o1, one,
                   wide, narrow, a->xt - x0, p->d - c0, step);
}

#define KERNEL(cols, wide, narrow)                                                       \
    static __global__ void __launch_bounds__(SIMT_THREADS, 2)                            \
    attn_simt_dq_##cols(AttnBackward a)                                                   \
    {                                                                                    \
        CUDA_SHARED(float, shared);                                                      \
        backward(wide, narrow, 0, &a, shared);                                           \
    }                                                                                    \
    static __global__ void __launch_bounds__(SIMT_THREADS, 2)                            \
    attn_simt_dkv_##cols(AttnBackward a)                                                   \
    {                                                                                    \
        CUDA_SHARED(float, shared);                                                      \
        backward(wide, narrow, 1, &a, shared);                                           \
    }
SIMT_WIDTHS_BWD(KERNEL)
#undef KERNEL

static void launch(Dev *d, const AttnBackward *a)
{
    const Attention *p = &a->p;
    unsigned tiles = (unsigned)(a->xt + SIMT_X - 1) / SIMT_X;
#define LAUNCH(cols, wide, narrow)                                                       \
    if (SIMT_SERVES(cols, p->d)) {                                                       \
        enum { BYTES = 4 * (SIMT_X * SIMT_STRIDE(SIMT_DIMS(cols)) +                      \
                            SIMT_Y * (SIMT_STRIDE(cols) + SIMT_P)) };                    \
        dim3 grid(tiles * (unsigned)((p->d + cols - 1) / cols * a->splits),              \
                  (unsigned)p->heads, (unsigned)p->n);                                   \
        if (a->out1) CUDA_LAUNCH(d, attn_simt_dkv_##cols, grid, SIMT_THREADS, BYTES, *a); \
        else CUDA_LAUNCH(d, attn_simt_dq_##cols, grid, SIMT_THREADS, BYTES, *a);         \
        return;                                                                          \
    }
    SIMT_WIDTHS_BWD(LAUNCH)
#undef LAUNCH
}

/* out0, out1 = sums of the parts. */
static __global__ void __launch_bounds__(ROWS_THREADS) attn_gather(AttnBackward a)
{
    size_t count = (size_t)a.p.n * a.xt * a.p.heads * a.p.d;
    for (size_t i = blockIdx.x * (size_t)ROWS_THREADS + threadIdx.x; i < count;
         i += (size_t)gridDim.x * ROWS_THREADS) {
        float s0 = 0, s1 = 0;
        for (int k = 0; k < a.splits; k++)
            s0 += attn_part(&a, k, 0)[i], s1 += attn_part(&a, k, 1)[i];
        a.out0[i] = elem_put(s0), a.out1[i] = elem_put(s1);
    }
}

/* Splits of the queries for dk and dv: two blocks to a processor, if these have RANGE
 * queries. */
enum { RANGE = 256 };

static int key_splits(const Dev *d, const Attention *p)
{
    int blocks = (p->tk + SIMT_X - 1) / SIMT_X * p->heads * p->n;
    int want = 2 * ((const CudaDev *)d)->processors / blocks, most = (p->tq + RANGE - 1) / RANGE;
    return want < 1 || p->causal ? 1 : want < most ? want : most;
}

/* In floats: lse2 and delta, and the parts of dk and dv. */
static size_t rows_size(const Attention *p)
{
    return (size_t)p->n * p->heads * attn_padded(p->tq);
}

static size_t parts_size(const Dev *d, const Attention *p)
{
    int splits = key_splits(d, p);
    return splits > 1 ? 2 * (size_t)splits * p->n * p->tk * p->heads * p->d : 0;
}

#ifdef SDC_F32
size_t attention_scratch_cuda(const Dev *d, const Attention *p, Dtype dt, int backward)
{
    (void)dt;
    if (!backward) return 0;
    return (2 * rows_size(p) + parts_size(d, p)) * sizeof(float);
}
#endif

static void one_side(Dev *d, const AttnBackward *a)
{
#ifndef SDC_F32
    if (cuda_dev(d)->sm >= ATTN_MMA_SM && OP(attn_mma_bwd)(d, a)) return;
#endif
    launch(d, a);
}

void OP(attention_bwd)(Dev *d, const Attention *p, void *dq, void *dk, void *dv, const void *dout,
                       const void *q, const void *k, const void *v, const void *o,
                       const float *lse)
{
    assert((!p->causal || p->tq == p->tk) && p->scale > 0 && !dk == !dv);
    AttnBackward a;
    a.p = *p, a.padded = attn_padded(p->tq);
    assert(d->ws_bytes >= (2 * rows_size(p) + parts_size(d, p)) * sizeof(float));
    float *lse2 = (float *)d->ws, *delta = lse2 + rows_size(p);
    dim3 grid((unsigned)a.padded / (ROWS_THREADS / 8), (unsigned)p->heads, (unsigned)p->n);
    CUDA_LAUNCH(d, attn_rows, grid, ROWS_THREADS, 0, *p, a.padded, lse2, delta,
                (const Elem *)dout, (const Elem *)o, lse);
    a.lse2 = lse2, a.delta = delta;
    const Elem *eq = (const Elem *)q, *ek = (const Elem *)k, *ev = (const Elem *)v;
    if (dq) {
        a.xt = p->tq, a.x0 = eq, a.x1 = (const Elem *)dout;
        a.yt = p->tk, a.y0 = ek, a.y1 = ev;
        a.out0 = (Elem *)dq, a.out1 = 0;
        a.splits = 1, a.range = p->tk, a.part = 0;
        one_side(d, &a);
    }
    if (dk) {
        a.xt = p->tk, a.x0 = ek, a.x1 = ev;
        a.yt = p->tq, a.y0 = eq, a.y1 = (const Elem *)dout;
        a.out0 = (Elem *)dk, a.out1 = (Elem *)dv;
        a.splits = key_splits(d, p);
        a.range = attn_padded((p->tq + a.splits - 1) / a.splits);
        a.part = a.splits > 1 ? delta + rows_size(p) : 0;
        one_side(d, &a);
        size_t count = (size_t)p->n * p->tk * p->heads * p->d;
        if (a.part)
            CUDA_LAUNCH(d, attn_gather, cuda_blocks(count, ROWS_THREADS), ROWS_THREADS, 0, a);
    }
}
