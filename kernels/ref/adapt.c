/* adapt.c - the methods that find their rate themselves, in plain C: the definition of
 * kernels/optim.h, adapt_stats and adapt_step.
 *
 * Sums run in f64 in index order within each part (optim_part), then over the parts.
 */
#include <math.h>

#include "kernels/optim.h"

/* Adapt in f32. */
typedef struct {
    AdaptKind kind;
    float b1, c1, b2, b3, bd, cm, cv, cs, cd, v0, l2, eps, clip, lr, keep;
    size_t slice;
    int first;
} AdaptF;

static AdaptF adapt_f32(const Adapt *h)
{
    return (AdaptF){h->kind, (float)h->beta1, (float)(1 - h->beta1), (float)h->beta2,
                    (float)h->beta3, (float)h->beta_d, (float)h->m_scale, (float)h->v_scale,
                    (float)h->s_scale, (float)h->diff_scale, (float)h->v_first, (float)h->l2,
                    (float)h->eps, (float)h->clip, (float)h->lr, (float)(1 - h->decay),
                    (size_t)h->slice, h->first};
}

static void moments(const AdaptF *c, size_t i, const AdaptState *s, float g, float v_of)
{
    if (s->m) s->m[i] = c->b1 * s->m[i] + c->cm * g;
    s->v[i] = c->b2 * s->v[i] + c->cv * v_of * v_of;
}

/* s advances by g, and its absolute value is counted. */
static float running(const AdaptF *c, size_t i, const AdaptState *s, float g, double sum[3])
{
    s->s[i] = c->b3 * s->s[i] + c->cs * g;
    sum[1] += fabs((double)s->s[i]);
    return s->s[i];
}

/* ADAM, PREPRINT, ADAGRAD, ADAN, ADAN_IP */
static void adam_like(const AdaptF *c, size_t i, float p, const AdaptState *s, float g,
                      double sum[3])
{
    int adan = c->kind == ADAPT_ADAN || c->kind == ADAPT_ADAN_IP;
    int before = c->kind == ADAPT_ADAM || c->kind == ADAPT_ADAN_IP;
    float v_of = g;
    if (c->first && c->kind == ADAPT_ADAGRAD) s->v[i] = c->v0, s->x[i] = p;
    if (adan) {
        float h = c->first ? 0 : g - s->x[i];
        s->diff[i] = c->bd * s->diff[i] + c->cd * h;
        s->x[i] = g;
        v_of = g + c->bd * h;
    }
    if (before) sum[0] += (double)g * (s->s[i] / (sqrtf(s->v[i]) + c->eps));
    moments(c, i, s, g, v_of);
    float now = running(c, i, s, g, sum), root = sqrtf(s->v[i]) + c->eps;
    if (before) return;
    sum[0] += (double)(g * g / root);
    sum[2] += (double)(now * now / root);
}

static void lion(const AdaptF *c, size_t i, float *p, const AdaptState *s, float g, double sum[3])
{
    float u = c->b1 * s->m[i] + c->c1 * g;
    u = (float)((u > 0) - (u < 0));
    p[i] = p[i] * c->keep - c->lr * u;
    s->m[i] = c->b2 * s->m[i] + c->cm * g;
    sum[0] += (double)(u * s->s[i]);
    running(c, i, s, u, sum);
}

static void sgd(const AdaptF *c, size_t i, float p, const AdaptState *s, float g, double sum[3])
{
    if (c->first) s->x[i] = p;
    sum[0] += (double)g * s->s[i];
    s->s[i] += c->cs * g;
    sum[1] += (double)s->s[i] * s->s[i];
}

static void prodigy(const AdaptF *c, size_t i, float p, const AdaptState *s, float g,
                    double sum[3])
{
    size_t k = i / c->slice;
    moments(c, i, s, g, g);
    if (k * c->slice != i) return;
    if (c->first) s->x[k] = p;
    sum[0] += (double)g * (s->x[k] - p);
    running(c, k, s, g, sum);
}

void adapt_stats_ref(Dev *d, const Adapt *h, size_t count, double sums[3], float *p,
                     const AdaptState *s, const float *g)
{
    AdaptF c = adapt_f32(h);
    double part[OPTIM_PARTS][3];
#pragma omp parallel for num_threads(d->threads)
    for (int k = 0; k < OPTIM_PARTS; k++) {
        double sum[3] = {0};
        size_t end = optim_part(count, 16, k + 1);
        for (size_t i = optim_part(count, 16, k); i < end; i++) {
            float gi = g[i] * c.clip + c.l2 * p[i];
            switch (c.kind) {
            case ADAPT_LION: lion(&c, i, p, s, gi, sum); break;
            case ADAPT_SGD: sgd(&c, i, p[i], s, gi, sum); break;
            case ADAPT_PRODIGY: prodigy(&c, i, p[i], s, gi, sum); break;
            default: adam_like(&c, i, p[i], s, gi, sum);
            }
        }
        for (int j = 0; j < 3; j++) part[k][j] = sum[j];
    }
    for (int j = 0; j < 3; j++) {
        sums[j] = 0;
        for (int k = 0; k < OPTIM_PARTS; k++) sums[j] += part[k][j];
    }
}

void adapt_step_ref(Dev *d, const AdaptStep *h, size_t count, float *p, const AdaptState *s)
{
    float lr = (float)h->lr, decay = (float)h->decay, eps = (float)h->eps, bd = (float)h->beta_d;
    float keep = (float)h->keep, shrink = (float)h->shrink;
    float stay = (float)h->momentum, move = (float)(1 - h->momentum);
#pragma omp parallel for num_threads(d->threads)
    for (size_t i = 0; i < count; i++) {
        float root = s->v ? sqrtf(s->v[i]) + eps : 1, kept;
        switch (h->kind) {
        case ADAPT_LION: break;
        case ADAPT_ADAGRAD:
        case ADAPT_SGD:
            p[i] = stay * p[i] + move * (s->x[i] - s->s[i] / root);
            break;
        case ADAPT_ADAN:
        case ADAPT_ADAN_IP:
            p[i] = (p[i] * keep - (s->m[i] + bd * s->diff[i]) / root) / shrink;
            break;
        default:
            kept = p[i] - decay * p[i];
            p[i] = kept - lr * s->m[i] / root;
        }
    }
}
