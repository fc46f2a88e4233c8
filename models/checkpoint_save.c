/* checkpoint_save.c - writes a model as one LDM safetensors file.
 *
 * First a list of what will be in the file: the source's own tensors, or the
 * parameters under their LDM keys. Then one tensor after another is copied, or
 * put together from new values. */
#include "models/checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/mem.h"

enum { PARTS_MAX = 3, COPY_BYTES = 1 << 22 };

/* One tensor of the output. */
typedef struct {
    char own_key[KEY_MAX];
    const char *key;                        /* a name in the source; NULL: own_key */
    FileDtype dtype;
    int ndim;
    const int64_t *shape;                   /* of the source; NULL: own_shape */
    int64_t own_shape[4];
    const TensorFile *file;                 /* of raw */
    const FileTensor *raw;                  /* source with the same layout, or NULL */
    const CheckpointEntry *part[PARTS_MAX]; /* the parameters it holds, by rows */
    int parts;
} Out;

typedef struct {
    const Checkpoint *ck;
    const CheckpointSave *s;
    Out *list;
    size_t count, cap;
} Plan;

static const char *out_key(const Out *o) { return o->key ? o->key : o->own_key; }

static int by_key(const void *a, const void *b) { return strcmp(out_key(a), out_key(b)); }
static int key_vs_out(const void *key, const void *out) { return strcmp(key, out_key(out)); }
static void sort_outs(Plan *p) { qsort(p->list, p->count, sizeof *p->list, by_key); }

static Out *find_out(const Plan *p, const char *key)
{
    return p->count ? bsearch(key, p->list, p->count, sizeof *p->list, key_vs_out) : NULL;
}

static Out *add_out(Plan *p, Err *e)
{
    Out *list = mem_grow(p->list, p->count, &p->cap, sizeof *list);
    if (!list) {
        err_nomem(e, sizeof *list, "the list of tensors");
        return NULL;
    }
    p->list = list;
    list[p->count] = (Out){0};
    return &list[p->count++];
}

/* ---- planning ------------------------------------------------------------------------ */

/* Part number of an entry within its tensor in a single file. */
static int part_of(const CheckpointEntry *en) { return (int)(en->first / en->count); }

static int plan_file(Plan *p, Err *e)
{
    const TensorFile *tf = p->ck->files[0];
    for (size_t i = 0; i < tensorfile_count(tf); i++) {
        const FileTensor *t = tensorfile_at(tf, i);
        Out *o = add_out(p, e);
        if (!o) return ERR_MEMORY;
        o->key = t->name;
        o->dtype = t->dtype;
        o->ndim = t->ndim;
        o->shape = t->shape;
        o->file = tf;
        o->raw = t;
    }
    sort_outs(p);
    for (size_t i = 0; i < p->ck->count; i++) {
        const CheckpointEntry *en = &p->ck->entries[i];
        Out *o = find_out(p, en->tensor->name);
        o->part[part_of(en)] = en;
        o->parts++;
        if (p->s->cast) o->dtype = p->s->dtype;
    }
    return 0;
}

/* dtype of a new tensor: as asked for, else the source's. */
static FileDtype dtype_for(const Plan *p, const CheckpointEntry *en)
{
    return p->s->cast || !en->tensor ? p->s->dtype : en->tensor->dtype;
}

static int plan_entry(Plan *p, const CheckpointEntry *en, KeyRef *r, Err *e)
{
    Out *o = add_out(p, e);
    if (!o) return ERR_MEMORY;
    memcpy(o->own_key, r->key, sizeof o->own_key);
    o->dtype = dtype_for(p, en);
    o->ndim = en->ndim;
    memcpy(o->own_shape, en->shape, sizeof o->own_shape);
    o->own_shape[0] *= r->parts;
    if (r->conv1x1) {
        o->own_shape[2] = o->own_shape[3] = 1;
        o->ndim = 4;
    }
    o->part[r->part] = en;
    o->parts = 1;
    if (en->tensor && en->first == 0 && en->tensor->count == en->count && r->parts == 1) {
        o->file = en->file;
        o->raw = en->tensor;
    }
    return 0;
}

/* OpenCLIP files store one layer more than is used; readers count on it (and
 * so do we). A copy of the last one stands in, as in kohya's. */
static int plan_extra_layer(Plan *p, Err *e)
{
    static const char base[] = "cond_stage_model.model.transformer.resblocks.";
    char last[64];
    int layer = p->ck->config.text_layers;
    int n = snprintf(last, sizeof last, "%s%d.", base, layer - 1);
    for (size_t i = 0, count = p->count; i < count; i++) {
        if (strncmp(p->list[i].own_key, last, (size_t)n)) continue;
        Out *o = add_out(p, e);
        if (!o) return ERR_MEMORY;
        *o = p->list[i];
        snprintf(o->own_key, KEY_MAX, "%s%d.%.*s", base, layer, KEY_MAX - 64,
                 p->list[i].own_key + n);
    }
    return 0;
}

static int plan_canonical(Plan *p, Err *e)
{
    int openclip = p->ck->config.openclip;
    KeyDialect d = openclip ? KEY_LDM_OPENCLIP : KEY_LDM;
    KeyRef r;
    for (int later = 0; later < 2; later++) {      /* packed parts after the first: second round */
        for (size_t i = 0; i < p->ck->count; i++) {
            const CheckpointEntry *en = &p->ck->entries[i];
            if (!key_ref(&r, d, en->name, 0))
                return err_set(e, ERR_FAIL, "parameter %s has no LDM key", en->name);
            if (!later && r.part == 0) TRY(plan_entry(p, en, &r, e));
            if (!later || r.part == 0) continue;
            Out *o = find_out(p, r.key);
            o->part[r.part] = en;
            o->parts++;
        }
        if (!later) sort_outs(p);
    }
    if (openclip) {
        TRY(plan_extra_layer(p, e));
        sort_outs(p);
    }
    return 0;
}

/* ---- writing --------------------------------------------------------------------------- */

static int copy_raw(TensorWriter *w, const TensorFile *tf, const FileTensor *t, Err *e)
{
    int64_t bytes = (int64_t)file_dtype_bytes(t->dtype);
    if (!bytes)
        return err_set(e, ERR_INPUT, "%s: tensor %s has the unsupported type %s",
                       tensorfile_path(tf), t->name, t->dtype_name);
    void *buf = mem_alloc(COPY_BYTES);
    if (!buf) return err_nomem(e, COPY_BYTES, "a copy buffer");
    int rc = 0;
    for (int64_t i = 0, step = COPY_BYTES / bytes; i < t->count && !rc; i += step) {
        int64_t n = t->count - i < step ? t->count - i : step;
        rc = tensorfile_read_raw(tf, t, i, n, buf, e);
        if (!rc) rc = tensorwriter_write(w, buf, (size_t)(n * bytes), e);
        tensorfile_drop(tf, t, i, n);
    }
    mem_free(buf);
    return rc;
}

/* A file with NaN or infinity in it is worthless and looks fine: never write one. */
static int check_finite(const Out *o, const float *v, int64_t n, Err *e)
{
    float max = o->dtype == FD_F16 ? 65519.0f : INFINITY;       /* rounds to 65504 */
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(v[i]) < INFINITY))
            return err_set(e, ERR_FAIL, "tensor %s would contain NaN or infinity; not written",
                           out_key(o));
        else if (fabsf(v[i]) > max)
            return err_set(e, ERR_FAIL, "tensor %s has the value %g, too large for F16; save as "
                           "bf16 or float", out_key(o), (double)v[i]);
    return 0;
}

/* Fills values (all parts); *copy is set instead when the source's bytes will do. */
static int gather(const Plan *p, const Out *o, float *values, int *copy, Err *e)
{
    int64_t at = 0;
    int got[PARTS_MAX] = {0}, changed = 0;
    for (int i = 0; i < o->parts; at += o->part[i++]->count)
        if (p->s->values) {
            TRY(p->s->values(p->s->ctx, o->part[i], values + at, &got[i], e));
            changed |= got[i];
        }
    *copy = !changed && o->raw && o->raw->dtype == o->dtype;
    if (*copy) return 0;
    at = 0;
    for (int i = 0; i < o->parts; at += o->part[i++]->count) {
        const CheckpointEntry *en = o->part[i];
        if (got[i]) continue;
        TRY(checkpoint_read_f32(en, values + at, e));
        tensorfile_drop(en->file, en->tensor, en->first, en->count);
    }
    return check_finite(o, values, at, e);
}

static int write_one(const Plan *p, TensorWriter *w, const Out *o, Err *e)
{
    if (!o->parts) return copy_raw(w, o->file, o->raw, e);
    int64_t count = 0;
    int copy;
    for (int i = 0; i < o->parts; i++) count += o->part[i]->count;
    float *values = mem_alloc((size_t)count * sizeof *values);
    if (!values) return err_nomem(e, (size_t)count * sizeof *values, out_key(o));
    int rc = gather(p, o, values, &copy, e);
    if (!rc && copy) rc = copy_raw(w, o->file, o->raw, e);
    else if (!rc) rc = tensorwriter_write_f32(w, values, (size_t)count, e);
    mem_free(values);
    return rc;
}

static int put_meta(const Plan *p, TensorWriter *w, Err *e)
{
    const Checkpoint *ck = p->ck;
    size_t n = ck->file_count && !ck->is_folder ? tensorfile_meta_count(ck->files[0]) : 0;
    if (!n) TRY(tensorwriter_meta(w, "format", "pt", e));
    if (!n && ck->config.v_prediction)
        TRY(tensorwriter_meta(w, "modelspec.prediction_type", "v", e));
    for (size_t i = 0; i < n; i++) {
        const char *key, *value;
        tensorfile_meta_at(ck->files[0], i, &key, &value);
        TRY(tensorwriter_meta(w, key, value, e));
    }
    for (size_t i = 0; i < p->s->meta_count; i++)
        TRY(tensorwriter_meta(w, p->s->meta[i].key, p->s->meta[i].value, e));
    return 0;
}

static int write_all(const Plan *p, TensorWriter *w, Err *e)
{
    TRY(put_meta(p, w, e));
    for (size_t i = 0; i < p->count; i++) {
        const Out *o = &p->list[i];
        TRY(tensorwriter_add(w, out_key(o), o->dtype, o->ndim,
                             o->ndim && o->shape ? o->shape : o->own_shape, e));
    }
    TRY(tensorwriter_begin(w, e));
    for (const char *key; (key = tensorwriter_next(w));)
        TRY(write_one(p, w, find_out(p, key), e));
    return 0;
}

int checkpoint_save(const Checkpoint *ck, const char *path, const CheckpointSave *s, Err *e)
{
    Plan p = {.ck = ck, .s = s};
    TensorWriter *w = NULL;
    int rc = ck->file_count && !ck->is_folder ? plan_file(&p, e) : plan_canonical(&p, e);
    if (!rc) rc = tensorwriter_new(&w, path, e);
    if (!rc) {
        rc = write_all(&p, w, e);
        if (rc) tensorwriter_abort(w);
        else rc = tensorwriter_commit(w, e);
    }
    mem_free(p.list);
    return rc;
}
