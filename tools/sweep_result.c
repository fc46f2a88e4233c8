/* sweep_result.c - see sweep.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/grid.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "tools/sweep.h"

enum { TOML_MAX = 1 << 20 };

/* Runs by score. */
static size_t *sorted(const Sweep *s)
{
    size_t *order = mem_alloc(s->axes.runs * sizeof *order);
    for (size_t i = 0; order && i < s->axes.runs; i++) {
        size_t at = i;
        for (; at && sweep_score(s, &s->run[i]) < sweep_score(s, &s->run[order[at - 1]]); at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    return order;
}

static char *table_text(const Sweep *s, const size_t *order)
{
    char *text = mem_strdup("held-out   lowest (step)      steps  run  settings\n");
    for (size_t n = 0; text && n < s->axes.runs; n++) {
        const SweepRun *r = &s->run[order[n]];
        char *label = sweep_label(&s->axes, 0, s->axes.count, order[n]);
        char *more = mem_printf("%s%8.5f  %8.5f (%5" PRIu32 ")  %5" PRIu32 "%s  %3zu  %s\n", text,
                                sweep_score(s, r), r->best, r->best_step, r->step,
                                r->done ? " " : "*", order[n] + 1, label ? label : "");
        mem_free(label);
        mem_free(text);
        text = more;
    }
    int dropped = 0;
    for (size_t i = 0; i < s->axes.runs; i++) dropped |= !s->run[i].done;
    if (!text || !dropped) return text;
    char *more = mem_printf(
                            "%s* stopped early; sdc train --config_file %s/%s-NN.toml --resume "
                            "takes it to its end\n", text, s->dir, s->name);
    mem_free(text);
    return more;
}

/* The settings of a run under the sweep's name. */
static int write_best(const Sweep *s, size_t best, Err *e)
{
    static const char key[] = "\noutput_name = ";
    char *from = mem_printf("%s/%s-%02zu.toml", s->dir, s->name, best + 1);
    char *to = mem_printf("%s/%s-best.toml", s->dir, s->name), *text = NULL, *name = NULL;
    int rc =
        from && to ? io_read_text(&text, NULL, from, TOML_MAX, e) : err_nomem(e, 64, "a file name");
    char *at = rc ? NULL : strstr(text, key), *end = at ? strchr(at + sizeof key - 1, '\n') : NULL;
    if (!rc && !end) rc = err_set(e, ERR_INPUT, "%s: there is no output_name in it any more", from);
    if (!rc)
        name =
            mem_printf("%.*s\"%s-best\"%s", (int)(at + sizeof key - 1 - text), text, s->name, end);
    if (!rc)
        rc = name ? io_write_file(to, name, strlen(name), e) : err_nomem(e, TOML_MAX, "settings");
    if (!rc) printf("%s\n", to);
    char *owned[] = {from, to, text, name};
    for (int i = 0; i < 4; i++) mem_free(owned[i]);
    return rc;
}

/* ---- the grid ------------------------------------------------------------------- */

/* A picture, or white where there is none. */
static int load_cell(Image *im, const char *path, int w, int h, Err *e)
{
    if (path && !image_load(im, path, NULL)) {
        image_drop_alpha(im);
        if (!w || (im->w == w && im->h == h)) return 0;
        image_free(im);
    }
    if (!w) return 0;
    TRY(image_new(im, w, h, 3, e));
    memset(im->px, 255, (size_t)w * (size_t)h * 3);
    return 0;
}

/* Rows: all axes but the last; columns: the last, for each prompt. */
static int compose(Image *out, const Sweep *s, Image *cells, char **rows, char **cols, Err *e)
{
    size_t n = s->prompt_count, last = s->axes.count - 1, wide = s->axes.axis[last].values.count;
    size_t across = wide * n, down = s->axes.runs / wide;
    int w = 0, h = 0;
    for (size_t i = 0; i < s->axes.runs * n && !w; i++) {
        Image im = {0};
        if (load_cell(&im, s->pictures[i], 0, 0, e) == 0) w = im.w, h = im.h;
        image_free(&im);
    }
    if (!w) return 0;
    for (size_t i = 0; i < s->axes.runs * n; i++)
        TRY(load_cell(&cells[i], s->pictures[i], w, h, e));
    for (size_t i = 0; i < down; i++)
        if (!(rows[i] = sweep_label(&s->axes, 0, last, i * wide)))
            return err_nomem(e, 64, "the grid");
    for (size_t i = 0; i < across; i++) {
        char *value = sweep_label(&s->axes, last, last + 1, i / n);
        cols[i] = value ? mem_printf("%s: %s", value, s->prompt[i % n]) : NULL;
        mem_free(value);
        if (!cols[i]) return err_nomem(e, 64, "the grid");
    }
    Grid g = {.rows = (int)down,
              .cols = (int)across,
              .margin = 4,
              .col_labels = (const char *const *)cols,
              .row_labels = last ? (const char *const *)rows : NULL};
    return grid_compose(out, cells, down * across, &g, e);
}

static int write_grid(const Sweep *s, Err *e)
{
    size_t count = s->axes.runs * s->prompt_count;
    if (!count) return 0;
    Image *cells = mem_calloc(count, sizeof *cells), out = {0};
    char **rows = mem_calloc(s->axes.runs, sizeof *rows), **cols = mem_calloc(count, sizeof *cols);
    char *path = mem_printf("%s/%s-sweep.png", s->dir, s->name);
    int rc = cells && rows && cols && path ? compose(&out, s, cells, rows, cols, e)
                                           : err_nomem(e, 64, "the grid");
    if (!rc && out.px) rc = image_save(path, &out, NULL, e);
    if (!rc && out.px) printf("%s\n", path);
    for (size_t i = 0; cells && i < count; i++) image_free(&cells[i]);
    for (size_t i = 0; rows && i < s->axes.runs; i++) mem_free(rows[i]);
    for (size_t i = 0; cols && i < count; i++) mem_free(cols[i]);
    void *owned[] = {cells, rows, cols, path};
    for (int i = 0; i < 4; i++) mem_free(owned[i]);
    image_free(&out);
    return rc;
}

int sweep_result(const Sweep *s, Err *e)
{
    size_t *order = sorted(s), best = 0;
    char *text = order ? table_text(s, order) : NULL,
         *path = mem_printf("%s/%s-sweep.txt", s->dir, s->name);
    int rc =
        text && path ? io_write_file(path, text, strlen(text), e) : err_nomem(e, 64, "the table");
    while (!rc && best + 1 < s->axes.runs && !s->run[order[best]].done) best++;
    if (!rc) printf("\n%s", text);
    if (!rc) rc = write_grid(s, e);
    char *label = rc ? NULL : sweep_label(&s->axes, 0, s->axes.count, order[best]);
    if (!rc) printf("recommended: %s\n", label ? label : "");
    if (!rc) rc = write_best(s, order[best], e);
    mem_free(label);
    mem_free(order);
    mem_free(text);
    mem_free(path);
    return rc;
}
