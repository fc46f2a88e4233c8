/* attn_simt.h - attention's tiles without tensor cores: any dtype and head size.
 *
 * A block of 128 threads has SIMT_X rows of one side (x) and takes SIMT_Y rows of
 * the other side (y) at a time; tiles lie in shared memory as f32. Thread
 * (ty,tx), ty < 16, tx < 8, holds the scores of rows 4ty.. 4ty+3 against rows
 * tx, tx+8, tx+16, tx+24 of y, so the softmax of a row is within 8 lanes.
 * Products over the head size take it SIMT_DIMS or fewer columns at a time;
 * what is put out is at most 128 columns to a block: larger heads take several
 * blocks, each of which makes the scores again.
 *
 * Rows of a tile are an odd number of 16 bytes apart, so that eight lanes that
 * read 16 bytes of eight rows hit every bank once.
 */
#ifndef SDC_KERNELS_CUDA_ATTN_SIMT_H
#define SDC_KERNELS_CUDA_ATTN_SIMT_H

#include "kernels/cuda/attn.h"

enum { SIMT_THREADS = 128, SIMT_X = 64, SIMT_Y = 32, SIMT_P = SIMT_X + 4, SIMT_COLS = 16 };

typedef struct __align__(16) { float e[4]; } Float4;

/* Columns of an output tile of `wide` groups of 32 and `narrow` groups of 8, how
 * many columns of the head are multiplied at a time, and distances of rows. */
#define SIMT_OUT(wide, narrow) ((wide) * 32 + (narrow) * 8)
#define SIMT_DIMS(cols) ((cols) > 80 ? 64 : (cols))
#define SIMT_STRIDE(cols) ((cols) + 4)

/* X(columns, wide, narrow): the output widths there are, smallest first. The first
 * one that serves heads of d is taken; large heads are of as few blocks as registers
 * allow, in the backward with its two outputs one more. */
#define SIMT_WIDTHS(X) X(8, 0, 1) X(16, 0, 2) X(40, 1, 1) X(64, 2, 0) X(80, 2, 2) X(128, 4, 0)
#define SIMT_WIDTHS_BWD(X) X(8, 0, 1) X(16, 0, 2) X(40, 1, 1) X(64, 2, 0) X(80, 2, 2) X(104, 3, 1)
#define SIMT_SERVES(cols, d) ((d) <= (cols) || (cols) > 80 || ((cols) == 80 && (d) == 160))

/* tile (rows, cols) f32 = src, rows `step` elements apart, with zeros beyond
 * `have` rows and `left` columns. vector: all of it is a multiple of 16 bytes. */
static __device__ __forceinline__ void simt_load(float *tile, const Elem *src, const int rows,
                                                 const int cols, int have, int left, size_t step,
                                                 int vector)
{
    int tid = threadIdx.x;
    if (vector) {
        UNROLL_2 for (int i = tid; i < rows * (cols / VEC); i += SIMT_THREADS) {
            int r = i / (cols / VEC), c = i % (cols / VEC) * VEC, ok = r < have && c < left;
            ElemVec v;
            if (ok) v = *(const ElemVec *)(src + r * step + c);
            for (int e = 0; e < VEC; e += 4) {
                Float4 f;
                for (int b = 0; b < 4; b++) f.e[b] = ok ? elem_get(v.e[e + b]) : 0.0f;
                *(Float4 *)(tile + r * SIMT_STRIDE(cols) + c + e) = f;
            }
        }
        return;
    }
    UNROLL_2 for (int i = tid; i < rows * cols; i += SIMT_THREADS) {
        int r = i / cols, c = i % cols;
        tile[r * SIMT_STRIDE(cols) + c] = r < have && c < left ? elem_get(src[r * step + c]) : 0.0f;
    }
}

/* The first of the 16 rows of x that this warp has. */
static __device__ __forceinline__ int simt_row(void) { return (threadIdx.x >> 5) * 16; }

/* s[i][j] += row 4ty+i of x times row tx+8j of y. */
static __device__ __forceinline__ void simt_scores(float s[4][4], const float *x, const float *y,
                                                   const int cols)
{
    int tx = threadIdx.x & 7, ty = threadIdx.x >> 3;
    const float *xr = x + 4 * ty * SIMT_STRIDE(cols), *yr = y + tx * SIMT_STRIDE(cols);
    for (int c = 0; c < cols; c += 4) {
        Float4 a[4], b[4];
        for (int i = 0; i < 4; i++) a[i] = *(const Float4 *)(xr + i * SIMT_STRIDE(cols) + c);
        for (int j = 0; j < 4; j++) b[j] = *(const Float4 *)(yr + 8 * j * SIMT_STRIDE(cols) + c);
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++)
                for (int e = 0; e < 4; e++) s[i][j] = fmaf(a[i].e[e], b[j].e[e], s[i][j]);
    }
}

/* p (SIMT_Y,SIMT_P) = s transposed. Read by the same warp only. */
static __device__ __forceinline__ void simt_put(float *p, const float s[4][4])
{
    int tx = threadIdx.x & 7, ty = threadIdx.x >> 3;
    for (int j = 0; j < 4; j++) {
        Float4 f;
        for (int i = 0; i < 4; i++) f.e[i] = s[i][j];
        *(Float4 *)(p + (tx + 8 * j) * SIMT_P + 4 * ty) = f;
    }
}

/* Column of element c of a thread's part of an output row: 4 tx + 0..3 of each
 * group of 32, then tx of each group of 8. */
static __device__ __forceinline__ int simt_col(const int wide, int c)
{
    int tx = threadIdx.x & 7;
    return c < wide * 4 ? c / 4 * 32 + tx * 4 + c % 4 : wide * 32 + (c - wide * 4) * 8 + tx;
}

/* o[i][...] += row 4ty+i of p^T times y. */
static __device__ __forceinline__ void simt_values(float o[4][SIMT_COLS], const float *p,
                                                   const float *y, const int wide,
                                                   const int narrow)
{
    int tx = threadIdx.x & 7, ty = threadIdx.x >> 3, step = SIMT_STRIDE(SIMT_OUT(wide, narrow));
    for (int k = 0; k < SIMT_Y; k++) {
        Float4 a = *(const Float4 *)(p + k * SIMT_P + 4 * ty);
        UNROLL for (int g = 0; g < wide; g++) {
            Float4 b = *(const Float4 *)(y + k * step + g * 32 + tx * 4);
            for (int i = 0; i < 4; i++)
                for (int e = 0; e < 4; e++)
                    o[i][g * 4 + e] = fmaf(a.e[i], b.e[e], o[i][g * 4 + e]);
        }
        UNROLL for (int g = 0; g < narrow; g++) {
            float b = y[k * step + wide * 32 + g * 8 + tx];
            for (int i = 0; i < 4; i++)
                o[i][wide * 4 + g] = fmaf(a.e[i], b, o[i][wide * 4 + g]);
        }
    }
}

/* dst or, where it is given, part (rows `step` apart) = o * scale[i]; rows below
 * `have` and columns below `left`. */
static __device__ __forceinline__ void simt_store(Elem *dst, float *part,
                                                  const float o[4][SIMT_COLS],
                                                  const float scale[4], const int wide,
                                                  const int narrow, int have, int left,
                                                  size_t step)
{
    int ty = threadIdx.x >> 3;
    UNROLL for (int i = 0; i < 4; i++)
        UNROLL for (int c = 0; c < wide * 4 + narrow; c++) {
            int col = simt_col(wide, c);
            size_t at = (4 * ty + i) * step + col;
            if (4 * ty + i >= have || col >= left) continue;
            if (part) part[at] = o[i][c] * scale[i];
            else dst[at] = elem_put(o[i][c] * scale[i]);
        }
}

#endif
