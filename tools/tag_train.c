/* tag_train.c - `sdc tag DIR --train OUT`: a tagger of one's own, from scratch.
 *
 * OUT gets model.safetensors, config.json and selected_tags.csv at the end, and
 * state.safetensors on the way, from which --resume goes on to the same bytes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "engine/train.h"
#include "models/model.h"
#include "models/tagger_train.h"
#include "tools/machine.h"
#include "tools/progress.h"
#include "tools/stop.h"
#include "tools/tag.h"

enum { STATE_SECONDS = 120, FACTS = 9 };

typedef struct {
    const TagOptions *o;
    Tagger t;
    Dataset *ds;
    TaggerTrain task;
    Trainer trainer;
    Progress progress;
    Dtype saved;               /* of the weights on disk */
    TrainFact fact[FACTS];     /* values are owned */
    size_t facts;
    char *state;
    double last_state;
    uint32_t first_step;
} TagTrain;

static void notice(void *ctx, const char *line)
{
    (void)ctx;
    fprintf(stderr, "note: %s\n", line);
}

static int fact(TagTrain *r, const char *key, char *value, Err *e)
{
    if (!value) return err_nomem(e, 64, "the list of settings");
    r->fact[r->facts++] = (TrainFact){key, value};
    return 0;
}

static int list_facts(TagTrain *r, Err *e)
{
    const TagOptions *o = r->o;
    TRY(fact(r, "train_data_dir", mem_printf("%zu pictures, %" PRIu32 " uses", r->ds->item_count,
                                             r->ds->entry_count), e));
    TRY(fact(r, "tags", mem_printf("%zu", r->t.tags.count), e));
    TRY(fact(r, "max_train_steps", mem_printf("%d", o->steps), e));
    TRY(fact(r, "batch_size", mem_printf("%d", o->batch), e));
    TRY(fact(r, "learning_rate", mem_printf("%.17g", o->lr), e));
    TRY(fact(r, "lr_warmup_steps", mem_printf("%d", o->warmup), e));
    TRY(fact(r, "flip_aug", mem_printf("%d", o->flip), e));
    TRY(fact(r, "dtype", mem_printf("%s", model_dtype_name(r->t.dtype)), e));
    return fact(r, "seed", mem_printf("%lld", (long long)o->seed), e);
}

static int open_trainer(TagTrain *r, Err *e)
{
    const TagOptions *o = r->o;
    OptimConfig oc;
    TRY(optim_parse(&oc, "AdamW", "weight_decay=0.05 betas=0.9,0.99", e));
    TrainConfig c = {.optim = oc, .lr = &o->lr, .groups = 1, .max_grad_norm = 1,
                     .seed = (uint64_t)o->seed, .loss_window = 100};
    c.sched = (LrSched){.total = o->steps, .warmup = o->warmup, .cycles = 1, .power = 1,
                        .lr = o->lr};
    TRY(lrsched_find(&c.sched.kind, "cosine", e));
    return train_init(&r->trainer, r->t.ps, &c, e);
}

static int open_all(TagTrain *r, const char *dir, Err *e)
{
    const TagOptions *o = r->o;
    ModelOptions dtype = {0}, saved = {0};
    char device[64];
    if (!o->init || o->tagger)
        return err_set(e, ERR_USAGE,
                       "option --train: expected --init with the config.json of the "
                       "new tagger%s",
                       o->tagger ? ", and no --tagger"
                                 : "; models/pocket/tagger/config.json is a small one");
    TRY(model_dtype(&dtype, o->dtype ? o->dtype : "f32", e));
    TRY(model_dtype(&saved, o->save_precision ? o->save_precision : "f16", e));
    if (dtype.int8 || saved.int8)
        return err_set(e, ERR_USAGE, "a tagger is not trained or saved in int8");
    r->saved = saved.dtype;
    TaggerOptions to = {.init = o->init, .threads = o->threads, .dtype = dtype.dtype,
                        .seed = (uint64_t)o->seed,
                        .device = machine_device(device, sizeof device, o->device)};
    TRY(tagger_open(&r->t, &to, e));
    DataConfig dc = {.train_dir = dir, .caption_extension = o->extension, .batch_size = o->batch,
                     .prior_loss_weight = 1, .seed = (uint64_t)o->seed, .notice = notice,
                     .bucket = {.w = 64, .h = 64}};   /* any: pictures become squares later */
    TRY(dataset_open(&r->ds, &dc, e));
    TaggerTrainConfig c = {o->batch, o->words, o->min_count, o->undesired, o->flip,
                           (uint64_t)o->seed};
    TRY(tagger_train_init(&r->task, &r->t, r->ds, &c, e));
    TRY(open_trainer(r, e));
    r->state = mem_printf("%s/state.safetensors", o->train);
    return r->state ? list_facts(r, e) : err_nomem(e, 64, "a path");
}

static void close_all(TagTrain *r)
{
    train_free(&r->trainer);
    tagger_train_free(&r->task);
    dataset_close(r->ds);
    tagger_close(&r->t);
    for (size_t i = 0; i < r->facts; i++) mem_free((char *)(uintptr_t)r->fact[i].value);
    mem_free(r->state);
}

/* ---- steps ---------------------------------------------------------------------- */

static int step(void *ctx, uint32_t number, int micro, float *loss, Err *e)
{
    (void)micro;
    return tagger_train_run(&((TagTrain *)ctx)->task, number, loss, e);
}

static int save_state(TagTrain *r, Err *e)
{
    r->last_state = machine_seconds();
    return train_save(&r->trainer, r->state, r->fact, r->facts, e);
}

static int after(void *ctx, uint32_t done, Err *e)
{
    TagTrain *r = ctx;
    char text[64];
    snprintf(text, sizeof text, "avr_loss=%.4f", r->trainer.avr_loss);
    progress_show(&r->progress, done, (size_t)r->o->steps, text);
    return machine_seconds() - r->last_state > STATE_SECONDS ? save_state(r, e) : 0;
}

static int stop(void *ctx)
{
    const TagTrain *r = ctx;
    uint32_t steps = r->trainer.step - r->first_step;
    if (r->o->stop_after && steps >= (uint32_t)r->o->stop_after) return ERR_INT;
    return stop_code();
}

static int resume(TagTrain *r, Err *e)
{
    if (!r->o->resume || io_exists(r->state) != 1) return 0;
    TRY(train_load(&r->trainer, r->state, r->fact, r->facts, e));
    fprintf(stderr, "resumed at step %" PRIu32 "\n", r->trainer.step);
    return 0;
}

static int train_all(TagTrain *r, Err *e)
{
    TrainTask task = {.run = step, .after = after, .stop = stop, .ctx = r};
    TRY(tagger_load(&r->t, e));
    TRY(tagger_train_start(&r->task, e));
    TRY(train_place(&r->trainer, e));
    TRY(io_mkdirs(r->o->train, e));
    TRY(resume(r, e));
    r->first_step = r->trainer.step;
    r->last_state = machine_seconds();
    stop_install();
    progress_start(&r->progress, "steps");
    r->progress.first = r->trainer.step;
    int rc = train_run(&r->trainer, &task, e);
    progress_end(&r->progress);
    if (rc == ERR_INT || rc == ERR_TERM) {
        Err e2 = {0};
        int rs = save_state(r, &e2);
        if (rs) return *e = e2, rs;
        fprintf(stderr, "the same command with --resume goes on\n");
    }
    TRY(rc);
    TRY(tagger_save(&r->t, r->o->train, r->saved, e));
    return io_remove(r->state, e);
}

int tag_train(const TagOptions *o, const char *dir, Err *e)
{
    TagTrain *r = mem_calloc(1, sizeof *r);
    if (!r) return err_nomem(e, sizeof *r, "the run");
    r->o = o;
    int rc = open_all(r, dir, e);
    if (!rc) {
        fprintf(stderr, "%zu pictures, %zu tags, %.1f million weights\n", r->ds->item_count,
                r->t.tags.count, (double)params_part(r->t.ps, NULL).trained / 4e6);
        rc = train_all(r, e);
    }
    if (!rc) fprintf(stderr, "%s/model.safetensors\n", o->train);
    close_all(r);
    mem_free(r);
    return rc;
}
