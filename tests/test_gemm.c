/* test_gemm.c - every version of linear, linear_dx, linear_dw (impl.def) against
 * the reference, and the reference gradients against finite differences. */
#include "tests/products.h"

typedef struct { int m, n, k; Dtype wdt; KernKind kind; int extra; double alpha; } Case;

/* Bound and thread checks need every version; a failure names the case. */
static int fail(const KernImpl *i, const Case *c, const char *what, double x)
{
    test_fail(__FILE__, __LINE__, "%s_%s_%s m %d n %d k %d w %s: %s %g", i->op, kern_dtype(i->dt),
              i->impl, c->m, c->n, c->k, kern_dtype(c->wdt), what, x);
    return 0;
}

/* The operands of one case and dtype, for all three ops. */
typedef struct {
    const Case *c;
    Linear p;
    Input x, w, dy, b, res, acc, dw, db;
} Rig;

static Rig rig_new(const Case *c, Dtype dt)
{
    KernRng r = {(uint64_t)(c->m * 31 + c->n * 7 + c->k)};
    size_t m = (size_t)c->m, n = (size_t)c->n, k = (size_t)c->k;
    Rig g = {.c = c, .p = {c->m, c->n, c->k, (float)c->alpha, c->wdt}};
    g.x = input_new(&r, dt, m * k, c->kind, 1);
    g.w = input_weight(&r, c->wdt, n, 1, k, 0.1);
    g.dy = input_new(&r, dt, m * n, c->kind == KERN_ZERO ? KERN_ZERO : KERN_NORMAL, 1);
    g.b = input_new(&r, DT_F32, c->extra ? n : 0, KERN_NORMAL, 1);
    g.res = input_new(&r, dt, c->extra ? m * n : 0, KERN_NORMAL, 1);
    g.acc = input_new(&r, dt, c->extra ? m * k : 0, KERN_NORMAL, 1);
    g.dw = input_new(&r, DT_F32, n * k, KERN_NORMAL, 1);
    g.db = input_new(&r, DT_F32, n, KERN_NORMAL, 1);
    return g;
}

static int rig_free(Rig *g)
{
    return input_free(&g->x) & input_free(&g->w) & input_free(&g->dy) & input_free(&g->b) &
           input_free(&g->res) & input_free(&g->acc) & input_free(&g->dw) & input_free(&g->db);
}

/* What rounding x for int8 weights may add: the reference on the variances. */
static void rounding(const Rig *g, Dev *d, Result *r)
{
    Linear p = g->p;
    p.wdt = DT_F32, p.alpha *= p.alpha;
    Rounding v = rounding_new(&g->x, (size_t)p.k, &g->w);
    r->var = kern_buf(r->n * 4);
    linear_f32_ref(d, &p, r->var.p, v.x.p, v.w.p, NULL, NULL);
    CHECK(rounding_free(&v));
}

/* which: 0 linear, 1 linear_dx, 2 linear_dw, 3 its db. The exact result by the
 * f32 reference on f32 copies. */
static void exact(const Rig *g, Dev *d, int which, Result *r)
{
    Linear p = g->p, a = g->p;
    p.wdt = a.wdt = DT_F32;
    a.alpha = fabsf(p.alpha);
    size_t bytes = r->n * 4;
    if (which == 0) {
        linear_f32_ref(d, &p, r->want.p, g->x.f.p, g->w.f.p, g->b.f.p, g->res.f.p);
        linear_f32_ref(d, &a, r->mag.p, g->x.a.p, g->w.a.p, g->b.a.p, g->res.a.p);
        if (g->p.wdt == DT_I8) rounding(g, d, r);
    } else if (which == 1) {
        if (g->acc.n) memcpy(r->want.p, g->acc.f.p, bytes), memcpy(r->mag.p, g->acc.a.p, bytes);
        linear_dx_f32_ref(d, &p, r->want.p, g->dy.f.p, g->w.f.p, g->acc.n > 0);
        linear_dx_f32_ref(d, &a, r->mag.p, g->dy.a.p, g->w.a.p, g->acc.n > 0);
    } else {
        const Input *start = which == 2 ? &g->dw : &g->db;
        memcpy(r->want.p, start->f.p, bytes), memcpy(r->mag.p, start->a.p, bytes);
        float *w = which == 2 ? r->want.p : NULL, *b = which == 3 ? r->want.p : NULL;
        linear_dw_f32_ref(d, &p, w, b, g->dy.f.p, g->x.f.p);
        w = which == 2 ? r->mag.p : NULL, b = which == 3 ? r->mag.p : NULL;
        linear_dw_f32_ref(d, &a, w, b, g->dy.a.p, g->x.a.p);
    }
}

static void run(const Rig *g, const KernImpl *impl, KernDev *k, int which, Result *r)
{
    const Linear *p = &g->p;
    const Input *start = which == 0 ? &g->res : which == 1 ? &g->acc : which == 2 ? &g->dw : &g->db;
    result_start(r, start);
    void *y = on_device(k, &r->got), *x = on_device(k, &g->x.v), *w = on_device(k, &g->w.v);
    void *dy = on_device(k, &g->dy.v), *b = on_device(k, &g->b.v);
    if (which == 0) ((linear_fn *)impl->fn)(k->d, p, y, x, w, b, g->res.n ? y : NULL);
    else if (which == 1) ((linear_dx_fn *)impl->fn)(k->d, p, y, dy, w, g->acc.n > 0);
    else if (which == 2) ((linear_dw_fn *)impl->fn)(k->d, p, y, NULL, dy, x);
    else ((linear_dw_fn *)impl->fn)(k->d, p, NULL, y, dy, x);
}

/* One version of one op with 1, 2 and 3 threads. */
static int check_impl(const Rig *g, const KernImpl *impl, int which, Result *r)
{
    const Case *c = g->c;
    double k = which == 0 ? c->k : which == 1 ? c->n : c->m;
    int most = impl->isa == DEV_REF ? 1 : 3;        /* the slow one once */
    for (int threads = 1; threads <= most; threads++) {
        KernDev kd = kern_open_for(impl, threads);
        Ops ops;
        ops_init(&ops, kd.d);
        if (!kern_ws(&kd, ops.linear_scratch(kd.d, &g->p, impl->dt)))
            return fail(impl, c, "scratch", 0);
        run(g, impl, &kd, which, r);
        if (!kern_close(&kd)) return fail(impl, c, "wrote past its buffers, or failed", 0);
        if (!result_same(r, threads == 1)) return fail(impl, c, "differs, threads", threads);
    }
    double gap = result_gap(r, k, which < 2 && rounds_weights(impl, c->wdt));
    return gap <= 1 || fail(impl, c, "error over bound", gap);
}

static int check_op(const Case *c, Dtype dt, int which)
{
    static const char *const ops[] = {"linear", "linear_dx", "linear_dw", "linear_dw"};
    size_t m = (size_t)c->m, n = (size_t)c->n, k = (size_t)c->k;
    KernDev kd = kern_open(2, ~0u);
    Rig g = rig_new(c, dt);
    Result r = result_new(which < 2 ? dt : DT_F32,
                          which == 0 ? m * n : which == 1 ? m * k : which == 2 ? n * k : n);
    exact(&g, kd.d, which, &r);
    int ok = 1;
    for (const KernImpl *i = kern_next(ops[which], NULL, kd.d); i && ok;
         i = kern_next(ops[which], i, kd.d))
        if (i->dt == dt && takes_weights(i, c->wdt) &&
            is_checked(i, c->wdt, (double)m * (double)n * (double)k))
            ok = check_impl(&g, i, which, &r);
    ok &= result_free(&r) & rig_free(&g) & kern_close(&kd);
    return ok;
}

static void check_case(const Case *c)
{
    for (int dt = 0; dt < DT_N; dt++)
        for (int which = 0; which < 4; which++) CHECK(check_op(c, (Dtype)dt, which));
}

TEST(gemm_small_shapes)
{
    static const int size[] = {1, 2, 3, 5, 7, 11, 12, 13, 15, 16, 17, 24, 25, 31, 32, 33, 47, 65};
    enum { SIZES = sizeof size / sizeof *size };
    KernRng r = {7};
    for (int i = 0; i < 60; i++) {
        Case c = {size[kern_int(&r, 0, SIZES - 1)], size[kern_int(&r, 0, SIZES - 1)],
                  size[kern_int(&r, 0, SIZES - 1)], (Dtype)(i % 3), (KernKind)(i / 3 % KERN_KINDS),
                  i & 1, i % 5 ? 1 : 0.37};
        check_case(&c);
    }
}

/* Several blocks of k, several tasks, both roles of x and w. */
TEST(gemm_blocks)
{
    static const Case cases[] = {
        {64, 96, 1030, DT_BF16, KERN_NORMAL, 1, 1},   {200, 33, 513, DT_F32, KERN_MEAN, 0, -2},
        {13, 700, 65, DT_F16, KERN_NORMAL, 1, 0.5},   {1030, 40, 27, DT_BF16, KERN_MEAN, 1, 1},
        {97, 129, 2051, DT_F32, KERN_NORMAL, 0, 1},   {2100, 9, 31, DT_F32, KERN_NORMAL, 1, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(&cases[i]);
}

/* int8 weights: rows left over, a panel alone, several tasks, columns of dx in parts. */
TEST(gemm_int8)
{
    static const Case cases[] = {
        {1, 16, 4, DT_I8, KERN_NORMAL, 1, 1},      {5, 48, 68, DT_I8, KERN_MEAN, 1, 0.5},
        {25, 80, 36, DT_I8, KERN_NORMAL, 0, -1},   {13, 32, 64, DT_I8, KERN_ZERO, 1, 1},
        {130, 320, 320, DT_I8, KERN_NORMAL, 1, 1}, {67, 64, 1284, DT_I8, KERN_NORMAL, 1, 1},
        {3, 1280, 516, DT_I8, KERN_NORMAL, 0, 1},  {13, 8208, 132, DT_I8, KERN_NORMAL, 1, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(&cases[i]);
}

/* Layers of SD 1.5 with fewer rows, LoRA factors, the time embedding. */
TEST(gemm_real_shapes)
{
    static const Case cases[] = {
        {77, 320, 768, DT_BF16, KERN_NORMAL, 0, 1},  {64, 320, 320, DT_BF16, KERN_NORMAL, 1, 1},
        {210, 16, 640, DT_F32, KERN_NORMAL, 0, 0.5}, {210, 640, 16, DT_F32, KERN_NORMAL, 1, 0.5},
        {1, 1280, 320, DT_BF16, KERN_NORMAL, 1, 1},  {2, 320, 1280, DT_F16, KERN_NORMAL, 1, 1},
        {40, 320, 4, DT_F32, KERN_NORMAL, 1, 1},     {3, 640, 640, DT_F32, KERN_MEAN, 1, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(&cases[i]);
}

/* Central differences of L = sum(dy * linear(x)) in x and w. L is linear in
 * each, so their only error is rounding: f32 results of size ~5, 63 of them,
 * over a step of 0.5. */
TEST(gemm_reference_gradient)
{
    enum { M = 7, N = 9, K = 5 };
    KernRng r = {3};
    KernDev kd = kern_open(1, DEV_REF);
    Linear p = {M, N, K, 0.7f, DT_F32};
    Input x = input_new(&r, DT_F32, M * K, KERN_NORMAL, 1);
    Input w = input_new(&r, DT_F32, N * K, KERN_NORMAL, 1);
    Input dy = input_new(&r, DT_F32, M * N, KERN_NORMAL, 1);
    float y[M * N], dx[M * K], dw[N * K] = {0}, db[N] = {0};
    linear_dx_f32_ref(kd.d, &p, dx, dy.v.p, w.v.p, 0);
    linear_dw_f32_ref(kd.d, &p, dw, db, dy.v.p, x.v.p);
    for (int i = 0; i < (M + N) * K; i++) {
        float *v = i < M * K ? (float *)x.v.p + i : (float *)w.v.p + (i - M * K), old = *v;
        double loss[2];
        for (int s = 0; s < 2; s++) {
            *v = old + (s ? 0.5f : -0.5f);
            linear_f32_ref(kd.d, &p, y, x.v.p, w.v.p, NULL, NULL);
            loss[s] = 0;
            for (int j = 0; j < M * N; j++) loss[s] += (double)y[j] * (double)((float *)dy.v.p)[j];
        }
        *v = old;
        CHECK_NEAR(i < M * K ? dx[i] : dw[i - M * K], loss[1] - loss[0], 2e-5);
    }
    for (int n = 0; n < N; n++) {
        double s = 0;
        for (int m = 0; m < M; m++) s += (double)((float *)dy.v.p)[m * N + n];
        CHECK_NEAR(db[n], s, 1e-5);
    }
    CHECK(input_free(&x) & input_free(&w) & input_free(&dy) & kern_close(&kd));
}
