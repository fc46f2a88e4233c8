/* test_preset.c - `sdc train --preset`: what it chooses from the pictures and the model, that
 * its record repeats the run, and command lines made for kohya's scripts. */
#include <stdlib.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "tests/fixture.h"
#include "tests/test.h"

static char out[16384], err[16384];

/* Its exit code; `more` comes after model, preset and folder. */
static int preset(const char *kind, const char *data, const char *more)
{
    char args[4096];
    snprintf(args, sizeof args, "train -m %s --preset %s %s --threads 2 %s", fixture_model(), kind,
             data, more);
    return test_sdc(args, out, err, sizeof out);
}

/* A flat folder of the fixture's pictures, without captions. */
static int flat(const char *dir, Err *e)
{
    char name[40];
    TRY(fixture_data(test_path("data"), e));
    TRY(io_mkdirs(dir, e));
    for (int i = 0; i < 4; i++) {
        IoMap m;
        snprintf(name, sizeof name, "data/3_cat/p%d.png", i);
        TRY(io_map(&m, test_path(name), e));
        snprintf(name, sizeof name, "%d.png", i);
        char *to = mem_printf("%s/%s", dir, name);
        int rc = io_write_file(to, m.data, m.size, e);
        mem_free(to);
        io_unmap(&m);
        TRY(rc);
    }
    return 0;
}

static int says(const char *text, const char *const *lines, size_t count)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        if (strstr(text, lines[i])) n++;
        else test_fail(__FILE__, __LINE__, "\"%s\" is not in\n%s", lines[i], text);
    }
    return n == count;
}
#define SAYS(text, ...) says(text, (const char *const[]){__VA_ARGS__}, \
                             sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

TEST(preset_chooses_for_a_flat_folder)
{
    Err e = {0};
    char dir[512];
    CHECK(fixture_model());
    snprintf(dir, sizeof dir, "%s", test_path("cats"));
    CHECK_OK(flat(dir, &e), &e);
    CHECK_INT(preset("character", dir, "--trigger 'sks cat' --resolution 64 --dry_run"), 0);
    /* 4 pictures: the least of 1200 uses, 10 epochs of 4 x 30; rate 1e-4 x 320 / 32 */
    CHECK(SAYS(err, "caption_prefix = sks cat ", "output_name = sks_cat", "dataset_repeats = 30",
               "max_train_epochs = 10", "steps      1200 = 120 per epoch", "network_dim = 16",
               "unet_lr = 0.001 ", "text_encoder_lr = 0.0005 ", "flip_aug = false",
               "min_snr_gamma = 5", "AdamW8bit", "4 of 4 pictures have no caption file"));
    CHECK(!strstr(err, "shuffle_caption") && !strstr(err, "resolution = ") &&
          !strstr(err, "validation_split"));
    CHECK_INT(io_exists("sks_cat"), 0);                  /* a dry run writes nothing */
    CHECK(SAYS(err, "auto = false", "4 pictures are too few"));
    CHECK_INT(preset("character", dir,
                     "--trigger 'sks cat' --resolution 64 --validation_split 0.25 --dry_run"),
              0);
    CHECK(SAYS(err, "auto = true"));
    CHECK_INT(preset("style", dir,
                     "--trigger 'in sks style' --resolution 64 --network_dim 3 --train_batch_size "
                     "4 --dry_run"), 0);
    CHECK(SAYS(err, "flip_aug = true", "text_encoder_lr = 0 ", "unet_lr = 0.002 ",
               "root of the batch of 4", "rank 3, alpha 1.5", "max_train_epochs = 10"));
    CHECK(!strstr(err, "network_dim = "));
    CHECK_INT(preset("object", dir,
              "--trigger x --resolution 64 --optimizer_type Lion --max_train_steps 7 --dry_run"),
              0);
    CHECK(SAYS(err, "unet_lr = 0.00033 ", "a third for Lion", "steps      7 ", "network_dim = 8"));
    CHECK_INT(preset("character", dir, "--dry_run"), 2);
    CHECK(SAYS(err, "4 of 4 pictures have no caption: give --trigger"));
    CHECK_INT(preset("person", dir, "--dry_run"), 2);
    CHECK(SAYS(err, "\"person\" is not character, style or object"));
}

TEST(preset_sees_captions)
{
    Err e = {0};
    char dir[512];
    CHECK(fixture_model());
    snprintf(dir, sizeof dir, "%s", test_path("data"));
    CHECK_OK(fixture_data(dir, &e), &e);
    CHECK_INT(preset("style", dir, "--trigger 'sks style' --resolution 128 --dry_run"), 0);
    CHECK(SAYS(err, "caption_prefix = sks style, ", "caption_dropout_rate = 0.1",
               "4 of 4 pictures are smaller than 128x128", "max_train_epochs = 167",
               "save_every_n_epochs = 17"));
    CHECK_INT(preset("character", dir, "--trigger 'cat' --resolution 64 --dry_run"), 0);
    CHECK(strstr(err, "\"cat\" in their first tag already") && !strstr(err, "caption_prefix"));
    CHECK_INT(preset("character", dir, "--trigger 'a cat' --resolution 64 --dry_run"), 0);
    CHECK(SAYS(err, "2 of 4 captions have \"a cat\" in their first tag", "tags DIR first"));
    CHECK_OK(io_write_file(test_path("data/3_cat/p2.txt"), "a, b", 4, &e), &e);
    CHECK_INT(preset("character", dir, "--trigger 'sks' --resolution 64 --dry_run"), 0);
    CHECK(SAYS(err, "shuffle_caption = true", "keep_tokens = 1"));
}

/* The record of a run, as an option file, gives its bytes again; so does a resumed run. */
TEST(preset_is_recorded_and_resumed)
{
    Err e = {0};
    char dir[512], more[1400], args[1600], *text;
    CHECK(fixture_model());
    snprintf(dir, sizeof dir, "%s", test_path("cats"));
    CHECK_OK(flat(dir, &e), &e);
    snprintf(more, sizeof more,
             "--trigger 'say \"sks\"' --resolution 64 --max_train_steps 4 --sample_every_n_epochs "
             "50 --sample_strengths 1 --output_name x -o %s", test_path("a"));
    CHECK_INT(preset("character", dir, more), 0);
    CHECK_OK(io_read_text(&text, NULL, test_path("a/x.toml"), 1 << 16, &e), &e);
    int whole = SAYS(text, "unet_lr = 0.001  # 1e-4, times 10",
                     "seed = ", "caption_prefix = \"say \\\"sks\\\"\"",
                     "mixed_precision = ", "max_train_steps = 4\n", "network_dim = 16  # ") &&
                !strstr(text, "preset =") && !strstr(text, "trigger =");
    mem_free(text);
    CHECK(whole);
    CHECK_INT(io_exists(test_path("a/x-prompts.txt")), 1);
    /* its pictures take long, and do not change the weights */
    CHECK_OK(io_write_file(test_path("p.txt"), "a cat --s 2", 11, &e), &e);
    snprintf(args, sizeof args, "train --config_file %s -o %s --sample_prompts %s",
             test_path("a/x.toml"), test_path("b"), test_path("p.txt"));
    CHECK_INT(test_sdc(args, out, err, sizeof out), 0);
    CHECK(fixture_same_file(test_path("a/x.safetensors"), test_path("b/x.safetensors")));
    /* stopped after the same start: the seed that was drawn comes from the record */
    snprintf(more, sizeof more,
             "--trigger 'say \"sks\"' --resolution 64 --max_train_steps 4 --sample_every_n_epochs "
             "50 --sample_prompts %s --output_name x -o %s --resume", test_path("p.txt"),
             test_path("c"));
    snprintf(args, sizeof args, "%s --stop_after_steps 2", more);
    CHECK_INT(preset("character", dir, args), 130);
    CHECK_INT(preset("character", dir, more), 0);
    CHECK(SAYS(err, "settings   of the first start", "at step 2"));
    snprintf(args, sizeof args, "train --config_file %s -o %s", test_path("c/x.toml"),
             test_path("d"));
    CHECK_INT(test_sdc(args, out, err, sizeof out), 0);
    CHECK(fixture_same_file(test_path("c/x.safetensors"), test_path("d/x.safetensors")));
    CHECK(!fixture_same_file(test_path("c/x.safetensors"), test_path("a/x.safetensors")));
    /* another file in the record's place stays */
    CHECK_OK(io_write_file(test_path("a/x.toml"), "mine = 1", 8, &e), &e);
    snprintf(more, sizeof more, "--trigger x --resolution 64 --output_name x -o %s",
             test_path("a"));
    CHECK_INT(preset("character", dir, more), 2);
    CHECK(SAYS(err, "another file has that name"));
}

TEST(trigger_alone_is_a_prefix)
{
    Err e = {0};
    char args[1200];
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    snprintf(args, sizeof args, "train -m %s -d %s --trigger sks --resolution 64 --dry_run",
             fixture_model(), test_path("data"));
    CHECK_INT(test_sdc(args, out, err, sizeof out), 0);
    CHECK(SAYS(err, "caption_prefix = sks, ", "rank 16"));
    CHECK(!strstr(err, "network_dim = "));
}

/* ---- kohya's command lines ------------------------------------------------------- */

TEST(kohya_command_lines_work_as_they_are)
{
    Err e = {0};
    char args[2048];
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    snprintf(args, sizeof args,
             "train accelerate launch --num_cpu_threads_per_process 1 "
             "./sd-scripts/train_network.py --pretrained_model_name_or_path=%s "
             "--train_data_dir=%s --resolution=64,64 --output_dir=%s --output_name=x "
             "--save_model_as=safetensors --prior_loss_weight=1.0 --max_train_steps=2 "
             "--learning_rate=1e-4 --optimizer_type=AdamW8bit --xformers --mixed_precision=fp16 "
             "--cache_latents --gradient_checkpointing --network_module=networks.lora "
             "--text_encoder_lr 5e-5 5e-5 --threads 2",
             fixture_model(), test_path("data"), test_path("k"));
    CHECK_INT(test_sdc(args, out, err, sizeof out), 0);
    CHECK_INT(io_exists(test_path("k/x.safetensors")), 1);
    CHECK(SAYS(
        err,
        "defaults   not kohya's, in brackets: network_dim 16 (4), network_alpha 8 (1), save_precision fp16 (float)",
        "text encoder 5e-05"));
    CHECK(!strstr(err, "unet_lr 0.0001 (2e-06)") && !strstr(err, "epochs (1600"));
    CHECK_INT(test_sdc("train python sdxl_train_network.py --foo 1", out, err, sizeof out), 2);
    CHECK(SAYS(err, "SDXL"));
    CHECK_INT(test_sdc("train accelerate launch mine.py", out, err, sizeof out), 2);
    CHECK(SAYS(err, "mine.py is not a script"));
    CHECK_INT(test_sdc("train -m x one two", out, err, sizeof out), 2);
    CHECK(SAYS(err, "unexpected argument \"two\""));
}

/* ---- rates that are found, steps that fit ---------------------------------------- */

static int plain(const char *to, const char *more)
{
    char args[2400], data[512];
    snprintf(data, sizeof data, "%s", test_path("data"));
    snprintf(args, sizeof args,
             "train -m %s -d %s -o %s --output_name x --resolution 64 --network_dim 4 --threads 2 "
             "%s", fixture_model(), data, to, more);
    return test_sdc(args, out, err, sizeof out);
}

static double value_in(const char *path, const char *key)
{
    char *text, want[64];
    Err e = {0};
    if (io_read_text(&text, NULL, path, 1 << 16, &e)) return NAN;
    snprintf(want, sizeof want, "\n%s = ", key);
    const char *at = strstr(text, want);
    double v = at ? strtod(at + strlen(want), NULL) : NAN;
    mem_free(text);
    return v;
}

TEST(rate_is_found_recorded_and_used)
{
    Err e = {0};
    char more[400], a[512], b[512];
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    snprintf(a, sizeof a, "%s", test_path("a"));
    snprintf(b, sizeof b, "%s", test_path("b"));
    CHECK_INT(plain(a, "--lr auto --max_train_steps 4 --seed 3 --stop_after_steps 2"), 130);
    CHECK(SAYS(err, "rate       unet_lr = ", "DAdaptAdam finds ", "Prodigy ",
               "loss of AdamW is lowest at"));
    double unet = value_in(test_path("a/x.toml"), "unet_lr"),
           text = value_in(test_path("a/x.toml"), "text_encoder_lr");
    CHECK(unet > 1e-7 && unet < 1);
    CHECK_NEAR(text, unet / 2, 0.006 * unet);            /* three digits */
    CHECK(isnan(value_in(test_path("a/x.toml"), "learning_rate")));
    /* resumed: not searched again */
    CHECK_INT(plain(a, "--lr auto --max_train_steps 4 --seed 3 --resume"), 0);
    CHECK(!strstr(err, "DAdaptAdam finds"));
    /* the same rates by hand, from the same start: the search has left nothing behind */
    snprintf(more, sizeof more,
             "--unet_lr %.9g --text_encoder_lr %.9g --max_train_steps 4 --seed 3", unet, text);
    CHECK_INT(plain(b, more), 0);
    CHECK(fixture_same_file(test_path("a/x.safetensors"), test_path("b/x.safetensors")));
}

TEST(rate_of_a_part_and_of_lion)
{
    Err e = {0};
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    CHECK_INT(plain(test_path("a"),
                    "--unet_lr auto --text_encoder_lr 1e-5 --optimizer_type Lion8bit "
                    "--max_train_steps 2 --seed 3"), 0);
    CHECK(SAYS(err, "a third of it for Lion", "rate       unet_lr = "));
    CHECK(!strstr(err, "text_encoder_lr = ") &&
          value_in(test_path("a/x.toml"), "text_encoder_lr") == 1e-5);
    CHECK_INT(plain(test_path("b"), "--lr auto --optimizer_type Prodigy --max_train_steps 2"), 0);
    CHECK(SAYS(err, "Prodigy finds its rate itself"));
    CHECK_INT(plain(test_path("b"), "--lr auto --optimizer_type SGD --max_train_steps 2"), 2);
    CHECK_INT(plain(test_path("b"), "--lr automatic"), 2);
    CHECK(SAYS(err, "--learning_rate: \"automatic\" is not a number"));
}

TEST(time_bounds_the_steps)
{
    Err e = {0};
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    CHECK_INT(plain(test_path("a"), "--time 1h --max_train_steps 3 --seed 3"), 0);
    CHECK(SAYS(err, "time       1h is enough: 3 steps"));
    CHECK_INT(plain(test_path("b"),
                    "--time 3.5s --max_train_steps 1000000 --seed 3 --lr_scheduler "
                    "cosine --stop_after_steps 2"), 130);
    CHECK(SAYS(err, "instead of 1000000: what fits into 3.5s"));
    double steps = value_in(test_path("b/x.toml"), "max_train_steps");
    CHECK(steps >= 1 && steps < 100000);
    char more[400];
    CHECK_INT(plain(test_path("b"),
                    "--time 3.5s --max_train_steps 1000000 --seed 3 --lr_scheduler "
                    "cosine --resume --stop_after_steps 1"), 130);
    CHECK(SAYS(err, "at step 2"));
    snprintf(more, sizeof more, "steps      %.0f = ", steps);
    CHECK(SAYS(err, more));
    CHECK_INT(plain(test_path("c"), "--time 90"), 2);
    CHECK(SAYS(err, "\"90\" is not a time such as 90m"));
    CHECK_INT(plain(test_path("c"), "--time 0.001s"), 2);
    CHECK(SAYS(err, "is over before the first step"));
}
