/* adapter.c - weights composed of a base and an adapter's factors, forward and backward:
 * the definition. */
#include <float.h>

#include "kernels/ref/ref.h"

REF_INLINE void compose_any(Dtype dt, const Compose *p, void *w, const void *base, const float *a,
                            const float *b)
{
    for (size_t i = 0; i < p->count; i++)
        ref_put(dt, w, i,
                ref_get(p->wdt, base, i) + (double)p->alpha * a[i] * (b ? (double)b[i] : 1));
}

void compose_bwd_f32_ref(Dev *d, const Compose *p, float *da, float *db, const float *g,
                         const float *a, const float *b)
{
    (void)d;
    for (size_t i = 0; i < p->count; i++) {
        double e = (double)p->alpha * g[i], u = a[i], v = b ? (double)b[i] : 1;
        if (da) da[i] = (float)(e * v);
        if (db) db[i] = (float)(e * u);
    }
}

/* Where element (i1, i2, s, j1, j2) of the product is. */
REF_INLINE size_t kron_at(const Kron *p, int i1, int i2, int s, int j1, int j2)
{
    size_t row = ((size_t)i1 * (size_t)p->l2 + (size_t)i2) * (size_t)p->s + (size_t)s;
    return (row * (size_t)p->m1 + (size_t)j1) * (size_t)p->m2 + (size_t)j2;
}

#define KRON_EACH(p, i1, i2, s, j1, j2)                                                  \
    for (int i1 = 0; i1 < (p)->l1; i1++)                                                 \
        for (int i2 = 0; i2 < (p)->l2; i2++)                                             \
            for (int s = 0; s < (p)->s; s++)                                             \
                for (int j1 = 0; j1 < (p)->m1; j1++)                                     \
                    for (int j2 = 0; j2 < (p)->m2; j2++)

REF_INLINE void kron_any(Dtype dt, const Kron *p, void *w, const void *base, const float *w1,
                         const float *w2)
{
    KRON_EACH(p, i1, i2, s, j1, j2) {
        size_t i = kron_at(p, i1, i2, s, j1, j2);
        double v = (double)w1[i1 * p->m1 + j1] * w2[(i2 * p->s + s) * p->m2 + j2];
        ref_put(dt, w, i, ref_get(p->wdt, base, i) + (double)p->alpha * v);
    }
}

void kron_bwd_f32_ref(Dev *d, const Kron *p, float *dw1, float *dw2, const float *g,
                      const float *w1, const float *w2)
{
    (void)d;
    for (int i1 = 0; dw1 && i1 < p->l1; i1++)
        for (int j1 = 0; j1 < p->m1; j1++) {
            double sum = 0;
            for (int i2 = 0; i2 < p->l2; i2++)
                for (int k = 0; k < p->s * p->m2; k++)
                    sum += (double)g[kron_at(p, i1, i2, k / p->m2, j1, k % p->m2)] *
                           w2[i2 * p->s * p->m2 + k];
            dw1[i1 * p->m1 + j1] += (float)((double)p->alpha * sum);
        }
    for (int i2 = 0; dw2 && i2 < p->l2; i2++)
        for (int k = 0; k < p->s * p->m2; k++) {
            double sum = 0;
            for (int i1 = 0; i1 < p->l1; i1++)
                for (int j1 = 0; j1 < p->m1; j1++)
                    sum += (double)g[kron_at(p, i1, i2, k / p->m2, j1, k % p->m2)] *
                           w1[i1 * p->m1 + j1];
            dw2[i2 * p->s * p->m2 + k] += (float)((double)p->alpha * sum);
        }
}

/* Norm i has `count` elements: x[first], x[first + step] and so on. */
typedef struct { size_t norms, count, step, next; } DoraAxis;

REF_INLINE DoraAxis dora_axis(const Dora *p)
{
    size_t n = (size_t)p->n, sk = (size_t)p->s * (size_t)p->k, k = (size_t)p->k;
    return p->in ? (DoraAxis){k, n * (size_t)p->s, k, 1} : (DoraAxis){n, sk, 1, sk};
}

REF_INLINE void dora_any(Dtype dt, const Dora *p, void *w, float *norm, const float *v,
                         const float *m)
{
    DoraAxis a = dora_axis(p);
    for (size_t i = 0; i < a.norms; i++) {
        double sum = 0;
        for (size_t j = 0; j < a.count; j++) {
            double x = v[i * a.next + j * a.step];
            sum += x * x;
        }
        norm[i] = (float)sqrt(sum);
        for (size_t j = 0; j < a.count; j++) {
            size_t at = i * a.next + j * a.step;
            ref_put(dt, w, at, v[at] * (m[i] / (sqrt(sum) + (double)FLT_EPSILON)));
        }
    }
}

/* With r = |v| and u = r + eps: w = v m / u, so dm = (g.v) / u and
 * dv = g m/u - v (g.v) m / (u^2 r). */
void dora_bwd_f32_ref(Dev *d, const Dora *p, float *dv, float *dm, const float *g, const float *v,
                      const float *norm, const float *m)
{
    DoraAxis a = dora_axis(p);
    (void)d;
    for (size_t i = 0; i < a.norms; i++) {
        double dot = 0, r = norm[i], u = r + (double)FLT_EPSILON;
        for (size_t j = 0; j < a.count; j++) {
            size_t at = i * a.next + j * a.step;
            dot += (double)g[at] * v[at];
        }
        double pull = r > 0 ? dot * m[i] / (u * u * r) : 0;
        for (size_t j = 0; j < a.count; j++) {
            size_t at = i * a.next + j * a.step;
            dv[at] = (float)(g[at] * (m[i] / u) - v[at] * pull);
        }
        if (dm) dm[i] += (float)(dot / u);
    }
}

REF(compose, (Dev *d, const Compose *p, void *w, const void *base, const float *a, const float *b),
    (DT, p, w, base, a, b))
REF(kron, (Dev *d, const Kron *p, void *w, const void *base, const float *w1, const float *w2),
    (DT, p, w, base, w1, w2))
REF(dora, (Dev *d, const Dora *p, void *w, float *norm, const float *v, const float *m),
    (DT, p, w, norm, v, m))

REF_INLINE void dropout_any(Dtype dt, const Dropout *p, void *y, const void *x, const int32_t *seed,
                            int acc)
{
    uint32_t s = (uint32_t)*seed;
    float scale = 1 / ((1 - p->each) * (1 - p->channel) * (1 - p->row));
    int whole = dropout_draw(s, p, 3, 0) >= p->all;
    for (size_t n = 0; n < (size_t)p->n; n++)
        for (size_t t = 0; t < (size_t)p->t; t++)
            for (size_t c = 0; c < (size_t)p->c; c++) {
                size_t i = (n * (size_t)p->t + t) * (size_t)p->c + c;
                int keep = whole && dropout_draw(s, p, 0, (uint32_t)i) >= p->each &&
                           dropout_draw(s, p, 1, (uint32_t)(n * (size_t)p->c + c)) >= p->channel &&
                           dropout_draw(s, p, 2, (uint32_t)n) >= p->row;
                ref_acc(dt, y, i, keep ? ref_get(dt, x, i) * (double)scale : 0, acc);
            }
}

REF(dropout, (Dev *d, const Dropout *p, void *y, const void *x, const int32_t *seed, int acc),
    (DT, p, y, x, seed, acc))
