/* lora_new.c - initial values of a LoRA (lora.h). */
#include <math.h>
#include <string.h>

#include "engine/lora.h"
#include "engine/mem.h"
#include "engine/rng.h"

/* kohya: with conv_dim, 1x1 convolutions and time embeddings of residual blocks
 * get the linear rank, 3x3 convolutions conv_dim. */
static int rank_of(const LoraNew *c, const LoraTarget *t, float *alpha)
{
    *alpha = t->k == 3 ? c->conv_alpha : c->alpha;
    if (!(t->text ? c->text : c->unet) || t->set == LORA_NONE) return 0;
    if (t->set == LORA_EDGE && !c->edge) return 0;
    if (t->set == LORA_CONV && !c->conv_dim && !c->choose) return 0;
    int dim = t->set == LORA_CONV && !c->conv_dim ? 0 : t->k == 3 ? c->conv_dim : c->dim;
    if (c->choose) c->choose(c->ctx, t, &dim, alpha);
    return dim;
}

/* LyCORIS' factorization(): n = smaller * larger. A factor that divides n is taken as it
 * is; else the divisors approach each other while the smaller is at most factor. */
static int smaller_part(int n, int factor)
{
    if (factor > 0 && n % factor == 0) return factor < n / factor ? factor : n / factor;
    int a = 1, b = n, limit = factor > 0 ? factor : n;
    while (a < b) {
        int next = a + 1;
        while (n % next) next++;
        if (next > limit) break;
        a = next;
        b = n / next;
    }
    return a < b ? a : b;
}

/* The shape of LoKr's matrices, and which of them are products. */
static void plan_kron(LoraModule *m, const LoraNew *c, int rank)
{
    const LoraTarget *t = m->target;
    m->kron_out = smaller_part(t->out, c->factor);
    m->kron_in = smaller_part(t->in, c->factor);
    int first = m->kron_out > m->kron_in ? m->kron_out : m->kron_in;
    int rows = t->out / m->kron_out, cols = t->in / m->kron_in, second = rows > cols ? rows : cols;
    m->rank = c->decompose_both && !c->full_matrix && 2 * rank < first ? rank : 0;
    m->rank2 = !c->full_matrix && 2 * rank < second ? rank : 0;
    if (!m->rank && !m->rank2) m->alpha = (float)rank;         /* s is 1 */
}

typedef enum { ZERO, UNIFORM, GAUSS, SMALL_GAUSS, LATER } Begin;

static Begin begins(const char *suffix)
{
    static const struct { const char *suffix; Begin begin; } known[] = {
        {"lora_up.weight", ZERO}, {"lora_down.weight", UNIFORM}, {"hada_w1_a", SMALL_GAUSS},
        {"hada_w1_b", GAUSS}, {"hada_w2_a", ZERO}, {"hada_w2_b", GAUSS}, {"lokr_w2", ZERO},
        {"lokr_w2_b", ZERO}, {"dora_scale", LATER}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(suffix, known[i].suffix)) return known[i].begin;
    return UNIFORM;
}

static int init_factor(const LoraFactor *f, Begin begin, RngKey key, Err *e)
{
    size_t n = lora_factor_count(f);
    float *v = *f->values = mem_calloc(n, sizeof *v),
          bound = 1 / sqrtf((float)f->cols * (float)(f->k * f->k));
    if (!v) return err_nomem(e, n * sizeof *v, f->suffix);
    if (begin == UNIFORM) rng_uniforms(key, 0, v, n);
    for (size_t i = 0; begin == UNIFORM && i < n; i++) v[i] = (2 * v[i] - 1) * bound;
    if (begin == GAUSS || begin == SMALL_GAUSS) rng_normal(key, 0, v, n);
    for (size_t i = 0; begin == SMALL_GAUSS && i < n; i++) v[i] *= 0.1f;
    return 0;
}

static int init_module(LoraModule *m, const LoraNew *c, const LoraTarget *t, int rank, float alpha,
                       uint32_t index, Err *e)
{
    LoraFactor f[LORA_FACTORS];
    *m = (LoraModule){.target = t, .algo = c->algo, .rank = rank, .rank2 = c->algo == LORA_LOHA ? rank : 0,
                      .alpha = alpha > 0 ? alpha : (float)rank, .dora_of = c->dora_of};
    if (c->rs_lora) m->alpha *= sqrtf((float)rank);
    if (c->algo == LORA_LOKR) plan_kron(m, c, rank);
    int n = lora_factors(m, f);
    for (int i = 0; i < n; i++) {
        Begin begin = begins(f[i].suffix);
        /* plain ones have the numbers that they always had */
        RngKey key = {c->seed, c->algo == LORA_PLAIN ? 0 : (uint32_t)i, index, RNG_PURPOSE_INIT};
        if (begin != LATER) TRY(init_factor(&f[i], begin, key, e));
    }
    return 0;
}

int lora_new(Lora *lo, const LoraNew *c, const LoraTarget *targets, size_t count, Err *e)
{
    *lo = (Lora){.unet_weight = 1, .text_weight = 1};
    lo->list = mem_calloc(count, sizeof *lo->list);
    if (!lo->list) return err_nomem(e, count * sizeof *lo->list, "the LoRA");
    int rc = 0;
    uint32_t usual = 0, edge = 1u << 20;         /* streams of random numbers */
    for (size_t i = 0; !rc && i < count; i++) {
        float alpha;
        int rank = rank_of(c, &targets[i], &alpha);
        uint32_t index = targets[i].set == LORA_EDGE ? edge++ : usual++;
        if (rank) rc = init_module(&lo->list[lo->count++], c, &targets[i], rank, alpha, index, e);
    }
    if (rc) lora_close(lo);
    return rc;
}
