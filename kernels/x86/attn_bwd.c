/* attn_bwd.c - softmax attention backward for AVX2 and AVX-512.
 *
 * Dao, arXiv:2307.08691, with the layout of attn.h: a task holds a few blocks of
 * LANES keys of one head as lanes, and the queries pass by in steps of STREAM rows.
 * Scores and their gradients S, dS (STREAM,LANES) are made again from lse and
 * give dV^T += dO^T P, dK^T += Q^T dS and dQ += dS K: five products per step. dQ
 * goes to a partial sum of the task's range of keys; the partial sums are added
 * in their order afterwards, so nothing depends on the threads.
 */
#include "kernels/x86/attn.h"

typedef struct {
    const Attention *p;
    Heads q, dout;                          /* rows as they are; f32 where not paired */
    Heads q2, dout2;                        /* pairs of rows, or the same as q, dout */
    const void *k, *v;
    const float *lse, *delta;
    float *part;                            /* NULL: no dQ wanted */
    void *dk, *dv;
    int pair, splits, group;                /* group: blocks of keys per pass */
    size_t dp;
} Backward;

/* A block of keys j0 .. j0+count-1 and its work arrays. */
typedef struct {
    float *kt, *vt, *dkt, *dvt, *rows;      /* (D,LANES) each; rows (LANES,Dp) */
    float *s, *ds;                          /* (STREAM,LANES) */
    float *p2, *ds2, *dsr;                  /* pairs: of rows of P and dS; dS rows as bf16 */
    int n, h, j0, count, vecs;
} Keys;

/* K or V rows of the block as lanes, and K rows as they are (or paired). */
VEC void load_keys(Dtype dt, const Backward *f, Keys *t, const void *src, float *lanes, int rows)
{
    const Attention *p = f->p;
    size_t c = (size_t)p->heads * p->d, at = ((size_t)t->n * p->tk + t->j0) * c + t->h * p->d;
    int words = f->pair ? p->d / 2 : p->d;
    memset(lanes, 0, (size_t)words * LANES * 4);
    memset(t->rows, 0, LANES * f->dp * 4);
    if (f->pair) {
        const uint16_t *k = (const uint16_t *)src + at;
        ISA(attn_transpose)(lanes, LANES, k, c / 2, t->count, words);
        for (int j = 0; rows && j < t->count; j += 2)
            for (int x = 0; x < p->d; x++) {
                uint32_t w = k[j * c + x] |
                             (j + 1 < t->count ? (uint32_t)k[(j + 1) * c + x] << 16 : 0);
                memcpy(t->rows + j / 2 * f->dp + x, &w, 4);
            }
        return;
    }
    for (int j = 0; j < t->count; j++)
        for (int x = 0; x < p->d; x += VW) {
            size_t m = p->d - x < VW ? (size_t)(p->d - x) : VW;
            vec_store(t->rows + j * f->dp + x, vec_get_n(dt, src, at + j * c + x, m));
        }
    ISA(attn_transpose)(lanes, LANES, t->rows, f->dp, t->count, words);
}

/* P and dS of one query row, vector v; lanes from `seen` on are keys that the
 * query does not see. */
VEC vf row_grad(const Backward *f, const Keys *t, int r, int v, float lse, float delta, int seen,
                vf *prob)
{
    vf s = vec_load(t->s + r * LANES + v * VW), dp = vec_load(t->ds + r * LANES + v * VW);
    vf scale = vec_set(f->p->scale);
    s = vec_fma(s, scale, vec_set(-lse));
    vf e = vec_exp2_low(vec_mul(s, vec_set(1.44269504f)));
    int lanes = seen - v * VW;
    if (lanes < VW) e = vec_first(e, vec_zero(), lanes > 0 ? (size_t)lanes : 0);
    *prob = e;
    vf g = vec_mul(vec_mul(e, scale), vec_sub(dp, vec_set(delta)));
    return lanes < VW ? vec_first(g, vec_zero(), lanes > 0 ? (size_t)lanes : 0) : g;
}

/* Turns s and ds, which hold q k and dO v of queries i0 .. i0+rows-1, into P and
 * dS. With pairs, an odd last row is paired with 0. */
VEC void probabilities(int pair, const Backward *f, Keys *t, int i0, int rows)
{
    const Attention *p = f->p;
    size_t at = ((size_t)t->n * p->heads + t->h) * p->tq + i0;
    for (int r = 0; r < rows; r += 1 + pair) {
        int last = r + pair < rows ? r + pair : r;
        int seen = p->causal ? i0 + r - t->j0 + 1 : t->count;
        int seen1 = p->causal ? seen + last - r : t->count;
        if (seen > t->count) seen = t->count;
        if (seen1 > t->count) seen1 = t->count;
        for (int v = 0; v < t->vecs; v++) {
            vf e, g = row_grad(f, t, r, v, f->lse[at + r], f->delta[at + r], seen, &e);
            if (!pair) {
                vec_store(t->s + r * LANES + v * VW, e);
                vec_store(t->ds + r * LANES + v * VW, g);
                continue;
            }
            vf e1 = vec_zero(), g1 = e1;
            if (last > r)
                g1 = row_grad(f, t, last, v, f->lse[at + last], f->delta[at + last], seen1, &e1);
            vec_store(t->p2 + r / 2 * LANES + v * VW, attn_pair_rows(e, e1));
            vec_store(t->ds2 + r / 2 * LANES + v * VW, attn_pair_rows(g, g1));
            vec_put(DT_BF16, t->dsr, (size_t)r * LANES + v * VW, g);
            vec_put(DT_BF16, t->dsr, (size_t)(r + 1) * LANES + v * VW, g1);
        }
    }
}

/* One step: queries i0 .. i0+rows-1 against the block. */
VEC void bwd_step(int pair, const Backward *f, Keys *t, int i0, int rows, float *dq)
{
    const Attention *p = f->p;
    Product a = {.c = t->s, .cs = LANES, .a = attn_head(&f->q, t->n, t->h) + 4 * f->q.row * i0,
                 .ar = f->q.row, .ak = 1, .b = t->kt, .bs = LANES, .rows = rows,
                 .vecs = t->vecs, .n = pair ? p->d / 2 : p->d};
    ISA(attn_product)(pair, &a);
    a.c = t->ds, a.b = t->vt, a.ar = f->dout.row;
    a.a = attn_head(&f->dout, t->n, t->h) + 4 * f->dout.row * i0;
    ISA(attn_product)(pair, &a);
    probabilities(pair, f, t, i0, rows);
    int k0 = pair ? i0 / 2 : i0;
    if (f->dk) {
        Product b = {.c = t->dvt, .cs = LANES, .ar = 1, .ak = f->dout2.row, .bs = LANES,
                     .a = attn_head(&f->dout2, t->n, t->h) + 4 * f->dout2.row * k0,
                     .b = pair ? t->p2 : t->s, .rows = p->d, .vecs = t->vecs,
                     .n = pair ? (rows + 1) / 2 : rows, .acc = 1};
        ISA(attn_product)(pair, &b);
        b.c = t->dkt, b.b = pair ? t->ds2 : t->ds, b.ak = f->q2.row;
        b.a = attn_head(&f->q2, t->n, t->h) + 4 * f->q2.row * k0;
        ISA(attn_product)(pair, &b);
    }
    if (dq)
        ISA(attn_product)(pair, &(Product){.c = dq + (size_t)i0 * f->dp, .cs = f->dp,
            .a = pair ? t->dsr : t->ds, .ar = pair ? LANES / 2 : LANES, .ak = 1, .b = t->rows,
            .bs = f->dp, .rows = rows, .vecs = (int)(f->dp / VW),
            .n = pair ? (t->count + 1) / 2 : t->count, .acc = 1});
}

VEC void store_keys(Dtype dt, const Backward *f, Keys *t, void *dst, const float *lanes)
{
    const Attention *p = f->p;
    size_t c = (size_t)p->heads * p->d, at = ((size_t)t->n * p->tk + t->j0) * c + t->h * p->d;
    ISA(attn_transpose)(t->rows, f->dp, lanes, LANES, p->d, t->count);
    attn_put_rows(dt, dst, at, c, t->rows, f->dp, t->count, p->d, NULL);
}

/* Keys of block b, its arrays at `area`. The arrays of a step lie at `common`. */
VEC void begin_keys(Dtype dt, const Backward *f, Keys *t, size_t b, float *area, float *common)
{
    const Attention *p = f->p;
    size_t one = (size_t)p->d * LANES, step = STREAM * LANES;
    t->kt = area, t->vt = area + one, t->dkt = area + 2 * one, t->dvt = area + 3 * one;
    t->rows = area + 4 * one;
    t->s = common, t->ds = t->s + step, t->p2 = t->ds + step;
    t->ds2 = t->p2 + step / 2, t->dsr = t->ds2 + step / 2;
    t->j0 = (int)b * LANES;
    t->count = p->tk - t->j0 < LANES ? p->tk - t->j0 : LANES;
    t->vecs = (t->count + VW - 1) / VW;
    memset(t->dkt, 0, 2 * one * 4);
    load_keys(dt, f, t, f->v, t->vt, 0);
    load_keys(dt, f, t, f->k, t->kt, 1);
}

VEC void bwd_task(Dtype dt, const Backward *f, int n, int h, int split, float *area)
{
    const Attention *p = f->p;
    size_t blocks = ((size_t)p->tk + LANES - 1) / LANES, end = blocks * (split + 1) / f->splits;
    size_t each = LANES * (4 * (size_t)p->d + f->dp), dq_size = (size_t)p->tq * f->dp;
    size_t part = ((size_t)n * p->heads + h) * f->splits + split;
    float *dq = f->part ? f->part + part * dq_size : NULL;
    if (dq) memset(dq, 0, dq_size * 4);
    Keys t[GROUP];
    for (size_t b = blocks * split / f->splits; b < end;) {
        int count = 0;
        for (; count < f->group && b < end; count++, b++) {
            t[count] = (Keys){.n = n, .h = h};
            begin_keys(dt, f, t + count, b, area + count * each, area + f->group * each);
        }
        for (int i0 = p->causal ? t[0].j0 / STREAM * STREAM : 0; i0 < p->tq; i0 += STREAM) {
            int rows = p->tq - i0 < STREAM ? p->tq - i0 : STREAM;
            for (int g = 0; g < count; g++) {
                if (p->causal && t[g].j0 >= i0 + rows) continue;
                if (f->pair) bwd_step(1, f, t + g, i0, rows, dq);
                else bwd_step(0, f, t + g, i0, rows, dq);
            }
        }
        for (int g = 0; f->dk && g < count; g++) {
            store_keys(dt, f, t + g, f->dv, t[g].dvt);
            store_keys(dt, f, t + g, f->dk, t[g].dkt);
        }
    }
}

/* Enough elements for more than one thread. */
VEC int many(const Attention *p) { return (size_t)p->n * p->tq * p->heads * p->d > 1 << 15; }

/* delta (N,H,TQ) = dO . O of each row and head. */
VEC void deltas(Dtype dt, Dev *d, const Attention *p, float *delta, const void *dout, const void *o)
{
#pragma omp parallel for num_threads(d->threads) if (many(p))
    for (int row = 0; row < p->n * p->tq; row++)
        for (int h = 0; h < p->heads; h++) {
            size_t at = ((size_t)row * p->heads + h) * p->d;
            vf s = vec_zero();
            for (int x = 0; x < p->d; x += VW) {
                size_t m = p->d - x < VW ? (size_t)(p->d - x) : VW;
                s = vec_fma(vec_get_n(dt, dout, at + x, m), vec_get_n(dt, o, at + x, m), s);
            }
            delta[((size_t)(row / p->tq) * p->heads + h) * p->tq + row % p->tq] = vec_sum(s);
        }
}

/* dQ = sum of the partial sums. */
VEC void gather(Dtype dt, Dev *d, const Backward *f, void *dq)
{
    const Attention *p = f->p;
    size_t one = (size_t)p->tq * f->dp;
#pragma omp parallel for num_threads(d->threads) if (many(p))
    for (int row = 0; row < p->n * p->tq; row++)
        for (int h = 0; h < p->heads; h++) {
            size_t at = ((size_t)row * p->heads + h) * p->d;
            const float *part = f->part + row % p->tq * f->dp +
                                ((size_t)(row / p->tq) * p->heads + h) * f->splits * one;
            for (int x = 0; x < p->d; x += VW) {
                vf s = vec_load(part + x);
                for (int i = 1; i < f->splits; i++) s = vec_add(s, vec_load(part + i * one + x));
                vec_put_n(dt, dq, at + x, s, p->d - x < VW ? (size_t)(p->d - x) : VW);
            }
        }
}

/* Where the streamed side, q and dout, is read: in place, or packed in scratch. */
VEC void stream(Dtype dt, Dev *d, Backward *f, float *qw, float *ow, const void *q,
                const void *dout)
{
    const Attention *p = f->p;
    int n = p->n, t = p->tq, h = p->heads;
    f->q = attn_direct(q, dtype_bytes(dt), t, h, p->d);
    f->dout = attn_direct(dout, dtype_bytes(dt), t, h, p->d);
    if (f->pair) {
        ISA(attn_pairs)(d, qw, q, n, t, h, p->d);
        ISA(attn_pairs)(d, ow, dout, n, t, h, p->d);
        f->q2 = attn_packed(qw, (t + 1) / 2, h, p->d);
        f->dout2 = attn_packed(ow, (t + 1) / 2, h, p->d);
        return;
    }
    if (dt != DT_F32) {
        ISA(attn_widen)(d, dt, qw, q, n, t, h, p->d);
        ISA(attn_widen)(d, dt, ow, dout, n, t, h, p->d);
        f->q = attn_packed(qw, t, h, p->d);
        f->dout = attn_packed(ow, t, h, p->d);
    }
    f->q2 = f->q, f->dout2 = f->dout;
}

VEC void backward(Dtype dt, Dev *d, const Attention *p, void *dq, void *dk, void *dv,
                  const void *dout, const void *q, const void *k, const void *v, const void *o,
                  const float *lse)
{
    assert((!p->causal || p->tq == p->tk) && !dk == !dv);
    AttnPlan plan = attn_bwd_plan(p, dt, THIS_ISA, d->threads);
    assert(d->ws_bytes >= plan.total * 4);
    float *qw = d->ws, *ow = qw + plan.shared[0], *delta = ow + plan.shared[1];
    float *part = delta + plan.shared[2], *areas = part + plan.shared[3];
    Backward f = {.p = p,
                  .k = k,
                  .v = v,
                  .lse = lse,
                  .delta = delta,
                  .part = dq ? part : NULL,
                  .dk = dk,
                  .dv = dv,
                  .pair = attn_pair(dt, p, THIS_ISA),
                  .splits = attn_splits(p, VW),
                  .group = attn_group(p, 4),
                  .dp = attn_padded(p, VW)};
    deltas(dt, d, p, delta, dout, o);
    stream(dt, d, &f, qw, ow, q, dout);
    int tasks = p->n * p->heads * f.splits;
#pragma omp parallel for num_threads(d->threads) schedule(dynamic) \
    if ((double)p->n * p->heads * p->tq * p->tk * p->d > 1 << 17)
    for (int i = 0; i < tasks; i++)
        bwd_task(dt, &f, i / f.splits / p->heads, i / f.splits % p->heads, i % f.splits,
                 areas + plan.area * omp_get_thread_num());
    if (dq) gather(dt, d, &f, dq);
}

#define ATTENTION_BWD(name, dt)                                                          \
    void ISA(attention_bwd_##name)(Dev *d, const Attention *p, void *dq, void *dk,       \
                                   void *dv, const void *dout, const void *q,            \
                                   const void *k, const void *v, const void *o,          \
                                   const float *lse)                                     \
    {                                                                                    \
        backward(dt, d, p, dq, dk, dv, dout, q, k, v, o, lse);                           \
    }
VEC_DTYPES(ATTENTION_BWD)
