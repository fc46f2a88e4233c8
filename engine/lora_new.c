/* lora_new.c - initial values of a LoRA (lora.h). */
#include <math.h>

#include "engine/lora.h"
#include "engine/mem.h"
#include "engine/rng.h"

/* kohya: with conv_dim, 1x1 convolutions and time embeddings of residual blocks
 * get the linear rank, 3x3 convolutions conv_dim. */
static int rank_of(const LoraNew *c, const LoraTarget *t)
{
    if (!(t->text ? c->text : c->unet) || t->set == LORA_NONE) return 0;
    if (t->set == LORA_CONV && !c->conv_dim) return 0;
    return t->k == 3 ? c->conv_dim : c->dim;
}

static int init_module(LoraModule *m, const LoraNew *c, const LoraTarget *t, uint32_t index, Err *e)
{
    size_t in = (size_t)t->in * (size_t)t->k * (size_t)t->k, rank = (size_t)rank_of(c, t);
    float alpha = t->k == 3 ? c->conv_alpha : c->alpha, bound = 1 / sqrtf((float)in);
    *m = (LoraModule){.target = t, .rank = (int)rank, .alpha = alpha > 0 ? alpha : (float)rank};
    m->down = mem_alloc(rank * in * sizeof(float));
    m->up = mem_calloc(rank * (size_t)t->out, sizeof(float));
    if (!m->down || !m->up) return err_nomem(e, rank * in * sizeof(float), t->name);
    RngKey key = {c->seed, 0, index, RNG_PURPOSE_INIT};
    for (size_t i = 0; i < rank * in; i++) m->down[i] = (2 * rng_uniform(key, (uint32_t)i) - 1) * bound;
    return 0;
}

int lora_new(Lora *lo, const LoraNew *c, const LoraTarget *targets, size_t count, Err *e)
{
    *lo = (Lora){.unet_weight = 1, .text_weight = 1};
    lo->list = mem_calloc(count, sizeof *lo->list);
    if (!lo->list) return err_nomem(e, count * sizeof *lo->list, "the LoRA");
    int rc = 0;
    for (size_t i = 0; !rc && i < count; i++)
        if (rank_of(c, &targets[i])) rc = init_module(&lo->list[lo->count++], c, &targets[i], (uint32_t)i, e);
    if (rc) lora_close(lo);
    return rc;
}
