/* attn_mma_bwd.cu - softmax attention, backward, on tensor cores: attn.h tells
 * what the two halves compute.
 *
 * A warp has 16 rows of x; with the queries as the columns, P and dS of dk and dv
 * are born transposed, as their products want them. The block's rows of x stay in
 * shared memory.
 */
#ifndef SDC_F32
#include "kernels/cuda/attn_mma.h"

enum { WARPS = 4, X = 16 * WARPS, NT = 4, Y = 8 * NT };

/* Which outputs a kernel makes, and whether its rows of x are keys. */
enum { OUT0 = 1, OUT1 = 2, KEYS = 4, DQ = OUT0, DK = OUT0 | KEYS, DV = OUT1 | KEYS, DKV = DK | DV };

/* Elements of a stage: rows of y0, of y1, and 2 Y floats: lse2 and delta. */
#define TILE(D) (Y * MMA_STRIDE(D))
#define STAGE(D) (2 * TILE(D) + 4 * Y)

typedef struct { float s[1][MMA_NT][4], g[1][MMA_NT][4], o0[1][MMA_CT][4], o1[1][MMA_CT][4]; } Rows;

/* S and G to P and dS, in place. x0, y0: first rows of the warp and of the step;
 * lse2, delta: of the rows (g, g+8) of x, or with KEYS of the rows of y. */
static __device__ __forceinline__ void gradients(const int make, const AttnBackward *a, Rows *r,
                                                 int x0, int y0, const float *lse2,
                                                 const float *delta)
{
    const Attention *p = &a->p;
    float c = p->scale * ATTN_LOG2E;
    int lane = threadIdx.x & 31, last = y0 + Y - 1;
    int some = make & KEYS ? p->causal && y0 < x0 + 15 : last >= a->yt || (p->causal && last > x0);
    UNROLL for (int n = 0; n < NT; n++)
        UNROLL for (int e = 0; e < 4; e++) {
            int col = n * 8 + lane % 4 * 2 + e % 2, at = make & KEYS ? col : e / 2;
            float prob = mma_exp2(fmaf(r->s[0][n][e], c, -lse2[at]));
            if (some) {
                int x = x0 + e / 2 * 8 + lane / 4, y = y0 + col;
                if (make & KEYS ? y < x : y >= a->yt || (p->causal && y > x)) prob = 0;
            }
            r->s[0][n][e] = prob;
            r->g[0][n][e] = prob * (r->g[0][n][e] - delta[at]);
        }
}

/* Begins to fill a stage with the rows from y0 on. */
static __device__ __forceinline__ void fill(const int D, const int make, const AttnBackward *a,
                                            Elem *stage, int y0)
{
    const Attention *p = &a->p;
    int n = blockIdx.z, h = blockIdx.y, have = a->yt - y0, i = threadIdx.x;
    size_t step = (size_t)p->heads * p->d, at = attn_at(p, a->yt, n, h, y0);
    mma_load(D, stage, a->y0 + at, Y, have, p->d, step);
    mma_load(D, stage + TILE(D), a->y1 + at, Y, have, p->d, step);
    if (make & KEYS && i < Y / 2) {
        const float *src = i < Y / 4 ? a->lse2 : a->delta;
        size_t row = ((size_t)n * p->heads + h) * a->padded + y0 + i % (Y / 4) * 4;
        copy_async16((float *)(stage + 2 * TILE(D)) + 4 * i, src + row, 1);
    }
    copy_async_commit();
}

static __device__ __forceinline__ void zero(const int rows, float o[][4])
{
    UNROLL for (int n = 0; n < rows; n++)
        UNROLL for (int e = 0; e < 4; e++) o[n][e] = 0;
}

/* out or, where it is given, part (rows of x) = o * scale. */
static __device__ __forceinline__ void store(const int D, const AttnBackward *a, Elem *out,
                                             float *part, float o[][4], float scale, int x0)
{
    const Attention *p = &a->p;
    int lane = threadIdx.x & 31;
    UNROLL for (int half = 0; half < 2; half++) {
        int x = x0 + half * 8 + lane / 4;
        if (x >= a->xt) continue;
        size_t at = attn_at(p, a->xt, blockIdx.z, blockIdx.y, x) + lane % 4 * 2;
        UNROLL for (int c = 0; c < D / 8; c++) {
            float low = o[c][2 * half] * scale, high = o[c][2 * half + 1] * scale;
            if (c * 8 >= p->d) continue;
            if (part) *(float2 *)(part + at + c * 8) = make_float2(low, high);
            else mma_put(out + at + c * 8, low, high);
        }
    }
}

/* One step: the warp's rows (x: those of x0, those of x1 X rows behind) against a stage. */
static __device__ __forceinline__ void step(const int D, const int make, const AttnBackward *a,
                                            Rows *r, const Elem *x, const Elem *stage, int x0,
                                            int y0, const float *lse2, const float *delta)
{
    zero(NT, r->s[0]), zero(NT, r->g[0]);
    UNROLL for (int i = 0; i < (D + 15) / 16; i++) {
        uint32_t f[1][4];
        mma_rows(D, f[0], x, i);
        mma_scores(D, 1, NT, r->s, f, stage, i);
        if (!(make & OUT0)) continue;
        mma_rows(D, f[0], x + X * MMA_STRIDE(D), i);
        mma_scores(D, 1, NT, r->g, f, stage + TILE(D), i);
    }
    const float *rows = (const float *)(stage + 2 * TILE(D));
    if (make & KEYS) lse2 = rows, delta = rows + Y;
    gradients(make, a, r, x0, y0, lse2, delta);
    if (make & OUT1) mma_values(D, 1, r->o1, r->s, stage + TILE(D), 0);
    if (make & OUT0) mma_values(D, 1, r->o0, r->g, stage, 0);
}

static __device__ __forceinline__ void backward(const int D, const int make, const AttnBackward *a,
                                                Elem *shared, int block)
{
    const Attention *p = &a->p;
    int split = block % a->splits, x0 = block / a->splits * X;
    int n = blockIdx.z, h = blockIdx.y, warp = (threadIdx.x >> 5) * 16;
    size_t head = (size_t)n * p->heads + h, xat = attn_at(p, a->xt, n, h, x0);
    size_t row = (size_t)p->heads * p->d;
    Elem *now = shared + 2 * X * MMA_STRIDE(D), *next = now + STAGE(D);
    float lse2[2] = {0}, delta[2] = {0};
    UNROLL for (int i = 0; i < 2 && !(make & KEYS); i++) {
        size_t at = head * a->padded + x0 + warp + i * 8 + (threadIdx.x & 31) / 4;
        lse2[i] = a->lse2[at], delta[i] = a->delta[at];
    }
    int y0 = p->causal && make & KEYS ? x0 : 0;
    int end = p->causal && !(make & KEYS) && x0 + X < a->yt ? x0 + X : a->yt;
    if (y0 < split * a->range) y0 = split * a->range;
    if (end > (split + 1) * a->range) end = (split + 1) * a->range;
    Rows r;
    zero(D / 8, r.o0[0]), zero(D / 8, r.o1[0]);
    mma_load(D, shared, a->x0 + xat, X, a->xt - x0, p->d, row);
    mma_load(D, shared + X * MMA_STRIDE(D), a->x1 + xat, X, a->xt - x0, p->d, row);
    fill(D, make, a, now, y0);
    for (; y0 < end; y0 += Y) {
        copy_async_wait(0);
        __syncthreads();                    /* `now` is here, and nobody reads `next` any more */
        if (y0 + Y < end) fill(D, make, a, next, y0 + Y);
        step(D, make, a, &r, shared + warp * MMA_STRIDE(D), now, x0 + warp, y0, lse2, delta);
        Elem *t = now;
        now = next, next = t;
    }
    float *p0 = a->part ? attn_part(a, split, 0) : 0, *p1 = a->part ? attn_part(a, split, 1) : 0;
    if (make & OUT0) store(D, a, a->out0, p0, r.o0[0], p->scale, x0 + warp);
    if (make & OUT1) store(D, a, a->out1, p1, r.o1[0], 1.0f, x0 + warp);
}

/* K(D, BLOCKS, SPLIT): blocks to a processor; whether dk and dv are of different
 * blocks, as registers do not suffice for both. */
#define SIZES(K) K(40, 3, 0) K(64, 3, 0) K(80, 2, 0) K(160, 1, 1)

#define KERNEL(D, BLOCKS, SPLIT)                                                         \
    static __global__ void __launch_bounds__(32 * WARPS, BLOCKS)                         \
    attn_mma_dq_##D(AttnBackward a)                                                      \
    {                                                                                    \
        CUDA_SHARED(Elem, shared);                                                       \
        backward(D, DQ, &a, shared, blockIdx.x);                                         \
    }                                                                                    \
    static __global__ void __launch_bounds__(32 * WARPS, BLOCKS)                         \
    attn_mma_dkv_##D(AttnBackward a)                                                     \
    {                                                                                    \
        CUDA_SHARED(Elem, shared);                                                       \
        if (!SPLIT) backward(D, DKV, &a, shared, blockIdx.x);                            \
        else if (blockIdx.x % 2) backward(D, DV, &a, shared, blockIdx.x / 2);            \
        else backward(D, DK, &a, shared, blockIdx.x / 2);                                \
    }
SIZES(KERNEL)
#undef KERNEL

int OP(attn_mma_bwd)(Dev *d, const AttnBackward *a)
{
    const Attention *p = &a->p;
    if (p->d % 8) return 0;
    unsigned blocks = (unsigned)((a->xt + X - 1) / X * a->splits);
#define RUN(kernel, bytes)                                                               \
    do {                                                                                 \
        if (bytes > 48 * 1024) CUDA_SHARED_MAX(d, kernel, bytes);                        \
        CUDA_LAUNCH(d, kernel, grid, 32 * WARPS, bytes, *a);                             \
    } while (0)
#define LAUNCH(D, BLOCKS, SPLIT)                                                         \
    if (p->d <= D) {                                                                     \
        enum { BYTES = 2 * (2 * X * MMA_STRIDE(D) + 2 * STAGE(D)) };                     \
        if (BYTES > cuda_dev(d)->shared_max) return 0;                                   \
        dim3 grid(a->out1 ? blocks << SPLIT : blocks, (unsigned)p->heads,                \
                  (unsigned)p->n);                                                       \
        if (a->out1) RUN(attn_mma_dkv_##D, BYTES);                                       \
        else RUN(attn_mma_dq_##D, BYTES);                                                \
        return 1;                                                                        \
    }
    SIZES(LAUNCH)
#undef LAUNCH
#undef RUN
    return 0;
}
#endif
