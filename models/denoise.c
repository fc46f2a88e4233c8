/* denoise.c - see denoise.h. */
#include "models/denoise.h"

#include <string.h>

#include "engine/mem.h"
#include "models/clip.h"
#include "models/unet.h"

int denoise_find_loss(LossKind *kind, const char *name, Err *e)
{
    static const char *const names[] = {
        [LOSS_L2] = "l2", [LOSS_L1] = "l1", [LOSS_HUBER] = "huber", [LOSS_SMOOTH_L1] = "smooth_l1"};
    for (int i = 0; i < 4; i++)
        if (!strcmp(name, names[i])) return *kind = (LossKind)i, 0;
    return err_set(e, ERR_USAGE, "unknown loss \"%s\"; known are l2, l1, huber, smooth_l1", name);
}

static int build(Denoise *d, Err *e)
{
    Model *m = d->m;
    const SdConfig *c = &m->ck->config;
    Build b = model_graph(m);
    if (!b.g) return err_nomem(e, sizeof *b.g, "the graph");
    int n = d->n, map[4] = {n, d->h, d->w, SD_LATENT};
    Tensor *x = graph_input(b.g, "latents", DT_F32, 4, map);
    Tensor *target = graph_input(b.g, "target", DT_F32, 4, map);
    Tensor *t = graph_input(b.g, "timesteps", DT_F32, 1, &n);
    Tensor *ids = graph_input_ids(b.g, "input_ids", n * d->chunks, SD_POSITIONS);
    Tensor *weight = graph_input(b.g, "weight", DT_F32, 1, &n);
    Tensor *huber = graph_input(b.g, "huber_c", DT_F32, 1, &n);
    Tensor *mask = d->masked ? graph_input(b.g, "mask", DT_F32, 3, map) : NULL;
    Tensor *scale = graph_input(b.g, "scale", DT_F32, 1, (int[]){1});
    if (d->backward && (b.dropout.each > 0 || b.dropout.channel > 0 || b.dropout.all > 0))
        b.seed = graph_input_ids(b.g, "dropout_seed", 1, 1);
    Tensor *context = clip_build(&b, c, ids, d->c.clip_skip);
    Tensor *pred = unet_build(&b, c, x, t, context);
    Tensor *per, *loss = graph_loss(b.g, d->c.loss, pred, target, mask, weight, huber, &per);
    graph_output(b.g, loss, "loss");
    graph_output(b.g, per, "per");
    if (d->backward) graph_grad(b.g, &loss, &scale, 1);
    return model_plan(m, &d->exec, &b, e);
}

int denoise_init(Denoise *d, Model *m, const Schedule *schedule, const DenoiseConfig *c, int n,
                 int h, int w, int chunks, int masked, int backward, Err *e)
{
    *d = (Denoise){.m = m, .schedule = schedule, .c = *c, .n = n, .h = h, .w = w, .chunks = chunks,
                   .masked = masked, .backward = backward};
    if (m->ck->config.in_channels != SD_LATENT)
        return err_set(e, ERR_USAGE,
                       "%s: training of inpainting models is not supported yet; use a "
                       "model with 4 input channels",
                       m->ck->path ? m->ck->path : "model");
    size_t count = (size_t)n * (size_t)h * (size_t)w * SD_LATENT;
    d->host = mem_alloc((2 * count + 3 * (size_t)n) * sizeof(float));
    if (!d->host) return err_nomem(e, 2 * count * sizeof(float), "a batch");
    int rc = build(d, e);
    if (rc) denoise_free(d);
    return rc;
}

void denoise_free(Denoise *d)
{
    exec_free(&d->exec);
    mem_free(d->host);
    *d = (Denoise){0};
}

/* The noisy input and the target of sample i, k values each. */
static void mix(const Denoise *d, int i, size_t k, const DenoiseBatch *b, float *x, float *target)
{
    int t = b->timestep[i];
    float a = d->schedule->sqrt_ac[t], s = d->schedule->sqrt_1mac[t];
    const float *x0 = b->latents + (size_t)i * k, *noise = b->noise + (size_t)i * k;
    const float *in = b->input_noise ? b->input_noise + (size_t)i * k : noise;
    for (size_t j = 0; j < k; j++) {
        x[j] = a * x0[j] + s * in[j];
        target[j] = d->c.v_pred ? a * noise[j] - s * x0[j] : noise[j];
    }
}

/* The weight of timestep t: kohya's train_network.py post_process_loss, in its order. */
static float snr_weight(const Denoise *d, int t)
{
    const DenoiseConfig *c = &d->c;
    float w = 1;
    if (c->min_snr_gamma > 0)
        w *= schedule_min_snr_weight(d->schedule, t, c->min_snr_gamma, c->v_pred);
    if (c->scale_v_loss) w *= schedule_snr_scale(d->schedule, t);
    if (c->v_pred_like > 0) w += w / schedule_snr_scale(d->schedule, t) * c->v_pred_like;
    if (c->debiased) w *= schedule_debiased_weight(d->schedule, t, c->v_pred);
    return w;
}

static int set_inputs(Denoise *d, const DenoiseBatch *b, float grad_scale, Err *e)
{
    size_t k = (size_t)d->h * (size_t)d->w * SD_LATENT, n = (size_t)d->n;
    float scale = d->c.huber_scale > 0 ? d->c.huber_scale : 1;
    float *x = d->host, *target = x + n * k, *t = target + n * k, *weight = t + n,
          *huber = weight + n;
    for (int i = 0; i < d->n; i++) {
        int step = b->timestep[i];
        if (step < 0 || step >= SCHEDULE_T)
            return err_set(e, ERR_INPUT, "tensor timesteps: %d is outside 0..%d", step,
                           SCHEDULE_T - 1);
        mix(d, i, k, b, x + (size_t)i * k, target + (size_t)i * k);
        t[i] = (float)step;
        weight[i] = (b->weight ? b->weight[i] : 1) * snr_weight(d, step);
        huber[i] = schedule_huber_c(d->schedule, d->c.huber, d->c.huber_c, scale, step);
    }
    size_t tokens = n * (size_t)d->chunks * SD_POSITIONS;
    TRY(exec_set(&d->exec, "latents", x, n * k, e));
    TRY(exec_set(&d->exec, "target", target, n * k, e));
    TRY(exec_set(&d->exec, "timesteps", t, n, e));
    TRY(model_set_ids(d->m, &d->exec, "input_ids", b->ids, tokens, e));
    TRY(exec_set(&d->exec, "weight", weight, n, e));
    TRY(exec_set(&d->exec, "huber_c", huber, n, e));
    if (graph_find(d->exec.g, "dropout_seed"))
        TRY(exec_set(&d->exec, "dropout_seed", &b->dropout_seed, 1, e));
    if (d->masked) TRY(exec_set(&d->exec, "mask", b->mask, n * k / SD_LATENT, e));
    return exec_set(&d->exec, "scale", &grad_scale, 1, e);
}

int denoise_run(Denoise *d, const DenoiseBatch *b, float grad_scale, float *loss, float *per,
                Err *e)
{
    TRY(set_inputs(d, b, grad_scale, e));
    TRY(exec_run(&d->exec, e));
    TRY(exec_get(&d->exec, "loss", loss, 1, e));
    return per ? exec_get(&d->exec, "per", per, (size_t)d->n, e) : 0;
}
