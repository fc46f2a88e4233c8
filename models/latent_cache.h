/* latent_cache.h - encoded pictures kept on disk (--cache_latents_to_disk).
 *
 * A file per picture, named by a hash of everything its latents depend on: the
 * picture's bytes, size, crop, resampling and mirroring, the VAE's weights, the dtype. A
 * stale entry is therefore never read; it is only never asked for again.
 */
#ifndef SDC_MODELS_LATENT_CACHE_H
#define SDC_MODELS_LATENT_CACHE_H

#include "engine/data.h"
#include "models/model.h"

typedef struct {
    char *dir;                     /* NULL: no cache */
    char vae[HASH_HEX];            /* of the encoder's weights and the dtype */
} LatentCache;

/* Makes dir. Hashes the encoder's tensors as they stand in the file. */
int latent_cache_open(LatentCache *c, const char *dir, const Model *m, Err *e);
void latent_cache_close(LatentCache *c);           /* zeroed c ok */

/* Fills moments (count) and sets *hit when there is an entry. */
int latent_cache_get(const LatentCache *c, const DataItem *item, int flip, float *moments,
                     size_t count, int *hit, Err *e);
int latent_cache_put(const LatentCache *c, const DataItem *item, int flip, const float *moments,
                     size_t count, Err *e);

#endif
