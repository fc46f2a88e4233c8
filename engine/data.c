/* data.c - finding pictures and captions, and cutting them into batches. See data.h. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/data_impl.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "engine/rng.h"

/* Purposes of RngKey; 0xDA.... belongs to data sets. */
enum { DRAW_ORDER = 0xDA0001, DRAW_BATCHES = 0xDA0002, DRAW_FLIP = 0xDA0003,
       DRAW_SPLIT = 0xDA0004 };
enum { REPEATS_MAX = 1000000, ENTRIES_MAX = 1 << 30, SOME_MAX = 20 };

__attribute__((format(printf, 2, 3)))
static void notice(const Dataset *ds, const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    if (ds->cfg.notice) ds->cfg.notice(ds->cfg.ctx, line);
}

/* ---- folders ------------------------------------------------------------- */

/* "10_cat eyes" is 10 and "cat eyes"; 0 when the name has no number in front. */
static int parse_folder(const char *name, const char **words)
{
    int n = 0;
    const char *s = name;
    for (; *s >= '0' && *s <= '9' && n <= REPEATS_MAX; s++) n = n * 10 + (*s - '0');
    if (s == name || n > REPEATS_MAX || (*s && *s != '_')) return 0;
    *words = *s ? s + 1 : s;
    return n;
}

/* of: with what comes from the configuration; the strings of the folder are copied. */
static int add_folder(Dataset *ds, const char *path, const char *name, const DataSubset *of, Err *e)
{
    const char *words = of->class_tokens;
    for (size_t at = 0, n = strlen(name); at < n;) {       /* it may become a caption */
        utf8proc_int32_t cp;
        utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)name + at,
                                              (utf8proc_ssize_t)(n - at), &cp);
        if (k <= 0) return err_set(e, ERR_INPUT, "%s: the folder's name is not UTF-8", path);
        at += (size_t)k;
    }
    DataFolder *list = mem_grow(ds->folders, ds->folder_count, &ds->folder_cap, sizeof *list);
    if (!list) return err_nomem(e, sizeof *list, "the list of folders");
    ds->folders = list;
    DataFolder *f = &list[ds->folder_count++];
    int repeats = ds->cfg.repeats && !of->is_reg ? ds->cfg.repeats : of->repeats;
    *f = (DataFolder){.path = mem_strdup(path), .name = mem_strdup(name), .repeats = repeats,
                      .class_tokens = words ? mem_strdup(words) : NULL, .is_reg = of->is_reg,
                      .of = *of};
    if (!f->path || !f->name || (words && !f->class_tokens))
        return err_nomem(e, strlen(path), "the list of folders");
    return 0;
}

/* A folder N_words: its settings are those of the configuration. */
static DataSubset plain_subset(const Dataset *ds, const char *words, int repeats, int is_reg)
{
    const DataConfig *c = &ds->cfg;
    return (DataSubset){.class_tokens = words, .caption_extension = c->caption_extension,
                        .mask_dir = c->mask_dir, .repeats = repeats, .is_reg = is_reg,
                        .wildcards = c->wildcards, .alpha_mask = c->alpha_mask,
                        .flip_aug = c->flip_aug, .resize = c->resize,
                        .random_crop = c->random_crop, .color_aug = c->color_aug,
                        .face = {c->face[0], c->face[1]}, .caption = c->caption};
}

/* The last part of a path, without slashes behind it. */
static char *base_name(const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t at = end;
    while (at > 0 && path[at - 1] != '/') at--;
    return mem_printf("%.*s", (int)(end - at), path + at);
}

/* Pictures directly in the given folder: flat_repeats, or what its own name says
 * (someone gave 10_cat itself instead of the folder around it). */
static int add_flat(Dataset *ds, const char *dir, int is_reg, Err *e)
{
    char *name = base_name(dir);
    const char *words = NULL;
    if (!name) return err_nomem(e, strlen(dir), "the list of folders");
    int n = parse_folder(name, &words);
    int repeats = n ? n : ds->cfg.flat_repeats > 0 ? ds->cfg.flat_repeats : 1;
    notice(ds, "%s has no folders like 10_name: its pictures are used %d time%s each", dir,
           repeats, repeats > 1 ? "s" : "");
    DataSubset of = plain_subset(ds, n ? words : NULL, repeats, is_reg);
    int rc = add_folder(ds, dir, name, &of, e);
    mem_free(name);
    return rc;
}

static int scan_names(Dataset *ds, const char *dir, char **names, size_t count, int is_reg, Err *e)
{
    size_t before = ds->folder_count, pictures = 0;
    for (size_t i = 0; i < count; i++) {
        const char *words = NULL;
        char *path = mem_printf("%s/%s", dir, names[i]);
        if (!path) return err_nomem(e, strlen(dir), "the list of folders");
        int kind = io_exists(path), n = parse_folder(names[i], &words), rc = 0;
        pictures += kind == 1 && image_has_extension(names[i]);
        DataSubset of = plain_subset(ds, words, n, is_reg);
        if (kind == 2 && n) rc = add_folder(ds, path, names[i], &of, e);
        else if (kind == 2 && names[i][0] != '.')
            notice(ds, "folder %s is ignored: its name does not begin with a number of repeats, "
                   "as 10_name", path);
        mem_free(path);
        TRY(rc);
    }
    if (ds->folder_count == before && pictures) return add_flat(ds, dir, is_reg, e);
    if (pictures)
        notice(ds, "%zu pictures directly in %s are ignored: it has folders like 10_name", pictures,
               dir);
    return 0;
}

static int scan_dir(Dataset *ds, const char *dir, int is_reg, Err *e)
{
    char **names;
    size_t count, before = ds->folder_count;
    TRY(io_list(&names, &count, dir, e));
    int rc = scan_names(ds, dir, names, count, is_reg, e);
    io_list_free(names, count);
    if (!rc && ds->folder_count == before)
        rc = err_set(e, ERR_INPUT, "%s: no pictures and no folders like 10_name with pictures; "
                     "give the folder around them", dir);
    return rc;
}

/* The folders of a dataset_config. */
static int add_subsets(Dataset *ds, Err *e)
{
    for (size_t i = 0; i < ds->cfg.subset_count; i++) {
        const DataSubset *of = &ds->cfg.subsets[i];
        const char *path = of->dir ? of->dir : of->metadata;
        char *name = base_name(path);
        if (!name) return err_nomem(e, strlen(path), "the list of folders");
        int rc = io_exists(path)
                     ? add_folder(ds, path, name, of, e)
                     : err_set(e, ERR_INPUT, "%s: %s is not there", ds->cfg.train_dir, path);
        mem_free(name);
        TRY(rc);
    }
    return 0;
}

/* ---- items --------------------------------------------------------------- */

/* The caption file of a picture: *text NULL when there is none. */
static int find_caption(char **text, const DataSubset *of, const char *path, Err *e)
{
    const char *given = of->caption_extension, *dot = strrchr(path, '.');
    const char *ext[2] = {given && *given ? given : ".txt", given && *given ? NULL : ".caption"};
    *text = NULL;
    for (int i = 0; i < 2 && ext[i] && !*text; i++) {
        char *name = mem_printf("%.*s%s%s", (int)(dot - path), path, *ext[i] == '.' ? "" : ".",
                                ext[i]);
        if (!name) return err_nomem(e, strlen(path), "the list of pictures");
        int rc = io_exists(name) == 1
                     ? (of->wildcards ? caption_read_lines : caption_read)(text, name, e)
                     : 0;
        mem_free(name);
        TRY(rc);
    }
    return 0;
}

int dataset_add_item(Dataset *ds, size_t folder, char *path, char *caption, Err *e)
{
    const DataFolder *f = &ds->folders[folder];
    DataItem *list = path ? mem_grow(ds->items, ds->item_count, &ds->item_cap, sizeof *list) : NULL;
    if (!list) {
        mem_free(path);
        mem_free(caption);
        return err_nomem(e, sizeof *list, "the list of pictures");
    }
    ds->items = list;
    list[ds->item_count++] = (DataItem){.path = path, .caption = caption, .folder = (int)folder,
                                        .is_reg = f->is_reg, .repeats = f->repeats,
                                        .resize = f->of.resize,
                                        .weight = f->is_reg ? ds->cfg.prior_loss_weight : 1};
    return 0;
}

/* Adds the picture; *missing counts those without a caption file. */
static int add_item(Dataset *ds, size_t folder, const char *name, size_t *missing, Err *e)
{
    const DataFolder *f = &ds->folders[folder];
    TRY(dataset_add_item(ds, folder, mem_printf("%s/%s", f->path, name), NULL, e));
    DataItem *it = &ds->items[ds->item_count - 1];
    TRY(find_caption(&it->caption, &f->of, it->path, e));
    if (it->caption) return 0;
    if (!(*missing)++ && !(f->of.caption.prefix && !f->class_tokens))
        notice(ds, f->class_tokens ? "%s has no caption file: \"%s\" from its folder is used"
                                   : "%s has no caption file: it is trained without words%s",
               it->path, f->class_tokens ? f->class_tokens : "");
    it->caption = mem_strdup(f->class_tokens ? f->class_tokens : "");
    return it->caption ? 0 : err_nomem(e, 1, "a caption");
}

static int scan_pictures(Dataset *ds, size_t folder, Err *e)
{
    char **names;
    size_t count, missing = 0;
    const DataFolder *f = &ds->folders[folder];
    int rc = 0;
    ds->folders[folder].first = ds->item_count;
    if (f->of.metadata) {
        TRY(dataset_read_metadata(ds, folder, e));
        ds->folders[folder].count = ds->item_count - f->first;
        return 0;
    }
    TRY(io_list(&names, &count, f->path, e));
    for (size_t i = 0; i < count && !rc; i++)
        if (image_has_extension(names[i])) rc = add_item(ds, folder, names[i], &missing, e);
    io_list_free(names, count);
    ds->folders[folder].count = ds->item_count - f->first;
    if (missing && ds->cfg.caption.prefix && !f->class_tokens)
        notice(ds, "%zu of %zu pictures have no caption file: \"%s\" alone is their caption",
               missing, ds->folders[folder].count, ds->cfg.caption.prefix);
    else if (missing > 1)
        notice(ds, "%s: %zu pictures in all have no caption file", f->path, missing);
    if (!rc && !f->count) notice(ds, "folder %s has no pictures", f->path);
    return rc;
}

/* How many of a folder's pictures are held out. */
static size_t held_of(const Dataset *ds, size_t count)
{
    if (!ds->cfg.split_some)
        return count - (size_t)ceil((double)count * (1 - ds->cfg.split) - 1e-9);
    size_t fifth = (count + 2) / 5;
    return count < 2 ? 0 : fifth < 1 ? 1 : fifth > SOME_MAX ? SOME_MAX : fifth;
}

/* Holds a part of each folder of training pictures out, chosen by the seed: kohya's
 * split_train_val, but no picture is on both sides. */
static int split(Dataset *ds, Err *e)
{
    size_t held = 0;
    for (size_t i = 0; i < ds->folder_count; i++) {
        const DataFolder *f = &ds->folders[i];
        uint32_t *index = f->is_reg ? NULL : mem_alloc((f->count + 1) * sizeof *index);
        if (f->is_reg) continue;
        if (!index) return err_nomem(e, f->count * sizeof *index, "the list of pictures");
        for (uint32_t k = 0; k < f->count; k++) index[k] = k;
        rng_shuffle((RngKey){ds->cfg.split_seed, 0, (uint32_t)i, DRAW_SPLIT}, index,
                    (uint32_t)f->count);
        size_t stay = f->count - held_of(ds, f->count);
        for (size_t k = 0; k < f->count; k++) {
            DataItem *it = &ds->items[f->first + index[k]];
            it->repeats = (k >= stay) != ds->cfg.held_out ? 0 : ds->cfg.held_out ? 1 : it->repeats;
        }
        held += f->count - stay;
        mem_free(index);
    }
    if (held) return 0;
    if (ds->cfg.split_some)
        return err_set(e, ERR_USAGE,
                       "--auto: every folder has a single picture, and none can be held out; give "
                       "--validation_dir");
    return err_set(e, ERR_USAGE,
                   "--validation_split %g: leaves no picture to validate with; give more",
                   ds->cfg.split);
}

static int probe(Dataset *ds, DataItem *it, Err *e)
{
    IoMap map;
    TRY(io_map(&map, it->path, e));
    int rc = image_size(&it->w, &it->h, map.data, map.size, e);
    io_unmap(&map);
    const DataSubset *of = &ds->folders[it->folder].of;
    const Buckets *sizes = &ds->sizes[of->set];
    if (!rc) rc = bucket_fit(sizes, it->w, it->h, &it->fit, e);
    if (!rc && of->random_crop && !sizes->cfg.enable) bucket_keep_size(&it->fit, it->w, it->h);
    if (rc) err_prefix(e, "%s", it->path);
    return rc;
}

static int probe_all(Dataset *ds, Err *e)
{
    for (size_t i = 0; i < ds->item_count; i++) {
        Err one = {0};
        int rc = probe(ds, &ds->items[i], &one);
        if (!rc) continue;
        if (!ds->cfg.skip_bad_images || rc == ERR_MEMORY) return err_set(e, rc, "%s", one.msg);
        notice(ds, "left out: %s", one.msg);
        ds->items[i].repeats = 0;
    }
    return 0;
}

/* Pictures times repeats, as the folders say. */
static int count_images(Dataset *ds, Err *e)
{
    for (size_t i = 0; i < ds->item_count; i++) {
        const DataItem *it = &ds->items[i];
        *(it->is_reg ? &ds->reg_images : &ds->train_images) += (size_t)it->repeats;
    }
    if (!ds->train_images)
        return err_set(e, ERR_INPUT, "%s: no pictures (png, jpg, webp, bmp) to train on",
                       ds->cfg.train_dir);
    if (ds->train_images > ENTRIES_MAX || ds->reg_images > ENTRIES_MAX)
        return err_set(e, ERR_USAGE, "%s: pictures times repeats are more than %d an epoch; lower "
                       "the repeats in the folder names", ds->cfg.train_dir, ENTRIES_MAX);
    return 0;
}

/* kohya's rule: give out regularisation pictures by their repeats, then one
 * repeat each in turn, until there are as many as training pictures. */
static void balance(Dataset *ds)
{
    size_t n = 0, usable = 0, unused = 0;
    for (size_t i = 0; i < ds->item_count; i++)
        usable += ds->items[i].is_reg && ds->items[i].repeats;
    for (int first = 1; usable && (first || n < ds->train_images); first = 0) {
        for (size_t i = 0; i < ds->item_count; i++) {
            DataItem *it = &ds->items[i];
            if (!it->is_reg || !it->repeats) continue;
            if (n >= ds->train_images) {
                unused += (size_t)first;
                if (first) it->repeats = 0;
                continue;
            }
            it->repeats += !first;
            n += first ? (size_t)it->repeats : 1;
        }
    }
    if (unused) notice(ds, "%zu regularisation pictures are not used: there are more of them than "
                       "training pictures", unused);
}

/* ---- entries ------------------------------------------------------------- */

static int by_bucket(const void *a, const void *b)
{
    const DataBucket *p = a, *q = b;
    if (p->set != q->set) return p->set - q->set;
    return p->w != q->w ? p->w - q->w : p->h - q->h;
}

static DataBucket bucket_of(const Dataset *ds, const DataItem *it)
{
    int set = ds->folders[it->folder].of.set;
    int batch = ds->cfg.subset_count ? ds->cfg.sets[set].batch_size : ds->cfg.batch_size;
    return (DataBucket){.set = set, .w = it->fit.bucket.w, .h = it->fit.bucket.h, .batch = batch};
}

/* The distinct sizes of used items, sorted, and each item's index among them. */
static int assign_buckets(Dataset *ds, Err *e)
{
    size_t n = 0, unique = 0;
    DataBucket *b = ds->buckets = mem_alloc((ds->item_count + 1) * sizeof *b);
    if (!b) return err_nomem(e, ds->item_count * sizeof *b, "the buckets");
    for (size_t i = 0; i < ds->item_count; i++)
        if (ds->items[i].repeats)
            b[n++] = bucket_of(ds, &ds->items[i]);
    qsort(b, n, sizeof *b, by_bucket);
    for (size_t i = 0; i < n; i++)
        if (!unique || by_bucket(&b[i], &b[unique - 1])) b[unique++] = b[i];
    ds->bucket_count = unique;
    for (size_t i = 0; i < ds->item_count; i++) {
        DataItem *it = &ds->items[i];
        DataBucket want = bucket_of(ds, it);
        if (!it->repeats) continue;
        DataBucket *at = bsearch(&want, b, unique, sizeof *b, by_bucket);
        it->bucket = (int)(at - b);
        at->count += (uint32_t)it->repeats;
    }
    return 0;
}

static int make_entries(Dataset *ds, Err *e)
{
    size_t total = 0;
    for (size_t i = 0; i < ds->item_count; i++) total += (size_t)ds->items[i].repeats;
    TRY(assign_buckets(ds, e));
    ds->entry_count = (uint32_t)total;
    ds->entries = mem_alloc(total * sizeof *ds->entries);
    if (!ds->entries) return err_nomem(e, total * sizeof *ds->entries, "the list of samples");
    uint32_t at = 0;
    for (size_t b = 0; b < ds->bucket_count; b++) {
        ds->buckets[b].first = at;
        at += ds->buckets[b].count;
        ds->buckets[b].count = 0;
    }
    for (size_t i = 0; i < ds->item_count; i++)
        for (int r = 0; r < ds->items[i].repeats; r++) {
            DataBucket *b = &ds->buckets[ds->items[i].bucket];
            ds->entries[b->first + b->count++] = (uint32_t)i;
        }
    return 0;
}

static int check_faces(const double *face, const DataSet *set, Err *e)
{
    if (face[1] > 0 && set->bucket.enable)
        return err_set(e, ERR_USAGE,
                       "face_crop_aug_range: needs enable_bucket=false; with buckets kohya does "
                       "not look for faces");
    return 0;
}

/* The sizes of each set, and what the sets have in common. */
static int open_sets(Dataset *ds, Err *e)
{
    DataConfig *c = &ds->cfg;
    const DataSet one = {c->bucket, c->batch_size}, *sets = c->subset_count ? c->sets : &one;
    size_t n = c->subset_count ? c->set_count : 1;
    ds->sizes = mem_calloc(n, sizeof *ds->sizes);
    if (!ds->sizes) return err_nomem(e, n * sizeof *ds->sizes, "the buckets");
    c->batch_size = 0;
    for (size_t i = 0; i < n; i++, ds->set_count++) {
        if (sets[i].batch_size < 1 || sets[i].batch_size > 65536)
            return err_set(e, ERR_USAGE, "--train_batch_size %d: must be at least 1",
                           sets[i].batch_size);
        if (sets[i].batch_size > c->batch_size) c->batch_size = sets[i].batch_size;
        TRY(bucket_open(&ds->sizes[i], &sets[i].bucket, e));
    }
    c->bucket = sets[0].bucket;
    for (size_t i = 0; i < c->subset_count; i++) {
        TRY(caption_check(&c->subsets[i].caption, e));
        c->flip_aug |= c->subsets[i].flip_aug;
        TRY(check_faces(c->subsets[i].face, &sets[c->subsets[i].set], e));
    }
    if (!c->subset_count) TRY(check_faces(c->face, &one, e));
    return caption_check(&c->caption, e);
}

static int fill(Dataset *ds, Err *e)
{
    const DataConfig *c = &ds->cfg;
    TRY(open_sets(ds, e));
    TRY(c->subset_count ? add_subsets(ds, e) : scan_dir(ds, c->train_dir, 0, e));
    if (!c->subset_count && c->reg_dir && *c->reg_dir) TRY(scan_dir(ds, c->reg_dir, 1, e));
    for (size_t i = 0; i < ds->folder_count; i++) TRY(scan_pictures(ds, i, e));
    if (c->split > 0 || c->split_some) TRY(split(ds, e));
    TRY(probe_all(ds, e));
    TRY(count_images(ds, e));
    balance(ds);
    return make_entries(ds, e);
}

int dataset_open(Dataset **out, const DataConfig *c, Err *e)
{
    Dataset *ds = *out = mem_calloc(1, sizeof *ds);
    if (!ds) return err_nomem(e, sizeof *ds, "the data set");
    ds->cfg = *c;
    int rc = fill(ds, e);
    if (rc) {
        dataset_close(ds);
        *out = NULL;
    }
    return rc;
}

void dataset_close(Dataset *ds)
{
    if (!ds) return;
    for (size_t i = 0; i < ds->folder_count; i++) {
        mem_free(ds->folders[i].path);
        mem_free(ds->folders[i].name);
        mem_free(ds->folders[i].class_tokens);
    }
    for (size_t i = 0; i < ds->item_count; i++) {
        mem_free(ds->items[i].path);
        mem_free(ds->items[i].caption);
    }
    mem_free(ds->folders);
    mem_free(ds->items);
    mem_free(ds->buckets);
    mem_free(ds->entries);
    for (size_t i = 0; i < ds->set_count; i++) bucket_close(&ds->sizes[i]);
    mem_free(ds->sizes);
    mem_free(ds);
}

/* ---- epochs -------------------------------------------------------------- */

static uint32_t bucket_batches(const DataBucket *b)
{
    return (b->count + (uint32_t)b->batch - 1) / (uint32_t)b->batch;
}

void dataset_set_steps(Dataset *ds, long max_train_steps)
{
    ds->cfg.caption.max_train_steps = max_train_steps;
    for (size_t i = 0; i < ds->folder_count; i++)
        ds->folders[i].of.caption.max_train_steps = max_train_steps;
}

size_t dataset_batches(const Dataset *ds)
{
    size_t n = 0;
    for (size_t b = 0; b < ds->bucket_count; b++) n += bucket_batches(&ds->buckets[b]);
    return n;
}

size_t dataset_steps(const Dataset *ds, int accumulation)
{
    size_t per = accumulation > 1 ? (size_t)accumulation : 1;
    return (dataset_batches(ds) + per - 1) / per;
}

/* The samples of all buckets, shuffled inside each; index has room for the
 * largest. */
static void order_samples(DataSample *out, const Dataset *ds, uint32_t epoch, uint32_t *index)
{
    RngKey key = {.seed = ds->cfg.seed, .step = epoch};
    for (size_t b = 0; b < ds->bucket_count; b++) {
        const DataBucket *k = &ds->buckets[b];
        for (uint32_t i = 0; i < k->count; i++) index[i] = k->first + i;
        key.purpose = DRAW_ORDER;
        key.sample = (uint32_t)b;
        rng_shuffle(key, index, k->count);
        key.purpose = DRAW_FLIP;
        for (uint32_t i = 0; i < k->count; i++) {
            DataSample *s = &out[k->first + i];
            *s = (DataSample){.item = ds->entries[index[i]], .entry = index[i]};
            key.sample = s->entry;
            const DataFolder *f = &ds->folders[ds->items[s->item].folder];
            if (f->of.flip_aug) s->flip = (int)(rng_u32(key, 0) & 1);
        }
    }
}

static DataBatch cut_batch(const DataEpoch *ep, const Dataset *ds, uint32_t k)
{
    const DataBucket *b = ds->buckets;
    for (; k >= bucket_batches(b); b++) k -= bucket_batches(b);
    uint32_t size = (uint32_t)b->batch, left = b->count - k * size;
    return (DataBatch){.w = b->w, .h = b->h, .count = (int)(left < size ? left : size),
                       .samples = ep->samples + b->first + k * size};
}

int dataset_epoch(DataEpoch *ep, const Dataset *ds, uint32_t epoch, Err *e)
{
    size_t n = dataset_batches(ds);
    uint32_t *index = mem_alloc(ds->entry_count * sizeof *index);
    *ep = (DataEpoch){.batches = mem_alloc(n * sizeof *ep->batches), .count = n,
                      .samples = mem_alloc(ds->entry_count * sizeof *ep->samples)};
    if (!index || !ep->batches || !ep->samples) {
        mem_free(index);
        dataset_epoch_free(ep);
        return err_nomem(e, ds->entry_count * sizeof *ep->samples, "the order of an epoch");
    }
    order_samples(ep->samples, ds, epoch, index);
    for (uint32_t i = 0; i < n; i++) index[i] = i;
    RngKey key = {.seed = ds->cfg.seed, .step = epoch, .purpose = DRAW_BATCHES};
    rng_shuffle(key, index, (uint32_t)n);
    for (size_t i = 0; i < n; i++) ep->batches[i] = cut_batch(ep, ds, index[i]);
    mem_free(index);
    return 0;
}

void dataset_epoch_free(DataEpoch *ep)
{
    mem_free(ep->batches);
    mem_free(ep->samples);
    *ep = (DataEpoch){0};
}

int dataset_caption(char **text, const Dataset *ds, const DataSample *s, uint32_t epoch,
                    uint32_t step, Err *e)
{
    RngKey key = {.seed = ds->cfg.seed, .sample = s->entry};
    const DataItem *it = &ds->items[s->item];
    return caption_process(text, &ds->folders[it->folder].of.caption, it->caption, key, epoch, step,
                           e);
}
