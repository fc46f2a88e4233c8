/* test_kohya_run.c - `sdc train` with many of kohya's options at once: resumed, with another
 * VAE, with LoRAs merged first, and what it refuses. */
#include <stdlib.h>

#include "engine/io.h"
#include "engine/lora.h"
#include "engine/mem.h"
#include "engine/tensorfile.h"
#include "tests/fixture.h"
#include "tests/test.h"

static char out[8192], err[8192];

static int train(const char *to, const char *more)
{
    char args[2048], logs[512];
    snprintf(logs, sizeof logs, "%s", test_path("logs"));
    snprintf(args, sizeof args,
             "train -m %s -d %s -o %s --output_name x --resolution 64 --network_dim 4 --threads 2 "
             "--max_train_epochs 2 --train_batch_size 2 --learning_rate 1e-2 --noise_offset 0.1 "
             "--noise_offset_random_strength --adaptive_noise_scale 0.05 "
             "--multires_noise_iterations 4 --ip_noise_gamma 0.1 --ip_noise_gamma_random_strength "
             "--debiased_estimation_loss --min_snr_gamma 5 --alpha_mask --scale_weight_norms 0.01 "
             "--enable_wildcard --secondary_separator ';;' --validation_split 0.25 --lr_scheduler "
             "cosine_with_min_lr --lr_scheduler_min_lr_ratio 0.1 --save_every_n_steps 1 "
             "--save_last_n_steps 1 --metadata_author 'me & you' --logging_dir %s --log_prefix p "
             "--seed 5 --save_precision float %s",
             fixture_model(), test_path("data"), test_path(to), logs, more);
    return test_sdc(args, out, err, sizeof out);
}

/* Norms of the modules are at most 0.01. 1: so it is, and some are at the limit. */
static int norms_are_scaled(const char *path, Err *e)
{
    TensorFile *f;
    int at_limit = 0, over = 0;
    if (tensorfile_open(&f, path, e)) return 0;
    for (size_t i = 0; i < tensorfile_count(f); i++) {
        const FileTensor *up = tensorfile_at(f, i);
        char name[300], *at;
        snprintf(name, sizeof name, "%s", up->name);
        if (!(at = strstr(name, "lora_up"))) continue;
        memcpy(at, "lora_down.weight", sizeof "lora_down.weight");
        const FileTensor *down = tensorfile_find(f, name);
        float *u = mem_alloc((size_t)up->count * 4), *d = mem_alloc((size_t)down->count * 4);
        if (tensorfile_read_f32(f, up, 0, up->count, u, e) ||
            tensorfile_read_f32(f, down, 0, down->count, d, e))
            over++;
        double norm = 0.5 * lora_norm(u, d, (size_t)up->count / 4, 4, (size_t)down->count / 4);
        over += norm > 0.0101;
        at_limit += norm > 0.0099;
        mem_free(u);
        mem_free(d);
    }
    const char *author = tensorfile_meta(f, "modelspec.author");
    over += !author || strcmp(author, "me & you");
    tensorfile_close(f);
    return at_limit > 3 && !over;
}

TEST(train_with_kohyas_options_resumes_and_reports)
{
    Err e = {0};
    char *text, want[64];
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    CHECK_INT(train("a", ""), 0);
    CHECK_INT(train("b", "--stop_after_steps 3"), 130);
    CHECK_INT(train("b", "--resume --noise_offset 0.2"), 2);
    CHECK(strstr(err, "noise_offset"));
    CHECK_INT(train("b", "--resume"), 0);
    CHECK(fixture_same_file(test_path("a/x.safetensors"), test_path("b/x.safetensors")));
    CHECK(norms_are_scaled(test_path("a/x.safetensors"), &e));
    CHECK_INT(train("c", "--ip_noise_gamma 0.3 --max_train_epochs 1"), 0);
    CHECK_INT(train("d", "--ip_noise_gamma 0 --max_train_epochs 1"), 0);
    CHECK(!fixture_same_file(test_path("c/x.safetensors"), test_path("d/x.safetensors")));
    CHECK_INT(io_exists(test_path("a/x-step00000009.safetensors")), 1);
    CHECK_INT(io_exists(test_path("a/x-step00000007.safetensors")), 0);
    CHECK_OK(io_read_text(&text, NULL, test_path("b/x.jsonl"), 1 << 20, &e), &e);
    int steps = 0, held = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        snprintf(want, sizeof want, "{\"step\": %d, ", steps + 1);
        if (strstr(line, "loss/current"))
            steps += !strncmp(line, want, strlen(want)) && strstr(line, "\"lr/textencoder\": ");
        held += strstr(line, "loss/validation/epoch_average") != NULL;
    }
    mem_free(text);
    CHECK_INT(steps, 10);
    CHECK_INT(held, 2);
    CHECK_OK(io_read_text(&text, NULL, test_path("b/x-report.html"), 1 << 20, &e), &e);
    int whole = strstr(text, "<svg") && strstr(text, "scale_weight_norms") &&
                strstr(text, "&#39;me &#38; you&#39;") && !strstr(text, " --resume");
    mem_free(text);
    CHECK(whole);
    char **names;
    size_t count;
    CHECK_OK(io_list(&names, &count, test_path("logs"), &e), &e);
    int prefixed = count && names[0][0] == 'p' && strlen(names[0]) == 15;
    io_list_free(names, count);
    CHECK(prefixed);
}

/* The VAE of a file as it is published alone: without the prefix of whole checkpoints. */
static int write_vae(const char *path, const char *from, Err *e)
{
    static const char start[] = "first_stage_model.";
    enum { SKIP = sizeof start - 1 };
    TensorFile *tf;
    TensorWriter *w = NULL;
    TRY(tensorfile_open(&tf, from, e));
    int rc = tensorwriter_new(&w, path, e);
    for (size_t i = 0; !rc && i < tensorfile_count(tf); i++) {
        const FileTensor *t = tensorfile_at(tf, i);
        if (!strncmp(t->name, start, SKIP))
            rc = tensorwriter_add(w, t->name + SKIP, FD_F32, t->ndim, t->shape, e);
    }
    if (!rc) rc = tensorwriter_begin(w, e);
    for (const char *next; !rc && (next = tensorwriter_next(w));) {
        char name[300];
        snprintf(name, sizeof name, "%s%s", start, next);
        const FileTensor *t = tensorfile_find(tf, name);
        float *v = mem_alloc((size_t)t->count * sizeof *v);
        rc = tensorfile_read_f32(tf, t, 0, t->count, v, e);
        if (!rc) rc = tensorwriter_write_f32(w, v, (size_t)t->count, e);
        mem_free(v);
    }
    tensorfile_close(tf);
    if (!rc) return tensorwriter_commit(w, e);
    tensorwriter_abort(w);
    return rc;
}

/* The tensors of two trained files, by the hash that they carry. */
static int same_tensors(const char *a, const char *b)
{
    TensorFile *x, *y;
    Err e = {0};
    if (tensorfile_open(&x, a, &e)) return 0;
    if (tensorfile_open(&y, b, &e)) return tensorfile_close(x), 0;
    const char *p = tensorfile_meta(x, "sshs_model_hash"),
               *q = tensorfile_meta(y, "sshs_model_hash");
    int same = p && q && !strcmp(p, q);
    tensorfile_close(x);
    tensorfile_close(y);
    return same;
}

TEST(train_takes_the_vae_of_another_file)
{
    static const char *const vaes[] = {NULL, "own", "tests/golden/models/micro-sd1-diffusers/vae",
                                       "tests/golden/models/micro-sd1-diffusers",
                                       "tests/golden/lora/a.safetensors"};
    Err e = {0};
    char args[2048], text[2048], own[512], data[512], file[5][512];
    CHECK(fixture_model());
    snprintf(own, sizeof own, "%s/vae.safetensors", test_dir());
    snprintf(data, sizeof data, "%s/data", test_dir());
    CHECK_OK(fixture_data(data, &e), &e);
    CHECK_OK(write_vae(own, fixture_model(), &e), &e);
    for (int i = 0; i < 5; i++) {
        snprintf(file[i], sizeof file[i], "%s/o%d/x.safetensors", test_dir(), i);
        snprintf(args, sizeof args,
                 "train -m %s -d %s -o %s/o%d --output_name x --resolution 64 --network_dim 2 "
                 "--threads 1 --seed 5 --max_train_steps 1 --save_state %s %s",
                 fixture_model(), data, test_dir(), i, vaes[i] ? "--vae" : "", !vaes[i] ? ""
                 : i == 1 ? own : vaes[i]);
        CHECK_INT(test_sdc(args, NULL, text, sizeof text), i == 4 ? 3 : 0);
    }
    CHECK(strstr(text, "not a VAE of Stable Diffusion") && strstr(text, "lora/a.safetensors"));
    CHECK(same_tensors(file[0], file[1]) && same_tensors(file[2], file[3]));
    CHECK(!same_tensors(file[0], file[2]));
    snprintf(args, sizeof args,
             "train -m %s -d %s -o %s/o1 --output_name x --resolution 64 --network_dim 2 "
             "--threads 1 --seed 5 --max_train_steps 1 --resume --vae %s", fixture_model(), data,
             test_dir(), vaes[2]);
    CHECK_INT(test_sdc(args, NULL, text, sizeof text), 2);
    CHECK(strstr(text, "--vae was \""));
    snprintf(args, sizeof args, "train -m %s -d %s --full --vae %s", fixture_model(), data, own);
    CHECK_INT(test_sdc(args, NULL, text, sizeof text), 2);
    CHECK(strstr(text, "--vae"));
}

TEST(train_merges_base_weights_first)
{
    Err e = {0};
    char more[700];
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    CHECK_INT(train("a", "--max_train_epochs 1"), 0);
    snprintf(more, sizeof more,
             "--max_train_epochs 1 --base_weights %s --base_weights_multiplier 0.5",
             test_path("a/x.safetensors"));
    CHECK_INT(train("b", more), 0);
    CHECK(!fixture_same_file(test_path("a/x.safetensors"), test_path("b/x.safetensors")));
    snprintf(more, sizeof more,
             "--max_train_epochs 1 --base_weights %s --base_weights_multiplier 0",
             test_path("a/x.safetensors"));
    CHECK_INT(train("c", more), 0);
    CHECK(fixture_same_file(test_path("a/x.safetensors"), test_path("c/x.safetensors")));
    snprintf(more, sizeof more, "--base_weights %s", test_path("data"));
    CHECK_INT(train("d", more), 3);
}

TEST(train_checks_what_kohya_checks)
{
    static const char *const wrong[][2] = {
        {"--lr_scheduler_args foo=1", "lr_end=X"}, {"--scale_v_pred_loss_like_noise_pred", "needs --v_parameterization"},
        {"--v_pred_like_loss 1 --v_parameterization", "not with --v_parameterization"},
        {"--lr_scheduler warmup_stable_decay --lr_decay_steps 20", "lr_decay_steps"},
        {"--lr_scheduler_min_lr_ratio 2", "between 0 and 1"}};
    Err e = {0};
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK_INT(train("a", wrong[i][0]), 2);
        if (!strstr(err, wrong[i][1])) test_fail(__FILE__, __LINE__, "%s: %s", wrong[i][0], err);
    }
    CHECK_INT(train("a",
                    "--max_train_epochs 1 --v_parameterization --zero_terminal_snr --lr_scheduler "
                    "polynomial --lr_scheduler_args lr_end=1e-4 --save_n_epoch_ratio 1"), 0);
}
