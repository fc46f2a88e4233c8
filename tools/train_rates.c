/* train_rates.c - --learning_rate auto: the rate is found by short runs on the pictures of the
 * real run, from its own start, to which it goes back afterwards.
 *
 * DAdaptAdam and Prodigy follow a lower bound of the distance from the start to the solution
 * (Defazio & Mishchenko, arXiv:2301.07733; Mishchenko & Defazio, arXiv:2306.06101); the
 * geometric mean of what they find is where to begin for AdamW and AdamW8bit, a third of it
 * for Lion, whose steps have all the same length (Chen et al., arXiv:2302.06675). Since a LoRA
 * starts at zero, where gradients are small, both can be too high. So the run's own optimizer
 * tries that rate, and its halves as long as they are better: the same batches, noise and
 * timesteps make the losses of two trials comparable. On the pocket model's cats (batch 2) it
 * stays at 3.9e-3; after 240 steps the held-out loss is 0.0653 there, 0.0625 at half of it
 * and 0.0677 at 7e-4.
 *
 * The rate belongs to the run's own batch; for another one it goes with the root of the batch
 * (Malladi et al., arXiv:2205.10287). The text encoder has half of a common rate, as
 * everywhere here.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/mem.h"
#include "tools/progress.h"
#include "tools/stop.h"
#include "tools/train.h"

/* Steps of a short run: a part of the whole, within these; most halves that are tried. */
enum { LEAST_STEPS = 20, MOST_STEPS = 60, SHARE = 25, HALVES = 8 };

static int is_auto(double rate) { return rate == OPTION_AUTO; }

int train_rates_init(TrainRun *r, const OptimConfig *c, Err *e)
{
    TrainOptions *o = &r->o;
    int all = is_auto(o->lr), unet = is_auto(o->unet_lr), text = is_auto(o->text_lr);
    if (!all && !unet && !text) return 0;
    if (!train_is_lora(o))
        return err_set(e, ERR_USAGE, "option --learning_rate auto: for a LoRA only");
    const TrainNetwork *n = &r->network;
    if (n->has_rates || n->plus > 0 || n->plus_unet > 0 || n->plus_text > 0)
        return err_set(e, ERR_USAGE,
                       "option --learning_rate auto: not with rates of blocks or "
                       "loraplus_lr_ratio");
    int adam = c->kind == OPTIM_ADAMW || c->kind == OPTIM_ADAMW8BIT;
    int lion = c->kind == OPTIM_LION || c->kind == OPTIM_LION8BIT;
    r->find_own = optim_finds_rate(c);
    if (!adam && !lion && !r->find_own)
        return err_set(e, ERR_USAGE, "option --learning_rate auto: for AdamW, AdamW8bit and Lion, "
                                     "not for %s", o->optimizer);
    r->find_together = (all || unet) && isnan(o->text_lr);
    r->find[GROUP_UNET] = (unet || (all && isnan(o->unet_lr))) && !o->text_only;
    r->find[GROUP_TEXT] = (text || r->find_together) && !o->unet_only;
    /* the groups are there, whatever their rate will be */
    if (all) o->lr = NAN;
    if (unet) o->unet_lr = r->find_own ? 1 : 1e-4;
    if (text) o->text_lr = r->find_own ? 1 : 5e-5;
    if (!r->find_own) return 0;
    fprintf(stderr, "note: %s finds its rate itself: auto means 1\n", o->optimizer);
    r->find[GROUP_UNET] = r->find[GROUP_TEXT] = 0;
    return 0;
}

/* ---- a search -------------------------------------------------------------------- */

/* Values of what is trained, to go back to. */
typedef struct {
    float **value;                 /* per parameter, NULL: frozen */
    size_t count;
} Kept;

static void free_kept(Kept *k)
{
    for (size_t i = 0; k->value && i < k->count; i++) mem_free(k->value[i]);
    mem_free(k->value);
}

static int keep(Kept *k, const Params *ps, Err *e)
{
    *k = (Kept){mem_calloc(ps->count, sizeof *k->value), ps->count};
    if (!k->value) return err_nomem(e, ps->count * sizeof *k->value, "the search for a rate");
    for (size_t i = 0; i < ps->count; i++) {
        const Param *p = ps->list[i];
        if (!p->trainable) continue;
        k->value[i] = mem_alloc(p->count * sizeof(float));
        if (!k->value[i]) return err_nomem(e, p->count * sizeof(float), "the search for a rate");
        TRY(params_read(ps, p, k->value[i], e));
    }
    return 0;
}

static int restore(const Kept *k, Params *ps, Err *e)
{
    for (size_t i = 0; i < k->count; i++)
        if (k->value[i]) TRY(params_set(ps, ps->list[i], k->value[i], e));
    return 0;
}

typedef struct {
    TrainRun *r;
    Trainer t;
    Progress progress;
} Short;

static int micro_of(void *ctx, uint32_t step, int micro, float *loss, Err *e)
{
    Short *s = ctx;
    return train_micro(s->r, step, micro, loss, e);
}

static int micros_of(void *ctx, uint32_t step)
{
    const Short *s = ctx;
    return train_micros(s->r, step);
}

static int stop_of(void *ctx)
{
    (void)ctx;
    return stop_code();
}

static int tick(void *ctx, uint32_t done, Err *e)
{
    Short *s = ctx;
    (void)e;
    char text[64];
    snprintf(text, sizeof text, "avr_loss=%.4f", s->t.avr_loss);
    progress_show(&s->progress, done, s->t.end, text);
    return 0;
}

/* Trains from the start for a while with these rates. *d: what DAdaptAdam or Prodigy has
 * found; *loss: the mean of the second half. */
static int short_run(TrainRun *r, const Kept *start, const OptimConfig *oc, const double *lr,
                     uint32_t steps, double *d,
                     double *loss, Err *e)
{
    Short s = {.r = r};
    TrainConfig c = {.optim = *oc, .seed = (uint64_t)r->o.seed, .lr = lr, .groups = GROUP_COUNT,
                     .max_grad_norm = r->o.max_grad_norm, .loss_window = steps,
                     .sched = {.kind = LRSCHED_CONSTANT, .total = (int)steps, .cycles = 1,
                               .power = 1, .lr = 1, .min_ratio = NAN}};
    TrainTask task = {micro_of, micros_of, tick, stop_of, &s};
    int rc = train_init(&s.t, r->m.ps, &c, e);
    if (!rc) rc = train_place(&s.t, e);
    s.t.end = steps;
    progress_start(&s.progress, "rate");
    if (!rc) rc = train_run(&s.t, &task, e);
    progress_end(&s.progress);
    *d = rc ? 0 : s.t.optim->d;
    *loss = 0;
    for (uint32_t i = steps / 2; !rc && i < steps; i++)
        *loss += (double)s.t.window[i] / (steps - steps / 2);
    train_free(&s.t);
    return rc ? rc : restore(start, r->m.ps, e);
}

static int find_distance(TrainRun *r, const Kept *start, const char *name, const int *on,
                         uint32_t steps, double *d, Err *e)
{
    double loss, lr[GROUP_COUNT];
    OptimConfig c;
    for (int g = 0; g < GROUP_COUNT; g++) lr[g] = on[g];
    TRY(optim_parse(&c, name, NULL, e));
    return short_run(r, start, &c, lr, steps, d, &loss, e);
}

/* A rate that leads to numbers which are not finite is no failure of the search. */
static int try_rate(TrainRun *r, const Kept *start, const int *on, double rate, uint32_t steps,
                    double *loss, Err *e)
{
    Err one = {0};
    double d, lr[GROUP_COUNT] = {[GROUP_UNET] = on[GROUP_UNET] * rate,
                                 [GROUP_TEXT] = on[GROUP_TEXT] * rate};
    if (on[GROUP_UNET]) lr[GROUP_TEXT] /= 2;
    int rc = short_run(r, start, &r->t.optim->cfg, lr, steps, &d, loss, &one);
    if (rc && rc != ERR_FAIL) return err_set(e, rc, "%s", one.msg);
    if (!rc) return 0;
    *loss = INFINITY;
    return restore(start, r->m.ps, e);
}

/* The rate of these groups, in the optimizer that the run has. */
static int find_rate(TrainRun *r, const Kept *start, const int on[GROUP_COUNT], double *rate,
                     char *how, size_t cap, Err *e)
{
    double dadapt, prodigy, loss, best = INFINITY;
    OptimKind kind = r->t.optim->cfg.kind;
    int lion = kind == OPTIM_LION || kind == OPTIM_LION8BIT, halves = 0;
    uint32_t steps = r->total / SHARE;
    steps = steps < LEAST_STEPS ? LEAST_STEPS : steps > MOST_STEPS ? MOST_STEPS : steps;
    TRY(find_distance(r, start, "DAdaptAdam", on, steps, &dadapt, e));
    TRY(find_distance(r, start, "Prodigy", on, steps, &prodigy, e));
    double first = sqrt(dadapt * prodigy) / (lion ? 3 : 1);
    for (int i = 0; i < HALVES; i++) {
        TRY(try_rate(r, start, on, first * pow(0.5, i), steps, &loss, e));
        if (!(loss < best) && best < INFINITY) break;
        best = loss;
        halves = i;
    }
    *rate = first * pow(0.5, halves);
    snprintf(how, cap,
             "after %u steps DAdaptAdam finds %.2g and Prodigy %.2g%s; of their mean "
             "and its halves, the loss of %s is lowest at %.2g",
             steps, dadapt, prodigy, lion ? ", a third of it for Lion" : "", r->o.optimizer, *rate);
    return 0;
}

/* ---- the rates of the run -------------------------------------------------------- */

static int set_rate(TrainRun *r, int group, double rate, const char *how, Err *e)
{
    const char *name = group == GROUP_UNET ? "unet_lr" : "text_encoder_lr";
    double batch = r->o.batch * r->o.accumulation;
    char *value = mem_printf("%.2e", rate);
    char *reason = batch > 1 ? mem_printf("%s; for batches of %g, with another it goes with the "
                                          "root", how, batch)
                             : mem_strdup(how);
    options_forget(&r->opt, name);
    TRY(train_choice(r, name, value, reason, e));
    double v = group == GROUP_UNET ? r->o.unet_lr : r->o.text_lr;
    fprintf(stderr, "rate       %s = %g: %s\n", name, v, how);
    r->t.lr[group] = r->t.optim->lr[group] = v;
    if (group == GROUP_UNET || !r->find[GROUP_UNET]) r->o.lr = r->t.c.sched.lr = v;
    return train_fact_set(r, name, v, e);
}

static int find_all(TrainRun *r, const Kept *start, Err *e)
{
    char how[400], half[420];
    double rate;
    if (r->find_together) {
        TRY(find_rate(r, start, r->find, &rate, how, sizeof how, e));
        snprintf(half, sizeof half, "half of it: %s", how);
        if (r->find[GROUP_UNET]) TRY(set_rate(r, GROUP_UNET, rate, how, e));
        return r->find[GROUP_TEXT] ? set_rate(r, GROUP_TEXT, rate / 2, half, e) : 0;
    }
    for (int g = 0; g < GROUP_COUNT; g++) {
        int on[GROUP_COUNT] = {0};
        on[g] = r->find[g];
        if (!on[g]) continue;
        TRY(find_rate(r, start, on, &rate, how, sizeof how, e));
        TRY(set_rate(r, g, rate, how, e));
    }
    return 0;
}

int train_rates(TrainRun *r, Err *e)
{
    Kept start;
    if (!r->find[GROUP_UNET] && !r->find[GROUP_TEXT]) return 0;
    int rc = keep(&start, r->m.ps, e);
    if (!rc) rc = find_all(r, &start, e);
    free_kept(&start);
    options_forget(&r->opt, "learning_rate");
    return rc;
}

size_t train_rates_bytes(const TrainRun *r)
{
    size_t state = 0, values = 0;
    OptimConfig c;
    if (!r->find[GROUP_UNET] && !r->find[GROUP_TEXT]) return 0;
    if (optim_parse(&c, "DAdaptAdam", NULL, NULL)) return 0;
    for (size_t i = 0; i < r->m.ps->count; i++) {
        const Param *p = r->m.ps->list[i];
        if (!p->trainable) continue;
        values += p->count * sizeof(float);
        state += optim_state_bytes(&c, &(OptimTensor){.count = p->count});
    }
    return state + values;
}
