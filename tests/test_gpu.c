/* test_gpu.c - the pocket model on a GPU, real or emulated, against the processor.
 * Nothing where SDC_TEST_DEVICE names no GPU. */
#include <stdlib.h>

#include "engine/image.h"
#include "engine/io.h"
#include "engine/tensorfile.h"
#include "tests/fixture.h"
#include "tests/kern.h"
#include "tests/test.h"

#define POCKET "models/pocket/pocket.safetensors"

static char err[8192], args[4096];

static int is_gpu(void) { return strncmp(kern_device(), "cpu", 3) != 0; }

/* An emulator runs the threads of a block in the order of this seed: bits must not
 * depend on it. A real GPU takes what order it likes. */
static void other_order(int on)
{
    static char before[32];
    const char *now = getenv("SDC_EMU_SEED");
    if (on) snprintf(before, sizeof before, "%s", now ? now : "");
    if (on) setenv("SDC_EMU_SEED", "77", 1);
    else if (*before) setenv("SDC_EMU_SEED", before, 1);
    else unsetenv("SDC_EMU_SEED");
}

/* ---- sampling ------------------------------------------------------------ */

static int sample(const char *name, const char *more)
{
    snprintf(args, sizeof args, "sample -m " POCKET " -o %s -W 64 -H 64 --steps 3 --seed 7 "
             "--dtype f32 -p \"a cat\" %s", test_path(name), more);
    int rc = test_sdc(args, NULL, err, sizeof err);
    if (rc) test_fail(__FILE__, __LINE__, "exit %d: %s", rc, err);
    return rc;
}

/* One evaluation of a network differs by 2e-5 (test_graph.c: some 300 roundings in a
 * row); guidance of 7 multiplies that by up to 13, three steps and the decoder add
 * up: 1e-3 of 255 is a quarter of a level, and rounding makes one of it. */
TEST(gpu_samples_what_the_processor_does)
{
    if (!is_gpu()) return;
    if (sample("a.png", "") || sample("cpu.png", "--device cpu")) return;
    other_order(1);
    int rc = sample("b.png", "");
    other_order(0);
    CHECK(!rc && fixture_same_file(test_path("a.png"), test_path("b.png")));
    CHECK(fixture_distance(test_path("a.png"), test_path("cpu.png")) <= 1);
}

/* ---- training ------------------------------------------------------------ */

/* SGD: the result is as continuous in the gradients as can be. */
static int train(const char *name, const char *more)
{
    snprintf(args, sizeof args,
             "train -m " POCKET " -d %s -o %s --output_name x --resolution 64 "
             "--network_dim 4 --seed 5 --max_train_steps 3 --optimizer_type SGD --learning_rate 1 "
             "--mixed_precision no --save_precision float %s",
             test_path("data"), test_path(name), more);
    int rc = test_sdc(args, NULL, err, sizeof err);
    if (rc) test_fail(__FILE__, __LINE__, "exit %d: %s", rc, err);
    return rc;
}

/* All values of the tensors whose name contains `part`, one after another (free). */
static float *values(const char *file, const char *part, size_t *n, Err *e)
{
    TensorFile *f;
    float *v = NULL;
    *n = 0;
    if (tensorfile_open(&f, file, e)) return NULL;
    for (size_t i = 0; i < tensorfile_count(f); i++) {
        const FileTensor *t = tensorfile_at(f, i);
        if (!strstr(t->name, part)) continue;
        v = realloc(v, (*n + (size_t)t->count) * sizeof *v);
        if (tensorfile_read_f32(f, t, 0, t->count, v + *n, e)) break;
        *n += (size_t)t->count;
    }
    tensorfile_close(f);
    return v;
}

/* |a - b| / |b|, 1 when they cannot be compared. */
static double gap(const char *a, const char *b, const char *part)
{
    Err e = {0};
    size_t n, m;
    float *x = values(test_path(a), part, &n, &e), *y = values(test_path(b), part, &m, &e);
    double diff = 0, norm = 0;
    for (size_t i = 0; x && y && i < n && n == m; i++) {
        diff += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        norm += (double)y[i] * (double)y[i];
    }
    free(x), free(y);
    return norm > 0 ? sqrt(diff / norm) : 1;
}

/* The up factors start at 0, so they are three gradients, each within 2e-5 but for
 * what the steps before it moved; the pictures' latents are off by as much. */
TEST(gpu_trains_what_the_processor_does)
{
    Err e = {0};
    if (!is_gpu()) return;
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    if (train("a", "") || train("cpu", "--device cpu")) return;
    other_order(1);
    int rc = train("b", "");
    other_order(0);
    CHECK(!rc && fixture_same_file(test_path("a/x.safetensors"), test_path("b/x.safetensors")));
    CHECK_NEAR(gap("a/x.safetensors", "cpu/x.safetensors", "lora_up"), 0, 6e-5);
    CHECK_NEAR(gap("a/x.safetensors", "cpu/x.safetensors", "lora_down"), 0, 2e-5);
}

/* ---- what goes wrong ----------------------------------------------------- */

static int is_emulated(void)
{
    char text[400];
    return is_gpu() && dev_describe(0, text, sizeof text) && strstr(text, "CUDA on a CPU");
}

/* The exit code of a short sampling run with one variable set. */
static int sample_with(const char *name, const char *value, const char *more)
{
    setenv(name, value, 1);
    snprintf(args, sizeof args, "sample -m %s -o %s -W 64 -H 64 --steps 1 --dtype f32 -p cat %s",
             fixture_model(), test_path("x.png"), more);
    int rc = test_sdc(args, NULL, err, sizeof err);
    unsetenv(name);
    return rc;
}

/* A kernel that ends with an error, as after an illegal access, which is found later. */
TEST(gpu_failure_names_the_layer)
{
    if (!is_emulated()) return;
    CHECK_INT(sample_with("SDC_EMU_FAIL", "time_embed_kernel", ""), 1);
    CHECK(strstr(err, "cuda:0 (") && strstr(err, "failed in or before layer"));
    CHECK(strstr(err, "illegal memory access"));
    CHECK(strstr(err, "; with --trace it says which"));
    CHECK_INT(io_exists(test_path("x.png")), 0);
    CHECK_INT(sample_with("SDC_EMU_FAIL", "time_embed_kernel", "--trace"), 1);
    CHECK(strstr(err, "failed in layer") && strstr(err, "(time_embed)"));
}

TEST(gpu_that_is_not_there_is_told)
{
    if (!is_emulated()) return;
    CHECK_INT(sample_with("SDC_EMU_DEVICES", "0", ""), 2);
    CHECK(strstr(err, "option --device: no GPU can be used here: "));
    CHECK_INT(sample_with("SDC_EMU_DEVICES", "0", "--device auto"), 0);
    CHECK(strstr(err, "device     cpu (") &&
          strstr(err, "; no GPU can be used here: no CUDA-capable"));
    CHECK_INT(sample_with("SDC_EMU_DEVICES", "-1", "--device auto"), 0);
    CHECK(strstr(err, "; no GPU can be used here: there is no driver), f32"));
    CHECK_INT(sample_with("SDC_EMU_SM", "61", ""), 2);
    CHECK(strstr(err, "(sm_61) is too old, sm_75 or later is needed"));
}
