/* loss.c - training losses and the posterior of the autoencoder: the definition. */
#include "kernels/ref/ref.h"

REF_INLINE double sign(double x) { return (double)((x > 0) - (x < 0)); }

/* log(1 + exp(x)) - t x without overflow. */
REF_INLINE double bce(double x, double t) { return fmax(x, 0) - t * x + log1p(exp(-fabs(x))); }

REF_INLINE double element(LossKind kind, double x, double t, double c)
{
    double e = x - t;
    if (kind == LOSS_BCE) return bce(x, t);
    if (kind == LOSS_L2) return e * e;
    if (kind == LOSS_L1) return fabs(e);
    return 2 * (kind == LOSS_HUBER ? c : 1) * (sqrt(e * e + c * c) - c);
}

REF_INLINE double element_slope(LossKind kind, double x, double t, double c)
{
    double e = x - t;
    if (kind == LOSS_BCE) return ref_sigmoid(x) - t;
    if (kind == LOSS_L2) return 2 * e;
    if (kind == LOSS_L1) return sign(e);
    double root = sqrt(e * e + c * c);
    return root > 0 ? 2 * (kind == LOSS_HUBER ? c : 1) * e / root : 0;
}

REF_INLINE double huber(const Loss *p, const float *huber_c, size_t n)
{
    return p->kind == LOSS_HUBER || p->kind == LOSS_SMOOTH_L1 ? (double)huber_c[n] : 0;
}

REF_INLINE void loss_any(Dtype dt, const Loss *p, float *loss, float *per, const void *pred,
                         const float *target, const float *mask, const float *weight,
                         const float *huber_c)
{
    size_t hw = (size_t)p->hw, c = (size_t)p->c;
    double total = 0;
    for (size_t n = 0; n < (size_t)p->n; n++) {
        double sum = 0, hc = huber(p, huber_c, n);
        for (size_t i = 0; i < hw * c; i++) {
            size_t k = n * hw * c + i;
            double m = mask ? (double)mask[n * hw + i / c] : 1;
            sum += m * element(p->kind, ref_get(dt, pred, k), (double)target[k], hc);
        }
        double one = (double)weight[n] * sum / (double)(hw * c);
        if (per) per[n] = (float)one;
        total += one;
    }
    if (loss) *loss = (float)(total / p->n);
}

REF_INLINE void loss_bwd_any(Dtype dt, const Loss *p, void *dpred, const float *scale,
                             const void *pred, const float *target, const float *mask,
                             const float *weight, const float *huber_c)
{
    size_t hw = (size_t)p->hw, c = (size_t)p->c;
    for (size_t n = 0; n < (size_t)p->n; n++) {
        double s = (double)*scale * (double)weight[n] / ((double)(hw * c) * p->n);
        double hc = huber(p, huber_c, n);
        for (size_t i = 0; i < hw * c; i++) {
            size_t k = n * hw * c + i;
            double m = mask ? (double)mask[n * hw + i / c] : 1;
            double x = ref_get(dt, pred, k), t = (double)target[k];
            ref_put(dt, dpred, k, s * m * element_slope(p->kind, x, t, hc));
        }
    }
}

/* Elements of the picture, of its vertical and of its horizontal differences. */
REF_INLINE void recon_counts(const Recon *p, double *all, double *down, double *right)
{
    *all = (double)p->n * p->h * p->w * p->c;
    *down = (double)p->n * (p->h - 1) * p->w * p->c;
    *right = (double)p->n * p->h * (p->w - 1) * p->c;
}

REF_INLINE double recon_error(Dtype dt, const void *y, const float *x, size_t k)
{
    return ref_get(dt, y, k) - (double)x[k];
}

REF_INLINE void recon_any(Dtype dt, const Recon *p, float *loss, const void *y, const float *x)
{
    size_t row = (size_t)p->w * p->c, h = (size_t)p->h, c = (size_t)p->c;
    double all, down, right, sum = 0, sd = 0, sr = 0;
    recon_counts(p, &all, &down, &right);
    for (size_t r = 0; r < (size_t)p->n * h; r++)
        for (size_t i = 0; i < row; i++) {
            size_t k = r * row + i;
            double e = recon_error(dt, y, x, k);
            sum += fabs(e) + e * e;
            if (r % h + 1 < h) sd += fabs(recon_error(dt, y, x, k + row) - e);
            if (i + c < row) sr += fabs(recon_error(dt, y, x, k + c) - e);
        }
    double edges = (down ? sd / down : 0) + (right ? sr / right : 0);
    *loss = (float)(sum / all + (double)p->edge * edges);
}

REF_INLINE void recon_bwd_any(Dtype dt, const Recon *p, void *dy, const float *scale,
                              const void *y, const float *x)
{
    size_t row = (size_t)p->w * p->c, h = (size_t)p->h, c = (size_t)p->c;
    double all, down, right;
    recon_counts(p, &all, &down, &right);
    for (size_t r = 0; r < (size_t)p->n * h; r++)
        for (size_t i = 0; i < row; i++) {
            size_t k = r * row + i;
            double e = recon_error(dt, y, x, k), v = 0, u = 0;
            if (r % h) v += sign(e - recon_error(dt, y, x, k - row));
            if (r % h + 1 < h) v -= sign(recon_error(dt, y, x, k + row) - e);
            if (i >= c) u += sign(e - recon_error(dt, y, x, k - c));
            if (i + c < row) u -= sign(recon_error(dt, y, x, k + c) - e);
            double g = (sign(e) + 2 * e) / all;
            g += (double)p->edge * ((down ? v / down : 0) + (right ? u / right : 0));
            ref_put(dt, dy, k, (double)*scale * g);
        }
}

REF_INLINE double clamp_logvar(double x) { return fmin(fmax(x, -30), 20); }

REF_INLINE void gauss_any(Dtype dt, const Gauss *p, void *z, float *kl, const void *m,
                          const float *noise)
{
    size_t c = (size_t)p->c;
    double sum = 0;
    for (size_t i = 0; i < (size_t)p->rows * c; i++) {
        size_t k = i / c * 2 * c + i % c;
        double mean = ref_get(dt, m, k), lv = clamp_logvar(ref_get(dt, m, k + c));
        if (z) ref_put(dt, z, i, mean + exp(lv / 2) * (double)noise[i]);
        sum += (mean * mean + exp(lv) - 1 - lv) / 2;
    }
    if (kl) *kl = (float)(sum / ((double)p->rows * p->c));
}

REF_INLINE void gauss_bwd_any(Dtype dt, const Gauss *p, void *dm, const void *dz,
                              const float *kl_scale, const void *m, const float *noise)
{
    size_t c = (size_t)p->c;
    double s = kl_scale ? (double)*kl_scale / ((double)p->rows * p->c) : 0;
    for (size_t i = 0; i < (size_t)p->rows * c; i++) {
        size_t k = i / c * 2 * c + i % c;
        double mean = ref_get(dt, m, k), raw = ref_get(dt, m, k + c), lv = clamp_logvar(raw);
        double g = dz ? ref_get(dt, dz, i) : 0, dlv = s * (exp(lv) - 1) / 2;
        if (dz) dlv += g * (double)noise[i] * exp(lv / 2) / 2;
        ref_put(dt, dm, k, g + s * mean);
        ref_put(dt, dm, k + c, raw == lv ? dlv : 0);
    }
}

REF(loss, (Dev *d, const Loss *p, float *loss, float *per, const void *pred, const float *target,
           const float *mask, const float *weight, const float *huber_c),
    (DT, p, loss, per, pred, target, mask, weight, huber_c))
REF(loss_bwd, (Dev *d, const Loss *p, void *dpred, const float *scale, const void *pred,
               const float *target, const float *mask, const float *weight, const float *huber_c),
    (DT, p, dpred, scale, pred, target, mask, weight, huber_c))
REF(recon, (Dev *d, const Recon *p, float *loss, const void *y, const float *x),
    (DT, p, loss, y, x))
REF(recon_bwd, (Dev *d, const Recon *p, void *dy, const float *scale, const void *y,
                const float *x),
    (DT, p, dy, scale, y, x))
REF(gauss, (Dev *d, const Gauss *p, void *z, float *kl, const void *m, const float *noise),
    (DT, p, z, kl, m, noise))
REF(gauss_bwd, (Dev *d, const Gauss *p, void *dm, const void *dz, const float *kl_scale,
                const void *m, const float *noise),
    (DT, p, dm, dz, kl_scale, m, noise))
