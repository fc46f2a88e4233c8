/* model.c - see model.h. */
#include "models/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/mem.h"
#include "models/clip.h"
#include "engine/rng.h"

static const char *const dtype_names[DT_N] = {"f32", "bf16", "f16"};

const char *model_dtype_name(Dtype dt) { return dtype_names[dt]; }

const char *model_precision(const Model *m) { return m->int8 ? "int8" : dtype_names[m->dtype]; }

Dtype model_storage(const Model *m) { return m->int8 ? DT_I8 : m->dtype; }

int model_dtype(ModelOptions *o, const char *name, Err *e)
{
    o->int8 = !strcmp(name, "int8");
    if (o->int8) return o->dtype = DT_BF16, 0;
    for (int i = 0; i < DT_N; i++)
        if (!strcmp(name, dtype_names[i])) return o->dtype = (Dtype)i, 0;
    return err_set(e, ERR_USAGE, "option --dtype: \"%s\" is not f32, bf16, f16 or int8", name);
}

/* ---- opening ------------------------------------------------------------- */

int model_device(Dev **dev, Ops *ops, const char *name, int threads, Err *e)
{
    char why[300];
    if (!name) name = "cpu";
    int rc = dev_open(dev, name, threads, ~0u);
    if (rc == DEV_NO_DEVICE) {
        dev_why(name, why, sizeof why);
        return err_set(e, ERR_USAGE, "option --device: %s", why);
    }
    if (rc) return err_set(e, ERR_MEMORY, "device %s cannot be opened: too little memory", name);
    ops_init(ops, *dev);
    return 0;
}

static int open_device(Model *m, const ModelOptions *o, Err *e)
{
    TRY(model_device(&m->dev, &m->ops, o->device, o->threads, e));
    if (o->int8 && !m->ops.int8)
        return err_set(e, ERR_USAGE,
                       "int8 weights: there are no products for them on %s; bf16 works there",
                       dev_name(m->dev));
    return 0;
}

static int starts(const char *s, const char *prefix) { return !strncmp(s, prefix, strlen(prefix)); }

/* params_int8_fn. Kept in full: the few weights that every value of a picture passes
 * (in and out of the U-Net, its time embedding), the tables of embeddings, what LoRAs
 * under training add, and the VAE, whose errors are seen directly. */
static int int8_weight(const char *name)
{
    if (lora_factor_in(name)) return 0;
    if (starts(name, "text_encoder."))
        return !strstr(name, ".embeddings.") && strcmp(name, CLIP_ADDED) != 0;
    return starts(name, "unet.") && !starts(name, "unet.conv_in.") &&
           !starts(name, "unet.conv_out.") && !starts(name, "unet.time_embedding.");
}

static int open_params(Model *m, const ModelOptions *o, Err *e)
{
    m->ps = params_new(m->dev, &m->ops, o->dtype);
    if (!m->ps) return err_nomem(e, sizeof *m->ps, "the table of weights");
    if (o->int8) params_set_int8(m->ps, int8_weight);
    return 0;
}

static int open_loras(Model *m, const ModelOptions *o, Err *e)
{
    m->lora = mem_calloc(o->lora_count, sizeof *m->lora);
    if (!m->lora) return err_nomem(e, o->lora_count * sizeof *m->lora, "LoRA files");
    for (size_t i = 0; i < o->lora_count; i++) {
        TRY(lora_open_spec(&m->lora[i], o->lora[i], m->targets, m->target_count, e));
        m->lora_count++;
    }
    return 0;
}

static int open_all(Model *m, const ModelOptions *o, Err *e)
{
    m->dtype = o->dtype;
    m->int8 = o->int8;
    m->seed = o->seed;
    TRY(open_device(m, o, e));
    TRY(o->path ? checkpoint_open(&m->ck, o->path, e) : checkpoint_new(&m->ck, o->config, e));
    if (o->path && o->vae) TRY(checkpoint_use_vae(m->ck, o->vae, e));
    TRY(layers_lora_targets(&m->ck->layers, &m->targets, &m->target_count, e));
    TRY(open_loras(m, o, e));
    return open_params(m, o, e);
}

int model_open(Model *m, const ModelOptions *o, Err *e)
{
    *m = (Model){0};
    int rc = open_all(m, o, e);
    if (rc) model_close(m);
    return rc;
}

static void close_loras(Lora *list, size_t count)
{
    for (size_t i = 0; i < count; i++) lora_close(&list[i]);
    mem_free(list);
}

void model_close(Model *m)
{
    slab_free(&m->slab);
    params_free(m->ps);
    close_loras(m->lora, m->lora_count);
    lora_targets_free(m->targets, m->target_count);
    embeddings_close(&m->embeddings);
    checkpoint_close(m->ck);
    dev_close(m->dev);
    *m = (Model){0};
}

const LoraTarget *model_target(const Model *m, const char *path)
{
    for (size_t i = 0; i < m->target_count; i++)
        if (!strcmp(m->targets[i].path, path)) return &m->targets[i];
    return NULL;
}

/* ---- what is trained ----------------------------------------------------- */

/* The module that a factor's name begins with, and which factor it is. */
static const LoraTarget *target_of_factor(const Model *m, const char *name, const char *suffix)
{
    char path[KEY_MAX];
    size_t n = (size_t)(suffix - name);
    if (!n || n > sizeof path) return NULL;
    memcpy(path, name, n - 1);
    path[n - 1] = 0;
    return model_target(m, path);
}

/* params_group_fn */
static int group_of(void *ctx, const char *name)
{
    const Model *m = ctx;
    const ModelTraining *t = &m->train;
    const char *lora = lora_factor_in(name);
    int text = starts(name, "text_encoder.");
    if (!strcmp(name, CLIP_ADDED)) return t->tokens ? GROUP_TEXT : -1;
    if (!text && !starts(name, "unet.")) return t->full_vae ? GROUP_VAE : -1;
    if (!lora && text) return t->full_text ? GROUP_TEXT : -1;
    if (!lora) return t->full_unet ? GROUP_UNET : -1;
    if (!(text ? t->lora_text : t->lora_unet)) return -1;
    const LoraTarget *target = t->group ? target_of_factor(m, name, lora) : NULL;
    return target ? t->group(t->group_ctx, target, lora) : text ? GROUP_TEXT : GROUP_UNET;
}

void model_train(Model *m, const ModelTraining *t)
{
    m->train = *t;
    slab_free(&m->slab);
    params_set_trainable(m->ps, group_of, m);
    if (t->half) params_stream(m->ps, DT_BF16);
}

static const LoraModule *trained_module(const Model *m, const char *path)
{
    const LoraTarget *t = m->train.lora ? model_target(m, path) : NULL;
    return t ? lora_find(m->train.lora, t) : NULL;
}

/* block_lora_fn */
static const LoraModule *lora_of(void *ctx, const char *path) { return trained_module(ctx, path); }

/* ---- graphs -------------------------------------------------------------- */

Build model_graph(Model *m)
{
    return (Build){.g = graph_new(m->dtype), .ps = m->ps, .lora = m->train.lora ? lora_of : NULL,
                   .lora_ctx = m, .dropout = m->train.dropout, .added_tokens = m->embeddings.rows};
}

int model_plan(Model *m, Exec *x, Build *b, Err *e) { return model_plan_on(m, &m->slab, x, b, e); }

int model_plan_on(Model *m, Slab *slab, Exec *x, Build *b, Err *e)
{
    /* a weight that could not be declared makes shapes that do not fit: report the cause */
    int rc = m->ps->err.code ? err_set(e, m->ps->err.code, "%s", m->ps->err.msg) : 0;
    int rx = exec_init(x, b->g, slab, m->dev, &m->ops, e);
    return rc ? rc : rx;
}

size_t model_bytes(const Model *m)
{
    return params_bytes(m->ps) + m->slab.bytes;
}

/* ---- weights ------------------------------------------------------------- */

/* Weights that start at zero: biases, the last convolution of the U-Net (DDPM),
 * and what closes the residual branches of the VAE (Zhang et al., Fixup). */
static int starts_at_zero(const Layer *l, int bias)
{
    int last = strstr(l->path, ".conv2") || strstr(l->path, ".to_out");
    return bias || !strcmp(l->path, "unet.conv_out") || (last && !strncmp(l->path, "vae.", 4));
}

/* Random weights as PyTorch's layers start: uniform in +-1/sqrt(fan in) for
 * products; norms 1 and 0; embeddings gaussian as in CLIP. The VAE starts at
 * sqrt(3) times that, which keeps the variance: what is left then is a chain of
 * convolutions that lets all colours through. With a chain that shrinks them
 * one axis of colour is learnt after the other, and the last one too late. */
static void random_values(const Model *m, const CheckpointEntry *en, size_t first, size_t count,
                          float *dst)
{
    const Layer *l = en->layer;
    int bias = strstr(en->name, ".bias") != NULL, zero = starts_at_zero(l, bias);
    uint32_t h = 2166136261u;                   /* each tensor has a stream of its own */
    for (const char *s = en->name; *s; s++) h = (h ^ (unsigned char)*s) * 16777619u;
    RngKey key = {m->seed, 0, h, RNG_PURPOSE_INIT};
    if (l->kind == LAYER_EMBEDDING) {
        rng_normal(key, first, dst, count);
        for (size_t i = 0; i < count; i++) dst[i] *= 0.02f;
        return;
    }
    float gain = strncmp(l->path, "vae.", 4) ? 1 : sqrtf(3);
    float bound = gain / sqrtf((float)l->in * (float)l->k * (float)l->k);
    int drawn = l->kind != LAYER_NORM && !zero;
    if (drawn) rng_uniforms(key, (uint32_t)first, dst, count);
    for (size_t i = 0; i < count; i++)
        dst[i] = drawn ? (2 * dst[i] - 1) * bound : l->kind == LAYER_NORM && !bias;
    /* posterior variances start small, so that pictures are learnt before the prior */
    if (bias && !strcmp(l->path, "vae.quant_conv"))
        for (size_t i = 0; i < count; i++)
            if (first + i >= (size_t)en->count / 2) dst[i] = -6;
}

/* The target of a weight that merged LoRAs change, or NULL. */
static const LoraTarget *changed_by_lora(const Model *m, const CheckpointEntry *en)
{
    const LoraTarget *t =
        en && m->lora_count && !strstr(en->name, ".bias") ? model_target(m, en->layer->path) : NULL;
    for (size_t i = 0; t && i < m->lora_count; i++)
        if (lora_find(&m->lora[i], t)) return t;
    return NULL;
}

int model_initial(const Model *m, const CheckpointEntry *en, float *dst, Err *e)
{
    if (m->ck->path) return checkpoint_read_f32(en, dst, e);
    random_values(m, en, 0, (size_t)en->count, dst);
    return 0;
}

static int read_weight(const Model *m, const CheckpointEntry *en, size_t first, size_t count,
                       float *dst, Err *e);

/* DoRA begins with the norms of the weight it decomposes. */
static int dora_values(const Model *m, const LoraModule *lm, const Param *p, float *dst, Err *e)
{
    char name[KEY_MAX + 8];
    snprintf(name, sizeof name, "%s.weight", lm->target->path);
    const CheckpointEntry *en = checkpoint_find(m->ck, name);
    float *w = en ? mem_alloc((size_t)en->count * sizeof *w) : NULL;
    if (!w) return err_nomem(e, en ? (size_t)en->count * sizeof *w : 0, p->name);
    int rc = read_weight(m, en, 0, (size_t)en->count, w, e);
    if (!rc) lora_dora_norms(lm, w, dst);
    mem_free(w);
    return rc;
}

static int lora_values(const Model *m, const Param *p, const char *suffix, float *dst, Err *e)
{
    const LoraTarget *t = target_of_factor(m, p->name, suffix);
    const LoraModule *lm = t && m->train.lora ? lora_find(m->train.lora, t) : NULL;
    if (!lm) return err_set(e, ERR_FAIL, "tensor %s is not in the LoRA", p->name);
    LoraModule copy = *lm;
    LoraFactor f[LORA_FACTORS];
    int n = lora_factors(&copy, f);
    for (int i = 0; i < n; i++) {
        if (strcmp(f[i].suffix, suffix)) continue;
        if (!*f[i].values) return dora_values(m, lm, p, dst, e);
        memcpy(dst, *f[i].values, p->count * sizeof *dst);
        return 0;
    }
    return err_set(e, ERR_FAIL, "tensor %s is not in the LoRA", p->name);
}

/* ParamSource.whole: a delta is made in one piece */
static int made_whole(void *ctx, const Param *p)
{
    const Model *m = ctx;
    return lora_factor_in(p->name) || !strcmp(p->name, CLIP_ADDED) ||
           changed_by_lora(m, checkpoint_find(m->ck, p->name));
}

/* Values of a tensor with what merged LoRAs change; those are read whole. */
static int read_weight(const Model *m, const CheckpointEntry *en, size_t first, size_t count,
                       float *dst, Err *e)
{
    if (!m->ck->path) return random_values(m, en, first, count, dst), 0;
    TRY(tensorfile_read_f32(en->file, en->tensor, en->first + (int64_t)first, (int64_t)count, dst,
                            e));
    tensorfile_drop(en->file, en->tensor, en->first + (int64_t)first, (int64_t)count);
    const LoraTarget *t = changed_by_lora(m, en);
    for (size_t i = 0; t && i < m->lora_count; i++) {
        const LoraModule *lm = lora_find(&m->lora[i], t);
        if (lm) TRY(lora_add_delta(lm, lora_weight(&m->lora[i], t), dst, e));
    }
    return 0;
}

/* ParamSource.read */
static int values_of(void *ctx, const Param *p, size_t first, size_t count, float *dst, Err *e)
{
    const Model *m = ctx;
    const char *factor = lora_factor_in(p->name);
    if (factor) return lora_values(m, p, factor, dst, e);
    if (!strcmp(p->name, CLIP_ADDED))
        return memcpy(dst, m->embeddings.values + first, count * sizeof *dst), 0;
    const CheckpointEntry *en = checkpoint_find(m->ck, p->name);
    if (!en || (size_t)en->count != p->count)
        return err_set(e, ERR_INPUT, "tensor %s: the model has none of this shape", p->name);
    return read_weight(m, en, first, count, dst, e);
}

int model_load_part(Model *m, const char *prefix, Err *e)
{
    ParamSource source = {values_of, made_whole, m};
    TRY(params_alloc(m->ps, prefix, e));
    return params_fill(m->ps, &source, e);
}

/* What merged LoRAs change is to be filled again. */
static void empty_changed(Model *m)
{
    for (size_t i = 0; m->lora_count && i < m->ps->count; i++) {
        Param *p = m->ps->list[i];
        if (p->filled && changed_by_lora(m, checkpoint_find(m->ck, p->name))) p->filled = 0;
    }
}

/* Takes over what the model has of the same file. */
static int take_lora(Model *m, Lora *lo, const char *spec, Err *e)
{
    char *path;
    float unet, text;
    TRY(lora_spec(spec, &path, &unet, &text, e));
    for (size_t i = 0; i < m->lora_count && !lo->path; i++)
        if (m->lora[i].path && !strcmp(m->lora[i].path, path))
            *lo = m->lora[i], m->lora[i] = (Lora){0};
    lo->unet_weight = unet;
    lo->text_weight = text;
    mem_free(path);
    return 0;
}

int model_loras(Model *m, char *const *lora, size_t count, Err *e)
{
    ParamSource source = {values_of, made_whole, m};
    Lora *list = mem_calloc(count + 1, sizeof *list);
    int rc = list ? 0 : err_nomem(e, count * sizeof *list, "LoRA files");
    empty_changed(m);
    for (size_t i = 0; i < count && !rc; i++) rc = take_lora(m, &list[i], lora[i], e);
    close_loras(m->lora, m->lora_count);
    m->lora = list;
    m->lora_count = list ? count : 0;
    for (size_t i = 0; i < count && !rc; i++)
        if (!list[i].path) rc = lora_open_spec(&list[i], lora[i], m->targets, m->target_count, e);
    TRY(rc);
    empty_changed(m);
    return params_fill(m->ps, &source, e);
}

int model_load(Model *m, Err *e)
{
    if (!m->slab.base) TRY(slab_alloc(&m->slab, m->dev, e));
    return model_load_part(m, NULL, e);
}

void model_release(Model *m, const char *prefix) { params_release(m->ps, prefix); }

/* ---- token ids ----------------------------------------------------------- */

/* Row i of CLIP_ROWS becomes row id of the table, some values at a time. */
static int set_row(const Model *m, Exec *x, const CheckpointEntry *en, size_t i, size_t id, Err *e)
{
    float part[512];
    size_t width = (size_t)m->ck->config.text_width, most = sizeof part / sizeof *part;
    for (size_t at = 0, n; at < width; at += n) {
        n = width - at < most ? width - at : most;
        TRY(read_weight(m, en, id * width + at, n, part, e));
        TRY(exec_set_part(x, CLIP_ROWS, i * width + at, part, n, e));
    }
    return 0;
}

/* Each id gets a row of its own, but one that repeats the id before, as padding does. */
static int set_rows(const Model *m, Exec *x, const char *name, const int32_t *ids, size_t count,
                    Err *e)
{
    const CheckpointEntry *en = checkpoint_find(m->ck, CLIP_TABLE);
    if (!en) return err_set(e, ERR_INPUT, "tensor %s: the model has none", CLIP_TABLE);
    for (size_t i = 0, row = 0; i < count; i++) {
        int added = ids[i] - m->ck->config.vocab;
        if (!i || ids[i] != ids[i - 1]) {
            row = i;
            if (added < 0) TRY(set_row(m, x, en, row, (size_t)ids[i], e));
        }
        int32_t place = (int32_t)(added < 0 ? row : count + (size_t)added);
        TRY(exec_set_part(x, name, i, &place, 1, e));
    }
    /* reading one page maps its neighbours */
    if (en->file) tensorfile_drop(en->file, en->tensor, en->first, en->count);
    return 0;
}

int model_set_ids(const Model *m, Exec *x, const char *name, const int32_t *ids, size_t count,
                  Err *e)
{
    int tokens = m->ck->config.vocab + m->embeddings.rows;
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= tokens)
            return err_set(e, ERR_INPUT, "tensor %s: token id %d is outside the vocabulary of %d",
                           name, (int)ids[i], tokens);
    return graph_find(x->g, CLIP_ROWS) ? set_rows(m, x, name, ids, count, e)
                                       : exec_set(x, name, ids, count, e);
}
