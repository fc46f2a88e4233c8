/* stopping.h - when a training has learnt what it can: a rule over the loss on pictures that
 * are held out, measured with the same noise and timesteps each time.
 *
 * Measured so, the loss is a smooth function of the weights; what is left of noise comes
 * from the last few steps, and is as large as a tenth of the loss on a small set. It falls,
 * flattens, and rises while the training pictures are learnt by heart. A run stops, but never
 * at a new lowest point, when
 *   - each of the last STOPPING_RISEN measurements is STOPPING_RISE above the lowest one:
 *     Prechelt's generalisation loss, "Early stopping - but when?" (1998), GL_5; or
 *   - it does not fall any more: the line through the last quarter of the measurements, at
 *     least STOPPING_LINE of them, goes down by less than STOPPING_T of its standard errors.
 *     The noise that there is says how much of a fall can be seen, and how long a line is
 *     needed grows with the run.
 * bench/auto/measure.sh has what it does on three small sets.
 */
#ifndef SDC_ENGINE_STOPPING_H
#define SDC_ENGINE_STOPPING_H

#include <stddef.h>

#include "engine/train.h"

#define STOPPING_RISE 0.05
#define STOPPING_T 2.0
enum { STOPPING_RISEN = 3, STOPPING_LINE = 10 };

typedef struct {
    size_t best;               /* the point of the lowest loss, the first of equal ones */
    int stop;
    int overfits;              /* the first of the two reasons */
    size_t line;               /* measurements that the line goes through */
} Stopping;

/* Judges count >= 1 points, by step. Pure: a resumed run comes to the same end. */
Stopping stopping_judge(const TrainPoint *p, size_t count);

#endif
