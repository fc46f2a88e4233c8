/* tagger.h - a tagger on disk and at work: pictures in, a probability per tag out.
 *
 * Three files beside each other, as SmilingWolf/wd-vit-tagger-v3 has them:
 *   model.safetensors   timm's tensors (vit.h)
 *   config.json         timm's model_args (sizes, act_layer) and pretrained_cfg (mean, std,
 *                       interpolation)
 *   selected_tags.csv   what each output means (engine/taglist.h)
 *
 * Order of use: tagger_open, tagger_plan (for running) or models/tagger_train.h, tagger_load.
 */
#ifndef SDC_MODELS_TAGGER_H
#define SDC_MODELS_TAGGER_H

#include "engine/exec.h"
#include "engine/image.h"
#include "engine/taglist.h"
#include "models/vit.h"

typedef enum {
    TAGGER_BICUBIC,            /* PIL's, as timm and the authors of the WD taggers do it */
    TAGGER_KOHYA               /* area where it shrinks, else Lanczos, as kohya's script */
} TaggerResize;

typedef struct {
    float mean[3], std[3];     /* of the channels in the order of the model, blue first */
    TaggerResize resize;
} TaggerInput;

typedef struct {
    char *path;                /* model.safetensors; NULL: a new model of random weights */
    TensorFile *file;          /* NULL: likewise */
    char *config;              /* the text of config.json */
    VitConfig vit;
    TaggerInput input;
    TagList tags;
    Dev *dev;
    Ops ops;
    Dtype dtype;
    Params *ps;
    Slab slab;
    Exec exec;
    int batch;
    float *pixels;             /* (batch,side,side,3) */
    uint64_t seed;             /* of random weights */
} Tagger;

typedef struct {
    const char *path;          /* model.safetensors or its folder */
    const char *init;          /* or: config.json of a model that is to be trained */
    const char *device;        /* NULL: "cpu" */
    int threads;               /* 0: all cores */
    Dtype dtype;
    uint64_t seed;
} TaggerOptions;

/* Reads and checks all three files (of a new model: its config.json; tags are the caller's to
 * fill). ERR_INPUT names the file and what is wrong. t is zeroed on failure. */
int tagger_open(Tagger *t, const TaggerOptions *o, Err *e);
void tagger_close(Tagger *t);                              /* zeroed t ok */

/* Plans for so many pictures at a time; memory is known then (tagger_bytes). */
int tagger_plan(Tagger *t, int batch, Err *e);
size_t tagger_bytes(const Tagger *t);
/* Takes the memory, and loads or draws the weights. */
int tagger_load(Tagger *t, Err *e);

/* A picture as the model sees it, for place i of the batch: on white where it is transparent,
 * white around it up to a square, resized, blue first, (px/255 - mean) / std. im is changed. */
int tagger_picture(Tagger *t, int i, Image *im, Err *e);
/* Probabilities of the pictures in places 0..count-1: prob (count,tags). */
int tagger_run(Tagger *t, int count, float *prob, Err *e);

/* Used by tagger_train.c: fills "positions" and "mean" of a graph of vit_build, once. */
int tagger_constants(Tagger *t, Exec *x, int n, Err *e);
/* Image -> square RGB picture of t->vit.side, white around it. */
int tagger_square(const Tagger *t, Image *im, Err *e);
void tagger_pixels(const Tagger *t, float *dst, const Image *square);

/* Writes the three files into a folder, which is made; the weights as f32, f16 or bf16. */
int tagger_save(const Tagger *t, const char *folder, Dtype dt, Err *e);

#endif
