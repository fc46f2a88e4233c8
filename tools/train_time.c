/* train_time.c - --time 90m: as many steps as fit. The first steps of the run are computed,
 * and timed, before it begins; sample pictures are reckoned from them by their operations. The
 * number is decided once: the schedule needs it, and a resumed run keeps it.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/mem.h"
#include "tools/machine.h"
#include "tools/train.h"
#include "tools/train_samples.h"

/* Steps that are timed after one that is not; the optimizer and files take a little more. */
enum { TIMED = 3 };
static const double besides = 1.03;

int train_time_seconds(double *seconds, const char *text, Err *e)
{
    *seconds = 0;
    for (const char *s = text; *s;) {
        char *end;
        double v = strtod(s, &end);
        double unit = *end == 'h' ? 3600 : *end == 'm' ? 60 : *end == 's' ? 1 : 0;
        if (end == s || unit == 0 || !(v >= 0) || v > 1e6) {
            *seconds = 0;
            break;
        }
        *seconds += v * unit;
        s = end + 1;
    }
    if (*seconds > 0) return 0;
    return err_set(e, ERR_USAGE, "option --time: \"%s\" is not a time such as 90m or 1h30m", text);
}

/* Seconds of a step, and of one of its batches. */
static int measure(TrainRun *r, double *step, double *micro, Err *e)
{
    double start = 0;
    int runs = 0;
    params_zero_grad(r->m.ps);
    for (uint32_t s = 0; s <= TIMED; s++) {
        if (s == 1) start = machine_seconds(), runs = 0;
        for (int i = 0, n = train_micros(r, s); i < n; i++, runs++) {
            float loss;
            TRY(train_micro(r, s, i, &loss, e));
        }
        dev_sync(r->m.dev);
    }
    *step = (machine_seconds() - start) / TIMED * besides;
    *micro = (machine_seconds() - start) / runs;
    params_zero_grad(r->m.ps);
    return 0;
}

/* Sample pictures: seconds for each step of the run, and at its end. */
static void sample_seconds(const TrainRun *r, double micro, double *per_step, double *at_end)
{
    double graph = cost_graph_seconds(&cost_nominal, r->ft.graphs[0].exec.g);
    double all = train_samples_cost(r) * micro / graph;
    *per_step = r->samples ? all / train_samples_interval(r) : 0;
    *at_end = all * (r->strength_count + 1 + r->o.sample_at_first);   /* and the end itself, between two rows */
}

int train_time(TrainRun *r, Err *e)
{
    double allowed, step, micro, per_step, at_end;
    if (!r->o.time || r->recalled) return 0;
    if (r->o.train_vae || r->o.full_bf16)
        return err_set(e, ERR_USAGE, "option --time: not with --train_vae and --full_bf16");
    TRY(train_time_seconds(&allowed, r->o.time, e));
    TRY(measure(r, &step, &micro, e));
    sample_seconds(r, micro, &per_step, &at_end);
    double left = allowed - (machine_seconds() - r->spent.start) - at_end;
    double fits = floor(left / (step + per_step));
    if (fits < 1)
        return err_set(e, ERR_USAGE, "option --time: %s is over before the first step (a step "
                       "takes %.3g s, sample pictures at "
                       "the end %.3g s)", r->o.time, step, at_end);
    int wanted = r->o.epochs || r->o.steps;        /* a length is given, or chosen */
    if (fits > 1e9 || (wanted && fits >= r->total)) {
        fprintf(stderr, "time       %s is enough: %u steps take about %.3g s\n", r->o.time,
                r->total,
                r->total * (step + per_step) + at_end);
        return 0;
    }
    char *reason = mem_printf("what fits into %s: %.3g s a step, sample pictures %.3g s%s",
                              r->o.time, step,
                              per_step * fits + at_end, wanted ? "" : "; no length was given");
    fprintf(stderr, "time       %.0f steps instead of %u: %s\n", fits, r->total,
            reason ? reason : "");
    options_forget(&r->opt, "max_train_epochs");
    options_forget(&r->opt, "max_train_steps");
    r->o.epochs = 0;
    TRY(train_choice(r, "max_train_steps", mem_printf("%.0f", fits), reason, e));
    return train_set_total(r, (uint32_t)fits, e);
}
