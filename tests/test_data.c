/* test_data.c - buckets, captions, folders, batches, metadata. */
#include <stdlib.h>
#include <unistd.h>

#include "engine/data.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "tests/fail.h"
#include "tests/test.h"

/* ---- buckets ------------------------------------------------------------- */

static int count_buckets(int w, int h, int max)
{
    Buckets b;
    Err e = {0};
    BucketConfig c = {.w = w, .h = h, .enable = 1, .max_reso = max};
    if (bucket_open(&b, &c, &e)) return -e.code;
    int n = b.count;
    bucket_close(&b);
    return n;
}

TEST(bucket_list_is_kohyas)
{
    static const BucketSize want[17] = {
        {256, 832}, {256, 896}, {256, 960}, {256, 1024}, {320, 704}, {320, 768}, {384, 640},
        {448, 576}, {512, 512}, {576, 448}, {640, 384}, {704, 320}, {768, 320}, {832, 256},
        {896, 256}, {960, 256}, {1024, 256},
    };
    Buckets b;
    Err e = {0};
    BucketConfig c = {.w = 512, .h = 512, .enable = 1, .min_reso = 300, .max_reso = 1000};
    CHECK_OK(bucket_open(&b, &c, &e), &e);          /* rounded to 256 and 1024 */
    int wrong = b.count != 17;
    for (int i = 0; i < 17 && !wrong; i++)
        wrong += b.list[i].w != want[i].w || b.list[i].h != want[i].h;
    bucket_close(&b);
    CHECK_INT(wrong, 0);
    CHECK_INT(count_buckets(768, 768, 0), 19);
    CHECK_INT(count_buckets(1024, 1024, 2048), 41);
    CHECK_INT(count_buckets(512, 512, 448), -ERR_USAGE);
    CHECK_INT(count_buckets(500, 512, 0), -ERR_USAGE);
    CHECK(count_buckets(128, 128, 0) > 0);
}

typedef struct { int w, h; BucketFit want; } FitCase;

static void check_fits(const BucketConfig *c, const FitCase *cases, int n)
{
    Buckets b;
    Err e = {0};
    CHECK_OK(bucket_open(&b, c, &e), &e);
    for (int i = 0; i < n; i++) {
        BucketFit f;
        const BucketFit *want = &cases[i].want;
        int rc = bucket_fit(&b, cases[i].w, cases[i].h, &f, &e);
        if (rc || f.bucket.w != want->bucket.w || f.bucket.h != want->bucket.h ||
            f.rw != want->rw || f.rh != want->rh || f.x != want->x || f.y != want->y)
            test_fail(__FILE__, __LINE__, "%dx%d: bucket %dx%d of %dx%d at %d,%d", cases[i].w,
                      cases[i].h, f.bucket.w, f.bucket.h, f.rw, f.rh, f.x, f.y);
    }
    bucket_close(&b);
}

TEST(bucket_fit_is_kohyas)
{
    static const FitCase list[] = {
        {512, 512, {{512, 512}, 512, 512, 0, 0, 0}},
        {100, 100, {{512, 512}, 512, 512, 0, 0, 0}},              /* enlarged */
        {1920, 1080, {{640, 384}, 683, 384, 21, 0, 0}},
        {1080, 1920, {{384, 640}, 384, 683, 0, 21, 0}},
        {2000, 3000, {{384, 640}, 427, 640, 21, 0, 0}},
        {320, 704, {{320, 704}, 320, 704, 0, 0, 0}},              /* an exact size */
        {5000, 400, {{1024, 256}, 3200, 256, 1088, 0, 0}},
    };
    static const FitCase shrink[] = {
        {500, 300, {{448, 256}, 500, 300, 26, 22, 0}},            /* never enlarged */
        {1920, 1080, {{640, 384}, 683, 384, 21, 0, 0}},
        {1000, 1000, {{512, 512}, 512, 512, 0, 0, 0}},
        {3000, 1000, {{768, 256}, 768, 256, 0, 0, 0}},
        {1000, 900, {{512, 448}, 512, 461, 0, 6, 0}},
    };
    static const FitCase tie[] = {{256, 128, {{128, 128}, 256, 128, 64, 0, 0}}};  /* or 192x64 */
    static const FitCase single[] = {{1920, 1080, {{512, 768}, 1365, 768, 426, 0, 0}}};
    BucketConfig c = {.w = 512, .h = 512, .enable = 1};
    check_fits(&c, list, sizeof list / sizeof *list);
    c.no_upscale = 1;
    check_fits(&c, shrink, sizeof shrink / sizeof *shrink);
    c = (BucketConfig){.w = 512, .h = 768};
    check_fits(&c, single, 1);
    c = (BucketConfig){.w = 128, .h = 128, .enable = 1};
    check_fits(&c, tie, 1);
}

TEST(bucket_refuses_impossible_pictures)
{
    Buckets b;
    BucketFit f;
    Err e = {0}, e2 = {0};
    BucketConfig c = {.w = 512, .h = 512, .enable = 1, .no_upscale = 1};
    CHECK_OK(bucket_open(&b, &c, &e), &e);
    CHECK_INT(bucket_fit(&b, 63, 500, &f, &e), ERR_INPUT);
    CHECK_INT(bucket_fit(&b, 16384, 1, &f, &e2), ERR_INPUT);
    bucket_close(&b);
    c.no_upscale = 0;
    CHECK_OK(bucket_open(&b, &c, &e2), &e2);
    e2 = (Err){0};
    CHECK_INT(bucket_fit(&b, 16384, 1, &f, &e2), ERR_INPUT);
    bucket_close(&b);
}

/* ---- captions ------------------------------------------------------------ */

static char *vary(const CaptionConfig *c, const char *caption, uint32_t sample, uint32_t epoch,
                  uint32_t step)
{
    static char text[1024];
    char *out = NULL;
    Err e = {0};
    RngKey key = {.seed = 7, .sample = sample};
    int rc = caption_process(&out, c, caption, key, epoch, step, &e);
    snprintf(text, sizeof text, "%s", rc ? e.msg : out);
    mem_free(out);
    return text;
}

TEST(caption_reads_what_editors_write)
{
    static const struct { const char *bytes, *want; size_t n; } cases[] = {
        {"a cat\n", "a cat", 6}, {"\xEF\xBB\xBF a, b \r\nsecond line", "a, b", 22},
        {"", "", 0}, {"\n\nlater", "", 7}, {"caf\xC3\xA9", "caf\xC3\xA9", 5},
        {"caf\xE9", NULL, 4}, {"a\0b", NULL, 3}, {"\xC0\xAF", NULL, 2}, {"\xED\xA0\x80", NULL, 3},
    };
    char path[300], *text;
    snprintf(path, sizeof path, "%s/a.txt", test_dir());
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Err e = {0};
        CHECK_OK(io_write_file(path, cases[i].bytes, cases[i].n, &e), &e);
        int rc = caption_read(&text, path, &e);
        CHECK_INT(rc, cases[i].want ? 0 : ERR_INPUT);
        if (rc) {
            CHECK(strstr(e.msg, "a.txt"));
            continue;
        }
        int same = !strcmp(text, cases[i].want);
        mem_free(text);
        CHECK(same);
    }
    Err e = {0};
    char *big = calloc(1, CAPTION_MAX_BYTES + 1);
    memset(big, 'a', CAPTION_MAX_BYTES + 1);
    CHECK_OK(io_write_file(path, big, CAPTION_MAX_BYTES + 1, &e), &e);
    free(big);
    CHECK_INT(caption_read(&text, path, &e), ERR_INPUT);
}

TEST(caption_without_options_is_untouched)
{
    CaptionConfig c = {0};
    CHECK(caption_is_fixed(&c));
    CHECK_STR(vary(&c, "a,b , c", 1, 2, 3), "a,b , c");
    c.prefix = "photo of";
    c.suffix = "4k";
    CHECK_STR(vary(&c, "a cat", 1, 2, 3), "photo of a cat 4k");
}

TEST(caption_shuffles_what_may_move)
{
    CaptionConfig c = {.shuffle = 1, .keep_tokens = 2, .prefix = "x,"};
    char first[100];
    int moved = 0;
    snprintf(first, sizeof first, "%s", vary(&c, "a, b,c ,d, e, f", 1, 0, 0));
    CHECK(!strncmp(first, "x, a, ", 6));             /* the prefix counts as a tag */
    CHECK_INT(strlen(first), strlen("x, a, b, c, d, e, f"));
    CHECK_STR(vary(&c, "a, b,c ,d, e, f", 1, 0, 99), first);
    for (uint32_t i = 1; i < 10; i++)
        moved += !!strcmp(vary(&c, "a, b,c ,d, e, f", 1, i, 0), first);
    CHECK(moved >= 8);                               /* another order in each epoch */
    moved = !!strcmp(vary(&c, "a, b,c ,d, e, f", 2, 0, 0), first);
    CHECK(moved);                                    /* and for each sample */
    c = (CaptionConfig){.shuffle = 1, .keep_tokens_separator = "|||"};
    for (uint32_t i = 0; i < 10; i++) {
        const char *t = vary(&c, "a, b ||| c, , d, e ||| f, g", i, 0, 0);
        CHECK(!strncmp(t, "a, b, ", 6) && !strcmp(t + strlen(t) - 6, ", f, g"));
        CHECK_INT(strlen(t), strlen("a, b, c, d, e, f, g"));
    }
    CHECK_STR(vary(&c, "one", 0, 0, 0), "one");
    CHECK_STR(vary(&c, "", 0, 0, 0), "");
    c.keep_tokens = 9;
    CHECK_STR(vary(&c, "b, a", 0, 0, 0), "b, a");
    c.separator = ";";
    CHECK_STR(vary(&c, "b; a, c", 0, 0, 0), "b, a, c");
}

TEST(caption_drops_at_the_asked_rate)
{
    CaptionConfig c = {.dropout_rate = 0.25};
    int empty = 0, tags = 0;
    for (uint32_t i = 0; i < 4000; i++) empty += !*vary(&c, "a, b", i, 0, 0);
    CHECK_NEAR(empty / 4000.0, 0.25, 0.03);          /* 4.4 standard deviations */
    c = (CaptionConfig){.tag_dropout_rate = 0.25, .keep_tokens = 1};
    for (uint32_t i = 0; i < 2000; i++) {
        const char *t = vary(&c, "a, b, c", i, 0, 0);
        CHECK(t[0] == 'a');
        tags += !strchr(t, 'b');
        tags += !strchr(t, 'c');
    }
    CHECK_NEAR(tags / 4000.0, 0.25, 0.03);
    c = (CaptionConfig){.dropout_every_n_epochs = 3};
    CHECK_STR(vary(&c, "a", 0, 1, 0), "a");
    CHECK_STR(vary(&c, "a", 0, 2, 0), "");           /* the third epoch */
    CHECK_STR(vary(&c, "a", 0, 3, 0), "a");
}

TEST(caption_warms_up)
{
    CaptionConfig c = {.keep_tokens = 1, .token_warmup_min = 1, .token_warmup_step = 8};
    CHECK_STR(vary(&c, "k, a, b, c, d, e", 0, 0, 0), "k, a");
    CHECK_STR(vary(&c, "k, a, b, c, d, e", 0, 0, 4), "k, a, b, c");
    CHECK_STR(vary(&c, "k, a, b, c, d, e", 0, 0, 8), "k, a, b, c, d, e");
    c.token_warmup_step = 0.5;
    c.max_train_steps = 16;
    CHECK_STR(vary(&c, "k, a, b, c, d, e", 0, 0, 4), "k, a, b, c");
    CaptionConfig bad[] = {{.dropout_rate = 1.5}, {.tag_dropout_rate = NAN}, {.keep_tokens = -1},
                           {.dropout_every_n_epochs = -1}, {.token_warmup_step = -1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Err e = {0};
        CHECK_INT(caption_check(&bad[i], &e), ERR_USAGE);
    }
}

/* ---- data sets ----------------------------------------------------------- */

/* A picture of w x h below the test's folder, and a caption unless NULL. */
static int put(const char *name, int w, int h, const char *caption)
{
    char path[400], *slash;
    Image im;
    Err e = {0};
    snprintf(path, sizeof path, "%s/%s", test_dir(), name);
    slash = strrchr(path, '/');
    *slash = 0;
    int rc = io_mkdirs(path, &e);
    *slash = '/';
    if (!rc) rc = image_new(&im, w, h, 3, &e);
    if (rc) return test_fail(__FILE__, __LINE__, "%s", e.msg), rc;
    for (int i = 0; i < w * h * 3; i++) im.px[i] = (uint8_t)(i / 3 % w < w / 2 ? 10 : 200);
    rc = image_save(path, &im, NULL, &e);
    image_free(&im);
    strcpy(strrchr(path, '.'), ".txt");
    if (!rc && caption) rc = io_write_file(path, caption, strlen(caption), &e);
    if (rc) test_fail(__FILE__, __LINE__, "%s", e.msg);
    return rc;
}

static char train_dir[300], reg_dir[300], notices[4000];

static void hear(void *ctx, const char *line)
{
    (void)ctx;
    snprintf(notices + strlen(notices), sizeof notices - strlen(notices), "%s\n", line);
}

static DataConfig config(void)
{
    notices[0] = 0;
    snprintf(train_dir, sizeof train_dir, "%s/train", test_dir());
    snprintf(reg_dir, sizeof reg_dir, "%s/reg", test_dir());
    return (DataConfig){.train_dir = train_dir, .batch_size = 2, .prior_loss_weight = 0.5,
                        .bucket = {.w = 128, .h = 128, .enable = 1}, .seed = 5, .notice = hear};
}

/* 10_cat: two square pictures and a wide one; 3_dog: one square. 33 entries. */
static int put_train(void)
{
    return put("train/10_cat/b.png", 128, 128, "Cat, red\n") ||
           put("train/10_cat/a.png", 100, 100, "cat , , blue") ||
           put("train/10_cat/c.PNG", 250, 64, NULL) ||
           put("train/3_dog eyes_x/1.png", 128, 128, NULL) || put("train/notes/1.png", 8, 8, NULL);
}

TEST(dataset_reads_kohyas_folders)
{
    Dataset *ds;
    Err e = {0};
    DataConfig c = config();
    CHECK(!put_train());
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    CHECK_INT(ds->item_count, 4);
    CHECK(strstr(ds->items[0].path, "/a.png") && strstr(ds->items[3].path, "/1.png"));
    CHECK_STR(ds->items[1].caption, "Cat, red");
    CHECK_STR(ds->items[2].caption, "cat");
    CHECK_STR(ds->items[3].caption, "dog eyes_x");
    CHECK_INT(ds->items[3].repeats, 3);
    CHECK_INT(ds->train_images, 33);
    CHECK_INT(ds->bucket_count, 2);
    CHECK(ds->buckets[0].w == 128 && ds->buckets[0].count == 23 && ds->buckets[1].count == 10);
    CHECK_INT(dataset_batches(ds), 12 + 5);
    CHECK_INT(dataset_steps(ds, 1), 17);
    CHECK_INT(dataset_steps(ds, 4), 5);
    CHECK(strstr(notices, "notes is ignored") && strstr(notices, "c.PNG has no caption file"));
    char *json;
    CHECK_OK(dataset_tag_frequency(&json, ds, &e), &e);
    CHECK_STR(json, "{\"10_cat\": {\"cat\": 3, \"blue\": 1, \"red\": 1}, "
                    "\"3_dog eyes_x\": {\"dog eyes_x\": 1}}");
    mem_free(json);
    CHECK_OK(dataset_dirs(&json, ds, 0, &e), &e);
    CHECK_STR(json, "{\"10_cat\": {\"n_repeats\": 10, \"img_count\": 3}, "
                    "\"3_dog eyes_x\": {\"n_repeats\": 3, \"img_count\": 1}}");
    mem_free(json);
    CHECK_OK(dataset_bucket_info(&json, ds, &e), &e);
    CHECK_STR(json, "{\"buckets\": {\"0\": {\"resolution\": [128, 128], \"count\": 23}, "
                    "\"1\": {\"resolution\": [256, 64], \"count\": 10}}, "
                    "\"mean_img_ar_error\": 0.0234375}");
    mem_free(json);
    dataset_close(ds);
}

/* How often each entry occurs in an epoch, and whether sizes and items agree. */
static int epoch_is_complete(const Dataset *ds, const DataEpoch *ep)
{
    int seen[64] = {0}, good = ds->entry_count <= 64;
    for (size_t b = 0; b < ep->count && good; b++) {
        const DataBatch *k = &ep->batches[b];
        good &= k->count >= 1 && k->count <= ds->cfg.batch_size;
        for (int i = 0; i < k->count; i++) {
            const DataItem *it = &ds->items[k->samples[i].item];
            good &= it->fit.bucket.w == k->w && it->fit.bucket.h == k->h;
            good &= ds->entries[k->samples[i].entry] == k->samples[i].item;
            seen[k->samples[i].entry]++;
        }
    }
    for (uint32_t i = 0; i < ds->entry_count; i++) good &= seen[i] == 1;
    return good;
}

static int same_epoch(const Dataset *ds, const DataEpoch *a, const DataEpoch *b)
{
    int same = a->count == b->count;
    for (size_t i = 0; i < a->count && same; i++)
        same = a->batches[i].samples - a->samples == b->batches[i].samples - b->samples;
    for (uint32_t i = 0; i < ds->entry_count && same; i++)
        same = a->samples[i].entry == b->samples[i].entry &&
               a->samples[i].flip == b->samples[i].flip;
    return same;
}

TEST(dataset_epochs_are_pure_functions)
{
    Dataset *ds, *other;
    DataEpoch a, b, again;
    Err e = {0};
    DataConfig c = config();
    CHECK(!put_train());
    c.flip_aug = 1;
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    CHECK_OK(dataset_open(&other, &c, &e), &e);
    CHECK_OK(dataset_epoch(&a, ds, 3, &e), &e);
    CHECK_OK(dataset_epoch(&b, ds, 4, &e), &e);
    CHECK_OK(dataset_epoch(&again, other, 3, &e), &e);
    int complete = epoch_is_complete(ds, &a) && epoch_is_complete(ds, &b), flips = 0;
    int same = same_epoch(ds, &a, &again), differs = !same_epoch(ds, &a, &b), mixed = 0;
    for (uint32_t i = 0; i < ds->entry_count; i++) flips += a.samples[i].flip;
    for (size_t i = 1; i < a.count; i++) mixed += a.batches[i].w != a.batches[i - 1].w;
    other->cfg.seed = 6;
    dataset_epoch_free(&again);
    CHECK_OK(dataset_epoch(&again, other, 3, &e), &e);
    int by_seed = !same_epoch(ds, &a, &again);
    dataset_epoch_free(&a);
    dataset_epoch_free(&b);
    dataset_epoch_free(&again);
    dataset_close(ds);
    dataset_close(other);
    CHECK(complete && same && differs && by_seed);
    CHECK(flips > 5 && flips < 28);
    CHECK(mixed > 2);                                /* batches of both buckets are mixed */
}

TEST(dataset_balances_regularisation_pictures)
{
    Dataset *ds;
    Err e = {0};
    DataConfig c = config();
    CHECK(!put("train/4_x y/a.png", 64, 64, "x") && !put("train/4_x y/b.png", 64, 64, "x"));
    CHECK(!put("reg/2_y/a.png", 64, 64, NULL) && !put("reg/2_y/b.png", 64, 64, NULL));
    CHECK(!put("reg/2_y/c.png", 64, 64, NULL));
    c.reg_dir = reg_dir;
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    CHECK_INT(ds->reg_images, 6);
    CHECK_INT(ds->entry_count, 16);                  /* 8 and 8: 2 + 2 + 2, then 1 + 1 */
    CHECK(ds->items[2].repeats == 3 && ds->items[3].repeats == 3 && ds->items[4].repeats == 2);
    CHECK(ds->items[0].weight == 1 && ds->items[2].weight == 0.5);
    CHECK_STR(ds->items[2].caption, "y");
    dataset_close(ds);
    for (char n = 'd'; n < 'm'; n++) {               /* now 24 for 8 */
        char name[40];
        snprintf(name, sizeof name, "reg/2_y/%c.png", n);
        CHECK(!put(name, 64, 64, NULL));
    }
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    CHECK_INT(ds->entry_count, 16);
    CHECK(ds->items[5].repeats == 2 && ds->items[6].repeats == 0);
    CHECK(strstr(notices, "8 regularisation pictures are not used"));
    char *json;
    CHECK_OK(dataset_dirs(&json, ds, 1, &e), &e);
    CHECK_STR(json, "{\"2_y\": {\"n_repeats\": 2, \"img_count\": 12}}");
    mem_free(json);
    dataset_close(ds);
}

TEST(dataset_takes_flat_folders)
{
    Dataset *ds;
    Err e = {0};
    DataConfig c = config();
    char flat[400];
    CHECK(!put("train/5_cat/a.png", 64, 64, NULL) && !put("plain/a.png", 64, 64, NULL));
    snprintf(flat, sizeof flat, "%s/plain/", test_dir());
    c.train_dir = flat;
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    CHECK(ds->items[0].repeats == 1 && !*ds->items[0].caption);
    CHECK(strstr(notices, "used 1 time each"));
    dataset_close(ds);
    snprintf(flat, sizeof flat, "%s/train/5_cat", test_dir());
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    CHECK_INT(ds->items[0].repeats, 5);
    CHECK_STR(ds->items[0].caption, "cat");
    dataset_close(ds);
}

TEST(dataset_refuses_by_name)
{
    Dataset *ds;
    Err e = {0};
    DataConfig c = config();
    CHECK_INT(dataset_open(&ds, &c, &e), ERR_INPUT); /* no such folder */
    CHECK(strstr(e.msg, "train"));
    CHECK(!put("train/1_a/a.png", 64, 64, "ok") && !put("train/1_a/b.png", 64, 64, "\xff"));
    e = (Err){0};
    CHECK_INT(dataset_open(&ds, &c, &e), ERR_INPUT);
    CHECK(strstr(e.msg, "b.txt"));
    char path[400];
    snprintf(path, sizeof path, "%s/train/1_a/b.txt", test_dir());
    unlink(path);
    snprintf(path, sizeof path, "%s/train/1_a/b.png", test_dir());
    e = (Err){0};
    CHECK_OK(io_write_file(path, "not a picture", 13, &e), &e);
    CHECK_INT(dataset_open(&ds, &c, &e), ERR_INPUT);
    CHECK(strstr(e.msg, "b.png"));
    c.skip_bad_images = 1;
    e = (Err){0};
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    CHECK_INT(ds->entry_count, 1);
    CHECK(strstr(notices, "left out: "));
    dataset_close(ds);
    c.batch_size = 0;
    CHECK_INT(dataset_open(&ds, &c, &e), ERR_USAGE);
    CHECK(!put("train/1_a/c.png", 64, 64, "ok"));
    c.batch_size = 1;
    c.skip_bad_images = 0;
    unlink(path);
    int failed = 0;
    for (long n = 1; n < 12; n++) {
        Err e2 = {0};
        fail_mem(n);
        int rc = dataset_open(&ds, &c, &e2);
        fail_mem(0);
        if (!rc) dataset_close(ds);
        else failed += e2.code == ERR_MEMORY;
    }
    CHECK(failed >= 6);
}

TEST(dataset_captions_and_extension)
{
    Dataset *ds;
    Err e = {0};
    DataConfig c = config();
    char path[400], *text;
    CHECK(!put("train/1_a/a.png", 64, 64, "from txt"));
    snprintf(path, sizeof path, "%s/train/1_a/a.caption", test_dir());
    CHECK_OK(io_write_file(path, "from caption", 12, &e), &e);
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    CHECK_STR(ds->items[0].caption, "from txt");
    dataset_close(ds);
    c.caption_extension = "caption";
    c.caption.prefix = "p";
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    CHECK_OK(dataset_caption(&text, ds, &(DataSample){.item = 0}, 0, 0, &e), &e);
    dataset_close(ds);
    int same = !strcmp(text, "p from caption");
    mem_free(text);
    CHECK(same);
}

TEST(dataset_images_and_keys)
{
    Dataset *ds;
    Err e = {0};
    DataConfig c = config();
    Image im;
    char a[HASH_HEX], b[HASH_HEX], f[HASH_HEX];
    CHECK(!put("train/1_a/a.png", 256, 128, "x") && !put("train/1_a/b.png", 256, 128, "y"));
    c.bucket.enable = 0;
    CHECK_OK(dataset_open(&ds, &c, &e), &e);
    CHECK_OK(dataset_image(&im, &ds->items[0], 1, &e), &e);
    int right = im.w == 128 && im.h == 128 && im.c == 3 && im.px[0] == 200 && im.px[127 * 3] == 10;
    image_free(&im);
    CHECK_OK(dataset_item_key(a, &ds->items[0], 0, &e), &e);
    CHECK_OK(dataset_item_key(b, &ds->items[1], 0, &e), &e);
    CHECK_OK(dataset_item_key(f, &ds->items[0], 1, &e), &e);
    CHECK_STR(a, b);                                 /* the same bytes, cut in the same way */
    CHECK(strcmp(a, f) && strlen(a) == 64);
    ds->items[1].fit.x++;
    CHECK_OK(dataset_item_key(b, &ds->items[1], 0, &e), &e);
    CHECK(strcmp(a, b));
    dataset_close(ds);
    CHECK(right);
}

TEST(dataset_resizes_as_it_is_told)
{
    Dataset *ds;
    Err e = {0};
    DataConfig c = config();
    char key[RESIZE_METHODS][HASH_HEX];
    CHECK(!put("train/1_a/a.png", 300, 300, "x"));
    for (int m = 0; m < RESIZE_METHODS; m++) {
        Image im, in, want;
        c.resize = (ResizeMethod)m;
        CHECK_OK(dataset_open(&ds, &c, &e), &e);
        CHECK_OK(dataset_image(&im, &ds->items[0], 0, &e), &e);
        CHECK_OK(image_load(&in, ds->items[0].path, &e), &e);
        CHECK_OK(resize_by(c.resize, &want, &in, 128, 128, &e), &e);
        int same = im.w == 128 && im.h == 128 && !memcmp(im.px, want.px, 3 * 128 * 128);
        CHECK_OK(dataset_item_key(key[m], &ds->items[0], 0, &e), &e);
        for (int k = 0; k < m; k++) same &= strcmp(key[m], key[k]) != 0;
        image_free(&in);
        image_free(&im);
        image_free(&want);
        dataset_close(ds);
        if (!same) test_fail(__FILE__, __LINE__, "%s: pixels or key", resize_name(c.resize));
    }
}
