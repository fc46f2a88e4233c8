/* columns.h - 16-byte vectors of elements, and sums over the rows of (N,ROWS,C).
 *
 * Sums over pixels of every channel are what normalisations and rowsum need.
 * One kernel sums parts of the rows: a block has tx neighbouring vectors of
 * channels and walks down its rows with ty threads to each. What its threads
 * have is added in shared memory and written to CudaDev.reduce, from where a
 * second kernel adds the parts. The parts are a function of the shape alone, so
 * that every GPU adds in the same order.
 */
#ifndef SDC_KERNELS_CUDA_COLUMNS_H
#define SDC_KERNELS_CUDA_COLUMNS_H

#include "kernels/cuda/cuda.h"

/* ---- vectors ------------------------------------------------------------- */

/* v = m elements at p: VEC of them, 16-byte aligned, or fewer, anywhere. */
static __device__ __forceinline__ void vec_get(float v[VEC], const Elem *p, int m)
{
    if (m == VEC) {
        ElemVec e = *(const ElemVec *)p;
#pragma unroll
        for (int i = 0; i < VEC; i++) v[i] = elem_get(e.e[i]);
    } else {
#pragma unroll
        for (int i = 0; i < VEC; i++) v[i] = i < m ? elem_get(p[i]) : 0.0f;
    }
}

static __device__ __forceinline__ void vec_put(Elem *p, const float v[VEC], int m)
{
    if (m == VEC) {
        ElemVec e;
#pragma unroll
        for (int i = 0; i < VEC; i++) e.e[i] = elem_put(v[i]);
        *(ElemVec *)p = e;
    } else {
#pragma unroll
        for (int i = 0; i < VEC; i++)
            if (i < m) p[i] = elem_put(v[i]);
    }
}

/* p = v, or += v. */
static __device__ __forceinline__ void vec_acc(Elem *p, float v[VEC], int m, int acc)
{
    if (acc) {
        float old[VEC];
        vec_get(old, p, m);
#pragma unroll
        for (int i = 0; i < VEC; i++) v[i] += old[i];
    }
    vec_put(p, v, m);
}

/* The same of f32 arrays, in any typed file. */
static __device__ __forceinline__ void f32_get(float v[VEC], const float *p, int m)
{
    if (m == VEC) {
#pragma unroll
        for (int i = 0; i < VEC; i += 4) {
            float4 q = *(const float4 *)(p + i);
            v[i] = q.x, v[i + 1] = q.y, v[i + 2] = q.z, v[i + 3] = q.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < VEC; i++) v[i] = i < m ? p[i] : 0.0f;
    }
}

/* ---- flat arrays --------------------------------------------------------- */

enum { FLAT_THREADS = 256 };

static inline unsigned flat_blocks(size_t count)
{
    return cuda_blocks(count, (size_t)FLAT_THREADS * VEC);
}

/* for each vector of count elements that is this thread's: index i of its first
 * element, m elements of it. */
#define FLAT_EACH(count, i, m)                                                              \
    for (size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * VEC; i < (count);     \
         i += (size_t)gridDim.x * blockDim.x * VEC)                                         \
        for (int m = (count) - i < VEC ? (int)((count) - i) : VEC; m; m = 0)

/* ---- rows and columns ---------------------------------------------------- */

enum { COLUMN_THREADS = 256, COLUMN_WIDTH = 64, COLUMN_BLOCKS = 512 };

typedef struct {
    size_t rows, step;       /* of a picture; of a part of it */
    int c, width;            /* channels, and how many of them a thread has: VEC or 1 */
    int tx, ty;              /* threads along the channels and along the rows */
    int tiles, parts, n;     /* grid: pieces of C, of ROWS, pictures in one launch */
} Columns;

/* About `blocks` blocks, where every thread has at least `least` rows. */
static inline Columns columns_plan(int n, size_t rows, int c, int blocks, int least)
{
    Columns g;
    g.rows = rows, g.c = c;
    g.width = c % VEC ? 1 : VEC;
    int vecs = c / g.width;
    g.tiles = (vecs + COLUMN_WIDTH - 1) / COLUMN_WIDTH;
    g.tx = (vecs + g.tiles - 1) / g.tiles;
    g.ty = COLUMN_THREADS / g.tx;
    int most = COLUMN_BLOCKS / 2 / g.tiles;
    assert(most > 0);
    g.n = n < most ? n : most;
    size_t parts = (size_t)(blocks / (g.tiles * g.n)), fill = rows / ((size_t)g.ty * least);
    if (parts > fill) parts = fill;
    if (parts < 1) parts = 1;
    g.step = (rows + parts - 1) / parts;
    g.parts = (int)((rows + g.step - 1) / g.step);
    return g;
}

/* The launches that cover n pictures: from picture at, `now` of them. */
#define COLUMNS_EACH(g, pictures, at, now)                                                  \
    for (int at = 0, now; at < (pictures) &&                                                \
         (now = (pictures) - at < (g).n ? (pictures) - at : (g).n, 1); at += (g).n)

static inline dim3 columns_grid(const Columns *g, int n) { return dim3(g->tiles, g->parts, n); }

/* Where this thread works: channels c .. c+m-1, rows row, row+ty, ... below end
 * of picture blockIdx.z. m is 0 for a thread without work. */
typedef struct { int c, m; size_t row, end; } ColumnsAt;

static __device__ __forceinline__ ColumnsAt columns_at(const Columns g)
{
    int t = (int)threadIdx.x, x = t % g.tx, y = t / g.tx;
    ColumnsAt a;
    a.c = ((int)blockIdx.x * g.tx + x) * g.width;
    a.m = y < g.ty && a.c < g.c ? g.width : 0;
    a.row = blockIdx.y * g.step + y;
    a.end = (blockIdx.y + 1) * g.step < g.rows ? (blockIdx.y + 1) * g.step : g.rows;
    return a;
}

/* Adds v over the rows of threads and writes the channels of this block to
 * out (C). shared: VEC * COLUMN_THREADS floats, free again on return. */
static __device__ __forceinline__ void columns_sum(const Columns g, const float v[VEC], int m,
                                                   float *out, float *shared)
{
    int t = (int)threadIdx.x;
#pragma unroll
    for (int i = 0; i < VEC; i++)
        if (i < g.width) shared[i * COLUMN_THREADS + t] = m ? v[i] : 0.0f;
    __syncthreads();
    for (int i = t; i < g.tx * g.width; i += COLUMN_THREADS) {
        int k = i / g.tx, x = i % g.tx, c = ((int)blockIdx.x * g.tx + x) * g.width + k;
        if (c >= g.c) continue;
        float s = 0;
        for (int y = 0; y < g.ty; y++) s += shared[k * COLUMN_THREADS + y * g.tx + x];
        out[c] = s;
    }
    __syncthreads();
}

/* Sum of part[0], part[stride], ... for 32 columns, lane l's at part + l, by a
 * block of 256; lanes that are not `live` give 0. The sum is in every warp.
 * shared: 256 floats, free again on return. */
static __device__ __forceinline__ float columns_total(const float *part, size_t stride, int parts,
                                                      int live, float *shared)
{
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    float s = 0;
    for (int i = warp; live && i < parts; i += COLUMN_THREADS / 32) s += part[i * stride + lane];
    shared[threadIdx.x] = s;
    __syncthreads();
    s = 0;
    for (int w = 0; w < COLUMN_THREADS / 32; w++) s += shared[w * 32 + lane];
    __syncthreads();
    return s;
}

#endif
