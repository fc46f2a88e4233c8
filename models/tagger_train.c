/* tagger_train.c - see tagger_train.h. */
#include "models/tagger_train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/captiontags.h"
#include "engine/mem.h"
#include "engine/rng.h"

/* ---- tags ----------------------------------------------------------------------- */

typedef struct { char *tag; size_t count; } Counted;

static int by_tag(const void *a, const void *b)
{
    return strcmp(((const Counted *)a)->tag, ((const Counted *)b)->tag);
}

static int by_count(const void *a, const void *b)
{
    const Counted *x = a, *y = b;
    if (x->count != y->count) return x->count > y->count ? -1 : 1;
    return strcmp(x->tag, y->tag);
}

static int is_in(const CaptionTags *t, const char *tag)
{
    for (size_t i = 0; i < t->count; i++)
        if (!strcmp(t->tag[i], tag)) return 1;
    return 0;
}

/* list, sorted by tag and with each tag as often as it occurs, becomes the model's tags. */
static int choose(TaggerTrain *r, Counted *list, size_t all, const CaptionTags *undesired, Err *e)
{
    size_t n = 0;
    for (size_t i = 0; i < all; i++)
        if (n && !strcmp(list[n - 1].tag, list[i].tag)) list[n - 1].count++;
        else list[n++] = list[i];
    qsort(list, n, sizeof *list, by_count);
    for (size_t i = 0; i < n && list[i].count >= (size_t)r->c.min_count; i++)
        if (!is_in(undesired, list[i].tag))
            TRY(taglist_add(&r->t->tags, list[i].tag, TAG_GENERAL, (long long)list[i].count, e));
    if (!r->t->tags.count)
        return err_set(e, ERR_INPUT, "%s: no tag is in %d captions or more", r->ds->cfg.train_dir,
                       r->c.min_count);
    r->t->vit.classes = (int)r->t->tags.count;
    return vit_check(&r->t->vit, e);
}

static int collect_tags(TaggerTrain *r, const CaptionTags *of, const CaptionTags *undesired, Err *e)
{
    size_t all = 0, at = 0;
    for (size_t i = 0; i < r->ds->item_count; i++) all += of[i].count;
    Counted *list = mem_alloc((all + 1) * sizeof *list);
    if (!list) return err_nomem(e, all * sizeof *list, "the list of tags");
    for (size_t i = 0; i < r->ds->item_count; i++)
        for (size_t k = 0; k < of[i].count; k++) list[at++] = (Counted){of[i].tag[k], 1};
    qsort(list, all, sizeof *list, by_tag);
    int rc = choose(r, list, all, undesired, e);
    mem_free(list);
    return rc;
}

static int label(TaggerTrain *r, const CaptionTags *of, Err *e)
{
    size_t n = r->t->tags.count;
    r->labels = mem_calloc(r->ds->item_count, n);
    if (!r->labels) return err_nomem(e, r->ds->item_count * n, "the tags of the pictures");
    for (size_t i = 0; i < r->ds->item_count; i++)
        for (size_t k = 0; k < n; k++)
            r->labels[i * n + k] = (unsigned char)is_in(&of[i], r->t->tags.list[k].name);
    return 0;
}

static int read_captions(TaggerTrain *r, Err *e)
{
    CaptionTags undesired = {0}, *of = mem_calloc(r->ds->item_count, sizeof *of);
    int rc = of ? 0 : err_nomem(e, r->ds->item_count * sizeof *of, "captions");
    if (!rc && r->c.undesired) rc = captiontags(&undesired, r->c.undesired, 0, e);
    for (size_t i = 0; i < r->ds->item_count && !rc; i++)
        rc = captiontags(&of[i], r->ds->items[i].caption ? r->ds->items[i].caption : "",
                         r->c.words, e);
    if (!rc) rc = collect_tags(r, of, &undesired, e);
    if (!rc) rc = label(r, of, e);
    for (size_t i = 0; of && i < r->ds->item_count; i++) captiontags_free(&of[i]);
    mem_free(of);
    captiontags_free(&undesired);
    return rc;
}

/* ---- building ------------------------------------------------------------------- */

static int train_all(void *ctx, const char *name)
{
    (void)ctx, (void)name;
    return 0;
}

static int build(TaggerTrain *r, Err *e)
{
    Tagger *t = r->t;
    int n = r->c.batch, one = 1;
    params_set_trainable(t->ps, train_all, NULL);
    Build b = {.g = graph_new(t->dtype), .ps = t->ps};
    if (!b.g) return err_nomem(e, sizeof *b.g, "the graph");
    Tensor *logits = vit_build(&b, &t->vit, n);
    Tensor *target = graph_input(b.g, "target", DT_F32, 3, (int[]){n, 1, t->vit.classes});
    Tensor *weight = graph_input(b.g, "weight", DT_F32, 1, &n);
    Tensor *scale = graph_input(b.g, "scale", DT_F32, 1, &one);
    Tensor *loss = graph_loss(b.g, LOSS_BCE, logits, target, NULL, weight, NULL, NULL);
    graph_output(b.g, loss, "loss");
    graph_grad(b.g, &loss, &scale, 1);
    int rc = t->ps->err.code ? err_set(e, t->ps->err.code, "%s", t->ps->err.msg) : 0;
    int rx = exec_init(&r->exec, b.g, &t->slab, t->dev, &t->ops, e);
    return rc ? rc : rx;
}

static int read_pictures(TaggerTrain *r, Err *e)
{
    r->pictures = mem_calloc(r->ds->item_count, sizeof *r->pictures);
    if (!r->pictures) return err_nomem(e, r->ds->item_count * sizeof *r->pictures, "the pictures");
    for (size_t i = 0; i < r->ds->item_count; i++) {
        TRY(image_load(&r->pictures[i], r->ds->items[i].path, e));
        TRY(tagger_square(r->t, &r->pictures[i], e));
    }
    return 0;
}

int tagger_train_init(TaggerTrain *r, Tagger *t, const Dataset *ds, const TaggerTrainConfig *c,
                      Err *e)
{
    *r = (TaggerTrain){.t = t, .ds = ds, .c = *c, .epoch = UINT32_MAX};
    int rc = read_captions(r, e);
    size_t side = (size_t)t->vit.side, n = (size_t)c->batch, tags = t->tags.count;
    r->order = rc ? NULL : mem_alloc(ds->entry_count * sizeof *r->order);
    r->pixels = rc ? NULL : mem_alloc(n * side * side * 3 * sizeof *r->pixels);
    r->target = rc ? NULL : mem_alloc(n * tags * sizeof *r->target);
    if (!rc && (!r->order || !r->pixels || !r->target))
        rc = err_nomem(e, n * side * side * 12, "a batch");
    if (!rc) rc = read_pictures(r, e);
    if (!rc) rc = build(r, e);
    if (rc) tagger_train_free(r);
    return rc;
}

void tagger_train_free(TaggerTrain *r)
{
    exec_free(&r->exec);
    for (size_t i = 0; r->pictures && i < r->ds->item_count; i++) image_free(&r->pictures[i]);
    void *owned[] = {r->pictures, r->labels, r->order, r->pixels, r->target};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) mem_free(owned[i]);
    *r = (TaggerTrain){0};
}

int tagger_train_start(TaggerTrain *r, Err *e)
{
    size_t n = r->t->tags.count, room = n > (size_t)r->c.batch ? n : (size_t)r->c.batch;
    float one = 1, *v = mem_alloc(room * sizeof *v);
    if (!v) return err_nomem(e, room * sizeof *v, "a batch");
    for (size_t k = 0; k < n; k++) {
        double share = (double)r->t->tags.list[k].count / (double)r->ds->item_count;
        share = fmin(share, 0.99);
        v[k] = (float)log(share / (1 - share));
    }
    int rc = params_set(r->t->ps, params_find(r->t->ps, "head.bias"), v, e);
    for (int i = 0; i < r->c.batch; i++) v[i] = 1;
    if (!rc) rc = tagger_constants(r->t, &r->exec, r->c.batch, e);
    if (!rc) rc = exec_set(&r->exec, "weight", v, (size_t)r->c.batch, e);
    if (!rc) rc = exec_set(&r->exec, "scale", &one, 1, e);
    mem_free(v);
    return rc;
}

/* ---- a batch -------------------------------------------------------------------- */

/* The item of sample number k, counted over all steps: each epoch visits every entry once,
 * in an order of its own. */
static uint32_t item_of(TaggerTrain *r, uint64_t k)
{
    uint32_t count = r->ds->entry_count, epoch = (uint32_t)(k / count);
    if (epoch != r->epoch) {
        for (uint32_t i = 0; i < count; i++) r->order[i] = i;
        rng_shuffle((RngKey){r->c.seed, epoch, 0, RNG_PURPOSE_CROP}, r->order, count);
        r->epoch = epoch;
    }
    return r->ds->entries[r->order[k % count]];
}

/* Where a pixel of the shown picture comes from, and how bright it is. */
typedef struct { float a, b, x, y, gain, lift; int flip; } Look;

static float between(RngKey key, uint32_t i, float lo, float hi)
{
    return lo + (hi - lo) * rng_uniform(key, i);
}

/* Scaled to 0.8..1.15, turned by up to 10 degrees, moved by up to a twelfth. */
static Look draw_look(const TaggerTrain *r, RngKey key)
{
    float side = (float)r->t->vit.side, turn = between(key, 0, -0.175f, 0.175f);
    float scale = 1 / between(key, 1, 0.8f, 1.15f);
    return (Look){scale * cosf(turn), scale * sinf(turn), between(key, 2, -side / 12, side / 12),
                  between(key, 3, -side / 12, side / 12), between(key, 4, 0.85f, 1.1f),
                  between(key, 5, -0.04f, 0.04f), r->c.flip && rng_below(key, 6, 2)};
}

/* Channel c of im at (x, y) between pixels, white outside. */
static float sample(const Image *im, float x, float y, int c)
{
    int x0 = (int)floorf(x), y0 = (int)floorf(y);
    float fx = x - (float)x0, fy = y - (float)y0, v = 0;
    for (int k = 0; k < 4; k++) {
        int px = x0 + (k & 1), py = y0 + (k >> 1);
        float w = (k & 1 ? fx : 1 - fx) * (k >> 1 ? fy : 1 - fy);
        int out = px < 0 || py < 0 || px >= im->w || py >= im->h;
        size_t at = out ? 0 : ((size_t)py * (size_t)im->w + (size_t)px) * 3 + (size_t)c;
        v += w * (out ? 255 : (float)im->px[at]);
    }
    return v;
}

static void show(const TaggerTrain *r, float *dst, const Image *im, const Look *l)
{
    const TaggerInput *in = &r->t->input;
    float mid = ((float)im->w - 1) / 2;
    for (int y = 0; y < im->h; y++)
        for (int x = 0; x < im->w; x++) {
            float u = l->flip ? mid - (float)x : (float)x - mid, v = (float)y - mid;
            float sx = mid + l->x + l->a * u - l->b * v, sy = mid + l->y + l->b * u + l->a * v;
            for (int c = 0; c < 3; c++) {
                float p = sample(im, sx, sy, 2 - c) / 255;
                p = 1 - (1 - p) * l->gain + l->lift * (p < 0.99f);
                *dst++ = (fminf(fmaxf(p, 0), 1) - in->mean[c]) / in->std[c];
            }
        }
}

int tagger_train_run(TaggerTrain *r, uint32_t step, float *loss, Err *e)
{
    size_t n = (size_t)r->c.batch, tags = r->t->tags.count, side = (size_t)r->t->vit.side;
    for (size_t i = 0; i < n; i++) {
        uint32_t item = item_of(r, (uint64_t)step * n + i);
        Look look = draw_look(r, (RngKey){r->c.seed, step, (uint32_t)i + 1, RNG_PURPOSE_CROP});
        show(r, r->pixels + i * side * side * 3, &r->pictures[item], &look);
        for (size_t k = 0; k < tags; k++) r->target[i * tags + k] = r->labels[item * tags + k];
    }
    TRY(exec_set(&r->exec, "image", r->pixels, n * side * side * 3, e));
    TRY(exec_set(&r->exec, "target", r->target, n * tags, e));
    TRY(exec_run(&r->exec, e));
    return exec_get(&r->exec, "loss", loss, 1, e);
}
