/* test_dataset_config.c - kohya's --dataset_config and metadata files: settings by level, what
 * is refused, and the same bytes as folders with the same settings. */
#include <stdlib.h>

#include "engine/data.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "tests/fixture.h"
#include "tests/test.h"

static char out[8192], err[8192], args[2048];

static int put(const char *name, const char *text)
{
    Err e = {0};
    return io_write_file(test_path(name), text, strlen(text), &e);
}

static int train(const char *to, const char *more)
{
    snprintf(args, sizeof args,
             "train -m %s -o %s --output_name x --resolution 64 --network_dim 4 --seed 5 "
             "--threads 2 --max_train_steps 3 --resolution 64 --no_metadata --shuffle_caption %s",
             fixture_model(), test_path(to), more);
    return test_sdc(args, out, err, sizeof out);
}

/* Each text as file `name` is a usage error that says the part. */
static void refuse(const char *name, const char *const (*bad)[2], size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char more[600];
        snprintf(more, sizeof more, "--dataset_config %s", test_path(name));
        CHECK_INT(put(name, bad[i][0]), 0);
        CHECK_INT(train("bad", more), 2);
        if (!strstr(err, bad[i][1])) test_fail(__FILE__, __LINE__, "\"%s\": %s", bad[i][0], err);
    }
}

TEST(dataset_config_refuses)
{
    CHECK(fixture_model() != NULL);
    static const char *const bad[][2] = {
        {"", "no [[datasets.subsets]]"}, {"a = 1", "before the first section"}, {"[general]\nfoo = 1", "unknown key"},
        {"[general]\nshufle_caption = true", "did you mean shuffle_caption"}, {"[other]", "unknown section"},
        {"[[datasets.subsets]]\nimage_dir='x'", "needs [[datasets]]"}, {"[general]\nimage_dir = 'x'", "does not belong"},
        {"[[datasets]]\n[[datasets.subsets]]\nbatch_size = 2", "does not belong"},
        {"[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 1", "no image_dir"},
        {"[general]\nresolution = [64,64,64]", "one value"}, {"[general]\nresolution = 63", "from 64"},
        {"[general]\nkeep_tokens = 1.5", "whole number"}, {"[general]\nflip_aug = 1", "true or false"},
        {"[general]\nresize_interpolation = 'lanczos4'", "expected lanczos, nearest"},
        {"[general]\nface_crop_aug_range = [2, 3, 4]", "one value"},
        {"[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'x'\nface_crop_aug_range = [4.0, 2.0]", "two numbers"},
        {"[general", "does not end"},
        {"[general] x", "something follows"}, {"[[datasets]]\n[[datasets.subsets]]\nmetadata_file='m'\nis_reg=true", "is_reg"},
        {"[general]\ncustom_attributes = {a = 1}", "inline tables"}, {"[datasets]", "unknown section"}};
    refuse("b.toml", bad, sizeof bad / sizeof *bad);
}

TEST(dataset_config_refuses_json)
{
    CHECK(fixture_model() != NULL);
    static const char *const bad[][2] = {
        {"{}", "no [[datasets.subsets]]"},
        {"[]", "not an object"},
        {"{\n\"general\": {", "b.Json:2:"},
        {"{\"a\": 1}", "before the first section"},
        {"{\"a\": 1, \"a\": 2}", "uplicate"},
        {"{\"general\": {\"foo\": 1}}", "unknown key"},
        {"{\"general\": {\"flip_aug\": 1}}", "true or false"},
        {"{\"general\": {\"keep_tokens\": 1.5}}", "whole number"},
        {"{\"general\": {\"caption_prefix\": null}}", "a string, a number"},
        {"{\"general\": {\"resolution\": [64, [64]]}}", "a string, a number"},
        {"{\"general\": {\"resolution\": [64, 64, 64]}}", "one value"},
        {"{\"general\": {\"custom_attributes\": {\"a\": 1}}}", "unknown section"},
        {"{\"datasets\": {}}", "unknown section"},
        {"{\"datasets\": [{}, 3]}", "a list of objects"},
        {"{\"datasets\": [{\"subsets\": [{\"num_repeats\": 1}]}]}", "no image_dir"},
        {"{\"datasets\": [{\"subsets\": [{\"batch_size\": 1}]}]}", "does not belong"}};
    refuse("b.Json", bad, sizeof bad / sizeof *bad);
}

TEST(dataset_config_trains_as_folders_do)
{
    Err e = {0};
    char text[1024], more[600];
    CHECK(fixture_model() != NULL);
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    snprintf(more, sizeof more, "-d %s", test_path("data"));
    CHECK_INT(train("folders", more), 0);
    snprintf(text, sizeof text,
             "[[datasets]]\n[[datasets.subsets]]\nimage_dir = '%s'\nnum_repeats = 3\n"
             "class_tokens = 'cat'\n",
             test_path("data/3_cat"));
    CHECK_INT(put("c.toml", text), 0);
    snprintf(more, sizeof more, "--dataset_config %s", test_path("c.toml"));
    CHECK_INT(train("config", more), 0);
    CHECK(fixture_same_file(test_path("folders/x.safetensors"), test_path("config/x.safetensors")));
    /* the nearest level wins: the subset over its data set, that over [general], that over the command line */
    snprintf(text, sizeof text,
             "[general]\nresolution = 128\ncaption_prefix = 'g'\nflip_aug = true\nkeep_tokens = 0\n"
             "[[datasets]]\nresolution = [64, 64]\nbatch_size = 2\ncaption_prefix = 'd' # not "
             "this\n"
             "[[ datasets.subsets ]]\nimage_dir = \"%s\"\nnum_repeats = 3\ncaption_prefix = "
             "'s'\nclass_tokens = 'cat'\n"
             "[[datasets.subsets]]\nimage_dir = 'nowhere'\nnum_repeats = 0\n",
             test_path("data/3_cat"));
    CHECK_INT(put("l.toml", text), 0);
    snprintf(more, sizeof more, "--dataset_config %s --caption_prefix c --keep_tokens 2",
             test_path("l.toml"));
    CHECK_INT(train("levels", more), 0);
    snprintf(more, sizeof more, "-d %s --caption_prefix s --flip_aug --train_batch_size 2",
             test_path("data"));
    CHECK_INT(train("plain", more), 0);
    CHECK(fixture_same_file(test_path("levels/x.safetensors"), test_path("plain/x.safetensors")));
    CHECK(!fixture_same_file(test_path("levels/x.safetensors"),
                             test_path("folders/x.safetensors")));
    /* as JSON, tables before values, [general] last */
    snprintf(text, sizeof text,
             "{\"datasets\": [{\"subsets\": [{\"image_dir\": \"%s\", \"num_repeats\": 3,"
             "\"caption_prefix\": \"s\", \"class_tokens\": \"cat\"},"
             "{\"image_dir\": \"nowhere\", \"num_repeats\": 0}], \"resolution\": [64, 64],"
             "\"batch_size\": 2, \"caption_prefix\": \"d\"}], \"general\": {\"resolution\": 128,"
             "\"caption_prefix\": \"g\", \"flip_aug\": true, \"keep_tokens\": 0}}",
             test_path("data/3_cat"));
    CHECK_INT(put("l.json", text), 0);
    snprintf(more, sizeof more, "--dataset_config %s --caption_prefix c --keep_tokens 2",
             test_path("l.json"));
    CHECK_INT(train("json", more), 0);
    CHECK(fixture_same_file(test_path("levels/x.safetensors"), test_path("json/x.safetensors")));
    /* a validation split, and what does not go together */
    snprintf(more, sizeof more, "--dataset_config %s --validation_split 0.3", test_path("c.toml"));
    CHECK_INT(train("split", more), 0);
    snprintf(more, sizeof more, "-d x --dataset_config %s", test_path("c.toml"));
    CHECK_INT(train("no", more), 2);
    CHECK(strstr(err, "excludes"));
}

TEST(in_json_reads_captions_and_tags)
{
    static const struct { const char *json; int rc; const char *part; } cases[] = {
        {"{\"a.png\": {\"caption\": \"a cat\", \"tags\": \"cat, red\"}, \"b\": {\"tags\": \"dog\"}}", 0, ""},
        {"[]", ERR_INPUT, "not an object"}, {"{\"a.png\": 3}", ERR_INPUT, "not an object with"}, {"{", ERR_INPUT, ":"},
        {"{\"nothing.png\": {}}", ERR_INPUT, "no picture"}, {"{\"a.png\": {}, \"a.png\": {}}", ERR_INPUT, "uplicate"}};
    Err e = {0};
    CHECK_OK(io_mkdirs(test_path("j"), &e), &e);
    Image im;
    CHECK_OK(image_new(&im, 64, 64, 3, &e), &e);
    memset(im.px, 9, 64 * 64 * 3);
    CHECK_OK(image_save(test_path("j/a.png"), &im, NULL, &e), &e);
    CHECK_OK(image_save(test_path("j/b.png"), &im, NULL, &e), &e);
    image_free(&im);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Dataset *ds = NULL;
        e = (Err){0};
        char dir[512], file[512];
        snprintf(dir, sizeof dir, "%s", test_path("j"));
        snprintf(file, sizeof file, "%s", test_path("m.json"));
        CHECK_INT(put("m.json", cases[i].json), 0);
        DataSubset sub = {.dir = dir, .metadata = file, .repeats = 2};
        DataSet set = {.batch_size = 1, .bucket = {.w = 64, .h = 64}};
        DataConfig c = {.train_dir = file,
                        .subsets = &sub,
                        .subset_count = 1,
                        .sets = &set,
                        .set_count = 1};
        int rc = dataset_open(&ds, &c, &e), ok = rc == cases[i].rc;
        if (!rc)
            ok &= ds->item_count == 2 && ds->entry_count == 4 &&
                  !strcmp(ds->items[0].caption, "a cat,cat, red") &&
                  !strcmp(ds->items[1].caption, "dog");
        else ok &= strstr(e.msg, cases[i].part) != NULL;
        if (!ok) test_fail(__FILE__, __LINE__, "%s: %d %s", cases[i].json, rc, e.msg);
        dataset_close(ds);
    }
}
