/* embedding.c - see embedding.h. */
#include "engine/embedding.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#include "engine/mem.h"
#include "engine/tensorfile.h"

enum { ROWS_MAX = 75 };                /* more than a chunk of a prompt cannot be used */

static char *name_of(const char *path)
{
    static const char *const ends[] = {".safetensors", ".pt", ".bin"};
    const char *slash = strrchr(path, '/');
    char *s = mem_strdup(slash ? slash + 1 : path);
    size_t n = s ? strlen(s) : 0;
    for (size_t i = 0; s && i < sizeof ends / sizeof *ends; i++) {
        size_t k = strlen(ends[i]);
        if (n > k && !strcasecmp(s + n - k, ends[i])) return s[n - k] = 0, s;
    }
    return s;
}

int embeddings_add(Embeddings *em, const char *name, const float *values, int rows, int width,
                   Err *e)
{
    Embedding *list = mem_grow(em->list, em->count, &em->cap, sizeof *list);
    if (!list) return err_nomem(e, sizeof *list, "an embedding");
    em->list = list;
    size_t row = (size_t)width * sizeof(float), bytes = (size_t)(em->rows + rows) * row;
    float *all = mem_realloc(em->values, bytes);
    char *copy = all ? mem_strdup(name) : NULL;
    if (all) em->values = all;
    if (!copy) return err_nomem(e, bytes, "an embedding");
    memcpy(all + (size_t)em->rows * (size_t)width, values, (size_t)rows * row);
    list[em->count++] = (Embedding){copy, rows};
    em->rows += rows;
    em->width = width;
    return 0;
}

/* The tensor that holds the vectors. */
static const FileTensor *vectors_of(const TensorFile *tf)
{
    const FileTensor *t = tensorfile_find(tf, "emb_params");
    for (size_t i = 0; !t && i < tensorfile_count(tf); i++)
        if (strstr(tensorfile_at(tf, i)->name, "string_to_param")) t = tensorfile_at(tf, i);
    return t ? t : tensorfile_count(tf) == 1 ? tensorfile_at(tf, 0) : NULL;
}

static int read_vectors(float **values, int *rows, const TensorFile *tf, int width, Err *e)
{
    const char *path = tensorfile_path(tf);
    const FileTensor *t = vectors_of(tf);
    if (!t || t->ndim < 1 || t->ndim > 2)
        return err_set(e, ERR_INPUT,
                       "%s: no textual-inversion embedding: emb_params, string_to_param or a "
                       "single tensor is expected%s",
                       path, tensorfile_find(tf, "clip_g") ? "; this one is for SDXL" : "");
    int64_t cols = t->shape[t->ndim - 1], n = t->ndim == 2 ? t->shape[0] : 1;
    if (cols != width)
        return err_set(e, ERR_INPUT,
                       "%s: vectors of %lld numbers; the model's text encoder has %d (768: SD "
                       "1.x, 1024: SD 2.x)", path, (long long)cols, width);
    if (n < 1 || n > ROWS_MAX)
        return err_set(e, ERR_INPUT, "%s: %lld vectors; 1 to %d can be used", path, (long long)n,
                       ROWS_MAX);
    *rows = (int)n;
    if (!(*values = mem_alloc((size_t)(n * cols) * sizeof **values)))
        return err_nomem(e, (size_t)(n * cols) * sizeof **values, t->name);
    TRY(tensorfile_read_f32(tf, t, 0, n * cols, *values, e));
    for (int64_t i = 0; i < n * cols; i++)
        if (!isfinite((*values)[i]))
            return err_set(e, ERR_INPUT, "%s: tensor %s contains NaN or infinity", path, t->name);
    return 0;
}

int embeddings_open(Embeddings *em, const char *path, int width, Err *e)
{
    TensorFile *tf;
    float *values = NULL;
    int rows = 0;
    TRY(tensorfile_open(&tf, path, e));
    int rc = read_vectors(&values, &rows, tf, width, e);
    char *name = rc ? NULL : name_of(path);
    if (!rc && !name) rc = err_nomem(e, strlen(path), "an embedding");
    if (!rc) rc = embeddings_add(em, name, values, rows, width, e);
    mem_free(name);
    mem_free(values);
    tensorfile_close(tf);
    return rc;
}

void embeddings_close(Embeddings *em)
{
    for (size_t i = 0; i < em->count; i++) mem_free(em->list[i].name);
    mem_free(em->list);
    mem_free(em->values);
    *em = (Embeddings){0};
}

int embedding_save(const char *path, const float *values, int rows, int width, FileDtype dtype,
                   const LoraMeta *meta, size_t meta_count, Err *e)
{
    TensorWriter *w;
    int64_t dim[2] = {rows, width};
    TRY(tensorwriter_new(&w, path, e));
    int rc = 0;
    for (size_t i = 0; i < meta_count && !rc; i++)
        rc = tensorwriter_meta(w, meta[i].key, meta[i].value, e);
    if (!rc) rc = tensorwriter_add(w, "emb_params", dtype, 2, dim, e);
    if (!rc) rc = tensorwriter_begin(w, e);
    while (!rc && tensorwriter_next(w))
        rc = tensorwriter_write_f32(w, values, (size_t)rows * (size_t)width, e);
    if (!rc) return tensorwriter_commit(w, e);
    tensorwriter_abort(w);
    return rc;
}
