/* recompute.h - less memory for a training step: what the backward pass needs may
 * be computed a second time instead of being kept.
 *
 * The choice is made node by node. At the moment when most memory is live, every
 * forward node whose results wait there for the backward pass is weighed: bytes
 * set free against seconds to compute it (and what it depends on) again from what
 * is kept. The best one is taken until the plan fits. Results of normalisations
 * and activations go first; whole residual blocks last.
 *
 * It is a change of the graph between graph_grad and plan_make: cheap clones of
 * forward nodes appear in the backward part, right before their first use, and
 * the backward nodes read from them. A clone computes the same bits, so nothing
 * that the graph computes changes by a bit.
 */
#ifndef SDC_ENGINE_RECOMPUTE_H
#define SDC_ENGINE_RECOMPUTE_H

#include "engine/plan.h"

/* What recomputing costs no more than a pass over memory is never kept where that
 * lowers the peak; products are repeated only as far as slab_bytes asks for
 * (SIZE_MAX: not at all). Fills *plan as plan_make does. When plan->slab_bytes is still
 * larger than asked for, everything was tried; plan->least_bytes is then about the
 * least that would have been met on the way. Can be called again with a smaller
 * number. Graphs without a backward pass are only planned. */
int recompute_fit(Plan *plan, Graph *g, size_t slab_bytes, const Dev *dev, const Ops *ops, Err *e);

#endif
