/* optim_adapt.c - steps of the methods that find their rate themselves: the DAdapt family and
 * Prodigy. The arithmetic is in kernels/optim.h, the names are those of the sources there. */
#include <math.h>

#include "engine/optim_impl.h"

static AdaptKind adapt_kind(const OptimConfig *c)
{
    return (AdaptKind)(c->kind - OPTIM_DADAPT_ADAM);
}

/* What the running sum s is an average with. */
static double sum_beta(const OptimConfig *c)
{
    switch (c->kind) {
    case OPTIM_DADAPT_PREPRINT: return c->beta2;
    case OPTIM_DADAPT_ADAN:
    case OPTIM_DADAPT_ADAN_IP: return c->beta3;
    case OPTIM_DADAPT_ADAGRAD:
    case OPTIM_DADAPT_SGD: return 1;
    case OPTIM_PRODIGY: return c->beta3 >= 0 ? c->beta3 : sqrt(c->beta2);
    default: return sqrt(c->beta2);
    }
}

/* d times the rate, with Adam's bias correction if asked for; SGD: by the first norm. */
static double adapted_rate(const Optim *o, double lr)
{
    const OptimConfig *c = &o->cfg;
    double k = (double)o->k + 1;
    double bias = sqrt(1 - pow(c->beta2, k)) / (1 - pow(c->beta1, k));
    if (c->kind == OPTIM_DADAPT_SGD) return o->d * lr / o->g0;
    return o->d * lr * (c->use_bias_correction ? bias : 1);
}

static Adapt statistics(const Optim *o, double dlr, double clip)
{
    const OptimConfig *c = &o->cfg;
    double d = o->d, beta3 = sum_beta(c);
    Adapt h = {.kind = adapt_kind(c), .beta1 = c->beta1, .beta2 = c->beta2, .beta3 = beta3,
               .eps = c->eps, .clip = clip, .slice = c->slice_p, .m_scale = dlr * (1 - c->beta1),
               .v_scale = 1 - c->beta2, .s_scale = dlr * (1 - beta3),
               .l2 = c->decouple ? 0 : c->weight_decay};
    switch (h.kind) {
    case ADAPT_ADAGRAD:
        h.v_first = 1e-6;
        h.beta2 = h.v_scale = 1;
        h.s_scale = dlr;
        break;
    case ADAPT_SGD: h.s_scale = dlr; break;
    case ADAPT_LION:
        h.m_scale = dlr * (1 - c->beta2);
        h.lr = dlr;
        h.decay = dlr * c->weight_decay;
        h.l2 = 0;
        break;
    case ADAPT_ADAN:
    case ADAPT_ADAN_IP:
        h.beta_d = c->beta2;
        h.diff_scale = dlr * (1 - c->beta2);
        h.beta2 = c->beta3;
        h.v_scale = 1 - c->beta3;
        h.l2 = 0;
        break;
    case ADAPT_PRODIGY:
        h.m_scale = d * (1 - c->beta1);
        h.v_scale = d * d * (1 - c->beta2);
        h.s_scale = d / c->d0 * (c->safeguard_warmup ? d : dlr);
        break;
    default: break;
    }
    return h;
}

static AdaptState state_of(const OptimTensor *t)
{
    return (AdaptState){t->state[OPTIM_M], t->state[OPTIM_V], t->state[OPTIM_S],
                        t->state[OPTIM_X], t->state[OPTIM_DIFF]};
}

/* First pass over every tensor; sum[0..2] over all, in order. */
static void gather(Optim *o, double dlr, double clip, double sum[3])
{
    Adapt h = statistics(o, dlr, clip);
    int adan = h.kind == ADAPT_ADAN || h.kind == ADAPT_ADAN_IP;
    for (size_t i = 0; i < o->count; i++) {
        OptimTensor *t = &o->list[i];
        AdaptState s = state_of(t);
        if (!t->grad) continue;
        h.first = adan ? !o->k : !t->steps;
        o->ops->optim.adapt_stats(o->dev, &h, t->count, o->sums + 3 * i, t->param, &s, t->grad);
        t->steps++;
    }
    dev_download(o->dev, o->host, o->sums, o->count * 3 * sizeof(double));
    sum[0] = sum[1] = sum[2] = 0;
    for (size_t i = 0; i < o->count; i++)
        for (int k = 0; k < 3 && o->list[i].grad; k++) sum[k] += o->host[3 * i + (size_t)k];
}

static void estimate_prodigy(Optim *o, double dlr, const double sum[3])
{
    const OptimConfig *c = &o->cfg;
    double d = o->d;
    o->numerator = sum_beta(c) * o->numerator + d / c->d0 * dlr * sum[0];
    double d_hat = c->d_coef * o->numerator / sum[1];
    if (d == c->d0 && d_hat > d) d = d_hat;
    if (d_hat > o->d_max) o->d_max = d_hat;
    o->d = fmin(o->d_max, d * c->growth_rate);
}

/* The new d from the sums. */
static void estimate(Optim *o, double dlr, const double sum[3])
{
    const OptimConfig *c = &o->cfg;
    double beta3 = sum_beta(c), left = 1 - beta3, d_hat;
    switch (c->kind) {
    case OPTIM_DADAPT_PREPRINT:
    case OPTIM_DADAPT_ADAN:
        o->numerator = beta3 * o->numerator + sum[0] * dlr * dlr * left;
        d_hat = (sum[2] / left - o->numerator) / sum[1];
        break;
    case OPTIM_DADAPT_ADAGRAD:
        o->numerator += dlr * dlr * sum[0];
        d_hat = (sum[2] - o->numerator) / sum[1];
        break;
    case OPTIM_DADAPT_SGD:
        o->numerator += dlr * sum[0];
        d_hat = 2 * o->numerator / sqrt(sum[1]);
        break;
    case OPTIM_DADAPT_ADAN_IP:
        o->numerator = beta3 * o->numerator + left * dlr * sum[0];
        d_hat = 2 * (beta3 / left) * o->numerator / sum[1];
        break;
    default:                             /* DAdaptAdam, DAdaptLion */
        o->numerator = beta3 * o->numerator + left * dlr * sum[0];
        d_hat = o->numerator / (left * sum[1]);
    }
    o->d = fmax(o->d, fmin(d_hat, o->d * c->growth_rate));
}

/* Second pass, with the rate of before. */
static void move(Optim *o, double dlr)
{
    const OptimConfig *c = &o->cfg;
    int prodigy = c->kind == OPTIM_PRODIGY;
    AdaptStep h = {.kind = adapt_kind(c), .lr = prodigy ? dlr : 1, .keep = 1, .shrink = 1,
                   .decay = c->decouple ? c->weight_decay * dlr : 0, .momentum = c->momentum,
                   .eps = prodigy ? o->d * c->eps : c->eps, .beta_d = c->beta2};
    if (c->no_prox) h.keep = 1 - dlr * c->weight_decay;
    else h.shrink = 1 + dlr * c->weight_decay;
    for (size_t i = 0; i < o->count; i++) {
        OptimTensor *t = &o->list[i];
        AdaptState s = state_of(t);
        if (t->grad) o->ops->optim.adapt_step(o->dev, &h, t->count, t->param, &s);
    }
}

/* sqrt of the sum of squares of the first gradients, clipped. */
static double first_norm(const Optim *o, double clip)
{
    double sum = 0;
    for (size_t i = 0; i < o->count; i++)
        if (o->list[i].grad) sum += o->host[3 * i];
    return sqrt(sum) * clip;
}

void optim_adapt(Optim *o, double lr, double clip)
{
    double sum[3];
    /* the others change moments without a rate, and these nothing, not even k */
    int idle = o->cfg.kind == OPTIM_DADAPT_ADAM || o->cfg.kind == OPTIM_PRODIGY ||
               o->cfg.kind == OPTIM_DADAPT_PREPRINT || o->cfg.kind == OPTIM_DADAPT_SGD;
    if (lr == 0 && idle) return;
    if (o->cfg.kind == OPTIM_DADAPT_SGD && o->g0 == 0) o->g0 = first_norm(o, clip);
    if (o->cfg.kind == OPTIM_DADAPT_SGD && o->g0 == 0) return;
    double dlr = adapted_rate(o, lr);
    gather(o, dlr, clip, sum);
    if (!(sum[1] > 0)) return;
    if (lr > 0 && o->cfg.kind == OPTIM_PRODIGY) estimate_prodigy(o, dlr, sum);
    else if (lr > 0) estimate(o, dlr, sum);
    move(o, dlr);
    o->k++;
}
