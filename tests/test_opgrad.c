/* test_opgrad.c - the reference ops (kernels/ref/) against a second, independent
 * statement of each forward in f64, and their gradients against its central
 * differences.
 *
 * Every forward is y = f(x), where x strings all differentiable inputs together.
 * With L = sum dy_j y_j, the reference backward must give dL/dx. Inputs are
 * about 1 large and exact in f32. A central difference in f64 with step h = 1e-4
 * is off by h^2 f'''/6 < 1e-7 and 2^-52 L / h < 1e-10; the reference computes in
 * f64 from stored statistics in f32 and rounds once: 2^-24 of a few terms. So
 * 1e-5 (1 + |gradient|) is a wide bound; a wrong term is of size 0.1.
 */
#include <stdlib.h>

#include "kernels/impl.h"
#include "tests/kern.h"
#include "tests/test.h"

enum { MAX = 1024 };

typedef void forward_fn(const void *p, const double *x, double *y);

typedef struct {
    float x[MAX], y[MAX], dy[MAX], dx[MAX];   /* dx: what the reference says */
    int nx, ny;
} Problem;

static void begin(Problem *t, uint64_t seed, int nx, int ny)
{
    KernRng r = {seed};
    *t = (Problem){.nx = nx, .ny = ny};
    for (int i = 0; i < nx; i++) t->x[i] = (float)kern_normal(&r);
    for (int i = 0; i < ny; i++) t->dy[i] = (float)kern_normal(&r);
}

/* 1 when y and dx of the problem are those of f. */
static int agrees(const Problem *t, forward_fn *f, const void *p)
{
    double x[MAX], y[MAX], loss[2], h = 1e-4;
    for (int i = 0; i < t->nx; i++) x[i] = (double)t->x[i];
    f(p, x, y);
    for (int j = 0; j < t->ny; j++)
        if (!(fabs(y[j] - (double)t->y[j]) <= 2e-6 * (1 + fabs(y[j])))) {
            test_fail(__FILE__, __LINE__, "output %d is %g, not %g", j, (double)t->y[j], y[j]);
            return 0;
        }
    for (int i = 0; i < t->nx; i++) {
        for (int s = 0; s < 2; s++) {
            x[i] = (double)t->x[i] + (s ? h : -h);
            f(p, x, y);
            loss[s] = 0;
            for (int j = 0; j < t->ny; j++) loss[s] += (double)t->dy[j] * y[j];
        }
        x[i] = (double)t->x[i];
        double want = (loss[1] - loss[0]) / (2 * h), got = (double)t->dx[i];
        if (!(fabs(got - want) <= 1e-5 * (1 + fabs(want)))) {
            test_fail(__FILE__, __LINE__, "gradient %d is %g, not %g", i, got, want);
            return 0;
        }
    }
    return 1;
}

/* ---- attention: x = q, k, v ---------------------------------------------- */

static void attention_f64(const void *params, const double *x, double *y)
{
    const Attention *p = params;
    int c = p->heads * p->d;
    const double *q = x, *k = q + p->n * p->tq * c, *v = k + p->n * p->tk * c;
    for (int n = 0; n < p->n; n++)
        for (int i = 0; i < p->tq; i++)
            for (int h = 0; h < p->heads; h++) {
                double e[64], sum = 0;
                for (int j = 0; j < p->tk; j++) {
                    double s = 0;
                    for (int a = h * p->d; a < (h + 1) * p->d; a++)
                        s += q[(n * p->tq + i) * c + a] * k[(n * p->tk + j) * c + a];
                    e[j] = p->causal && j > i ? 0 : exp(s * (double)p->scale);
                    sum += e[j];
                }
                for (int a = h * p->d; a < (h + 1) * p->d; a++) {
                    double o = 0;
                    for (int j = 0; j < p->tk; j++) o += e[j] * v[(n * p->tk + j) * c + a];
                    y[(n * p->tq + i) * c + a] = o / sum;
                }
            }
}

TEST(opgrad_attention)
{
    static const Attention cases[] = {{2, 3, 5, 2, 4, 0, 0.5f}, {1, 6, 6, 2, 3, 1, 0.6f}};
    for (int i = 0; i < 2; i++) {
        Attention p = cases[i];
        int q = p.n * p.tq * p.heads * p.d, k = p.n * p.tk * p.heads * p.d;
        Problem t;
        float lse[64];
        begin(&t, (uint64_t)i, q + 2 * k, q);
        attention_f32_ref(NULL, &p, t.y, lse, t.x, t.x + q, t.x + q + k);
        attention_bwd_f32_ref(NULL, &p, t.dx, t.dx + q, t.dx + q + k, t.dy, t.x, t.x + q,
                              t.x + q + k, t.y, lse);
        CHECK(agrees(&t, attention_f64, &p));
    }
}

/* ---- norms: x = x, w, b -------------------------------------------------- */

static void normalise(const double *x, double *y, int rows, int step, int width, double eps)
{
    double mean = 0, var = 0, m = rows * width;
    for (int i = 0; i < rows * width; i++) mean += x[i / width * step + i % width] / m;
    for (int i = 0; i < rows * width; i++) {
        double e = x[i / width * step + i % width] - mean;
        var += e * e / m;
    }
    for (int i = 0; i < rows * width; i++) {
        int k = i / width * step + i % width;
        y[k] = (x[k] - mean) / sqrt(var + eps);
    }
}

static void groupnorm_f64(const void *params, const double *x, double *y)
{
    const GroupNorm *p = params;
    int n = p->n * p->hw * p->c, cg = p->c / p->groups;
    for (int k = 0; k < p->n; k++)
        for (int g = 0; g < p->groups; g++)
            normalise(x + k * p->hw * p->c + g * cg, y + k * p->hw * p->c + g * cg, p->hw, p->c, cg,
                      (double)p->eps);
    for (int i = 0; i < n; i++) {
        y[i] = y[i] * x[n + i % p->c] + x[n + p->c + i % p->c];
        if (p->silu) y[i] /= 1 + exp(-y[i]);
    }
}

TEST(opgrad_groupnorm)
{
    static const GroupNorm cases[] = {{2, 5, 6, 2, 1, 1e-3f, 0}, {1, 4, 6, 3, 0, 1e-3f, 0}};
    for (int i = 0; i < 2; i++) {
        GroupNorm p = cases[i];
        int n = p.n * p.hw * p.c;
        Problem t;
        float stats[16];
        begin(&t, (uint64_t)i, n + 2 * p.c, n);
        groupnorm_f32_ref(NULL, &p, t.y, stats, t.x, t.x + n, t.x + n + p.c);
        groupnorm_bwd_f32_ref(NULL, &p, t.dx, t.dx + n, t.dx + n + p.c, t.dy, t.x, stats, t.x + n,
                              t.x + n + p.c, 0);
        CHECK(agrees(&t, groupnorm_f64, &p));
    }
}

static void layernorm_f64(const void *params, const double *x, double *y)
{
    const LayerNorm *p = params;
    int n = p->rows * p->c;
    for (int r = 0; r < p->rows; r++)
        normalise(x + r * p->c, y + r * p->c, 1, p->c, p->c, (double)p->eps);
    for (int i = 0; i < n; i++) y[i] = y[i] * x[n + i % p->c] + x[n + p->c + i % p->c];
}

TEST(opgrad_layernorm)
{
    LayerNorm p = {4, 7, 1e-3f};
    int n = p.rows * p.c;
    Problem t;
    float stats[8];
    begin(&t, 1, n + 2 * p.c, n);
    layernorm_f32_ref(NULL, &p, t.y, stats, t.x, t.x + n, t.x + n + p.c);
    layernorm_bwd_f32_ref(NULL, &p, t.dx, t.dx + n, t.dx + n + p.c, t.dy, t.x, stats, t.x + n, 0);
    CHECK(agrees(&t, layernorm_f64, &p));
}

/* ---- elementwise --------------------------------------------------------- */

static double gelu_f64(double x) { return x / 2 * (1 + erf(x / sqrt(2))); }

static void act_f64(const void *params, const double *x, double *y)
{
    const Act *p = params;
    for (size_t i = 0; i < p->count; i++)
        y[i] = p->kind == ACT_GELU ? gelu_f64(x[i])
               : p->kind == ACT_GELU_TANH
                   ? x[i] / 2 * (1 + tanh(0.79788456080286536 * (x[i] + 0.044715 * pow(x[i], 3))))
                   : x[i] / (1 + exp((p->kind == ACT_SILU ? -1 : -1.702) * x[i]));
}

static void geglu_f64(const void *params, const double *x, double *y)
{
    const Geglu *p = params;
    for (int i = 0; i < p->rows * p->c; i++) {
        const double *row = x + i / p->c * 2 * p->c;
        y[i] = row[i % p->c] * gelu_f64(row[p->c + i % p->c]);
    }
}

TEST(opgrad_act)
{
    for (int kind = 0; kind < 4; kind++) {
        Act p = {40, (ActKind)kind};
        Problem t;
        begin(&t, 5, 40, 40);
        for (int i = 0; i < 8; i++) t.x[i] *= 4;
        act_f32_ref(NULL, &p, t.y, t.x);
        act_bwd_f32_ref(NULL, &p, t.dx, t.dy, t.x, 0);
        CHECK(agrees(&t, act_f64, &p));
        float twice[40];
        memcpy(twice, t.dx, sizeof twice);
        act_bwd_f32_ref(NULL, &p, twice, t.dy, t.x, 1);
        for (int i = 0; i < 40; i++) CHECK_NEAR(twice[i], 2 * (double)t.dx[i], 1e-6);
    }
    Geglu g = {3, 7};
    Problem t;
    begin(&t, 6, 42, 21);
    geglu_f32_ref(NULL, &g, t.y, t.x);
    geglu_bwd_f32_ref(NULL, &g, t.dx, t.dy, t.x, 0);
    CHECK(agrees(&t, geglu_f64, &g));
}

/* ---- moves --------------------------------------------------------------- */

static void upsample2x_f64(const void *params, const double *x, double *y)
{
    const Upsample *p = params;
    int high = 2 * p->h - p->cut_h, wide = 2 * p->w - p->cut_w;
    for (int n = 0; n < p->n; n++)
        for (int i = 0; i < high; i++)
            for (int j = 0; j < wide; j++)
                for (int c = 0; c < p->c; c++)
                    y[((n * high + i) * wide + j) * p->c + c] =
                        x[((n * p->h + i / 2) * p->w + j / 2) * p->c + c];
}

static void concat_f64(const void *params, const double *x, double *y)
{
    const Concat *p = params;
    int c = p->ca + p->cb;
    for (int i = 0; i < p->rows * c; i++)
        y[i] = i % c < p->ca ? x[i / c * p->ca + i % c]
                             : x[p->rows * p->ca + i / c * p->cb + i % c - p->ca];
}

static void rowsum_f64(const void *params, const double *x, double *y)
{
    const Rowsum *p = params;
    memset(y, 0, (size_t)(p->n * p->c) * sizeof *y);
    for (int i = 0; i < p->n * p->hw * p->c; i++) y[i / (p->hw * p->c) * p->c + i % p->c] += x[i];
}

TEST(opgrad_moves)
{
    Problem t;
    Upsample u = {2, 2, 3, 4, 0, 0}, odd = {2, 2, 3, 4, 1, 1};
    begin(&t, 7, 48, 192);
    upsample2x_f32_ref(NULL, &u, t.y, t.x);
    upsample2x_bwd_f32_ref(NULL, &u, t.dx, t.dy, 0);
    CHECK(agrees(&t, upsample2x_f64, &u));
    begin(&t, 7, 48, 120);
    upsample2x_f32_ref(NULL, &odd, t.y, t.x);
    upsample2x_bwd_f32_ref(NULL, &odd, t.dx, t.dy, 0);
    CHECK(agrees(&t, upsample2x_f64, &odd));
    Concat c = {4, 3, 5};
    begin(&t, 8, 32, 32);
    concat_f32_ref(NULL, &c, t.y, t.x, t.x + 12);
    concat_bwd_f32_ref(NULL, &c, t.dx, t.dx + 12, t.dy, 0, 0);
    CHECK(agrees(&t, concat_f64, &c));
    Rowsum s = {2, 5, 3};
    begin(&t, 9, 30, 6);
    rowsum_f32_ref(NULL, &s, t.y, t.x, 0);
    for (int i = 0; i < 30; i++) t.dx[i] = t.dy[i / 15 * 3 + i % 3];    /* a broadcast */
    CHECK(agrees(&t, rowsum_f64, &s));
}

/* ---- embeddings ---------------------------------------------------------- */

static const int32_t ids[] = {1, 6, 1, 0, 5, 4};

/* x = the table, positions, and the rows behind the table. */
static void token_embed_f64(const void *params, const double *x, double *y)
{
    const TokenEmbed *p = params;
    for (int i = 0; i < p->n * p->t * p->c; i++) {
        int row = ids[i / p->c];
        if (row >= p->vocab) row += p->t;
        y[i] = x[row * p->c + i % p->c] + x[p->vocab * p->c + i % (p->t * p->c)];
    }
}

TEST(opgrad_token_embed)
{
    TokenEmbed p = {2, 3, 4, 5, 2, DT_F32};
    Problem t;
    begin(&t, 10, 20 + 12 + 8, 24);
    token_embed_f32_ref(NULL, &p, t.y, ids, t.x, t.x + 20, t.x + 32);
    token_embed_bwd_f32_ref(NULL, &p, t.dx, t.dx + 20, t.dx + 32, t.dy, ids);
    CHECK(agrees(&t, token_embed_f64, &p));
}

TEST(time_embed_values)
{
    TimeEmbed p = {2, 320};
    float y[640], t[2] = {0, 981.25f};
    time_embed_f32_ref(NULL, &p, y, t);
    for (int i = 0; i < 160; i++) {
        double f = pow(10000, -i / 160.0);
        CHECK(y[i] == 1 && y[160 + i] == 0);
        /* The exponent, up to 9.2, is rounded to f32 twice, f and t f once: f is
         * known to 1e-6, an angle to 981 times that. */
        CHECK_NEAR(y[320 + i], cos(981.25 * f), 1e-3 * f + 1e-7);
        CHECK_NEAR(y[480 + i], sin(981.25 * f), 1e-3 * f + 1e-7);
    }
}

/* ---- weights under an adapter -------------------------------------------- */

/* x = base, a, b */
static void compose_f64(const void *params, const double *x, double *y)
{
    const Compose *p = params;
    for (size_t i = 0; i < p->count; i++)
        y[i] = x[i] + (double)p->alpha * x[p->count + i] * x[2 * p->count + i];
}

TEST(opgrad_compose)
{
    Compose p = {12, 0.7f, DT_F32};
    Problem t;
    begin(&t, 20, 36, 12);
    compose_f32_ref(NULL, &p, t.y, t.x, t.x + 12, t.x + 24);
    compose_bwd_f32_ref(NULL, &p, t.dx + 12, t.dx + 24, t.dy, t.x + 12, t.x + 24);
    memcpy(t.dx, t.dy, 12 * sizeof *t.dx);           /* the base's, which nobody asks for */
    CHECK(agrees(&t, compose_f64, &p));
}

/* x = base, w1, w2 */
static void kron_f64(const void *params, const double *x, double *y)
{
    const Kron *p = params;
    int width = p->m1 * p->m2, count = p->l1 * p->l2 * p->s * width;
    const double *w1 = x + count, *w2 = w1 + p->l1 * p->m1;
    for (int o = 0; o < p->l1 * p->l2; o++)
        for (int s = 0; s < p->s; s++)
            for (int j = 0; j < width; j++) {
                double a = w1[o / p->l2 * p->m1 + j / p->m2];
                double b = w2[(o % p->l2 * p->s + s) * p->m2 + j % p->m2];
                y[(o * p->s + s) * width + j] =
                    x[(o * p->s + s) * width + j] + (double)p->alpha * a * b;
            }
}

TEST(opgrad_kron)
{
    static const Kron cases[] = {{2, 3, 4, 1, 2, 0.7f, DT_F32}, {3, 2, 2, 3, 5, 0.5f, DT_F32}};
    for (int i = 0; i < 2; i++) {
        Kron p = cases[i];
        int first = p.l1 * p.m1, second = p.l2 * p.s * p.m2, n = first * second;
        Problem t;
        begin(&t, (uint64_t)i, n + first + second, n);
        kron_f32_ref(NULL, &p, t.y, t.x, t.x + n, t.x + n + first);
        kron_bwd_f32_ref(NULL, &p, t.dx + n, t.dx + n + first, t.dy, t.x + n, t.x + n + first);
        memcpy(t.dx, t.dy, (size_t)n * sizeof *t.dx);
        CHECK(agrees(&t, kron_f64, &p));
    }
}

/* x = v, m */
static void dora_f64(const void *params, const double *x, double *y)
{
    const Dora *p = params;
    int n = p->n * p->s * p->k;
    for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int j = 0; j < n; j++)
            if (p->in ? j % p->k == i % p->k : j / (p->s * p->k) == i / (p->s * p->k))
                sum += x[j] * x[j];
        y[i] = x[i] * x[n + (p->in ? i % p->k : i / (p->s * p->k))] / (sqrt(sum) + 0x1p-23);
    }
}

TEST(opgrad_dora)
{
    static const Dora cases[] = {{3, 1, 5, 0}, {3, 1, 5, 1}, {2, 3, 4, 0}, {2, 3, 4, 1}};
    for (int i = 0; i < 4; i++) {
        Dora p = cases[i];
        int n = p.n * p.s * p.k, m = p.in ? p.k : p.n;
        float norm[8];
        Problem t;
        begin(&t, (uint64_t)i, n + m, n);
        dora_f32_ref(NULL, &p, t.y, norm, t.x, t.x + n);
        dora_bwd_f32_ref(NULL, &p, t.dx, t.dx + n, t.dy, t.x, norm, t.x + n);
        CHECK(agrees(&t, dora_f64, &p));
    }
}

/* ---- losses -------------------------------------------------------------- */

static const float target[24] = {0.5f, -1, 0.25f}, mask[8] = {1, 0.5f, 0, 1, 2, 1, 0.25f, 1};
static const float weight[2] = {1.5f, 0.5f}, huber_c[2] = {0.3f, 0.7f};

static void loss_f64(const void *params, const double *x, double *y)
{
    const Loss *p = params;
    int each = p->hw * p->c;
    *y = 0;
    for (int i = 0; i < p->n * each; i++) {
        double e = x[i] - (double)target[i], c = (double)huber_c[i / each];
        double root = sqrt(e * e + c * c) - c;
        double l = p->kind == LOSS_L2 ? e * e : p->kind == LOSS_L1 ? fabs(e)
                   : p->kind == LOSS_HUBER ? 2 * c * root : p->kind == LOSS_SMOOTH_L1 ? 2 * root
                   : log(1 + exp(x[i])) - x[i] * (double)target[i];
        *y += l * (double)mask[i / p->c] * (double)weight[i / each] / each / p->n;
    }
}

TEST(opgrad_loss)
{
    for (int kind = 0; kind < 5; kind++) {
        Loss p = {2, 4, 3, (LossKind)kind};
        Problem t;
        float per[2];
        begin(&t, 11, 24, 1);
        loss_f32_ref(NULL, &p, t.y, per, t.x, target, mask, weight, huber_c);
        loss_bwd_f32_ref(NULL, &p, t.dx, t.dy, t.x, target, mask, weight, huber_c);
        CHECK(agrees(&t, loss_f64, &p));
        CHECK_NEAR(t.y[0], ((double)per[0] + (double)per[1]) / 2, 1e-6);
        loss_f32_ref(NULL, &p, t.y, NULL, target, target, NULL, weight, huber_c);
        if (kind < LOSS_BCE) CHECK_NEAR(t.y[0], 0, 0);
    }
}

static const float picture[36] = {0.1f, 0.7f, -0.3f};

static void recon_f64(const void *params, const double *x, double *y)
{
    const Recon *p = params;
    double e[36], sum = 0, down = 0, right = 0, all = p->n * p->h * p->w * p->c;
    for (int i = 0; i < (int)all; i++) e[i] = x[i] - (double)picture[i];
    for (int i = 0; i < (int)all; i++) {
        int row = i / (p->w * p->c) % p->h, col = i / p->c % p->w;
        sum += fabs(e[i]) + e[i] * e[i];
        if (row + 1 < p->h) down += fabs(e[i + p->w * p->c] - e[i]);
        if (col + 1 < p->w) right += fabs(e[i + p->c] - e[i]);
    }
    double edges = down / (all / p->h * (p->h - 1)) + right / (all / p->w * (p->w - 1));
    *y = sum / all + (double)p->edge * edges;
}

TEST(opgrad_recon)
{
    Recon p = {2, 3, 2, 3, 0.5f};
    Problem t;
    begin(&t, 12, 36, 1);
    recon_f32_ref(NULL, &p, t.y, t.x, picture);
    recon_bwd_f32_ref(NULL, &p, t.dx, t.dy, t.x, picture);
    CHECK(agrees(&t, recon_f64, &p));
    Recon one = {1, 1, 1, 3, 0.5f};             /* no differences: no 0/0 */
    recon_f32_ref(NULL, &one, t.y, t.x, picture);
    CHECK(isfinite(t.y[0]));
}

static const float noise[12] = {0.3f, -1.2f, 0.8f, 2, -0.1f, 0.6f, 1, -0.4f, 0.9f, 0.2f, -2, 1.1f};

/* y = z and kl. */
static void gauss_f64(const void *params, const double *x, double *y)
{
    const Gauss *p = params;
    int n = p->rows * p->c;
    y[n] = 0;
    for (int i = 0; i < n; i++) {
        double mean = x[i / p->c * 2 * p->c + i % p->c];
        double v = x[(i / p->c * 2 + 1) * p->c + i % p->c];
        v = v < -30 ? -30 : v > 20 ? 20 : v;
        y[i] = mean + exp(v / 2) * (double)noise[i];
        y[n] += (mean * mean + exp(v) - 1 - v) / 2 / n;
    }
}

TEST(opgrad_gauss)
{
    Gauss p = {4, 3};
    Problem t;
    begin(&t, 13, 24, 13);
    t.x[3] = -40, t.x[10] = -31;                /* clamped log-variances */
    gauss_f32_ref(NULL, &p, t.y, t.y + 12, t.x, noise);
    gauss_bwd_f32_ref(NULL, &p, t.dx, t.dy, t.dy + 12, t.x, noise);
    CHECK(agrees(&t, gauss_f64, &p));
    t.x[3] = 25;
    gauss_bwd_f32_ref(NULL, &p, t.dx, t.dy, t.dy + 12, t.x, noise);
    CHECK_NEAR(t.dx[3], 0, 0);
    t.x[3] = 1;
    gauss_bwd_f32_ref(NULL, &p, t.dx, NULL, t.dy + 12, t.x, noise);
    for (int i = 0; i < 12; i++) t.dy[i] = 0;
    gauss_f32_ref(NULL, &p, t.y, t.y + 12, t.x, noise);
    CHECK(agrees(&t, gauss_f64, &p));
}
