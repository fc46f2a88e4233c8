/* checkpoint.c - opens a model on disk and finds its parameters. */
#include "models/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "models/checkpoint_files.h"

/* ---- finding tensors --------------------------------------------------------------- */

/* Where canonical names are looked up while a checkpoint is being opened. */
typedef struct {
    const Checkpoint *ck;
    KeyDialect dialect;
} Lookup;

static int component_of(const char *canonical)
{
    return canonical[0] == 'u' ? COMPONENT_UNET : canonical[0] == 't' ? COMPONENT_TEXT
                                                                       : COMPONENT_VAE;
}

/* The tensor of a canonical name in any known spelling; ref is that spelling,
 * or the usual one when there is none. */
static const FileTensor *lookup(const Lookup *l, const char *name, KeyRef *ref,
                                const TensorFile **file)
{
    for (int alt = 0; key_ref(ref, l->dialect, name, alt); alt++)
        for (size_t i = 0; i < l->ck->file_count; i++) {
            if (l->ck->is_folder && (int)l->ck->component[i] != component_of(name)) continue;
            const FileTensor *t = tensorfile_find(l->ck->files[i], ref->key);
            if (t) {
                *file = l->ck->files[i];
                return t;
            }
        }
    key_ref(ref, l->dialect, name, 0);
    return NULL;
}

static const FileTensor *find_for_config(void *ctx, const char *canonical)
{
    KeyRef ref;
    const TensorFile *file;
    return lookup(ctx, canonical, &ref, &file);
}

static void shape_text(char *buf, size_t cap, int ndim, const int64_t *shape)
{
    size_t n = 0;
    for (int i = 0; i < ndim && n < cap; i++)
        n += (size_t)snprintf(buf + n, cap - n, "%s%lld", i ? "," : "", (long long)shape[i]);
    if (!ndim) snprintf(buf, cap, "scalar");
}

/* Equal, axes of size 1 at the end not counted. */
static int same_shape(const FileTensor *t, int ndim, const int64_t *shape)
{
    for (int i = 0; i < t->ndim || i < ndim; i++)
        if ((i < t->ndim ? t->shape[i] : 1) != (i < ndim ? shape[i] : 1)) return 0;
    return 1;
}

/* Points an entry at tensor t of en->file, which has this spelling. */
static int bind(CheckpointEntry *en, const FileTensor *t, const KeyRef *ref, Err *e)
{
    int64_t want[4];
    memcpy(want, en->shape, sizeof want);
    want[0] *= ref->parts;
    if (!same_shape(t, en->ndim, want)) {
        char a[160], b[160];
        shape_text(a, sizeof a, t->ndim, t->shape);
        shape_text(b, sizeof b, en->ndim, want);
        return err_set(e, ERR_INPUT, "%s: tensor %s has shape [%s], expected [%s]",
                       tensorfile_path(en->file), t->name, a, b);
    }
    if (t->dtype == FD_OTHER)
        return err_set(e, ERR_INPUT, "%s: tensor %s has the unsupported type %s",
                       tensorfile_path(en->file), t->name, t->dtype_name);
    en->tensor = t;
    en->first = ref->part * en->count;
    return 0;
}

/* Points an entry at its tensor; the missing ones are counted, not reported. */
static int resolve(CheckpointEntry *en, const Lookup *l, char missing[KEY_MAX], int *n, Err *e)
{
    KeyRef ref;
    const FileTensor *t = lookup(l, en->name, &ref, &en->file);
    if (!t) {
        if (!(*n)++) memcpy(missing, ref.key, KEY_MAX);
        return 0;
    }
    return bind(en, t, &ref, e);
}

/* ---- building ------------------------------------------------------------------------ */

static int by_name(const void *a, const void *b)
{
    const CheckpointEntry *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* Layers and entries of ck->config. */
static int declare(Checkpoint *ck, Err *e)
{
    TRY(layers_build(&ck->layers, &ck->config, e));
    size_t max = 2 * ck->layers.count;
    ck->entries = mem_calloc(max, sizeof *ck->entries);
    ck->by_name = mem_calloc(max, sizeof *ck->by_name);
    if (!ck->entries || !ck->by_name)
        return err_nomem(e, max * sizeof *ck->entries, "the list of parameters");
    for (size_t i = 0; i < max; i++) {
        CheckpointEntry *en = &ck->entries[ck->count];
        en->layer = &ck->layers.list[i / 2];
        en->ndim = layer_param(en->layer, i % 2, en->name, en->shape);
        if (!en->ndim) continue;
        en->count = 1;
        for (int j = 0; j < en->ndim; j++) en->count *= en->shape[j];
        ck->by_name[ck->count++] = en;
    }
    qsort(ck->by_name, ck->count, sizeof *ck->by_name, by_name);
    return 0;
}

static int resolve_all(Checkpoint *ck, const Lookup *l, Err *e)
{
    char missing[KEY_MAX] = "";
    int n = 0;
    for (size_t i = 0; i < ck->count; i++)
        TRY(resolve(&ck->entries[i], l, missing, &n, e));
    if (!n) return 0;
    return err_set(e, ERR_INPUT, "%s: %d tensor%s missing, the first is %s: not a complete SD "
                   "checkpoint, or one of another architecture", ck->path, n, n > 1 ? "s" : "",
                   missing);
}

static int has_start(const TensorFile *tf, const char *start)
{
    for (size_t i = 0; i < tensorfile_count(tf); i++)
        if (!strncmp(tensorfile_at(tf, i)->name, start, strlen(start))) return 1;
    return 0;
}

/* A single file that lacks a whole network gets a better line than the name
 * of the first tensor missed. */
static int check_parts(const TensorFile *tf, Err *e)
{
    static const struct { const char *start, *what; } parts[] = {
        {"model.diffusion_model.", "U-Net"},
        {"cond_stage_model.", "text encoder"},
        {"first_stage_model.", "VAE"}};
    TRY(config_refuse_other(tf, e));
    for (size_t i = 0; i < 3; i++)
        if (!has_start(tf, parts[i].start))
            return err_set(e, ERR_INPUT, "%s: no SD checkpoint: it has no %s (no tensor %s*)",
                           tensorfile_path(tf), parts[i].what, parts[i].start);
    return 0;
}

static int open_into(Checkpoint *ck, Err *e)
{
    Lookup l = {ck, KEY_DIFFUSERS};
    TRY(checkpoint_open_files(ck, e));
    if (!ck->is_folder) {
        TRY(check_parts(ck->files[0], e));
        l.dialect = has_start(ck->files[0], "cond_stage_model.model.") ? KEY_LDM_OPENCLIP : KEY_LDM;
    }
    int rc = config_from_tensors(&ck->config, find_for_config, &l,
                                 l.dialect == KEY_LDM_OPENCLIP, e);
    if (!rc) {
        if (ck->is_folder) TRY(config_from_diffusers(&ck->config, ck->path, e));
        else config_from_metadata(&ck->config, ck->files[0]);
        rc = config_check(&ck->config, e);
    }
    if (rc) return err_prefix(e, "%s", ck->path);
    TRY(declare(ck, e));
    return resolve_all(ck, &l, e);
}

int checkpoint_open(Checkpoint **out, const char *path, Err *e)
{
    Checkpoint *ck = mem_calloc(1, sizeof *ck);
    *out = NULL;
    if (!ck || !(ck->path = mem_strdup(path))) {
        checkpoint_close(ck);
        return err_nomem(e, sizeof *ck, "a checkpoint");
    }
    int rc = open_into(ck, e);
    if (rc) checkpoint_close(ck);
    else *out = ck;
    return rc;
}

/* The spellings of one parameter in files that hold a VAE alone, and in whole checkpoints. */
static const FileTensor *lookup_vae(const TensorFile *tf, const char *name, KeyRef *ref)
{
    static const KeyDialect dialects[] = {KEY_LDM, KEY_DIFFUSERS};
    static const char start[] = "first_stage_model.";
    for (int d = 0; d < 2; d++)
        for (int alt = 0; key_ref(ref, dialects[d], name, alt); alt++) {
            const FileTensor *t = tensorfile_find(tf, ref->key);
            if (!t && !strncmp(ref->key, start, sizeof start - 1))
                t = tensorfile_find(tf, ref->key + sizeof start - 1);
            if (t) return t;
        }
    key_ref(ref, KEY_LDM, name, 0);
    return NULL;
}

static int open_vae(Checkpoint *ck, const char *path, Err *e)
{
    static const char *const names[] = {"diffusion_pytorch_model.safetensors",
                                        "diffusion_pytorch_model.bin"};
    if (io_exists(path) != 2) return tensorfile_open(&ck->vae, path, e);
    for (int i = 0; i < 4 && !ck->vae; i++) {
        char *file = mem_printf("%s/%s%s", path, i < 2 ? "" : "vae/", names[i % 2]);
        int rc = !file                  ? err_nomem(e, strlen(path), "a path")
                 : io_exists(file) == 1 ? tensorfile_open(&ck->vae, file, e)
                                        : 0;
        mem_free(file);
        TRY(rc);
    }
    return ck->vae ? 0
                   : err_set(e, ERR_INPUT, "%s: no %s in this folder: not a VAE of diffusers", path,
                             names[0]);
}

int checkpoint_use_vae(Checkpoint *ck, const char *path, Err *e)
{
    TRY(open_vae(ck, path, e));
    for (size_t i = 0; i < ck->count; i++) {
        CheckpointEntry *en = &ck->entries[i];
        KeyRef ref;
        if (component_of(en->name) != COMPONENT_VAE) continue;
        const FileTensor *t = lookup_vae(ck->vae, en->name, &ref);
        if (!t)
            return err_set(e, ERR_INPUT,
                           "%s: tensor %s is missing: not a VAE of Stable Diffusion 1 or 2",
                           tensorfile_path(ck->vae), ref.key);
        en->file = ck->vae;
        TRY(bind(en, t, &ref, e));
    }
    return 0;
}

int checkpoint_new(Checkpoint **out, const SdConfig *c, Err *e)
{
    Checkpoint *ck = mem_calloc(1, sizeof *ck);
    *out = NULL;
    if (!ck) return err_nomem(e, sizeof *ck, "a checkpoint");
    ck->config = *c;
    int rc = declare(ck, e);
    if (rc) checkpoint_close(ck);
    else *out = ck;
    return rc;
}

void checkpoint_close(Checkpoint *ck)
{
    if (!ck) return;
    for (size_t i = 0; i < ck->file_count; i++) tensorfile_close(ck->files[i]);
    tensorfile_close(ck->vae);
    layers_free(&ck->layers);
    mem_free(ck->files);
    mem_free(ck->component);
    mem_free(ck->by_name);
    mem_free(ck->entries);
    mem_free(ck->path);
    mem_free(ck);
}

/* ---- reading --------------------------------------------------------------------------- */

static int name_vs_entry(const void *key, const void *item)
{
    const CheckpointEntry *const *en = item;
    return strcmp(key, (*en)->name);
}

const CheckpointEntry *checkpoint_find(const Checkpoint *ck, const char *canonical)
{
    const CheckpointEntry **p = ck->count ? bsearch(canonical, ck->by_name, ck->count,
                                                    sizeof *ck->by_name, name_vs_entry) : NULL;
    return p ? *p : NULL;
}

int checkpoint_read_f32(const CheckpointEntry *en, float *dst, Err *e)
{
    if (!en->tensor)
        return err_set(e, ERR_FAIL, "parameter %s has no file to be read from", en->name);
    return tensorfile_read_f32(en->file, en->tensor, en->first, en->count, dst, e);
}

static int by_address(const void *a, const void *b)
{
    const FileTensor *const *x = a, *const *y = b;
    return (*x > *y) - (*x < *y);
}

int checkpoint_unused(const Checkpoint *ck, checkpoint_unused_fn *fn, void *ctx, size_t *n, Err *e)
{
    const FileTensor **used = mem_calloc(ck->count, sizeof *used);
    if (!used) return err_nomem(e, ck->count * sizeof *used, "the list of tensors");
    for (size_t i = 0; i < ck->count; i++) used[i] = ck->entries[i].tensor;
    qsort(used, ck->count, sizeof *used, by_address);
    *n = 0;
    for (size_t i = 0; i < ck->file_count; i++)
        for (size_t j = 0; j < tensorfile_count(ck->files[i]); j++) {
            const FileTensor *t = tensorfile_at(ck->files[i], j);
            if (bsearch(&t, used, ck->count, sizeof *used, by_address)) continue;
            if (fn) fn(ctx, t);
            ++*n;
        }
    mem_free(used);
    return 0;
}
