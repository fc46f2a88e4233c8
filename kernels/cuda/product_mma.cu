/* product_mma.cu - products of tiles (product.h) on tensor cores.
 *
 * A warp makes 32 columns of C by 32 or 64 rows, a block 64 x 64, 128 x 32 or
 * 128 x 128. Tiles of 32 k wait in shared memory as 16-byte chunks, in a ring of
 * three stages, of which two are on their way (cp.async) while one is used. A
 * chunk's place in its row is turned by the row's number, so that ldmatrix reads
 * eight rows, and copies write, without bank conflicts.
 */
#include "kernels/cuda/product.h"
#include "kernels/cuda/ptx.h"

#ifdef SDC_F32
/* There is no such instruction for f32: product_plan() never asks for it. */
extern "C" void OP(product_tiles)(Dev *d, const Product *p) { OP(product_simt)(d, p); }
#else

#ifdef SDC_BF16
#define MMA mma_bf16
#else
#define MMA mma_f16
#endif

/* Of 256 threads on a multiprocessor at a time; sm_75 has shared memory for one. */
#if defined __CUDA_ARCH__ && __CUDA_ARCH__ < 800
#define BLOCKS 1
#else
#define BLOCKS 2
#endif

enum { STEP = 32, STAGES = 3, COLS = 32, PITCH = COLS + 8 };

/* Place of chunk c of row r, `chunks` (4, 8 or 16) to a row. */
static __device__ __forceinline__ int place(const int chunks, int r, int c)
{
    return r * chunks + (chunks == 4 ? c ^ (r >> 1 & 3) : c ^ (r & 7));
}

/* ---- from global to shared memory ---------------------------------------- */

/* One operand: a tile of `width` m or n. Across: its rows in memory are k, and
 * so are those of the tile, else they are m or n. */
typedef struct { int kind, across, width, threads; } Side;

/* What stays as it is from step to step: rows, or across the column. */
typedef struct { ViewRow row[4]; ViewCol col; } Kept;

static __device__ __forceinline__ int side_chunks(const Side s)
{
    return (s.across ? s.width : STEP) / 8;
}
static __device__ __forceinline__ int side_step(const Side s)
{
    return s.threads / side_chunks(s);
}
static __device__ __forceinline__ int side_reads(const Side s)
{
    return (s.across ? STEP : s.width) / side_step(s);
}

static __device__ __forceinline__ void keep(Kept *kept, const View *v, const Side s, int first)
{
    int r = (int)threadIdx.x / side_chunks(s), c = (int)threadIdx.x % side_chunks(s) * 8;
    if (s.across) {
        kept->col = view_col(v, s.kind, first + c);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (i < side_reads(s)) kept->row[i] = view_row(v, s.kind, first + r + i * side_step(s));
    }
}

static __device__ __forceinline__ void load(ElemVec *tile, const View *v, const Kept *kept,
                                            const Side s, int first, int k)
{
    const int chunks = side_chunks(s);
    int r = (int)threadIdx.x / chunks, c = (int)threadIdx.x % chunks, at = s.across ? first : k;
    ViewCol col = s.across ? kept->col : view_col(v, s.kind, k + c * 8);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (i >= side_reads(s)) break;
        int q = r + i * side_step(s);
        ViewRow row = s.across ? view_row(v, s.kind, k + q) : kept->row[i];
        ElemVec *to = tile + place(chunks, q, c);
        if (v->vec) {
            ptrdiff_t from = view_at(v, s.kind, row, col);
            copy_async16(to, (const Elem *)v->p + (from < 0 ? 0 : from), from >= 0);
        } else {
            float f[VEC];
            ElemVec e;
            view_floats(v, s.kind, row, at + c * 8, f);
#pragma unroll
            for (int j = 0; j < VEC; j++) e.e[j] = elem_put(f[j]);
            *to = e;
        }
    }
}

/* ---- from shared memory to fragments (ptx.h) ------------------------------ */

/* A (16,16) from row m on, k from 16 h on. */
static __device__ __forceinline__ void read_a(uint32_t a[4], const ElemVec *tile, const Side s,
                                              int m, int h)
{
    int lane = threadIdx.x & 31, low = lane & 7, mid = lane >> 3 & 1, high = lane >> 4;
    int k = h * 16 + low + high * 8;
    if (s.across) ldmatrix4_trans(a, tile + place(s.width / 8, k, m / 8 + mid));
    else ldmatrix4(a, tile + place(4, m + low + mid * 8, h * 2 + high));
}

/* Two of B (16,8) side by side, from column n on. */
static __device__ __forceinline__ void read_b(uint32_t b[4], const ElemVec *tile, const Side s,
                                              int n, int h)
{
    int lane = threadIdx.x & 31, low = lane & 7, mid = lane >> 3 & 1, high = lane >> 4;
    int k = h * 16 + low + mid * 8;
    if (s.across) ldmatrix4_trans(b, tile + place(s.width / 8, k, n / 8 + high));
    else ldmatrix4(b, tile + place(4, n + low + high * 8, h * 2 + mid));
}

static __device__ __forceinline__ void multiply(float acc[4][4][4], const ElemVec *ta,
                                                const ElemVec *tb, const Side sa, const Side sb,
                                                int m, int n, const int rows)
{
#pragma unroll
    for (int h = 0; h < STEP / 16; h++) {
        uint32_t a[4][4], b[2][4];
#pragma unroll
        for (int j = 0; j < 2; j++) read_b(b[j], tb, sb, n + j * 16, h);
#pragma unroll
        for (int i = 0; i < rows; i++) read_a(a[i], ta, sa, m + i * 16, h);
#pragma unroll
        for (int i = 0; i < rows; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) MMA(acc[i][j], a[i], b[j / 2] + j % 2 * 2);
    }
}

/* ---- the tile ------------------------------------------------------------ */

/* Through shared memory, 16 rows of each warp at a time, so that rows are
 * written by 16 bytes. */
static __device__ __forceinline__ void write_tile(const Product *p, float acc[4][4][4], float *buf,
                                                  int m, int n, const int rows)
{
    int lane = threadIdx.x & 31, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < rows; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            *(float2 *)(buf + g * PITCH + j * 8 + t * 2) = make_float2(acc[i][j][0], acc[i][j][1]);
            *(float2 *)(buf + (g + 8) * PITCH + j * 8 + t * 2) =
                make_float2(acc[i][j][2], acc[i][j][3]);
        }
        __syncwarp();
#pragma unroll
        for (int q = 0; q < 2; q++)
            store_run(p, blockIdx.y, m + i * 16 + g + q * 8, n + t * 8,
                      buf + (g + q * 8) * PITCH + t * 8, VEC);
        __syncwarp();
    }
}

/* across: warps beside each other. rows: of 16 to a warp. */
static __device__ __forceinline__ void tile_mma(const Product *p, ElemVec *shared, const Side sa,
                                                const Side sb, const int across, const int rows)
{
    const int stage = (sa.width + sb.width) * STEP / VEC;
    int wide = (p->n + sb.width - 1) / sb.width, warp = (int)threadIdx.x / 32;
    int m0 = (int)blockIdx.x / wide * sa.width, n0 = (int)blockIdx.x % wide * sb.width;
    int m = warp / across * rows * 16, n = warp % across * COLS;
    int k0 = (int)blockIdx.y * p->k_split, k1 = min(k0 + p->k_split, p->k);
    int steps = (k1 - k0 + STEP - 1) / STEP;
    float acc[4][4][4] = {{{0}}};
    Kept ka, kb;
    keep(&ka, &p->a, sa, m0);
    keep(&kb, &p->b, sb, n0);
#pragma unroll 1
    for (int i = 0; i < STAGES - 1 + steps; i++) {
        int done = i - (STAGES - 1);
        if (done >= 0) {
            copy_async_wait(1);
            __syncthreads();
        }
        if (i < steps) {
            ElemVec *to = shared + i % STAGES * stage;
            load(to, &p->a, &ka, sa, m0, k0 + i * STEP);
            load(to + sa.width * STEP / VEC, &p->b, &kb, sb, n0, k0 + i * STEP);
        }
        copy_async_commit();
        if (done >= 0) {
            const ElemVec *from = shared + done % STAGES * stage;
            multiply(acc, from, from + sa.width * STEP / VEC, sa, sb, m, n, rows);
        }
    }
    __syncthreads();
    write_tile(p, acc, (float *)shared + warp * 16 * PITCH, m0 + m, n0 + n, rows);
}

/* One kernel for each way to lie in memory (NT, NN, TN; conv_ gathered) and tile; no
 * big tiles for what a library does unless the rank is low. */
#define TILE(name, m_, n_, threads_, across_, rows_, a_kind, a_across, b_kind, b_across)   \
    static __global__ void __launch_bounds__(threads_, BLOCKS * 256 / threads_)            \
    name(const Product p)                                                                  \
    {                                                                                      \
        CUDA_SHARED(ElemVec, shared);                                                      \
        const Side sa = {a_kind, a_across, m_, threads_};                                  \
        const Side sb = {b_kind, b_across, n_, threads_};                                  \
        tile_mma(&p, shared, sa, sb, across_, rows_);                                      \
    }
#define TILES_LOW(name, ...)                                                               \
    TILE(small_##name, 64, 64, 128, 2, 2, __VA_ARGS__)                                     \
    TILE(tall_##name, 128, 32, 128, 1, 2, __VA_ARGS__)
#define TILES(name, ...)                                                                   \
    TILES_LOW(name, __VA_ARGS__)                                                           \
    TILE(big_##name, 128, 128, 256, 4, 4, __VA_ARGS__)
TILES(nt, VIEW_MATRIX, 0, VIEW_MATRIX, 0)
TILES_LOW(nn, VIEW_MATRIX, 0, VIEW_MATRIX, 1)
TILES_LOW(tn, VIEW_MATRIX, 1, VIEW_MATRIX, 1)
TILES(conv_nt, VIEW_PATCH, 0, VIEW_MATRIX, 0)
TILES(conv_nn, VIEW_GRAD, 0, VIEW_TAPS, 1)
TILES(conv_tn, VIEW_MATRIX, 1, VIEW_PATCH, 1)

/* Runs kernel small_ or tall_`name`; or also big_`name`. */
#define RUN_LOW(name)                                                                      \
    do {                                                                                   \
        if (p->tile == TILE_TALL) CUDA_LAUNCH(d, tall_##name, grid, threads, bytes, *p);   \
        else CUDA_LAUNCH(d, small_##name, grid, threads, bytes, *p);                       \
    } while (0)
#define RUN(name)                                                                          \
    do {                                                                                   \
        if (p->tile == TILE_BIG) CUDA_LAUNCH(d, big_##name, grid, threads, bytes, *p);     \
        else RUN_LOW(name);                                                                \
    } while (0)

extern "C" void OP(product_tiles)(Dev *d, const Product *p)
{
    int m = p->tile == TILE_SMALL ? 64 : 128;
    int n = p->tile == TILE_SMALL ? 64 : p->tile == TILE_TALL ? 32 : 128;
    unsigned threads = p->tile == TILE_BIG ? 256 : 128;
    size_t bytes = (size_t)(m + n) * STEP * sizeof(Elem) * STAGES;      /* at most 48 KiB */
    dim3 grid((unsigned)(product_ceil(p->m, m) * product_ceil(p->n, n)), (unsigned)p->splits);
    switch (p->mode * 2 + p->conv) {
    case PRODUCT_NT * 2: RUN(nt); break;
    case PRODUCT_NN * 2: RUN_LOW(nn); break;
    case PRODUCT_TN * 2: RUN_LOW(tn); break;
    case PRODUCT_NT * 2 + 1: RUN(conv_nt); break;
    case PRODUCT_NN * 2 + 1: RUN(conv_nn); break;
    default: RUN(conv_tn); break;
    }
}

#endif
