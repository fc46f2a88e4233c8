/* test_synth.c - small models and LoRA files made up for tests. */
#include "tests/synth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io.h"

int synth_config(SdConfig *c, const char *type, Err *e)
{
    char text[256];
    int w = strcmp(type, "sd2") ? 32 : 64;
    snprintf(text, sizeof text,
             "{\"type\": \"%s\", \"unet\": [%d,%d,%d,%d], \"vae\": [32,32,32,32], "
             "\"text_width\": 64, \"text_layers\": 1, \"vocab\": 100}", type, w, w, w, w);
    return config_from_json(c, text, "synth", e);
}

float synth_value(const char *canonical, int64_t i)
{
    uint32_t h = 2166136261u ^ (uint32_t)i * 2654435761u;
    for (; *canonical; canonical++) h = (h ^ (unsigned char)*canonical) * 16777619u;
    h ^= h >> 15;
    return ((float)(h % 2047) - 1023) / 1024;
}

static int values(void *ctx, const CheckpointEntry *en, float *v, int *changed, Err *e)
{
    (void)ctx, (void)e;
    for (int64_t i = 0; i < en->count; i++) v[i] = synth_value(en->name, i);
    *changed = 1;
    return 0;
}

/* tensorwriter wants its data in the order of the file. */
static int write_tensors(TensorWriter *w, const SynthTensor *t, size_t n, Err *e)
{
    for (size_t i = 0; i < n; i++)
        TRY(tensorwriter_add(w, t[i].name, t[i].dtype, t[i].ndim, t[i].shape, e));
    TRY(tensorwriter_begin(w, e));
    for (const char *name; (name = tensorwriter_next(w));) {
        size_t i = 0, count = 1;
        while (strcmp(t[i].name, name)) i++;
        for (int j = 0; j < t[i].ndim; j++) count *= (size_t)t[i].shape[j];
        float *v = malloc(count * sizeof *v);
        for (size_t j = 0; j < count; j++)
            v[j] = t[i].values ? t[i].values[j] : synth_value(name, (int64_t)j);
        int rc = tensorwriter_write_f32(w, v, count, e);
        free(v);
        TRY(rc);
    }
    return 0;
}

int synth_file(const char *path, const SynthTensor *t, size_t n, const LoraMeta *meta,
               size_t meta_count, Err *e)
{
    TensorWriter *w;
    TRY(tensorwriter_new(&w, path, e));
    int rc = 0;
    for (size_t i = 0; i < meta_count && !rc; i++)
        rc = tensorwriter_meta(w, meta[i].key, meta[i].value, e);
    if (!rc) rc = write_tensors(w, t, n, e);
    if (!rc) return tensorwriter_commit(w, e);
    tensorwriter_abort(w);
    return rc;
}

/* All tensors of a file, with edited names and shapes, plus more[]. */
static int copy(const char *dst, const char *src, synth_edit_fn *edit, void *ctx,
                const SynthTensor *more, size_t more_count, Err *e)
{
    TensorFile *tf;
    TRY(tensorfile_open(&tf, src, e));
    size_t n = 0, max = tensorfile_count(tf) + more_count;
    SynthTensor *t = calloc(max, sizeof *t);
    char (*names)[300] = calloc(max, sizeof *names);
    for (size_t i = 0; i < tensorfile_count(tf); i++) {
        const FileTensor *f = tensorfile_at(tf, i);
        snprintf(names[n], sizeof names[n], "%s", f->name);
        t[n] = (SynthTensor){names[n], f->dtype, f->ndim, {0}, NULL};
        memcpy(t[n].shape, f->shape, (size_t)f->ndim * sizeof *f->shape);
        if (edit && !edit(ctx, names[n], &t[n].ndim, t[n].shape)) continue;
        float *v = malloc((size_t)f->count * sizeof *v);
        tensorfile_read_f32(tf, f, 0, f->count, v, e);
        t[n++].values = v;
    }
    size_t own = n;
    for (size_t i = 0; i < more_count; i++) t[n++] = more[i];
    int rc = synth_file(dst, t, n, NULL, 0, e);
    for (size_t i = 0; i < own; i++) free((void *)t[i].values);
    free(names);
    free(t);
    tensorfile_close(tf);
    return rc;
}

int synth_copy(const char *dst, const char *src, synth_edit_fn *edit, void *ctx, Err *e)
{
    return copy(dst, src, edit, ctx, NULL, 0, e);
}

int synth_model(const char *path, const SdConfig *c, Err *e)
{
    static const SynthTensor more[] = {
        {"alphas_cumprod", FD_F32, 1, {1000}, NULL},
        {"cond_stage_model.transformer.text_model.embeddings.position_ids", FD_I64, 2, {1, 77},
         NULL},
        {"model_ema.num_updates", FD_I32, 0, {0}, NULL}};
    Checkpoint *ck;
    CheckpointSave save = {.values = values, .cast = 1, .dtype = FD_F16};
    TRY(checkpoint_new(&ck, c, e));
    int rc = checkpoint_save(ck, path, &save, e);
    checkpoint_close(ck);
    if (!rc) rc = copy(path, path, NULL, NULL, more, sizeof more / sizeof *more, e);
    return rc;
}

static int write_component(const Checkpoint *ck, const char *dir, const char *file,
                           const char *prefix, int old, Err *e)
{
    char path[400], (*names)[KEY_MAX] = calloc(ck->count, sizeof *names);
    SynthTensor *t = calloc(ck->count, sizeof *t);
    size_t n = 0;
    for (size_t i = 0; i < ck->count; i++) {
        const CheckpointEntry *en = &ck->entries[i];
        KeyRef r;
        if (strncmp(en->name, prefix, strlen(prefix))) continue;
        if (!old || !key_ref(&r, KEY_DIFFUSERS, en->name, 1))
            key_ref(&r, KEY_DIFFUSERS, en->name, 0);
        memcpy(names[n], r.key, KEY_MAX);
        float *v = malloc((size_t)en->count * sizeof *v);
        for (int64_t j = 0; j < en->count; j++) v[j] = synth_value(en->name, j);
        t[n] = (SynthTensor){names[n], FD_F16, en->ndim, {0}, v};
        memcpy(t[n++].shape, en->shape, sizeof en->shape);
    }
    snprintf(path, sizeof path, "%s/%.*s", dir, (int)strlen(prefix) - 1, prefix);
    int rc = io_mkdirs(path, e);
    snprintf(path + strlen(path), sizeof path - strlen(path), "/%s", file);
    if (!rc) rc = synth_file(path, t, n, NULL, 0, e);
    for (size_t i = 0; i < n; i++) free((void *)t[i].values);
    free(names);
    free(t);
    return rc;
}

int synth_folder(const char *dir, const SdConfig *c, int old, Err *e)
{
    static const char weights[] = "diffusion_pytorch_model.safetensors";
    Checkpoint *ck;
    TRY(checkpoint_new(&ck, c, e));
    int rc = write_component(ck, dir, weights, "unet.", old, e);
    if (!rc) rc = write_component(ck, dir, weights, "vae.", old, e);
    if (!rc) rc = write_component(ck, dir, "model.safetensors", "text_encoder.", old, e);
    checkpoint_close(ck);
    return rc;
}
