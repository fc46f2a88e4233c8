/* curves.c - see curves.h. */
#include "engine/curves.h"

#include <jansson.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"

enum { LOG_MAX = 1 << 30, TAGS_MAX = 64 };

static Curve *find(Curves *c, const char *tag, Err *e)
{
    for (size_t i = 0; i < c->count; i++)
        if (!strcmp(c->list[i].tag, tag)) return &c->list[i];
    Curve *list = c->count < TAGS_MAX ? mem_grow(c->list, c->count, &c->cap, sizeof *list) : NULL;
    char *copy = list ? mem_strdup(tag) : NULL;
    if (list) c->list = list;
    if (!copy) {
        err_set(e, ERR_INPUT, "the run's log has more than %d kinds of numbers", TAGS_MAX);
        return NULL;
    }
    list[c->count] = (Curve){.tag = copy};
    return &list[c->count++];
}

static int add(Curve *c, double x, double y, Err *e)
{
    if (c->count == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 256;
        double *xs = mem_realloc(c->x, cap * sizeof *xs);
        if (xs) c->x = xs;
        double *ys = xs ? mem_realloc(c->y, cap * sizeof *ys) : NULL;
        if (!ys) return err_nomem(e, cap * sizeof *ys, "the curves");
        c->y = ys;
        c->cap = cap;
    }
    c->x[c->count] = x;
    c->y[c->count++] = y;
    return 0;
}

static int add_line(Curves *c, const char *line, size_t size, Err *e)
{
    json_t *j = json_loadb(line, size, 0, NULL), *v;
    const char *tag;
    int rc = 0;
    if (!json_is_integer(json_object_get(j, "step"))) {
        json_decref(j);
        return 0;
    }
    double step = (double)json_integer_value(json_object_get(j, "step"));
    json_object_foreach(j, tag, v) {
        if (rc || !strchr(tag, '/') || !json_is_number(v)) continue;
        Curve *to = find(c, tag, e);
        rc = to ? add(to, step, json_number_value(v), e) : e->code;
    }
    json_decref(j);
    return rc;
}

int curves_read(Curves *c, const char *path, Err *e)
{
    char *text;
    *c = (Curves){0};
    TRY(io_read_text(&text, NULL, path, LOG_MAX, e));
    int rc = 0;
    for (char *at = text; *at && !rc;) {
        size_t n = strcspn(at, "\n");
        rc = add_line(c, at, n, e);
        at += n + (at[n] == '\n');
    }
    mem_free(text);
    if (rc) curves_free(c);
    return rc;
}

void curves_free(Curves *c)
{
    for (size_t i = 0; i < c->count; i++) {
        mem_free(c->list[i].tag);
        mem_free(c->list[i].x);
        mem_free(c->list[i].y);
    }
    mem_free(c->list);
    *c = (Curves){0};
}

void curve_thin(Curve *c, size_t most)
{
    if (c->count <= most) return;
    for (size_t i = 0; i < most; i++) {
        size_t from = i * c->count / most, to = (i + 1) * c->count / most;
        double x = 0, y = 0;
        for (size_t k = from; k < to; k++) x += c->x[k], y += c->y[k];
        c->x[i] = x / (double)(to - from);      /* parts only move forward: safe in place */
        c->y[i] = y / (double)(to - from);
    }
    c->count = most;
}
