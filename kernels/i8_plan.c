/* i8_plan.c - see i8_plan.h. Compiled for any x86. */
#include "kernels/i8_plan.h"

#include "kernels/impl.h"
#include "kernels/int8.h"

/* Panels of a task should stay in the second-level cache, with room for rows of x;
 * columns of weights that are widened, in the third. */
enum { PANEL_CACHE = 512 << 10, COLUMN_CACHE = 2 << 20 };

static int ceil_div(int a, int b) { return (a + b - 1) / b; }
static size_t align64(size_t b) { return (b + 63) & ~(size_t)63; }

void i8_plan(I8Plan *g, size_t x_rows, int m, int n, int taps, int c, int threads, int wide)
{
    int mr = wide ? 12 : 3, nr = wide ? 2 * I8_ROWS : I8_ROWS;
    *g = (I8Plan){.x_rows = x_rows, .stride = ((size_t)c + 15) & ~(size_t)15};
    g->x_bytes = align64((x_rows + 1) * g->stride);
    g->bytes = g->x_bytes + align64((x_rows + 1) * 2 * sizeof(float));
    g->threads = (double)m * n * c * taps < 1e6 ? 1 : threads;
    size_t panels = (size_t)nr / I8_ROWS * i8_panel((size_t)taps, (size_t)c);
    int cols = panels < PANEL_CACHE ? (int)(PANEL_CACHE / panels) * nr : nr;
    int want = g->threads == 1 ? 1 : 4 * g->threads, strips = ceil_div(n, nr);
    double best = 0;
    /* Each task reads its rows of x and its columns of w. */
    for (int tn = ceil_div(n, cols), i = 0; i < want && tn <= strips; tn++, i++) {
        int tm = ceil_div(want, tn), most = ceil_div(m, 4 * mr);
        if (tm > most) tm = most;
        double cost = (double)tm * n * taps + (double)tn * m;
        if (tm * tn < g->threads) cost *= 2;
        if (best > 0 && cost >= best) continue;
        best = cost;
        g->rows = ceil_div(ceil_div(m, tm), mr) * mr;
        g->cols = ceil_div(strips, tn) * nr;
    }
    g->tm = ceil_div(m, g->rows);
    g->tn = ceil_div(n, g->cols);
    if (g->threads > g->tm * g->tn) g->threads = g->tm * g->tn;
}

I8Columns i8_columns(size_t x_rows, int n, int taps, int c, Dtype dt, Dtype wdt)
{
    size_t each = (size_t)n * (size_t)taps * dtype_bytes(wdt);
    int cols = (int)(COLUMN_CACHE / each / 64) * 64;
    I8Columns g = {.cols = cols < 64 ? 64 : cols};
    if (g.cols > c) g.cols = c;
    g.w_bytes = align64(each * (size_t)g.cols);
    g.dx_bytes = align64(x_rows * (size_t)g.cols * dtype_bytes(dt));
    return g;
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static size_t forward_bytes(const Dev *d, size_t x_rows, int m, int n, int taps, int c)
{
    I8Plan g;
    i8_plan(&g, x_rows, m, n, taps, c, d->threads, 1);
    return g.bytes;
}

/* What weights may be widened to. */
static const Dtype widened[2] = {DT_F32, DT_BF16};

static size_t linear_part(const Dev *d, const Linear *p, Dtype dt, Dtype wdt, int cols)
{
    Linear part = *p;
    part.k = cols;
    part.wdt = wdt;
    return cols ? linear_scratch_x86(d, &part, dt) : 0;
}

size_t i8_linear_scratch(const Dev *d, const Linear *p, Dtype dt)
{
    size_t rows = (size_t)p->m, need = forward_bytes(d, rows, p->m, p->n, 1, p->k);
    for (int i = 0; i < 2; i++) {
        Dtype wdt = widened[i];
        I8Columns g = i8_columns(rows, p->n, 1, p->k, dt, wdt);
        size_t part = larger(linear_part(d, p, dt, wdt, g.cols),
                             linear_part(d, p, dt, wdt, p->k % g.cols));
        need = larger(need, g.w_bytes + g.dx_bytes + part);
    }
    return larger(need, linear_part(d, p, dt, dt, p->k));          /* linear_dw */
}

static size_t conv_part(const Dev *d, const Conv2d *p, Dtype dt, Dtype wdt, int cols)
{
    Conv2d part = *p;
    part.cin = cols;
    part.wdt = wdt;
    return cols ? conv2d_scratch_x86(d, &part, dt) : 0;
}

size_t i8_conv2d_scratch(const Dev *d, const Conv2d *p, Dtype dt)
{
    int taps = p->ks * p->ks, m = p->n * conv2d_out(p, p->h) * conv2d_out(p, p->w);
    size_t rows = (size_t)p->n * (size_t)p->h * (size_t)p->w;
    size_t need = forward_bytes(d, rows, m, p->cout, taps, p->cin);
    for (int i = 0; i < 2; i++) {
        Dtype wdt = widened[i];
        I8Columns g = i8_columns(rows, p->cout, taps, p->cin, dt, wdt);
        size_t part = larger(conv_part(d, p, dt, wdt, g.cols),
                             conv_part(d, p, dt, wdt, p->cin % g.cols));
        need = larger(need, g.w_bytes + g.dx_bytes + part);
    }
    return larger(need, conv_part(d, p, dt, dt, p->cin));          /* conv2d_dw */
}
