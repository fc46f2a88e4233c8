/* adapter.c - weights composed of a base and an adapter's factors, for AVX2 and AVX-512.
 *
 * All of it is passes over memory. Sums run along a row or down a column in one fixed
 * order, whatever the number of threads. */
#include <float.h>
#include <math.h>

#include "kernels/x86/vec.h"

enum { CHUNK = 1 << 14, BLOCK = 256 };

/* An op of f32 alone: nobody calls that of the version for bf16. */
#ifdef SDC_BF16
#define F32_OP static __attribute__((unused)) void
#else
#define F32_OP void
#endif

/* n <= BLOCK values of the base from element i on. */
static void load_base(Dtype wdt, float *to, const void *base, size_t i, size_t n)
{
    for (size_t k = 0; k < n; k += VW) {
        size_t m = vec_left(k, n);
        vf v;
        VEC_BY(wdt, v = vec_get_most(DT, base, i + k, m));
        vec_put_most(DT_F32, to, k, v, m);
    }
}

static void store(Dtype dt, void *w, size_t i, const float *from, size_t n)
{
    for (size_t k = 0; k < n; k += VW) {
        size_t m = vec_left(k, n);
        VEC_BY(dt, vec_put_most(DT, w, i + k, vec_get_most(DT_F32, from, k, m), m));
    }
}

/* ---- sums and products element by element --------------------------------- */

static void compose_block(Dtype dt, const Compose *p, void *w, const void *base, const float *a,
                          const float *b, size_t i, size_t n)
{
    float t[BLOCK];
    vf alpha = vec_set(p->alpha);
    load_base(p->wdt, t, base, i, n);
    for (size_t k = 0; k < n; k += VW) {
        size_t m = vec_left(k, n);
        vf x = vec_mul(alpha, vec_get_most(DT_F32, a, i + k, m));
        vf y = vec_get_most(DT_F32, t, k, m);
        y = b ? vec_fma(x, vec_get_most(DT_F32, b, i + k, m), y) : vec_add(x, y);
        vec_put_most(DT_F32, t, k, y, m);
    }
    store(dt, w, i, t, n);
}

static void compose_any(Dtype dt, Dev *d, const Compose *p, void *w, const void *base,
                        const float *a, const float *b)
{
    size_t count = p->count;
#pragma omp parallel for num_threads(d->threads) if (count > CHUNK)
    for (size_t i = 0; i < count; i += BLOCK)
        compose_block(dt, p, w, base, a, b, i, count - i < BLOCK ? count - i : BLOCK);
}

F32_OP ISA(compose_bwd_f32)(Dev *d, const Compose *p, float *da, float *db, const float *g,
                            const float *a, const float *b)
{
    size_t count = p->count;
    vf alpha = vec_set(p->alpha);
#pragma omp parallel for num_threads(d->threads) if (count > CHUNK)
    for (size_t i = 0; i < count; i += VW) {
        size_t n = vec_left(i, count);
        vf e = vec_mul(alpha, vec_get_most(DT_F32, g, i, n));
        vf y = db ? vec_mul(e, vec_get_most(DT_F32, a, i, n)) : e;
        if (da) vec_put_most(DT_F32, da, i, b ? vec_mul(e, vec_get_most(DT_F32, b, i, n)) : e, n);
        if (db) vec_put_most(DT_F32, db, i, y, n);
    }
}

/* ---- the Kronecker product ------------------------------------------------- */

/* Row `row` of L1*L2*S rows, which has M1 copies of a row of w2. */
static void kron_row(Dtype dt, const Kron *p, void *w, const void *base, const float *w1,
                     const float *w2, size_t row)
{
    size_t m1 = (size_t)p->m1, m2 = (size_t)p->m2, inner = (size_t)p->l2 * (size_t)p->s;
    const float *a = w1 + row / inner * m1, *b = w2 + row % inner * m2;
    for (size_t j = 0; j < m1; j++) {
        vf x = vec_mul(vec_set(p->alpha), vec_set(a[j]));
        for (size_t k = 0; k < m2; k += BLOCK) {
            float t[BLOCK];
            size_t at = (row * m1 + j) * m2 + k, n = m2 - k < BLOCK ? m2 - k : BLOCK;
            load_base(p->wdt, t, base, at, n);
            for (size_t i = 0; i < n; i += VW) {
                size_t m = vec_left(i, n);
                vf y = vec_get_most(DT_F32, t, i, m);
                vec_put_most(DT_F32, t, i, vec_fma(x, vec_get_most(DT_F32, b, k + i, m), y), m);
            }
            store(dt, w, at, t, n);
        }
    }
}

static void kron_any(Dtype dt, Dev *d, const Kron *p, void *w, const void *base, const float *w1,
                     const float *w2)
{
    size_t rows = (size_t)p->l1 * (size_t)p->l2 * (size_t)p->s;
#pragma omp parallel for num_threads(d->threads) if (rows * (size_t)p->m1 * (size_t)p->m2 > CHUNK)
    for (size_t r = 0; r < rows; r++) kron_row(dt, p, w, base, w1, w2, r);
}

static double dot(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n;) {
        vf s = vec_zero();
        size_t end = n - i < BLOCK ? n : i + BLOCK;
        for (; i < end; i += VW) {
            size_t m = vec_left(i, end);
            s = vec_fma(vec_get_most(DT_F32, a, i, m), vec_get_most(DT_F32, b, i, m), s);
        }
        i = end;
        sum += vec_sum_f64(s);
    }
    return sum;
}

/* to += x from, n values */
static void axpy(float *to, float x, const float *from, size_t n)
{
    for (size_t i = 0; i < n; i += VW) {
        size_t m = vec_left(i, n);
        vf y =
            vec_fma(vec_set(x), vec_get_most(DT_F32, from, i, m), vec_get_most(DT_F32, to, i, m));
        vec_put_most(DT_F32, to, i, y, m);
    }
}

F32_OP ISA(kron_bwd_f32)(Dev *d, const Kron *p, float *dw1, float *dw2, const float *g,
                         const float *w1, const float *w2)
{
    size_t m1 = (size_t)p->m1, m2 = (size_t)p->m2, inner = (size_t)p->l2 * (size_t)p->s;
    size_t firsts = dw1 ? (size_t)p->l1 * m1 : 0, seconds = dw2 ? inner : 0;
#pragma omp parallel num_threads(d->threads) if (inner * (size_t)p->l1 * m1 * m2 > CHUNK)
    {
#pragma omp for nowait
        for (size_t i = 0; i < firsts; i++) {
            const float *from = g + (i / m1 * inner * m1 + i % m1) * m2;
            double sum = 0;
            for (size_t r = 0; r < inner; r++) sum += dot(from + r * m1 * m2, w2 + r * m2, m2);
            dw1[i] += (float)((double)p->alpha * sum);
        }
#pragma omp for
        for (size_t r = 0; r < seconds; r++)
            for (size_t i = 0; i < (size_t)p->l1; i++)
                for (size_t j = 0; j < m1; j++)
                    axpy(dw2 + r * m2, p->alpha * w1[i * m1 + j],
                         g + ((i * inner + r) * m1 + j) * m2, m2);
    }
}

/* ---- weight decomposition --------------------------------------------------- */

/* to = scale * v - pull * u (u NULL: without), n values from element i on. */
static void scale_block(Dtype dt, void *to, const float *v, const float *u, const float *scale,
                        const float *pull, int each, size_t i, size_t n)
{
    float t[BLOCK];
    for (size_t k = 0; k < n; k += VW) {
        size_t m = vec_left(k, n);
        vf s = each ? vec_get_most(DT_F32, scale, k, m) : vec_set(*scale);
        vf y = vec_mul(s, vec_get_most(DT_F32, v, i + k, m));
        if (u) {
            vf q = each ? vec_get_most(DT_F32, pull, k, m) : vec_set(*pull);
            y = vec_fnma(q, vec_get_most(DT_F32, u, i + k, m), y);
        }
        vec_put_most(DT_F32, t, k, y, m);
    }
    store(dt, to, i, t, n);
}

/* Sums of u*v down n <= BLOCK columns from column c on, of `rows` rows of k values. */
static void column_dots(double *sum, const float *u, const float *v, size_t rows, size_t k,
                        size_t c, size_t n)
{
    for (size_t i = 0; i < n; i++) sum[i] = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n; i++) sum[i] += (double)u[r * k + c + i] * v[r * k + c + i];
}

/* A column block: all of it for `in`. */
static void dora_columns(Dtype dt, const Dora *p, void *w, float *norm, const float *v,
                         const float *m, size_t c, size_t n)
{
    size_t k = (size_t)p->k, rows = (size_t)p->n * (size_t)p->s;
    double sum[BLOCK];
    float scale[BLOCK];
    column_dots(sum, v, v, rows, k, c, n);
    for (size_t i = 0; i < n; i++) {
        norm[c + i] = (float)sqrt(sum[i]);
        scale[i] = (float)(m[c + i] / (sqrt(sum[i]) + FLT_EPSILON));
    }
    for (size_t r = 0; r < rows; r++) scale_block(dt, w, v, NULL, scale, NULL, 1, r * k + c, n);
}

static void dora_row(Dtype dt, const Dora *p, void *w, float *norm, const float *v, const float *m,
                     size_t r)
{
    size_t n = (size_t)p->s * (size_t)p->k;
    double sum = dot(v + r * n, v + r * n, n);
    float scale = (float)(m[r] / (sqrt(sum) + FLT_EPSILON));
    norm[r] = (float)sqrt(sum);
    for (size_t i = 0; i < n; i += BLOCK)
        scale_block(dt, w, v, NULL, &scale, NULL, 0, r * n + i, n - i < BLOCK ? n - i : BLOCK);
}

static void dora_any(Dtype dt, Dev *d, const Dora *p, void *w, float *norm, const float *v,
                     const float *m)
{
    size_t n = (size_t)p->n, k = (size_t)p->k;
    if (p->in) {
#pragma omp parallel for num_threads(d->threads) if (n * k > CHUNK)
        for (size_t c = 0; c < k; c += BLOCK)
            dora_columns(dt, p, w, norm, v, m, c, k - c < BLOCK ? k - c : BLOCK);
    } else {
#pragma omp parallel for num_threads(d->threads) if (n * k > CHUNK)
        for (size_t r = 0; r < n; r++) dora_row(dt, p, w, norm, v, m, r);
    }
}

/* The two factors of dv = scale g - pull v, for g.v = dot. */
static float dora_factors(double dot, float norm, float m, float *pull, float *dm)
{
    double r = norm, u = r + FLT_EPSILON;
    *pull = r > 0 ? (float)(dot * m / (u * u * r)) : 0;
    if (dm) *dm += (float)(dot / u);
    return (float)(m / u);
}

static void dora_bwd_columns(const Dora *p, float *dv, float *dm, const float *g, const float *v,
                             const float *norm, const float *m, size_t c, size_t n)
{
    size_t k = (size_t)p->k, rows = (size_t)p->n * (size_t)p->s;
    double sum[BLOCK];
    float scale[BLOCK], pull[BLOCK];
    column_dots(sum, g, v, rows, k, c, n);
    for (size_t i = 0; i < n; i++)
        scale[i] = dora_factors(sum[i], norm[c + i], m[c + i], pull + i, dm ? dm + c + i : NULL);
    for (size_t r = 0; r < rows; r++) scale_block(DT_F32, dv, g, v, scale, pull, 1, r * k + c, n);
}

static void dora_bwd_row(const Dora *p, float *dv, float *dm, const float *g, const float *v,
                         const float *norm, const float *m, size_t r)
{
    size_t n = (size_t)p->s * (size_t)p->k;
    float pull, scale = dora_factors(dot(g + r * n, v + r * n, n), norm[r], m[r], &pull,
                                     dm ? dm + r : NULL);
    for (size_t i = 0; i < n; i += BLOCK)
        scale_block(DT_F32, dv, g, v, &scale, &pull, 0, r * n + i, n - i < BLOCK ? n - i : BLOCK);
}

F32_OP ISA(dora_bwd_f32)(Dev *d, const Dora *p, float *dv, float *dm, const float *g,
                         const float *v, const float *norm, const float *m)
{
    size_t n = (size_t)p->n, k = (size_t)p->k;
    if (p->in) {
#pragma omp parallel for num_threads(d->threads) if (n * k > CHUNK)
        for (size_t c = 0; c < k; c += BLOCK)
            dora_bwd_columns(p, dv, dm, g, v, norm, m, c, k - c < BLOCK ? k - c : BLOCK);
    } else {
#pragma omp parallel for num_threads(d->threads) if (n * k > CHUNK)
        for (size_t r = 0; r < n; r++) dora_bwd_row(p, dv, dm, g, v, norm, m, r);
    }
}

VEC_OP(compose,
       (Dev * d, const Compose *p, void *w, const void *base, const float *a, const float *b),
       (DT, d, p, w, base, a, b))
VEC_OP(kron, (Dev *d, const Kron *p, void *w, const void *base, const float *w1, const float *w2),
       (DT, d, p, w, base, w1, w2))
VEC_OP(dora, (Dev *d, const Dora *p, void *w, float *norm, const float *v, const float *m),
       (DT, d, p, w, norm, v, m))

/* ---- dropout ------------------------------------------------------------------ */

/* The hash is scalar: a LoRA's inner rows are short. */
static void dropout_row(Dtype dt, const Dropout *p, void *y, const void *x, uint32_t seed, int acc,
                        size_t row)
{
    size_t c = (size_t)p->c, n = row / (size_t)p->t;
    float scale = 1 / ((1 - p->each) * (1 - p->channel) * (1 - p->row)), t[BLOCK];
    int live =
        dropout_draw(seed, p, 3, 0) >= p->all && dropout_draw(seed, p, 2, (uint32_t)n) >= p->row;
    for (size_t i = 0; i < c; i += BLOCK) {
        size_t m = c - i < BLOCK ? c - i : BLOCK;
        for (size_t k = 0; k < m; k++) {
            int keep = live && dropout_draw(seed, p, 0, (uint32_t)(row * c + i + k)) >= p->each &&
                       dropout_draw(seed, p, 1, (uint32_t)(n * c + i + k)) >= p->channel;
            t[k] = keep ? scale : 0;
        }
        for (size_t k = 0; k < m; k += VW) {
            size_t left = vec_left(k, m);
            vf s = vec_get_most(DT_F32, t, k, left);
            VEC_BY(dt,
                   vec_acc_most(DT, y, row * c + i + k,
                                vec_mul(s, vec_get_most(DT, x, row * c + i + k, left)), left, acc));
        }
    }
}

static void dropout_any(Dtype dt, Dev *d, const Dropout *p, void *y, const void *x,
                        const int32_t *seed, int acc)
{
    size_t rows = (size_t)p->n * (size_t)p->t;
#pragma omp parallel for num_threads(d->threads) if (rows * (size_t)p->c > CHUNK)
    for (size_t r = 0; r < rows; r++) dropout_row(dt, p, y, x, (uint32_t)*seed, acc, r);
}

VEC_OP(dropout, (Dev *d, const Dropout *p, void *y, const void *x, const int32_t *seed, int acc),
       (DT, d, p, y, x, seed, acc))
