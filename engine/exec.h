/* exec.h - runs a planned graph.
 *
 * An Exec binds a graph and its plan to memory. Several Execs that never run at
 * the same time may share one Slab, sized for the largest of them.
 */
#ifndef SDC_ENGINE_EXEC_H
#define SDC_ENGINE_EXEC_H

#include <stdint.h>
#include <stdio.h>

#include "engine/plan.h"

/* One allocation for activations and scratch. */
typedef struct {
    Dev *dev;
    void *base;
    size_t bytes;
} Slab;

/* Grows the wish for a plan; call for every plan before slab_alloc. */
void slab_want(Slab *s, const Plan *plan);
int slab_alloc(Slab *s, Dev *dev, Err *e);
/* Gives the memory back and keeps the wishes: slab_alloc may follow. */
void slab_release(Slab *s);
void slab_free(Slab *s);

typedef struct {
    Graph *g;
    Plan plan;
    const Ops *ops;
    Slab *slab;
    /* Asked before each node (once, at node 0, where the device runs all nodes as
     * one); not 0 stops the run with that ErrCode (progress, cancellation). NULL ok. */
    int (*tick)(void *ctx, int node, int count);
    void *ctx;
    /* The gradient of a streamed parameter is complete: change the parameter now; the
     * gradient's bytes are another one's afterwards. NULL: nothing changes. */
    int (*update)(void *ctx, Param *p, float *grad, Err *e);
    void *update_ctx;
    FILE *trace;           /* per node: name, op, shape, ms, bytes, checksum; NULL: off */
    DevRecord *record;     /* all nodes, where the device can; made by the second run */
    uint64_t recorded;     /* the addresses that it was tried with */
    int runs;              /* 1 after the first, in which a device prepares itself */
} Exec;

/* Plans g and adds its wish to slab (which may not be allocated yet). The Exec
 * owns g from now on, also on failure. */
int exec_init(Exec *x, Graph *g, Slab *slab, Dev *dev, const Ops *ops, Err *e);
/* Plans again, within slab_bytes of activations if that can be (recompute.h; look at
 * x->plan), and adds the wish to the slab once more: for a slab whose wishes were
 * cleared. SIZE_MAX keeps the plan. */
int exec_fit(Exec *x, size_t slab_bytes, Err *e);
void exec_free(Exec *x);                               /* zeroed x ok */

/* Runs all nodes; allocates nothing. What changes from run to run must be in
 * tensors: a device may record the nodes with their parameters and addresses. A
 * failure of the device is ERR_FAIL and names the node; one that shows later, in
 * exec_run or exec_get, names the last node that it can come from. */
int exec_run(Exec *x, Err *e);

/* Copies to an input and from an output, by name, with the tensor's own dtype
 * on the device and f32 (or int32 for ids) on the host. count is checked. */
int exec_set(Exec *x, const char *name, const void *host, size_t count, Err *e);
/* Only values [first, first+count) of an input. */
int exec_set_part(Exec *x, const char *name, size_t first, const void *host, size_t count, Err *e);
int exec_get(Exec *x, const char *name, float *host, size_t count, Err *e);

void *exec_address(const Exec *x, const Tensor *t);

#endif
