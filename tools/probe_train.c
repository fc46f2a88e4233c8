/* probe_train.c - `sdc probe grad` and `sdc probe train`. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/layout.h"
#include "engine/lrsched.h"
#include "engine/mem.h"
#include "engine/optim.h"
#include "models/clip.h"
#include "models/denoise.h"
#include "tools/probe.h"

/* Everything one run needs; arrays are owned. */
typedef struct {
    Probe *p;
    Schedule schedule;
    Lora lora;
    Denoise d;
    int steps, n, h, w;            /* steps is 1 for grad */
    float *latents, *noise, *mask, *weight, *input_noise;
    int32_t *t, *ids;
    Optim *optim;
    void *state;                   /* device memory of the optimizer */
    size_t state_bytes;
    ProbeOut *outs;                /* with owned names and data */
    size_t out_count, out_cap;
} Run;

/* An input of latents: (N,C,h,w), or (S,N,C,h,w) with a leading step axis. */
static int maps(Run *r, const char *name, int axes, float **v, Err *e)
{
    const FileTensor *t;
    float *nchw = NULL;
    TRY(probe_tensor(r->p, name, axes, &t, e));
    const int64_t *s = t->shape + axes - 4;
    if (s[1] != SD_LATENT)
        return err_set(e, ERR_INPUT, "%s: tensor %s has %lld channels, 4 expected", r->p->o->in,
                       name, (long long)s[1]);
    if (!r->n)
        r->n = (int)s[0], r->h = (int)s[2], r->w = (int)s[3],
        r->steps = axes == 5 ? (int)t->shape[0] : 1;
    if (s[2] % 8 || s[3] % 8)
        return err_set(e, ERR_INPUT, "%s: tensor %s: height and width must be multiples of 8",
                       r->p->o->in, name);
    if (r->n != s[0] || r->h != s[2] || r->w != s[3] || (axes == 5 && r->steps != t->shape[0]))
        return err_set(e, ERR_INPUT, "%s: tensor %s does not fit latents", r->p->o->in, name);
    int rc = probe_f32(r->p, t, &nchw, e);
    *v = mem_alloc((size_t)t->count * sizeof(float));
    if (!rc && !*v) rc = err_nomem(e, (size_t)t->count * 4, name);
    if (!rc)
        layout_from_nchw(*v, nchw, (size_t)(r->steps * r->n), SD_LATENT, (size_t)(r->h * r->w));
    mem_free(nchw);
    return rc;
}

static int read_inputs(Run *r, int lead, Err *e)
{
    const FileTensor *t;
    TRY(maps(r, "latents", 4 + lead, &r->latents, e));
    TRY(maps(r, "noise", 4 + lead, &r->noise, e));
    TRY(probe_tensor(r->p, "timesteps", 1 + lead, &t, e));
    if (t->count != (int64_t)r->steps * r->n)
        return err_set(e, ERR_INPUT, "%s: tensor timesteps does not fit latents", r->p->o->in);
    TRY(probe_ids(r->p, t, &r->t, e));
    TRY(probe_tensor(r->p, "input_ids", 2 + lead, &t, e));
    if (t->shape[1 + lead] != SD_POSITIONS || t->count != (int64_t)r->steps * r->n * SD_POSITIONS)
        return err_set(e, ERR_INPUT, "%s: tensor input_ids does not fit latents", r->p->o->in);
    TRY(probe_ids(r->p, t, &r->ids, e));
    if (!lead && tensorfile_find(r->p->in, "loss_weights")) {
        TRY(probe_tensor(r->p, "loss_weights", 1, &t, e));
        if (t->count != r->n)
            return err_set(e, ERR_INPUT, "%s: tensor loss_weights does not fit", r->p->o->in);
        TRY(probe_f32(r->p, t, &r->weight, e));
    }
    if (!lead && tensorfile_find(r->p->in, "input_noise"))
        TRY(maps(r, "input_noise", 4, &r->input_noise, e));
    if (!lead && tensorfile_find(r->p->in, "mask")) {
        TRY(probe_tensor(r->p, "mask", 4, &t, e));
        if (t->count != (int64_t)r->n * r->h * r->w)
            return err_set(e, ERR_INPUT, "%s: tensor mask does not fit latents", r->p->o->in);
        TRY(probe_f32(r->p, t, &r->mask, e));
    }
    return 0;
}

static double rate(double own, double common) { return isnan(own) ? common : own; }

static int open_model(Run *r, Err *e)
{
    Probe *p = r->p;
    const ProbeOptions *o = p->o;
    TRY(probe_model(p, 0, e));
    ModelTraining t = {.lora_unet = 1, .lora_text = 1};
    if (o->embeddings) {
        TRY(embeddings_open(&p->m.embeddings, o->embeddings, p->m.ck->config.text_width, e));
        t = (ModelTraining){.tokens = 1};
    } else if (o->full) t = (ModelTraining){.full_unet = 1, .full_text = o->train_te};
    else if (o->lora.count != 1)
        return err_set(e, ERR_USAGE, "option --lora: one LoRA to train is expected (or --full)");
    else {
        TRY(lora_open(&r->lora, o->lora.item[0], p->m.targets, p->m.target_count, e));
        t.lora = &r->lora;
    }
    if (t.lora) {
        t.lora_unet = rate(o->unet_lr, o->lr) != 0;
        t.lora_text = rate(o->te_lr, o->lr) != 0;
    }
    model_train(&p->m, &t);
    DenoiseConfig c = {.huber_c = (float)o->huber_c,
                       .min_snr_gamma = (float)o->min_snr_gamma,
                       .debiased = o->debiased,
                       .scale_v_loss = o->scale_v_loss,
                       .v_pred_like = (float)o->v_pred_like,
                       .v_pred = o->v_pred,
                       .clip_skip = o->clip_skip};
    TRY(denoise_find_loss(&c.loss, o->loss ? o->loss : "l2", e));
    if (o->huber_schedule) TRY(schedule_find_huber(&c.huber, o->huber_schedule, e));
    schedule_init(&r->schedule);
    if (o->zero_terminal) schedule_zero_terminal(&r->schedule);
    return denoise_init(&r->d, &p->m, &r->schedule, &c, r->n, r->h, r->w, 1, r->mask != NULL, 1, e);
}

static int step(Run *r, int s, float *loss, Err *e)
{
    size_t n = (size_t)r->n, k = n * (size_t)r->h * (size_t)r->w * SD_LATENT, i = (size_t)s;
    DenoiseBatch b = {r->latents + i * k, r->noise + i * k,
                      r->t + i * n,       r->ids + i * n * SD_POSITIONS,
                      r->weight,          r->mask,
                      r->input_noise,     0};
    return denoise_run(&r->d, &b, 1, loss, NULL, e);
}

/* Room for one more output of count values. */
static float *output(Run *r, const char *name, int ndim, const int64_t *shape, size_t count, Err *e)
{
    ProbeOut *a = mem_grow(r->outs, r->out_count, &r->out_cap, sizeof *a);
    if (a) r->outs = a;
    char *own = mem_strdup(name);
    float *v = mem_alloc(count * sizeof(float));
    if (!a || !own || !v) {
        mem_free(own);
        mem_free(v);
        err_nomem(e, count * 4, name);
        return NULL;
    }
    ProbeOut *o = &r->outs[r->out_count++];
    *o = (ProbeOut){own, ndim, {0}, v};
    for (int i = 0; i < ndim; i++) o->shape[i] = shape[i];       /* shape NULL: a scalar */
    return v;
}

/* ---- gradients ----------------------------------------------------------- */

/* Gradient of a parameter that is a whole tensor of the model file. OpenCLIP's
 * packed q, k, v arrive as three parameters; each is written under the packed
 * key with a suffix. */
static int full_gradient(Run *r, const Param *q, Err *e)
{
    const CheckpointEntry *en = checkpoint_find(r->p->m.ck, q->name);
    char name[KEY_MAX + 16];
    int packed = en->count != en->tensor->count;
    if (packed)
        snprintf(name, sizeof name, "%s[%lld].grad", en->tensor->name,
                 (long long)(en->first / en->count));
    else snprintf(name, sizeof name, "%s.grad", en->tensor->name);
    int64_t part[4] = {en->shape[0], en->shape[1], en->shape[2], en->shape[3]};
    float *v = output(r, name, packed ? en->ndim : en->tensor->ndim,
                      packed ? part : en->tensor->shape, q->count, e);
    return v ? params_read_grad(r->p->m.ps, q, v, e) : ERR_MEMORY;
}

/* A factor's output: its name in files and what follows it. */
static int lora_output(Run *r, const LoraModule *m, const LoraFactor *f, const char *more,
                       float **v, Err *e)
{
    char name[KEY_MAX + 48];
    snprintf(name, sizeof name, "%s.%s%s", m->target->name, f->suffix, more);
    *v = output(r, name, f->ndim, f->dim, lora_factor_count(f), e);
    return *v ? 0 : ERR_MEMORY;
}

static Param *lora_param(Run *r, const LoraModule *m, const LoraFactor *f)
{
    char name[KEY_MAX + 48];
    snprintf(name, sizeof name, "%s.%s", m->target->path, f->suffix);
    return params_find(r->p->m.ps, name);
}

static int lora_gradients(Run *r, Err *e)
{
    LoraFactor f[LORA_FACTORS];
    for (size_t i = 0; i < r->lora.count; i++) {
        int n = lora_factors(&r->lora.list[i], f);
        for (int k = 0; k < n; k++) {
            const Param *q = lora_param(r, &r->lora.list[i], &f[k]);
            float *v;
            if (!q || !q->grad) continue;
            TRY(lora_output(r, &r->lora.list[i], &f[k], ".grad", &v, e));
            TRY(params_read_grad(r->p->m.ps, q, v, e));
        }
    }
    return 0;
}

static int word_gradients(Run *r, Err *e)
{
    const Param *q = params_find(r->p->m.ps, CLIP_ADDED);
    const Embeddings *em = &r->p->m.embeddings;
    float *v = output(r, "emb_params.grad", 2, (int64_t[]){em->rows, em->width},
                      (size_t)em->rows * (size_t)em->width, e);
    return v ? params_read_grad(r->p->m.ps, q, v, e) : ERR_MEMORY;
}

/* ---- grad ---------------------------------------------------------------- */

static int grad(Run *r, Err *e)
{
    float *loss = output(r, "loss", 1, (int64_t[]){1}, 1, e);
    if (!loss) return ERR_MEMORY;
    TRY(model_load(&r->p->m, e));
    TRY(step(r, 0, loss, e));
    const Params *ps = r->p->m.ps;
    if (r->p->o->full) {
        for (size_t i = 0; i < ps->count; i++)
            if (ps->list[i]->grad) TRY(full_gradient(r, ps->list[i], e));
    } else {
        TRY(r->p->o->embeddings ? word_gradients(r, e) : lora_gradients(r, e));
    }
    return probe_write(r->p, r->outs, r->out_count, e);
}

/* ---- train --------------------------------------------------------------- */

static int make_optimizer(Run *r, Err *e)
{
    const ProbeOptions *o = r->p->o;
    Model *m = &r->p->m;
    OptimConfig c;
    TRY(optim_parse(&c, o->optimizer ? o->optimizer : "adamw", o->optimizer_args, e));
    if (!isnan(o->weight_decay)) c.weight_decay = o->weight_decay;
    double lr[2] = {rate(o->te_lr, o->lr), rate(o->unet_lr, o->lr)};
    r->optim = optim_new(&c, m->dev, &m->ops, lr, 2, e);
    if (!r->optim) return e->code;
    for (size_t i = 0; i < m->ps->count; i++) {
        const Param *q = m->ps->list[i];
        size_t before = r->optim->count;
        if (q->grad) TRY(optim_add(r->optim, q->name, q->group, q->count, q->data, q->grad, e));
        if (r->optim->count > before) optim_shape(&r->optim->list[before], q->ndim, q->dim);
    }
    r->state_bytes = optim_bytes(r->optim);
    if (dev_alloc(m->dev, &r->state, r->state_bytes) != DEV_OK)
        return r->state = NULL, err_nomem(e, r->state_bytes, "the optimizer's state");
    return optim_place(r->optim, r->state, e);
}

static int train_steps(Run *r, float *losses, Err *e)
{
    const ProbeOptions *o = r->p->o;
    LrSched s = {.kind = LRSCHED_CONSTANT,
                 .warmup = o->warmup,
                 .total = r->steps,
                 .cycles = 1,
                 .power = 1,
                 .lr = o->lr};
    if (o->lr_scheduler) TRY(lrsched_find(&s.kind, o->lr_scheduler, e));
    TRY(lrsched_check(&s, e));
    for (int i = 0; i < r->steps; i++) {
        params_zero_grad(r->p->m.ps);
        TRY(step(r, i, &losses[i], e));
        OptimStep os = {.lr_factor = lrsched_factor(&s, i), .max_grad_norm = o->max_grad_norm};
        TRY(optim_step(r->optim, &os, e));
    }
    return 0;
}

/* A factor after training; one that the graph does not hold is unchanged. */
static int factor(Run *r, const LoraModule *m, const LoraFactor *f, Err *e)
{
    float *v;
    TRY(lora_output(r, m, f, "", &v, e));
    const Param *q = lora_param(r, m, f);
    if (q) return params_read(r->p->m.ps, q, v, e);
    memcpy(v, *f->values, lora_factor_count(f) * sizeof *v);
    return 0;
}

static int train(Run *r, Err *e)
{
    float *losses = output(r, "loss", 1, (int64_t[]){r->steps}, (size_t)r->steps, e);
    if (!losses) return ERR_MEMORY;
    if (r->p->o->full)
        return err_set(e, ERR_USAGE, "sdc probe train: --lora is expected, not --full");
    TRY(model_load(&r->p->m, e));
    TRY(make_optimizer(r, e));
    TRY(train_steps(r, losses, e));
    for (size_t i = 0; i < r->lora.count; i++) {
        LoraModule *m = &r->lora.list[i];
        LoraFactor f[LORA_FACTORS];
        int n = lora_factors(m, f);
        char name[KEY_MAX + 16];
        snprintf(name, sizeof name, "%s.alpha", m->target->name);
        float *alpha = output(r, name, 0, NULL, 1, e);
        if (!alpha) return ERR_MEMORY;
        *alpha = m->alpha;
        for (int k = 0; k < n; k++) TRY(factor(r, m, &f[k], e));
    }
    return probe_write(r->p, r->outs, r->out_count, e);
}

/* ---- entries ------------------------------------------------------------- */

static int run_once(Probe *p, int lead, int (*go)(Run *r, Err *e), Err *e)
{
    Run *r = mem_calloc(1, sizeof *r);
    if (!r) return err_nomem(e, sizeof *r, "the run");
    r->p = p;
    int rc = read_inputs(r, lead, e);
    if (!rc) rc = open_model(r, e);
    if (!rc) rc = go(r, e);
    optim_free(r->optim);
    if (r->state) dev_free(p->m.dev, r->state, r->state_bytes);
    denoise_free(&r->d);
    lora_close(&r->lora);
    for (size_t i = 0; i < r->out_count; i++) {
        mem_free((void *)(uintptr_t)r->outs[i].name);
        mem_free((void *)(uintptr_t)r->outs[i].data);
    }
    void *owned[] = {r->outs,   r->latents,     r->noise, r->mask,
                     r->weight, r->input_noise, r->t,     r->ids};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) mem_free(owned[i]);
    mem_free(r);
    return rc;
}

int probe_grad(Probe *p, Err *e) { return run_once(p, 0, grad, e); }
int probe_train(Probe *p, Err *e) { return run_once(p, 1, train, e); }
