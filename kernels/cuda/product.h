/* product.h - products of tiles: what linear and conv2d are made of where no
 * library does them.
 *
 * C (m,n) = sum over k of A (m,k) B (n,k), with the sum put through the epilogue
 * of ops.h before its one rounding. A and B are views: matrices that need not
 * exist, such as the patches of a picture. The sum over k can be cut into splits,
 * whose partial sums go to scratch and are added in their order.
 *
 * Three ways to lie in memory, named as in BLAS:
 *   PRODUCT_NT  A (m,k), B (n,k)   linear, conv2d
 *   PRODUCT_NN  A (m,k), B (k,n)   the gradients of their x
 *   PRODUCT_TN  A (k,m), B (k,n)   the gradients of their w
 */
#ifndef SDC_KERNELS_CUDA_PRODUCT_H
#define SDC_KERNELS_CUDA_PRODUCT_H

#include "kernels/cuda/cuda.h"

/* ---- division by a constant ---------------------------------------------- */

/* n / d for 0 <= n < 2^31 is n * mul >> shift (Granlund & Montgomery, 1994). */
typedef struct { uint32_t mul, shift; } Div;

static inline Div div_by(int d)
{
    Div v = {0, 31};
    while (((int64_t)1 << (v.shift - 31)) < d) v.shift++;
    v.mul = (uint32_t)((((uint64_t)1 << v.shift) + (uint64_t)d - 1) / (uint64_t)d);
    return v;
}

static __device__ __forceinline__ int div_int(int n, Div v)
{
    return (int)(((uint64_t)(uint32_t)n * v.mul) >> v.shift);
}

/* ---- views --------------------------------------------------------------- */

/* Which matrix a View is. Rows and columns are those of memory: columns are
 * contiguous, at least c of them. */
enum {
    VIEW_MATRIX,            /* rows ld apart */
    VIEW_PATCH,             /* row: output pixel; column: (tap, channel) of a feature map */
    VIEW_GRAD,              /* row: input pixel; column: (tap, output channel) of dy */
    VIEW_TAPS               /* row: (tap, output channel); column: input channel, of a weight */
};

typedef struct {
    const void *p;
    Dtype dt;
    int vec;                /* dt is T, and 16-byte chunks are aligned and whole */
    int rows, cols;
    int ld;
    int h, w, c;            /* the map that is gathered from; its channels */
    int ks, stride, pad;
    int grid_w, grid_hw;    /* the map that rows count through */
    Div by_c, by_ks, by_w, by_hw;
} View;

static inline View view_matrix(const void *p, Dtype dt, Dtype t, int rows, int cols)
{
    View v = {};
    v.p = p, v.dt = dt;
    v.vec = dt == t && cols % (t == DT_F32 ? 4 : 8) == 0;
    v.rows = rows, v.cols = cols, v.ld = cols;
    return v;
}

/* ---- the product --------------------------------------------------------- */

enum { PRODUCT_NT, PRODUCT_NN, PRODUCT_TN };
enum { TILE_SIMT, TILE_SMALL, TILE_TALL, TILE_BIG };

typedef struct {
    View a, b;
    int mode, conv;         /* conv: A (in TN: B) is gathered, and B (in NN) has taps */
    int m, n, k;
    /* The result: y = alpha sum + bias + rowbias + res, or grad += alpha sum. */
    void *y;
    float *grad;
    const float *bias;
    const void *rowbias, *res;
    float alpha;
    Div by_rows;            /* rows of C for each row of rowbias */
    int vec;                /* 16-byte chunks of C's rows are aligned and whole */
    /* From product_plan(). */
    int tile, splits, k_split;
    float *part;            /* (splits,m,n): set while partial sums are wanted */
} Product;

#ifdef __cplusplus
extern "C" {
#endif
/* Chooses tile and splits for mode, m, n, k; bytes of scratch for the partial sums. */
size_t product_plan(const CudaDev *c, Product *p, Dtype dt);
/* 1 when tensor cores can be had for dt. */
int product_mma(const CudaDev *c, Dtype dt);
/* Bytes of w in T when it has another dtype: then products start with a copy of
 * it in scratch, but the smallest, which are converted as they are read. */
size_t product_weight_bytes(Dtype dt, Dtype wdt, size_t count);
enum { PRODUCT_DIRECT = 1 << 16 };      /* elements */
/* Scratch of OP(product_colsum). */
size_t product_colsum_bytes(const CudaDev *c, int rows, int cols);
int product_colsum_parts(const CudaDev *c, int rows, int cols);
#ifdef OP
/* Plans and runs it; `used` bytes at the start of Dev.ws are taken. */
void OP(product_run)(Dev *d, Product *p, size_t used);
/* C from p->part, already summed by somebody else when splits is 1. */
void OP(product_finish)(Dev *d, const Product *p);
/* w in T at the start of Dev.ws. */
const void *OP(product_weights)(Dev *d, const void *w, Dtype wdt, size_t count);
/* sum (cols) += the sums of the columns of dy (rows,cols). */
void OP(product_colsum)(Dev *d, float *sum, const void *dy, int rows, int cols);
/* The launches, by tile. */
void OP(product_simt)(Dev *d, const Product *p);
void OP(product_tiles)(Dev *d, const Product *p);
#endif
#ifdef __cplusplus
}
#endif

static inline int product_ceil(int a, int b) { return (a + b - 1) / b; }

#ifdef OP
#define OWN ((Dtype)DT)             /* T as a dtype */

/* ---- reading a view ------------------------------------------------------ */

/* A row or column that is outside the view reads as zeros. */
typedef struct { ptrdiff_t base; int y, x; } ViewRow;
typedef struct { int off, i, j; } ViewCol;
enum { VIEW_OUTSIDE = -(1 << 28) };

static __device__ __forceinline__ ViewRow view_row(const View *v, const int kind, int r)
{
    ViewRow row = {0, VIEW_OUTSIDE, 0};
    if (r >= v->rows) return row;
    row.y = 0;
    if (kind == VIEW_MATRIX) {
        row.base = (ptrdiff_t)r * v->ld;
    } else if (kind == VIEW_TAPS) {
        int tap = div_int(r, v->by_c), o = r - tap * v->c;
        row.base = (ptrdiff_t)o * v->ld + tap * v->cols;
    } else {
        int n = div_int(r, v->by_hw), at = r - n * v->grid_hw;
        int y = div_int(at, v->by_w), x = at - y * v->grid_w;
        row.base = (ptrdiff_t)n * v->h * v->w * v->c;
        row.y = kind == VIEW_PATCH ? y * v->stride - v->pad : y + v->pad;
        row.x = kind == VIEW_PATCH ? x * v->stride - v->pad : x + v->pad;
    }
    return row;
}

static __device__ __forceinline__ ViewCol view_col(const View *v, const int kind, int c)
{
    ViewCol col = {-1, 0, 0};
    if (c >= v->cols) return col;
    col.off = c;
    if (kind == VIEW_MATRIX || kind == VIEW_TAPS) return col;
    int tap = div_int(c, v->by_c);
    col.off = c - tap * v->c;
    col.i = div_int(tap, v->by_ks);
    col.j = tap - col.i * v->ks;
    return col;
}

/* Index of an element, or -1 for a zero. */
static __device__ __forceinline__ ptrdiff_t view_at(const View *v, const int kind, ViewRow r,
                                                    ViewCol c)
{
    if (kind == VIEW_MATRIX || kind == VIEW_TAPS)
        return r.y < 0 || c.off < 0 ? -1 : r.base + c.off;
    int y = r.y + c.i, x = r.x + c.j;
    if (kind == VIEW_GRAD) {
        y = r.y - c.i, x = r.x - c.j;
        if (v->stride > 1) {
            if (y % v->stride || x % v->stride) return -1;
            y /= v->stride, x /= v->stride;
        }
    }
    if ((unsigned)y >= (unsigned)v->h || (unsigned)x >= (unsigned)v->w || c.off < 0) return -1;
    return r.base + (y * v->w + x) * v->c + c.off;
}

static __device__ __forceinline__ float view_get(const View *v, ptrdiff_t at)
{
    if (at < 0) return 0.0f;
    if (v->dt == DT_F32) return ((const float *)v->p)[at];
    if (v->dt == DT_F16) return f16_get(((const __half *)v->p)[at]);
    return bf16_get(((const __nv_bfloat16 *)v->p)[at]);
}

/* The VEC elements from column c on, whatever their dtype and alignment. */
static __device__ __forceinline__ void view_floats(const View *v, const int kind, ViewRow r, int c,
                                                   float f[VEC])
{
    if (v->vec) {
        ptrdiff_t at = view_at(v, kind, r, view_col(v, kind, c));
        ElemVec e;
        if (at >= 0) e = *(const ElemVec *)((const Elem *)v->p + at);
#pragma unroll
        for (int i = 0; i < VEC; i++) f[i] = at >= 0 ? elem_get(e.e[i]) : 0.0f;
        return;
    }
#pragma unroll
    for (int i = 0; i < VEC; i++)
        f[i] = view_get(v, view_at(v, kind, r, view_col(v, kind, c + i)));
}

/* ---- writing the result -------------------------------------------------- */

static __device__ __forceinline__ void store_one(const Product *p, int row, int col, float s)
{
    size_t at = (size_t)row * p->n + col;
    s *= p->alpha;
    if (p->grad) {
        p->grad[at] += s;
        return;
    }
    if (p->bias) s += p->bias[col];
    if (p->rowbias)
        s += elem_get(((const Elem *)p->rowbias)[(size_t)div_int(row, p->by_rows) * p->n + col]);
    if (p->res) s += elem_get(((const Elem *)p->res)[at]);
    ((Elem *)p->y)[at] = elem_put(s);
}

/* VEC sums of one row, whole and aligned, by 16 bytes. */
static __device__ __forceinline__ void store_vec(const Product *p, int row, int col, const float *s)
{
    size_t at = (size_t)row * p->n + col;
    float f[VEC];
#pragma unroll
    for (int i = 0; i < VEC; i++) f[i] = s[i] * p->alpha;
    if (p->grad) {
#pragma unroll
        for (int i = 0; i < VEC; i += 4) {
            float4 *g = (float4 *)(p->grad + at + i), v = *g;
            v.x += f[i], v.y += f[i + 1], v.z += f[i + 2], v.w += f[i + 3];
            *g = v;
        }
        return;
    }
    if (p->bias) {
#pragma unroll
        for (int i = 0; i < VEC; i += 4) {
            float4 v = *(const float4 *)(p->bias + col + i);
            f[i] += v.x, f[i + 1] += v.y, f[i + 2] += v.z, f[i + 3] += v.w;
        }
    }
    ElemVec v;
    if (p->rowbias) {
        size_t n = (size_t)div_int(row, p->by_rows) * p->n + col;
        v = *(const ElemVec *)((const Elem *)p->rowbias + n);
#pragma unroll
        for (int i = 0; i < VEC; i++) f[i] += elem_get(v.e[i]);
    }
    if (p->res) {
        v = *(const ElemVec *)((const Elem *)p->res + at);
#pragma unroll
        for (int i = 0; i < VEC; i++) f[i] += elem_get(v.e[i]);
    }
#pragma unroll
    for (int i = 0; i < VEC; i++) v.e[i] = elem_put(f[i]);
    *(ElemVec *)((Elem *)p->y + at) = v;
}

/* `count` sums of one row, a multiple of 4, from column col on: to C, or to the
 * partial sums of this split. */
static __device__ __forceinline__ void store_run(const Product *p, int split, int row, int col,
                                                 const float *s, const int count)
{
    if (row >= p->m || col >= p->n) return;
    if (p->part) {
        float *q = p->part + ((size_t)split * p->m + row) * p->n + col;
        if (p->vec) {
#pragma unroll
            for (int i = 0; i < count; i += 4)
                *(float4 *)(q + i) = make_float4(s[i], s[i + 1], s[i + 2], s[i + 3]);
        } else {
            for (int i = 0; i < count && col + i < p->n; i++) q[i] = s[i];
        }
    } else if (p->vec && count == VEC) {
        store_vec(p, row, col, s);
    } else {
        for (int i = 0; i < count && col + i < p->n; i++) store_one(p, row, col + i, s[i]);
    }
}

#endif
#endif
