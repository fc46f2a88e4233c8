/* layers.h - every layer of a model, and which of them a LoRA may adapt.
 *
 * One walk over the architecture yields all parameters with their shapes (for
 * loading, checking and saving) and kohya's list of LoRA modules.
 */
#ifndef SDC_MODELS_LAYERS_H
#define SDC_MODELS_LAYERS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"
#include "engine/lora.h"
#include "models/config.h"

typedef enum {
    LAYER_LINEAR,      /* weight (out,in) */
    LAYER_CONV,        /* weight (out,in,k,k) */
    LAYER_NORM,        /* weight (out), bias (out) */
    LAYER_EMBEDDING    /* weight (in,out): in rows */
} LayerKind;

typedef struct {
    char path[112];    /* canonical, without ".weight" */
    LayerKind kind;
    int in, out, k, stride;
    int bias;
    LoraSet lora;      /* LORA_NONE, or the kohya set it belongs to */
} Layer;

typedef struct {
    Layer *list;
    size_t count, cap;
} Layers;

/* Layers in the order in which data flows: text encoder, U-Net, VAE. */
int layers_build(Layers *ls, const SdConfig *c, Err *e);
void layers_free(Layers *ls);

/* Parameter i of a layer (0 weight, 1 bias): its shape in PyTorch's layout.
 * Returns ndim, 0 when there is no such parameter. name (KEY_MAX bytes) may be
 * NULL. */
int layer_param(const Layer *l, int i, char *name, int64_t shape[4]);

/* LoRA-able modules in that order; *list is owned by the caller
 * (lora_targets_free). SD1.5: 264 of LORA_DEFAULT, 86 of LORA_CONV,
 * 4 of LORA_EDGE. */
int layers_lora_targets(const Layers *ls, LoraTarget **list, size_t *count, Err *e);

#endif
