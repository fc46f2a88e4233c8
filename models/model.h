/* model.h - an opened Stable Diffusion model, ready to have graphs built on it.
 *
 * Order of use: model_open, build every graph that the run will need (each
 * declares its weights), model_load, run. Memory is known before model_load.
 *
 *     Model m;
 *     TRY(model_open(&m, &options, e));
 *     Build b = model_graph(&m);
 *     Tensor *y = unet_build(&b, ...);  graph_output(b.g, y, "sample");
 *     TRY(model_plan(&m, &exec, &b, e));      (plans; the Exec owns the graph)
 *     TRY(model_load(&m, e));                 (allocates and reads the weights)
 *     exec_set, exec_run, exec_get
 *     exec_free(&exec);  model_close(&m);
 */
#ifndef SDC_MODELS_MODEL_H
#define SDC_MODELS_MODEL_H

#include "engine/exec.h"
#include "engine/embedding.h"
#include "engine/lora.h"
#include "models/blocks.h"
#include "models/checkpoint.h"

typedef struct {
    const char *path;              /* checkpoint */
    const char *vae; /* its VAE from another file (checkpoint_use_vae); NULL: its own */
    const char *device;            /* "cpu"; NULL: the best there is */
    int threads;                   /* 0: all cores */
    Dtype dtype;                   /* of activations and frozen matrices */
    int int8;                      /* frozen matrices of U-Net and text encoder in 8 bits instead */
    char *const *lora;             /* "FILE:W:TEW", merged into the weights when they are loaded */
    size_t lora_count;
    const SdConfig *config;        /* with path NULL: a model of random weights (seed) */
    uint64_t seed;
} ModelOptions;

/* What is trained. Nothing (all zero) for sampling. */
typedef struct {
    const Lora *lora;              /* LoRA under training, its initial values; borrowed */
    int lora_unet, lora_text;      /* which of its modules are trained; the others still act */
    Dropout dropout;               /* of its plain modules, while gradients are made (blocks.h) */
    /* The optimizer group of a factor of it; NULL: GROUP_TEXT or GROUP_UNET. */
    int (*group)(void *ctx, const LoraTarget *t, const char *factor);
    void *group_ctx;
    int tokens;                    /* the vectors of Model.embeddings */
    int full_unet, full_text, full_vae;   /* train the weights themselves */
    int half;                      /* full: in bf16, gradients streamed (params.h) */
} ModelTraining;

enum { GROUP_TEXT, GROUP_UNET, GROUP_VAE, GROUP_COUNT };     /* Param.group */

typedef struct {
    Dev *dev;
    Ops ops;
    Dtype dtype;
    int int8;
    Checkpoint *ck;
    LoraTarget *targets;
    size_t target_count;
    Lora *lora;                    /* merged ones */
    size_t lora_count;
    ModelTraining train;
    Embeddings embeddings;         /* owned; to be filled before the first graph. Their tokens are
                                      those behind the vocabulary */
    Params *ps;
    Slab slab;                     /* shared by all graphs of the model */
    uint64_t seed;
} Model;

/* m is zeroed on failure. */
int model_open(Model *m, const ModelOptions *o, Err *e);
void model_close(Model *m);                            /* zeroed m ok */

/* Before the first graph; or again, when all graphs are freed, for another training: the
 * frozen weights that are loaded stay. */
void model_train(Model *m, const ModelTraining *t);

/* A new graph for the building functions. b.g is NULL when there is no memory,
 * which model_plan reports. */
Build model_graph(Model *m);
int model_plan(Model *m, Exec *x, Build *b, Err *e);
/* The same on a slab of the caller's, who allocates it, too. */
int model_plan_on(Model *m, Slab *slab, Exec *x, Build *b, Err *e);
/* Bytes that model_load and the slab will take. */
size_t model_bytes(const Model *m);
/* Allocates weights, gradients and the slab, and loads the weights: from the
 * checkpoint plus LoRA deltas, or random ones. */
int model_load(Model *m, Err *e);
/* Only the weights whose names begin with prefix ("text_encoder."), and no slab: a part
 * loaded alone can be released when it has done its work. model_load loads what is
 * left. */
int model_load_part(Model *m, const char *prefix, Err *e);
void model_release(Model *m, const char *prefix);
/* Other LoRAs (as in ModelOptions) instead of those that are merged: loaded weights that the
 * old or the new ones change are read once more, all others stay. After an error the model
 * can only be closed. */
int model_loras(Model *m, char *const *lora, size_t count, Err *e);

/* Sets the input of token ids that a text encoder was built on, and with it the rows of the
 * table that these name. ERR_INPUT for an id that is not in the vocabulary. */
int model_set_ids(const Model *m, Exec *x, const char *name, const int32_t *ids, size_t count,
                  Err *e);

/* The values that en has before training: from the checkpoint, or the random
 * ones of a model without a source. en->count f32 in PyTorch's layout. */
int model_initial(const Model *m, const CheckpointEntry *en, float *dst, Err *e);

/* The target of a canonical module path, NULL when it cannot carry a LoRA. */
const LoraTarget *model_target(const Model *m, const char *path);

/* Opens the device of that name (NULL: "cpu") and the table of its ops; ERR_USAGE tells why there
 * is none. *dev: dev_close. */
int model_device(Dev **dev, Ops *ops, const char *name, int threads, Err *e);

/* Sets dtype and int8 by the value of --dtype: "f32", "bf16", "f16", or "int8" (with
 * activations in bf16); ERR_USAGE otherwise. */
int model_dtype(ModelOptions *o, const char *name, Err *e);
const char *model_dtype_name(Dtype dt);
/* That value. */
const char *model_precision(const Model *m);
/* What most frozen weights are stored in. */
Dtype model_storage(const Model *m);

#endif
