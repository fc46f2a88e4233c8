/* gemm.h - the matrix product behind linear, conv2d and their gradients.
 *
 * An operand is a View: rows of a feature map (or a weight), each the
 * concatenation of the channels at kh x kw taps. So a convolution is a product
 * whose rows are gathered while they are packed (implicit im2col), and a plain
 * matrix is a view with one tap.
 */
#ifndef SDC_KERNELS_X86_GEMM_H
#define SDC_KERNELS_X86_GEMM_H

#include "kernels/gemm_plan.h"
#include "kernels/x86/vec.h"

#ifdef SDC_AVX512
enum { MR = 12, MR_FEW = 8, NR = 32, WIDE = 1 };
#else
enum { MR = 6, MR_FEW = 4, NR = 16, WIDE = 0 };
#endif

/* Row (n,a,b) of gn x ga x gb: tap (i,j) is the c elements at source pixel
 * y = a step + dy + i dtap, x = b step + dx + j dtap, at p + n sn + y sy + x sx;
 * zeros where y or x is outside h x w. Strides are in elements. */
typedef struct {
    const void *p;
    Dtype dt;
    int gn, ga, gb, step;
    int h, w, kh, kw, dy, dx, dtap, c;
    ptrdiff_t sn, sy, sx;
} View;

static inline View view_matrix(const void *p, Dtype dt, int rows, int cols)
{
    return (View){.p = p, .dt = dt, .gn = 1, .ga = 1, .gb = rows, .step = 1, .h = 1, .w = rows,
                  .kh = 1, .kw = 1, .dtap = 1, .c = cols, .sx = cols};
}

/* Where the result goes: element (row, col) of y = alpha * sum + b[col] +
 * rowbias[row / hw][col] + res; res may be y. Row (n,a,b) of ga x gb starts at
 * element n sn + a sy + b sx; ga 0: at row * sx. */
typedef struct {
    void *y;
    Dtype dt;
    float alpha;
    const float *b;
    const void *rowbias, *res;
    int hw, ga, gb, cols;
    ptrdiff_t sn, sy, sx;
} Out;

/* swap: P is the operand whose rows are columns of the result. */
typedef struct {
    GemmShape s;
    View p, q;
    Out out;
    int swap;
} Gemm;

/* Packing (gemm_pack.c). pair: to bf16 pairs, else to f32. A packed row of P
 * is `stride` bytes long and may be written up to 64 bytes past its end. */
/* Rows r0.. (nr of them, then zeros up to `rows`), elements k0.. of each. */
void ISA(gemm_pack_rows)(const View *v, int pair, int r0, int nr, int rows, int k0, int kc,
                         char *dst, size_t stride);
/* Same from a plain matrix with k along its rows' index: columns c0.. become rows. */
void ISA(gemm_pack_rows_t)(const View *v, int pair, int c0, int nc, int k0, int kc, char *dst,
                           size_t stride);
/* A panel of Q, [step][NR], from rows j0.. of v (transposed); stage: 16 packed rows. */
void ISA(gemm_pack_panel_t)(const View *v, int pair, int j0, int nj, int k0, int kc, float *dst,
                            char *stage, size_t stride);
/* All panels of Q for columns j0.. of v, its rows k0.. being k; `panel` floats apart. */
void ISA(gemm_pack_panels)(const View *v, int pair, int j0, int nj, int k0, int kc, float *dst,
                           size_t panel);

/* Some steps of MR rows of P, each row at its own address. */
typedef struct { const char *row[MR]; size_t steps; } Run;
enum { RUN_MIN = 32, RUNS = 2 * GEMM_STEPS / RUN_MIN + 2 };

/* The rows r0.. of v where they lie, without a copy: the number of runs; 0 when
 * they have to be packed. */
int ISA(gemm_runs)(const View *v, int pair, int r0, int nr, int k0, int kc, Run *run);

/* acc [MR][NR] = or += P Q over the steps of all runs (gemm_micro.c); only the
 * first vector of each row when narrow. */
typedef void micro_fn(const Run *run, const Run *end, const float *q, float *acc, int first);
extern micro_fn *const ISA(gemm_micro)[2][2];          /* [pair][narrow] */
extern micro_fn *const ISA(gemm_micro_few);            /* f32, MR_FEW rows */

/* Writes a finished tile, rows row0.., columns col0.. of the result (gemm_store.c). */
void ISA(gemm_store)(const Out *o, const float *acc, int row0, int rows, int col0, int cols);
/* Same for a transposed tile: rows of acc are columns of the result. */
void ISA(gemm_store_t)(const Out *o, const float *acc, int col0, int cols, int row0, int rows);

/* The whole product, scratch from d->ws (gemm_run.c). */
void ISA(gemm_run)(Dev *d, const Gemm *g);
/* The same for swap and at most GEMM_FEW rows of a plain Q (gemm_few.c). */
void ISA(gemm_few)(Dev *d, const Gemm *g);
/* db (n) += column sums of dy (m,n). */
void ISA(gemm_colsum)(Dev *d, float *db, const void *dy, Dtype dt, size_t m, int n);

/* Reads n <= VW elements of any dtype from element i, the rest as 0. */
VEC vf gemm_get(Dtype dt, const void *p, size_t i, size_t n)
{
    if (dt != DT_F16) return n == VW ? vec_get(dt, p, i) : vec_get_n(dt, p, i, n);
    const uint16_t *h = (const uint16_t *)p + i;
    uint16_t t[VW] = {0};
    if (n < VW) h = memcpy(t, h, n * 2);
#ifdef SDC_AVX512
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)h));
#else
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)h));
#endif
}

VEC void gemm_put(Dtype dt, void *p, size_t i, vf v, size_t n)
{
    if (dt != DT_F16) {
        if (n == VW) vec_put(dt, p, i, v);
        else vec_put_n(dt, p, i, v, n);
        return;
    }
    uint16_t t[VW];
#ifdef SDC_AVX512
    _mm256_storeu_si256((__m256i *)(void *)t, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
    _mm_storeu_si128((__m128i *)(void *)t, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#endif
    memcpy((uint16_t *)p + i, t, n * 2);
}

/* r[i] lane j becomes r[j] lane i. */
VEC void gemm_transpose(vf r[VW])
{
    vf t[VW];
#ifdef SDC_AVX512
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    /* r[4g+c] lane 4q+s is now row 4g+s, column 4q+c. */
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        t[c] = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88);
        t[4 + c] = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd);
        t[8 + c] = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
        t[12 + c] = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        r[c] = _mm512_shuffle_f32x4(t[c], t[8 + c], 0x88);
        r[8 + c] = _mm512_shuffle_f32x4(t[c], t[8 + c], 0xdd);
        r[4 + c] = _mm512_shuffle_f32x4(t[4 + c], t[12 + c], 0x88);
        r[12 + c] = _mm512_shuffle_f32x4(t[4 + c], t[12 + c], 0xdd);
    }
#else
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        t[c] = _mm256_permute2f128_ps(r[c], r[4 + c], 0x20);
        t[4 + c] = _mm256_permute2f128_ps(r[c], r[4 + c], 0x31);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) r[i] = t[i];
#endif
}

#endif
