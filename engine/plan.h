/* plan.h - where every tensor of a graph lives, known before anything runs.
 *
 * Lifetimes (first to last node that touches a buffer) are turned into offsets
 * in one slab; buffers whose lifetimes overlap never share bytes. An op that
 * may work in place writes over an input that nobody needs afterwards. The
 * peak is known in bytes before a byte is allocated, and nothing is allocated
 * later: exec.c adds an address to an offset.
 */
#ifndef SDC_ENGINE_PLAN_H
#define SDC_ENGINE_PLAN_H

#include "engine/graph.h"

typedef struct {
    size_t slab_bytes;       /* activations, inputs, outputs, gradients of activations, scratch */
    size_t scratch_bytes;    /* of it, the most that one op needs for itself while it runs */
    const Node *peak;        /* the node at which most of the slab is live */
    size_t peak_bytes;       /* live there; slab_bytes - peak_bytes is lost to fragmentation */
    size_t least_bytes;      /* recompute.h: about what the smallest plan would need */
    size_t again_bytes;      /* results that are computed a second time instead of kept */
    int again_nodes;
    double again_share;      /* recompute.h: their time, about, as a share of all else */
} Plan;

/* Fills *plan and the plan fields of g's tensors. ERR_FAIL naming the node when
 * an op has no version for its dtype on this device. */
int plan_make(Plan *plan, Graph *g, const Dev *dev, const Ops *ops, Err *e);

/* The steps of it that recompute.c needs. The first: every node gets its scratch, or the
 * error of plan_make. Then: sets first, last and buffer of g's tensors. */
int plan_scratch(Graph *g, const Dev *dev, const Ops *ops, Err *e);
void plan_lifetimes(Graph *g);
/* After that: the bytes live at each node, live (node_count + 1); returns the index of
 * the first node with the most. */
int plan_live(const Graph *g, size_t *live);

#endif
