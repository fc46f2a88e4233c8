/* products.h - what the tests of linear and conv2d share: inputs, the exact
 * result with the size of its sum, and the comparison.
 *
 * Bound. Let mag = sum |a_i b_i| (+ |bias| + |res|), computed by the reference
 * on absolute values. Every partial sum is at most mag, so each of the K
 * roundings of an f32 sum is at most u mag, u = 2^-24; they are independent,
 * so their total stays below 6 sqrt(K) u mag with a chance of one in 1e9 (a
 * wrong tap or a lost block is of size mag / K or more). A product of bf16
 * pairs rounds twice for each pair: the same K. Where an AVX-512 version with
 * bf16 activations rounds f32 or f16 weights to bf16 (CUDA: 16-bit activations,
 * any other weights), each term is off by up to 2^-8. For int8 weights (int8.h) x may
 * be rounded to 256 steps between the ends of its row: each term is off by an error
 * spread evenly over a step, independent of the others, with the variance
 * (step w)^2 / 12; 6 standard deviations of their sum are a chance of 2 in 1e9.
 * The result is rounded to its dtype, half an ulp.
 */
#ifndef SDC_TESTS_PRODUCTS_H
#define SDC_TESTS_PRODUCTS_H

#include <stdlib.h>

#include "kernels/impl.h"
#include "kernels/int8.h"
#include "tests/kern.h"
#include "tests/test.h"

/* n elements of dt about `size` large, and their f32 copies, as they are and
 * absolute. A NULL-able operand that is absent has n 0 and p NULL. */
typedef struct { KernBuf v, f, a; size_t n; } Input;

static inline Input input_new(KernRng *r, Dtype dt, size_t n, KernKind kind, double size)
{
    Input in = {.n = n};
    if (!n) return in;
    in.v = kern_buf(n * dtype_bytes(dt));
    in.f = kern_buf(n * 4);
    in.a = kern_buf(n * 4);
    for (size_t i = 0; i < n; i++) {
        double x = kind == KERN_ZERO ? 0 : (kern_normal(r) + (kind == KERN_MEAN) * 20) * size;
        kern_put(dt, in.v.p, i, x);
        ((float *)in.f.p)[i] = (float)kern_at(dt, in.v.p, i);
        ((float *)in.a.p)[i] = fabsf(((float *)in.f.p)[i]);
    }
    return in;
}

/* A weight (n, taps, c) of wdt. */
static inline Input input_weight(KernRng *r, Dtype wdt, size_t n, size_t taps, size_t c,
                                 double size)
{
    if (wdt != DT_I8) return input_new(r, wdt, n * taps * c, KERN_NORMAL, size);
    Input in = input_new(r, DT_F32, n * taps * c, KERN_NORMAL, size);
    KernBuf w = kern_buf(i8_bytes(n, taps, c));
    i8_from_f32(w.p, in.v.p, n, taps, c);
    i8_to_f32(in.f.p, w.p, n, taps, c);
    for (size_t i = 0; i < in.n; i++) ((float *)in.a.p)[i] = fabsf(((float *)in.f.p)[i]);
    kern_free(&in.v);
    in.v = w;
    return in;
}

/* For each element of x, rows of c, and of w: the variance of what rounding it to 256
 * steps adds, and the square. */
typedef struct { KernBuf x, w; } Rounding;

static inline Rounding rounding_new(const Input *x, size_t c, const Input *w)
{
    Rounding g = {kern_buf(x->n * 4), kern_buf(w->n * 4)};
    const float *v = x->f.p;
    for (size_t r = 0; r < x->n; r += c) {
        float lo = v[r], hi = v[r];
        for (size_t i = 0; i < c; i++) lo = fminf(lo, v[r + i]), hi = fmaxf(hi, v[r + i]);
        float step = (hi - lo) / 255;
        for (size_t i = 0; i < c; i++) ((float *)g.x.p)[r + i] = step * step / 12;
    }
    for (size_t i = 0; i < w->n; i++)
        ((float *)g.w.p)[i] = ((float *)w->f.p)[i] * ((float *)w->f.p)[i];
    return g;
}

static inline int rounding_free(Rounding *g) { return kern_free(&g->x) & kern_free(&g->w); }

static inline int input_free(Input *in)
{
    return kern_free(&in->v) & kern_free(&in->f) & kern_free(&in->a);
}

/* A result: exact in f32, its magnitude, the variance from rounding x (only where w is
 * int8, else p is NULL), and the one under test. */
typedef struct { KernBuf want, mag, var, got, first; Dtype dt; size_t n; } Result;

static inline Result result_new(Dtype dt, size_t n)
{
    return (Result){.want = kern_buf(n * 4), .mag = kern_buf(n * 4), .dt = dt, .n = n,
                    .got = kern_buf(n * dtype_bytes(dt)), .first = kern_buf(n * dtype_bytes(dt))};
}

static inline int result_free(Result *r)
{
    return kern_free(&r->want) & kern_free(&r->mag) & kern_free(&r->var) & kern_free(&r->got) &
           kern_free(&r->first);
}

/* Sets the buffers to `start` (values to add to), or to NaN when it is absent. */
static inline void result_start(Result *r, const Input *start)
{
    size_t bytes = r->n * dtype_bytes(r->dt);
    if (start && start->n) memcpy(r->got.p, start->v.p, bytes);
    else memset(r->got.p, 0xff, bytes);
}

/* Where the version under test finds a buffer of the host. */
static inline void *on_device(KernDev *k, const KernBuf *b) { return kern_on(k, b->p, b->bytes); }

/* Largest error in units of the bound; sums of k terms. */
static inline double result_gap(const Result *r, double k, int rounds_weights)
{
    static const double half_ulp[DT_N] = {0x1p-24, 0x1p-8, 0x1p-11};
    double worst = 0, sum = 6 * sqrt(k + 1) * 0x1p-24 + (rounds_weights ? 0x1p-8 : 0);
    for (size_t i = 0; i < r->n; i++) {
        double want = (double)((float *)r->want.p)[i], got = kern_at(r->dt, r->got.p, i);
        double bound = sum * (double)((float *)r->mag.p)[i] +
                       (r->var.p ? 6 * sqrt((double)((float *)r->var.p)[i]) : 0) +
                       half_ulp[r->dt] * 1.02 * fabs(want) + (r->dt == DT_F16 ? 0x1p-24 : 1e-37);
        double gap = fabs(got - want) / bound;
        if (!(gap <= worst)) worst = gap == gap ? gap : 1e30;
    }
    return worst;
}

/* Keeps the first result and compares the later ones with it, bit by bit. */
static inline int result_same(Result *r, int keep)
{
    size_t bytes = r->n * dtype_bytes(r->dt);
    if (keep) memcpy(r->first.p, r->got.p, bytes);
    return !memcmp(r->first.p, r->got.p, bytes);
}

/* The reference is checked, too, but not against itself, nor where it takes long. */
static inline int is_checked(const KernImpl *impl, Dtype wdt, double products)
{
    return impl->isa != DEV_REF || (products < 1e6 && (impl->dt != DT_F32 || wdt != DT_F32));
}

/* Ops.int8: a GPU has no products with weights of 8 bits. */
static inline int takes_weights(const KernImpl *impl, Dtype wdt)
{
    return wdt != DT_I8 || impl->isa != DEV_CUDA;
}

static inline int rounds_weights(const KernImpl *impl, Dtype wdt)
{
    if (!strcmp(impl->impl, "cuda")) return impl->dt != DT_F32 && wdt != impl->dt;
    return !strcmp(impl->impl, "avx512bf16") && impl->dt == DT_BF16 && wdt != DT_BF16;
}

#endif
