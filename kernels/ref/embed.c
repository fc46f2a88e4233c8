/* embed.c - time and token embeddings: the definition. */
#include "kernels/ref/ref.h"

/* Frequency, and its product with t, are rounded to f32 as in the programs that
 * trained the models: at t near 1000 that moves the angle by up to 3e-5, which
 * is more than all other rounding here. */
REF_INLINE void time_embed_any(Dtype dt, const TimeEmbed *p, void *y, const float *t)
{
    assert(p->dim % 2 == 0);
    size_t half = (size_t)p->dim / 2;
    for (size_t i = 0; i < half; i++) {
        float exponent = (float)-9.210340371976184 * (float)i / (float)half;   /* -ln 10000 */
        float f = (float)exp((double)exponent);
        for (size_t n = 0; n < (size_t)p->n; n++) {
            double angle = (double)(t[n] * f);
            ref_put(dt, y, n * 2 * half + i, cos(angle));
            ref_put(dt, y, n * 2 * half + half + i, sin(angle));
        }
    }
}

REF_INLINE void token_embed_any(Dtype dt, const TokenEmbed *p, void *y, const int32_t *ids,
                                const void *table, const void *pos, const float *more)
{
    size_t c = (size_t)p->c;
    for (size_t r = 0; r < (size_t)p->n * p->t; r++) {
        assert(ids[r] >= 0 && ids[r] < p->vocab + p->more);
        size_t b = r % (size_t)p->t * c;
        const float *own = ids[r] < p->vocab ? NULL : more + (size_t)(ids[r] - p->vocab) * c;
        for (size_t k = 0; k < c; k++) {
            double v = own ? (double)own[k] : ref_get(p->wdt, table, (size_t)ids[r] * c + k);
            ref_put(dt, y, r * c + k, v + (pos ? ref_get(p->wdt, pos, b + k) : 0));
        }
    }
}

REF_INLINE void token_embed_bwd_any(Dtype dt, const TokenEmbed *p, float *dtable, float *dpos,
                                    float *dmore, const void *dy, const int32_t *ids)
{
    size_t c = (size_t)p->c;
    for (size_t r = 0; r < (size_t)p->n * p->t; r++) {
        assert(ids[r] >= 0 && ids[r] < p->vocab + p->more);
        int own = ids[r] >= p->vocab;
        float *row = own ? dmore : dtable;
        if (row) row += (size_t)(own ? ids[r] - p->vocab : ids[r]) * c;
        for (size_t k = 0; k < c; k++) {
            float g = (float)ref_get(dt, dy, r * c + k);
            if (row) row[k] += g;
            if (dpos) dpos[r % (size_t)p->t * c + k] += g;
        }
    }
}

REF(time_embed, (Dev *d, const TimeEmbed *p, void *y, const float *t), (DT, p, y, t))
REF(token_embed, (Dev *d, const TokenEmbed *p, void *y, const int32_t *ids, const void *table,
                  const void *pos, const float *more),
    (DT, p, y, ids, table, pos, more))
REF(token_embed_bwd, (Dev *d, const TokenEmbed *p, float *dtable, float *dpos, float *dmore,
                      const void *dy, const int32_t *ids),
    (DT, p, dtable, dpos, dmore, dy, ids))
