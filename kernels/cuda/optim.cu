/* optim.cu - optimizer updates (kernels/optim.h).
 *
 * Same f32 operations in the same order as kernels/ref/optim.c, and the same
 * bits: every product is mul(), which the compiler may not fuse with a sum.
 */
#include "kernels/cuda/cuda.h"

enum { OPTIM_THREADS = 256, OPTIM_BLOCKS = 8 * OPTIM_PARTS };

static __device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }

/* for each four of count elements that are this thread's: the first is i, there
 * are m of them. */
#define FOUR_EACH(count, i, m)                                                              \
    for (size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 4; i < (count);       \
         i += (size_t)gridDim.x * blockDim.x * 4)                                           \
        for (int m = (count) - i < 4 ? (int)((count) - i) : 4; m; m = 0)

static __device__ __forceinline__ void four_get(float v[4], const float *p, int m)
{
    if (m == 4) {
        float4 q = *(const float4 *)p;
        v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
    } else {
#pragma unroll
        for (int k = 0; k < 4; k++) v[k] = k < m ? p[k] : 0.0f;
    }
}

static __device__ __forceinline__ void four_put(float *p, const float v[4], int m)
{
    if (m == 4) {
        *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
    } else {
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (k < m) p[k] = v[k];
    }
}

static unsigned four_blocks(size_t count) { return cuda_blocks(count, OPTIM_THREADS * 4); }

/* ---- sums in f64 --------------------------------------------------------- */

/* The parts of a sum, 8 to each of OPTIM_PARTS, are a function of count alone;
 * small arrays are one part. */
static unsigned sum_blocks(size_t count)
{
    unsigned b = cuda_blocks(count, OPTIM_THREADS * 32);
    return b < OPTIM_BLOCKS ? b : (unsigned)OPTIM_BLOCKS;
}

/* Sum over a block, in thread 0. shared: 32 doubles, free again on return. */
static __device__ __forceinline__ double block_sum_f64(double v, double *shared)
{
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    if (!lane) shared[warp] = v;
    __syncthreads();
    double s = 0;
    for (int w = 0; !threadIdx.x && w < warps; w++) s += shared[w];
    __syncthreads();
    return s;
}

/* out[k] = sum of part[k], part[k + of], ... for k < of. */
static __global__ void sum_total(int parts, int of, double *out, const double *part)
{
    __shared__ double shared[32];
    for (int k = 0; k < of; k++) {
        double s = 0;
        for (int i = (int)threadIdx.x; i < parts; i += (int)blockDim.x) s += part[i * of + k];
        s = block_sum_f64(s, shared);
        if (!threadIdx.x) out[k] = s;
    }
}

/* Where the blocks of a sum write: straight to out when there is only one. */
static double *sum_room(Dev *d, unsigned blocks, double *out)
{
    return blocks == 1 ? out : (double *)cuda_dev(d)->reduce;
}

static void sum_finish(Dev *d, unsigned blocks, int of, double *out)
{
    if (blocks > 1)
        CUDA_LAUNCH(d, sum_total, 1, OPTIM_THREADS, 0, (int)blocks, of, out,
                    (const double *)cuda_dev(d)->reduce);
}

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

static __global__ void scale_kernel(size_t count, float *g, float s)
{
    FOUR_EACH(count, i, m) {
        float v[4];
        four_get(v, g + i, m);
#pragma unroll
        for (int k = 0; k < 4; k++) v[k] = mul(v[k], s);
        four_put(g + i, v, m);
    }
}

void scale_cuda(Dev *d, size_t count, float *g, float s)
{
    CUDA_LAUNCH(d, scale_kernel, four_blocks(count), OPTIM_THREADS, 0, count, g, s);
}

typedef struct { float clip, keep, b1, c1, b2, c2, root, eps, lr; } AdamWF;

static AdamWF adamw_f32(const AdamW *h)
{
    AdamWF c;
    c.clip = (float)h->clip, c.keep = (float)(1 - h->lr * h->weight_decay);
    c.b1 = (float)h->beta1, c.c1 = (float)(1 - h->beta1);
    c.b2 = (float)h->beta2, c.c2 = (float)(1 - h->beta2);
    c.root = (float)sqrt(h->bias2), c.eps = (float)h->eps, c.lr = (float)(h->lr / h->bias1);
    return c;
}

/* The parameter after a step with moments m and v. */
static __device__ __forceinline__ float adamw_param(const AdamWF c, float p, float m, float v)
{
    return mul(p, c.keep) - mul(c.lr, m) / (sqrtf(v) / c.root + c.eps);
}

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

/* ---- 8-bit moments ------------------------------------------------------- */

/* A warp has a block of ADAMW8_BLOCK elements, a lane PER8 neighbours of it. */
enum { PER8 = ADAMW8_BLOCK / 32 };

/* How many of the 255 midpoints between values of a map are below x, that is
 * the index of the nearest. tree[1..255]: the midpoints as a search tree in
 * breadth-first order, whose levels lie in different banks of shared memory. */
static __device__ __forceinline__ unsigned nearest(const float *tree, float x)
{
    unsigned at = 1;
#pragma unroll
    for (int level = 0; level < 8; level++) at = 2 * at + (tree[at] < x);
    return at - 256;
}

/* Rounds a block: the lane's x to its bytes q; gives the block's absmax. */
static __device__ __forceinline__ float quantize(uint8_t q[PER8], const float *tree,
                                                 const float x[PER8])
{
    float top = 0;
#pragma unroll
    for (int k = 0; k < PER8; k++) top = fmaxf(top, fabsf(x[k]));
    top = warp_max(top);
#pragma unroll
    for (int k = 0; k < PER8; k++) q[k] = (uint8_t)nearest(tree, top > 0 ? x[k] / top : 0.0f);
    return top;
}

typedef struct __align__(8) { uint8_t q[PER8]; } Bytes8;

/* The m values of a lane; the rest are 0. */
static __device__ __forceinline__ Bytes8 bytes_get(const uint8_t *p, int m)
{
    Bytes8 b = {{0}};
    if (m == PER8) return *(const Bytes8 *)p;
    for (int k = 0; k < m; k++) b.q[k] = p[k];
    return b;
}

static __device__ __forceinline__ void bytes_put(uint8_t *p, Bytes8 b, int m)
{
    if (m == PER8) *(Bytes8 *)p = b;
    else for (int k = 0; k < m; k++) p[k] = b.q[k];
}

static __device__ __forceinline__ void eight_get(float v[PER8], const float *p, int m)
{
    four_get(v, p, m < 4 ? m : 4);
    four_get(v + 4, p + 4, m < 4 ? 0 : m - 4);
}

/* One block of 256: the lane has the m elements from `at` on. */
static __device__ __forceinline__ void adamw8_block(const AdamWF c, size_t block, size_t at, int m,
                                                    float *p, const Moments8 s, const float *map,
                                                    const float (*tree)[256], const float *g)
{
    float gi[PER8], pi[PER8], mi[PER8], vi[PER8], mabs = s.mabs[block], vabs = s.vabs[block];
    Bytes8 mq = bytes_get(s.mq + at, m), vq = bytes_get(s.vq + at, m);
    eight_get(gi, g + at, m);
    eight_get(pi, p + at, m);
#pragma unroll
    for (int k = 0; k < PER8; k++) {
        float a = mul(gi[k], c.clip);
        mi[k] = mul(c.b1, mul(map[mq.q[k]], mabs)) + mul(c.c1, a);
        vi[k] = mul(c.b2, mul(map[256 + vq.q[k]], vabs)) + mul(mul(c.c2, a), a);
        if (k >= m) mi[k] = vi[k] = 0.0f;
        pi[k] = adamw_param(c, pi[k], mi[k], vi[k]);
    }
    four_put(p + at, pi, m < 4 ? m : 4);
    four_put(p + at + 4, pi + 4, m < 4 ? 0 : m - 4);
    mabs = quantize(mq.q, tree[0], mi);
    vabs = quantize(vq.q, tree[1], vi);
    bytes_put(s.mq + at, mq, m);
    bytes_put(s.vq + at, vq, m);
    __syncwarp();                     /* all lanes have read the old ones */
    if (!(threadIdx.x & 31)) s.mabs[block] = mabs, s.vabs[block] = vabs;
}

static __global__ void __launch_bounds__(OPTIM_THREADS)
adamw8_kernel(AdamWF c, size_t count, float *p, Moments8 s, const float *map, const float *g)
{
    __shared__ float values[512], tree[2][256];
    int t = (int)threadIdx.x, lane = t & 31;
    for (int i = t; i < 512; i += OPTIM_THREADS) {
        int k = i & 255, level = 0;
        while (2 << level <= k) level++;
        int at = (i & 256) + (2 * (k - (1 << level)) + 1) * (128 >> level) - 1;
        values[i] = map[i];
        tree[i >> 8][k] = k ? (map[at] + map[at + 1]) / 2 : 0.0f;
    }
    __syncthreads();
    size_t blocks = (count + ADAMW8_BLOCK - 1) / ADAMW8_BLOCK, warps = OPTIM_THREADS / 32;
    size_t b = blockIdx.x * warps + (size_t)(t >> 5);
    for (; b < blocks; b += gridDim.x * warps) {
        size_t at = b * ADAMW8_BLOCK + (size_t)lane * PER8;
        int m = at >= count ? 0 : count - at < PER8 ? (int)(count - at) : PER8;
        adamw8_block(c, b, m ? at : 0, m, p, s, values, tree, g);
    }
}

void adamw8_cuda(Dev *d, const AdamW *h, size_t count, float *p, const Moments8 *s,
                 const float *map, const float *g)
{
    unsigned most = 8u * (unsigned)cuda_dev(d)->processors;
    unsigned blocks = cuda_blocks(count, ADAMW8_BLOCK * (OPTIM_THREADS / 32));
    CUDA_LAUNCH(d, adamw8_kernel, blocks < most ? blocks : most, OPTIM_THREADS, 0, adamw_f32(h),
                count, p, *s, map, g);
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

/* ---- learning-rate-free Adams -------------------------------------------- */

typedef struct { float b1, b2, b3, cm, cv, cs, l2, eps, clip; unsigned slice; int first; } AdaptF;

static AdaptF adapt_f32(const Adapt *h)
{
    AdaptF c;
    c.b1 = (float)h->beta1, c.b2 = (float)h->beta2, c.b3 = (float)h->beta3;
    c.cm = (float)h->m_scale, c.cv = (float)h->v_scale, c.cs = (float)h->s_scale;
    c.l2 = (float)h->l2, c.eps = (float)h->eps, c.clip = (float)h->clip;
    c.slice = (unsigned)h->slice, c.first = h->first;
    return c;
}

/* part[2b], part[2b+1] = the sums of block b. */
static __device__ __forceinline__ void put_sums(double *part, double dot, double norm,
                                                double *shared)
{
    dot = block_sum_f64(dot, shared);
    norm = block_sum_f64(norm, shared);
    if (!threadIdx.x) part[2 * blockIdx.x] = dot, part[2 * blockIdx.x + 1] = norm;
}

static __global__ void dadapt_kernel(AdaptF c, size_t count, double *part, const float *p,
                                     AdaptState s, const float *g)
{
    __shared__ double shared[32];
    double dot = 0, norm = 0;
    FOUR_EACH(count, i, n) {
        float gi[4], pi[4], mi[4], vi[4], si[4];
        four_get(gi, g + i, n), four_get(pi, p + i, n), four_get(mi, s.m + i, n);
        four_get(vi, s.v + i, n), four_get(si, s.s + i, n);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float a = mul(gi[k], c.clip) + mul(c.l2, pi[k]);
            if (k < n) dot += (double)a * (si[k] / (sqrtf(vi[k]) + c.eps));
            mi[k] = mul(c.b1, mi[k]) + mul(c.cm, a);
            vi[k] = mul(c.b2, vi[k]) + mul(mul(c.cv, a), a);
            si[k] = mul(c.b3, si[k]) + mul(c.cs, a);
            if (k < n) norm += fabs((double)si[k]);
        }
        four_put(s.m + i, mi, n), four_put(s.v + i, vi, n), four_put(s.s + i, si, n);
    }
    put_sums(part, dot, norm, shared);
}

void dadapt_stats_cuda(Dev *d, const Adapt *h, size_t count, double *sums,
                       const float *p, const AdaptState *s, const float *g)
{
    unsigned blocks = sum_blocks(count);
    CUDA_LAUNCH(d, dadapt_kernel, blocks, OPTIM_THREADS, 0, adapt_f32(h), count,
                sum_room(d, blocks, sums), p, *s, g);
    sum_finish(d, blocks, 2, sums);
}

static __global__ void prodigy_kernel(AdaptF c, size_t count, double *part, const float *p,
                                      AdaptState s, const float *g)
{
    __shared__ double shared[32];
    double dot = 0, norm = 0;
    FOUR_EACH(count, i, n) {
        float gi[4], pi[4], mi[4], vi[4];
        four_get(gi, g + i, n), four_get(pi, p + i, n);
        four_get(mi, s.m + i, n), four_get(vi, s.v + i, n);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float a = mul(gi[k], c.clip) + mul(c.l2, pi[k]);
            mi[k] = mul(c.b1, mi[k]) + mul(c.cm, a);
            vi[k] = mul(c.b2, vi[k]) + mul(mul(c.cv, a), a);
            unsigned j = ((unsigned)i + k) / c.slice;
            if (k >= n || j * c.slice != (unsigned)i + k) continue;
            if (c.first) s.p0[j] = pi[k];
            dot += (double)a * ((c.first ? pi[k] : s.p0[j]) - pi[k]);
            float sj = mul(c.b3, s.s[j]) + mul(c.cs, a);
            s.s[j] = sj;
            norm += fabs((double)sj);
        }
        four_put(s.m + i, mi, n), four_put(s.v + i, vi, n);
    }
    put_sums(part, dot, norm, shared);
}

void prodigy_stats_cuda(Dev *d, const Adapt *h, size_t count, double *sums,
                        const float *p, const AdaptState *s, const float *g)
{
    unsigned blocks = sum_blocks(count);
    assert(count <= UINT32_MAX && h->slice > 0);
    CUDA_LAUNCH(d, prodigy_kernel, blocks, OPTIM_THREADS, 0, adapt_f32(h), count,
                sum_room(d, blocks, sums), p, *s, g);
    sum_finish(d, blocks, 2, sums);
}

static __global__ void adapt_step_kernel(float lr, float decay, float eps, size_t count, float *p,
                                         const float *m, const float *v)
{
    FOUR_EACH(count, i, n) {
        float pi[4], mi[4], vi[4];
        four_get(pi, p + i, n), four_get(mi, m + i, n), four_get(vi, v + i, n);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float kept = pi[k] - mul(decay, pi[k]);
            pi[k] = kept - mul(lr, mi[k]) / (sqrtf(vi[k]) + eps);
        }
        four_put(p + i, pi, n);
    }
}

void adapt_step_cuda(Dev *d, const AdaptStep *h, size_t count, float *p, const float *m,
                     const float *v)
{
    CUDA_LAUNCH(d, adapt_step_kernel, four_blocks(count), OPTIM_THREADS, 0, (float)h->lr,
                (float)h->decay, (float)h->eps, count, p, m, v);
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
