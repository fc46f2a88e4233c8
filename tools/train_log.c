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

/* ---- the log ------------------------------------------------------------------- */

/* kohya: LOGGING_DIR/PREFIX20260131235959/network_train. NULL without --logging_dir. */
static char *events_dir(const TrainOptions *o)
{
    char when[32];
    time_t now = time(NULL);
    struct tm t;
    if (!o->logging_dir || !localtime_r(&now, &t)) return NULL;
    strftime(when, sizeof when, "%Y%m%d%H%M%S", &t);
    return mem_printf("%s/%s%s/network_train", o->logging_dir, o->log_prefix ? o->log_prefix : "", when);
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
    static const struct { const char *lr, *found; } names[GROUP_COUNT] = {
        [GROUP_TEXT] = {"lr/textencoder", "lr/d*lr/textencoder"}, [GROUP_UNET] = {"lr/unet", "lr/d*lr/unet"},
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
    RunScalar s[6 + 2 * GROUP_COUNT] = {{"loss/current", r->t.loss}, {"loss/average", r->t.avr_loss},
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

int train_log_validation(TrainRun *r, uint32_t done, int epoch, double loss, Err *e)
{
    RunScalar s[] = {
        {epoch ? "loss/validation/epoch_average" : "loss/validation/step_average", loss},
        {epoch ? "loss/validation/epoch_divergence" : "loss/validation/step_divergence", loss - r->t.avr_loss}};
    return runlog_step(&r->log, done, s, 2, e);
}

/* ---- the verdict --------------------------------------------------------------- */

char *train_verdict(const TrainRun *r)
{
    char held[120] = "";
    if (r->val_ds && r->val_after > 0)
        snprintf(held, sizeof held, " Loss on the pictures held out: %.5f before, %.5f after.", r->val_before, r->val_after);
    return mem_printf("%" PRIu32 " steps on %s; mean loss of the last %" PRIu32 " steps %.5f.%s", r->t.step,
                      dev_name(r->m.dev), r->t.c.loss_window < r->t.step ? r->t.c.loss_window : r->t.step,
                      r->t.avr_loss, held);
}
