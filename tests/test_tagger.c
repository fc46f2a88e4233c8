/* test_tagger.c - the tagger against timm (tests/golden/make_tagger.py), its files, which
 * may be hostile, and its training. */
#include <stdlib.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "engine/train.h"
#include "models/tagger.h"
#include "tests/fail.h"
#include "tests/kern.h"
#include "tests/test.h"

#define ROOT "tests/golden/tagger/"

static const char *const pictures[] = {"wide", "high", "alpha"};
enum { PICTURES = 3, TAGS = 11, SIDE_MAX = 35 };

static int open_tagger(Tagger *t, const char *path, Dtype dt, Err *e)
{
    TaggerOptions o = {.path = path, .device = kern_device(), .threads = 2, .dtype = dt};
    return tagger_open(t, &o, e);
}

/* All three pictures in one batch (with a place left over): the largest differences of inputs
 * and probabilities from timm's. */
static int compare(const char *model, Dtype dt, double *input, double *prob, Err *e)
{
    Tagger t;
    TensorFile *want;
    char path[200];
    float got[4 * TAGS], p[TAGS], x[SIDE_MAX * SIDE_MAX * 3];
    snprintf(path, sizeof path, ROOT "%s/model.safetensors", model);
    TRY(open_tagger(&t, path, dt, e));
    TRY(tagger_plan(&t, PICTURES + 1, e));
    TRY(tagger_load(&t, e));
    TRY(tensorfile_open(&want, ROOT "expected.safetensors", e));
    int values = t.vit.side * t.vit.side * 3;
    *input = *prob = 0;
    for (int i = 0; i < PICTURES; i++) {
        Image im;
        snprintf(path, sizeof path, ROOT "%s.png", pictures[i]);
        TRY(image_load(&im, path, e));
        TRY(tagger_picture(&t, i, &im, e));
        image_free(&im);
    }
    TRY(tagger_run(&t, PICTURES, got, e));
    for (int i = 0; i < PICTURES; i++) {
        snprintf(path, sizeof path, "%s.%s.input", model, pictures[i]);
        TRY(tensorfile_read_f32(want, tensorfile_find(want, path), 0, values, x, e));
        for (int k = 0; k < values; k++)
            *input = fmax(*input, fabs((double)x[k] - (double)t.pixels[i * values + k]));
        snprintf(path, sizeof path, "%s.%s.prob", model, pictures[i]);
        TRY(tensorfile_read_f32(want, tensorfile_find(want, path), 0, TAGS, p, e));
        for (int k = 0; k < TAGS; k++)
            *prob = fmax(*prob, fabs((double)p[k] - (double)got[i * TAGS + k]));
    }
    tensorfile_close(want);
    tagger_close(&t);
    return 0;
}

/* A probability moves by at most a quarter of what its logit does; logits go to 8. In f32
 * every product has sums of up to 192 terms, whose rounding grows as their root, and the
 * longest path has 14 of them: 14 sqrt(192) 2^-24 8 / 4 = 2.3e-5. In 16 bits what is stored
 * counts: about 20 tensors and as many weights on the path, each known to 2^-9 (bf16) or
 * 2^-12 (f16) at worst and a third of its square on average: 4 deviations of a logit of size 3
 * are 4 sqrt(40 / 3) 2^-9 3 / 4 = 0.021. */
TEST(golden_tagger)
{
    static const double bound[DT_N] = {[DT_F32] = 2.3e-5, [DT_BF16] = 0.021, [DT_F16] = 0.021 / 8};
    static const char *const models[] = {"wd", "fc"};
    for (int m = 0; m < 2; m++)
        for (int dt = 0; dt < DT_N; dt++) {
            double input, prob;
            Err e = {0};
            CHECK_OK(compare(models[m], (Dtype)dt, &input, &prob, &e), &e);
            CHECK_NEAR(input, 0, 1.2e-7);            /* the same pixels; floats of up to 1 */
            if (getenv("SDC_SHOW")) printf("%s %d: %.3g %.3g\n", models[m], dt, input, prob);
            CHECK_NEAR(prob, 0, bound[dt]);
        }
}

/* ---- files ---------------------------------------------------------------------- */

static int copy(const char *from, const char *to, size_t most, Err *e)
{
    IoMap m;
    TRY(io_map(&m, from, e));
    int rc = io_write_file(to, m.data, m.size < most ? m.size : most, e);
    io_unmap(&m);
    return rc;
}

/* A whole tagger in the test's folder. */
static int put_tagger(Err *e)
{
    TRY(copy(ROOT "wd/model.safetensors", test_path("model.safetensors"), SIZE_MAX, e));
    TRY(copy(ROOT "wd/config.json", test_path("config.json"), SIZE_MAX, e));
    return copy(ROOT "wd/selected_tags.csv", test_path("selected_tags.csv"), SIZE_MAX, e);
}

/* name gets text (NULL: it is removed); opening the tagger must fail with that code and say
 * part. Puts the good file back. */
static int refuses(const char *name, const char *text, const char *part)
{
    Tagger t;
    Err e = {0};
    char good[200];
    int rc = text ? io_write_file(test_path(name), text, strlen(text), &e)
                  : io_remove(test_path(name), &e);
    if (!rc) rc = open_tagger(&t, test_dir(), DT_F32, &e);
    int ok = rc == ERR_INPUT && strstr(e.msg, part) &&
             (strstr(e.msg, name) || strstr(e.msg, "model.safe"));
    if (!ok) printf("%s: \"%s\": %d: %s\n", name, text ? text : "(none)", rc, e.msg);
    if (!rc) tagger_close(&t);
    e = (Err){0};
    snprintf(good, sizeof good, ROOT "wd/%s", name);
    return ok && !copy(good, test_path(name), SIZE_MAX, &e);
}

#define CONFIG(args)                                                                               \
    "{\"architecture\": \"vit_base_patch16_224\", \"num_classes\": 11, "                           \
    "\"model_args\": {\"class_token\": false, \"global_pool\": \"avg\", \"num_heads\": 3" args     \
    "}}"

TEST(tagger_refuses_bad_files)
{
    Err e = {0};
    Tagger t;
    CHECK_OK(put_tagger(&e), &e);
    CHECK_OK(open_tagger(&t, test_dir(), DT_F32, &e), &e);
    CHECK_INT(t.tags.count, TAGS);
    CHECK_STR(t.tags.list[6].name, "say_\"hi\"");
    CHECK_STR(t.tags.list[7].name, "a,b");
    CHECK_INT(t.tags.list[10].category, TAG_CHARACTER);
    tagger_close(&t);
    CHECK(refuses("selected_tags.csv", NULL, "not there"));
    CHECK(refuses("selected_tags.csv", "", "first line"));
    CHECK(refuses("selected_tags.csv", "name,category\n1,2\n", "first line"));
    CHECK(refuses("selected_tags.csv", "tag_id,name,category,count\n", "no tags"));
    CHECK(refuses("selected_tags.csv", "tag_id,name,category,count\n1,a,0,1\n2,b,0,2\n",
                  "2 tags, but"));
    CHECK(refuses("selected_tags.csv", "tag_id,name,category,count\n1,a,0,1\n2,\"b",
                  "line 3: a quote"));
    CHECK(refuses("selected_tags.csv", "tag_id,name,category,count\n1,a,0,1\n2,b",
                  "line 3: expected 4"));
    CHECK(refuses("selected_tags.csv", "tag_id,name,category,count\n1,a,10,1\n",
                  "line 2: expected"));
    CHECK(refuses("selected_tags.csv", "tag_id,name,category,count\nx,a,0,1\n",
                  "line 2: expected"));
    CHECK(refuses("config.json", NULL, "not there"));
    CHECK(refuses("config.json", "{", "line 1"));
    CHECK(refuses("config.json", "[1]", "no JSON object"));
    CHECK(refuses("config.json", "{\"architecture\": \"swinv2_base_window8_256\"}",
                  "must be a ViT"));
    CHECK(refuses("config.json", "{\"architecture\": \"vit_base_patch16_224\"}", "class_token"));
    CHECK(refuses("config.json", CONFIG(", \"img_size\": 99999999999"), "img_size"));
    CHECK(refuses("config.json", CONFIG(", \"depth\": 100"), "blocks"));
    CHECK(refuses("config.json", CONFIG(", \"embed_dim\": 64"), "patch_embed"));
    CHECK(refuses("config.json", CONFIG(", \"img_size\": 64"), "positions"));
    CHECK(refuses("config.json", CONFIG(", \"act_layer\": \"relu\""), "act_layer"));
    CHECK(refuses("config.json", CONFIG(", \"fc_norm\": true, \"patch_size\": -1"), "patch_size"));
    CHECK(refuses("model.safetensors", "x", "model.safetensors"));
}

/* Writes the model once more with one tensor more, less, or of another shape. */
static int change_model(const char *name, int ndim, const int64_t *shape, int drop, Err *e)
{
    TensorFile *f;
    TensorWriter *w;
    TRY(tensorfile_open(&f, ROOT "wd/model.safetensors", e));
    TRY(tensorwriter_new(&w, test_path("model.safetensors"), e));
    for (size_t i = 0; i < tensorfile_count(f); i++) {
        const FileTensor *t = tensorfile_at(f, i);
        if (strcmp(t->name, name)) TRY(tensorwriter_add(w, t->name, FD_F32, t->ndim, t->shape, e));
        else if (!drop) TRY(tensorwriter_add(w, name, FD_F32, ndim, shape, e));
    }
    if (!tensorfile_find(f, name)) TRY(tensorwriter_add(w, name, FD_F32, ndim, shape, e));
    TRY(tensorwriter_begin(w, e));
    static const float zeros[60000];
    for (const char *due; (due = tensorwriter_next(w));) {
        const FileTensor *t = tensorfile_find(f, due);
        size_t n = 1;
        if (t && strcmp(due, name)) n = (size_t)t->count;
        else
            for (int i = 0; i < ndim; i++) n *= (size_t)shape[i];
        TRY(tensorwriter_write_f32(w, zeros, n, e));
    }
    tensorfile_close(f);
    return tensorwriter_commit(w, e);
}

TEST(tagger_names_the_tensor_that_does_not_fit)
{
    static const struct {
        const char *name;
        int ndim;
        int64_t shape[4];
        int drop;
        const char *part;
    } cases[] = {
        {"cls_token", 3, {1, 1, 48}, 0, "cls_token belongs to no layer"},
        {"blocks.1.ls1.gamma", 1, {48}, 0, "blocks.1.ls1.gamma belongs"},
        {"blocks.1.attn.proj.bias", 0, {0}, 1, "no tensor blocks.1.attn.proj.bias"},
        {"pos_embed", 0, {0}, 1, "no tensor pos_embed"},
        {"pos_embed", 3, {1, 17, 48}, 0, "17 positions"},
        {"pos_embed", 3, {1, 25, 48}, 0, "25 positions"},
        {"blocks.0.attn.qkv.weight", 2, {48, 48}, 0, "blocks.0.attn.qkv.weight has another shape"},
        {"patch_embed.proj.weight", 4, {48, 3, 8, 7}, 0, "patch_embed.proj.weight has another"},
        {"head.weight", 1, {48}, 0, "head.weight has a shape"},
        {"head.weight", 2, {0, 48}, 0, "head.weight has a shape"},
        {"head.bias", 1, {12}, 0, "head.bias has another shape"},
    };
    Err e = {0};
    CHECK_OK(put_tagger(&e), &e);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Tagger t;
        CHECK_OK(change_model(cases[i].name, cases[i].ndim, cases[i].shape, cases[i].drop, &e), &e);
        int rc = open_tagger(&t, test_dir(), DT_F32, &e);
        if (rc != ERR_INPUT || !strstr(e.msg, cases[i].part))
            test_fail(__FILE__, __LINE__, "case %zu: %d: %s", i, rc, e.msg);
        if (!rc) tagger_close(&t);
        e = (Err){0};
    }
}

TEST(tagger_survives_missing_memory)
{
    Err e = {0};
    CHECK_OK(put_tagger(&e), &e);
    for (long n = 1, rc = 1; rc; n += n < 80 ? 1 : 37) {
        Tagger t;
        e = (Err){0};
        fail_mem(n);
        rc = open_tagger(&t, test_dir(), DT_F32, &e);
        if (!rc) {
            rc = tagger_plan(&t, 1, &e);
            tagger_close(&t);
        }
        fail_mem(0);
        CHECK(!rc || rc == ERR_MEMORY || rc == ERR_INPUT);
        CHECK(n < 10000);
    }
}

/* ---- training ------------------------------------------------------------------- */

static const char new_config[] =
    "{\"architecture\": \"vit_tiny_patch16_224\", \"model_args\": {\"img_size\": 16, "
    "\"patch_size\": 4, \"embed_dim\": 32, \"depth\": 2, \"num_heads\": 2, "
    "\"class_token\": false, \"global_pool\": \"avg\"}}";

/* Twelve pictures of two shapes in three colours, on both sides. */
static int put_pictures(Err *e)
{
    static const char *const colours[] = {"red", "green", "blue"};
    static const char *const shapes[] = {"square", "bar"};
    char path[600];
    TRY(io_mkdirs(test_path("data/1_x"), e));
    TRY(io_write_file(test_path("config.json"), new_config, strlen(new_config), e));
    for (int i = 0; i < 12; i++) {
        Image im;
        TRY(image_new(&im, 16, 16, 3, e));
        memset(im.px, 255, 16 * 16 * 3);
        int w = i % 2 ? 12 : 7, h = i % 2 ? 3 : 7, x0 = i / 6 ? 1 : 3;
        for (int y = 4; y < 4 + h; y++)
            for (int x = x0; x < x0 + w; x++)
                for (int c = 0; c < 3; c++) im.px[(y * 16 + x) * 3 + c] = c == i / 2 % 3 ? 220 : 20;
        snprintf(path, sizeof path, "%s/data/1_x/%02d.png", test_dir(), i);
        TRY(image_save(path, &im, NULL, e));
        image_free(&im);
        snprintf(path, sizeof path, "%s/data/1_x/%02d.txt", test_dir(), i);
        char *text = mem_printf("A %s %s%s", colours[i / 2 % 3], shapes[i % 2],
                                i == 5 ? ", once" : "");
        TRY(io_write_file(path, text, strlen(text), e));
        mem_free(text);
    }
    return 0;
}

static char out[4096], err[4096];

static int train(const char *to, const char *more)
{
    char args[2000];
    snprintf(args, sizeof args, "tag %s/data --train %s/%s --init %s/config.json --words "
             "--undesired_tags a --min_count 2 --batch_size 6 --learning_rate 3e-3 "
             "--lr_warmup_steps 5 --threads 2 %s", test_dir(), test_dir(), to, test_dir(), more);
    return test_sdc(args, out, err, sizeof out);
}

/* It learns what it is shown, stopped and resumed to the same bytes, and writes what it can
 * read and what timm reads (config.json with the number of tags). */
TEST(tagger_training_learns_and_resumes)
{
    Err e = {0};
    Tagger t;
    CHECK_OK(put_pictures(&e), &e);
    if (train("a", "--max_train_steps 160")) test_fail(__FILE__, __LINE__, "%s", err);
    CHECK_INT(train("b", "--max_train_steps 160 --stop_after_steps 60"), 130);
    CHECK_INT(io_exists(test_path("b/model.safetensors")), 0);
    CHECK_INT(train("b", "--max_train_steps 150 --resume"), 2);
    CHECK(strstr(err, "max_train_steps"));
    CHECK_INT(train("b", "--max_train_steps 160 --resume"), 0);
    IoMap a, b;
    CHECK_OK(io_map(&a, test_path("a/model.safetensors"), &e), &e);
    CHECK_OK(io_map(&b, test_path("b/model.safetensors"), &e), &e);
    CHECK(a.size == b.size && !memcmp(a.data, b.data, a.size));
    io_unmap(&a), io_unmap(&b);
    CHECK_INT(io_exists(test_path("b/state.safetensors")), 0);
    CHECK_OK(open_tagger(&t, test_path("a"), DT_F32, &e), &e);
    CHECK_INT(t.tags.count, 5);                      /* not "a", not "once" */
    CHECK_STR(t.tags.list[0].name, "bar");           /* 6 as "square", and first by alphabet */
    CHECK_INT(t.tags.list[0].count, 6);
    CHECK(strstr(t.config, "\"num_classes\": 5"));
    tagger_close(&t);
    char args[1500];
    snprintf(args, sizeof args, "tag %s/data/1_x --tagger %s/a --compare --words --undesired_tags "
             "once", test_dir(), test_dir());
    CHECK_INT(test_sdc(args, out, err, sizeof out), 0);
    if (!strstr(out, "24 tags right, 0 wrong, 0 missed; 13 in captions"))
        test_fail(__FILE__, __LINE__, "%s", out);
}

TEST(tagger_training_refuses)
{
    Err e = {0};
    CHECK_OK(put_pictures(&e), &e);
    CHECK_INT(train("a", "--min_count 100"), 3);
    CHECK(strstr(err, "no tag is in 100 captions"));
    CHECK_INT(train("a", "--tagger x"), 2);
    CHECK_INT(train("a", "--init nothing.json"), 3);
    CHECK(strstr(err, "nothing.json"));
    CHECK_OK(io_write_file(test_path("config.json"), CONFIG(""), strlen(CONFIG("")), &e), &e);
    CHECK_INT(train("a", ""), 3);                    /* no sizes */
    CHECK(strstr(err, "config.json: patch_size is 0"));
    CHECK_INT(io_exists(test_path("a")), 0);
}
