/* latent_pool.h - encoded pictures in memory, for several runs of one process: each is
 * encoded once. An entry is found by the picture's path, size, crop, resampling and mirroring; the
 * pool belongs to one VAE in one dtype.
 */
#ifndef SDC_MODELS_LATENT_POOL_H
#define SDC_MODELS_LATENT_POOL_H

#include "engine/data.h"

typedef struct {
    char *key;
    float *moments;                /* (h,w,8) mean, log variance */
} LatentEntry;

typedef struct {
    LatentEntry *list;             /* by key */
    size_t count, cap;
} LatentPool;

void latent_pool_free(LatentPool *p);                              /* zeroed p ok */
/* *moments: what is there, or NULL; the pool's, until it is freed. */
int latent_pool_find(const LatentPool *p, const DataItem *item, int flip, float **moments, Err *e);
/* Takes moments over, which are not there yet; not on failure. */
int latent_pool_add(LatentPool *p, const DataItem *item, int flip, float *moments, Err *e);

#endif
