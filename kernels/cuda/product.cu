/* product.cu - the common parts of products of tiles (product.h): running one,
 * adding up partial sums, weights of another dtype, sums of columns.
 */
#include "kernels/cuda/product.h"

enum { THREADS = 256, LANES = 32 };

/* ---- partial sums -------------------------------------------------------- */

/* A thread makes VEC neighbours of C. */
static __global__ void __launch_bounds__(THREADS) finish(const Product p)
{
    int wide = (p.n + VEC - 1) / VEC;
    size_t all = (size_t)p.m * wide, plane = (size_t)p.m * p.n;
    Product out = p;
    out.part = NULL;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < all;
         i += (size_t)gridDim.x * THREADS) {
        int row = (int)(i / wide), col = (int)(i % wide) * VEC;
        const float *q = p.part + (size_t)row * p.n + col;
        float s[VEC] = {0};
        for (int j = 0; j < p.splits; j++, q += plane) {
            if (p.vec) {
#pragma unroll
                for (int e = 0; e < VEC; e += 4) {
                    float4 v = *(const float4 *)(q + e);
                    s[e] += v.x, s[e + 1] += v.y, s[e + 2] += v.z, s[e + 3] += v.w;
                }
            } else {
#pragma unroll
                for (int e = 0; e < VEC; e++)
                    if (col + e < p.n) s[e] += q[e];
            }
        }
        store_run(&out, 0, row, col, s, VEC);
    }
}

extern "C" void OP(product_finish)(Dev *d, const Product *p)
{
    size_t all = (size_t)p->m * (size_t)product_ceil(p->n, VEC);
    CUDA_LAUNCH(d, finish, cuda_blocks(all, THREADS), THREADS, 0, *p);
}

extern "C" void OP(product_run)(Dev *d, Product *p, size_t used)
{
    size_t bytes = product_plan(cuda_dev(d), p, OWN);
    assert(used + bytes <= d->ws_bytes);
    p->part = p->splits > 1 ? (float *)((char *)d->ws + used) : NULL;
    if (p->tile == TILE_SIMT) OP(product_simt)(d, p);
    else OP(product_tiles)(d, p);
    if (p->part) OP(product_finish)(d, p);
}

/* ---- weights of another dtype -------------------------------------------- */

#if defined SDC_F32
#define CAST(src) cast_f32_##src##_cuda
#elif defined SDC_BF16
#define CAST(src) cast_bf16_##src##_cuda
#else
#define CAST(src) cast_f16_##src##_cuda
#endif

extern "C" const void *OP(product_weights)(Dev *d, const void *w, Dtype wdt, size_t count)
{
    if (wdt == OWN) return w;
    assert(product_weight_bytes(OWN, wdt, count) <= d->ws_bytes);
    if (wdt == DT_F32) CAST(f32)(d, count, d->ws, w);
    else if (wdt == DT_BF16) CAST(bf16)(d, count, d->ws, w);
    else CAST(f16)(d, count, d->ws, w);
    return d->ws;
}

/* ---- sums of columns ----------------------------------------------------- */

/* Part blockIdx.y of the rows, 8 rows at a time; a warp reads 32 columns. */
static __global__ void __launch_bounds__(THREADS) colsum_part(float *part, const Elem *dy, int rows,
                                                              int cols, int per)
{
    __shared__ float sums[THREADS / LANES][LANES];
    int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES, col = blockIdx.x * LANES + lane;
    int r = blockIdx.y * per + warp, end = min((int)(blockIdx.y + 1) * per, rows);
    float s = 0;
    if (col < cols)
        for (; r < end; r += THREADS / LANES) s += elem_get(dy[(size_t)r * cols + col]);
    sums[warp][lane] = s;
    __syncthreads();
    if (warp || col >= cols) return;
    for (int i = 1; i < THREADS / LANES; i++) s += sums[i][lane];
    part[(size_t)blockIdx.y * cols + col] = s;
}

static __global__ void __launch_bounds__(THREADS) colsum_add(float *sum, const float *part,
                                                             int parts, int cols)
{
    int col = blockIdx.x * THREADS + threadIdx.x;
    if (col >= cols) return;
    float s = 0;
    for (int i = 0; i < parts; i++) s += part[(size_t)i * cols + col];
    sum[col] += s;
}

extern "C" void OP(product_colsum)(Dev *d, float *sum, const void *dy, int rows, int cols)
{
    int parts = product_colsum_parts(cuda_dev(d), rows, cols), per = product_ceil(rows, parts);
    assert(product_colsum_bytes(cuda_dev(d), rows, cols) <= d->ws_bytes);
    dim3 grid((unsigned)product_ceil(cols, LANES), (unsigned)parts);
    CUDA_LAUNCH(d, colsum_part, grid, THREADS, 0, (float *)d->ws, (const Elem *)dy, rows,
                cols, per);
    CUDA_LAUNCH(d, colsum_add, (unsigned)product_ceil(cols, THREADS), THREADS, 0, sum,
                (const float *)d->ws, parts, cols);
}
