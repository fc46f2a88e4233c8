/* optim8.c - AdamW, Lion and SGD with 8-bit moments, in vectors: same bits as the plain ones.
 *
 * Nearly all of the work is finding the nearest of 256 values. The upper bits of
 * a float (sign, exponent, 6 bits of mantissa) are a bin of the number line so
 * narrow that at most two midpoints between neighbouring values lie in it. A
 * table knows how many midpoints lie below each bin; two comparisons do the rest.
 */
#include <math.h>

#include "kernels/optim.h"
#include "kernels/x86/vec.h"

/* Bins of |x| from 2^-24 to 1; the first one reaches down to 0, where no
 * midpoint is. */
enum { BIN_SHIFT = 17, BIN_FIRST = (127 - 24) << 6, BINS = (24 << 6) + 1 };

typedef struct {
    float mid[256];            /* midpoints, then infinity */
    uint8_t below[2 * BINS];   /* midpoints below each bin of positive, then negative x */
} Search;

static float bin_edge(int k)
{
    union { uint32_t u; float f; } edge = {(uint32_t)(BIN_FIRST + k) << BIN_SHIFT};
    return k ? edge.f : 0;
}

static void search_init(Search *s, const float *map)
{
    for (int i = 0; i < 255; i++) s->mid[i] = (map[i] + map[i + 1]) / 2;
    s->mid[255] = INFINITY;
    int n = 0;
    for (int k = BINS - 1; k >= 0; k--) {
        while (s->mid[n] < -bin_edge(k + 1)) n++;
        s->below[BINS + k] = (uint8_t)n;
    }
    for (int k = 0; k < BINS; k++) {
        while (s->mid[n] < bin_edge(k)) n++;
        s->below[k] = (uint8_t)n;
    }
}

/* x has ADAMW8_BLOCK elements, of which n count and the others are 0. */
static void quantize(uint8_t *q, float *absmax, const Search *s, const float *x, size_t n)
{
    float scaled[ADAMW8_BLOCK];
    int bin[ADAMW8_BLOCK];
    vf top = vec_zero();
    for (size_t i = 0; i < ADAMW8_BLOCK; i += VW) top = vec_max(top, vec_abs(vec_load(x + i)));
    *absmax = vec_hmax(top);
    vf by = vec_set(*absmax > 0 ? *absmax : 1);
    for (size_t i = 0; i < ADAMW8_BLOCK; i += VW)
        vec_store(scaled + i, vec_div(vec_load(x + i), by));
    memcpy(bin, scaled, sizeof bin);
    for (size_t i = 0; i < ADAMW8_BLOCK; i++) {
        int k = (bin[i] >> BIN_SHIFT & 0x3FFF) - BIN_FIRST;
        k = k < 0 ? 0 : k >= BINS ? BINS - 1 : k;
        bin[i] = k + (bin[i] < 0 ? BINS : 0);
    }
    for (size_t i = 0; i < n; i++) {
        unsigned at = s->below[bin[i]];
        at += s->mid[at] < scaled[i];
        at += s->mid[at] < scaled[i];
        q[i] = (uint8_t)at;
    }
}

typedef struct {
    vf clip, keep, b1, c1, b2, c2, root, eps, lr;
    const float *map;
    Search m, v;
} Step8;

/* One block of n elements; missing ones are worked as zeros. */
static void block8(const Step8 *c, float *p, uint8_t *mq, uint8_t *vq, float *mabs, float *vabs,
                   const float *g, size_t n)
{
    float m[ADAMW8_BLOCK] = {0}, v[ADAMW8_BLOCK] = {0};
    for (size_t i = 0; i < n; i++) m[i] = c->map[mq[i]] * *mabs;
    for (size_t i = 0; i < n; i++) v[i] = c->map[256 + vq[i]] * *vabs;
    for (size_t i = 0; i < n; i += VW) {
        size_t k = n - i < VW ? n - i : VW;
        vf gi = vec_mul(vec_load_n(g + i, k), c->clip);
        vf mi = vec_add(vec_mul(c->b1, vec_load(m + i)), vec_mul(c->c1, gi));
        vf var = vec_add(vec_mul(c->b2, vec_load(v + i)), vec_mul(vec_mul(c->c2, gi), gi));
        vf denom = vec_add(vec_div(vec_sqrt(var), c->root), c->eps);
        vf step = vec_div(vec_mul(c->lr, mi), denom);
        vec_store_n(p + i, vec_sub(vec_mul(vec_load_n(p + i, k), c->keep), step), k);
        vec_store(m + i, mi);
        vec_store(v + i, var);
    }
    quantize(mq, mabs, &c->m, m, n);
    quantize(vq, vabs, &c->v, v, n);
}

void ISA(adamw8)(Dev *d, const AdamW *h, size_t count, float *p, const Moments8 *s,
                 const float *map, const float *g)
{
    Step8 c = {vec_set((float)h->clip), vec_set((float)(1 - h->lr * h->weight_decay)),
               vec_set((float)h->beta1), vec_set((float)(1 - h->beta1)),
               vec_set((float)h->beta2), vec_set((float)(1 - h->beta2)),
               vec_set((float)sqrt(h->bias2)), vec_set((float)h->eps),
               vec_set((float)(h->lr / h->bias1)), .map = map};
    search_init(&c.m, map);
    search_init(&c.v, map + 256);
#pragma omp parallel for num_threads(d->threads)
    for (size_t at = 0; at < count; at += ADAMW8_BLOCK) {
        size_t b = at / ADAMW8_BLOCK;
        size_t n = count - at < ADAMW8_BLOCK ? count - at : ADAMW8_BLOCK;
        block8(&c, p + at, s->mq + at, s->vq + at, s->mabs + b, s->vabs + b, g + at, n);
    }
}

/* ---- one moment: Lion, SGD ------------------------------------------------ */

typedef struct {
    vf clip, keep, lr, b1, c1, b2, c2, l2, look;
    int sgd, nesterov;
    const float *map;
    Search m;
} Step1;

static inline void lion_vec(const Step1 *c, float *p, float *m, const float *g, size_t k)
{
    vf zero = vec_zero(), gi = vec_mul(vec_load_n(g, k), c->clip), mi = vec_load(m);
    vf u = vec_add(vec_mul(c->b1, mi), vec_mul(c->c1, gi));
    vf down = vec_pick(u, zero, vec_sub(zero, c->lr));          /* u < 0: -lr */
    vf step = vec_pick(vec_sub(zero, u), down, c->lr);          /* u > 0: lr */
    vec_store_n(p, vec_sub(vec_mul(vec_load_n(p, k), c->keep), step), k);
    vec_store(m, vec_add(vec_mul(c->b2, mi), vec_mul(c->c2, gi)));
}

static inline void sgd_vec(const Step1 *c, float *p, float *m, const float *g, size_t k)
{
    vf pi = vec_load_n(p, k);
    vf gi = vec_add(vec_mul(vec_load_n(g, k), c->clip), vec_mul(c->l2, pi));
    vf mi = vec_add(vec_mul(c->b2, vec_load(m)), vec_mul(c->c2, gi));
    vf step = c->nesterov ? vec_add(gi, vec_mul(c->look, mi)) : mi;
    vec_store_n(p, vec_sub(pi, vec_mul(c->lr, step)), k);
    vec_store(m, mi);
}

static void step1(Dev *d, const Step1 *c, size_t count, float *p, const Moment8 *s,
                  const float *g)
{
#pragma omp parallel for num_threads(d->threads)
    for (size_t at = 0; at < count; at += ADAMW8_BLOCK) {
        size_t n = count - at < ADAMW8_BLOCK ? count - at : ADAMW8_BLOCK;
        float m[ADAMW8_BLOCK] = {0}, *scale = &s->mabs[at / ADAMW8_BLOCK];
        for (size_t i = 0; i < n; i++) m[i] = c->map[s->mq[at + i]] * *scale;
        for (size_t i = 0; i < n; i += VW) {
            size_t k = n - i < VW ? n - i : VW;
            (c->sgd ? sgd_vec : lion_vec)(c, p + at + i, m + i, g + at + i, k);
        }
        quantize(s->mq + at, scale, &c->m, m, n);
    }
}

void ISA(lion8)(Dev *d, const Lion *h, size_t count, float *p, const Moment8 *s, const float *g)
{
    Step1 c = {.clip = vec_set((float)h->clip), .lr = vec_set((float)h->lr), .map = s->map,
               .keep = vec_set((float)(1 - h->lr * h->weight_decay)),
               .b1 = vec_set((float)h->beta1), .c1 = vec_set((float)(1 - h->beta1)),
               .b2 = vec_set((float)h->beta2), .c2 = vec_set((float)(1 - h->beta2))};
    search_init(&c.m, s->map);
    step1(d, &c, count, p, s, g);
}

void ISA(sgd8)(Dev *d, const Sgd *h, size_t count, float *p, const Moment8 *s, const float *g)
{
    Step1 c = {.clip = vec_set((float)h->clip), .lr = vec_set((float)h->lr), .map = s->map,
               .l2 = vec_set((float)h->weight_decay), .look = vec_set((float)h->momentum),
               .b2 = vec_set(h->first ? 0 : (float)h->momentum),
               .c2 = vec_set(h->first ? 1 : (float)(1 - h->dampening)),
               .sgd = 1, .nesterov = h->nesterov};
    search_init(&c.m, s->map);
    step1(d, &c, count, p, s, g);
}
