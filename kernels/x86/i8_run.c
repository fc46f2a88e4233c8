/* i8_run.c - linear and conv2d with int8 weights, see i8.h. */
#include "kernels/x86/i8.h"

static int min_int(int a, int b) { return a < b ? a : b; }

/* A linear is a convolution of one tap: a picture of 1 x m. */
typedef struct {
    Conv2d p;
    I8Plan plan;
    I8Input x;
    const char *w;
    Out out;
} Job;

/* What the taps read for output pixels r0.. (rows of them; the last one again for the
 * rest of the tile). */
static void find_taps(const Job *g, int r0, int rows, I8Tap tap[I8_TAPS])
{
    const Conv2d *p = &g->p;
    int wo = conv2d_out(p, p->w), ho = conv2d_out(p, p->h);
    for (int i = 0; i < I8_MR; i++) {
        int r = r0 + (i < rows ? i : rows - 1);
        int y0 = r / wo % ho * p->stride - p->pad_lo, x0 = r % wo * p->stride - p->pad_lo;
        size_t picture = (size_t)(r / wo / ho) * (size_t)p->h;
        for (int t = 0; t < p->ks * p->ks; t++) {
            int y = y0 + t / p->ks, x = x0 + t % p->ks;
            int inside = (unsigned)y < (unsigned)p->h && (unsigned)x < (unsigned)p->w;
            size_t at = inside ? (picture + (size_t)y) * (size_t)p->w + (size_t)x : g->x.zero;
            tap[t].row[i] = g->x.q + at * g->x.stride;
            tap[t].range[i] = g->x.range[at];
        }
    }
}

static void run_task(const Job *g, int task)
{
    const I8Plan *plan = &g->plan;
    int taps = g->p.ks * g->p.ks, c = g->p.cin, n = g->p.cout;
    int m = g->p.n * conv2d_out(&g->p, g->p.h) * conv2d_out(&g->p, g->p.w);
    int j0 = task / plan->tm * plan->cols, j1 = min_int(j0 + plan->cols, n);
    int i0 = task % plan->tm * plan->rows, i1 = min_int(i0 + plan->rows, m);
    size_t panel = i8_panel((size_t)taps, (size_t)c);
    _Alignas(64) float acc[I8_MR * NR];
    I8Tap tap[I8_TAPS];
    for (int i = i0; i < i1; i += I8_MR) {
        int rows = min_int(I8_MR, i1 - i);
        find_taps(g, i, rows, tap);
        for (int j = j0; j < j1; j += NR) {
            const char *w[I8_WIDE];
            for (int k = 0; k < I8_WIDE; k++)       /* the last panel may stand alone */
                w[k] = g->w + (size_t)min_int(j / I8_ROWS + k, n / I8_ROWS - 1) * panel;
            ISA(i8_tile)(tap, taps, c, rows, w, acc);
            ISA(gemm_store)(&g->out, acc, i, rows, j, min_int(NR, j1 - j));
        }
    }
}

static void run(Dev *d, Job *g, Dtype dt, const void *x)
{
    const Conv2d *p = &g->p;
    int m = p->n * conv2d_out(p, p->h) * conv2d_out(p, p->w);
    size_t rows = (size_t)p->n * (size_t)p->h * (size_t)p->w;
    i8_plan(&g->plan, rows, m, p->cout, p->ks * p->ks, p->cin, d->threads, WIDE);
    g->x = ISA(i8_quantize)(d, &g->plan, dt, x, p->cin, g->plan.threads);
    int tasks = g->plan.tm * g->plan.tn, threads = g->plan.threads;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1)
    for (int t = 0; t < tasks; t++) run_task(g, t);
}

void ISA(i8_linear)(Dev *d, const Linear *p, Dtype dt, void *y, const void *x, const void *w,
                    const float *b, const void *res)
{
#if defined SDC_AVX512 && !defined SDC_BF16
    if (!(d->isa & DEV_VNNI)) {
        i8_linear_avx2(d, p, dt, y, x, w, b, res);
        return;
    }
#endif
    Job g = {.p = {1, 1, p->m, p->k, p->n, 1, 1, 0, 0, p->alpha, DT_I8, 0, 0}, .w = w,
             .out = {.y = y, .dt = dt, .alpha = p->alpha, .b = b, .res = res, .sx = p->n}};
    run(d, &g, dt, x);
}

void ISA(i8_conv2d)(Dev *d, const Conv2d *p, Dtype dt, void *y, const void *x, const void *w,
                    const float *b, const void *rowbias, const void *res)
{
#if defined SDC_AVX512 && !defined SDC_BF16
    if (!(d->isa & DEV_VNNI)) {
        i8_conv2d_avx2(d, p, dt, y, x, w, b, rowbias, res);
        return;
    }
#endif
    Job g = {.p = *p, .w = w,
             .out = {.y = y, .dt = dt, .alpha = p->alpha, .b = b, .rowbias = rowbias, .res = res,
                     .hw = conv2d_out(p, p->h) * conv2d_out(p, p->w), .cols = p->cout,
                     .sx = p->cout}};
    run(d, &g, dt, x);
}
