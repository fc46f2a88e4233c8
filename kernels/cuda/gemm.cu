/* gemm.cu - linear, linear_dx, linear_dw: by cuBLASLt, or by products of tiles
 * (product.h) for low ranks, for 16-bit results with a bias, and for whatever the
 * library refuses.
 */
#include "kernels/cuda/plans.h"
#include "kernels/cuda/product.h"

/* w of another dtype as a product reads it: small ones as they are, others from
 * a copy in scratch, of *used bytes. */
static View weight_view(Dev *d, const Linear *p, const void *w, size_t *used)
{
    size_t count = (size_t)p->n * (size_t)p->k;
    if (p->wdt == OWN || count <= PRODUCT_DIRECT) return view_matrix(w, p->wdt, OWN, p->n, p->k);
    *used = product_weight_bytes(OWN, p->wdt, count);
    w = OP(product_weights)(d, w, p->wdt, count);
    return view_matrix(w, OWN, OWN, p->n, p->k);
}

static Product product_new(int mode, int m, int n, int k, float alpha)
{
    Product q = {};
    q.mode = mode, q.m = m, q.n = n, q.k = k, q.alpha = alpha;
    q.vec = n % VEC == 0;
    return q;
}

extern "C" void OP(linear)(Dev *d, const Linear *p, void *y, const void *x, const void *w,
                           const float *b, const void *res)
{
    size_t count = (size_t)p->n * (size_t)p->k, used = 0;
    const Plan *plan = linear_library(d, p, OWN, PLAN_FORWARD, b != NULL);
    if (plan) {
        used = product_weight_bytes(OWN, p->wdt, count);
        w = OP(product_weights)(d, w, p->wdt, count);
        plan_linear_run(d, plan, used, p->alpha, y, x, w, b, res);
        return;
    }
    Product q = product_new(PRODUCT_NT, p->m, p->n, p->k, p->alpha);
    q.a = view_matrix(x, OWN, OWN, p->m, p->k);
    q.b = weight_view(d, p, w, &used);
    q.y = y, q.bias = b, q.res = res;
    OP(product_run)(d, &q, used);
}

extern "C" void OP(linear_dx)(Dev *d, const Linear *p, void *dx, const void *dy, const void *w,
                              int acc)
{
    size_t count = (size_t)p->n * (size_t)p->k, used = 0;
    const Plan *plan = linear_library(d, p, OWN, PLAN_DX, 0);
    if (plan) {
        used = product_weight_bytes(OWN, p->wdt, count);
        w = OP(product_weights)(d, w, p->wdt, count);
        plan_linear_run(d, plan, used, p->alpha, dx, dy, w, NULL, acc ? dx : NULL);
        return;
    }
    Product q = product_new(PRODUCT_NN, p->m, p->k, p->n, p->alpha);
    q.a = view_matrix(dy, OWN, OWN, p->m, p->n);
    q.b = weight_view(d, p, w, &used);
    q.y = dx, q.res = acc ? dx : NULL;
    OP(product_run)(d, &q, used);
}

extern "C" void OP(linear_dw)(Dev *d, const Linear *p, float *dw, float *db, const void *dy,
                              const void *x)
{
    const Plan *plan = dw ? linear_library(d, p, OWN, PLAN_DW, 0) : NULL;
    if (plan) {
        plan_linear_run(d, plan, 0, p->alpha, dw, dy, x, NULL, dw);
    } else if (dw) {
        Product q = product_new(PRODUCT_TN, p->n, p->k, p->m, p->alpha);
        q.a = view_matrix(dy, OWN, OWN, p->m, p->n);
        q.b = view_matrix(x, OWN, OWN, p->m, p->k);
        q.grad = dw;
        OP(product_run)(d, &q, 0);
    }
    if (db) OP(product_colsum)(d, db, dy, p->m, p->n);
}
