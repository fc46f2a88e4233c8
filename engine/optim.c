/* optim.c - optimizer state and steps. See optim.h. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "engine/mem.h"
#include "engine/optim.h"
#include "engine/rng.h"

/* One array of the state of a tensor, by torch's name. */
typedef struct { const char *name; size_t bytes; } Part;

static int is_8bit(const OptimConfig *c, size_t count)
{
    return c->kind == OPTIM_ADAMW8BIT && count >= (size_t)c->min_8bit_size;
}

/* Fills part and returns how many there are; the order is that of
 * OptimTensor.state. */
static int state_parts(const OptimConfig *c, size_t count, Part part[OPTIM_STATES])
{
    size_t f32 = count * 4, blocks = (count + ADAMW8_BLOCK - 1) / ADAMW8_BLOCK;
    size_t sliced = (count + (size_t)c->slice_p - 1) / (size_t)c->slice_p * 4;
    Part m = {"exp_avg", f32}, v = {"exp_avg_sq", f32};
    switch (c->kind) {
    case OPTIM_ADAMW8BIT:
        if (is_8bit(c, count)) {
            part[0] = (Part){"state1", count};
            part[1] = (Part){"state2", count};
            part[2] = (Part){"absmax1", blocks * 4};
            part[3] = (Part){"absmax2", blocks * 4};
            return 4;
        }
        part[0] = (Part){"state1", f32};
        part[1] = (Part){"state2", f32};
        return 2;
    case OPTIM_LION:
        part[0] = m;
        return 1;
    case OPTIM_SGD:
        part[0] = (Part){"momentum_buffer", f32};
        return c->momentum != 0;
    default:
        part[0] = m;
        part[1] = v;
        part[2] = (Part){"s", sliced};
        part[3] = (Part){"p0", sliced};
        return c->kind == OPTIM_ADAMW ? 2 : c->kind == OPTIM_DADAPT_ADAM ? 3 : 4;
    }
}

static size_t align64(size_t n) { return (n + 63) / 64 * 64; }

static int is_adaptive(const OptimConfig *c)
{
    return c->kind == OPTIM_DADAPT_ADAM || c->kind == OPTIM_PRODIGY;
}

size_t optim_state_bytes(const OptimConfig *c, size_t count)
{
    Part part[OPTIM_STATES];
    size_t sum = 0;
    for (int i = state_parts(c, count, part) - 1; i >= 0; i--) sum += align64(part[i].bytes);
    return sum;
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
        if (is_adaptive(c) && lr[i] > 0 && top > 0 && lr[i] != top) {
            err_set(e, ERR_USAGE, "DAdaptAdam and Prodigy find one rate for all: give the text "
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
    return align64((most < STAGE ? most : STAGE) * sizeof(float));
}

size_t optim_bytes(const Optim *o)
{
    size_t sum = MAP_BYTES + align64(o->count * 2 * sizeof(double)) + stage_bytes(o);
    for (size_t i = 0; i < o->count; i++) sum += optim_state_bytes(&o->cfg, o->list[i].count);
    return sum;
}

int optim_place(Optim *o, void *memory, Err *e)
{
    float map[512];
    size_t sums = o->count * 2 * sizeof(double);
    uint8_t *at = memory;
    assert(!o->host);
    o->host = mem_calloc(o->count + 1, 2 * sizeof(double));
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
    for (size_t i = 0; i < o->count; i++) {
        Part part[OPTIM_STATES];
        int n = state_parts(&o->cfg, o->list[i].count, part);
        for (int k = 0; k < n; k++) {
            o->list[i].state[k] = at;
            at += align64(part[k].bytes);
        }
    }
    dev_sync(o->dev);
    return 0;
}

/* ---- one update ---------------------------------------------------------- */

/* Elements [at, at + n) of tensor t. */
typedef struct { OptimTensor *t; size_t at, n; float *p; } Piece;

static float *state_f32(const Piece *q, int k)
{
    return q->t->state[k] ? (float *)q->t->state[k] + q->at : NULL;
}

static void update_adamw(Optim *o, const Piece *q, double lr, double clip)
{
    const OptimConfig *c = &o->cfg;
    OptimTensor *t = q->t;
    double step = (double)(t->steps + 1);
    AdamW h = {lr, c->beta1, c->beta2, c->eps, c->weight_decay, 1 - pow(c->beta1, step),
               1 - pow(c->beta2, step), clip};
    if (is_8bit(c, t->count)) {
        size_t block = q->at / ADAMW8_BLOCK;
        Moments8 s = {(uint8_t *)t->state[0] + q->at, (uint8_t *)t->state[1] + q->at,
                      (float *)t->state[2] + block, (float *)t->state[3] + block};
        o->ops->optim.adamw8(o->dev, &h, q->n, q->p, &s, o->map, t->grad + q->at);
    } else {
        o->ops->optim.adamw(o->dev, &h, q->n, q->p, state_f32(q, 0), state_f32(q, 1),
                            t->grad + q->at);
    }
}

static void update_piece(Optim *o, const Piece *q, double lr_factor, double clip)
{
    const OptimConfig *c = &o->cfg;
    OptimTensor *t = q->t;
    double lr = o->lr[t->group] * lr_factor;
    if (c->kind == OPTIM_LION) {
        double decay = c->weight_decay;
        if (c->decoupled_weight_decay) decay /= o->lr[t->group];
        Lion h = {lr, c->beta1, c->beta2, decay, clip};
        o->ops->optim.lion(o->dev, &h, q->n, q->p, state_f32(q, 0), t->grad + q->at);
    } else if (c->kind == OPTIM_SGD) {
        Sgd h = {lr, c->momentum, c->dampening, c->weight_decay, clip, c->nesterov, !t->steps};
        o->ops->optim.sgd(o->dev, &h, q->n, q->p, state_f32(q, 0), t->grad + q->at);
    } else {
        update_adamw(o, q, lr, clip);
    }
}

/* A bf16 parameter is updated in f32, a piece at a time, and rounded back. */
static void update_half(Optim *o, OptimTensor *t, double lr_factor, double clip)
{
    RngKey key = {o->seed, (uint32_t)t->steps, (uint32_t)(t - o->list), RNG_PURPOSE_ROUND};
    for (size_t at = 0; at < t->count; at += STAGE) {
        size_t n = t->count - at < STAGE ? t->count - at : STAGE;
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

/* ---- DAdaptAdam and Prodigy ---------------------------------------------- */

static double adaptive_beta3(const OptimConfig *c)
{
    return c->kind == OPTIM_PRODIGY && c->beta3 >= 0 ? c->beta3 : sqrt(c->beta2);
}

/* d times the rate, with Adam's bias correction if asked for. */
static double adaptive_dlr(const Optim *o, double lr)
{
    const OptimConfig *c = &o->cfg;
    double k = (double)o->k + 1;
    double bias = sqrt(1 - pow(c->beta2, k)) / (1 - pow(c->beta1, k));
    return o->d * lr * (c->use_bias_correction ? bias : 1);
}

/* First pass: the moments of every tensor; sum[0], sum[1] over all, in order. */
static void adaptive_stats(Optim *o, double dlr, double clip, double sum[2])
{
    const OptimConfig *c = &o->cfg;
    double d = o->d, beta3 = adaptive_beta3(c);
    int prodigy = c->kind == OPTIM_PRODIGY;
    Adapt h = {.beta1 = c->beta1, .beta2 = c->beta2, .beta3 = beta3, .eps = c->eps, .clip = clip,
               .l2 = c->decouple ? 0 : c->weight_decay, .slice = c->slice_p};
    h.m_scale = (prodigy ? d : dlr) * (1 - c->beta1);
    h.v_scale = (prodigy ? d * d : 1) * (1 - c->beta2);
    h.s_scale = !prodigy ? dlr * (1 - beta3) : d / c->d0 * (c->safeguard_warmup ? d : dlr);
    for (size_t i = 0; i < o->count; i++) {
        OptimTensor *t = &o->list[i];
        AdaptState s = {t->state[0], t->state[1], t->state[2], t->state[3]};
        if (!t->grad) continue;
        h.first = !t->steps;
        (prodigy ? o->ops->optim.prodigy_stats : o->ops->optim.dadapt_stats)(
            o->dev, &h, t->count, o->sums + 2 * i, t->param, &s, t->grad);
    }
    dev_download(o->dev, o->host, o->sums, o->count * 2 * sizeof(double));
    sum[0] = sum[1] = 0;
    for (size_t i = 0; i < o->count; i++) {
        if (!o->list[i].grad) continue;
        sum[0] += o->host[2 * i];
        sum[1] += o->host[2 * i + 1];
    }
}

/* The new d from the sums. */
static void adaptive_estimate(Optim *o, double dlr, const double sum[2])
{
    const OptimConfig *c = &o->cfg;
    double beta3 = adaptive_beta3(c), d = o->d;
    if (c->kind == OPTIM_PRODIGY) {
        o->numerator = beta3 * o->numerator + d / c->d0 * dlr * sum[0];
        double d_hat = c->d_coef * o->numerator / sum[1];
        if (d == c->d0 && d_hat > d) d = d_hat;
        if (d_hat > o->d_max) o->d_max = d_hat;
        o->d = fmin(o->d_max, d * c->growth_rate);
    } else {
        o->numerator = beta3 * o->numerator + (1 - beta3) * dlr * sum[0];
        double d_hat = o->numerator / ((1 - beta3) * sum[1]);
        o->d = fmax(d, fmin(d_hat, d * c->growth_rate));
    }
}

static void adaptive_step(Optim *o, double lr, double clip)
{
    const OptimConfig *c = &o->cfg;
    double dlr = adaptive_dlr(o, lr), sum[2];
    int prodigy = c->kind == OPTIM_PRODIGY;
    if (lr == 0) return;               /* the references change nothing then, not even k */
    adaptive_stats(o, dlr, clip, sum);
    if (sum[1] > 0) adaptive_estimate(o, dlr, sum);
    AdaptStep h = {prodigy ? dlr : 1, c->decouple ? c->weight_decay * dlr : 0,
                   prodigy ? o->d * c->eps : c->eps};
    for (size_t i = 0; i < o->count; i++) {
        OptimTensor *t = &o->list[i];
        if (!t->grad) continue;
        if (sum[1] > 0)
            o->ops->optim.adapt_step(o->dev, &h, t->count, t->param, t->state[0], t->state[1]);
        t->steps++;
    }
    if (sum[1] > 0) o->k++;
}

/* ---- steps --------------------------------------------------------------- */

static int bad_gradient(const Optim *o, size_t i, Err *e)
{
    return err_set(e, ERR_FAIL, "gradient of %s is not finite (NaN or infinite); its weights "
                   "were not changed; lower the learning rate, or look for a broken picture",
                   o->list[i].name);
}

static int check_device(const Optim *o, Err *e)
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
        if (t->grad) o->ops->optim.sumsq(o->dev, t->count, o->sums + 2 * i, t->grad);
    }
    dev_download(o->dev, o->host, o->sums, o->count * 2 * sizeof(double));
    TRY(check_device(o, e));
    for (size_t i = 0; i < o->count; i++) {
        if (!o->list[i].grad) continue;
        if (!isfinite(o->host[2 * i])) {
            s->bad = (long)i;
            return bad_gradient(o, i, e);
        }
        sum += o->host[2 * i];
    }
    s->grad_norm = sqrt(sum);
    return 0;
}

int optim_step(Optim *o, OptimStep *s, Err *e)
{
    double clip = 1, top = 0;
    assert(o->sums);
    TRY(gradient_norm(o, s, e));
    if (s->max_grad_norm > 0) clip = fmin(1, s->max_grad_norm / (s->grad_norm + 1e-6));
    for (int i = 0; i < o->groups; i++) top = fmax(top, o->lr[i]);
    if (is_adaptive(&o->cfg)) {
        adaptive_step(o, top * s->lr_factor, clip);
    } else {
        for (size_t i = 0; i < o->count; i++)
            if (o->list[i].grad) update(o, &o->list[i], s->lr_factor, clip);
    }
    dev_sync(o->dev);
    return check_device(o, e);
}

int optim_streams(const OptimConfig *c) { return !is_adaptive(c); }

int optim_update(Optim *o, size_t index, OptimStep *s, Err *e)
{
    OptimTensor *t = &o->list[index];
    double clip = 1;
    assert(o->sums && !is_adaptive(&o->cfg));
    s->bad = -1;
    s->grad_norm = 0;
    if (!t->grad) return 0;
    o->ops->optim.sumsq(o->dev, t->count, o->sums + 2 * index, t->grad);
    dev_download(o->dev, o->host + 2 * index, o->sums + 2 * index, sizeof(double));
    TRY(check_device(o, e));
    if (!isfinite(o->host[2 * index])) {
        s->bad = (long)index;
        return bad_gradient(o, index, e);
    }
    s->grad_norm = sqrt(o->host[2 * index]);
    if (s->max_grad_norm > 0) clip = fmin(1, s->max_grad_norm / (s->grad_norm + 1e-6));
    update(o, t, s->lr_factor, clip);
    return 0;
}

double optim_lr(const Optim *o, int group, double lr_factor)
{
    return o->lr[group] * lr_factor * (is_adaptive(&o->cfg) ? o->d : 1);
}

/* ---- state in files ------------------------------------------------------ */

/* The blob "optim": this, then the steps of each tensor. */
typedef struct {
    char magic[8];
    uint64_t kind, count, k;
    double d, d_max, numerator;
} Header;
static const char magic[8] = "sdcopt1";

/* One host buffer that holds the largest blob. */
static uint8_t *staging(const Optim *o, size_t *size, Err *e)
{
    *size = sizeof(Header) + o->count * 8;
    for (size_t i = 0; i < o->count; i++) {
        Part part[OPTIM_STATES];
        for (int k = state_parts(&o->cfg, o->list[i].count, part) - 1; k >= 0; k--)
            if (part[k].bytes > *size) *size = part[k].bytes;
    }
    uint8_t *buf = mem_alloc(*size);
    if (!buf) err_nomem(e, *size, "saving or loading the optimizer's state");
    return buf;
}

/* Moves every state array to save or from load, whichever is set. */
typedef struct { optim_save_fn *save; optim_load_fn *load; void *ctx; uint8_t *buf; } Transfer;

static int transfer_part(const Optim *o, const Transfer *t, const OptimTensor *of, int k,
                         const Part *part, Err *e)
{
    char *name = mem_printf("%s.%s", of->name, part->name);
    if (!name) return err_nomem(e, strlen(of->name), "a state name");
    int rc;
    if (t->save) {
        dev_download(o->dev, t->buf, of->state[k], part->bytes);
        rc = check_device(o, e);
        if (!rc) rc = t->save(t->ctx, name, t->buf, part->bytes, e);
    } else {
        rc = t->load(t->ctx, name, t->buf, part->bytes, e);
        if (!rc) dev_upload(o->dev, of->state[k], t->buf, part->bytes);
    }
    mem_free(name);
    return rc;
}

static int transfer(const Optim *o, const Transfer *t, Err *e)
{
    for (size_t i = 0; i < o->count; i++) {
        Part part[OPTIM_STATES];
        int n = state_parts(&o->cfg, o->list[i].count, part);
        for (int k = 0; k < n; k++) TRY(transfer_part(o, t, &o->list[i], k, &part[k], e));
    }
    return 0;
}

int optim_save(const Optim *o, optim_save_fn *save, void *ctx, Err *e)
{
    size_t size;
    uint8_t *buf = staging(o, &size, e);
    if (!buf) return ERR_MEMORY;
    Header h = {.kind = o->cfg.kind, .count = o->count, .k = o->k, .d = o->d, .d_max = o->d_max,
                .numerator = o->numerator};
    memcpy(h.magic, magic, sizeof magic);
    memcpy(buf, &h, sizeof h);
    for (size_t i = 0; i < o->count; i++)
        memcpy(buf + sizeof h + i * 8, &o->list[i].steps, 8);
    int rc = save(ctx, "optim", buf, sizeof h + o->count * 8, e);
    if (!rc) rc = transfer(o, &(Transfer){save, NULL, ctx, buf}, e);
    mem_free(buf);
    return rc;
}

static int load_header(Optim *o, const uint8_t *buf, Err *e)
{
    Header h;
    memcpy(&h, buf, sizeof h);
    if (memcmp(h.magic, magic, sizeof magic) || h.count != o->count || !(h.d > 0) ||
        !isfinite(h.d) || !isfinite(h.d_max) || !isfinite(h.numerator))
        return err_set(e, ERR_INPUT, "saved optimizer state is damaged or from another network; "
                       "start without resuming");
    if (h.kind != o->cfg.kind)
        return err_set(e, ERR_INPUT, "saved optimizer state is of another optimizer; resume with "
                       "the same --optimizer_type");
    o->k = h.k;
    o->d = h.d;
    o->d_max = h.d_max;
    o->numerator = h.numerator;
    for (size_t i = 0; i < o->count; i++)
        memcpy(&o->list[i].steps, buf + sizeof h + i * 8, 8);
    return 0;
}

int optim_load(Optim *o, optim_load_fn *load, void *ctx, Err *e)
{
    size_t size;
    uint8_t *buf = staging(o, &size, e);
    if (!buf) return ERR_MEMORY;
    int rc = load(ctx, "optim", buf, sizeof(Header) + o->count * 8, e);
    if (!rc) rc = load_header(o, buf, e);
    if (!rc) rc = transfer(o, &(Transfer){NULL, load, ctx, buf}, e);
    mem_free(buf);
    return rc;
}

/* ---- 8-bit map ----------------------------------------------------------- */

/* torch.linspace(0.1, 1, n + 1), f32, bit for bit. */
static float decade(int k, int n)
{
    float step = (1.0f - 0.1f) / (float)n;
    return k < (n + 1) / 2 ? fmaf(step, (float)k, 0.1f) : fmaf(-step, (float)(n - k), 1.0f);
}

/* Seven decades down from 1, each halved finer than the one below it; the
 * values are the middles of equal parts of [0.1, 1] in each. */
void optim_dynamic_map(float map[256], int is_signed)
{
    static const float scale[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
    int zero = is_signed ? 127 : 0, at = 0;
    map[zero] = 0;
    for (int i = 0; i < 7; i++) {
        int n = is_signed ? 1 << i : 2 << i;
        for (int k = 0; k < n; k++) {
            float x = scale[i] * ((decade(k, n) + decade(k + 1, n)) / 2);
            map[zero + ++at] = x;
            if (is_signed) map[zero - at] = -x;
        }
    }
    map[255] = 1;
}
