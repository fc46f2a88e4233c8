/* test_sweep.c - held-out loss, --auto, and sweeps. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "engine/stopping.h"
#include "engine/tensorfile.h"
#include "models/near.h"
#include "tests/fixture.h"
#include "tests/test.h"

static char out[16384], err[16384];

/* Where the rule stops on these losses, one every 10 steps from 0 on; -1: nowhere. */
static int stops_at(const double *loss, size_t count)
{
    TrainPoint p[64];
    for (size_t i = 0; i < count; i++) {
        p[i] = (TrainPoint){(uint32_t)i * 10, (float)loss[i], 0};
        if (stopping_judge(p, i + 1).stop) return (int)i * 10;
    }
    return -1;
}

TEST(stopping_waits_for_a_rise_or_the_end_of_a_fall)
{
    /* measured on the cats of the pocket model: the first dip is not the last */
    double cats[] = {.2473, .2152, .1874, .1630, .1488, .1371, .1275, .1197, .1145, .1129, .1121,
                     .1107, .1116, .1128, .1093, .1112, .1141, .1153, .1189, .1193, .1225, .1230};
    double falls[] = {.3, .29, .28, .27, .26, .25, .24, .23, .22, .21, .2, .19, .18, .17}, flat[40],
           never[20];
    CHECK_INT(stops_at(cats, 22), 160);
    CHECK_INT(stops_at(falls, 14), -1);
    for (int i = 0; i < 40; i++) flat[i] = i < 12 ? .3 - .01 * i : .195;
    CHECK_INT(stops_at(flat, 40), 180);                /* from 90 on: -1.6 standard errors */
    for (int i = 0; i < 20; i++) never[i] = i ? .301 : .3;
    CHECK_INT(stops_at(never, 20), 100);
    /* a rise of each of three, before a line can be drawn; not of a noisy three */
    double rises[] = {.3, .2, .1, .11, .12, .13},
           noisy[] = {.3, .2, .1, .12, .101, .12, .12, .101, .12, .1};
    CHECK_INT(stops_at(rises, 6), 50);
    CHECK_INT(stops_at(noisy, 10), -1);
    /* the noise is a twentieth of the loss: a fall of a third over the line is seen in it,
     * one of a hundredth is not */
    double steep[60], faint[60];
    for (int i = 0; i < 60; i++) {
        double noise = 1 + (i % 2 ? .05 : -.05);
        steep[i] = .3 * exp(-i / 30.) * noise;
        faint[i] = .3 * exp(-i / 1000.) * noise;
    }
    CHECK_INT(stops_at(steep, 60), -1);
    CHECK(stops_at(faint, 60) > 0 && stops_at(faint, 60) < 200);
    /* a line of a quarter of a long run: a dip of ten does not end it */
    double dip[60];
    for (int i = 0; i < 60; i++) dip[i] = (i >= 48 && i < 58 ? .1005 : .1) + .001 * (60 - i);
    CHECK_INT(stops_at(dip, 60), -1);
    TrainPoint same[] = {{0, 1, 0}, {10, .5f, 0}, {20, .5f, 0}};
    CHECK_INT(stopping_judge(same, 3).best, 1);
}

static int train(const char *to, const char *more)
{
    char args[2048];
    snprintf(args, sizeof args,
             "train -m %s -d %s -o %s --output_name x --resolution 64 --network_dim 4 --threads 2 "
             "--seed 5 --mixed_precision no --save_precision float %s",
             fixture_model(), test_path("data"), test_path(to), more);
    return test_sdc(args, out, err, sizeof out);
}

/* The step in the metadata of a trained file, -1: none. */
static int steps_of(const char *path)
{
    TensorFile *f;
    if (tensorfile_open(&f, path, NULL)) return -1;
    const char *s = tensorfile_meta(f, "ss_steps");
    int n = s ? atoi(s) : -1;
    tensorfile_close(f);
    return n;
}

static double number_after(const char *text, const char *tag)
{
    const char *at = strstr(text, tag);
    return at ? atof(at + strlen(tag)) : NAN;
}

TEST(auto_keeps_the_best_and_resumes_to_the_same_end)
{
    Err e = {0};
    char *log;
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    const char *more =
        "--auto --validate_every_n_steps 1 --max_train_steps 40 --learning_rate 0.3 --train_batch_size 2";
    CHECK_INT(train("a", more), 0);
    CHECK(strstr(out, "Stopped at step "));
    int end = (int)number_after(out, "Stopped at step "),
        best = (int)number_after(out, "lowest at step ");
    CHECK(end < 40 && best >= 1 && best < end);
    CHECK_INT(steps_of(test_path("a/x.safetensors")), best);
    CHECK_INT(io_exists(test_path("a/x-state.safetensors")), 0);
    /* the lowest of the log is at that step, and both losses are there by timestep */
    CHECK_OK(io_read_text(&log, NULL, test_path("a/x.jsonl"), 1 << 20, &e), &e);
    double least = INFINITY;
    int at = -1, bands = 0;
    for (char *line = strtok(log, "\n"); line; line = strtok(NULL, "\n")) {
        double v = number_after(line, strstr(line, "epoch_average") ? "epoch_average\": "
                                                                    : "step_average\": ");
        if (v < least) least = v, at = (int)number_after(line, "\"step\": ");
        bands += strstr(line, "loss_t250-499/held_out") && strstr(line, "loss_t750-999/held_out");
    }
    mem_free(log);
    CHECK_INT(at, best);
    CHECK(bands > STOPPING_RISEN);
    /* stopped behind the best: the state knows it, and the plain name still has it */
    char stop[300];
    snprintf(stop, sizeof stop, "%s --stop_after_steps %d", more, best + 1);
    CHECK_INT(train("b", stop), 130);
    CHECK_INT(steps_of(test_path("b/x.safetensors")), best);
    snprintf(stop, sizeof stop, "%s --resume", more);
    CHECK_INT(train("b", stop), 0);
    CHECK_INT((int)number_after(out, "Stopped at step "), end);
    CHECK(fixture_same_file(test_path("a/x.safetensors"), test_path("b/x.safetensors")));
}

/* The kept weights have a row of samples, and the other strengths are theirs. */
TEST(auto_draws_what_it_keeps)
{
    Err e = {0};
    char name[80], *report;
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    CHECK_OK(io_write_file(test_path("prompts.txt"), "a cat --s 2 --d 5\n", 18, &e), &e);
    char more[900];
    for (int every = 1; every <= 39; every += 38) {
        snprintf(more, sizeof more,
                 "--auto --validate_every_n_steps 1 --max_train_steps 40 --learning_rate 0.3 "
                 "--train_batch_size 2 --sample_every_n_steps %d --sample_strengths 1 "
                 "--sample_prompts %s", every, test_path("prompts.txt"));
        CHECK_INT(train(every == 1 ? "each" : "a", more), 0);
    }
    int best = (int)number_after(out, "lowest at step ");
    snprintf(name, sizeof name, "a/sample/x_%06d_00_5.png", best);
    CHECK(fixture_same_file(test_path(name), test_path("a/sample/x_s1.00_00_5.png")));
    snprintf(name, sizeof name, "each/sample/x_%06d_00_5.png",
             best); /* drawn when the run was there */
    CHECK(fixture_same_file(test_path(name), test_path("a/sample/x_s1.00_00_5.png")));
    CHECK_OK(io_read_text(&report, NULL, test_path("a/x-report.html"), 1 << 22, &e), &e);
    snprintf(name, sizeof name, "step %d (kept)", best);
    CHECK(strstr(report, name));
    mem_free(report);
    /* without it, the last weights have a row, too */
    snprintf(name, sizeof name, "%s",
             "--sample_every_n_steps 4 --max_train_steps 5 --sample_at_first");
    snprintf(more, sizeof more, "--learning_rate 0.3 --train_batch_size 2 %s --sample_prompts %s",
             name, test_path("prompts.txt"));
    CHECK_INT(train("b", more), 0);
    CHECK_OK(io_read_text(&report, NULL, test_path("b/x.jsonl"), 1 << 20, &e), &e);
    const char *near = strstr(report, "samples/distance_to_nearest_picture");
    CHECK(near && strstr(near + 1, "samples/distance") && number_after(near, "\": ") > 0);
    mem_free(report);
    CHECK_INT(io_exists(test_path("b/sample/x_000005_00_5.png")),
              1); /* the end, between two rows */
    CHECK(!fixture_same_file(test_path("b/sample/x_000005_00_5.png"),
                             test_path("b/sample/x_000004_00_5.png")));
}

/* So it is for whole models and for embeddings, whose kept weights are read back. */
TEST(auto_draws_what_it_keeps_of_all_kinds)
{
    Err e = {0};
    static const char *const kinds[] = {
        "--full --learning_rate 3e-2",
        "--ti --token_string zq --use_style_template --num_vectors_per_token 4 --learning_rate 0.3 "
        "--seed 6"};
    char more[900], at[2][80];
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    CHECK_OK(io_write_file(test_path("prompts.txt"), "a zq --s 2 --d 5\n", 17, &e), &e);
    for (int i = 0; i < 2; i++) {
        int best = 0;
        for (int every = 1; every <= 2; every++) {
            char *to = at[every - 1];
            snprintf(more, sizeof more,
                     "%s --auto --validate_every_n_steps 1 --max_train_steps 2 --train_batch_size "
                     "2 --sample_every_n_steps %d --sample_prompts %s",
                     kinds[i], every, test_path("prompts.txt"));
            snprintf(to, sizeof at[0], "%d%d", i, every);
            CHECK_INT(train(to, more), 0);
            best = (int)number_after(out, " after step ");
            snprintf(to, sizeof at[0], "%d%d/sample/x_%06d_00_5.png", i, every, best);
        }
        CHECK_INT(best, 1);                  /* a step after which there is no row otherwise */
        CHECK(fixture_same_file(test_path(at[0]), test_path(at[1])));
    }
}

/* Latents of 2x1 pixels: (mean, log variance) of four channels each. */
TEST(samples_are_measured_by_the_nearest_picture)
{
    Finetune f = {0};
    DataItem it[4] = {0};
    float a[16] = {0}, b[16] = {0}, c[16] = {0}, far[16] = {0}, x[8] = {0}, *moments[8] = {0};
    Dataset ds = {.items = it, .item_count = 4};
    for (int i = 0; i < 4; i++) it[i].repeats = 1, it[i].fit.bucket = (BucketSize){16, 8};
    it[3].is_reg = 1;
    for (int i = 0; i < 16; i++)
        a[i] = i % 8 < 4 ? 1 : 50, b[i] = i % 8 < 4 ? 3 : -50, c[i] = i % 8 < 4 ? 9 : 0;
    moments[0] = a, moments[2] = b, moments[4] = c, moments[6] = far;
    f.ds = &ds;
    f.moments = moments;
    CHECK_NEAR(near_scale(&f, 2, 1), (2 + 2 + 6) / 3., 1e-6);
    for (int i = 0; i < 8; i++) x[i] = i < 4 ? 4 : 2;                  /* from b: 1 and -1 */
    CHECK_NEAR(near_distance(&f, x, 2, 1), 1, 1e-6);
    CHECK_NEAR(near_distance(&f, (float[8]){9, 9, 9, 9, 9, 9, 9, 9}, 2, 1), 0, 1e-6);
    moments[1] = far;                                                  /* a mirrored: zeros */
    CHECK_NEAR(near_distance(&f, (float[8]){0}, 2, 1), 0, 1e-6);
    CHECK(isnan(near_distance(&f, x, 1, 2)) && isnan(near_scale(&f, 1, 2)));
}

TEST(auto_explains_what_it_cannot_do)
{
    Err e = {0};
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    for (int i = 1; i < 4; i++) {
        char name[64];
        snprintf(name, sizeof name, "data/3_cat/p%d.png", i);
        CHECK_OK(io_remove(test_path(name), &e), &e);
    }
    CHECK_INT(train("a", "--auto"), 2);
    CHECK(strstr(err, "--validation_dir"));
    CHECK_INT(train("a", "--auto --train_vae"), 2);
    CHECK(strstr(err, "--auto"));
}

/* ---- sweeps ---------------------------------------------------------------------- */

static const char *const swept =
    "--validation_split 0.25 --max_train_epochs 2 --train_batch_size 2 "
    "--validate_every_n_steps 4 --save_state_every_n_steps 1";

static char *read_all(const char *path)
{
    char *text = NULL;
    Err e = {0};
    return io_read_text(&text, NULL, path, 1 << 20, &e) ? NULL : text;
}

TEST(sweep_runs_equal_single_runs_and_resume)
{
    Err e = {0};
    char more[1024], *table, *again;
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    snprintf(more, sizeof more, "%s --sweep 'lr=1e-4,1e-2 dim=2,4'", swept);
    CHECK_INT(train("s", more), 0);
    CHECK((table = read_all(test_path("s/x-sweep.txt"))));
    CHECK(strstr(table, "lr=1e-2 dim=4") && strstr(table, "stopped early"));
    mem_free(table);
    CHECK_INT(io_exists(test_path("s/x-sweep.png")), 1);
    /* the recommended run has ended; it again, alone, from its settings */
    int best = -1;
    for (int i = 1; i <= 4; i++) {
        char name[64];
        snprintf(name, sizeof name, "s/x-%02d.safetensors", i);
        if (io_exists(test_path(name)) == 1) best = i;
    }
    CHECK(best > 0);
    char args[1200], a[64], b[64];
    CHECK_OK(io_write_file(test_path("p.txt"), "a cat --s 2", 11, &e), &e);
    snprintf(args, sizeof args,
             "train --config_file %s/x-%02d.toml --output_dir %s --sample_prompts %s",
             test_path("s"), best, test_path("single"), test_path("p.txt"));
    CHECK_INT(test_sdc(args, out, err, sizeof out), 0);
    snprintf(a, sizeof a, "s/x-%02d.safetensors", best);
    snprintf(b, sizeof b, "single/x-%02d.safetensors", best);
    CHECK(fixture_same_file(test_path(a), test_path(b)));
    /* stopped in the middle of each run in turn, it comes to the same table and files */
    snprintf(more, sizeof more,
             "%s --sweep 'lr=1e-4,1e-2 dim=2,4' --stop_after_steps 2 --sample_prompts %s", swept,
             test_path("p.txt"));
    int rc = 130;
    for (int i = 0; i < 12 && rc == 130; i++) rc = train("t", more);
    CHECK_INT(rc, 0);
    table = read_all(test_path("s/x-sweep.txt"));
    again = read_all(test_path("t/x-sweep.txt"));
    int same = table && again && !strncmp(table, again, strcspn(table, "*"));
    mem_free(table);
    mem_free(again);
    CHECK(same);
    snprintf(b, sizeof b, "t/x-%02d.safetensors", best);
    CHECK(fixture_same_file(test_path(a), test_path(b)));
    snprintf(args, sizeof args, "train --config_file %s/x-best.toml --dry_run", test_path("s"));
    CHECK_INT(test_sdc(args, out, err, sizeof out), 0);
    /* another sweep under the same name */
    snprintf(more, sizeof more, "%s --sweep 'lr=1e-4,1e-3'", swept);
    CHECK_INT(train("t", more), 2);
    CHECK(strstr(err, "x-sweep.jsonl"));
}

/* The same command, killed after a while; whether it was. */
static int killed(const char *to, const char *more, unsigned ms)
{
    const char *bin = getenv("SDC_BIN");
    char cmd[3000];
    snprintf(cmd, sizeof cmd,
             "exec %s train -m %s -d %s -o %s --output_name x --resolution 64 --network_dim 4 "
             "--threads 2 --seed 5 --mixed_precision no --save_precision float %s >/dev/null 2>&1",
             bin ? bin : "./sdc", fixture_model(), test_path("data"), test_path(to), more);
    pid_t pid = fork();
    if (!pid) {
        execl("/bin/sh", "sh", "-c", cmd, (char *)NULL);
        _exit(127);
    }
    usleep(ms * 1000);
    kill(pid, SIGKILL);
    int status;
    waitpid(pid, &status, 0);
    return WIFSIGNALED(status);
}

TEST(sweep_survives_sigkill_at_any_moment)
{
    Err e = {0};
    char more[1024];
    int kills = 0;
    unsigned seed = 4242;
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    CHECK_OK(io_write_file(test_path("p.txt"), "a cat --s 2", 11, &e), &e);
    snprintf(more, sizeof more, "%s --sweep 'lr=1e-4,1e-2' --sample_prompts %s", swept,
             test_path("p.txt"));
    CHECK_INT(train("s", more), 0);
    for (int round = 0; round < 4; round++) {
        seed = seed * 1103515245u + 12345u;
        kills += killed("k", more, 200 + (seed >> 8) % 500);
    }
    CHECK(kills > 0);
    CHECK_INT(train("k", more), 0);
    char *table = read_all(test_path("s/x-sweep.txt")),
         *again = read_all(test_path("k/x-sweep.txt"));
    int same = table && again && !strncmp(table, again, strcspn(table, "*"));
    mem_free(table);
    mem_free(again);
    CHECK(same);
    for (int i = 1; i <= 2; i++) {
        char name[64], other[64];
        snprintf(name, sizeof name, "s/x-%02d.safetensors", i);
        snprintf(other, sizeof other, "k/x-%02d.safetensors", i);
        CHECK_INT(io_exists(test_path(other)), io_exists(test_path(name)));
        if (io_exists(test_path(name)) == 1)
            CHECK(fixture_same_file(test_path(name), test_path(other)));
    }
}

TEST(sweep_reads_lists_and_explains_its_errors)
{
    static const struct { const char *sweep, *want; } bad[] = {
        {"lr", "NAME=VALUE"}, {"lr=1e-4", "one run only"}, {"lr=1e-4,,2e-4", "empty value"}, {"frob=1,2", "frob"},
        {"lr=1e-4,1e-4", "twice"}, {"output_name=a,b", "must be the same"}, {"vae=a,b", "must be the same"}, {"full_fp16=a,b", "no option that can be varied"}};
    Err e = {0};
    char more[300];
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(more, sizeof more, "--sweep '%s'", bad[i].sweep);
        CHECK_INT(train("a", more), 2);
        if (!strstr(err, bad[i].want)) test_fail(__FILE__, __LINE__, "%s: %s", bad[i].sweep, err);
    }
    CHECK_INT(train("a", "--unet_lr 1e-4 --sweep lr=1e-4,1e-3"), 2);
    CHECK(strstr(err, "unet_lr"));
    const char *toml =
        "learning_rate = [1e-4, 3e-4]\nnetwork_dim = [2, 4, 8]\noptimizer_type = \"Lion\"\n";
    CHECK_OK(io_write_file(test_path("sweep.toml"), toml, strlen(toml), &e), &e);
    snprintf(more, sizeof more, "sweep %s -m m -d d --dry_run", test_path("sweep.toml"));
    CHECK_INT(test_sdc(more, out, err, sizeof out), 0);
    CHECK(strstr(out, "  1  learning_rate=0.0001 network_dim=2\n") &&
          strstr(out, "  6  learning_rate=3e-4 network_dim=8\n"));
}
