/* move.cu - upsampling, concatenation and sums over pixels. */
#include "kernels/cuda/columns.h"

/* Moves work on units of `width` channels, VEC or 1, one thread each. Units are
 * counted in 32 bits: division by a run-time number is slow in 64. */
static int width_of(int a, int b) { return a % VEC || b % VEC ? 1 : VEC; }

static unsigned units_of(size_t rows, int c, int width)
{
    size_t units = rows * (size_t)(c / width);
    assert(units <= UINT32_MAX);
    return (unsigned)units;
}

/* for each unit of this thread. */
#define UNIT_EACH(units, i)                                                                 \
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < (units);             \
         i += (size_t)gridDim.x * blockDim.x)

/* The pixel of the small map that unit i belongs to, and where it and the four
 * pixels of the large map begin; `right` and `down`: these are not cut away. */
typedef struct { size_t small, big, below; int right, down; } Four;

static __device__ __forceinline__ Four four_of(const Upsample p, unsigned i, int width)
{
    unsigned per = (unsigned)(p.c / width), pixel = i / per, k = (i - pixel * per) * width;
    unsigned line = pixel / p.w, col = pixel - line * p.w, n = line / p.h, row = line - n * p.h;
    size_t wide = 2 * (size_t)p.w - p.cut_w, high = 2 * (size_t)p.h - p.cut_h;
    Four f;
    f.small = (size_t)pixel * p.c + k;
    f.big = ((n * high + 2 * row) * wide + 2 * col) * p.c + k;
    f.below = f.big + wide * p.c;
    f.right = 2 * col + 1 < wide;
    f.down = 2 * row + 1 < high;
    return f;
}

static __global__ void upsample2x_kernel(unsigned units, int width, Upsample p, Elem *y,
                                         const Elem *x)
{
    UNIT_EACH(units, i) {
        Four f = four_of(p, (unsigned)i, width);
        float v[VEC];
        vec_get(v, x + f.small, width);
        vec_put(y + f.big, v, width);
        if (f.right) vec_put(y + f.big + p.c, v, width);
        if (f.down) vec_put(y + f.below, v, width);
        if (f.right && f.down) vec_put(y + f.below + p.c, v, width);
    }
}

void OP(upsample2x)(Dev *d, const Upsample *p, void *y, const void *x)
{
    int width = width_of(p->c, p->c);
    unsigned units = units_of((size_t)p->n * p->h * p->w, p->c, width);
    CUDA_LAUNCH(d, upsample2x_kernel, cuda_blocks(units, FLAT_THREADS), FLAT_THREADS, 0, units,
                width, *p, (Elem *)y, (const Elem *)x);
}

static __device__ __forceinline__ void add_to(float s[VEC], const Elem *p, int width, int live)
{
    float v[VEC];
    if (!live) return;
    vec_get(v, p, width);
#pragma unroll
    for (int k = 0; k < VEC; k++) s[k] += v[k];
}

static __global__ void upsample2x_bwd_kernel(unsigned units, int width, Upsample p, Elem *dx,
                                             const Elem *dy, int acc)
{
    UNIT_EACH(units, i) {
        Four f = four_of(p, (unsigned)i, width);
        float s[VEC];
        vec_get(s, dy + f.big, width);
        add_to(s, dy + f.big + p.c, width, f.right);
        add_to(s, dy + f.below, width, f.down);
        add_to(s, dy + f.below + p.c, width, f.right && f.down);
        vec_acc(dx + f.small, s, width, acc);
    }
}

void OP(upsample2x_bwd)(Dev *d, const Upsample *p, void *dx, const void *dy, int acc)
{
    int width = width_of(p->c, p->c);
    unsigned units = units_of((size_t)p->n * p->h * p->w, p->c, width);
    CUDA_LAUNCH(d, upsample2x_bwd_kernel, cuda_blocks(units, FLAT_THREADS), FLAT_THREADS, 0, units,
                width, *p, (Elem *)dx, (const Elem *)dy, acc);
}

static __global__ void concat_kernel(unsigned units, int width, Concat p, Elem *y, const Elem *a,
                                     const Elem *b)
{
    int c = p.ca + p.cb;
    unsigned per = (unsigned)(c / width);
    UNIT_EACH(units, i) {
        unsigned row = (unsigned)i / per;
        int k = (int)((unsigned)i - row * per) * width;
        float v[VEC];
        if (k < p.ca) vec_get(v, a + (size_t)row * p.ca + k, width);
        else vec_get(v, b + (size_t)row * p.cb + (k - p.ca), width);
        vec_put(y + (size_t)row * c + k, v, width);
    }
}

void OP(concat)(Dev *d, const Concat *p, void *y, const void *a, const void *b)
{
    int width = width_of(p->ca, p->cb);
    unsigned units = units_of((size_t)p->rows, p->ca + p->cb, width);
    CUDA_LAUNCH(d, concat_kernel, cuda_blocks(units, FLAT_THREADS), FLAT_THREADS, 0, units, width,
                *p, (Elem *)y, (const Elem *)a, (const Elem *)b);
}

/* dx (rows,c) (+)= columns at .. at+c-1 of dy (rows,all). */
static __global__ void slice_kernel(unsigned units, int width, int c, int all, int at, Elem *dx,
                                    const Elem *dy, int acc)
{
    unsigned per = (unsigned)(c / width);
    UNIT_EACH(units, i) {
        unsigned row = (unsigned)i / per;
        int k = (int)((unsigned)i - row * per) * width;
        float v[VEC];
        vec_get(v, dy + (size_t)row * all + at + k, width);
        vec_acc(dx + (size_t)row * c + k, v, width, acc);
    }
}

void OP(concat_bwd)(Dev *d, const Concat *p, void *da, void *db, const void *dy, int acc_a,
                    int acc_b)
{
    int width = width_of(p->ca, p->cb), all = p->ca + p->cb;
    void *dx[2] = {da, db};
    for (int i = 0; i < 2; i++) {
        int c = i ? p->cb : p->ca;
        unsigned units = units_of((size_t)p->rows, c, width);
        if (dx[i])
            CUDA_LAUNCH(d, slice_kernel, cuda_blocks(units, FLAT_THREADS), FLAT_THREADS, 0, units,
                        width, c, all, i ? p->ca : 0, (Elem *)dx[i], (const Elem *)dy,
                        i ? acc_b : acc_a);
    }
}

/* ---- rowsum -------------------------------------------------------------- */

static __device__ __forceinline__ void rows_add(const Columns g, const ColumnsAt a, const int m,
                                                const Elem *x, float s[VEC])
{
#pragma unroll 4
    for (size_t r = a.row; r < a.end; r += g.ty) {
        float v[VEC];
        vec_get(v, x + r * g.c, m);
#pragma unroll
        for (int k = 0; k < VEC; k++) s[k] += v[k];
    }
}

static __global__ void __launch_bounds__(COLUMN_THREADS)
rowsum_parts(Columns g, float *part, const Elem *x)
{
    __shared__ float shared[VEC * COLUMN_THREADS];
    ColumnsAt a = columns_at(g);
    float s[VEC] = {0};
    x += blockIdx.z * g.rows * g.c + a.c;
    if (a.m == VEC) rows_add(g, a, VEC, x, s);
    else if (a.m) rows_add(g, a, 1, x, s);
    columns_sum(g, s, a.m, part + ((size_t)blockIdx.z * g.parts + blockIdx.y) * g.c, shared);
}

static __global__ void __launch_bounds__(COLUMN_THREADS)
rowsum_total(Columns g, Elem *y, const float *part, int acc)
{
    __shared__ float shared[COLUMN_THREADS];
    int at = (int)blockIdx.x * 32, c = at + (threadIdx.x & 31);
    size_t n = blockIdx.y;
    float s = columns_total(part + n * g.parts * g.c + at, g.c, g.parts, c < g.c, shared);
    if (threadIdx.x >= 32 || c >= g.c) return;
    y += n * g.c + c;
    *y = elem_put(acc ? elem_get(*y) + s : s);
}

void OP(rowsum)(Dev *d, const Rowsum *p, void *y, const void *x, int acc)
{
    Columns g = columns_plan(p->n, (size_t)p->hw, p->c, COLUMN_BLOCKS, 4);
    float *part = (float *)cuda_dev(d)->reduce;
    COLUMNS_EACH(g, p->n, at, now) {
        CUDA_LAUNCH(d, rowsum_parts, columns_grid(&g, now), COLUMN_THREADS, 0, g, part,
                    (const Elem *)x + (size_t)at * p->hw * p->c);
        CUDA_LAUNCH(d, rowsum_total, dim3((p->c + 31) / 32, now), COLUMN_THREADS, 0, g,
                    (Elem *)y + (size_t)at * p->c, part, acc);
    }
}
