/* stopping.h - when a training has learnt what it can: a rule over the loss on pictures that
 * are held out, measured with the same noise and timesteps each time.
 *
 * Measured so, the loss is a smooth function of the weights; what is left of noise comes
 * from the last few steps. It falls, turns, and rises while the training pictures are
 * learnt by heart. A run stops when
 *   - the mean of the last STOPPING_MEAN measurements is STOPPING_RISE above the lowest one:
 *     Prechelt's generalisation loss, "Early stopping - but when?" (1998), GL_5; or
 *   - the lowest one is half of the run old, and STOPPING_PATIENCE measurements came after it.
 */
#ifndef SDC_ENGINE_STOPPING_H
#define SDC_ENGINE_STOPPING_H

#include <stddef.h>

#include "engine/train.h"

#define STOPPING_RISE 0.05
enum { STOPPING_MEAN = 3, STOPPING_PATIENCE = 10 };

typedef struct {
    size_t best;               /* the point of the lowest loss, the first of equal ones */
    int stop;
    int overfits;              /* the first of the two reasons */
    double rise;               /* of the mean of the last ones over the best: 0.02 is 2% */
} Stopping;

/* Judges count >= 1 points, by step. Pure: a resumed run comes to the same end. */
Stopping stopping_judge(const TrainPoint *p, size_t count);

#endif
