/* bucket.c - aspect-ratio buckets. See bucket.h. */
#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "engine/bucket.h"
#include "engine/mem.h"

enum { SIDE_MAX = 16384 };

static int by_size(const void *a, const void *b)
{
    const BucketSize *p = a, *q = b;
    return p->w != q->w ? p->w - q->w : p->h - q->h;
}

static int check(BucketConfig *c, Err *e)
{
    int low = c->w < c->h ? c->w : c->h, high = c->w > c->h ? c->w : c->h;
    if (c->steps == 0) c->steps = 64;
    if (c->min_reso == 0) c->min_reso = low < 256 ? c->steps : 256;
    if (c->max_reso == 0) c->max_reso = high > 1024 ? 2 * high : 1024;
    if (c->w < 64 || c->h < 64 || c->w > SIDE_MAX || c->h > SIDE_MAX || c->w % 8 || c->h % 8)
        return err_set(e, ERR_USAGE, "--resolution %dx%d: sides must be multiples of 8 between 64 "
                       "and %d", c->w, c->h, SIDE_MAX);
    if (!c->enable) return 0;
    if (c->steps < 8 || c->steps > 1024 || c->steps % 8)
        return err_set(e, ERR_USAGE, "--bucket_reso_steps %d: must be a multiple of 8 between 8 "
                       "and 1024", c->steps);
    if (c->no_upscale) return 0;
    c->min_reso -= c->min_reso % c->steps;
    if (c->max_reso > SIDE_MAX) c->max_reso = SIDE_MAX;
    c->max_reso = (c->max_reso + c->steps - 1) / c->steps * c->steps;
    if (c->min_reso < c->steps || low < c->min_reso)
        return err_set(e, ERR_USAGE, "--min_bucket_reso %d: must be between the bucket step %d and "
                       "the smaller side of --resolution, %d", c->min_reso, c->steps, low);
    if (high > c->max_reso)
        return err_set(e, ERR_USAGE, "--max_bucket_reso %d: must be at least the larger side of "
                       "--resolution, %d", c->max_reso, high);
    return 0;
}

static void make_list(Buckets *b)
{
    const BucketConfig *c = &b->cfg;
    int area = c->w * c->h, side = (int)sqrt(area) / c->steps * c->steps, n = 0, unique = 0;
    b->list[n++] = (BucketSize){side, side};
    for (int w = c->min_reso; w <= c->max_reso; w += c->steps) {
        int h = area / w / c->steps * c->steps;
        if (h > c->max_reso) h = c->max_reso;
        if (h < c->min_reso) continue;
        b->list[n++] = (BucketSize){w, h};
        b->list[n++] = (BucketSize){h, w};
    }
    qsort(b->list, (size_t)n, sizeof *b->list, by_size);
    for (int i = 0; i < n; i++)
        if (!unique || by_size(&b->list[i], &b->list[unique - 1]))
            b->list[unique++] = b->list[i];
    b->count = unique;
}

int bucket_open(Buckets *b, const BucketConfig *c, Err *e)
{
    *b = (Buckets){.cfg = *c};
    TRY(check(&b->cfg, e));
    if (c->enable && c->no_upscale) return 0;
    size_t cap = c->enable ? 3 + 2 * (size_t)(b->cfg.max_reso / b->cfg.steps) : 1;
    b->list = mem_alloc(cap * sizeof *b->list);
    if (!b->list) return err_nomem(e, cap * sizeof *b->list, "the list of buckets");
    if (c->enable) {
        make_list(b);
    } else {
        b->list[0] = (BucketSize){c->w, c->h};
        b->count = 1;
    }
    return 0;
}

void bucket_close(Buckets *b)
{
    mem_free(b->list);
    *b = (Buckets){0};
}

static void fit_list(const Buckets *b, int w, int h, BucketFit *f)
{
    double ar = (double)w / h, best = HUGE_VAL;
    for (int i = 0; i < b->count; i++) {
        BucketSize s = b->list[i];
        double off = fabs((double)s.w / s.h - ar);
        if (s.w == w && s.h == h) off = -1;      /* the exact size wins */
        if (off >= best) continue;
        best = off;
        f->bucket = s;
    }
    double to_h = (double)f->bucket.h / h, to_w = (double)f->bucket.w / w;
    double scale = ar > (double)f->bucket.w / f->bucket.h ? to_h : to_w;
    double rw = w * scale + 0.5, rh = h * scale + 0.5;
    f->rw = rw < INT32_MAX ? (int)rw : INT32_MAX;
    f->rh = rh < INT32_MAX ? (int)rh : INT32_MAX;
}

static int round_to(double x, int steps)
{
    int n = (int)(x + 0.5);
    return n - n % steps;
}

/* Without a list: shrink to the area, one side a multiple of the step, the
 * one that keeps the shape better. */
static void fit_shrink(const BucketConfig *c, int w, int h, BucketFit *f)
{
    double ar = (double)w / h, area = (double)c->w * c->h;
    f->rw = w;
    f->rh = h;
    if ((double)w * h > area) {
        double width = sqrt(area * ar), height = area / width;
        int w1 = round_to(width, c->steps), h1 = round_to(w1 / ar, c->steps);
        int h2 = round_to(height, c->steps), w2 = round_to(h2 * ar, c->steps);
        double off1 = h1 ? fabs((double)w1 / h1 - ar) : HUGE_VAL;
        double off2 = h2 ? fabs((double)w2 / h2 - ar) : HUGE_VAL;
        f->rw = off1 < off2 ? w1 : (int)(h2 * ar + 0.5);
        f->rh = off1 < off2 ? (int)(w1 / ar + 0.5) : h2;
    }
    f->bucket.w = f->rw - f->rw % c->steps;
    f->bucket.h = f->rh - f->rh % c->steps;
}

/* The middle. */
static void centre(BucketFit *f)
{
    f->x = (f->rw - f->bucket.w) / 2;
    f->y = (f->rh - f->bucket.h) / 2;
}

void bucket_keep_size(BucketFit *f, int w, int h)
{
    if (w < f->bucket.w || h < f->bucket.h) return;
    f->rw = w;
    f->rh = h;
    centre(f);
}

int bucket_fit(const Buckets *b, int w, int h, BucketFit *f, Err *e)
{
    const BucketConfig *c = &b->cfg;
    assert(w > 0 && h > 0);
    *f = (BucketFit){0};
    if (c->enable && c->no_upscale) fit_shrink(c, w, h, f);
    else fit_list(b, w, h, f);
    if (!f->bucket.w || !f->bucket.h)
        return err_set(e, ERR_INPUT, "picture of %dx%d is smaller than a bucket step of %d; leave "
                       "out --bucket_no_upscale or the picture", w, h, c->steps);
    if (f->rw < f->bucket.w) f->rw = f->bucket.w;      /* rounding only */
    if (f->rh < f->bucket.h) f->rh = f->bucket.h;
    if (f->rw > SIDE_MAX * 2 || f->rh > SIDE_MAX * 2)
        return err_set(e, ERR_INPUT, "picture of %dx%d is too long and thin for bucket %dx%d", w,
                       h, f->bucket.w, f->bucket.h);
    centre(f);
    f->ar_error = (double)f->bucket.w / f->bucket.h - (double)w / h;
    return 0;
}
