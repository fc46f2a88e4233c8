/* latent_cache.c - see latent_cache.h. */
#include "models/latent_cache.h"

#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"

static int is_encoder(const char *name)
{
    return !strncmp(name, "vae.encoder.", 12) || !strncmp(name, "vae.quant_conv.", 15);
}

static int hash_encoder(LatentCache *c, const Model *m, Err *e)
{
    Hash *h;
    TRY(hash_new(&h, e));
    hash_update(h, model_dtype_name(m->dtype), strlen(model_dtype_name(m->dtype)));
    int rc = 0;
    for (size_t i = 0; !rc && i < m->ck->count; i++) {
        const CheckpointEntry *en = &m->ck->entries[i];
        if (!is_encoder(en->name)) continue;
        float *v = mem_alloc((size_t)en->count * sizeof(float));
        rc = v ? model_initial(m, en, v, e) : err_nomem(e, (size_t)en->count * 4, en->name);
        if (!rc) hash_update(h, v, (size_t)en->count * sizeof(float));
        mem_free(v);
    }
    hash_finish(h, c->vae);
    hash_free(h);
    return rc;
}

int latent_cache_open(LatentCache *c, const char *dir, const Model *m, Err *e)
{
    *c = (LatentCache){.dir = mem_strdup(dir)};
    int rc = c->dir ? io_mkdirs(dir, e) : err_nomem(e, strlen(dir), "the latent cache");
    if (!rc) rc = hash_encoder(c, m, e);
    if (rc) latent_cache_close(c);
    return rc;
}

void latent_cache_close(LatentCache *c)
{
    mem_free(c->dir);
    *c = (LatentCache){0};
}

static int entry_path(char **path, const LatentCache *c, const DataItem *item, int flip, Err *e)
{
    char key[HASH_HEX], name[HASH_HEX];
    Hash *h;
    TRY(dataset_item_key(key, item, flip, e));
    TRY(hash_new(&h, e));
    hash_update(h, key, strlen(key));
    hash_update(h, c->vae, strlen(c->vae));
    hash_finish(h, name);
    hash_free(h);
    *path = mem_printf("%s/%.32s.safetensors", c->dir, name);
    return *path ? 0 : err_nomem(e, 64, "a file name");
}

int latent_cache_get(const LatentCache *c, const DataItem *item, int flip, float *moments,
                     size_t count, int *hit, Err *e)
{
    char *path;
    TensorFile *f = NULL;
    *hit = 0;
    TRY(entry_path(&path, c, item, flip, e));
    /* an entry that is broken or of another size is made again */
    if (io_exists(path) == 1 && !tensorfile_open(&f, path, NULL)) {
        const FileTensor *t = tensorfile_find(f, "moments");
        *hit = t && t->dtype == FD_F32 && (size_t)t->count == count &&
               !tensorfile_read_f32(f, t, 0, t->count, moments, NULL);
    }
    tensorfile_close(f);
    mem_free(path);
    return 0;
}

int latent_cache_put(const LatentCache *c, const DataItem *item, int flip, const float *moments,
                     size_t count, Err *e)
{
    char *path;
    TensorWriter *w = NULL;
    TRY(entry_path(&path, c, item, flip, e));
    int64_t n = (int64_t)count;
    int rc = tensorwriter_new(&w, path, e);
    if (!rc) rc = tensorwriter_add(w, "moments", FD_F32, 1, &n, e);
    if (!rc) rc = tensorwriter_begin(w, e);
    if (!rc) rc = tensorwriter_write_f32(w, moments, count, e);
    if (rc) tensorwriter_abort(w);
    else rc = tensorwriter_commit(w, e);
    mem_free(path);
    return rc;
}
