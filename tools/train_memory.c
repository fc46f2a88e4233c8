/* train_memory.c - what `sdc train` needs, known before anything is loaded, and how
 * it is made to fit: a batch in smaller pieces, then results computed twice. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tools/train.h"
#include "tools/train_samples.h"

static const Denoise *largest(const Finetune *f)
{
    const Denoise *d = NULL;
    for (size_t i = 0; i < f->graph_count; i++)
        if (!d || f->graphs[i].exec.plan.slab_bytes > d->exec.plan.slab_bytes) d = &f->graphs[i];
    return d;
}

/* Bytes of the encoder of pictures, which is there before everything else is. */
static size_t encoder_weights(const TrainRun *r)
{
    if (r->o.train_vae) return 0;
    return params_part(r->m.ps, "vae.encoder.").frozen +
           params_part(r->m.ps, "vae.quant_conv.").frozen;
}

/* Those that search for a rate are gone before the run's own is there. */
static size_t optimizer_bytes(const TrainRun *r)
{
    size_t own = train_bytes(&r->t), search = train_rates_bytes(r);
    return own > search ? own : search;
}

static void account(TrainRun *r)
{
    ParamBytes p = params_part(r->m.ps, NULL);
    int lora = train_is_lora(&r->o) || r->o.ti;
    size_t process = memory_held_later(r->m.dev, &r->lora), there = params_held(r->m.ps);
    if (dev_own_memory(r->m.dev) || there > process)
        there = 0; /* of a run before: in .weights, too */
    size_t released = r->ft.varies ? 0 : encoder_weights(r);
    r->memory = (Memory){.weights = p.frozen - released + (lora ? 0 : p.trained),
                         .lora = lora ? p.trained : 0, .gradients = p.gradients,
                         .optimizer = optimizer_bytes(r), .activations = r->m.slab.bytes,
                         .process = process - there};
    size_t judge = dev_own_memory(r->m.dev) ? 0 : train_samples_judge_bytes(r);
    if (judge > r->memory.activations) r->memory.activations = judge;   /* in their place */
    if (r->o.train_vae) {
        r->memory.plan = r->ae.exec.plan;
        return;
    }
    r->memory.plan = largest(&r->ft)->exec.plan;
    if (!dev_own_memory(r->m.dev))
        r->memory.host = finetune_bytes(&r->ft) + (r->val_ds ? finetune_bytes(&r->val) : 0);
    size_t own = r->ft.slab.bytes, held_out = r->val_ds ? r->val.slab.bytes : 0;
    if (r->ft.varies) own = r->m.slab.bytes + held_out;
    r->memory.before = encoder_weights(r) + (own > held_out ? own : held_out) + r->memory.host +
                       r->memory.process;
    snprintf(r->memory.note, sizeof r->memory.note, "%s",
             r->ft.varies ? "the VAE's encoder stays: pictures differ from use to use"
                          : "the VAE's encoder is released after the latents are made");
}

/* Plans everything again with at most slab_bytes of activations in a step. */
static int plan_within(TrainRun *r, size_t slab_bytes, Err *e)
{
    r->m.slab.bytes = 0;
    if (r->o.train_vae) TRY(exec_fit(&r->ae.exec, slab_bytes, e));
    else TRY(finetune_fit(&r->ft, slab_bytes, e));
    if (r->val_ds) TRY(finetune_fit(&r->val, SIZE_MAX, e));
    TRY(train_samples_want(r, e));
    account(r);
    return 0;
}

/* Batches in pieces of n pictures. */
static int plan_pieces(TrainRun *r, int n, Err *e)
{
    r->ft_config.micro = r->o.micro = n;
    finetune_free(&r->ft);
    TRY(finetune_init(&r->ft, &r->m, r->ds, r->tok, &r->ft_config, e));
    return plan_within(r, SIZE_MAX, e);
}

/* Pieces first, which cost next to nothing, then what is computed twice: down to a little
 * less than is allowed, by which a process grows while it runs (up to 0.3% was measured). */
static int shrink(TrainRun *r, size_t budget, Err *e)
{
    int pieces = !r->o.train_vae && !r->o.full_bf16 && !options_given(&r->opt, "micro_batch_size");
    while (memory_total(&r->memory) > budget && pieces && r->ft_config.micro > 1)
        TRY(plan_pieces(r, (r->ft_config.micro + 1) / 2, e));
    /* more than once: the larger graph makes the process itself larger */
    for (int i = 0; memory_total(&r->memory) > budget && i < 3; i++) {
        size_t fixed = memory_sum(&r->memory) - r->memory.activations, aim = budget - budget / 200,
               room = aim > fixed ? aim - fixed : 1;
        TRY(plan_within(r, room, e));
        if (r->memory.activations > room) break;       /* there is nothing left to compute twice */
    }
    return 0;
}

/* Would a step of one picture of this size fit? Leaves everything as it is. */
static int size_fits(TrainRun *r, int h, int w, size_t slab_bytes)
{
    Slab kept = r->m.slab;
    Denoise d;
    const FinetuneConfig *c = &r->ft_config;
    int rc = denoise_init(&d, &r->m, &r->ft.schedule, &c->denoise, 1, h, w, c->chunks, c->masked, 1,
                          NULL);
    if (!rc) {
        rc = exec_fit(&d.exec, slab_bytes, NULL);
        rc |= d.exec.plan.slab_bytes > slab_bytes;
        denoise_free(&d);
    }
    r->m.slab = kept;
    return !rc;
}

/* What else would fit, to stand behind the error: "; --resolution 384,384 would fit". */
static void what_fits(TrainRun *r, size_t budget, char *text, size_t cap)
{
    const Memory *m = &r->memory;
    const TrainOptions *o = &r->o;
    const BucketConfig *size = &r->ds->cfg.bucket;
    size_t fixed = memory_sum(m) - m->activations, room = budget > fixed ? budget - fixed : 0;
    double least = (double)(m->plan.least_bytes ? m->plan.least_bytes : m->plan.slab_bytes);
    int w = (int)(size->w * fmin(1, sqrt((double)room / least))) / 64 * 64, h = 0;
    *text = 0;
    if (room && o->full_bf16 && o->batch > 1 && size_fits(r, size->h / 8, size->w / 8, room)) {
        snprintf(text, cap, "; --train_batch_size 1 would fit");
        return;
    }
    for (; room && !o->train_vae && w >= 64; w -= 64) {
        h = (int)((int64_t)size->h * w / size->w / 64 * 64);
        if (h < 64 || w == size->w || !size_fits(r, h / 8, w / 8, room)) continue;
        snprintf(text, cap, "; --resolution %d,%d would fit", w, h);
        return;
    }
    if (o->full && !o->full_bf16)
        snprintf(text, cap, "; try --full_bf16 and --optimizer_type AdamW8bit");
    else if (r->m.dtype == DT_F32) snprintf(text, cap, "; try --mixed_precision bf16");
    else if (!room)
        snprintf(text, cap, "; weights, gradients and optimizer alone need %.2f GB%s",
                 (double)fixed / (1 << 30),
                 o->full || o->int8_base ? "" : ", with --int8_base about half of the weights");
}

static int too_large(TrainRun *r, size_t budget, Err *e)
{
    char need[32], have[32], other[160];
    Memory *m = &r->memory;
    size_t least = memory_sum(m);
    if (m->plan.least_bytes && m->plan.least_bytes < m->activations)
        least -= m->activations - m->plan.least_bytes;
    if (m->before > least) least = m->before;
    memory_text(need, sizeof need, least + least / 100);
    memory_text(have, sizeof have, budget);
    what_fits(r, budget, other, sizeof other);
    return err_set(e, ERR_MEMORY, "this training needs at least %s, and %s %s%s", need, have,
                   r->o.ram ? "is allowed by --ram" : "is free", other);
}

/* Seconds of an optimizer step: its micro-batches, and the update, which reads and
 * writes parameters, gradients and moments. */
static double step_seconds(const TrainRun *r, const Speed *s)
{
    double update = 2.0 * (double)(r->memory.optimizer + r->memory.gradients) / s->bytes;
    if (r->o.train_vae) return cost_graph_seconds(s, r->ae.exec.g) + update;
    const Denoise *d = largest(&r->ft);
    double pieces = ceil((double)r->o.batch / d->n) * r->o.accumulation, encode = 0;
    if (r->ft.varies)          /* as if all pictures varied, in the first size */
        encode = r->o.batch * r->o.accumulation * cost_graph_seconds(s, r->ft.encoders[0].g);
    return pieces * cost_graph_seconds(s, d->exec.g) + encode + update;
}

static void print_row(const TrainRun *r, size_t budget, const Speed *s)
{
    char allowed[32], need[32];
    memory_text(allowed, sizeof allowed, budget);
    memory_text(need, sizeof need, memory_total(&r->memory));
    printf("%-9s  %-9s  ", allowed, need);
    if (memory_total(&r->memory) > budget) printf("does not fit\n");
    else printf("%6.2f s  %d pictures at a time, %d operations recomputed\n", step_seconds(r, s),
                largest(&r->ft)->n, r->memory.plan.again_nodes);
}

/* From the largest budget to the smallest: a plan can only be made smaller. */
static int print_table(TrainRun *r, size_t *budget, int count, Err *e)
{
    Speed speed;
    TRY(cost_measure(&speed, r->m.dev, &r->m.ops, r->m.dtype, model_storage(&r->m), e));
    printf("allowed    needed       step\n");
    for (int i = 0; i < count; i++) {
        for (int k = i + 1; k < count; k++)
            if (budget[k] > budget[i]) {
                size_t t = budget[i];
                budget[i] = budget[k];
                budget[k] = t;
            }
        if (memory_total(&r->memory) > budget[i]) TRY(shrink(r, budget[i], e));
        print_row(r, budget[i], &speed);
    }
    return 0;
}

int train_fit(TrainRun *r, Err *e)
{
    size_t budget[MEMORY_ROWS] = {memory_default(r->m.dev) + memory_held(r->m.dev)};
    int count = 1;
    if (r->o.ram) TRY(memory_sizes(budget, MEMORY_ROWS, &count, "ram", r->o.ram, e));
    account(r);
    if (r->o.full_bf16 && r->o.micro < r->o.batch)
        return err_set(e, ERR_USAGE, "option --micro_batch_size: not with --full_bf16");
    if (count > 1) {
        if (!r->o.dry_run || r->o.train_vae)
            return err_set(e, ERR_USAGE, "option --ram: a list of sizes needs --dry_run");
        r->table = 1;
        return print_table(r, budget, count, e);
    }
    if (memory_total(&r->memory) <= budget[0]) return 0;
    TRY(shrink(r, budget[0], e));
    return memory_total(&r->memory) <= budget[0] ? 0 : too_large(r, budget[0], e);
}

int train_print_memory(TrainRun *r, Err *e)
{
    Speed speed;
    TRY(cost_measure(&speed, r->m.dev, &r->m.ops, r->m.dtype, model_storage(&r->m), e));
    r->memory.seconds = step_seconds(r, &speed);
    memory_print(&r->memory, stdout);
    printf("all steps   %14.3g seconds, expected\n", r->memory.seconds * r->total);
    return 0;
}
