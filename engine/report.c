/* report.c - see report.h. */
#include "engine/report.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/mem.h"
#include "engine/report_page.h"
#include "engine/resize.h"

enum { CELL = 320, QUALITY = 85 };     /* pictures: the longer side in pixels, of JPEG */

/* ---- the page -------------------------------------------------------------------- */

void page_put(Page *p, const char *text, size_t size)
{
    if (!p->rc) p->rc = io_write(&p->f, text, size, p->e);
}

void page_print(Page *p, const char *fmt, ...)
{
    char text[2048];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    page_put(p, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

void page_text(Page *p, const char *s)
{
    for (size_t n; *s; s += n) {
        n = strcspn(s, "<>&\"'");
        page_put(p, s, n);
        if (!s[n]) break;
        page_print(p, "&#%d;", s[n]);
        n++;
    }
}

/* text between two pieces of markup */
static void put_in(Page *p, const char *before, const char *text, const char *after)
{
    page_put(p, before, strlen(before));
    page_text(p, text);
    page_put(p, after, strlen(after));
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
        if (n == sizeof out) page_put(p, out, n), n = 0;
    }
    page_put(p, out, n);
}

/* im is RGB. A picture that there is no memory for is left out. */
static void print_image(Page *p, const Image *im, const char *title)
{
    uint8_t *jpeg;
    size_t size;
    if (image_encode_jpeg(&jpeg, &size, im, QUALITY, NULL, NULL)) return;
    page_print(p, "<img width=%d height=%d title=\"", im->w, im->h);
    page_text(p, title);
    page_print(p, "\" alt=\"\" src=\"data:image/jpeg;base64,");
    print_base64(p, jpeg, size);
    page_print(p, "\">");
    mem_free(jpeg);
}

static void print_file(Page *p, const char *path, const char *title)
{
    Image im, small;
    if (image_load(&im, path, NULL)) return;
    image_drop_alpha(&im);
    int side = im.w > im.h ? im.w : im.h, w = im.w * CELL / side, h = im.h * CELL / side;
    if (side > CELL && w && h && !resize_auto(&small, &im, w, h, NULL)) {
        image_free(&im);
        im = small;
    }
    print_image(p, &im, title);
    image_free(&im);
}

static void print_grid(Page *p, const ReportGrid *g)
{
    put_in(p, "<h2>", g->heading, "</h2>\n");
    if (g->note) put_in(p, "<p class=note>", g->note, "</p>\n");
    page_print(p, "<div class=scroll><table class=grid>\n<tr><td>");
    for (size_t c = 0; c < g->col_count; c++) put_in(p, "<th>", g->cols[c], "");
    for (size_t i = 0; i < g->row_count; i++) {
        put_in(p, "\n<tr><th>", g->rows[i], "");
        for (size_t c = 0; c < g->col_count; c++) {
            page_print(p, "<td>");
            print_file(p, g->paths[i * g->col_count + c], g->cols[c]);
        }
    }
    page_print(p, "\n</table></div>\n");
}

/* ---- the data set ---------------------------------------------------------------- */

static void print_bars(Page *p, const char *heading, const ReportBar *b, size_t count)
{
    size_t most = 1;
    for (size_t i = 0; i < count; i++) most = b[i].count > most ? b[i].count : most;
    if (!count) return;
    put_in(p, "<div><h3>", heading, "</h3><table class=bars>\n");
    for (size_t i = 0; i < count; i++) {
        put_in(p, "<tr><td>", b[i].name, "");
        page_print(p, "<td><i style='width:%zu%%'></i>%zu\n", b[i].count * 80 / most, b[i].count);
    }
    page_print(p, "</table></div>\n");
}

static void print_data(Page *p, const Report *r)
{
    if (!r->data) return;
    put_in(p, "<h2>Data set</h2>\n<p class=note>", r->data, "</p>\n<div class=thumbs>\n");
    for (size_t i = 0; i < r->thumb_count; i++) {
        print_image(p, &r->thumbs[i].image, r->thumbs[i].caption);
        page_print(p, "\n");
    }
    page_print(p, "</div>\n<div class=pair>\n");
    print_bars(p, "Tags", r->tags, r->tag_count);
    print_bars(p, "Sizes", r->sizes, r->size_count);
    page_print(p, "</div>\n");
}

/* ---------------------------------------------------------------------------------- */

static const char head[] =
    "<meta name=viewport content='width=device-width'>\n<style>\n"
    ":root{color-scheme:light dark;--line:#8883;--soft:#8881}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1.25rem}"
    "h1{margin:0;font-size:2rem}h2{margin:2.5rem 0 .5rem;font-size:1.25rem}h3{margin:.5rem 0;font-size:1rem}"
    "p{margin:.5rem 0}.note{opacity:.7}.verdict{font-size:1.05rem}"
    ".figures{display:flex;flex-wrap:wrap;gap:.75rem;margin:1.25rem 0}"
    ".figures div{background:var(--soft);border-radius:8px;padding:.5rem 1rem;min-width:7rem}"
    ".figures b{display:block;font-size:1.35rem;font-weight:600}.figures span{opacity:.7}"
    "table{border-collapse:collapse}.rows{width:100%}.rows td{padding:.2rem 1rem .2rem 0;vertical-align:top;"
    "border-top:1px solid var(--line);overflow-wrap:anywhere}.rows td:first-child{white-space:nowrap}"
    ".rows td:nth-child(3){opacity:.7}.scroll{overflow-x:auto}"
    ".grid th{font-weight:500;font-size:.85rem;text-align:left;vertical-align:bottom;padding:.2rem .4rem .2rem 0;max-width:10rem}"
    ".grid tr th:first-child{vertical-align:middle;white-space:nowrap;padding-right:1rem;opacity:.7}"
    ".grid td{padding:2px}.grid img{display:block;width:10rem;height:auto;border-radius:4px}"
    ".charts{display:grid;grid-template-columns:1fr 1fr;gap:.25rem 1.5rem}.charts figure{margin:.5rem 0;min-width:0}"
    ".charts .wide{grid-column:1/-1}figcaption{font-size:.85rem}svg{width:100%}"
    "svg text{font-size:11px;fill:currentColor;opacity:.75}.axis{stroke:#8885;fill:none}"
    ".thumbs{display:flex;flex-wrap:wrap;gap:4px}.thumbs img{border-radius:4px}"
    ".pair{display:grid;grid-template-columns:2fr 1fr;gap:2rem}.bars{width:100%;font-size:.9rem}"
    ".bars td{padding:.05rem 1rem .05rem 0}.bars td:first-child{white-space:nowrap;width:1%}"
    ".bars i{display:inline-block;height:.7em;background:#2a7de1;border-radius:2px;margin-right:.5em}"
    "pre{background:var(--soft);padding:.75rem;border-radius:6px;white-space:pre-wrap;overflow-wrap:anywhere}"
    "details{margin-top:1rem}summary{cursor:pointer;opacity:.8}\n</style>\n";

static void print_head(Page *p, const Report *r)
{
    put_in(p, "<!doctype html>\n<html lang=en><meta charset=utf-8>\n<title>", r->title,
           "</title>\n");
    page_put(p, head, sizeof head - 1);
    put_in(p, "<h1>", r->title, "</h1>\n");
    if (r->verdict) put_in(p, "<p class=verdict>", r->verdict, "</p>\n");
    if (!r->figure_count) return;
    page_print(p, "<div class=figures>\n");
    for (size_t i = 0; i < r->figure_count; i++) {
        put_in(p, "<div><b>", r->figures[i].value, "</b><span>");
        put_in(p, "", r->figures[i].name, "</span></div>\n");
    }
    page_print(p, "</div>\n");
}

static void print_rows(Page *p, const ReportRow *rows, size_t count)
{
    page_print(p, "<table class=rows>\n");
    for (size_t i = 0; i < count; i++) {
        put_in(p, "<tr><td>", rows[i].name, "<td>");
        put_in(p, "", rows[i].value, "<td>");
        put_in(p, "", rows[i].reason ? rows[i].reason : "", "\n");
    }
    page_print(p, "</table>\n");
}

static void print_tables(Page *p, const Report *r)
{
    page_print(p, "<h2>Settings</h2>\n");
    print_rows(p, r->rows, r->row_count - r->unset);
    if (r->unset) {
        page_print(p, "<details><summary>%zu settings that were left as they are</summary>\n",
                   r->unset);
        print_rows(p, r->rows + r->row_count - r->unset, r->unset);
        page_print(p, "</details>\n");
    }
    if (r->machine_count) {
        page_print(p, "<h2>Time and memory</h2>\n");
        print_rows(p, r->machine, r->machine_count);
    }
    if (r->command) put_in(p, "<h2>The same run again</h2>\n<pre>", r->command, "</pre>\n");
}

int report_write(const char *path, const Report *r, Err *e)
{
    Page p = {.e = e};
    TRY(io_create(&p.f, path, e));
    print_head(&p, r);
    for (size_t i = 0; i < r->grid_count; i++) print_grid(&p, &r->grids[i]);
    int rc = page_curves(&p, r->log, e);
    print_data(&p, r);
    print_tables(&p, r);
    if (!rc) rc = p.rc;
    if (!rc) return io_commit(&p.f, e);
    io_abort(&p.f);
    return rc;
}
