/* test_autoencode.c - how an autoencoder starts, and what it is shown. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/image.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "models/autoencode.h"
#include "tests/test.h"

static const SdConfig config = {
    .in_channels = 4, .unet_width = {32, 32, 32, 32}, .unet_heads = {8, 8, 8, 8}, .text_width = 64,
    .text_layers = 1, .text_heads = 1, .text_ff = 256, .vocab = 64, .vae_width = {32, 32, 32, 32}};

static Model model;

static int open_model(Err *e)
{
    ModelOptions o = {.config = &config, .seed = 1, .threads = 1, .device = "cpu", .dtype = DT_F32};
    return model_open(&model, &o, e);
}

/* Mean square of a fresh weight times its fan-in: what a layer multiplies
 * variances by. Negative on failure. */
static double gain(const char *name, int fan_in)
{
    Err e = {0};
    const CheckpointEntry *en = checkpoint_find(model.ck, name);
    float *v = en ? mem_alloc((size_t)en->count * sizeof *v) : NULL;
    double sum = v && !model_initial(&model, en, v, &e) ? 0 : -1;
    for (int64_t i = 0; sum >= 0 && i < en->count; i++) sum += (double)v[i] * (double)v[i];
    mem_free(v);
    return sum < 0 ? -1 : sum / (double)en->count * fan_in;
}

TEST(autoencode_starts_with_all_colours_and_closed_branches)
{
    Err e = {0};
    CHECK_OK(open_model(&e), &e);
    CHECK(fabs(gain("vae.encoder.conv_in.weight", 27) - 1) < 0.1);
    CHECK(fabs(gain("vae.encoder.down_blocks.0.downsamplers.0.conv.weight", 288) - 1) < 0.1);
    CHECK(fabs(gain("vae.decoder.conv_out.weight", 288) - 1) < 0.1);
    CHECK(gain("vae.encoder.down_blocks.0.resnets.0.conv2.weight", 288) == 0);
    CHECK(gain("vae.decoder.mid_block.attentions.0.to_out.0.weight", 32) == 0);
    CHECK(fabs(gain("unet.conv_in.weight", 36) - 1.0 / 3) < 0.05);
    CHECK(gain("unet.mid_block.resnets.0.conv2.weight", 288) > 0.25);
    CHECK(gain("unet.conv_out.weight", 288) == 0);
    model_close(&model);
}

/* One picture of one colour, whose channels can be told apart. */
static int put_picture(const char *dir, Err *e)
{
    Image im;
    char path[512];
    snprintf(path, sizeof path, "%s/1_a", dir);
    TRY(io_mkdirs(path, e));
    TRY(image_new(&im, 64, 64, 3, e));
    for (size_t i = 0; i < 64 * 64; i++) memcpy(im.px + 3 * i, (uint8_t[]){255, 128, 0}, 3);
    snprintf(path, sizeof path, "%s/1_a/p.png", dir);
    int rc = image_save(path, &im, NULL, e);
    image_free(&im);
    return rc;
}

/* 100 * first + 10 * second + third channel of a crop, dark to light as 0, 1, 2;
 * -1 when its pixels differ. */
static int order_of(const float *crop, size_t pixels)
{
    for (size_t i = 1; i < pixels; i++)
        if (memcmp(crop, crop + 3 * i, 3 * sizeof *crop)) return -1;
    int order = 0;
    for (int c = 0; c < 3; c++) order = order * 10 + (int)lroundf(crop[c] + 1);
    return order;
}

TEST(autoencode_shuffles_the_colours_of_half_its_crops)
{
    static const int orders[6] = {210, 201, 120, 102, 21, 12};
    Err e = {0};
    Dataset *ds;
    Autoencode a;
    AutoencodeConfig c = {8, 8, 3e-4f, 1};
    DataConfig dc = {.train_dir = test_dir(), .batch_size = 1, .prior_loss_weight = 1,
                     .bucket = {.w = 64, .h = 64}, .seed = 1};
    CHECK_OK(put_picture(test_dir(), &e), &e);
    CHECK_OK(dataset_open(&ds, &dc, &e), &e);
    CHECK_OK(open_model(&e), &e);
    model_train(&model, &(ModelTraining){.full_vae = 1});
    CHECK_OK(autoencode_init(&a, &model, ds, &c, &e), &e);
    CHECK_OK(model_load(&model, &e), &e);
    int seen[6] = {0}, known = 0;
    for (uint32_t step = 0; step < 50; step++) {
        float loss;
        CHECK_OK(autoencode_run(&a, step, &loss, &e), &e);
        for (size_t i = 0; i < 8; i++)
            for (int k = 0; k < 6; k++)
                if (order_of(a.crops + i * 192, 64) == orders[k]) seen[k]++, known++;
    }
    CHECK_INT(known, 400);
    CHECK(seen[0] > 160 && seen[0] < 240);       /* 200 expected, deviation 10 */
    for (int k = 1; k < 6; k++) CHECK(seen[k] > 15 && seen[k] < 65);    /* 40, 6 */
    autoencode_free(&a);
    model_close(&model);
    dataset_close(ds);
}
