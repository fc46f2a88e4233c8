/* finetune.h - training the noise predictor on a data set: LoRA or full.
 *
 * What kohya's train_network.py and train_db.py do per step, over the engine:
 * latents (encoded once, or at each use where uses differ), captions, timesteps,
 * noise, one Denoise graph for each batch shape that the data set will need, all
 * planned before the model is loaded. A step is a function of (seed, step): nothing to
 * save but weights.
 */
#ifndef SDC_MODELS_FINETUNE_H
#define SDC_MODELS_FINETUNE_H

#include "engine/data.h"
#include "models/denoise.h"
#include "models/latent_cache.h"
#include "models/latent_pool.h"
#include "models/noise.h"
#include "tokenizer/bpe.h"

/* Mean loss by quarters of the timesteps: quarter i is [min + i*span/4, min + (i+1)*span/4). */
enum { FINETUNE_BANDS = 4 };
typedef struct FinetuneBands {
    double sum[FINETUNE_BANDS];
    uint32_t count[FINETUNE_BANDS];
} FinetuneBands;

typedef struct {
    DenoiseConfig denoise;
    int accumulation;              /* micro-batches per optimizer step, >= 1 */
    int micro;                     /* pictures that run at a time: a batch is run in pieces of so
                                      many, and their gradients are summed; 0: whole batches */
    int chunks;                    /* caption length: 75 tokens each, 1..3 */
    NoiseConfig noise;
    int masked;                    /* the loss is weighted by the data set's masks */
    int zero_terminal;             /* schedule_zero_terminal */
    int min_timestep, max_timestep;   /* t in [min, max), 0..1000 */
    const char *const *templates;  /* captions for word, "a photo of a {}", up to NULL, instead of
                                      the data set's; NULL: none */
    const char *word;
    uint64_t seed;
    int backward;                  /* 0: only measure the loss */
    const char *cache_dir;         /* latents on disk; NULL: in memory only */
    LatentPool *pool;              /* where those in memory are kept; NULL: a pool of its own */
} FinetuneConfig;

typedef struct {
    Model *m;
    const Dataset *ds;
    const Tokenizer *tok;
    FinetuneConfig c;
    Schedule schedule;
    Denoise *graphs;               /* one per distinct (n,h,w) */
    size_t graph_count, graph_cap;
    Exec *encoders;                /* one per distinct (h,w) of one picture */
    size_t encoder_count, encoder_cap;
    int varies;                    /* dataset_varies: the encoders stay, on the model's slab */
    Slab slab;                     /* else theirs: there while pictures are encoded */
    LatentCache cache;
    LatentPool own;
    float **moments;               /* per item and flip: (h,w,8) mean, log variance; the pool's */
    size_t batches, steps;         /* per epoch: micro-batches, optimizer steps */
    DataEpoch epoch;
    uint32_t epoch_index;
    float **masks;                 /* per item and flip: (h,w) 0..1; owned; NULL unless masked */
    float *latents, *noise, *weight;      /* one batch */
    float *input_noise, *mask, *scratch;  /* NULL unless they are needed */
    float *use;                    /* moments of one use that differs from others; NULL: varies 0 */
    float *per;                    /* the loss of each sample of a batch */
    int *timestep;
    struct FinetuneBands *bands;   /* finetune_run adds to these; NULL: not wanted; borrowed */
    uint32_t dropout_seed;
    int32_t *ids;
} Finetune;

/* Builds and plans every graph; call before model_load. *ds and *tok must
 * outlive f. */
int finetune_init(Finetune *f, Model *m, const Dataset *ds, const Tokenizer *tok,
                  const FinetuneConfig *c, Err *e);
void finetune_free(Finetune *f);                          /* zeroed f ok */

/* Plans the training graphs again within slab_bytes, as far as that can be
 * (recompute.h), and adds their wishes to the model's slab once more. */
int finetune_fit(Finetune *f, size_t slab_bytes, Err *e);
/* Sets Exec.update of every training graph: for streamed parameters. */
void finetune_update(Finetune *f, int (*update)(void *ctx, Param *p, float *grad, Err *e),
                     void *ctx);
/* Bytes on the host: latents and one batch. */
size_t finetune_bytes(const Finetune *f);

/* Encodes every picture that is not in the pool and has the same latents in every use. Weights
 * of the encoder that are not there are loaded, and released when it is done; so are its
 * activations. If uses differ, the encoder stays, and the model's slab is there afterwards.
 * tick(ctx, done, total) may stop it with an ErrCode; NULL ok. ERR_FAIL naming the picture
 * whose latents are not finite. */
int finetune_cache(Finetune *f, int (*tick)(void *ctx, size_t done, size_t total), void *ctx,
                   Err *e);

/* TrainTask.run and TrainTask.micros. */
int finetune_run(Finetune *f, uint32_t step, int micro, float *loss, Err *e);
int finetune_micros(const Finetune *f, uint32_t step);

/* Mean loss over `passes` epochs with the noise and timesteps of f->c.seed: the
 * same numbers each time it is asked. Leaves gradients alone when f->c.backward
 * is 0. */
int finetune_loss(Finetune *f, int passes, double *loss, Err *e);

/* Validation as kohya's train_network.py: mean loss over the batches of one epoch, at most
 * max_batches (0: all), each at `times` timesteps (kohya: FINETUNE_TIMES) that divide
 * [min, max) evenly, with noise of f->c.seed that is the same each time. One batch a step
 * (accumulation 1). bands: the same by timestep, NULL ok. */
enum { FINETUNE_TIMES = 4 };
int finetune_validate(Finetune *f, int max_batches, int times, double *loss, FinetuneBands *bands,
                      Err *e);
/* How many pictures it runs. */
size_t finetune_validate_size(const Finetune *f, int max_batches, int times);

#endif
