/* tagger.c - see tagger.h. */
#include "models/tagger.h"

#include <math.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "engine/resize.h"
#include "engine/rng.h"
#include "models/model.h"
#include "models/tagger_files.h"

/* ---- opening -------------------------------------------------------------------- */

static int open_all(Tagger *t, const TaggerOptions *o, Err *e)
{
    t->dtype = o->dtype;
    t->seed = o->seed;
    TRY(o->path ? tagger_files_open(t, o->path, e) : tagger_files_new(t, o->init, e));
    TRY(model_device(&t->dev, &t->ops, o->device, o->threads, e));
    t->ps = params_new(t->dev, &t->ops, t->dtype);
    return t->ps ? 0 : err_nomem(e, sizeof *t->ps, "the table of weights");
}

int tagger_open(Tagger *t, const TaggerOptions *o, Err *e)
{
    *t = (Tagger){0};
    int rc = open_all(t, o, e);
    if (rc) tagger_close(t);
    return rc;
}

void tagger_close(Tagger *t)
{
    exec_free(&t->exec);
    slab_free(&t->slab);
    params_free(t->ps);
    dev_close(t->dev);
    tensorfile_close(t->file);
    taglist_free(&t->tags);
    mem_free(t->path);
    mem_free(t->config);
    mem_free(t->pixels);
    *t = (Tagger){0};
}

int tagger_plan(Tagger *t, int batch, Err *e)
{
    Build b = {.g = graph_new(t->dtype), .ps = t->ps};
    if (!b.g) return err_nomem(e, sizeof *b.g, "the graph");
    graph_output(b.g, vit_build(&b, &t->vit, batch), "logits");
    int rc = t->ps->err.code ? err_set(e, t->ps->err.code, "%s", t->ps->err.msg) : 0;
    int rx = exec_init(&t->exec, b.g, &t->slab, t->dev, &t->ops, e);
    t->batch = batch;
    size_t side = (size_t)t->vit.side;
    t->pixels = mem_calloc((size_t)batch, side * side * 3 * sizeof *t->pixels);
    if (!rc && !rx && !t->pixels) rc = err_nomem(e, (size_t)batch * side * side * 12, "a batch");
    return rc ? rc : rx;
}

size_t tagger_bytes(const Tagger *t)
{
    return params_bytes(t->ps) + t->slab.bytes;
}

/* ---- weights -------------------------------------------------------------------- */

/* As the layers of PyTorch start: products uniform in +-1/sqrt(fan in), what closes a
 * residual branch smaller by sqrt(2 depth); norms 1 and 0; positions small. */
static void random_values(const Tagger *t, const Param *p, float *dst)
{
    uint32_t h = 2166136261u;                    /* each tensor has a stream of its own */
    for (const char *s = p->name; *s; s++) h = (h ^ (unsigned char)*s) * 16777619u;
    RngKey key = {t->seed, 0, h, RNG_PURPOSE_INIT};
    int is_norm = strstr(p->name, "norm") != NULL, bias = strstr(p->name, ".bias") != NULL;
    float bound = 1 / sqrtf((float)(p->count / (size_t)p->dim[0]));
    int closes = strstr(p->name, "attn.proj") || strstr(p->name, "mlp.fc2");
    if (closes) bound /= sqrtf(2 * (float)t->vit.depth);
    if (!strcmp(p->name, "pos_embed")) bound = 0.05f;
    for (size_t i = 0; i < p->count; i++)
        dst[i] = is_norm ? !bias : bias ? 0 : (2 * rng_uniform(key, (uint32_t)i) - 1) * bound;
}

/* ParamSource.whole */
static int made_whole(void *ctx, const Param *p)
{
    (void)p;
    return !((const Tagger *)ctx)->file;
}

/* ParamSource.read */
static int values_of(void *ctx, const Param *p, size_t first, size_t count, float *dst, Err *e)
{
    const Tagger *t = ctx;
    if (!t->file) return random_values(t, p, dst), 0;
    VitTensor v;
    for (int i = 0; vit_tensor(&t->vit, i, &v); i++)
        for (int k = 0; k < (v.fused ? 3 : 1); k++) {
            if (strcmp(p->name, v.fused ? vit_part(v.name, k).s : v.name)) continue;
            const FileTensor *ft = tensorfile_find(t->file, v.name);
            size_t at = (size_t)k * p->count + first;
            return tensorfile_read_f32(t->file, ft, (int64_t)at, (int64_t)count, dst, e);
        }
    return err_set(e, ERR_FAIL, "tensor %s: not in the model", p->name);
}

int tagger_load(Tagger *t, Err *e)
{
    ParamSource source = {values_of, made_whole, t};
    TRY(slab_alloc(&t->slab, t->dev, e));
    TRY(params_alloc(t->ps, NULL, e));
    TRY(params_fill(t->ps, &source, e));
    return t->exec.g ? tagger_constants(t, &t->exec, t->batch, e) : 0;
}

int tagger_constants(Tagger *t, Exec *x, int n, Err *e)
{
    int grid = t->vit.side / t->vit.patch;
    size_t tokens = (size_t)grid * (size_t)grid, ids = (size_t)n * tokens;
    size_t zeros = (size_t)n * (size_t)t->vit.width, room = ids > zeros ? ids : zeros;
    int32_t *v = mem_calloc(room, sizeof *v);                /* all bits 0: also the float 0 */
    if (!v) return err_nomem(e, room * sizeof *v, "a batch");
    int rc = exec_set(x, "mean", v, zeros, e);
    for (size_t i = 0; i < ids; i++) v[i] = (int32_t)(i % tokens);
    if (!rc) rc = exec_set(x, "positions", v, ids, e);
    mem_free(v);
    return rc;
}

/* ---- pictures ------------------------------------------------------------------- */

/* White on both sides of the shorter axis, the odd pixel behind. */
static int pad_square(Image *im, Err *e)
{
    Image out;
    int side = im->w > im->h ? im->w : im->h;
    if (im->w == im->h) return 0;
    TRY(image_new(&out, side, side, 3, e));
    size_t row = (size_t)side * 3;
    size_t x = (size_t)(side - im->w) / 2 * 3, y = (size_t)(side - im->h) / 2;
    memset(out.px, 255, row * (size_t)side);
    for (size_t r = 0; r < (size_t)im->h; r++)
        memcpy(out.px + (y + r) * row + x, im->px + r * (size_t)im->w * 3, (size_t)im->w * 3);
    image_free(im);
    *im = out;
    return 0;
}

int tagger_square(const Tagger *t, Image *im, Err *e)
{
    Image out;
    int side = t->vit.side;
    image_flatten(im, 255, 255, 255);
    TRY(pad_square(im, e));
    if (im->w == side) return 0;
    TRY(t->input.resize == TAGGER_KOHYA ? resize_auto(&out, im, side, side, e)
                                        : resize_bicubic(&out, im, side, side, e));
    image_free(im);
    *im = out;
    return 0;
}

void tagger_pixels(const Tagger *t, float *dst, const Image *im)
{
    const TaggerInput *in = &t->input;
    size_t pixels = (size_t)im->w * (size_t)im->h;
    for (size_t i = 0; i < pixels; i++)
        for (int c = 0; c < 3; c++)
            *dst++ = ((float)im->px[3 * i + 2 - (size_t)c] / 255 - in->mean[c]) / in->std[c];
}

int tagger_picture(Tagger *t, int i, Image *im, Err *e)
{
    size_t side = (size_t)t->vit.side;
    TRY(tagger_square(t, im, e));
    tagger_pixels(t, t->pixels + (size_t)i * side * side * 3, im);
    return 0;
}

int tagger_run(Tagger *t, int count, float *prob, Err *e)
{
    size_t side = (size_t)t->vit.side, n = t->tags.count, batch = (size_t)t->batch;
    float *all = mem_alloc(batch * n * sizeof *all);
    if (!all) return err_nomem(e, batch * n * sizeof *all, "a batch");
    int rc = exec_set(&t->exec, "image", t->pixels, batch * side * side * 3, e);
    if (!rc) rc = exec_run(&t->exec, e);
    if (!rc) rc = exec_get(&t->exec, "logits", all, batch * n, e);
    for (size_t i = 0; i < (size_t)count * n && !rc; i++) {
        prob[i] = 1 / (1 + expf(-all[i]));
        if (!isfinite(all[i]))
            rc = err_set(e, ERR_FAIL, "the tagger's result is not a number%s",
                         t->dtype == DT_F32 ? ": its weights are broken" : "; try --dtype f32");
    }
    mem_free(all);
    return rc;
}
