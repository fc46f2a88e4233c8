/* test_kohya.c - what `sdc train` takes over from kohya's train_network.py: every option is
 * known by name, noise is what its functions make of the same random numbers, and loss weights,
 * masks and norms are those of its formulas. */
#include <stdlib.h>

#include "engine/data.h"
#include "engine/io.h"
#include "engine/lora.h"
#include "engine/mem.h"
#include "engine/tensorfile.h"
#include "models/denoise.h"
#include "models/noise.h"
#include "tests/fixture.h"
#include "tests/kern.h"
#include "tests/test.h"

static char out[8192], err[8192];

/* ---- options ------------------------------------------------------------- */

/* tests/data/kohya/options.txt: all options of its argument parser, and some that stand in
 * its sources only. */
TEST(kohya_options_are_all_known)
{
    char *text, args[200];
    Err e = {0};
    int count = 0, unknown = 0;
    CHECK_OK(io_read_text(&text, NULL, "tests/data/kohya/options.txt", 1 << 16, &e), &e);
    for (char *name = strtok(text, "\n"); name; name = strtok(NULL, "\n"), count++) {
        snprintf(args, sizeof args, "train --%s", name);
        CHECK_INT(test_sdc(args, out, err, sizeof out), 2);      /* the model is missing anyway */
        if (!strstr(err, "unknown option")) continue;
        test_fail(__FILE__, __LINE__, "%s", err);
        unknown++;
    }
    mem_free(text);
    CHECK_INT(count, 211);
    CHECK_INT(unknown, 0);
}

TEST(kohya_options_that_are_not_here_say_why)
{
    static const char *const refused[][2] = {
        {"--full_fp16", "use --full_bf16"},
        {"--lr_scheduler_type CosineAnnealingLR", "a Python class"}, {"--log_with wandb -m m -d d", "tensorboard is"},
        {"--save_model_as ckpt -m m -d d", "safetensors is"}, {"--adaptive_noise_scale 1 -m m -d d", "needs --noise_offset"},
        {"-m m -d d --validate_every_n_steps 3", "need --validation_split"},
        {"-m m -d d --base_weights_multiplier 1", "more of them"},
        {"-m m -d d --resize_interpolation lanczos4", "expected lanczos, nearest"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        char args[200];
        snprintf(args, sizeof args, "train %s", refused[i][0]);
        CHECK_INT(test_sdc(args, out, err, sizeof out), 2);
        if (!strstr(err, refused[i][1])) test_fail(__FILE__, __LINE__, "%s: %s", args, err);
    }
    /* switched off is as good as not given; what has no effect is a note */
    CHECK_INT(test_sdc("train --full_fp16=false --color_aug=false --base_weights a b "
                       "--base_weights_multiplier 1 -0.5 --help", out, err, sizeof out), 0);
    CHECK_STR(err, "");
    CHECK_INT(test_sdc("train --xformers --help", out, err, sizeof out), 0);
    CHECK(strstr(err, "note: --xformers is ignored: "));
}

/* ---- noise: what kohya's own functions made of the same random numbers --------------- */

enum { B = 2, H = 8, W = 6, N = H * W * 4 };

static const struct {
    const char *name;
    NoiseConfig c;
} noises[] = {                       /* tests/golden/make_noise.py has the same */
    {"plain", {.discount = 0.3f}},
    {"offset", {.offset = 0.1f}},
    {"offset-random", {.offset = 0.1f, .offset_random = 1}},
    {"adaptive", {.offset = 0.05f, .adaptive = 0.3f}},
    {"adaptive-below-0", {.offset = 0.1f, .adaptive = -0.5f}},
    {"adaptive-random", {.offset = 0.1f, .offset_random = 1, .adaptive = -0.02f}},
    {"multires", {.iterations = 6, .discount = 0.3f}},
    {"multires-offset", {.offset = 0.05f, .iterations = 8, .discount = 0.8f}},
    {"multires-1", {.iterations = 1, .discount = 0.3f}},
    {"gamma", {.gamma = 0.1f}},
    {"gamma-random",
     {.offset = 0.1f, .offset_random = 1, .iterations = 6, .discount = 0.3f, .gamma = 0.2f,
      .gamma_random = 1}},
};

/* The noise of a batch and what its input gets. */
static void draw_noise(const NoiseConfig *c, float *noise, float *input)
{
    const RngKey batch = {9, 4, 2, 0};
    float latents[N], scratch[N];
    for (uint32_t i = 0; i < B; i++) {
        RngKey key = batch;
        key.sample += i;
        key.purpose = RNG_PURPOSE_LATENT;
        rng_normal(key, 0, latents, N);
        for (int k = 0; k < N; k++) latents[k] += ((const float[]){0.5f, -3, 0, 2})[k % 4];
        noise_draw(c, noise + i * N, latents, H, W, key, batch, scratch);
    }
    noise_finish(c, noise, B * N);
    for (uint32_t i = 0; c->gamma > 0 && i < B; i++) {
        RngKey key = batch;
        key.sample += i;
        noise_perturb(c, input + i * N, noise + i * N, N, key, batch);
    }
}

/* The largest difference from a tensor of the file; -1: there is none. */
static double off(TensorFile *f, const char *noise, const char *part, const float *x)
{
    char name[60];
    float want[B * N];
    double far = 0;
    snprintf(name, sizeof name, "%s.%s", noise, part);
    const FileTensor *t = tensorfile_find(f, name);
    if (!t || t->count != B * N || tensorfile_read_f32(f, t, 0, B * N, want, NULL)) return -1;
    for (int i = 0; i < B * N; i++) far = fmax(far, fabs((double)x[i] - (double)want[i]));
    return far;
}

TEST(noise_is_kohyas)
{
    TensorFile *f;
    Err e = {0};
    CHECK_OK(tensorfile_open(&f, "tests/golden/noise/noise.safetensors", &e), &e);
    for (size_t i = 0; i < sizeof noises / sizeof *noises; i++) {
        float noise[B * N], input[B * N] = {0};
        draw_noise(&noises[i].c, noise, input);
        double a = off(f, noises[i].name, "noise", noise), b = 0;
        if (noises[i].c.gamma > 0) b = off(f, noises[i].name, "input", input);
        /* a dozen roundings in f32 of values below 8 */
        if (!(a >= 0 && a < 6e-6 && b >= 0 && b < 6e-6))
            test_fail(__FILE__, __LINE__, "%s: noise off by %g, input by %g", noises[i].name, a, b);
    }
    tensorfile_close(f);
}

/* ---- loss: train_network.py post_process_loss ------------------------------ */

static const SdConfig micro = {
    .in_channels = 4, .unet_width = {32, 32, 32, 32}, .unet_heads = {8, 8, 8, 8}, .text_width = 64,
    .text_layers = 2, .text_heads = 1, .text_ff = 256, .vocab = 100, .vae_width = {32, 32, 32, 32}};

/* The loss of each of two samples, at timesteps 10 and 800, of a small random model. */
static int losses(const DenoiseConfig *c, const float *mask, const float *input_noise, float per[2],
                  Err *e)
{
    static float latents[512], noise[512];
    static int32_t ids[154];
    Model m;
    Denoise d;
    Schedule s;
    float loss;
    ModelOptions o = {.config = &micro, .threads = 2, .device = kern_device(), .seed = 3};
    TRY(model_open(&m, &o, e));
    schedule_init(&s);
    rng_normal((RngKey){1, 0, 0, 1}, 0, latents, 512);
    rng_normal((RngKey){1, 0, 1, 1}, 0, noise, 512);
    DenoiseBatch b = {.latents = latents,
                      .noise = noise,
                      .timestep = (const int[]){10, 800},
                      .ids = ids,
                      .mask = mask,
                      .input_noise = input_noise};
    int rc = denoise_init(&d, &m, &s, c, 2, 8, 8, 1, mask != NULL, 0, e);
    if (!rc) rc = model_load(&m, e);
    if (!rc) rc = denoise_run(&d, &b, 1, &loss, per, e);
    if (!rc && fabs(loss - (per[0] + per[1]) / 2) > 1e-5)
        rc = err_set(e, ERR_FAIL, "the mean is %g", loss);
    denoise_free(&d);
    model_close(&m);
    return rc;
}

TEST(loss_weights_are_kohyas)
{
    Err e = {0};
    Schedule s;
    float plain[2], per[2];
    static const int t[2] = {10, 800};
    schedule_init(&s);
    for (int v = 0; v < 2; v++) {
        DenoiseConfig c = {.v_pred = v, .huber_c = 0.1f};
        CHECK_OK(losses(&c, NULL, NULL, plain, &e), &e);
        c.min_snr_gamma = 5;
        c.debiased = 1;
        c.scale_v_loss = v;
        c.v_pred_like = v ? 0 : 0.3f;
        CHECK_OK(losses(&c, NULL, NULL, per, &e), &e);
        for (int i = 0; i < 2; i++) {
            double snr = s.snr[t[i]], want = fmin(snr, 5) / (v ? snr + 1 : snr);
            if (v) want *= snr / (snr + 1);
            else want += want / (snr / (snr + 1)) * 0.3;
            want *= v ? 1 / (snr + 1) : 1 / sqrt(snr);
            CHECK_NEAR(per[i] / plain[i], want, 2e-4 * want);
        }
    }
}

/* custom_train_functions.py apply_masked_loss: times the mask, the mean over everything. */
TEST(loss_is_weighed_by_the_mask)
{
    Err e = {0};
    DenoiseConfig c = {.huber_c = 0.1f};
    float plain[2], upper[2], lower[2], mask[128], noise[512];
    CHECK_OK(losses(&c, NULL, NULL, plain, &e), &e);
    for (int i = 0; i < 128; i++) mask[i] = i % 64 < 32 ? 0.25f : 0;
    CHECK_OK(losses(&c, mask, NULL, upper, &e), &e);
    for (int i = 0; i < 128; i++) mask[i] = i % 64 < 32 ? 0 : 0.25f;
    CHECK_OK(losses(&c, mask, NULL, lower, &e), &e);
    for (int i = 0; i < 2; i++) CHECK_NEAR(4 * (upper[i] + lower[i]), plain[i], 1e-4 * plain[i]);
    rng_normal((RngKey){1, 0, 1, 1}, 0, noise, 512);
    CHECK_OK(losses(&c, NULL, noise, upper, &e), &e);
    CHECK(!memcmp(upper, plain, sizeof plain));      /* the same noise for input and target */
}

TEST(lora_norm_is_that_of_the_product)
{
    float up[5 * 3], down[3 * 7];
    double want = 0;
    for (int i = 0; i < 15; i++) up[i] = (float)(i * i % 11 - 5);
    for (int i = 0; i < 21; i++) down[i] = (float)(i * 5 % 13 - 6);
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 7; k++) {
            double v = 0;
            for (int r = 0; r < 3; r++) v += (double)up[i * 3 + r] * down[r * 7 + k];
            want += v * v;
        }
    CHECK_NEAR(lora_norm(up, down, 5, 3, 7), sqrt(want), 1e-9);
    memset(up, 0, sizeof up);
    CHECK(lora_norm(up, down, 5, 3, 7) == 0);
}

/* ---- data sets ----------------------------------------------------------- */

/* 64x64, opaque from x = 16, red from y = 16. */
static int put_rgba(const char *name, int channels, Err *e)
{
    Image im;
    TRY(image_new(&im, 64, 64, channels, e));
    for (int i = 0; i < 64 * 64; i++) {
        uint8_t *p = im.px + i * channels;
        p[0] = i / 64 < 16 ? 0 : 255;
        p[1] = p[2] = 9;
        if (channels == 4) p[3] = i % 64 < 16 ? 0 : 255;
    }
    int rc = image_save(test_path(name), &im, NULL, e);
    image_free(&im);
    return rc;
}

TEST(dataset_masks_are_kohyas)
{
    Err e = {0};
    Dataset *ds;
    float *mask;
    char dir[512], masks[512];
    snprintf(dir, sizeof dir, "%s", test_path("data"));
    snprintf(masks, sizeof masks, "%s", test_path("masks"));
    CHECK_OK(io_mkdirs(test_path("data/1_a"), &e), &e);
    CHECK_OK(io_mkdirs(masks, &e), &e);
    CHECK_OK(put_rgba("data/1_a/a.png", 4, &e), &e);
    CHECK_OK(put_rgba("data/1_a/b.png", 3, &e), &e);
    CHECK_OK(put_rgba("masks/a.png", 3, &e), &e);
    DataConfig c = {.train_dir = dir,
                    .batch_size = 1,
                    .bucket = {.w = 64, .h = 64},
                    .alpha_mask = 1};
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    for (int flip = 0; flip < 2; flip++) {
        CHECK_OK(dataset_mask(&mask, ds, &ds->items[0], flip, &e), &e);
        int bad = 0;
        for (int i = 0; i < 64; i++) bad += mask[i] != (float)((flip ? 7 - i % 8 : i % 8) >= 2);
        mem_free(mask);
        CHECK_INT(bad, 0);
    }
    CHECK_OK(dataset_mask(&mask, ds, &ds->items[1], 0, &e), &e);    /* without alpha: all of it */
    int all = mask[0] == 1 && mask[63] == 1;
    mem_free(mask);
    CHECK(all);
    dataset_close(ds);
    c.mask_dir = masks;
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    CHECK_OK(dataset_mask(&mask, ds, &ds->items[0], 0, &e), &e);
    int rows = mask[15] == 0 && mask[16] == 1;
    mem_free(mask);
    CHECK_OK(dataset_mask(&mask, ds, &ds->items[1], 0, &e), &e);
    rows += mask[0] == 1;
    mem_free(mask);
    dataset_close(ds);
    CHECK_INT(rows, 2);
}

TEST(dataset_holds_pictures_out)
{
    Err e = {0};
    Dataset *ds[3];
    char dir[512];
    snprintf(dir, sizeof dir, "%s", test_path("data"));
    CHECK_OK(fixture_data(dir, &e), &e);
    DataConfig c = {.train_dir = dir,
                    .batch_size = 1,
                    .bucket = {.w = 64, .h = 64},
                    .split = 0.25,
                    .split_seed = 3};
    CHECK_OK(dataset_open(&ds[0], &c, &e), &e);
    c.held_out = 1;
    CHECK_OK(dataset_open(&ds[1], &c, &e), &e);
    int other = 0;
    for (c.split_seed = 4; c.split_seed < 12; c.split_seed++) {
        CHECK_OK(dataset_open(&ds[2], &c, &e), &e);
        for (int i = 0; i < 4; i++) other += ds[2]->items[i].repeats != ds[1]->items[i].repeats;
        dataset_close(ds[2]);
    }
    int ok = ds[0]->entry_count == 9 && ds[1]->entry_count == 1 && other;
    for (int i = 0; i < 4; i++)
        ok &= (ds[0]->items[i].repeats == 3) != (ds[1]->items[i].repeats == 1);
    dataset_close(ds[0]);
    dataset_close(ds[1]);
    CHECK(ok);
    c.split = 0.1;
    CHECK_INT(dataset_open(&ds[0], &c, &e), ERR_USAGE);
    CHECK(strstr(e.msg, "leaves no picture"));
}

/* ---- captions: library/train_util.py process_caption ------------------------ */

static const char *vary(const CaptionConfig *c, const char *caption, uint32_t sample)
{
    static char text[256];
    char *got = NULL;
    Err e = {0};
    if (caption_process(&got, c, caption, (RngKey){.seed = 7, .sample = sample}, 0, 0, &e))
        return "failed";
    snprintf(text, sizeof text, "%s", got);
    mem_free(got);
    return text;
}

TEST(caption_wildcards_are_kohyas)
{
    CaptionConfig c = {.wildcards = 1};
    int seen[4] = {0};
    for (uint32_t i = 0; i < 60; i++) {
        const char *t = vary(&c, "a {red|blue} cat\ntwo {cats|dogs}", i);
        static const char *const may[] = {"a red cat", "a blue cat", "two cats", "two dogs"};
        for (int k = 0; k < 4; k++) seen[k] += !strcmp(t, may[k]);
    }
    CHECK_INT(seen[0] + seen[1] + seen[2] + seen[3], 60);
    for (int k = 0; k < 4; k++) CHECK(seen[k] >= 5);
    static const char *const same[][2] = {
        {"{{a|b}} {c}", "{a|b} c"}, {"{} } {a", "{} } {a"}, {"x{a}y", "xay"}, {"{ {{a}} }", "{ {a} }"}, {"", ""}, {"a\n", "a"}};
    for (size_t i = 0; i < 4; i++) {
        const char *t = vary(&c, same[i][0], 1);
        if (i == 3) CHECK_STR(t, " {a} ");            /* braces around escaped ones: one choice */
        else CHECK_STR(t, same[i][1]);
    }
    c = (CaptionConfig){.secondary = ";;;", .shuffle = 1, .separator = "|"};
    int whole = 0, moved = 0;
    for (uint32_t i = 0; i < 20; i++) {
        const char *t = vary(&c, "a;;;b | c", i);
        whole += strstr(t, "a|b") != NULL;
        moved += t[0] == 'c';
    }
    CHECK_INT(whole, 20);
    CHECK(moved > 2 && moved < 18);
    CHECK(!caption_is_fixed(&c));
}

TEST(caption_lines_are_kept_for_wildcards)
{
    static const char text[] = "\xEF\xBB\xBF one \r\n\r\n\n two\nthree ";
    Err e = {0};
    char *all = NULL, *first = NULL;
    CHECK_OK(io_write_file(test_path("c.txt"), text, sizeof text - 1, &e), &e);
    CHECK_OK(caption_read_lines(&all, test_path("c.txt"), &e), &e);
    CHECK_OK(caption_read(&first, test_path("c.txt"), &e), &e);
    int ok = !strcmp(all, "one\ntwo\nthree") && !strcmp(first, "one");
    mem_free(all);
    mem_free(first);
    CHECK(ok);
}
