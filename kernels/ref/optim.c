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

/* The midpoints of one map. */
static void midpoints(float mid[255], const float *map)
{
    for (int i = 0; i < 255; i++) mid[i] = (map[i] + map[i + 1]) / 2;
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
    float mid[2][255];
    midpoints(mid[0], map);
    midpoints(mid[1], map + 256);
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

void lion8_ref(Dev *d, const Lion *h, size_t count, float *p, const Moment8 *s, const float *g)
{
    float clip = (float)h->clip, keep = (float)(1 - h->lr * h->weight_decay), lr = (float)h->lr;
    float b1 = (float)h->beta1, c1 = (float)(1 - h->beta1);
    float b2 = (float)h->beta2, c2 = (float)(1 - h->beta2), mid[255];
    midpoints(mid, s->map);
#pragma omp parallel for num_threads(d->threads)
    for (size_t at = 0; at < count; at += ADAMW8_BLOCK) {
        size_t n = count - at < ADAMW8_BLOCK ? count - at : ADAMW8_BLOCK;
        float m[ADAMW8_BLOCK], *scale = &s->mabs[at / ADAMW8_BLOCK];
        for (size_t i = 0; i < n; i++) {
            float gi = g[at + i] * clip, mi = s->map[s->mq[at + i]] * *scale;
            float u = b1 * mi + c1 * gi;
            p[at + i] = p[at + i] * keep - (u > 0 ? lr : u < 0 ? -lr : 0);
            m[i] = b2 * mi + c2 * gi;
        }
        quantize(s->mq + at, scale, mid, m, n);
    }
}

void sgd8_ref(Dev *d, const Sgd *h, size_t count, float *p, const Moment8 *s, const float *g)
{
    float clip = (float)h->clip, l2 = (float)h->weight_decay, lr = (float)h->lr;
    float mu = h->first ? 0 : (float)h->momentum, fresh = h->first ? 1 : (float)(1 - h->dampening);
    float look = h->nesterov ? (float)h->momentum : 0, mid[255];
    midpoints(mid, s->map);
#pragma omp parallel for num_threads(d->threads)
    for (size_t at = 0; at < count; at += ADAMW8_BLOCK) {
        size_t n = count - at < ADAMW8_BLOCK ? count - at : ADAMW8_BLOCK;
        float m[ADAMW8_BLOCK], *scale = &s->mabs[at / ADAMW8_BLOCK];
        for (size_t i = 0; i < n; i++) {
            float gi = g[at + i] * clip + l2 * p[at + i];
            m[i] = mu * (s->map[s->mq[at + i]] * *scale) + fresh * gi;
            p[at + i] -= lr * (h->nesterov ? gi + look * m[i] : m[i]);
        }
        quantize(s->mq + at, scale, mid, m, n);
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

void ema_ref(Dev *d, size_t count, float *x, const float *p, float t)
{
#pragma omp parallel for num_threads(d->threads)
    for (size_t i = 0; i < count; i++) x[i] -= t * (x[i] - p[i]);
}

void swap_ref(Dev *d, size_t count, float *a, float *b)
{
#pragma omp parallel for num_threads(d->threads)
    for (size_t i = 0; i < count; i++) {
        float v = a[i];
        a[i] = b[i];
        b[i] = v;
    }
}

void schedfree_ref(Dev *d, const SchedFree *h, size_t count, float *p, const SchedFreeState *s,
                   const float *g)
{
    float clip = (float)h->clip, b2 = (float)h->beta2, c2 = (float)(1 - h->beta2);
    float bias = (float)h->bias2, eps = (float)h->eps, wd = (float)h->weight_decay;
    float c = (float)h->c, lr = (float)h->lr, lr_y = (float)h->lr_y;
#pragma omp parallel for num_threads(d->threads)
    for (size_t i = 0; i < count; i++) {
        float gi = g[i] * clip;
        if (s->v) {
            s->v[i] = b2 * s->v[i] + c2 * gi * gi;
            if (h->adaptive) gi /= sqrtf(s->v[i] / bias) + eps;
        }
        gi += wd * p[i];
        p[i] = optim_lerp(p[i], s->z[i], c) + lr_y * gi;
        s->z[i] -= lr * gi;
        s->x[i] = optim_lerp(s->x[i], s->z[i], c);
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
