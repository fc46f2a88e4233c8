/* model.c - see model.h. */
#include "models/model.h"

#include <math.h>
#include <string.h>

#include "engine/mem.h"
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
        return err_set(e, ERR_USAGE, "int8 weights: there are no products for them on %s; bf16 works there",
                       dev_name(m->dev));
    return 0;
}

static int starts(const char *s, const char *prefix) { return !strncmp(s, prefix, strlen(prefix)); }

/* params_int8_fn. Kept in full: the few weights that every value of a picture passes
 * (in and out of the U-Net, its time embedding), the tables of embeddings, what LoRAs
 * under training add, and the VAE, whose errors are seen directly. */
static int int8_weight(const char *name)
{
    if (strstr(name, ".lora_")) return 0;
    if (starts(name, "text_encoder.")) return !strstr(name, ".embeddings.");
    return starts(name, "unet.") && !starts(name, "unet.conv_in.") && !starts(name, "unet.conv_out.") &&
           !starts(name, "unet.time_embedding.");
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

void model_close(Model *m)
{
    slab_free(&m->slab);
    params_free(m->ps);
    for (size_t i = 0; i < m->lora_count; i++) lora_close(&m->lora[i]);
    mem_free(m->lora);
    lora_targets_free(m->targets, m->target_count);
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

/* params_group_fn */
static int group_of(void *ctx, const char *name)
{
    const ModelTraining *t = &((Model *)ctx)->train;
    int lora = strstr(name, ".lora_down.weight") || strstr(name, ".lora_up.weight");
    if (starts(name, "text_encoder.")) return (lora ? t->lora_text : t->full_text) ? GROUP_TEXT : -1;
    if (starts(name, "unet.")) return (lora ? t->lora_unet : t->full_unet) ? GROUP_UNET : -1;
    return t->full_vae ? GROUP_VAE : -1;
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
static int lora_of(void *ctx, const char *path, float *scale)
{
    const LoraModule *lm = trained_module(ctx, path);
    if (!lm) return 0;
    *scale = lm->alpha / (float)lm->rank;
    return lm->rank;
}

/* ---- graphs -------------------------------------------------------------- */

Build model_graph(Model *m)
{
    return (Build){graph_new(m->dtype), m->ps, m->train.lora ? lora_of : NULL, m};
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
    return params_bytes(m->ps) + m->slab.bytes + m->slab.scratch_bytes;
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
static void random_values(const Model *m, const CheckpointEntry *en, float *dst)
{
    size_t n = (size_t)en->count;
    const Layer *l = en->layer;
    int bias = strstr(en->name, ".bias") != NULL, zero = starts_at_zero(l, bias);
    uint32_t h = 2166136261u;                   /* each tensor has a stream of its own */
    for (const char *s = en->name; *s; s++) h = (h ^ (unsigned char)*s) * 16777619u;
    RngKey key = {m->seed, 0, h, RNG_PURPOSE_INIT};
    if (l->kind == LAYER_EMBEDDING) {
        rng_normal(key, 0, dst, n);
        for (size_t i = 0; i < n; i++) dst[i] *= 0.02f;
        return;
    }
    float gain = strncmp(l->path, "vae.", 4) ? 1 : sqrtf(3);
    float bound = gain / sqrtf((float)l->in * (float)l->k * (float)l->k);
    for (size_t i = 0; i < n; i++) {
        if (l->kind == LAYER_NORM) dst[i] = !bias;
        else dst[i] = zero ? 0 : (2 * rng_uniform(key, (uint32_t)i) - 1) * bound;
    }
    /* posterior variances start small, so that pictures are learnt before the prior */
    if (bias && !strcmp(l->path, "vae.quant_conv"))
        for (size_t i = n / 2; i < n; i++) dst[i] = -6;
}

static int lora_values(const Model *m, const Param *p, float *dst, Err *e)
{
    char path[KEY_MAX];
    const char *at = strstr(p->name, ".lora_");
    size_t n = (size_t)(at - p->name);
    memcpy(path, p->name, n);
    path[n] = 0;
    const LoraModule *lm = trained_module(m, path);
    if (!lm) return err_set(e, ERR_FAIL, "tensor %s is not in the LoRA", p->name);
    memcpy(dst, strstr(at, "up.") ? lm->up : lm->down, p->count * sizeof *dst);
    return 0;
}

/* The target of a weight that merged LoRAs change, or NULL. */
static const LoraTarget *changed_by_lora(const Model *m, const Param *p)
{
    const CheckpointEntry *en = m->lora_count && p->ndim > 1 ? checkpoint_find(m->ck, p->name) : NULL;
    const LoraTarget *t = en ? model_target(m, en->layer->path) : NULL;
    for (size_t i = 0; t && i < m->lora_count; i++)
        if (lora_find(&m->lora[i], t)) return t;
    return NULL;
}

int model_initial(const Model *m, const CheckpointEntry *en, float *dst, Err *e)
{
    if (m->ck->path) return checkpoint_read_f32(en, dst, e);
    random_values(m, en, dst);
    return 0;
}

/* ParamSource.whole: a delta or a random tensor is made in one piece */
static int made_whole(void *ctx, const Param *p)
{
    const Model *m = ctx;
    return !m->ck->path || strstr(p->name, ".lora_") || changed_by_lora(m, p);
}

/* ParamSource.read */
static int values_of(void *ctx, const Param *p, size_t first, size_t count, float *dst, Err *e)
{
    const Model *m = ctx;
    if (strstr(p->name, ".lora_")) return lora_values(m, p, dst, e);
    const CheckpointEntry *en = checkpoint_find(m->ck, p->name);
    if (!en || (size_t)en->count != p->count)
        return err_set(e, ERR_INPUT, "tensor %s: the model has none of this shape", p->name);
    if (!m->ck->path) return random_values(m, en, dst), 0;
    TRY(tensorfile_read_f32(en->file, en->tensor, en->first + (int64_t)first, (int64_t)count, dst, e));
    tensorfile_drop(en->file, en->tensor, en->first + (int64_t)first, (int64_t)count);
    const LoraTarget *t = changed_by_lora(m, p);
    for (size_t i = 0; t && i < m->lora_count; i++) {
        const LoraModule *lm = lora_find(&m->lora[i], t);
        if (lm) TRY(lora_add_delta(lm, lora_weight(&m->lora[i], t), dst, e));
    }
    return 0;
}

int model_load_part(Model *m, const char *prefix, Err *e)
{
    ParamSource source = {values_of, made_whole, m};
    TRY(params_alloc(m->ps, prefix, e));
    return params_fill(m->ps, &source, e);
}

int model_load(Model *m, Err *e)
{
    if (!m->slab.base) TRY(slab_alloc(&m->slab, m->dev, e));
    return model_load_part(m, NULL, e);
}

void model_release(Model *m, const char *prefix) { params_release(m->ps, prefix); }
