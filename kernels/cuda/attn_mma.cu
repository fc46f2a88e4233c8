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
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int h = 0; h < 2; h++) {
            float max = r->max[m][h], sum = 0;
            UNROLL for (int n = 0; n < NT; n++)
                max = fmaxf(max, fmaxf(r->s[m][n][2 * h], r->s[m][n][2 * h + 1]));
            max = mma_max(max);
            float old = mma_exp2((r->max[m][h] - max) * c), zero = max * c;
            r->max[m][h] = max;
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
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int half = 0; half < 2; half++) {
            int row = i0 + m * 16 + half * 8 + lane / 4;
            float sum = mma_sum(r->sum[m][half]), scale = 1.0f / sum;
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

/* X(D, M, NT): registers for about 2 blocks to a processor, up to 45 KiB of shared memory. */
#define SIZES(X) X(40, 2, 8) X(64, 2, 8) X(80, 1, 8) X(160, 1, 4)

#define KERNEL(D, M, NT)                                                                 \
    static __global__ void __launch_bounds__(32 * WARPS, 2) attn_mma_##D(AttnForward a)  \
    {                                                                                    \
        CUDA_SHARED(Elem, shared);                                                       \
        forward(D, M, NT, &a, shared);                                                   \
    }
SIZES(KERNEL)
#undef KERNEL

int OP(attn_mma)(Dev *d, const AttnForward *a)
{
    const Attention *p = &a->p;
    if (p->d % 8) return 0;
#define LAUNCH(D, M, NT)                                                                 \
    if (p->d <= D) {                                                                     \
        enum { QUERIES = 16 * M * WARPS, BYTES = 4 * 8 * NT * MMA_STRIDE(D) * 2 };       \
        dim3 grid((unsigned)(p->tq + QUERIES - 1) / QUERIES, (unsigned)p->heads,         \
                  (unsigned)p->n);                                                       \
        CUDA_LAUNCH(d, attn_mma_##D, grid, 32 * WARPS, BYTES, *a);                       \
        return 1;                                                                        \
    }
    SIZES(LAUNCH)
#undef LAUNCH
    return 0;
}
#endif
