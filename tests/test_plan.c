/* test_plan.c - memory plans: what is recomputed changes no bit; what is planned is used. */
#include <stdint.h>
#include <stdlib.h>

#include "engine/cost.h"
#include "engine/recompute.h"
#include "engine/rng.h"
#include "models/clip.h"
#include "models/model.h"
#include "models/unet.h"
#include "tests/kern.h"
#include "tests/test.h"

static const SdConfig micro = {
    .in_channels = 4, .unet_width = {32, 32, 32, 32}, .unet_heads = {8, 8, 8, 8}, .text_width = 64,
    .text_layers = 2, .text_heads = 1, .text_ff = 256, .vocab = 100, .vae_width = {32, 32, 32, 32}};

/* A training step of text encoder and U-Net, LoRA or whole, of one 16x16 latent. */
typedef struct {
    Model m;
    Lora lora;
    Exec x;
    Build b;
} Step;

enum { SIDE = 16, LATENTS = SIDE * SIDE * 4 };

/* What is trained; STREAMED: all of it, each gradient used up at once. */
enum { LORA, FULL, STREAMED };

static int step_build(Step *s, int kind, Err *e)
{
    int full = kind != LORA;
    memset(s, 0, sizeof *s);
    ModelOptions o = {.config = &micro,
                      .device = "cpu",
                      .threads = 2,
                      .seed = 3}; /* looks into the slab */
    TRY(model_open(&s->m, &o, e));
    LoraNew n =
        {.dim = 4, .conv_dim = 4, .alpha = 2, .conv_alpha = 2, .unet = 1, .text = 1, .seed = 5};
    TRY(lora_new(&s->lora, &n, s->m.targets, s->m.target_count, e));
    for (size_t i = 0; i < s->lora.count; i++) {       /* up factors that are not zero */
        LoraModule *lm = &s->lora.list[i];
        size_t count = (size_t)lm->rank * (size_t)lm->target->out;
        rng_normal((RngKey){7, 0, (uint32_t)i, 1}, 0, lm->up, count);
        for (size_t k = 0; k < count; k++) lm->up[k] *= 0.05f;
    }
    ModelTraining t = {.lora = full ? NULL : &s->lora, .lora_unet = !full, .lora_text = !full,
                       .full_unet = full, .full_text = full};
    model_train(&s->m, &t);
    if (kind == STREAMED) params_stream(s->m.ps, DT_F32);
    Build b = s->b = model_graph(&s->m);
    int map[4] = {1, SIDE, SIDE, 4}, one = 1;
    Tensor *x = graph_input(b.g, "x", DT_F32, 4, map),
           *target = graph_input(b.g, "target", DT_F32, 4, map);
    Tensor *time = graph_input(b.g, "t", DT_F32, 1, &one),
           *ids = graph_input_ids(b.g, "ids", 1, SD_POSITIONS);
    Tensor *weight = graph_input(b.g, "weight", DT_F32, 1, &one),
           *scale = graph_input(b.g, "scale", DT_F32, 1, &one);
    Tensor *pred = unet_build(&b, &micro, x, time, clip_build(&b, &micro, ids, 0));
    Tensor *loss = graph_loss(b.g, LOSS_L2, pred, target, NULL, weight, NULL, NULL);
    graph_output(b.g, loss, "loss");
    graph_grad(b.g, &loss, &scale, 1);
    s->x = (Exec){.g = b.g, .ops = &s->m.ops, .slab = &s->m.slab};
    s->m.slab.dev = s->m.dev;
    return 0;
}

static void step_free(Step *s)
{
    exec_free(&s->x);
    lora_close(&s->lora);
    model_close(&s->m);
}

/* Exec.update: keeps the gradient where step_run expects it. */
typedef struct { const Params *ps; float *values; int calls; } Keep;

static int keep_gradient(void *ctx, Param *p, float *grad, Err *e)
{
    Keep *k = ctx;
    size_t at = 1;
    (void)e;
    for (size_t i = 0; k->ps->list[i] != p; i++)
        if (k->ps->list[i]->trainable) at += k->ps->list[i]->count;
    memcpy(k->values + at, grad, p->count * sizeof *grad);
    memset(p->data, 0xFF, p->count * dtype_bytes(p->dt)); /* NaN: nobody may read it any more */
    k->calls++;
    return 0;
}

/* Fills the slab with byte `paint`, runs, and returns loss and gradients (free). */
static float *step_run(Step *s, int paint, size_t *count, Err *e)
{
    static float v[LATENTS];
    float one = 1, t = 321, *out = NULL;
    int32_t ids[SD_POSITIONS];
    for (int i = 0; i < SD_POSITIONS; i++) ids[i] = i * 3 % 100;
    memset(s->m.slab.base, paint, s->m.slab.bytes + 64);
    rng_normal((RngKey){1, 0, 0, 1}, 0, v, LATENTS);
    int rc = exec_set(&s->x, "x", v, LATENTS, e);
    rng_normal((RngKey){1, 0, 1, 1}, 0, v, LATENTS);
    if (!rc) rc = exec_set(&s->x, "target", v, LATENTS, e);
    if (!rc) rc = exec_set(&s->x, "t", &t, 1, e);
    if (!rc) rc = exec_set(&s->x, "weight", &one, 1, e);
    if (!rc) rc = exec_set(&s->x, "scale", &one, 1, e);
    if (!rc) rc = model_set_ids(&s->m, &s->x, "ids", ids, SD_POSITIONS, e);
    params_zero_grad(s->m.ps);
    *count = 1;
    for (size_t i = 0; i < s->m.ps->count; i++)
        if (s->m.ps->list[i]->trainable) *count += s->m.ps->list[i]->count;
    out = calloc(*count, sizeof *out);
    Keep keep = {s->m.ps, out, 0};
    s->x.update = keep_gradient;
    s->x.update_ctx = &keep;
    if (!rc) rc = exec_run(&s->x, e);
    if (rc) {
        free(out);
        return NULL;
    }
    exec_get(&s->x, "loss", out, 1, e);
    for (size_t i = 0, at = 1; i < s->m.ps->count; i++) {
        const Param *p = s->m.ps->list[i];
        if (!p->grad) continue;
        memcpy(out + at, p->grad, p->count * sizeof *out);
        at += p->count;
    }
    return out;
}

/* What a step plans and gives with a budget; 0: planned as it is, nothing recomputed. */
typedef struct { Plan plan; double seconds; float *values; size_t count; } Outcome;

static int outcome(Outcome *r, int kind, size_t budget, Err *e)
{
    static Step s;
    TRY(step_build(&s, kind, e));
    TRY(budget ? recompute_fit(&s.x.plan, s.x.g, budget, s.m.dev, &s.m.ops, e)
               : plan_make(&s.x.plan, s.x.g, s.m.dev, &s.m.ops, e));
    slab_want(&s.m.slab, &s.x.plan);
    TRY(model_load(&s.m, e));
    *r = (Outcome){.plan = s.x.plan, .seconds = cost_graph_seconds(&cost_nominal, s.x.g)};
    r->values = step_run(&s, 0xEE, &r->count, e);
    step_free(&s);
    return r->values ? 0 : ERR_FAIL;
}

static void recompute_keeps_bits(int kind, Err *e)
{
    Outcome all, r;
    CHECK_OK(outcome(&all, kind, 0, e), e);
    size_t last = all.plan.slab_bytes,
           budgets[] = {SIZE_MAX, last / 10 * 7, last / 2, last / 10 * 3, 1};
    size_t least = 0;
    CHECK_INT(all.plan.again_nodes, 0);
    double seconds = all.seconds;
    for (int i = 0; i < 5; i++) {
        CHECK_OK(outcome(&r, kind, budgets[i], e), e);
        int same = r.count == all.count && !memcmp(r.values, all.values, r.count * sizeof(float));
        free(r.values);
        CHECK(same);
        /* less memory, more work; what cannot be met may end anywhere */
        CHECK(r.plan.slab_bytes <= last || budgets[i] == 1);
        CHECK(r.seconds >= seconds);
        CHECK(r.plan.again_nodes > 0);
        if (budgets[i] >= all.plan.slab_bytes / 10 * 3) CHECK(r.plan.slab_bytes <= budgets[i]);
        last = r.plan.slab_bytes;
        least = r.plan.least_bytes;
        seconds = r.seconds;
    }
    free(all.values);
    size_t fixed = all.plan.scratch_bytes;             /* of one op: no plan has less */
    CHECK(last - fixed < (all.plan.slab_bytes - fixed) / 3);
    CHECK(seconds < 1.6 * all.seconds);                /* no more than the forward pass twice */
    CHECK_OK(outcome(&r, kind, least + least / 50, e), e);
    free(r.values);
    CHECK(r.plan.slab_bytes <= least + least / 50);    /* what is said to be possible is */
}

TEST(recompute_changes_no_bit_of_a_lora_step)
{
    Err e = {0};
    recompute_keeps_bits(LORA, &e);
}

TEST(recompute_changes_no_bit_of_a_full_step)
{
    Err e = {0};
    recompute_keeps_bits(FULL, &e);
}

/* Gradients that live from their first sum to their update are those of all kept. */
TEST(streamed_gradients_are_the_same)
{
    Err e = {0};
    Outcome all, r;
    CHECK_OK(outcome(&all, FULL, 0, &e), &e);
    for (int i = 0; i < 3; i++) {
        CHECK_OK(outcome(&r, STREAMED, i < 2 ? i ? SIZE_MAX : 0 : all.plan.slab_bytes / 2, &e), &e);
        int same = r.count == all.count && !memcmp(r.values, all.values, r.count * sizeof(float));
        free(r.values);
        CHECK(same);
    }
    free(all.values);
}

/* Painted with two different bytes, the last one that a run changed in either is the
 * last one that was planned (but for the alignment of the last buffer). */
TEST(what_is_planned_is_used_to_the_byte)
{
    for (int recomputed = 0; recomputed < 2; recomputed++) {
        static Step s;
        Err e = {0};
        size_t count, end[2] = {0};
        CHECK_OK(step_build(&s, LORA, &e), &e);
        CHECK_OK(recompute_fit(&s.x.plan, s.x.g, recomputed ? 1 : SIZE_MAX, s.m.dev, &s.m.ops, &e),
                 &e);
        slab_want(&s.m.slab, &s.x.plan);
        CHECK_OK(model_load(&s.m, &e), &e);
        for (int i = 0; i < 2; i++) {
            free(step_run(&s, i ? 0x55 : 0xAA, &count, &e));
            const unsigned char *b = s.m.slab.base;
            for (end[i] = s.m.slab.bytes + 64; end[i] && b[end[i] - 1] == (i ? 0x55 : 0xAA);)
                end[i]--;
        }
        size_t used = end[0] > end[1] ? end[0] : end[1], planned = s.x.plan.slab_bytes;
        step_free(&s);
        CHECK(used <= planned && planned - used < 64);
    }
}

/* ---- the table of tokens ---------------------------------------------------------- */

/* What the text encoder makes of ids: with the whole table, as when it is trained, or with
 * the rows of it that are asked for. */
static int encode_ids(const ModelOptions *o, int whole, const int32_t *ids, float *y,
                      size_t *weights, Err *e)
{
    Model m;
    Exec x;
    TRY(model_open(&m, o, e));
    ModelTraining t = {.full_text = whole, .half = whole && o->dtype == DT_BF16};
    model_train(&m, &t);
    const SdConfig *c = &m.ck->config;
    Build b = model_graph(&m);
    Tensor *in = graph_input_ids(b.g, "ids", 1, SD_POSITIONS);
    graph_output(b.g, clip_build(&b, c, in, 0), "y");
    int rc = model_plan(&m, &x, &b, e);
    ParamBytes p = params_part(m.ps, NULL);
    *weights = p.frozen + p.trained;
    if (!rc) rc = model_load(&m, e);
    if (!rc) rc = model_set_ids(&m, &x, "ids", ids, SD_POSITIONS, e);
    if (!rc) rc = exec_run(&x, e);
    if (!rc) rc = exec_get(&x, "y", y, SD_POSITIONS * (size_t)c->text_width, e);
    if (!rc && whole == (graph_find(x.g, CLIP_ROWS) != NULL))
        rc = err_set(e, ERR_FAIL, "not what was asked for");
    exec_free(&x);
    model_close(&m);
    return rc;
}

TEST(rows_of_the_table_of_tokens_are_as_good_as_all)
{
    static float all[SD_POSITIONS * 128], rows[SD_POSITIONS * 128];
    static const Dtype types[] = {DT_F32, DT_BF16};
    for (int i = 0; i < 4; i++) {                      /* from a file; random */
        Err e = {0};
        size_t with, without;
        ModelOptions o = {.path = i < 2 ? "models/pocket/pocket.safetensors" : NULL,
                          .config = &micro,
                          .device = kern_device(),
                          .threads = 2,
                          .dtype = types[i % 2],
                          .seed = 3};
        int last = i < 2 ? 49407 : micro.vocab - 1, width = i < 2 ? 128 : micro.text_width;
        int32_t ids[SD_POSITIONS] = {last - 1, 7, 0, 7, 1, last};
        for (int k = 6; k < SD_POSITIONS; k++) ids[k] = last;
        memset(rows, 0xFF, sizeof rows);
        CHECK_OK(encode_ids(&o, 1, ids, all, &with, &e), &e);
        CHECK_OK(encode_ids(&o, 0, ids, rows, &without, &e), &e);
        CHECK(!memcmp(all, rows, SD_POSITIONS * (size_t)width * sizeof(float)) && all[0] != 0);
        CHECK(with - without >= (size_t)last * (size_t)width * dtype_bytes(o.dtype));
        ids[3] = last + 1;
        CHECK_INT(encode_ids(&o, 0, ids, rows, &without, &e), ERR_INPUT);
        CHECK(strstr(e.msg, "token id"));
    }
}
