/* train_ti.c - --ti: textual inversion, vectors of a new word instead of a LoRA.
 *
 * The networks stay as they are; what is trained are the rows that the text encoder's table
 * gets for --token_string. Source: kohya train_textual_inversion.py, whose options these
 * are; the templates are those of Gal et al., arXiv:2208.01618.
 */
#include <stdio.h>
#include <string.h>

#include "engine/mem.h"
#include "engine/rng.h"
#include "models/clip.h"
#include "tools/train.h"

static const char *const object_templates[] =
    {"a photo of a {}",           "a rendering of a {}",
     "a cropped photo of the {}", "the photo of a {}",
     "a photo of a clean {}",     "a photo of a dirty {}",
     "a dark photo of the {}",    "a photo of my {}",
     "a photo of the cool {}",    "a close-up photo of a {}",
     "a bright photo of the {}",  "a cropped photo of a {}",
     "a photo of the {}",         "a good photo of the {}",
     "a photo of one {}",         "a close-up photo of the {}",
     "a rendition of the {}",     "a photo of the clean {}",
     "a rendition of a {}",       "a photo of a nice {}",
     "a good photo of a {}",      "a photo of the nice {}",
     "a photo of the small {}",   "a photo of the weird {}",
     "a photo of the large {}",   "a photo of a cool {}",
     "a photo of a small {}",     NULL};

static const char *const style_templates[] =
    {"a painting in the style of {}",         "a rendering in the style of {}",
     "a cropped painting in the style of {}", "the painting in the style of {}",
     "a clean painting in the style of {}",   "a dirty painting in the style of {}",
     "a dark painting in the style of {}",    "a picture in the style of {}",
     "a cool painting in the style of {}",    "a close-up painting in the style of {}",
     "a bright painting in the style of {}",  "a cropped painting in the style of {}",
     "a good painting in the style of {}",    "a close-up painting in the style of {}",
     "a rendition in the style of {}",        "a nice painting in the style of {}",
     "a small painting in the style of {}",   "a weird painting in the style of {}",
     "a large painting in the style of {}",   NULL};

int train_ti_check(const TrainOptions *o, Err *e)
{
    if (!o->ti && (o->token_string || o->init_word || o->ti_weights || o->object_template ||
                   o->style_template))
        return err_set(e, ERR_USAGE,
                       "options --token_string, --init_word, --weights, --use_object_template and "
                       "--use_style_template: only with --ti");
    if (!o->ti) return 0;
    if (!o->token_string || !*o->token_string || strpbrk(o->token_string, " \t,/"))
        return err_set(e, ERR_USAGE,
                       "option --token_string: with --ti the new word is expected, without spaces");
    if (o->full || o->train_vae || o->unet_only || o->network_weights)
        return err_set(e, ERR_USAGE,
                       "option --ti: not together with --full, --train_vae, "
                       "--network_train_unet_only or --network_weights");
    if (o->object_template && o->style_template)
        return err_set(e, ERR_USAGE,
                       "options --use_object_template and --use_style_template exclude each other");
    return 0;
}

void train_ti_captions(const TrainOptions *o, FinetuneConfig *c)
{
    c->templates = !o->ti               ? NULL
                   : o->object_template ? object_templates
                   : o->style_template  ? style_templates
                                        : NULL;
    c->word = o->token_string;
}

/* Row `id` of the text encoder's table. */
static int table_row(const TrainRun *r, int32_t id, float *row, Err *e)
{
    int width = r->m.ck->config.text_width;
    const CheckpointEntry *en = checkpoint_find(r->m.ck, CLIP_TABLE);
    if (!en || id >= r->m.ck->config.vocab)
        return err_set(e, ERR_INPUT,
                       "option --init_word: the model's vocabulary of %d tokens lacks number %d",
                       r->m.ck->config.vocab, (int)id);
    return tensorfile_read_f32(en->file, en->tensor, en->first + (int64_t)id * width, width, row,
                               e);
}

/* kohya: the tokens of --init_word in turn; without it as a new table begins. */
static int initial(const TrainRun *r, float *values, int rows, Err *e)
{
    const TrainOptions *o = &r->o;
    size_t width = (size_t)r->m.ck->config.text_width;
    BpeIds ids = {0};
    if (!o->init_word) {
        rng_normal((RngKey){(uint64_t)o->seed, 0, 0, RNG_PURPOSE_INIT}, 0, values,
                   (size_t)rows * width);
        for (size_t i = 0; i < (size_t)rows * width; i++) values[i] *= 0.02f;
        return 0;
    }
    int rc = bpe_encode(r->tok, o->init_word, strlen(o->init_word), &ids, e);
    if (!rc && !ids.count)
        rc = err_set(e, ERR_USAGE, "option --init_word: \"%s\" is no word", o->init_word);
    if (!rc && ids.count != (size_t)rows)
        fprintf(stderr,
                "note: --init_word has %zu tokens, --num_vectors_per_token is %d: they are used "
                "in turn\n", ids.count, rows);
    for (int i = 0; i < rows && !rc; i++)
        rc = table_row(r, ids.ids[(size_t)i % ids.count], values + (size_t)i * width, e);
    bpe_ids_free(&ids);
    return rc;
}

int train_ti_open(TrainRun *r, Err *e)
{
    const TrainOptions *o = &r->o;
    int rows = o->num_vectors, width = r->m.ck->config.text_width;
    float *values = NULL;
    Embeddings old = {0};
    int rc = 0;
    if (o->ti_weights) {
        rc = embeddings_open(&old, o->ti_weights, width, e);
        if (!rc && old.rows != rows && options_given(&r->opt, "num_vectors_per_token"))
            rc = err_set(e, ERR_USAGE,
                         "option --weights: %s has %d vectors, --num_vectors_per_token is %d",
                         o->ti_weights, old.rows, rows);
        rows = r->o.num_vectors = rc ? rows : old.rows;
    } else if (!(values = mem_alloc((size_t)rows * (size_t)width * sizeof *values))) {
        rc = err_nomem(e, (size_t)rows * (size_t)width * sizeof *values, "an embedding");
    } else {
        rc = initial(r, values, rows, e);
    }
    if (!rc)
        rc = embeddings_add(&r->m.embeddings, o->token_string, values ? values : old.values, rows,
                            width, e);
    if (!rc) rc = bpe_add(r->tok, o->token_string, r->m.ck->config.vocab, rows, e);
    embeddings_close(&old);
    mem_free(values);
    return rc;
}

int train_ti_load(TrainRun *r, const char *path, Err *e)
{
    Param *p = params_find(r->m.ps, CLIP_ADDED);
    Embeddings saved = {0};
    int rc = embeddings_open(&saved, path, r->m.ck->config.text_width, e);
    if (!rc && p && (size_t)saved.rows * (size_t)saved.width == p->count)
        rc = params_set(r->m.ps, p, saved.values, e);
    embeddings_close(&saved);
    return rc;
}

int train_ti_save(const TrainRun *r, const char *path, FileDtype dtype, const LoraMeta *meta,
                  size_t count, Err *e)
{
    const Param *p = params_find(r->m.ps, CLIP_ADDED);
    float *values = p ? mem_alloc(p->count * sizeof *values) : NULL;
    if (!values) return err_nomem(e, p ? p->count * sizeof *values : 0, "an embedding");
    int rc = params_read(r->m.ps, p, values, e);
    if (!rc) rc = embedding_save(path, values, p->dim[0], p->dim[1], dtype, meta, count, e);
    mem_free(values);
    return rc;
}
