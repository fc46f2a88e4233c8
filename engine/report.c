/* report.c - see report.h. */
#include "engine/report.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "engine/curves.h"

enum { WIDTH = 860, HEIGHT = 240, LEFT = 64, RIGHT = 8, TOP = 8, BOTTOM = 24, POINTS = 600 };

typedef struct {
    IoFile f;
    Err *e;
    int rc;                            /* the first failure */
} Page;

static void put(Page *p, const char *text, size_t size)
{
    if (!p->rc) p->rc = io_write(&p->f, text, size, p->e);
}

__attribute__((format(printf, 2, 3)))
static void print(Page *p, const char *fmt, ...)
{
    char text[2048];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    put(p, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

/* Text as text: names and captions are not markup. */
static void print_text(Page *p, const char *s)
{
    for (size_t n; *s; s += n) {
        n = strcspn(s, "<>&\"");
        put(p, s, n);
        if (!s[n]) break;
        print(p, "&#%d;", s[n]);
        n++;
    }
}

/* ---- curves --------------------------------------------------------------------- */

static const char *const colours[] = {"#2a7de1", "#e1672a", "#2aa84a", "#a12ae1", "#888888"};
enum { COLOURS = sizeof colours / sizeof *colours };

typedef struct { double x0, x1, y0, y1; } Range;

static size_t group_length(const char *tag) { return (size_t)(strchr(tag, '/') - tag); }

static int same_group(const Curve *a, const Curve *b)
{
    size_t n = group_length(a->tag);
    return n == group_length(b->tag) && !memcmp(a->tag, b->tag, n);
}

static Range range_of(const Curves *c, size_t first)
{
    Range r = {1e300, -1e300, 1e300, -1e300};
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
    return LEFT + (x - r->x0) / (r->x1 - r->x0) * (WIDTH - LEFT - RIGHT);
}

static double place_y(const Range *r, double y)
{
    return HEIGHT - BOTTOM - (y - r->y0) / (r->y1 - r->y0) * (HEIGHT - TOP - BOTTOM);
}

static void print_axes(Page *p, const Range *r)
{
    for (int i = 0; i <= 4; i++) {
        double y = r->y0 + (r->y1 - r->y0) * i / 4, x = r->x0 + (r->x1 - r->x0) * i / 4;
        print(p, "<path class=axis d='M%d %.1fH%d'/><text x=%d y=%.1f text-anchor=end>%.3g</text>\n",
              LEFT, place_y(r, y), WIDTH - RIGHT, LEFT - 6, place_y(r, y) + 4, y);
        print(p, "<text x=%.1f y=%d text-anchor=%s>%.0f</text>\n", place_x(r, x), HEIGHT - 8,
              i == 0 ? "start" : i == 4 ? "end" : "middle", x);
    }
}

static void print_curve(Page *p, const Range *r, const Curve *c, const char *colour)
{
    print(p, "<path fill=none stroke='%s' stroke-width=1.5 d='", colour);
    for (size_t k = 0; k < c->count; k++)
        print(p, "%c%.1f %.1f", k ? 'L' : 'M', place_x(r, c->x[k]), place_y(r, c->y[k]));
    print(p, "'/>\n");
    if (c->count == 1)
        print(p, "<circle r=3 fill='%s' cx=%.1f cy=%.1f />\n", colour, place_x(r, c->x[0]),
              place_y(r, c->y[0]));
}

static void print_group(Page *p, Curves *c, size_t first)
{
    for (size_t i = first; i < c->count; i++)
        if (same_group(&c->list[first], &c->list[i])) curve_thin(&c->list[i], POINTS);
    Range r = range_of(c, first);
    print(p, "<figure><figcaption>");
    int n = 0;
    for (size_t i = first; i < c->count; i++) {
        if (!same_group(&c->list[first], &c->list[i])) continue;
        print(p, "<b style='color:%s'>&#9632;</b> ", colours[n++ % COLOURS]);
        print_text(p, c->list[i].tag);
        print(p, " ");
    }
    print(p, "</figcaption><svg viewBox='0 0 %d %d'>\n", WIDTH, HEIGHT);
    print_axes(p, &r);
    n = 0;
    for (size_t i = first; i < c->count; i++)
        if (same_group(&c->list[first], &c->list[i]))
            print_curve(p, &r, &c->list[i], colours[n++ % COLOURS]);
    print(p, "</svg></figure>\n");
}

static int print_curves(Page *p, const char *log, Err *e)
{
    Curves c;
    if (!log || io_exists(log) != 1) return 0;
    TRY(curves_read(&c, log, e));
    if (c.count) print(p, "<h2>Curves</h2>\n");
    for (size_t i = 0; i < c.count; i++) {
        size_t k = 0;
        while (k < i && !same_group(&c.list[k], &c.list[i])) k++;
        if (k == i) print_group(p, &c, i);
    }
    curves_free(&c);
    return 0;
}

/* ---- pictures ------------------------------------------------------------------- */

/* RFC 4648. */
static void print_base64(Page *p, const uint8_t *d, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char out[1024];
    size_t n = 0;
    for (size_t i = 0; i < size; i += 3) {
        size_t have = size - i < 3 ? size - i : 3;
        unsigned v = (unsigned)d[i] << 16 | (have > 1 ? (unsigned)d[i + 1] << 8 : 0) |
                     (have > 2 ? d[i + 2] : 0u);
        for (size_t k = 0; k < 4; k++)
            out[n++] = (char)(k <= have ? digits[v >> (18 - 6 * k) & 63] : '=');
        if (n == sizeof out) put(p, out, n), n = 0;
    }
    put(p, out, n);
}

static void print_picture(Page *p, const ReportPicture *pic)
{
    IoMap m;
    Err missing = {0};
    if (io_map(&m, pic->path, &missing)) return;
    print(p, "<figure><figcaption>");
    print_text(p, pic->caption);
    print(p, "</figcaption><img alt='' src='data:image/png;base64,");
    print_base64(p, m.data, m.size);
    print(p, "'></figure>\n");
    io_unmap(&m);
}

/* ---------------------------------------------------------------------------------- */

static const char head[] =
    "<meta name=viewport content='width=device-width'>\n<style>\n"
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;"
    "margin:2rem auto;padding:0 1rem}h1{margin-bottom:0}table{border-collapse:collapse}"
    "td{padding:.15rem 1rem .15rem 0;vertical-align:top;border-top:1px solid #8883;"
    "overflow-wrap:anywhere}td:first-child{white-space:nowrap}td:last-child{opacity:.75}"
    "pre{background:#8881;padding:.75rem;border-radius:6px;white-space:pre-wrap;"
    "overflow-wrap:anywhere}figure{margin:1rem 0}svg,img{max-width:100%}svg{width:100%}"
    "svg text{font-size:11px;fill:currentColor}.axis{stroke:#8885;fill:none}\n</style>\n";

static void print_head(Page *p, const Report *r)
{
    print(p, "<!doctype html>\n<meta charset=utf-8>\n<title>");
    print_text(p, r->title);
    print(p, "</title>\n");
    put(p, head, sizeof head - 1);
    print(p, "<h1>");
    print_text(p, r->title);
    print(p, "</h1>\n");
    if (r->verdict) {
        print(p, "<p>");
        print_text(p, r->verdict);
        print(p, "</p>\n");
    }
    if (!r->command) return;
    print(p, "<p>Repeat it with</p>\n<pre>");
    print_text(p, r->command);
    print(p, "</pre>\n");
}

int report_write(const char *path, const Report *r, Err *e)
{
    Page p = {.e = e};
    TRY(io_create(&p.f, path, e));
    print_head(&p, r);
    for (size_t i = 0; i < r->picture_count; i++) print_picture(&p, &r->pictures[i]);
    int rc = print_curves(&p, r->log, e);
    print(&p, "<h2>Settings</h2>\n<table>\n");
    for (size_t i = 0; i < r->row_count; i++) {
        print(&p, "<tr><td>");
        print_text(&p, r->rows[i].name);
        print(&p, "<td>");
        print_text(&p, r->rows[i].value);
        print(&p, "<td>");
        if (r->rows[i].reason) print_text(&p, r->rows[i].reason);
        print(&p, "\n");
    }
    print(&p, "</table>\n");
    if (!rc) rc = p.rc;
    if (!rc) return io_commit(&p.f, e);
    io_abort(&p.f);
    return rc;
}
