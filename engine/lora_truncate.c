/* lora_truncate.c - the best approximation of a low-rank product by a lower rank.
 *
 *   up = Q1 R1,  down^T = Q2 R2,  R1 R2^T = U S V^T   =>   up down = (Q1 U) S (Q2 V)^T
 *
 * Everything but the two Gram-Schmidt passes is r x r, so the weight itself is
 * never formed. In f64. */
#include <math.h>
#include <string.h>

#include "engine/lora_merge.h"
#include "engine/mem.h"

/* All matrices are lists of r vectors; row i of a is vector i. */
typedef struct {
    int r, kept;
    size_t out, in;
    double *q1, *q2;        /* r vectors of out and of in elements */
    double *r1, *r2;        /* r x r, upper triangular: [i*r + k] is Ri,k */
    double *u, *v;          /* r vectors of r elements */
    double *s;
    int *order;             /* of the singular values, largest first */
} Svd;

static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Modified Gram-Schmidt, each vector twice, which makes it orthogonal to
 * rounding. A vector that depends on the earlier ones becomes 0. */
static void orthogonalize(double *q, double *r, int count, size_t n)
{
    for (int k = 0; k < count; k++) {
        double *x = q + (size_t)k * n, before = sqrt(dot(x, x, n));
        for (int pass = 0; pass < 2; pass++)
            for (int i = 0; i < k; i++) {
                const double *y = q + (size_t)i * n;
                double p = dot(x, y, n);
                r[(size_t)i * (size_t)count + (size_t)k] += p;
                for (size_t j = 0; j < n; j++) x[j] -= p * y[j];
            }
        double norm = sqrt(dot(x, x, n));
        int zero = norm <= 1e-13 * before;
        r[(size_t)k * (size_t)count + (size_t)k] = zero ? 0 : norm;
        for (size_t j = 0; j < n; j++) x[j] = zero ? 0 : x[j] / norm;
    }
}

/* Turns the vectors x, y of u, and with them those of v, so that x and y become
 * orthogonal. Returns how far they were from it. */
static double rotate(double *x, double *y, double *vx, double *vy, size_t n)
{
    double a = dot(x, x, n), b = dot(y, y, n), c = dot(x, y, n);
    if (c == 0 || a == 0 || b == 0) return 0;
    double zeta = (b - a) / (2 * c);
    double t = (zeta < 0 ? -1 : 1) / (fabs(zeta) + sqrt(1 + zeta * zeta));
    double cs = 1 / sqrt(1 + t * t), sn = cs * t;
    for (size_t j = 0; j < n; j++) {
        double p = x[j], q = y[j], vp = vx[j], vq = vy[j];
        x[j] = cs * p - sn * q;
        y[j] = sn * p + cs * q;
        vx[j] = cs * vp - sn * vq;
        vy[j] = sn * vp + cs * vq;
    }
    return fabs(c) / sqrt(a * b);
}

/* One-sided Jacobi (Hestenes 1958). u: the columns of the core; on return
 * unit vectors, s their lengths, v the right singular vectors. */
static void jacobi(Svd *d)
{
    size_t n = (size_t)d->r;
    for (size_t i = 0; i < n; i++) d->v[i * n + i] = 1;
    for (int sweep = 0; sweep < 60; sweep++) {
        double worst = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t j = i + 1; j < n; j++) {
                double off = rotate(d->u + i * n, d->u + j * n, d->v + i * n, d->v + j * n, n);
                if (off > worst) worst = off;
            }
        if (worst < 1e-12) break;
    }
    for (size_t i = 0; i < n; i++) {
        d->s[i] = sqrt(dot(d->u + i * n, d->u + i * n, n));
        for (size_t j = 0; j < n; j++) d->u[i * n + j] *= d->s[i] > 0 ? 1 / d->s[i] : 0;
    }
}

/* Largest first; r is small and the order must not depend on the C library. */
static void sort_values(Svd *d)
{
    for (int i = 0; i < d->r; i++) {
        int j = i;
        for (; j > 0 && d->s[d->order[j - 1]] < d->s[i]; j--) d->order[j] = d->order[j - 1];
        d->order[j] = i;
    }
}

/* Column k of the core R1 R2^T, for all k, into u. */
static void core(Svd *d)
{
    size_t n = (size_t)d->r;
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < n; i++)
            d->u[k * n + i] = dot(d->r1 + i * n, d->r2 + k * n, n);
}

/* Takes the factors apart into d; both are replaced. */
static void decompose(Svd *d, const LoraModule *m)
{
    size_t r = (size_t)d->r;
    for (size_t k = 0; k < r; k++) {
        for (size_t o = 0; o < d->out; o++) d->q1[k * d->out + o] = m->up[o * r + k];
        for (size_t j = 0; j < d->in; j++) d->q2[k * d->in + j] = m->down[k * d->in + j];
    }
    orthogonalize(d->q1, d->r1, d->r, d->out);
    orthogonalize(d->q2, d->r2, d->r, d->in);
    core(d);
    jacobi(d);
    sort_values(d);
}

/* up = Q1 U sqrt(S), down = sqrt(S) (Q2 V)^T: balanced, so that both survive f16. */
static void compose(const Svd *d, float *up, float *down)
{
    size_t r = (size_t)d->r, kept = (size_t)d->kept;
    for (size_t k = 0; k < kept; k++) {
        size_t c = (size_t)d->order[k];
        double root = sqrt(d->s[c]);
        for (size_t o = 0; o < d->out; o++) {
            double sum = 0;
            for (size_t i = 0; i < r; i++) sum += d->q1[i * d->out + o] * d->u[c * r + i];
            up[o * kept + k] = (float)(sum * root);
        }
        for (size_t j = 0; j < d->in; j++) {
            double sum = 0;
            for (size_t i = 0; i < r; i++) sum += d->q2[i * d->in + j] * d->v[c * r + i];
            down[k * d->in + j] = (float)(sum * root);
        }
    }
}

/* One block for everything in d; up and down get their own. */
static int allocate(Svd *d, LoraModule *small, Err *e)
{
    size_t r = (size_t)d->r;
    size_t n = r * (d->out + d->in) + 4 * r * r + r;
    d->q1 = mem_calloc(n, sizeof *d->q1);
    d->order = mem_calloc(r, sizeof *d->order);
    small->up = mem_alloc(d->out * (size_t)d->kept * sizeof *small->up);
    small->down = mem_alloc(d->in * (size_t)d->kept * sizeof *small->down);
    if (!d->q1 || !d->order || !small->up || !small->down)
        return err_nomem(e, n * sizeof *d->q1, small->target->name);
    d->q2 = d->q1 + r * d->out;
    d->r1 = d->q2 + r * d->in;
    d->r2 = d->r1 + r * r;
    d->u = d->r2 + r * r;
    d->v = d->u + r * r;
    d->s = d->v + r * r;
    return 0;
}

int lora_truncate(LoraModule *m, int rank, double *lost, double *total, Err *e)
{
    const LoraTarget *t = m->target;
    Svd d = {.r = m->rank, .kept = rank < m->rank ? rank : m->rank, .out = (size_t)t->out,
             .in = (size_t)t->in * (size_t)t->k * (size_t)t->k};
    LoraModule small = {.target = t, .rank = d.kept, .alpha = (float)d.kept};
    int rc = allocate(&d, &small, e);
    if (!rc) {
        decompose(&d, m);
        for (int i = 0; i < d.r; i++) {
            double s2 = d.s[d.order[i]] * d.s[d.order[i]];
            *total += s2;
            if (i >= d.kept) *lost += s2;
        }
        if (d.kept < d.r) {
            compose(&d, small.up, small.down);
            lora_module_free(m);
            *m = small;
            small = (LoraModule){0};
        }
    }
    lora_module_free(&small);
    mem_free(d.q1);
    mem_free(d.order);
    return rc;
}
