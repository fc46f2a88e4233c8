/* synth.h - small models and LoRA files made up for tests: real key names,
 * values that f16 holds exactly and that depend on name and position. */
#ifndef SDC_TESTS_SYNTH_H
#define SDC_TESTS_SYNTH_H

#include "models/checkpoint.h"

/* Widths of 32 (sd1) or 64 (sd2), one text layer, 100 tokens. */
int synth_config(SdConfig *c, const char *type, Err *e);

/* Element i of a parameter. */
float synth_value(const char *canonical, int64_t i);

/* A model as a single f16 file, with a few tensors that are no weights. */
int synth_model(const char *path, const SdConfig *c, Err *e);

/* The same as a diffusers folder, without config files. old: names of old
 * versions (VAE attention query/key/value/proj_attn) and of new ones (text
 * encoder without "text_model."). */
int synth_folder(const char *dir, const SdConfig *c, int old, Err *e);

/* Copies a safetensors file; edit may change name (300 bytes) and shape, or
 * return 0 to leave the tensor out. */
typedef int synth_edit_fn(void *ctx, char *name, int *ndim, int64_t *shape);
int synth_copy(const char *dst, const char *src, synth_edit_fn *edit, void *ctx, Err *e);

/* One tensor of a file to be written. values NULL: synth_value of the name. */
typedef struct {
    const char *name;
    FileDtype dtype;
    int ndim;
    int64_t shape[4];
    const float *values;
} SynthTensor;

int synth_file(const char *path, const SynthTensor *t, size_t n, const LoraMeta *meta,
               size_t meta_count, Err *e);

#endif
