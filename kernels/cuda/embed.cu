/* embed.cu - time and token embeddings. All of it is small: one element to a thread. */
#include "kernels/cuda/cuda.h"

enum { EMBED_THREADS = 256 };

/* Rounded to f32 where kernels/ref/embed.c is. */
static __global__ void time_embed_kernel(TimeEmbed p, Elem *y, const float *t)
{
    int half = p.dim / 2, i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    size_t n = blockIdx.y;
    if (i >= half) return;
    float exponent = -9.210340371976184f * (float)i / (float)half;     /* -ln 10000 */
    double angle = (double)(t[n] * (float)exp((double)exponent));
    y[n * p.dim + i] = elem_put((float)cos(angle));
    y[n * p.dim + half + i] = elem_put((float)sin(angle));
}

void OP(time_embed)(Dev *d, const TimeEmbed *p, void *y, const float *t)
{
    assert(p->dim % 2 == 0);
    CUDA_LAUNCH(d, time_embed_kernel, dim3(cuda_blocks((size_t)p->dim / 2, 64), p->n), 64, 0, *p,
                (Elem *)y, t);
}

static __device__ __forceinline__ float table_get(Dtype dt, const void *p, size_t i)
{
    if (dt == DT_F32) return ((const float *)p)[i];
    if (dt == DT_BF16) return bf16_get(((const __nv_bfloat16 *)p)[i]);
    return f16_get(((const __half *)p)[i]);
}

/* Block (i, r): channels of token r. */
static __global__ void token_embed_kernel(TokenEmbed p, Elem *y, const int32_t *ids,
                                          const void *table, const void *pos, const float *more)
{
    size_t r = blockIdx.x;
    int c = (int)(blockIdx.y * blockDim.x + threadIdx.x);
    if (c >= p.c) return;
    int own = ids[r] - p.vocab;
    float v =
        own < 0 ? table_get(p.wdt, table, (size_t)ids[r] * p.c + c) : more[(size_t)own * p.c + c];
    if (pos) v += table_get(p.wdt, pos, r % (size_t)p.t * p.c + c);
    y[r * p.c + c] = elem_put(v);
}

void OP(token_embed)(Dev *d, const TokenEmbed *p, void *y, const int32_t *ids, const void *table,
                     const void *pos, const float *more)
{
    dim3 grid(p->n * p->t, (p->c + EMBED_THREADS - 1) / EMBED_THREADS);
    CUDA_LAUNCH(d, token_embed_kernel, grid, EMBED_THREADS, 0, *p, (Elem *)y, ids, table, pos,
                more);
}

/* The first token with an id adds up all that have it, in their order. */
static __global__ void token_table_bwd(TokenEmbed p, float *dtable, float *dmore, const Elem *dy,
                                       const int32_t *ids)
{
    __shared__ int before;
    int r = (int)blockIdx.x, id = ids[r], all = p.n * p.t, found = 0;
    float *row = id < p.vocab ? dtable : dmore;
    if (row) row += (size_t)(id < p.vocab ? id : id - p.vocab) * p.c;
    int c = (int)(blockIdx.y * blockDim.x + threadIdx.x);
    if (!threadIdx.x) before = 0;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < r; i += (int)blockDim.x) found |= ids[i] == id;
    if (found) atomicOr(&before, 1);
    __syncthreads();
    if (before || c >= p.c || !row) return;
    float s = row[c];
    for (int i = r; i < all; i++)
        if (ids[i] == id) s += elem_get(dy[(size_t)i * p.c + c]);
    row[c] = s;
}

/* dpos: the same position of all texts. */
static __global__ void token_pos_bwd(TokenEmbed p, float *dpos, const Elem *dy)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x, all = (size_t)p.t * p.c;
    if (i >= all) return;
    float s = dpos[i];
    for (int n = 0; n < p.n; n++) s += elem_get(dy[n * all + i]);
    dpos[i] = s;
}

void OP(token_embed_bwd)(Dev *d, const TokenEmbed *p, float *dtable, float *dpos, float *dmore,
                         const void *dy, const int32_t *ids)
{
    dim3 grid(p->n * p->t, (p->c + EMBED_THREADS - 1) / EMBED_THREADS);
    if (dtable || dmore)
        CUDA_LAUNCH(d, token_table_bwd, grid, EMBED_THREADS, 0, *p, dtable, dmore, (const Elem *)dy,
                    ids);
    if (dpos)
        CUDA_LAUNCH(d, token_pos_bwd, cuda_blocks((size_t)p->t * p->c, EMBED_THREADS),
                    EMBED_THREADS, 0, *p, dpos, (const Elem *)dy);
}
