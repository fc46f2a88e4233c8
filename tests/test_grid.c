/* test_grid.c - `sdc grid`: each picture is the one of `sdc sample`. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/image.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "tests/fixture.h"
#include "tests/test.h"

static char out[8192], err[8192], args[4096];

static int grid(const char *more)
{
    snprintf(args, sizeof args, "grid -m %s -o %s -W 64 -H 64 --steps 2 --seed 7 --threads 1 %s",
             fixture_model(), test_path("g.png"), more);
    return test_sdc(args, out, err, sizeof out);
}

static int sample(const char *to, const char *more)
{
    snprintf(args, sizeof args, "sample -m %s -o %s -W 64 -H 64 --steps 2 --seed 7 --threads 1 %s",
             fixture_model(), test_path(to), more);
    return test_sdc(args, out, err, sizeof out);
}

/* Whether the sheet has the picture's pixels with its corner there. */
static int has_at(const Image *sheet, const Image *im, int x, int y)
{
    for (int j = 0; j < im->h; j++)
        if (memcmp(sheet->px + ((size_t)(y + j) * (size_t)sheet->w + (size_t)x) * 3,
                   im->px + (size_t)j * (size_t)im->w * 3, (size_t)im->w * 3)) return 0;
    return 1;
}

/* ... anywhere. */
static int has(const char *sheet_name, const char *name)
{
    Image sheet = {0}, im = {0};
    int found = 0;
    if (!image_load(&sheet, test_path(sheet_name), NULL) && !image_load(&im, test_path(name), NULL))
        for (int y = 0; y + im.h <= sheet.h && !found; y++)
            for (int x = 0; x + im.w <= sheet.w && !found; x++) found = has_at(&sheet, &im, x, y);
    image_free(&sheet);
    image_free(&im);
    return found;
}

/* Trains nothing: a LoRA of random weights comes from a run at an absurd rate. */
static int make_loras(void)
{
    Err e = {0};
    if (fixture_data(test_path("data"), &e)) return -1;
    snprintf(args, sizeof args,
             "train -m %s -d %s -o %s --output_name x --resolution 64 --network_dim 2 --threads 1 "
             "--seed 5 --learning_rate 0.3 --max_train_epochs 2 --train_batch_size 4 "
             "--save_every_n_epochs 1", fixture_model(), test_path("data"), test_path("lora"));
    return test_sdc(args, out, err, sizeof out);
}

typedef struct { int cell; const char *options; } Want;

/* Cells of the grid that was made with --save_cells, as files and on the sheet. */
#define CHECK_CELLS(want)                                                                        \
    for (size_t i_ = 0; i_ < sizeof(want) / sizeof *(want); i_++) {                              \
        char cell_[32];                                                                          \
        snprintf(cell_, sizeof cell_, "g-%d.png", (want)[i_].cell);                              \
        CHECK_INT(sample("s.png", (want)[i_].options), 0);                                       \
        if (!fixture_same_file(test_path("s.png"), test_path(cell_)) || !has("g.png", "s.png")) {              \
            test_fail(__FILE__, __LINE__, "cell %d is not: %s", (want)[i_].cell, (want)[i_].options); \
            return;                                                                              \
        }                                                                                        \
    }

TEST(grid_cells_are_pictures_of_sample)
{
    static const Want want[] = {
        {1, "-p 'a cat' --steps 2 --cfg_scale 1"}, {2, "-p 'a cat' --steps 4 --cfg_scale 1"},
        {4, "-p 'a cat' --steps 4 --cfg_scale 5.5"}, {7, "-p 'a dog' --steps 2 --cfg_scale 5.5"},
    };
    CHECK_INT(grid("-p 'a cat' --x 'Steps: 2-4 (+2)' --y 'cfg: 1,5.5' --z 'Prompt S/R: cat, dog' "
                   "--save_cells"), 0);
    CHECK_CELLS(want);
    static const Want other[] = {
        {1, "-p 'a cat' --sampler euler_a -H 72"},
        {4, "-p 'a cat' --sampler heun --schedule exponential -H 72"},
        {5, "-p 'a cat' --sampler euler_a -W 72"},
    };
    CHECK_INT(grid("-p 'a cat' --x 'sampler: euler_a, heun' --y 'schedule type: automatic, "
                   "exponential' --z 'size: 64x72,72x64' --save_cells"), 0);
    CHECK_CELLS(other);
}

TEST(grid_changes_loras_in_place)
{
    char more[2048], second[700], third[700], last[700];
    CHECK_INT(make_loras(), 0);
    snprintf(more, sizeof more,
             "-p 'a cat' --lora %s --x 'lora_strength: 0, 0.5-1[2]' --y 'lora_epoch: 1,last' "
             "--save_cells", test_path("lora/x.safetensors"));
    CHECK_INT(grid(more), 0);
    snprintf(second, sizeof second, "-p 'a cat' --lora %s:0.5",
             test_path("lora/x-000001.safetensors"));
    snprintf(third, sizeof third, "-p 'a cat' --lora %s:1", test_path("lora/x-000001.safetensors"));
    snprintf(last, sizeof last, "-p 'a cat' --lora %s:0.5", test_path("lora/x.safetensors"));
    const Want want[] = {{2, second}, {3, third}, {5, last}};
    CHECK_CELLS(want);
    CHECK(!fixture_same_file(test_path("g-2.png"), test_path("g-5.png")));
    /* in tags, by name; from none to one and back */
    static const Want without[] = {{1, "-p 'a  cat' --dtype int8"}}, after[] = {{2, "-p 'a  cat'"}};
    snprintf(more, sizeof more,
             "-p 'a <lora:x:1> cat' --lora_dir %s --x 'lora: none, x-000001:0.3' --save_cells "
             "--dtype int8",
             test_path("lora"));
    CHECK_INT(grid(more), 0);
    snprintf(second, sizeof second, "-p 'a <lora:x-000001:0.3> cat' --lora_dir %s --dtype int8",
             test_path("lora"));
    CHECK(strstr(err, "LoRA: none | LoRA: x epoch 1:0.3\n"));
    const Want tags[] = {{2, second}};
    CHECK_CELLS(without);
    CHECK_CELLS(tags);
    snprintf(more, sizeof more,
             "-p 'a <lora:x:1> cat' --lora_dir %s --x 'lora: x, none' --save_cells",
             test_path("lora"));
    CHECK_INT(grid(more), 0);
    CHECK_CELLS(after);
}

TEST(grid_repeats_from_its_own_text)
{
    CHECK_INT(grid("-p 'a cat, sitting <hypernet:a:1>' --x 'seed: -1,3' "
                   "--y 'Prompt S/R: \"cat, sitting\", \"dog\"'"), 0);
    const char *note = strstr(err, "note: <hypernet:a:1>");
    CHECK(note && !strstr(note + 1, "note: "));          /* once, not for every picture */
    CHECK_INT(rename(test_path("g.png"), test_path("first.png")), 0);
    snprintf(args, sizeof args, "grid -m %s --from_png %s -o %s --threads 1", fixture_model(),
             test_path("first.png"), test_path("g.png"));
    CHECK_INT(test_sdc(args, out, err, sizeof out), 0);
    CHECK(!strstr(err, "cannot be repeated"));
    CHECK(has("g.png", "first.png"));
    CHECK_INT(sample("s.png", "-p 'a dog' --seed 3"), 0);
    CHECK(has("g.png", "s.png"));
}

TEST(grid_refuses_bad_axes)
{
    static const struct { const char *axis, *said; } bad[] = {
        {"colour: 1", "there is no axis \"colour\""}, {"steps", "is not NAME: VALUE"},
        {"steps: 0", "between 1 and 1000"}, {"steps: ,", "has no values"}, {"cfg: 4-12(-1)", "step does not lead"},
        {"cfg: 1-2[0]", "is not a count"}, {"seed: 1-1000000", "more than 1000"}, {"size: 64", "is not a size"},
        {"size: 64x65", "multiple of 8"}, {"sampler: eular", "unknown sampler"},
        {"prompt_sr: dog, cat", "\"dog\" is not in the prompt"}, {"lora_strength: 1", "there is no LoRA"},
        {"lora_strength a b: 1", "no LoRA a b"}, {"lora: none-such.safetensors", "none-such.safetensors"},
        {"lora_epoch: 1.5", "is not an epoch"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char more[300];
        snprintf(more, sizeof more, "-p 'a cat' --y '%s'", bad[i].axis);
        int rc = grid(more);
        if ((rc != 2 && rc != 3) || !strstr(err, bad[i].said) || io_exists(test_path("g.png")))
            test_fail(__FILE__, __LINE__, "%s: exit %d, %s", bad[i].axis, rc, err);
    }
    CHECK_INT(grid("-p 'a cat'"), 2);
    CHECK(strstr(err, "no axis"));
    CHECK_INT(grid("-p 'a cat' --x 'seed: 1-200' --y 'steps: 1-200'"), 2);
    CHECK_INT(grid("-p 'a cat' --lora a.safetensors --lora b.safetensors --x 'lora_strength: 1,2'"),
              2);
    CHECK(strstr(err, "several LoRAs"));
    CHECK_INT(grid("-p 'a cat' --x 'seed: 1,2' --ram 1M"), 5);
}

/* What is drawn when a signal comes is on the sheet. */
TEST(grid_keeps_what_is_drawn)
{
    const char *bin = getenv("SDC_BIN");
    char cmd[2000];
    snprintf(cmd, sizeof cmd,
             "exec %s grid -m %s -p x -W 64 -H 64 --threads 1 --steps 20 -x 'seed: 1-100' "
             "--save_cells -o %s >/dev/null 2>&1",
             bin ? bin : "./sdc", fixture_model(), test_path("g.png"));
    pid_t pid = fork();
    if (!pid) {
        execl("/bin/sh", "sh", "-c", cmd, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 3000 && !io_exists(test_path("g-1.png")); i++) usleep(20000);
    kill(pid, SIGTERM);
    int st;
    waitpid(pid, &st, 0);
    CHECK(WIFEXITED(st));
    CHECK_INT(WEXITSTATUS(st), 143);
    CHECK(has("g.png", "g-1.png"));
    CHECK(!io_exists(test_path("g-100.png")));
}
