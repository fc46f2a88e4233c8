/* act.c - activations, GEGLU and addition for AVX2 and AVX-512. */
#include "kernels/x86/vec.h"

enum { CHUNK = 1 << 14 };       /* elements one thread takes at a time */

/* The argument of the sigmoid in x sigmoid(u) and its slope. */
VEC vf act_inner(ActKind kind, vf x, vf *slope)
{
    *slope = vec_set(kind == ACT_SILU ? 1.0f : 1.702f);
    if (kind == ACT_SILU) return x;
    if (kind == ACT_QUICK_GELU) return vec_mul(x, *slope);
    vf xx = vec_mul(x, x), a = vec_set((float)GELU_TANH_A);
    *slope = vec_fma(xx, vec_set((float)(3 * GELU_TANH_B)), a);
    return vec_mul(x, vec_fma(xx, vec_set((float)GELU_TANH_B), a));
}

VEC vf act(ActKind kind, vf x)
{
    vf pdf;
    if (kind == ACT_GELU) return vec_mul(x, vec_normal(x, &pdf));
    return vec_mul(x, vec_sigmoid(act_inner(kind, x, &pdf)));
}

VEC vf act_slope(ActKind kind, vf x)
{
    vf s, slope, one = vec_set(1.0f);
    if (kind == ACT_GELU) {
        vf pdf, cdf = vec_normal(x, &pdf);
        return vec_fma(x, pdf, cdf);
    }
    s = vec_sigmoid(act_inner(kind, x, &slope));
    return vec_mul(s, vec_fma(vec_mul(vec_sub(one, s), x), slope, one));
}

VEC void act_chunk(Dtype dt, ActKind kind, void *y, const void *x, size_t i, size_t end)
{
    for (; i < end; i += VW) {
        size_t n = vec_left(i, end);
        vec_put_most(dt, y, i, act(kind, vec_get_most(dt, x, i, n)), n);
    }
}

static void act_any(Dtype dt, Dev *d, const Act *p, void *y, const void *x)
{
    size_t count = p->count;
#pragma omp parallel for num_threads(d->threads) if (count > CHUNK)
    for (size_t i = 0; i < count; i += CHUNK) {
        size_t end = count - i < CHUNK ? count : i + CHUNK;
        if (p->kind == ACT_SILU) VEC_BY(dt, act_chunk(DT, ACT_SILU, y, x, i, end));
        else if (p->kind == ACT_GELU) VEC_BY(dt, act_chunk(DT, ACT_GELU, y, x, i, end));
        else if (p->kind == ACT_GELU_TANH) VEC_BY(dt, act_chunk(DT, ACT_GELU_TANH, y, x, i, end));
        else VEC_BY(dt, act_chunk(DT, ACT_QUICK_GELU, y, x, i, end));
    }
}

VEC void act_bwd_chunk(Dtype dt, ActKind kind, void *dx, const void *dy, const void *x, int acc,
                       size_t i, size_t end)
{
    for (; i < end; i += VW) {
        size_t n = vec_left(i, end);
        vf g = vec_mul(vec_get_most(dt, dy, i, n), act_slope(kind, vec_get_most(dt, x, i, n)));
        vec_acc_most(dt, dx, i, g, n, acc);
    }
}

static void act_bwd_any(Dtype dt, Dev *d, const Act *p, void *dx, const void *dy, const void *x,
                        int acc)
{
    size_t count = p->count;
#pragma omp parallel for num_threads(d->threads) if (count > CHUNK)
    for (size_t i = 0; i < count; i += CHUNK) {
        size_t end = count - i < CHUNK ? count : i + CHUNK;
        if (p->kind == ACT_SILU)
            VEC_BY(dt, act_bwd_chunk(DT, ACT_SILU, dx, dy, x, acc, i, end));
        else if (p->kind == ACT_GELU)
            VEC_BY(dt, act_bwd_chunk(DT, ACT_GELU, dx, dy, x, acc, i, end));
        else if (p->kind == ACT_GELU_TANH)
            VEC_BY(dt, act_bwd_chunk(DT, ACT_GELU_TANH, dx, dy, x, acc, i, end));
        else
            VEC_BY(dt, act_bwd_chunk(DT, ACT_QUICK_GELU, dx, dy, x, acc, i, end));
    }
}

VEC void geglu_row(Dtype dt, size_t r, size_t c, void *y, const void *x)
{
    for (size_t i = 0; i < c; i += VW) {
        size_t n = vec_left(i, c);
        vf a = vec_get_most(dt, x, 2 * r * c + i, n);
        vf g = vec_get_most(dt, x, (2 * r + 1) * c + i, n);
        vec_put_most(dt, y, r * c + i, vec_mul(a, act(ACT_GELU, g)), n);
    }
}

static void geglu_any(Dtype dt, Dev *d, const Geglu *p, void *y, const void *x)
{
    size_t c = (size_t)p->c, rows = (size_t)p->rows;
#pragma omp parallel for num_threads(d->threads) if (rows * c > CHUNK)
    for (size_t r = 0; r < rows; r++) VEC_BY(dt, geglu_row(DT, r, c, y, x));
}

VEC void geglu_bwd_row(Dtype dt, size_t r, size_t c, void *dx, const void *dy, const void *x,
                       int acc)
{
    for (size_t i = 0; i < c; i += VW) {
        size_t n = vec_left(i, c), lin = 2 * r * c + i, gate = lin + c;
        vf a = vec_get_most(dt, x, lin, n), g = vec_get_most(dt, x, gate, n);
        vf e = vec_get_most(dt, dy, r * c + i, n), pdf, cdf = vec_normal(g, &pdf);
        vec_acc_most(dt, dx, lin, vec_mul(e, vec_mul(g, cdf)), n, acc);
        vec_acc_most(dt, dx, gate, vec_mul(vec_mul(e, a), vec_fma(g, pdf, cdf)), n, acc);
    }
}

static void geglu_bwd_any(Dtype dt, Dev *d, const Geglu *p, void *dx, const void *dy,
                          const void *x, int acc)
{
    size_t c = (size_t)p->c, rows = (size_t)p->rows;
#pragma omp parallel for num_threads(d->threads) if (rows * c > CHUNK)
    for (size_t r = 0; r < rows; r++) VEC_BY(dt, geglu_bwd_row(DT, r, c, dx, dy, x, acc));
}

VEC void add_chunk(Dtype dt, void *y, const void *a, const void *b, size_t i, size_t end)
{
    for (; i < end; i += VW) {
        size_t n = vec_left(i, end);
        vf u = vec_get_most(dt, a, i, n), v = vec_get_most(dt, b, i, n);
        vec_put_most(dt, y, i, vec_add(u, v), n);
    }
}

static void add_any(Dtype dt, Dev *d, size_t count, void *y, const void *a, const void *b)
{
#pragma omp parallel for num_threads(d->threads) if (count > CHUNK)
    for (size_t i = 0; i < count; i += CHUNK)
        VEC_BY(dt, add_chunk(DT, y, a, b, i, count - i < CHUNK ? count : i + CHUNK));
}

VEC_OP(act, (Dev *d, const Act *p, void *y, const void *x), (DT, d, p, y, x))
VEC_OP(act_bwd, (Dev *d, const Act *p, void *dx, const void *dy, const void *x, int acc),
       (DT, d, p, dx, dy, x, acc))
VEC_OP(geglu, (Dev *d, const Geglu *p, void *y, const void *x), (DT, d, p, y, x))
VEC_OP(geglu_bwd, (Dev *d, const Geglu *p, void *dx, const void *dy, const void *x, int acc),
       (DT, d, p, dx, dy, x, acc))
VEC_OP(add, (Dev *d, size_t count, void *y, const void *a, const void *b), (DT, d, count, y, a, b))
