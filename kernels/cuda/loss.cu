/* loss.cu - training losses and the posterior of the autoencoder.
 *
 * Sums are made in two steps: blocks add what their threads see into
 * CudaDev.reduce, one more block adds the blocks.
 */
#include "kernels/cuda/cuda.h"

enum { LOSS_THREADS = 256, LOSS_PARTS = 64, SUM_BLOCKS = 1024 };

static __device__ __forceinline__ float sign(float x) { return (float)((x > 0) - (x < 0)); }

/* sqrt(e^2 + c^2) - c without cancellation. */
static __device__ __forceinline__ float huber(float e, float c)
{
    return e == 0.0f ? 0.0f : e * e / (sqrtf(e * e + c * c) + c);
}

/* log(1 + exp(x)) - t x without overflow. */
static __device__ __forceinline__ float bce(float x, float t)
{
    return fmaxf(x, 0.0f) - t * x + log1pf(expf(-fabsf(x)));
}

static __device__ __forceinline__ float element(int kind, float x, float t, float c)
{
    float e = x - t;
    if (kind == LOSS_BCE) return bce(x, t);
    if (kind == LOSS_L2) return e * e;
    if (kind == LOSS_L1) return fabsf(e);
    return 2.0f * (kind == LOSS_HUBER ? c : 1.0f) * huber(e, c);
}

static __device__ __forceinline__ float element_slope(int kind, float x, float t, float c)
{
    float e = x - t;
    if (kind == LOSS_BCE) return 1.0f / (1.0f + expf(-x)) - t;
    if (kind == LOSS_L2) return 2.0f * e;
    if (kind == LOSS_L1) return sign(e);
    float root = sqrtf(e * e + c * c);
    return root > 0 ? 2.0f * (kind == LOSS_HUBER ? c : 1.0f) * e / root : 0.0f;
}

static __device__ __forceinline__ float huber_at(int kind, const float *huber_c, size_t n)
{
    return kind == LOSS_HUBER || kind == LOSS_SMOOTH_L1 ? huber_c[n] : 0.0f;
}

static __device__ __forceinline__ float mask_at(const Loss p, const float *mask, size_t n,
                                                unsigned i)
{
    return mask ? mask[n * p.hw + i / (unsigned)p.c] : 1.0f;
}

/* Block (k, n): a part of picture n. */
static __global__ void loss_parts(Loss p, float *part, const Elem *pred, const float *target,
                                  const float *mask, const float *huber_c)
{
    __shared__ float shared[32];
    size_t n = blockIdx.y;
    unsigned all = (unsigned)p.hw * p.c;
    float s = 0, c = huber_at(p.kind, huber_c, n);
    pred += n * all, target += n * all;
    for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < all; i += gridDim.x * blockDim.x)
        s += mask_at(p, mask, n, (unsigned)i) * element(p.kind, elem_get(pred[i]), target[i], c);
    s = block_sum(s, shared);
    if (!threadIdx.x) part[n * gridDim.x + blockIdx.x] = s;
}

static __global__ void loss_total(Loss p, int parts, float *loss, float *per, const float *part,
                                  const float *weight)
{
    __shared__ float shared[32];
    float total = 0;
    for (int n = (int)threadIdx.x; n < p.n; n += (int)blockDim.x) {
        float s = 0;
        for (int k = 0; k < parts; k++) s += part[(size_t)n * parts + k];
        s = weight[n] * s / ((float)p.hw * (float)p.c);
        if (per) per[n] = s;
        total += s;
    }
    total = block_sum(total, shared);
    if (loss && !threadIdx.x) *loss = total / (float)p.n;
}

static int loss_blocks(const Loss *p)
{
    size_t blocks = ((size_t)p->hw * p->c + LOSS_THREADS - 1) / LOSS_THREADS;
    assert((size_t)p->hw * p->c <= INT32_MAX);
    return blocks < LOSS_PARTS ? (int)blocks : LOSS_PARTS;
}

void OP(loss)(Dev *d, const Loss *p, float *loss, float *per, const void *pred,
              const float *target, const float *mask, const float *weight, const float *huber_c)
{
    int parts = loss_blocks(p);
    float *part = (float *)cuda_dev(d)->reduce;
    assert((size_t)p->n * parts * sizeof *part <= CUDA_REDUCE);
    CUDA_LAUNCH(d, loss_parts, dim3(parts, p->n), LOSS_THREADS, 0, *p, part, (const Elem *)pred,
                target, mask, huber_c);
    CUDA_LAUNCH(d, loss_total, 1, LOSS_THREADS, 0, *p, parts, loss, per, part, weight);
}

static __global__ void loss_bwd_kernel(Loss p, Elem *dpred, const float *scale, const Elem *pred,
                                       const float *target, const float *mask,
                                       const float *weight, const float *huber_c)
{
    size_t n = blockIdx.y;
    unsigned all = (unsigned)p.hw * p.c;
    float s = *scale * weight[n] / ((float)all * (float)p.n), c = huber_at(p.kind, huber_c, n);
    pred += n * all, target += n * all, dpred += n * all;
    for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < all; i += gridDim.x * blockDim.x) {
        float m = mask_at(p, mask, n, (unsigned)i);
        float slope = element_slope(p.kind, elem_get(pred[i]), target[i], c);
        dpred[i] = elem_put(s * m * slope);
    }
}

void OP(loss_bwd)(Dev *d, const Loss *p, void *dpred, const float *scale, const void *pred,
                  const float *target, const float *mask, const float *weight,
                  const float *huber_c)
{
    CUDA_LAUNCH(d, loss_bwd_kernel, dim3(loss_blocks(p), p->n), LOSS_THREADS, 0, *p,
                (Elem *)dpred, scale, (const Elem *)pred, target, mask, weight, huber_c);
}

/* ---- reconstruction ------------------------------------------------------ */

typedef struct { float all, down, right; } Counts;   /* 1 / elements of each mean, or 0 */

static Counts recon_counts(const Recon *p)
{
    double rows = (double)p->n * p->h, line = (double)p->w * p->c;
    Counts k;
    k.all = (float)(1 / (rows * line));
    k.down = p->h > 1 ? (float)(1 / ((double)p->n * (p->h - 1) * line)) : 0.0f;
    k.right = p->w > 1 ? (float)(1 / (rows * (p->w - 1) * p->c)) : 0.0f;
    return k;
}

static __device__ __forceinline__ float error_at(const Elem *y, const float *x, size_t k)
{
    return elem_get(y[k]) - x[k];
}

static __global__ void recon_parts(Recon p, Counts k, size_t count, float *part, const Elem *y,
                                   const float *x)
{
    __shared__ float shared[32];
    unsigned line = (unsigned)p.w * p.c;
    float all = 0, down = 0, right = 0;
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i < count; i += (size_t)gridDim.x * blockDim.x) {
        unsigned row = (unsigned)i / line, col = (unsigned)i - row * line;
        float e = error_at(y, x, i);
        all += fabsf(e) + e * e;
        if (row % p.h + 1 < (unsigned)p.h) down += fabsf(error_at(y, x, i + line) - e);
        if (col + p.c < line) right += fabsf(error_at(y, x, i + p.c) - e);
    }
    float s = block_sum(all * k.all + p.edge * (down * k.down + right * k.right), shared);
    if (!threadIdx.x) part[blockIdx.x] = s;
}

/* out[0] = scale * sum of the parts. */
static __global__ void sum_parts(int parts, float *out, const float *part, float scale)
{
    __shared__ float shared[32];
    float s = 0;
    for (int i = (int)threadIdx.x; i < parts; i += (int)blockDim.x) s += part[i];
    s = block_sum(s, shared);
    if (!threadIdx.x) *out = s * scale;
}

static unsigned sum_blocks(size_t count)
{
    unsigned blocks = cuda_blocks(count, LOSS_THREADS);
    assert(count <= UINT32_MAX);
    return blocks < SUM_BLOCKS ? blocks : (unsigned)SUM_BLOCKS;
}

void OP(recon)(Dev *d, const Recon *p, float *loss, const void *y, const float *x)
{
    size_t count = (size_t)p->n * p->h * p->w * p->c;
    unsigned blocks = sum_blocks(count);
    float *part = (float *)cuda_dev(d)->reduce;
    CUDA_LAUNCH(d, recon_parts, blocks, LOSS_THREADS, 0, *p, recon_counts(p), count, part,
                (const Elem *)y, x);
    CUDA_LAUNCH(d, sum_parts, 1, LOSS_THREADS, 0, (int)blocks, loss, part, 1.0f);
}

static __global__ void recon_bwd_kernel(Recon p, Counts k, size_t count, Elem *dy,
                                        const float *scale, const Elem *y, const float *x)
{
    unsigned line = (unsigned)p.w * p.c;
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i < count; i += (size_t)gridDim.x * blockDim.x) {
        unsigned row = (unsigned)i / line, col = (unsigned)i - row * line, h = row % p.h;
        float e = error_at(y, x, i), v = 0, u = 0;
        if (h) v += sign(e - error_at(y, x, i - line));
        if (h + 1 < (unsigned)p.h) v -= sign(error_at(y, x, i + line) - e);
        if (col >= (unsigned)p.c) u += sign(e - error_at(y, x, i - p.c));
        if (col + p.c < line) u -= sign(error_at(y, x, i + p.c) - e);
        float g = (sign(e) + 2.0f * e) * k.all + p.edge * (v * k.down + u * k.right);
        dy[i] = elem_put(*scale * g);
    }
}

void OP(recon_bwd)(Dev *d, const Recon *p, void *dy, const float *scale, const void *y,
                   const float *x)
{
    size_t count = (size_t)p->n * p->h * p->w * p->c;
    assert(count <= UINT32_MAX);
    CUDA_LAUNCH(d, recon_bwd_kernel, cuda_blocks(count, LOSS_THREADS), LOSS_THREADS, 0, *p,
                recon_counts(p), count, (Elem *)dy, scale, (const Elem *)y, x);
}

/* ---- posterior ----------------------------------------------------------- */

static __device__ __forceinline__ float clamp_logvar(float x)
{
    return fminf(fmaxf(x, -30.0f), 20.0f);
}

static __global__ void gauss_kernel(Gauss p, size_t count, Elem *z, float *part, const Elem *m,
                                    const float *noise)
{
    __shared__ float shared[32];
    unsigned c = (unsigned)p.c;
    float s = 0;
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i < count; i += (size_t)gridDim.x * blockDim.x) {
        unsigned row = (unsigned)i / c;
        size_t k = i + (size_t)row * c;
        float mean = elem_get(m[k]), lv = clamp_logvar(elem_get(m[k + c]));
        if (z) z[i] = elem_put(mean + expf(0.5f * lv) * noise[i]);
        s += 0.5f * (mean * mean + (expm1f(lv) - lv));
    }
    if (!part) return;
    s = block_sum(s, shared);
    if (!threadIdx.x) part[blockIdx.x] = s;
}

void OP(gauss)(Dev *d, const Gauss *p, void *z, float *kl, const void *m, const float *noise)
{
    size_t count = (size_t)p->rows * p->c;
    unsigned blocks = sum_blocks(count);
    float *part = (float *)cuda_dev(d)->reduce;
    CUDA_LAUNCH(d, gauss_kernel, blocks, LOSS_THREADS, 0, *p, count, (Elem *)z,
                kl ? part : NULL, (const Elem *)m, noise);
    if (kl)
        CUDA_LAUNCH(d, sum_parts, 1, LOSS_THREADS, 0, (int)blocks, kl, part,
                    (float)(1 / (double)count));
}

static __global__ void gauss_bwd_kernel(Gauss p, size_t count, Elem *dm, const Elem *dz,
                                        const float *kl_scale, const Elem *m, const float *noise)
{
    unsigned c = (unsigned)p.c;
    float s = kl_scale ? *kl_scale / (float)count : 0.0f;
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i < count; i += (size_t)gridDim.x * blockDim.x) {
        unsigned row = (unsigned)i / c;
        size_t k = i + (size_t)row * c;
        float mean = elem_get(m[k]), raw = elem_get(m[k + c]), lv = clamp_logvar(raw);
        float g = dz ? elem_get(dz[i]) : 0.0f, dlv = 0.5f * s * expm1f(lv);
        if (dz) dlv += 0.5f * g * noise[i] * expf(0.5f * lv);
        dm[k] = elem_put(g + s * mean);
        dm[k + c] = elem_put(raw == lv ? dlv : 0.0f);
    }
}

void OP(gauss_bwd)(Dev *d, const Gauss *p, void *dm, const void *dz, const float *kl_scale,
                   const void *m, const float *noise)
{
    size_t count = (size_t)p->rows * p->c;
    assert(count <= UINT32_MAX);
    CUDA_LAUNCH(d, gauss_bwd_kernel, cuda_blocks(count, LOSS_THREADS), LOSS_THREADS, 0, *p, count,
                (Elem *)dm, (const Elem *)dz, kl_scale, (const Elem *)m, noise);
}
