/* lrsched.c - learning rate schedules; see lrsched.h. */
#include "engine/lrsched.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/schedule.h"

static const double pi = 3.14159265358979323846, polynomial_end = 1e-7;

static const char *const names[LRSCHED_KINDS] = {
    [LRSCHED_CONSTANT] = "constant", [LRSCHED_CONSTANT_WITH_WARMUP] = "constant_with_warmup",
    [LRSCHED_LINEAR] = "linear", [LRSCHED_COSINE] = "cosine",
    [LRSCHED_COSINE_WITH_RESTARTS] = "cosine_with_restarts", [LRSCHED_POLYNOMIAL] = "polynomial",
    [LRSCHED_COSINE_WITH_MIN_LR] = "cosine_with_min_lr", [LRSCHED_INVERSE_SQRT] = "inverse_sqrt",
    [LRSCHED_WARMUP_STABLE_DECAY] = "warmup_stable_decay",
    [LRSCHED_PIECEWISE_CONSTANT] = "piecewise_constant", [LRSCHED_ADAFACTOR] = "adafactor",
};

const char *lrsched_name(int kind)
{
    return kind >= 0 && kind < LRSCHED_KINDS ? names[kind] : NULL;
}

int lrsched_find(LrKind *kind, const char *name, Err *e)
{
    char list[300] = "";
    for (int k = 0; k < LRSCHED_KINDS; k++) {
        if (schedule_same_name(name, names[k], NULL)) {
            *kind = (LrKind)k;
            return 0;
        }
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", k ? ", " : "", names[k]);
    }
    return err_set(e, ERR_USAGE, "unknown learning rate schedule \"%s\"; choose one of %s", name,
                   list);
}

int lrsched_rules(LrSched *s, const char *rules, Err *e)
{
    const char *at = rules;
    for (s->pieces = 0; s->pieces < LRSCHED_PIECES; s->pieces++) {
        char *end;
        double factor = strtod(at, &end), until = HUGE_VAL;
        if (end == at || !(factor >= 0) || isinf(factor)) break;
        s->factor[s->pieces] = factor;
        if (!*end) return s->pieces++, 0;
        if (*end != ':') break;
        at = end + 1;
        until = strtod(at, &end);
        if (end == at || *end != ',' || !(until >= 1 && until <= 1e9) || until != floor(until))
            break;
        s->until[s->pieces] = (int)until;
        if (s->pieces && s->until[s->pieces] <= s->until[s->pieces - 1]) break;
        at = end + 1;
    }
    s->pieces = 0;
    return err_set(e, ERR_USAGE,
                   "learning rate schedule piecewise_constant: step_rules \"%.80s\" are not "
                   "factors up to growing steps and a last factor, as 1:10,0.1:20,0.01",
                   rules);
}

static double lr_end(const LrSched *s) { return s->lr_end > 0 ? s->lr_end : polynomial_end; }

int lrsched_check(const LrSched *s, Err *e)
{
    const char *name = names[s->kind];
    if (s->warmup < 0 || s->total < 1)
        return err_set(e, ERR_USAGE, "learning rate schedule %s: %d warmup steps of %d; give 0 or "
                       "more of 1 or more", name, s->warmup, s->total);
    if ((s->kind == LRSCHED_CONSTANT || s->kind == LRSCHED_ADAFACTOR) && s->warmup)
        return err_set(e, ERR_USAGE, "learning rate schedule %s has no warmup (%d steps "
                       "asked for); use constant_with_warmup", name, s->warmup);
    if (s->kind == LRSCHED_PIECEWISE_CONSTANT && !s->pieces)
        return err_set(e, ERR_USAGE, "learning rate schedule %s: needs --lr_scheduler_args "
                       "step_rules=1:10,0.1:20,0.01", name);
    int minimum = s->kind == LRSCHED_COSINE_WITH_MIN_LR,
        decays = s->kind == LRSCHED_WARMUP_STABLE_DECAY;
    if (minimum && isnan(s->min_ratio))
        return err_set(e, ERR_USAGE, "learning rate schedule %s: needs --lr_scheduler_min_lr_ratio",
                       name);
    if ((minimum || decays) && (s->min_ratio < 0 || s->min_ratio > 1))
        return err_set(e, ERR_USAGE,
                       "learning rate schedule %s: a minimum of %g times the rate; give 0 to 1",
                       name, s->min_ratio);
    if (decays && (s->decay < 0 || s->decay > s->total - s->warmup))
        return err_set(e, ERR_USAGE,
                       "learning rate schedule %s: %d steps of warmup and %d of decay are more "
                       "than %d in all; see --lr_decay_steps",
                       name, s->warmup, s->decay, s->total);
    if ((s->kind == LRSCHED_COSINE_WITH_RESTARTS || minimum || decays) && s->cycles < 1)
        return err_set(e, ERR_USAGE, "learning rate schedule %s: %d cycles; give 1 or more", name,
                       s->cycles);
    if (s->kind == LRSCHED_POLYNOMIAL && !(s->power > 0 && isfinite(s->power)))
        return err_set(e, ERR_USAGE, "learning rate schedule %s: power %g; give one above 0", name,
                       s->power);
    if (s->kind == LRSCHED_POLYNOMIAL && !(s->lr > lr_end(s) && isfinite(s->lr)))
        return err_set(e, ERR_USAGE, "learning rate schedule %s: the learning rate %g must be "
                       "above %g, where it ends", name, s->lr, lr_end(s));
    return 0;
}

static double cosine_to(double min_ratio, double angle)
{
    double m = isnan(min_ratio) ? 0 : min_ratio;
    return fmax(0, (1 - m) * (1 + cos(angle)) / 2 + m);
}

static double stable_decay(const LrSched *s, int k)
{
    double m = isnan(s->min_ratio) ? 0 : s->min_ratio;
    int start = s->total - s->decay;
    if (k < s->warmup) return (1 - m) * k / s->warmup + m;
    if (k < start) return 1;
    return k < s->total ? cosine_to(m, pi * s->cycles * (double)(k - start) / s->decay) : m;
}

double lrsched_factor(const LrSched *s, int k)
{
    if (s->kind == LRSCHED_WARMUP_STABLE_DECAY) return stable_decay(s, k);
    if (s->kind == LRSCHED_PIECEWISE_CONSTANT) {
        int i = 0;
        while (i < s->pieces - 1 && k >= s->until[i]) i++;
        return s->factor[i];
    }
    if (k < s->warmup) return (double)k / s->warmup;
    double p = k < s->total ? (double)(k - s->warmup) / (s->total - s->warmup) : 1, e, scale;
    switch (s->kind) {
    case LRSCHED_LINEAR: return 1 - p;
    case LRSCHED_COSINE: return (1 + cos(pi * p)) / 2;
    case LRSCHED_COSINE_WITH_RESTARTS:
        return p < 1 ? (1 + cos(pi * fmod(s->cycles * p, 1))) / 2 : 0;
    case LRSCHED_POLYNOMIAL:
        e = lr_end(s) / s->lr;
        return (1 - e) * pow(1 - p, s->power) + e;
    case LRSCHED_COSINE_WITH_MIN_LR: return cosine_to(s->min_ratio, pi * s->cycles * p);
    case LRSCHED_INVERSE_SQRT:
        scale = s->timescale ? s->timescale : s->warmup ? s->warmup : 10000;
        return sqrt(scale / (k + scale - s->warmup));
    default: return 1;
    }
}
