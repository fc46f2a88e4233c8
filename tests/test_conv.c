/* test_conv.c - every version of conv2d, conv2d_dx, conv2d_dw (impl.def) against
 * the reference, and the reference gradients against finite differences. */
#include "kernels/i8_plan.h"
#include "kernels/wino_plan.h"
#include "tests/products.h"

typedef struct { Conv2d p; KernKind kind; int extra; } Case;

static int fail(const KernImpl *i, const Case *c, const char *what, double x)
{
    const Conv2d *p = &c->p;
    test_fail(__FILE__, __LINE__, "%s_%s_%s n %d %dx%d cin %d cout %d ks %d stride %d pad %d,%d "
              "w %s: %s %g", i->op, kern_dtype(i->dt), i->impl, p->n, p->h, p->w, p->cin, p->cout,
              p->ks, p->stride, p->pad_lo, p->pad_hi, kern_dtype(p->wdt), what, x);
    return 0;
}

typedef struct {
    const Case *c;
    Conv2d p;
    size_t y_n, x_n, w_n;
    Input x, w, dy, b, rowbias, res, acc, dw, db;
} Rig;

static Rig rig_new(const Case *c, Dtype dt)
{
    const Conv2d *p = &c->p;
    KernRng r = {(uint64_t)(p->cin * 31 + p->cout * 7 + p->h)};
    size_t cout = (size_t)p->cout, n = (size_t)p->n;
    Rig g = {.c = c, .p = *p};
    g.y_n = n * (size_t)conv2d_out(p, p->h) * (size_t)conv2d_out(p, p->w) * cout;
    g.x_n = n * (size_t)p->h * (size_t)p->w * (size_t)p->cin;
    g.w_n = cout * (size_t)p->ks * (size_t)p->ks * (size_t)p->cin;
    g.x = input_new(&r, dt, g.x_n, c->kind, 1);
    g.w = input_weight(&r, p->wdt, cout, (size_t)p->ks * (size_t)p->ks, (size_t)p->cin, 0.1);
    g.dy = input_new(&r, dt, g.y_n, c->kind == KERN_ZERO ? KERN_ZERO : KERN_NORMAL, 1);
    g.b = input_new(&r, DT_F32, c->extra ? cout : 0, KERN_NORMAL, 1);
    g.rowbias = input_new(&r, dt, c->extra & 2 ? n * cout : 0, KERN_NORMAL, 1);
    g.res = input_new(&r, dt, c->extra ? g.y_n : 0, KERN_NORMAL, 1);
    g.acc = input_new(&r, dt, c->extra ? g.x_n : 0, KERN_NORMAL, 1);
    g.dw = input_new(&r, DT_F32, g.w_n, KERN_NORMAL, 1);
    g.db = input_new(&r, DT_F32, cout, KERN_NORMAL, 1);
    return g;
}

static int rig_free(Rig *g)
{
    return input_free(&g->x) & input_free(&g->w) & input_free(&g->dy) & input_free(&g->b) &
           input_free(&g->rowbias) & input_free(&g->res) & input_free(&g->acc) &
           input_free(&g->dw) & input_free(&g->db);
}

/* What rounding x for int8 weights may add: the reference on the variances. */
static void rounding(const Rig *g, Dev *d, Result *r)
{
    Conv2d p = g->p;
    p.wdt = DT_F32, p.alpha *= p.alpha;
    Rounding v = rounding_new(&g->x, (size_t)p.cin, &g->w);
    r->var = kern_buf(r->n * 4);
    conv2d_f32_ref(d, &p, r->var.p, v.x.p, v.w.p, NULL, NULL, NULL);
    CHECK(rounding_free(&v));
}

/* which: 0 conv2d, 1 conv2d_dx, 2 conv2d_dw, 3 its db. */
static void exact(const Rig *g, Dev *d, int which, Result *r)
{
    Conv2d p = g->p, a = g->p;
    p.wdt = a.wdt = DT_F32;
    a.alpha = fabsf(p.alpha);
    size_t bytes = r->n * 4;
    if (which == 0) {
        conv2d_f32_ref(d, &p, r->want.p, g->x.f.p, g->w.f.p, g->b.f.p, g->rowbias.f.p, g->res.f.p);
        conv2d_f32_ref(d, &a, r->mag.p, g->x.a.p, g->w.a.p, g->b.a.p, g->rowbias.a.p, g->res.a.p);
        if (g->p.wdt == DT_I8) rounding(g, d, r);
    } else if (which == 1) {
        if (g->acc.n) memcpy(r->want.p, g->acc.f.p, bytes), memcpy(r->mag.p, g->acc.a.p, bytes);
        conv2d_dx_f32_ref(d, &p, r->want.p, g->dy.f.p, g->w.f.p, g->acc.n > 0);
        conv2d_dx_f32_ref(d, &a, r->mag.p, g->dy.a.p, g->w.a.p, g->acc.n > 0);
    } else {
        const Input *start = which == 2 ? &g->dw : &g->db;
        memcpy(r->want.p, start->f.p, bytes), memcpy(r->mag.p, start->a.p, bytes);
        float *w = which == 2 ? r->want.p : NULL, *b = which == 3 ? r->want.p : NULL;
        conv2d_dw_f32_ref(d, &p, w, b, g->dy.f.p, g->x.f.p);
        w = which == 2 ? r->mag.p : NULL, b = which == 3 ? r->mag.p : NULL;
        conv2d_dw_f32_ref(d, &a, w, b, g->dy.a.p, g->x.a.p);
    }
}

static void run(const Rig *g, const KernImpl *impl, KernDev *k, int which, Result *r)
{
    const Conv2d *p = &g->p;
    const Input *start = which == 0 ? &g->res : which == 1 ? &g->acc : which == 2 ? &g->dw : &g->db;
    result_start(r, start);
    void *y = on_device(k, &r->got), *x = on_device(k, &g->x.v), *w = on_device(k, &g->w.v);
    void *dy = on_device(k, &g->dy.v), *b = on_device(k, &g->b.v);
    void *rowbias = on_device(k, &g->rowbias.v);
    if (which == 0) ((conv2d_fn *)impl->fn)(k->d, p, y, x, w, b, rowbias, g->res.n ? y : NULL);
    else if (which == 1) ((conv2d_dx_fn *)impl->fn)(k->d, p, y, dy, w, g->acc.n > 0);
    else if (which == 2) ((conv2d_dw_fn *)impl->fn)(k->d, p, y, NULL, dy, x);
    else ((conv2d_dw_fn *)impl->fn)(k->d, p, NULL, y, dy, x);
}

#ifdef SDC_X86
/* The tile that this version uses for cin channels, 0 where it is no Winograd's. */
static int tile_for(const Conv2d *p, int cin, const KernImpl *impl, int which)
{
    WinoPlan plan = {0};
    Conv2d q = *p;
    q.cin = cin;
    if (cin && which < 2 && impl->isa & (DEV_AVX2 | DEV_AVX512 | DEV_BF16))
        wino_plan(&plan, &q, which, impl->dt, 1, (int)impl->isa);
    return plan.m;
}

/* With int8 weights, conv2d never does and conv2d_dx works on some columns at a time. */
static int tile_of(const Conv2d *p, const KernImpl *impl, int which)
{
    if (p->wdt != DT_I8) return tile_for(p, p->cin, impl, which);
    if (which != 1) return 0;
    Dtype wdt = impl->isa == DEV_BF16 && impl->dt == DT_BF16 ? DT_BF16 : DT_F32;
    int cols = i8_columns(1, p->cout, p->ks * p->ks, p->cin, impl->dt, wdt).cols;
    int a = tile_for(p, cols, impl, 1), b = tile_for(p, p->cin % cols, impl, 1);
    return a > b ? a : b;
}
#else
static int tile_of(const Conv2d *p, const KernImpl *impl, int which)
{
    (void)p, (void)impl, (void)which;
    return 0;
}
#endif

/* A tile spreads the errors of its pixels, so each has the bound of the largest in
 * its picture and channel. Random rounding errors come out 1.4 times (m 4), 5.5
 * times (m 6) and 33 times (m 8) as large as those of the direct sum (wino.h);
 * allowed are 2, 8 and 48. */
static KernBuf spread_mag(const Result *r, int tile, int n, int channels)
{
    KernBuf b = kern_buf(r->n * 4);
    const float *mag = r->mag.p;
    size_t c = (size_t)channels, pixels = r->n / c / (size_t)n;
    for (size_t i = 0; i < (size_t)n * c; i++) {
        size_t at = i / c * pixels * c + i % c;
        float most = 0, *to = (float *)b.p + at;
        for (size_t k = 0; k < pixels; k++) most = fmaxf(most, mag[at + k * c]);
        for (size_t k = 0; k < pixels; k++) to[k * c] = most * (tile == 4 ? 2 : tile == 6 ? 8 : 48);
    }
    return b;
}

static int check_impl(const Rig *g, const KernImpl *impl, int which, Result *r)
{
    const Conv2d *p = &g->p;
    double taps = (double)p->ks * p->ks;
    double k = which == 0 ? taps * p->cin : which == 1 ? taps * p->cout : (double)g->y_n / p->cout;
    int most = impl->isa == DEV_REF ? 1 : 3;        /* the slow one once */
    for (int threads = 1; threads <= most; threads++) {
        KernDev kd = kern_open_for(impl, threads);
        Ops ops;
        ops_init(&ops, kd.d);
        if (!kern_ws(&kd, ops.conv2d_scratch(kd.d, p, impl->dt)))
            return fail(impl, g->c, "scratch", 0);
        run(g, impl, &kd, which, r);
        if (!kern_close(&kd)) return fail(impl, g->c, "wrote past its buffers, or failed", 0);
        if (!result_same(r, threads == 1)) return fail(impl, g->c, "differs, threads", threads);
    }
    int tile = tile_of(p, impl, which);
    KernBuf mag = r->mag;
    if (tile) r->mag = spread_mag(r, tile, p->n, which ? p->cin : p->cout);
    int rounds = which < 2 && (!tile || p->wdt == DT_I8) && rounds_weights(impl, p->wdt);
    double gap = result_gap(r, k, rounds);
    if (tile) kern_free(&r->mag);
    r->mag = mag;
    return gap <= 1 || fail(impl, g->c, "error over bound", gap);
}

static int check_op(const Case *c, Dtype dt, int which)
{
    static const char *const ops[] = {"conv2d", "conv2d_dx", "conv2d_dw", "conv2d_dw"};
    KernDev kd = kern_open(2, ~0u);
    Rig g = rig_new(c, dt);
    Result r = result_new(which < 2 ? dt : DT_F32, which == 0 ? g.y_n : which == 1 ? g.x_n :
                          which == 2 ? g.w_n : (size_t)c->p.cout);
    exact(&g, kd.d, which, &r);
    int ok = 1;
    for (const KernImpl *i = kern_next(ops[which], NULL, kd.d); i && ok;
         i = kern_next(ops[which], i, kd.d))
        if (i->dt == dt && takes_weights(i, c->p.wdt) &&
            is_checked(i, c->p.wdt, (double)g.y_n * c->p.cin * c->p.ks * c->p.ks))
            ok = check_impl(&g, i, which, &r);
    ok &= result_free(&r) & rig_free(&g) & kern_close(&kd);
    return ok;
}

static void check_case(const Case *c)
{
    for (int dt = 0; dt < DT_N; dt++)
        for (int which = 0; which < 4; which++) CHECK(check_op(c, (Dtype)dt, which));
}

static void check_cases(const Case *c, size_t n)
{
    for (size_t i = 0; i < n; i++) check_case(&c[i]);
}

TEST(conv_small_shapes)
{
    static const int chan[] = {1, 2, 3, 4, 5, 8, 11, 12, 13, 16, 17, 31, 32, 33, 40};
    enum { CHANS = sizeof chan / sizeof *chan };
    KernRng r = {11};
    for (int i = 0; i < 40; i++) {
        int ks = kern_int(&r, 1, 4), lo = kern_int(&r, 0, ks - 1), hi = kern_int(&r, 0, ks - 1);
        Case c = {{kern_int(&r, 1, 3), kern_int(&r, ks, 9), kern_int(&r, ks, 9),
                   chan[kern_int(&r, 0, CHANS - 1)], chan[kern_int(&r, 0, CHANS - 1)], ks,
                   kern_int(&r, 1, 3), lo, hi, i % 5 ? 1.0f : 0.37f, (Dtype)(i % 3), 0, 0},
                  (KernKind)(i / 3 % KERN_KINDS), i & 3};
        check_case(&c);
    }
}

/* The kinds of layers of SD 1.5 with fewer pixels or channels: 3x3, stride 2
 * (also the VAE encoder's, padded only below), 1x1, first and last layers. */
TEST(conv_real_shapes)
{
    static const Case cases[] = {
        {{1, 8, 8, 320, 33, 3, 1, 1, 1, 1, DT_BF16, 0, 0}, KERN_NORMAL, 3},
        {{2, 6, 5, 64, 70, 3, 1, 1, 1, 1, DT_F32, 0, 0}, KERN_MEAN, 1},
        {{1, 9, 8, 64, 40, 3, 2, 1, 1, 1, DT_F16, 0, 0}, KERN_NORMAL, 0},
        {{2, 10, 12, 24, 48, 3, 2, 0, 1, 1, DT_BF16, 0, 0}, KERN_NORMAL, 1},
        {{2, 7, 9, 48, 96, 1, 1, 0, 0, 1, DT_F32, 0, 0}, KERN_NORMAL, 3},
        {{1, 24, 20, 3, 64, 3, 1, 1, 1, 1, DT_F32, 0, 0}, KERN_NORMAL, 2},
        {{1, 20, 24, 64, 3, 3, 1, 1, 1, 1, DT_F32, 0, 0}, KERN_NORMAL, 0},
        {{1, 16, 16, 4, 40, 3, 1, 1, 1, 1, DT_BF16, 0, 0}, KERN_NORMAL, 0},
        {{3, 20, 21, 16, 20, 3, 1, 1, 1, 0.5f, DT_BF16, 0, 0}, KERN_MEAN, 3},
    };
    check_cases(cases, sizeof cases / sizeof *cases);
}

/* Winograd's algorithm: tiles cut off at the border, ends of vectors and panels,
 * several blocks of channels, and at last several batches of tiles. */
TEST(conv_winograd)
{
    static const struct { Case c; Dtype t; } cases[] = {
        {{{2, 19, 17, 70, 60, 3, 1, 1, 1, 0.5f, DT_BF16, 0, 0}, KERN_NORMAL, 3}, DT_F32},
        {{{1, 24, 22, 130, 96, 3, 1, 1, 1, 1, DT_BF16, 0, 0}, KERN_MEAN, 1}, DT_BF16},
        {{{1, 13, 15, 64, 64, 3, 1, 2, 0, 1, DT_F16, 0, 0}, KERN_NORMAL, 2}, DT_F16},
        {{{1, 19, 14, 64, 64, 3, 1, 0, 1, 1, DT_F32, 0, 0}, KERN_ZERO, 0}, DT_F32},
        {{{1, 31, 39, 70, 64, 3, 1, 1, 1, 1, DT_F32, 0, 0}, KERN_NORMAL, 3}, DT_BF16},
        {{{1, 160, 153, 32, 32, 3, 1, 1, 1, 1, DT_F32, 0, 0}, KERN_NORMAL, 0}, DT_F32},
    };
    enum { CASES = sizeof cases / sizeof *cases };
    KernDev kd = kern_open(1, ~0u);
    int seen = 0;
    for (size_t i = 0; i < CASES; i++) {
        const KernImpl *k = NULL;
        while ((k = kern_next("conv2d", k, kd.d)) != NULL)
            if (k->isa & (DEV_AVX2 | DEV_AVX512 | DEV_BF16) && k->dt == cases[i].t) {
                int tile = tile_of(&cases[i].c.p, k, 0);
                CHECK(tile > 0);
                seen |= 1 << tile;
            }
        CHECK(check_op(&cases[i].c, cases[i].t, 0));
        if (i + 1 < CASES) CHECK(check_op(&cases[i].c, cases[i].t, 1));
    }
    CHECK(!seen || seen == (1 << 4 | 1 << 6 | 1 << 8));
    CHECK(kern_close(&kd));
}

/* L = sum(dy * conv(x)); see gemm_reference_gradient. */
TEST(conv_reference_gradient)
{
    enum { X = 2 * 5 * 4 * 3, W = 4 * 9 * 3, Y = 2 * 3 * 2 * 4 };
    Conv2d p = {2, 5, 4, 3, 4, 3, 2, 1, 1, 0.7f, DT_F32, 0, 0};
    KernRng r = {5};
    KernDev kd = kern_open(1, DEV_REF);
    Input x = input_new(&r, DT_F32, X, KERN_NORMAL, 1);
    Input w = input_new(&r, DT_F32, W, KERN_NORMAL, 0.3);
    Input dy = input_new(&r, DT_F32, Y, KERN_NORMAL, 1);
    float y[Y], dx[X], dw[W] = {0}, db[4] = {0};
    CHECK_INT(conv2d_out(&p, p.h) * conv2d_out(&p, p.w), 6);
    conv2d_dx_f32_ref(kd.d, &p, dx, dy.v.p, w.v.p, 0);
    conv2d_dw_f32_ref(kd.d, &p, dw, db, dy.v.p, x.v.p);
    for (int i = 0; i < X + W; i++) {
        float *v = i < X ? (float *)x.v.p + i : (float *)w.v.p + (i - X), old = *v;
        double loss[2];
        for (int s = 0; s < 2; s++) {
            *v = old + (s ? 0.5f : -0.5f);
            conv2d_f32_ref(kd.d, &p, y, x.v.p, w.v.p, NULL, NULL, NULL);
            loss[s] = 0;
            for (int j = 0; j < Y; j++) loss[s] += (double)y[j] * (double)((float *)dy.v.p)[j];
        }
        *v = old;
        CHECK_NEAR(i < X ? dx[i] : dw[i - X], loss[1] - loss[0], 2e-5);
    }
    for (int o = 0; o < 4; o++) {
        double s = 0;
        for (int j = 0; j < Y; j += 4) s += (double)((float *)dy.v.p)[j + o];
        CHECK_NEAR(db[o], s, 1e-5);
    }
    CHECK(input_free(&x) & input_free(&w) & input_free(&dy) & kern_close(&kd));
}

/* int8 weights: borders, strides, several pictures and tasks, columns of dx in parts. */
TEST(conv_int8)
{
    static const Case cases[] = {
        {{1, 5, 7, 4, 16, 3, 1, 1, 1, 1, DT_I8, 0, 0}, KERN_NORMAL, 3},
        {{2, 6, 5, 20, 48, 3, 2, 1, 1, 0.5f, DT_I8, 0, 0}, KERN_MEAN, 3},
        {{2, 8, 8, 36, 32, 3, 2, 0, 1, 1, DT_I8, 0, 0}, KERN_NORMAL, 1},
        {{3, 3, 4, 68, 64, 1, 1, 0, 0, -1, DT_I8, 0, 0}, KERN_NORMAL, 0},
        {{2, 9, 8, 64, 80, 3, 1, 1, 1, 1, DT_I8, 0, 0}, KERN_NORMAL, 3},
        {{1, 4, 4, 132, 1280, 3, 1, 1, 1, 1, DT_I8, 0, 0}, KERN_NORMAL, 1},
        {{1, 12, 12, 32, 32, 3, 1, 1, 1, 1, DT_I8, 0, 0}, KERN_ZERO, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(&cases[i]);
}
