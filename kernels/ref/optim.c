/* optim.c - optimizer updates in plain C: the definition of kernels/optim.h.
 *
 * A part (optim_part) is worked by one thread; its sums run in f64 in index
 * order and are added in the order of the parts.
 */
#include <math.h>

#include "kernels/optim.h"

void sumsq_ref(Dev *d, size_t count, double *out, const float *g)
{
    double part[OPTIM_PARTS];
#pragma omp parallel for num_threads(d->threads)
    for (int k = 0; k < OPTIM_PARTS; k++) {
        double sum = 0;
        size_t end = optim_part(count, 16, k + 1);
        for (size_t i = optim_part(count, 16, k); i < end; i++) sum += (double)g[i] * g[i];
        part[k] = sum;
    }
    *out = 0;
    for (int k = 0; k < OPTIM_PARTS; k++) *out += part[k];
}

void scale_ref(Dev *d, size_t count, float *g, float s)
{
#pragma omp parallel for num_threads(d->threads)
    for (size_t i = 0; i < count; i++) g[i] *= s;
}

void adamw_ref(Dev *d, const AdamW *h, size_t count, float *p, float *m, float *v, const float *g)
{
    float clip = (float)h->clip, keep = (float)(1 - h->lr * h->weight_decay);
    float c1 = (float)(1 - h->beta1), b2 = (float)h->beta2, c2 = (float)(1 - h->beta2);
    float root = (float)sqrt(h->bias2), eps = (float)h->eps, lr = (float)(h->lr / h->bias1);
#pragma omp parallel for num_threads(d->threads)
    for (size_t i = 0; i < count; i++) {
        float gi = g[i] * clip;
        m[i] += c1 * (gi - m[i]);
        v[i] = b2 * v[i] + c2 * gi * gi;
        p[i] = p[i] * keep - lr * m[i] / (sqrtf(v[i]) / root + eps);
    }
}

/* Index of the value of the ascending map (256) nearest to x, by the 255
 * midpoints between its values: how many of them are below x. */
static int nearest(const float *mid, float x)
{
    int at = 0;
    for (int step = 128; step; step >>= 1)
        if (mid[at + step - 1] < x) at += step;
    return at;
}

/* Rounds n values of a block to its 8-bit form. */
static void quantize(uint8_t *q, float *absmax, const float *mid, const float *x, size_t n)
{
    float top = 0;
    for (size_t i = 0; i < n; i++) top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    *absmax = top;
    for (size_t i = 0; i < n; i++) q[i] = (uint8_t)nearest(mid, top > 0 ? x[i] / top : 0);
}

void adamw8_ref(Dev *d, const AdamW *h, size_t count, float *p, const Moments8 *s,
                const float *map, const float *g)
{
    float clip = (float)h->clip, keep = (float)(1 - h->lr * h->weight_decay);
    float b1 = (float)h->beta1, c1 = (float)(1 - h->beta1);
    float b2 = (float)h->beta2, c2 = (float)(1 - h->beta2);
    float root = (float)sqrt(h->bias2), eps = (float)h->eps, lr = (float)(h->lr / h->bias1);
    float mid[2][256];
    for (int i = 0; i < 255; i++) {
        mid[0][i] = (map[i] + map[i + 1]) / 2;
        mid[1][i] = (map[256 + i] + map[257 + i]) / 2;
    }
#pragma omp parallel for num_threads(d->threads)
    for (size_t at = 0; at < count; at += ADAMW8_BLOCK) {
        size_t block = at / ADAMW8_BLOCK;
        size_t n = count - at < ADAMW8_BLOCK ? count - at : ADAMW8_BLOCK;
        float m[ADAMW8_BLOCK], v[ADAMW8_BLOCK];
        for (size_t i = 0; i < n; i++) {
            float gi = g[at + i] * clip;
            m[i] = b1 * (map[s->mq[at + i]] * s->mabs[block]) + c1 * gi;
            v[i] = b2 * (map[256 + s->vq[at + i]] * s->vabs[block]) + c2 * gi * gi;
            p[at + i] = p[at + i] * keep - lr * m[i] / (sqrtf(v[i]) / root + eps);
        }
        quantize(s->mq + at, s->mabs + block, mid[0], m, n);
        quantize(s->vq + at, s->vabs + block, mid[1], v, n);
    }
}

void lion_ref(Dev *d, const Lion *h, size_t count, float *p, float *m, const float *g)
{
    float clip = (float)h->clip, keep = (float)(1 - h->lr * h->weight_decay), lr = (float)h->lr;
    float b1 = (float)h->beta1, c1 = (float)(1 - h->beta1);
    float b2 = (float)h->beta2, c2 = (float)(1 - h->beta2);
#pragma omp parallel for num_threads(d->threads)
    for (size_t i = 0; i < count; i++) {
        float gi = g[i] * clip, u = b1 * m[i] + c1 * gi;
        p[i] = p[i] * keep - (u > 0 ? lr : u < 0 ? -lr : 0);
        m[i] = b2 * m[i] + c2 * gi;
    }
}

void sgd_ref(Dev *d, const Sgd *h, size_t count, float *p, float *m, const float *g)
{
    float clip = (float)h->clip, l2 = (float)h->weight_decay, lr = (float)h->lr;
    float mu = (float)h->momentum, fresh = (float)(1 - h->dampening);
#pragma omp parallel for num_threads(d->threads)
    for (size_t i = 0; i < count; i++) {
        float gi = g[i] * clip + l2 * p[i], step = gi;
        if (m) {
            m[i] = h->first ? gi : mu * m[i] + fresh * gi;
            step = h->nesterov ? gi + mu * m[i] : m[i];
        }
        p[i] -= lr * step;
    }
}

/* The hyper-parameters of Adapt in f32. */
typedef struct { float b1, b2, b3, cm, cv, cs, l2, eps, clip; } AdaptF;

static AdaptF adapt_f32(const Adapt *h)
{
    return (AdaptF){(float)h->beta1, (float)h->beta2, (float)h->beta3, (float)h->m_scale,
                    (float)h->v_scale, (float)h->s_scale, (float)h->l2, (float)h->eps,
                    (float)h->clip};
}

static void add_parts(double *sums, const double part[OPTIM_PARTS][2])
{
    sums[0] = sums[1] = 0;
    for (int k = 0; k < OPTIM_PARTS; k++) {
        sums[0] += part[k][0];
        sums[1] += part[k][1];
    }
}

void dadapt_stats_ref(Dev *d, const Adapt *h, size_t count, double *sums, const float *p,
                      const AdaptState *s, const float *g)
{
    AdaptF c = adapt_f32(h);
    double part[OPTIM_PARTS][2];
#pragma omp parallel for num_threads(d->threads)
    for (int k = 0; k < OPTIM_PARTS; k++) {
        double dot = 0, norm = 0;
        size_t end = optim_part(count, 16, k + 1);
        for (size_t i = optim_part(count, 16, k); i < end; i++) {
            float gi = g[i] * c.clip + c.l2 * p[i];
            dot += (double)gi * (s->s[i] / (sqrtf(s->v[i]) + c.eps));
            s->m[i] = c.b1 * s->m[i] + c.cm * gi;
            s->v[i] = c.b2 * s->v[i] + c.cv * gi * gi;
            s->s[i] = c.b3 * s->s[i] + c.cs * gi;
            norm += fabs((double)s->s[i]);
        }
        part[k][0] = dot;
        part[k][1] = norm;
    }
    add_parts(sums, (const double(*)[2])part);
}

void prodigy_stats_ref(Dev *d, const Adapt *h, size_t count, double *sums, const float *p,
                       const AdaptState *s, const float *g)
{
    AdaptF c = adapt_f32(h);
    double part[OPTIM_PARTS][2];
    size_t slice = (size_t)h->slice;
#pragma omp parallel for num_threads(d->threads)
    for (int k = 0; k < OPTIM_PARTS; k++) {
        double dot = 0, norm = 0;
        size_t start = optim_part(count, 16 * slice, k), end = optim_part(count, 16 * slice, k + 1);
        for (size_t i = start; i < end; i++) {
            float gi = g[i] * c.clip + c.l2 * p[i];
            s->m[i] = c.b1 * s->m[i] + c.cm * gi;
            s->v[i] = c.b2 * s->v[i] + c.cv * gi * gi;
        }
        for (size_t i = start; i < end; i += slice) {
            size_t j = i / slice;
            float gi = g[i] * c.clip + c.l2 * p[i];
            if (h->first) s->p0[j] = p[i];
            dot += (double)gi * (s->p0[j] - p[i]);
            s->s[j] = c.b3 * s->s[j] + c.cs * gi;
            norm += fabs((double)s->s[j]);
        }
        part[k][0] = dot;
        part[k][1] = norm;
    }
    add_parts(sums, (const double(*)[2])part);
}

void adapt_step_ref(Dev *d, const AdaptStep *h, size_t count, float *p, const float *m,
                    const float *v)
{
    float lr = (float)h->lr, decay = (float)h->decay, eps = (float)h->eps;
#pragma omp parallel for num_threads(d->threads)
    for (size_t i = 0; i < count; i++) {
        float kept = p[i] - decay * p[i];
        p[i] = kept - lr * m[i] / (sqrtf(v[i]) + eps);
    }
}

void dither_ref(Dev *d, const Dither *h, size_t count, uint16_t *y, const float *x)
{
    (void)d;
    for (size_t i = 0; i < count; i++) {
        union { float f; uint32_t u; } v = {x[i]};
        y[i] = optim_dither(v.u, optim_bits(h->key, h->first + (uint32_t)i));
    }
}
