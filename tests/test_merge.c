/* test_merge.c - sdc merge and sdc inspect from the command line. */
#include <stdlib.h>

#include "engine/hash.h"
#include "engine/io.h"
#include "tests/synth.h"
#include "tests/test.h"

#define TO_Q "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
#define TO_Q_KEY "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
#define NAME "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
#define FC1 "lora_te_text_model_encoder_layers_0_mlp_fc1"

/* m.safetensors and a.safetensors in the test's folder. */
static int make_inputs(Err *e)
{
    static const float alpha = 1;
    static const SynthTensor lora[] = {
        {NAME ".lora_down.weight", FD_F16, 2, {2, 32}, NULL},
        {NAME ".lora_up.weight", FD_F16, 2, {32, 2}, NULL}, {NAME ".alpha", FD_F16, 0, {0}, &alpha},
        {FC1 ".lora_down.weight", FD_F16, 2, {3, 64}, NULL},
        {FC1 ".lora_up.weight", FD_F16, 2, {256, 3}, NULL}};
    char path[300];
    SdConfig c;
    snprintf(path, sizeof path, "%s/m.safetensors", test_dir());
    TRY(synth_config(&c, "sd1", e));
    TRY(synth_model(path, &c, e));
    snprintf(path, sizeof path, "%s/a.safetensors", test_dir());
    return synth_file(path, lora, sizeof lora / sizeof *lora,
                      &(LoraMeta){"ss_base_model_version", "sd_v1"}, 1, e);
}

/* sdc with every @ in args replaced by the test's folder. */
static int sdc(const char *args, char *out, char *err, size_t cap)
{
    char cmd[2000];
    size_t n = 0;
    for (; *args; args++)
        if (*args == '@') n += (size_t)snprintf(cmd + n, sizeof cmd - n, "%s", test_dir());
        else cmd[n++] = *args;
    cmd[n] = 0;
    return test_sdc(cmd, out, err, cap);
}

static double lora_product(const char *name, int o, int j, int rank, int in)
{
    char down[200], up[200];
    double sum = 0;
    snprintf(down, sizeof down, "%s.lora_down.weight", name);
    snprintf(up, sizeof up, "%s.lora_up.weight", name);
    for (int r = 0; r < rank; r++) {
        double a = (double)synth_value(up, o * rank + r), b = (double)synth_value(down, r * in + j);
        sum += a * b;
    }
    return sum;
}

TEST(merge_into_a_model)
{
    char err[2000], path[300], original[300];
    TensorFile *a, *b;
    Err e = {0};
    CHECK_OK(make_inputs(&e), &e);
    int rc = sdc("merge --model @/m.safetensors --lora @/a.safetensors:0.5:0 "
                 "--out @/out.safetensors", NULL, err, sizeof err);
    CHECK_STR(err, "");
    CHECK_INT(rc, 0);
    snprintf(path, sizeof path, "%s/out.safetensors", test_dir());
    snprintf(original, sizeof original, "%s/m.safetensors", test_dir());
    CHECK_OK(tensorfile_open(&a, original, &e), &e);
    CHECK_OK(tensorfile_open(&b, path, &e), &e);
    CHECK_INT(tensorfile_count(b), tensorfile_count(a));
    for (size_t i = 0; i < tensorfile_count(a); i++) {
        const FileTensor *x = tensorfile_at(a, i), *y = tensorfile_find(b, x->name);
        CHECK(y && y->dtype == x->dtype && y->bytes == x->bytes);
        if (!strcmp(x->name, TO_Q_KEY)) continue;
        if (memcmp(x->data, y->data, x->bytes)) CHECK_STR(x->name, "unchanged");
    }
    float w[32 * 32];
    tensorfile_read_f32(b, tensorfile_find(b, TO_Q_KEY), 0, 32 * 32, w, &e);
    for (int i = 0; i < 32 * 32; i++) {
        double want = (double)synth_value(TO_Q ".weight", i) +
                      0.5 * 1 / 2 * lora_product(NAME, i / 32, i % 32, 2, 32);
        CHECK_NEAR(w[i], want, 1e-3);
    }
    tensorfile_close(a);
    tensorfile_close(b);
}

TEST(merge_loras_into_one)
{
    char err[2000], path[300];
    TensorFile *tf;
    Err e = {0};
    CHECK_OK(make_inputs(&e), &e);
    int rc = sdc("merge --lora @/a.safetensors:0.7 --lora @/a.safetensors:-0.3:1 "
                 "-o @/c.safetensors", NULL, err, sizeof err);
    CHECK_STR(err, "");
    CHECK_INT(rc, 0);
    snprintf(path, sizeof path, "%s/c.safetensors", test_dir());
    CHECK_OK(tensorfile_open(&tf, path, &e), &e);
    CHECK_INT(tensorfile_count(tf), 6);
    CHECK_STR(tensorfile_meta(tf, "ss_network_dim"), "Dynamic");
    CHECK_STR(tensorfile_meta(tf, "ss_base_model_version"), "sd_v1");
    float up[256 * 6], down[6 * 64], alpha;
    tensorfile_read_f32(tf, tensorfile_find(tf, FC1 ".lora_up.weight"), 0, 256 * 6, up, &e);
    tensorfile_read_f32(tf, tensorfile_find(tf, FC1 ".lora_down.weight"), 0, 6 * 64, down, &e);
    tensorfile_read_f32(tf, tensorfile_find(tf, FC1 ".alpha"), 0, 1, &alpha, &e);
    tensorfile_close(tf);
    CHECK_NEAR(alpha, 6, 0);
    for (int i = 0; i < 256 * 64; i++) {
        double sum = 0;
        for (int r = 0; r < 6; r++)
            sum += (double)up[i / 64 * 6 + r] * (double)down[r * 64 + i % 64];
        CHECK_NEAR(sum, 1.7 * lora_product(FC1, i / 64, i % 64, 3, 64), 1e-5);
    }
    rc = sdc("merge --lora @/a.safetensors --rank 1 --save_precision fp16 -o @/c.safetensors", NULL,
             err, sizeof err);
    CHECK_INT(rc, 0);
    CHECK(strstr(err, "relative error 0."));
    CHECK_OK(tensorfile_open(&tf, path, &e), &e);
    const FileTensor *t = tensorfile_find(tf, FC1 ".lora_up.weight");
    CHECK(t->shape[1] == 1 && t->dtype == FD_F16);
    CHECK_STR(tensorfile_meta(tf, "ss_network_dim"), "1");
    tensorfile_close(tf);
}

TEST(merge_errors_are_one_line)
{
    static const struct { const char *args; int code; const char *mention; } bad[] = {
        {"merge --out @/x.safetensors", ERR_USAGE, "--lora"},
        {"merge --lora @/a.safetensors", ERR_USAGE, "--out"},
        {"merge --lora @/a.safetensors --out @/x.safetensors --rank 0", ERR_USAGE, "rank"},
        {"merge --lora @/a.safetensors --out @/x.safetensors --save_precision f8", ERR_USAGE, "f8"},
        {"merge --lora @/none.safetensors --out @/x.safetensors", ERR_INPUT, "none.safetensors"},
        {"merge --lora @/a.safetensors:abc --out @/x.safetensors", ERR_INPUT, "abc"},
        {"merge --model @/a.safetensors --lora @/a.safetensors --out @/x.safetensors", ERR_INPUT,
         "this is a LoRA"},
        {"merge --lora @/m.safetensors --out @/x.safetensors", ERR_INPUT, "checkpoint"},
        {"merge --model @/m.safetensors --lora @/a.safetensors --rank 4 --out @/x.safetensors",
         ERR_USAGE, "--rank"}};
    char err[2000], path[300];
    Err e = {0};
    CHECK_OK(make_inputs(&e), &e);
    snprintf(path, sizeof path, "%s/x.safetensors", test_dir());
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int rc = sdc(bad[i].args, NULL, err, sizeof err);
        if (rc != bad[i].code) CHECK_STR(err, bad[i].args);
        if (!strstr(err, bad[i].mention)) CHECK_STR(err, bad[i].mention);
        CHECK(strchr(err, '\n') == err + strlen(err) - 1);
        CHECK_INT(io_exists(path), 0);
    }
}

TEST(inspect_tells_kind_and_hashes)
{
    char out[8000], err[2000], path[300], sha[HASH_HEX], line[100];
    Err e = {0};
    CHECK_OK(make_inputs(&e), &e);
    CHECK_INT(sdc("inspect @/m.safetensors", out, err, sizeof out), 0);
    CHECK(strstr(out, "SD 1.x checkpoint") && strstr(out, "U-Net          32 32 32 32"));
    snprintf(path, sizeof path, "%s/m.safetensors", test_dir());
    CHECK_OK(hash_file(sha, path, &e), &e);
    snprintf(line, sizeof line, "model hash     %.10s (A1111)", sha);
    CHECK(strstr(out, line));
    CHECK_INT(sdc("inspect --tensors @/a.safetensors", out, err, sizeof out), 0);
    CHECK(strstr(out, "rank           2 to 3") && strstr(out, "ss_base_model_version = sd_v1"));
    CHECK(strstr(out, NAME ".lora_down.weight F16 [2,32]"));
    CHECK_OK(io_write_file(path, "no tensors here", 15, &e), &e);
    CHECK_INT(sdc("inspect @/m.safetensors", out, err, sizeof out), ERR_INPUT);
    CHECK(strstr(err, "m.safetensors"));
}
