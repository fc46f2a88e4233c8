/* norm.c - group and layer normalisation, forward and backward: the definition.
 *
 * Both compute xhat = (x - mean) rstd over a set of m elements and
 * y = f(xhat w + b). With g = dy f' w, the gradient of x is
 * rstd (g - mean(g) - xhat mean(g xhat)), the means over the same set.
 */
#include "kernels/ref/ref.h"

/* z = xhat w + b of one element of a group, and dy f'(z). */
typedef struct { double xhat, dz; } Back;

REF_INLINE Back group_back(Dtype dt, const GroupNorm *p, size_t at, int c, const void *dy,
                           const void *x, const float *stats, const float *w, const float *b)
{
    size_t n = at / ((size_t)p->hw * p->c), s = (n * p->groups + c / (p->c / p->groups)) * 2;
    double xhat = (ref_get(dt, x, at) - (double)stats[s]) * (double)stats[s + 1];
    double dz = ref_get(dt, dy, at);
    if (p->silu) {
        double z = xhat * (double)w[c] + (double)b[c], sg = ref_sigmoid(z);
        dz *= sg * (1 + z * (1 - sg));
    }
    return (Back){xhat, dz};
}

REF_INLINE void groupnorm_any(Dtype dt, const GroupNorm *p, void *y, float *stats, const void *x,
                              const float *w, const float *b)
{
    assert(p->c % p->groups == 0);
    int cg = p->c / p->groups;
    double m = (double)p->hw * cg;
    for (int s = 0; s < p->n * p->groups; s++) {
        int c0 = s % p->groups * cg;
        size_t at = (size_t)(s / p->groups) * p->hw * p->c + c0;
        double mean = 0, var = 0;
        for (int i = 0; i < p->hw && !p->given; i++)
            for (int c = 0; c < cg; c++) mean += ref_get(dt, x, at + (size_t)i * p->c + c) / m;
        for (int i = 0; i < p->hw && !p->given; i++)
            for (int c = 0; c < cg; c++) {
                double e = ref_get(dt, x, at + (size_t)i * p->c + c) - mean;
                var += e * e / m;
            }
        double rstd = 1 / sqrt(var + (double)p->eps);
        if (p->given) mean = (double)stats[s * 2], rstd = (double)stats[s * 2 + 1];
        for (int i = 0; i < p->hw && y; i++)
            for (int c = 0; c < cg; c++) {
                size_t k = at + (size_t)i * p->c + c;
                double xhat = (ref_get(dt, x, k) - mean) * rstd;
                double z = xhat * (double)w[c0 + c] + (double)b[c0 + c];
                ref_put(dt, y, k, p->silu ? z * ref_sigmoid(z) : z);
            }
        if (stats) stats[s * 2] = (float)mean, stats[s * 2 + 1] = (float)rstd;
    }
}

/* dw, db: sums over pictures and pixels of one channel. */
REF_INLINE void group_params(Dtype dt, const GroupNorm *p, float *dw, float *db, const void *dy,
                             const void *x, const float *stats, const float *w, const float *b)
{
    for (int c = 0; c < p->c; c++) {
        double sw = 0, sb = 0;
        for (size_t i = 0; i < (size_t)p->n * p->hw; i++) {
            Back e = group_back(dt, p, i * p->c + c, c, dy, x, stats, w, b);
            sw += e.dz * e.xhat, sb += e.dz;
        }
        if (dw) dw[c] += (float)sw;
        if (db) db[c] += (float)sb;
    }
}

REF_INLINE void groupnorm_bwd_any(Dtype dt, const GroupNorm *p, void *dx, float *dw, float *db,
                                  const void *dy, const void *x, const float *stats,
                                  const float *w, const float *b, int acc)
{
    assert(p->c % p->groups == 0 && !(acc && dx == dy));
    int cg = p->c / p->groups;
    double m = (double)p->hw * cg;
    if (dw || db) group_params(dt, p, dw, db, dy, x, stats, w, b);
    for (int s = 0; s < p->n * p->groups; s++) {
        int c0 = s % p->groups * cg;
        size_t at = (size_t)(s / p->groups) * p->hw * p->c + c0;
        double g1 = 0, g2 = 0;
        for (int i = 0; i < p->hw; i++)
            for (int c = 0; c < cg; c++) {
                Back e = group_back(dt, p, at + (size_t)i * p->c + c, c0 + c, dy, x, stats, w, b);
                double g = e.dz * (double)w[c0 + c];
                g1 += g / m, g2 += g * e.xhat / m;
            }
        for (int i = 0; i < p->hw; i++)
            for (int c = 0; c < cg; c++) {
                size_t k = at + (size_t)i * p->c + c;
                Back e = group_back(dt, p, k, c0 + c, dy, x, stats, w, b);
                double g = e.dz * (double)w[c0 + c];
                ref_acc(dt, dx, k, (double)stats[s * 2 + 1] * (g - g1 - e.xhat * g2), acc);
            }
    }
}

REF_INLINE void layernorm_any(Dtype dt, const LayerNorm *p, void *y, float *stats, const void *x,
                              const float *w, const float *b)
{
    for (size_t r = 0; r < (size_t)p->rows; r++) {
        size_t at = r * p->c;
        double mean = 0, var = 0;
        for (int c = 0; c < p->c; c++) mean += ref_get(dt, x, at + c) / p->c;
        for (int c = 0; c < p->c; c++) {
            double e = ref_get(dt, x, at + c) - mean;
            var += e * e / p->c;
        }
        double rstd = 1 / sqrt(var + (double)p->eps);
        for (int c = 0; c < p->c; c++)
            ref_put(dt, y, at + c,
                    (ref_get(dt, x, at + c) - mean) * rstd * (double)w[c] + (double)b[c]);
        if (stats) stats[r * 2] = (float)mean, stats[r * 2 + 1] = (float)rstd;
    }
}

REF_INLINE double layer_xhat(Dtype dt, const LayerNorm *p, const void *x, const float *stats,
                             size_t r, int c)
{
    return (ref_get(dt, x, r * p->c + c) - (double)stats[r * 2]) * (double)stats[r * 2 + 1];
}

REF_INLINE void layernorm_bwd_any(Dtype dt, const LayerNorm *p, void *dx, float *dw, float *db,
                                  const void *dy, const void *x, const float *stats,
                                  const float *w, int acc)
{
    for (int c = 0; c < p->c && (dw || db); c++) {
        double sw = 0, sb = 0;
        for (size_t r = 0; r < (size_t)p->rows; r++) {
            double g = ref_get(dt, dy, r * p->c + c);
            sw += g * layer_xhat(dt, p, x, stats, r, c), sb += g;
        }
        if (dw) dw[c] += (float)sw;
        if (db) db[c] += (float)sb;
    }
    for (size_t r = 0; r < (size_t)p->rows; r++) {
        double g1 = 0, g2 = 0;
        for (int c = 0; c < p->c; c++) {
            double g = ref_get(dt, dy, r * p->c + c) * (double)w[c];
            g1 += g / p->c, g2 += g * layer_xhat(dt, p, x, stats, r, c) / p->c;
        }
        for (int c = 0; c < p->c; c++) {
            double g = ref_get(dt, dy, r * p->c + c) * (double)w[c];
            double v = g - g1 - layer_xhat(dt, p, x, stats, r, c) * g2;
            ref_acc(dt, dx, r * p->c + c, (double)stats[r * 2 + 1] * v, acc);
        }
    }
}

REF(groupnorm, (Dev *d, const GroupNorm *p, void *y, float *stats, const void *x, const float *w,
                const float *b),
    (DT, p, y, stats, x, w, b))
REF(groupnorm_bwd, (Dev *d, const GroupNorm *p, void *dx, float *dw, float *db, const void *dy,
                    const void *x, const float *stats, const float *w, const float *b, int acc),
    (DT, p, dx, dw, db, dy, x, stats, w, b, acc))
REF(layernorm, (Dev *d, const LayerNorm *p, void *y, float *stats, const void *x, const float *w,
                const float *b),
    (DT, p, y, stats, x, w, b))
REF(layernorm_bwd, (Dev *d, const LayerNorm *p, void *dx, float *dw, float *db, const void *dy,
                    const void *x, const float *stats, const float *w, int acc),
    (DT, p, dx, dw, db, dy, x, stats, w, acc))
