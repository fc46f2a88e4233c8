/* test_pipeline.c - models/pipeline.h where the command line does not reach. */
#include <stdlib.h>

#include "models/pipeline.h"
#include "tests/fail.h"
#include "tests/fixture.h"
#include "tests/kern.h"
#include "tests/test.h"

static const PipelineConfig small = {
    .prompt = "a cat", .negative = "dog", .width = 64, .height = 64, .steps = 2,
    .cfg_scale = 7, .sampler = SAMPLER_EULER_A, .rng = RNG_NV};

TEST(pipeline_survives_no_memory)
{
    Tokenizer *tok;
    Err e = {0};
    int failures = 0, done = 0;
    CHECK_OK(bpe_open(&tok, &e), &e);
    for (long n = 1; !done && n < 100000; n += 1 + n / 3) {
        Model m;
        Pipeline p = {0};
        Err e2 = {0};
        ModelOptions o = {.path = fixture_model(), .threads = 1, .device = kern_device()};
        CHECK_OK(model_open(&m, &o, &e), &e);
        fail_mem(n);
        int rc = pipeline_init(&p, &m, tok, &small, &e2);
        fail_mem(0);
        done = !rc;
        failures += rc == ERR_MEMORY;
        if (rc && rc != ERR_MEMORY) test_fail(__FILE__, __LINE__, "allocation %ld: %s", n, e2.msg);
        pipeline_free(&p);
        model_close(&m);
    }
    bpe_close(tok);
    CHECK(done && failures > 10);
}

/* Two pipelines share a model and its memory: neither disturbs the other. */
static int two(Model *m, const Tokenizer *tok, Pipeline *p, Image *im, Err *e)
{
    PipelineConfig other = small;
    other.prompt = "another prompt";
    other.width = 128;
    TRY(pipeline_init(&p[0], m, tok, &small, e));
    TRY(pipeline_init(&p[1], m, tok, &other, e));
    TRY(model_load(m, e));
    for (int i = 0; i < 3; i++) TRY(image_new(&im[i], i == 1 ? 128 : 64, 64, 3, e));
    TRY(pipeline_run(&p[0], 5, &im[0], e));
    TRY(pipeline_run(&p[1], 5, &im[1], e));
    return pipeline_run(&p[0], 5, &im[2], e);
}

TEST(pipelines_share_a_model)
{
    static Pipeline p[2];
    Tokenizer *tok;
    Model m;
    Image im[3] = {{0}};
    Err e = {0};
    ModelOptions o = {.path = fixture_model(), .threads = 1, .device = kern_device()};
    CHECK_OK(bpe_open(&tok, &e), &e);
    CHECK_OK(model_open(&m, &o, &e), &e);
    int rc = two(&m, tok, p, im, &e);
    int equal = !rc && !memcmp(im[0].px, im[2].px, 64 * 64 * 3);
    for (int i = 0; i < 3; i++) image_free(&im[i]);
    pipeline_free(&p[0]);
    pipeline_free(&p[1]);
    bpe_close(tok);
    model_close(&m);
    CHECK_OK(rc, &e);
    CHECK(equal);
}

/* ---- a model under training ------------------------------------------------ */

/* A LoRA of both networks that changes the picture. */
static int make_lora(Lora *lo, const Model *m, Err *e)
{
    LoraNew c = {.dim = 2, .unet = 1, .text = 1, .seed = 3};
    TRY(lora_new(lo, &c, m->targets, m->target_count, e));
    for (size_t i = 0; i < lo->count; i++)
        rng_normal((RngKey){3, 0, (uint32_t)i, 99}, 0, lo->list[i].up,
                   (size_t)(lo->list[i].target->out * lo->list[i].rank));
    return 0;
}

/* how 0: no LoRA; 1: merged; 2: under training; 3: the same, after its factors
 * of the text encoder were set to zero. */
static int picture(Image *im, int how, const char *lora, const Tokenizer *tok, Err *e)
{
    static Pipeline p;
    Model m;
    Lora lo = {0};
    char spec[300];
    snprintf(spec, sizeof spec, "%s", lora);
    ModelOptions o = {.path = fixture_model(), .threads = 1, .device = kern_device(),
                      .lora = (char *[]){spec}, .lora_count = how == 1};
    TRY(model_open(&m, &o, e));
    int rc = make_lora(&lo, &m, e);
    if (!rc && how == 0) rc = lora_save(lora, lo.list, lo.count, FD_F32, NULL, 0, e);
    ModelTraining t = {.lora = &lo, .lora_unet = 1, .lora_text = 1};
    if (how > 1) model_train(&m, &t);
    if (!rc) rc = pipeline_init(&p, &m, tok, &small, e);
    if (!rc) rc = model_load(&m, e);
    if (!rc) rc = pipeline_run(&p, 5, im, e);
    for (size_t i = 0; !rc && how == 3 && i < m.ps->count; i++) {
        Param *w = m.ps->list[i];
        static float zero[2 * 64 * 4];
        if (strncmp(w->name, "text_encoder.", 13) || !strstr(w->name, ".lora_up.")) continue;
        rc = w->count <= sizeof zero / sizeof *zero ? params_set(m.ps, w, zero, e) : ERR_FAIL;
    }
    if (!rc && how == 3) rc = pipeline_encode(&p, e);
    if (!rc && how == 3) rc = pipeline_run(&p, 5, im, e);
    pipeline_free(&p);
    lora_close(&lo);
    model_close(&m);
    return rc;
}

static int far(const Image *a, const Image *b)
{
    int most = 0;
    for (int i = 0; i < 64 * 64 * 3; i++)
        if (abs(a->px[i] - b->px[i]) > most) most = abs(a->px[i] - b->px[i]);
    return most;
}

TEST(pipeline_of_a_model_under_training)
{
    Tokenizer *tok;
    Image im[4] = {{0}};
    Err e = {0};
    char lora[300];
    snprintf(lora, sizeof lora, "%s/x.safetensors", test_dir());
    CHECK_OK(bpe_open(&tok, &e), &e);
    int rc = 0, d[4] = {0};
    for (int i = 0; !rc && i < 4; i++) {
        rc = image_new(&im[i], 64, 64, 3, &e);
        if (!rc) rc = picture(&im[i], i, lora, tok, &e);
        d[i] = rc ? 0 : far(&im[i], &im[i > 1 ? 1 : 0]);
    }
    for (int i = 0; i < 4; i++) image_free(&im[i]);
    bpe_close(tok);
    CHECK_OK(rc, &e);
    CHECK(d[1] > 8);               /* the LoRA shows */
    CHECK(d[2] <= 2);              /* under training it acts as when merged */
    CHECK(d[3] > 2);               /* weights of the moment, in the text encoder, too */
}
