/* latent_pool.c - see latent_pool.h. */
#include "models/latent_pool.h"

#include <string.h>

#include "engine/mem.h"

void latent_pool_free(LatentPool *p)
{
    for (size_t i = 0; i < p->count; i++) {
        mem_free(p->list[i].key);
        mem_free(p->list[i].moments);
    }
    mem_free(p->list);
    *p = (LatentPool){0};
}

static char *key_of(const DataItem *item, int flip)
{
    const BucketFit *f = &item->fit;
    return mem_printf("%s|%d,%d,%d,%d,%d,%d,%d,%d", item->path, f->bucket.w, f->bucket.h, f->rw,
                      f->rh, f->x, f->y, flip, (int)item->resize);
}

/* The place of key, or where it belongs. */
static size_t place(const LatentPool *p, const char *key)
{
    size_t lo = 0, hi = p->count;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (strcmp(p->list[mid].key, key) < 0) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

int latent_pool_find(const LatentPool *p, const DataItem *item, int flip, float **moments, Err *e)
{
    char *key = key_of(item, flip);
    if (!key) return err_nomem(e, strlen(item->path), "latents");
    size_t i = place(p, key);
    *moments = i < p->count && !strcmp(p->list[i].key, key) ? p->list[i].moments : NULL;
    mem_free(key);
    return 0;
}

int latent_pool_add(LatentPool *p, const DataItem *item, int flip, float *moments, Err *e)
{
    char *key = key_of(item, flip);
    LatentEntry *list = mem_grow(p->list, p->count, &p->cap, sizeof *list);
    if (list) p->list = list;
    if (!key || !list) {
        mem_free(key);
        return err_nomem(e, strlen(item->path), "latents");
    }
    size_t i = place(p, key);
    memmove(list + i + 1, list + i, (p->count - i) * sizeof *list);
    list[i] = (LatentEntry){key, moments};
    p->count++;
    return 0;
}
