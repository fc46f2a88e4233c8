/* attn.c - softmax attention forward for AVX2 and AVX-512.
 *
 * Dao, arXiv:2307.08691, with the layout of attn.h: a task is a few blocks of
 * LANES queries of one head; their keys pass by in steps, with a running maximum
 * m, sum l and weighted sum O^T for each block. Scores live in the log2 domain: p = 2^(s c - m c),
 * c = scale log2(e), so the exponential needs no multiplication of its own.
 */
#include <math.h>

#include "kernels/x86/attn.h"

typedef struct {
    const Attention *p;
    Heads k, v;
    const void *q;
    void *o;
    float *lse;
    int pair, block, group;     /* keys per step, query blocks per task */
} Forward;

/* One block of queries, i0 .. i0+count-1, in vecs <= VECS vectors. s and rows
 * are shared by the blocks of a task. */
typedef struct {
    float *qt, *ot, *s, *rows;
    vf max[VECS], sum[VECS];
    int i0, count, vecs;
} Block;

/* Scores of keys j0 .. j0+keys-1 that a query may not see become -inf. */
static void mask_future(const Block *t, int j0, int keys)
{
    for (int j = 0; j < keys; j++)
        for (int v = 0; v < t->vecs; v++) {
            int hidden = j0 + j - t->i0 - v * VW;
            float *s = t->s + j * LANES + v * VW;
            if (hidden > 0)
                vec_store(s, vec_first(vec_set(-INFINITY), vec_load(s),
                                       hidden < VW ? (size_t)hidden : VW));
        }
}

VEC vf exp_row(const Block *t, int j, int v, vf c, vf minus_mc)
{
    return vec_exp2_low(vec_fma(vec_load(t->s + j * LANES + v * VW), c, minus_mc));
}

/* Turns the scores of one vector column into probabilities (or, with pair,
 * pairs of them in half the rows) and returns by what O and l shrink. */
VEC vf softmax_column(int pair, Block *t, int keys, int v, vf c)
{
    vf m0 = t->max[v], m1 = m0, s0 = vec_zero(), s1 = s0;
    int j = 0;
    for (; j + 2 <= keys; j += 2) {
        m0 = vec_max(m0, vec_load(t->s + j * LANES + v * VW));
        m1 = vec_max(m1, vec_load(t->s + (j + 1) * LANES + v * VW));
    }
    if (j < keys) m0 = vec_max(m0, vec_load(t->s + j * LANES + v * VW));
    m0 = vec_max(m0, m1);
    vf mc = vec_sub(vec_zero(), vec_mul(m0, c));
    vf shrink = vec_exp2_low(vec_fma(t->max[v], c, mc));
    t->max[v] = m0;
    for (j = 0; j < keys; j += 2) {
        vf a = exp_row(t, j, v, c, mc);
        vf b = j + 1 < keys ? exp_row(t, j + 1, v, c, mc) : vec_zero();
        s0 = vec_add(s0, a), s1 = vec_add(s1, b);
        if (pair) {
            vec_store(t->s + j / 2 * LANES + v * VW, attn_pair_rows(a, b));
        } else {
            vec_store(t->s + j * LANES + v * VW, a);
            if (j + 1 < keys) vec_store(t->s + (j + 1) * LANES + v * VW, b);
        }
    }
    t->sum[v] = vec_fma(t->sum[v], shrink, vec_add(s0, s1));
    return shrink;
}

/* O^T = O^T shrunk + V^T P for keys j0 .. j0+keys-1. */
static void step(const Forward *f, Block *t, const char *k, const char *v, int j0, int keys)
{
    const Attention *p = f->p;
    int pair = f->pair, n = pair ? p->d / 2 : p->d;
    vf c = vec_set(p->scale * 1.44269504f);
    ISA(attn_product)(pair, &(Product){.c = t->s, .cs = LANES, .a = k + 4 * f->k.row * j0,
        .ar = f->k.row, .ak = 1, .b = t->qt, .bs = LANES, .rows = keys, .vecs = t->vecs, .n = n});
    if (p->causal && j0 + keys > t->i0) mask_future(t, j0, keys);
    for (int u = 0; u < t->vecs; u++) {
        vf shrink = pair ? softmax_column(1, t, keys, u, c) : softmax_column(0, t, keys, u, c);
        for (int x = 0; x < p->d && j0; x++) {
            float *o = t->ot + x * LANES + u * VW;
            vec_store(o, vec_mul(vec_load(o), shrink));
        }
    }
    ISA(attn_product)(pair, &(Product){.c = t->ot, .cs = LANES,
        .a = v + 4 * f->v.row * (pair ? j0 / 2 : j0), .ar = 1, .ak = f->v.row, .b = t->s,
        .bs = LANES, .rows = p->d, .vecs = t->vecs, .n = pair ? (keys + 1) / 2 : keys,
        .acc = j0 > 0});
}

/* Q^T of the task's queries; lanes without a query are 0. */
VEC void load_queries(Dtype dt, const Forward *f, Block *t, int n, int h)
{
    const Attention *p = f->p;
    size_t at = (((size_t)n * p->tq + t->i0) * p->heads + h) * p->d, c = (size_t)p->heads * p->d;
    size_t wide = (size_t)p->d + 16;
    int words = f->pair ? p->d / 2 : p->d;
    if (t->count < t->vecs * VW) memset(t->qt, 0, (size_t)words * LANES * 4);
    if (f->pair) {
        ISA(attn_transpose)(t->qt, LANES, (const char *)f->q + 2 * at, c / 2, t->count, words);
    } else if (dt == DT_F32) {
        ISA(attn_transpose)(t->qt, LANES, (const char *)f->q + 4 * at, c, t->count, words);
    } else {
        for (int r = 0; r < t->count; r++)
            for (int x = 0; x < p->d; x += VW) {
                size_t m = p->d - x < VW ? (size_t)(p->d - x) : VW;
                vec_store(t->rows + r * wide + x, vec_get_n(dt, f->q, at + r * c + x, m));
            }
        ISA(attn_transpose)(t->qt, LANES, t->rows, wide, t->count, words);
    }
}

VEC void store_output(Dtype dt, const Forward *f, Block *t, int n, int h)
{
    const Attention *p = f->p;
    size_t at = (((size_t)n * p->tq + t->i0) * p->heads + h) * p->d, wide = (size_t)p->d + 16;
    float inverse[LANES];
    vf c = vec_set(p->scale * 1.44269504f);
    for (int v = 0; v < t->vecs; v++)
        vec_store(inverse + v * VW, vec_div(vec_set(1.0f), t->sum[v]));
    ISA(attn_transpose)(t->rows, wide, t->ot, LANES, p->d, t->count);
    attn_put_rows(dt, f->o, at, (size_t)p->heads * p->d, t->rows, wide, t->count, p->d, inverse);
    if (!f->lse) return;
    for (int v = 0; v < t->vecs; v++) {
        float mc[VW], l[VW];
        vec_store(mc, vec_mul(t->max[v], c));
        vec_store(l, t->sum[v]);
        for (int r = 0; r < VW && v * VW + r < t->count; r++)
            f->lse[((size_t)n * p->heads + h) * p->tq + t->i0 + v * VW + r] =
                0.693147181f * (mc[r] + log2f(l[r]));
    }
}

VEC void task(Dtype dt, const Forward *f, int n, int h, int i0, float *area)
{
    const Attention *p = f->p;
    size_t one = (size_t)p->d * LANES;
    Block b[GROUP];
    int blocks = 0, most = p->causal ? 0 : p->tk;
    for (; blocks < f->group && i0 < p->tq; blocks++, i0 += LANES) {
        Block *t = b + blocks;
        *t = (Block){.i0 = i0, .qt = area + 2 * blocks * one, .s = area + 2 * f->group * one};
        t->ot = t->qt + one, t->rows = t->s + BLOCK * LANES;
        t->count = p->tq - i0 < LANES ? p->tq - i0 : LANES;
        t->vecs = (t->count + VW - 1) / VW;
        for (int v = 0; v < VECS; v++) t->max[v] = vec_set(-INFINITY), t->sum[v] = vec_zero();
        if (p->causal) most = i0 + t->count;
        load_queries(dt, f, t, n, h);
    }
    for (int j0 = 0; j0 < most; j0 += f->block)
        for (Block *t = b; t < b + blocks; t++) {
            int left = (p->causal ? t->i0 + t->count : p->tk) - j0;
            if (left > 0)
                step(f, t, attn_head(&f->k, n, h), attn_head(&f->v, n, h), j0,
                     left < f->block ? left : f->block);
        }
    for (Block *t = b; t < b + blocks; t++) store_output(dt, f, t, n, h);
}

/* Even, at most BLOCK, and so that the last step is not much smaller. */
static int key_block(int tk)
{
    int steps = (tk + BLOCK - 1) / BLOCK;
    return ((tk + steps - 1) / steps + 7) & ~7;
}

VEC void forward(Dtype dt, Dev *d, const Attention *p, void *o, float *lse, const void *q,
                 const void *k, const void *v)
{
    assert(!p->causal || p->tq == p->tk);
    AttnPlan plan = attn_plan(p, dt, THIS_ISA, d->threads);
    assert(d->ws_bytes >= plan.total * 4);
    float *kw = d->ws, *vw = kw + plan.shared[0], *areas = vw + plan.shared[1];
    int pair = attn_pair(dt, p, THIS_ISA), n = p->n, h = p->heads;
    Forward f = {.p = p, .q = q, .o = o, .lse = lse, .pair = pair, .block = key_block(p->tk),
                 .group = attn_group(p, 2)};
    int span = f.group * LANES, tasks = (p->tq + span - 1) / span;
    f.k = attn_direct(k, dtype_bytes(dt), p->tk, h, p->d);
    f.v = attn_direct(v, 4, p->tk, h, p->d);
    if (pair) {
        ISA(attn_pairs)(d, vw, v, n, p->tk, h, p->d);
        f.v = attn_packed(vw, (p->tk + 1) / 2, h, p->d);
    } else if (dt != DT_F32) {
        ISA(attn_widen)(d, dt, kw, k, n, p->tk, h, p->d);
        ISA(attn_widen)(d, dt, vw, v, n, p->tk, h, p->d);
        f.k = attn_packed(kw, p->tk, h, p->d);
        f.v = attn_packed(vw, p->tk, h, p->d);
    }
#pragma omp parallel for num_threads(d->threads) schedule(dynamic) \
    if ((double)n * h * p->tq * p->tk * p->d > 1 << 18)
    for (int i = 0; i < n * h * tasks; i++)
        task(dt, &f, i / tasks / h, i / tasks % h, i % tasks * span,
             areas + plan.area * omp_get_thread_num());
}

#define ATTENTION(name, dt)                                                              \
    void ISA(attention_##name)(Dev *d, const Attention *p, void *o, float *lse,          \
                               const void *q, const void *k, const void *v)              \
    {                                                                                    \
        forward(dt, d, p, o, lse, q, k, v);                                              \
    }
VEC_DTYPES(ATTENTION)
