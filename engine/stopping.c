/* stopping.c - see stopping.h. */
#include "engine/stopping.h"

Stopping stopping_judge(const TrainPoint *p, size_t count)
{
    Stopping s = {0};
    for (size_t i = 1; i < count; i++)
        if (p[i].held_out < p[s.best].held_out) s.best = i;
    size_t after = count - 1 - s.best;
    if (after < STOPPING_MEAN) return s;
    double held = 0;
    for (size_t i = count - STOPPING_MEAN; i < count; i++) held += p[i].held_out / STOPPING_MEAN;
    s.rise = held / p[s.best].held_out - 1;
    s.overfits = s.rise >= STOPPING_RISE;
    s.stop = s.overfits || (after >= STOPPING_PATIENCE && p[count - 1].step >= 2 * (double)p[s.best].step);
    return s;
}
