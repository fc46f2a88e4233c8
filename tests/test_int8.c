/* test_int8.c - weights in 8 bits (kernels/int8.h) from the conversion to pictures:
 * Params, merged LoRAs, a LoRA under training, and what pictures lose. The products
 * themselves are in test_gemm.c and test_conv.c. */
#include <math.h>
#include <stdlib.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "kernels/int8.h"
#include "models/pipeline.h"
#include "tests/fixture.h"
#include "tests/kern.h"
#include "tests/test.h"

static char out[8192], err[8192], args[2048];

/* The step of a row of n values. */
static float step_of(const float *row, size_t n)
{
    float most = 0;
    for (size_t i = 0; i < n; i++) most = fmaxf(most, fabsf(row[i]));
    return most / 127;
}

/* The largest difference between rows of n and their rounded values, in steps. */
static double steps_off(const float *want, const float *got, size_t rows, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < rows * n; i++) {
        double step = step_of(want + i / n * n, n), d = fabs((double)want[i] - (double)got[i]);
        if (!(d <= worst * step)) worst = step > 0 ? d / step : d > 0 ? INFINITY : NAN;
    }
    return worst;
}

TEST(int8_rounds_each_row_to_its_own_step)
{
    enum { ROWS = 32, TAPS = 9, C = 20, ROW = TAPS * C };
    static float w[ROWS * ROW], back[ROWS * ROW];
    static _Alignas(64) char packed[2 * (16 * ROW + 64 + 64 * TAPS)];
    KernRng r = {1};
    for (int i = 0; i < ROWS * ROW; i++) w[i] = (float)(kern_normal(&r) * exp(i / ROW - 16));
    memset(w + 3 * ROW, 0, ROW * sizeof *w);
    w[5 * ROW + 7] = NAN;
    w[6 * ROW + 7] = -INFINITY;
    CHECK_INT(i8_bytes(ROWS, TAPS, C), sizeof packed);
    i8_from_f32(packed, w, ROWS, TAPS, C);
    i8_to_f32(back, packed, ROWS, TAPS, C);
    for (int n = 0; n < ROWS; n++) {
        const float *row = w + n * ROW, *b = back + n * ROW;
        const float *scale = i8_scale(packed + n / 16 * i8_panel(TAPS, C), TAPS, C);
        if (n == 5 || n == 6) {
            CHECK(isnan(b[0]) && isnan(b[ROW - 1]));
            continue;
        }
        CHECK_NEAR(scale[n % 16], step_of(row, ROW), 1e-7 * scale[n % 16]);
        for (int i = 0; i < ROW; i++)                       /* half a step, and f32's rounding */
            CHECK(fabsf(row[i] - b[i]) <= 0.50001f * scale[n % 16]);
        for (int t = 0; t < TAPS; t++) {
            double sum = 0;
            for (int i = 0; i < C && n != 3; i++)
                sum += rint((double)b[t * C + i] / (double)scale[n % 16]);
            CHECK_NEAR(scale[16 + t * 16 + n % 16], sum, 0);
        }
    }
}

/* ---- Params -------------------------------------------------------------- */

static int not_kept(const char *name) { return strcmp(name, "kept.weight") != 0; }

TEST(int8_params_give_back_what_they_were_given)
{
    enum { COUT = 48, CIN = 12, ROW = CIN * 9 };
    static float w[COUT * ROW], back[COUT * ROW];
    Err e = {0};
    Ops ops;
    KernRng r = {2};
    KernDev kd = kern_open(2, ~0u);
    ops_init(&ops, kd.d);
    CHECK(ops.int8);
    Params *ps = params_new(kd.d, &ops, DT_F32);
    params_set_int8(ps, not_kept);
    Param *conv = params_get(ps, "conv.weight", 4, (int[]){COUT, 3, 3, CIN});
    Param *kept = params_get(ps, "kept.weight", 2, (int[]){COUT, 64});
    Param *odd = params_get(ps, "odd.weight", 2, (int[]){COUT + 1, 64});
    Param *bias = params_get(ps, "bias", 1, (int[]){COUT});
    CHECK(conv->dt == DT_I8 && kept->dt == DT_F32 && odd->dt == DT_F32 && bias->dt == DT_F32);
    CHECK_INT(params_part(ps, "conv").frozen, i8_bytes(COUT, 9, CIN));
    CHECK_OK(params_alloc(ps, NULL, &e), &e);
    for (size_t i = 0; i < COUT * ROW; i++) w[i] = (float)kern_normal(&r);
    CHECK_OK(params_set(ps, conv, w, &e), &e);
    CHECK_OK(params_read(ps, conv, back, &e), &e);
    CHECK(steps_off(w, back, COUT, ROW) <= 0.50001);
    CHECK(steps_off(w, back, COUT, ROW) > 0.4);
    params_free(ps);
    CHECK(kern_close(&kd));
}

/* ---- models -------------------------------------------------------------- */

typedef struct {
    Model m;
    Pipeline p;
} Run;

static int open_run(Run *r, const char *model, const char *dtype, char **lora,
                    const PipelineConfig *c, const Tokenizer *tok, Err *e)
{
    ModelOptions o = {.path = model,
                      .threads = 2,
                      .device = "cpu",
                      .lora = lora,
                      .lora_count = lora != NULL};
    TRY(model_dtype(&o, dtype, e));
    TRY(model_open(&r->m, &o, e));
    TRY(pipeline_init(&r->p, &r->m, tok, c, e));
    return model_load(&r->m, e);
}

static void close_run(Run *r)
{
    pipeline_free(&r->p);
    model_close(&r->m);
    mem_free(r);
}

static const PipelineConfig small = {.prompt = "a cat",
                                     .negative = "dog",
                                     .width = 64,
                                     .height = 64,
                                     .steps = 2,
                                     .cfg_scale = 7,
                                     .sampler = SAMPLER_EULER,
                                     .rng = RNG_CPU};

static int train(const char *to, const char *more)
{
    snprintf(args, sizeof args,
             "train -m %s -d %s -o %s --output_name x --resolution 64 --network_dim 4 --seed 5 "
             "--threads 2 --learning_rate 5e-3 --save_precision float %s",
             fixture_model(), test_path("data"), to, more);
    return test_sdc(args, out, err, sizeof out);
}

/* A merged LoRA is added before the weights are rounded: in each, the sum is off by at
 * most half a step. Others keep their dtype. */
TEST(int8_merges_loras_before_it_rounds)
{
    static const char *const name[] = {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v.weight",
        "text_encoder.text_model.encoder.layers.1.mlp.fc2.weight"};
    Err e = {0};
    Tokenizer *tok;
    char lora[600], *loras[] = {lora};
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    CHECK_INT(train(test_path("l"), "--max_train_steps 4"), 0);
    snprintf(lora, sizeof lora, "%s:0.8", test_path("l/x.safetensors"));
    CHECK_OK(bpe_open(&tok, &e), &e);
    Run *i8 = mem_calloc(1, sizeof *i8), *f32 = mem_calloc(1, sizeof *f32),
        *base = mem_calloc(1, sizeof *base);
    CHECK_OK(open_run(i8, fixture_model(), "int8", loras, &small, tok, &e), &e);
    CHECK_OK(open_run(f32, fixture_model(), "f32", loras, &small, tok, &e), &e);
    CHECK_OK(open_run(base, fixture_model(), "f32", NULL, &small, tok, &e), &e);
    for (int i = 0; i < 2; i++) {
        const Param *p = params_find(i8->m.ps, name[i]), *q = params_find(f32->m.ps, name[i]);
        const Param *b = params_find(base->m.ps, name[i]);
        CHECK(p && p->dt == DT_I8 && q && q->dt == DT_F32);
        float *x = mem_alloc(3 * p->count * sizeof *x), *y = x + p->count, *z = y + p->count;
        CHECK_OK(params_read(i8->m.ps, p, x, &e), &e);
        CHECK_OK(params_read(f32->m.ps, q, y, &e), &e);
        CHECK_OK(params_read(base->m.ps, b, z, &e), &e);
        CHECK(steps_off(y, x, (size_t)p->dim[0], (size_t)p->dim[1]) <= 0.50001);
        CHECK(steps_off(z, x, (size_t)p->dim[0], (size_t)p->dim[1]) > 0.6); /* the LoRA is in */
        mem_free(x);
    }
    CHECK(params_find(i8->m.ps, "unet.conv_in.weight")->dt == DT_BF16);
    CHECK(params_find(i8->m.ps, "vae.decoder.mid_block.resnets.0.conv1.weight")->dt == DT_BF16);
    close_run(i8), close_run(f32), close_run(base);
    bpe_close(tok);
}

/* The number behind the last "avr_loss=". */
static double last_loss(const char *text)
{
    const char *at = NULL;
    for (const char *s = text; (s = strstr(s, "avr_loss=")) != NULL; s++) at = s;
    return at ? atof(at + 9) : NAN;
}

/* On a base in 8 bits a LoRA learns: the loss is that of the same run in bf16 within a
 * few percent, and bytes do not depend on the number of threads. */
TEST(int8_base_trains_a_lora)
{
    Err e = {0};
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    CHECK_INT(train(test_path("a"), "--max_train_steps 12 --mixed_precision bf16"), 0);
    double want = last_loss(err);
    CHECK_INT(train(test_path("b"), "--max_train_steps 12 --mixed_precision bf16 --int8_base"), 0);
    CHECK_NEAR(last_loss(err), want, 0.03 * want);
    CHECK_INT(train(test_path("c"),
                    "--max_train_steps 12 --mixed_precision bf16 --int8_base --threads 1"),
                    0);
    CHECK(fixture_same_file(test_path("b/x.safetensors"), test_path("c/x.safetensors")));
    CHECK(!fixture_same_file(test_path("a/x.safetensors"), test_path("b/x.safetensors")));
    CHECK_INT(train(test_path("d"), "--full --int8_base"), 2);
    CHECK(strstr(err, "--int8_base: only for a LoRA"));
}

/* A device without such products says so before it loads anything. */
TEST(int8_is_refused_where_it_cannot_run)
{
    if (!strncmp(kern_device(), "cpu", 3)) return;
    snprintf(args, sizeof args, "sample -m %s -p cat -o %s --dtype int8", fixture_model(),
             test_path("x.png"));
    CHECK_INT(test_sdc(args, out, err, sizeof out), 2);
    CHECK(strstr(err, "int8 weights") && strstr(err, "bf16"));
}

/* ---- pictures ------------------------------------------------------------ */

static double psnr(const Image *a, const Image *b)
{
    size_t n = (size_t)a->w * (size_t)a->h * 3;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += ((double)a->px[i] - b->px[i]) * ((double)a->px[i] - b->px[i]);
    return sum > 0 ? 10 * log10(255.0 * 255.0 * (double)n / sum) : 99;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

#ifdef __SANITIZE_ADDRESS__
enum { SEEDS = 2 };             /* slow, and more would not reach other code */
#else
enum { SEEDS = 8 };
#endif

/* The pocket model's pictures of some seeds, in int8 and in f32. */
TEST(int8_pictures_of_the_pocket_model)
{
    enum { SIDE = 128 };
    static const char model[] = "models/pocket/pocket.safetensors";
    PipelineConfig c = small;
    Err e = {0};
    Tokenizer *tok;
    Image a, b;
    double db[SEEDS];
    c.prompt = "a smiling face", c.negative = "", c.width = c.height = SIDE, c.steps = 8;
    c.sampler = SAMPLER_DPMPP_2M;
    CHECK_OK(bpe_open(&tok, &e), &e);
    Run *i8 = mem_calloc(1, sizeof *i8), *f32 = mem_calloc(1, sizeof *f32);
    CHECK_OK(open_run(i8, model, "int8", NULL, &c, tok, &e), &e);
    CHECK_OK(open_run(f32, model, "f32", NULL, &c, tok, &e), &e);
    CHECK_OK(image_new(&a, SIDE, SIDE, 3, &e), &e);
    CHECK_OK(image_new(&b, SIDE, SIDE, 3, &e), &e);
    for (int i = 0; i < SEEDS; i++) {
        CHECK_OK(pipeline_run(&i8->p, (uint64_t)i, &a, &e), &e);
        CHECK_OK(pipeline_run(&f32->p, (uint64_t)i, &b, &e), &e);
        db[i] = psnr(&a, &b);
    }
    qsort(db, SEEDS, sizeof *db, by_size);
    fprintf(stderr, "int8 against f32: %.1f dB in the median of %d pictures, %.1f to %.1f\n",
            (db[SEEDS / 2 - 1] + db[SEEDS / 2]) / 2, SEEDS, db[0], db[SEEDS - 1]);
    CHECK((db[SEEDS / 2 - 1] + db[SEEDS / 2]) / 2 >= 30);
    CHECK(db[SEEDS - 1] < 90);                         /* it is not the same computation */
    image_free(&a), image_free(&b);
    close_run(i8), close_run(f32);
    bpe_close(tok);
}
