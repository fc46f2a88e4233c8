/* test_sample.c - `sdc sample` as a user runs it. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/hash.h"
#include "engine/image.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "engine/tensorfile.h"
#include "models/pipeline.h"
#include "tests/fixture.h"
#include "tests/kern.h"
#include "tests/test.h"

static char out[8192], err[8192], args[4096];

/* A small picture of the fixture into the test's folder; the exit code. */
static int sample(const char *name, const char *more)
{
    snprintf(args, sizeof args, "sample -m %s -o %s -W 64 -H 64 --steps 3 --seed 7 --threads 1 "
             "%s", fixture_model(), test_path(name), more);
    return test_sdc(args, out, err, sizeof out);
}

#define SAMPLE_OK(name, more)                                                      \
    do { int rc_ = sample(name, more);                                             \
         if (rc_) { test_fail(__FILE__, __LINE__, "exit %d: %s", rc_, err); return; } } while (0)

/* The picture `from` again, as `to`; the exit code. */
static int repeat(const char *from, const char *to, const char *more)
{
    snprintf(args, sizeof args, "sample -m %s --from-png %s -o %s --threads 1 %s", fixture_model(),
             test_path(from), test_path(to), more);
    return test_sdc(args, out, err, sizeof out);
}

static int same(const char *a, const char *b)
{
    return fixture_same_file(test_path(a), test_path(b));
}

static int distance(const char *a, const char *b)
{
    return fixture_distance(test_path(a), test_path(b));
}

/* The picture's `parameters` (static). */
static const char *text_of(const char *name)
{
    static char text[4096];
    IoMap m;
    char *t = NULL;
    text[0] = 0;
    if (io_map(&m, test_path(name), NULL)) return text;
    if (!image_parameters(&t, m.data, m.size, NULL) && t) snprintf(text, sizeof text, "%s", t);
    mem_free(t);
    io_unmap(&m);
    return text;
}

static size_t files_in_folder(void)
{
    char **names;
    size_t count = 0, seen = 0;
    if (io_list(&names, &count, test_dir(), NULL)) return 999;
    for (size_t i = 0; i < count; i++) seen += names[i][0] != '.';      /* .stdout, .stderr */
    io_list_free(names, count);
    return seen;
}

/* A LoRA of the fixture with random factors, of both networks or the text encoder. */
static int write_lora(const char *name, int unet, uint64_t seed)
{
    Model m;
    Lora lo;
    Err e = {0};
    ModelOptions o = {.path = fixture_model(), .threads = 1, .device = kern_device()};
    LoraNew c = {.dim = 2, .unet = unet, .text = 1, .seed = seed};
    if (model_open(&m, &o, &e)) return -1;
    int rc = lora_new(&lo, &c, m.targets, m.target_count, &e);
    for (size_t i = 0; !rc && i < lo.count; i++)
        rng_normal((RngKey){seed, 0, (uint32_t)i, 99}, 0, lo.list[i].up,
                   (size_t)(lo.list[i].target->out * lo.list[i].rank));
    if (!rc) rc = lora_save(test_path(name), lo.list, lo.count, FD_F32, NULL, 0, &e);
    if (!rc) lora_close(&lo);
    model_close(&m);
    if (rc) fprintf(stderr, "%s\n", e.msg);
    return rc;
}

/* checkpoint_values_fn: zeros */
static int zeros(void *ctx, const CheckpointEntry *en, float *v, int *changed, Err *e)
{
    (void)ctx, (void)e;
    memset(v, 0, (size_t)en->count * sizeof *v);
    *changed = 1;
    return 0;
}

/* A model of the fixture's sizes that cannot sample, because of one of these. */
static int write_model(const char *name, int in_channels, int vocab)
{
    SdConfig c = {.in_channels = in_channels, .unet_width = {32, 32, 32, 32}, .text_width = 64,
                  .text_layers = 2, .text_ff = 256, .vocab = vocab, .vae_width = {32, 32, 32, 32}};
    Checkpoint *ck;
    Err e = {0};
    config_default_heads(&c);
    if (checkpoint_new(&ck, &c, &e)) return e.code;
    CheckpointSave s = {.values = zeros, .cast = 1, .dtype = FD_F16};
    int rc = checkpoint_save(ck, test_path(name), &s, &e);
    checkpoint_close(ck);
    return rc;
}

/* ---- the picture --------------------------------------------------------- */

TEST(sample_is_the_same_at_any_thread_count)
{
    SAMPLE_OK("a.png", "-p 'a cat' -n dog --threads 1");
    SAMPLE_OK("b.png", "-p 'a cat' -n dog --threads 2");
    SAMPLE_OK("c.png", "-p 'a cat' -n dog --threads 3");
    CHECK(same("a.png", "b.png"));
    CHECK(same("a.png", "c.png"));
}

TEST(sample_depends_on_every_setting)
{
    static const char *const other[] = {
        "-p 'a dog'", "-p 'a (cat:1.3)'", "-p 'a cat' -n dog", "-p 'a cat' --seed 8",
        "-p 'a cat' --steps 4", "-p 'a cat' --cfg-scale 5", "-p 'a cat' --sampler euler",
        "-p 'a cat' --schedule exponential", "-p 'a cat' --rng cpu", "-p 'a cat' --clip-skip 2",
        "-p 'a cat' --prediction v", "-p 'a cat' --dtype f32",
    };
    SAMPLE_OK("a.png", "-p 'a cat' --dtype bf16");
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        char more[128];
        snprintf(more, sizeof more, "--dtype bf16 %s", other[i]);
        SAMPLE_OK("b.png", more);
        int far = distance("a.png", "b.png");
        if (far == 0 || far > 255) test_fail(__FILE__, __LINE__, "%s: distance %d", other[i], far);
    }
}

TEST(sample_batch_is_single_pictures)
{
    char more[700];
    snprintf(more, sizeof more, "-p 'a cat' --sampler euler_a -b 2 --grid %s",
             test_path("grid.png"));
    SAMPLE_OK("batch.png", more);
    SAMPLE_OK("one.png", "-p 'a cat' --sampler euler_a");
    SAMPLE_OK("two.png", "-p 'a cat' --sampler euler_a --seed 8");
    CHECK(same("batch.png", "one.png"));
    CHECK(same("batch-1.png", "two.png"));
    Image im;
    Err e = {0};
    CHECK_OK(image_load(&im, test_path("grid.png"), &e), &e);
    int w = im.w, h = im.h;
    image_free(&im);
    CHECK(w >= 128 && h >= 64);
}

TEST(sample_prompt_file_is_one_run_per_line)
{
    char more[700];
    Err e = {0};
    const char *lines = "# two\na cat --d 7\na dog --d 8 --n blurry --ss euler --l 3\n";
    CHECK_OK(io_write_file(test_path("p.txt"), lines, strlen(lines), &e), &e);
    snprintf(args, sizeof args,
             "sample -m %s -o %s -W 64 -H 64 --steps 3 --threads 1 --prompt_file %s --grid %s",
             fixture_model(), test_path("file.png"), test_path("p.txt"), test_path("grid.png"));
    CHECK_INT(test_sdc(args, out, err, sizeof out), 0);
    SAMPLE_OK("one.png", "-p 'a cat'");
    snprintf(more, sizeof more, "-p 'a dog' --seed 8 -n blurry --sampler euler --cfg_scale 3");
    SAMPLE_OK("two.png", more);
    CHECK(same("file.png", "one.png"));
    CHECK(same("file-1.png", "two.png"));
    CHECK_INT(io_exists(test_path("grid.png")), 1);
}

/* ---- against `sdc probe`, which the goldens hold to other programs -------- */

static int write_tensor(const char *name, const char *key, FileDtype dt, int ndim,
                        const int64_t *shape, const float *v, size_t n)
{
    TensorWriter *w = NULL;
    Err e = {0};
    int rc = tensorwriter_new(&w, test_path(name), &e);
    if (!rc) rc = tensorwriter_add(w, key, dt, ndim, shape, &e);
    if (!rc) rc = tensorwriter_begin(w, &e);
    if (!rc) rc = tensorwriter_write_f32(w, v, n, &e);
    if (rc) tensorwriter_abort(w);
    return rc ? rc : tensorwriter_commit(w, &e);
}

static int read_tensor(const char *name, const char *key, float *v, size_t n)
{
    TensorFile *f;
    Err e = {0};
    if (tensorfile_open(&f, test_path(name), &e)) return e.code;
    const FileTensor *t = tensorfile_find(f, key);
    int rc = t && (size_t)t->count == n ? tensorfile_read_f32(f, t, 0, t->count, v, &e) : ERR_FAIL;
    tensorfile_close(f);
    return rc;
}

static int probe(const char *net, const char *in, const char *to, const char *more)
{
    snprintf(args, sizeof args, "probe %s -m %s --in %s --out %s %s", net, fixture_model(),
             test_path(in), test_path(to), more);
    return test_sdc(args, out, err, sizeof out);
}

/* Hidden states of a prompt's first chunk. */
static int probe_prompt(const char *prompt, float *z)
{
    Tokenizer *tok;
    ChunkList chunks = {0};
    Prompt p;
    float ids[77];
    TRY(bpe_open(&tok, NULL));
    int rc = prompt_parse(&p, prompt, strlen(prompt), NULL);
    if (!rc) rc = chunk_prompt(&chunks, tok, &p, BPE_EOS, NULL);
    for (int i = 0; !rc && i < 77; i++) ids[i] = (float)chunks.chunks[0].ids[i];
    if (!rc) rc = write_tensor("ids", "input_ids", FD_I32, 2, (int64_t[]){1, 77}, ids, 77);
    if (!rc) rc = probe("clip", "ids", "z", "");
    prompt_free(&p);
    chunk_list_free(&chunks);
    bpe_close(tok);
    return rc ? rc : read_tensor("z", "last_hidden_state", z, 77 * 64);
}

/* Inputs of the sampler: noise and step noise as torch draws them, one after
 * the other from one generator. */
enum { LATENTS = 4 * 8 * 8, STEPS = 3, CONTEXT = 77 * 64 };

static int write_sampler_input(const float *cond, const float *uncond)
{
    static float draws[STEPS * LATENTS];
    TensorWriter *w = NULL;
    Err e = {0};
    const int64_t x[5] = {STEPS - 1, 1, 4, 8, 8}, z[3] = {1, 77, 64};
    snprintf(args, sizeof args, "probe randn --rng nv --seed 7 --shape 4,8,8 --draws %d --out %s",
             STEPS, test_path("randn"));
    TRY(test_sdc(args, out, err, sizeof out));
    TRY(read_tensor("randn", "randn", draws, STEPS * LATENTS));
    int rc = tensorwriter_new(&w, test_path("input"), &e);
    if (!rc) rc = tensorwriter_add(w, "noise", FD_F32, 4, x + 1, &e);
    if (!rc) rc = tensorwriter_add(w, "step_noise", FD_F32, 5, x, &e);
    if (!rc) rc = tensorwriter_add(w, "cond", FD_F32, 3, z, &e);
    if (!rc) rc = tensorwriter_add(w, "uncond", FD_F32, 3, z, &e);
    if (!rc) rc = tensorwriter_begin(w, &e);
    for (const char *next; !rc && (next = tensorwriter_next(w));) {
        if (!strcmp(next, "noise")) rc = tensorwriter_write_f32(w, draws, LATENTS, &e);
        else if (!strcmp(next, "step_noise"))
            rc = tensorwriter_write_f32(w, draws + LATENTS, (STEPS - 1) * LATENTS, &e);
        else rc = tensorwriter_write_f32(w, next[0] == 'c' ? cond : uncond, CONTEXT, &e);
    }
    if (rc) tensorwriter_abort(w);
    return rc ? rc : tensorwriter_commit(w, &e);
}

TEST(sample_is_text_encoder_sampler_and_vae)
{
    static float cond[CONTEXT], uncond[CONTEXT], x[LATENTS], picture[3 * 64 * 64];
    CHECK_INT(probe_prompt("a red cat", cond), 0);
    CHECK_INT(probe_prompt("blurry", uncond), 0);
    CHECK_INT(write_sampler_input(cond, uncond), 0);
    CHECK_INT(probe("sampler", "input", "latents", "--sampler euler_a --schedule karras --steps 3 "
                    "--cfg-scale 6.5"), 0);
    CHECK_INT(read_tensor("latents", "latents", x, LATENTS), 0);
    for (int i = 0; i < LATENTS; i++) x[i] /= 0.18215f;
    CHECK_INT(write_tensor("scaled", "latents", FD_F32, 4, (int64_t[]){1, 4, 8, 8}, x, LATENTS), 0);
    CHECK_INT(probe("vae-decode", "scaled", "image", ""), 0);
    CHECK_INT(read_tensor("image", "image", picture, 3 * 64 * 64), 0);
    SAMPLE_OK("a.png", "-p 'a red cat' -n blurry --sampler euler_a --schedule karras "
              "--cfg-scale 6.5 --dtype f32");
    Image im;
    Err e = {0};
    CHECK_OK(image_load(&im, test_path("a.png"), &e), &e);
    int far = 0, low = 255, high = 0;
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 64 * 64; i++) {
            float v = fminf(fmaxf((picture[c * 64 * 64 + i] + 1) / 2, 0), 1) * 255;
            int px = im.px[i * 3 + c];
            if (abs((int)v - px) > far) far = abs((int)v - px);
            if (px < low) low = px;
            if (px > high) high = px;
        }
    image_free(&im);
    CHECK(high - low > 20);                    /* not a blank */
    CHECK(far <= 1);                           /* same sums; truncation may fall on either side */
}

/* ---- prompts of different length ------------------------------------------ */

TEST(sample_pads_only_when_told)
{
    char more[1200], words[900] = "";
    for (int i = 0; i < 80; i++) strcat(words, "cat ");              /* two chunks */
    snprintf(more, sizeof more, "-p '%s' -n dog", words);
    SAMPLE_OK("long.png", more);
    snprintf(more, sizeof more, "-p '%s' -n 'red car'", words);
    SAMPLE_OK("negative.png", more);
    CHECK(distance("long.png", "negative.png") > 0);
    snprintf(more, sizeof more, "-p '%s' -n dog --pad-conds", words);
    SAMPLE_OK("padded.png", more);
    CHECK(distance("long.png", "padded.png") > 0);
    CHECK(strstr(text_of("padded.png"), "Pad conds: True"));
    snprintf(more, sizeof more, "-p '%s' -n 'dog BREAK ,' --cfg-scale 1", words);
    SAMPLE_OK("alone.png", more);
    snprintf(more, sizeof more, "-p '%s' --cfg-scale 1", words);
    SAMPLE_OK("alone2.png", more);
    CHECK_INT(distance("alone.png", "alone2.png"), 0);               /* no guidance, no negative */
    CHECK_INT(repeat("padded.png", "again.png", ""), 0);
    CHECK(same("padded.png", "again.png"));
}

/* ---- LoRA ----------------------------------------------------------------- */

TEST(sample_lora_by_option_and_by_tag)
{
    char more[1200];
    CHECK_INT(write_lora("x.safetensors", 1, 3), 0);
    CHECK_INT(write_lora("y.safetensors", 1, 4), 0);
    SAMPLE_OK("base.png", "-p 'a cat'");
    snprintf(more, sizeof more, "-p 'a cat' --lora %s:0", test_path("x.safetensors"));
    SAMPLE_OK("zero.png", more);
    CHECK_INT(distance("base.png", "zero.png"), 0);
    snprintf(more, sizeof more, "-p 'a cat' --lora %s:0.7:0.3 --lora %s:-0.25",
             test_path("x.safetensors"), test_path("y.safetensors"));
    SAMPLE_OK("option.png", more);
    CHECK(distance("base.png", "option.png") > 0);
    snprintf(more, sizeof more, "-p 'a cat <lora:x:0.3:0.7><lora:y:-0.25>' --lora-dir %s",
             test_dir());
    SAMPLE_OK("tag.png", more);
    CHECK_INT(distance("option.png", "tag.png"), 0);
    CHECK(strstr(text_of("option.png"), "a cat <lora:x:0.3:0.7> <lora:y:-0.25>\n"));
    CHECK(strstr(text_of("option.png"), "Lora hashes: \"x: "));
    CHECK_INT(write_lora("text.safetensors", 0, 6), 0);
    snprintf(more, sizeof more, "-p 'a cat' --lora %s:0.7:0", test_path("text.safetensors"));
    SAMPLE_OK("text0.png", more);
    CHECK_INT(distance("base.png", "text0.png"), 0);
    snprintf(more, sizeof more, "-p 'a cat' --lora %s:0:0.7", test_path("text.safetensors"));
    SAMPLE_OK("text1.png", more);
    CHECK(distance("base.png", "text1.png") > 0);
    CHECK_INT(sample("no.png", "-p 'a cat <lora:nowhere:1>'"), 2);
    CHECK(strstr(err, "nowhere.safetensors"));
}

TEST(sample_from_png_repeats_loras)
{
    char more[1200];
    CHECK_INT(write_lora("x.safetensors", 1, 3), 0);
    snprintf(more, sizeof more, "-p 'a cat ' --lora %s:0.7:0.123456789",
             test_path("x.safetensors"));
    SAMPLE_OK("a.png", more);
    snprintf(more, sizeof more, "--lora-dir %s", test_dir());
    CHECK_INT(repeat("a.png", "b.png", more), 0);
    CHECK(same("a.png", "b.png"));
    CHECK(!strstr(err, "note:"));
    /* the file lies elsewhere: named by --lora, which replaces the tag */
    snprintf(more, sizeof more, "--lora %s:0.7:0.123456789", test_path("x.safetensors"));
    CHECK_INT(repeat("a.png", "c.png", more), 0);
    CHECK(same("a.png", "c.png"));
    /* another LoRA of that name is noticed */
    CHECK_INT(write_lora("x.safetensors", 1, 5), 0);
    snprintf(more, sizeof more, "--lora-dir %s", test_dir());
    CHECK_INT(repeat("a.png", "d.png", more), 0);
    CHECK(strstr(err, "another LoRA x"));
}

/* ---- parameters ----------------------------------------------------------- */

TEST(sample_from_png_repeats_the_bytes)
{
    static const char *const settings[] = {
        "-p 'a cat, (red:1.2)' -n 'dog, blurry'",
        "-p '  two \n\n  lines ' --sampler euler_a --rng cpu",
        "-p '' --sampler ddim", "-p 'caf\xc3\xa9 \xe7\x8c\xab' --cfg-scale 7.35 --clip-skip 2",
        "-p 'not \xff text' --dtype f32 --sampler dpm++2m_sde", "-p x --prediction v --cfg-scale 1",
        "-p 'Steps: 3' -n 'a: \"b\"' --schedule simple --seed 9007199254740993",
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        SAMPLE_OK("a.png", settings[i]);
        int rc = repeat("a.png", "b.png", "");
        if (rc || !same("a.png", "b.png") || strstr(err, "note:"))
            test_fail(__FILE__, __LINE__, "%s: exit %d: %s", settings[i], rc, err);
    }
}

TEST(sample_from_png_options_win)
{
    SAMPLE_OK("a.png", "-p 'a cat' --sampler euler_a --rng cpu");
    SAMPLE_OK("b.png", "-p 'a cat' --sampler ddim --rng cpu --seed 9");
    CHECK_INT(repeat("a.png", "c.png", "--seed 9 --sampler ddim"), 0);
    CHECK(same("b.png", "c.png"));
}

/* A picture of another program, with settings that cannot be repeated, or none. */
TEST(sample_from_png_of_others)
{
    static const char *const text = "a cat\nSteps: 3, Sampler: Euler a, CFG scale: 7, Seed: 7, "
        "Size: 64x64, Model hash: 0123456789, Model: other, Hires upscale: 2, "
        "Evil: \"\\u001b[2J\", Version: v1.10.1";
    Image im;
    Err e = {0};
    CHECK_OK(image_new(&im, 8, 8, 3, &e), &e);
    memset(im.px, 0, 8 * 8 * 3);
    int rc = image_save(test_path("a.png"), &im, text, &e) ||
             image_save(test_path("none.png"), &im, NULL, &e) ||
             image_save(test_path("bad.png"), &im, "x\nSteps: 3, Sampler: Nonsense, Seed: 1", &e) ||
             image_save(test_path("plain.png"), &im, "only a prompt", &e);
    image_free(&im);
    CHECK_INT(rc, 0);
    CHECK_INT(repeat("a.png", "b.png", ""), 0);
    CHECK(strstr(err, "Hires upscale: 2") && strstr(err, "model other (hash 0123456789)"));
    CHECK(!strchr(err, 27));
    SAMPLE_OK("c.png", "-p 'a cat' --sampler euler_a");
    CHECK(same("b.png", "c.png"));
    static const struct { const char *file, *message; int code; } bad[] = {
        {"none.png", "none.png: the picture has no generation parameters", 3},
        {"plain.png", "no generation parameters", 3}, {"bad.png", "bad.png: unknown sampler", 2},
        {"missing.png", "missing.png", 3}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_INT(repeat(bad[i].file, "z.png", ""), bad[i].code);
        CHECK(strstr(err, bad[i].message));
    }
}

TEST(sample_writes_what_a1111_writes)
{
    char hex[HASH_HEX], want[1200];
    Err e = {0};
    CHECK_OK(hash_file(hex, fixture_model(), &e), &e);
    SAMPLE_OK("a.png", "-p 'a cat' -n 'dog, car' --clip-skip 2 --rng cpu --dtype f32");
    snprintf(want, sizeof want, "a cat\nNegative prompt: dog, car\nSteps: 3, Sampler: DPM++ 2M, "
             "Schedule type: Karras, CFG scale: 7, Seed: 7, Size: 64x64, Model hash: %.10s, Model: "
             "fixture-model, Clip skip: 2, RNG: CPU, Dtype: f32, Version: sdc", hex);
    CHECK_STR(text_of("a.png"), want);
    snprintf(want, sizeof want, "%s\n", test_path("a.png"));
    CHECK_STR(out, want);                                            /* stdout: what was written */
    SAMPLE_OK("b.jpg", "-p 'a cat' --dtype f32");
    CHECK(strstr(text_of("b.jpg"), "Seed: 7"));
}

/* ---- refusals ------------------------------------------------------------- */

/* Latents that cannot be halved three times: rounded up, and cut back. */
TEST(sample_takes_multiples_of_8)
{
    SAMPLE_OK("odd.png", "-p 'a cat' -W 72 -H 104");
    SAMPLE_OK("threads.png", "-p 'a cat' -W 72 -H 104 --threads 3");
    CHECK(same("odd.png", "threads.png"));
    Image im;
    Err e = {0};
    CHECK_OK(image_load(&im, test_path("odd.png"), &e), &e);
    int w = im.w, h = im.h;
    image_free(&im);
    CHECK(w == 72 && h == 104);
}

TEST(sample_refuses)
{
    static const struct { const char *more, *message; int code; } bad[] = {
        {"-p x -W 100", "the nearest are 96 and 104", 2}, {"-p x -H 4", "multiple of 8", 2},
        {"-p x --sampler fast", "unknown sampler", 2}, {"-p x --rng gpu", "--rng", 2},
        {"-p x --steps 0", "--steps", 2}, {"-p x --seed -2", "--seed", 2}, {"", "--prompt", 2},
        {"-p x --sampler ddim --schedule karras", "ddim", 2}, {"-p x --dtype f8", "--dtype", 2},
        {"-p x --clip-skip 9", "--clip-skip", 2}, {"-p x --grid g.gif", "g.gif", 2},
        {"-p x --lora none.safetensors", "none.safetensors", 3},
        {"-p x --sampl ddim", "did you mean", 2},
        {"-p x --prediction noise", "--prediction", 2}, {"-p '<lora:x:y>'", "lora", 2}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int rc = sample("a.png", bad[i].more);
        if (rc != bad[i].code || !strstr(err, bad[i].message))
            test_fail(__FILE__, __LINE__, "%s: exit %d: %s", bad[i].more, rc, err);
    }
    CHECK_INT(test_sdc("sample -p x", out, err, sizeof out), 2);
    CHECK(strstr(err, "--model"));
    CHECK_INT(files_in_folder(), 0);
}

TEST(sample_refuses_models_that_cannot)
{
    CHECK_INT(write_model("inpaint.safetensors", 9, 49408), 0);
    CHECK_INT(write_model("cut.safetensors", 4, 1000), 0);
    snprintf(args, sizeof args, "sample -m %s -p x -o %s", test_path("inpaint.safetensors"),
             test_path("a.png"));
    CHECK_INT(test_sdc(args, out, err, sizeof out), 3);
    CHECK(strstr(err, "inpainting"));
    snprintf(args, sizeof args, "sample -m %s -p x -o %s", test_path("cut.safetensors"),
             test_path("a.png"));
    CHECK_INT(test_sdc(args, out, err, sizeof out), 3);
    CHECK(strstr(err, "vocabulary has 1000"));
    CHECK_INT(files_in_folder(), 2);
}

TEST(sample_finds_out_early_that_it_cannot_write)
{
    Err e = {0};
    CHECK_OK(io_write_file(test_path("file"), "x", 1, &e), &e);
    CHECK(sample("file/a.png", "-p x --steps 1000") != 0);
    CHECK(!strstr(err, "steps:"));
    SAMPLE_OK("new/folder/a.png", "-p x");
    CHECK_INT(io_exists(test_path("new/folder/a.png")), 1);
}

TEST(sample_dry_run_prints_the_memory)
{
    unsigned long long n[5];
    SAMPLE_OK("a.png", "-p x --dry-run");
    CHECK_INT(sscanf(out,
                     "weights %llu bytes (%*[^)]) activations %llu bytes %*[^)]) "
                     "pictures %llu bytes process %llu bytes total %llu",
                     &n[0], &n[1], &n[2], &n[3], &n[4]),
              5);
    CHECK(n[0] > 1000000 && n[1] > 10000);
    CHECK_INT(n[0] + n[1] + n[2] + n[3], n[4]);
    CHECK_INT(files_in_folder(), 0);
}

/* In turn instead of all at once: the same pixels in less memory; too little: code 5. */
TEST(sample_within_a_budget_gives_the_same_picture)
{
    char more[120];
    double total;
    SAMPLE_OK("a.png", "-p x --steps 2 -b 2");
    SAMPLE_OK("a.png", "-p x --dry-run");
    CHECK_INT(sscanf(strstr(out, "total"), "total %lf", &total), 1);
    snprintf(more, sizeof more, "-p x --steps 2 -b 2 --ram %.6fM", (total - 100000) / (1 << 20));
    SAMPLE_OK("b.png", more);
    CHECK_INT(distance("a.png", "b.png"), 0);
    CHECK_INT(distance("a-1.png", "b-1.png"), 0);
    CHECK_INT(sample("c.png", "-p x --ram 1M"), 5);
    CHECK(strstr(err, "needs"));
    snprintf(more, sizeof more, "-p x --dry-run --vram 1M,%.6fM", total / (1 << 20) + 8);
    SAMPLE_OK("c.png", more);
    CHECK(strstr(out, "does not fit") && strstr(out, "all at once"));
    CHECK_INT(io_exists(test_path("c.png")), 0);
}

/* A signal between pictures: those that are done stay, nothing else does. */
TEST(sample_stops_cleanly)
{
    const char *bin = getenv("SDC_BIN");
    const int signals[] = {SIGINT, SIGTERM};
    for (int k = 0; k < 2; k++) {
        char cmd[2000], first[64], name[64];
        snprintf(first, sizeof first, "s%d.png", k);
        snprintf(cmd, sizeof cmd, "exec %s sample -m %s -p x -W 64 -H 64 --threads 1 --steps 20 "
                 "-b 9000 -o %s "
                 ">/dev/null 2>&1", bin ? bin : "./sdc", fixture_model(), test_path(first));
        pid_t pid = fork();
        if (!pid) {
            execl("/bin/sh", "sh", "-c", cmd, (char *)NULL);
            _exit(127);
        }
        for (int i = 0; i < 3000 && !io_exists(test_path(first)); i++) usleep(20000);
        usleep(30000);
        kill(pid, signals[k]);
        int st, whole = 0;
        waitpid(pid, &st, 0);
        CHECK(WIFEXITED(st));
        CHECK_INT(WEXITSTATUS(st), 128 + signals[k]);
        for (int i = 0; i < 9000; i++) {
            snprintf(name, sizeof name, i ? "s%d-%d.png" : "s%d.png", k, i);
            if (!io_exists(test_path(name))) break;
            CHECK_INT(distance(name, name), 0);
            remove(test_path(name));
            whole++;
        }
        CHECK(whole >= 1 && whole < 9000);
        CHECK_INT(files_in_folder(), 0);
    }
}
