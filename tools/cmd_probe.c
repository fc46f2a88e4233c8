/* cmd_probe.c - `sdc probe NET`: tensors in, one network or sampler, tensors out.
 *
 * Files hold PyTorch's layouts (NCHW); everything is f32 outside.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io.h"
#include "engine/layout.h"
#include "engine/mem.h"
#include "engine/rng.h"
#include "engine/sampler.h"
#include "models/clip.h"
#include "models/unet.h"
#include "models/vae.h"
#include "tools/cmd.h"
#include "tools/machine.h"
#include "tools/probe.h"

#define AT(field) offsetof(ProbeOptions, field)

static const Option probe_options[] = {
    {"model", 'm', OPT_TEXT, AT(model), 0, 0, "FILE", "checkpoint or diffusers folder", NULL},
    {"lora", 0, OPT_LIST, AT(lora), 0, 0, "FILE[:W[:TEW]]", "LoRA, its weight for U-Net and text encoder", NULL},
    {"in", 0, OPT_TEXT, AT(in), 0, 0, "FILE", "input tensors (safetensors)", NULL},
    {"out", 0, OPT_TEXT, AT(out), 0, 0, "FILE", "output tensors (safetensors)", NULL},
    {"device", 0, OPT_TEXT, AT(device), 0, 0, "NAME", "where to run: " DEV_NAMES, NULL},
    {"dtype", 0, OPT_TEXT, AT(dtype), 0, 0, "TYPE", "f32, bf16, f16 or int8", NULL},
    {"threads", 0, OPT_INT, AT(threads), 0, 1024, "N", "0: all cores", NULL},
    {"clip_skip", 0, OPT_INT, AT(clip_skip), 0, 64, "N", "1: after the last layer", NULL},
    {"trace", 0, OPT_FLAG, AT(trace), 0, 0, NULL, "time and checksum of each node on stderr", NULL},
    {"rng", 0, OPT_TEXT, AT(rng), 0, 0, "cpu|nv", "generator of randn", NULL},
    {"seed", 0, OPT_INT64, AT(seed), 0, 0, "N", "seed of randn", NULL},
    {"shape", 0, OPT_TEXT, AT(shape), 0, 0, "A,B,C", "shape of randn", NULL},
    {"draws", 0, OPT_INT, AT(draws), 1, 100000, "K", "successive draws of randn", NULL},
    {"sampler", 0, OPT_TEXT, AT(sampler), 0, 0, "NAME", "sampler", NULL},
    {"schedule", 0, OPT_TEXT, AT(schedule), 0, 0, "NAME", "noise schedule", NULL},
    {"steps", 0, OPT_INT, AT(steps), 0, 0, "N", "sampling steps", NULL},
    {"cfg_scale", 0, OPT_FLOAT, AT(cfg_scale), 0, 0, "X", "guidance", NULL},
    {"v_pred", 0, OPT_FLAG, AT(v_pred), 0, 0, NULL, "the network predicts v", NULL},
    {"full", 0, OPT_FLAG, AT(full), 0, 0, NULL, "gradients of the U-Net's weights", NULL},
    {"train_te", 0, OPT_FLAG, AT(train_te), 0, 0, NULL, "and of the text encoder's", NULL},
    {"loss", 0, OPT_TEXT, AT(loss), 0, 0, "NAME", "l2, l1, huber, smooth_l1", NULL},
    {"huber_c", 0, OPT_FLOAT, AT(huber_c), 0, 0, "C", "of the huber losses", NULL},
    {"huber_schedule", 0, OPT_TEXT, AT(huber_schedule), 0, 0, "NAME", "snr, exponential, constant", NULL},
    {"min_snr_gamma", 0, OPT_FLOAT, AT(min_snr_gamma), 0, 0, "G", "min-SNR weighting", NULL},
    {"debiased_estimation_loss", 0, OPT_FLAG, AT(debiased), 0, 0, NULL, "these are kohya's, too", NULL},
    {"scale_v_pred_loss_like_noise_pred", 0, OPT_FLAG, AT(scale_v_loss), 0, 0, NULL, "", NULL},
    {"v_pred_like_loss", 0, OPT_FLOAT, AT(v_pred_like), 0, 0, "X", "", NULL},
    {"zero_terminal_snr", 0, OPT_FLAG, AT(zero_terminal), 0, 0, NULL, "the last noise level is noise alone", NULL},
    {"embeddings", 0, OPT_TEXT, AT(embeddings), 0, 0, "FILE", "gradients of these vectors, the ids behind the vocabulary", NULL},
    {"optimizer", 0, OPT_TEXT, AT(optimizer), 0, 0, "NAME", "adamw, lion...", NULL},
    {"optimizer_args", 0, OPT_TEXT, AT(optimizer_args), 0, 0, "K=V,...", "its arguments", NULL},
    {"lr", 0, OPT_FLOAT, AT(lr), 0, 0, "LR", "learning rate", NULL},
    {"unet_lr", 0, OPT_FLOAT, AT(unet_lr), 0, 0, "LR", "of the U-Net", NULL},
    {"te_lr", 0, OPT_FLOAT, AT(te_lr), 0, 0, "LR", "of the text encoder", NULL},
    {"weight_decay", 0, OPT_FLOAT, AT(weight_decay), 0, 0, "X", "weight decay", NULL},
    {"max_grad_norm", 0, OPT_FLOAT, AT(max_grad_norm), 0, 0, "X", "0: no clipping", NULL},
    {"lr_scheduler", 0, OPT_TEXT, AT(lr_scheduler), 0, 0, "NAME", "constant, linear, cosine...", NULL},
    {"warmup", 0, OPT_INT, AT(warmup), 0, 1e9, "N", "warm-up steps", NULL},
};

/* ---- tensors ------------------------------------------------------------- */

int probe_tensor(const Probe *p, const char *name, int ndim, const FileTensor **t, Err *e)
{
    *t = tensorfile_find(p->in, name);
    if (!*t) return err_set(e, ERR_INPUT, "%s: tensor %s is missing", p->o->in, name);
    if ((*t)->ndim != ndim)
        return err_set(e, ERR_INPUT, "%s: tensor %s has %d axes, %d expected", p->o->in, name,
                       (*t)->ndim, ndim);
    for (int i = 0; i < ndim; i++)
        if ((*t)->shape[i] < 1 || (*t)->shape[i] > 1 << 20)
            return err_set(e, ERR_INPUT, "%s: tensor %s: axis %d has size %lld", p->o->in, name, i,
                           (long long)(*t)->shape[i]);
    return (*t)->count <= 1 << 28 ? 0
        : err_set(e, ERR_INPUT, "%s: tensor %s is too large for a probe", p->o->in, name);
}

int probe_f32(const Probe *p, const FileTensor *t, float **v, Err *e)
{
    *v = mem_alloc((size_t)t->count * sizeof(float));
    if (!*v) return err_nomem(e, (size_t)t->count * 4, t->name);
    return tensorfile_read_f32(p->in, t, 0, t->count, *v, e);
}

int probe_ids(const Probe *p, const FileTensor *t, int32_t **v, Err *e)
{
    size_t n = (size_t)t->count;
    int64_t *wide = mem_alloc(n * sizeof *wide);
    *v = mem_alloc(n * sizeof **v);
    int rc = wide && *v ? tensorfile_read_i64(p->in, t, 0, t->count, wide, e)
                        : err_nomem(e, n * 8, t->name);
    for (size_t i = 0; !rc && i < n; i++) {
        if (wide[i] < 0 || wide[i] > INT32_MAX)
            rc = err_set(e, ERR_INPUT, "%s: tensor %s: token id %lld is outside the vocabulary",
                         p->o->in, t->name, (long long)wide[i]);
        (*v)[i] = (int32_t)wide[i];
    }
    mem_free(wide);
    return rc;
}

int probe_write(Probe *p, const ProbeOut *outs, size_t count, Err *e)
{
    TRY(tensorwriter_new(&p->out, p->o->out, e));
    for (size_t i = 0; i < count; i++)
        TRY(tensorwriter_add(p->out, outs[i].name, FD_F32, outs[i].ndim, outs[i].shape, e));
    TRY(tensorwriter_begin(p->out, e));
    for (const char *next; (next = tensorwriter_next(p->out));) {
        size_t i = 0;
        while (strcmp(outs[i].name, next)) i++;
        size_t n = 1;
        for (int k = 0; k < outs[i].ndim; k++) n *= (size_t)outs[i].shape[k];
        TRY(tensorwriter_write_f32(p->out, outs[i].data, n, e));
    }
    TensorWriter *w = p->out;
    p->out = NULL;
    return tensorwriter_commit(w, e);
}

int probe_model(Probe *p, int merge_loras, Err *e)
{
    const ProbeOptions *o = p->o;
    char device[64];
    machine_device(device, sizeof device, o->device);
    ModelOptions mo = {.path = o->model, .device = device, .threads = o->threads};
    if (!o->model) return err_set(e, ERR_USAGE, "option --model is missing");
    if (merge_loras) mo.lora = o->lora.item, mo.lora_count = o->lora.count;
    TRY(model_dtype(&mo, o->dtype, e));
    return model_open(&p->m, &mo, e);
}

/* ---- networks ------------------------------------------------------------ */

typedef struct { const char *name; const void *values; size_t count; int ids; } Feed;

/* Plans the graph, loads the model, sets the inputs, runs, and returns the
 * output's values (owned by the caller) and shape. */
static int run_net(Probe *p, Build *b, const Feed *feed, size_t feeds, const char *output,
                   float **y, int dim[4], Err *e)
{
    Exec x = {0};
    int rc = model_plan(&p->m, &x, b, e);
    if (!rc) rc = model_load(&p->m, e);
    for (size_t i = 0; !rc && i < feeds; i++)
        rc = feed[i].ids ? model_set_ids(&p->m, &x, feed[i].name, feed[i].values, feed[i].count, e)
                         : exec_set(&x, feed[i].name, feed[i].values, feed[i].count, e);
    if (p->o->trace) x.trace = stderr;
    if (!rc) rc = exec_run(&x, e);
    if (!rc) {
        const Tensor *t = graph_find(x.g, output);
        size_t n = tensor_count(t);
        memcpy(dim, t->dim, sizeof t->dim);
        *y = mem_alloc(n * sizeof(float));
        rc = *y ? exec_get(&x, output, *y, n, e) : err_nomem(e, n * 4, output);
    }
    exec_free(&x);
    return rc;
}

/* An (N,C,H,W) input as (N,H,W,C), and its graph dimensions. */
static int map_input(const Probe *p, const char *name, float **v, int dim[4], Err *e)
{
    const FileTensor *t;
    float *nchw = NULL;
    TRY(probe_tensor(p, name, 4, &t, e));
    int n = (int)t->shape[0], c = (int)t->shape[1], h = (int)t->shape[2], w = (int)t->shape[3];
    int rc = probe_f32(p, t, &nchw, e);
    *v = mem_alloc((size_t)t->count * sizeof(float));
    if (!rc && !*v) rc = err_nomem(e, (size_t)t->count * 4, name);
    if (!rc) layout_from_nchw(*v, nchw, (size_t)n, (size_t)c, (size_t)h * (size_t)w);
    memcpy(dim, (int[]){n, h, w, c}, 4 * sizeof(int));
    /* pictures have 8x8 pixels a latent; the U-Net's goldens demand 8x8 latents a cell */
    if (!rc && strcmp(name, "latents") && (h % 8 || w % 8))
        rc = err_set(e, ERR_INPUT,
                     "%s: tensor %s has size %dx%d; height and width must be multiples of 8",
                     p->o->in, name, h, w);
    mem_free(nchw);
    return rc;
}

/* Writes channels [from, from+c) of a map y (N,H,W,C) as (N,c,H,W) into dst. */
static void take_channels(float *dst, const float *y, const int dim[4], int from, int c)
{
    size_t hw = (size_t)dim[1] * (size_t)dim[2];
    for (size_t n = 0; n < (size_t)dim[0]; n++)
        for (int k = 0; k < c; k++)
            for (size_t i = 0; i < hw; i++)
                *dst++ = y[(n * hw + i) * (size_t)dim[3] + (size_t)(from + k)];
}

static int net_clip(Probe *p, Err *e)
{
    const FileTensor *t;
    int32_t *ids = NULL;
    float *y = NULL;
    int dim[4];
    TRY(probe_tensor(p, "input_ids", 2, &t, e));
    TRY(probe_model(p, 1, e));
    if (t->shape[1] != SD_POSITIONS)
        return err_set(e, ERR_INPUT, "%s: tensor input_ids has %lld columns, 77 expected", p->o->in,
                       (long long)t->shape[1]);
    int rc = probe_ids(p, t, &ids, e);
    for (int64_t i = 0; !rc && i < t->count; i++)
        if (ids[i] >= p->m.ck->config.vocab)
            rc = err_set(e, ERR_INPUT,
                         "%s: tensor input_ids: token id %d is outside the vocabulary of %d",
                         p->o->in, (int)ids[i], p->m.ck->config.vocab);
    if (!rc) {
        Build b = model_graph(&p->m);
        Tensor *in = graph_input_ids(b.g, "input_ids", (int)t->shape[0], SD_POSITIONS);
        graph_output(b.g, clip_build(&b, &p->m.ck->config, in, p->o->clip_skip),
                     "last_hidden_state");
        Feed f = {"input_ids", ids, (size_t)t->count, 1};
        rc = run_net(p, &b, &f, 1, "last_hidden_state", &y, dim, e);
    }
    if (!rc) {
        ProbeOut o = {"last_hidden_state", 3, {dim[0], dim[1], dim[2]}, y};
        rc = probe_write(p, &o, 1, e);
    }
    mem_free(ids);
    mem_free(y);
    return rc;
}

static int unet_run(Probe *p, const float *x, const int xd[4], const float *t, const float *ctx,
                    const FileTensor *ct, Err *e)
{
    float *y = NULL, *out;
    int dim[4], cd[3] = {(int)ct->shape[0], (int)ct->shape[1], (int)ct->shape[2]};
    Build b = model_graph(&p->m);
    Tensor *in = graph_input(b.g, "sample", DT_F32, 4, xd);
    Tensor *tt = graph_input(b.g, "timestep", DT_F32, 1, xd);
    Tensor *cc = graph_input(b.g, "encoder_hidden_states", DT_F32, 3, cd);
    graph_output(b.g, unet_build(&b, &p->m.ck->config, in, tt, cc), "output");
    Feed f[3] = {{"sample", x, tensor_count(in), 0}, {"timestep", t, (size_t)xd[0], 0},
                 {"encoder_hidden_states", ctx, (size_t)ct->count, 0}};
    TRY(run_net(p, &b, f, 3, "output", &y, dim, e));
    size_t n = (size_t)dim[0] * (size_t)dim[1] * (size_t)dim[2] * (size_t)dim[3];
    out = mem_alloc(n * sizeof(float));
    int rc = out ? 0 : err_nomem(e, n * 4, "the output");
    if (!rc) {
        take_channels(out, y, dim, 0, dim[3]);
        ProbeOut o = {"sample", 4, {dim[0], dim[3], dim[1], dim[2]}, out};
        rc = probe_write(p, &o, 1, e);
    }
    mem_free(y);
    mem_free(out);
    return rc;
}

static int net_unet(Probe *p, Err *e)
{
    const FileTensor *tt, *ct;
    float *x = NULL, *t = NULL, *ctx = NULL;
    int xd[4];
    TRY(probe_tensor(p, "timestep", 1, &tt, e));
    TRY(probe_tensor(p, "encoder_hidden_states", 3, &ct, e));
    int rc = map_input(p, "sample", &x, xd, e);
    if (!rc && (tt->shape[0] != xd[0] || ct->shape[0] != xd[0]))
        rc = err_set(e, ERR_INPUT,
                     "%s: sample, timestep and encoder_hidden_states differ in their first axis",
                     p->o->in);
    if (!rc) rc = probe_f32(p, tt, &t, e);
    if (!rc) rc = probe_f32(p, ct, &ctx, e);
    if (!rc) rc = probe_model(p, 1, e);
    if (!rc) rc = unet_run(p, x, xd, t, ctx, ct, e);
    mem_free(x);
    mem_free(t);
    mem_free(ctx);
    return rc;
}

static int write_maps(Probe *p, const float *y, const int dim[4], const char *const *names,
                      int count, Err *e)
{
    int c = dim[3] / count;
    size_t n = (size_t)dim[0] * (size_t)dim[1] * (size_t)dim[2] * (size_t)c;
    float *out = mem_alloc((size_t)count * n * sizeof(float));
    if (!out) return err_nomem(e, n * 4, "the output");
    ProbeOut o[2];
    for (int i = 0; i < count; i++) {
        take_channels(out + (size_t)i * n, y, dim, i * c, c);
        o[i] = (ProbeOut){names[i], 4, {dim[0], c, dim[1], dim[2]}, out + (size_t)i * n};
    }
    /* the posterior's log variance is clamped as in LDM's DiagonalGaussianDistribution */
    for (size_t k = n; count == 2 && k < 2 * n; k++) out[k] = fminf(fmaxf(out[k], -30), 20);
    int rc = probe_write(p, o, (size_t)count, e);
    mem_free(out);
    return rc;
}

static int net_vae(Probe *p, int decode, Err *e)
{
    const char *name = decode ? "latents" : "image";
    float *x = NULL, *y = NULL;
    int xd[4], dim[4], channels = decode ? SD_LATENT : 3;
    int rc = map_input(p, name, &x, xd, e);
    if (!rc && xd[3] != channels)
        rc = err_set(e, ERR_INPUT, "%s: tensor %s has %d channels, %d expected", p->o->in, name,
                     xd[3], channels);
    if (!rc) rc = probe_model(p, 1, e);
    if (!rc) {
        Build b = model_graph(&p->m);
        Tensor *in = graph_input(b.g, name, DT_F32, 4, xd);
        const SdConfig *c = &p->m.ck->config;
        graph_output(b.g, decode ? vae_decode_build(&b, c, in) : vae_encode_build(&b, c, in),
                     "output");
        Feed f = {name, x, (size_t)xd[0] * (size_t)xd[1] * (size_t)xd[2] * (size_t)xd[3], 0};
        rc = run_net(p, &b, &f, 1, "output", &y, dim, e);
    }
    static const char *const image[] = {"image"}, *const moments[] = {"mean", "logvar"};
    if (!rc) rc = write_maps(p, y, dim, decode ? image : moments, decode ? 1 : 2, e);
    mem_free(x);
    mem_free(y);
    return rc;
}

static int net_encode(Probe *p, Err *e) { return net_vae(p, 0, e); }
static int net_decode(Probe *p, Err *e) { return net_vae(p, 1, e); }

/* ---- randn --------------------------------------------------------------- */

static int parse_shape(const char *s, int64_t shape[4], int *ndim, Err *e)
{
    char *end;
    for (*ndim = 0; s && *s && *ndim < 3; s = *end ? end + 1 : end) {
        shape[*ndim] = strtoll(s, &end, 10);
        if (end == s || (*end && *end != ',') || shape[*ndim] < 1 || shape[*ndim] > 1 << 20) break;
        ++*ndim;
        if (!*end) return 0;
    }
    return err_set(e, ERR_USAGE, "option --shape: 1 to 3 sizes as 4,64,64 expected");
}

static int net_randn(Probe *p, Err *e)
{
    int64_t shape[4];
    int ndim, source = !strcmp(p->o->rng, "nv") ? RNG_NV : RNG_CPU;
    if (strcmp(p->o->rng, "nv") && strcmp(p->o->rng, "cpu"))
        return err_set(e, ERR_USAGE, "option --rng: \"%s\" is not cpu or nv", p->o->rng);
    TRY(parse_shape(p->o->shape, shape, &ndim, e));
    size_t n = 1, draws = (size_t)p->o->draws;
    for (int i = 0; i < ndim; i++) n *= (size_t)shape[i];
    float *v = n * draws <= 1 << 28 ? mem_alloc(n * draws * sizeof(float)) : NULL;
    RngTorch *r = mem_alloc(sizeof *r);
    int rc = v && r ? 0 : err_nomem(e, n * draws * 4, "randn");
    if (!rc) {
        rng_torch_init(r, (RngSource)source, (uint64_t)p->o->seed);
        for (size_t k = 0; k < draws; k++) rng_torch_normal(r, v + k * n, n);
        ProbeOut o = {"randn", ndim, {0}, v};
        if (draws > 1) o.ndim++, o.shape[0] = (int64_t)draws;
        for (int i = 0; i < ndim; i++) o.shape[o.ndim - ndim + i] = shape[i];
        rc = probe_write(p, &o, 1, e);
    }
    mem_free(v);
    mem_free(r);
    return rc;
}

/* ---- sampler ------------------------------------------------------------- */

typedef struct {
    Probe *p;
    Exec x;
    int n, guided;             /* pictures; 1: a batch of cond and uncond */
    size_t each;               /* values of one picture's latents */
    float *in, *out, *t;
    const float *noises;       /* (K,N,h,w,4) */
    size_t noise_count, noise_used;
} ProbeSampler;

static int predict(void *ctx, const float *x, float t, float *out, Err *e)
{
    ProbeSampler *s = ctx;
    size_t k = (size_t)s->n * s->each, runs = s->guided ? 2 : 1;
    for (size_t r = 0; r < runs; r++) memcpy(s->in + r * k, x, k * sizeof *x);
    for (size_t i = 0; i < runs * (size_t)s->n; i++) s->t[i] = t;
    TRY(exec_set(&s->x, "sample", s->in, runs * k, e));
    TRY(exec_set(&s->x, "timestep", s->t, runs * (size_t)s->n, e));
    TRY(exec_run(&s->x, e));
    TRY(exec_get(&s->x, "output", s->out, runs * k, e));
    if (s->guided) sampler_guide(out, s->out, s->out + k, (float)s->p->o->cfg_scale, k);
    else memcpy(out, s->out, k * sizeof *out);
    return 0;
}

static int next_noise(void *ctx, float *dst, Err *e)
{
    ProbeSampler *s = ctx;
    if (s->noise_used == s->noise_count)
        return err_set(e, ERR_INPUT,
                       "%s: tensor step_noise holds %zu draws; the sampler needs more", s->p->o->in,
                       s->noise_count);
    size_t k = (size_t)s->n * s->each;
    memcpy(dst, s->noises + s->noise_used++ * k, k * sizeof *dst);
    return 0;
}

/* Context (2N,T,W): cond, then uncond; checked against the noise's N. */
static int guidance_context(Probe *p, int n, float **ctx, int dim[3], Err *e)
{
    const FileTensor *c, *u;
    TRY(probe_tensor(p, "cond", 3, &c, e));
    TRY(probe_tensor(p, "uncond", 3, &u, e));
    if (c->shape[0] != n || c->count != u->count || c->shape[1] != u->shape[1])
        return err_set(e, ERR_INPUT, "%s: tensors noise, cond and uncond do not fit each other",
                       p->o->in);
    size_t k = (size_t)c->count;
    *ctx = mem_alloc(2 * k * sizeof(float));
    if (!*ctx) return err_nomem(e, 2 * k * 4, "the context");
    TRY(tensorfile_read_f32(p->in, c, 0, c->count, *ctx, e));
    TRY(tensorfile_read_f32(p->in, u, 0, u->count, *ctx + k, e));
    memcpy(dim, (int[]){2 * n, (int)c->shape[1], (int)c->shape[2]}, 3 * sizeof(int));
    return 0;
}

static int sampler_graph(ProbeSampler *s, const int xd[4], const float *ctx, const int cd[3],
                         Err *e)
{
    Probe *p = s->p;
    int runs = s->guided ? 2 : 1;
    int nd[4] = {runs * s->n, xd[1], xd[2], xd[3]}, kd[3] = {runs * s->n, cd[1], cd[2]};
    Build b = model_graph(&p->m);
    Tensor *in = graph_input(b.g, "sample", DT_F32, 4, nd);
    Tensor *t = graph_input(b.g, "timestep", DT_F32, 1, nd);
    Tensor *c = graph_input(b.g, "cond", DT_F32, 3, kd);
    graph_output(b.g, unet_build(&b, &p->m.ck->config, in, t, c), "output");
    TRY(model_plan(&p->m, &s->x, &b, e));
    TRY(model_load(&p->m, e));
    size_t k = (size_t)nd[0] * s->each;
    s->in = mem_alloc(k * sizeof(float));
    s->out = mem_alloc(k * sizeof(float));
    s->t = mem_alloc((size_t)nd[0] * sizeof(float));
    if (!s->in || !s->out || !s->t) return err_nomem(e, 2 * k * 4, "latents");
    return exec_set(&s->x, "cond", ctx, (size_t)kd[0] * (size_t)kd[1] * (size_t)kd[2], e);
}

static int sampler_noises(ProbeSampler *s, float **noises, const int xd[4], Err *e)
{
    const FileTensor *t = tensorfile_find(s->p->in, "step_noise");
    if (!t) return 0;
    float *nchw = NULL;
    TRY(probe_tensor(s->p, "step_noise", 5, &t, e));
    if (t->shape[1] != xd[0] || t->shape[2] != xd[3] || t->shape[3] != xd[1] ||
        t->shape[4] != xd[2])
        return err_set(e, ERR_INPUT, "%s: tensor step_noise does not fit noise", s->p->o->in);
    int rc = probe_f32(s->p, t, &nchw, e);
    *noises = mem_alloc((size_t)t->count * sizeof(float));
    if (!rc && !*noises) rc = err_nomem(e, (size_t)t->count * 4, "step_noise");
    if (!rc)
        layout_from_nchw(*noises, nchw, (size_t)(t->shape[0] * xd[0]), (size_t)xd[3],
                         (size_t)(xd[1] * xd[2]));
    s->noises = *noises;
    s->noise_count = (size_t)t->shape[0];
    mem_free(nchw);
    return rc;
}

static int sampler_go(ProbeSampler *s, Sampler *sm, const Schedule *table, float *x,
                      const int xd[4], float *ctx, const int cd[3], Err *e)
{
    const ProbeOptions *o = s->p->o;
    SamplerConfig c = {.schedule = SCHEDULE_DISCRETE, .steps = o->steps, .v_pred = o->v_pred,
                       .n = (size_t)s->n * s->each};
    if (!o->sampler) return err_set(e, ERR_USAGE, "option --sampler is missing");
    TRY(sampler_find(&c.kind, &c.schedule, o->sampler, e));
    if (o->schedule) TRY(schedule_find(&c.schedule, o->schedule, e));
    TRY(sampler_init(sm, &c, table, e));
    TRY(sampler_graph(s, xd, ctx, cd, e));
    SamplerCallbacks cb = {predict, next_noise, NULL, s};
    TRY(sampler_run(sm, x, &cb, e));
    static const char *const name[] = {"latents"};
    return write_maps(s->p, x, xd, name, 1, e);
}

static int net_sampler(Probe *p, Err *e)
{
    ProbeSampler s = {.p = p, .guided = p->o->cfg_scale != 1};
    Schedule *table = mem_alloc(sizeof *table);
    Sampler *sm = mem_calloc(1, sizeof *sm);
    float *x = NULL, *ctx = NULL, *noises = NULL;
    int xd[4], cd[3] = {0};
    int rc = table && sm ? 0 : err_nomem(e, sizeof *table, "the sampler");
    if (!rc) schedule_init(table);
    if (!rc) rc = map_input(p, "noise", &x, xd, e);
    if (!rc) s.n = xd[0], s.each = (size_t)xd[1] * (size_t)xd[2] * (size_t)xd[3];
    if (!rc) rc = guidance_context(p, s.n, &ctx, cd, e);
    if (!rc) rc = sampler_noises(&s, &noises, xd, e);
    if (!rc) rc = probe_model(p, 1, e);
    if (!rc) rc = sampler_go(&s, sm, table, x, xd, ctx, cd, e);
    exec_free(&s.x);
    if (sm) sampler_free(sm);
    mem_free(sm);
    mem_free(table);
    mem_free(s.in);
    mem_free(s.out);
    mem_free(s.t);
    mem_free(x);
    mem_free(ctx);
    mem_free(noises);
    return rc;
}

/* ---- entry --------------------------------------------------------------- */

static const struct { const char *name; int (*run)(Probe *p, Err *e); } nets[] = {
    {"clip", net_clip}, {"unet", net_unet}, {"vae-encode", net_encode}, {"vae-decode", net_decode},
    {"randn", net_randn}, {"sampler", net_sampler}, {"grad", probe_grad}, {"train", probe_train},
};

static int run(const ProbeOptions *o, const char *net, Err *e)
{
    size_t i = 0, count = sizeof nets / sizeof *nets;
    while (i < count && strcmp(nets[i].name, net)) i++;
    if (i == count)
        return err_set(e, ERR_USAGE,
                       "sdc probe: unknown network \"%s\"; known: clip, unet, vae-encode, "
                       "vae-decode, randn, sampler, grad, train",
                       net);
    if (!o->out) return err_set(e, ERR_USAGE, "option --out is missing");
    Probe p = {.o = o};
    int rc = 0;
    if (nets[i].run != net_randn)
        rc = o->in ? tensorfile_open(&p.in, o->in, e)
                   : err_set(e, ERR_USAGE, "option --in is missing");
    if (!rc) rc = nets[i].run(&p, e);
    tensorwriter_abort(p.out);
    model_close(&p.m);
    tensorfile_close(p.in);
    return rc;
}

int cmd_probe(int argc, char **argv, Err *e)
{
    ProbeOptions o = {.draws = 1,
                      .cfg_scale = 1,
                      .huber_c = 0.1,
                      .lr = 1e-4,
                      .unet_lr = NAN,
                      .te_lr = NAN,
                      .weight_decay = NAN,
                      .max_grad_norm = 1,
                      .clip_skip = 1};
    OptionList rest = {0};
    Options opt =
        {probe_options,
         sizeof probe_options / sizeof *probe_options,
         &o,
         "sdc probe",
         "run one network on tensors from a file: NET is clip, unet, vae-encode, vae-decode, "
         "randn, sampler, grad or train",
         NULL,
         &rest};
    int help = 0, rc = 0;
    o.dtype = mem_strdup("f32");
    o.rng = mem_strdup("cpu");
    rc = o.dtype && o.rng ? options_parse(&opt, argc, argv, &help, e) : err_nomem(e, 8, "options");
    if (!rc && help) options_help(&opt, stdout);
    else if (!rc && rest.count != 1)
        rc = err_set(e, ERR_USAGE, "sdc probe: one network name is expected");
    else if (!rc) rc = run(&o, rest.item[0], e);
    options_free(&opt);
    return rc;
}
