/* cmd_plan.c - `sdc plan`: what fits in a given memory, and how fast it is here:
 * resolution x batch, for pictures, a LoRA, and the whole model.
 *
 * Nothing is guessed: for every cell the graphs are built and planned as the run
 * itself would, without weights; seconds come from measured speeds (engine/cost.h).
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/mem.h"
#include "engine/train.h"
#include "models/denoise.h"
#include "models/pipeline.h"
#include "tools/cmd.h"
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

/* One cell. */
typedef struct {
    size_t bytes;              /* needed; 0: nothing fits */
    double seconds;            /* of a step */
    int again, cheap;          /* operations computed twice, and without need; pictures: in turn */
    int pieces;                /* pictures at a time */
} Cell;

typedef struct {
    const PlanOptions *o;
    ModelOptions mo;
    Speed speed;
    size_t budget;
} Planner;

typedef enum { PICTURE, LORA, FULL } Method;

/* ---- pictures ------------------------------------------------------------------ */

static int plan_picture(Planner *p, int side, Cell *c, Err *e)
{
    Model m;
    Tokenizer *tok;
    PipelineConfig pc = {.prompt = "a cat", .negative = "", .width = side, .height = side, .steps = 20,
                         .cfg_scale = 7, .rng = RNG_NV, .sampler = SAMPLER_DPMPP_2M};
    Pipeline *pipe = mem_calloc(1, sizeof *pipe);
    if (!pipe) return err_nomem(e, sizeof *pipe, "a pipeline");
    int rc = bpe_open(&tok, e);
    for (pc.swap = 0; !rc && !c->bytes && pc.swap < 2; pc.swap++) {
        rc = model_open(&m, &p->mo, e);
        if (rc) break;
        rc = pipeline_init(pipe, &m, tok, &pc, e);
        size_t bytes = rc ? 0 : pipeline_device_bytes(pipe) + memory_held(m.dev);
        if (!rc && !dev_own_memory(m.dev)) bytes += pipeline_bytes(pipe);
        if (!rc && bytes <= p->budget)
            *c = (Cell){bytes, cost_graph_seconds(&p->speed, pipe->unet[0].g), pc.swap, 0, 1};
        if (!rc) pipeline_free(pipe);
        model_close(&m);
    }
    bpe_close(tok);
    mem_free(pipe);
    return rc;
}

/* ---- training ------------------------------------------------------------------ */

/* A model ready for training graphs, and the optimizer's bytes once there is one. */
typedef struct { Model m; Lora lora; Schedule schedule; } Job;

static int open_job(Planner *p, Method method, Job *j, Err *e)
{
    *j = (Job){0};
    TRY(model_open(&j->m, &p->mo, e));
    ModelTraining t = {.full_unet = 1, .full_text = 1, .half = 1};
    LoraNew l = {.dim = p->o->network_dim, .unet = 1, .text = 1};
    if (method == LORA) {
        TRY(lora_new(&j->lora, &l, j->m.targets, j->m.target_count, e));
        t = (ModelTraining){.lora = &j->lora, .lora_unet = 1, .lora_text = 1};
    }
    model_train(&j->m, &t);
    schedule_init(&j->schedule);
    return 0;
}

static void close_job(Job *j)
{
    lora_close(&j->lora);
    model_close(&j->m);
}

static int optimizer_bytes(Job *j, size_t *bytes, Err *e)
{
    static const double lr[GROUP_COUNT] = {1e-5, 1e-5, 1e-5};
    TrainConfig c = {.lr = lr, .groups = GROUP_COUNT, .max_grad_norm = 1, .loss_window = 1};
    Trainer t = {0};
    c.sched = (LrSched){.kind = LRSCHED_CONSTANT, .total = 1, .cycles = 1, .power = 1};
    TRY(optim_parse(&c.optim, "AdamW8bit", NULL, e));
    int rc = train_init(&t, j->m.ps, &c, e);
    *bytes = train_bytes(&t);
    train_free(&t);
    return rc;
}

/* n pictures at a time; *room: bytes for activations, 0 before it is known. */
static int try_step(Planner *p, Job *j, int side, int n, size_t *fixed, Cell *c, int recompute, Err *e)
{
    DenoiseConfig dc = {.loss = LOSS_L2, .huber_c = 0.1f};
    Denoise d;
    j->m.slab = (Slab){.dev = j->m.dev};
    TRY(denoise_init(&d, &j->m, &j->schedule, &dc, n, side / 8, side / 8, 1, 0, 1, e));
    int rc = 0, cheap = d.exec.plan.again_nodes;
    if (!*fixed) {
        ParamBytes w = params_part(j->m.ps, NULL);
        size_t state = 0;
        rc = optimizer_bytes(j, &state, e);
        *fixed = w.frozen + w.trained + w.gradients + state + memory_held(j->m.dev);
    }
    size_t fixed_all = *fixed + d.exec.plan.scratch_bytes;
    size_t room = p->budget > fixed_all ? p->budget - fixed_all : 0;
    if (!rc && recompute) rc = exec_fit(&d.exec, room, e);
    const Plan *plan = &d.exec.plan;
    if (!rc && plan->slab_bytes <= room)
        *c = (Cell){fixed_all + plan->slab_bytes, cost_graph_seconds(&p->speed, d.exec.g), plan->again_nodes, cheap, n};
    denoise_free(&d);
    return rc;
}

/* As `sdc train` fits a run: pieces of the batch first, then recomputing; the whole
 * model cannot be trained in pieces. */
static int plan_training(Planner *p, Method method, int side, int batch, Cell *c, Err *e)
{
    Job j;
    size_t fixed = 0;
    int rc = open_job(p, method, &j, e), n = batch;
    for (; !rc && !c->bytes && method == LORA && n > 1; n = (n + 1) / 2) rc = try_step(p, &j, side, n, &fixed, c, 0, e);
    if (!rc && !c->bytes) rc = try_step(p, &j, side, n, &fixed, c, 1, e);
    c->seconds *= c->pieces ? ceil((double)batch / c->pieces) : 0;
    close_job(&j);
    return rc;
}

/* ---- the table ------------------------------------------------------------------ */

static void print_cell(const Cell *c, int batch, Method method)
{
    char need[24], how[40] = "";
    if (!c->bytes) {
        printf("  %-30s", "does not fit");
        return;
    }
    memory_text(need, sizeof need, c->bytes);
    if (method == PICTURE) snprintf(how, sizeof how, c->again ? ", in turn" : "");
    else if (c->pieces < batch) snprintf(how, sizeof how, ", %d at a time", c->pieces);
    else if (c->again > c->cheap) snprintf(how, sizeof how, ", recomputing");
    printf("  %7s %6.2f s%-14s", need, c->seconds, how);
}

static int print_rows(Planner *p, const char *name, Method method, Err *e)
{
    static const int sides[] = {512, 640, 768, 1024}, batches[] = {1, 2, 4};
    int columns = method == PICTURE ? 1 : 3;
    printf("\n%s\n           ", name);
    for (int k = 0; k < columns; k++) printf("  batch %-24d", batches[k]);
    printf("\n");
    for (int i = 0; i < 4; i++) {
        printf("%4dx%-4d  ", sides[i], sides[i]);
        for (int k = 0; k < columns; k++) {
            Cell c = {0};
            TRY(method == PICTURE ? plan_picture(p, sides[i], &c, e)
                                  : plan_training(p, method, sides[i], batches[k], &c, e));
            print_cell(&c, batches[k], method);
        }
        printf("\n");
    }
    return 0;
}

static int measure(Planner *p, Err *e)
{
    Model m;
    TRY(model_open(&m, &p->mo, e));
    p->budget = memory_default(m.dev) + memory_held(m.dev);
    int rc = p->o->ram ? memory_size(&p->budget, "ram", p->o->ram, e) : 0;
    if (!rc) rc = cost_measure(&p->speed, m.dev, &m.ops, m.dtype, model_storage(&m), e);
    char have[32];
    if (!rc) printf("%s, %s, %s\n", dev_name(m.dev), model_precision(&m),
                    memory_text(have, sizeof have, p->budget));
    model_close(&m);
    return rc;
}

static int run(const PlanOptions *o, Err *e)
{
    char device[64], lora[80];
    SdConfig config;
    Planner p = {.o = o};
    TRY(config_from_json(&config, SD15_CONFIG, "SD 1.5", e));
    machine_device(device, sizeof device, o->device);
    p.mo = (ModelOptions){.path = o->model, .device = device, .threads = o->threads,
                          .config = o->model ? NULL : &config};
    TRY(model_dtype(&p.mo, o->dtype ? o->dtype : machine_fast_bf16(device, o->threads) ? "bf16" : "f32", e));
    TRY(measure(&p, e));
    snprintf(lora, sizeof lora, "train a LoRA of rank %d, AdamW8bit: seconds of a step", o->network_dim);
    TRY(print_rows(&p, "pictures: seconds of a sampling step with guidance", PICTURE, e));
    TRY(print_rows(&p, lora, LORA, e));
    return print_rows(&p, "train all of it (--full --full_bf16), AdamW8bit: seconds of a step", FULL, e);
}

int cmd_plan(int argc, char **argv, Err *e)
{
    PlanOptions o = {.network_dim = 32};
    Options opt = {.table = table, .count = sizeof table / sizeof *table, .fields = &o, .command = "sdc plan",
                   .summary = "what fits in a given memory, and how fast it would be"};
    int help = 0, rc = options_parse(&opt, argc, argv, &help, e);
    if (!rc && help) options_help(&opt, stdout);
    else if (!rc) rc = run(&o, e);
    options_free(&opt);
    return rc;
}
