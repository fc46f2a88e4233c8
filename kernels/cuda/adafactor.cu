/* adafactor.cu - Adafactor (kernels/optim.h). Nothing returns to the host within a step. */
#include "kernels/cuda/sums.h"

enum { LANES = 32 };           /* threads that share the sum of one place */

typedef struct { float keep, fresh, clip, eps; } MeanF;

/* dst (outer,inner) = keep dst + fresh mean over n of (clip x)^2 + eps, x (outer,n,inner). A
 * block has LANES x LANES threads: 32 places side by side, 32 parts of each sum; with inner 1
 * the 32 x 32 threads share one sum. */
static __global__ void mean_kernel(MeanF c, float *dst, const float *x, size_t outer, size_t n,
                                   size_t inner)
{
    __shared__ double shared[LANES][LANES + 1];
    int lane = (int)threadIdx.x & 31, part = (int)threadIdx.x >> 5, one = inner == 1;
    size_t groups = one ? outer : outer * ((inner + 31) / 32);
    for (size_t b = blockIdx.x; b < groups; b += gridDim.x) {
        size_t a = one ? b : b / ((inner + 31) / 32);
        size_t at = one ? 0 : b % ((inner + 31) / 32) * 32 + (size_t)lane;
        size_t i = one ? threadIdx.x : (size_t)part, step = one ? LANES * LANES : LANES;
        double sum = 0;
        for (; at < inner && i < n; i += step) {
            float g = mul(x[(a * n + i) * inner + at], c.clip);
            sum += (double)(mul(g, g) + c.eps);
        }
        shared[part][lane] = sum;
        __syncthreads();
        if (!part) {
            sum = 0;
            for (int k = 0; k < LANES; k++) sum += shared[k][lane];
            if (one) for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
            if (one ? !lane : at < inner) {
                float *to = dst + a * inner + at;
                *to = mul(c.keep, *to) + mul(c.fresh, (float)(sum / (double)n));
            }
        }
        __syncthreads();
    }
}

static void mean_squares(Dev *d, const Adafactor *h, float *dst, const float *x, size_t outer,
                         size_t n, size_t inner)
{
    MeanF c;
    c.keep = (float)h->beta2, c.fresh = (float)(1 - h->beta2), c.clip = (float)h->clip;
    c.eps = (float)h->eps1;
    size_t groups = inner == 1 ? outer : outer * ((inner + 31) / 32);
    CUDA_LAUNCH(d, mean_kernel, cuda_blocks(groups, 1), LANES * LANES, 0, c, dst, x, outer, n,
                inner);
}

/* by_row (outer,n,inner) = 1 / sqrt(row / its mean over n): a block for each (outer,inner). */
static __global__ void row_kernel(float *by_row, const float *row, size_t places, size_t n,
                                  size_t inner)
{
    __shared__ double shared[32];
    __shared__ float mean;
    for (size_t k = blockIdx.x; k < places; k += gridDim.x) {
        size_t at = k / inner * n * inner + k % inner;
        double sum = 0;
        for (size_t i = threadIdx.x; i < n; i += blockDim.x) sum += (double)row[at + i * inner];
        sum = block_sum_f64(sum, shared);
        if (!threadIdx.x) mean = (float)(sum / (double)n);
        __syncthreads();
        for (size_t i = threadIdx.x; i < n; i += blockDim.x)
            by_row[at + i * inner] = 1 / sqrtf(row[at + i * inner] / mean);
        __syncthreads();
    }
}

static __global__ void root_kernel(float *y, const float *x, size_t n)
{
    size_t stride = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
        y[i] = 1 / sqrtf(x[i]);
}

/* The tensor as lines (rows of them under one by_col) of `line` elements. */
typedef struct {
    size_t rows, line, inner;
    const float *by_row, *by_col;    /* by_row NULL: a vector */
    float clip;
} Lines;

static __device__ __forceinline__ float scaled(const Lines l, const float *g, size_t i)
{
    size_t r = i / l.line, j = i % l.line;
    float by = l.by_row ? mul(l.by_row[r * l.inner + j % l.inner],
                              l.by_col[r / l.rows * l.line + j]) : l.by_col[i];
    return mul(mul(g[i], l.clip), by);
}

static __global__ void square_kernel(Lines l, size_t count, double *part, const float *g)
{
    __shared__ double shared[32];
    double sum = 0;
    size_t stride = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
        float u = scaled(l, g, i);
        sum += (double)u * u;
    }
    sum = block_sum_f64(sum, shared);
    if (!threadIdx.x) part[blockIdx.x] = sum;
}

typedef struct {
    double lr, eps2, threshold, weight_decay;
    float b1, c1;
    int scale_parameter;
} RateF;

static __global__ void apply_kernel(Lines l, RateF c, size_t count, float *p, float *m,
                                    const double *sums, const float *g)
{
    double size = sqrt(sums[0] / (double)count), rms = sqrt(sums[1] / (double)count);
    double rate = c.lr * (c.scale_parameter ? fmax(c.eps2, size) : 1.0);
    float shrink = (float)fmax(1.0, rms / c.threshold), lr = (float)rate;
    float decay = (float)(c.weight_decay * rate);
    size_t stride = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
        float u = mul(scaled(l, g, i) / shrink, lr);
        if (m) u = m[i] = mul(c.b1, m[i]) + mul(c.c1, u);
        p[i] = p[i] - mul(decay, p[i]) - u;
    }
}

/* The means of this step and what they make of an element. */
static Lines factors(Dev *d, const Adafactor *h, size_t count, const AdafactorState *s,
                     const float *g)
{
    size_t rows = h->outer * h->rows, inner = h->inner, line = h->cols * inner;
    size_t places = h->outer * inner, cols = h->rows ? h->outer * line : count;
    float *by_col = h->rows ? s->room + rows * inner : s->room;
    Lines l = {h->rows, h->rows ? line : count, inner, h->rows ? s->room : NULL, by_col,
               (float)h->clip};
    if (h->rows) {
        mean_squares(d, h, s->row, g, rows, h->cols, inner);
        mean_squares(d, h, s->col, g, h->outer, h->rows, line);
        CUDA_LAUNCH(d, row_kernel, cuda_blocks(places, 1), OPTIM_THREADS, 0, s->room,
                    (const float *)s->row, places, h->rows, inner);
    } else {
        mean_squares(d, h, s->v, g, 1, 1, count);
    }
    CUDA_LAUNCH(d, root_kernel, cuda_blocks(cols, OPTIM_THREADS), OPTIM_THREADS, 0, by_col,
                (const float *)(h->rows ? s->col : s->v), cols);
    return l;
}

void adafactor_cuda(Dev *d, const Adafactor *h, size_t count, float *p, const AdafactorState *s,
                    const float *g)
{
    unsigned blocks = sum_blocks(count);
    Lines l = factors(d, h, count, s, g);
    RateF c = {h->lr, h->eps2, h->threshold, h->weight_decay, (float)h->beta1,
               (float)(1 - h->beta1), h->scale_parameter};
    sumsq_cuda(d, count, s->sums, p);
    CUDA_LAUNCH(d, square_kernel, blocks, OPTIM_THREADS, 0, l, count,
                sum_room(d, blocks, s->sums + 1), g);
    sum_finish(d, blocks, 1, s->sums + 1);
    CUDA_LAUNCH(d, apply_kernel, cuda_blocks(count, OPTIM_THREADS), OPTIM_THREADS, 0, l, c, count,
                p, s->m, (const double *)s->sums, g);
}
