/* grid.c - see grid.h. */
#include "engine/grid.h"

#include <assert.h>
#include <string.h>

#include "engine/mem.h"

/* 5x8 dots per character from space to tilde, eight rows each, top first. A row
 * is a letter: its low five bits are the dots, bit 4 leftmost. */
static const char font[95][9] = {
    "@@@@@@@@", "DDDDD@D@", "JJJ@@@@@", "JJ_J_JJ@", "DOTNE^D@", "XYBDHSC@", "LRTHURM@",
    "DDH@@@@@", "BDHHHDB@", "HDBBBDH@", "@DUNUD@@", "@DD_DD@@", "@@@@@LDH", "@@@_@@@@",
    "@@@@@LL@", "@ABDHP@@", "NQSUYQN@", "DLDDDDN@", "NQABDH_@", "_BDBAQN@", "BFJR_BB@",
    "_P^AAQN@", "FHP^QQN@", "_ABDHHH@", "NQQNQQN@", "NQQOABL@", "@LL@LL@@", "@LL@LDH@",
    "BDHPHDB@", "@@_@_@@@", "HDBABDH@", "NQABD@D@", "NQAMUUN@", "NQQ_QQQ@", "^QQ^QQ^@",
    "NQPPPQN@", "\\RQQQR\\@", "_PP^PP_@", "_PP^PPP@", "NQPWQQO@", "QQQ_QQQ@", "NDDDDDN@",
    "GBBBBRL@", "QRTXTRQ@", "PPPPPP_@", "Q[UUQQQ@", "QQYUSQQ@", "NQQQQQN@", "^QQ^PPP@",
    "NQQQURM@", "^QQ^TRQ@", "OPPNAA^@", "_DDDDDD@", "QQQQQQN@", "QQQQQJD@", "QQQUUUJ@",
    "QQJDJQQ@", "QQJDDDD@", "_ABDHP_@", "NHHHHHN@", "@PHDBA@@", "NBBBBBN@", "DJQ@@@@@",
    "@@@@@@_@", "HDB@@@@@", "@@NAOQO@", "PPVYQQ^@", "@@NPPQN@", "AAMSQQO@", "@@NQ_PN@",
    "FIH\\HHH@", "@@OQQOAN", "PPVYQQQ@", "D@LDDDN@", "B@FBBBRL", "PPRTXTR@", "LDDDDDN@",
    "@@ZUUQQ@", "@@VYQQQ@", "@@NQQQN@", "@@^QQ^PP", "@@OQQOAA", "@@VYPPP@", "@@NPNA^@",
    "HH\\HHIF@", "@@QQQSM@", "@@QQQJD@", "@@QQUUJ@", "@@QJDJQ@", "@@QQQOAN", "@@_BDH_@",
    "BDDHDDB@", "DDDDDDD@", "HDDBDDH@", "@HUB@@@@",
};

static void dot(Image *im, int x, int y, int scale)
{
    for (int j = y < 0 ? 0 : y; j < y + scale && j < im->h; j++)
        for (int i = x < 0 ? 0 : x; i < x + scale && i < im->w; i++)
            memset(im->px + ((size_t)j * (size_t)im->w + (size_t)i) * (size_t)im->c, 0, 3);
}

void grid_text(Image *im, int x, int y, int scale, const char *s, size_t n)
{
    for (size_t k = 0; k < n && x < im->w; k++, x += GRID_CHAR_W * scale) {
        const char *glyph = font[(s[k] >= 32 && s[k] < 127 ? s[k] : '?') - 32];
        for (int r = 0; r < 8; r++)
            for (int b = 0; b < 5; b++)
                if (glyph[r] & (16 >> b)) dot(im, x + b * scale, y + r * scale, scale);
    }
}

/* ---- labels ---- */

/* One '?' for each character that the font lacks; newlines become spaces. */
static char *printable(const char *s, Err *e)
{
    char *r = mem_alloc(strlen(s) + 1), *q = r;
    if (!r) {
        err_nomem(e, strlen(s) + 1, "a label");
        return NULL;
    }
    for (; *s; s++) {
        if ((*s & 0xc0) == 0x80) continue;       /* rest of a character */
        *q++ = *s == '\n' ? ' ' : *s >= 32 && *s < 127 ? *s : '?';
    }
    *q = 0;
    return r;
}

/* Length of the next line of at most `room` characters, cut at a space if there
 * is one; *skip is how far the line after it is. */
static size_t next_line(const char *s, size_t room, size_t *skip)
{
    size_t n = strlen(s);
    if (n <= room) return *skip = n;
    size_t cut = room;
    while (cut && s[cut] != ' ') cut--;
    if (!cut) return *skip = room;
    *skip = cut + 1;
    return cut;
}

static int count_lines(const char *s, size_t room)
{
    int lines = 0;
    for (size_t skip; *s; s += skip, lines++) next_line(s, room, &skip);
    return lines;
}

/* Centres a wrapped label in a box. */
static int draw_label(Image *im, const char *label, int x, int y, int w, int h, int scale,
                      Err *e)
{
    char *text = printable(label, e);
    if (!text) return ERR_MEMORY;
    int char_w = GRID_CHAR_W * scale, char_h = GRID_CHAR_H * scale;
    size_t room = (size_t)(w / char_w > 1 ? w / char_w : 1);
    int lines = count_lines(text, room), fit = h / char_h;
    if (lines > fit) lines = fit;
    const char *s = text;
    y += (h - lines * char_h) / 2;
    for (size_t skip; lines-- > 0; s += skip, y += char_h) {
        size_t n = next_line(s, room, &skip);
        grid_text(im, x + (w - (int)n * char_w) / 2, y, scale, s, n);
    }
    mem_free(text);
    return 0;
}

/* ---- sheet ---- */

typedef struct {
    int cell_w, cell_h;   /* of a place */
    int left, top;        /* bands for labels, 0 without */
    int title;            /* above them */
    int scale;            /* pixels per dot */
    int dx, dy;           /* from one place to the next */
    int sheets;
    long long dz;         /* from one grid to the next */
    long long w, h;
} Layout;

enum { MAX_LINES = 4, MAX_CHARS = 20 };

static Layout layout(int cell_w, int cell_h, const Grid *g)
{
    Layout l = {.cell_w = cell_w,
                .cell_h = cell_h,
                .dx = cell_w + g->margin,
                .dy = cell_h + g->margin,
                .sheets = g->sheets ? g->sheets : 1};
    l.scale = cell_w < 200 ? 1 : cell_w < 600 ? 2 : 3;
    int char_w = GRID_CHAR_W * l.scale, char_h = GRID_CHAR_H * l.scale;
    size_t room = (size_t)(cell_w / char_w > 1 ? cell_w / char_w : 1);
    for (int i = 0; g->col_labels && i < g->cols; i++) {
        int lines = count_lines(g->col_labels[i], room);
        if (lines > MAX_LINES) lines = MAX_LINES;
        if (lines * char_h + char_h / 2 > l.top) l.top = lines * char_h + char_h / 2;
    }
    for (int i = 0; g->row_labels && i < g->rows; i++) {
        size_t n = strlen(g->row_labels[i]);
        int chars = n < MAX_CHARS ? (int)n : MAX_CHARS;
        if ((chars + 2) * char_w > l.left) l.left = (chars + 2) * char_w;
    }
    l.title = g->sheet_labels ? 2 * char_h : 0;
    l.dz = (long long)l.title + l.top + (long long)g->rows * l.dy;
    l.w = (long long)l.left + g->margin + (long long)g->cols * l.dx;
    l.h = g->margin + l.sheets * l.dz;
    return l;
}

static int check_size(const Layout *l, Err *e)
{
    if (l->w <= 65535 && l->h <= 65535) return 0;
    return err_set(e, ERR_FAIL,
                   "a grid of %lldx%lld pixels is too large; use fewer or smaller pictures", l->w,
                   l->h);
}

int grid_size(const Grid *g, int w, int h, int *out_w, int *out_h, Err *e)
{
    Layout l = layout(w, h, g);
    TRY(check_size(&l, e));
    *out_w = (int)l.w;
    *out_h = (int)l.h;
    return 0;
}

static void paste(Image *out, const Image *cell, int x, int y)
{
    size_t row = (size_t)cell->w * 3;
    for (int j = 0; j < cell->h; j++)
        memcpy(out->px + ((size_t)(y + j) * (size_t)out->w + (size_t)x) * 3,
               cell->px + (size_t)j * row, row);
}

/* Those of the grid whose top is at y. */
static int draw_labels(Image *out, const Grid *g, const Layout *l, int sheet, int y, Err *e)
{
    int char_w = GRID_CHAR_W * l->scale, below = y + l->title;
    if (g->sheet_labels)
        TRY(draw_label(out, g->sheet_labels[sheet], l->left + g->margin, y + g->margin,
                       out->w - l->left - 2 * g->margin, l->title, l->scale, e));
    for (int i = 0; g->col_labels && i < g->cols; i++)
        TRY(draw_label(out, g->col_labels[i], l->left + g->margin + i * l->dx, below + g->margin,
                       l->cell_w, l->top, l->scale, e));
    for (int i = 0; g->row_labels && i < g->rows; i++)
        TRY(draw_label(out, g->row_labels[i], char_w / 2, below + l->top + g->margin + i * l->dy,
                       l->left - char_w, l->cell_h, l->scale, e));
    return 0;
}

int grid_compose(Image *out, const Image *cells, size_t n, const Grid *g, Err *e)
{
    int w = 0, h = 0, rc = 0;
    size_t cols = (size_t)g->cols, per_sheet = cols * (size_t)g->rows;
    assert(n > 0 && g->rows > 0 && g->cols > 0 && g->margin >= 0);
    assert(n <= per_sheet * (size_t)(g->sheets ? g->sheets : 1));
    *out = (Image){0};
    for (size_t i = 0; i < n; i++) {
        assert(!cells[i].px || cells[i].c == 3);
        w = cells[i].w > w ? cells[i].w : w;
        h = cells[i].h > h ? cells[i].h : h;
    }
    Layout l = layout(w, h, g);
    TRY(check_size(&l, e));
    TRY(image_new(out, (int)l.w, (int)l.h, 3, e));
    memset(out->px, 255, (size_t)out->w * (size_t)out->h * 3);
    for (size_t i = 0; i < n; i++) {
        size_t at = i % per_sheet, sheet = i / per_sheet;
        int x = l.left + g->margin + (int)(at % cols) * l.dx + (w - cells[i].w) / 2;
        int y = (int)sheet * (int)l.dz + l.title + l.top + g->margin + (int)(at / cols) * l.dy +
                (h - cells[i].h) / 2;
        if (cells[i].px) paste(out, &cells[i], x, y);
    }
    for (int k = 0; !rc && k < l.sheets; k++) rc = draw_labels(out, g, &l, k, k * (int)l.dz, e);
    if (rc) image_free(out);
    return rc;
}
