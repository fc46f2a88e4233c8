/* cmd_bench.c - `sdc bench sample|vae|train`: seconds of one step, and peak memory;
 * `sdc bench ops`: of each op (bench_ops.h).
 *
 *   sample  one sampler step with guidance: the U-Net on a batch of 2, 77 tokens
 *   vae     decoding one latent
 *   train   one LoRA step: batch 1, rank 32, U-Net and text encoder, AdamW:
 *           forward, backward, update; latents given
 * One run to warm up, then --repeat counted ones.
 */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "engine/mem.h"
#include "engine/rng.h"
#include "engine/train.h"
#include "models/denoise.h"
#include "models/unet.h"
#include "models/vae.h"
#include "tools/bench_ops.h"
#include "tools/cmd.h"
#include "tools/machine.h"
#include "tools/options.h"

enum { REPEAT_MAX = 1000, TOKENS = 77, RANK = 32 };

typedef struct {
    char *model, *dtype, *device;
    int width, height, repeat, threads, json;
} BenchOptions;

#define AT(field) offsetof(BenchOptions, field)

static const Option bench_options[] = {
    {"model", 'm', OPT_TEXT, AT(model), 0, 0, "FILE", "checkpoint or diffusers folder", NULL},
    {"width", 'W', OPT_INT, AT(width), 64, 8192, "N", "of the picture (512)", NULL},
    {"height", 'H', OPT_INT, AT(height), 64, 8192, "N", "of the picture (512)", NULL},
    {"dtype", 0, OPT_TEXT, AT(dtype), 0, 0, "TYPE", "f32, bf16, f16 or int8 (bf16)", NULL},
    {"repeat", 0, OPT_INT, AT(repeat), 1, REPEAT_MAX, "N", "counted runs (3)", NULL},
    {"device", 0, OPT_TEXT, AT(device), 0, 0, "NAME", "where to run: " DEV_NAMES, NULL},
    {"threads", 't', OPT_INT, AT(threads), 0, 1024, "N", "0: all cores", NULL},
    {"json", 0, OPT_FLAG, AT(json), 0, 0, NULL, "one JSON object on stdout (ops: one a line)", NULL},
};

/* What is timed. */
typedef struct {
    const BenchOptions *o;
    Model m;
    Exec exec;                 /* sample, vae */
    Schedule schedule;         /* train: */
    Lora lora;
    Denoise d;
    Trainer t;
    float *latents, *noise;
    int32_t ids[TOKENS];
    double seconds[REPEAT_MAX];
    size_t left;               /* of the device's memory, before the job */
} Bench;

/* Fills an f32 input with unit gaussians. */
static int set_noise(Bench *b, const char *name, size_t count, Err *e)
{
    float *v = mem_alloc(count * sizeof(float));
    if (!v) return err_nomem(e, count * 4, name);
    rng_normal((RngKey){1, 0, 0, RNG_PURPOSE_NOISE}, 0, v, count);
    int rc = exec_set(&b->exec, name, v, count, e);
    mem_free(v);
    return rc;
}

static int init_sample(Bench *b, Err *e)
{
    const SdConfig *c = &b->m.ck->config;
    Build g = model_graph(&b->m);
    if (!g.g) return err_nomem(e, sizeof *g.g, "the graph");
    Tensor *x = graph_input(g.g, "sample", DT_F32, 4,
                            (int[]){2, b->o->height / 8, b->o->width / 8, c->in_channels});
    Tensor *t = graph_input(g.g, "timestep", DT_F32, 1, (int[]){2});
    Tensor *ctx = graph_input(g.g, "context", DT_F32, 3, (int[]){2, TOKENS, c->text_width});
    graph_output(g.g, unet_build(&g, c, x, t, ctx), "output");
    TRY(model_plan(&b->m, &b->exec, &g, e));
    TRY(model_load(&b->m, e));
    TRY(set_noise(b, "sample", tensor_count(x), e));
    TRY(set_noise(b, "context", tensor_count(ctx), e));
    return exec_set(&b->exec, "timestep", (float[]){500, 500}, 2, e);
}

static int init_vae(Bench *b, Err *e)
{
    Build g = model_graph(&b->m);
    if (!g.g) return err_nomem(e, sizeof *g.g, "the graph");
    Tensor *x = graph_input(g.g, "latents", DT_F32, 4,
                            (int[]){1, b->o->height / 8, b->o->width / 8, SD_LATENT});
    graph_output(g.g, vae_decode_build(&g, &b->m.ck->config, x), "image");
    TRY(model_plan(&b->m, &b->exec, &g, e));
    TRY(model_load(&b->m, e));
    return set_noise(b, "latents", tensor_count(x), e);
}

static int init_train(Bench *b, Err *e)
{
    int h = b->o->height / 8, w = b->o->width / 8;
    size_t count = (size_t)h * (size_t)w * SD_LATENT;
    LoraNew n = {.dim = RANK, .alpha = RANK, .unet = 1, .text = 1, .seed = 1};
    TRY(lora_new(&b->lora, &n, b->m.targets, b->m.target_count, e));
    ModelTraining t = {.lora = &b->lora, .lora_unet = 1, .lora_text = 1};
    model_train(&b->m, &t);
    schedule_init(&b->schedule);
    DenoiseConfig c = {.huber_c = 0.1f, .v_pred = b->m.ck->config.v_prediction};
    TRY(denoise_init(&b->d, &b->m, &b->schedule, &c, 1, h, w, 1, 0, 1, e));
    double lr[GROUP_COUNT] = {1e-4, 1e-4, 1e-4};
    TrainConfig tc = {.lr = lr,
                      .groups = GROUP_COUNT,
                      .sched = {.total = 1 << 30, .cycles = 1, .power = 1, .lr = 1e-4},
                      .max_grad_norm = 1};
    TRY(optim_parse(&tc.optim, "AdamW", NULL, e));
    TRY(train_init(&b->t, b->m.ps, &tc, e));
    TRY(model_load(&b->m, e));
    TRY(train_place(&b->t, e));
    b->latents = mem_alloc(count * sizeof(float));
    b->noise = mem_alloc(count * sizeof(float));
    if (!b->latents || !b->noise) return err_nomem(e, 2 * count * 4, "latents");
    rng_normal((RngKey){1, 0, 0, RNG_PURPOSE_LATENT}, 0, b->latents, count);
    rng_normal((RngKey){1, 0, 0, RNG_PURPOSE_NOISE}, 0, b->noise, count);
    for (int i = 0; i < TOKENS; i++) b->ids[i] = i * 7 % b->m.ck->config.vocab;
    return 0;
}

static int run_graph(Bench *b, Err *e)
{
    int rc = exec_run(&b->exec, e);
    dev_sync(b->m.dev);
    return rc;
}

/* TrainTask.run */
static int micro(void *ctx, uint32_t step, int index, float *loss, Err *e)
{
    Bench *b = ctx;
    int t = 500;
    (void)step, (void)index;
    DenoiseBatch in = {b->latents, b->noise, &t, b->ids, NULL, NULL, NULL, 0};
    return denoise_run(&b->d, &in, 1, loss, NULL, e);
}

static int run_train(Bench *b, Err *e)
{
    TrainTask task = {.run = micro, .ctx = b};
    b->t.end = b->t.step + 1;
    int rc = train_run(&b->t, &task, e);
    dev_sync(b->m.dev);
    return rc;
}

static const struct {
    const char *name;
    int (*init)(Bench *b, Err *e), (*run)(Bench *b, Err *e);
} benches[] = {{"sample", init_sample, run_graph},
               {"vae", init_vae, run_graph},
               {"train", init_train, run_train}};
enum { BENCHES = sizeof benches / sizeof *benches };

/* Of the process, or of the device where that has memory of its own. */
static size_t peak_bytes(const Bench *b)
{
    struct rusage u;
    size_t left = dev_memory_free(b->m.dev);
    if (dev_own_memory(b->m.dev)) return left < b->left ? b->left - left : 0;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (size_t)u.ru_maxrss * 1024 : 0;
}

static size_t planned(const Bench *b)
{
    ParamBytes w = params_part(b->m.ps, NULL);
    return w.frozen + w.trained + w.gradients + b->m.slab.bytes + b->t.state_bytes;
}

static void report(const Bench *b, const char *name)
{
    const BenchOptions *o = b->o;
    if (o->json) {
        printf("{\"bench\":\"%s\",\"seconds\":[", name);
        for (int i = 0; i < o->repeat; i++) printf("%s%.6f", i ? "," : "", b->seconds[i]);
        printf("],\"peak_bytes\":%zu,\"dtype\":\"%s\",\"device\":\"%s\"}\n", peak_bytes(b),
               model_precision(&b->m), dev_name(b->m.dev));
        return;
    }
    double best = b->seconds[0];
    for (int i = 1; i < o->repeat; i++)
        if (b->seconds[i] < best) best = b->seconds[i];
    printf("%s %dx%d %s on %s: best of %d %.3f s, peak memory %.0f MB (planned %.0f MB)\n", name,
           o->width, o->height, model_precision(&b->m), dev_name(b->m.dev), o->repeat, best,
           (double)peak_bytes(b) / (1 << 20), (double)planned(b) / (1 << 20));
}

static int bench(Bench *b, const char *name, Err *e)
{
    const BenchOptions *o = b->o;
    char device[64];
    size_t k = 0;
    while (k < BENCHES && strcmp(benches[k].name, name)) k++;
    if (k == BENCHES)
        return err_set(e, ERR_USAGE, "sdc bench: \"%s\" is not sample, vae, train or ops", name);
    if (!o->model) return err_set(e, ERR_USAGE, "option --model is missing");
    if (o->width % 64 || o->height % 64)
        return err_set(e, ERR_USAGE, "options --width and --height: multiples of 64 expected");
    ModelOptions mo = {.path = o->model,
                       .device = machine_device(device, sizeof device, o->device),
                       .threads = o->threads};
    TRY(model_dtype(&mo, o->dtype ? o->dtype : "bf16", e));
    TRY(model_open(&b->m, &mo, e));
    b->left = dev_memory_free(b->m.dev);
    TRY(benches[k].init(b, e));
    TRY(benches[k].run(b, e));                 /* warm-up */
    for (int i = 0; i < o->repeat; i++) {
        double start = machine_seconds();
        TRY(benches[k].run(b, e));
        b->seconds[i] = machine_seconds() - start;
    }
    report(b, name);
    return 0;
}

/* name: part of an op's name or shape, or NULL. */
static int run_ops(const BenchOptions *o, const char *name, Err *e)
{
    char device[64];
    ModelOptions mo = {0};
    TRY(model_dtype(&mo, o->dtype ? o->dtype : "bf16", e));
    BenchOps ops = {.device = machine_device(device, sizeof device, o->device),
                    .threads = o->threads,
                    .dtype = mo.dtype,
                    .int8 = mo.int8,
                    .only = name,
                    .json = o->json};
    return bench_ops(&ops, e);
}

static void close_bench(Bench *b)
{
    exec_free(&b->exec);
    train_free(&b->t);
    denoise_free(&b->d);
    lora_close(&b->lora);
    mem_free(b->latents);
    mem_free(b->noise);
    model_close(&b->m);
    mem_free(b);
}

int cmd_bench(int argc, char **argv, Err *e)
{
    BenchOptions o = {.width = 512, .height = 512, .repeat = 3};
    OptionList rest = {0};
    Options opt =
        {bench_options,
         sizeof bench_options / sizeof *bench_options,
         &o,
         "sdc bench",
         "time one step: sdc bench sample|vae|train --model FILE; or each op: sdc bench ops [NAME]",
         NULL,
         &rest};
    Bench *b = mem_calloc(1, sizeof *b);
    int help = 0,
        rc = b ? options_parse(&opt, argc, argv, &help, e) : err_nomem(e, sizeof *b, "the run");
    if (b) b->o = &o;
    if (!rc && help) options_help(&opt, stdout);
    else if (!rc && rest.count && !strcmp(rest.item[0], "ops") && rest.count <= 2)
        rc = run_ops(&o, rest.count > 1 ? rest.item[1] : NULL, e);
    else if (!rc && rest.count != 1)
        rc = err_set(e, ERR_USAGE, "sdc bench: one of sample, vae, train, ops is expected");
    else if (!rc) rc = bench(b, rest.item[0], e);
    if (b) close_bench(b);
    options_free(&opt);
    return rc;
}
