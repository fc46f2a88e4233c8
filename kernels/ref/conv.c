/* conv.c - conv2d, conv2d_dx, conv2d_dw: the definition (ops.h). Sums in f64. */
#include "kernels/impl.h"
#include "kernels/ref/elem.h"

/* Row (of channels) of a feature map; row (of input channels) of a weight. */
static size_t map_at(int n, int y, int x, int h, int w, int c)
{
    return (((size_t)n * h + y) * w + x) * c;
}
static size_t weight_at(const Conv2d *p, int o, int i, int j)
{
    return (((size_t)o * p->ks + i) * p->ks + j) * p->cin;
}
static double weight(const Conv2d *p, const void *w, int o, int i, int j, int c)
{
    return elem_weight(p->wdt, w, p->ks * p->ks, p->cin, o, ((size_t)i * p->ks + j) * p->cin + c);
}

/* One output element: the sum over taps inside the picture and input channels. */
static double forward_at(const Conv2d *p, Dtype dt, const void *x, const void *w, int n, int oy,
                         int ox, int o)
{
    double s = 0;
    for (int i = 0; i < p->ks; i++)
        for (int j = 0; j < p->ks; j++) {
            int iy = oy * p->stride + i - conv2d_top(p), ix = ox * p->stride + j - p->pad_lo;
            if (iy < 0 || iy >= p->h || ix < 0 || ix >= p->w) continue;
            size_t xi = map_at(n, iy, ix, p->h, p->w, p->cin);
            for (int c = 0; c < p->cin; c++)
                s += elem_get(dt, x, xi + c) * weight(p, w, o, i, j, c);
        }
    return s;
}

static void forward(Dev *d, const Conv2d *p, Dtype dt, void *y, const void *x, const void *w,
                    const float *b, const void *rowbias, const void *res)
{
    int ho = conv2d_rows(p), wo = conv2d_out(p, p->w);
#pragma omp parallel for num_threads(d->threads)
    for (int r = 0; r < p->n * ho; r++)
        for (int ox = 0; ox < wo; ox++)
            for (int o = 0; o < p->cout; o++) {
                size_t at = ((size_t)r * wo + ox) * p->cout + o;
                double s = p->alpha * forward_at(p, dt, x, w, r / ho, r % ho, ox, o);
                if (b) s += b[o];
                if (rowbias) s += elem_get(dt, rowbias, (size_t)(r / ho) * p->cout + o);
                if (res) s += elem_get(dt, res, at);
                elem_put(dt, y, at, s);
            }
}

/* One element of dx: the outputs that read it, each through the tap it used. */
static double backward_at(const Conv2d *p, Dtype dt, const void *dy, const void *w, int n, int iy,
                          int ix, int c)
{
    int ho = conv2d_out(p, p->h), wo = conv2d_out(p, p->w);
    double s = 0;
    for (int i = 0; i < p->ks; i++)
        for (int j = 0; j < p->ks; j++) {
            int oy = iy + p->pad_lo - i, ox = ix + p->pad_lo - j;
            if (oy < 0 || ox < 0 || oy % p->stride || ox % p->stride) continue;
            oy /= p->stride, ox /= p->stride;
            if (oy >= ho || ox >= wo) continue;
            size_t yi = map_at(n, oy, ox, ho, wo, p->cout);
            for (int o = 0; o < p->cout; o++)
                s += elem_get(dt, dy, yi + o) * weight(p, w, o, i, j, c);
        }
    return s;
}

static void backward_x(Dev *d, const Conv2d *p, Dtype dt, void *dx, const void *dy, const void *w,
                       int acc)
{
#pragma omp parallel for num_threads(d->threads)
    for (int r = 0; r < p->n * p->h; r++)
        for (int ix = 0; ix < p->w; ix++)
            for (int c = 0; c < p->cin; c++) {
                size_t at = ((size_t)r * p->w + ix) * p->cin + c;
                double s = p->alpha * backward_at(p, dt, dy, w, r / p->h, r % p->h, ix, c);
                if (acc) s += elem_get(dt, dx, at);
                elem_put(dt, dx, at, s);
            }
}

/* One element of dw: every output pixel whose tap (i,j) lies inside the picture. */
static double weight_sum(const Conv2d *p, Dtype dt, const void *dy, const void *x, int o, int i,
                         int j, int c)
{
    int ho = conv2d_out(p, p->h), wo = conv2d_out(p, p->w);
    double s = 0;
    for (int n = 0; n < p->n; n++)
        for (int oy = 0; oy < ho; oy++)
            for (int ox = 0; ox < wo; ox++) {
                int iy = oy * p->stride + i - p->pad_lo, ix = ox * p->stride + j - p->pad_lo;
                if (iy < 0 || iy >= p->h || ix < 0 || ix >= p->w) continue;
                s += elem_get(dt, dy, map_at(n, oy, ox, ho, wo, p->cout) + o) *
                     elem_get(dt, x, map_at(n, iy, ix, p->h, p->w, p->cin) + c);
            }
    return s;
}

static void backward_w(Dev *d, const Conv2d *p, Dtype dt, float *dw, float *db, const void *dy,
                       const void *x)
{
    size_t rows = (size_t)p->n * conv2d_out(p, p->h) * conv2d_out(p, p->w);
#pragma omp parallel for num_threads(d->threads)
    for (int o = 0; o < p->cout; o++) {
        for (int t = 0; dw && t < p->ks * p->ks; t++)
            for (int c = 0; c < p->cin; c++) {
                size_t at = weight_at(p, o, t / p->ks, t % p->ks) + c;
                double s = weight_sum(p, dt, dy, x, o, t / p->ks, t % p->ks, c);
                dw[at] = (float)(dw[at] + p->alpha * s);
            }
        if (!db) continue;
        double s = 0;
        for (size_t r = 0; r < rows; r++) s += elem_get(dt, dy, r * p->cout + o);
        db[o] = (float)(db[o] + s);
    }
}

#define CONV_REF(dt, DT)                                                                   \
    void conv2d_##dt##_ref(Dev *d, const Conv2d *p, void *y, const void *x, const void *w, \
                           const float *b, const void *rowbias, const void *res)           \
    { forward(d, p, DT, y, x, w, b, rowbias, res); }                                       \
    void conv2d_dx_##dt##_ref(Dev *d, const Conv2d *p, void *dx, const void *dy,           \
                              const void *w, int acc)                                      \
    { backward_x(d, p, DT, dx, dy, w, acc); }                                              \
    void conv2d_dw_##dt##_ref(Dev *d, const Conv2d *p, float *dw, float *db,               \
                              const void *dy, const void *x)                               \
    { backward_w(d, p, DT, dw, db, dy, x); }
CONV_REF(f32, DT_F32)
CONV_REF(bf16, DT_BF16)
CONV_REF(f16, DT_F16)
