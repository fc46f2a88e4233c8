/* params.c - see params.h. */
#include "engine/params.h"

#include <stdlib.h>
#include <string.h>

#include "engine/convert.h"
#include "engine/mem.h"

enum { ALIGN = 64 };

static size_t align_up(size_t n) { return (n + ALIGN - 1) & ~(size_t)(ALIGN - 1); }

/* What params_get returns after an error, so that builders need no checks. */
static Param *dummy(Params *ps)
{
    return ps->count ? ps->list[0] : ps->spare;
}

Params *params_new(Dev *dev, const Ops *ops, Dtype wdt)
{
    Params *ps = mem_calloc(1, sizeof *ps);
    if (!ps) return NULL;
    ps->dev = dev;
    ps->ops = ops;
    ps->wdt = wdt;
    ps->spare = mem_calloc(1, sizeof *ps->spare);
    if (!ps->spare) {
        mem_free(ps);
        return NULL;
    }
    ps->spare->ndim = 1;
    ps->spare->dim[0] = 1;
    return ps;
}

void params_free(Params *ps)
{
    if (!ps) return;
    for (size_t i = 0; i < ps->count; i++) {
        mem_free(ps->list[i]->name);
        mem_free(ps->list[i]);
    }
    if (ps->block) dev_free(ps->dev, ps->block, ps->block_bytes);
    mem_free(ps->list);
    mem_free(ps->index);
    mem_free(ps->spare);
    mem_free(ps);
}

void params_set_trainable(Params *ps, params_group_fn *group, void *ctx)
{
    ps->group = group;
    ps->group_ctx = ctx;
}

/* Position of name in the sorted index, or where it belongs. */
static size_t index_of(const Params *ps, const char *name)
{
    size_t lo = 0, hi = ps->count;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (strcmp(ps->index[mid]->name, name) < 0) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

Param *params_find(const Params *ps, const char *name)
{
    size_t i = index_of(ps, name);
    return i < ps->count && !strcmp(ps->index[i]->name, name) ? ps->index[i] : NULL;
}

static Param *declare(Params *ps, const char *name, int ndim, const int *dim)
{
    size_t at = index_of(ps, name), cap = ps->cap;
    Param **list = mem_grow(ps->list, ps->count, &cap, sizeof *list);
    if (list) ps->list = list;
    Param **index = list ? mem_realloc(ps->index, cap * sizeof *index) : NULL;
    if (index) ps->index = index, ps->cap = cap;
    Param *p = index ? mem_calloc(1, sizeof *p) : NULL;
    if (p && !(p->name = mem_strdup(name))) mem_free(p), p = NULL;
    if (!p) {
        err_nomem(&ps->err, sizeof *p, "the table of weights");
        return dummy(ps);
    }
    p->ndim = ndim;
    p->count = 1;
    for (int i = 0; i < ndim; i++) {
        p->dim[i] = dim[i];
        p->count *= (size_t)dim[i];
    }
    p->group = ps->group ? ps->group(ps->group_ctx, name) : -1;
    p->trainable = p->group >= 0;
    p->dt = ndim == 1 || p->trainable ? DT_F32 : ps->wdt;
    memmove(ps->index + at + 1, ps->index + at, (ps->count - at) * sizeof *ps->index);
    ps->index[at] = p;
    ps->list[ps->count++] = p;
    return p;
}

Param *params_get(Params *ps, const char *name, int ndim, const int *dim)
{
    if (ps->err.code) return dummy(ps);
    Param *p = params_find(ps, name);
    if (!p) return declare(ps, name, ndim, dim);
    int same = p->ndim == ndim;
    for (int i = 0; same && i < ndim; i++) same = p->dim[i] == dim[i];
    if (!same) err_set(&ps->err, ERR_INPUT, "tensor %s: two layers want it in two shapes", name);
    return p;
}

static size_t param_bytes(const Param *p)
{
    return align_up(p->count * dtype_bytes(p->dt)) +
           (p->trainable ? align_up(p->count * sizeof(float)) : 0);
}

size_t params_bytes(const Params *ps)
{
    size_t total = 0;
    for (size_t i = 0; i < ps->count; i++)
        if (!ps->list[i]->data) total += param_bytes(ps->list[i]);
    return total;
}

int params_alloc(Params *ps, Err *e)
{
    if (ps->err.code) return err_set(e, ps->err.code, "%s", ps->err.msg);
    if (ps->block) return err_set(e, ERR_FAIL, "weights are allocated once");
    size_t bytes = params_bytes(ps);
    if (dev_alloc(ps->dev, &ps->block, bytes) != DEV_OK)
        return err_nomem(e, bytes, "the model's weights");
    ps->block_bytes = bytes;
    char *at = ps->block;
    for (size_t i = 0; i < ps->count; i++) {
        Param *p = ps->list[i];
        p->data = at;
        at += align_up(p->count * dtype_bytes(p->dt));
    }
    /* gradients last and together, so that they are zeroed in one sweep */
    ps->grads = at;
    for (size_t i = 0; i < ps->count; i++) {
        Param *p = ps->list[i];
        if (!p->trainable) continue;
        p->grad = (float *)(void *)at;
        at += align_up(p->count * sizeof(float));
    }
    params_zero_grad(ps);
    return 0;
}

void params_zero_grad(Params *ps)
{
    size_t bytes = (size_t)((char *)ps->block + ps->block_bytes - (char *)ps->grads);
    if (bytes) dev_zero(ps->dev, ps->grads, bytes);
}

/* (O,I,kh,kw) <-> (O,kh,kw,I); to_file chooses the direction. */
static void permute(const Param *p, float *dst, const float *src, int to_file)
{
    size_t o = (size_t)p->dim[0], k = (size_t)p->dim[1] * (size_t)p->dim[2], c = (size_t)p->dim[3];
    for (size_t i = 0; i < o; i++, dst += k * c, src += k * c)
        for (size_t a = 0; a < k; a++)
            for (size_t b = 0; b < c; b++)
                if (to_file) dst[b * k + a] = src[a * c + b];
                else dst[a * c + b] = src[b * k + a];
}

/* Scratch for one parameter on its way in or out. */
typedef struct { float *file, *mem; } Staging;

static int staging_new(Staging *s, size_t count, Err *e)
{
    s->file = mem_alloc(count * sizeof(float));
    s->mem = mem_alloc(count * sizeof(float));
    if (s->file && s->mem) return 0;
    mem_free(s->file);
    mem_free(s->mem);
    return err_nomem(e, 2 * count * sizeof(float), "loading a tensor");
}

static void staging_free(Staging *s)
{
    mem_free(s->file);
    mem_free(s->mem);
}

static void store(Params *ps, Param *p, const float *file, float *mem)
{
    const float *src = file;
    if (p->ndim == 4) {
        permute(p, mem, file, 0);
        src = mem;
    }
    float *dst = p->ndim == 4 ? (float *)(uintptr_t)file : mem;   /* room for the cast */
    if (p->dt != DT_F32) {
        half_from_f32(p->dt, dst, src, p->count);
        src = dst;
    }
    dev_upload(ps->dev, p->data, src, p->count * dtype_bytes(p->dt));
    p->filled = 1;
}

int params_fill(Params *ps, params_source_fn *source, void *ctx, Err *e)
{
    size_t most = 0;
    for (size_t i = 0; i < ps->count; i++)
        if (!ps->list[i]->filled && ps->list[i]->count > most) most = ps->list[i]->count;
    if (!most) return 0;
    Staging s;
    TRY(staging_new(&s, most, e));
    int rc = 0;
    for (size_t i = 0; !rc && i < ps->count; i++) {
        Param *p = ps->list[i];
        if (p->filled) continue;
        rc = source(ctx, p, s.file, e);
        if (!rc) store(ps, p, s.file, s.mem);
    }
    dev_sync(ps->dev);
    staging_free(&s);
    return rc;
}

int params_set(Params *ps, Param *p, const float *file_layout, Err *e)
{
    Staging s;
    TRY(staging_new(&s, p->count, e));
    memcpy(s.file, file_layout, p->count * sizeof(float));
    store(ps, p, s.file, s.mem);
    dev_sync(ps->dev);
    staging_free(&s);
    return 0;
}

static int read_back(const Params *ps, const Param *p, const void *src, Dtype dt, float *out, Err *e)
{
    Staging s;
    TRY(staging_new(&s, p->count, e));
    dev_download(ps->dev, s.file, src, p->count * dtype_bytes(dt));
    dev_sync(ps->dev);
    const float *f = s.file;
    if (dt != DT_F32) {
        half_to_f32(dt, s.mem, s.file, p->count);
        f = s.mem;
    }
    if (p->ndim == 4) permute(p, out, f, 1);
    else memcpy(out, f, p->count * sizeof(float));
    staging_free(&s);
    return 0;
}

int params_read(const Params *ps, const Param *p, float *file_layout, Err *e)
{
    return read_back(ps, p, p->data, p->dt, file_layout, e);
}

int params_read_grad(const Params *ps, const Param *p, float *file_layout, Err *e)
{
    return read_back(ps, p, p->grad, DT_F32, file_layout, e);
}
