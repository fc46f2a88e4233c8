/* optim.cu - optimizer updates (kernels/optim.h): AdamW, Lion, SGD, schedule-free, averages. */
#include "kernels/cuda/sums.h"

static __global__ void sumsq_kernel(size_t count, double *part, const float *g)
{
    __shared__ double shared[32];
    double s = 0;
    FOUR_EACH(count, i, m) {
        float v[4];
        four_get(v, g + i, m);
#pragma unroll
        for (int k = 0; k < 4; k++) s += (double)v[k] * v[k];
    }
    s = block_sum_f64(s, shared);
    if (!threadIdx.x) part[blockIdx.x] = s;
}

void sumsq_cuda(Dev *d, size_t count, double *out, const float *g)
{
    unsigned blocks = sum_blocks(count);
    CUDA_LAUNCH(d, sumsq_kernel, blocks, OPTIM_THREADS, 0, count, sum_room(d, blocks, out), g);
    sum_finish(d, blocks, 1, out);
}

/* ---- updates ------------------------------------------------------------- */

static __global__ void adamw_kernel(AdamWF c, size_t count, float *p, float *m, float *v,
                                    const float *g)
{
    FOUR_EACH(count, i, n) {
        float gi[4], mi[4], vi[4], pi[4];
        four_get(gi, g + i, n), four_get(mi, m + i, n);
        four_get(vi, v + i, n), four_get(pi, p + i, n);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float a = mul(gi[k], c.clip);
            mi[k] += mul(c.c1, a - mi[k]);
            vi[k] = mul(c.b2, vi[k]) + mul(mul(c.c2, a), a);
            pi[k] = adamw_param(c, pi[k], mi[k], vi[k]);
        }
        four_put(m + i, mi, n), four_put(v + i, vi, n), four_put(p + i, pi, n);
    }
}

void adamw_cuda(Dev *d, const AdamW *h, size_t count, float *p, float *m, float *v,
                const float *g)
{
    CUDA_LAUNCH(d, adamw_kernel, four_blocks(count), OPTIM_THREADS, 0, adamw_f32(h), count, p, m,
                v, g);
}

/* ---- lion, sgd ----------------------------------------------------------- */

typedef struct { float clip, keep, lr, b1, c1, b2, c2; } LionF;

static __global__ void lion_kernel(LionF c, size_t count, float *p, float *m, const float *g)
{
    FOUR_EACH(count, i, n) {
        float gi[4], mi[4], pi[4];
        four_get(gi, g + i, n), four_get(mi, m + i, n), four_get(pi, p + i, n);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float a = mul(gi[k], c.clip), u = mul(c.b1, mi[k]) + mul(c.c1, a);
            pi[k] = mul(pi[k], c.keep) - (u > 0 ? c.lr : u < 0 ? -c.lr : 0.0f);
            mi[k] = mul(c.b2, mi[k]) + mul(c.c2, a);
        }
        four_put(m + i, mi, n), four_put(p + i, pi, n);
    }
}

void lion_cuda(Dev *d, const Lion *h, size_t count, float *p, float *m, const float *g)
{
    LionF c;
    c.clip = (float)h->clip, c.keep = (float)(1 - h->lr * h->weight_decay), c.lr = (float)h->lr;
    c.b1 = (float)h->beta1, c.c1 = (float)(1 - h->beta1);
    c.b2 = (float)h->beta2, c.c2 = (float)(1 - h->beta2);
    CUDA_LAUNCH(d, lion_kernel, four_blocks(count), OPTIM_THREADS, 0, c, count, p, m, g);
}

typedef struct { float clip, l2, lr, mu, fresh; int nesterov, first; } SgdF;

static __global__ void sgd_kernel(SgdF c, size_t count, float *p, float *m, const float *g)
{
    FOUR_EACH(count, i, n) {
        float gi[4], mi[4], pi[4];
        four_get(gi, g + i, n), four_get(pi, p + i, n);
        four_get(mi, m ? m + i : g + i, n);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float a = mul(gi[k], c.clip) + mul(c.l2, pi[k]);
            mi[k] = c.first ? a : mul(c.mu, mi[k]) + mul(c.fresh, a);
            float step = !m ? a : c.nesterov ? a + mul(c.mu, mi[k]) : mi[k];
            pi[k] -= mul(c.lr, step);
        }
        if (m) four_put(m + i, mi, n);
        four_put(p + i, pi, n);
    }
}

void sgd_cuda(Dev *d, const Sgd *h, size_t count, float *p, float *m, const float *g)
{
    SgdF c;
    c.clip = (float)h->clip, c.l2 = (float)h->weight_decay, c.lr = (float)h->lr;
    c.mu = (float)h->momentum, c.fresh = (float)(1 - h->dampening);
    c.nesterov = h->nesterov, c.first = h->first;
    CUDA_LAUNCH(d, sgd_kernel, four_blocks(count), OPTIM_THREADS, 0, c, count, p, m, g);
}

/* ---- schedule-free, averages ----------------------------------------------- */

typedef struct { float clip, b2, c2, bias, eps, wd, c, lr, lr_y; int adaptive; } SchedFreeF;

static __device__ __forceinline__ float lerp(float a, float b, float t)
{
    return t < 0.5f ? a + mul(t, b - a) : b - mul(b - a, 1 - t);
}

static __global__ void schedfree_kernel(SchedFreeF c, size_t count, float *p, SchedFreeState s,
                                        const float *g)
{
    FOUR_EACH(count, i, n) {
        float gi[4], pi[4], vi[4], xi[4], zi[4];
        four_get(gi, g + i, n), four_get(pi, p + i, n), four_get(xi, s.x + i, n);
        four_get(zi, s.z + i, n), four_get(vi, s.v ? s.v + i : g + i, n);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float a = mul(gi[k], c.clip);
            vi[k] = mul(c.b2, vi[k]) + mul(mul(c.c2, a), a);
            if (s.v && c.adaptive) a /= sqrtf(vi[k] / c.bias) + c.eps;
            a += mul(c.wd, pi[k]);
            pi[k] = lerp(pi[k], zi[k], c.c) + mul(c.lr_y, a);
            zi[k] -= mul(c.lr, a);
            xi[k] = lerp(xi[k], zi[k], c.c);
        }
        if (s.v) four_put(s.v + i, vi, n);
        four_put(p + i, pi, n), four_put(s.x + i, xi, n), four_put(s.z + i, zi, n);
    }
}

void schedfree_cuda(Dev *d, const SchedFree *h, size_t count, float *p, const SchedFreeState *s,
                    const float *g)
{
    SchedFreeF c;
    c.clip = (float)h->clip, c.b2 = (float)h->beta2, c.c2 = (float)(1 - h->beta2);
    c.bias = (float)h->bias2, c.eps = (float)h->eps, c.wd = (float)h->weight_decay;
    c.c = (float)h->c, c.lr = (float)h->lr, c.lr_y = (float)h->lr_y, c.adaptive = h->adaptive;
    CUDA_LAUNCH(d, schedfree_kernel, four_blocks(count), OPTIM_THREADS, 0, c, count, p, *s, g);
}

static __global__ void ema_kernel(size_t count, float *x, const float *p, float t)
{
    FOUR_EACH(count, i, n) {
        float xi[4], pi[4];
        four_get(xi, x + i, n), four_get(pi, p + i, n);
#pragma unroll
        for (int k = 0; k < 4; k++) xi[k] -= mul(t, xi[k] - pi[k]);
        four_put(x + i, xi, n);
    }
}

void ema_cuda(Dev *d, size_t count, float *x, const float *p, float t)
{
    CUDA_LAUNCH(d, ema_kernel, four_blocks(count), OPTIM_THREADS, 0, count, x, p, t);
}

static __global__ void swap_kernel(size_t count, float *a, float *b)
{
    FOUR_EACH(count, i, n) {
        float ai[4], bi[4];
        four_get(ai, a + i, n), four_get(bi, b + i, n);
        four_put(a + i, bi, n), four_put(b + i, ai, n);
    }
}

void swap_cuda(Dev *d, size_t count, float *a, float *b)
{
    CUDA_LAUNCH(d, swap_kernel, four_blocks(count), OPTIM_THREADS, 0, count, a, b);
}

/* ---- rounding ------------------------------------------------------------ */

static __device__ __forceinline__ uint32_t dither_mix(uint32_t v)
{
    v ^= v >> 16;
    v *= 0x7feb352du;
    v ^= v >> 15;
    v *= 0x846ca68bu;
    return v ^ v >> 16;
}

static __global__ void dither_kernel(const Dither h, size_t count, uint16_t *y, const float *x)
{
    FOUR_EACH(count, i, m) {
        float v[4];
        four_get(v, x + i, m);
        for (int k = 0; k < m; k++) {
            uint32_t u = __float_as_uint(v[k]), nan = (u & 0x7fffffffu) > 0x7f800000u;
            uint32_t r = dither_mix(dither_mix((h.first + (uint32_t)i + k) ^ h.key[0]) + h.key[1]);
            y[i + k] = (uint16_t)((u + (nan ? 0 : r & 0xffffu)) >> 16 | nan);
        }
    }
}

void dither_cuda(Dev *d, const Dither *h, size_t count, uint16_t *y, const float *x)
{
    CUDA_LAUNCH(d, dither_kernel, four_blocks(count), OPTIM_THREADS, 0, *h, count, y, x);
}
