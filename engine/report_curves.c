/* report_curves.c - the numbers of a run as curves: SVG, a chart for each kind of number. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/curves.h"
#include "engine/report_page.h"

enum { LEFT = 64, RIGHT = 8, TOP = 8, BOTTOM = 24, POINTS = 600 };

static const char *const colours[] = {"#2a7de1", "#e1672a", "#2aa84a", "#a12ae1", "#888888"};
enum { COLOURS = sizeof colours / sizeof *colours };

/* What a chart shows, and its size: that of the loss is wide, the others stand in pairs. */
typedef struct { double x0, x1, y0, y1; int width, height; } Range;

static size_t group_length(const char *tag) { return (size_t)(strchr(tag, '/') - tag); }

static int same_group(const Curve *a, const Curve *b)
{
    size_t n = group_length(a->tag);
    return n == group_length(b->tag) && !memcmp(a->tag, b->tag, n);
}

static Range range_of(const Curves *c, size_t first, int wide)
{
    Range r = {1e300, -1e300, 1e300, -1e300, wide ? 880 : 430, wide ? 240 : 190};
    for (size_t i = first; i < c->count; i++)
        for (size_t k = 0; same_group(&c->list[first], &c->list[i]) && k < c->list[i].count; k++) {
            r.x0 = fmin(r.x0, c->list[i].x[k]), r.x1 = fmax(r.x1, c->list[i].x[k]);
            r.y0 = fmin(r.y0, c->list[i].y[k]), r.y1 = fmax(r.y1, c->list[i].y[k]);
        }
    if (r.x1 <= r.x0) r.x1 = r.x0 + 1;
    double pad = r.y1 > r.y0 ? 0.05 * (r.y1 - r.y0) : fabs(r.y0) * 0.1 + 1e-12;
    r.y0 = r.y0 >= 0 && r.y0 < pad * 4 ? 0 : r.y0 - pad;
    r.y1 += pad;
    return r;
}

static double place_x(const Range *r, double x)
{
    return LEFT + (x - r->x0) / (r->x1 - r->x0) * (r->width - LEFT - RIGHT);
}

static double place_y(const Range *r, double y)
{
    return r->height - BOTTOM - (y - r->y0) / (r->y1 - r->y0) * (r->height - TOP - BOTTOM);
}

static void print_axes(Page *p, const Range *r)
{
    for (int i = 0; i <= 4; i++) {
        double y = r->y0 + (r->y1 - r->y0) * i / 4, x = r->x0 + (r->x1 - r->x0) * i / 4;
        page_print(p, "<path class=axis d='M%d %.1fH%d'/><text x=%d y=%.1f "
                      "text-anchor=end>%.3g</text>\n",
              LEFT, place_y(r, y), r->width - RIGHT, LEFT - 6, place_y(r, y) + 4, y);
        page_print(p, "<text x=%.1f y=%d text-anchor=%s>%.0f</text>\n", place_x(r, x),
                   r->height - 8,
              i == 0 ? "start" : i == 4 ? "end" : "middle", x);
    }
}

static void print_curve(Page *p, const Range *r, const Curve *c, const char *colour)
{
    int faint = !strcmp(c->tag, "loss/current");         /* of single steps: mostly noise */
    page_print(p, "<path fill=none stroke='%s' stroke-width=%s d='", colour, faint
               ? "1 opacity=.35" : "2");
    for (size_t k = 0; k < c->count; k++)
        page_print(p, "%c%.1f %.1f", k ? 'L' : 'M', place_x(r, c->x[k]), place_y(r, c->y[k]));
    page_print(p, "'/>\n");
    if (c->count == 1)
        page_print(p, "<circle r=3 fill='%s' cx=%.1f cy=%.1f />\n", colour, place_x(r, c->x[0]),
              place_y(r, c->y[0]));
}

static void print_group(Page *p, Curves *c, size_t first, int wide)
{
    for (size_t i = first; i < c->count; i++)
        if (same_group(&c->list[first], &c->list[i])) curve_thin(&c->list[i], POINTS);
    Range r = range_of(c, first, wide);
    page_print(p, "<figure%s><figcaption>", wide ? " class=wide" : "");
    int n = 0;
    for (size_t i = first; i < c->count; i++) {
        if (!same_group(&c->list[first], &c->list[i])) continue;
        page_print(p, "<b style='color:%s'>&#9632;</b> ", colours[n++ % COLOURS]);
        page_text(p, c->list[i].tag);
        page_print(p, " ");
    }
    page_print(p, "</figcaption><svg viewBox='0 0 %d %d'>\n", r.width, r.height);
    print_axes(p, &r);
    n = 0;
    for (size_t i = first; i < c->count; i++)
        if (same_group(&c->list[first], &c->list[i]))
            print_curve(p, &r, &c->list[i], colours[n++ % COLOURS]);
    page_print(p, "</svg></figure>\n");
}

int page_curves(Page *p, const char *log, Err *e)
{
    Curves c;
    if (!log || io_exists(log) != 1) return 0;
    TRY(curves_read(&c, log, e));
    if (c.count) page_print(p, "<h2>Curves</h2>\n<div class=charts>\n");
    size_t lead = 0;
    while (lead < c.count && strncmp(c.list[lead].tag, "loss/", 5)) lead++;
    if (lead < c.count) print_group(p, &c, lead, 1);
    for (size_t i = 0; i < c.count; i++) {
        size_t k = 0;
        while (k < i && !same_group(&c.list[k], &c.list[i])) k++;
        if (k == i && i != lead) print_group(p, &c, i, 0);
    }
    if (c.count) page_print(p, "</div>\n");
    curves_free(&c);
    return 0;
}
