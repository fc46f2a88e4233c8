/* checkpoint.h - the weights of a Stable Diffusion model on disk.
 *
 * A single LDM file (.safetensors or .ckpt) or a diffusers folder (safetensors,
 * sharded, or .bin; fp16 variants). Opening finds every parameter of the
 * architecture under its canonical name and checks its shape; nothing is read
 * until asked for.
 */
#ifndef SDC_MODELS_CHECKPOINT_H
#define SDC_MODELS_CHECKPOINT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"
#include "engine/tensorfile.h"
#include "models/config.h"
#include "models/keys.h"
#include "models/layers.h"

typedef struct {
    char name[KEY_MAX];            /* canonical */
    const Layer *layer;
    int ndim;
    int64_t shape[4];              /* PyTorch's: (out,in), (out,in,kh,kw), (c) */
    int64_t count;                 /* elements */
    const TensorFile *file;        /* NULL in a checkpoint without a source */
    const FileTensor *tensor;      /* tensor->name is the key in the file */
    int64_t first;                 /* first element within tensor (packed q, k, v) */
} CheckpointEntry;

typedef struct {
    char *path;                    /* NULL: made by checkpoint_new */
    SdConfig config;
    Layers layers;
    CheckpointEntry *entries;      /* in the order of layers */
    size_t count;
    const CheckpointEntry **by_name;
    TensorFile **files;
    unsigned char *component;      /* of each file of a folder; internal */
    size_t file_count;
    int is_folder;
    TensorFile *vae;               /* of checkpoint_use_vae; NULL: none */
} Checkpoint;

/* ERR_INPUT: missing tensors and other shapes are named by their key in the
 * file; other kinds of file by what they are. */
int checkpoint_open(Checkpoint **ck, const char *path, Err *e);
/* The VAE of another file instead: of the original code (with "first_stage_model." before its
 * names or without, so also a whole checkpoint), or of diffusers, or the folder of such a one.
 * checkpoint_save would not write it. ERR_INPUT as of checkpoint_open. */
int checkpoint_use_vae(Checkpoint *ck, const char *path, Err *e);
/* A model without a source: names and shapes only, for random weights. */
int checkpoint_new(Checkpoint **ck, const SdConfig *c, Err *e);
void checkpoint_close(Checkpoint *ck);                     /* NULL ok */

/* NULL when the model has no such parameter. O(log n). */
const CheckpointEntry *checkpoint_find(const Checkpoint *ck, const char *canonical);
/* count f32 values in PyTorch's layout. */
int checkpoint_read_f32(const CheckpointEntry *en, float *dst, Err *e);

/* Tensors of the files that are no weights of this architecture (noise
 * schedules, EMA copies, position_ids...): calls fn (NULL ok) for each and
 * counts them in *n. Saving keeps them. */
typedef void checkpoint_unused_fn(void *ctx, const FileTensor *t);
int checkpoint_unused(const Checkpoint *ck, checkpoint_unused_fn *fn, void *ctx, size_t *n, Err *e);

/* New values for a parameter: writes en->count f32 values (PyTorch's layout)
 * and sets *changed, or leaves both alone to keep the source's bytes. Entries
 * of a checkpoint without a source must be given. */
typedef int checkpoint_values_fn(void *ctx, const CheckpointEntry *en, float *values,
                                 int *changed, Err *e);

typedef struct {
    checkpoint_values_fn *values;  /* NULL: a plain copy */
    void *ctx;
    int cast;                      /* store the model's tensors as dtype */
    FileDtype dtype;               /* with cast; also for a checkpoint without a source */
    const LoraMeta *meta;          /* added to the source's metadata, or replacing it by key */
    size_t meta_count;
} CheckpointSave;

/* Writes a single LDM safetensors file. Every tensor of a single-file source
 * keeps key, shape and (unless cast) dtype, and its bytes where nothing
 * changed; a folder's tensors get LDM keys. One tensor is in memory at a time.
 * path may be the source itself. */
int checkpoint_save(const Checkpoint *ck, const char *path, const CheckpointSave *s, Err *e);

#endif
