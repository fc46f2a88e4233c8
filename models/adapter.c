/* adapter.c - see adapter.h. */
#include "models/adapter.h"

#include <string.h>

Tensor *adapter_factor(Build *b, Path path, const LoraModule *m, const char *suffix)
{
    LoraModule copy = *m;
    LoraFactor f[LORA_FACTORS];
    int n = lora_factors(&copy, f);
    for (int i = 0; i < n; i++) {
        if (strcmp(f[i].suffix, suffix)) continue;
        int vector = !strcmp(suffix, "dora_scale"), four = f[i].k > 1;
        int dim[4] = {f[i].rows, four ? f[i].k : f[i].cols, f[i].k, f[i].cols};
        if (vector) dim[0] = f[i].rows * f[i].cols;
        return block_param(b, block_path("%s.%s", path.s, suffix), vector ? 1 : four ? 4 : 2, dim);
    }
    err_set(&b->g->err, ERR_FAIL, "%s: a module without %s", path.s, suffix);
    return &b->g->bad;
}

/* Of products: f32, also where the factor is not trained. */
static Tensor *exact(Build *b, Path path, const LoraModule *m, const char *suffix)
{
    return graph_cast(b->g, adapter_factor(b, path, m, suffix), DT_F32);
}

static Tensor *product(Build *b, Path path, const LoraModule *m, const char *a, const char *c)
{
    return graph_lowrank(b->g, exact(b, path, m, a), exact(b, path, m, c));
}

/* A stream of random numbers for each layer. */
static uint32_t stream_of(Path path)
{
    uint32_t h = 2166136261u;
    for (const char *s = path.s; *s; s++) h = (h ^ (unsigned char)*s) * 16777619u;
    return h;
}

static int drops(const Build *b)
{
    return b->dropout.each > 0 || b->dropout.channel > 0 || b->dropout.all > 0;
}

Tensor *adapter_dropout(Build *b, Path path, Tensor *h)
{
    if (!b->seed || !drops(b)) return h;
    Dropout p = b->dropout;
    p.stream = stream_of(path);
    return graph_dropout(b->g, h, b->seed, p);
}

/* LoHa loses rows of its product by those of a factor, LoKr all of it or nothing. */
static Tensor *drop_factor(Build *b, Path path, Tensor *a, int rows)
{
    Dropout p = {.row = rows ? b->dropout.channel : 0,
                 .all = b->dropout.all,
                 .stream = stream_of(path)};
    return b->seed && (p.row > 0 || p.all > 0) ? graph_dropout(b->g, a, b->seed, p) : a;
}

static Tensor *composed(Build *b, Path path, const LoraModule *m, Tensor *w, Dtype dt)
{
    Tensor *first, *second;
    float s = lora_scale(m);
    switch (m->algo) {
    case LORA_LOHA:
        first = drop_factor(b, path, exact(b, path, m, "hada_w1_a"), 1);
        first = graph_lowrank(b->g, first, exact(b, path, m, "hada_w1_b"));
        second = product(b, path, m, "hada_w2_a", "hada_w2_b");
        return graph_compose(b->g, dt, w, first, second, s);
    case LORA_LOKR:
        first =
            m->rank ? product(b, path, m, "lokr_w1_a", "lokr_w1_b") : exact(b, path, m, "lokr_w1");
        second =
            m->rank2 ? product(b, path, m, "lokr_w2_a", "lokr_w2_b") : exact(b, path, m, "lokr_w2");
        return graph_kron(b->g, dt, w, drop_factor(b, path, first, 0), second, s);
    default:
        first = product(b, path, m, "lora_up.weight", "lora_down.weight");
        return graph_compose(b->g, dt, w, first, NULL, s);
    }
}

Tensor *adapter_weight(Build *b, Path path, const LoraModule *m, Tensor *w)
{
    if (m->algo == LORA_PLAIN && !m->dora_of) return w;
    if (w->dt == DT_I8) {
        err_set(&b->g->err, ERR_USAGE,
                "%s: weights in 8 bits are only for plain LoRAs; LoHa, LoKr and DoRA change the "
                "weights themselves",
                path.s);
        return w;
    }
    if (!m->dora_of) return composed(b, path, m, w, b->g->act);
    Tensor *v = composed(b, path, m, w, DT_F32);
    return graph_dora(b->g, b->g->act, v, adapter_factor(b, path, m, "dora_scale"),
                      m->dora_of == LORA_DORA_IN);
}
