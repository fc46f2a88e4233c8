/* cmd_doctor.c - `sdc doctor`: what this machine has, and which jobs fit; `sdc doctor
 * DIR`: what is wrong with a folder of training pictures (doctor_data.c).
 *
 * What a job needs is not guessed: its graphs are built and planned as the job itself
 * would, for a model of the size of SD 1.5, without weights.
 */
#include <stdio.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "engine/mem.h"
#include "engine/train.h"
#include "models/denoise.h"
#include "models/pipeline.h"
#include "models/vae.h"
#include "tools/cmd.h"
#include "tools/doctor.h"
#include "tools/machine.h"
#include "tools/options.h"
#include "tools/sd15.h"

typedef struct {
    char *device, *sheet;
    int threads, resolution;
    OptionList rest;
} DoctorOptions;

#define AT(field) offsetof(DoctorOptions, field)
static const Option table[] = {
    {"device", 0, OPT_TEXT, AT(device), 0, 0, "NAME", "where to run: " DEV_NAMES, NULL},
    {"threads", 't', OPT_INT, AT(threads), 0, 1024, "N", "0: all cores (0)", NULL},
    {"resolution", 0, OPT_INT, AT(resolution), 64, 4096, "N",
     "DIR: of the training (512); a multiple of 64", NULL},
    {"sheet", 0, OPT_TEXT, AT(sheet), 0, 0, "FILE.png",
     "DIR: all pictures as they will be cropped", NULL},
};

enum { SIDE = 512, RANK = 32 };

typedef struct {
    const char *name;
    int train, full;
    const char *optimizer;
} Job;

static const Job jobs[] = {
    {"sample, 512x512", 0, 0, NULL},
    {"train a LoRA of rank 32, 512x512, batch 1, AdamW8bit", 1, 0, "AdamW8bit"},
    {"train all of it, 512x512, batch 1, AdamW8bit", 1, 1, "AdamW8bit"},
};

/* ---- what a job needs --------------------------------------------------------- */

static int plan_sample(Model *m, size_t *bytes, Err *e)
{
    PipelineConfig c = {.prompt = "a cat", .negative = "", .width = SIDE, .height = SIDE,
                        .steps = 20, .cfg_scale = 7, .rng = RNG_NV};
    TRY(sampler_find(&c.sampler, &c.schedule, "dpm++2m", e));
    Tokenizer *tok;
    TRY(bpe_open(&tok, e));
    Pipeline *p = mem_alloc(sizeof *p);
    int rc = p ? pipeline_init(p, m, tok, &c, e) : err_nomem(e, sizeof *p, "a pipeline");
    if (!rc) *bytes = model_bytes(m) + pipeline_bytes(p);
    if (!rc) pipeline_free(p);
    mem_free(p);
    bpe_close(tok);
    return rc;
}

/* The step, the encoder that makes latents of pictures, the optimizer. */
static int plan_step(Model *m, const Job *j, Denoise *d, Exec *encoder, Trainer *t, Err *e)
{
    static const double lr[GROUP_COUNT] = {1e-5, 1e-5, 1e-5};
    DenoiseConfig dc = {.loss = LOSS_L2, .huber_c = 0.1f};
    Schedule schedule;                     /* nothing runs */
    schedule_init(&schedule);
    TRY(denoise_init(d, m, &schedule, &dc, 1, SIDE / 8, SIDE / 8, 1, 0, 1, e));
    Build b = model_graph(m);
    if (b.g) {
        Tensor *image = graph_input(b.g, "image", DT_F32, 4, (int[]){1, SIDE, SIDE, 3});
        graph_output(b.g, vae_encode_build(&b, &m->ck->config, image), "moments");
    }
    TRY(model_plan(m, encoder, &b, e));
    TrainConfig tc = {.lr = lr, .groups = GROUP_COUNT, .max_grad_norm = 1, .loss_window = 1};
    tc.sched = (LrSched){.kind = LRSCHED_CONSTANT, .total = 1, .cycles = 1, .power = 1};
    TRY(optim_parse(&tc.optim, j->optimizer, NULL, e));
    return train_init(t, m->ps, &tc, e);
}

static int plan_train(Model *m, const Job *j, size_t *bytes, Err *e)
{
    Lora lora = {0};
    Denoise d = {0};
    Exec encoder = {0};
    Trainer t = {0};
    ModelTraining mt = {.full_unet = j->full, .full_text = j->full};
    LoraNew l = {.dim = RANK, .unet = 1, .text = 1};
    int rc = 0;
    if (!j->full) {
        rc = lora_new(&lora, &l, m->targets, m->target_count, e);
        mt = (ModelTraining){.lora = &lora, .lora_unet = 1, .lora_text = 1};
    }
    if (!rc) {
        model_train(m, &mt);
        rc = plan_step(m, j, &d, &encoder, &t, e);
    }
    if (!rc) *bytes = model_bytes(m) + train_bytes(&t);
    train_free(&t);
    denoise_free(&d);
    exec_free(&encoder);
    lora_close(&lora);
    return rc;
}

static int plan_job(const ModelOptions *mo, const Job *j, size_t *bytes, Err *e)
{
    Model m;
    TRY(model_open(&m, mo, e));
    int rc = j->train ? plan_train(&m, j, bytes, e) : plan_sample(&m, bytes, e);
    model_close(&m);
    return rc;
}

/* ---- the report ----------------------------------------------------------------- */

static double gigabytes(double bytes) { return bytes / (1 << 30); }

static void print_machine(const Dev *d)
{
    double page = (double)sysconf(_SC_PAGESIZE), all = page * (double)sysconf(_SC_PHYS_PAGES);
    printf("device      %s%s\n", dev_name(d), dev_fast_bf16(d) ? ", fast in bf16" : "");
    char gpu[400];
    for (int i = 0; dev_describe(i, gpu, sizeof gpu); i++) printf("gpu         %s\n", gpu);
    printf("cores       %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    Dev *host = NULL;                              /* the machine's memory, whatever d is */
    if (dev_own_memory(d)) dev_open(&host, "cpu", 1, ~0u);
    double left = (double)dev_memory_free(host ? host : d);
    printf("memory      %.1f GB free of %.1f GB\n", gigabytes(left), gigabytes(all));
    dev_close(host);
    struct statvfs v;
    if (!statvfs(".", &v)) {
        double disk = (double)v.f_bavail * (double)v.f_frsize;
        printf("disk        %.1f GB free here\n", gigabytes(disk));
    }
#ifdef SDC_WEBP
    printf("pictures    PNG, JPEG, BMP, WebP\n");
#else
    printf("pictures    PNG, JPEG, BMP; no WebP: libwebp was not there when sdc was built\n");
#endif
}

static int run(const DoctorOptions *o, Err *e)
{
    char device[64];
    SdConfig config;
    Dev *d;
    TRY(config_from_json(&config, SD15_CONFIG, "SD 1.5", e));
    machine_device(device, sizeof device, o->device);
    if (dev_open(&d, device, o->threads, ~0u)) {
        char why[300];
        dev_why(device, why, sizeof why);
        return err_set(e, ERR_USAGE, "option --device: %s", why);
    }
    print_machine(d);
    double free_bytes = (double)dev_memory_free(d);
    ModelOptions mo = {.device = device, .threads = o->threads, .config = &config,
                       .dtype = dev_fast_bf16(d) ? DT_BF16 : DT_F32};
    dev_close(d);
    printf("\nwith SD 1.5 in %-41s  memory  fits\n", model_dtype_name(mo.dtype));
    for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++) {
        size_t bytes = 0;
        TRY(plan_job(&mo, &jobs[i], &bytes, e));
        printf("%-56s %5.1f GB  %s\n", jobs[i].name, gigabytes((double)bytes),
               (double)bytes < free_bytes ? "yes" : "no");
    }
    return 0;
}

int cmd_doctor(int argc, char **argv, Err *e)
{
    DoctorOptions o = {.resolution = 512};
    Options opt = {.table = table, .count = sizeof table / sizeof *table, .fields = &o,
                   .command = "sdc doctor [DIR]", .rest = &o.rest,
                   .summary = "what this machine has, and which jobs fit; or, of a folder of "
                              "training pictures, what is wrong with it"};
    int help = 0, rc = options_parse(&opt, argc, argv, &help, e);
    if (!rc && help) options_help(&opt, stdout);
    else if (!rc && o.rest.count > 1)
        rc = err_set(e, ERR_USAGE, "%s: one folder at a time", o.rest.item[1]);
    else if (!rc && o.rest.count) {
        DoctorData d = {.dir = o.rest.item[0], .resolution = o.resolution, .sheet = o.sheet};
        rc = doctor_data(&d, e);
    } else if (!rc) rc = run(&o, e);
    options_free(&opt);
    return rc;
}
