/* sample.h - what the parts of `sdc sample` share.
 *
 *   cmd_sample.c     options, and the run from the first line to the last
 *   sample_loras.c   which LoRAs act: tags of the prompt, and --lora
 *   sample_embeddings.c  textual inversion
 *   sample_info.c    `parameters` of pictures: written, and read for --from-png
 */
#ifndef SDC_TOOLS_SAMPLE_H
#define SDC_TOOLS_SAMPLE_H

#include "engine/infotext.h"
#include "models/pipeline.h"
#include "tools/options.h"

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

/* The LoRAs of the prompt's tags, found in --lora_dir (default: the model's
 * folder, "Lora" beside that, the current folder), then those of --lora. With
 * tags 0 the prompt's tags are dropped. ERR_USAGE naming a tag whose file is
 * not found. On failure *l is still to be freed. */
int sample_loras(SampleLoras *l, const SampleOptions *o, int tags, Err *e);
void sample_loras_free(SampleLoras *l);

/* Reads the files of --embeddings, and those of --embedding_dir (default: A1111's folder)
 * whose names stand in a prompt, and adds the names to tok. */
int sample_embeddings(Embeddings *em, Tokenizer *tok, const SampleOptions *o, const SdConfig *c, Err *e);

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

/* "note: ..." on stderr; control bytes, which may come from a file, are escaped. */
void sample_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* File name without folder and model-file ending (mem_free; NULL: no memory). */
char *sample_base_name(const char *path);

#endif
