/* embedding.h - textual inversion: vectors that the text encoder gets for a word.
 *
 * Gal et al., arXiv:2208.01618. Read: kohya and A1111 (`emb_params`; `.pt` with
 * string_to_param), diffusers (one tensor, named by its token). Written: `emb_params`.
 */
#ifndef SDC_ENGINE_EMBEDDING_H
#define SDC_ENGINE_EMBEDDING_H

#include <stddef.h>

#include "engine/error.h"
#include "engine/lora.h"

typedef struct {
    char *name;            /* the file's, without folder and ending: what stands in prompts */
    int rows;              /* vectors, each for one token */
} Embedding;

/* The embeddings of a run: their vectors one behind another. */
typedef struct {
    Embedding *list;
    size_t count, cap;
    int rows, width;
    float *values;         /* (rows, width) */
} Embeddings;

/* Adds a file's. ERR_INPUT when it is none, or made for a text encoder of another width. */
int embeddings_open(Embeddings *em, const char *path, int width, Err *e);
/* Adds `rows` vectors under a name. */
int embeddings_add(Embeddings *em, const char *name, const float *values, int rows, int width,
                   Err *e);
void embeddings_close(Embeddings *em);                 /* zeroed em ok */

/* Writes rows x width vectors as emb_params. */
int embedding_save(const char *path, const float *values, int rows, int width, FileDtype dtype,
                   const LoraMeta *meta, size_t meta_count, Err *e);

#endif
