/* test_checkpoint.c - opening and saving models: single files, folders, shards. */
#include <stdlib.h>
#include <unistd.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "tests/fail.h"
#include "tests/synth.h"
#include "tests/test.h"

/* ---- opening ----------------------------------------------------------------------------- */

/* Every parameter has its synthetic values. */
static const char *wrong_parameter(const Checkpoint *ck)
{
    for (size_t i = 0; i < ck->count; i++) {
        const CheckpointEntry *en = &ck->entries[i];
        float *v = malloc((size_t)en->count * sizeof *v);
        int ok = checkpoint_read_f32(en, v, NULL) == 0 && checkpoint_find(ck, en->name) == en;
        for (int64_t j = 0; j < en->count && ok; j++) ok = v[j] == synth_value(en->name, j);
        free(v);
        if (!ok) return en->name;
    }
    return "";
}

static void note_unused(void *ctx, const FileTensor *t)
{
    strcat(ctx, t->name);
    strcat(ctx, " ");
}

TEST(checkpoint_reads_every_parameter)
{
    static const char *const types[] = {"sd1", "sd2"};
    for (int i = 0; i < 2; i++) {
        SdConfig c;
        Checkpoint *ck;
        Err e = {0};
        const char *path = test_path("m.safetensors");
        CHECK_OK(synth_config(&c, types[i], &e), &e);
        CHECK_OK(synth_model(path, &c, &e), &e);
        CHECK_OK(checkpoint_open(&ck, path, &e), &e);
        char unused[2000] = "", wrong[KEY_MAX];
        size_t n = 0;
        int same = !memcmp(&c, &ck->config, sizeof c);
        snprintf(wrong, sizeof wrong, "%s", wrong_parameter(ck));
        checkpoint_unused(ck, note_unused, unused, &n, &e);
        checkpoint_close(ck);
        CHECK(same);
        CHECK_STR(wrong, "");
        CHECK(strstr(unused, "alphas_cumprod") && strstr(unused, "position_ids"));
        CHECK_INT(n, i ? 3 + 12 : 3);       /* sd2: the last layer, which is not used */
    }
}

/* The keys and shapes of a real-format SD1 file of widths 32 64 64 64. */
TEST(checkpoint_writes_the_known_key_set)
{
    static const char json[] =
        "{\"type\": \"sd1\", \"unet\": [32,64,64,64], \"vae\": [32,32,32,64], \"text_width\": 128, "
        "\"text_layers\": 3, \"vocab\": 1000}";
    SdConfig c;
    TensorFile *tf;
    char *text, line[400];
    size_t lines = 0;
    Err e = {0};
    const char *path = test_path("keys.safetensors");
    CHECK_OK(config_from_json(&c, json, "json", &e), &e);
    CHECK_OK(synth_model(path, &c, &e), &e);
    CHECK_OK(io_read_text(&text, NULL, "tests/data/models/tiny_sd1_keys.txt", 1 << 20, &e), &e);
    CHECK_OK(tensorfile_open(&tf, path, &e), &e);
    for (char *p = strtok(text, "\n"); p; p = strtok(NULL, "\n"), lines++) {
        char *space = strchr(p, ' ');
        *space = 0;
        const FileTensor *t = tensorfile_find(tf, p);
        if (!t && !strcmp(p, "sqrt_alphas_cumprod")) continue;
        if (!t) CHECK_STR(p, "a tensor of the file");
        line[0] = 0;
        for (int i = 0; i < t->ndim; i++)
            snprintf(line + strlen(line), 40, "%s%lld", i ? "," : "", (long long)t->shape[i]);
        CHECK_STR(line, space + 1);
    }
    CHECK_INT(lines, tensorfile_count(tf) + 1);
    tensorfile_close(tf);
    mem_free(text);
}

TEST(checkpoint_reads_folders_old_and_new)
{
    for (int old = 0; old < 2; old++) {
        SdConfig c;
        Checkpoint *ck;
        Err e = {0};
        const char *dir = test_path(old ? "old" : "new"),
                   *saved = test_path("from-folder.safetensors");
        CHECK_OK(synth_config(&c, old ? "sd1" : "sd2", &e), &e);
        CHECK_OK(synth_folder(dir, &c, old, &e), &e);
        CHECK_OK(checkpoint_open(&ck, dir, &e), &e);
        char wrong[KEY_MAX];
        snprintf(wrong, sizeof wrong, "%s", wrong_parameter(ck));
        int rc = checkpoint_save(ck, saved, &(CheckpointSave){0}, &e);
        checkpoint_close(ck);
        CHECK_STR(wrong, "");
        CHECK_OK(rc, &e);
        CHECK_OK(checkpoint_open(&ck, saved, &e), &e);
        snprintf(wrong, sizeof wrong, "%s", wrong_parameter(ck));
        int same = !memcmp(&c, &ck->config, sizeof c);
        checkpoint_close(ck);
        CHECK_STR(wrong, "");
        CHECK(same);
    }
}

static int put(const char *dir, const char *name, const char *text)
{
    char path[500];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return io_write_file(path, text, strlen(text), NULL);
}

TEST(checkpoint_folder_configs_win)
{
    SdConfig c;
    Checkpoint *ck;
    Err e = {0};
    const char *dir = test_path("configs");
    CHECK_OK(synth_config(&c, "sd1", &e), &e);
    CHECK_OK(synth_folder(dir, &c, 0, &e), &e);
    CHECK_OK(io_mkdirs(test_path("configs/scheduler"), &e), &e);
    put(dir, "unet/config.json",
        "{\"attention_head_dim\": [1, 2, 4, 4], \"class_embed_type\": null}");
    put(dir, "text_encoder/config.json", "{\"hidden_act\": \"gelu\", \"num_attention_heads\": 2}");
    put(dir, "scheduler/scheduler_config.json", "{\"prediction_type\": \"v_prediction\"}");
    CHECK_OK(checkpoint_open(&ck, dir, &e), &e);
    c = ck->config;
    checkpoint_close(ck);
    CHECK_INT(c.unet_heads[0], 1);
    CHECK_INT(c.unet_heads[2], 4);
    CHECK_INT(c.text_gelu, 1);
    CHECK_INT(c.text_heads, 2);
    CHECK_INT(c.v_prediction, 1);
    put(dir, "unet/config.json", "{\"attention_head_dim\": 3}");
    CHECK_INT(checkpoint_open(&ck, dir, &e), ERR_INPUT);
    CHECK(strstr(e.msg, "attention heads"));
}

/* The U-Net in two shards, by the first letter of its keys. */
static int half(void *ctx, char *name, int *ndim, int64_t *shape)
{
    (void)ndim, (void)shape;
    return (name[0] == 'u') == (*(int *)ctx != 0);
}

TEST(checkpoint_reads_shards)
{
    SdConfig c;
    Checkpoint *ck;
    Err e = {0};
    const char *dir = test_path("shards");
    char whole[400], part[400], wrong[KEY_MAX];
    CHECK_OK(synth_config(&c, "sd1", &e), &e);
    CHECK_OK(synth_folder(dir, &c, 0, &e), &e);
    snprintf(whole, sizeof whole, "%s/unet/diffusion_pytorch_model.safetensors", dir);
    for (int i = 0; i < 2; i++) {
        snprintf(part, sizeof part, "%s/unet/part-%d.safetensors", dir, i);
        CHECK_OK(synth_copy(part, whole, half, &i, &e), &e);
    }
    unlink(whole);
    put(dir, "unet/diffusion_pytorch_model.safetensors.index.json",
        "{\"weight_map\": {\"a\": \"part-0.safetensors\", \"b\": \"part-1.safetensors\", "
        "\"c\": \"part-0.safetensors\"}}");
    CHECK_OK(checkpoint_open(&ck, dir, &e), &e);
    snprintf(wrong, sizeof wrong, "%s", wrong_parameter(ck));
    CHECK_INT(ck->file_count, 4);
    checkpoint_close(ck);
    CHECK_STR(wrong, "");
    put(dir, "unet/diffusion_pytorch_model.safetensors.index.json",
        "{\"weight_map\": {\"a\": \"../vae/diffusion_pytorch_model.safetensors\"}}");
    CHECK_INT(checkpoint_open(&ck, dir, &e), ERR_INPUT);
    CHECK(strstr(e.msg, "no file name"));
}

/* What edit_file does to one tensor. */
typedef struct {
    const char *name;
    int drop;
    int64_t rows;          /* new shape[0], shape[1] takes the rest */
} Edit;

static int edit_one(void *ctx, char *name, int *ndim, int64_t *shape)
{
    const Edit *ed = ctx;
    (void)ndim;
    if (strcmp(name, ed->name)) return 1;
    if (ed->drop) return 0;
    shape[1] = shape[0] * shape[1] / ed->rows;
    shape[0] = ed->rows;
    return 1;
}

/* Files without "text_model." in the names of the text encoder. */
static int without_text_model(void *ctx, char *name, int *ndim, int64_t *shape)
{
    char *p = strstr(name, "text_model.");
    (void)ctx, (void)ndim, (void)shape;
    if (p) memmove(p, p + 11, strlen(p + 11) + 1);
    return 1;
}

TEST(checkpoint_names_what_is_wrong)
{
    static const char conv[] = "model.diffusion_model.input_blocks.4.0.emb_layers.1.weight";
    static const char part[] = "first_stage_model.decoder.mid.attn_1.q.weight";
    SdConfig c;
    Checkpoint *ck;
    const char *path = test_path("good.safetensors"), *bad = test_path("bad.safetensors");
    Err e = {0}, e1 = {0}, e2 = {0};
    CHECK_OK(synth_config(&c, "sd1", &e), &e);
    CHECK_OK(synth_model(path, &c, &e), &e);
    CHECK_OK(synth_copy(bad, path, edit_one, &(Edit){.name = part, .drop = 1}, &e), &e);
    CHECK_INT(checkpoint_open(&ck, bad, &e1), ERR_INPUT);
    CHECK(strstr(e1.msg, part) && strstr(e1.msg, "missing") && strstr(e1.msg, bad));
    CHECK_OK(synth_copy(bad, path, edit_one, &(Edit){.name = conv, .rows = 16}, &e), &e);
    CHECK_INT(checkpoint_open(&ck, bad, &e2), ERR_INPUT);
    CHECK(strstr(e2.msg, conv) && strstr(e2.msg, "[16,256]") && strstr(e2.msg, "[32,128]"));
    CHECK_OK(synth_copy(bad, path, without_text_model, NULL, &e), &e);
    CHECK_OK(checkpoint_open(&ck, bad, &e), &e);
    char wrong[KEY_MAX];
    snprintf(wrong, sizeof wrong, "%s", wrong_parameter(ck));
    checkpoint_close(ck);
    CHECK_STR(wrong, "");
}

/* ---- saving --------------------------------------------------------------------------------- */

/* New values for one parameter: old + 1. */
static int plus_one(void *ctx, const CheckpointEntry *en, float *v, int *changed, Err *e)
{
    if (strcmp(en->name, ctx)) return 0;
    TRY(checkpoint_read_f32(en, v, e));
    for (int64_t i = 0; i < en->count; i++) v[i] += 1;
    *changed = 1;
    return 0;
}

static int files_equal(const char *a, const char *b)
{
    IoMap x, y;
    if (io_map(&x, a, NULL)) return 0;
    int same = !io_map(&y, b, NULL) && x.size == y.size && !memcmp(x.data, y.data, x.size);
    io_unmap(&x);
    io_unmap(&y);
    return same;
}

TEST(checkpoint_save_copies_bit_for_bit)
{
    SdConfig c;
    Checkpoint *ck;
    Err e = {0};
    const char *path = test_path("src.safetensors"), *out = test_path("copy.safetensors");
    CHECK_OK(synth_config(&c, "sd2", &e), &e);
    CHECK_OK(synth_model(path, &c, &e), &e);
    CHECK_OK(checkpoint_open(&ck, path, &e), &e);
    /* synth_model's last step wrote no metadata; a copy says format=pt unless there is some */
    CHECK_OK(checkpoint_save(ck, out, &(CheckpointSave){0}, &e), &e);
    checkpoint_close(ck);
    CHECK_OK(checkpoint_open(&ck, out, &e), &e);
    CHECK_OK(checkpoint_save(ck, path, &(CheckpointSave){0}, &e), &e);
    checkpoint_close(ck);
    CHECK(files_equal(path, out));
}

TEST(checkpoint_save_changes_one_part_in_place)
{
    static char name[] = "text_encoder.text_model.encoder.layers.0.self_attn.k_proj.weight";
    static const char key[] = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight";
    SdConfig c;
    Checkpoint *ck;
    TensorFile *before, *after;
    Err e = {0};
    const char *path = test_path("one.safetensors"), *old = test_path("one-old.safetensors");
    CHECK_OK(synth_config(&c, "sd2", &e), &e);
    CHECK_OK(synth_model(path, &c, &e), &e);
    CHECK_OK(synth_copy(old, path, NULL, NULL, &e), &e);
    CHECK_OK(checkpoint_open(&ck, path, &e), &e);
    CheckpointSave save = {.values = plus_one, .ctx = name};
    CHECK_OK(checkpoint_save(ck, path, &save, &e), &e);      /* over its own source */
    checkpoint_close(ck);
    CHECK_OK(tensorfile_open(&before, old, &e), &e);
    CHECK_OK(tensorfile_open(&after, path, &e), &e);
    size_t differ = 0, n = tensorfile_count(before);
    CHECK_INT(tensorfile_count(after), n);
    for (size_t i = 0; i < n; i++) {
        const FileTensor *a = tensorfile_at(before, i), *b = tensorfile_find(after, a->name);
        CHECK(b && b->dtype == a->dtype && b->bytes == a->bytes && b->ndim == a->ndim);
        if (!memcmp(a->data, b->data, a->bytes)) continue;
        differ++;
        CHECK_STR(a->name, key);
        float x[2], y[2];
        for (int p = 0; p < 3; p++) {            /* q and v stay, k changes */
            tensorfile_read_f32(before, a, p * 64 * 64, 1, x, &e);
            tensorfile_read_f32(after, b, p * 64 * 64, 1, y, &e);
            CHECK_NEAR(y[0], x[0] + (p == 1), 1e-3);
        }
    }
    CHECK_INT(differ, 1);
    tensorfile_close(before);
    tensorfile_close(after);
}

static int infinite(void *ctx, const CheckpointEntry *en, float *v, int *changed, Err *e)
{
    (void)e;
    if (strcmp(en->name, "unet.conv_in.bias")) return 0;
    for (int64_t i = 0; i < en->count; i++) v[i] = *(float *)ctx;
    *changed = 1;
    return 0;
}

TEST(checkpoint_save_refuses_worthless_values)
{
    float values[] = {NAN, INFINITY, 7e4f};
    SdConfig c;
    Checkpoint *ck;
    Err e = {0};
    const char *path = test_path("fin.safetensors"), *out = test_path("fin-out.safetensors");
    CHECK_OK(synth_config(&c, "sd1", &e), &e);
    CHECK_OK(synth_model(path, &c, &e), &e);
    CHECK_OK(checkpoint_open(&ck, path, &e), &e);
    for (int i = 0; i < 3; i++) {
        Err e2 = {0};
        CheckpointSave save = {.values = infinite, .ctx = &values[i]};
        CHECK_INT(checkpoint_save(ck, out, &save, &e2), ERR_FAIL);
        CHECK(strstr(e2.msg, "model.diffusion_model.input_blocks.0.0.bias"));
        CHECK_INT(io_exists(out), 0);
    }
    CheckpointSave wide = {.values = infinite, .ctx = &values[2], .cast = 1, .dtype = FD_BF16};
    CHECK_OK(checkpoint_save(ck, out, &wide, &e), &e);
    checkpoint_close(ck);
    TensorFile *tf;
    CHECK_OK(tensorfile_open(&tf, out, &e), &e);
    CHECK_INT(tensorfile_find(tf, "model.diffusion_model.out.2.weight")->dtype, FD_BF16);
    CHECK_INT(tensorfile_find(tf, "alphas_cumprod")->dtype, FD_F32);
    tensorfile_close(tf);
}

TEST(checkpoint_prediction_type_survives)
{
    static const LoraMeta v = {"modelspec.prediction_type", "v"};
    SdConfig c;
    Checkpoint *ck;
    Err e = {0};
    const char *path = test_path("v.safetensors"), *out = test_path("v-out.safetensors");
    CHECK_OK(synth_config(&c, "sd2", &e), &e);
    CHECK_OK(synth_model(path, &c, &e), &e);
    CHECK_OK(checkpoint_open(&ck, path, &e), &e);
    int plain = ck->config.v_prediction;
    CHECK_OK(checkpoint_save(ck, out, &(CheckpointSave){.meta = &v, .meta_count = 1}, &e), &e);
    checkpoint_close(ck);
    CHECK_OK(checkpoint_open(&ck, out, &e), &e);
    int marked = ck->config.v_prediction;
    checkpoint_close(ck);
    CHECK_INT(plain, 0);
    CHECK_INT(marked, 1);
}

TEST(checkpoint_survives_failures)
{
    SdConfig c;
    Checkpoint *ck;
    Err e = {0};
    const char *path = test_path("fail.safetensors"), *out = test_path("fail-out.safetensors");
    CHECK_OK(synth_config(&c, "sd2", &e), &e);
    CHECK_OK(synth_model(path, &c, &e), &e);
    int rc = 1;
    for (long n = 1; rc; n += n < 12 ? 1 : 61) {
        Err e2 = {0};
        fail_mem(n);
        rc = checkpoint_open(&ck, path, &e2);
        fail_mem(0);
        if (rc) CHECK_INT(rc, ERR_MEMORY);
    }
    rc = 1;
    for (long n = 1; rc; n += n < 12 ? 1 : 151) {
        Err e2 = {0};
        fail_mem(n);
        rc = checkpoint_save(ck, out, &(CheckpointSave){0}, &e2);
        fail_mem(0);
        if (rc) CHECK_INT(rc, ERR_MEMORY);
        if (rc) CHECK_INT(io_exists(out), 0);
    }
    unlink(out);
    fail_io(3);
    rc = checkpoint_save(ck, out, &(CheckpointSave){0}, &e);
    fail_io(0);
    checkpoint_close(ck);
    CHECK_INT(rc, ERR_DISK);
    CHECK_INT(io_exists(out), 0);
}
