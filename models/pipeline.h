/* pipeline.h - from a prompt to a picture, as AUTOMATIC1111's txt2img makes it.
 *
 *     Pipeline *p = mem_alloc(sizeof *p);         (some 50 KB; must not move once initialised)
 *     TRY(pipeline_init(p, &model, tok, &config, e));     plans; memory is known
 *     TRY(pipeline_load(p, e));            (or model_load, when all weights are to stay)
 *     TRY(image_new(&im, config.width, config.height, 3, e));
 *     for (i = 0; i < n; i++) TRY(pipeline_run(p, seed + i, &im, e));
 *     pipeline_free(p);
 *
 * Several pipelines may share a model, also one under training, whose sample
 * pictures are made with the weights of the moment.
 *
 * What is A1111's (modules/processing.py, rng.py, sd_samplers_*.py,
 * sd_hijack_clip.py), with its default settings:
 *   - prompt grammar, chunks of 75 tokens, emphasis with the mean restored;
 *   - prompt and negative prompt of equal length run as one batch of two, of
 *     different length one after the other, not padded (unless pad_conds);
 *     at guidance 1 the negative prompt is not used;
 *   - one generator a picture: first torch.randn((4,h/8,w/8)), times the first
 *     noise level, then the noise of the steps. So n pictures are n runs with
 *     seeds seed, seed+1, ... and each is the same alone;
 *   - pixels are truncated to 8 bits.
 * Not A1111's: the dpm++ SDE samplers take plain gaussians of that generator
 * where A1111 builds a Brownian tree; ddim, plms and unipc are diffusers';
 * [a:b:0.5], [a|b] and AND are read as plain text.
 */
#ifndef SDC_MODELS_PIPELINE_H
#define SDC_MODELS_PIPELINE_H

#include "engine/image.h"
#include "engine/rng.h"
#include "engine/sampler.h"
#include "models/model.h"
#include "tokenizer/chunk.h"

typedef struct {
    const char *prompt, *negative;   /* UTF-8; <lora:...> is cut out: LoRAs belong to the model */
    int width, height;               /* multiples of PIPELINE_ALIGN */
    int steps;
    float cfg_scale;
    SamplerKind sampler;
    ScheduleKind schedule;           /* SCHEDULE_AUTO: as A1111 chooses for the sampler */
    int clip_skip;                   /* 0 or 1: none */
    int v_pred;                      /* the U-Net predicts v: config.v_prediction, or as told */
    RngSource rng;
    int pad_conds;                   /* A1111's "Pad prompt/negative prompt to be same length" */
    int swap;                        /* U-Net and decoder are in memory only while they work: they
                                        are loaded anew for each picture (see pipeline_load) */
    FILE *trace;                     /* Exec.trace; NULL: off */
    /* Asked between operations, and after each step, with the steps done: not 0
     * ends the run with that ErrCode. NULL ok. */
    int (*poll)(void *ctx, int done, int total);
    void *ctx;
} PipelineConfig;

/* A latent stands for 8x8 pixels. */
enum { PIPELINE_ALIGN = 8, PIPELINE_MAX_SIDE = 8192 };

typedef struct {
    Model *m;
    PipelineConfig c;                /* without the prompts, which were the caller's */
    int h, w;                        /* of the latents */
    ChunkList chunks[2];             /* prompt; negative prompt (empty at guidance 1) */
    Exec text, unet[2], vae;         /* unet[1]: only where the two prompts differ in length */
    Slab slab;                       /* of the decoder, with swap */
    Schedule schedule;
    Sampler sampler;
    RngTorch rng;
    int encoded, done;               /* context holds values; steps done of the current run */
    float *context;                  /* (chunks, 77, text_width): prompt, then negative */
    float *x, *pair[2];              /* latents; input and output of the U-Net, for two */
    float *nchw;                     /* noise as torch lays it out */
    float *picture;                  /* (height, width, 3) */
} Pipeline;

/* Parses the prompts, builds and plans all graphs. ERR_USAGE for a size, a step
 * count or a schedule that cannot be, and bad prompts; ERR_INPUT for models that
 * need more than a prompt (inpainting) or have a cut vocabulary. On failure p is
 * zeroed. */
int pipeline_init(Pipeline *p, Model *m, const Tokenizer *tok, const PipelineConfig *c, Err *e);
void pipeline_free(Pipeline *p);                         /* zeroed p ok */

/* Bytes on the host besides the model's (model_bytes). */
size_t pipeline_bytes(const Pipeline *p);

/* Adds the wishes of the graphs to their slabs once more, after these were cleared. */
int pipeline_want(Pipeline *p, Err *e);

/* Loads what pictures need: the text encoder, which runs and is released, then U-Net
 * and decoder (with swap, pipeline_run loads these). */
int pipeline_load(Pipeline *p, Err *e);
/* Its two halves, with pipeline_encode, once or for several pipelines, between them. */
int pipeline_load_text(Pipeline *p, Err *e);
int pipeline_load_rest(Pipeline *p, Err *e);
/* The most bytes of weights, and of weights with activations, that are
 * there at a time then. */
size_t pipeline_weights(const Pipeline *p);
size_t pipeline_device_bytes(const Pipeline *p);

/* Runs the text encoder with the weights of the moment. The first run does it
 * by itself; call it again when weights have changed. */
int pipeline_encode(Pipeline *p, Err *e);

/* What the text encoder made of the prompts: a copy (mem_free; NULL: no memory), and put
 * back in place of pipeline_encode. */
float *pipeline_context(const Pipeline *p);
void pipeline_set_context(Pipeline *p, const float *context);

/* Other prompts, sampler, schedule, steps or guidance with the same graphs and buffers. *fits
 * is 0, and p as it was, where those would be others: another size, clip_skip or number of
 * chunks, or guidance where there was none. The prompts are to be encoded again. Errors as
 * of pipeline_init. */
int pipeline_reuse(Pipeline *p, const Tokenizer *tok, const PipelineConfig *c, int *fits, Err *e);

/* Makes the picture of a seed into *im, RGB, width x height. ERR_FAIL when
 * numbers are not finite; the code of poll. */
int pipeline_run(Pipeline *p, uint64_t seed, Image *im, Err *e);

#endif
