/* lora_factors.c - the factors of a module by name, for whoever keeps, trains or writes
 * them (lora.h). */
#include <string.h>

#include "engine/lora.h"
#include "engine/mem.h"

void lora_module_free(LoraModule *m)
{
    mem_free(m->up);
    mem_free(m->down);
    mem_free(m->up2);
    mem_free(m->down2);
    mem_free(m->dora);
}

float lora_scale(const LoraModule *m)
{
    int rank = m->algo == LORA_LOKR && m->rank2 ? m->rank2 : m->rank;
    return rank ? m->alpha / (float)rank : 1;
}

size_t lora_factor_count(const LoraFactor *f)
{
    return (size_t)f->rows * (size_t)f->cols * (size_t)f->k * (size_t)f->k;
}

/* flat: spatial axes are not written as such; conv: axes of 1 are. */
static LoraFactor factor(const char *suffix, float **values, int rows, int cols, int k, int flat,
                         int conv)
{
    LoraFactor f = {suffix, values, rows, cols, k, conv && !flat ? 4 : 2, {rows, cols, k, k}};
    if (flat) f.dim[1] = (int64_t)cols * k * k;
    return f;
}

static int kron_factors(LoraModule *m, LoraFactor *f)
{
    const LoraTarget *t = m->target;
    int n = 0, rows = t->out / m->kron_out, cols = t->in / m->kron_in;
    if (m->rank) {
        f[n++] = factor("lokr_w1_a", &m->up, m->kron_out, m->rank, 1, 1, 0);
        f[n++] = factor("lokr_w1_b", &m->down, m->rank, m->kron_in, 1, 1, 0);
    } else {
        f[n++] = factor("lokr_w1", &m->up, m->kron_out, m->kron_in, 1, 1, 0);
    }
    if (m->rank2) {
        f[n++] = factor("lokr_w2_a", &m->up2, rows, m->rank2, 1, 1, 0);
        f[n++] = factor("lokr_w2_b", &m->down2, m->rank2, cols, t->k, 1, 0);
    } else {
        f[n++] = factor("lokr_w2", &m->up2, rows, cols, t->k, 0, t->conv);
    }
    return n;
}

int lora_factors(LoraModule *m, LoraFactor f[LORA_FACTORS])
{
    const LoraTarget *t = m->target;
    int n = 0;
    switch (m->algo) {
    case LORA_PLAIN:
        f[n++] = factor("lora_up.weight", &m->up, t->out, m->rank, 1, 0, t->conv);
        f[n++] = factor("lora_down.weight", &m->down, m->rank, t->in, t->k, 0, t->conv);
        break;
    case LORA_LOHA:
        f[n++] = factor("hada_w1_a", &m->up, t->out, m->rank, 1, 1, 0);
        f[n++] = factor("hada_w1_b", &m->down, m->rank, t->in, t->k, 1, 0);
        f[n++] = factor("hada_w2_a", &m->up2, t->out, m->rank2, 1, 1, 0);
        f[n++] = factor("hada_w2_b", &m->down2, m->rank2, t->in, t->k, 1, 0);
        break;
    case LORA_LOKR:
        n = kron_factors(m, f);
        break;
    }
    if (m->dora_of == LORA_DORA_OUT)
        f[n++] = factor("dora_scale", &m->dora, t->out, 1, 1, 0, t->conv);
    if (m->dora_of == LORA_DORA_IN)
        f[n++] = factor("dora_scale", &m->dora, 1, t->in, 1, 0, t->conv);
    return n;
}

const char *lora_factor_in(const char *name)
{
    static const char *const suffixes[] = {
        "lora_up.weight", "lora_down.weight", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b",
        "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "dora_scale"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        size_t k = strlen(suffixes[i]);
        if (n > k && name[n - k - 1] == '.' && !strcmp(name + n - k, suffixes[i]))
            return name + n - k;
    }
    return NULL;
}
