/* gemm_store.c - finished tiles of gemm.h to memory, with all that a product
 * adds on the way; column sums. */
#include "kernels/x86/gemm.h"

static ptrdiff_t row_at(const Out *o, int row)
{
    if (!o->ga) return row * o->sx;
    int b = row % o->gb, r = row / o->gb;
    return r / o->ga * o->sn + r % o->ga * o->sy + b * o->sx;
}

VEC void put_vec(const Out *o, Dtype dt, vf v, size_t at, const void *rowbias, size_t bias_at,
                 int col, size_t n)
{
    v = vec_mul(v, vec_set(o->alpha));
    if (o->b) v = vec_add(v, gemm_get(DT_F32, o->b, (size_t)col, n));
    if (rowbias) v = vec_add(v, gemm_get(dt, rowbias, bias_at, n));
    if (o->res) v = vec_add(v, gemm_get(dt, o->res, at, n));
    gemm_put(dt, o->y, at, v, n);
}

VEC void put_row(const Out *o, Dtype dt, const float *acc, int row, int col0, int cols)
{
    size_t at = (size_t)(row_at(o, row) + col0), bias = 0;
    if (o->rowbias) bias = (size_t)(row / o->hw) * (size_t)o->cols + (size_t)col0;
    int j = 0;
    for (; j + VW <= cols; j += VW)
        put_vec(o, dt, vec_load(acc + j), at + j, o->rowbias, bias + j, col0 + j, VW);
    if (j < cols)
        put_vec(o, dt, vec_load(acc + j), at + j, o->rowbias, bias + j, col0 + j,
                (size_t)(cols - j));
}

VEC void put_rows(const Out *o, Dtype dt, const float *acc, size_t ld, int row0, int rows, int col0,
                  int cols)
{
    for (int i = 0; i < rows; i++) put_row(o, dt, acc + i * ld, row0 + i, col0, cols);
}

static void put_tile(const Out *o, const float *acc, size_t ld, int row0, int rows, int col0,
                     int cols)
{
    if (o->dt == DT_F32) put_rows(o, DT_F32, acc, ld, row0, rows, col0, cols);
    else if (o->dt == DT_BF16) put_rows(o, DT_BF16, acc, ld, row0, rows, col0, cols);
    else put_rows(o, DT_F16, acc, ld, row0, rows, col0, cols);
}

void ISA(gemm_store)(const Out *o, const float *acc, int row0, int rows, int col0, int cols)
{
    put_tile(o, acc, NR, row0, rows, col0, cols);
}

void ISA(gemm_store_t)(const Out *o, const float *acc, int col0, int cols, int row0, int rows)
{
    float t[VW * VW];
    for (int j = 0; j < rows; j += VW) {
        vf r[VW];
        for (int i = 0; i < VW; i++) r[i] = i < MR ? vec_load(acc + i * NR + j) : vec_zero();
        gemm_transpose(r);
        for (int i = 0; i < VW; i++) vec_store(t + i * VW, r[i]);
        put_tile(o, t, VW, row0 + j, rows - j < VW ? rows - j : VW, col0, cols);
    }
}

enum { SUM_COLS = 4 * VW };

/* Up to SUM_COLS columns; groups of rows are summed in f32 and the groups in
 * f64, so that the error does not grow with m. */
VEC void colsum(Dtype dt, float *db, const void *dy, size_t m, size_t n, size_t col, size_t cols)
{
    double total[SUM_COLS] = {0};
    float part[SUM_COLS];
    for (size_t r0 = 0; r0 < m; r0 += 64) {
        vf s[4] = {vec_zero(), vec_zero(), vec_zero(), vec_zero()};
        size_t end = r0 + 64 < m ? r0 + 64 : m;
        for (size_t r = r0; r < end; r++)
            for (size_t j = 0; j < 4; j++) {
                size_t c = j * VW, left = cols > c ? cols - c : 0, lanes = left < VW ? left : VW;
                if (left) s[j] = vec_add(s[j], gemm_get(dt, dy, r * n + col + c, lanes));
            }
        for (size_t j = 0; j < 4; j++) vec_store(part + j * VW, s[j]);
        for (size_t j = 0; j < cols; j++) total[j] += part[j];
    }
    for (size_t j = 0; j < cols; j++) db[col + j] = (float)(db[col + j] + total[j]);
}

void ISA(gemm_colsum)(Dev *d, float *db, const void *dy, Dtype dt, size_t m, int n)
{
    int threads = (double)m * n < 1e5 ? 1 : d->threads;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int c = 0; c < n; c += SUM_COLS) {
        size_t cols = n - c < SUM_COLS ? (size_t)(n - c) : SUM_COLS;
        if (dt == DT_F32) colsum(DT_F32, db, dy, m, (size_t)n, (size_t)c, cols);
        else if (dt == DT_BF16) colsum(DT_BF16, db, dy, m, (size_t)n, (size_t)c, cols);
        else colsum(DT_F16, db, dy, m, (size_t)n, (size_t)c, cols);
    }
}
