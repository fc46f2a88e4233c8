/* config_json.c - what JSON says about an architecture: config.json files of a
 * diffusers folder, metadata of a single file, a configuration for random weights. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "models/config.h"

enum { CONFIG_BYTES_MAX = 1 << 20 };

static int parse(json_t **root, const char *text, const char *name, Err *e)
{
    json_error_t je;
    *root = json_loads(text, JSON_REJECT_DUPLICATES, &je);
    if (*root && !json_is_object(*root)) {
        json_decref(*root);
        return err_set(e, ERR_INPUT, "%s: expected a JSON object", name);
    }
    if (!*root) return err_set(e, ERR_INPUT, "%s: line %d: %s", name, je.line, je.text);
    return 0;
}

/* The object in folder/file; *root stays NULL when there is no such file. */
static int load(json_t **root, const char *folder, const char *file, Err *e)
{
    *root = NULL;
    char *path = mem_printf("%s/%s", folder, file), *text = NULL;
    if (!path) return err_nomem(e, strlen(folder) + 64, "a path");
    int rc = 0;
    if (io_exists(path) == 1) {
        rc = io_read_text(&text, NULL, path, CONFIG_BYTES_MAX, e);
        if (!rc) rc = parse(root, text, path, e);
    }
    mem_free(text);
    mem_free(path);
    return rc;
}

static int int_of(const json_t *v, int *out)
{
    json_int_t n = json_is_integer(v) ? json_integer_value(v) : 0;
    if (n < 1 || n > 1 << 24) return 0;
    *out = (int)n;
    return 1;
}

static int ints_of(const json_t *v, int *out)
{
    if (!json_is_array(v) || json_array_size(v) != SD_LEVELS) return 0;
    for (int i = 0; i < SD_LEVELS; i++)
        if (!int_of(json_array_get(v, (size_t)i), &out[i])) return 0;
    return 1;
}

/* diffusers calls the number of heads attention_head_dim; num_attention_heads,
 * where it is not null, wins. */
static int unet_config(SdConfig *c, const json_t *o, const char *folder, Err *e)
{
    const json_t *v = json_object_get(o, "num_attention_heads");
    if (!v || json_is_null(v)) v = json_object_get(o, "attention_head_dim");
    if (v) {
        int one;
        if (int_of(v, &one))
            for (int i = 0; i < SD_LEVELS; i++) c->unet_heads[i] = one;
        else if (!ints_of(v, c->unet_heads))
            return err_set(e, ERR_INPUT, "%s/unet/config.json: attention_head_dim must be a number "
                           "or 4 numbers", folder);
    }
    static const char *const off[] = {"class_embed_type", "addition_embed_type", "encoder_hid_dim",
                                      "time_cond_proj_dim"};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        v = json_object_get(o, off[i]);
        if (v && !json_is_null(v))
            return err_set(e, ERR_INPUT, "%s/unet/config.json: %s is set, which SD 1.x and 2.x do "
                           "not have", folder, off[i]);
    }
    return 0;
}

static int text_config(SdConfig *c, const json_t *o, const char *folder, Err *e)
{
    const json_t *v = json_object_get(o, "num_attention_heads");
    if (v && !int_of(v, &c->text_heads))
        return err_set(e, ERR_INPUT, "%s/text_encoder/config.json: num_attention_heads must be a "
                       "number", folder);
    const char *act = json_string_value(json_object_get(o, "hidden_act"));
    if (!act) return 0;
    if (strcmp(act, "gelu") && strcmp(act, "quick_gelu"))
        return err_set(e, ERR_INPUT, "%s/text_encoder/config.json: hidden_act \"%s\" is neither "
                       "gelu nor quick_gelu", folder, act);
    c->text_gelu = !strcmp(act, "gelu");
    return 0;
}

static int prediction(SdConfig *c, const char *type, const char *where, Err *e)
{
    int v = !strcmp(type, "v") || !strcmp(type, "v_prediction");
    if (!v && strcmp(type, "epsilon"))
        return err_set(e, ERR_INPUT, "%s: prediction_type \"%s\" is neither epsilon nor "
                       "v_prediction", where, type);
    c->v_prediction = v;
    return 0;
}

static int scheduler_config(SdConfig *c, const json_t *o, const char *folder, Err *e)
{
    const char *type = json_string_value(json_object_get(o, "prediction_type"));
    return type ? prediction(c, type, folder, e) : 0;
}

int config_from_diffusers(SdConfig *c, const char *folder, Err *e)
{
    static const struct {
        const char *file;
        int (*apply)(SdConfig *, const json_t *, const char *, Err *);
    } parts[] = {{"unet/config.json", unet_config},
                 {"text_encoder/config.json", text_config},
                 {"scheduler/scheduler_config.json", scheduler_config}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        json_t *root;
        TRY(load(&root, folder, parts[i].file, e));
        int rc = root ? parts[i].apply(c, root, folder, e) : 0;
        json_decref(root);
        TRY(rc);
    }
    return 0;
}

void config_from_metadata(SdConfig *c, const TensorFile *tf)
{
    const char *type = tensorfile_meta(tf, "modelspec.prediction_type");
    const char *arch = tensorfile_meta(tf, "modelspec.architecture");
    if (type) c->v_prediction = !strcmp(type, "v") || !strcmp(type, "v_prediction");
    else if (arch) c->v_prediction = !strcmp(arch, "stable-diffusion-v2-768-v");
    if (tensorfile_find(tf, "v_pred")) c->v_prediction = 1;
}

static int known_key(const char *key)
{
    static const char *const keys[] = {"type", "unet", "vae", "text_width", "text_layers", "vocab",
                                       "in_channels", "prediction_type"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strcmp(key, keys[i])) return 1;
    return 0;
}

static int from_object(SdConfig *c, json_t *o, const char *name, Err *e)
{
    const char *key, *type = json_string_value(json_object_get(o, "type"));
    json_t *v;
    json_object_foreach(o, key, v)
        if (!known_key(key)) return err_set(e, ERR_INPUT, "%s: unknown entry \"%s\"", name, key);
    if (!type || (strcmp(type, "sd1") && strcmp(type, "sd2")))
        return err_set(e, ERR_INPUT, "%s: \"type\" must be \"sd1\" or \"sd2\"", name);
    c->linear_proj = c->openclip = c->text_gelu = !strcmp(type, "sd2");
    if (!ints_of(json_object_get(o, "unet"), c->unet_width) ||
        !ints_of(json_object_get(o, "vae"), c->vae_width))
        return err_set(e, ERR_INPUT, "%s: \"unet\" and \"vae\" must be lists of 4 widths", name);
    if (!int_of(json_object_get(o, "text_width"), &c->text_width) ||
        !int_of(json_object_get(o, "text_layers"), &c->text_layers) ||
        c->text_layers > SD_TEXT_LAYERS_MAX - 1 || c->text_width > 1 << 14)
        return err_set(e, ERR_INPUT, "%s: \"text_width\" and \"text_layers\" must be numbers",
                       name);
    c->vocab = 49408;
    c->in_channels = 4;
    if ((v = json_object_get(o, "vocab")) && !int_of(v, &c->vocab))
        return err_set(e, ERR_INPUT, "%s: \"vocab\" must be a number", name);
    if ((v = json_object_get(o, "in_channels")) && !int_of(v, &c->in_channels))
        return err_set(e, ERR_INPUT, "%s: \"in_channels\" must be a number", name);
    if ((v = json_object_get(o, "prediction_type")))
        TRY(prediction(c, json_is_string(v) ? json_string_value(v) : "", name, e));
    c->text_ff = 4 * c->text_width;
    config_default_heads(c);
    int rc = config_check(c, e);
    return rc ? err_prefix(e, "%s", name) : 0;
}

int config_from_json(SdConfig *c, const char *text, const char *name, Err *e)
{
    json_t *root;
    *c = (SdConfig){0};
    TRY(parse(&root, text, name, e));
    int rc = from_object(c, root, name, e);
    json_decref(root);
    return rc;
}
