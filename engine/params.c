/* params.c - see params.h. */
#include "engine/params.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "engine/convert.h"
#include "engine/mem.h"
#include "kernels/int8.h"

enum { ALIGN = 64 };

static size_t align_up(size_t n) { return (n + ALIGN - 1) & ~(size_t)(ALIGN - 1); }

static int check_device(const Params *ps, const char *what, Err *e)
{
    const char *why = dev_failure(ps->dev);
    return why[0] ? err_set(e, ERR_FAIL, "%s failed %s: %s", dev_name(ps->dev), what, why) : 0;
}

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
    for (size_t i = 0; i < ps->block_count; i++)
        if (ps->blocks[i].base) dev_free(ps->dev, ps->blocks[i].base, ps->blocks[i].bytes);
    mem_free(ps->blocks);
    mem_free(ps->list);
    mem_free(ps->index);
    mem_free(ps->spare);
    mem_free(ps);
}

/* Gives the memory back when nothing in it is in use any more. */
static void leave_block(Params *ps, Param *p)
{
    ParamBlock *b = &ps->blocks[p->block];
    p->data = NULL;
    p->filled = 0;
    if (--b->users) return;
    dev_sync(ps->dev);
    dev_free(ps->dev, b->base, b->bytes);
    b->base = NULL;
}

static void forget(Params *ps, params_group_fn *group, void *ctx)
{
    size_t kept = 0, index = 0;
    dev_sync(ps->dev);
    for (size_t i = 0; i < ps->count; i++) {
        Param *p = ps->index[i];
        if (!p->trainable && group(ctx, p->name) < 0) ps->index[index++] = p;
    }
    for (size_t i = 0; i < ps->count; i++) {
        Param *p = ps->list[i];
        if (!p->trainable && group(ctx, p->name) < 0) {
            ps->list[kept++] = p;
            continue;
        }
        if (p->data) leave_block(ps, p);
        mem_free(p->name);
        mem_free(p);
    }
    ps->count = kept;
    for (size_t i = 0; i < ps->block_count; i++) {
        ParamBlock *b = &ps->blocks[i];
        if (!b->gradients || !b->base) continue;
        dev_free(ps->dev, b->base, b->bytes);
        b->base = NULL;
    }
}

void params_set_trainable(Params *ps, params_group_fn *group, void *ctx)
{
    forget(ps, group, ctx);
    ps->trained = DT_F32;
    ps->streamed = 0;
    ps->group = group;
    ps->group_ctx = ctx;
}

int params_trains(const Params *ps, const char *name)
{
    return ps->group && ps->group(ps->group_ctx, name) >= 0;
}

void params_set_int8(Params *ps, params_int8_fn *which) { ps->int8 = which; }

void params_stream(Params *ps, Dtype dt)
{
    ps->trained = dt;
    ps->streamed = 1;
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

/* As a weight of rows x taps x channels (kernels/int8.h). */
static int tap_count(const Param *p) { return p->ndim == 4 ? p->dim[1] * p->dim[2] : 1; }
static int channels(const Param *p) { return p->dim[p->ndim - 1]; }

static Dtype storage(const Params *ps, const Param *p)
{
    if (p->ndim == 1) return DT_F32;
    if (p->trainable) return ps->trained;
    int small = ps->int8 && i8_fits(p->dim[0], tap_count(p), channels(p)) && ps->int8(p->name);
    return small ? DT_I8 : ps->wdt;
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
    p->streamed = p->trainable && ps->streamed;
    p->dt = storage(ps, p);
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

/* ---- memory -------------------------------------------------------------- */

/* Of some rows in dt; for DT_I8, a multiple of 16 of them. */
static size_t row_bytes(const Param *p, Dtype dt, size_t rows)
{
    if (dt == DT_I8) return i8_bytes(rows, (size_t)tap_count(p), (size_t)channels(p));
    return rows * (p->count / (size_t)p->dim[0]) * dtype_bytes(dt);
}

static size_t data_bytes(const Param *p)
{
    return align_up(row_bytes(p, p->dt, (size_t)p->dim[0]));
}

static size_t grad_bytes(const Param *p)
{
    return p->trainable && !p->streamed ? align_up(p->count * sizeof(float)) : 0;
}

static int in_part(const Param *p, const char *prefix)
{
    return !prefix || !strncmp(p->name, prefix, strlen(prefix));
}

ParamBytes params_part(const Params *ps, const char *prefix)
{
    ParamBytes b = {0};
    for (size_t i = 0; i < ps->count; i++) {
        const Param *p = ps->list[i];
        if (!in_part(p, prefix)) continue;
        *(p->trainable ? &b.trained : &b.frozen) += data_bytes(p);
        b.gradients += grad_bytes(p);
    }
    return b;
}

size_t params_bytes(const Params *ps)
{
    size_t total = 0;
    for (size_t i = 0; i < ps->count; i++)
        if (!ps->list[i]->data) total += data_bytes(ps->list[i]) + grad_bytes(ps->list[i]);
    return total;
}

/* A new block, NULL when bytes is 0 or there is no memory (then *rc). */
static char *new_block(Params *ps, size_t bytes, int gradients, int *rc, Err *e)
{
    if (!bytes || *rc) return NULL;
    ParamBlock *list = mem_grow(ps->blocks, ps->block_count, &ps->block_cap, sizeof *list);
    if (list) ps->blocks = list;
    void *base = NULL;
    if (!list || dev_alloc(ps->dev, &base, bytes) != DEV_OK) {
        *rc = err_nomem(e, bytes, gradients ? "gradients" : "the model's weights");
        return NULL;
    }
    list[ps->block_count++] = (ParamBlock){.base = base, .bytes = bytes, .gradients = gradients};
    if (gradients) dev_zero(ps->dev, base, bytes);
    return base;
}

size_t params_held(const Params *ps)
{
    size_t bytes = 0;
    for (size_t i = 0; i < ps->block_count; i++)
        bytes += ps->blocks[i].base ? ps->blocks[i].bytes : 0;
    return bytes;
}

/* Frozen parameters and trainable ones lie in blocks of their own, so that these can be
 * given back. */
static int alloc_kind(Params *ps, const char *prefix, int trainable, Err *e)
{
    size_t bytes = 0, grads = 0;
    for (size_t i = 0; i < ps->count; i++) {
        const Param *p = ps->list[i];
        if (p->data || p->trainable != trainable || !in_part(p, prefix)) continue;
        bytes += data_bytes(p);
        grads += p->grad ? 0 : grad_bytes(p);
    }
    int rc = 0;
    char *grad = new_block(ps, grads, 1, &rc, e);
    char *at = new_block(ps, bytes, 0, &rc, e);
    if (rc) return rc;
    for (size_t i = 0; i < ps->count && at; i++) {
        Param *p = ps->list[i];
        if (p->data || p->trainable != trainable || !in_part(p, prefix)) continue;
        p->data = at;
        at += data_bytes(p);
        p->block = (int)ps->block_count - 1;
        ps->blocks[p->block].users++;
        if (!p->trainable || p->grad) continue;
        p->grad = (float *)(void *)grad;
        grad += grad_bytes(p);
    }
    return 0;
}

int params_alloc(Params *ps, const char *prefix, Err *e)
{
    if (ps->err.code) return err_set(e, ps->err.code, "%s", ps->err.msg);
    TRY(alloc_kind(ps, prefix, 0, e));
    return alloc_kind(ps, prefix, 1, e);
}

void params_release(Params *ps, const char *prefix)
{
    for (size_t i = 0; i < ps->count; i++) {
        Param *p = ps->list[i];
        if (!p->data || !in_part(p, prefix)) continue;
        leave_block(ps, p);
    }
}

void params_zero_grad(Params *ps)
{
    for (size_t i = 0; i < ps->block_count; i++)
        if (ps->blocks[i].gradients && ps->blocks[i].base)
            dev_zero(ps->dev, ps->blocks[i].base, ps->blocks[i].bytes);
}

/* (O,I,kh,kw) <-> (O,kh,kw,I) for `rows` values of O; to_file chooses the
 * direction. */
static void permute(const Param *p, float *dst, const float *src, size_t rows, int to_file)
{
    size_t k = (size_t)p->dim[1] * (size_t)p->dim[2], c = (size_t)p->dim[3];
    for (size_t i = 0; i < rows; i++, dst += k * c, src += k * c)
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
    *s = (Staging){0};
    return err_nomem(e, 2 * count * sizeof(float), "loading a tensor");
}

static void staging_free(Staging *s)
{
    mem_free(s->file);
    mem_free(s->mem);
}

static size_t row_count(const Param *p) { return p->count / (size_t)p->dim[0]; }

/* Puts rows [first, first+rows) in place. file and mem are room for that many
 * values; file holds them and is overwritten. */
static void store(Params *ps, const Param *p, size_t first, size_t rows, float *file, float *mem)
{
    size_t count = rows * row_count(p);
    float *src = file, *room = mem;
    if (p->ndim == 4) {
        permute(p, mem, file, rows, 0);
        src = mem;
        room = file;
    }
    if (p->dt == DT_I8) i8_from_f32(room, src, rows, (size_t)tap_count(p), (size_t)channels(p));
    else if (p->dt != DT_F32) half_from_f32(p->dt, room, src, count);
    if (p->dt != DT_F32) src = room;
    dev_upload(ps->dev, (char *)p->data + row_bytes(p, p->dt, first), src,
               row_bytes(p, p->dt, rows));
}

enum { CHUNK = 1 << 18 };              /* values that a thread converts at a time */

/* Rows of p that are read at a time. */
static size_t chunk_rows(const Param *p)
{
    size_t rows = CHUNK / row_count(p);
    if (p->dt == DT_I8) rows = rows < I8_ROWS ? I8_ROWS : rows / I8_ROWS * I8_ROWS;
    return rows < 1 ? 1 : rows > (size_t)p->dim[0] ? (size_t)p->dim[0] : rows;
}

static int fill_part(Params *ps, const Param *p, const ParamSource *source, size_t first,
                     size_t rows, Staging *s, Err *e)
{
    size_t row = row_count(p);
    TRY(source->read(source->ctx, p, first * row, rows * row, s->file, e));
    store(ps, p, first, rows, s->file, s->mem);
    return 0;
}

static int fill_whole(Params *ps, const Param *p, const ParamSource *source, Err *e)
{
    Staging s;
    TRY(staging_new(&s, p->count, e));
    int rc = fill_part(ps, p, source, 0, (size_t)p->dim[0], &s, e);
    staging_free(&s);
    return rc;
}

/* Several threads, each with a staging area of its own; the files are mapped, so
 * this is also what reads them in parallel. The error of the first chunk wins. */
static int fill_parts(Params *ps, const Param *p, const ParamSource *source, Staging *s, Err *e)
{
    size_t step = chunk_rows(p), parts = ((size_t)p->dim[0] + step - 1) / step, bad = parts;
    int rc = 0;
#pragma omp parallel for num_threads(ps->dev->threads) schedule(dynamic) if (parts > 1)
    for (size_t i = 0; i < parts; i++) {
        Err mine = {0};
        size_t first = i * step,
               rows = (size_t)p->dim[0] - first < step ? (size_t)p->dim[0] - first : step;
        int r = fill_part(ps, p, source, first, rows, &s[omp_get_thread_num()], &mine);
        if (!r) continue;
#pragma omp critical
        if (i < bad) {
            bad = i;
            rc = r;
            if (e) *e = mine;
        }
    }
    return rc;
}

static int fill_all(Params *ps, const ParamSource *source, Staging *s, Err *e)
{
    for (size_t i = 0; i < ps->count; i++) {
        Param *p = ps->list[i];
        if (p->filled || !p->data) continue;
        if (source->whole && source->whole(source->ctx, p)) TRY(fill_whole(ps, p, source, e));
        else TRY(fill_parts(ps, p, source, s, e));
        p->filled = 1;
    }
    dev_sync(ps->dev);
    return check_device(ps, "while weights were loaded", e);
}

int params_fill(Params *ps, const ParamSource *source, Err *e)
{
    size_t most = 0, threads = (size_t)ps->dev->threads;
    for (size_t i = 0; i < ps->count; i++) {
        size_t n = chunk_rows(ps->list[i]) * row_count(ps->list[i]);
        if (ps->list[i]->data && n > most) most = n;
    }
    Staging *s = mem_calloc(threads, sizeof *s);
    int rc = s ? 0 : err_nomem(e, threads * sizeof *s, "loading weights");
    for (size_t i = 0; !rc && i < threads; i++) rc = staging_new(&s[i], most, e);
    if (!rc) rc = fill_all(ps, source, s, e);
    for (size_t i = 0; s && i < threads; i++) staging_free(&s[i]);
    mem_free(s);
    return rc;
}

int params_set(Params *ps, Param *p, const float *file_layout, Err *e)
{
    Staging s;
    TRY(staging_new(&s, p->count, e));
    memcpy(s.file, file_layout, p->count * sizeof(float));
    store(ps, p, 0, (size_t)p->dim[0], s.file, s.mem);
    p->filled = 1;
    staging_free(&s);
    return check_device(ps, "while a weight was set", e);
}

/* Some rows at a time: tensors of a whole model under training are large. */
static int read_back(const Params *ps, const Param *p, const void *src, Dtype dt, float *out,
                     Err *e)
{
    size_t row = row_count(p), step = chunk_rows(p), all = (size_t)p->dim[0];
    Staging s;
    TRY(staging_new(&s, step * row, e));
    for (size_t first = 0; first < all; first += step) {
        size_t rows = all - first < step ? all - first : step, count = rows * row;
        dev_download(ps->dev, s.file, (const char *)src + row_bytes(p, dt, first),
                     row_bytes(p, dt, rows));
        dev_sync(ps->dev);
        const float *f = s.file;
        if (dt == DT_I8) i8_to_f32(s.mem, s.file, rows, (size_t)tap_count(p), (size_t)channels(p));
        else if (dt != DT_F32) half_to_f32(dt, s.mem, s.file, count);
        if (dt != DT_F32) f = s.mem;
        if (p->ndim == 4) permute(p, out + first * row, f, rows, 1);
        else memcpy(out + first * row, f, count * sizeof(float));
    }
    staging_free(&s);
    return check_device(ps, "before a weight was read", e);
}

int params_read(const Params *ps, const Param *p, float *file_layout, Err *e)
{
    return read_back(ps, p, p->data, p->dt, file_layout, e);
}

int params_read_grad(const Params *ps, const Param *p, float *file_layout, Err *e)
{
    return read_back(ps, p, p->grad, DT_F32, file_layout, e);
}
