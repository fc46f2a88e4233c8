/* attn_mma.cu - softmax attention, forward, on tensor cores. */
#ifndef SDC_F32
#include "kernels/cuda/attn_mma.h"

/* ---- heads up to 160: everything of a row within a warp ------------------- */

enum { WARPS = 4, STEPS = 10 };         /* steps of 16 over the head size, at most */

/* What a thread keeps of its rows: g and g+8 (h = 0, 1) of each of M groups of 16. */
typedef struct {
    float max[2][2], sum[2][2], o[2][MMA_CT][4], s[2][MMA_NT][4];
    uint32_t q[2][STEPS][4];
} Rows;

/* Hides the keys from tk on, and those behind the query. i0, j0: first query of
 * the warp, first key. */
static __device__ __forceinline__ void hide(const Attention *p, const int M, const int NT,
                                            float s[][MMA_NT][4], int i0, int j0)
{
    int lane = threadIdx.x & 31;
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int n = 0; n < NT; n++)
            UNROLL for (int e = 0; e < 4; e++) {
                int key = j0 + n * 8 + lane % 4 * 2 + e % 2;
                int query = i0 + m * 16 + e / 2 * 8 + lane / 4;
                if (key >= p->tk || (p->causal && key > query)) s[m][n][e] = -INFINITY;
            }
}

/* Scores to probabilities, in place, with what there is so far rescaled to the new
 * maximum. A thread's sum is of its own columns. */
static __device__ __forceinline__ void softmax(const int D, const int M, const int NT, Rows *r,
                                               float c)
{
    float max[4];
    UNROLL for (int i = 0; i < 2 * M; i++) {
        max[i] = r->max[i / 2][i % 2];
        UNROLL for (int n = 0; n < NT; n++) {
            const float *s = r->s[i / 2][n] + i % 2 * 2;
            max[i] = fmaxf(max[i], fmaxf(s[0], s[1]));
        }
    }
    lanes_max(2 * M, 4, max);
    UNROLL for (int i = 0; i < 2 * M; i++) {
        int m = i / 2, h = i % 2;
        float old = mma_exp2((r->max[m][h] - max[i]) * c), zero = max[i] * c, sum = 0;
        r->max[m][h] = max[i];
        UNROLL for (int n = 0; n < NT; n++)
            UNROLL for (int e = 2 * h; e < 2 * h + 2; e++) {
                r->s[m][n][e] = mma_exp2(fmaf(r->s[m][n][e], c, -zero));
                sum += r->s[m][n][e];
            }
        r->sum[m][h] = r->sum[m][h] * old + sum;
        UNROLL for (int n = 0; n < D / 8; n++)
            r->o[m][n][2 * h] *= old, r->o[m][n][2 * h + 1] *= old;
    }
}

static __device__ __forceinline__ void store(const int D, const int M, const AttnForward *a,
                                             Rows *r, int i0)
{
    const Attention *p = &a->p;
    int lane = threadIdx.x & 31, n = blockIdx.z, h = blockIdx.y;
    UNROLL for (int m = 0; m < M; m++) {
        lanes_sum(2, 4, r->sum[m]);
        UNROLL for (int half = 0; half < 2; half++) {
            int row = i0 + m * 16 + half * 8 + lane / 4;
            float sum = r->sum[m][half], scale = 1.0f / sum;
            if (row >= p->tq) continue;
            Elem *o = a->o + attn_at(p, p->tq, n, h, row) + lane % 4 * 2;
            UNROLL for (int c = 0; c < D / 8; c++)
                if (c * 8 < p->d)
                    mma_put(o + c * 8, r->o[m][c][2 * half] * scale,
                            r->o[m][c][2 * half + 1] * scale);
            if (a->lse && lane % 4 == 0)
                a->lse[((size_t)n * p->heads + h) * p->tq + row] =
                    r->max[m][half] * p->scale + logf(sum);
        }
    }
}

/* M groups of 16 queries to a warp, 8 NT keys to a step. A stage is a tile of k and one
 * of v; the queries pass through the second one before it is needed. */
static __device__ __forceinline__ void forward(const int D, const int M, const int NT,
                                               const AttnForward *a, Elem *shared)
{
    const int KEYS = 8 * NT, QUERIES = 16 * M * WARPS, TILE = KEYS * MMA_STRIDE(D);
    const Attention *p = &a->p;
    int n = blockIdx.z, h = blockIdx.y, q0 = blockIdx.x * QUERIES;
    int row = (threadIdx.x >> 5) * 16 * M;
    size_t step = (size_t)p->heads * p->d;
    const Elem *k = a->k + attn_at(p, p->tk, n, h, 0), *v = a->v + attn_at(p, p->tk, n, h, 0);
    int keys = p->causal && q0 + QUERIES < p->tk ? q0 + QUERIES : p->tk;
    Rows r;
    UNROLL for (int m = 0; m < M; m++) {
        r.max[m][0] = r.max[m][1] = -INFINITY, r.sum[m][0] = r.sum[m][1] = 0;
        UNROLL for (int c = 0; c < D / 8; c++)
            UNROLL for (int e = 0; e < 4; e++) r.o[m][c][e] = 0;
    }
    mma_load(D, shared + 2 * TILE, a->q + attn_at(p, p->tq, n, h, q0), QUERIES, p->tq - q0, p->d,
             step);
    mma_load(D, shared, k, KEYS, p->tk, p->d, step);
    mma_load(D, shared + TILE, v, KEYS, p->tk, p->d, step);
    copy_async_commit();
    copy_async_wait(0);
    __syncthreads();
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int i = 0; i < (D + 15) / 16; i++)
            mma_rows(D, r.q[m][i], shared + 2 * TILE + (row + m * 16) * MMA_STRIDE(D), i);
    Elem *now = shared, *next = shared + 2 * TILE;
    for (int j0 = 0; j0 < keys; j0 += KEYS) {
        copy_async_wait(0);
        __syncthreads();                    /* `now` is here, and nobody reads `next` any more */
        if (j0 + KEYS < keys) {
            int j = j0 + KEYS;
            mma_load(D, next, k + j * step, KEYS, p->tk - j, p->d, step);
            mma_load(D, next + TILE, v + j * step, KEYS, p->tk - j, p->d, step);
            copy_async_commit();
        }
        UNROLL for (int m = 0; m < M; m++)
            UNROLL for (int i = 0; i < NT; i++)
                UNROLL for (int e = 0; e < 4; e++) r.s[m][i][e] = 0;
        UNROLL for (int i = 0; i < (D + 15) / 16; i++) {
            uint32_t q[2][4];
            UNROLL for (int m = 0; m < M; m++)
                UNROLL for (int e = 0; e < 4; e++) q[m][e] = r.q[m][i][e];
            mma_scores(D, M, NT, r.s, q, now, i);
        }
        if (j0 + KEYS > p->tk || (p->causal && j0 + KEYS > q0 + row))
            hide(p, M, NT, r.s, q0 + row, j0);
        softmax(D, M, NT, &r, p->scale * ATTN_LOG2E);
        UNROLL for (int i = 0; i < NT / 4; i++) mma_values(D, M, r.o, r.s, now + TILE, i);
        Elem *t = now;
        now = next, next = t;
    }
    store(D, M, a, &r, q0 + row);
}

/* X(D, M, NT, blocks to a processor); up to 45 KiB of shared memory. */
#define SIZES(X) X(40, 2, 8, 2) X(64, 2, 8, 2) X(80, 1, 8, 3) X(160, 1, 4, 2)

#define KERNEL(D, M, NT, BLOCKS)                                                         \
    static __global__ void __launch_bounds__(32 * WARPS, BLOCKS) attn_mma_##D(AttnForward a) \
    {                                                                                    \
        CUDA_SHARED(Elem, shared);                                                       \
        forward(D, M, NT, &a, shared);                                                   \
    }
SIZES(KERNEL)
#undef KERNEL

/* ---- heads up to 512: a row is shared by eight warps ------------------------ */

/* A block has 32 queries and takes 128 keys at a time. For the scores a warp has 16 of
 * these keys, for the values 64 of the 512 columns; probabilities and maxima go
 * through shared memory. A stage is 64 columns of the 128 keys, or 16 of their values. */
enum { W_WARPS = 8, W_D = 512, W_QUERIES = 32, W_KEYS = 128, W_COLS = 64, W_VALUES = 16,
       W_Q = W_QUERIES * MMA_STRIDE(W_D), W_P = W_QUERIES * MMA_STRIDE(W_KEYS),
       W_STAGE = W_KEYS * MMA_STRIDE(W_COLS), W_BYTES = 2 * (W_Q + W_P + 2 * W_STAGE) +
       4 * W_WARPS * W_QUERIES };

typedef struct {
    const Elem *k, *v;              /* of this head */
    Elem *qs, *ps, *now, *next;     /* tiles: queries, probabilities, stages */
    float *part;                    /* (W_WARPS, W_QUERIES): of each warp's columns */
    int q0, keys, warp;
    size_t step;
    float max[2][2], sum[2][2], o[2][8][4], s[2][MMA_NT][4];
} Wide;

static __device__ __forceinline__ void wide_fill_keys(const Attention *p, const Wide *w, int j0,
                                                      int c0)
{
    mma_load(W_COLS, w->next, w->k + j0 * w->step + c0, W_KEYS, p->tk - j0, p->d - c0, w->step);
    copy_async_commit();
}

static __device__ __forceinline__ void wide_fill_values(const Attention *p, const Wide *w, int j0)
{
    mma_load(W_D, w->next, w->v + j0 * w->step, W_VALUES, p->tk - j0, p->d, w->step);
    copy_async_commit();
}

/* The stage that was being filled is here, and nobody reads the other one any more. */
static __device__ __forceinline__ void wide_turn(Wide *w)
{
    copy_async_wait(0);
    __syncthreads();
    Elem *t = w->now;
    w->now = w->next, w->next = t;
}

/* S of this step; leaves the first values under way. */
static __device__ __forceinline__ void wide_scores(const Attention *p, Wide *w, int j0)
{
    UNROLL for (int m = 0; m < 2; m++)
        UNROLL for (int n = 0; n < 2; n++)
            UNROLL for (int e = 0; e < 4; e++) w->s[m][n][e] = 0;
    for (int c0 = 0; c0 < p->d; c0 += W_COLS) {
        wide_turn(w);
        if (c0 + W_COLS < p->d) wide_fill_keys(p, w, j0, c0 + W_COLS);
        else wide_fill_values(p, w, j0);
        UNROLL for (int i = 0; i < W_COLS / 16; i++) {
            uint32_t q[2][4];
            UNROLL for (int m = 0; m < 2; m++)
                mma_rows(W_D, q[m], w->qs + m * 16 * MMA_STRIDE(W_D) + c0, i);
            mma_scores(W_COLS, 2, 2, w->s, q, w->now + w->warp * 16 * MMA_STRIDE(W_COLS), i);
        }
    }
    if (j0 + W_KEYS > p->tk || (p->causal && j0 + W_KEYS > w->q0))
        hide(p, 2, 2, w->s, w->q0, j0 + w->warp * 16);
}

/* Probabilities, rounded, to w->ps; what there is so far is rescaled. */
static __device__ __forceinline__ void wide_softmax(Wide *w, float c)
{
    int lane = threadIdx.x & 31;
    float top[4];
    UNROLL for (int i = 0; i < 4; i++) {
        const float *a = w->s[i / 2][0] + i % 2 * 2, *b = w->s[i / 2][1] + i % 2 * 2;
        top[i] = fmaxf(fmaxf(a[0], a[1]), fmaxf(b[0], b[1]));
    }
    lanes_max(4, 4, top);
    UNROLL for (int i = 0; i < 4; i++)
        if (lane % 4 == 0) w->part[w->warp * W_QUERIES + i * 8 + lane / 4] = top[i];
    __syncthreads();
    UNROLL for (int m = 0; m < 2; m++)
        UNROLL for (int h = 0; h < 2; h++) {
            int row = m * 16 + h * 8 + lane / 4;
            float max = w->max[m][h], sum = 0;
            for (int i = 0; i < W_WARPS; i++) max = fmaxf(max, w->part[i * W_QUERIES + row]);
            float old = mma_exp2((w->max[m][h] - max) * c), zero = max * c;
            UNROLL for (int n = 0; n < 2; n++) {
                float a = mma_exp2(fmaf(w->s[m][n][2 * h], c, -zero));
                float b = mma_exp2(fmaf(w->s[m][n][2 * h + 1], c, -zero));
                sum += a + b;
                mma_put(w->ps + row * MMA_STRIDE(W_KEYS) + w->warp * 16 + n * 8 + lane % 4 * 2,
                        a, b);
            }
            w->max[m][h] = max;
            w->sum[m][h] = w->sum[m][h] * old + sum;
            UNROLL for (int n = 0; n < 8; n++)
                w->o[m][n][2 * h] *= old, w->o[m][n][2 * h + 1] *= old;
        }
}

/* o += P v of this step; leaves the next keys under way. */
static __device__ __forceinline__ void wide_values(const Attention *p, Wide *w, int j0)
{
    int lane = threadIdx.x & 31, end = w->keys < j0 + W_KEYS ? w->keys : j0 + W_KEYS;
    for (int j = j0; j < end; j += W_VALUES) {
        wide_turn(w);
        if (j + W_VALUES < end) wide_fill_values(p, w, j + W_VALUES);
        else if (end < w->keys) wide_fill_keys(p, w, end, 0);
        uint32_t a[2][4], b[4];
        UNROLL for (int m = 0; m < 2; m++)
            mma_rows(W_KEYS, a[m], w->ps + m * 16 * MMA_STRIDE(W_KEYS), (j - j0) / 16);
        UNROLL for (int c = 0; c < 8; c += 2) {
            ldmatrix4_trans(b, w->now + (lane & 15) * MMA_STRIDE(W_D) + w->warp * 64 + c * 8 +
                               (lane >> 4) * 8);
            UNROLL for (int m = 0; m < 2; m++) mma(w->o[m][c], a[m], b);
            UNROLL for (int m = 0; m < 2; m++) mma(w->o[m][c + 1], a[m], b + 2);
        }
    }
}

static __device__ __forceinline__ void wide_store(const AttnForward *a, Wide *w)
{
    const Attention *p = &a->p;
    int lane = threadIdx.x & 31, n = blockIdx.z, h = blockIdx.y;
    __syncthreads();
    lanes_sum(2, 4, w->sum[0]);
    lanes_sum(2, 4, w->sum[1]);
    UNROLL for (int i = 0; i < 4; i++)
        if (lane % 4 == 0) w->part[w->warp * W_QUERIES + i * 8 + lane / 4] = w->sum[i / 2][i % 2];
    __syncthreads();
    UNROLL for (int i = 0; i < 4; i++) {
        int row = w->q0 + i * 8 + lane / 4;
        if (row >= p->tq) continue;
        float sum = 0;
        for (int j = 0; j < W_WARPS; j++) sum += w->part[j * W_QUERIES + i * 8 + lane / 4];
        Elem *o = a->o + attn_at(p, p->tq, n, h, row) + w->warp * 64 + lane % 4 * 2;
        UNROLL for (int c = 0; c < 8; c++)
            if (w->warp * 64 + c * 8 < p->d)
                mma_put(o + c * 8, w->o[i / 2][c][i % 2 * 2] / sum,
                        w->o[i / 2][c][i % 2 * 2 + 1] / sum);
        if (a->lse && w->warp == 0 && lane % 4 == 0)
            a->lse[((size_t)n * p->heads + h) * p->tq + row] =
                w->max[i / 2][i % 2] * p->scale + logf(sum);
    }
}

static __global__ void __launch_bounds__(32 * W_WARPS, 2) attn_mma_512(AttnForward a)
{
    CUDA_SHARED(Elem, shared);
    const Attention *p = &a.p;
    int n = blockIdx.z, h = blockIdx.y;
    Wide w;
    w.q0 = blockIdx.x * W_QUERIES, w.warp = threadIdx.x >> 5;
    w.keys = p->causal && w.q0 + W_QUERIES < p->tk ? w.q0 + W_QUERIES : p->tk;
    w.step = (size_t)p->heads * p->d;
    w.k = a.k + attn_at(p, p->tk, n, h, 0), w.v = a.v + attn_at(p, p->tk, n, h, 0);
    w.qs = shared, w.ps = w.qs + W_Q, w.now = w.ps + W_P, w.next = w.now + W_STAGE;
    w.part = (float *)(w.next + W_STAGE);
    UNROLL for (int i = 0; i < 4; i++) {
        w.max[i / 2][i % 2] = -INFINITY, w.sum[i / 2][i % 2] = 0;
        UNROLL for (int c = 0; c < 8; c++)
            w.o[i / 2][c][i % 2 * 2] = w.o[i / 2][c][i % 2 * 2 + 1] = 0;
    }
    mma_load(W_D, w.qs, a.q + attn_at(p, p->tq, n, h, w.q0), W_QUERIES, p->tq - w.q0, p->d, w.step);
    wide_fill_keys(p, &w, 0, 0);
    for (int j0 = 0; j0 < w.keys; j0 += W_KEYS) {
        wide_scores(p, &w, j0);
        wide_softmax(&w, p->scale * ATTN_LOG2E);
        wide_values(p, &w, j0);
    }
    wide_store(&a, &w);
}

int OP(attn_mma)(Dev *d, const AttnForward *a)
{
    const Attention *p = &a->p;
    if (p->d % 8) return 0;
#define LAUNCH(D, M, NT, BLOCKS)                                                         \
    if (p->d <= D) {                                                                     \
        enum { QUERIES = 16 * M * WARPS, BYTES = 4 * 8 * NT * MMA_STRIDE(D) * 2 };       \
        dim3 grid((unsigned)(p->tq + QUERIES - 1) / QUERIES, (unsigned)p->heads,         \
                  (unsigned)p->n);                                                       \
        CUDA_LAUNCH(d, attn_mma_##D, grid, 32 * WARPS, BYTES, *a);                       \
        return 1;                                                                        \
    }
    SIZES(LAUNCH)
#undef LAUNCH
    if (p->d > W_D || W_BYTES > cuda_dev(d)->shared_max) return 0;
    dim3 grid((unsigned)(p->tq + W_QUERIES - 1) / W_QUERIES, (unsigned)p->heads, (unsigned)p->n);
    CUDA_SHARED_MAX(d, attn_mma_512, W_BYTES);
    CUDA_LAUNCH(d, attn_mma_512, grid, 32 * W_WARPS, W_BYTES, *a);
    return 1;
}
#endif
