/* stopping.c - see stopping.h. */
#include "engine/stopping.h"

#include <math.h>

/* A fall over the whole line, as a part of the loss, that is none: rounding. */
#define LEAST_FALL 1e-4

/* Does the least-squares line through these points go down, beyond what their scatter about it
 * explains? */
static int falls(const TrainPoint *p, size_t n)
{
    double x = 0, y = 0, xx = 0, xy = 0, rest = 0;
    for (size_t i = 0; i < n; i++) x += p[i].step / (double)n, y += p[i].held_out / (double)n;
    for (size_t i = 0; i < n; i++) {
        xx += (p[i].step - x) * (p[i].step - x);
        xy += (p[i].step - x) * (p[i].held_out - y);
    }
    double slope = xy / xx, span = (double)p[n - 1].step - p[0].step;
    for (size_t i = 0; i < n; i++) {
        double d = p[i].held_out - y - slope * (p[i].step - x);
        rest += d * d;
    }
    double error = sqrt(rest / (double)(n - 2) / xx);
    return -slope > STOPPING_T * error && -slope * span > LEAST_FALL * y;
}

Stopping stopping_judge(const TrainPoint *p, size_t count)
{
    Stopping s = {.line = count / 4 > STOPPING_LINE ? count / 4 : STOPPING_LINE};
    for (size_t i = 1; i < count; i++)
        if (p[i].held_out < p[s.best].held_out) s.best = i;
    size_t after = count - 1 - s.best;
    if (!after) return s;
    s.overfits = after >= STOPPING_RISEN;
    for (size_t i = count - STOPPING_RISEN; s.overfits && i < count; i++)
        s.overfits = p[i].held_out >= (1 + STOPPING_RISE) * p[s.best].held_out;
    s.stop = s.overfits || (count > s.line && !falls(p + count - s.line, s.line));
    return s;
}
