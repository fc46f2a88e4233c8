/* test_augment.c - uses of a picture that differ: random_crop, color_aug, face_crop_aug_range,
 * in the data set and as `sdc train` runs them. */
#include <jansson.h>
#include <stdlib.h>

#include "engine/data.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "tests/fixture.h"
#include "tests/test.h"

static char out[8192], err[8192], train_dir[512];

static int put(const char *name, int w, int h, int c)
{
    Err e = {0};
    Image im;
    char path[600];
    snprintf(path, sizeof path, "%s/%s", test_dir(), name);
    *strrchr(path, '/') = 0;
    if (io_mkdirs(path, &e) || image_new(&im, w, h, c, &e)) return 1;
    for (int i = 0; i < w * h * c; i++) im.px[i] = (uint8_t)(i * 7 + i / (w * c) * 31 + i / c * i);
    int rc = image_save(test_path(name), &im, NULL, &e);
    image_free(&im);
    return rc;
}

static DataConfig config(int buckets)
{
    snprintf(train_dir, sizeof train_dir, "%s", test_path("train"));
    return (DataConfig){.train_dir = train_dir, .batch_size = 1, .prior_loss_weight = 1, .seed = 5,
                        .bucket = {.w = 64, .h = 64, .enable = buckets}};
}

/* How often the uses of 20 epochs begin at each place (0..64). */
static int count_places(const Dataset *ds, int *x, int *y)
{
    for (uint32_t epoch = 0; epoch < 20; epoch++)
        for (uint32_t i = 0; i < ds->entry_count; i++) {
            DataSample s = {.item = ds->entries[i], .entry = i};
            DataItem a = dataset_use(ds, &s, epoch), b = dataset_use(ds, &s, epoch);
            const BucketFit *f = &a.fit;
            if (memcmp(f, &b.fit, sizeof *f) || f->x < 0 || f->y < 0 ||
                f->x + f->bucket.w > f->rw || f->y + f->bucket.h > f->rh || f->x > 64 || f->y > 64)
                return 0;
            x[f->x]++;
            y[f->y]++;
        }
    return 1;
}

TEST(augment_random_crop_takes_every_place)
{
    Err e = {0};
    CHECK(!put("train/50_a/a.png", 128, 64, 3));
    DataConfig c = config(1);
    c.random_crop = 1;
    c.bucket.min_reso = c.bucket.max_reso = 64;        /* one bucket: 128x64 is cut */
    Dataset *ds;
    int x[65] = {0}, y[65] = {0}, least = 1000;
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    int varies = dataset_varies(ds), fine = count_places(ds, x, y);
    dataset_close(ds);
    for (int i = 0; i <= 64; i++) least = x[i] < least ? x[i] : least;
    CHECK(varies && fine);
    CHECK(least > 0);        /* 1000 draws of 65: none is missed but with 65 e^-15 */
    CHECK_INT(y[0], 1000);
    /* without buckets a picture is not resized; where nothing is cut off, nothing varies */
    CHECK(!put("train/50_a/a.png", 100, 90, 3));
    c.bucket.enable = 0;
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    int rw = ds->items[0].fit.rw, rh = ds->items[0].fit.rh;
    dataset_close(ds);
    CHECK_INT(rw, 100);
    CHECK_INT(rh, 90);
    CHECK(!put("train/50_a/a.png", 50, 50, 3));
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    rw = ds->items[0].fit.rw, varies = dataset_varies(ds);
    int asked = dataset_augments(ds);
    dataset_close(ds);
    CHECK_INT(rw, 64);
    CHECK(asked && !varies);
}

TEST(augment_colours_a_third)
{
    Err e = {0};
    CHECK(!put("train/50_a/a.png", 64, 64, 3));
    DataConfig c = config(1);
    c.color_aug = 1;
    Dataset *ds;
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    int hue = 0, gamma = 0, within = 1;
    for (uint32_t k = 0; k < 1000; k++) {
        DataSample s = {.item = 0, .entry = k % 50};
        DataColour v = dataset_use(ds, &s, k / 50).colour;
        hue += v.hue != 0;
        gamma += v.gamma != 0;
        within &= v.hue >= -8 && v.hue <= 8 && !(v.hue != 0 && v.gamma != 0);
        within &= v.gamma == 0 || (v.gamma >= 0.95 && v.gamma <= 1.05);
    }
    /* the picture of a use is the item's, recoloured */
    DataItem item = ds->items[0];
    Image plain, turned;
    CHECK_OK(dataset_image(&plain, &item, 0, &e), &e);
    item.colour.hue = 7;
    CHECK_OK(dataset_image(&turned, &item, 0, &e), &e);
    int differs = memcmp(plain.px, turned.px, 64 * 64 * 3);
    image_free(&plain);
    image_free(&turned);
    dataset_close(ds);
    CHECK(within && differs);
    CHECK(abs(hue - 165) < 60 && abs(gamma - 165) < 60);    /* five deviations of 11.7 */
}

TEST(augment_cuts_around_a_face)
{
    static const struct {
        const char *name;
        double low, high;
        BucketFit want;              /* bucket.w 0: only the size, and that the face is inside */
    } cases[] = {
        /* 64 / (2 * 50) = 0.64: 192x128, the face at 96,64 */
        {"a_150_100_40_50.png", 2, 2, {{64, 64}, 192, 128, 64, 32, 0}},
        /* at the border: as far as there is picture */
        {"a_10_190_40_50.png", 2, 2, {{64, 64}, 192, 128, 0, 64, 0}},
        /* the smallest that fills the size: 0.32, and 1 at most */
        {"b_x_150_100_40_50.png", 9, 9, {{64, 64}, 96, 64, 16, 0, 0}},
        {"a_150_100_10_9.png", 1, 1, {{64, 64}, 300, 200, 118, 68, 0}},
        /* no faces: from the middle, in the size of all */
        {"a_b_c_d_e.png", 2, 2, {{64, 64}, 96, 64, 16, 0, 0}},
        {"_1_2_3.png", 2, 2, {{64, 64}, 96, 64, 16, 0, 0}},
        {"a_0_100_40_50.png", 2, 2, {{64, 64}, 96, 64, 16, 0, 0}},
        {"a_150_100_40_50.png", 1.5, 3, {{0, 0}, 0, 0, 0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[80];
        Err e = {0};
        snprintf(name, sizeof name, "train/5%zu_a/%s", i, cases[i].name);
        CHECK(!put(name, 300, 200, 3));
        DataConfig c = config(0);
        char dir[600];
        snprintf(dir, sizeof dir, "%s/5%zu_a", train_dir, i);
        c.train_dir = dir;
        c.face[0] = cases[i].low, c.face[1] = cases[i].high;
        Dataset *ds;
        CHECK_OK(dataset_open(&ds, &c, &e), &e);
        int ok = 1, sizes[301] = {0}, distinct = 0;
        const BucketFit *want = &cases[i].want;
        for (uint32_t k = 0; k < 50; k++) {
            DataSample s = {.item = 0, .entry = k};
            BucketFit f = dataset_use(ds, &s, 0).fit;
            distinct += !sizes[f.rw]++;
            double scale = f.rw / 300.0, x = 150 * scale, y = 100 * scale;
            if (want->rw)
                ok &= f.rw == want->rw && f.rh == want->rh && f.x == want->x && f.y == want->y;
            else                             /* 64 / (3 * 50) to 64 / (1.5 * 50) */
                ok &= f.rw >= 128 && f.rw <= 256 && f.x < x && f.x + 64 > x && f.y < y &&
                      f.y + 64 > y;
        }
        dataset_close(ds);
        if (!ok) test_fail(__FILE__, __LINE__, "case %zu: %s", i, cases[i].name);
        if (!want->rw) CHECK(distinct > 20);
    }
}

static double number(const json_t *list, size_t i)
{
    return json_number_value(json_array_get(list, i));
}

/* -1: the data set cannot be opened; else how many of the group's uses differ from kohya's. */
static int differ(const json_t *group, size_t index, size_t *uses)
{
    char name[120], dir[700];
    Err e = {0};
    const json_t *size = json_object_get(group, "size"), *to = json_object_get(group, "training"),
                 *faces = json_object_get(group, "faces"), *epochs = json_object_get(group, "uses");
    snprintf(name, sizeof name, "train/4_g%zu/%s", index,
             json_string_value(json_object_get(group, "file")));
    if (put(name, (int)number(size, 0), (int)number(size, 1), 3)) return -1;
    DataConfig c = config((int)json_integer_value(json_object_get(group, "buckets")));
    snprintf(dir, sizeof dir, "%s/4_g%zu", train_dir, index);
    c.train_dir = dir;
    c.bucket.w = (int)number(to, 0), c.bucket.h = (int)number(to, 1);
    if (c.bucket.enable) c.bucket.min_reso = c.bucket.max_reso = 64;
    c.face[0] = number(faces, 0), c.face[1] = number(faces, 1);
    c.random_crop = (int)json_integer_value(json_object_get(group, "random_crop"));
    c.color_aug = 1;
    Dataset *ds;
    if (dataset_open(&ds, &c, &e)) return -1;
    int wrong = 0;
    for (uint32_t epoch = 0; epoch < json_array_size(epochs); epoch++)
        for (uint32_t i = 0; i < ds->entry_count; i++, ++*uses) {
            const json_t *want = json_array_get(json_array_get(epochs, epoch), i);
            DataSample s = {.item = ds->entries[i], .entry = i};
            DataItem u = dataset_use(ds, &s, epoch);
            const double got[6] = {u.fit.rw, u.fit.rh, u.fit.x, u.fit.y, u.colour.hue,
                                   u.colour.gamma};
            int same = json_array_size(want) == 6;
            for (size_t k = 0; k < 6; k++) same &= fabs(got[k] - number(want, k)) < 1e-12;
            wrong += !same;
        }
    dataset_close(ds);
    return wrong;
}

TEST(augment_cuts_and_colours_as_kohyas_own_code)
{
    char *text;
    Err e = {0};
    CHECK_OK(io_read_text(&text, NULL, "tests/golden/augment.json", 1 << 20, &e), &e);
    json_t *groups = json_loads(text, 0, NULL);
    mem_free(text);
    size_t uses = 0;
    for (size_t i = 0; i < json_array_size(groups); i++) {
        int wrong = differ(json_array_get(groups, i), i, &uses);
        if (wrong) test_fail(__FILE__, __LINE__, "group %zu: %d", i, wrong);
    }
    json_decref(groups);
    CHECK_INT(uses, 8 * 4 * 6);
}

static int train(const char *data, const char *to, const char *more)
{
    char args[2048];
    snprintf(args, sizeof args,
             "train -m %s -d %s/%s -o %s --output_name x --resolution 64 --network_dim 4 "
             "--enable_bucket=false --seed 5 --threads 2 --save_precision float --no_metadata %s",
             fixture_model(), test_dir(), data, test_path(to), more);
    return test_sdc(args, out, err, sizeof out);
}

/* A step with a random crop is a step with a picture that was cut so before. */
TEST(augment_trains_on_what_was_cut)
{
    Err e = {0};
    CHECK(fixture_model() != NULL);
    CHECK(!put("train/1_a/a.png", 128, 64, 4));
    DataConfig c = config(0);
    c.random_crop = c.alpha_mask = 1;
    Dataset *ds;
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    DataSample s = {.item = 0, .entry = 0};
    BucketFit f = dataset_use(ds, &s, 0).fit;
    Image im;
    CHECK_OK(image_load(&im, ds->items[0].path, &e), &e);
    dataset_close(ds);
    image_crop(&im, f.x, f.y, 64, 64);
    CHECK_OK(io_mkdirs(test_path("cut/1_a"), &e), &e);
    CHECK_OK(image_save(test_path("cut/1_a/a.png"), &im, NULL, &e), &e);
    image_free(&im);
    CHECK_INT(train("train", "a", "--max_train_steps 1 --alpha_mask --random_crop"), 0);
    CHECK_INT(train("cut", "b", "--max_train_steps 1 --alpha_mask"), 0);
    CHECK_INT(train("train", "c", "--max_train_steps 1 --alpha_mask"), 0);
    CHECK(fixture_same_file(test_path("a/x.safetensors"), test_path("b/x.safetensors")));
    CHECK(!fixture_same_file(test_path("a/x.safetensors"), test_path("c/x.safetensors")));
}

TEST(augment_resumes_to_the_same_file)
{
    Err e = {0};
    static const char more[] = "--random_crop --color_aug --flip_aug --train_batch_size 2 "
                               "--max_train_steps 3 --validation_split 0.3";
    char line[400];
    CHECK(fixture_model() != NULL);
    CHECK_OK(fixture_data(test_path("data"), &e), &e);     /* these fit: only their colours vary */
    CHECK(!put("data/2_b/a.png", 100, 80, 3) && !put("data/2_b/b.png", 90, 90, 3));
    CHECK_INT(train("data", "a", more), 0);
    CHECK(strstr(err, "encoded at each use"));
    snprintf(line, sizeof line, "%s --stop_after_steps 1", more);
    CHECK_INT(train("data", "b", line), 130);
    snprintf(line, sizeof line, "%s --resume", more);
    CHECK_INT(train("data", "b", line), 0);
    CHECK(fixture_same_file(test_path("a/x.safetensors"), test_path("b/x.safetensors")));
}

TEST(augment_says_what_does_not_go_together)
{
    static const char *const bad[][2] = {
        {"--random_crop --cache_latents", "each use of a picture has other latents"},
        {"--color_aug --cache_latents_to_disk", "--cache_latents_to_disk: not with"},
        {"--face_crop_aug_range 2,4 --enable_bucket", "needs enable_bucket=false"},
        {"--face_crop_aug_range 4,2", "two numbers expected"},
        {"--face_crop_aug_range 2", "two numbers expected"},
        {"--face_crop_aug_range 2,3,4", "two numbers expected"},
        {"--face_crop_aug_range 0,4", "two numbers expected"},
        {"--train_vae --color_aug", "not with --train_vae"},
    };
    CHECK(fixture_model() != NULL);
    CHECK(!put("train/1_a/a.png", 64, 64, 3));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_INT(train("train", "no", bad[i][0]), 2);
        if (!strstr(err, bad[i][1])) test_fail(__FILE__, __LINE__, "%s: %s", bad[i][0], err);
    }
    CHECK_INT(train("train", "no", "--cache_latents --color_aug=false --dry_run"), 0);
}
