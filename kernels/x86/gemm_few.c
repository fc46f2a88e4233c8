/* gemm_few.c - linear for a few rows of x, such as a time embedding: bound by
 * reading the weights, so each is read once, where it lies.
 */
#include "kernels/x86/gemm.h"

#define UNROLL _Pragma("GCC unroll 4")

/* Rows of w at once: as many sums as there are registers for. */
enum { AT_ONCE = WIDE ? 4 : 2 };

/* Rows n0.. of w against all rows of x: sums acc [GEMM_FEW][NR] for cols of
 * them; acc is written up to the next multiple of AT_ONCE. x is padded with zeros
 * to whole vectors and rows. */
VEC void dot_rows(Dtype dt, const View *w, const float *x, int n0, int cols, float *acc)
{
    size_t k = (size_t)w->c, whole = k / VW * VW, stride = gemm_few_stride(w->c);
    for (int j = 0; j < cols; j += AT_ONCE) {
        size_t row[AT_ONCE];
        vf s[AT_ONCE][GEMM_FEW], v[GEMM_FEW];
        UNROLL
        for (int i = 0; i < AT_ONCE; i++) {
            row[i] = (size_t)(n0 + (j + i < cols ? j + i : j)) * k;
            UNROLL
            for (int r = 0; r < GEMM_FEW; r++) s[i][r] = vec_zero();
        }
        for (size_t at = 0; at < whole; at += VW) {
            UNROLL
            for (int r = 0; r < GEMM_FEW; r++) v[r] = vec_load(x + (size_t)r * stride + at);
            UNROLL
            for (int i = 0; i < AT_ONCE; i++) {
                vf a = gemm_get(dt, w->p, row[i] + at, VW);
                UNROLL
                for (int r = 0; r < GEMM_FEW; r++) s[i][r] = vec_fma(a, v[r], s[i][r]);
            }
        }
        UNROLL
        for (int i = 0; i < AT_ONCE; i++) {
            vf a = whole < k ? gemm_get(dt, w->p, row[i] + whole, k - whole) : vec_zero();
            UNROLL
            for (int r = 0; r < GEMM_FEW; r++) {
                const float *end = x + (size_t)r * stride + whole;
                if (whole < k) s[i][r] = vec_fma(a, vec_load(end), s[i][r]);
                acc[r * NR + j + i] = vec_sum(s[i][r]);
            }
        }
    }
}

static void widen(const View *v, float *x)
{
    size_t k = (size_t)v->c, stride = gemm_few_stride(v->c);
    memset(x, 0, gemm_few_bytes(v->c));
    for (size_t r = 0; r < (size_t)v->gb; r++)
        for (size_t i = 0; i < k; i += VW) {
            size_t n = k - i < VW ? k - i : VW, at = r * k + i;
            vf a;
            if (v->dt == DT_F32) a = gemm_get(DT_F32, v->p, at, n);
            else if (v->dt == DT_BF16) a = gemm_get(DT_BF16, v->p, at, n);
            else a = gemm_get(DT_F16, v->p, at, n);
            vec_store(x + r * stride + i, a);
        }
}

void ISA(gemm_few)(Dev *d, const Gemm *g)
{
    float *x = d->ws;
    const View *w = &g->p;
    int rows = g->s.n, threads = (double)g->s.m * g->s.k < 1e5 ? 1 : d->threads;
    widen(&g->q, x);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int n0 = 0; n0 < g->s.m; n0 += NR) {
        float acc[GEMM_FEW * NR];
        int cols = g->s.m - n0 < NR ? g->s.m - n0 : NR;
        if (w->dt == DT_F32) dot_rows(DT_F32, w, x, n0, cols, acc);
        else if (w->dt == DT_BF16) dot_rows(DT_BF16, w, x, n0, cols, acc);
        else dot_rows(DT_F16, w, x, n0, cols, acc);
        ISA(gemm_store)(&g->out, acc, 0, rows, n0, cols);
    }
}
