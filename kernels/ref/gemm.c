/* gemm.c - linear, linear_dx, linear_dw: the definition (ops.h). Sums in f64. */
#include "kernels/impl.h"
#include "kernels/ref/elem.h"

static void forward(Dev *d, const Linear *p, Dtype dt, void *y, const void *x, const void *w,
                    const float *b, const void *res)
{
#pragma omp parallel for num_threads(d->threads)
    for (int m = 0; m < p->m; m++)
        for (int n = 0; n < p->n; n++) {
            size_t k = (size_t)p->k, at = (size_t)m * p->n + n;
            double s = 0;
            for (size_t i = 0; i < k; i++)
                s += elem_get(dt, x, m * k + i) * elem_weight(p->wdt, w, 1, p->k, n, i);
            s *= p->alpha;
            if (b) s += b[n];
            if (res) s += elem_get(dt, res, at);
            elem_put(dt, y, at, s);
        }
}

static void backward_x(Dev *d, const Linear *p, Dtype dt, void *dx, const void *dy, const void *w,
                       int acc)
{
#pragma omp parallel for num_threads(d->threads)
    for (int m = 0; m < p->m; m++)
        for (int k = 0; k < p->k; k++) {
            size_t n = (size_t)p->n, at = (size_t)m * p->k + k;
            double s = 0;
            for (size_t i = 0; i < n; i++)
                s += elem_get(dt, dy, m * n + i) * elem_weight(p->wdt, w, 1, p->k, i, k);
            s *= p->alpha;
            if (acc) s += elem_get(dt, dx, at);
            elem_put(dt, dx, at, s);
        }
}

static void backward_w(Dev *d, const Linear *p, Dtype dt, float *dw, float *db, const void *dy,
                       const void *x)
{
#pragma omp parallel for num_threads(d->threads)
    for (int n = 0; n < p->n; n++) {
        size_t rows = (size_t)p->m;
        for (int k = 0; dw && k < p->k; k++) {
            double s = 0;
            for (size_t m = 0; m < rows; m++)
                s += elem_get(dt, dy, m * p->n + n) * elem_get(dt, x, m * p->k + k);
            size_t at = (size_t)n * p->k + k;
            dw[at] = (float)(dw[at] + p->alpha * s);
        }
        if (!db) continue;
        double s = 0;
        for (size_t m = 0; m < rows; m++) s += elem_get(dt, dy, m * p->n + n);
        db[n] = (float)(db[n] + s);
    }
}

#define LINEAR_REF(dt, DT)                                                                 \
    void linear_##dt##_ref(Dev *d, const Linear *p, void *y, const void *x, const void *w, \
                           const float *b, const void *res)                                \
    { forward(d, p, DT, y, x, w, b, res); }                                                \
    void linear_dx_##dt##_ref(Dev *d, const Linear *p, void *dx, const void *dy,           \
                              const void *w, int acc)                                      \
    { backward_x(d, p, DT, dx, dy, w, acc); }                                              \
    void linear_dw_##dt##_ref(Dev *d, const Linear *p, float *dw, float *db,               \
                              const void *dy, const void *x)                               \
    { backward_w(d, p, DT, dw, db, dy, x); }
LINEAR_REF(f32, DT_F32)
LINEAR_REF(bf16, DT_BF16)
LINEAR_REF(f16, DT_F16)
