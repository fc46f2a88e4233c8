/* test_kohya.c - what `sdc train` takes over from kohya's train_network.py: every option is
 * known by name, and noise, loss weights, masks and norms are those of its formulas. */
#include <stdlib.h>

#include "engine/data.h"
#include "engine/io.h"
#include "engine/lora.h"
#include "engine/mem.h"
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

/* ---- noise: library/train_util.py get_noise_noisy_latents_and_timesteps --- */

enum { H = 6, W = 10, N = H * W * 4 };

static void normal(RngKey key, uint32_t purpose, uint64_t first, float *x, size_t n)
{
    key.purpose = purpose;
    rng_normal(key, first, x, n);
}

static const RngKey key = {9, 4, 3, 0}, batch = {9, 4, 2, 0};

static double uniform(uint32_t i)
{
    return (double)rng_uniform((RngKey){9, 4, 2, RNG_PURPOSE_NOISE_STRENGTH}, i);
}

TEST(noise_offset_is_kohyas)
{
    float plain[N], noise[N], latents[N], draw[4];
    normal(key, RNG_PURPOSE_NOISE, 0, plain, N);
    normal(key, RNG_PURPOSE_NOISE_OFFSET, 0, draw, 4);
    for (int i = 0; i < N; i++)
        latents[i] = (i % 4 == 1 ? -3.0f : 0.5f) + (float)(i % 7 - 3) * 0.01f;
    NoiseConfig c = {0};
    noise_draw(&c, noise, latents, H, W, key, batch, NULL);
    CHECK(!memcmp(noise, plain, sizeof plain));
    for (int kind = 0; kind < 4; kind++) {
        c = (NoiseConfig){.offset = 0.1f,
                          .offset_random = kind & 1,
                          .adaptive = kind & 2 ? -0.05f : 0};
        noise_draw(&c, noise, latents, H, W, key, batch, NULL);
        for (int i = 0; i < N; i++) {
            double mean = 0, amount = 0.1 * (kind & 1 ? uniform(0) : 1);
            for (int k = i % 4; k < N; k += 4) mean += latents[k];
            if (kind & 2) amount = fmax(0, amount - 0.05 * fabs(mean / (H * W)));
            CHECK_NEAR(noise[i], plain[i] + amount * draw[i % 4], 2e-6);
        }
    }
}

/* torch.nn.Upsample(mode="bilinear") as a sum over the small picture's triangles. */
static double upsampled(const float *small, int sh, int sw, int y, int x, int c)
{
    double sy = fmin(fmax((y + 0.5) * sh / H - 0.5, 0), sh - 1),
           sx = fmin(fmax((x + 0.5) * sw / W - 0.5, 0), sw - 1), sum = 0;
    for (int i = 0; i < sh; i++)
        for (int k = 0; k < sw; k++)
            sum += fmax(0, 1 - fabs(sy - i)) * fmax(0, 1 - fabs(sx - k)) *
                   (double)small[(i * sw + k) * 4 + c];
    return sum;
}

TEST(noise_of_many_scales_is_kohyas)
{
    float noise[2 * N], small[N], scratch[N];
    double want[N];
    NoiseConfig c = {.iterations = 6, .discount = 0.4f};
    normal(key, RNG_PURPOSE_NOISE, 0, noise, N);
    for (int i = 0; i < N; i++) want[i] = (double)noise[i];
    int used = 0;
    for (int i = 0; i < 6; i++, used++) {
        double r = 2 + 2 * uniform(2 + (uint32_t)i);
        int sh = (int)(H / pow(r, i)), sw = (int)(W / pow(r, i));
        sh = sh < 1 ? 1 : sh;
        sw = sw < 1 ? 1 : sw;
        normal(key, RNG_PURPOSE_NOISE_SCALES, (uint64_t)i * N, small, (size_t)(sh * sw * 4));
        for (int k = 0; k < N; k++)
            want[k] += pow(0.4, i) * upsampled(small, sh, sw, k / 4 / W, k / 4 % W, k % 4);
        if (sh == 1 || sw == 1) break;
    }
    CHECK(used >= 1 && used < 5);                    /* it ends at a side of 1 */
    noise_draw(&c, noise, NULL, H, W, key, batch, scratch);
    for (int i = 0; i < N; i++) CHECK_NEAR(noise[i], want[i], 1e-5);
    for (int i = 0; i < N; i++) noise[N + i] = 2 * noise[i] + 1;
    double mean = 0, square = 0, first = noise[0];
    for (int i = 0; i < 2 * N; i++) mean += (double)noise[i] / (2 * N);
    for (int i = 0; i < 2 * N; i++) square += pow(noise[i] - mean, 2) / (2 * N - 1);
    noise_finish(&c, noise, 2 * N);                  /* over the batch; the mean stays */
    CHECK_NEAR(noise[0], first / sqrt(square), 1e-5);
    c.iterations = 0;
    first = noise[0];
    noise_finish(&c, noise, 2 * N);
    CHECK(noise[0] == first);
}

TEST(noise_of_the_input_is_kohyas)
{
    float noise[N], more[N], in[N];
    normal(key, RNG_PURPOSE_NOISE, 0, noise, N);
    normal(key, RNG_PURPOSE_NOISE_INPUT, 0, more, N);
    for (int random = 0; random < 2; random++) {
        NoiseConfig c = {.gamma = 0.1f, .gamma_random = random};
        double gamma = 0.1 * (random ? uniform(1) : 1);
        noise_perturb(&c, in, noise, N, key, batch);
        for (int i = 0; i < N; i++) CHECK_NEAR(in[i], noise[i] + gamma * more[i], 1e-6);
    }
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
