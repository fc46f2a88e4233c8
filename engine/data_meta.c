/* data_meta.c - pictures of a data set as pixels, their cache keys, and what
 * kohya's metadata says about them. See data.h. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/data.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "engine/recolour.h"

/* To the size and part that is trained on. On failure im is freed. */
static int fit_image(Image *im, const DataItem *item, int flip, Err *e)
{
    const BucketFit *f = &item->fit;
    if (im->w != f->rw || im->h != f->rh) {
        Image sized;
        int rc = resize_by(item->resize, &sized, im, f->rw, f->rh, e);
        image_free(im);
        if (rc) return err_prefix(e, "%s", item->path);
        *im = sized;
    }
    image_crop(im, f->x, f->y, f->bucket.w, f->bucket.h);
    if (flip) image_flip(im);
    return 0;
}

static int load_image(Image *im, const DataItem *item, Err *e)
{
    TRY(image_load(im, item->path, e));
    if (im->w == item->w && im->h == item->h) return 0;
    image_free(im);
    return err_set(e, ERR_INPUT, "%s: changed while training; start again", item->path);
}

int dataset_image(Image *im, const DataItem *item, int flip, Err *e)
{
    TRY(load_image(im, item, e));
    image_drop_alpha(im);
    TRY(fit_image(im, item, flip, e));
    if (item->colour.hue != 0) recolour_hue(im, item->colour.hue);
    if (item->colour.gamma != 0) recolour_gamma(im, item->colour.gamma);
    return 0;
}

/* The picture of an item's mask, in the item's size; none: *im is empty. */
static int load_mask(Image *im, const Dataset *ds, const DataItem *item, Err *e)
{
    *im = (Image){0};
    const DataSubset *of = &ds->folders[item->folder].of;
    if (!of->mask_dir && !of->alpha_mask) return 0;
    if (!of->mask_dir) return load_image(im, item, e);
    const char *name = strrchr(item->path, '/'), *dot = strrchr(item->path, '.');
    static const char *const ext[] = {"png", "jpg", "jpeg", "webp", "bmp"};
    int rc = 0, found = 0;
    for (size_t i = 0; !rc && !found && i < sizeof ext / sizeof *ext; i++) {
        char *path = mem_printf("%s%.*s.%s", of->mask_dir, (int)(dot - name), name, ext[i]);
        if (!path) return err_nomem(e, 64, "a file name");
        found = io_exists(path) == 1;
        if (found) rc = image_load(im, path, e);
        if (!rc && found && (im->w != item->w || im->h != item->h)) {
            rc = err_set(e, ERR_INPUT, "%s: %dx%d, but the picture it masks is %dx%d", path, im->w,
                         im->h, item->w, item->h);
            image_free(im);
        }
        mem_free(path);
    }
    return rc;
}

int dataset_has_masks(const Dataset *ds)
{
    int any = 0;
    for (size_t i = 0; i < ds->folder_count; i++)
        any |= ds->folders[i].of.alpha_mask || ds->folders[i].of.mask_dir;
    return any;
}

int dataset_mask(float **mask, const Dataset *ds, const DataItem *item, int flip, Err *e)
{
    Image im;
    int w = item->fit.bucket.w / 8, h = item->fit.bucket.h / 8;
    TRY(load_mask(&im, ds, item, e));
    int channel = ds->folders[item->folder].of.mask_dir ? 0 : 3, any = im.px && im.c > channel;
    if (any) TRY(fit_image(&im, item, flip, e));
    *mask = mem_alloc((size_t)w * (size_t)h * sizeof **mask);
    for (int i = 0; *mask && i < w * h; i++) {
        int sum = 0;
        for (int k = 0; any && k < 64; k++) {
            int y = i / w * 8 + k / 8, x = i % w * 8 + k % 8;
            sum += im.px[((size_t)y * (size_t)im.w + (size_t)x) * (size_t)im.c + (size_t)channel];
        }
        (*mask)[i] = any ? (float)sum / (64 * 255) : 1;
    }
    image_free(&im);
    return *mask ? 0 : err_nomem(e, (size_t)w * (size_t)h * 4, item->path);
}

int dataset_item_key(char key[HASH_HEX], const DataItem *item, int flip, Err *e)
{
    const BucketFit *f = &item->fit;
    Hash *h;
    IoMap map;
    char how[128];
    snprintf(how, sizeof how, "\n%dx%d %dx%d+%d+%d%s%s%s", f->rw, f->rh, f->bucket.w, f->bucket.h,
             f->x, f->y, flip ? " flip" : "", item->resize ? " " : "", resize_name(item->resize));
    TRY(hash_new(&h, e));
    int rc = io_map(&map, item->path, e);
    if (!rc) {
        hash_update(h, map.data, map.size);
        hash_update(h, how, strlen(how));
        hash_finish(h, key);
        io_unmap(&map);
    }
    hash_free(h);
    return rc;
}

/* Python's json.dumps of root, which is released. */
static int dump(char **out, json_t *root, int ok, Err *e)
{
    char *text = ok && root ? json_dumps(root, JSON_ENSURE_ASCII | JSON_ENCODE_ANY) : NULL;
    json_decref(root);
    *out = text ? mem_strdup(text) : NULL;
    free(text);
    return *out ? 0 : err_nomem(e, 0, "metadata");
}

/* Lower case, code point by code point. NULL when there is no memory. */
static char *lower(const char *s, size_t n)
{
    char *out = mem_alloc(n * 4 + 1);      /* a letter may take more bytes than before */
    size_t used = 0;
    for (size_t at = 0; out && at < n;) {
        utf8proc_int32_t cp;
        utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)s + at,
                                              (utf8proc_ssize_t)(n - at), &cp);
        if (k <= 0) break;
        at += (size_t)k;
        used += (size_t)utf8proc_encode_char(utf8proc_tolower(cp),
                                             (utf8proc_uint8_t *)out + used);
    }
    if (out) out[used] = 0;
    return out;
}

/* Adds 1 for each tag of the caption. 0 when there is no memory. */
static int count_tags(json_t *tags, const char *caption)
{
    for (const char *s = caption; *s;) {
        size_t n = strcspn(s, ","), from = 0, to = n;
        while (from < to && strchr(" \t\v\f\r\n", s[from])) from++;
        while (to > from && strchr(" \t\v\f\r\n", s[to - 1])) to--;
        if (to > from) {
            char *tag = lower(s + from, to - from);
            if (!tag) return 0;
            json_int_t have = json_integer_value(json_object_get(tags, tag));
            int bad = json_object_set_new(tags, tag, json_integer(have + 1));
            mem_free(tag);
            if (bad) return 0;
        }
        s += n + (s[n] == ',');
    }
    return 1;
}

/* The object of a folder in root, made when it is new. NULL: no memory. */
static json_t *folder_object(json_t *root, const char *name)
{
    json_t *o = json_object_get(root, name);
    if (!o && !json_object_set_new(root, name, json_object())) o = json_object_get(root, name);
    return o;
}

int dataset_tag_frequency(char **json, const Dataset *ds, Err *e)
{
    json_t *root = json_object();
    int ok = !!root;
    for (size_t i = 0; i < ds->folder_count && ok; i++) {
        const DataFolder *f = &ds->folders[i];
        json_t *tags = folder_object(root, f->name);
        ok = !!tags;
        for (size_t k = f->first; k < f->first + f->count && ok; k++)
            ok = count_tags(tags, ds->items[k].caption);
    }
    return dump(json, root, ok, e);
}

int dataset_dirs(char **json, const Dataset *ds, int is_reg, Err *e)
{
    json_t *root = json_object();
    int ok = !!root;
    for (size_t i = 0; i < ds->folder_count && ok; i++) {
        const DataFolder *f = &ds->folders[i];
        if (f->is_reg != is_reg) continue;
        json_t *dir = folder_object(root, f->name);
        ok = dir && !json_object_set_new(dir, "n_repeats", json_integer(f->repeats)) &&
             !json_object_set_new(dir, "img_count", json_integer((json_int_t)f->count));
    }
    return dump(json, root, ok, e);
}

int dataset_bucket_info(char **json, const Dataset *ds, Err *e)
{
    if (!ds->cfg.bucket.enable) return dump(json, json_null(), 1, e);
    json_t *root = json_object(), *list = json_object();
    double error = 0;
    size_t n = 0;
    int ok = root && !json_object_set_new(root, "buckets", list);
    for (size_t i = 0; i < ds->bucket_count && ok; i++) {
        const DataBucket *b = &ds->buckets[i];
        char index[24];
        snprintf(index, sizeof index, "%zu", i);
        ok = !json_object_set_new(list, index, json_pack("{s:[ii],s:I}", "resolution", b->w, b->h,
                                                         "count", (json_int_t)b->count));
    }
    for (size_t i = 0; i < ds->item_count; i++) {
        if (!ds->items[i].repeats) continue;
        error += fabs(ds->items[i].fit.ar_error);
        n++;
    }
    error = n ? error / (double)n : 0;
    ok = ok && !json_object_set_new(root, "mean_img_ar_error", json_real(error));
    return dump(json, root, ok, e);
}
