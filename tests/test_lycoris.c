/* test_lycoris.c - every kind of module, against LyCORIS's own in float64
 * (golden/make_lycoris.py): what it does to a weight, read, written, merged, and under
 * training. */
#include <stdlib.h>

#include "engine/exec.h"
#include "engine/lora_merge.h"
#include "engine/mem.h"
#include "models/adapter.h"
#include "tests/golden.h"
#include "tests/kern.h"

enum { OUT = 12, IN = 12, VALUES = 12 * 8 * 9 };

/* One case: the layer and its module, in a list of one. */
typedef struct {
    const char *name;
    int out, in, k, conv;
} Case;

static const Case cases[] = {
    {"linear_lora", 8, 12, 1, 0}, {"conv_lora_tucker", 12, 8, 3, 1}, {"linear_loha", 8, 12, 1, 0},
    {"conv_loha", 12, 8, 3, 1}, {"point_loha", 12, 8, 1, 1}, {"conv_loha_tucker", 12, 8, 3, 1},
    {"linear_lokr", 8, 12, 1, 0}, {"linear_lokr_full", 8, 12, 1, 0}, {"linear_lokr_both", 8, 12, 1, 0},
    {"conv_lokr", 12, 8, 3, 1}, {"conv_lokr_full", 12, 8, 3, 1}, {"conv_lokr_tucker", 12, 8, 3, 1},
    {"point_lokr_full", 12, 8, 1, 1}, {"linear_dora", 8, 12, 1, 0}, {"linear_dora_in", 8, 12, 1, 0},
    {"conv_dora", 12, 8, 3, 1}, {"conv_dora_in", 12, 8, 3, 1}, {"conv_loha_dora", 12, 8, 3, 1},
    {"conv_lokr_dora_in", 12, 8, 3, 1}};
enum { CASES = sizeof cases / sizeof *cases };

static LoraTarget targets[CASES];

static const char *case_path(const char *name)
{
    static char path[400];
    snprintf(path, sizeof path, "%s/%s.safetensors", test_dir(), name);
    return path;
}

static int open_all(Lora *lo, const char *path, Err *e)
{
    static char names[CASES][64];
    for (int i = 0; i < CASES; i++) {
        const Case *c = &cases[i];
        snprintf(names[i], sizeof names[i], "lora_unet_%s", c->name);
        targets[i] = (LoraTarget){names[i] + 10, names[i], c->out, c->in, c->k, 1, c->conv, 0,
                                  c->k == 3 ? LORA_CONV : LORA_DEFAULT};
    }
    return lora_open(lo, path, targets, CASES, e);
}

static float *expected(const char *name, const char *what, size_t *n)
{
    static TensorFile *tf;
    char key[100];
    Err e = {0};
    if (!tf && golden_open(&tf, "lora/lycoris-expected.safetensors", &e)) return NULL;
    snprintf(key, sizeof key, "%s/%s", name, what);
    const FileTensor *t = tensorfile_find(tf, key);
    return t ? golden_read(tf, t, 1, n, &e) : NULL;
}

/* The largest error of the weights at one strength, relative to 1 + |weight|. A value is
 * a sum of at most three products of f32, and their product: some 2^-24 each. */
static double weight_error(const Lora *lo, float strength, const char *what, const char **worst)
{
    double error = 0;
    for (int i = 0; i < CASES; i++) {
        size_t n = 0, m = 0;
        float *w = expected(cases[i].name, "weight", &n), *want = expected(cases[i].name, what, &m);
        const LoraModule *module = lora_find(lo, &targets[i]);
        double here =
            !w || !want || m != n || !module || lora_add_delta(module, strength, w, NULL) ? 1e9 : 0;
        for (size_t k = 0; here < 1e9 && k < n; k++)
            here = fmax(here, fabs((double)w[k] - want[k]) / (1 + fabs((double)want[k])));
        if (here > error) error = here, *worst = cases[i].name;
        free(w);
        free(want);
    }
    return error;
}

TEST(lycoris_modules_change_weights_as_theirs)
{
    Lora lo;
    Err e = {0};
    const char *worst = "";
    CHECK_OK(open_all(&lo, GOLDEN_ROOT "lora/lycoris.safetensors", &e), &e);
    CHECK_INT(lo.count, CASES);
    double full = weight_error(&lo, 1, "merged", &worst),
           part = weight_error(&lo, 0.7f, "merged07", &worst);
    if (full > 1e-6 || part > 1e-6) CHECK_STR(worst, "");
    CHECK(full <= 1e-6 && part <= 1e-6);
    lora_close(&lo);
}

TEST(lycoris_modules_are_written_as_read)
{
    Lora lo, again;
    Err e = {0};
    const char *worst = "";
    CHECK_OK(open_all(&lo, GOLDEN_ROOT "lora/lycoris.safetensors", &e), &e);
    CHECK_OK(lora_save(case_path("again"), lo.list, lo.count, FD_F32, NULL, 0, &e), &e);
    lora_close(&lo);
    CHECK_OK(open_all(&again, case_path("again"), &e), &e);
    double full = weight_error(&again, 1, "merged", &worst);
    lora_close(&again);
    CHECK_NEAR(full, 0, 1e-6);
    TensorFile *tf;
    CHECK_OK(tensorfile_open(&tf, case_path("again"), &e), &e);
    const FileTensor *kron = tensorfile_find(tf, "lora_unet_conv_lokr_full.lokr_w2");
    const FileTensor *flat = tensorfile_find(tf, "lora_unet_conv_loha.hada_w1_b");
    const FileTensor *dora = tensorfile_find(tf, "lora_unet_conv_dora_in.dora_scale");
    CHECK(kron && kron->ndim == 4 && kron->shape[2] == 3);
    CHECK(flat && flat->ndim == 2 && flat->shape[1] == 72);
    CHECK(dora && dora->ndim == 4 && dora->shape[0] == 1 && dora->shape[1] == 8);
    tensorfile_close(tf);
}

/* Without a model LoHa and LoKr become plain factors; DoRA cannot. */
TEST(lycoris_modules_merge_into_plain_ones)
{
    Lora lo, merged, plain = {0};
    Err e = {0};
    CHECK_OK(open_all(&lo, GOLDEN_ROOT "lora/lycoris.safetensors", &e), &e);
    CHECK_INT(lora_merge(&merged, &lo, 1, targets, CASES, 0, NULL, &e), ERR_INPUT);
    CHECK(strstr(e.msg, "DoRA") && strstr(e.msg, "--model"));
    plain.list = mem_calloc(CASES, sizeof *plain.list);
    plain.unet_weight = plain.text_weight = 1;
    for (size_t i = 0; i < lo.count; i++)
        if (!lo.list[i].dora_of) plain.list[plain.count++] = lo.list[i];
    CHECK_OK(lora_merge(&merged, &plain, 1, targets, CASES, 0, NULL, &e), &e);
    for (size_t i = 0; i < merged.count; i++) {
        static float a[VALUES], b[VALUES];
        double error = 0;
        memset(a, 0, sizeof a);
        memset(b, 0, sizeof b);
        CHECK(merged.list[i].algo == LORA_PLAIN && merged.list[i].rank <= OUT + IN);
        CHECK_OK(lora_add_delta(&merged.list[i], 1, a, &e), &e);
        CHECK_OK(lora_add_delta(&plain.list[i], 1, b, &e), &e);
        for (int k = 0; k < VALUES; k++)
            error = fmax(error, fabs((double)a[k] - b[k]) / (1 + fabs((double)b[k])));
        CHECK_NEAR(error, 0, 1e-6);
    }
    mem_free(plain.list);
    lora_close(&merged);
    lora_close(&lo);
}

/* ---- under training ------------------------------------------------------------- */

/* A layer with its module as a graph: x -> y, with dL/dy = dy. */
typedef struct {
    const Case *c;
    const LoraModule *module;
    Dev *dev;
    Ops ops;
    Params *ps;
    Slab slab;
    Exec exec;
} Layer1;

static const LoraModule *module_of(void *ctx, const char *path)
{
    const Layer1 *l = ctx;
    return !strcmp(path, l->c->name) ? l->module : NULL;
}

static int all_factors(void *ctx, const char *name)
{
    (void)ctx;
    return lora_factor_in(name) ? 0 : -1;
}

/* (N,C,H,W) to (N,H,W,C), and back. */
static float *channels_last(float *v, int n, int c, int hw, int back)
{
    float *to = malloc((size_t)n * (size_t)c * (size_t)hw * sizeof *to);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < c; k++)
            for (int x = 0; x < hw; x++) {
                int first = (i * c + k) * hw + x, last = (i * hw + x) * c + k;
                to[back ? first : last] = v[back ? last : first];
            }
    free(v);
    return to;
}

static int is_map(const Case *c) { return c->conv; }

static Tensor *build_layer(Layer1 *l, Build *b, Tensor *x)
{
    const Case *c = l->c;
    Path path = block_path("%s", c->name);
    return c->k == 3 ? block_conv3(b, path, x, c->out, 1, 1, NULL, NULL)
                     : block_linear(b, path, x, c->out, 1, NULL);
}

static int build(Layer1 *l, Dtype act, Err *e)
{
    const Case *c = l->c;
    int dim[4] = {2, 4, 5, c->in}, to[4] = {2, 4, 5, c->out}, n = is_map(c) ? 2 : 5;
    if (!is_map(c)) dim[0] = to[0] = 5, dim[1] = c->in, to[1] = c->out;
    Build b = {.g = graph_new(act), .ps = l->ps, .lora = module_of, .lora_ctx = l};
    Tensor *x = graph_input(b.g, "x", DT_F32, is_map(c) ? 4 : 2, dim);
    Tensor *target = graph_input(b.g, "target", DT_F32, is_map(c) ? 4 : 2, to);
    Tensor *weight = graph_input(b.g, "weight", DT_F32, 1, &n),
           *scale = graph_input(b.g, "scale", DT_F32, 1, (int[]){1});
    Tensor *y = build_layer(l, &b, graph_cast(b.g, x, act));
    graph_output(b.g, y, "y");
    Tensor *loss = graph_loss(b.g, LOSS_L2, y, target, NULL, weight, NULL, NULL);
    graph_grad(b.g, &loss, &scale, 1);
    return exec_init(&l->exec, b.g, &l->slab, l->dev, &l->ops, e);
}

static int set_param(Layer1 *l, const char *suffix, const float *v, Err *e)
{
    char name[100];
    snprintf(name, sizeof name, "%s.%s", l->c->name, suffix);
    Param *p = params_find(l->ps, name);
    return p && v ? params_set(l->ps, p, v, e) : err_set(e, ERR_FAIL, "no parameter %s", name);
}

static int load(Layer1 *l, Err *e)
{
    size_t n;
    LoraModule m = *l->module;
    LoraFactor f[LORA_FACTORS];
    float *w = expected(l->c->name, "weight", &n), *b = expected(l->c->name, "bias", &n);
    int rc = set_param(l, "weight", w, e);
    if (!rc) rc = set_param(l, "bias", b, e);
    for (int k = lora_factors(&m, f) - 1; k >= 0 && !rc; k--)
        rc = set_param(l, f[k].suffix, *f[k].values, e);
    free(w);
    free(b);
    return rc;
}

static double relative(const float *got, const float *want, size_t n)
{
    double diff = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        diff += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        size += (double)want[i] * want[i];
    }
    return sqrt(diff / size);
}

/* The loss is the mean of (y - target)^2 over all of y: with this target its gradient
 * is dy. */
static int run_layer(Layer1 *l, double *error, Err *e)
{
    const Case *c = l->c;
    size_t nx, ny;
    int n = is_map(c) ? 2 : 5;
    float *x = expected(c->name, "x", &nx), *y = expected(c->name, "y", &ny),
          *dy = expected(c->name, "dy", &ny);
    float ones[5] = {1, 1, 1, 1, 1}, got[512], target[512];
    if (!x || !y || !dy || ny > 512) return err_set(e, ERR_FAIL, "no golden");
    if (is_map(c)) {
        x = channels_last(x, 2, c->in, 20, 0);
        y = channels_last(y, 2, c->out, 20, 0);
        dy = channels_last(dy, 2, c->out, 20, 0);
    }
    for (size_t i = 0; i < ny; i++) target[i] = y[i] - dy[i] * (float)ny / 2;
    TRY(exec_set(&l->exec, "x", x, nx, e));
    TRY(exec_set(&l->exec, "target", target, ny, e));
    TRY(exec_set(&l->exec, "weight", ones, (size_t)n, e));
    TRY(exec_set(&l->exec, "scale", ones, 1, e));
    TRY(exec_run(&l->exec, e));
    TRY(exec_get(&l->exec, "y", got, ny, e));
    *error = relative(got, y, ny);
    free(x);
    free(y);
    free(dy);
    return 0;
}

static int gradients(const Layer1 *l, double *error, Err *e)
{
    LoraModule m = *l->module;
    LoraFactor f[LORA_FACTORS];
    for (int k = lora_factors(&m, f) - 1; k >= 0; k--) {
        char name[100], key[100];
        size_t n;
        snprintf(name, sizeof name, "%s.%s", l->c->name, f[k].suffix);
        snprintf(key, sizeof key, "grad.%s", f[k].suffix);
        Param *p = params_find(l->ps, name);
        float *want = expected(l->c->name, key, &n), got[512];
        if (!p || !p->grad || !want || n != p->count || n > 512)
            return free(want), err_set(e, ERR_FAIL, "%s: no gradient", name);
        TRY(params_read_grad(l->ps, p, got, e));
        *error = fmax(*error, relative(got, want, n));
        free(want);
    }
    return 0;
}

static int layer(const Lora *lo, int i, Dtype act, double *forward, double *backward, Err *e)
{
    Layer1 l = {.c = &cases[i], .module = lora_find(lo, &targets[i])};
    if (dev_open(&l.dev, kern_device(), 2, ~0u)) return err_set(e, ERR_FAIL, "no device");
    ops_init(&l.ops, l.dev);
    l.ps = params_new(l.dev, &l.ops, act);
    params_set_trainable(l.ps, all_factors, NULL);
    int rc = build(&l, act, e);
    if (!rc) rc = params_alloc(l.ps, NULL, e);
    if (!rc) rc = slab_alloc(&l.slab, l.dev, e);
    if (!rc) rc = load(&l, e);
    if (!rc) rc = run_layer(&l, forward, e);
    *backward = 0;
    if (!rc) rc = gradients(&l, backward, e);
    exec_free(&l.exec);
    slab_free(&l.slab);
    params_free(l.ps);
    dev_close(l.dev);
    return rc;
}

/* In f32 a value is the end of some ten roundings of 2^-24, and sums of up to 40 products.
 * In bf16 the weight, input, result and its gradient are rounded, 2^-9 each. */
static void all_layers(Dtype act, double forward, double backward)
{
    Lora lo;
    Err e = {0};
    CHECK_OK(open_all(&lo, GOLDEN_ROOT "lora/lycoris.safetensors", &e), &e);
    for (int i = 0; i < CASES; i++) {
        double y = 1, g = 1;
        if (strstr(cases[i].name, "tucker")) continue;         /* is read, not trained */
        CHECK_OK(layer(&lo, i, act, &y, &g, &e), &e);
        if (y > forward || g > backward)
            test_fail(__FILE__, __LINE__, "%s: %g, %g", cases[i].name, y, g);
    }
    lora_close(&lo);
}

TEST(lycoris_modules_train_as_theirs) { all_layers(DT_F32, 1e-6, 2e-6); }
TEST(lycoris_modules_train_in_bf16) { all_layers(DT_BF16, 0x1p-7, 0x1p-6); }

TEST(inspect_names_the_kinds_of_modules)
{
    static char out[1 << 16], err[4096];
    CHECK_INT(test_sdc("inspect " GOLDEN_ROOT "lora/lycoris.safetensors", out, err, sizeof out), 0);
    CHECK(strstr(out, "LoRA, LoHa, LoKr with DoRA"));
    CHECK(strstr(out, "(U-Net 19, text encoder 0; 3x3 convolutions 7)"));
}
