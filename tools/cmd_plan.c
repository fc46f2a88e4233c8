/* cmd_plan.c - `sdc plan`: what fits in a given memory, and how fast it is here:
 * resolution x batch, for pictures, a LoRA, and the whole model.
 */
#include <stdio.h>

#include "tools/cmd.h"
#include "tools/jobs.h"
#include "tools/machine.h"
#include "tools/memory.h"
#include "tools/options.h"
#include "tools/sd15.h"

typedef struct {
    char *model, *ram, *dtype, *device;
    int threads, network_dim;
} PlanOptions;

#define AT(field) offsetof(PlanOptions, field)
static const Option table[] = {
    {"model", 'm', OPT_TEXT, AT(model), 0, 0, "FILE", "checkpoint or diffusers folder (of the size of SD 1.5)", NULL},
    {"ram", 0, OPT_TEXT, AT(ram), 0, 0, "SIZE", "memory, such as 6G (what is free, less a reserve)", "vram"},
    {"device_memory", 0, OPT_TEXT, AT(ram), 0, 0, "SIZE", "the same, of a device that is not here", NULL},
    {"network_dim", 0, OPT_INT, AT(network_dim), 1, 4096, "N", "rank of the LoRA (32)", NULL},
    {"dtype", 0, OPT_TEXT, AT(dtype), 0, 0, "TYPE", "f32, bf16, f16 or int8 (bf16 where that is faster)", "type"},
    {"device", 0, OPT_TEXT, AT(device), 0, 0, "NAME", "where to run: " DEV_NAMES, NULL},
    {"threads", 't', OPT_INT, AT(threads), 0, 1024, "N", "0: all cores (0)", NULL},
};

/* By JobKind. */
static const char *const names[] =
    {"pictures: seconds of a sampling step with guidance",
     "train a LoRA of rank %d, AdamW8bit: seconds of a step",
     "train all of it (--full --full_bf16), AdamW8bit: seconds of a step"};

/* ---- the table ------------------------------------------------------------------ */

static void print_cell(const JobPlan *c, const Job *j)
{
    char need[24], how[40] = "";
    if (!c->bytes) {
        printf("  %-30s", "does not fit");
        return;
    }
    memory_text(need, sizeof need, c->bytes);
    if (c->swap) snprintf(how, sizeof how, ", in turn");
    else if (c->pieces < j->batch && j->kind != JOB_PICTURE)
        snprintf(how, sizeof how, ", %d at a time", c->pieces);
    else if (c->again > c->cheap) snprintf(how, sizeof how, ", recomputing");
    printf("  %7s %6.2f s%-14s", need, c->seconds, how);
}

static int print_rows(const JobMachine *m, JobKind kind, int rank, Err *e)
{
    static const int sides[] = {512, 640, 768, 1024}, batches[] = {1, 2, 4};
    int columns = kind == JOB_PICTURE ? 1 : 3;
    char name[80];
    snprintf(name, sizeof name, names[kind], rank);
    printf("\n%s\n           ", name);
    for (int k = 0; k < columns; k++) printf("  batch %-24d", batches[k]);
    printf("\n");
    for (int i = 0; i < 4; i++) {
        printf("%4dx%-4d  ", sides[i], sides[i]);
        for (int k = 0; k < columns; k++) {
            Job j = {kind, sides[i], batches[k], rank};
            JobPlan c;
            TRY(job_plan(&c, m, &j, e));
            print_cell(&c, &j);
        }
        printf("\n");
    }
    return 0;
}

static int measure(JobMachine *jm, const char *ram, Err *e)
{
    Model m;
    TRY(model_open(&m, &jm->model, e));
    jm->budget = memory_default(m.dev) + memory_held(m.dev);
    int rc = ram ? memory_size(&jm->budget, "ram", ram, e) : 0;
    if (!rc) rc = cost_measure(&jm->speed, m.dev, &m.ops, m.dtype, model_storage(&m), e);
    char have[32];
    if (!rc) printf("%s, %s, %s\n", dev_name(m.dev), model_precision(&m),
                    memory_text(have, sizeof have, jm->budget));
    model_close(&m);
    return rc;
}

static int run(const PlanOptions *o, Err *e)
{
    char device[64];
    SdConfig config;
    JobMachine m = {0};
    TRY(config_from_json(&config, SD15_CONFIG, "SD 1.5", e));
    machine_device(device, sizeof device, o->device);
    m.model = (ModelOptions){.path = o->model, .device = device, .threads = o->threads,
                             .config = o->model ? NULL : &config};
    TRY(model_dtype(&m.model,
                    o->dtype                                ? o->dtype
                    : machine_fast_bf16(device, o->threads) ? "bf16"
                                                            : "f32",
                    e));
    TRY(measure(&m, o->ram, e));
    for (JobKind k = JOB_PICTURE; k <= JOB_FULL; k++) TRY(print_rows(&m, k, o->network_dim, e));
    return 0;
}

int cmd_plan(int argc, char **argv, Err *e)
{
    PlanOptions o = {.network_dim = 32};
    Options opt = {.table = table,
                   .count = sizeof table / sizeof *table,
                   .fields = &o,
                   .command = "sdc plan",
                   .summary = "what fits in a given memory, and how fast it would be"};
    int help = 0, rc = options_parse(&opt, argc, argv, &help, e);
    if (!rc && help) options_help(&opt, stdout);
    else if (!rc) rc = run(&o, e);
    options_free(&opt);
    return rc;
}
