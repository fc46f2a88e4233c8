/* train_log.c - what a run measured: OUTPUT_NAME.jsonl as it goes, TensorBoard's file with
 * --logging_dir, and what is to be said at the end. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "tools/train.h"
#include "tools/train_samples.h"

/* ---- the log ------------------------------------------------------------------- */

/* kohya: LOGGING_DIR/PREFIX20260131235959/network_train. NULL without --logging_dir. */
static char *events_dir(const TrainOptions *o)
{
    char when[32];
    time_t now = time(NULL);
    struct tm t;
    if (!o->logging_dir || !localtime_r(&now, &t)) return NULL;
    strftime(when, sizeof when, "%Y%m%d%H%M%S", &t);
    return mem_printf("%s/%s%s/network_train", o->logging_dir, o->log_prefix ? o->log_prefix : "",
                      when);
}

int train_log_open(TrainRun *r, Err *e)
{
    char *events = events_dir(&r->o);
    if (r->o.logging_dir && !events) return err_nomem(e, 64, "a file name");
    int rc = runlog_open(&r->log, r->o.output_dir, r->o.output_name, events, r->t.step, e);
    mem_free(events);
    return rc;
}

/* Rates with the names of kohya's train_network.py generate_step_logs. */
static size_t rates(const TrainRun *r, RunScalar *s)
{
    static const struct { const char *lr, *found;
    } names[GROUP_COUNT] = {[GROUP_TEXT] = {"lr/textencoder", "lr/d*lr/textencoder"},
                            [GROUP_UNET] = {"lr/unet", "lr/d*lr/unet"},
                            [GROUP_VAE] = {"lr/vae", "lr/d*lr/vae"}};
    const OptimConfig *c = &r->t.optim->cfg;
    int found = optim_finds_rate(c);
    size_t n = 0;
    for (int g = 0; g < GROUP_COUNT; g++) {
        if ((g == GROUP_VAE) != (r->o.train_vae != 0) || r->t.lr[g] == 0) continue;
        s[n++] = (RunScalar){names[g].lr, found ? r->t.lr[g] * r->t.lr_factor
                                                : optim_lr(r->t.optim, g, r->t.lr_factor)};
        if (found) s[n++] = (RunScalar){names[g].found, optim_lr(r->t.optim, g, r->t.lr_factor)};
    }
    return n;
}

int train_log_step(TrainRun *r, uint32_t done, Err *e)
{
    RunScalar s[6 + 2 * GROUP_COUNT] = {{"loss/current", r->t.loss},
                                        {"loss/average", r->t.avr_loss},
                                        {"norm/avg_grad_norm", r->t.grad_norm}};
    size_t n = 3;
    if (r->o.scale_weight_norms > 0) {
        s[n++] = (RunScalar){"max_norm/keys_scaled", r->norms_scaled};
        s[n++] = (RunScalar){"max_norm/max_key_norm", r->norm_max};
        s[n++] = (RunScalar){"norm/avg_key_norm", r->norm_mean};
    }
    n += rates(r, s + n);
    return runlog_step(&r->log, done, s, n, e);
}

/* kohya's names, and a pair of curves for each quarter of the timesteps. */
int train_log_validation(TrainRun *r, const TrainPoint *p, const FinetuneBands *held,
                         const FinetuneBands *training, Err *e)
{
    int epoch = p->step % r->steps_per_epoch == 0, first = r->o.min_timestep,
        span = r->o.max_timestep - first;
    char tag[2 * FINETUNE_BANDS][48];
    RunScalar s[2 + 2 * FINETUNE_BANDS] = {
        {epoch ? "loss/validation/epoch_average" : "loss/validation/step_average", p->held_out},
        {epoch ? "loss/validation/epoch_divergence" : "loss/validation/step_divergence",
         p->step ? p->held_out - r->t.avr_loss : NAN}};
    size_t n = 2;
    for (int i = 0; i < 2 * FINETUNE_BANDS; i++) {
        const FinetuneBands *b = i % 2 ? held : training;
        int k = i / 2, lo = first + span * k / FINETUNE_BANDS,
            hi = first + span * (k + 1) / FINETUNE_BANDS - 1;
        if (!b->count[k]) continue;
        snprintf(tag[i], sizeof tag[i], "loss_t%03d-%03d/%s", lo, hi,
                 i % 2 ? "held_out" : "training");
        s[n++] = (RunScalar){tag[i], b->sum[k] / b->count[k]};
    }
    return runlog_step(&r->log, p->step, s, n, e);
}

/* ---- the verdict --------------------------------------------------------------- */

char *train_verdict(const TrainRun *r)
{
    char held[200] = "";
    const TrainPoint *best = train_watch_best(r);
    if (best)
        snprintf(held, sizeof held,
                 " Loss on the pictures held out: %.5f before, %.5f after, lowest at step %" PRIu32
                 ": %.5f.",
                 r->t.points[0].held_out, r->t.points[r->t.point_count - 1].held_out, best->step,
                 best->held_out);
    else if (r->samples && train_samples_interval(r) <= r->total)
        snprintf(held, sizeof held,
                 " No pictures were held out: the rows of samples show which moment is best.");
    return mem_printf("%" PRIu32 " steps on %s; mean loss of the last %" PRIu32
                      " steps %.5f.%s%s%s",
                      r->t.step, dev_name(r->m.dev),
                      r->t.c.loss_window < r->t.step ? r->t.c.loss_window : r->t.step,
                      r->t.avr_loss, held, *r->watch.why ? " " : "", r->watch.why);
}
