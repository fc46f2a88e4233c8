/* test_kernels.c - every version of attention, norms, elementwise ops, moves and
 * casts against the reference (tests/cases.h). Products: test_gemm.c, test_conv.c;
 * embeddings and losses: test_kernels_small.c. */
#include "kernels/half.h"
#include "tests/cases.h"

/* ---- attention ----------------------------------------------------------- */

CALLER(attention, CALL(attention, out[0], out[1], in[0], in[1], in[2]))
CALLER(attention_bwd, CALL(attention_bwd, out[0], out[1], out[2], in[0], in[1], in[2], in[3], in[4],
                           in[5]))

static size_t scratch_attention(const Dev *d, const Case *c, Dtype dt)
{
    Ops ops;
    ops_init(&ops, d);
    return ops.attention_scratch(d, c->p, dt, !strcmp(c->op, "attention_bwd"));
}

static void prepare_attention_bwd(Dev *d, const Case *c, void **in)
{
    attention_f32_ref(d, c->p, in[4], in[5], in[1], in[2], in[3]);
}

/* q, k, v are normal, below 6. A score is a sum of d products times scale; its
 * error moves a probability by as much, relatively. */
static int check_attention(const Attention *p, int with_lse, uint64_t seed)
{
    size_t c = (size_t)p->heads * p->d, q = p->n * p->tq * c, k = p->n * p->tk * c;
    size_t rows = (size_t)p->n * p->heads * p->tq;
    double ulps = 16 * sqrt(p->d) * (double)p->scale + sum_ulps(p->tk) + 16;
    Case f = {.op = "attention", .p = p, .call = call_attention, .scratch = scratch_attention};
    reads(&f, T, q, KERN_NORMAL), reads(&f, T, k, KERN_NORMAL), reads(&f, T, k, KERN_NORMAL);
    writes(&f, T, q, 0, ulps, 6, 2);
    writes(&f, DT_F32, with_lse ? rows : 0, 0, ulps, 8, 0);
    Case b = {.op = "attention_bwd", .p = p, .call = call_attention_bwd,
              .scratch = scratch_attention, .prepare = prepare_attention_bwd};
    reads(&b, T, q, KERN_NORMAL);
    reads(&b, T, q, KERN_NORMAL), reads(&b, T, k, KERN_NORMAL), reads(&b, T, k, KERN_NORMAL);
    reads(&b, T, q, KERN_NORMAL), reads(&b, DT_F32, rows, KERN_NORMAL);
    /* dS is P (dP - delta), dP a sum of d products: 6 sqrt(d) large. */
    double size = 6 * sqrt(p->d) * (double)p->scale + 6, many = sqrt(p->tq) + 1;
    writes(&b, T, seed % 3 == 1 ? 0 : q, 0, ulps, size * 4, 1);
    size_t kv = seed % 3 == 2 ? 0 : k;
    writes(&b, T, kv, 0, ulps, size * many, 1), writes(&b, T, kv, 0, ulps, size * many, 1);
    return case_check(&f, seed) && case_check(&b, seed + 1000);
}

TEST(kernels_attention)
{
    static const Attention p[] = {
        {1, 1, 1, 1, 8, 0, 0.35f},    {1, 3, 5, 2, 8, 0, 0.35f},    {2, 17, 33, 2, 16, 0, 0.25f},
        {1, 77, 77, 3, 24, 1, 0.2f},  {1, 49, 97, 2, 40, 0, 0.16f}, {2, 95, 77, 2, 64, 0, 0.125f},
        {1, 48, 96, 1, 80, 0, 0.1f},  {1, 47, 200, 1, 512, 0, 0.04f},
        {1, 64, 154, 1, 160, 0, 0.08f}, {1, 33, 33, 1, 7, 1, 0.4f},
        {1, 200, 200, 2, 40, 1, 0.16f}, {2, 300, 25, 1, 8, 0, 0.35f},
        {1, 130, 145, 2, 40, 0, 0.16f}, {1, 1, 97, 3, 16, 0, 0.25f}, {1, 98, 1, 1, 64, 0, 0.125f},
        {1, 77, 77, 2, 64, 1, 0.125f}, {1, 70, 77, 2, 160, 0, 0.08f}, {1, 77, 77, 1, 80, 1, 0.11f},
        {1, 40, 40, 1, 320, 1, 0.06f}, {1, 35, 150, 1, 512, 0, 0.04f}, {1, 9, 40, 1, 600, 0, 0.04f},
        {1, 520, 77, 2, 40, 0, 0.16f},
    };
    for (size_t i = 0; i < sizeof p / sizeof *p; i++) CHECK(check_attention(p + i, i % 4 != 2, i));
}

/* One version for f32 on arrays of the host, 64-byte aligned or not. */
static int attend(const KernImpl *im, const Attention *p, float *o, float *lse, float *q, float *k,
                  float *v)
{
    KernDev kd = kern_open_for(im, 1);
    size_t row = (size_t)p->heads * (size_t)p->d * 4, nq = (size_t)p->n * (size_t)p->tq;
    size_t nk = (size_t)p->n * (size_t)p->tk;
    Ops ops;
    ops_init(&ops, kd.d);
    kern_ws(&kd, ops.attention_scratch(kd.d, p, DT_F32, 1));
    void *l = kern_on(&kd, lse, nq * (size_t)p->heads * 4);
    ((attention_fn *)im->fn)(kd.d, p, kern_on(&kd, o, nq * row), l, kern_on(&kd, q, nq * row),
                             kern_on(&kd, k, nk * row), kern_on(&kd, v, nk * row));
    return kern_close(&kd);
}

/* Rows whose scores are far apart, and far from 0: the softmax must not overflow
 * and picks the largest score's v. */
TEST(kernels_attention_large_scores)
{
    enum { TQ = 5, TK = 50, D = 8 };
    KernDev kd = kern_open(1, ~0u);
    Attention p = {1, TQ, TK, 1, D, 0, 1.0f};
    float q[TQ * D] = {0}, k[TK * D] = {0}, v[TK * D], o[TQ * D], lse[TQ];
    for (int i = 0; i < TQ; i++) q[i * D] = 100;
    for (int j = 0; j < TK; j++) k[j * D] = (float)(j == 31 ? 90 : j % 7) - 45;
    for (int j = 0; j < TK * D; j++) v[j] = (float)(j / D);
    for (const KernImpl *im = NULL; (im = kern_next("attention", im, kd.d));) {
        if (im->dt != DT_F32) continue;
        CHECK(attend(im, &p, o, lse, q, k, v));
        for (int i = 0; i < TQ * D; i++) CHECK_NEAR(o[i], 31, 1e-5);
        for (int i = 0; i < TQ; i++) CHECK_NEAR(lse[i], 4500, 1e-3);
    }
    CHECK(kern_close(&kd));
}

/* Two keys, one with score 0 and v 0, one with score s and v 1: the output is
 * 1 / (1 + e^-s), so this sees the exponential alone. It is good to 2.2e-7, sum
 * and quotient add 1.8e-7; scale log2(e) is rounded, which moves s by 2^-24 s. */
TEST(kernels_attention_exponential)
{
    enum { TQ = 1500 };
    KernDev kd = kern_open(1, ~0u);
    Attention p = {1, TQ, 2, 1, 1, 0, 1.0f};
    float q[TQ], k[2] = {0, 1}, v[2] = {0, 1}, o[TQ];
    for (int i = 0; i < TQ; i++) q[i] = (float)i * -0.0531f;
    for (const KernImpl *im = NULL; (im = kern_next("attention", im, kd.d));) {
        if (im->dt != DT_F32) continue;
        CHECK(attend(im, &p, o, NULL, q, k, v));
        for (int i = 0; i < TQ; i++) {
            double want = 1 / (1 + exp(-(double)q[i]));
            CHECK_NEAR(o[i], want, want * (4e-7 + 1.2e-7 * fabs((double)q[i])));
        }
    }
    CHECK(kern_close(&kd));
}

/* ---- normalisation ------------------------------------------------------- */

CALLER(groupnorm, CALL(groupnorm, out[0], out[1], in[0], in[1], in[2]))
CALLER(groupnorm_bwd, CALL(groupnorm_bwd, out[0], out[1], out[2], in[0], in[1], in[2], in[3], in[4],
                           c->out[0].acc))
CALLER(layernorm, CALL(layernorm, out[0], out[1], in[0], in[1], in[2]))
CALLER(layernorm_bwd, CALL(layernorm_bwd, out[0], out[1], out[2], in[0], in[1], in[2], in[3],
                           c->out[0].acc))

static void prepare_groupnorm_bwd(Dev *d, const Case *c, void **in)
{
    const GroupNorm *p = c->p;
    KernBuf y = kern_buf((size_t)p->n * p->hw * p->c * 4);
    groupnorm_f32_ref(d, p, y.p, in[2], in[1], in[3], in[4]);
    kern_free(&y);
}

/* x is known to 2^-24 |mean|, which rstd (1 for normal x, at most 1/sqrt(eps)
 * otherwise) makes larger. */
static int check_groupnorm(const GroupNorm *p, KernKind kind, uint64_t seed)
{
    size_t ch = (size_t)p->c, x = (size_t)p->n * p->hw * ch, st = (size_t)p->n * p->groups * 2;
    double m = (double)p->hw * p->c / p->groups, mean = kind == KERN_MEAN ? 100 : 1;
    double ulps = sum_ulps(m) * (m < 4 ? 1 / sqrt((double)p->eps) : 1);
    Case f = {.op = "groupnorm", .p = p, .call = call_groupnorm, .alias = seed % 2};
    reads(&f, T, x, kind), reads(&f, DT_F32, ch, KERN_NORMAL), reads(&f, DT_F32, ch, KERN_NORMAL);
    writes(&f, T, x, 0, ulps, 6 * mean, 0);
    writes(&f, DT_F32, seed % 3 ? st : 0, 0, ulps, mean, 0);
    Case b = {.op = "groupnorm_bwd", .p = p, .call = call_groupnorm_bwd,
              .prepare = prepare_groupnorm_bwd, .alias = seed % 3 == 1};
    reads(&b, T, x, KERN_NORMAL), reads(&b, T, x, kind), reads(&b, DT_F32, st, KERN_NORMAL);
    reads(&b, DT_F32, ch, KERN_NORMAL), reads(&b, DT_F32, ch, KERN_NORMAL);
    writes(&b, T, x, seed % 3 != 1, ulps, 36, 0);
    double sum = sum_ulps((double)p->n * p->hw) * sqrt((double)p->n * p->hw);
    int frozen = seed % 27 == 18;
    writes(&b, DT_F32, seed % 4 == 3 || frozen ? 0 : ch, 1, sum, 36, 0);
    writes(&b, DT_F32, seed % 5 == 4 || frozen ? 0 : ch, 1, sum, 36, 0);
    return case_check(&f, seed) && case_check(&b, seed + 1000);
}

TEST(kernels_groupnorm)
{
    static const GroupNorm p[] = {
        {1, 1, 8, 2, 0, 1e-5f, 0},      {1, 1, 3, 3, 1, 1e-2f, 0},
        {2, 3, 12, 4, 1, 1e-5f, 0},     {1, 16, 320, 32, 1, 1e-5f, 0},
        {2, 257, 96, 32, 0, 1e-6f, 0},  {1, 1030, 40, 4, 1, 1e-5f, 0},
        {1, 64, 1280, 32, 1, 1e-5f, 0}, {1, 20, 17, 1, 1, 1e-5f, 0},
        {1, 33, 300, 300, 0, 1e-5f, 0}, {1, 5, 4112, 257, 1, 1e-5f, 0},
        {1, 4099, 32, 32, 1, 1e-6f, 0}, {3, 130, 130, 10, 0, 1e-5f, 0},
        {300, 3, 12, 4, 1, 1e-5f, 0},
    };
    for (size_t i = 0; i < sizeof p / sizeof *p; i++)
        for (int kind = 0; kind < KERN_KINDS; kind++)
            if (i < 4 || (int)i % KERN_KINDS == kind)
                CHECK(check_groupnorm(p + i, (KernKind)kind, i * 3 + (uint64_t)kind));
}

static void prepare_layernorm_bwd(Dev *d, const Case *c, void **in)
{
    const LayerNorm *p = c->p;
    KernBuf y = kern_buf((size_t)p->rows * p->c * 4), w = kern_buf((size_t)p->c * 4);
    memset(w.p, 0, w.bytes);
    layernorm_f32_ref(d, p, y.p, in[2], in[1], w.p, w.p);
    kern_free(&y), kern_free(&w);
}

static int check_layernorm(const LayerNorm *p, KernKind kind, uint64_t seed)
{
    size_t ch = (size_t)p->c, x = (size_t)p->rows * ch, st = (size_t)p->rows * 2;
    double mean = kind == KERN_MEAN ? 100 : 1;
    double ulps = sum_ulps(p->c) * (p->c < 4 ? 1 / sqrt((double)p->eps) : 1);
    Case f = {.op = "layernorm", .p = p, .call = call_layernorm, .alias = seed % 2};
    reads(&f, T, x, kind), reads(&f, DT_F32, ch, KERN_NORMAL), reads(&f, DT_F32, ch, KERN_NORMAL);
    writes(&f, T, x, 0, ulps, 6 * mean, 0);
    writes(&f, DT_F32, seed % 3 ? st : 0, 0, ulps, mean, 0);
    Case b = {.op = "layernorm_bwd", .p = p, .call = call_layernorm_bwd,
              .prepare = prepare_layernorm_bwd};
    reads(&b, T, x, KERN_NORMAL), reads(&b, T, x, kind), reads(&b, DT_F32, st, KERN_NORMAL);
    reads(&b, DT_F32, ch, KERN_NORMAL);
    writes(&b, T, x, seed % 2 == 0, ulps, 36, 0);
    double sum = sum_ulps(p->rows) * sqrt(p->rows);
    writes(&b, DT_F32, seed % 4 == 3 ? 0 : ch, 1, sum, 36, 0);
    writes(&b, DT_F32, seed % 5 == 4 ? 0 : ch, 1, sum, 36, 0);
    return case_check(&f, seed) && case_check(&b, seed + 1000);
}

TEST(kernels_layernorm)
{
    static const LayerNorm p[] = {{1, 1, 1e-2f}, {3, 7, 1e-5f}, {5, 16, 1e-5f}, {9, 65, 1e-5f},
                                  {300, 95, 1e-5f}, {20, 1280, 1e-5f}, {7, 2100, 1e-5f}};
    for (size_t i = 0; i < sizeof p / sizeof *p; i++)
        for (int kind = 0; kind < KERN_KINDS; kind++)
            CHECK(check_layernorm(p + i, (KernKind)kind, i * 3 + (uint64_t)kind));
}

/* ---- elementwise --------------------------------------------------------- */

CALLER(act, CALL(act, out[0], in[0]))
CALLER(act_bwd, CALL(act_bwd, out[0], in[0], in[1], c->out[0].acc))
CALLER(geglu, CALL(geglu, out[0], in[0]))
CALLER(geglu_bwd, CALL(geglu_bwd, out[0], in[0], in[1], c->out[0].acc))
CALLER(add, ((add_fn *)fn)(d, *(const size_t *)c->p, out[0], in[0], in[1]))

TEST(kernels_act)
{
    static const size_t counts[] = {1, 7, 15, 17, 64, 1001, 40000};
    for (uint64_t i = 0; i < 4 * sizeof counts / sizeof *counts; i++) {
        Act p = {counts[i / 4], (ActKind)(i % 4)};
        Case f = {.op = "act", .p = &p, .call = call_act, .alias = i / 4 % 2};
        reads(&f, T, p.count, i % 7 == 6 ? KERN_MEAN : KERN_NORMAL);
        writes(&f, T, p.count, 0, 20, 1, 0);
        Case b = {.op = "act_bwd", .p = &p, .call = call_act_bwd};
        reads(&b, T, p.count, KERN_NORMAL), reads(&b, T, p.count, KERN_NORMAL);
        writes(&b, T, p.count, i / 4 % 2, 20, 6, 0);
        CHECK(case_check(&f, i) && case_check(&b, i));
    }
}

/* Far out, where exponentials under- and overflow, and at what is no number. */
TEST(kernels_act_extremes)
{
    static float x[] = {0.0f, -0.0f, 1e-30f, -1e-30f, 10, -10, 50, -50, 95, -95, 1e4f, -1e4f,
                              3e38f, -3e38f, INFINITY, NAN};
    enum { N = sizeof x / sizeof *x };
    KernDev kd = kern_open(1, ~0u);
    for (int kind = 0; kind < 4; kind++) {
        Act p = {N, (ActKind)kind};
        float want[N], y[N], slope[N], dx[N], ones[N];
        for (int i = 0; i < N; i++) ones[i] = 1;
        act_f32_ref(kd.d, &p, want, x);
        act_bwd_f32_ref(kd.d, &p, slope, ones, x, 0);
        for (const KernImpl *im = NULL; (im = kern_next("act", im, kd.d));) {
            if (im->dt != DT_F32) continue;
            KernDev on = kern_open_for(im, 1);
            ((act_fn *)im->fn)(on.d, &p, kern_on(&on, y, sizeof y), kern_on(&on, x, sizeof x));
            CHECK(kern_close(&on));
            /* Rounding 1.702 x moves a tail by up to 170 2^-24; gelu's by x^2 2^-24. */
            CHECK(kern_gap(DT_F32, y, want, N, 1e-37, 2e-5) <= 1 || kind == ACT_GELU);
            CHECK(kern_gap(DT_F32, y, want, N, 1e-6, 3e-7) <= 1);
        }
        for (const KernImpl *im = NULL; (im = kern_next("act_bwd", im, kd.d));) {
            if (im->dt != DT_F32) continue;
            KernDev on = kern_open_for(im, 1);
            ((act_bwd_fn *)im->fn)(on.d, &p, kern_on(&on, dx, sizeof dx),
                                   kern_on(&on, ones, sizeof ones), kern_on(&on, x, sizeof x), 0);
            CHECK(kern_close(&on));
            CHECK(kern_gap(DT_F32, dx, slope, N - 4, 1e-6, 3e-7) <= 1);
        }
    }
    CHECK(kern_close(&kd));
}

TEST(kernels_geglu_add)
{
    static const Geglu sizes[] = {{1, 1}, {3, 5}, {2, 16}, {7, 33}, {70, 320}};
    for (uint64_t i = 0; i < 2 * sizeof sizes / sizeof *sizes; i++) {
        Geglu p = sizes[i / 2];
        size_t n = (size_t)p.rows * p.c;
        Case f = {.op = "geglu", .p = &p, .call = call_geglu};
        reads(&f, T, 2 * n, KERN_NORMAL);
        writes(&f, T, n, 0, 20, 6, 0);
        Case b = {.op = "geglu_bwd", .p = &p, .call = call_geglu_bwd};
        reads(&b, T, n, KERN_NORMAL), reads(&b, T, 2 * n, KERN_NORMAL);
        writes(&b, T, 2 * n, i % 2, 20, 36, 0);
        Case a = {.op = "add", .p = &n, .call = call_add, .alias = (int)(i % 3)};
        reads(&a, T, n, KERN_NORMAL), reads(&a, T, n, KERN_MEAN);
        writes(&a, T, n, 0, 1, 1, 0);
        CHECK(case_check(&f, i) && case_check(&b, i) && case_check(&a, i));
    }
}

/* ---- moves --------------------------------------------------------------- */

CALLER(upsample2x, CALL(upsample2x, out[0], in[0]))
CALLER(upsample2x_bwd, CALL(upsample2x_bwd, out[0], in[0], c->out[0].acc))
CALLER(concat, CALL(concat, out[0], in[0], in[1]))
CALLER(concat_bwd, CALL(concat_bwd, out[0], out[1], in[0], c->out[0].acc, c->out[1].acc))
CALLER(rowsum, CALL(rowsum, out[0], in[0], c->out[0].acc))

TEST(kernels_upsample)
{
    static const Upsample sizes[] = {{1, 1, 1, 1, 0, 0}, {2, 3, 5, 7, 0, 0}, {1, 4, 4, 16, 0, 0},
        {2, 16, 16, 33, 0, 0}, {1, 1, 1, 5, 1, 1}, {2, 3, 4, 9, 1, 0}, {3, 5, 2, 40, 0, 1},
        {2, 7, 7, 64, 1, 1}};
    for (uint64_t i = 0; i < 2 * sizeof sizes / sizeof *sizes; i++) {
        Upsample p = sizes[i / 2];
        size_t n = (size_t)p.n * p.h * p.w * p.c;
        size_t big = (size_t)p.n * (2 * p.h - p.cut_h) * (2 * p.w - p.cut_w) * p.c;
        Case f = {.op = "upsample2x", .p = &p, .call = call_upsample2x};
        reads(&f, T, n, KERN_NORMAL), writes(&f, T, big, 0, 0, 0, 0);
        Case b = {.op = "upsample2x_bwd", .p = &p, .call = call_upsample2x_bwd};
        reads(&b, T, big, KERN_NORMAL), writes(&b, T, n, i % 2, 4, 6, 0);
        CHECK(case_check(&f, i) && case_check(&b, i));
    }
}

TEST(kernels_concat)
{
    static const Concat sizes[] = {{1, 1, 1}, {3, 5, 2}, {4, 16, 32}, {7, 33, 15}, {50, 320, 160}};
    for (uint64_t i = 0; i < 4 * sizeof sizes / sizeof *sizes; i++) {
        Concat p = sizes[i / 4];
        size_t a = (size_t)p.rows * p.ca, b = (size_t)p.rows * p.cb;
        Case f = {.op = "concat", .p = &p, .call = call_concat};
        reads(&f, T, a, KERN_NORMAL), reads(&f, T, b, KERN_NORMAL);
        writes(&f, T, a + b, 0, 0, 0, 0);
        Case g = {.op = "concat_bwd", .p = &p, .call = call_concat_bwd};
        reads(&g, T, a + b, KERN_NORMAL);
        writes(&g, T, i % 4 == 2 ? 0 : a, i % 2, 1, 1, 0);
        writes(&g, T, i % 4 == 3 ? 0 : b, i % 4 == 1 || i % 4 == 2, 1, 1, 0);
        CHECK(case_check(&f, i) && case_check(&g, i));
    }
}

TEST(kernels_rowsum)
{
    static const Rowsum sizes[] = {{1, 1, 1}, {2, 5, 17}, {3, 129, 64}, {2, 300, 70}, {1, 1000, 5},
                                   {300, 3, 5}};
    for (uint64_t i = 0; i < 2 * sizeof sizes / sizeof *sizes; i++) {
        Rowsum p = sizes[i / 2];
        Case f = {.op = "rowsum", .p = &p, .call = call_rowsum};
        reads(&f, T, (size_t)p.n * p.hw * p.c, KERN_NORMAL);
        writes(&f, T, (size_t)p.n * p.c, i % 2, sum_ulps(p.hw) * sqrt(p.hw), 1, 0);
        CHECK(case_check(&f, i));
    }
}

/* Every bit as half.h rounds. */
TEST(kernels_cast)
{
    static const size_t counts[] = {1, 7, 17, 1000, 40001};
    static const char *const names[] = {"cast_f32", "cast_bf16", "cast_f16"};
    for (uint64_t i = 0; i < 4 * sizeof counts / sizeof *counts; i++) {
        size_t n = counts[i / 4];
        KernRng r = {i};
        KernDev kd = kern_open(2, ~0u);
        for (const KernImpl *im = NULL; (im = kern_next(names[i % 3], im, kd.d));) {
            Dtype to = (Dtype)(i % 3);
            KernBuf x = kern_tensor(&r, im->dt, n, KERN_NORMAL), y = kern_buf(n * dtype_bytes(to));
            KernBuf want = kern_as(to, im->dt, x.p, n);
            KernDev on = kern_open_for(im, 2);
            ((cast_fn *)im->fn)(on.d, n, kern_on(&on, y.p, y.bytes), kern_on(&on, x.p, x.bytes));
            CHECK(kern_close(&on));
            int same = !memcmp(y.p, want.p, y.bytes);
            CHECK(kern_free(&x) & kern_free(&y) & kern_free(&want));
            CHECK(same);
        }
        CHECK(kern_close(&kd));
    }
}

TEST(kernels_half)
{
    CHECK_INT(f32_to_bf16(1.00390625f), 0x3f80);        /* half way: to even */
    CHECK_INT(f32_to_bf16(1.01171875f), 0x3f82);
    CHECK_INT(f32_to_bf16(3.4e38f), 0x7f80);
    CHECK_INT(f32_to_f16(65519.0f), 0x7bff);
    CHECK_INT(f32_to_f16(65520.0f), 0x7c00);
    CHECK_INT(f32_to_f16(0x1p-25f), 0);
    CHECK_INT(f32_to_f16(0x1.8p-24f), 2);
    CHECK_INT(f32_to_f16(-0x1p-14f), 0x8400);
    CHECK(isnan(bf16_to_f32(f32_to_bf16(f32_from_bits(0x7f800001)))));
    CHECK(isnan(f16_to_f32(f32_to_f16(f32_from_bits(0xff800001)))));
    for (unsigned h = 0; h < 0x10000; h++) {
        float f = f16_to_f32((uint16_t)h), b = bf16_to_f32((uint16_t)h);
        CHECK(isnan(f) || f32_to_f16(f) == h);
        CHECK(isnan(b) || f32_to_bf16(b) == h);
    }
}
