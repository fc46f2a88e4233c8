/* product_simt.cu - products of tiles (product.h) by ordinary multiply-adds: f32,
 * and 16-bit types where there are no tensor cores for them.
 *
 * A block of 128 threads makes a tile of 64 x 64, 8 x 4 to a thread, 16 k at a
 * time: while one pair of tiles is multiplied, the next is on its way.
 */
#include "kernels/cuda/product.h"

enum { SIDE = 64, STEP = 16, THREADS = 128, PITCH = SIDE + 4, 
       CHUNKS = SIDE * STEP / VEC / THREADS };

/* What a thread reads of one operand: CHUNKS chunks of VEC elements. */
typedef struct { float f[CHUNKS][VEC]; } Piece;

/* Row and column, in the tile as it lies in memory, of chunk i of this thread. */
static __device__ __forceinline__ int chunk_row(const int across, int i)
{
    const int per = (across ? SIDE : STEP) / VEC;
    return (int)threadIdx.x / per + i * (THREADS / per);
}
static __device__ __forceinline__ int chunk_col(const int across)
{
    const int per = (across ? SIDE : STEP) / VEC;
    return (int)threadIdx.x % per * VEC;
}

static __device__ __forceinline__ void piece_read(Piece *q, const View *v, const int kind,
                                                  const int across, int first, int k)
{
    int c = chunk_col(across) + (across ? first : k);
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int r = chunk_row(across, i) + (across ? k : first);
        view_floats(v, kind, view_row(v, kind, r), c, q->f[i]);
    }
}

/* Into shared memory as (k, m or n). */
static __device__ __forceinline__ void piece_write(float *tile, const Piece *q, const int across)
{
    int c = chunk_col(across);
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int r = chunk_row(across, i);
#pragma unroll
        for (int e = 0; e < VEC; e++)
            tile[across ? r * PITCH + c + e : (c + e) * PITCH + r] = q->f[i][e];
    }
}

static __device__ __forceinline__ void multiply(float s[8][4], const float *a, const float *b)
{
    int row = (int)threadIdx.x / 16 * 8, col = (int)threadIdx.x % 16 * 4;
#pragma unroll
    for (int k = 0; k < STEP; k++) {
        float4 x = *(const float4 *)(a + k * PITCH + row);
        float4 y = *(const float4 *)(a + k * PITCH + row + 4);
        float4 z = *(const float4 *)(b + k * PITCH + col);
        float p[8] = {x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w}, q[4] = {z.x, z.y, z.z, z.w};
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) s[i][j] = fmaf(p[i], q[j], s[i][j]);
    }
}

static __device__ __forceinline__ void tile_simt(const Product *p, float *shared, const int a_kind,
                                                 const int a_across, const int b_kind,
                                                 const int b_across)
{
    int wide = (p->n + SIDE - 1) / SIDE, split = blockIdx.y;
    int m0 = (int)blockIdx.x / wide * SIDE, n0 = (int)blockIdx.x % wide * SIDE;
    int k0 = split * p->k_split, k1 = min(k0 + p->k_split, p->k), now = 0;
    float s[8][4] = {{0}};
    Piece a, b;
    piece_read(&a, &p->a, a_kind, a_across, m0, k0);
    piece_read(&b, &p->b, b_kind, b_across, n0, k0);
    for (int k = k0; k < k1; k += STEP, now ^= 1) {
        float *ta = shared + now * 2 * STEP * PITCH, *tb = ta + STEP * PITCH;
        piece_write(ta, &a, a_across);
        piece_write(tb, &b, b_across);
        __syncthreads();
        if (k + STEP < k1) {
            piece_read(&a, &p->a, a_kind, a_across, m0, k + STEP);
            piece_read(&b, &p->b, b_kind, b_across, n0, k + STEP);
        }
        multiply(s, ta, tb);
    }
    int row = m0 + (int)threadIdx.x / 16 * 8, col = n0 + (int)threadIdx.x % 16 * 4;
#pragma unroll
    for (int i = 0; i < 8; i++) store_run(p, split, row + i, col, s[i], 4);
}

#define SIMT(name, a_kind, a_across, b_kind, b_across)                                     \
    static __global__ void __launch_bounds__(THREADS, 3) name(const Product p)                \
    {                                                                                      \
        __shared__ __align__(16) float shared[4 * STEP * PITCH];                           \
        tile_simt(&p, shared, a_kind, a_across, b_kind, b_across);                         \
    }
SIMT(simt_nt, VIEW_MATRIX, 0, VIEW_MATRIX, 0)
SIMT(simt_nn, VIEW_MATRIX, 0, VIEW_MATRIX, 1)
SIMT(simt_tn, VIEW_MATRIX, 1, VIEW_MATRIX, 1)
SIMT(simt_conv_nt, VIEW_PATCH, 0, VIEW_MATRIX, 0)
SIMT(simt_conv_nn, VIEW_GRAD, 0, VIEW_TAPS, 1)
SIMT(simt_conv_tn, VIEW_MATRIX, 1, VIEW_PATCH, 1)

extern "C" void OP(product_simt)(Dev *d, const Product *p)
{
    dim3 grid((unsigned)(product_ceil(p->m, SIDE) * product_ceil(p->n, SIDE)), (unsigned)p->splits);
    switch (p->mode * 2 + p->conv) {
    case PRODUCT_NT * 2: CUDA_LAUNCH(d, simt_nt, grid, THREADS, 0, *p); break;
    case PRODUCT_NN * 2: CUDA_LAUNCH(d, simt_nn, grid, THREADS, 0, *p); break;
    case PRODUCT_TN * 2: CUDA_LAUNCH(d, simt_tn, grid, THREADS, 0, *p); break;
    case PRODUCT_NT * 2 + 1: CUDA_LAUNCH(d, simt_conv_nt, grid, THREADS, 0, *p); break;
    case PRODUCT_NN * 2 + 1: CUDA_LAUNCH(d, simt_conv_nn, grid, THREADS, 0, *p); break;
    default: CUDA_LAUNCH(d, simt_conv_tn, grid, THREADS, 0, *p); break;
    }
}
