/* lora.c - the list of LoRA modules and adapter files read against it. */
#include "engine/lora.h"
#include "engine/mem.h"
void lora_targets_free(LoraTarget *list, size_t count)
{
    for (size_t i = 0; list && i < count; i++) {
        mem_free((void *)list[i].path);
        mem_free((void *)list[i].name);
    }
    mem_free(list);
}
