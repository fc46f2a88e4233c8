/* train_watch.c - the loss on pictures that are held out of a training: measured with the
 * same noise and the same timesteps each time, so that two moments of a run can be compared;
 * by quarters of the timesteps, beside the training loss of the same quarters. With --auto
 * it ends the run (engine/stopping.h), and the best weights so far stand under output_name.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/stopping.h"
#include "tools/train.h"

/* Measuring may take a tenth of a run's time, with --auto, which saves more, a fifth. A
 * training step costs three times what a measurement of as many pictures does: it goes
 * forward and back. */
enum { SHARE = 10, AUTO_SHARE = 5, STEP_COST = 3 };
/* Pictures run in a measurement of a small set: below that chance shows. With --auto at
 * least so many steps lie between two. */
enum { FEW_RUNS = 16, FEW_STEPS = 10 };

static int at_least(int n, int least) { return n < least ? least : n; }

/* Timesteps of each picture: kohya's 4, or more when there are few pictures. */
static int choose_times(const TrainRun *r)
{
    int pictures = (int)finetune_validate_size(&r->val, r->o.max_validation_steps, 1);
    int times = FEW_RUNS / at_least(pictures, 1) / FINETUNE_TIMES * FINETUNE_TIMES;
    return at_least(times, FINETUNE_TIMES);
}

/* Steps between two measurements, unless options say it: an epoch, several when an epoch is
 * short, and with --auto a part of one when it is long. */
static uint32_t choose_interval(const TrainRun *r)
{
    size_t runs = finetune_validate_size(&r->val, r->o.max_validation_steps, r->watch.times);
    size_t step = (size_t)r->o.batch * (size_t)r->o.accumulation * STEP_COST;
    size_t share = r->o.until_best ? AUTO_SHARE : SHARE;
    uint32_t least = (uint32_t)((runs * share + step - 1) / step), epoch = r->steps_per_epoch;
    if (r->o.until_best && least < FEW_STEPS) least = FEW_STEPS;
    if (epoch < least) return (least + epoch - 1) / epoch * epoch;
    if (!r->o.until_best || epoch < 2 * least) return epoch;
    uint32_t parts = epoch / least;
    return (epoch + parts - 1) / parts;
}

void train_watch_init(TrainRun *r)
{
    const TrainOptions *o = &r->o;
    if (!r->val_ds) return;
    r->watch.times = choose_times(r);
    int by_steps = o->validate_every_n_steps && !o->validate_every_n_epochs;
    r->watch.interval = o->validate_every_n_epochs
                            ? (uint32_t)o->validate_every_n_epochs * r->steps_per_epoch
                        : by_steps ? (uint32_t)o->validate_every_n_steps
                                   : choose_interval(r);
    r->ft.bands = &r->watch.training;
}

static int due(const TrainRun *r, uint32_t done)
{
    const TrainOptions *o = &r->o;
    uint32_t epoch = r->steps_per_epoch, interval = r->watch.interval,
             extra = (uint32_t)o->validate_every_n_steps;
    if (done == r->total || (done && done == r->watch.extra) || (extra && done % extra == 0))
        return 1;
    if (o->validate_every_n_epochs || extra || interval >= epoch) return done % interval == 0;
    return done % epoch % interval == 0;
}

static double mean_of(const FinetuneBands *b)
{
    double sum = 0, count = 0;
    for (int i = 0; i < FINETUNE_BANDS; i++) sum += b->sum[i], count += b->count[i];
    return count > 0 ? sum / count : NAN;
}

/* Measures, and keeps the result in the run's state. */
static int measure(TrainRun *r, uint32_t done, Err *e)
{
    FinetuneBands held, *training = &r->watch.training;
    double loss;
    optim_swap(r->t.optim);                        /* --use_ema: of the averaged weights */
    int rc = finetune_validate(&r->val, r->o.max_validation_steps, r->watch.times, &loss, &held, e);
    optim_swap(r->t.optim);
    TRY(rc);
    TrainPoint p = {done, (float)loss, (float)mean_of(training)};
    TRY(train_point(&r->t, p, e));
    TRY(train_log_validation(r, &p, &held, training, e));
    *training = (FinetuneBands){0};
    return 0;
}

uint32_t train_watch_next(const TrainRun *r, uint32_t done)
{
    while (done < r->total && !due(r, done)) done++;
    return done;
}

const TrainPoint *train_watch_best(const TrainRun *r)
{
    const TrainPoint *best = NULL;
    for (size_t i = 0; i < r->t.point_count; i++)
        if (!best || r->t.points[i].held_out < best->held_out) best = &r->t.points[i];
    return best;
}

int train_watch_start(TrainRun *r, Err *e)
{
    return r->val_ds && !r->t.point_count ? measure(r, r->t.step, e) : 0;
}

/* Ends the run when it has passed its best, and says so. */
static void judge(TrainRun *r)
{
    Stopping s = stopping_judge(r->t.points, r->t.point_count);
    const TrainPoint *best = &r->t.points[s.best];
    if (!s.stop) return;
    r->t.end = r->t.step;
    char why[120];
    if (s.overfits)
        snprintf(why, sizeof why, "the last %d measurements are %.0f%% higher", STOPPING_RISEN,
                 100 * STOPPING_RISE);
    else
        snprintf(why, sizeof why,
                 "over the last %zu measurements it does not fall beyond their scatter", s.line);
    snprintf(r->watch.why, sizeof r->watch.why,
             "Stopped at step %" PRIu32 ", %s: the held-out loss was lowest at step %" PRIu32
             " (%.5f), and %s.",
             r->t.step, s.overfits ? "overfitting" : "nothing more is learnt", best->step,
             best->held_out, why);
}

/* --auto: the plain name always has the best so far, also when the run is killed. */
static int keep_best(TrainRun *r, uint32_t done, Err *e)
{
    if (train_watch_best(r)->step != done) return 0;
    return train_save_weights(r, r->o.output_name, done / r->steps_per_epoch, e);
}

int train_watch_after(TrainRun *r, uint32_t done, Err *e)
{
    if (!r->val_ds || !due(r, done)) return 0;
    TRY(measure(r, done, e));
    if (!r->o.until_best) return 0;
    TRY(keep_best(r, done, e));
    judge(r);
    return 0;
}
