/* optim.c - the optimizer updates that run over whole models, in vectors.
 *
 * Same operations in the same order as kernels/ref/optim.c and no fused
 * multiply-add, so adamw and lion give the same bits as the plain versions.
 */
#include <math.h>

#include "kernels/optim.h"
#include "kernels/x86/vec.h"

static double sumsq_part(const float *g, size_t n)
{
    __m256d a = _mm256_setzero_pd(), b = a;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256d x = _mm256_cvtps_pd(_mm_loadu_ps(g + i));
        __m256d y = _mm256_cvtps_pd(_mm_loadu_ps(g + i + 4));
        a = _mm256_fmadd_pd(x, x, a);
        b = _mm256_fmadd_pd(y, y, b);
    }
    double lane[4], sum = 0;
    _mm256_storeu_pd(lane, _mm256_add_pd(a, b));
    for (; i < n; i++) sum += (double)g[i] * g[i];
    return sum + ((lane[0] + lane[1]) + (lane[2] + lane[3]));
}

void ISA(sumsq)(Dev *d, size_t count, double *out, const float *g)
{
    double part[OPTIM_PARTS];
#pragma omp parallel for num_threads(d->threads)
    for (int k = 0; k < OPTIM_PARTS; k++) {
        size_t at = optim_part(count, 16, k);
        part[k] = sumsq_part(g + at, optim_part(count, 16, k + 1) - at);
    }
    *out = 0;
    for (int k = 0; k < OPTIM_PARTS; k++) *out += part[k];
}

typedef struct { vf clip, keep, c1, b2, c2, root, eps, lr; } AdamWV;

static inline void adamw_block(const AdamWV *c, float *p, float *m, float *v, const float *g,
                               size_t n)
{
    vf gi = vec_mul(vec_load_n(g, n), c->clip);
    vf mi = vec_load_n(m, n), var = vec_load_n(v, n), pi = vec_load_n(p, n);
    mi = vec_add(mi, vec_mul(c->c1, vec_sub(gi, mi)));
    var = vec_add(vec_mul(c->b2, var), vec_mul(vec_mul(c->c2, gi), gi));
    vf denom = vec_add(vec_div(vec_sqrt(var), c->root), c->eps);
    pi = vec_sub(vec_mul(pi, c->keep), vec_div(vec_mul(c->lr, mi), denom));
    vec_store_n(m, mi, n);
    vec_store_n(v, var, n);
    vec_store_n(p, pi, n);
}

void ISA(adamw)(Dev *d, const AdamW *h, size_t count, float *p, float *m, float *v,
                const float *g)
{
    AdamWV c = {vec_set((float)h->clip), vec_set((float)(1 - h->lr * h->weight_decay)),
                vec_set((float)(1 - h->beta1)), vec_set((float)h->beta2),
                vec_set((float)(1 - h->beta2)), vec_set((float)sqrt(h->bias2)),
                vec_set((float)h->eps), vec_set((float)(h->lr / h->bias1))};
#pragma omp parallel for num_threads(d->threads)
    for (int k = 0; k < OPTIM_PARTS; k++) {
        size_t i = optim_part(count, VW, k), end = optim_part(count, VW, k + 1);
        for (; i + VW <= end; i += VW) adamw_block(&c, p + i, m + i, v + i, g + i, VW);
        if (i < end) adamw_block(&c, p + i, m + i, v + i, g + i, end - i);
    }
}

typedef struct { vf clip, keep, lr, b1, c1, b2, c2; } LionV;

static inline void lion_block(const LionV *c, float *p, float *m, const float *g, size_t n)
{
    vf zero = vec_zero(), gi = vec_mul(vec_load_n(g, n), c->clip), mi = vec_load_n(m, n);
    vf u = vec_add(vec_mul(c->b1, mi), vec_mul(c->c1, gi));
    vf down = vec_pick(u, zero, vec_sub(zero, c->lr));          /* u < 0: -lr */
    vf step = vec_pick(vec_sub(zero, u), down, c->lr);          /* u > 0: lr */
    vec_store_n(p, vec_sub(vec_mul(vec_load_n(p, n), c->keep), step), n);
    vec_store_n(m, vec_add(vec_mul(c->b2, mi), vec_mul(c->c2, gi)), n);
}

void ISA(lion)(Dev *d, const Lion *h, size_t count, float *p, float *m, const float *g)
{
    LionV c = {vec_set((float)h->clip), vec_set((float)(1 - h->lr * h->weight_decay)),
               vec_set((float)h->lr), vec_set((float)h->beta1), vec_set((float)(1 - h->beta1)),
               vec_set((float)h->beta2), vec_set((float)(1 - h->beta2))};
#pragma omp parallel for num_threads(d->threads)
    for (int k = 0; k < OPTIM_PARTS; k++) {
        size_t i = optim_part(count, VW, k), end = optim_part(count, VW, k + 1);
        for (; i + VW <= end; i += VW) lion_block(&c, p + i, m + i, g + i, VW);
        if (i < end) lion_block(&c, p + i, m + i, g + i, end - i);
    }
}

/* The compiler makes vectors of this: integers only. */
void ISA(dither)(Dev *d, const Dither *h, size_t count, uint16_t *y, const float *x)
{
    uint32_t key[2] = {h->key[0], h->key[1]}, first = h->first;
#pragma omp parallel for simd num_threads(d->threads)
    for (size_t i = 0; i < count; i++) {
        uint32_t v;
        memcpy(&v, x + i, sizeof v);
        y[i] = optim_dither(v, optim_bits(key, first + (uint32_t)i));
    }
}
