/* glyph.c - reads CBDT/CBLC bitmap glyphs and emoji-test.txt; see glyph.h. */
#include "models/pocket/glyph.h"

#include <stdlib.h>
#include <string.h>

/* A table with a sticky flag: reading past its end gives 0 and sets `bad`. */
typedef struct {
    const uint8_t *p;
    size_t size;
    int bad;
} View;

static View view_of(const Font *f, FontTable t)
{
    return (View){f->file.data + t.at, t.size, 0};
}

static uint32_t u16(View *v, size_t at)
{
    if (at > v->size || v->size - at < 2) {
        v->bad = 1;
        return 0;
    }
    return (uint32_t)v->p[at] << 8 | v->p[at + 1];
}

static uint32_t u32(View *v, size_t at)
{
    uint32_t high = u16(v, at);
    return high << 16 | u16(v, at + 2);
}

static int find_tables(Font *f, Err *e)
{
    View v = {f->file.data, f->file.size, 0};
    uint32_t n = u16(&v, 4);
    for (uint32_t i = 0; i < n && !v.bad; i++) {
        size_t row = 12 + 16 * (size_t)i;
        FontTable t = {u32(&v, row + 8), u32(&v, row + 12)};
        uint32_t tag = u32(&v, row);
        FontTable *to = tag == 0x636d6170 ? &f->cmap : tag == 0x43424c43 ? &f->cblc
                      : tag == 0x43424454 ? &f->cbdt : NULL;
        if (!to) continue;
        if (t.at > v.size || t.size > v.size - t.at)
            return err_set(e, ERR_INPUT, "a table lies outside the file; the font is cut short");
        *to = t;
    }
    if (v.bad || !f->cmap.size || !f->cblc.size || !f->cbdt.size)
        return err_set(e, ERR_INPUT, "not a font with cmap, CBLC and CBDT tables; expected"
                       " NotoColorEmoji.ttf with bitmaps");
    return 0;
}

int font_open(Font *f, const char *path, Err *e)
{
    *f = (Font){0};
    TRY(io_map(&f->file, path, e));
    if (!find_tables(f, e)) return 0;
    err_prefix(e, "%s", path);
    font_close(f);
    return e ? e->code : ERR_INPUT;
}

void font_close(Font *f)
{
    io_unmap(&f->file);
    *f = (Font){0};
}

/* The glyph of a code point, 0 (".notdef") when it has none. */
static uint32_t glyph_of(const Font *f, uint32_t code)
{
    View v = view_of(f, f->cmap);
    uint32_t tables = u16(&v, 2);
    for (uint32_t i = 0; i < tables && !v.bad; i++) {
        size_t sub = u32(&v, 4 + 8 * (size_t)i + 4);
        if (u16(&v, sub) != 12) continue;
        uint32_t groups = u32(&v, sub + 12);
        for (uint32_t g = 0; g < groups && !v.bad; g++) {
            size_t row = sub + 16 + 12 * (size_t)g;
            uint32_t first = u32(&v, row), last = u32(&v, row + 4), glyph = u32(&v, row + 8);
            if (!v.bad && code >= first && code <= last) return glyph + (code - first);
        }
    }
    return 0;
}

typedef struct {
    size_t at, size;       /* in CBDT */
    uint32_t format;
} Place;

/* Looks a glyph up in one index subtable array; 1 when found. */
static int find_in_strike(Place *out, View *v, size_t array, uint32_t count, uint32_t glyph)
{
    for (uint32_t i = 0; i < count && !v->bad; i++) {
        size_t row = array + 8 * (size_t)i;
        uint32_t first = u16(v, row), last = u16(v, row + 2);
        if (v->bad || glyph < first || glyph > last) continue;
        size_t sub = array + u32(v, row + 4);
        uint32_t index = u16(v, sub), base = u32(v, sub + 4), from, to;
        size_t item = sub + 8 + (size_t)(glyph - first) * (index == 1 ? 4 : 2);
        if (index == 1) {
            from = u32(v, item);
            to = u32(v, item + 4);
        } else if (index == 3) {
            from = u16(v, item);
            to = u16(v, item + 2);
        } else {
            continue;
        }
        if (v->bad || to <= from) continue;
        *out = (Place){(size_t)base + from, to - from, u16(v, sub + 2)};
        return !v->bad;
    }
    return 0;
}

static int find_bitmap(Place *out, const Font *f, uint32_t glyph)
{
    View v = view_of(f, f->cblc);
    uint32_t strikes = u32(&v, 4);
    for (uint32_t k = 0; k < strikes && !v.bad; k++) {
        size_t row = 8 + 48 * (size_t)k;
        size_t array = u32(&v, row);
        uint32_t count = u32(&v, row + 8);
        if (find_in_strike(out, &v, array, count, glyph)) return 1;
    }
    return 0;
}

int font_has(const Font *f, uint32_t code)
{
    Place place;
    uint32_t glyph = glyph_of(f, code);
    return glyph && find_bitmap(&place, f, glyph);
}

int font_picture(Image *im, const Font *f, uint32_t code, Err *e)
{
    Place place;
    uint32_t glyph = glyph_of(f, code);
    if (!glyph || !find_bitmap(&place, f, glyph))
        return err_set(e, ERR_INPUT, "the font has no bitmap for U+%04X", (unsigned)code);
    if (place.format != 17 && place.format != 18)
        return err_set(e, ERR_INPUT, "U+%04X: image format %u, expected 17 or 18 (PNG)",
                       (unsigned)code, (unsigned)place.format);
    View v = view_of(f, f->cbdt);
    size_t head = place.format == 17 ? 5 : 8;      /* small or big metrics before the length */
    uint32_t size = u32(&v, place.at + head);
    size_t at = place.at + head + 4;
    if (v.bad || at > v.size || size > v.size - at || size > place.size)
        return err_set(e, ERR_INPUT, "U+%04X: its bitmap is cut short", (unsigned)code);
    if (image_decode(im, v.p + at, size, e)) return err_prefix(e, "U+%04X", (unsigned)code);
    return 0;
}

/* Reads "CODE [FE0F] ; fully-qualified # EMOJI E1.0 NAME"; 0 for any other line. */
static int read_line(const char **name, size_t *size, uint32_t *code, const char *line,
                     size_t len)
{
    static const char mark[] = "; fully-qualified";
    const char *end = line + len;
    char *p;
    if (*line == '#' || !len) return 0;
    unsigned long v = strtoul(line, &p, 16);
    if (p == line || p > end || v > 0x10ffff) return 0;
    if (!strncmp(p, " FE0F", 5)) p += 5;
    while (*p == ' ') p++;
    if (strncmp(p, mark, sizeof mark - 1)) return 0;
    const char *at = memchr(p, '#', (size_t)(end - p));
    for (int word = 0; at && word < 3; word++) {
        at = memchr(at, ' ', (size_t)(end - at));
        if (at) at++;
    }
    if (!at || at == end) return 0;
    *code = (uint32_t)v;
    *name = at;
    *size = (size_t)(end - at);
    return 1;
}

int emoji_next(const char **name, size_t *size, uint32_t *code, const char **text)
{
    while (**text) {
        const char *line = *text;
        size_t len = strcspn(line, "\n");
        *text = line + len + (line[len] == '\n');
        if (read_line(name, size, code, line, len)) return 0;
    }
    return -1;
}

int emoji_name(const char **name, size_t *size, const char *text, uint32_t code, Err *e)
{
    uint32_t have;
    while (!emoji_next(name, size, &have, &text))
        if (have == code) return 0;
    return err_set(e, ERR_INPUT, "U+%04X is no emoji of a single code point", (unsigned)code);
}
