/* test_lycoris.c - every kind of module, against LyCORIS's own in float64
 * (golden/make_lycoris.py): what it does to a weight, read, written, merged, and under
 * training. */
#include <stdlib.h>

#include "engine/lora_merge.h"
#include "engine/mem.h"
#include "tests/golden.h"

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
        double here = !w || !want || m != n || !module || lora_add_delta(module, strength, w, NULL) ? 1e9 : 0;
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
    double full = weight_error(&lo, 1, "merged", &worst), part = weight_error(&lo, 0.7f, "merged07", &worst);
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

TEST(inspect_names_the_kinds_of_modules)
{
    static char out[1 << 16], err[4096];
    CHECK_INT(test_sdc("inspect " GOLDEN_ROOT "lora/lycoris.safetensors", out, err, sizeof out), 0);
    CHECK(strstr(out, "LoRA, LoHa, LoKr with DoRA"));
    CHECK(strstr(out, "(U-Net 19, text encoder 0; 3x3 convolutions 7)"));
}
