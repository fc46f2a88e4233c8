/* attn_mma.h - attention's tiles on tensor cores: bf16 and f16 (attn.h: ATTN_MMA_SM).
 *
 * A block is a few warps; each has 16 rows, or 32, of one side (x) and multiplies them
 * by tiles of the other side (y), which pass through shared memory in two stages:
 * cp.async fills one while the other is worked on. Scores of m16n8k16 have the
 * layout that its operand a wants, so probabilities go from one product to the next
 * within registers.
 *
 * D, the head size of the kernel, is a multiple of 8 and need not be one of 16: an
 * odd last half step of a product over D takes zeros for its upper half, and
 * products over rows of y have D/8 columns of fragments. A tile's rows are an odd
 * number of 16 bytes apart, so that ldmatrix hits every bank once. Smaller
 * heads run in the next larger kernel with zeros behind their d columns.
 */
#ifndef SDC_KERNELS_CUDA_ATTN_MMA_H
#define SDC_KERNELS_CUDA_ATTN_MMA_H

#include <string.h>

#include "kernels/cuda/attn.h"
#include "kernels/cuda/ptx.h"

#ifdef SDC_BF16
#define mma mma_bf16
#define mma_pair __floats2bfloat162_rn
typedef __nv_bfloat162 ElemPair;
#else
#define mma mma_f16
#define mma_pair __floats2half2_rn
typedef __half2 ElemPair;
#endif

/* At most: fragments of 8 rows of y, fragments of 8 columns of an output. */
enum { MMA_NT = 8, MMA_CT = 20 };

/* Elements from row to row of a tile. */
#define MMA_STRIDE(D) (((D) / 8 | 1) * 8)

/* 2^x to 2 units in the last place, results below 2^-126 as 0: 9.7.3.21, one instruction. */
static __device__ __forceinline__ float mma_exp2(float x)
{
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

/* Two numbers as a register of a fragment. */
static __device__ __forceinline__ uint32_t mma_pack(float low, float high)
{
    ElemPair v = mma_pair(low, high);
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return u;
}

/* Begins to copy `rows` rows of D columns from src, rows `step` apart, with zeros
 * beyond `have` rows and d columns. */
static __device__ __forceinline__ void mma_load(const int D, Elem *tile, const Elem *src, int rows,
                                                int have, int d, size_t step)
{
    for (int i = threadIdx.x; i < rows * (D / 8); i += blockDim.x) {
        int r = i / (D / 8), c = i % (D / 8) * 8, ok = r < have && c < d;
        copy_async16(tile + r * MMA_STRIDE(D) + c, ok ? src + r * step + c : src, ok);
    }
}

/* Operand a: rows 0..15 of tile, columns 16k .. 16k+15. */
static __device__ __forceinline__ void mma_rows(const int D, uint32_t a[4], const Elem *tile, int k)
{
    int lane = threadIdx.x & 31, odd = 2 * k + 1 == D / 8;
    ldmatrix4(a, tile + (lane & 15) * MMA_STRIDE(D) + (2 * k + (odd ? 0 : lane >> 4)) * 8);
    if (odd) a[2] = a[3] = 0;
}

/* s[m][n] += a[m] times rows 8n..8n+7 of y, columns 16k .. 16k+15 of both; m < M,
 * n < NT, NT even, a multiple of 4 where D is not one of 16. */
static __device__ __forceinline__ void mma_scores(const int D, const int M, const int NT,
                                                  float s[][MMA_NT][4], uint32_t a[][4],
                                                  const Elem *y, int k)
{
    int lane = threadIdx.x & 31;
    uint32_t b[4], low[2];
    if (2 * k + 1 == D / 8) {
        UNROLL for (int n = 0; n < NT; n += 4) {
            ldmatrix4(b, y + (n * 8 + lane) * MMA_STRIDE(D) + k * 16);
            UNROLL for (int i = 0; i < 4; i++) {
                low[0] = b[i], low[1] = 0;
                UNROLL for (int m = 0; m < M; m++) mma(s[m][n + i], a[m], low);
            }
        }
        return;
    }
    UNROLL for (int n = 0; n < NT; n += 2) {
        int row = n * 8 + (lane & 7) + (lane >> 4) * 8;
        ldmatrix4(b, y + row * MMA_STRIDE(D) + k * 16 + (lane >> 3 & 1) * 8);
        UNROLL for (int m = 0; m < M; m++) mma(s[m][n], a[m], b);
        UNROLL for (int m = 0; m < M; m++) mma(s[m][n + 1], a[m], b + 2);
    }
}

/* o[m][c] += columns 32k .. 32k+31 of s[m], rounded, times the same rows of y, its
 * columns 8c .. 8c+7; m < M, all c. */
static __device__ __forceinline__ void mma_values(const int D, const int M, float o[][MMA_CT][4],
                                                  float s[][MMA_NT][4], const Elem *y, int k)
{
    int lane = threadIdx.x & 31;
    uint32_t a[2][2][4], b[4];
    UNROLL for (int m = 0; m < M; m++)
        UNROLL for (int i = 0; i < 4; i++) {
            a[m][i / 2][i % 2 * 2] = mma_pack(s[m][4 * k + i][0], s[m][4 * k + i][1]);
            a[m][i / 2][i % 2 * 2 + 1] = mma_pack(s[m][4 * k + i][2], s[m][4 * k + i][3]);
        }
    UNROLL for (int c = 0; c < D / 8; c++) {
        ldmatrix4_trans(b, y + (k * 32 + lane) * MMA_STRIDE(D) + c * 8);
        UNROLL for (int m = 0; m < M; m++) mma(o[m][c], a[m][0], b);
        UNROLL for (int m = 0; m < M; m++) mma(o[m][c], a[m][1], b + 2);
    }
}

/* Two neighbouring elements. */
static __device__ __forceinline__ void mma_put(Elem *dst, float low, float high)
{
    *(ElemPair *)dst = mma_pair(low, high);
}

#endif
