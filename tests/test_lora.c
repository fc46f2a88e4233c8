/* test_lora.c - LoRA files: names, kinds, effect, writing, merging. */
#include <stdlib.h>

#include "engine/hash.h"
#include "engine/io.h"
#include "engine/lora_merge.h"
#include "engine/mem.h"
#include "tests/fail.h"
#include "tests/synth.h"
#include "tests/test.h"

static const LoraTarget targets[] = {
    {"text_encoder.text_model.encoder.layers.0.self_attn.out_proj",
     "lora_te_text_model_encoder_layers_0_self_attn_out_proj", 5, 4, 1, 1, 0, 1, LORA_DEFAULT},
    {"unet.mid_block.attentions.0.proj_in", "lora_unet_mid_block_attentions_0_proj_in", 6, 4, 1, 1,
     1, 0, LORA_DEFAULT},
    {"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
     "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0", 5, 7, 1, 1, 0, 0,
     LORA_DEFAULT},
    {"unet.mid_block.resnets.0.conv1", "lora_unet_mid_block_resnets_0_conv1", 5, 4, 3, 1, 1, 0,
     LORA_CONV},
};
enum { TARGETS = sizeof targets / sizeof *targets, TEXT = 0, PROJ = 1, ATTN = 2, CONV = 3 };

/* Names of tensors of two of them. */
#define P "lora_unet_mid_block_attentions_0_proj_in."
#define C "lora_unet_mid_block_resnets_0_conv1."

static const char *lora_path(const char *name)
{
    static char buf[4][400];
    static int n;
    char *p = buf[n++ % 4];
    snprintf(p, sizeof buf[0], "%s/%s.safetensors", test_dir(), name);
    return p;
}

/* Opens a file of the given tensors. */
static int open_made(Lora *lo, const SynthTensor *t, size_t n, const LoraMeta *meta,
                     size_t meta_count, Err *e)
{
    const char *path = lora_path("made");
    TRY(synth_file(path, t, n, meta, meta_count, e));
    return lora_open(lo, path, targets, TARGETS, e);
}

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* ---- FILE:W:TEW ----------------------------------------------------------------- */

TEST(lora_spec_cuts_numbers_at_the_end)
{
    static const struct { const char *spec, *path; float w, tew; } cases[] = {
        {"a.safetensors", "a.safetensors", 1, 1}, {"a.safetensors:0.7", "a.safetensors", .7f, .7f},
        {"a:0.8:1.5", "a", .8f, 1.5f}, {"a:1:2:3", "a:1", 2, 3},
        {"C:/x/a:-0.4", "C:/x/a", -.4f, -.4f},
        {"a:abc", "a:abc", 1, 1}, {"a:0.5:abc", "a:0.5:abc", 1, 1}, {"a:x:2", "a:x", 2, 2},
        {"a:", "a:", 1, 1}, {"a:1e2", "a", 100, 100}, {"a:nan", "a:nan", 1, 1},
        {"a:0x10", "a:0x10", 1, 1}, {"a:1e99", "a:1e99", 1, 1}, {"a: 1", "a: 1", 1, 1}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *path;
        float w, tew;
        Err e = {0};
        CHECK_OK(lora_spec(cases[i].spec, &path, &w, &tew, &e), &e);
        char got[100];
        snprintf(got, sizeof got, "%s", path);
        mem_free(path);
        CHECK_STR(got, cases[i].path);
        CHECK(w == cases[i].w && tew == cases[i].tew);
    }
    static const char *const bad[] = {"", ":1", ":"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        char *path;
        float w, tew;
        Err e = {0};
        CHECK_INT(lora_spec(bad[i], &path, &w, &tew, &e), ERR_USAGE);
    }
}

/* ---- names ---------------------------------------------------------------------- */

TEST(lora_reads_every_dialect)
{
#define KOHYA "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
#define PATH "mid_block.attentions.0.transformer_blocks.0.attn1"
#define TE "text_model.encoder.layers.0.self_attn"
    static const struct { const char *down, *up; int target; } names[] = {
        {KOHYA ".lora_down.weight", KOHYA ".lora_up.weight", ATTN},
        {"unet." PATH ".to_out.0.lora_A.weight", "unet." PATH ".to_out.0.lora_B.weight", ATTN},
        {"base_model.model.unet." PATH ".to_out.0.lora_A.default.weight",
         "base_model.model.unet." PATH ".to_out.0.lora_B.default.weight", ATTN},
        {"base_model.model." PATH ".to_out.0.lora_A.weight",
         "base_model.model." PATH ".to_out.0.lora_B.weight", ATTN},
        {"unet." PATH ".to_out.0.lora.down.weight", "unet." PATH ".to_out.0.lora.up.weight", ATTN},
        {"unet." PATH ".processor.to_out_lora.down.weight",
         "unet." PATH ".processor.to_out_lora.up.weight", ATTN},
        {PATH ".processor.to_out_lora.down.weight", PATH ".processor.to_out_lora.up.weight", ATTN},
        {"text_encoder." TE ".out_proj.lora_linear_layer.down.weight",
         "text_encoder." TE ".out_proj.lora_linear_layer.up.weight", TEXT},
        {"text_encoder." TE ".to_out_lora.down.weight", "text_encoder." TE ".to_out_lora.up.weight",
         TEXT},
        {"text_encoder.encoder.layers.0.self_attn.out_proj.lora_A.weight",
         "text_encoder.encoder.layers.0.self_attn.out_proj.lora_B.weight", TEXT}};
    for (size_t i = 0; i < COUNT(names); i++) {
        const LoraTarget *t = &targets[names[i].target];
        SynthTensor f[] = {{names[i].down, FD_F16, 2, {2, t->in}, NULL},
                           {names[i].up, FD_F16, 2, {t->out, 2}, NULL}};
        Lora lo;
        Err e = {0};
        CHECK_OK(open_made(&lo, f, 2, NULL, 0, &e), &e);
        CHECK_INT(lo.count, 1);
        const LoraModule *m = lora_find(&lo, t);
        CHECK(m && m->rank == 2 && m->alpha == 2);
        CHECK_NEAR(m->down[3], synth_value(names[i].down, 3), 0);
        CHECK_NEAR(m->up[5], synth_value(names[i].up, 5), 0);
        CHECK(!lora_find(&lo, &targets[PROJ]));
        lora_close(&lo);
    }
}

TEST(lora_refuses_what_does_not_fit)
{
    static const char down[] = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight";
    static const char up[] = "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight";
    static const char peft[] = "unet.mid_block.attentions.0.proj_in.lora_A.weight";
    static const char lokr[] = "lora_unet_mid_block_attentions_0_proj_in.lokr_w1";
    static const float nan2[2 * 4] = {0, NAN};
    static const struct { SynthTensor t[3]; size_t n; const char *mention;
    } bad[] =
        {{{{"lora_unet_else.lora_down.weight", FD_F16, 2, {2, 4}, NULL},
           {"lora_unet_else.lora_up.weight", FD_F16, 2, {6, 2}, NULL}},
          2,
          "lora_unet_else"},
         {{{"lora_te1_x.lora_down.weight", FD_F16, 2, {2, 4}, NULL},
           {"lora_te1_x.lora_up.weight", FD_F16, 2, {6, 2}, NULL}},
          2,
          "SDXL"},
         {{{down, FD_F16, 2, {2, 5}, NULL}, {up, FD_F16, 2, {6, 2}, NULL}}, 2, down},
         {{{down, FD_F16, 2, {2, 4}, NULL}, {up, FD_F16, 2, {6, 3}, NULL}}, 2, up},
         {{{down, FD_F16, 4, {2, 4, 3, 3}, NULL}, {up, FD_F16, 2, {6, 2}, NULL}}, 2, "3,3"},
         {{{down, FD_F16, 2, {2, 4}, NULL}}, 1, "incomplete"},
         {{{down, FD_F32, 2, {2, 4}, nan2}, {up, FD_F16, 2, {6, 2}, NULL}}, 2, "NaN"},
         {{{down, FD_F16, 2, {0, 4}, NULL}, {up, FD_F16, 2, {6, 0}, NULL}}, 2, "rank 0"},
         {{{down, FD_F16, 2, {2, 4}, NULL},
           {up, FD_F16, 2, {6, 2}, NULL},
           {"lora_unet_mid_block_attentions_0_proj_in.alpha", FD_F16, 1, {2}, NULL}},
          3,
          "alpha"},
         {{{down, FD_F16, 2, {2, 4}, NULL},
           {up, FD_F16, 2, {6, 2}, NULL},
           {peft, FD_F16, 2, {2, 4}, NULL}},
          3,
          "same"},
         {{{lokr, FD_F16, 2, {2, 4}, NULL}}, 1, "LoKr"},
         {{{lokr, FD_F16, 2, {4, 2}, NULL}, {P "lokr_w2", FD_F16, 2, {2, 2}, NULL}}, 2, "divide"},
         {{{lokr, FD_F16, 2, {2, 2}, NULL}, {P "lokr_w2", FD_F16, 2, {3, 4}, NULL}}, 2, "lokr_w2"},
         {{{lokr, FD_F16, 2, {2, 2}, NULL}, {P "lokr_w2_a", FD_F16, 2, {3, 1}, NULL}},
          2,
          "incomplete"},
         {{{lokr, FD_F16, 2, {2, 2}, NULL},
           {P "lokr_w2", FD_F16, 2, {3, 2}, NULL},
           {down, FD_F16, 2, {2, 4}, NULL}},
          3,
          "incomplete"},
         {{{"weight", FD_F16, 2, {2, 4}, NULL}}, 1, "weight"}};
    for (size_t i = 0; i < COUNT(bad); i++) {
        Lora lo;
        Err e = {0};
        CHECK_INT(open_made(&lo, bad[i].t, bad[i].n, NULL, 0, &e), ERR_INPUT);
        CHECK(strstr(e.msg, "made.safetensors") && !lo.count);
        if (!strstr(e.msg, bad[i].mention)) CHECK_STR(e.msg, bad[i].mention);
    }
}

/* ---- alpha ---------------------------------------------------------------------- */

TEST(lora_alpha_of_any_kind)
{
    static const float three = 3, zero = 0;
    static const char alpha[] = "lora_unet_mid_block_attentions_0_proj_in.alpha";
    static const struct { SynthTensor t; float want; } cases[] = {
        {{alpha, FD_F16, 0, {0}, &three}, 3}, {{alpha, FD_I64, 0, {0}, &three}, 3},
        {{alpha, FD_F32, 1, {1}, &three}, 3}, {{alpha, FD_BF16, 2, {1, 1}, &three}, 3},
        {{alpha, FD_F32, 0, {0}, &zero}, 2}};
    SynthTensor f[3] = {
        {P "lora_down.weight", FD_F16, 4, {2, 4, 1, 1}, NULL},
        {P "lora_up.weight", FD_F16, 4, {6, 2, 1, 1}, NULL}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        Lora lo;
        Err e = {0};
        f[2] = cases[i].t;
        CHECK_OK(open_made(&lo, f, 3, NULL, 0, &e), &e);
        float got = lo.list[0].alpha;
        lora_close(&lo);
        CHECK_NEAR(got, cases[i].want, 0);
    }
}

TEST(lora_alpha_of_peft)
{
    static const struct { const char *json; float want; } cases[] = {
        {"{\"unet.lora_alpha\": 8}", 8}, {"{\"text_encoder.lora_alpha\": 8}", 4},
        {"{\"unet.lora_alpha\": 8, \"unet.alpha_pattern\": {\"attn1.to_out.0\": 6}}", 6},
        {"{\"unet.lora_alpha\": 8, \"unet.alpha_pattern\": {\"ttn1.to_out.0\": 6}}", 8},
        {"{\"unet.lora_alpha\": 8, \"unet.use_rslora\": true}", 16}};
    SynthTensor f[2] = {
        {"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight", FD_F16, 2,
         {4, 7}, NULL},
        {"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_B.weight", FD_F16, 2,
         {5, 4}, NULL}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        Lora lo;
        Err e = {0};
        LoraMeta meta = {"lora_adapter_metadata", cases[i].json};
        CHECK_OK(open_made(&lo, f, 2, &meta, 1, &e), &e);
        float got = lo.list[0].alpha;
        lora_close(&lo);
        CHECK_NEAR(got, cases[i].want, 0);
    }
    Lora lo;
    Err e = {0};
    CHECK_INT(open_made(&lo, f, 2, &(LoraMeta){"lora_adapter_metadata", "[8"}, 1, &e), ERR_INPUT);
}

/* ---- the effect on a weight ----------------------------------------------------- */

static size_t weight_size(const LoraTarget *t)
{
    return (size_t)t->out * (size_t)t->in * (size_t)t->k * (size_t)t->k;
}

static void fill(float *w, size_t n)
{
    for (size_t i = 0; i < n; i++) w[i] = synth_value("w", (int64_t)i);
}

/* W + weight*dW of the file's module on target t, against want[]. */
static double apply_error(const Lora *lo, const LoraTarget *t, float weight, const double *want)
{
    size_t n = weight_size(t);
    float *w = malloc(n * sizeof *w);
    double worst = 0;
    fill(w, n);
    if (lora_add_delta(lora_find(lo, t), weight, w, NULL)) worst = INFINITY;
    for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs(w[i] - want[i]));
    free(w);
    return worst;
}

/* Plain product of synthetic factors in f64, times s, over W. */
static void plain_effect(const LoraTarget *t, const char *down, const char *up, int rank, double s,
                         double *want)
{
    int n = t->in * t->k * t->k;
    for (int o = 0; o < t->out; o++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int r = 0; r < rank; r++)
                sum += (double)synth_value(up, o * rank + r) * (double)synth_value(down, r * n + j);
            want[o * n + j] = (double)synth_value("w", o * n + j) + s * sum;
        }
}

TEST(lora_delta_linear_and_conv)
{
    static const char *const down[2] = {
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",
        "lora_unet_mid_block_resnets_0_conv1.lora_down.weight"};
    static const char *const up[2] = {"lora_unet_mid_block_attentions_0_proj_in.lora_up.weight",
                                      "lora_unet_mid_block_resnets_0_conv1.lora_up.weight"};
    static const float half = .5f;
    SynthTensor f[] = {
        {down[0], FD_F16, 2, {2, 4}, NULL}, {up[0], FD_F16, 2, {6, 2}, NULL},
        {down[1], FD_F16, 4, {3, 4, 3, 3}, NULL}, {up[1], FD_F16, 4, {5, 3, 1, 1}, NULL},
        {"lora_unet_mid_block_resnets_0_conv1.alpha", FD_F16, 0, {0}, &half}};
    Lora lo;
    Err e = {0};
    double want[200];
    CHECK_OK(open_made(&lo, f, 5, NULL, 0, &e), &e);
    plain_effect(&targets[PROJ], down[0], up[0], 2, 0.7, want);
    double linear = apply_error(&lo, &targets[PROJ], 0.7f, want);
    plain_effect(&targets[CONV], down[1], up[1], 3, -1.3 * 0.5 / 3, want);
    double conv = apply_error(&lo, &targets[CONV], -1.3f, want);
    float w[24], before[24];
    fill(w, 24);
    w[0] = -0.0f;
    memcpy(before, w, sizeof w);
    int zero = lora_add_delta(lora_find(&lo, &targets[PROJ]), 0, w, &e);
    lora_close(&lo);
    CHECK_NEAR(linear, 0, 1e-6);
    CHECK_NEAR(conv, 0, 1e-6);
    CHECK_INT(zero, 0);
    CHECK(!memcmp(w, before, sizeof w));
}

TEST(lora_delta_tucker)
{
    SynthTensor f[] = {{C "lora_down.weight", FD_F32, 4, {2, 4, 1, 1}, NULL},
                       {C "lora_mid.weight", FD_F32, 4, {3, 2, 3, 3}, NULL},
                       {C "lora_up.weight", FD_F32, 4, {5, 3, 1, 1}, NULL}};
    Lora lo;
    Err e = {0};
    double want[180];
    for (int o = 0; o < 5; o++)
        for (int i = 0; i < 4; i++)
            for (int x = 0; x < 9; x++) {
                double sum = 0;
                for (int a = 0; a < 3; a++)
                    for (int b = 0; b < 2; b++)
                        sum += (double)synth_value(f[2].name, o * 3 + a) *
                               (double)synth_value(f[1].name, (a * 2 + b) * 9 + x) *
                               (double)synth_value(f[0].name, b * 4 + i);
                want[(o * 4 + i) * 9 + x] = (double)synth_value("w", (o * 4 + i) * 9 + x) + sum;
            }
    CHECK_OK(open_made(&lo, f, 3, NULL, 0, &e), &e);
    double error = apply_error(&lo, &targets[CONV], 1, want);
    lora_close(&lo);
    CHECK_NEAR(error, 0, 1e-6);
}

/* One row of (w1_a w1_b) o (w2_a w2_b) on the 3x3 target. */
static double loha_at(int o, int j)
{
    double p = 0, q = 0, a, b;
    for (int r = 0; r < 2; r++) {
        a = (double)synth_value(C "hada_w1_a", o * 2 + r);
        b = (double)synth_value(C "hada_w1_b", r * 36 + j);
        p += a * b;
    }
    for (int r = 0; r < 3; r++) {
        a = (double)synth_value(C "hada_w2_a", o * 3 + r);
        b = (double)synth_value(C "hada_w2_b", r * 36 + j);
        q += a * b;
    }
    return p * q;
}

static const SynthTensor loha[] = {{C "hada_w1_a", FD_F32, 2, {5, 2}, NULL},
                                   {C "hada_w1_b", FD_F32, 2, {2, 36}, NULL},
                                   {C "hada_w2_a", FD_F32, 2, {5, 3}, NULL},
                                   {C "hada_w2_b", FD_F32, 2, {3, 36}, NULL}};

TEST(lora_delta_loha)
{
    Lora lo;
    Err e = {0};
    double want[180];
    for (int i = 0; i < 180; i++)
        want[i] = (double)synth_value("w", i) + 0.6 * loha_at(i / 36, i % 36);
    CHECK_OK(open_made(&lo, loha, 4, NULL, 0, &e), &e);
    double error = apply_error(&lo, &targets[CONV], 0.6f, want);
    lora_close(&lo);
    CHECK_NEAR(error, 0, 1e-6);
}

TEST(lora_delta_dora)
{
    SynthTensor f[] = {{P "lora_down.weight", FD_F32, 2, {2, 4}, NULL},
                       {P "lora_up.weight", FD_F32, 2, {6, 2}, NULL},
                       {P "dora_scale", FD_F32, 2, {6, 1}, NULL}};
    Lora lo;
    Err e = {0};
    double y[24], want[24];
    plain_effect(&targets[PROJ], f[0].name, f[1].name, 2, 1, y);
    for (int o = 0; o < 6; o++) {
        double norm = 0, to = (double)synth_value(f[2].name, o);
        for (int j = 0; j < 4; j++) norm += y[o * 4 + j] * y[o * 4 + j];
        for (int j = 0; j < 4; j++) {
            double w = (double)synth_value("w", o * 4 + j);
            want[o * 4 + j] = w + 0.5 * (y[o * 4 + j] * to / sqrt(norm) - w);
        }
    }
    CHECK_OK(open_made(&lo, f, 3, NULL, 0, &e), &e);
    double error = apply_error(&lo, &targets[PROJ], 0.5f, want);
    lora_close(&lo);
    CHECK_NEAR(error, 0, 1e-6);
}

/* ---- writing -------------------------------------------------------------------- */

static float *values_of(const char *name, size_t n)
{
    float *v = mem_alloc(n * sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = synth_value(name, (int64_t)i);
    return v;
}

static int same_bytes(const char *a, const char *b)
{
    char x[HASH_HEX], y[HASH_HEX];
    return !hash_file(x, a, NULL) && !hash_file(y, b, NULL) && !strcmp(x, y);
}

/* Hashes as kohya's precalculate_safetensors_hashes gives them for the same
 * tensors and ss_* metadata (computed with the safetensors package). */
TEST(lora_save_hashes_as_kohya)
{
    static const LoraTarget t = {"unet.mid_block.attentions.0.proj_in",
        "lora_unet_mid_block_attentions_0_proj_in", 1280, 1280, 1, 1, 1, 0, LORA_DEFAULT};
    static const LoraMeta meta[] = {{"ss_network_dim", "128"}, {"modelspec.title", "x"},
        {"ss_output_name", "na\xc3\xafve \"quoted\"\nline"}, {"ss_x", "\xe4\xb8\x96 /\\"}};
    LoraModule m = {.target = &t, .rank = 128, .alpha = 64, .up = values_of("up", 128 * 1280),
                    .down = values_of("down", 128 * 1280)};
    const char *a = lora_path("hash-a"), *b = lora_path("hash-b");
    TensorFile *tf;
    Err e = {0};
    int rc = lora_save(a, &m, 1, FD_F32, meta, 4, &e);
    if (!rc) rc = lora_save(b, &m, 1, FD_F32, meta, 4, &e);
    lora_module_free(&m);
    CHECK_OK(rc, &e);
    CHECK(same_bytes(a, b));
    CHECK_OK(tensorfile_open(&tf, a, &e), &e);
    CHECK_STR(tensorfile_meta(tf, "sshs_legacy_hash"), "a85b77fc");
    CHECK_STR(tensorfile_meta(tf, "sshs_model_hash"),
              "e7d0d11bb5b508b3d205387014715a203dca6907204b4722ef77c234c83ce12c");
    CHECK_STR(tensorfile_meta(tf, "modelspec.title"), "x");
    const FileTensor *up = tensorfile_find(tf, "lora_unet_mid_block_attentions_0_proj_in."
                                               "lora_up.weight");
    CHECK(up && up->ndim == 4 && up->shape[0] == 1280 && up->shape[1] == 128);
    CHECK_INT(tensorfile_find(tf, "lora_unet_mid_block_attentions_0_proj_in.alpha")->ndim, 0);
    tensorfile_close(tf);
}

TEST(lora_save_reads_back)
{
    static const FileDtype types[] = {FD_F32, FD_F16, FD_BF16};
    SynthTensor f[] = {{C "lora_down.weight", FD_F16, 4, {3, 4, 3, 3}, NULL},
                       {C "lora_up.weight", FD_F16, 4, {5, 3, 1, 1}, NULL},
                       {P "lora_down.weight", FD_F16, 4, {2, 4, 1, 1}, NULL},
                       {P "lora_up.weight", FD_F16, 4, {6, 2, 1, 1}, NULL}};
    for (size_t i = 0; i < COUNT(types); i++) {
        Lora a, b;
        Err e = {0};
        const char *path = lora_path("back");
        CHECK_OK(open_made(&a, f, 4, NULL, 0, &e), &e);
        a.list[1].alpha = 0.5f;
        CHECK_OK(lora_save(path, a.list, a.count, types[i], NULL, 0, &e), &e);
        CHECK_OK(lora_open(&b, path, targets, TARGETS, &e), &e);
        CHECK_INT(b.count, 2);
        CHECK(b.list[1].target == &targets[CONV] && b.list[1].alpha == 0.5f && b.list[1].rank == 3);
        for (int j = 0; j < 108; j++)
            CHECK_NEAR(b.list[1].down[j], a.list[1].down[j], types[i] == FD_BF16 ? 4e-3 : 0);
        lora_close(&a);
        lora_close(&b);
    }
}

/* ---- merging -------------------------------------------------------------------- */

static const SynthTensor merge_a[] = {{P "lora_down.weight", FD_F32, 2, {2, 4}, NULL},
                                      {P "lora_up.weight", FD_F32, 2, {6, 2}, NULL},
                                      {C "lora_down.weight", FD_F32, 4, {3, 4, 3, 3}, NULL},
                                      {C "lora_up.weight", FD_F32, 4, {5, 3, 1, 1}, NULL}};

/* Largest difference between the merge and the LoRAs applied one after another. */
static double merge_error(const Lora *merged, const Lora *in, size_t n, const LoraTarget *t)
{
    size_t size = weight_size(t);
    float *w = malloc(size * sizeof *w);
    double want[200];
    fill(w, size);
    for (size_t i = 0; i < n; i++)
        if (lora_find(&in[i], t))
            lora_add_delta(lora_find(&in[i], t), lora_weight(&in[i], t), w, NULL);
    for (size_t i = 0; i < size; i++) want[i] = w[i];
    free(w);
    return apply_error(merged, t, 1, want);
}

TEST(lora_merge_is_the_exact_sum)
{
    Lora in[2], out;
    Err e = {0};
    CHECK_OK(open_made(&in[0], merge_a, 4, NULL, 0, &e), &e);
    CHECK_OK(open_made(&in[1], loha, 4, NULL, 0, &e), &e);
    in[0].unet_weight = 0.7f;
    in[0].list[0].alpha = 0.5f;
    in[1].unet_weight = -0.4f;
    CHECK_OK(lora_merge(&out, in, 2, targets, TARGETS, 0, NULL, &e), &e);
    CHECK_INT(out.count, 2);
    CHECK_INT(lora_find(&out, &targets[PROJ])->rank, 2);
    CHECK_INT(lora_find(&out, &targets[CONV])->rank, 3 + 2 * 3);
    CHECK_NEAR(merge_error(&out, in, 2, &targets[PROJ]), 0, 2e-6);
    CHECK_NEAR(merge_error(&out, in, 2, &targets[CONV]), 0, 2e-6);
    lora_close(&out);
    lora_close(&in[0]);
    lora_close(&in[1]);
}

/* A module whose product has the singular values 5, 3, 1, 0.5 on coordinate
 * axes, hidden behind factors of rank 6 that mix and repeat them. */
static LoraModule known_svd(const LoraTarget *t)
{
    static const double s[4] = {5, 3, 1, 0.5};
    size_t n = (size_t)t->in * (size_t)t->k * (size_t)t->k;
    LoraModule m = {.target = t, .rank = 6, .alpha = 6};
    m.up = mem_calloc((size_t)t->out * 6, sizeof *m.up);
    m.down = mem_calloc(6 * n, sizeof *m.down);
    for (size_t i = 0; i < 4; i++) {
        m.up[i * 6 + i] = (float)s[i];
        m.down[i * n + (n - 1 - i)] = 1;
    }
    /* column 4 repeats column 0, which row 4 of down takes back out of row 0 */
    m.up[0 * 6 + 4] = 5;
    m.down[4 * n + 0] = 2;
    m.down[0 * n + 0] = -2;
    return m;
}

TEST(lora_truncate_keeps_the_largest)
{
    for (int i = PROJ; i <= CONV; i += CONV - PROJ) {
        const LoraTarget *t = &targets[i];
        size_t n = (size_t)t->in * (size_t)t->k * (size_t)t->k;
        double lost = 0, total = 0, worst = 0;
        Err e = {0};
        LoraModule m = known_svd(t);
        CHECK_OK(lora_truncate(&m, 2, &lost, &total, &e), &e);
        CHECK_INT(m.rank, 2);
        CHECK_NEAR(m.alpha, 2, 0);
        for (size_t o = 0; o < (size_t)t->out; o++)
            for (size_t j = 0; j < n; j++) {
                double v = (double)m.up[o * 2] * (double)m.down[j] +
                           (double)m.up[o * 2 + 1] * (double)m.down[n + j];
                double want = o == 0 && j == n - 1 ? 5 : o == 1 && j == n - 2 ? 3 : 0;
                worst = fmax(worst, fabs(v - want));
            }
        lora_module_free(&m);
        CHECK_NEAR(worst, 0, 1e-6);
        CHECK_NEAR(total, 25 + 9 + 1 + 0.25, 1e-9);
        CHECK_NEAR(lost, 1.25, 1e-9);
    }
}

TEST(lora_merge_to_a_rank)
{
    Lora in[2], out;
    double error = -1;
    Err e = {0};
    CHECK_OK(open_made(&in[0], merge_a, 4, NULL, 0, &e), &e);
    CHECK_OK(open_made(&in[1], merge_a, 4, NULL, 0, &e), &e);   /* the same again: rank stays */
    CHECK_OK(lora_merge(&out, in, 2, targets, TARGETS, 3, &error, &e), &e);
    CHECK_NEAR(error, 0, 1e-7);
    CHECK_INT(lora_find(&out, &targets[PROJ])->rank, 3);
    CHECK_NEAR(merge_error(&out, in, 2, &targets[PROJ]), 0, 2e-6);
    CHECK_NEAR(merge_error(&out, in, 2, &targets[CONV]), 0, 4e-6);
    lora_close(&out);
    CHECK_OK(lora_merge(&out, in, 2, targets, TARGETS, 1, &error, &e), &e);
    CHECK(error > 0.1 && error < 1);
    lora_close(&out);
    lora_close(&in[0]);
    lora_close(&in[1]);
}

TEST(lora_targets_of_files)
{
    const char *paths[2] = {lora_path("ta"), lora_path("tb")};
    LoraTarget *list;
    size_t n;
    Lora lo;
    Err e = {0};
    CHECK_OK(synth_file(paths[0], merge_a, 4, NULL, 0, &e), &e);
    CHECK_OK(synth_file(paths[1], merge_a, 2, NULL, 0, &e), &e);
    CHECK_OK(lora_targets_from_files(paths, 2, &list, &n, &e), &e);
    CHECK_INT(n, 2);
    CHECK_STR(list[0].name, "lora_unet_mid_block_attentions_0_proj_in");
    CHECK_INT(list[1].k, 3);
    CHECK_INT(list[1].in, 4);
    CHECK_OK(lora_open(&lo, paths[0], list, n, &e), &e);
    lora_close(&lo);
    lora_targets_free(list, n);
}

TEST(lora_survives_failing_memory)
{
    const char *path = lora_path("mem"), *out = lora_path("mem-out");
    Err e = {0};
    CHECK_OK(synth_file(path, merge_a, 4, NULL, 0, &e), &e);
    int rc = 1;
    for (long n = 1; rc && n < 1000; n++) {
        Lora lo, merged;
        Err e2 = {0};
        fail_mem(n);
        rc = lora_open_spec(&lo, path, targets, TARGETS, &e2);
        if (!rc) {
            rc = lora_merge(&merged, &lo, 1, targets, TARGETS, 1, NULL, &e2);
            if (!rc) {
                rc = lora_save(out, merged.list, merged.count, FD_F16, NULL, 0, &e2);
                lora_close(&merged);
            }
            lora_close(&lo);
        }
        fail_mem(0);
        if (rc) CHECK_INT(rc, ERR_MEMORY);
        if (rc) CHECK_INT(io_exists(out), 0);
    }
    CHECK_INT(rc, 0);
}
