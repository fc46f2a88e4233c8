/* adapter.h - what a LoRA under training adds to a layer.
 *
 * A plain one is a second, narrow product beside the layer's own (blocks.c). LoHa, LoKr
 * and everything with DoRA change the weight itself: it is composed of the frozen one and
 * the factors, in f32, rounded once to the activations' dtype, and used by the layer's
 * product as any weight. What is composed costs passes over memory and is made again in
 * the backward pass rather than kept (engine/recompute.h).
 */
#ifndef SDC_MODELS_ADAPTER_H
#define SDC_MODELS_ADAPTER_H

#include "models/blocks.h"

/* The weight that the layer has with module m; w itself for a plain one. */
Tensor *adapter_weight(Build *b, Path path, const LoraModule *m, Tensor *w);
/* A factor of m by its name in files, as a weight of the graph. */
Tensor *adapter_factor(Build *b, Path path, const LoraModule *m, const char *suffix);
/* kohya's dropouts of plain modules, of the inner product h. */
Tensor *adapter_dropout(Build *b, Path path, Tensor *h);

#endif
