/* lrsched.c - learning rate schedules; see lrsched.h. */
#include "engine/lrsched.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "engine/schedule.h"

static const double pi = 3.14159265358979323846, polynomial_end = 1e-7;

static const char *const names[LRSCHED_KINDS] = {
    [LRSCHED_CONSTANT] = "constant", [LRSCHED_CONSTANT_WITH_WARMUP] = "constant_with_warmup",
    [LRSCHED_LINEAR] = "linear", [LRSCHED_COSINE] = "cosine",
    [LRSCHED_COSINE_WITH_RESTARTS] = "cosine_with_restarts", [LRSCHED_POLYNOMIAL] = "polynomial",
};

const char *lrsched_name(int kind)
{
    return kind >= 0 && kind < LRSCHED_KINDS ? names[kind] : NULL;
}

int lrsched_find(LrKind *kind, const char *name, Err *e)
{
    char list[200] = "";
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

int lrsched_check(const LrSched *s, Err *e)
{
    const char *name = names[s->kind];
    if (s->warmup < 0 || s->total < 1)
        return err_set(e, ERR_USAGE, "learning rate schedule %s: %d warmup steps of %d; give 0 or "
                       "more of 1 or more", name, s->warmup, s->total);
    if (s->kind == LRSCHED_CONSTANT && s->warmup)
        return err_set(e, ERR_USAGE, "learning rate schedule constant has no warmup (%d steps "
                       "asked for); use constant_with_warmup", s->warmup);
    if (s->kind == LRSCHED_COSINE_WITH_RESTARTS && s->cycles < 1)
        return err_set(e, ERR_USAGE, "learning rate schedule %s: %d cycles; give 1 or more", name,
                       s->cycles);
    if (s->kind == LRSCHED_POLYNOMIAL && !(s->power > 0 && isfinite(s->power)))
        return err_set(e, ERR_USAGE, "learning rate schedule %s: power %g; give one above 0", name,
                       s->power);
    if (s->kind == LRSCHED_POLYNOMIAL && !(s->lr > polynomial_end && isfinite(s->lr)))
        return err_set(e, ERR_USAGE, "learning rate schedule %s: the learning rate %g must be "
                       "above %g, where it ends", name, s->lr, polynomial_end);
    return 0;
}

double lrsched_factor(const LrSched *s, int k)
{
    if (k < s->warmup) return (double)k / s->warmup;
    double p = k < s->total ? (double)(k - s->warmup) / (s->total - s->warmup) : 1, e;
    switch (s->kind) {
    case LRSCHED_LINEAR: return 1 - p;
    case LRSCHED_COSINE: return (1 + cos(pi * p)) / 2;
    case LRSCHED_COSINE_WITH_RESTARTS:
        return p < 1 ? (1 + cos(pi * fmod(s->cycles * p, 1))) / 2 : 0;
    case LRSCHED_POLYNOMIAL:
        e = polynomial_end / s->lr;
        return (1 - e) * pow(1 - p, s->power) + e;
    default: return 1;
    }
}
