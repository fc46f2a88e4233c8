/* adapt.cu - the methods that find their rate themselves (kernels/optim.h, adapt_stats). */
#include "kernels/cuda/sums.h"

typedef struct {
    AdaptKind kind;
    float b1, c1, b2, b3, bd, cm, cv, cs, cd, v0, l2, eps, clip, lr, keep;
    unsigned slice;
    int first;
} AdaptF;

static AdaptF adapt_f32(const Adapt *h)
{
    AdaptF c;
    c.kind = h->kind, c.slice = (unsigned)h->slice, c.first = h->first;
    c.b1 = (float)h->beta1, c.c1 = (float)(1 - h->beta1), c.b2 = (float)h->beta2;
    c.b3 = (float)h->beta3, c.bd = (float)h->beta_d, c.cm = (float)h->m_scale;
    c.cv = (float)h->v_scale, c.cs = (float)h->s_scale, c.cd = (float)h->diff_scale;
    c.v0 = (float)h->v_first, c.l2 = (float)h->l2, c.eps = (float)h->eps;
    c.clip = (float)h->clip, c.lr = (float)h->lr, c.keep = (float)(1 - h->decay);
    return c;
}

static __device__ __forceinline__ void moments(const AdaptF c, size_t i, const AdaptState s,
                                               float g, float v_of)
{
    if (s.m) s.m[i] = mul(c.b1, s.m[i]) + mul(c.cm, g);
    s.v[i] = mul(c.b2, s.v[i]) + mul(mul(c.cv, v_of), v_of);
}

static __device__ __forceinline__ float running(const AdaptF c, size_t i, const AdaptState s,
                                                float g, double sum[3])
{
    float now = mul(c.b3, s.s[i]) + mul(c.cs, g);
    s.s[i] = now;
    sum[1] += fabs((double)now);
    return now;
}

static __device__ __forceinline__ void adam_like(const AdaptF c, size_t i, float p,
                                                 const AdaptState s, float g, double sum[3])
{
    int adan = c.kind == ADAPT_ADAN || c.kind == ADAPT_ADAN_IP;
    int before = c.kind == ADAPT_ADAM || c.kind == ADAPT_ADAN_IP;
    float v_of = g;
    if (c.first && c.kind == ADAPT_ADAGRAD) s.v[i] = c.v0, s.x[i] = p;
    if (adan) {
        float h = c.first ? 0 : g - s.x[i];
        s.diff[i] = mul(c.bd, s.diff[i]) + mul(c.cd, h);
        s.x[i] = g;
        v_of = g + mul(c.bd, h);
    }
    if (before) sum[0] += (double)g * (s.s[i] / (sqrtf(s.v[i]) + c.eps));
    moments(c, i, s, g, v_of);
    float now = running(c, i, s, g, sum), root = sqrtf(s.v[i]) + c.eps;
    if (before) return;
    sum[0] += (double)(mul(g, g) / root);
    sum[2] += (double)(mul(now, now) / root);
}

static __device__ __forceinline__ void adapt_one(const AdaptF c, size_t i, float *p,
                                                 const AdaptState s, const float *g,
                                                 double sum[3])
{
    float pi = p[i], gi = mul(g[i], c.clip) + mul(c.l2, pi);
    if (c.kind == ADAPT_LION) {
        float u = mul(c.b1, s.m[i]) + mul(c.c1, gi);
        u = (float)((u > 0) - (u < 0));
        p[i] = mul(pi, c.keep) - mul(c.lr, u);
        s.m[i] = mul(c.b2, s.m[i]) + mul(c.cm, gi);
        sum[0] += (double)mul(u, s.s[i]);
        running(c, i, s, u, sum);
    } else if (c.kind == ADAPT_SGD) {
        if (c.first) s.x[i] = pi;
        float old = s.s[i], now = old + mul(c.cs, gi);
        sum[0] += (double)gi * old;
        s.s[i] = now;
        sum[1] += (double)now * now;
    } else if (c.kind == ADAPT_PRODIGY) {
        size_t k = (unsigned)i / c.slice;
        moments(c, i, s, gi, gi);
        if (k * c.slice != i) return;
        if (c.first) s.x[k] = pi;
        sum[0] += (double)gi * (s.x[k] - pi);
        running(c, k, s, gi, sum);
    } else {
        adam_like(c, i, pi, s, gi, sum);
    }
}

static __global__ void adapt_kernel(AdaptF c, size_t count, double *part, float *p, AdaptState s,
                                    const float *g)
{
    __shared__ double shared[32];
    double sum[3] = {0, 0, 0};
    size_t stride = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride)
        adapt_one(c, i, p, s, g, sum);
    for (int k = 0; k < 3; k++) {
        double all = block_sum_f64(sum[k], shared);
        if (!threadIdx.x) part[3 * blockIdx.x + k] = all;
    }
}

void adapt_stats_cuda(Dev *d, const Adapt *h, size_t count, double sums[3], float *p,
                      const AdaptState *s, const float *g)
{
    unsigned blocks = sum_blocks(count);
    assert(count <= UINT32_MAX && h->slice > 0);
    CUDA_LAUNCH(d, adapt_kernel, blocks, OPTIM_THREADS, 0, adapt_f32(h), count,
                sum_room(d, blocks, sums), p, *s, g);
    sum_finish(d, blocks, 3, sums);
}

typedef struct { AdaptKind kind; float lr, decay, eps, bd, keep, shrink, stay, move; } StepF;

static __global__ void adapt_step_kernel(StepF c, size_t count, float *p, AdaptState s)
{
    size_t stride = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
        float pi = p[i], root = s.v ? sqrtf(s.v[i]) + c.eps : 1.0f;
        if (c.kind == ADAPT_ADAGRAD || c.kind == ADAPT_SGD)
            pi = mul(c.stay, pi) + mul(c.move, s.x[i] - s.s[i] / root);
        else if (c.kind == ADAPT_ADAN || c.kind == ADAPT_ADAN_IP)
            pi = (mul(pi, c.keep) - (s.m[i] + mul(c.bd, s.diff[i])) / root) / c.shrink;
        else
            pi = pi - mul(c.decay, pi) - mul(c.lr, s.m[i]) / root;
        p[i] = pi;
    }
}

void adapt_step_cuda(Dev *d, const AdaptStep *h, size_t count, float *p, const AdaptState *s)
{
    StepF c;
    c.kind = h->kind, c.lr = (float)h->lr, c.decay = (float)h->decay, c.eps = (float)h->eps;
    c.bd = (float)h->beta_d, c.keep = (float)h->keep, c.shrink = (float)h->shrink;
    c.stay = (float)h->momentum, c.move = (float)(1 - h->momentum);
    if (h->kind == ADAPT_LION) return;
    CUDA_LAUNCH(d, adapt_step_kernel, cuda_blocks(count, OPTIM_THREADS), OPTIM_THREADS, 0, c,
                count, p, *s);
}
