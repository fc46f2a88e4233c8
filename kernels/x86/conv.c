/* conv.c - conv2d, conv2d_dx, conv2d_dw by the product of gemm.h, or where it is
 * faster by Winograd's algorithm (wino.h); int8 weights by that of i8.h. */
#include "kernels/x86/i8.h"
#include "kernels/x86/wino.h"

static int pairs(Dtype dt) { return PAIRS && dt == DT_BF16; }

/* x as a matrix of output pixels by taps and input channels. */
static View view_input(const Conv2d *p, const void *x, Dtype dt)
{
    View v = {.p = x, .dt = dt, .gn = p->n, .ga = conv2d_rows(p), .gb = conv2d_out(p, p->w),
              .step = p->stride, .h = p->h, .w = p->w, .kh = p->ks, .kw = p->ks,
              .dy = -conv2d_top(p), .dx = -p->pad_lo, .dtap = 1, .c = p->cin};
    v.sx = p->cin, v.sy = p->w * v.sx, v.sn = p->h * v.sy;
    if (p->ks == 1 && p->stride == 1 && !p->pad_lo && !p->pad_hi)
        v = view_matrix(x, dt, p->n * p->h * p->w, p->cin);
    return v;
}

/* 1 when it is done by Winograd's algorithm; x is dy for a gradient. */
static int winograd(Dev *d, const Conv2d *p, int dx, Dtype dt, const void *x, const void *w,
                    const Out *out)
{
    WinoPlan plan;
    wino_plan(&plan, p, dx, dt, d->threads, THIS_ISA);
    if (!plan.m) return 0;
    ptrdiff_t row = 9 * (ptrdiff_t)p->cin;
    Wino c = {.s = wino_shape(p, dx), .x = x, .w = w, .dt = dt, .wdt = p->wdt, .st = p->cin,
              .so = dx ? 1 : row, .sc = dx ? row : 1, .flip = dx, .out = *out};
    ISA(wino_run)(d, &c, &plan);
    return 1;
}

static void forward(Dev *d, const Conv2d *p, Dtype dt, void *y, const void *x, const void *w,
                    const float *b, const void *rowbias, const void *res)
{
    int k = p->ks * p->ks * p->cin, hw = conv2d_rows(p) * conv2d_out(p, p->w);
    View vx = view_input(p, x, dt), vw = view_matrix(w, p->wdt, p->cout, k);
    Gemm g = {.s = {p->n * hw, p->cout, k, pairs(dt), 0, 0}, .p = vx, .q = vw,
              .out = {.y = y, .dt = dt, .alpha = p->alpha, .b = b, .rowbias = rowbias, .res = res,
                      .hw = hw, .cols = p->cout, .sx = p->cout}};
    if (winograd(d, p, 0, dt, x, w, &g.out)) return;
    if (gemm_swap_conv(p)) {
        g.swap = 1, g.s.m = p->cout, g.s.n = p->n * hw;
        g.p = vw, g.q = vx;
    }
    ISA(gemm_run)(d, &g);
}

/* The pixels of dx no tap reaches. */
static void clear_class(const Conv2d *p, Dtype dt, void *dx, int py, int px)
{
    size_t row = (size_t)p->cin * dtype_bytes(dt);
    for (int n = 0; n < p->n; n++)
        for (int y = py; y < p->h; y += p->stride)
            for (int x = px; x < p->w; x += p->stride)
                memset((char *)dx + (((size_t)n * p->h + y) * p->w + x) * row, 0, row);
}

/* One class of pixels: dy gathered at its taps against the weights of those. */
static void backward_class(Dev *d, const Conv2d *p, Dtype dt, void *dx, const void *dy,
                           const void *w, int acc, int py, int px)
{
    ConvClass c = conv_class(p, py, px);
    if (!c.rows || !c.cols) return;
    if (!c.kh || !c.kw) {
        if (!acc) clear_class(p, dt, dx, py, px);
        return;
    }
    int s = p->stride, cin = p->cin, cout = p->cout;
    View vy = {.p = dy, .dt = dt, .gn = p->n, .ga = c.rows, .gb = c.cols, .step = 1,
               .h = conv2d_out(p, p->h), .w = conv2d_out(p, p->w), .kh = c.kh, .kw = c.kw,
               .dy = c.oy0, .dx = c.ox0, .dtap = -1, .c = cout};
    vy.sx = cout, vy.sy = vy.w * vy.sx, vy.sn = vy.h * vy.sy;
    /* Rows (tap i, tap j, output channel) of the weight. */
    View vw = {.dt = p->wdt, .gn = c.kh, .ga = c.kw, .gb = cout, .step = 1, .h = c.kw, .w = cout,
               .kh = 1, .kw = 1, .dtap = 1, .c = cin};
    vw.sy = (ptrdiff_t)s * cin, vw.sn = vw.sy * p->ks, vw.sx = (ptrdiff_t)p->ks * p->ks * cin;
    vw.p = (const char *)w + (size_t)(c.i0 * p->ks + c.j0) * (size_t)cin * dtype_bytes(p->wdt);
    Out out = {.dt = dt, .alpha = p->alpha, .ga = c.rows, .gb = c.cols, .sx = (ptrdiff_t)s * cin};
    out.sy = (ptrdiff_t)s * p->w * cin, out.sn = (ptrdiff_t)p->h * p->w * cin;
    out.y = (char *)dx + ((size_t)py * p->w + px) * (size_t)cin * dtype_bytes(dt);
    out.res = acc ? out.y : 0;
    if (s == 1) out.ga = 0;
    GemmShape shape = {p->n * c.rows * c.cols, cin, c.kh * c.kw * cout, pairs(dt), 0, 1};
    ISA(gemm_run)(d, &(Gemm){.s = shape, .p = vy, .q = vw, .out = out});
}

static void backward_x(Dev *d, const Conv2d *p, Dtype dt, void *dx, const void *dy, const void *w,
                       int acc)
{
    Out out = {.y = dx, .dt = dt, .alpha = p->alpha, .res = acc ? dx : 0, .sx = p->cin};
    if (winograd(d, p, 1, dt, dy, w, &out)) return;
    for (int i = 0; i < p->stride * p->stride; i++)
        backward_class(d, p, dt, dx, dy, w, acc, i / p->stride, i % p->stride);
}

static void backward_w(Dev *d, const Conv2d *p, Dtype dt, float *dw, float *db, const void *dy,
                       const void *x)
{
    int k = p->ks * p->ks * p->cin, m = p->n * conv2d_out(p, p->h) * conv2d_out(p, p->w);
    Gemm g = {.s = {p->cout, k, m, pairs(dt), 1, 1},
              .p = view_matrix(dy, dt, m, p->cout), .q = view_input(p, x, dt),
              .out = {.y = dw, .dt = DT_F32, .alpha = p->alpha, .res = dw, .sx = k}};
    if (dw) ISA(gemm_run)(d, &g);
    if (db) ISA(gemm_colsum)(d, db, dy, dt, (size_t)m, p->cout);
}

#define CONV(dt, DT)                                                                       \
    void ISA(conv2d_##dt)(Dev *d, const Conv2d *p, void *y, const void *x, const void *w,  \
                          const float *b, const void *rowbias, const void *res)            \
    {                                                                                      \
        if (p->wdt == DT_I8) ISA(i8_conv2d)(d, p, DT, y, x, w, b, rowbias, res);           \
        else forward(d, p, DT, y, x, w, b, rowbias, res);                                  \
    }                                                                                      \
    void ISA(conv2d_dx_##dt)(Dev *d, const Conv2d *p, void *dx, const void *dy,            \
                             const void *w, int acc)                                       \
    {                                                                                      \
        if (p->wdt == DT_I8) ISA(i8_conv2d_dx)(d, p, DT, dx, dy, w, acc);                  \
        else backward_x(d, p, DT, dx, dy, w, acc);                                         \
    }                                                                                      \
    void ISA(conv2d_dw_##dt)(Dev *d, const Conv2d *p, float *dw, float *db,                \
                             const void *dy, const void *x)                                \
    { backward_w(d, p, DT, dw, db, dy, x); }
VEC_DTYPES(CONV)
