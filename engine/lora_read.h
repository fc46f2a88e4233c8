/* lora_read.h - one module of an adapter file; part of lora.c. */
#ifndef SDC_ENGINE_LORA_READ_H
#define SDC_ENGINE_LORA_READ_H

#include "engine/lora.h"
#include "engine/lora_names.h"

/* The tensors of one module. */
typedef struct {
    const TensorFile *tf;
    const char *module;
    int peft;                  /* names with dots */
    const FileTensor *part[PART_COUNT];
} LoraGroup;

/* ERR_INPUT unless they are all that one kind of adapter needs. */
int lora_group_check(const LoraGroup *g, Err *e);
/* out, in, k and conv of *t as the tensors imply them; where factors were written as
 * matrices, the module's name tells a 3x3 convolution. */
int lora_group_shape(const LoraGroup *g, LoraTarget *t, Err *e);
/* All factors and alpha. ERR_INPUT naming tensor and file when one does not fit. */
int lora_read_module(LoraModule *m, const LoraTarget *t, const LoraGroup *g, Err *e);

#endif
