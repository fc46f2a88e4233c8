/* test_adapter_ops.c - the ops that compose a weight of a base and an adapter's factors:
 * every version against the reference, and the references against a second statement of
 * them in f64 and its central differences (test_opgrad.c has the bounds). */
#include "tests/cases.h"

CALLER(compose, CALL(compose, out[0], in[0], in[1], in[2]))
CALLER(compose_bwd, CALL(compose_bwd, out[0], out[1], in[0], in[1], in[2]))
CALLER(kron, CALL(kron, out[0], in[0], in[1], in[2]))
CALLER(kron_bwd, CALL(kron_bwd, out[0], out[1], in[0], in[1], in[2]))
CALLER(dora, CALL(dora, out[0], out[1], in[0], in[1]))
CALLER(dora_bwd, CALL(dora_bwd, out[0], out[1], in[0], in[1], in[2], in[3]))

TEST(kernels_compose)
{
    static const size_t counts[] = {1, 17, 255, 257, 1001, 40003};
    for (uint64_t i = 0; i < 6 * sizeof counts / sizeof *counts; i++) {
        size_t n = counts[i / 6], second = i % 2 ? n : 0;
        Compose exact = {n, 0.7f, DT_F32}, p = exact;
        p.wdt = (Dtype)(i % 3);
        Case f = {.op = "compose", .p = &p, .exact = &exact, .call = call_compose};
        reads(&f, p.wdt, n, KERN_NORMAL), reads(&f, DT_F32, n, KERN_NORMAL);
        reads(&f, DT_F32, second, KERN_NORMAL);
        writes(&f, T, n, 0, 4, 10, 0);
        Case b = {.op = "compose_bwd", .p = &p, .call = call_compose_bwd, .alias = i % 3 == 1};
        for (int k = 0; k < 2; k++) reads(&b, DT_F32, n, KERN_NORMAL);
        reads(&b, DT_F32, second, KERN_NORMAL);
        writes(&b, DT_F32, n, 0, 4, 10, 0), writes(&b, DT_F32, second, 0, 4, 10, 0);
        CHECK(case_check(&f, i) && case_check(&b, i));
    }
}

TEST(kernels_kron)
{
    static const Kron sizes[] = {{1, 1, 1, 1, 1, 1, DT_F32},
                                 {2, 3, 4, 1, 5, 0.5f, DT_F32},
                                 {3, 2, 2, 9, 17, 0.7f, DT_F32},
                                 {8, 4, 40, 1, 300, 0.7f, DT_F32},
                                 {5, 7, 3, 9, 16, 2, DT_F32}};
    for (uint64_t i = 0; i < 3 * sizeof sizes / sizeof *sizes; i++) {
        Kron exact = sizes[i / 3], p = exact;
        p.wdt = (Dtype)(i % 3);
        size_t first = (size_t)p.l1 * (size_t)p.m1,
               second = (size_t)p.l2 * (size_t)p.s * (size_t)p.m2;
        Case f = {.op = "kron", .p = &p, .exact = &exact, .call = call_kron};
        reads(&f, p.wdt, first * second, KERN_NORMAL), reads(&f, DT_F32, first, KERN_NORMAL);
        reads(&f, DT_F32, second, KERN_NORMAL);
        writes(&f, T, first * second, 0, 5, 10, 0);
        Case b = {.op = "kron_bwd", .p = &p, .call = call_kron_bwd};
        reads(&b, DT_F32, first * second, KERN_NORMAL), reads(&b, DT_F32, first, KERN_NORMAL);
        reads(&b, DT_F32, second, KERN_NORMAL);
        writes(&b, DT_F32, i % 5 == 4 ? 0 : first, 1,
               sum_ulps((double)second) * sqrt((double)second), 4, 0);
        writes(&b, DT_F32, i % 5 == 3 ? 0 : second, 1,
               sum_ulps((double)first) * sqrt((double)first), 4, 0);
        CHECK(case_check(&f, i) && case_check(&b, i));
    }
}

static size_t norms(const Dora *p) { return (size_t)(p->in ? p->k : p->n); }

/* The norms that the forward would have left. */
static void prepare_dora_bwd(Dev *d, const Case *c, void **in)
{
    const Dora *p = c->p;
    KernBuf w = kern_buf((size_t)p->n * (size_t)p->s * (size_t)p->k * 4);
    dora_f32_ref(d, p, w.p, in[2], in[1], in[3]);
    kern_free(&w);
}

/* A weight is m times a unit vector's element, |m| <= 6; a norm is a root of a sum of
 * terms of one sign. */
TEST(kernels_dora)
{
    static const Dora sizes[] = {{1, 1, 1, 0},  {3, 1, 7, 0},    {3, 1, 7, 1},     {5, 9, 17, 0},
                                 {5, 9, 17, 1}, {40, 1, 300, 0}, {300, 1, 520, 1}, {70, 9, 33, 0}};
    for (uint64_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        Dora p = sizes[i];
        size_t n = (size_t)p.n * (size_t)p.s * (size_t)p.k, m = norms(&p);
        double terms = (double)(n / m);
        Case f = {.op = "dora", .p = &p, .call = call_dora};
        reads(&f, DT_F32, n, KERN_NORMAL), reads(&f, DT_F32, m, KERN_NORMAL);
        writes(&f, T, n, 0, sum_ulps(terms), 6, 0), writes(&f, DT_F32, m, 0, sum_ulps(terms), 1, 0);
        Case b = {.op = "dora_bwd", .p = &p, .call = call_dora_bwd, .prepare = prepare_dora_bwd,
                  .alias = i % 2};
        reads(&b, DT_F32, n, KERN_NORMAL), reads(&b, DT_F32, n, KERN_NORMAL),
            reads(&b, DT_F32, m, KERN_NORMAL);
        reads(&b, DT_F32, m, KERN_NORMAL);
        writes(&b, DT_F32, n, 0, sum_ulps(terms), 36, 0);
        writes(&b, DT_F32, i == 3 ? 0 : m, 1, sum_ulps(terms), 36, 0);
        CHECK(case_check(&f, i) && case_check(&b, i));
    }
}

CALLER(dropout, CALL(dropout, out[0], in[0], in[1], c->out[0].acc))

static void prepare_dropout(Dev *d, const Case *c, void **in)
{
    (void)d, (void)c;
    *(int32_t *)in[1] = 12345;
}

TEST(kernels_dropout)
{
    static const Dropout sizes[] = {{1, 1, 1, 0.5f, 0, 0, 0, 1},
                                    {3, 5, 17, 0.5f, 0, 0, 0, 2},
                                    {3, 5, 17, 0, 0.3f, 0, 0, 3},
                                    {40, 1, 8, 0, 0, 0.4f, 0, 4},
                                    {2, 300, 16, 0.1f, 0.2f, 0.3f, 0.5f, 5},
                                    {2, 9, 300, 0.3f, 0, 0, 0, 6}};
    for (uint64_t i = 0; i < 2 * sizeof sizes / sizeof *sizes; i++) {
        Dropout p = sizes[i / 2];
        size_t n = (size_t)p.n * (size_t)p.t * (size_t)p.c;
        Case f = {.op = "dropout", .p = &p, .call = call_dropout, .prepare = prepare_dropout};
        reads(&f, T, n, KERN_NORMAL), reads(&f, DT_F32, 1, KERN_NORMAL);
        writes(&f, T, n, i % 2, 4, 10, 0);
        CHECK(case_check(&f, i));
    }
}

/* As many elements are kept as the probability says (five deviations), with the mean of
 * what there was; another seed keeps others. */
TEST(dropout_keeps_its_share)
{
    enum { N = 50, C = 400 };
    static float x[N * C], y[2][N * C];
    Dropout p = {N, 1, C, 0.3f, 0, 0, 0, 7};
    int kept[2] = {0}, same = 0;
    for (int i = 0; i < N * C; i++) x[i] = 1;
    for (int32_t k = 0; k < 2; k++) {
        dropout_f32_ref(NULL, &p, y[k], x, &k, 0);
        for (int i = 0; i < N * C; i++) kept[k] += y[k][i] != 0;
        CHECK_NEAR(kept[k], N * C * 0.7, 5 * sqrt(N * C * 0.3 * 0.7));
        for (int i = 0; i < N * C; i++)
            CHECK(y[k][i] == 0 || fabs((double)y[k][i] - 1 / 0.7) < 1e-6);
    }
    for (int i = 0; i < N * C; i++) same += (y[0][i] != 0) == (y[1][i] != 0);
    CHECK_NEAR(same, N * C * (0.7 * 0.7 + 0.3 * 0.3), 5 * sqrt(N * C * 0.25));
}
