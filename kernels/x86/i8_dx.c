/* i8_dx.c - linear_dx and conv2d_dx with int8 weights, see i8_plan.h: for some columns
 * of x at a time, their weights are widened and the product of gemm.h does the rest. */
#include "kernels/x86/i8.h"

/* VW bytes to floats. */
VEC vf widen(const int8_t *p)
{
    const __m128i *at = (const __m128i *)(const void *)p;
#ifdef SDC_AVX512
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at)));
#else
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at)));
#endif
}

/* Columns k.. (n <= 4 VW of them) of VW rows of a panel, r0 the first of them: to rows
 * of w, `apart` elements from each other. */
VEC void widen_block(Dtype dt, const char *panel, const float *scale, size_t r0, size_t k, size_t n,
                     void *w, size_t at, size_t apart)
{
    vf r[VW];
    for (size_t s = 0; s < VW; s++)
        r[s] = s * I8_STEP < n
                   ? vec_load((const float *)(const void *)(panel + i8_at(r0, k + s * I8_STEP)))
                   : vec_zero();
    gemm_transpose(r);
    for (size_t i = 0; i < VW; i++) {
        vf row = r[i], step = vec_set(scale[r0 + i]);
        for (size_t c = 0; c < n; c += VW)
            vec_put_most(dt, w, at + i * apart + c,
                         vec_mul(widen((const int8_t *)&row + c), step), vec_left(c, n));
    }
}

/* Columns c0.. (cols of them) of each tap: w (n, taps, cols) of dt. */
static void widen_columns(Dev *d, void *w, Dtype dt, const char *i8, int n, int taps, int c, int c0,
                          int cols)
{
    size_t row = (size_t)taps * (size_t)cols;
    size_t panel = i8_panel((size_t)taps, (size_t)c);
    int threads = (double)n * (double)row < 1e5 ? 1 : d->threads;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int r = 0; r < n; r += VW) {
        const char *from = i8 + (size_t)(r / I8_ROWS) * panel;
        const float *scale = i8_scale(from, (size_t)taps, (size_t)c);
        size_t r0 = (size_t)(r % I8_ROWS);
        for (int t = 0; t < taps; t++)
            for (int k = 0; k < cols; k += 4 * VW) {
                size_t at = (size_t)r * row + (size_t)t * (size_t)cols + (size_t)k;
                size_t k0 = (size_t)t * (size_t)c + (size_t)c0 + (size_t)k;
                size_t left = (size_t)(cols - k < 4 * VW ? cols - k : 4 * VW);
                if (dt == DT_BF16) widen_block(DT_BF16, from, scale, r0, k0, left, w, at, row);
                else widen_block(DT_F32, from, scale, r0, k0, left, w, at, row);
            }
    }
}

/* Copies cols elements of each row. */
static void copy_columns(void *dst, size_t dst_row, const void *src, size_t src_row, size_t rows,
                         size_t cols, Dtype dt)
{
    size_t size = dtype_bytes(dt);
    for (size_t r = 0; r < rows; r++)
        memcpy((char *)dst + r * dst_row * size, (const char *)src + r * src_row * size,
               cols * size);
}

typedef struct {
    int taps, n, c, acc;
    size_t rows;               /* of dx */
    Dtype dt;
    const Linear *linear;      /* or */
    const Conv2d *conv;
} Back;

static void run_part(Dev *d, const Back *g, int cols, Dtype wdt, void *dx, const void *dy,
                     const void *w)
{
    if (g->linear) {
        Linear p = *g->linear;
        p.k = cols, p.wdt = wdt;
#define RUN(dtype, DT) if (g->dt == DT) ISA(linear_dx_##dtype)(d, &p, dx, dy, w, g->acc);
        VEC_DTYPES(RUN)
#undef RUN
        return;
    }
    Conv2d p = *g->conv;
    p.cin = cols, p.wdt = wdt;
#define RUN(dtype, DT) if (g->dt == DT) ISA(conv2d_dx_##dtype)(d, &p, dx, dy, w, g->acc);
    VEC_DTYPES(RUN)
#undef RUN
}

static void run(Dev *d, const Back *g, void *dx, const void *dy, const void *w)
{
    Dtype wdt = PAIRS ? DT_BF16 : DT_F32;
    I8Columns plan = i8_columns(g->rows, g->n, g->taps, g->c, g->dt, wdt);
    char *ws = d->ws, *part = ws + plan.w_bytes;
    size_t size = dtype_bytes(g->dt), c = (size_t)g->c;
    d->ws = part + plan.dx_bytes;
    for (int c0 = 0; c0 < g->c; c0 += plan.cols) {
        size_t cols = (size_t)(g->c - c0 < plan.cols ? g->c - c0 : plan.cols);
        char *at = (char *)dx + (size_t)c0 * size;
        widen_columns(d, ws, wdt, w, g->n, g->taps, g->c, c0, (int)cols);
        if (g->acc) copy_columns(part, cols, at, c, g->rows, cols, g->dt);
        run_part(d, g, (int)cols, wdt, part, dy, ws);
        copy_columns(at, c, part, cols, g->rows, cols, g->dt);
    }
    d->ws = ws;
}

void ISA(i8_linear_dx)(Dev *d, const Linear *p, Dtype dt, void *dx, const void *dy, const void *w,
                       int acc)
{
    Back g = {.taps = 1, .n = p->n, .c = p->k, .acc = acc, .dt = dt, .linear = p,
              .rows = (size_t)p->m};
    run(d, &g, dx, dy, w);
}

void ISA(i8_conv2d_dx)(Dev *d, const Conv2d *p, Dtype dt, void *dx, const void *dy, const void *w,
                       int acc)
{
    Back g = {.taps = p->ks * p->ks, .n = p->cout, .c = p->cin, .acc = acc, .dt = dt, .conv = p,
              .rows = (size_t)p->n * (size_t)p->h * (size_t)p->w};
    run(d, &g, dx, dy, w);
}
