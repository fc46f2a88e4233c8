/* gemm.c - linear, linear_dx, linear_dw by the product of gemm.h, or of i8.h. */
#include "kernels/x86/i8.h"

static int pairs(Dtype dt) { return PAIRS && dt == DT_BF16; }

static void forward(Dev *d, const Linear *p, Dtype dt, void *y, const void *x, const void *w,
                    const float *b, const void *res)
{
    View vx = view_matrix(x, dt, p->m, p->k), vw = view_matrix(w, p->wdt, p->n, p->k);
    Gemm g = {.s = {p->m, p->n, p->k, pairs(dt), 0, 0}, .p = vx, .q = vw,
              .out = {.y = y, .dt = dt, .alpha = p->alpha, .b = b, .res = res, .sx = p->n}};
    if (gemm_swap(p->m, p->n)) {
        g.swap = 1, g.s.m = p->n, g.s.n = p->m;
        g.p = vw, g.q = vx;
    }
    if (g.swap && p->m <= GEMM_FEW) ISA(gemm_few)(d, &g);
    else ISA(gemm_run)(d, &g);
}

static void backward_x(Dev *d, const Linear *p, Dtype dt, void *dx, const void *dy, const void *w,
                       int acc)
{
    Gemm g = {.s = {p->m, p->k, p->n, pairs(dt), 0, 1},
              .p = view_matrix(dy, dt, p->m, p->n), .q = view_matrix(w, p->wdt, p->n, p->k),
              .out = {.y = dx, .dt = dt, .alpha = p->alpha, .res = acc ? dx : 0, .sx = p->k}};
    ISA(gemm_run)(d, &g);
}

static void backward_w(Dev *d, const Linear *p, Dtype dt, float *dw, float *db, const void *dy,
                       const void *x)
{
    Gemm g = {.s = {p->n, p->k, p->m, pairs(dt), 1, 1},
              .p = view_matrix(dy, dt, p->m, p->n), .q = view_matrix(x, dt, p->m, p->k),
              .out = {.y = dw, .dt = DT_F32, .alpha = p->alpha, .res = dw, .sx = p->k}};
    if (dw) ISA(gemm_run)(d, &g);
    if (db) ISA(gemm_colsum)(d, db, dy, dt, (size_t)p->m, p->n);
}

#define LINEAR(dt, DT)                                                                     \
    void ISA(linear_##dt)(Dev *d, const Linear *p, void *y, const void *x, const void *w,  \
                          const float *b, const void *res)                                 \
    {                                                                                      \
        if (p->wdt == DT_I8) ISA(i8_linear)(d, p, DT, y, x, w, b, res);                    \
        else forward(d, p, DT, y, x, w, b, res);                                           \
    }                                                                                      \
    void ISA(linear_dx_##dt)(Dev *d, const Linear *p, void *dx, const void *dy,            \
                             const void *w, int acc)                                       \
    {                                                                                      \
        if (p->wdt == DT_I8) ISA(i8_linear_dx)(d, p, DT, dx, dy, w, acc);                  \
        else backward_x(d, p, DT, dx, dy, w, acc);                                         \
    }                                                                                      \
    void ISA(linear_dw_##dt)(Dev *d, const Linear *p, float *dw, float *db,                \
                             const void *dy, const void *x)                                \
    { backward_w(d, p, DT, dw, db, dy, x); }
VEC_DTYPES(LINEAR)
