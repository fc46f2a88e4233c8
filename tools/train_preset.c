/* train_preset.c - `sdc train --preset`: settings that follow from the pictures, the model
 * and what is to be learnt, each with its reason. What the user gave stays as it is.
 *
 * The numbers are those that LoRA trainers have settled on for SD 1.x: 50 to 100 uses of a
 * picture, 1e-4 at rank 16, the text encoder at half of it, min-SNR 5, a cosine. Two are
 * carried over to other runs: a rate to another batch by the square root (Malladi et al.,
 * arXiv:2205.10287, for Adam), and to narrower networks by the inverse of the width (Yang
 * et al., arXiv:2203.03466).
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/mem.h"
#include "tools/train.h"

enum { EPOCHS = 10, PROMPTS = 4, PROMPT_STEPS = 20, SPLIT_FROM = 20 };

typedef struct {
    const char *name;
    int per_picture, least, most;  /* uses of a picture; of all pictures */
    int dim;
    const char *dim_reason;
    double text;                   /* rate of the text encoder, as a part of the U-Net's */
    const char *text_reason;
    int flip;
    const char *flip_reason;
    double dropout;                /* part of empty captions */
    const char *beyond;            /* a prompt that no caption has; %s: the trigger */
} Kind;

static const Kind kinds[] = {
    {"character", 100, 1200, 3000, 16, "a character has many details, but is one thing", 0.5,
     "half the U-Net's: the words are to be learnt, without hurting other words", 0,
     "off: hair, scars and clothes have a left and a right", 0, "%s, standing in the snow"},
    {"style", 60, 2000, 6000, 32, "a style is in everything, and takes more room", 0,
     "0: a style is in the picture; words keep their meaning", 1,
     "on: a style has no left and right, and it doubles the pictures", 0.1, "a cat, %s"},
    {"object", 80, 800, 2000, 8, "an object is one shape with few variations", 0.5,
     "half the U-Net's: the words are to be learnt, without hurting other words", 0,
     "off: an object may carry letters, which have a left and a right", 0, "%s, on a wooden table"},
};

typedef struct {
    TrainRun *r;
    const Kind *kind;
    const char *trigger;           /* "" without one */
    size_t pictures, captioned, tagged, called, small; /* called: the trigger is in the first tag */
    size_t per_epoch;              /* uses, by the folders' names */
    int flat;                      /* no N_words folder */
    int width;                     /* of the U-Net's first level */
    int w, h;                      /* resolution */
} Preset;

/* ---- choices --------------------------------------------------------------------- */

int train_choice(TrainRun *r, const char *name, char *value, char *reason, Err *e)
{
    TrainChoice *list = mem_grow(r->choices, r->choice_count, &r->choice_cap, sizeof *list);
    if (list) r->choices = list;
    int rc = list && value && reason ? options_set(&r->opt, name, value, OPTIONS_CHOSEN, e)
                                     : err_nomem(e, sizeof *list, "settings");
    mem_free(value);
    if (rc) mem_free(reason);
    else list[r->choice_count++] = (TrainChoice){name, reason};
    return rc;
}

const char *train_reason(const TrainRun *r, const char *name)
{
    for (size_t i = r->choice_count; i-- > 0;)
        if (!strcmp(r->choices[i].name, name)) return r->choices[i].reason;
    return NULL;
}

/* An option that was not given; the reason as printf. value is owned here. */
__attribute__((format(printf, 5, 6)))
static int choose(const Preset *p, const char *name, char *value, Err *e, const char *fmt, ...)
{
    char reason[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(reason, sizeof reason, fmt, ap);
    va_end(ap);
    int given = options_given(&p->r->opt, name);
    if (!given || (p->r->recalled && given == OPTIONS_FILE))
        return train_choice(p->r, name, value, mem_strdup(reason), e);
    mem_free(value);
    return 0;
}

static char *number(double v) { return mem_printf("%.15g", v); }
static char *flag(int on) { return mem_strdup(on ? "true" : "false"); }

/* ---- where it goes --------------------------------------------------------------- */

/* "sks cat" as "sks_cat". */
static char *slug(const char *text)
{
    char *s = mem_strdup(text);
    for (char *c = s; c && *c; c++)
        if (strchr(" \t/\\:*?\"<>|'", *c) || (unsigned char)*c < 32) *c = '_';
    if (s && *s == '.') *s = '_';
    return s;
}

int train_preset_names(TrainRun *r, Err *e)
{
    const Preset p = {.r = r};
    if (!r->o.preset) return 0;
    TRY(choose(&p, "output_name", slug(r->o.trigger ? r->o.trigger : r->o.preset), e, "%s",
               r->o.trigger ? "the trigger" : "the preset"));
    return choose(&p, "output_dir", mem_strdup(r->o.output_name), e, "a folder of its own");
}

/* ---- pictures -------------------------------------------------------------------- */

static int choose_resolution(Preset *p, Err *e)
{
    Checkpoint *ck;
    TRY(checkpoint_open(&ck, p->r->o.model, e));
    int w = 0, h = 0, v2 = ck->config.openclip && ck->config.v_prediction;
    const char *said = ck->file_count ? tensorfile_meta(ck->files[0], "modelspec.resolution")
                                      : NULL;
    int own = said && sscanf(said, "%dx%d", &w, &h) == 2 && w >= 64 && h >= 64 && w <= 2048 &&
              h <= 2048;
    p->width = ck->config.unet_width[0];
    checkpoint_close(ck);
    if (own) return choose(p, "resolution", mem_printf("%d,%d", w, h), e,
                           "what the model says it was trained at");
    return choose(p, "resolution", mem_strdup(v2 ? "768" : "512"), e, "what %s was trained at",
                  v2 ? "SD 2.x with v prediction" : "SD 1.x");
}

/* Is the trigger in the first tag? */
static int calls(const char *caption, const char *trigger)
{
    size_t first = strcspn(caption, ","), n = strlen(trigger);
    for (size_t i = 0; n && i + n <= first; i++)
        if (!strncasecmp(caption + i, trigger, n)) return 1;
    return 0;
}

static void count_pictures(Preset *p, const Dataset *ds)
{
    const BucketConfig *size = &ds->cfg.bucket;
    p->w = size->w;
    p->h = size->h;
    p->per_epoch = ds->train_images;
    p->flat = !ds->folders[0].class_tokens && !strcmp(ds->folders[0].path, ds->cfg.train_dir);
    for (size_t i = 0; i < ds->item_count; i++) {
        const DataItem *it = &ds->items[i];
        const char *words = ds->folders[it->folder].class_tokens;
        if (it->is_reg || !it->repeats) continue;
        p->pictures++;
        p->captioned += *it->caption && !(words && !strcmp(words, it->caption));
        p->tagged += strchr(it->caption, ',') != NULL;
        p->called += calls(it->caption, p->trigger);
        p->small += (double)it->w * it->h < 0.8 * size->w * size->h;
    }
}

static int look_at_pictures(Preset *p, Err *e)
{
    Dataset *ds;
    TRY(train_dataset(&ds, &p->r->o, 1, e));
    count_pictures(p, ds);
    dataset_close(ds);
    return 0;
}

static int choose_captions(Preset *p, Err *e)
{
    if (*p->trigger) {
        if (p->called == p->pictures) {
            fprintf(stderr, "note: the captions have \"%s\" in their first tag already\n",
                    p->trigger);
        } else if (p->called) {
            fprintf(stderr,
                    "note: %zu of %zu captions have \"%s\" in their first tag, the others "
                    "do not, and none is changed; `sdc tags DIR first \"%s\"` puts it into all\n",
                    p->called, p->pictures, p->trigger, p->trigger);
        } else {
            char *prefix = mem_printf("%s%s", p->trigger, p->captioned ? "," : "");
            TRY(choose(p, "caption_prefix", prefix, e,
                       p->captioned ? "the trigger, before each caption"
                       : "the trigger: there are no captions"));
        }
        TRY(choose(p, "metadata_trigger_phrase", mem_strdup(p->trigger), e,
                   "kept in the file for those who load it"));
    }
    if (!p->kind) return 0;
    if (2 * p->tagged > p->pictures) {
        TRY(choose(p, "shuffle_caption", flag(1), e, "captions are tags, whose order means "
                                                     "nothing"));
        TRY(choose(p, "keep_tokens", number(1), e, "the first tag is the trigger"));
    }
    if (p->kind->dropout > 0 && p->captioned)
        TRY(choose(p, "caption_dropout_rate", number(p->kind->dropout), e,
                   "the style comes without words, too"));
    if (2 * p->small > p->pictures)
        TRY(choose(p, "bucket_no_upscale", flag(1), e, "%zu of %zu pictures are smaller than "
                                                       "%dx%d: enlarging teaches blur",
                   p->small, p->pictures, p->w, p->h));
    return choose(p, "flip_aug", flag(p->kind->flip), e, "%s", p->kind->flip_reason);
}

/* ---- the network and its rates --------------------------------------------------- */

static int choose_network(Preset *p, Err *e)
{
    const Kind *k = p->kind;
    const TrainOptions *o = &p->r->o;
    if (o->network_weights) return 0;
    TRY(choose(p, "network_dim", number(k->dim), e, "%s", k->dim_reason));
    return choose(p, "network_alpha", number(o->network_dim / 2.0), e,
                  "half the rank: rates keep their usual size");
}

static int choose_batch(Preset *p, Err *e)
{
    int batch = p->pictures < 8 ? 1 : p->pictures < 16 ? 2 : 4;
    return choose(p, "train_batch_size", number(batch), e, "%zu pictures; %s", p->pictures,
                  batch < 4 ? "larger batches would mix too few different ones"
                  : "larger ones only make steps fewer");
}

/* Two digits: nobody knows more. */
static char *rate(double v) { return mem_printf("%.1e", v); }

static int choose_rates(Preset *p, Err *e)
{
    const TrainOptions *o = &p->r->o;
    const Kind *k = p->kind;
    TRY(choose(p, "optimizer_type", mem_strdup("AdamW8bit"), e,
               "AdamW with a quarter of its memory"));
    int lion = !strncasecmp(o->optimizer, "lion", 4), adam = !strncasecmp(o->optimizer, "adam", 4);
    double n = o->batch * o->accumulation, narrow = fmax(1, 320.0 / p->width);
    int common = options_given(&p->r->opt, "learning_rate");
    if ((adam || lion) && !common) {
        char more[200] = "";
        int at = 0;
        if (narrow > 1)
            at += snprintf(more, sizeof more, ", times %.3g for a U-Net %d wide instead of 320",
                           narrow, p->width);
        if (n > 1)
            at += snprintf(more + at, sizeof more - (size_t)at,
                           ", times the root of the batch of %g", n);
        if (lion) snprintf(more + at, sizeof more - (size_t)at, ", a third for Lion");
        TRY(choose(p, "unet_lr", rate(1e-4 * narrow * sqrt(n) / (lion ? 3 : 1)), e, "1e-4%s",
                   more));
    }
    if (k->text == 0) TRY(choose(p, "text_encoder_lr", number(0), e, "%s", k->text_reason));
    else if (o->unet_lr > 0 && !common)
        TRY(choose(p, "text_encoder_lr", rate(k->text * o->unet_lr), e, "%s", k->text_reason));
    TRY(choose(p, "lr_scheduler", mem_strdup("cosine"), e, "large steps first, and none at the "
                                                           "end that undo each other"));
    if (strcmp(o->lr_scheduler, "constant"))
        TRY(choose(p, "lr_warmup_steps", mem_strdup("0.05"), e,
                   "5%% of the steps, until the moments are known"));
    return choose(p, "min_snr_gamma", number(5), e, "steps at little noise do not drown the "
                                                    "others (Hang et al., arXiv:2303.09556)");
}

/* ---- length ---------------------------------------------------------------------- */

static int choose_length(Preset *p, size_t *epochs, Err *e)
{
    const TrainOptions *o = &p->r->o;
    const Kind *k = p->kind;
    double uses = fmin(fmax((double)p->pictures * k->per_picture, k->least), k->most);
    int given = options_given(&p->r->opt, "max_train_steps") ||
                options_given(&p->r->opt, "max_train_epochs");
    if (p->flat && options_given(&p->r->opt, "dataset_repeats") != OPTIONS_COMMAND) {
        double repeats = fmax(1, round(uses / EPOCHS / (double)p->pictures));
        TRY(choose(p, "dataset_repeats", number(repeats), e, "so that %d epochs give %g uses",
                   EPOCHS, uses));
        p->per_epoch = p->pictures * (size_t)o->repeats;
    }
    double steps = (double)p->per_epoch / o->batch / o->accumulation;
    *epochs = (size_t)fmax(1, round(uses / (double)p->per_epoch));
    if (!given)
        TRY(choose(p, "max_train_epochs", number((double)*epochs), e,
                   "%zu pictures want about %g uses (%d each, %d to %d in all); "
                   "an epoch has %zu", p->pictures, uses, k->per_picture, k->least, k->most,
                   p->per_epoch));
    else *epochs = o->epochs ? (size_t)o->epochs : (size_t)ceil(o->steps / fmax(1, steps));
    if (o->save_every_n_steps || o->save_n_epoch_ratio) return 0;
    size_t every = (*epochs + EPOCHS - 1) / EPOCHS;
    return choose(p, "save_every_n_epochs", number((double)every), e,
                  "about %d files to choose from", EPOCHS);
}

/* ---- what is looked at ----------------------------------------------------------- */

static int choose_validation(Preset *p, Err *e)
{
    const TrainOptions *o = &p->r->o;
    if (!o->validation_dir && !(o->validation_split > 0) && p->pictures < SPLIT_FROM)
        return choose(p, "auto", flag(0), e,
                      "%zu pictures are too few to hold some out: the rows of samples in the "
                      "report show which epoch is best",
                      p->pictures);
    if (!o->validation_dir)
        TRY(choose(p, "validation_split", number(0.1), e,
                   "%zu pictures are enough to keep a tenth for measuring", p->pictures));
    return choose(p, "auto", flag(1), e,
                  "pictures are held out: their loss says when there is nothing more to learn, and "
                  "which moment is best");
}

/* The i-th different caption that is not the trigger alone; NULL: none. */
static const char *caption_at(const Dataset *ds, size_t i)
{
    const DataItem *it = ds->item_count ? &ds->items[i * ds->item_count / 2] : NULL;
    return it && !it->is_reg && *it->caption ? it->caption : NULL;
}

static char *prompt_lines(const Preset *p, const Dataset *ds)
{
    const char *t = *p->trigger ? p->trigger : ds->folders[0].class_tokens;
    const char *prefix = p->r->o.caption_prefix;
    char beyond[300], *text = mem_strdup("# sample prompts of the preset\n");
    snprintf(beyond, sizeof beyond, p->kind->beyond, t ? t : "");
    const char *lines[PROMPTS] = {t, caption_at(ds, 0), caption_at(ds, 1), t ? beyond : NULL};
    for (int i = 0, n = 0; text && i < PROMPTS; i++) {
        int captioned = (i == 1 || i == 2) && lines[i];
        if (!lines[i] && !(lines[i] = t)) continue;          /* without captions: more seeds */
        int put = captioned && prefix;
        char *more = mem_printf("%s%s%s%s --d %d --s %d --l %d --ss euler\n", text,
                                put ? prefix : "", put ? " " : "", lines[i], ++n, PROMPT_STEPS,
                                p->width < 320 ? 4 : 7);
        mem_free(text);
        text = more;
    }
    return text;
}

/* The scale of guidance is lower for small models, which it soon drives too far. A sample costs
 * about as much as 16 uses of a picture: guidance doubles its steps, a use
 * has a backward pass. */
static int choose_samples(Preset *p, size_t epochs, Err *e)
{
    TrainRun *r = p->r;
    Dataset *ds;
    if (options_given(&r->opt, "sample_prompts")) return 0;
    TRY(train_dataset(&ds, &r->o, 1, e));
    r->prompts = prompt_lines(p, ds);
    dataset_close(ds);
    if (!r->prompts) return err_nomem(e, 64, "prompts");
    TRY(choose(p, "sample_prompts", mem_printf("%s/%s-prompts.txt", r->o.output_dir,
                                               r->o.output_name), e,
               "the trigger, two captions, and something that no picture shows"));
    double uses = (double)epochs * (double)p->per_epoch,
           rows = fmin(EPOCHS, fmax(4, 0.2 * uses / (16 * PROMPTS)));
    double every = ceil((double)epochs / rows);
    TRY(choose(p, "sample_strengths", mem_strdup("0.4,0.6,0.8,1,1.2"), e,
               "at the end: what strength it is best used with"));
    TRY(choose(p, "sample_at_first", flag(1), e, "a row without the LoRA, to compare with"));
    if (!r->o.sample_every_n_steps)
        TRY(choose(p, "sample_every_n_epochs", number(every), e,
                   "%.0f more rows, with that of the end", ceil((double)epochs / every)));
    return 0;
}

/* ---- all of it ------------------------------------------------------------------- */

static int find_kind(Preset *p, const char *name, Err *e)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcasecmp(name, kinds[i].name)) p->kind = &kinds[i];
    if (p->kind) return 0;
    return err_set(e, ERR_USAGE, "option --preset: \"%s\" is not character, style or object", name);
}

int train_preset(TrainRun *r, Err *e)
{
    const TrainOptions *o = &r->o;
    Preset p = {.r = r, .trigger = o->trigger ? o->trigger : ""};
    size_t epochs;
    if (!o->preset && !o->trigger) return 0;
    if (o->preset) TRY(find_kind(&p, o->preset, e));
    if (!train_is_lora(o))
        return err_set(e, ERR_USAGE, "options --preset and --trigger: for a LoRA only");
    if (!o->model)
        return err_set(e, ERR_USAGE, "sdc train: --pretrained_model_name_or_path (-m) is missing");
    if (!o->data_dir) return err_set(e, ERR_USAGE, "sdc train: the folder of pictures is missing");
    if (!p.kind) {
        TRY(look_at_pictures(&p, e));
        return choose_captions(&p, e);
    }
    TRY(choose_resolution(&p, e));
    TRY(look_at_pictures(&p, e));
    if (!o->trigger && p.flat && p.captioned < p.pictures)
        return err_set(e, ERR_USAGE, "option --preset: %zu of %zu pictures have no caption: give "
                                     "--trigger \"WORDS\"",
                       p.pictures - p.captioned, p.pictures);
    TRY(choose_captions(&p, e));
    TRY(choose_network(&p, e));
    TRY(choose_batch(&p, e));
    TRY(choose_length(&p, &epochs, e));
    TRY(choose_rates(&p, e));
    TRY(choose_validation(&p, e));
    return choose_samples(&p, epochs, e);
}

void train_print_choices(const TrainRun *r)
{
    enum { WIDEST = 56 };
    int width = 0;
    if (!r->choice_count) return;
    fprintf(stderr, "chosen     (--NAME VALUE changes any of them)\n");
    for (int print = 0; print < 2; print++)         /* the column is as wide as what stands in it */
        for (size_t i = 0; i < r->choice_count; i++) {
            char *value = options_text(&r->opt, r->choices[i].name), line[300];
            int n = snprintf(line, sizeof line, "%s = %s", r->choices[i].name, value ? value : "");
            if (print) fprintf(stderr, "  %-*s  %s\n", width, line, r->choices[i].reason);
            else if (n > width) width = n < WIDEST ? n : WIDEST;
            mem_free(value);
        }
}
