/* dataset_config.c - see dataset_config.h. */
#include "tools/dataset_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "tools/json_tables.h"
#include "tools/options.h"
#include "tools/toml.h"

enum { CONFIG_MAX = 4 << 20, SECTIONS_MAX = 65536 };

/* Where a section stands, as bits: which keys it may have. */
enum { GENERAL = 1, DATASET = 2, SUBSET = 4, ANY = GENERAL | DATASET | SUBSET };

typedef struct { int level, dataset; } Section;          /* dataset: index of its data set */
typedef struct { size_t section; char *key, *value; int index; } Setting;

struct DatasetFile {
    const char *path;
    Section *sections;
    Setting *settings;
    size_t section_count, section_cap, setting_count, setting_cap;
    DataSet *sets;
    DataSubset *subsets;
    size_t set_count, subset_count;
};

/* ---- keys ---------------------------------------------------------------- */

typedef enum { TEXT, INT, NUM, FLAG, SIZE, RANGE, RESAMPLING, REFUSED } Type;
typedef struct {
    const char *name;
    int levels, of_set;      /* of_set: a field of DataSet, else of DataSubset */
    Type type;
    size_t at;
    double low, high;
    const char *why;
} Key;

#define SUB(field) 0, TEXT, offsetof(DataSubset, field), 0, 0, NULL
#define SUB_FLAG(field) 0, FLAG, offsetof(DataSubset, field), 0, 0, NULL
#define SUB_INT(field, lo, hi) 0, INT, offsetof(DataSubset, field), lo, hi, NULL
#define SUB_NUM(field, lo, hi) 0, NUM, offsetof(DataSubset, field), lo, hi, NULL
#define SET_INT(field, lo, hi) 1, INT, offsetof(DataSet, field), lo, hi, NULL
#define SET_FLAG(field) 1, FLAG, offsetof(DataSet, field), 0, 0, NULL
#define NOT(why) 0, REFUSED, 0, 0, 0, why
static const Key keys[] = {
    {"image_dir", SUBSET, SUB(dir)},
    {"metadata_file", SUBSET, SUB(metadata)},
    {"conditioning_data_dir", SUBSET, SUB(mask_dir)},
    {"is_reg", SUBSET, SUB_FLAG(is_reg)},
    {"alpha_mask", SUBSET, SUB_FLAG(alpha_mask)},
    {"class_tokens", ANY, SUB(class_tokens)},
    {"caption_extension", ANY, SUB(caption_extension)},
    {"num_repeats", ANY, SUB_INT(repeats, 0, 1000000)},
    {"flip_aug", ANY, SUB_FLAG(flip_aug)},
    {"random_crop", ANY, SUB_FLAG(random_crop)},
    {"color_aug", ANY, SUB_FLAG(color_aug)},
    {"face_crop_aug_range", ANY, 0, RANGE, offsetof(DataSubset, face), 1e-6, 1e6, NULL},
    {"resize_interpolation", ANY, 0, RESAMPLING, offsetof(DataSubset, resize), 0, 0, NULL},
    {"shuffle_caption", ANY, SUB_FLAG(caption.shuffle)},
    {"keep_tokens", ANY, SUB_INT(caption.keep_tokens, 0, 1000)},
    {"keep_tokens_separator", ANY, SUB(caption.keep_tokens_separator)},
    {"caption_separator", ANY, SUB(caption.separator)},
    {"secondary_separator", ANY, SUB(caption.secondary)},
    {"enable_wildcard", ANY, SUB_FLAG(wildcards)},
    {"caption_prefix", ANY, SUB(caption.prefix)},
    {"caption_suffix", ANY, SUB(caption.suffix)},
    {"caption_dropout_rate", ANY, SUB_NUM(caption.dropout_rate, 0, 1)},
    {"caption_dropout_every_n_epochs", ANY, SUB_INT(caption.dropout_every_n_epochs, 0, 1000000)},
    {"caption_tag_dropout_rate", ANY, SUB_NUM(caption.tag_dropout_rate, 0, 1)},
    {"token_warmup_min", ANY, SUB_INT(caption.token_warmup_min, 1, 1000)},
    {"token_warmup_step", ANY, SUB_NUM(caption.token_warmup_step, 0, 1e9)},
    {"batch_size", GENERAL | DATASET, SET_INT(batch_size, 1, 1024)},
    {"resolution", GENERAL | DATASET, 1, SIZE, 0, 64, 16384, NULL},
    {"enable_bucket", GENERAL | DATASET, SET_FLAG(bucket.enable)},
    {"bucket_no_upscale", GENERAL | DATASET, SET_FLAG(bucket.no_upscale)},
    {"min_bucket_reso", GENERAL | DATASET, SET_INT(bucket.min_reso, 8, 16384)},
    {"max_bucket_reso", GENERAL | DATASET, SET_INT(bucket.max_reso, 8, 16384)},
    {"bucket_reso_steps", GENERAL | DATASET, SET_INT(bucket.steps, 8, 1024)},
    {"cache_info", ANY, NOT(NULL)},
    {"network_multiplier", GENERAL | DATASET, NOT("a LoRA is trained at strength 1")},
    {"custom_attributes", ANY, NOT("no setting uses them here")},
    {"validation_split", GENERAL | DATASET, NOT("give it on the command line")},
    {"validation_seed", GENERAL | DATASET, NOT("give it on the command line")},
};
enum { KEYS = sizeof keys / sizeof *keys };

static int unknown_key(const DatasetFile *f, const char *key, Err *e)
{
    const char *names[KEYS];
    for (int i = 0; i < KEYS; i++) names[i] = keys[i].name;
    const char *near = options_nearest(key, names, KEYS);
    return err_set(e, ERR_USAGE, "%s: unknown key \"%.60s\"%s%s", f->path, key,
                   near ? "; did you mean " : "", near ? near : "");
}

static int bad_value(const DatasetFile *f, const Setting *s, const char *want, Err *e)
{
    return err_set(e, ERR_USAGE, "%s: %s = \"%.60s\": expected %s", f->path, s->key, s->value,
                   want);
}

static int number(const DatasetFile *f, const Setting *s, const Key *k, double *v, Err *e)
{
    char *end, want[80];
    int real = k->type == NUM || k->type == RANGE;
    *v = strtod(s->value, &end);
    if (end != s->value && !*end && *v >= k->low && *v <= k->high &&
        (real || *v == floor(*v)))
        return 0;
    snprintf(want, sizeof want, "a %snumber from %g to %g", real ? "" : "whole ", k->low, k->high);
    return bad_value(f, s, want, e);
}

static int apply(const DatasetFile *f, const Setting *s, DataSet *set, DataSubset *sub, Err *e)
{
    const Key *k = NULL;
    int level = f->sections[s->section].level;
    double v = 0;
    for (int i = 0; i < KEYS; i++)
        if (!strcmp(keys[i].name, s->key)) k = &keys[i];
    if (!k) return unknown_key(f, s->key, e);
    if (!(k->levels & level))
        return err_set(e, ERR_USAGE, "%s: %s does not belong into %s", f->path, s->key,
                       level == GENERAL   ? "[general]"
                       : level == DATASET ? "[[datasets]]"
                                          : "[[datasets.subsets]]");
    if (k->type == REFUSED) {
        if (!k->why || !strcmp(s->value, "false")) return 0;
        return err_set(e, ERR_USAGE, "%s: %s is not supported: %s", f->path, s->key, k->why);
    }
    if (s->index > (k->type == SIZE || k->type == RANGE))
        return err_set(e, ERR_USAGE, "%s: %s: one value expected", f->path, s->key);
    void *field = (char *)(k->of_set ? (void *)set : (void *)sub) + k->at;
    int yes = !strcmp(s->value, "true");
    if (k->type == TEXT) {
        *(const char **)field = s->value;
    } else if (k->type == RESAMPLING) {
        if (!resize_method(field, s->value)) return bad_value(f, s, RESIZE_NAMES, e);
    } else if (k->type == FLAG) {
        if (!yes && strcmp(s->value, "false")) return bad_value(f, s, "true or false", e);
        *(int *)field = yes;
    } else {
        TRY(number(f, s, k, &v, e));
        if (k->type == NUM) *(double *)field = v;
        else if (k->type == INT) *(int *)field = (int)v;
        else if (k->type == RANGE) ((double *)field)[s->index] = v;
        else if (s->index) set->bucket.h = (int)v;
        else set->bucket.w = set->bucket.h = (int)v;
    }
    return 0;
}

/* All settings of one section. */
static int apply_section(const DatasetFile *f, size_t section, DataSet *set, DataSubset *sub,
                         Err *e)
{
    for (size_t i = 0; i < f->setting_count; i++)
        if (f->settings[i].section == section) TRY(apply(f, &f->settings[i], set, sub, e));
    return 0;
}

/* ---- reading ------------------------------------------------------------- */

static int add_section(DatasetFile *f, int level, Err *e)
{
    Section *list = mem_grow(f->sections, f->section_count, &f->section_cap, sizeof *list);
    if (!list) return err_nomem(e, sizeof *list, f->path);
    f->sections = list;
    if (f->section_count >= SECTIONS_MAX)
        return err_set(e, ERR_USAGE, "%s: too many sections", f->path);
    f->set_count += level == DATASET;
    f->subset_count += level == SUBSET;
    list[f->section_count++] = (Section){level, (int)f->set_count - 1};
    return 0;
}

/* toml_table_fn */
static int on_table(void *ctx, const char *name, int array, Err *e)
{
    DatasetFile *f = ctx;
    if (!strcmp(name, "general") && !array) return add_section(f, GENERAL, e);
    if (!strcmp(name, "datasets") && array) return add_section(f, DATASET, e);
    if (!strcmp(name, "datasets.subsets") && array) {
        if (f->set_count) return add_section(f, SUBSET, e);
        return err_set(e, ERR_USAGE, "%s: [[datasets.subsets]] needs [[datasets]] before it",
                       f->path);
    }
    return err_set(e, ERR_USAGE,
                   "%s: unknown section [%.60s]; there are [general], [[datasets]] and "
                   "[[datasets.subsets]]",
                   f->path, name);
}

/* toml_value_fn */
static int on_value(void *ctx, const char *key, const char *value, int index, Err *e)
{
    DatasetFile *f = ctx;
    if (!f->section_count)
        return err_set(e, ERR_USAGE,
                       "%s: %s stands before the first section, [general] or [[datasets]]", f->path,
                       key);
    Setting *list = mem_grow(f->settings, f->setting_count, &f->setting_cap, sizeof *list);
    if (!list) return err_nomem(e, sizeof *list, f->path);
    f->settings = list;
    Setting *s = &list[f->setting_count];
    *s = (Setting){f->section_count - 1, mem_strdup(key), mem_strdup(value), index};
    f->setting_count++;
    return s->key && s->value ? 0 : err_nomem(e, strlen(value), f->path);
}

/* ---- data sets ------------------------------------------------------------ */

/* Without what varies: captions as they are, no mirrors. */
static void make_plain(DataSubset *s)
{
    const CaptionConfig *c = &s->caption;
    s->flip_aug = s->random_crop = s->color_aug = 0;
    s->face[0] = s->face[1] = 0;
    s->caption = (CaptionConfig){.prefix = c->prefix,
                                 .suffix = c->suffix,
                                 .separator = c->separator,
                                 .secondary = c->secondary,
                                 .wildcards = c->wildcards};
}

static int check_subset(const DatasetFile *f, DataSubset *s, size_t i, int flags, Err *e)
{
    if (!s->dir && !s->metadata)
        return err_set(e, ERR_USAGE, "%s: subset %zu has no image_dir", f->path, i + 1);
    if (s->metadata && s->is_reg)
        return err_set(e, ERR_USAGE, "%s: subset %zu: is_reg does not go with metadata_file",
                       f->path, i + 1);
    if (s->face[0] > s->face[1])
        return err_set(e, ERR_USAGE,
                       "%s: subset %zu: face_crop_aug_range: two numbers expected, the smaller "
                       "one first", f->path, i + 1);
    s->caption.wildcards = s->wildcards;
    if (!(flags & DATASET_MASKS)) s->mask_dir = NULL;
    if (flags & DATASET_PLAIN) make_plain(s);
    return 0;
}

static int make(DatasetFile *f, DataConfig *base, int flags, Err *e)
{
    const DataSet set0 = {base->bucket, base->batch_size};
    const DataSubset sub0 = {.caption_extension = base->caption_extension,
                             .mask_dir = base->mask_dir,
                             .repeats = 1,
                             .wildcards = base->wildcards,
                             .alpha_mask = base->alpha_mask,
                             .flip_aug = base->flip_aug,
                             .resize = base->resize,
                             .random_crop = base->random_crop,
                             .color_aug = base->color_aug,
                             .face = {base->face[0], base->face[1]},
                             .caption = base->caption};
    size_t dataset = 0, set = 0, n = 0;
    f->sets = mem_calloc(f->set_count + 1, sizeof *f->sets);
    f->subsets = mem_calloc(f->subset_count + 1, sizeof *f->subsets);
    if (!f->sets || !f->subsets) return err_nomem(e, f->subset_count * sizeof *f->subsets, f->path);
    DataSet general_set = set0;
    DataSubset general = sub0, common = sub0;
    for (size_t i = 0; i < f->section_count; i++)
        if (f->sections[i].level == GENERAL) TRY(apply_section(f, i, &general_set, &general, e));
    for (size_t i = 0; i < f->section_count; i++) {
        if (f->sections[i].level == DATASET) {
            set = dataset++;
            f->sets[set] = general_set;
            common = general;
            TRY(apply_section(f, i, &f->sets[set], &common, e));
        } else if (f->sections[i].level == SUBSET) {
            DataSubset s = common;
            s.set = (int)set;
            TRY(apply_section(f, i, &f->sets[set], &s, e));
            TRY(check_subset(f, &s, n, flags, e));
            if (s.repeats) f->subsets[n++] = s;
        }
    }
    if (!n)
        return err_set(e, ERR_USAGE, "%s: no [[datasets.subsets]] with num_repeats above 0",
                       f->path);
    for (size_t i = 0; flags & DATASET_PLAIN && i < f->set_count; i++) f->sets[i].batch_size = 1;
    base->subsets = f->subsets;
    base->subset_count = n;
    base->sets = f->sets;
    base->set_count = f->set_count;
    base->train_dir = f->path;
    return 0;
}

static int is_json(const char *path)
{
    size_t n = strlen(path);
    return n > 5 && !strcasecmp(path + n - 5, ".json");
}

int dataset_file_open(DatasetFile **out, DataConfig *base, const char *path, int flags, Err *e)
{
    DatasetFile *f = *out = mem_calloc(1, sizeof *f);
    char *text;
    if (!f) return err_nomem(e, sizeof *f, path);
    f->path = path;
    int rc = io_read_text(&text, NULL, path, CONFIG_MAX, e);
    if (!rc) {
        rc = is_json(path) ? json_read_tables(text, path, on_value, on_table, f, e)
                           : toml_read_tables(text, path, on_value, on_table, f, e);
        mem_free(text);
    }
    if (!rc) rc = make(f, base, flags, e);
    if (!rc) return 0;
    dataset_file_close(f);
    *out = NULL;
    return rc;
}

int dataset_json_open(DatasetFile **out, DataConfig *base, const char *dir, const char *path,
                      int repeats, int flags, Err *e)
{
    DatasetFile *f = *out = mem_calloc(1, sizeof *f);
    if (!f) return err_nomem(e, sizeof *f, path);
    f->path = path;
    int rc = add_section(f, DATASET, e);
    if (!rc) rc = add_section(f, SUBSET, e);
    if (!rc && dir) rc = on_value(f, "image_dir", dir, 0, e);
    char n[16];
    snprintf(n, sizeof n, "%d", repeats);
    if (!rc) rc = on_value(f, "metadata_file", path, 0, e);
    if (!rc) rc = on_value(f, "num_repeats", n, 0, e);
    if (!rc) rc = make(f, base, flags, e);
    if (!rc) return 0;
    dataset_file_close(f);
    *out = NULL;
    return rc;
}

void dataset_file_close(DatasetFile *f)
{
    if (!f) return;
    for (size_t i = 0; i < f->setting_count; i++) {
        mem_free(f->settings[i].key);
        mem_free(f->settings[i].value);
    }
    mem_free(f->settings);
    mem_free(f->sections);
    mem_free(f->sets);
    mem_free(f->subsets);
    mem_free(f);
}
