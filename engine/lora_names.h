/* lora_names.h - tensor names of adapter files; part of lora.c and lora_read.c. */
#ifndef SDC_ENGINE_LORA_NAMES_H
#define SDC_ENGINE_LORA_NAMES_H

#include <stddef.h>

#include "engine/error.h"

enum { LORA_NAME_MAX = 256 };

/* What a tensor is to its module. */
typedef enum {
    PART_UP, PART_DOWN, PART_MID, PART_ALPHA, PART_DORA,
    PART_W1A, PART_W1B, PART_W2A, PART_W2B, PART_T1, PART_T2,      /* LoHa */
    PART_K1, PART_K1A, PART_K1B, PART_K2, PART_K2A, PART_K2B, PART_KT2,      /* LoKr */
    PART_COUNT
} LoraPart;

/* Splits a tensor name into the module's kohya name and the part; dotted names
 * of PEFT and diffusers are turned into kohya's. *peft is set for a dotted
 * name. ERR_INPUT for an unknown one, with the kind of adapter where it is
 * recognised. */
int lora_name(const char *key, char module[LORA_NAME_MAX], LoraPart *part, int *peft, Err *e);

#endif
