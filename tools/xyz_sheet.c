/* xyz_sheet.c - the sheet of `sdc grid`, and the text that it carries; see xyz.h. */
#include <stdio.h>
#include <string.h>

#include "engine/grid.h"
#include "engine/mem.h"
#include "tools/xyz.h"

typedef struct {
    char **text[XYZ_AXES];
    Grid g;
} Labels;

static void labels_free(Labels *l, const XyzRun *r)
{
    for (int k = 0; k < XYZ_AXES; k++) {
        for (size_t i = 0; l->text[k] && i < xyz_count(&r->axis[k]); i++) mem_free(l->text[k][i]);
        mem_free(l->text[k]);
    }
}

static int labels_make(Labels *l, const XyzRun *r, Err *e)
{
    *l = (Labels){.g = {.cols = (int)xyz_count(&r->axis[0]), .rows = (int)xyz_count(&r->axis[1]),
                        .sheets = (int)xyz_count(&r->axis[2]), .margin = 4}};
    int rc = 0;
    for (int k = 0; k < XYZ_AXES && !rc; k++) {
        size_t n = xyz_count(&r->axis[k]);
        if (!r->axis[k].kind) continue;
        if (!(l->text[k] = mem_calloc(n, sizeof *l->text[k]))) rc = err_nomem(e, n, "the grid");
        for (size_t i = 0; i < n && !rc; i++)
            if (!(l->text[k][i] = xyz_label(&r->axis[k], i))) rc = err_nomem(e, 64, "the grid");
    }
    l->g.col_labels = (const char *const *)l->text[0];
    l->g.row_labels = (const char *const *)l->text[1];
    l->g.sheet_labels = (const char *const *)l->text[2];
    if (rc) labels_free(l, r);
    return rc;
}

int xyz_sheet_check(const XyzRun *r, Err *e)
{
    Labels l;
    int w = 0, h = 0;
    for (size_t i = 0; i < r->count; i++) {
        const SampleOptions *o = &r->cells[i].x.o;
        w = o->width > w ? o->width : w;
        h = o->height > h ? o->height : h;
    }
    TRY(labels_make(&l, r, e));
    int rc = grid_size(&l.g, w, h, &w, &h, e);
    labels_free(&l, r);
    return rc;
}

static int set_axes(const XyzRun *r, Infotext *t, Err *e)
{
    TRY(infotext_set(t, "Script", "X/Y/Z plot", e));
    for (int k = 0; k < XYZ_AXES; k++) TRY(xyz_record(&r->axis[k], t, e));
    return 0;
}

int xyz_sheet_text(XyzRun *r, const Pipeline *p, Err *e)
{
    Infotext t = {0};
    char *first = NULL;
    const XyzCell *c = &r->cells[0];
    int rc = sample_info_write(&first, &c->x.o, &r->names, &c->loras, p, (uint64_t)c->x.o.seed, e);
    if (!rc) rc = infotext_parse(&t, first, strlen(first), e);
    if (!rc) rc = set_axes(r, &t, e);
    if (!rc) rc = infotext_format(&r->text, &t, e);
    mem_free(first);
    infotext_free(&t);
    return rc;
}

int xyz_sheet(const XyzRun *r, Err *e)
{
    Labels l;
    Image out = {0};
    TRY(labels_make(&l, r, e));
    int rc = grid_compose(&out, r->images, r->count, &l.g, e);
    labels_free(&l, r);
    if (!rc) rc = image_save(r->x.o.out, &out, r->text, e);
    if (!rc) printf("%s\n", r->x.o.out);
    image_free(&out);
    return rc;
}
