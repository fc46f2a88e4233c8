/* test_graph.c - graph, gradient, plan, exec: what holds for every model. */
#include <stdlib.h>

#include "engine/mem.h"
#include "engine/rng.h"
#include "models/denoise.h"
#include "models/unet.h"
#include "tests/fail.h"
#include "tests/kern.h"
#include "tests/test.h"

/* A micro model with random weights: everything a real one has, 32 channels. */
static const SdConfig micro = {
    .in_channels = 4, .unet_width = {32, 32, 32, 32}, .unet_heads = {8, 8, 8, 8}, .text_width = 64,
    .text_layers = 2, .text_heads = 1, .text_ff = 256, .vocab = 100, .vae_width = {32, 32, 32, 32}};

typedef struct {
    Model m;
    Schedule s;
    Lora lora;
    Denoise d;
    float latents[2 * 8 * 8 * 4], noise[2 * 8 * 8 * 4];
    int t[2];
    int32_t ids[2 * 77];
} Fixture;

/* A LoRA training graph of batch 2 on 8x8 latents, on a device (NULL: the one under
 * test); up factors are made random
 * so that every gradient is there. */
static int fixture(Fixture *f, int threads, const char *device, Err *e)
{
    memset(f, 0, sizeof *f);
    if (!device) device = kern_device();
    ModelOptions o = {.config = &micro, .threads = threads, .device = device, .seed = 3};
    TRY(model_open(&f->m, &o, e));
    LoraNew n =
        {.dim = 4, .conv_dim = 4, .alpha = 2, .conv_alpha = 2, .unet = 1, .text = 1, .seed = 5};
    TRY(lora_new(&f->lora, &n, f->m.targets, f->m.target_count, e));
    for (size_t i = 0; i < f->lora.count; i++) {
        LoraModule *lm = &f->lora.list[i];
        size_t count = (size_t)lm->rank * (size_t)lm->target->out;
        rng_normal((RngKey){7, 0, (uint32_t)i, 1}, 0, lm->up, count);
        for (size_t k = 0; k < count; k++) lm->up[k] *= 0.05f;
    }
    ModelTraining t = {.lora = &f->lora, .lora_unet = 1, .lora_text = 1};
    model_train(&f->m, &t);
    schedule_init(&f->s);
    DenoiseConfig c = {.huber_c = 0.1f};
    TRY(denoise_init(&f->d, &f->m, &f->s, &c, 2, 8, 8, 1, 0, 1, e));
    rng_normal((RngKey){1, 0, 0, 1}, 0, f->latents, 512);
    rng_normal((RngKey){1, 0, 1, 1}, 0, f->noise, 512);
    f->t[0] = 10, f->t[1] = 800;
    for (int i = 0; i < 154; i++) f->ids[i] = i % 100;
    return model_load(&f->m, e);
}

static void fixture_free(Fixture *f)
{
    denoise_free(&f->d);
    lora_close(&f->lora);
    model_close(&f->m);
}

static int run(Fixture *f, float *loss, Err *e)
{
    DenoiseBatch b = {f->latents, f->noise, f->t, f->ids, NULL, NULL, NULL, 0};
    params_zero_grad(f->m.ps);
    return denoise_run(&f->d, &b, 1, loss, NULL, e);
}

TEST(plan_gives_no_two_live_buffers_the_same_bytes)
{
    static Fixture f;
    Err e = {0};
    CHECK_OK(fixture(&f, 1, NULL, &e), &e);
    const Graph *g = f.d.exec.g;
    int bad = 0, shared = 0;
    for (int i = 0; i < g->tensor_count; i++) {
        const Tensor *a = g->tensors[i];
        if (a->param) continue;
        shared += a->buffer != a;
        if (a->buffer != a) continue;
        for (int k = 0; k < i; k++) {
            const Tensor *b = g->tensors[k];
            if (b->param || b->buffer != b || a->last < b->first || b->last < a->first) continue;
            bad +=
                a->offset < b->offset + tensor_bytes(b) && b->offset < a->offset + tensor_bytes(a);
        }
        bad += a->offset + tensor_bytes(a) > f.d.exec.plan.slab_bytes;
    }
    size_t slab = f.d.exec.plan.slab_bytes, peak = f.d.exec.plan.peak_bytes;
    fixture_free(&f);
    CHECK_INT(bad, 0);
    CHECK(shared > 50);                        /* in-place writing happens at all */
    CHECK(slab >= peak && slab <= peak + peak / 4);
}

TEST(exec_allocates_nothing)
{
    static Fixture f;
    Err e = {0};
    float loss;
    CHECK_OK(fixture(&f, 1, NULL, &e), &e);
    fail_mem(1);
    int rc = run(&f, &loss, &e);
    void *p = mem_alloc(1);                    /* the armed failure must still be there */
    fail_mem(0);
    mem_free(p);
    fixture_free(&f);
    CHECK_OK(rc, &e);
    CHECK(p == NULL);
}

/* Loss and all gradients, as one array. */
static float *all_gradients(int threads, const char *device, size_t *count, Err *e)
{
    static Fixture f;
    float loss, *v = NULL;
    if (fixture(&f, threads, device, e) || run(&f, &loss, e)) return NULL;
    *count = 1;
    for (size_t i = 0; i < f.m.ps->count; i++)
        if (f.m.ps->list[i]->grad) *count += f.m.ps->list[i]->count;
    v = malloc(*count * sizeof *v);
    v[0] = loss;
    for (size_t i = 0, at = 1; i < f.m.ps->count; i++) {
        const Param *p = f.m.ps->list[i];
        if (!p->grad) continue;
        if (params_read_grad(f.m.ps, p, v + at, e)) return NULL;
        at += p->count;
    }
    fixture_free(&f);
    return v;
}

TEST(gradients_do_not_depend_on_threads)
{
    Err e = {0};
    size_t n1, n;
    float *one = all_gradients(1, NULL, &n1, &e);
    CHECK(one != NULL);
    for (int threads = 2; threads <= 3; threads++) {
        float *v = all_gradients(threads, NULL, &n, &e);
        int same = v && n == n1 && !memcmp(v, one, n * sizeof *v);
        free(v);
        if (!same) free(one);
        CHECK(same);
    }
    free(one);
}

TEST(gradients_equal_the_reference)
{
    Err e = {0};
    size_t n1, n2;
    float *a = all_gradients(1, NULL, &n1, &e), *b = all_gradients(1, "cpu:ref", &n2, &e);
    CHECK(a && b);
    double diff = 0, norm = 0;
    for (size_t i = 0; i < n1; i++) {
        diff += (double)(a[i] - b[i]) * (a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    free(a);
    free(b);
    CHECK(n1 == n2 && norm > 0);
    /* some 300 roundings of 2^-24 in a row, growing as a random walk through a
     * network whose gain is of order 10 */
    CHECK(sqrt(diff / norm) < 2e-5);
}

/* The loss along a direction, by central differences in f32: checks that every
 * rule of grad.c is wired, on the whole network. */
TEST(gradient_is_the_slope_of_the_loss)
{
    static Fixture f;
    Err e = {0};
    float loss, l[2];
    CHECK_OK(fixture(&f, 2, NULL, &e), &e);
    CHECK_OK(run(&f, &loss, &e), &e);
    double slope = 0;
    const float step = 2e-3f;
    for (int side = -1; side < 2; side++) {             /* the slope, then both sides */
        for (size_t i = 0; i < f.m.ps->count; i++) {
            Param *p = f.m.ps->list[i];
            if (!p->grad) continue;
            float *v = malloc(p->count * sizeof *v), by = side > 0 ? -2 * step : step;
            CHECK_OK((side < 0 ? params_read_grad : params_read)(f.m.ps, p, v, &e), &e);
            for (size_t k = 0; k < p->count; k++)
                if (side < 0) slope += (k % 2 ? 1 : -1) * (double)v[k];
                else v[k] += k % 2 ? by : -by;
            if (side >= 0) CHECK_OK(params_set(f.m.ps, p, v, &e), &e);
            free(v);
        }
        if (side >= 0) CHECK_OK(run(&f, &l[side], &e), &e);
    }
    fixture_free(&f);
    double measured = ((double)l[0] - l[1]) / (2 * (double)step);
    CHECK_NEAR(measured, slope, 0.02 * fabs(slope) + 1e-4);
}

TEST(graph_errors_name_layer_and_shapes)
{
    Model m;
    Err e = {0};
    ModelOptions o = {.config = &micro};
    CHECK_OK(model_open(&m, &o, &e), &e);
    Build b = model_graph(&m);
    Tensor *x = graph_input(b.g, "sample", DT_F32, 4, (int[]){1, 8, 8, 4});
    Tensor *t = graph_input(b.g, "timestep", DT_F32, 1, (int[]){1});
    Tensor *c = graph_input(b.g, "context", DT_F32, 3, (int[]){1, 77, 63});
    graph_output(b.g, unet_build(&b, &micro, x, t, c), "y");
    Exec ex;
    int rc = model_plan(&m, &ex, &b, &e);
    exec_free(&ex);
    model_close(&m);
    CHECK_INT(rc, ERR_INPUT);
    CHECK(strstr(e.msg, "context") && strstr(e.msg, "63") && strstr(e.msg, "64"));
}

/* No memory at any point of building: an error, never a crash. */
TEST(graph_building_survives_lack_of_memory)
{
    int failures = 0;
    for (long n = 1; n < 4000; n += n < 40 ? 1 : 97) {
        Model m;
        Err e = {0};
        ModelOptions o = {.config = &micro, .threads = 1};
        fail_mem(n);
        int rc = model_open(&m, &o, &e);
        if (!rc) {
            Build b = model_graph(&m);
            Exec ex = {0};
            if (b.g) {
                Tensor *x = graph_input(b.g, "sample", DT_F32, 4, (int[]){1, 8, 8, 4});
                Tensor *t = graph_input(b.g, "timestep", DT_F32, 1, (int[]){1});
                Tensor *c = graph_input(b.g, "context", DT_F32, 3, (int[]){1, 77, 64});
                graph_output(b.g, unet_build(&b, &micro, x, t, c), "y");
                rc = model_plan(&m, &ex, &b, &e);
            } else {
                rc = ERR_MEMORY;
            }
            exec_free(&ex);
            model_close(&m);
        }
        fail_mem(0);
        failures += rc != 0;
        if (rc && rc != ERR_MEMORY) {
            test_fail(__FILE__, __LINE__, "allocation %ld: %d %s", n, rc, e.msg);
            return;
        }
    }
    CHECK(failures > 40);
}
