/* norm.c - group and layer normalisation for AVX2 and AVX-512.
 *
 * Group normalisation reads each picture in blocks of rows (pixels) that stay in
 * the level-2 cache. A block gives mean and sum of squared deviations of each
 * channel in two passes, so a large mean costs no digits; channels, then blocks,
 * are merged in f64 (Chan et al., 1983). Blocks are divided among PARTS parts,
 * which depend on the shape only; threads take parts.
 */
#include <assert.h>
#include <math.h>

#include "kernels/x86/vec.h"

enum {
    PARTS = 32,
    GROUPS = 256,               /* groups and */
    CHANNELS = 4096,            /* channels worked on together (on the stack) */
    CHUNK = 1 << 14,            /* elements that are worth a thread */
    STRIP = 4 * VW,             /* channels of one task of a parameter gradient */
    RUN = 128                   /* terms summed in f32 before their sum is passed on */
};

/* count numbers with this mean and sum of squared deviations from it. */
typedef struct { double count, mean, m2; } Moments;

static Moments merge(Moments a, Moments b)
{
    if (b.count == 0) return a;
    double n = a.count + b.count, delta = b.mean - a.mean;
    return (Moments){n, a.mean + delta * b.count / n,
                     a.m2 + b.m2 + delta * delta * a.count * b.count / n};
}

/* A slab: groups g0 .. g0+groups-1 of picture n, channels c0 .. c0+c-1. */
typedef struct {
    const GroupNorm *p;
    size_t n, g0, groups, c0, c, cg, block, blocks, parts;
} Slab;

static Slab slab_at(const GroupNorm *p, size_t n, size_t g0)
{
    Slab s = {.p = p, .n = n, .g0 = g0, .cg = (size_t)(p->c / p->groups)};
    assert(p->c % p->groups == 0 && s.cg <= CHANNELS);
    size_t most = CHANNELS / s.cg < GROUPS ? CHANNELS / s.cg : GROUPS;
    s.groups = p->groups - g0 < most ? p->groups - g0 : most;
    s.c0 = g0 * s.cg, s.c = s.groups * s.cg;
    s.block = 65536 / s.c < RUN ? 65536 / s.c : RUN;
    if (s.block < 16) s.block = 16;
    s.blocks = ((size_t)p->hw + s.block - 1) / s.block;
    s.parts = s.blocks < PARTS ? s.blocks : PARTS;
    return s;
}

/* Rows [*from, return) of part k. */
static size_t part_rows(const Slab *s, size_t k, size_t *from)
{
    size_t end = s->blocks * (k + 1) / s->parts * s->block;
    *from = s->blocks * k / s->parts * s->block;
    return end < (size_t)s->p->hw ? end : (size_t)s->p->hw;
}

static size_t row_at(const Slab *s, size_t row)
{
    return (s->n * s->p->hw + row) * s->p->c + s->c0;
}

/* Adds rows r0 .. r1-1 to the moments of the slab's groups. */
VEC void block_moments(Dtype dt, const Slab *s, const void *x, size_t r0, size_t r1, Moments *g)
{
    float mean[CHANNELS + VW], m2[CHANNELS + VW];
    vf over = vec_set(1.0f / (float)(r1 - r0));
    memset(mean, 0, (s->c + VW) * 4);
    memset(m2, 0, (s->c + VW) * 4);
    for (size_t r = r0; r < r1; r++)
        for (size_t c = 0, at = row_at(s, r); c < s->c; c += VW)
            vec_store(mean + c, vec_add(vec_load(mean + c),
                                        vec_get_most(dt, x, at + c, vec_left(c, s->c))));
    for (size_t c = 0; c < s->c; c += VW) vec_store(mean + c, vec_mul(vec_load(mean + c), over));
    for (size_t r = r0; r < r1; r++)
        for (size_t c = 0, at = row_at(s, r); c < s->c; c += VW) {
            vf e = vec_sub(vec_get_most(dt, x, at + c, vec_left(c, s->c)), vec_load(mean + c));
            vec_store(m2 + c, vec_fma(e, e, vec_load(m2 + c)));
        }
    for (size_t k = 0; k < s->groups; k++) {
        double sum = 0, sq = 0, all = 0;
        const float *m = mean + k * s->cg, *q = m2 + k * s->cg;
        for (size_t c = 0; c < s->cg; c++) sum += (double)m[c], all += (double)q[c];
        sum /= (double)s->cg;
        for (size_t c = 0; c < s->cg; c++) sq += ((double)m[c] - sum) * ((double)m[c] - sum);
        double rows = (double)(r1 - r0);
        g[k] = merge(g[k], (Moments){rows * (double)s->cg, sum, all + rows * sq});
    }
}

/* y = f((x - mean) a + b) of one row; mean, a, b per channel. */
VEC void norm_row(Dtype dt, int silu, void *y, const void *x, size_t at, size_t c,
                  const float *mean, const float *a, const float *b)
{
    for (size_t i = 0; i < c; i += VW) {
        size_t n = vec_left(i, c);
        vf z = vec_sub(vec_get_most(dt, x, at + i, n), vec_load(mean + i));
        z = vec_fma(z, vec_load(a + i), vec_load_n(b + i, n));
        vec_put_most(dt, y, at + i, silu ? vec_mul(z, vec_sigmoid(z)) : z, n);
    }
}

VEC void norm_part(Dtype dt, const Slab *s, size_t part, void *y, const void *x,
                   const float *stats, const float *w, const float *b)
{
    float mean[CHANNELS + VW], a[CHANNELS + VW];
    for (size_t c = 0; c < s->c; c++) {
        mean[c] = stats[c / s->cg * 2];
        a[c] = stats[c / s->cg * 2 + 1] * w[s->c0 + c];
    }
    for (size_t c = s->c; c < s->c + VW; c++) mean[c] = a[c] = 0;
    size_t r, end = part_rows(s, part, &r);
    for (; r < end; r++) {
        if (s->p->silu) norm_row(dt, 1, y, x, row_at(s, r), s->c, mean, a, b + s->c0);
        else norm_row(dt, 0, y, x, row_at(s, r), s->c, mean, a, b + s->c0);
    }
}

static void slab_stats(Dtype dt, Dev *d, const Slab *s, float *st, const void *x)
{
    Moments part[PARTS][GROUPS];
#pragma omp parallel for num_threads(d->threads) if (s->p->hw * s->c > CHUNK)
    for (size_t k = 0; k < s->parts; k++) {
        memset(part[k], 0, s->groups * sizeof(Moments));
        size_t r, end = part_rows(s, k, &r);
        for (; r < end; r += s->block) {
            size_t to = end - r < s->block ? end : r + s->block;
            VEC_BY(dt, block_moments(DT, s, x, r, to, part[k]));
        }
    }
    for (size_t g = 0; g < s->groups; g++) {
        Moments all = part[0][g];
        for (size_t k = 1; k < s->parts; k++) all = merge(all, part[k][g]);
        st[2 * g] = (float)all.mean;
        st[2 * g + 1] = (float)(1 / sqrt(all.m2 / all.count + (double)s->p->eps));
    }
}

static void groupnorm_slab(Dtype dt, Dev *d, const Slab *s, void *y, float *stats, const void *x,
                           const float *w, const float *b)
{
    float own[GROUPS * 2], *st = stats ? stats + (s->n * s->p->groups + s->g0) * 2 : own;
    if (!s->p->given) slab_stats(dt, d, s, st, x);
    if (!y) return;
#pragma omp parallel for num_threads(d->threads) if (s->p->hw * s->c > CHUNK)
    for (size_t k = 0; k < s->parts; k++) VEC_BY(dt, norm_part(DT, s, k, y, x, st, w, b));
}

static void groupnorm_any(Dtype dt, Dev *d, const GroupNorm *p, void *y, float *stats,
                          const void *x, const float *w, const float *b)
{
    for (size_t n = 0; n < (size_t)p->n; n++)
        for (size_t g = 0; g < (size_t)p->groups;) {
            Slab s = slab_at(p, n, g);
            groupnorm_slab(dt, d, &s, y, stats, x, w, b);
            g += s.groups;
        }
}

/* xhat and dz = dy f'(z) of a vector of channels, z = xhat w + b. */
VEC vf back(Dtype dt, int silu, const void *dy, const void *x, size_t at, size_t n, vf mean,
            vf rstd, vf w, vf b, vf *xhat)
{
    vf h = vec_mul(vec_sub(vec_get_most(dt, x, at, n), mean), rstd);
    vf g = vec_get_most(dt, dy, at, n), one = vec_set(1.0f);
    *xhat = h;
    if (!silu) return g;
    vf z = vec_fma(h, w, b), s = vec_sigmoid(z);
    return vec_mul(g, vec_mul(s, vec_fma(z, vec_sub(one, s), one)));
}

/* Sums of g = dz w and of g xhat over a group. */
typedef struct { double g, gx; } Sums;

/* Per channel: mean, rstd, and sums over a run of rows. */
enum { PAD = CHANNELS + VW };
typedef struct { float mean[PAD], rstd[PAD], g[PAD], gx[PAD]; } Channels;

static void spread_stats(const Slab *s, Channels *t, const float *stats)
{
    const float *st = stats + (s->n * s->p->groups + s->g0) * 2;
    for (size_t c = 0; c < s->c; c++)
        t->mean[c] = st[c / s->cg * 2], t->rstd[c] = st[c / s->cg * 2 + 1];
    for (size_t c = s->c; c < s->c + VW; c++) t->mean[c] = t->rstd[c] = t->g[c] = t->gx[c] = 0;
}

VEC void block_sums(Dtype dt, int silu, const Slab *s, Channels *t, const void *dy, const void *x,
                    size_t r0, size_t r1, const float *w, const float *b, Sums *sums)
{
    memset(t->g, 0, s->c * 4);
    memset(t->gx, 0, s->c * 4);
    for (size_t r = r0; r < r1; r++)
        for (size_t c = 0, at = row_at(s, r); c < s->c; c += VW) {
            size_t n = vec_left(c, s->c);
            vf xhat, wv = vec_load_n(w + s->c0 + c, n);
            vf g = back(dt, silu, dy, x, at + c, n, vec_load(t->mean + c), vec_load(t->rstd + c),
                        wv, vec_load_n(b + s->c0 + c, n), &xhat);
            g = vec_mul(g, wv);
            vec_store(t->g + c, vec_add(vec_load(t->g + c), g));
            vec_store(t->gx + c, vec_fma(g, xhat, vec_load(t->gx + c)));
        }
    for (size_t c = 0; c < s->c; c++) {
        sums[c / s->cg].g += (double)t->g[c];
        sums[c / s->cg].gx += (double)t->gx[c];
    }
}

/* dx of rows r0 .. r1-1; t->g and t->gx hold the means of g and g xhat. */
VEC void block_dx(Dtype dt, int silu, const Slab *s, const Channels *t, void *dx, const void *dy,
                  const void *x, size_t r0, size_t r1, const float *w, const float *b, int acc)
{
    for (size_t r = r0; r < r1; r++)
        for (size_t c = 0, at = row_at(s, r); c < s->c; c += VW) {
            size_t n = vec_left(c, s->c);
            vf xhat, wv = vec_load_n(w + s->c0 + c, n), rstd = vec_load(t->rstd + c);
            vf g = back(dt, silu, dy, x, at + c, n, vec_load(t->mean + c), rstd, wv,
                        vec_load_n(b + s->c0 + c, n), &xhat);
            g = vec_sub(vec_mul(g, wv), vec_load(t->g + c));
            g = vec_fnma(xhat, vec_load(t->gx + c), g);
            vec_acc_most(dt, dx, at + c, vec_mul(rstd, g), n, acc);
        }
}

static void groupnorm_bwd_slab(Dtype dt, Dev *d, const Slab *s, void *dx, const void *dy,
                               const void *x, const float *stats, const float *w, const float *b,
                               int acc)
{
    Sums part[PARTS][GROUPS], all[GROUPS];
#pragma omp parallel for num_threads(d->threads) if (s->p->hw * s->c > CHUNK)
    for (size_t k = 0; k < s->parts; k++) {
        Channels t;
        memset(part[k], 0, s->groups * sizeof(Sums));
        spread_stats(s, &t, stats);
        size_t r, end = part_rows(s, k, &r);
        for (; r < end; r += s->block) {
            size_t to = end - r < s->block ? end : r + s->block;
            if (s->p->silu) VEC_BY(dt, block_sums(DT, 1, s, &t, dy, x, r, to, w, b, part[k]));
            else VEC_BY(dt, block_sums(DT, 0, s, &t, dy, x, r, to, w, b, part[k]));
        }
    }
    for (size_t g = 0; g < s->groups; g++) {
        all[g] = (Sums){0, 0};
        for (size_t k = 0; k < s->parts; k++) all[g].g += part[k][g].g, all[g].gx += part[k][g].gx;
    }
    double m = (double)s->p->hw * (double)s->cg;
#pragma omp parallel for num_threads(d->threads) if (s->p->hw * s->c > CHUNK)
    for (size_t k = 0; k < s->parts; k++) {
        Channels t;
        spread_stats(s, &t, stats);
        for (size_t c = 0; c < s->c; c++) {
            t.g[c] = (float)(all[c / s->cg].g / m);
            t.gx[c] = (float)(all[c / s->cg].gx / m);
        }
        size_t r, end = part_rows(s, k, &r);
        if (s->p->silu) VEC_BY(dt, block_dx(DT, 1, s, &t, dx, dy, x, r, end, w, b, acc));
        else VEC_BY(dt, block_dx(DT, 0, s, &t, dx, dy, x, r, end, w, b, acc));
    }
}

/* dw and db of channels c .. c+n-1. */
VEC void group_params(Dtype dt, int silu, const GroupNorm *p, float *dw, float *db, const void *dy,
                      const void *x, const float *stats, const float *w, const float *b, size_t c,
                      size_t n)
{
    size_t hw = (size_t)p->hw, cg = (size_t)(p->c / p->groups);
    vf wv = vec_load_n(w + c, n), bv = vec_load_n(b + c, n), sw = vec_zero(), sb = sw;
    for (size_t k = 0; k < (size_t)p->n; k++) {
        float mean[VW] = {0}, rstd[VW] = {0};
        for (size_t i = 0; i < n; i++) {
            const float *st = stats + (k * p->groups + (c + i) / cg) * 2;
            mean[i] = st[0], rstd[i] = st[1];
        }
        for (size_t i0 = 0; i0 < hw; i0 += RUN) {
            vf rw = vec_zero(), rb = rw;
            for (size_t i = i0; i < hw && i < i0 + RUN; i++) {
                vf xhat, g = back(dt, silu, dy, x, (k * hw + i) * p->c + c, n, vec_load(mean),
                                  vec_load(rstd), wv, bv, &xhat);
                rw = vec_fma(g, xhat, rw), rb = vec_add(rb, g);
            }
            sw = vec_add(sw, rw), sb = vec_add(sb, rb);
        }
    }
    if (dw) vec_acc_most(DT_F32, dw, c, sw, n, 1);
    if (db) vec_acc_most(DT_F32, db, c, sb, n, 1);
}

static void groupnorm_bwd_any(Dtype dt, Dev *d, const GroupNorm *p, void *dx, float *dw, float *db,
                              const void *dy, const void *x, const float *stats, const float *w,
                              const float *b, int acc)
{
    size_t channels = (size_t)p->c;
    if (dw || db) {
#pragma omp parallel for num_threads(d->threads) if (p->n * (size_t)p->hw * channels > CHUNK)
        for (size_t c = 0; c < channels; c += VW) {
            size_t n = vec_left(c, channels);
            if (p->silu) VEC_BY(dt, group_params(DT, 1, p, dw, db, dy, x, stats, w, b, c, n));
            else VEC_BY(dt, group_params(DT, 0, p, dw, db, dy, x, stats, w, b, c, n));
        }
    }
    for (size_t n = 0; n < (size_t)p->n; n++)
        for (size_t g = 0; g < (size_t)p->groups;) {
            Slab s = slab_at(p, n, g);
            groupnorm_bwd_slab(dt, d, &s, dx, dy, x, stats, w, b, acc);
            g += s.groups;
        }
}

/* Sum of a row, in runs. */
VEC double row_sum(Dtype dt, const void *x, size_t at, size_t c, float shift, int square)
{
    double sum = 0;
    vf k = vec_set(shift);
    for (size_t i0 = 0; i0 < c; i0 += RUN * VW) {
        vf s = vec_zero();
        for (size_t i = i0; i < c && i < i0 + RUN * VW; i += VW) {
            size_t n = vec_left(i, c);
            vf e = vec_sub(vec_get_most(dt, x, at + i, n), k);
            if (n < VW) e = vec_first(e, vec_zero(), n);
            s = square ? vec_fma(e, e, s) : vec_add(s, e);
        }
        sum += vec_sum_f64(s);
    }
    return sum;
}

VEC void layer_row(Dtype dt, const LayerNorm *p, size_t r, void *y, float *stats, const void *x,
                   const float *w, const float *b)
{
    size_t c = (size_t)p->c, at = r * c;
    float mean = (float)(row_sum(dt, x, at, c, 0, 0) / (double)c);
    double var = row_sum(dt, x, at, c, mean, 1) / (double)c;
    float rstd = (float)(1 / sqrt(var + (double)p->eps));
    for (size_t i = 0; i < c; i += VW) {
        size_t n = vec_left(i, c);
        vf h = vec_sub(vec_get_most(dt, x, at + i, n), vec_set(mean));
        h = vec_mul(h, vec_set(rstd));
        vec_put_most(dt, y, at + i, vec_fma(h, vec_load_n(w + i, n), vec_load_n(b + i, n)), n);
    }
    if (stats) stats[2 * r] = mean, stats[2 * r + 1] = rstd;
}

static void layernorm_any(Dtype dt, Dev *d, const LayerNorm *p, void *y, float *stats,
                          const void *x, const float *w, const float *b)
{
    size_t rows = (size_t)p->rows;
#pragma omp parallel for num_threads(d->threads) if (rows * p->c > CHUNK)
    for (size_t r = 0; r < rows; r++) VEC_BY(dt, layer_row(DT, p, r, y, stats, x, w, b));
}

/* xhat of a vector, and g = dy w. */
VEC vf layer_back(Dtype dt, const void *dy, const void *x, size_t at, size_t n, float mean,
                  float rstd, const float *w, vf *xhat)
{
    *xhat = vec_mul(vec_sub(vec_get_most(dt, x, at, n), vec_set(mean)), vec_set(rstd));
    return vec_mul(vec_get_most(dt, dy, at, n), vec_load_n(w, n));
}

VEC void layer_dx(Dtype dt, size_t c, void *dx, const void *dy, const void *x, size_t at,
                  float mean, float rstd, const float *w, int acc)
{
    vf s1 = vec_zero(), s2 = s1, xhat;
    for (size_t i = 0; i < c; i += VW) {
        vf g = layer_back(dt, dy, x, at + i, vec_left(i, c), mean, rstd, w + i, &xhat);
        s1 = vec_add(s1, g), s2 = vec_fma(g, xhat, s2);
    }
    vf g1 = vec_set((float)(vec_sum_f64(s1) / (double)c));
    vf g2 = vec_set((float)(vec_sum_f64(s2) / (double)c));
    for (size_t i = 0; i < c; i += VW) {
        size_t n = vec_left(i, c);
        vf g = layer_back(dt, dy, x, at + i, n, mean, rstd, w + i, &xhat);
        g = vec_fnma(xhat, g2, vec_sub(g, g1));
        vec_acc_most(dt, dx, at + i, vec_mul(g, vec_set(rstd)), n, acc);
    }
}

/* dw and db of channels k .. end-1, at most STRIP of them. */
VEC void layer_params(Dtype dt, const LayerNorm *p, float *dw, float *db, const void *dy,
                      const void *x, const float *stats, size_t k, size_t end)
{
    size_t rows = (size_t)p->rows, c = (size_t)p->c;
    for (size_t at = k; at < end; at += VW) {
        size_t n = vec_left(at, end);
        vf sw = vec_zero(), sb = sw;
        for (size_t r0 = 0; r0 < rows; r0 += RUN) {
            vf rw = vec_zero(), rb = rw;
            for (size_t r = r0; r < rows && r < r0 + RUN; r++) {
                vf g = vec_get_most(dt, dy, r * c + at, n), h = vec_get_most(dt, x, r * c + at, n);
                h = vec_mul(vec_sub(h, vec_set(stats[2 * r])), vec_set(stats[2 * r + 1]));
                rw = vec_fma(g, h, rw), rb = vec_add(rb, g);
            }
            sw = vec_add(sw, rw), sb = vec_add(sb, rb);
        }
        if (dw) vec_acc_most(DT_F32, dw, at, sw, n, 1);
        if (db) vec_acc_most(DT_F32, db, at, sb, n, 1);
    }
}

static void layernorm_bwd_any(Dtype dt, Dev *d, const LayerNorm *p, void *dx, float *dw, float *db,
                              const void *dy, const void *x, const float *stats, const float *w,
                              int acc)
{
    size_t rows = (size_t)p->rows, c = (size_t)p->c;
    if (dw || db) {
#pragma omp parallel for num_threads(d->threads) if (rows * c > CHUNK)
        for (size_t k = 0; k < c; k += STRIP) {
            size_t end = k + STRIP < c ? k + STRIP : c;
            VEC_BY(dt, layer_params(DT, p, dw, db, dy, x, stats, k, end));
        }
    }
#pragma omp parallel for num_threads(d->threads) if (rows * c > CHUNK)
    for (size_t r = 0; r < rows; r++)
        VEC_BY(dt, layer_dx(DT, c, dx, dy, x, r * c, stats[2 * r], stats[2 * r + 1], w, acc));
}

VEC_OP(groupnorm, (Dev *d, const GroupNorm *p, void *y, float *stats, const void *x,
                   const float *w, const float *b),
       (DT, d, p, y, stats, x, w, b))
VEC_OP(groupnorm_bwd, (Dev *d, const GroupNorm *p, void *dx, float *dw, float *db, const void *dy,
                       const void *x, const float *stats, const float *w, const float *b, int acc),
       (DT, d, p, dx, dw, db, dy, x, stats, w, b, acc))
VEC_OP(layernorm, (Dev *d, const LayerNorm *p, void *y, float *stats, const void *x,
                   const float *w, const float *b),
       (DT, d, p, y, stats, x, w, b))
VEC_OP(layernorm_bwd, (Dev *d, const LayerNorm *p, void *dx, float *dw, float *db, const void *dy,
                       const void *x, const float *stats, const float *w, int acc),
       (DT, d, p, dx, dw, db, dy, x, stats, w, acc))
