/* sample.h - what the parts of `sdc sample` share.
 *
 *   cmd_sample.c     the run from the first line to the last
 *   sample_options.c the table of options
 *   sample_plan.c    model, settings of a picture, its memory
 *   sample_loras.c   which LoRAs act: tags of the prompt, and --lora
 *   sample_embeddings.c  textual inversion
 *   sample_info.c    `parameters` of pictures: written, and read for --from-png
 */
#ifndef SDC_TOOLS_SAMPLE_H
#define SDC_TOOLS_SAMPLE_H

#include "engine/infotext.h"
#include "models/pipeline.h"
#include "tools/memory.h"
#include "tools/options.h"
#include "tools/progress.h"

typedef struct {
    char *model, *prompt, *negative, *lora_dir, *sampler, *schedule, *rng, *prediction, *dtype,
        *device, *out, *grid, *from_png,
        *prompt_file, *ram, *embedding_dir;
    OptionList lora, embeddings;
    int width, height, steps, clip_skip, batch_count, pad_conds, threads, trace, dry_run;
    int64_t seed;
    double cfg_scale;
} SampleOptions;

typedef struct {
    char *name;                /* of its tag: the file's name without folder and ending */
    char *path;
    char *spec;                /* ModelOptions.lora: "PATH:W:TEW" */
    float unet, text;          /* weights */
    char hash[13];             /* first 12 digits, as in A1111's "Lora hashes" */
} SampleLora;

typedef struct {
    SampleLora *list;          /* in the order in which they are added to the weights */
    size_t count, cap;
    char *prompt;              /* with a tag for each of them: what a picture records */
} SampleLoras;

/* Rows of the fields of a SampleOptions. */
extern const Option sample_table[];
extern const size_t sample_table_count;
/* The values that SampleOptions has before any option. */
#define SAMPLE_DEFAULTS {.steps = 20, .cfg_scale = 7, .seed = -1, .batch_count = 1, .clip_skip = 1}

/* After parsing: reads --from_png into *png, fills in what was not given, chooses a seed.
 * *tags: whether the <lora:...> of the prompt count. */
int sample_check(Options *opt, SampleOptions *o, Infotext *png, int *tags, Err *e);
/* *field = a copy of value, unless there is one. */
int sample_fill(char **field, const char *value, Err *e);
/* ERR_USAGE unless the ending says what picture it is. */
int sample_check_name(const char *option, const char *path, Err *e);
/* out.png, out-1.png, ... (mem_free) */
char *sample_file_name(const char *out, int i);
/* Finds out now, not after hours, that a file cannot be written. */
int sample_try_file(const char *path, Err *e);

/* Opens the model with these LoRAs; its type, width and height where they were not given. */
int sample_open(Model *m, SampleOptions *o, const SampleLoras *l, Err *e);
/* ModelOptions.lora: the array is the caller's (mem_free), the texts are borrowed. NULL: no
 * memory. */
char **sample_lora_specs(const SampleLoras *l);
/* Without poll; the prompts are borrowed. */
int sample_config(PipelineConfig *c, const SampleOptions *o, const SampleLoras *l,
                  const SdConfig *sd, Err *e);
/* What a planned picture needs; pictures: bytes of those that are kept. */
void sample_account(Memory *m, const Pipeline *p, size_t pictures);
double sample_step_seconds(const Pipeline *p, const Speed *s);

/* The LoRAs of the prompt's tags, found in --lora_dir (default: the model's
 * folder, "Lora" beside that, the current folder), then those of --lora. With
 * tags 0 the prompt's tags are dropped. ERR_USAGE naming a tag whose file is
 * not found. On failure *l is still to be freed. */
int sample_loras(SampleLoras *l, const SampleOptions *o, int tags, Err *e);
void sample_loras_free(SampleLoras *l);

/* Reads the files of --embeddings, and those of --embedding_dir (default: A1111's folder)
 * whose names stand in a prompt, and adds the names to tok. */
int sample_embeddings(Embeddings *em, Tokenizer *tok, const SampleOptions *o, const SdConfig *c,
                      Err *e);

/* The settings of o->from_png for options that were not given; *t keeps the
 * text (infotext_free). ERR_INPUT when the picture has none; what cannot be
 * repeated is named on stderr. */
int sample_info_read(Options *opt, SampleOptions *o, Infotext *t, Err *e);

/* Hashes of the files that took part, to record and to compare. */
typedef struct {
    char *model_name;          /* file name without ending */
    char model_hash[11];       /* first 10 digits; "" for a folder */
} SampleModel;

int sample_info_hashes(SampleModel *sm, const SampleOptions *o, SampleLoras *l, Err *e);
/* Says on stderr where model or LoRAs are others than those of the picture t came from. */
void sample_info_compare(const Infotext *t, const SampleModel *sm, const SampleLoras *l);
/* The text of one picture (mem_free). */
int sample_info_write(char **text, const SampleOptions *o, const SampleModel *sm,
                      const SampleLoras *l, const Pipeline *p, uint64_t seed, Err *e);
/* Saves picture i with that text where o->out says, and prints its name behind the
 * progress. */
int sample_save(const Image *im, int i, const SampleOptions *o, const SampleModel *sm,
                const SampleLoras *l, const Pipeline *p, uint64_t seed, Progress *shown, Err *e);

/* "note: ..." on stderr; control bytes, which may come from a file, are escaped. */
void sample_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* File name without folder and model-file ending (mem_free; NULL: no memory). */
char *sample_base_name(const char *path);

#endif
