/* conv.cu - conv2d, conv2d_dx, conv2d_dw: by cuDNN, or as products of tiles whose
 * views gather the patches (product.h; Chetlur et al., arXiv:1410.0759).
 *
 * cuDNN rounds its result to T and has no bias in f32: in 16 bits it does only
 * what nothing is added to.
 */
#include "kernels/cuda/plans.h"
#include "kernels/cuda/product.h"

static int pixels_in(const Conv2d *p) { return p->n * p->h * p->w; }
static int pixels_out(const Conv2d *p) { return p->n * conv2d_out(p, p->h) * conv2d_out(p, p->w); }
static size_t weights(const Conv2d *p) { return (size_t)p->cout * p->ks * p->ks * p->cin; }

static Linear as_linear(const Conv2d *p)
{
    Linear l = {p->n * p->h * p->w, p->cout, p->cin, p->alpha, p->wdt};
    return l;
}

/* x (VIEW_PATCH) or dy (VIEW_GRAD) as rows of the pixels (grid_h, grid_w) of the
 * other by taps and channels of this one (n,h,w,c). */
static View view_gather(const Conv2d *p, const void *map, int h, int w, int c, int grid_h,
                        int grid_w)
{
    View v = {};
    v.p = map, v.dt = OWN, v.vec = c % VEC == 0;
    v.rows = p->n * grid_h * grid_w, v.cols = p->ks * p->ks * c;
    v.h = h, v.w = w, v.c = c;
    v.ks = p->ks, v.stride = p->stride, v.pad = p->pad_lo;
    v.grid_w = grid_w, v.grid_hw = grid_h * grid_w;
    v.by_c = div_by(c), v.by_ks = div_by(p->ks), v.by_w = div_by(grid_w);
    v.by_hw = div_by(v.grid_hw);
    return v;
}

static View view_patches(const Conv2d *p, const void *x)
{
    return view_gather(p, x, p->h, p->w, p->cin, conv2d_out(p, p->h), conv2d_out(p, p->w));
}

/* w with a row for every output channel; or, `taps`, for every tap and output channel. */
static View view_weight(Dev *d, const Conv2d *p, const void *w, int taps, size_t *used)
{
    int all = p->ks * p->ks, k = all * p->cin;
    Dtype dt = p->wdt;
    if (dt != OWN && weights(p) > PRODUCT_DIRECT) {
        *used = product_weight_bytes(OWN, dt, weights(p));
        w = OP(product_weights)(d, w, dt, weights(p)), dt = OWN;
    }
    View v = view_matrix(w, dt, OWN, p->cout, k);
    if (!taps) return v;
    v.rows = all * p->cout, v.cols = p->cin, v.c = p->cout, v.by_c = div_by(p->cout);
    v.vec = dt == OWN && p->cin % VEC == 0;
    return v;
}

static Product product_new(int mode, int m, int n, int k, float alpha)
{
    Product q = {};
    q.mode = mode, q.conv = 1, q.m = m, q.n = n, q.k = k, q.alpha = alpha;
    q.vec = n % VEC == 0;
    return q;
}

/* cuDNN's y has only res in it, if it lies there; the rest is added now. */
static void add_rest(Dev *d, Product *q)
{
    if (q->res == q->y) q->res = NULL;
    if (!q->bias && !q->rowbias && !q->res) return;
    q->alpha = 1, q->splits = 1, q->part = (float *)q->y;
    OP(product_finish)(d, q);
}

extern "C" void OP(conv2d)(Dev *d, const Conv2d *p, void *y, const void *x, const void *w,
                           const float *b, const void *rowbias, const void *res)
{
    size_t used = 0;
    Linear l = as_linear(p);
    if (conv2d_is_linear(p) && !rowbias) {
        OP(linear)(d, &l, y, x, w, b, res);
        return;
    }
    Product q = product_new(PRODUCT_NT, pixels_out(p), p->cout, p->ks * p->ks * p->cin, p->alpha);
    q.y = y, q.bias = b, q.rowbias = rowbias, q.res = res;
    q.by_rows = div_by(conv2d_out(p, p->h) * conv2d_out(p, p->w));
    const Plan *plan = conv2d_library(d, p, OWN, PLAN_FORWARD);
    if (plan) {
        used = product_weight_bytes(OWN, p->wdt, weights(p));
        w = OP(product_weights)(d, w, p->wdt, weights(p));
        plan_conv2d_run(d, plan, used, p->alpha, y, x, w, res == y);
        add_rest(d, &q);
        return;
    }
    q.a = view_patches(p, x);
    q.b = view_weight(d, p, w, 0, &used);
    OP(product_run)(d, &q, used);
}

extern "C" void OP(conv2d_dx)(Dev *d, const Conv2d *p, void *dx, const void *dy, const void *w,
                              int acc)
{
    size_t used = 0;
    Linear l = as_linear(p);
    if (conv2d_is_linear(p)) {
        OP(linear_dx)(d, &l, dx, dy, w, acc);
        return;
    }
    const Plan *plan = acc && OWN != DT_F32 ? NULL : conv2d_library(d, p, OWN, PLAN_DX);
    if (plan) {
        used = product_weight_bytes(OWN, p->wdt, weights(p));
        w = OP(product_weights)(d, w, p->wdt, weights(p));
        plan_conv2d_run(d, plan, used, p->alpha, dx, dy, w, acc);
        return;
    }
    int ho = conv2d_out(p, p->h), wo = conv2d_out(p, p->w);
    Product q = product_new(PRODUCT_NN, pixels_in(p), p->cin, p->ks * p->ks * p->cout, p->alpha);
    q.a = view_gather(p, dy, ho, wo, p->cout, p->h, p->w);
    q.b = view_weight(d, p, w, 1, &used);
    q.y = dx, q.res = acc ? dx : NULL;
    OP(product_run)(d, &q, used);
}

extern "C" void OP(conv2d_dw)(Dev *d, const Conv2d *p, float *dw, float *db, const void *dy,
                              const void *x)
{
    Linear l = as_linear(p);
    if (conv2d_is_linear(p)) {
        OP(linear_dw)(d, &l, dw, db, dy, x);
        return;
    }
    const Plan *plan = dw ? conv2d_library(d, p, OWN, PLAN_DW) : NULL;
    if (plan) {
        plan_conv2d_run(d, plan, 0, p->alpha, dw, dy, x, 1);
    } else if (dw) {
        Product q = product_new(PRODUCT_TN, p->cout, p->ks * p->ks * p->cin, pixels_out(p),
                                p->alpha);
        q.a = view_matrix(dy, OWN, OWN, q.k, p->cout);
        q.b = view_patches(p, x);
        q.grad = dw;
        OP(product_run)(d, &q, 0);
    }
    if (db) OP(product_colsum)(d, db, dy, pixels_out(p), p->cout);
}
