/* train_run.c - a run of `sdc train` after it is planned: its start, its steps and what is
 * done after each, its end. Nothing is written before the first step.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "tools/machine.h"
#include "tools/progress.h"
#include "tools/stop.h"
#include "tools/dataset_config.h"
#include "tools/train.h"
#include "tools/train_samples.h"

static int save_state(TrainRun *r, Err *e)
{
    r->last_state = machine_seconds();
    train_save_begin(r);
    TRY(train_save(&r->t, r->state_path, r->facts, r->fact_count, e));
    return train_save_end(r, e);
}

/* ---- a step -------------------------------------------------------------- */

int train_micro(TrainRun *r, uint32_t step, int micro, float *loss, Err *e)
{
    return r->o.train_vae ? autoencode_run(&r->ae, step, loss, e)
                          : finetune_run(&r->ft, step, micro, loss, e);
}

int train_micros(const TrainRun *r, uint32_t step)
{
    return r->o.train_vae ? 1 : finetune_micros(&r->ft, step);
}

static int run_micro(void *ctx, uint32_t step, int micro, float *loss, Err *e)
{
    return train_micro(ctx, step, micro, loss, e);
}

static int micros(void *ctx, uint32_t step) { return train_micros(ctx, step); }

static int stop_asked(void *ctx)
{
    const TrainRun *r = ctx;
    int limit = r->o.stop_after_steps;
    if (limit && r->t.step - r->first_step >= (uint32_t)limit) return ERR_INT;
    return stop_code();
}

static int cache_tick(void *ctx, size_t done, size_t total)
{
    progress_show(ctx, done, total, "");
    return stop_code();
}

/* Weights of an epoch that --save_last_n_epochs no longer wants. */
static void remove_old(const TrainRun *r, uint32_t epoch)
{
    const TrainOptions *o = &r->o;
    if (!o->save_last_n_epochs) return;
    int64_t old = (int64_t)epoch - (int64_t)o->save_every_n_epochs * o->save_last_n_epochs;
    if (old <= 0) return;
    char *path =
        mem_printf("%s/%s-%06lld.safetensors", o->output_dir, o->output_name, (long long)old);
    if (path) remove(path);
    mem_free(path);
}

/* The same of --save_last_n_steps, by kohya's get_remove_step_no. */
static void remove_old_step(const TrainRun *r, uint32_t done)
{
    const TrainOptions *o = &r->o;
    int64_t last = (int64_t)done - o->save_last_n_steps - 1;
    if (!o->save_last_n_steps || last < o->save_every_n_steps) return;
    char *path = mem_printf("%s/%s-step%08lld.safetensors", o->output_dir, o->output_name,
                            (long long)(last - last % o->save_every_n_steps));
    if (path) remove(path);
    mem_free(path);
}

static int save_files(TrainRun *r, uint32_t done, Err *e)
{
    const TrainOptions *o = &r->o;
    uint32_t epoch = done / r->steps_per_epoch;
    int at_epoch = done % r->steps_per_epoch == 0, last = done == r->total;
    char name[300];
    if (at_epoch && !last && o->save_every_n_epochs &&
        epoch % (uint32_t)o->save_every_n_epochs == 0) {
        snprintf(name, sizeof name, "%s-%06" PRIu32, o->output_name, epoch);
        TRY(train_save_weights(r, name, epoch, e));
        remove_old(r, epoch);
    }
    if (o->save_every_n_steps && !last && done % (uint32_t)o->save_every_n_steps == 0) {
        snprintf(name, sizeof name, "%s-step%08" PRIu32, o->output_name, done);
        TRY(train_save_weights(r, name, epoch, e));
        remove_old_step(r, done);
    }
    int due = o->save_state_every_n_steps && done % (uint32_t)o->save_state_every_n_steps == 0;
    due |= machine_seconds() - r->last_state > 60 * o->save_state_minutes;
    return due && !last ? save_state(r, e) : 0;
}

static int after_step(void *ctx, uint32_t done, Err *e)
{
    TrainRun *r = ctx;
    char text[160];
    int n = snprintf(text, sizeof text, "avr_loss=%.4f", r->t.avr_loss);
    if (optim_finds_rate(&r->t.optim->cfg))
        snprintf(text + n, sizeof text - (size_t)n, ", lr=%.3g",
                 optim_lr(r->t.optim, GROUP_UNET, r->t.lr_factor));
    progress_show(&r->progress, done, r->total, text);
    TRY(train_scale_norms(r, e));
    TRY(train_log_step(r, done, e));
    TRY(train_watch_after(r, done, e));
    TRY(save_files(r, done, e));
    return train_samples_after(r, done, e);
}

static int resume(TrainRun *r, Err *e)
{
    if (!r->o.resume) return 0;
    const char *path = *r->o.resume ? r->o.resume : r->state_path;
    if (!*r->o.resume && !io_exists(path)) {
        if (!r->shared)
            fprintf(stderr, "note: no state %s yet: starting from the beginning\n", path);
        return 0;
    }
    TRY(train_load(&r->t, path, r->facts, r->fact_count, e));
    if (!r->shared) fprintf(stderr, "resumed    %s at step %" PRIu32 "\n", path, r->t.step);
    return 0;
}

/* What a self-tuning optimizer found, and what it means for the others. */
static void report_rate(const TrainRun *r)
{
    OptimKind kind = r->t.optim->cfg.kind;
    if (!optim_finds_rate(&r->t.optim->cfg)) return;
    double lr = r->t.optim->d;
    if (kind != OPTIM_DADAPT_ADAM && kind != OPTIM_DADAPT_PREPRINT && kind != OPTIM_PRODIGY) {
        printf("rate found: %.3g\n", lr);
        return;
    }
    printf(
           "rate found: %.3g; try --optimizer_type AdamW8bit --unet_lr %.2g --text_encoder_lr "
           "%.2g, or Lion with --unet_lr %.2g\n", lr, lr, lr / 2, lr / 3);
}

static int encode_pictures(TrainRun *r, Err *e)
{
    if (r->o.train_vae) return 0;
    Progress p;
    progress_start(&p, "latents");
    TRY(finetune_cache(&r->ft, cache_tick, &p, e));
    progress_end(&p);
    return r->val_ds ? finetune_cache(&r->val, NULL, NULL, e) : 0;
}

/* --auto: the plain name has the best weights so far. */
static int has_best(const TrainRun *r)
{
    const TrainPoint *best = r->o.until_best ? train_watch_best(r) : NULL;
    return best && best->step;
}

uint32_t train_result_step(const TrainRun *r)
{
    return has_best(r) ? train_watch_best(r)->step : r->t.step;
}

int train_result(TrainRun *r, int save, Err *e)
{
    if (r->has_result) return 0;
    r->has_result = 1;
    if (save && !has_best(r))
        TRY(train_save_weights(r, r->o.output_name,
                               (r->total + r->steps_per_epoch - 1) / r->steps_per_epoch, e));
    if (has_best(r)) return train_load_weights(r, r->o.output_name, e);
    optim_swap(r->t.optim);
    return 0;
}

static int stopped(TrainRun *r, int rc, Err *e)
{
    if (rc != ERR_INT && rc != ERR_TERM) return rc;
    Err e2 = {0};
    int rs = save_state(r, &e2);
    if (!rs && !r->o.train_vae && !has_best(r))
        rs = train_save_weights(r, r->o.output_name, r->t.step / r->steps_per_epoch, &e2);
    if (rs) return *e = e2, rs;
    fprintf(stderr,
            "stopped    after step %" PRIu32 "; %s continues with the same command and --resume\n",
            r->t.step, r->state_path);
    return rc;
}

/* All but what made the latents: it has been released, or is there for good. */
static int load(TrainRun *r, Err *e)
{
    static const char *const parts[] = {"text_encoder.", "unet.", "vae.decoder.",
                                        "vae.post_quant_conv."};
    if (r->o.train_vae) return model_load(&r->m, e);
    if (!r->m.slab.base) TRY(slab_alloc(&r->m.slab, r->m.dev, e));
    for (int i = 0; i < 4; i++) TRY(model_load_part(&r->m, parts[i], e));
    train_drop_lora(r);
    mem_trim();
    return 0;
}

/* ---- the run ------------------------------------------------------------- */

int train_parse(TrainRun *r, int argc, char **argv, int *help, Err *e)
{
    int skip;
    *help = 0;
    TRY(train_options_init(&r->o, &r->opt, e));
    TRY(train_kohya_command(r, argc, argv, &skip, e));
    r->argc = argc -= skip;
    r->argv = argv += skip;
    TRY(options_parse(&r->opt, argc, argv, help, e));
    if (*help) return 0;
    if (r->o.rest.count) {
        if (r->o.data_dir || r->o.rest.count > 1)
            return err_set(e, ERR_USAGE, "sdc train: unexpected argument \"%s\"",
                           r->o.rest.item[r->o.data_dir ? 0 : 1]);
        TRY(options_set(&r->opt, "train_data_dir", r->o.rest.item[0], OPTIONS_COMMAND, e));
    }
    if (r->o.config_file) TRY(options_file(&r->opt, r->o.config_file, e));
    return train_recall(r, e);
}

int train_start(TrainRun *r, Err *e)
{
    r->spent.start = machine_seconds();
    TRY(io_mkdirs(r->o.output_dir, e));
    TRY(encode_pictures(r, e));
    r->spent.latents = machine_seconds() - r->spent.start;
    TRY(load(r, e));
    TRY(train_rates(r, e));
    TRY(train_time(r, e));
    TRY(train_record(r, e));
    TRY(train_place(&r->t, e));
    TRY(resume(r, e));
    TRY(train_log_open(r, e));
    TRY(train_watch_start(r, e));
    TRY(train_samples_first(r, e));
    r->last_state = machine_seconds();
    r->first_step = r->t.step;
    finetune_update(&r->ft, train_update, &r->t);
    return 0;
}

int train_steps(TrainRun *r, uint32_t end, Err *e)
{
    TrainTask task = {run_micro, micros, after_step, stop_asked, r};
    r->t.end = end && end < r->total ? end : r->total;
    progress_start(&r->progress, "steps");
    double start = machine_seconds();
    int rc = train_run(&r->t, &task, e);
    r->spent.steps += machine_seconds() - start;
    progress_end(&r->progress);
    return rc ? stopped(r, rc, e) : 0;
}

int train_pause(TrainRun *r, Err *e) { return save_state(r, e); }

static void print_validation(const TrainRun *r)
{
    const TrainPoint *best = train_watch_best(r), *first = r->t.points;
    if (!best) return;
    const TrainPoint *p = r->o.until_best ? best : &first[r->t.point_count - 1];
    printf("validation loss %.5f -> %.5f (%+.1f%%)", first->held_out, p->held_out,
           100 * (p->held_out / first->held_out - 1));
    if (r->o.until_best) printf(" after step %" PRIu32, p->step);
    if (p != best) printf(", lowest after step %" PRIu32 ": %.5f", best->step, best->held_out);
    printf("\n");
    if (*r->watch.why) printf("%s\n", r->watch.why);
    else if (r->o.until_best)
        printf(
               "Not stopped early: no measurement says yet that the held-out loss has passed its "
               "lowest.\n");
}

/* For those who let a preset choose: how a picture is made with it. */
static void print_use(const TrainRun *r)
{
    const TrainOptions *o = &r->o;
    if (!o->preset || !o->trigger || r->shared) return;
    fprintf(stderr,
            "a picture  sdc sample -m %s --lora %s/%s.safetensors -p \"%s\" -o picture.png\n",
            o->model, o->output_dir, o->output_name, o->trigger);
}

int train_finish(TrainRun *r, Err *e)
{
    if (r->o.train_vae && r->o.unit_latents) TRY(autoencode_unit_latents(&r->ae, 64, e));
    if (r->o.save_state) TRY(save_state(r, e));
    TRY(train_result(r, 1, e));
    if (!r->o.save_state) remove(r->state_path);
    print_validation(r);
    TRY(train_samples_last(r, e));
    TRY(train_strengths(r, e));
    TRY(train_report(r, e));
    report_rate(r);
    printf("%s/%s.safetensors\n", r->o.output_dir, r->o.output_name);
    print_use(r);
    return 0;
}

void train_close_parts(TrainRun *r)
{
    runlog_close(&r->log);
    train_samples_free(r);
    train_free(&r->t);
    if (r->ft.m) finetune_free(&r->ft);
    if (r->val.m) finetune_free(&r->val);
    if (r->ae.m) autoencode_free(&r->ae);
    lora_close(&r->lora);
    dataset_close(r->ds);
    dataset_file_close(r->ds_file);
    dataset_file_close(r->val_file);
    dataset_close(r->val_ds);
    bpe_close(r->tok);
    if (r->shared && r->shared->key && r->m.ps) r->shared->m = r->m;     /* for the next run */
    else model_close(&r->m);
    for (size_t i = 0; i < r->fact_count; i++) mem_free((void *)(uintptr_t)r->facts[i].value);
    mem_free(r->facts);
    mem_free(r->state_path);
    mem_free(r->cache_dir);
    for (size_t i = 0; i < r->choice_count; i++) mem_free(r->choices[i].reason);
    mem_free(r->choices);
    mem_free(r->prompts);
    *r = (TrainRun){.o = r->o, .opt = r->opt, .argc = r->argc, .argv = r->argv,
                      .shared = r->shared};
    mem_trim();
}

void train_close(TrainRun *r)
{
    train_close_parts(r);
    options_free(&r->opt);
}
