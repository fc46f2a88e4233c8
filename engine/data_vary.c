/* data_vary.c - uses of a picture that differ: cut at random, around a face, recoloured.
 *
 * Source: kohya sd-scripts, library/train_util.py trim_and_resize_if_required, crop_target
 * and AugHelper; its random numbers are replaced by counters (rng.h).
 */
#include <math.h>
#include <string.h>

#include "engine/data_impl.h"
#include "engine/rng.h"

enum { DRAW_CROP = 0xDA0005, DRAW_SCALE = 0xDA0006, DRAW_COLOUR = 0xDA0007 };

typedef struct { int x, y, w, h; } Face;           /* its centre and size */

static const DataSubset *subset_of(const Dataset *ds, const DataItem *item)
{
    return &ds->folders[item->folder].of;
}

/* "..._X_Y_W_H.png"; 0 when the name does not end so. */
static int face_in_name(Face *f, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const char *end = strrchr(name, '.');
    int v[4];
    if (!end) end = name + strlen(name);
    for (int i = 4; i-- > 0;) {
        const char *p = end;
        int digits = 0, ten = 1;
        for (v[i] = 0; p > name && p[-1] >= '0' && p[-1] <= '9' && digits < 6; digits++, ten *= 10)
            v[i] += (*--p - '0') * ten;
        if (!digits || p == name || p[-1] != '_') return 0;
        end = p - 1;
    }
    *f = (Face){v[0], v[1], v[2], v[3]};
    return f->x > 0 && (f->w > 0 || f->h > 0);
}

/* Whether it is cut around a face: only what is larger than its size is. */
static int has_face(const Dataset *ds, const DataItem *item, Face *f)
{
    BucketSize to = item->fit.bucket;
    return subset_of(ds, item)->face[1] > 0 && face_in_name(f, item->path) && item->w >= to.w &&
           item->h >= to.h && (item->w > to.w || item->h > to.h);
}

int dataset_item_varies(const Dataset *ds, const DataItem *item)
{
    Face face;
    const DataSubset *of = subset_of(ds, item);
    const BucketFit *f = &item->fit;
    int larger = f->rw > f->bucket.w || f->rh > f->bucket.h;
    return of->color_aug || (of->random_crop && larger) || has_face(ds, item, &face);
}

int dataset_varies(const Dataset *ds)
{
    for (size_t i = 0; i < ds->item_count; i++)
        if (ds->items[i].repeats && dataset_item_varies(ds, &ds->items[i])) return 1;
    return 0;
}

int dataset_augments(const Dataset *ds)
{
    for (size_t i = 0; i < ds->folder_count; i++) {
        const DataSubset *of = &ds->folders[i].of;
        if (of->random_crop || of->color_aug || of->face[1] > 0) return 1;
    }
    return 0;
}

/* Where a length of `to` begins along an axis of the resized picture: the face in its middle,
 * and moved by draws i and i + 1. big: the longer side of the face, before resizing. */
static int around_face(const DataSubset *of, RngKey key, uint32_t i, int centre, int length, int to,
                       int size, int big)
{
    int at = centre - to / 2, reach = length - centre > centre ? length - centre : centre;
    if (of->random_crop) {
        uint32_t n = (uint32_t)reach + 1;
        at += (int)rng_below(key, i, n) + (int)rng_below(key, i + 1, n) - reach;
    } else if (of->face[0] < of->face[1] && big > size / 10 && big >= 40) {
        int less = (big + 19) / 20;
        at += (int)rng_below(key, i, (uint32_t)(less + big / 20) + 1) - less;
    }
    if (at > length - to) at = length - to;
    return at < 0 ? 0 : at;
}

static void cut_face(DataItem *item, const DataSubset *of, const Face *face, RngKey key)
{
    BucketFit *f = &item->fit;
    BucketSize to = f->bucket;
    int big = face->w > face->h ? face->w : face->h, size = to.w < to.h ? to.w : to.h;
    double whole = fmax((double)to.h / item->h, (double)to.w / item->w);
    double low = fmin(1, fmax(whole, size / (big * of->face[1])));
    double high = fmin(1, fmax(low, size / (big * of->face[0])));
    RngKey scaling = key;
    scaling.purpose = DRAW_SCALE;
    double scale = low < high ? low + (high - low) * (double)rng_uniform(scaling, 0) : low;
    f->rw = (int)(item->w * scale + 0.5);
    f->rh = (int)(item->h * scale + 0.5);
    int x = (int)(face->x * scale + 0.5), y = (int)(face->y * scale + 0.5);
    f->y = around_face(of, key, 0, y, f->rh, to.h, size, big);
    f->x = around_face(of, key, 2, x, f->rw, to.w, size, big);
}

/* A third of all uses, half of them each way. */
static DataColour draw_colour(RngKey key)
{
    key.purpose = DRAW_COLOUR;
    double v = rng_uniform(key, 2);
    if (rng_uniform(key, 0) > 0.33f) return (DataColour){0, 0};
    if (rng_uniform(key, 1) > 0.5f) return (DataColour){.hue = -8 + 16 * v};
    return (DataColour){.gamma = 0.95 + 0.1 * v};
}

DataItem dataset_use(const Dataset *ds, const DataSample *s, uint32_t epoch)
{
    DataItem item = ds->items[s->item];
    const DataSubset *of = subset_of(ds, &item);
    RngKey key = {ds->cfg.seed, epoch, s->entry, DRAW_CROP};
    BucketFit *f = &item.fit;
    Face face;
    if (has_face(ds, &item, &face)) {
        cut_face(&item, of, &face, key);
    } else if (of->random_crop) {
        f->x = (int)rng_below(key, 0, (uint32_t)(f->rw - f->bucket.w) + 1);
        f->y = (int)rng_below(key, 1, (uint32_t)(f->rh - f->bucket.h) + 1);
    }
    if (of->color_aug) item.colour = draw_colour(key);
    return item;
}
