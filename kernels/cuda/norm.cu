/* norm.cu - group and layer normalisation, forward and backward.
 *
 * The formulas are those of kernels/ref/norm.c. A group norm of a large map is
 * three kernels: sums of parts of the rows for every channel (columns.h), from
 * these the group's statistics, and the map itself. Where a group of one picture
 * is small, a block does all of it and the second reading comes from the cache.
 * A layer norm has a warp for each row.
 */
#include "kernels/cuda/columns.h"

enum { SMALL_BYTES = 64 << 10, SMALL_THREADS = 512, WARP = 32, LAYER_THREADS = 128,
       MAP_BLOCKS = 4096 };

/* Whole warps for `work`, at most so many threads. */
static unsigned threads_for(size_t work, unsigned most)
{
    size_t t = (work + WARP - 1) / WARP * WARP;
    return t < most ? (unsigned)t : most;
}

/* What is the same for all pixels of the m channels from c on: y = f((x - mean) a + b). */
typedef struct { float mean[VEC], a[VEC], b[VEC]; } Affine;

static __device__ __forceinline__ int group_of(const GroupNorm p, int c)
{
    return (unsigned)c / (unsigned)(p.c / p.groups);
}

static __device__ __forceinline__ Affine affine_at(const GroupNorm p, int c, int m,
                                                   const float *stats, const float *w,
                                                   const float *b)
{
    Affine f;
    f32_get(f.a, w + c, m);
    f32_get(f.b, b + c, m);
#pragma unroll
    for (int i = 0; i < VEC; i++) {
        const float *s = stats + group_of(p, i < m ? c + i : c) * 2;
        f.mean[i] = s[0], f.a[i] *= s[1];
    }
    return f;
}

/* y of m elements at x. */
static __device__ __forceinline__ void affine_put(const Affine *f, int silu, int m, Elem *y,
                                                  const Elem *x)
{
    float v[VEC];
    vec_get(v, x, m);
#pragma unroll
    for (int i = 0; i < VEC; i++) {
        float z = (v[i] - f->mean[i]) * f->a[i] + f->b[i];
        v[i] = silu ? z / (1.0f + expf(-z)) : z;
    }
    vec_put(y, v, m);
}

/* u = x - mean and dz = dy f'(z) of m elements. */
static __device__ __forceinline__ void affine_back(const Affine *f, int silu, int m,
                                                   const Elem *dy, const Elem *x, float dz[VEC],
                                                   float u[VEC])
{
    vec_get(u, x, m);
    vec_get(dz, dy, m);
#pragma unroll
    for (int i = 0; i < VEC; i++) {
        u[i] -= f->mean[i];
        if (!silu) continue;
        float z = u[i] * f->a[i] + f->b[i], s = 1.0f / (1.0f + expf(-z));
        dz[i] *= s * (1.0f + z * (1.0f - s));
    }
}

/* ---- group norm, large maps: forward ------------------------------------- */

/* Sums of x - k and of its square, where k is the first row of the part: close
 * to the mean, so that the square of a large mean does not drown the variance. */
static __device__ __forceinline__ void moments_add(const Columns g, const ColumnsAt a, const int m,
                                                   const Elem *x, float s[VEC], float q[VEC])
{
    float k[VEC];
    vec_get(k, x + blockIdx.y * g.step * g.c, m);
#pragma unroll 4
    for (size_t r = a.row; r < a.end; r += g.ty) {
        float v[VEC];
        vec_get(v, x + r * g.c, m);
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            float e = v[i] - k[i];
            s[i] += e;
            q[i] += e * e;
        }
    }
}

static __global__ void __launch_bounds__(COLUMN_THREADS)
group_moments(Columns g, float *part, const Elem *x)
{
    __shared__ float shared[VEC * COLUMN_THREADS];
    ColumnsAt a = columns_at(g);
    float s[VEC] = {0}, q[VEC] = {0};
    x += blockIdx.z * g.rows * g.c + a.c;
    if (a.m == VEC) moments_add(g, a, VEC, x, s, q);
    else if (a.m) moments_add(g, a, 1, x, s, q);
    part += ((size_t)blockIdx.z * g.parts + blockIdx.y) * 2 * g.c;
    columns_sum(g, s, a.m, part, shared);
    columns_sum(g, q, a.m, part + g.c, shared);
}

/* Block (group, n): mean and rstd of a group from the moments of its parts and
 * channels. Each of these is a sample of its own: means weigh by count, and the
 * variance is that within samples plus that of their means. */
static __global__ void __launch_bounds__(COLUMN_THREADS)
group_stats(Columns g, GroupNorm p, float *stats, const float *part, const Elem *x)
{
    __shared__ float shared[32];
    int cg = p.c / p.groups, c0 = (int)blockIdx.x * cg, all = g.parts * cg;
    float m = (float)g.rows * (float)cg, mean = 0, var = 0;
    x += blockIdx.y * g.rows * g.c + c0;
    part += (size_t)blockIdx.y * g.parts * 2 * g.c + c0;
    float base = elem_get(x[0]);
    for (int square = 0; square < 2; square++) {
        float sum = 0;
        for (int i = (int)threadIdx.x; i < all; i += (int)blockDim.x) {
            int k = i / cg, c = i - k * cg;
            size_t row = k * g.step;
            float count = (float)(g.rows - row < g.step ? g.rows - row : g.step);
            float s = part[(size_t)k * 2 * g.c + c], q = part[((size_t)k * 2 + 1) * g.c + c];
            float e = elem_get(x[row * g.c + c]) - base + s / count - mean;
            sum += square ? q - s * s / count + count * e * e : count * e;
        }
        sum = block_sum(sum, shared) / m;
        if (square) var = sum;
        else mean = sum;
    }
    if (threadIdx.x) return;
    stats += (blockIdx.y * p.groups + blockIdx.x) * 2;
    stats[0] = base + mean;
    stats[1] = 1.0f / sqrtf(fmaxf(var, 0.0f) + p.eps);
}

static __device__ __forceinline__ void group_rows(const Columns g, const ColumnsAt a,
                                                  const GroupNorm p, const int silu, const int m,
                                                  Elem *y, const float *stats, const Elem *x,
                                                  const float *w, const float *b)
{
    Affine f = affine_at(p, a.c, m, stats, w, b);
#pragma unroll 2
    for (size_t r = a.row; r < a.end; r += g.ty)
        affine_put(&f, silu, m, y + r * g.c, x + r * g.c);
}

static __global__ void __launch_bounds__(COLUMN_THREADS)
group_map(Columns g, GroupNorm p, Elem *y, const float *stats, const Elem *x, const float *w,
          const float *b)
{
    ColumnsAt a = columns_at(g);
    size_t at = blockIdx.z * g.rows * g.c + a.c;
    stats += blockIdx.z * p.groups * 2;
    if (a.m == VEC && p.silu) group_rows(g, a, p, 1, VEC, y + at, stats, x + at, w, b);
    else if (a.m == VEC) group_rows(g, a, p, 0, VEC, y + at, stats, x + at, w, b);
    else if (a.m) group_rows(g, a, p, p.silu, 1, y + at, stats, x + at, w, b);
}

/* ---- group norm, small maps: forward ------------------------------------- */

/* The rows and columns of one group, by the threads of a block. */
typedef struct { int vecs, ty, c, row, live; } Small;

static __device__ __forceinline__ Small small_at(const GroupNorm p)
{
    Small s;
    int t = (int)threadIdx.x;
    s.vecs = p.c / p.groups / VEC;
    s.ty = (int)blockDim.x / s.vecs;
    s.c = (int)blockIdx.x * (p.c / p.groups) + t % s.vecs * VEC;
    s.row = t / s.vecs;
    s.live = s.row < s.ty;
    if (!s.live) s.row = p.hw;
    return s;
}

static int is_small(const GroupNorm *p)
{
    int cg = p->c / p->groups;
    return cg % VEC == 0 && cg / VEC <= SMALL_THREADS &&
           (size_t)p->hw * cg * sizeof(Elem) <= SMALL_BYTES && p->n <= 65535;
}

static unsigned small_threads(const GroupNorm *p)
{
    return threads_for((size_t)p->hw * (p->c / p->groups / VEC), SMALL_THREADS);
}

static __global__ void __launch_bounds__(SMALL_THREADS)
group_small(GroupNorm p, Elem *y, float *stats, const Elem *x, const float *w, const float *b)
{
    __shared__ float shared[32];
    Small at = small_at(p);
    float m = (float)p.hw * (float)(p.c / p.groups), s = 0, q = 0, v[VEC];
    size_t n = blockIdx.y * (size_t)p.hw * p.c;
    float k = elem_get(x[n + blockIdx.x * (p.c / p.groups)]);
    for (int r = at.row; r < p.hw; r += at.ty) {
        vec_get(v, x + n + (size_t)r * p.c + at.c, VEC);
#pragma unroll
        for (int i = 0; i < VEC; i++) s += v[i] - k;
    }
    float mean = k + block_sum(s, shared) / m;
    for (int r = at.row; r < p.hw; r += at.ty) {
        vec_get(v, x + n + (size_t)r * p.c + at.c, VEC);
#pragma unroll
        for (int i = 0; i < VEC; i++) q += (v[i] - mean) * (v[i] - mean);
    }
    float rstd = 1.0f / sqrtf(block_sum(q, shared) / m + p.eps);
    if (stats && !threadIdx.x) {
        stats += (blockIdx.y * p.groups + blockIdx.x) * 2;
        stats[0] = mean, stats[1] = rstd;
    }
    if (!at.live) return;
    Affine f;
    f32_get(f.a, w + at.c, VEC);
    f32_get(f.b, b + at.c, VEC);
#pragma unroll
    for (int i = 0; i < VEC; i++) f.mean[i] = mean, f.a[i] *= rstd;
    for (int r = at.row; r < p.hw; r += at.ty) {
        size_t i = n + (size_t)r * p.c + at.c;
        affine_put(&f, p.silu, VEC, y + i, x + i);
    }
}

void OP(groupnorm)(Dev *d, const GroupNorm *p, void *y, float *stats, const void *x,
                   const float *w, const float *b)
{
    assert(p->c % p->groups == 0);
    if (is_small(p)) {
        CUDA_LAUNCH(d, group_small, dim3(p->groups, p->n), small_threads(p), 0, *p, (Elem *)y,
                    stats, (const Elem *)x, w, b);
        return;
    }
    Columns g = columns_plan(p->n, (size_t)p->hw, p->c, COLUMN_BLOCKS, 4);
    Columns map = columns_plan(g.n, (size_t)p->hw, p->c, MAP_BLOCKS, 2);
    float *part = (float *)cuda_dev(d)->reduce, *own = part + (size_t)g.n * g.parts * 2 * g.c;
    COLUMNS_EACH(g, p->n, at, now) {
        const Elem *xn = (const Elem *)x + (size_t)at * p->hw * p->c;
        Elem *yn = (Elem *)y + (size_t)at * p->hw * p->c;
        float *st = stats ? stats + (size_t)at * p->groups * 2 : own;
        CUDA_LAUNCH(d, group_moments, columns_grid(&g, now), COLUMN_THREADS, 0, g, part, xn);
        unsigned all = threads_for((size_t)g.parts * (p->c / p->groups), COLUMN_THREADS);
        CUDA_LAUNCH(d, group_stats, dim3(p->groups, now), all, 0, g, *p, st, part, xn);
        CUDA_LAUNCH(d, group_map, columns_grid(&map, now), COLUMN_THREADS, 0, map, *p, yn, st, xn,
                    w, b);
    }
}

/* ---- group norm: backward ------------------------------------------------ */

static __device__ __forceinline__ void back_add(const Columns g, const ColumnsAt a,
                                                const GroupNorm p, const int silu, const int m,
                                                const Elem *dy, const Elem *x, const float *stats,
                                                const float *w, const float *b, float s[VEC],
                                                float q[VEC])
{
    Affine f = affine_at(p, a.c, m, stats, w, b);
#pragma unroll 1
    for (size_t r = a.row; r < a.end; r += g.ty) {
        float dz[VEC], u[VEC];
        affine_back(&f, silu, m, dy + r * g.c, x + r * g.c, dz, u);
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            s[i] += dz[i];
            q[i] += dz[i] * u[i];
        }
    }
}

/* Sums of dz and of dz (x - mean) of every channel over a part of the rows. */
static __global__ void __launch_bounds__(COLUMN_THREADS, 3)
group_back_parts(Columns g, GroupNorm p, float *part, const Elem *dy, const Elem *x,
                 const float *stats, const float *w, const float *b)
{
    __shared__ float shared[VEC * COLUMN_THREADS];
    ColumnsAt a = columns_at(g);
    float s[VEC] = {0}, q[VEC] = {0};
    size_t at = blockIdx.z * g.rows * g.c + a.c;
    dy += at, x += at, stats += blockIdx.z * p.groups * 2;
    if (a.m == VEC && p.silu) back_add(g, a, p, 1, VEC, dy, x, stats, w, b, s, q);
    else if (a.m == VEC) back_add(g, a, p, 0, VEC, dy, x, stats, w, b, s, q);
    else if (a.m) back_add(g, a, p, p.silu, 1, dy, x, stats, w, b, s, q);
    part += ((size_t)blockIdx.z * g.parts + blockIdx.y) * 2 * g.c;
    columns_sum(g, s, a.m, part, shared);
    columns_sum(g, q, a.m, part + g.c, shared);
}

/* Block (group, n): adds the parts into sums (N,2,C), of dz and dz xhat, and the
 * means of g and of g xhat into mean (N,groups,2). */
static __global__ void __launch_bounds__(COLUMN_THREADS)
group_back_means(Columns g, GroupNorm p, float *sums, float *mean, const float *part,
                 const float *stats, const float *w)
{
    __shared__ float shared[COLUMN_THREADS];
    int cg = p.c / p.groups, lane = threadIdx.x & 31;
    float m = (float)g.rows * (float)cg, total[2] = {0, 0};
    part += (size_t)blockIdx.y * g.parts * 2 * g.c;
    for (int i0 = 0; i0 < cg; i0 += 32) {
        int c0 = (int)blockIdx.x * cg + i0, live = i0 + lane < cg;
        for (int k = 0; k < 2; k++) {
            float s = columns_total(part + k * g.c + c0, (size_t)2 * g.c, g.parts, live, shared);
            if (k) s *= stats[(blockIdx.y * p.groups + blockIdx.x) * 2 + 1];
            if (live) total[k] += s * w[c0 + lane];
            if (live && threadIdx.x < 32) sums[(blockIdx.y * 2 + k) * (size_t)g.c + c0 + lane] = s;
        }
    }
    for (int k = 0; k < 2; k++) {
        float s = warp_sum(total[k]) / m;
        if (!threadIdx.x) mean[(blockIdx.y * p.groups + blockIdx.x) * 2 + k] = s;
    }
}

/* dx = rstd (dz w - g1 - xhat g2), where xhat = rstd (x - mean). */
static __device__ __forceinline__ void back_rows(const Columns g, const ColumnsAt a,
                                                 const GroupNorm p, const int silu, const int m,
                                                 Elem *dx, const Elem *dy, const Elem *x,
                                                 const float *stats, const float *mean,
                                                 const float *w, const float *b, int acc)
{
    Affine f = affine_at(p, a.c, m, stats, w, b);
    float h1[VEC], h2[VEC];
#pragma unroll
    for (int i = 0; i < VEC; i++) {
        int k = group_of(p, i < m ? a.c + i : a.c) * 2;
        float rstd = stats[k + 1];
        h1[i] = rstd * mean[k], h2[i] = rstd * rstd * mean[k + 1];
    }
#pragma unroll 1
    for (size_t r = a.row; r < a.end; r += g.ty) {
        float dz[VEC], u[VEC];
        affine_back(&f, silu, m, dy + r * g.c, x + r * g.c, dz, u);
#pragma unroll
        for (int i = 0; i < VEC; i++) dz[i] = dz[i] * f.a[i] - h1[i] - u[i] * h2[i];
        vec_acc(dx + r * g.c, dz, m, acc);
    }
}

static __global__ void __launch_bounds__(COLUMN_THREADS, 3)
group_back_map(Columns g, GroupNorm p, Elem *dx, const Elem *dy, const Elem *x, const float *stats,
               const float *mean, const float *w, const float *b, int acc)
{
    ColumnsAt a = columns_at(g);
    size_t at = blockIdx.z * g.rows * g.c + a.c;
    dx += at, dy += at, x += at;
    stats += blockIdx.z * p.groups * 2, mean += blockIdx.z * p.groups * 2;
    if (a.m == VEC && p.silu) back_rows(g, a, p, 1, VEC, dx, dy, x, stats, mean, w, b, acc);
    else if (a.m == VEC) back_rows(g, a, p, 0, VEC, dx, dy, x, stats, mean, w, b, acc);
    else if (a.m) back_rows(g, a, p, p.silu, 1, dx, dy, x, stats, mean, w, b, acc);
}

/* dx of a small group, where its parameters are not trained. */
static __global__ void __launch_bounds__(SMALL_THREADS)
group_back_small(GroupNorm p, Elem *dx, const Elem *dy, const Elem *x, const float *stats,
                 const float *w, const float *b, int acc)
{
    __shared__ float shared[32];
    Small at = small_at(p);
    size_t n = blockIdx.y * (size_t)p.hw * p.c + at.c;
    float m = (float)p.hw * (float)(p.c / p.groups), g1 = 0, g2 = 0, dz[VEC], u[VEC];
    stats += blockIdx.y * p.groups * 2;
    float rstd = stats[blockIdx.x * 2 + 1];
    Affine f = affine_at(p, at.c, VEC, stats, w, b);
    for (int r = at.row; r < p.hw; r += at.ty) {
        size_t i = n + (size_t)r * p.c;
        affine_back(&f, p.silu, VEC, dy + i, x + i, dz, u);
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            g1 += dz[k] * f.a[k];
            g2 += dz[k] * f.a[k] * u[k];
        }
    }
    g1 = block_sum(g1, shared) / m;              /* rstd times the mean of g, */
    g2 = block_sum(g2, shared) / m * rstd * rstd;   /* rstd squared times that of g xhat */
    for (int r = at.row; r < p.hw; r += at.ty) {
        size_t i = n + (size_t)r * p.c;
        affine_back(&f, p.silu, VEC, dy + i, x + i, dz, u);
#pragma unroll
        for (int k = 0; k < VEC; k++) dz[k] = dz[k] * f.a[k] - g1 - u[k] * g2;
        vec_acc(dx + i, dz, VEC, acc);
    }
}

/* dw, db += the sums (N,2,C) of all pictures. */
static __global__ void params_add(int n, int c, float *dw, float *db, const float *sums)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    float s = 0, q = 0;
    if (i >= c) return;
    for (int k = 0; k < n; k++) {
        s += sums[(size_t)k * 2 * c + i];
        q += sums[((size_t)k * 2 + 1) * c + i];
    }
    if (db) db[i] += s;
    if (dw) dw[i] += q;
}

void OP(groupnorm_bwd)(Dev *d, const GroupNorm *p, void *dx, float *dw, float *db, const void *dy,
                       const void *x, const float *stats, const float *w, const float *b, int acc)
{
    assert(p->c % p->groups == 0 && !(acc && dx == dy));
    if (!dw && !db && is_small(p)) {
        CUDA_LAUNCH(d, group_back_small, dim3(p->groups, p->n), small_threads(p), 0, *p,
                    (Elem *)dx, (const Elem *)dy, (const Elem *)x, stats, w, b, acc);
        return;
    }
    Columns g = columns_plan(p->n, (size_t)p->hw, p->c, COLUMN_BLOCKS, 4);
    Columns map = columns_plan(g.n, (size_t)p->hw, p->c, MAP_BLOCKS, 2);
    float *part = (float *)cuda_dev(d)->reduce, *sums = part + (size_t)g.n * g.parts * 2 * g.c;
    float *mean = sums + (size_t)g.n * 2 * g.c;
    COLUMNS_EACH(g, p->n, at, now) {
        size_t k = (size_t)at * p->hw * p->c;
        const Elem *dyn = (const Elem *)dy + k, *xn = (const Elem *)x + k;
        const float *st = stats + (size_t)at * p->groups * 2;
        CUDA_LAUNCH(d, group_back_parts, columns_grid(&g, now), COLUMN_THREADS, 0, g, *p, part,
                    dyn, xn, st, w, b);
        CUDA_LAUNCH(d, group_back_means, dim3(p->groups, now), COLUMN_THREADS, 0, g, *p, sums,
                    mean, part, st, w);
        CUDA_LAUNCH(d, group_back_map, columns_grid(&map, now), COLUMN_THREADS, 0, map, *p,
                    (Elem *)dx + k, dyn, xn, st, mean, w, b, acc);
        if (dw || db)
            CUDA_LAUNCH(d, params_add, (p->c + 127) / 128, 128, 0, now, p->c, dw, db, sums);
    }
}

/* ---- layer norm ---------------------------------------------------------- */

static __device__ __forceinline__ float row_sum(const int m, int c, const Elem *x, float shift,
                                                int square)
{
    float s = 0;
    for (int i = (threadIdx.x & 31) * m; i < c; i += WARP * m) {
        float v[VEC];
        vec_get(v, x + i, m);
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            float e = k < m ? v[k] - shift : 0.0f;
            s += square ? e * e : e;
        }
    }
    return warp_sum(s);
}

static __device__ __forceinline__ void layer_row(const int m, const LayerNorm p, Elem *y,
                                                 float *stats, const Elem *x, const float *w,
                                                 const float *b)
{
    int lane = threadIdx.x & 31;
    float mean = row_sum(m, p.c, x, 0.0f, 0) / (float)p.c;
    float rstd = 1.0f / sqrtf(row_sum(m, p.c, x, mean, 1) / (float)p.c + p.eps);
    for (int i = lane * m; i < p.c; i += WARP * m) {
        float v[VEC], wv[VEC], bv[VEC];
        vec_get(v, x + i, m);
        f32_get(wv, w + i, m);
        f32_get(bv, b + i, m);
#pragma unroll
        for (int k = 0; k < VEC; k++) v[k] = (v[k] - mean) * rstd * wv[k] + bv[k];
        vec_put(y + i, v, m);
    }
    if (stats && !lane) stats[0] = mean, stats[1] = rstd;
}

static __global__ void __launch_bounds__(LAYER_THREADS)
layer_kernel(LayerNorm p, Elem *y, float *stats, const Elem *x, const float *w, const float *b)
{
    size_t r = (size_t)blockIdx.x * (LAYER_THREADS / WARP) + (threadIdx.x >> 5);
    if (r >= (size_t)p.rows) return;
    x += r * p.c, y += r * p.c;
    if (stats) stats += r * 2;
    if (p.c % VEC) layer_row(1, p, y, stats, x, w, b);
    else layer_row(VEC, p, y, stats, x, w, b);
}

static unsigned layer_blocks(const LayerNorm *p)
{
    return (unsigned)(((size_t)p->rows * WARP + LAYER_THREADS - 1) / LAYER_THREADS);
}

void OP(layernorm)(Dev *d, const LayerNorm *p, void *y, float *stats, const void *x,
                   const float *w, const float *b)
{
    CUDA_LAUNCH(d, layer_kernel, layer_blocks(p), LAYER_THREADS, 0, *p, (Elem *)y, stats,
                (const Elem *)x, w, b);
}

/* xhat and g = dy w of m elements from column i on. */
static __device__ __forceinline__ void layer_back(int m, const Elem *dy, const Elem *x,
                                                  const float *w, float mean, float rstd,
                                                  float g[VEC], float xhat[VEC])
{
    float wv[VEC];
    vec_get(g, dy, m);
    vec_get(xhat, x, m);
    f32_get(wv, w, m);
#pragma unroll
    for (int k = 0; k < VEC; k++) {
        g[k] *= wv[k];
        xhat[k] = (xhat[k] - mean) * rstd;
    }
}

static __device__ __forceinline__ void layer_dx(const int m, int c, Elem *dx, const Elem *dy,
                                                const Elem *x, float mean, float rstd,
                                                const float *w, int acc)
{
    float g[VEC], xhat[VEC], g1 = 0, g2 = 0;
    int lane = threadIdx.x & 31;
    for (int i = lane * m; i < c; i += WARP * m) {
        layer_back(m, dy + i, x + i, w + i, mean, rstd, g, xhat);
#pragma unroll
        for (int k = 0; k < VEC; k++) {
            if (k >= m) continue;
            g1 += g[k];
            g2 += g[k] * xhat[k];
        }
    }
    g1 = warp_sum(g1) / (float)c;
    g2 = warp_sum(g2) / (float)c;
    for (int i = lane * m; i < c; i += WARP * m) {
        layer_back(m, dy + i, x + i, w + i, mean, rstd, g, xhat);
#pragma unroll
        for (int k = 0; k < VEC; k++) g[k] = rstd * (g[k] - g1 - xhat[k] * g2);
        vec_acc(dx + i, g, m, acc);
    }
}

static __global__ void __launch_bounds__(LAYER_THREADS)
layer_dx_kernel(LayerNorm p, Elem *dx, const Elem *dy, const Elem *x, const float *stats,
                const float *w, int acc)
{
    size_t r = (size_t)blockIdx.x * (LAYER_THREADS / WARP) + (threadIdx.x >> 5);
    if (r >= (size_t)p.rows) return;
    dx += r * p.c, dy += r * p.c, x += r * p.c, stats += r * 2;
    if (p.c % VEC) layer_dx(1, p.c, dx, dy, x, stats[0], stats[1], w, acc);
    else layer_dx(VEC, p.c, dx, dy, x, stats[0], stats[1], w, acc);
}

static __device__ __forceinline__ void layer_add(const Columns g, const ColumnsAt a, const int m,
                                                 const Elem *dy, const Elem *x, const float *stats,
                                                 float s[VEC], float q[VEC])
{
#pragma unroll 4
    for (size_t r = a.row; r < a.end; r += g.ty) {
        float v[VEC], e[VEC], mean = stats[2 * r], rstd = stats[2 * r + 1];
        vec_get(v, x + r * g.c, m);
        vec_get(e, dy + r * g.c, m);
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            s[i] += e[i];
            q[i] += e[i] * ((v[i] - mean) * rstd);
        }
    }
}

/* Sums of dy and of dy xhat of every channel over a part of the rows. */
static __global__ void __launch_bounds__(COLUMN_THREADS)
layer_parts(Columns g, float *part, const Elem *dy, const Elem *x, const float *stats)
{
    __shared__ float shared[VEC * COLUMN_THREADS];
    ColumnsAt a = columns_at(g);
    float s[VEC] = {0}, q[VEC] = {0};
    if (a.m == VEC) layer_add(g, a, VEC, dy + a.c, x + a.c, stats, s, q);
    else if (a.m) layer_add(g, a, 1, dy + a.c, x + a.c, stats, s, q);
    part += (size_t)blockIdx.y * 2 * g.c;
    columns_sum(g, s, a.m, part, shared);
    columns_sum(g, q, a.m, part + g.c, shared);
}

/* dw, db += the parts. */
static __global__ void __launch_bounds__(COLUMN_THREADS)
layer_params(Columns g, float *dw, float *db, const float *part)
{
    __shared__ float shared[COLUMN_THREADS];
    int at = (int)blockIdx.x * 32, c = at + (threadIdx.x & 31), live = c < g.c;
    float s = columns_total(part + at, (size_t)2 * g.c, g.parts, live, shared);
    float q = columns_total(part + g.c + at, (size_t)2 * g.c, g.parts, live, shared);
    if (!live || threadIdx.x >= 32) return;
    if (db) db[c] += s;
    if (dw) dw[c] += q;
}

void OP(layernorm_bwd)(Dev *d, const LayerNorm *p, void *dx, float *dw, float *db, const void *dy,
                       const void *x, const float *stats, const float *w, int acc)
{
    if (dw || db) {
        Columns g = columns_plan(1, (size_t)p->rows, p->c, COLUMN_BLOCKS, 4);
        float *part = (float *)cuda_dev(d)->reduce;
        CUDA_LAUNCH(d, layer_parts, columns_grid(&g, 1), COLUMN_THREADS, 0, g, part,
                    (const Elem *)dy, (const Elem *)x, stats);
        CUDA_LAUNCH(d, layer_params, (p->c + 31) / 32, COLUMN_THREADS, 0, g, dw, db, part);
    }
    CUDA_LAUNCH(d, layer_dx_kernel, layer_blocks(p), LAYER_THREADS, 0, *p, (Elem *)dx,
                (const Elem *)dy, (const Elem *)x, stats, w, acc);
}
