/* fixture.c - see fixture.h. */
#include "tests/fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/image.h"
#include "engine/io.h"
#include "models/model.h"

static const SdConfig config = {.in_channels = 4,
                                .unet_width = {32, 32, 32, 32},
                                .unet_heads = {8, 8, 8, 8},
                                .text_width = 64,
                                .text_layers = 2,
                                .text_heads = 1,
                                .text_ff = 256,
                                .vocab = 49408,
                                .vae_width = {32, 32, 32, 32}};

/* checkpoint_values_fn: random weights; the last convolution not zero, so that
 * pictures depend on prompts */
static int values(void *ctx, const CheckpointEntry *en, float *v, int *changed, Err *e)
{
    *changed = 1;
    int rc = model_initial(ctx, en, v, e);
    for (int64_t i = 0; !strcmp(en->name, "unet.conv_out.weight") && i < en->count; i++)
        v[i] = (float)(i * 7 % 11 - 5) * 0.02f;
    return rc;
}

const char *fixture_model(void)
{
    static const char path[] = "build/fixture-model.safetensors";
    static int made;
    if (made) return path;
    Model m;
    Err e = {0};
    ModelOptions o = {.config = &config, .seed = 1, .threads = 1};
    if (model_open(&m, &o, &e)) return NULL;
    CheckpointSave s = {values, &m, 1, FD_F16, NULL, 0};
    int rc = io_mkdirs("build", &e) || checkpoint_save(m.ck, path, &s, &e);
    model_close(&m);
    if (rc) fprintf(stderr, "%s\n", e.msg);
    made = !rc;
    return rc ? NULL : path;
}

static int picture(const char *path, int which, Err *e)
{
    Image im;
    TRY(image_new(&im, 64, 64, 3, e));
    for (int y = 0; y < 64; y++)
        for (int x = 0; x < 64; x++) {
            uint8_t *p = im.px + (y * 64 + x) * 3;
            int in =
                (x - 32) * (x - 32) + (y - 32) * (y - 32) < (10 + 5 * which) * (10 + 5 * which);
            p[0] = (uint8_t)(in ? 200 : 255);
            p[1] = (uint8_t)(in ? 40 * which : 255);
            p[2] = (uint8_t)(in ? x * 2 : 255);
        }
    int rc = image_save(path, &im, NULL, e);
    image_free(&im);
    return rc;
}

int fixture_data(const char *dir, Err *e)
{
    static const char *const captions[] = {"a cat, red", "a cat, small, blue", "a big cat", "cat"};
    char path[512];
    snprintf(path, sizeof path, "%s/3_cat", dir);
    TRY(io_mkdirs(path, e));
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/3_cat/p%d.png", dir, i);
        TRY(picture(path, i, e));
        snprintf(path, sizeof path, "%s/3_cat/p%d.txt", dir, i);
        TRY(io_write_file(path, captions[i], strlen(captions[i]), e));
    }
    return 0;
}

int fixture_same_file(const char *a, const char *b)
{
    IoMap x, y;
    Err e = {0};
    if (io_map(&x, a, &e)) return 0;
    int same = !io_map(&y, b, &e) && x.size == y.size && !memcmp(x.data, y.data, x.size);
    io_unmap(&x);
    io_unmap(&y);
    return same;
}

int fixture_distance(const char *a, const char *b)
{
    Image x = {0}, y = {0};
    int far = 256;
    if (!image_load(&x, a, NULL) && !image_load(&y, b, NULL) && x.w == y.w && x.h == y.h) {
        far = 0;
        for (int i = 0; i < x.w * x.h * 3; i++)
            if (abs(x.px[i] - y.px[i]) > far) far = abs(x.px[i] - y.px[i]);
    }
    image_free(&x);
    image_free(&y);
    return far;
}
