/* jobs.c - see jobs.h. */
#include "tools/jobs.h"

#include <math.h>

#include "engine/mem.h"
#include "engine/train.h"
#include "models/denoise.h"
#include "models/pipeline.h"
#include "tools/memory.h"

/* ---- pictures ------------------------------------------------------------------ */

static int try_picture(JobPlan *c, const JobMachine *jm, const Job *j, const Tokenizer *tok,
                       int swap, Err *e)
{
    Model m;
    PipelineConfig pc = {.prompt = "a cat",
                         .negative = "",
                         .width = j->side,
                         .height = j->side,
                         .steps = 20,
                         .cfg_scale = 7,
                         .rng = RNG_NV,
                         .sampler = SAMPLER_DPMPP_2M,
                         .swap = swap};
    Pipeline *pipe = mem_calloc(1, sizeof *pipe);
    int rc = pipe ? model_open(&m, &jm->model, e) : err_nomem(e, sizeof *pipe, "a pipeline");
    if (!rc) {
        rc = pipeline_init(pipe, &m, tok, &pc, e);
        size_t bytes = rc ? 0 : pipeline_device_bytes(pipe) + memory_held(m.dev);
        if (!rc && !dev_own_memory(m.dev)) bytes += pipeline_bytes(pipe);
        if (!rc && bytes <= jm->budget)
            *c = (JobPlan){bytes, cost_graph_seconds(&jm->speed, pipe->unet[0].g), 0, 0, swap, 1};
        if (!rc) pipeline_free(pipe);
        model_close(&m);
    }
    mem_free(pipe);
    return rc;
}

static int plan_picture(JobPlan *c, const JobMachine *jm, const Job *j, Err *e)
{
    Tokenizer *tok;
    TRY(bpe_open(&tok, e));
    int rc = 0;
    for (int swap = 0; !rc && !c->bytes && swap < 2; swap++)
        rc = try_picture(c, jm, j, tok, swap, e);
    bpe_close(tok);
    return rc;
}

/* ---- training ------------------------------------------------------------------ */

/* A model ready for training graphs. */
typedef struct {
    Model m;
    Lora lora;
    Schedule schedule;
    size_t fixed;              /* all but activations; 0 before the first graph */
} Training;

static int open_training(Training *t, const JobMachine *jm, const Job *j, Err *e)
{
    *t = (Training){0};
    TRY(model_open(&t->m, &jm->model, e));
    ModelTraining mt = {.full_unet = 1, .full_text = 1, .half = 1};
    LoraNew l = {.dim = j->rank, .unet = 1, .text = 1};
    int rc = j->kind == JOB_LORA ? lora_new(&t->lora, &l, t->m.targets, t->m.target_count, e) : 0;
    if (j->kind == JOB_LORA) mt = (ModelTraining){.lora = &t->lora, .lora_unet = 1, .lora_text = 1};
    model_train(&t->m, &mt);
    schedule_init(&t->schedule);
    return rc;
}

static void close_training(Training *t)
{
    lora_close(&t->lora);
    model_close(&t->m);
}

static int optimizer_bytes(Training *j, size_t *bytes, Err *e)
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

/* What is there besides the graph. */
static int fixed_bytes(Training *t, Err *e)
{
    ParamBytes w = params_part(t->m.ps, NULL);
    size_t state = 0;
    TRY(optimizer_bytes(t, &state, e));
    mem_trim();                            /* what other jobs were planned with is no part of it */
    t->fixed = w.frozen + w.trained + w.gradients + state + memory_held_later(t->m.dev, &t->lora);
    return 0;
}

/* n pictures at a time. */
static int try_step(JobPlan *c, const JobMachine *jm, Training *t, int side, int n, int recompute,
                    Err *e)
{
    DenoiseConfig dc = {.loss = LOSS_L2, .huber_c = 0.1f};
    Denoise d;
    t->m.slab = (Slab){.dev = t->m.dev};
    TRY(denoise_init(&d, &t->m, &t->schedule, &dc, n, side / 8, side / 8, 1, 0, 1, e));
    int rc = t->fixed ? 0 : fixed_bytes(t, e), cheap = d.exec.plan.again_nodes;
    size_t fixed = t->fixed, room = jm->budget > fixed ? jm->budget - fixed : 0;
    if (!rc && recompute) rc = exec_fit(&d.exec, room, e);
    const Plan *plan = &d.exec.plan;
    if (!rc && plan->slab_bytes <= room)
        *c = (JobPlan){fixed + plan->slab_bytes, cost_graph_seconds(&jm->speed, d.exec.g), plan->again_nodes, cheap,
                       0, n};
    denoise_free(&d);
    return rc;
}

/* As `sdc train` fits a run: pieces of the batch first, then recomputing; the whole
 * model cannot be trained in pieces. */
static int plan_training(JobPlan *c, const JobMachine *jm, const Job *j, Err *e)
{
    Training t;
    int rc = open_training(&t, jm, j, e), n = j->batch;
    for (; !rc && !c->bytes && j->kind == JOB_LORA && n > 1; n = (n + 1) / 2)
        rc = try_step(c, jm, &t, j->side, n, 0, e);
    if (!rc && !c->bytes) rc = try_step(c, jm, &t, j->side, n, 1, e);
    c->seconds *= c->pieces ? ceil((double)j->batch / c->pieces) : 0;
    close_training(&t);
    return rc;
}

int job_plan(JobPlan *c, const JobMachine *m, const Job *j, Err *e)
{
    *c = (JobPlan){0};
    return j->kind == JOB_PICTURE ? plan_picture(c, m, j, e) : plan_training(c, m, j, e);
}
