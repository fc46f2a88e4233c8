/* optim.c - optimizer state and steps. See optim.h. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "engine/mem.h"
#include "engine/optim_impl.h"
#include "engine/rng.h"

int optim_is_8bit(const OptimConfig *c, size_t count)
{
    int kind = c->kind == OPTIM_ADAMW8BIT || c->kind == OPTIM_LION8BIT || c->kind == OPTIM_SGD8BIT;
    return kind && count >= (size_t)c->min_8bit_size;
}

/* The state of every kind, by torch's names in alphabetical order. */
static const struct { OptimKind kind; const char *name; int slot; } arrays[] = {
    {OPTIM_ADAMW, "exp_avg", OPTIM_M}, {OPTIM_ADAMW, "exp_avg_sq", OPTIM_V},
    {OPTIM_ADAMW8BIT, "absmax1", OPTIM_M_SCALE}, {OPTIM_ADAMW8BIT, "absmax2", OPTIM_V_SCALE},
    {OPTIM_ADAMW8BIT, "state1", OPTIM_M}, {OPTIM_ADAMW8BIT, "state2", OPTIM_V},
    {OPTIM_LION, "exp_avg", OPTIM_M},
    {OPTIM_LION8BIT, "absmax1", OPTIM_M_SCALE}, {OPTIM_LION8BIT, "state1", OPTIM_M},
    {OPTIM_SGD, "momentum_buffer", OPTIM_M},
    {OPTIM_SGD8BIT, "absmax1", OPTIM_M_SCALE}, {OPTIM_SGD8BIT, "state1", OPTIM_M},
    {OPTIM_ADAFACTOR, "exp_avg", OPTIM_M}, {OPTIM_ADAFACTOR, "exp_avg_sq", OPTIM_V},
    {OPTIM_ADAFACTOR, "exp_avg_sq_col", OPTIM_COL}, {OPTIM_ADAFACTOR, "exp_avg_sq_row", OPTIM_ROW},
    {OPTIM_ADAMW_FREE, "exp_avg_sq", OPTIM_V}, {OPTIM_ADAMW_FREE, "x", OPTIM_AVERAGE},
    {OPTIM_ADAMW_FREE, "z", OPTIM_X},
    {OPTIM_RADAM_FREE, "exp_avg_sq", OPTIM_V}, {OPTIM_RADAM_FREE, "x", OPTIM_AVERAGE},
    {OPTIM_RADAM_FREE, "z", OPTIM_X},
    {OPTIM_SGD_FREE, "x", OPTIM_AVERAGE}, {OPTIM_SGD_FREE, "z", OPTIM_X},
    {OPTIM_DADAPT_ADAM, "exp_avg", OPTIM_M}, {OPTIM_DADAPT_ADAM, "exp_avg_sq", OPTIM_V},
    {OPTIM_DADAPT_ADAM, "s", OPTIM_S},
    {OPTIM_DADAPT_PREPRINT, "exp_avg", OPTIM_M}, {OPTIM_DADAPT_PREPRINT, "exp_avg_sq", OPTIM_V},
    {OPTIM_DADAPT_PREPRINT, "s", OPTIM_S},
    {OPTIM_DADAPT_ADAGRAD, "alphak", OPTIM_V}, {OPTIM_DADAPT_ADAGRAD, "sk", OPTIM_S},
    {OPTIM_DADAPT_ADAGRAD, "x0", OPTIM_X},
    {OPTIM_DADAPT_ADAN, "exp_avg", OPTIM_M}, {OPTIM_DADAPT_ADAN, "exp_avg_diff", OPTIM_DIFF},
    {OPTIM_DADAPT_ADAN, "exp_avg_sq", OPTIM_V}, {OPTIM_DADAPT_ADAN, "pre_grad", OPTIM_X},
    {OPTIM_DADAPT_ADAN, "s", OPTIM_S},
    {OPTIM_DADAPT_ADAN_IP, "exp_avg", OPTIM_M}, {OPTIM_DADAPT_ADAN_IP, "exp_avg_diff", OPTIM_DIFF},
    {OPTIM_DADAPT_ADAN_IP, "exp_avg_sq", OPTIM_V}, {OPTIM_DADAPT_ADAN_IP, "pre_grad", OPTIM_X},
    {OPTIM_DADAPT_ADAN_IP, "s", OPTIM_S},
    {OPTIM_DADAPT_LION, "exp_avg", OPTIM_M}, {OPTIM_DADAPT_LION, "s", OPTIM_S},
    {OPTIM_DADAPT_SGD, "s", OPTIM_S}, {OPTIM_DADAPT_SGD, "x0", OPTIM_X},
    {OPTIM_PRODIGY, "exp_avg", OPTIM_M}, {OPTIM_PRODIGY, "exp_avg_sq", OPTIM_V},
    {OPTIM_PRODIGY, "p0", OPTIM_X}, {OPTIM_PRODIGY, "s", OPTIM_S},
};

/* 0: this tensor has no such array. */
static size_t array_bytes(const OptimConfig *c, const OptimTensor *t, int slot)
{
    size_t f32 = t->count * 4, blocks = (t->count + ADAMW8_BLOCK - 1) / ADAMW8_BLOCK * 4;
    size_t slice = (size_t)c->slice_p, sliced = (t->count + slice - 1) / slice * 4;
    int bytes = optim_is_8bit(c, t->count), factored = t->rows > 0;
    switch (slot) {
    case OPTIM_M_SCALE:
    case OPTIM_V_SCALE: return bytes ? blocks : 0;
    case OPTIM_ROW: return factored ? f32 / t->cols : 0;
    case OPTIM_COL: return factored ? f32 / t->rows : 0;
    case OPTIM_S:
    case OPTIM_X: return c->kind == OPTIM_PRODIGY ? sliced : f32;
    case OPTIM_V: return bytes ? t->count : c->kind == OPTIM_ADAFACTOR && factored ? 0 : f32;
    case OPTIM_M:
        if (c->kind == OPTIM_SGD && c->momentum == 0) return 0;
        if (c->kind == OPTIM_ADAFACTOR && c->beta1 < 0) return 0;
        return bytes ? t->count : f32;
    default: return f32;
    }
}

int optim_parts(const OptimConfig *c, const OptimTensor *t, OptimPart part[OPTIM_SLOTS])
{
    int n = 0;
    if (c->ema_decay > 0) part[n++] = (OptimPart){"ema", OPTIM_AVERAGE, t->count * 4};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        size_t bytes = arrays[i].kind == c->kind ? array_bytes(c, t, arrays[i].slot) : 0;
        if (bytes) part[n++] = (OptimPart){arrays[i].name, arrays[i].slot, bytes};
    }
    /* by name, so that a state file is written in one pass */
    for (int i = 1; i < n && strcmp(part[i - 1].name, part[i].name) > 0; i++) {
        OptimPart first = part[i - 1];
        part[i - 1] = part[i];
        part[i] = first;
    }
    return n;
}

static size_t align64(size_t n) { return (n + 63) / 64 * 64; }

size_t optim_state_bytes(const OptimConfig *c, const OptimTensor *t)
{
    OptimPart part[OPTIM_SLOTS];
    size_t sum = 0;
    for (int i = optim_parts(c, t, part) - 1; i >= 0; i--) sum += align64(part[i].bytes);
    return sum;
}

void optim_shape(OptimTensor *t, int ndim, const int *dim)
{
    size_t n[4] = {1, 1, 1, 1};
    if (ndim != 2 && ndim != 4) return;
    for (int i = 0; i < ndim; i++) n[ndim == 4 ? i : i + 1] = (size_t)dim[i];
    t->outer = n[0];
    t->rows = n[1];
    t->cols = n[2];
    t->inner = n[3];
    assert(t->outer * t->rows * t->cols * t->inner == t->count);
}

Optim *optim_new(const OptimConfig *c, Dev *dev, const Ops *ops, const double *lr, int groups,
                 Err *e)
{
    assert(groups > 0 && groups <= OPTIM_GROUPS);
    double top = 0;
    for (int i = 0; i < groups; i++) {
        if (!(lr[i] >= 0 && lr[i] < 1e9)) {
            err_set(e, ERR_USAGE, "learning rate %g: expected 0 or more", lr[i]);
            return NULL;
        }
        if (optim_finds_rate(c) && lr[i] > 0 && top > 0 && lr[i] != top) {
            err_set(e, ERR_USAGE, "DAdapt... and Prodigy find one rate for all: give the text "
                    "encoder and the U-Net the same learning rate, or 0 (have %g and %g)", top,
                    lr[i]);
            return NULL;
        }
        if (lr[i] > top) top = lr[i];
    }
    Optim *o = mem_calloc(1, sizeof *o);
    if (!o) {
        err_nomem(e, sizeof *o, "the optimizer");
        return NULL;
    }
    o->cfg = *c;
    o->dev = dev;
    o->ops = ops;
    o->groups = groups;
    memcpy(o->lr, lr, (size_t)groups * sizeof *lr);
    o->d = o->d_max = c->d0;
    return o;
}

void optim_free(Optim *o)
{
    if (!o) return;
    for (size_t i = 0; i < o->count; i++) mem_free(o->list[i].name);
    mem_free(o->list);
    mem_free(o->host);
    mem_free(o);
}

int optim_add(Optim *o, const char *name, int group, size_t count, float *param,
              const float *grad, Err *e)
{
    assert(group >= 0 && group < o->groups && !o->sums);
    if (o->lr[group] == 0) return 0;
    OptimTensor *list = mem_grow(o->list, o->count, &o->cap, sizeof *list);
    if (!list) return err_nomem(e, sizeof *list, "the optimizer's list of tensors");
    o->list = list;
    char *copy = mem_strdup(name);
    if (!copy) return err_nomem(e, strlen(name), "the optimizer's list of tensors");
    list[o->count++] = (OptimTensor){.name = copy, .group = group, .count = count,
                                     .param = param, .grad = grad};
    return 0;
}

/* STAGE: elements of a bf16 parameter that are updated at a time; whole blocks. */
enum { MAP_BYTES = 512 * 4, STAGE = 1 << 20 };

static size_t stage_bytes(const Optim *o)
{
    size_t most = 0;
    for (size_t i = 0; i < o->count; i++)
        if (o->list[i].dt != DT_F32 && o->list[i].count > most) most = o->list[i].count;
    int whole = o->cfg.kind == OPTIM_ADAFACTOR;
    return align64((most < STAGE || whole ? most : STAGE) * sizeof(float));
}

/* Adafactor's factors of the largest tensor. */
static size_t room_bytes(const Optim *o)
{
    size_t most = 0;
    for (size_t i = 0; i < o->count && o->cfg.kind == OPTIM_ADAFACTOR; i++) {
        const OptimTensor *t = &o->list[i];
        size_t n = t->rows ? t->outer * (t->rows + t->cols) * t->inner : t->count;
        if (n > most) most = n;
    }
    return align64(most * sizeof(float));
}

size_t optim_bytes(const Optim *o)
{
    size_t sum =
        MAP_BYTES + align64(o->count * 3 * sizeof(double)) + stage_bytes(o) + room_bytes(o);
    for (size_t i = 0; i < o->count; i++) sum += optim_state_bytes(&o->cfg, &o->list[i]);
    return sum;
}

int optim_place(Optim *o, void *memory, Err *e)
{
    float map[512];
    size_t sums = o->count * 3 * sizeof(double);
    uint8_t *at = memory;
    assert(!o->host);
    o->host = mem_calloc(o->count + 1, 3 * sizeof(double));
    if (!o->host) return err_nomem(e, sums, "the optimizer's sums");
    dev_zero(o->dev, memory, optim_bytes(o));
    o->map = memory;
    optim_dynamic_map(map, 1);
    optim_dynamic_map(map + 256, 0);
    dev_upload(o->dev, o->map, map, sizeof map);
    at += MAP_BYTES;
    o->sums = (double *)(void *)at;
    at += align64(sums);
    o->stage = (float *)(void *)at;
    at += stage_bytes(o);
    o->room = (float *)(void *)at;
    at += room_bytes(o);
    for (size_t i = 0; i < o->count; i++) {
        OptimPart part[OPTIM_SLOTS];
        int n = optim_parts(&o->cfg, &o->list[i], part);
        for (int k = 0; k < n; k++) {
            o->list[i].state[part[k].slot] = at;
            at += align64(part[k].bytes);
        }
    }
    dev_sync(o->dev);
    return 0;
}

/* ---- one update ---------------------------------------------------------- */

/* Elements [at, at + n) of tensor t. */
typedef struct { OptimTensor *t; size_t at, n; float *p; } Piece;

static float *state_f32(const Piece *q, int slot)
{
    return q->t->state[slot] ? (float *)q->t->state[slot] + q->at : NULL;
}

static Moment8 moment8(const Optim *o, const Piece *q)
{
    return (Moment8){(uint8_t *)q->t->state[OPTIM_M] + q->at,
                     (float *)q->t->state[OPTIM_M_SCALE] + q->at / ADAMW8_BLOCK, o->map};
}

static void update_adamw(Optim *o, const Piece *q, double lr, double clip)
{
    const OptimConfig *c = &o->cfg;
    OptimTensor *t = q->t;
    double step = (double)(t->steps + 1);
    AdamW h = {lr, c->beta1, c->beta2, c->eps, c->weight_decay, 1 - pow(c->beta1, step),
               1 - pow(c->beta2, step), clip};
    if (optim_is_8bit(c, t->count)) {
        Moment8 m = moment8(o, q);
        Moments8 s = {m.mq, (uint8_t *)t->state[OPTIM_V] + q->at, m.mabs,
                      (float *)t->state[OPTIM_V_SCALE] + q->at / ADAMW8_BLOCK};
        o->ops->optim.adamw8(o->dev, &h, q->n, q->p, &s, o->map, t->grad + q->at);
    } else {
        o->ops->optim.adamw(o->dev, &h, q->n, q->p, state_f32(q, OPTIM_M), state_f32(q, OPTIM_V),
                            t->grad + q->at);
    }
}

static void update_lion(Optim *o, const Piece *q, double lr, double clip)
{
    const OptimConfig *c = &o->cfg;
    double decay = c->weight_decay;
    if (c->decoupled_weight_decay) decay /= o->lr[q->t->group];
    Lion h = {lr, c->beta1, c->beta2, decay, clip};
    Moment8 s = moment8(o, q);
    if (optim_is_8bit(c, q->t->count))
        o->ops->optim.lion8(o->dev, &h, q->n, q->p, &s, q->t->grad + q->at);
    else
        o->ops->optim.lion(o->dev, &h, q->n, q->p, state_f32(q, OPTIM_M), q->t->grad + q->at);
}

static void update_sgd(Optim *o, const Piece *q, double lr, double clip)
{
    const OptimConfig *c = &o->cfg;
    Sgd h = {lr, c->momentum, c->dampening, c->weight_decay, clip, c->nesterov, !q->t->steps};
    Moment8 s = moment8(o, q);
    if (optim_is_8bit(c, q->t->count))
        o->ops->optim.sgd8(o->dev, &h, q->n, q->p, &s, q->t->grad + q->at);
    else
        o->ops->optim.sgd(o->dev, &h, q->n, q->p, state_f32(q, OPTIM_M), q->t->grad + q->at);
}

/* transformers' Adafactor._get_lr, without the scale of the parameter. */
static double relative_step(const OptimConfig *c, uint64_t step)
{
    return fmin(c->warmup_init ? 1e-6 * (double)step : 1e-2, 1 / sqrt((double)step));
}

static void update_adafactor(Optim *o, const Piece *q, double lr, double clip)
{
    const OptimConfig *c = &o->cfg;
    OptimTensor *t = q->t;
    Adafactor h = {.lr = c->relative_step ? relative_step(c, t->steps + 1) : lr,
                   .beta1 = c->beta1, .beta2 = 1 - pow((double)t->steps + 1, c->decay_rate),
                   .eps1 = c->eps, .eps2 = c->eps2, .threshold = c->clip_threshold,
                   .weight_decay = c->weight_decay, .clip = clip,
                   .scale_parameter = c->scale_parameter, .outer = t->outer, .rows = t->rows,
                   .cols = t->cols, .inner = t->inner};
    AdafactorState s = {t->state[OPTIM_M], t->state[OPTIM_V], t->state[OPTIM_ROW],
                        t->state[OPTIM_COL], o->room, o->sums + 3 * (t - o->list)};
    o->ops->optim.adafactor(o->dev, &h, t->count, q->p, &s, t->grad);
}

/* How a schedule-free method averages at this step; lr is the rate without its warmup. */
static SchedFree schedfree_now(const Optim *o, double lr)
{
    const OptimConfig *c = &o->cfg;
    double k = (double)o->k + 1, b2 = pow(c->beta2, k);
    SchedFree h = {.lr = lr, .beta2 = c->beta2, .bias2 = 1 - b2, .eps = c->eps,
                   .weight_decay = c->weight_decay, .adaptive = 1};
    if (c->kind == OPTIM_RADAM_FREE) {
        double inf = 2 / (1 - c->beta2) - 1, rho = inf - 2 * k * b2 / (1 - b2);
        h.adaptive = rho > 4;
        h.lr *= !h.adaptive ? !c->silent_sgd_phase
                : sqrt((rho - 4) * (rho - 2) * inf / ((inf - 4) * (inf - 2) * rho));
    } else if (k <= c->warmup_steps) {
        h.lr *= k / c->warmup_steps;
    }
    return h;
}

static void step_schedfree(Optim *o, double lr_factor, double clip)
{
    const OptimConfig *c = &o->cfg;
    double beta1 = c->kind == OPTIM_SGD_FREE ? c->momentum : c->beta1;
    SchedFree h[OPTIM_GROUPS];
    for (int i = 0; i < o->groups; i++) {
        h[i] = schedfree_now(o, o->lr[i] * lr_factor);
        o->lr_max[i] = fmax(o->lr_max[i], h[i].lr);
        double weight = pow((double)o->k + 1, c->r) * pow(o->lr_max[i], c->weight_lr_power);
        o->weight_sum[i] += weight;
        h[i].c = o->weight_sum[i] > 0 ? weight / o->weight_sum[i] : 0;
        h[i].lr_y = h[i].lr * (beta1 * (1 - h[i].c) - 1);
        h[i].clip = clip;
    }
    for (size_t i = 0; i < o->count; i++) {
        OptimTensor *t = &o->list[i];
        SchedFreeState s = {t->state[OPTIM_V], t->state[OPTIM_AVERAGE], t->state[OPTIM_X]};
        if (!t->grad) continue;
        if (!t->steps++) {
            o->ops->cast[DT_F32][DT_F32](o->dev, t->count, s.x, t->param);
            o->ops->cast[DT_F32][DT_F32](o->dev, t->count, s.z, t->param);
        }
        o->ops->optim.schedfree(o->dev, &h[t->group], t->count, t->param, &s, t->grad);
    }
    o->k++;
}

static void update_piece(Optim *o, const Piece *q, double lr_factor, double clip)
{
    double lr = o->lr[q->t->group] * lr_factor;
    switch (o->cfg.kind) {
    case OPTIM_LION:
    case OPTIM_LION8BIT: update_lion(o, q, lr, clip); break;
    case OPTIM_SGD:
    case OPTIM_SGD8BIT: update_sgd(o, q, lr, clip); break;
    case OPTIM_ADAFACTOR: update_adafactor(o, q, lr, clip); break;
    default: update_adamw(o, q, lr, clip);
    }
}

/* A bf16 parameter is updated in f32, a piece at a time, and rounded back. */
static void update_half(Optim *o, OptimTensor *t, double lr_factor, double clip)
{
    RngKey key = {o->seed, (uint32_t)t->steps, (uint32_t)(t - o->list), RNG_PURPOSE_ROUND};
    size_t piece = o->cfg.kind == OPTIM_ADAFACTOR ? t->count : STAGE;
    for (size_t at = 0; at < t->count; at += piece) {
        size_t n = t->count - at < piece ? t->count - at : piece;
        uint16_t *half = (uint16_t *)t->param + at;
        Dither h = {{rng_u32(key, 0), rng_u32(key, 1)}, (uint32_t)at};
        o->ops->cast[DT_F32][t->dt](o->dev, n, o->stage, half);
        update_piece(o, &(Piece){t, at, n, o->stage}, lr_factor, clip);
        o->ops->optim.dither(o->dev, &h, n, half, o->stage);
    }
}

static void update(Optim *o, OptimTensor *t, double lr_factor, double clip)
{
    if (t->dt != DT_F32) update_half(o, t, lr_factor, clip);
    else update_piece(o, &(Piece){t, 0, t->count, t->param}, lr_factor, clip);
    t->steps++;
}

/* ---- averages ------------------------------------------------------------ */

int optim_has_average(const OptimConfig *c)
{
    return c->ema_decay > 0 || c->kind == OPTIM_ADAMW_FREE || c->kind == OPTIM_RADAM_FREE ||
           c->kind == OPTIM_SGD_FREE;
}

/* diffusers EMAModel.get_decay, without use_ema_warmup, at its n-th call. */
static double ema_decay(const OptimConfig *c, double n)
{
    double step = n - c->ema_update_after - 1;
    return step <= 0 ? 0 : fmin((1 + step) / (10 + step), c->ema_decay);
}

/* After a step. The average of a tensor without a gradient would be the tensor. */
static void follow(Optim *o)
{
    for (size_t i = 0; i < o->count && o->cfg.ema_decay > 0; i++) {
        OptimTensor *t = &o->list[i];
        float keep = (float)(1 - ema_decay(&o->cfg, (double)t->steps));
        if (t->grad && t->steps)
            o->ops->optim.ema(o->dev, t->count, t->state[OPTIM_AVERAGE], t->param, keep);
    }
}

void optim_swap(Optim *o)
{
    if (!optim_has_average(&o->cfg)) return;
    for (size_t i = 0; i < o->count; i++) {
        OptimTensor *t = &o->list[i];
        if (t->steps)
            o->ops->optim.swap(o->dev, t->count, t->param, t->state[OPTIM_AVERAGE]);
    }
    o->averaged = !o->averaged;
    dev_sync(o->dev);
}

/* ---- steps --------------------------------------------------------------- */

static int bad_gradient(const Optim *o, size_t i, Err *e)
{
    return err_set(e, ERR_FAIL, "gradient of %s is not finite (NaN or infinite); its weights "
                   "were not changed; lower the learning rate, or look for a broken picture",
                   o->list[i].name);
}

int optim_check_device(const Optim *o, Err *e)
{
    const char *why = dev_failure(o->dev);
    if (!why[0]) return 0;
    return err_set(e, ERR_FAIL, "%s failed in the optimizer's step or before: %s",
                   dev_name(o->dev), why);
}

/* Sets the norm of all gradients, or s->bad. */
static int gradient_norm(Optim *o, OptimStep *s, Err *e)
{
    double sum = 0;
    s->bad = -1;
    for (size_t i = 0; i < o->count; i++) {
        OptimTensor *t = &o->list[i];
        if (t->grad) o->ops->optim.sumsq(o->dev, t->count, o->sums + 3 * i, t->grad);
    }
    dev_download(o->dev, o->host, o->sums, o->count * 3 * sizeof(double));
    TRY(optim_check_device(o, e));
    for (size_t i = 0; i < o->count; i++) {
        if (!o->list[i].grad) continue;
        if (!isfinite(o->host[3 * i])) {
            s->bad = (long)i;
            return bad_gradient(o, i, e);
        }
        sum += o->host[3 * i];
    }
    s->grad_norm = sqrt(sum);
    return 0;
}

int optim_step(Optim *o, OptimStep *s, Err *e)
{
    double clip = 1, top = 0;
    assert(o->sums && !o->averaged);
    TRY(gradient_norm(o, s, e));
    if (s->max_grad_norm > 0) clip = fmin(1, s->max_grad_norm / (s->grad_norm + 1e-6));
    for (int i = 0; i < o->groups; i++) top = fmax(top, o->lr[i]);
    if (optim_finds_rate(&o->cfg)) {
        optim_adapt(o, top * s->lr_factor, clip);
    } else if (o->cfg.kind >= OPTIM_ADAMW_FREE) {
        step_schedfree(o, s->lr_factor, clip);
    } else {
        for (size_t i = 0; i < o->count; i++)
            if (o->list[i].grad) update(o, &o->list[i], s->lr_factor, clip);
    }
    follow(o);
    dev_sync(o->dev);
    return optim_check_device(o, e);
}

int optim_streams(const OptimConfig *c)
{
    return c->kind < OPTIM_ADAMW_FREE && !optim_has_average(c);
}

int optim_update(Optim *o, size_t index, OptimStep *s, Err *e)
{
    OptimTensor *t = &o->list[index];
    double clip = 1;
    assert(o->sums && optim_streams(&o->cfg));
    s->bad = -1;
    s->grad_norm = 0;
    if (!t->grad) return 0;
    o->ops->optim.sumsq(o->dev, t->count, o->sums + 3 * index, t->grad);
    dev_download(o->dev, o->host + 3 * index, o->sums + 3 * index, sizeof(double));
    TRY(optim_check_device(o, e));
    if (!isfinite(o->host[3 * index])) {
        s->bad = (long)index;
        return bad_gradient(o, index, e);
    }
    s->grad_norm = sqrt(o->host[3 * index]);
    if (s->max_grad_norm > 0) clip = fmin(1, s->max_grad_norm / (s->grad_norm + 1e-6));
    update(o, t, s->lr_factor, clip);
    return 0;
}

double optim_lr(const Optim *o, int group, double lr_factor)
{
    const OptimConfig *c = &o->cfg;
    uint64_t steps = 0;
    for (size_t i = 0; i < o->count; i++)
        if (o->list[i].steps > steps) steps = o->list[i].steps;
    if (c->kind == OPTIM_ADAFACTOR && c->relative_step) return relative_step(c, steps ? steps : 1);
    return o->lr[group] * lr_factor * (optim_finds_rate(c) ? o->d : 1);
}

