/* cost.h - what a node costs: operations, bytes moved, and seconds on a machine.
 *
 * Operations are those of the definition (a multiply and an add are two); bytes
 * are its inputs and outputs read and written once. Seconds are operations over
 * the measured rate of that kind of product plus bytes over the measured rate of
 * memory. That is crude, and is used for two things only: to say beforehand how
 * long a step will take, and to choose what to compute twice (recompute.h).
 */
#ifndef SDC_ENGINE_COST_H
#define SDC_ENGINE_COST_H

#include "engine/graph.h"

typedef struct { double flops, bytes; } Cost;
Cost cost_of(const Node *n);

/* The products that are measured; everything else moves memory. */
typedef enum {
    COST_LINEAR, COST_LINEAR_DW, COST_CONV, COST_CONV_DW, COST_ATTENTION, COST_ATTENTION_BWD,
    COST_MEMORY, COST_KINDS
} CostKind;
CostKind cost_kind(OpKind op);

typedef struct {
    double flops[COST_KINDS];      /* per second; unused for COST_MEMORY */
    double bytes;                  /* per second */
} Speed;

/* The same for all machines: to compare nodes with each other, so that a plan does
 * not depend on how busy the machine was. */
extern const Speed cost_nominal;

/* Runs each kind of product once on a typical shape, activations in dt and weights in
 * wdt: some tenths of a second. */
int cost_measure(Speed *s, Dev *dev, const Ops *ops, Dtype dt, Dtype wdt, Err *e);

double cost_seconds(const Speed *s, const Node *n);
double cost_graph_seconds(const Speed *s, const Graph *g);

#endif
