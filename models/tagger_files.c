/* tagger_files.c - see tagger_files.h: timm's config.json, and the three files together. */
#include "models/tagger_files.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"

enum { CONFIG_MAX_BYTES = 1 << 20, SIZE_MAX_JSON = 1 << 20 };

/* ---- config.json ---------------------------------------------------------------- */

/* An entry that may be missing; one that is there is a number, or a list of equal ones. */
static int size_of(const json_t *o, const char *key, int *out, Err *e)
{
    const json_t *v = json_object_get(o, key);
    if (json_is_array(v) && json_array_size(v) == 2 &&
        json_equal(json_array_get(v, 0), json_array_get(v, 1)))
        v = json_array_get(v, 0);
    json_int_t n = json_is_integer(v) ? json_integer_value(v) : 0;
    if (!v || json_is_null(v)) return 0;
    if (n < 1 || n > SIZE_MAX_JSON) return err_set(e, ERR_INPUT, "\"%s\" must be a number", key);
    *out = (int)n;
    return 0;
}

static int act_of(const json_t *args, ActKind *act, Err *e)
{
    static const struct { const char *name; ActKind act; } known[] = {
        {"gelu", ACT_GELU}, {"gelu_tanh", ACT_GELU_TANH}, {"gelu_pytorch_tanh", ACT_GELU_TANH},
        {"quick_gelu", ACT_QUICK_GELU}, {"silu", ACT_SILU}, {"swish", ACT_SILU}};
    const json_t *v = json_object_get(args, "act_layer");
    *act = ACT_GELU;
    if (!v || json_is_null(v)) return 0;
    const char *name = json_string_value(v);
    for (size_t i = 0; name && i < sizeof known / sizeof *known; i++)
        if (!strcmp(name, known[i].name)) return *act = known[i].act, 0;
    return err_set(e, ERR_INPUT, "\"act_layer\" is none of gelu, gelu_tanh, quick_gelu, silu");
}

/* Three numbers, which the file lists red first. */
static int channels_of(const json_t *o, const char *key, float out[3], Err *e)
{
    const json_t *v = json_object_get(o, key);
    for (int i = 0; i < 3; i++) out[i] = 0.5f;
    if (!v || json_is_null(v)) return 0;
    for (size_t i = 0; i < 3; i++) {
        const json_t *x = json_array_get(v, i);
        if (!json_is_number(x) || json_array_size(v) != 3 ||
            (*key == 's' && !(json_number_value(x) > 0)))
            return err_set(e, ERR_INPUT, "\"%s\" must be three numbers", key);
        out[2 - i] = (float)json_number_value(x);
    }
    return 0;
}

/* What this program's ViT is not. */
static int check_kind(const json_t *root, const json_t *args, Err *e)
{
    const char *name = json_string_value(json_object_get(root, "architecture"));
    if (!name || strncmp(name, "vit_", 4))
        return err_set(e, ERR_INPUT, "\"architecture\" is %s; the tagger must be a ViT, as "
                       "wd-vit-tagger-v3",
                       name ? name : "missing");
    const json_t *v = json_object_get(args, "class_token");
    const json_t *pool = json_object_get(args, "global_pool");
    if (!pool) pool = json_object_get(root, "global_pool");
    if (!json_is_false(v) || strcmp(json_is_string(pool) ? json_string_value(pool) : "", "avg"))
        return err_set(e, ERR_INPUT, "expected \"class_token\": false and \"global_pool\": "
                       "\"avg\", as wd-vit-tagger-v3 has");
    return 0;
}

static int apply(Tagger *t, const json_t *root, Err *e)
{
    const json_t *args = json_object_get(root, "model_args");
    const json_t *pre = json_object_get(root, "pretrained_cfg");
    VitConfig *c = &t->vit;
    TRY(check_kind(root, args, e));
    TRY(size_of(root, "num_classes", &c->classes, e));
    TRY(size_of(args, "img_size", &c->side, e));
    TRY(size_of(args, "patch_size", &c->patch, e));
    TRY(size_of(args, "embed_dim", &c->width, e));
    TRY(size_of(args, "depth", &c->depth, e));
    TRY(size_of(args, "num_heads", &c->heads, e));
    TRY(act_of(args, &c->act, e));
    c->fc_norm = json_is_true(json_object_get(args, "fc_norm"));
    TRY(channels_of(pre, "mean", t->input.mean, e));
    return channels_of(pre, "std", t->input.std, e);
}

static int read_config(Tagger *t, const char *path, Err *e)
{
    json_error_t why;
    if (io_exists(path) != 1)
        return err_set(e, ERR_INPUT, "%s: not there; a tagger is model.safetensors with its "
                       "config.json and selected_tags.csv beside it", path);
    TRY(io_read_text(&t->config, NULL, path, CONFIG_MAX_BYTES, e));
    json_t *root = json_loads(t->config, JSON_REJECT_DUPLICATES, &why);
    int rc = json_is_object(root) ? apply(t, root, e)
                                  : err_set(e, ERR_INPUT, "no JSON object: line %d: %s", why.line,
                                            why.text);
    if (rc) err_prefix(e, "%s", path);
    json_decref(root);
    return rc;
}

/* ---- all three ------------------------------------------------------------------ */

static int read_tags(Tagger *t, const char *path, Err *e)
{
    if (io_exists(path) != 1)
        return err_set(e, ERR_INPUT, "%s: not there; it tells what the outputs of %s mean", path,
                       t->path);
    TRY(taglist_read(&t->tags, path, e));
    if (t->tags.count == (size_t)t->vit.classes) return 0;
    return err_set(e, ERR_INPUT, "%s: %zu tags, but %s has %d outputs: they do not belong "
                   "together", path,
                   t->tags.count, t->path, t->vit.classes);
}

int tagger_files_open(Tagger *t, const char *path, Err *e)
{
    int folder = io_exists(path) == 2;
    const char *slash = strrchr(path, '/');
    t->path = folder ? mem_printf("%s/model.safetensors", path) : mem_strdup(path);
    char *dir = folder ? mem_strdup(path) : slash ? mem_printf("%.*s", (int)(slash - path), path)
                                                  : mem_strdup(".");
    char *config = dir ? mem_printf("%s/config.json", dir) : NULL;
    char *tags = dir ? mem_printf("%s/selected_tags.csv", dir) : NULL;
    int rc = t->path && dir && config && tags ? 0 : err_nomem(e, strlen(path), "a path");
    if (!rc) rc = tensorfile_open(&t->file, t->path, e);
    if (!rc) rc = read_config(t, config, e);
    if (!rc) rc = vit_from_tensors(&t->vit, t->file, e);
    if (!rc) rc = read_tags(t, tags, e);
    mem_free(dir);
    mem_free(config);
    mem_free(tags);
    return rc;
}

int tagger_files_new(Tagger *t, const char *path, Err *e)
{
    TRY(read_config(t, path, e));
    if (!t->vit.heads) t->vit.heads = t->vit.width >= 64 ? t->vit.width / 64 : 1;
    t->vit.ff = 4 * t->vit.width;
    VitConfig whole = t->vit;
    whole.classes = 1;
    int rc = vit_check(&whole, e);
    return rc ? err_prefix(e, "%s", path) : 0;
}

/* ---- writing -------------------------------------------------------------------- */

/* Values of a tensor of the file, from the one or three parameters it consists of. */
static int gather(const Tagger *t, const VitTensor *v, float *dst, Err *e)
{
    for (int k = 0; k < (v->fused ? 3 : 1); k++) {
        const Param *p = params_find(t->ps, v->fused ? vit_part(v->name, k).s : v->name);
        if (!p) return err_set(e, ERR_FAIL, "tensor %s: not in the model", v->name);
        TRY(params_read(t->ps, p, dst + (size_t)k * p->count, e));
    }
    return 0;
}

static size_t count_of(const VitTensor *v)
{
    size_t n = 1;
    for (int i = 0; i < v->ndim; i++) n *= (size_t)v->shape[i];
    return n;
}

static int write_all(const Tagger *t, TensorWriter *w, FileDtype dt, Err *e)
{
    VitTensor v;
    size_t most = 0;
    for (int i = 0; vit_tensor(&t->vit, i, &v); i++) {
        TRY(tensorwriter_add(w, v.name, dt, v.ndim, v.shape, e));
        if (count_of(&v) > most) most = count_of(&v);
    }
    TRY(tensorwriter_meta(w, "format", "pt", e));
    TRY(tensorwriter_begin(w, e));
    float *values = mem_alloc(most * sizeof *values);
    if (!values) return err_nomem(e, most * sizeof *values, "a tensor");
    int rc = 0;
    for (const char *due; !rc && (due = tensorwriter_next(w));)
        for (int i = 0; !rc && vit_tensor(&t->vit, i, &v); i++) {
            if (strcmp(v.name, due)) continue;
            rc = gather(t, &v, values, e);
            if (!rc) rc = tensorwriter_write_f32(w, values, count_of(&v), e);
            break;
        }
    mem_free(values);
    return rc;
}

static int write_weights(const Tagger *t, const char *path, Dtype dt, Err *e)
{
    static const FileDtype types[] = {[DT_F32] = FD_F32, [DT_BF16] = FD_BF16, [DT_F16] = FD_F16};
    TensorWriter *w;
    TRY(tensorwriter_new(&w, path, e));
    int rc = write_all(t, w, types[dt], e);
    if (rc) return tensorwriter_abort(w), rc;
    return tensorwriter_commit(w, e);
}

/* The config that was read, with the number of tags. */
static int write_config(const Tagger *t, const char *path, Err *e)
{
    json_t *root = json_loads(t->config, 0, NULL), *pre = json_object_get(root, "pretrained_cfg");
    int bad = json_object_set_new(root, "num_classes", json_integer(t->vit.classes));
    if (json_is_object(pre))
        bad |= json_object_set_new(pre, "num_classes", json_integer(t->vit.classes));
    char *text = bad ? NULL : json_dumps(root, JSON_INDENT(2));
    int rc = text ? io_write_file(path, text, strlen(text), e) : err_nomem(e, 64, path);
    free(text);                        /* jansson's */
    json_decref(root);
    return rc;
}

int tagger_save(const Tagger *t, const char *folder, Dtype dt, Err *e)
{
    char *model = mem_printf("%s/model.safetensors", folder);
    char *config = mem_printf("%s/config.json", folder);
    char *tags = mem_printf("%s/selected_tags.csv", folder);
    int rc = model && config && tags ? 0 : err_nomem(e, strlen(folder), "a path");
    if (!rc) rc = io_mkdirs(folder, e);
    if (!rc) rc = taglist_write(&t->tags, tags, e);
    if (!rc) rc = write_config(t, config, e);
    if (!rc) rc = write_weights(t, model, dt, e);
    mem_free(model);
    mem_free(config);
    mem_free(tags);
    return rc;
}
