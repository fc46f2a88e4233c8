/* optim8.cu - optimizer updates with 8-bit moments (kernels/optim.h): AdamW, Lion, SGD. */
#include "kernels/cuda/optim.h"

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

/* The m values of a lane; the rest are 0. Unrolled: bytes with an index known at run time
 * would be in local memory. */
static __device__ __forceinline__ Bytes8 bytes_get(const uint8_t *p, int m)
{
    Bytes8 b = {{0}};
    if (m == PER8) return *(const Bytes8 *)p;
#pragma unroll
    for (int k = 0; k < PER8; k++)
        if (k < m) b.q[k] = p[k];
    return b;
}

static __device__ __forceinline__ void bytes_put(uint8_t *p, Bytes8 b, int m)
{
    if (m == PER8) {
        *(Bytes8 *)p = b;
        return;
    }
#pragma unroll
    for (int k = 0; k < PER8; k++)
        if (k < m) p[k] = b.q[k];
}

static __device__ __forceinline__ void eight_get(float v[PER8], const float *p, int m)
{
    four_get(v, p, m < 4 ? m : 4);
    four_get(v + 4, p + 4, m < 4 ? 0 : m - 4);
}

/* A map's 256 values, and the tree of its midpoints for nearest(). */
static __device__ __forceinline__ void map_get(float *values, float *tree, const float *map)
{
    for (int k = (int)threadIdx.x; k < 256; k += OPTIM_THREADS) {
        int level = 0;
        while (2 << level <= k) level++;
        int at = (2 * (k - (1 << level)) + 1) * (128 >> level) - 1;
        values[k] = map[k];
        tree[k] = k ? (map[at] + map[at + 1]) / 2 : 0.0f;
    }
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
    map_get(values, tree[0], map);
    map_get(values + 256, tree[1], map + 256);
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

/* ---- one moment: Lion, SGD ------------------------------------------------- */

typedef struct { float clip, keep, lr, b1, c1, b2, c2, l2, look; int sgd, nesterov; } Step1;

/* The parameter, and the moment m in place. */
static __device__ __forceinline__ float step1(const Step1 c, float p, float *m, float g)
{
    if (c.sgd) {
        float a = mul(g, c.clip) + mul(c.l2, p);
        *m = mul(c.b2, *m) + mul(c.c2, a);
        return p - mul(c.lr, c.nesterov ? a + mul(c.look, *m) : *m);
    }
    float a = mul(g, c.clip), u = mul(c.b1, *m) + mul(c.c1, a);
    *m = mul(c.b2, *m) + mul(c.c2, a);
    return mul(p, c.keep) - (u > 0 ? c.lr : u < 0 ? -c.lr : 0.0f);
}

static __global__ void __launch_bounds__(OPTIM_THREADS)
step1_kernel(Step1 c, size_t count, float *p, Moment8 s, const float *g)
{
    __shared__ float values[256], tree[256];
    int t = (int)threadIdx.x, lane = t & 31;
    map_get(values, tree, s.map);
    __syncthreads();
    size_t blocks = (count + ADAMW8_BLOCK - 1) / ADAMW8_BLOCK, warps = OPTIM_THREADS / 32;
    size_t b = blockIdx.x * warps + (size_t)(t >> 5);
    for (; b < blocks; b += gridDim.x * warps) {
        size_t at = b * ADAMW8_BLOCK + (size_t)lane * PER8;
        int n = at >= count ? 0 : count - at < PER8 ? (int)(count - at) : PER8;
        if (!n) at = 0;
        float gi[PER8], pi[PER8], mi[PER8], scale = s.mabs[b];
        Bytes8 q = bytes_get(s.mq + at, n);
        eight_get(gi, g + at, n);
        eight_get(pi, p + at, n);
#pragma unroll
        for (int k = 0; k < PER8; k++) {
            mi[k] = mul(values[q.q[k]], scale);
            pi[k] = step1(c, pi[k], &mi[k], gi[k]);
            if (k >= n) mi[k] = 0.0f;
        }
        four_put(p + at, pi, n < 4 ? n : 4);
        four_put(p + at + 4, pi + 4, n < 4 ? 0 : n - 4);
        scale = quantize(q.q, tree, mi);
        bytes_put(s.mq + at, q, n);
        __syncwarp();                 /* all lanes have read the old one */
        if (!lane) s.mabs[b] = scale;
    }
}

static void step1_run(Dev *d, Step1 c, size_t count, float *p, const Moment8 *s, const float *g)
{
    unsigned most = 8u * (unsigned)cuda_dev(d)->processors;
    unsigned blocks = cuda_blocks(count, ADAMW8_BLOCK * (OPTIM_THREADS / 32));
    CUDA_LAUNCH(d, step1_kernel, blocks < most ? blocks : most, OPTIM_THREADS, 0, c, count, p, *s,
                g);
}

void lion8_cuda(Dev *d, const Lion *h, size_t count, float *p, const Moment8 *s, const float *g)
{
    Step1 c = {};
    c.clip = (float)h->clip, c.keep = (float)(1 - h->lr * h->weight_decay), c.lr = (float)h->lr;
    c.b1 = (float)h->beta1, c.c1 = (float)(1 - h->beta1);
    c.b2 = (float)h->beta2, c.c2 = (float)(1 - h->beta2);
    step1_run(d, c, count, p, s, g);
}

void sgd8_cuda(Dev *d, const Sgd *h, size_t count, float *p, const Moment8 *s, const float *g)
{
    Step1 c = {};
    c.clip = (float)h->clip, c.lr = (float)h->lr, c.l2 = (float)h->weight_decay;
    c.look = (float)h->momentum, c.sgd = 1, c.nesterov = h->nesterov;
    c.b2 = h->first ? 0.0f : (float)h->momentum;
    c.c2 = h->first ? 1.0f : (float)(1 - h->dampening);
    step1_run(d, c, count, p, s, g);
}
