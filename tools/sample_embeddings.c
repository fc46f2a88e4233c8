/* sample_embeddings.c - which textual-inversion embeddings act; see sample.h. */
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "tools/sample.h"

/* Is the name of a file in the prompt or the negative one? In any case, as tokens are. */
static int is_named(const SampleOptions *o, const char *name)
{
    return strcasestr(o->prompt, name) || (o->negative && strcasestr(o->negative, name));
}

static int is_embedding(const char *file)
{
    static const char *const ends[] = {".safetensors", ".pt", ".bin"};
    size_t n = strlen(file);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (n > strlen(ends[i]) && !strcasecmp(file + n - strlen(ends[i]), ends[i])) return 1;
    return 0;
}

static int open_named(Embeddings *em, const SampleOptions *o, const char *dir, const char *file,
                      int width, Err *e)
{
    char *name = mem_printf("%.*s", (int)(strrchr(file, '.') - file), file),
         *path = mem_printf("%s/%s", dir, file);
    int rc = name && path ? 0 : err_nomem(e, strlen(file), "an embedding");
    int known = 0;
    for (size_t i = 0; !rc && i < em->count; i++) known |= !strcasecmp(em->list[i].name, name);
    if (!rc && !known && is_named(o, name)) rc = embeddings_open(em, path, width, e);
    mem_free(name);
    mem_free(path);
    return rc;
}

static int from_folder(Embeddings *em, const SampleOptions *o, const char *dir, int width, Err *e)
{
    char **files;
    size_t count;
    TRY(io_list(&files, &count, dir, e));
    int rc = 0;
    for (size_t i = 0; i < count && !rc; i++)
        if (is_embedding(files[i])) rc = open_named(em, o, dir, files[i], width, e);
    io_list_free(files, count);
    return rc;
}

/* A1111's folder, seen from models/Stable-diffusion/, and one beside the model. */
static int from_usual_folders(Embeddings *em, const SampleOptions *o, int width, Err *e)
{
    static const char *const below[] = {"embeddings", "../../embeddings"};
    const char *last = strrchr(o->model, '/');
    for (int i = 0; i < 2; i++) {
        char *dir = mem_printf("%.*s%s", last ? (int)(last - o->model) + 1 : 0, o->model, below[i]);
        int rc = dir ? 0 : err_nomem(e, 64, "a folder name");
        if (!rc && io_exists(dir) == 2) rc = from_folder(em, o, dir, width, e);
        mem_free(dir);
        TRY(rc);
    }
    return 0;
}

int sample_embeddings(Embeddings *em, Tokenizer *tok, const SampleOptions *o, const SdConfig *c,
                      Err *e)
{
    for (size_t i = 0; i < o->embeddings.count; i++)
        TRY(embeddings_open(em, o->embeddings.item[i], c->text_width, e));
    if (o->embedding_dir) TRY(from_folder(em, o, o->embedding_dir, c->text_width, e));
    else TRY(from_usual_folders(em, o, c->text_width, e));
    int32_t id = c->vocab;
    for (size_t i = 0; i < em->count; id += em->list[i++].rows)
        TRY(bpe_add(tok, em->list[i].name, id, em->list[i].rows, e));
    for (size_t i = 0; i < o->embeddings.count; i++)
        if (!is_named(o, em->list[i].name))
            sample_note("the embedding %s does nothing: its name is not in the prompt",
                        em->list[i].name);
    return 0;
}
