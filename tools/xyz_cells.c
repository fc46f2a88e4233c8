/* xyz_cells.c - the pictures of `sdc grid`, before anything is drawn; see xyz.h. */
#include <stdio.h>
#include <string.h>

#include "engine/mem.h"
#include "tools/filehash.h"
#include "tools/xyz.h"

/* Which value of each axis a cell has. */
static void place_of(const XyzRun *r, size_t cell, size_t at[XYZ_AXES])
{
    for (int k = 0; k < XYZ_AXES; k++) {
        at[k] = cell % xyz_count(&r->axis[k]);
        cell /= xyz_count(&r->axis[k]);
    }
}

/* Other files after other weights: a new file keeps the weights of the old one. */
static int apply_all(XyzRun *r, XyzCell *c, size_t cell, Err *e)
{
    size_t at[XYZ_AXES];
    place_of(r, cell, at);
    for (int last = 0; last < 2; last++)
        for (int k = 0; k < XYZ_AXES; k++)
            if (xyz_is_file(&r->axis[k]) == last)
                TRY(xyz_apply(&r->axis[k], at[k], &c->opt, &c->x.o, e));
    return 0;
}

static int same_loras(const SampleLoras *a, const SampleLoras *b)
{
    if (a->count != b->count) return 0;
    for (size_t i = 0; i < a->count; i++)
        if (strcmp(a->list[i].spec, b->list[i].spec)) return 0;
    return 1;
}

static int same_prompts(const XyzCell *a, const XyzCell *b)
{
    const SampleOptions *p = &a->x.o, *q = &b->x.o;
    return a->set == b->set && p->clip_skip == q->clip_skip &&
           (p->cfg_scale == 1) == (q->cfg_scale == 1) && !strcmp(p->prompt, q->prompt) &&
           !strcmp(p->negative, q->negative);
}

static int make_cell(XyzRun *r, size_t i, Err *e)
{
    XyzCell *c = &r->cells[i];
    c->opt.fields = &c->x;
    TRY(options_copy(&c->opt, &r->opt, e));
    TRY(apply_all(r, c, i, e));
    TRY(sample_loras(&c->loras, &c->x.o, r->tags, e));
    for (c->set = 0; !same_loras(&c->loras, &r->cells[c->set].loras);) c->set++;
    for (c->cond = 0; c->cond < i && !same_prompts(c, &r->cells[c->cond]);) c->cond++;
    return 0;
}

/* ---- LoRA files ---------------------------------------------------------- */

static SampleLora *find_file(const XyzRun *r, const char *path)
{
    for (size_t i = 0; i < r->files.count; i++)
        if (!strcmp(r->files.list[i].path, path)) return &r->files.list[i];
    return NULL;
}

static int try_lora(const XyzRun *r, const char *path, size_t *bytes, Err *e)
{
    Lora lo;
    LoraFactor f[LORA_FACTORS];
    TRY(lora_open(&lo, path, r->m.targets, r->m.target_count, e));
    for (size_t i = 0; i < lo.count; i++)
        for (int k = lora_factors(&lo.list[i], f) - 1; k >= 0; k--)
            *bytes += lora_factor_count(&f[k]) * sizeof(float);
    lora_close(&lo);
    return 0;
}

static int add_file(XyzRun *r, const SampleLora *one, Err *e)
{
    if (find_file(r, one->path)) return 0;
    size_t n = r->files.count;
    SampleLora *list = mem_grow(r->files.list, n, &r->files.cap, sizeof *list);
    if (list) r->files.list = list;
    size_t *bytes = list ? mem_realloc(r->file_bytes, r->files.cap * sizeof *bytes) : NULL;
    if (!bytes) return err_nomem(e, sizeof *list, "LoRA files");
    r->file_bytes = bytes;
    list[n] = *one;
    bytes[n] = 0;
    r->files.count++;
    return try_lora(r, one->path, &bytes[n], e);
}

int xyz_cells(XyzRun *r, Err *e)
{
    r->count = 1;
    for (int k = 0; k < XYZ_AXES; k++) r->count *= xyz_count(&r->axis[k]);
    if (r->count > XYZ_CELLS)
        return err_set(e, ERR_USAGE, "%zu pictures; at most %d go on a sheet", r->count, XYZ_CELLS);
    r->cells = mem_calloc(r->count, sizeof *r->cells);
    r->images = mem_calloc(r->count, sizeof *r->images);
    if (!r->cells || !r->images) return err_nomem(e, r->count * sizeof *r->cells, "the grid");
    for (size_t i = 0; i < r->count; i++) TRY(make_cell(r, i, e));
    for (size_t i = 0; i < r->count; i++)
        for (size_t k = 0; k < r->cells[i].loras.count; k++)
            TRY(add_file(r, &r->cells[i].loras.list[k], e));
    return 0;
}

void xyz_cells_free(XyzRun *r)
{
    for (size_t i = 0; r->cells && i < r->count; i++) {
        mem_free(r->cells[i].context);
        sample_loras_free(&r->cells[i].loras);
        if (r->cells[i].opt.table) options_free(&r->cells[i].opt);
    }
    for (size_t i = 0; r->images && i < r->count; i++) image_free(&r->images[i]);
    mem_free(r->cells);
    mem_free(r->images);
    mem_free(r->files.list);
    mem_free(r->file_bytes);
}
