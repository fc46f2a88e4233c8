/* adapter.cu - weights composed of a base and an adapter's factors. All of it is passes
 * over memory, one element or one sum to a thread or block. */
#include "kernels/cuda/cuda.h"

enum { ADAPTER_THREADS = 256 };

static __device__ __forceinline__ float base_get(Dtype dt, const void *p, size_t i)
{
    if (dt == DT_F32) return ((const float *)p)[i];
    if (dt == DT_BF16) return bf16_get(((const __nv_bfloat16 *)p)[i]);
    return f16_get(((const __half *)p)[i]);
}

/* for each of count elements that is this thread's */
#define EACH(count, i)                                                                      \
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < (count);             \
         i += (size_t)gridDim.x * blockDim.x)

static __global__ void compose_kernel(Compose p, Elem *w, const void *base, const float *a,
                                      const float *b)
{
    EACH(p.count, i) {
        float v = p.alpha * a[i];
        w[i] = elem_put(base_get(p.wdt, base, i) + (b ? v * b[i] : v));
    }
}

void OP(compose)(Dev *d, const Compose *p, void *w, const void *base, const float *a,
                 const float *b)
{
    CUDA_LAUNCH(d, compose_kernel, cuda_blocks(p->count, ADAPTER_THREADS), ADAPTER_THREADS, 0, *p,
                (Elem *)w, base, a, b);
}

static __global__ void kron_kernel(Kron p, size_t count, Elem *w, const void *base, const float *w1,
                                   const float *w2)
{
    EACH(count, i) {
        size_t j2 = i % p.m2, j1 = i / p.m2 % p.m1, row = i / p.m2 / p.m1;
        size_t inner = (size_t)p.l2 * p.s, i1 = row / inner, r = row % inner;
        float v = p.alpha * w1[i1 * p.m1 + j1] * w2[r * p.m2 + j2];
        w[i] = elem_put(base_get(p.wdt, base, i) + v);
    }
}

void OP(kron)(Dev *d, const Kron *p, void *w, const void *base, const float *w1, const float *w2)
{
    size_t count = (size_t)p->l1 * p->l2 * p->s * p->m1 * p->m2;
    CUDA_LAUNCH(d, kron_kernel, cuda_blocks(count, ADAPTER_THREADS), ADAPTER_THREADS, 0, *p, count,
                (Elem *)w, base, w1, w2);
}

/* Block i: norm i over a row. */
static __global__ void dora_rows(Dora p, Elem *w, float *norm, const float *v, const float *m)
{
    __shared__ float part[32];
    size_t n = (size_t)p.s * p.k, at = blockIdx.x * n;
    float sum = 0;
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) sum += v[at + i] * v[at + i];
    float r = sqrtf(block_sum(sum, part)), scale = m[blockIdx.x] / (r + 0x1p-23f);
    if (!threadIdx.x) norm[blockIdx.x] = r;
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) w[at + i] = elem_put(v[at + i] * scale);
}

/* A column to a thread. */
static __global__ void dora_columns(Dora p, Elem *w, float *norm, const float *v, const float *m)
{
    size_t rows = (size_t)p.n * p.s, k = (size_t)p.k;
    EACH(k, c) {
        float sum = 0;
        for (size_t r = 0; r < rows; r++) sum += v[r * k + c] * v[r * k + c];
        float root = sqrtf(sum), scale = m[c] / (root + 0x1p-23f);
        norm[c] = root;
        for (size_t r = 0; r < rows; r++) w[r * k + c] = elem_put(v[r * k + c] * scale);
    }
}

void OP(dora)(Dev *d, const Dora *p, void *w, float *norm, const float *v, const float *m)
{
    if (p->in)
        CUDA_LAUNCH(d, dora_columns, cuda_blocks((size_t)p->k, 64), 64, 0, *p, (Elem *)w, norm, v,
                    m);
    else
        CUDA_LAUNCH(d, dora_rows, p->n, ADAPTER_THREADS, 0, *p, (Elem *)w, norm, v, m);
}

/* dropout_draw of kernels/ops.h. */
static __device__ __forceinline__ uint32_t mix(uint32_t v)
{
    v ^= v >> 16;
    v *= 0x7feb352du;
    v ^= v >> 15;
    v *= 0x846ca68bu;
    return v ^ v >> 16;
}

static __device__ __forceinline__ float draw(uint32_t seed, const Dropout p, uint32_t kind,
                                             uint32_t i)
{
    return (float)(mix(mix(i ^ (seed + kind * 0x9e3779b9u)) + p.stream) >> 8) * 0x1p-24f;
}

static __global__ void dropout_kernel(Dropout p, size_t count, Elem *y, const Elem *x,
                                      const int32_t *seed, int acc)
{
    uint32_t s = (uint32_t)*seed;
    float scale = 1.0f / ((1.0f - p.each) * (1.0f - p.channel) * (1.0f - p.row));
    EACH(count, i) {
        size_t c = i % p.c, n = i / p.c / p.t;
        int keep = draw(s, p, 3, 0) >= p.all && draw(s, p, 0, (uint32_t)i) >= p.each &&
                   draw(s, p, 1, (uint32_t)(n * p.c + c)) >= p.channel &&
                   draw(s, p, 2, (uint32_t)n) >= p.row;
        float v = keep ? elem_get(x[i]) * scale : 0.0f;
        y[i] = elem_put(acc ? v + elem_get(y[i]) : v);
    }
}

void OP(dropout)(Dev *d, const Dropout *p, void *y, const void *x, const int32_t *seed, int acc)
{
    size_t count = (size_t)p->n * p->t * p->c;
    CUDA_LAUNCH(d, dropout_kernel, cuda_blocks(count, ADAPTER_THREADS), ADAPTER_THREADS, 0, *p,
                count, (Elem *)y, (const Elem *)x, seed, acc);
}

#ifdef SDC_F32
static __global__ void compose_bwd_kernel(Compose p, float *da, float *db, const float *g,
                                          const float *a, const float *b)
{
    EACH(p.count, i) {
        float e = p.alpha * g[i], u = db ? a[i] : 0.0f;
        if (da) da[i] = b ? e * b[i] : e;
        if (db) db[i] = e * u;
    }
}

void compose_bwd_f32_cuda(Dev *d, const Compose *p, float *da, float *db, const float *g,
                          const float *a, const float *b)
{
    CUDA_LAUNCH(d, compose_bwd_kernel, cuda_blocks(p->count, ADAPTER_THREADS), ADAPTER_THREADS, 0,
                *p, da, db, g, a, b);
}

/* Block i: element i of w1. */
static __global__ void kron_dw1(Kron p, float *dw1, const float *g, const float *w2)
{
    __shared__ float part[32];
    size_t m1 = (size_t)p.m1, m2 = (size_t)p.m2, inner = (size_t)p.l2 * p.s;
    const float *from = g + (blockIdx.x / m1 * inner * m1 + blockIdx.x % m1) * m2;
    float sum = 0;
    for (size_t i = threadIdx.x; i < inner * m2; i += blockDim.x)
        sum += from[i / m2 * m1 * m2 + i % m2] * w2[i];
    sum = block_sum(sum, part);
    if (!threadIdx.x) dw1[blockIdx.x] += p.alpha * sum;
}

/* An element of w2 to a thread. */
static __global__ void kron_dw2(Kron p, size_t count, float *dw2, const float *g, const float *w1)
{
    size_t m1 = (size_t)p.m1, m2 = (size_t)p.m2, inner = (size_t)p.l2 * p.s;
    EACH(count, k) {
        float sum = 0;
        for (size_t i = 0; i < (size_t)p.l1 * m1; i++)
            sum += w1[i] * g[((i / m1 * inner + k / m2) * m1 + i % m1) * m2 + k % m2];
        dw2[k] += p.alpha * sum;
    }
}

void kron_bwd_f32_cuda(Dev *d, const Kron *p, float *dw1, float *dw2, const float *g,
                       const float *w1, const float *w2)
{
    size_t count = (size_t)p->l2 * p->s * p->m2;
    if (dw1) CUDA_LAUNCH(d, kron_dw1, p->l1 * p->m1, ADAPTER_THREADS, 0, *p, dw1, g, w2);
    if (dw2)
        CUDA_LAUNCH(d, kron_dw2, cuda_blocks(count, ADAPTER_THREADS), ADAPTER_THREADS, 0, *p, count,
                    dw2, g, w1);
}

/* kernels/ref/adapter.c: dv = scale g - pull v. */
static __device__ __forceinline__ float dora_pull(float dot, float r, float m)
{
    float u = r + 0x1p-23f;
    return r > 0.0f ? dot / u * (m / u) / r : 0.0f;
}

static __global__ void dora_bwd_rows(Dora p, float *dv, float *dm, const float *g, const float *v,
                                     const float *norm, const float *m)
{
    __shared__ float part[32];
    size_t n = (size_t)p.s * p.k, at = blockIdx.x * n;
    float sum = 0, r = norm[blockIdx.x], mag = m[blockIdx.x];
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) sum += g[at + i] * v[at + i];
    sum = block_sum(sum, part);
    float scale = mag / (r + 0x1p-23f), pull = dora_pull(sum, r, mag);
    if (dm && !threadIdx.x) dm[blockIdx.x] += sum / (r + 0x1p-23f);
    for (size_t i = threadIdx.x; i < n; i += blockDim.x)
        dv[at + i] = g[at + i] * scale - v[at + i] * pull;
}

static __global__ void dora_bwd_columns(Dora p, float *dv, float *dm, const float *g,
                                        const float *v, const float *norm, const float *m)
{
    size_t rows = (size_t)p.n * p.s, k = (size_t)p.k;
    EACH(k, c) {
        float sum = 0, r = norm[c];
        for (size_t i = 0; i < rows; i++) sum += g[i * k + c] * v[i * k + c];
        float scale = m[c] / (r + 0x1p-23f), pull = dora_pull(sum, r, m[c]);
        if (dm) dm[c] += sum / (r + 0x1p-23f);
        for (size_t i = 0; i < rows; i++)
            dv[i * k + c] = g[i * k + c] * scale - v[i * k + c] * pull;
    }
}

void dora_bwd_f32_cuda(Dev *d, const Dora *p, float *dv, float *dm, const float *g, const float *v,
                       const float *norm, const float *m)
{
    if (p->in)
        CUDA_LAUNCH(d, dora_bwd_columns, cuda_blocks((size_t)p->k, 64), 64, 0, *p, dv, dm, g, v,
                    norm, m);
    else
        CUDA_LAUNCH(d, dora_bwd_rows, p->n, ADAPTER_THREADS, 0, *p, dv, dm, g, v, norm, m);
}
#endif
