/* test_networks.c - `sdc train` with networks that are no plain LoRAs, with dropout, rates of
 * blocks, LoRA+, and textual inversion; and the embeddings that `sdc sample` reads. */
#include <stdlib.h>

#include "engine/embedding.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "engine/rng.h"
#include "models/clip.h"
#include "models/denoise.h"
#include "tests/fixture.h"
#include "tests/kern.h"
#include "tests/synth.h"
#include "tests/test.h"
#include "tokenizer/bpe.h"
#include "tools/train.h"

static char out[1 << 16], err[1 << 14];

/* Two steps on the small model. */
static int train(const char *to, const char *more)
{
    char args[2048];
    snprintf(args, sizeof args,
             "train -m %s -d %s -o %s --output_name x --resolution 64 --network_dim 4 --threads 2 "
             "--max_train_steps 2 --learning_rate 1e-2 --seed 5 --save_precision float %s",
             fixture_model(), test_path("data"), test_path(to), more);
    return test_sdc(args, out, err, sizeof out);
}

static const char *result(const char *to)
{
    char name[100];
    snprintf(name, sizeof name, "%s/x.safetensors", to);
    return test_path(name);
}

static int inspect(const char *file)
{
    char args[600];
    snprintf(args, sizeof args, "inspect --full --tensors %s", file);
    return test_sdc(args, out, err, sizeof out);
}

/* Tensors whose names contain part. */
static int count_of(const char *file, const char *part)
{
    TensorFile *tf;
    int n = 0;
    if (tensorfile_open(&tf, file, NULL)) return -1;
    for (size_t i = 0; i < tensorfile_count(tf); i++)
        n += strstr(tensorfile_at(tf, i)->name, part) != NULL;
    tensorfile_close(tf);
    return n;
}

/* Has training moved the factor that begins at zero? */
static int moved(const char *file, const char *factor)
{
    TensorFile *tf;
    int found = 0;
    if (tensorfile_open(&tf, file, NULL)) return 0;
    for (size_t i = 0; i < tensorfile_count(tf); i++) {
        const FileTensor *t = tensorfile_at(tf, i);
        float v = 0;
        if (strstr(t->name, factor) && !tensorfile_read_f32(tf, t, 0, 1, &v, NULL)) found += v != 0;
    }
    tensorfile_close(tf);
    return found;
}

TEST(train_writes_every_kind_of_network)
{
    static const struct { const char *to, *args, *kind, *factor, *meta; } kinds[] = {
        {"loha", "--network_module lycoris.kohya --network_args algo=loha conv_dim=2", " LoHa\n", "hada_w2_a",
         "ss_network_args = {\"algo\": \"loha\", \"conv_dim\": \"2\"}"},
        {"lokr", "--network_module networks.lokr --network_args factor=4 --network_dim 2", " LoKr\n", "lokr_w2",
         "ss_network_module = networks.lokr"},
        {"dora", "--network_args dora_wd=True conv_dim=2", " LoRA with DoRA\n", "lora_up", "dora_scale"}};
    Err e = {0};
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    for (size_t i = 0; i < 3; i++) {
        CHECK_INT(train(kinds[i].to, kinds[i].args), 0);
        CHECK_INT(inspect(result(kinds[i].to)), 0);
        CHECK(strstr(out, kinds[i].kind));
        CHECK(strstr(out, kinds[i].meta));
        CHECK(moved(result(kinds[i].to), kinds[i].factor));
        /* a run that goes on from its file's values */
        char args[600];
        snprintf(args, sizeof args, "%s --network_weights %s", kinds[i].args, result(kinds[i].to));
        CHECK_INT(train("again", args), 0);
    }
}

/* Resumed runs end in the same bytes: the dropout of a step depends on nothing else. */
TEST(train_dropout_resumes)
{
    static const char args[] =
        "--network_dropout 0.3 --network_args rank_dropout=0.2 module_dropout=0.2 "
        "loraplus_lr_ratio=4 --scale_weight_norms 0.05";
    char more[400];
    Err e = {0};
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    CHECK_INT(train("a", args), 0);
    snprintf(more, sizeof more, "%s --stop_after_steps 1", args);
    CHECK_INT(train("b", more), 130);
    snprintf(more, sizeof more, "%s --resume", args);
    CHECK_INT(train("b", more), 0);
    CHECK(fixture_same_file(result("a"), result("b")));
    CHECK_INT(train("c", "--network_args loraplus_lr_ratio=4 --scale_weight_norms 0.05"), 0);
    CHECK(!fixture_same_file(result("a"), result("c")));
}

TEST(train_blocks_are_kohyas)
{
    static const struct { const char *name; int block; } names[] = {
        {"lora_unet_down_blocks_0_attentions_0_proj_in", 1}, {"lora_unet_down_blocks_0_attentions_1_proj_in", 2},
        {"lora_unet_down_blocks_0_downsamplers_0_conv", 3}, {"lora_unet_down_blocks_2_resnets_1_conv1", 8},
        {"lora_unet_down_blocks_3_resnets_1_conv1", 11}, {"lora_unet_mid_block_attentions_0_proj_in", 12},
        {"lora_unet_mid_block_resnets_1_conv1", 12}, {"lora_unet_up_blocks_0_resnets_0_conv1", 13},
        {"lora_unet_up_blocks_0_upsamplers_0_conv", 15}, {"lora_unet_up_blocks_1_attentions_2_proj_out", 18},
        {"lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn1_to_q", 24}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        CHECK_INT(train_block(names[i].name), names[i].block);
}

/* Parses --network_args as a list. */
static int parse(TrainNetwork *n, TrainOptions *o, char **args, size_t count, Err *e)
{
    *o = (TrainOptions){.network_dim = 4, .network_alpha = NAN, .conv_alpha = NAN, .network_arg_list = {args, count, count}};
    return train_network_parse(n, o, e);
}

TEST(train_block_rates_are_kohyas)
{
    TrainNetwork n;
    TrainOptions o;
    Err e = {0};
    char *lists[] = {"down_lr_weight=0,0.1,,1", "mid_lr_weight=0.5", "up_lr_weight=cosine+.25",
                     "block_lr_zero_threshold=0.1"};
    CHECK_OK(parse(&n, &o, lists, 4, &e), &e);
    CHECK(n.has_rates && n.rate[0] == 0 && n.rate[1] == 0 && n.rate[2] == 0 && n.rate[3] == 1);
    CHECK(n.rate[11] == 1 && n.rate[12] == 0.5);
    CHECK_NEAR(n.rate[13], 1.25, 1e-12);                      /* sin(pi/2 * 11/11) */
    CHECK_NEAR(n.rate[18], sin(acos(-1) / 2 * 6 / 11) + 0.25, 1e-12);
    CHECK_NEAR(n.rate[24], 0.25, 1e-12);
    TrainRun r = {.network = n};
    double lr[OPTIM_GROUPS] = {[GROUP_TEXT] = 5, [GROUP_UNET] = 2};
    CHECK_INT(train_network_rates(&r, lr), GROUP_COUNT + 2 * 26);
    CHECK_NEAR(lr[GROUP_COUNT + 2 * 12], 1, 1e-12);
    CHECK_NEAR(lr[GROUP_COUNT + 2 * 13], 2.5, 1e-12);
    r.network.plus = 4;
    r.network.plus_text = 3;
    lr[GROUP_TEXT] = 5, lr[GROUP_UNET] = 2;
    train_network_rates(&r, lr);
    CHECK_NEAR(lr[GROUP_COUNT + 2 * 12 + 1], 4, 1e-12);       /* lora_up: times the ratio */
    CHECK_NEAR(lr[GROUP_COUNT + 2 * 25], 5, 1e-12);
    CHECK_NEAR(lr[GROUP_COUNT + 2 * 25 + 1], 15, 1e-12);
}

TEST(train_leaves_out_blocks_of_rate_0)
{
    Err e = {0};
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    CHECK_INT(train("rates",
                    "--network_train_unet_only --network_args down_lr_weight=zeros mid_lr_weight=1 "
                    "up_lr_weight=0,0,0,0,0,0,0,0,0,0.5,1,0"),
              0);
    CHECK_INT(count_of(result("rates"), "down_blocks"), 0);
    CHECK(count_of(result("rates"), "mid_block") > 0);
    CHECK(count_of(result("rates"), "up_blocks_3_attentions_1") > 0);
    CHECK_INT(count_of(result("rates"), "up_blocks_3_attentions_2"), 0);
    CHECK_INT(train("dims", "--network_train_unet_only --network_args "
                    "block_dims=2,2,2,2,2,2,2,2,2,2,2,2,8,4,4,4,4,4,4,4,4,4,4,4,4"), 0);
    CHECK_INT(inspect(result("dims")), 0);
    CHECK(strstr(out, "2 to 8\n"));
}

TEST(train_refuses_network_arguments_by_name)
{
    static const struct { char *arg; const char *mention; } bad[] = {
        {"algo=loha", "algo"}, {"conv_dim", "key=value"}, {"conv_dim=x", "conv_dim=x"}, {"dora_wd=maybe", "dora_wd"},
        {"use_tucker=True", "Tucker"}, {"train_norm=1", "norms"}, {"block_dims=1,2", "25"}, {"rank=4", "rank"},
        {"down_lr_weight=1,2,3,4,5,6,7,8,9,10,11,12,13", "12"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        TrainNetwork n;
        TrainOptions o;
        Err e = {0};
        char *arg = bad[i].arg;
        CHECK_INT(parse(&n, &o, &arg, 1, &e), ERR_USAGE);
        if (!strstr(e.msg, bad[i].mention)) CHECK_STR(e.msg, bad[i].mention);
    }
    CHECK_INT(train("bad", "--network_module networks.oft"), 2);
    CHECK(strstr(err, "networks.lokr"));
    CHECK_INT(train("bad", "--network_module networks.loha --network_dropout 0.1"), 2);
    CHECK(strstr(err, "rank_dropout"));
    CHECK_INT(train("bad", "--network_args dora_wd=True --int8_base"), 2);
    CHECK(strstr(err, "int8_base"));
}

/* ---- added words ------------------------------------------------------------------ */

TEST(bpe_finds_added_words)
{
    static const struct { const char *text; size_t count; int32_t ids[8]; } texts[] = {
        {"a mychar4 b", 4, {320, 50000, 50001, 321}}, {"MyChar4, mychar", 3, {50000, 50001, 267}},
        {"a b", 2, {320, 321}}};
    Tokenizer *t;
    Err e = {0};
    BpeIds plain = {0};
    CHECK_OK(bpe_open(&t, &e), &e);
    CHECK_OK(bpe_encode(t, "mychar", 6, &plain, &e), &e);
    CHECK_OK(bpe_add(t, "mychar4", 50000, 2, &e), &e);
    CHECK_INT(bpe_add(t, " ", 50002, 1, &e), ERR_USAGE);
    for (size_t i = 0; i < 3; i++) {
        BpeIds ids = {0};
        CHECK_OK(bpe_encode(t, texts[i].text, strlen(texts[i].text), &ids, &e), &e);
        CHECK(ids.count >= texts[i].count &&
              !memcmp(ids.ids, texts[i].ids, texts[i].count * sizeof *ids.ids));
        CHECK_INT(ids.count, texts[i].count + (i == 1 ? plain.count : 0));
        bpe_ids_free(&ids);
    }
    bpe_ids_free(&plain);
    bpe_close(t);
}

/* ---- the gradient of added vectors -------------------------------------------------- */

static const SdConfig micro = {
    .in_channels = 4, .unet_width = {32, 32, 32, 32}, .unet_heads = {8, 8, 8, 8}, .text_width = 64,
    .text_layers = 2, .text_heads = 1, .text_ff = 256, .vocab = 100, .vae_width = {32, 32, 32, 32}};
enum { WORD = 40, ROWS = 2, WIDTH = 64 };
#define TABLE "text_encoder.text_model.embeddings.token_embedding.weight"

/* The gradient of two words' vectors: as rows of the whole table, or as added vectors with
 * the same values. */
static int word_gradient(int added, float *grad, float *loss, Err *e)
{
    Model m;
    Schedule s;
    Denoise d;
    float latents[256], noise[256], *table = mem_alloc(100 * WIDTH * sizeof *table);
    int32_t ids[77];
    int t = 300;
    ModelOptions o = {.config = &micro, .threads = 2, .device = kern_device(), .seed = 3};
    TRY(model_open(&m, &o, e));
    TRY(model_initial(&m, checkpoint_find(m.ck, TABLE), table, e));
    if (added) TRY(embeddings_add(&m.embeddings, "x", table + WORD * WIDTH, ROWS, WIDTH, e));
    ModelTraining mt = {.full_text = !added, .tokens = added};
    model_train(&m, &mt);
    schedule_init(&s);
    DenoiseConfig c = {.huber_c = 0.1f};
    TRY(denoise_init(&d, &m, &s, &c, 1, 8, 8, 1, 0, 1, e));
    TRY(model_load(&m, e));
    /* the last convolution starts at zero, which would stop the gradient */
    Param *last = params_find(m.ps, "unet.conv_out.weight");
    float *w = mem_alloc(last->count * sizeof *w);
    rng_normal((RngKey){9, 0, 0, 1}, 0, w, last->count);
    TRY(params_set(m.ps, last, w, e));
    rng_normal((RngKey){1, 0, 0, 1}, 0, latents, 256);
    rng_normal((RngKey){1, 0, 1, 1}, 0, noise, 256);
    for (int i = 0; i < 77; i++) ids[i] = i % 30;
    for (int i = 5; i < 15; i++) ids[i] = (added ? micro.vocab : WORD) + i % 2;
    params_zero_grad(m.ps);
    DenoiseBatch b = {.latents = latents, .noise = noise, .timestep = &t, .ids = ids};
    TRY(denoise_run(&d, &b, 1, loss, NULL, e));
    TRY(params_read_grad(m.ps, params_find(m.ps, added ? CLIP_ADDED : TABLE), table, e));
    memcpy(grad, table + (added ? 0 : WORD * WIDTH), ROWS * WIDTH * sizeof *grad);
    for (size_t i = 0; added && i < m.ps->count; i++)
        if (m.ps->list[i]->grad && strcmp(m.ps->list[i]->name, CLIP_ADDED))
            return err_set(e, ERR_FAIL, "more is trained");
    denoise_free(&d);
    model_close(&m);
    mem_free(table);
    mem_free(w);
    return 0;
}

TEST(added_vectors_have_the_gradient_of_their_words)
{
    static float table[ROWS * WIDTH], added[ROWS * WIDTH];
    float loss[2];
    Err e = {0};
    double size = 0;
    CHECK_OK(word_gradient(0, table, &loss[0], &e), &e);
    CHECK_OK(word_gradient(1, added, &loss[1], &e), &e);
    for (int i = 0; i < ROWS * WIDTH; i++) size += fabs((double)table[i]);
    CHECK(size > 0);
    CHECK(loss[0] == loss[1]);
    CHECK(!memcmp(table, added, sizeof table));
}

/* ---- files --------------------------------------------------------------------------- */

TEST(embeddings_are_read_in_every_form)
{
    static const struct { SynthTensor t; int rows; const char *error;
    } files[] = {{{"emb_params", FD_F16, 2, {3, 64}, NULL}, 3, NULL},
                 {{"<cat-toy>", FD_F32, 1, {64}, NULL}, 1, NULL},
                 {{"string_to_param.*", FD_F32, 2, {2, 64}, NULL}, 2, NULL},
                 {{"emb_params", FD_F16, 2, {3, 32}, NULL}, 0, "32 numbers"},
                 {{"emb_params", FD_F16, 2, {76, 64}, NULL}, 0, "76 vectors"},
                 {{"emb_params", FD_F16, 3, {1, 1, 64}, NULL}, 0, "no textual-inversion"}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        Embeddings em = {0};
        Err e = {0};
        const char *path = test_path("word.safetensors");
        CHECK_OK(synth_file(path, &files[i].t, 1, NULL, 0, &e), &e);
        int rc = embeddings_open(&em, path, 64, &e);
        CHECK_INT(rc, files[i].error ? ERR_INPUT : 0);
        CHECK_INT(em.rows, files[i].rows);
        if (files[i].error) CHECK(strstr(e.msg, files[i].error));
        else
            CHECK(!strcmp(em.list[0].name, "word") &&
                  em.values[1] == synth_value(files[i].t.name, 1));
        embeddings_close(&em);
    }
}

/* Files of torch.save, by tests/data/ckpt/make_embeddings.py. */
TEST(embeddings_are_read_from_pickles)
{
    static const char *const files[] = {"a1111", "compvis"};
    char path[300];
    for (int i = 0; i < 2; i++) {
        Embeddings em = {0};
        Err e = {0};
        snprintf(path, sizeof path, "tests/data/ckpt/%s.pt", files[i]);
        CHECK_OK(embeddings_open(&em, path, 64, &e), &e);
        CHECK_INT(em.rows, 2);
        CHECK_STR(em.list[0].name, files[i]);
        for (int k = 0; k < 128; k++) CHECK(em.values[k] == (float)k / 64 - 1);
        embeddings_close(&em);
        CHECK_INT(embeddings_open(&em, path, 768, &e), ERR_INPUT);
        CHECK(strstr(e.msg, "vectors of 64 numbers") && !em.count);
    }
}

TEST(embeddings_of_hostile_pickles_are_refused)
{
    static const struct { const char *file; int code; const char *says; } files[] = {
        {"hostile.pt", ERR_UNSAFE, "posix.system"}, {"evil.pt", ERR_UNSAFE, "posix.system"},
        {"evil_legacy.pt", ERR_UNSAFE, "posix.system"}, {"expanded.pt", ERR_INPUT, "contiguous"}};
    char path[300], *data;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        Embeddings em = {0};
        Err e = {0};
        snprintf(path, sizeof path, "tests/data/ckpt/%s", files[i].file);
        CHECK_INT(embeddings_open(&em, path, 64, &e), files[i].code);
        CHECK(strstr(e.msg, files[i].says) && !em.count);
    }
    /* cut short anywhere */
    Err e = {0};
    IoMap whole;
    CHECK_OK(io_map(&whole, "tests/data/ckpt/a1111.pt", &e), &e);
    size_t size = whole.size;
    CHECK((data = mem_alloc(size)));
    memcpy(data, whole.data, size);
    io_unmap(&whole);
    for (size_t n = 0; n < size; n += 97) {
        Embeddings em = {0};
        CHECK_OK(io_write_file(test_path("cut.pt"), data, n, &e), &e);
        CHECK_INT(embeddings_open(&em, test_path("cut.pt"), 64, &e), ERR_INPUT);
        CHECK(!em.count);
    }
    mem_free(data);
}

static int sample(const char *prompt, const char *png, const char *more)
{
    char args[1200];
    snprintf(args, sizeof args,
             "sample -m %s -p '%s' -W 64 -H 64 --steps 2 --seed 1 --threads 2 -o %s %s",
             fixture_model(), prompt, test_path(png), more);
    return test_sdc(args, out, err, sizeof out);
}

TEST(train_textual_inversion)
{
    Err e = {0};
    char more[900];
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    CHECK_INT(train("ti",
                    "--ti --token_string zzword --init_word cat --num_vectors_per_token 2 "
                    "--use_object_template"), 0);
    Embeddings em = {0};
    CHECK_OK(embeddings_open(&em, result("ti"), 64, &e), &e);
    CHECK_INT(em.rows, 2);
    /* both began as the same word and have seen other positions */
    CHECK(memcmp(em.values, em.values + 64, 64 * sizeof *em.values) != 0);
    embeddings_close(&em);
    snprintf(more, sizeof more, "--ti --token_string zzword --use_style_template --weights %s",
             result("ti"));
    CHECK_INT(train("ti2", more), 0);
    snprintf(more, sizeof more, "--embeddings %s", result("ti"));
    CHECK_INT(sample("a photo of x", "with.png", more), 0);       /* its file is x.safetensors */
    CHECK_INT(sample("a photo of x", "without.png", ""), 0);
    CHECK(!fixture_same_file(test_path("with.png"), test_path("without.png")));
    snprintf(more, sizeof more, "--embedding_dir %s", test_path("ti"));
    CHECK_INT(sample("a photo of x", "dir.png", more), 0);
    CHECK(fixture_same_file(test_path("with.png"), test_path("dir.png")));
    /* A1111's own file, in its folder */
    char *file;
    size_t size;
    CHECK_OK(io_read_text(&file, &size, "tests/data/ckpt/a1111.pt", 1 << 20, &e), &e);
    CHECK_OK(io_write_file(test_path("ti/zzpt.pt"), file, size, &e), &e);
    mem_free(file);
    snprintf(more, sizeof more, "--embedding_dir %s", test_path("ti"));
    CHECK_INT(sample("a photo of zzpt", "pt.png", more), 0);
    CHECK_INT(sample("a photo of zzpt", "none.png", ""), 0);
    CHECK(!fixture_same_file(test_path("pt.png"), test_path("none.png")));
    CHECK_INT(train("bad", "--ti"), 2);
    CHECK(strstr(err, "token_string"));
    CHECK_INT(train("bad", "--token_string x"), 2);
}
