/* checkpoint_files.c - which files a model consists of.
 *
 * Names in a diffusers folder: huggingface/diffusers and transformers
 * utils/constants (WEIGHTS_NAME, SAFETENSORS_WEIGHTS_NAME and their indexes). */
#include "models/checkpoint_files.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"

enum { SHARDS_MAX = 256, INDEX_BYTES_MAX = 64 << 20 };

static const struct {
    const char *folder;
    const char *const *names;      /* the first that exists is taken */
} components[COMPONENTS] = {
    [COMPONENT_UNET] = {"unet", (const char *const[]){
        "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.non_ema.safetensors",
        "diffusion_pytorch_model.bin", "diffusion_pytorch_model.bin.index.json",
        "diffusion_pytorch_model.fp16.bin", NULL}},
    [COMPONENT_TEXT] = {"text_encoder", (const char *const[]){
        "model.safetensors", "model.safetensors.index.json", "model.fp16.safetensors",
        "model.safetensors.index.fp16.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
        "pytorch_model.fp16.bin", NULL}},
    [COMPONENT_VAE] = {"vae", (const char *const[]){
        "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.fp16.bin", NULL}},
};

static int open_one(Checkpoint *ck, const char *path, int component, Err *e)
{
    if (ck->file_count >= SHARDS_MAX * COMPONENTS)
        return err_set(e, ERR_INPUT, "%s: too many files", ck->path);
    TRY(tensorfile_open(&ck->files[ck->file_count], path, e));
    ck->component[ck->file_count++] = (unsigned char)component;
    return 0;
}

/* The shard names of an index, each once. They are file names, never paths. */
static int shard_names(const json_t *map, const char *path, const char **names, size_t *count,
                       Err *e)
{
    json_t *v;
    const char *key;
    *count = 0;
    json_object_foreach((json_t *)map, key, v) {
        const char *name = json_string_value(v);
        if (!name || !*name || strchr(name, '/') || name[0] == '.')
            return err_set(e, ERR_INPUT, "%s: weight_map of %s is no file name", path, key);
        size_t i = 0;
        while (i < *count && strcmp(names[i], name)) i++;
        if (i < *count) continue;
        if (*count == SHARDS_MAX)
            return err_set(e, ERR_INPUT, "%s: more than %d shards", path, SHARDS_MAX);
        names[(*count)++] = name;
    }
    return 0;
}

static int open_shards(Checkpoint *ck, const json_t *root, const char *index, const char *folder,
                       int component, Err *e)
{
    const char *names[SHARDS_MAX];
    size_t count;
    const json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map))
        return err_set(e, ERR_INPUT, "%s: no weight_map: not an index of shards", index);
    TRY(shard_names(map, index, names, &count, e));
    for (size_t i = 0; i < count; i++) {
        char *path = mem_printf("%s/%s", folder, names[i]);
        if (!path) return err_nomem(e, strlen(folder) + 256, "a path");
        int rc = open_one(ck, path, component, e);
        mem_free(path);
        TRY(rc);
    }
    return 0;
}

static int open_index(Checkpoint *ck, const char *index, const char *folder, int component, Err *e)
{
    char *text;
    json_error_t je;
    TRY(io_read_text(&text, NULL, index, INDEX_BYTES_MAX, e));
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &je);
    mem_free(text);
    if (!root) return err_set(e, ERR_INPUT, "%s: line %d: %s", index, je.line, je.text);
    int rc = open_shards(ck, root, index, folder, component, e);
    json_decref(root);
    return rc;
}

static int open_component(Checkpoint *ck, int component, Err *e)
{
    const char *const *name = components[component].names;
    char *folder = mem_printf("%s/%s", ck->path, components[component].folder), *path = NULL;
    int rc = 0;
    if (!folder) return err_nomem(e, strlen(ck->path) + 32, "a path");
    for (; *name; name++) {
        mem_free(path);
        path = mem_printf("%s/%s", folder, *name);
        if (!path || io_exists(path) == 1) break;
    }
    if (!path)
        rc = err_nomem(e, strlen(folder) + 64, "a path");
    else if (!*name)
        rc = err_set(e, ERR_INPUT, "%s: no %s or other weights in %s/: not a diffusers model",
                     ck->path, components[component].names[0], components[component].folder);
    else if (strstr(*name, ".index."))
        rc = open_index(ck, path, folder, component, e);
    else
        rc = open_one(ck, path, component, e);
    mem_free(path);
    mem_free(folder);
    return rc;
}

int checkpoint_open_files(Checkpoint *ck, Err *e)
{
    ck->files = mem_calloc(SHARDS_MAX * COMPONENTS, sizeof *ck->files);
    ck->component = mem_calloc(SHARDS_MAX * COMPONENTS, 1);
    if (!ck->files || !ck->component) return err_nomem(e, SHARDS_MAX, "a checkpoint");
    ck->is_folder = io_exists(ck->path) == 2;
    if (!ck->is_folder) return open_one(ck, ck->path, 0, e);
    for (int i = 0; i < COMPONENTS; i++) TRY(open_component(ck, i, e));
    return 0;
}
