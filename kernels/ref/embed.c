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
                                const void *table, const void *pos)
{
    size_t c = (size_t)p->c;
    for (size_t r = 0; r < (size_t)p->n * p->t; r++) {
        assert(ids[r] >= 0 && ids[r] < p->vocab);
        size_t a = (size_t)ids[r] * c, b = r % (size_t)p->t * c;
        for (size_t k = 0; k < c; k++)
            ref_put(dt, y, r * c + k, ref_get(p->wdt, table, a + k) +
                                      (pos ? ref_get(p->wdt, pos, b + k) : 0));
    }
}

REF_INLINE void token_embed_bwd_any(Dtype dt, const TokenEmbed *p, float *dtable, float *dpos,
                                    const void *dy, const int32_t *ids)
{
    size_t c = (size_t)p->c;
    for (size_t r = 0; r < (size_t)p->n * p->t; r++) {
        assert(ids[r] >= 0 && ids[r] < p->vocab);
        size_t a = (size_t)ids[r] * c, b = r % (size_t)p->t * c;
        for (size_t k = 0; k < c; k++) {
            float g = (float)ref_get(dt, dy, r * c + k);
            if (dtable) dtable[a + k] += g;
            if (dpos) dpos[b + k] += g;
        }
    }
}

REF(time_embed, (Dev *d, const TimeEmbed *p, void *y, const float *t), (DT, p, y, t))
REF(token_embed, (Dev *d, const TokenEmbed *p, void *y, const int32_t *ids, const void *table,
                  const void *pos),
    (DT, p, y, ids, table, pos))
REF(token_embed_bwd, (Dev *d, const TokenEmbed *p, float *dtable, float *dpos, const void *dy,
                      const int32_t *ids),
    (DT, p, dtable, dpos, dy, ids))
