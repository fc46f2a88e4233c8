/* emoji.c - makes the pocket model's data set from the emoji font.
 *
 *     emoji FONT EMOJI-TEST RECIPE OUT
 *
 * Follows RECIPE (emoji.txt tells its language) and writes 128x128 pictures with
 * captions, NAME.png and NAME.txt, into kohya folders below OUT. The same input
 * gives the same bytes. A program of its own: sdc itself does not know about it.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "models/pocket/glyph.h"
#include "models/pocket/paint.h"

enum { PICTURES_MAX = 5000, COLOURS_MAX = 32, CAPTION_MAX = 200 };

typedef struct {
    char *caption;
    char *folder;          /* below OUT */
    Image im;
} Picture;

typedef struct {
    char name[32];
    uint8_t rgb[3];
} Colour;

typedef struct {
    Font font;
    char *names;           /* emoji-test.txt */
    char *text;            /* the recipe; lines are cut in place */
    char folder[CAPTION_MAX];
    Colour colour[COLOURS_MAX];
    size_t colours;
    Picture *list;
    size_t count, cap;
    char **held;
    size_t held_count, held_cap;
    uint32_t *used;        /* code points of glyph and paint lines */
    size_t used_count, used_cap;
} Recipe;

static const char held_folder[] = "held";

/* ---- pictures by caption ---- */

/* The file name of a caption: letters and digits, everything else one '-'. */
static void slug(char *out, const char *caption)
{
    size_t n = 0;
    for (const char *p = caption; *p; p++) {
        if (isalnum((unsigned char)*p)) out[n++] = (char)tolower((unsigned char)*p);
        else if (n && out[n - 1] != '-') out[n++] = '-';
    }
    while (n && out[n - 1] == '-') n--;
    out[n] = 0;
}

static Picture *find(const Recipe *r, const char *caption)
{
    char want[CAPTION_MAX], have[CAPTION_MAX];
    slug(want, caption);
    for (size_t i = 0; i < r->count; i++) {
        slug(have, r->list[i].caption);
        if (!strcmp(want, have)) return &r->list[i];
    }
    return NULL;
}

static int is_held(const Recipe *r, const char *caption)
{
    for (size_t i = 0; i < r->held_count; i++)
        if (!strcmp(r->held[i], caption)) return 1;
    return 0;
}

/* Takes im over, also when it fails. */
static int add(Recipe *r, const char *caption, Image *im, Err *e)
{
    Picture p = {NULL, NULL, *im};
    *im = (Image){0};
    int rc = 0;
    char name[CAPTION_MAX];
    slug(name, caption);
    if (!*name) rc = err_set(e, ERR_INPUT, "caption \"%s\" has no letter or digit", caption);
    else if (find(r, caption)) rc = err_set(e, ERR_INPUT, "caption \"%s\" is used twice", caption);
    else if (r->count >= PICTURES_MAX)
        rc = err_set(e, ERR_INPUT, "more than %d pictures", PICTURES_MAX);
    Picture *list = rc ? NULL : mem_grow(r->list, r->count, &r->cap, sizeof *list);
    if (list) {
        r->list = list;
        p.caption = mem_strdup(caption);
        p.folder = mem_strdup(is_held(r, caption) ? held_folder : r->folder);
    }
    if (!rc && (!list || !p.caption || !p.folder)) rc = err_nomem(e, CAPTION_MAX, "a caption");
    if (!rc) {
        r->list[r->count++] = p;
        return 0;
    }
    mem_free(p.caption);
    mem_free(p.folder);
    image_free(&p.im);
    return rc;
}

/* A picture that may be part of another one. */
static int source(const Picture **out, const Recipe *r, const char *caption, Err *e)
{
    *out = find(r, caption);
    if (!*out) return err_set(e, ERR_INPUT, "no picture \"%s\" so far", caption);
    if (is_held(r, (*out)->caption))
        return err_set(e, ERR_INPUT, "\"%s\" is held out and must not be trained on", caption);
    return 0;
}

/* "WITHOUT its article", with an article and words in front. */
static int with_article(char *out, const char *word, const char *rest, Err *e)
{
    int n = snprintf(out, CAPTION_MAX, "%s %s %s", strchr("aeiou", word[0]) ? "an" : "a", word,
                     rest);
    return n < CAPTION_MAX ? 0 : err_set(e, ERR_INPUT, "the caption is too long");
}

static const char *without_article(const char *caption)
{
    return !strncmp(caption, "a ", 2) ? caption + 2 : !strncmp(caption, "an ", 3) ? caption + 3
                                                                                   : caption;
}

/* ---- words of a line ---- */

static char *trim(char *s)
{
    while (isspace((unsigned char)*s)) s++;
    size_t n = strlen(s);
    while (n && isspace((unsigned char)s[n - 1])) n--;
    s[n] = 0;
    return s;
}

/* Cuts s at the first c; what follows, or NULL when there is no c. */
static char *split(char *s, char c)
{
    char *p = strchr(s, c);
    if (!p) return NULL;
    *p = 0;
    return p + 1;
}

/* Cuts "A; B; C" into at most max parts. */
static int items(char **part, size_t *n, size_t max, char *list, Err *e)
{
    for (*n = 0; list; ) {
        char *next = split(list, ';');
        if (*n == max) return err_set(e, ERR_INPUT, "more than %zu items in a list", max);
        part[*n] = trim(list);
        if (strlen(part[*n]) >= CAPTION_MAX) return err_set(e, ERR_INPUT, "an item is too long");
        if (part[*n][0]) ++*n;
        list = next;
    }
    return *n ? 0 : err_set(e, ERR_INPUT, "the list is empty");
}

/* Takes "CODE REST"; *rest is trimmed and not empty. */
static int take_code(uint32_t *code, char **rest, char *args, Err *e)
{
    char *end;
    unsigned long v = strtoul(args, &end, 16);
    if (end == args || !isspace((unsigned char)*end) || v > 0x10ffff)
        return err_set(e, ERR_INPUT, "expected a code point in hexadecimal, then words");
    *code = (uint32_t)v;
    *rest = trim(end);
    return **rest ? 0 : err_set(e, ERR_INPUT, "expected words after the code point");
}

/* ---- the commands of a recipe ---- */

static int cmd_folder(Recipe *r, char *args, Err *e)
{
    if (!*args || strlen(args) >= sizeof r->folder || args[0] == '/' || strstr(args, ".."))
        return err_set(e, ERR_INPUT, "expected a folder below the output folder");
    strcpy(r->folder, args);
    return 0;
}

static int cmd_colour(Recipe *r, char *args, Err *e)
{
    Colour c = {0};
    char *hex = split(args, ' '), *end = NULL;
    unsigned long v = hex ? strtoul(hex, &end, 16) : 0;
    if (!hex || end == hex || *end || v > 0xffffff || strlen(args) >= sizeof c.name)
        return err_set(e, ERR_INPUT, "expected: colour NAME RRGGBB");
    if (r->colours == COLOURS_MAX) return err_set(e, ERR_INPUT, "too many colours");
    strcpy(c.name, args);
    for (int k = 0; k < 3; k++) c.rgb[k] = (uint8_t)(v >> (16 - 8 * k));
    r->colour[r->colours++] = c;
    return 0;
}

static int cmd_hold(Recipe *r, char *args, Err *e)
{
    char *part[64];
    size_t n;
    TRY(items(part, &n, 64, args, e));
    for (size_t i = 0; i < n; i++) {
        if (find(r, part[i]))
            return err_set(e, ERR_INPUT, "\"%s\" exists already: hold it out earlier", part[i]);
        char **held = mem_grow(r->held, r->held_count, &r->held_cap, sizeof *held);
        if (!held) return err_nomem(e, sizeof *held, "a caption");
        r->held = held;
        held[r->held_count] = mem_strdup(part[i]);
        if (!held[r->held_count]) return err_nomem(e, CAPTION_MAX, "a caption");
        r->held_count++;
    }
    return 0;
}

static int is_used(const Recipe *r, uint32_t code)
{
    for (size_t i = 0; i < r->used_count; i++)
        if (r->used[i] == code) return 1;
    return 0;
}

static int use(Recipe *r, uint32_t code, Err *e)
{
    uint32_t *used = mem_grow(r->used, r->used_count, &r->used_cap, sizeof *used);
    if (!used) return err_nomem(e, sizeof *used, "a code point");
    r->used = used;
    used[r->used_count++] = code;
    return 0;
}

/* The caption with '%' replaced by Unicode's name of the code point. */
static int fill_name(char *out, const Recipe *r, const char *form, uint32_t code, Err *e)
{
    const char *name, *mark = strchr(form, '%');
    size_t size;
    TRY(emoji_name(&name, &size, r->names, code, e));
    int before = mark ? (int)(mark - form) : 0;
    int n = !mark ? snprintf(out, CAPTION_MAX, "%s", form)
                  : snprintf(out, CAPTION_MAX, "%.*s%.*s%s", before, form,
                             size < CAPTION_MAX ? (int)size : CAPTION_MAX, name, mark + 1);
    return n < CAPTION_MAX ? 0 : err_set(e, ERR_INPUT, "the caption is too long");
}

/* Adds the font's own picture of a code point. */
static int add_glyph(Recipe *r, uint32_t code, const char *caption, Err *e)
{
    Image glyph = {0}, im = {0};
    TRY(use(r, code, e));
    TRY(font_picture(&glyph, &r->font, code, e));
    int rc = paint_frame(&im, &glyph, e);
    image_free(&glyph);
    return rc ? rc : add(r, caption, &im, e);
}

static int cmd_glyph(Recipe *r, char *args, Err *e)
{
    uint32_t code;
    char *form, caption[CAPTION_MAX];
    TRY(take_code(&code, &form, args, e));
    TRY(fill_name(caption, r, form, code, e));
    return add_glyph(r, code, caption, e);
}

/* Every emoji that no line has named yet, under Unicode's name. */
static int cmd_rest(Recipe *r, char *args, Err *e)
{
    const char *name, *text = r->names;
    char caption[CAPTION_MAX];
    size_t size;
    uint32_t code;
    if (*args) return err_set(e, ERR_INPUT, "rest takes no words");
    while (!emoji_next(&name, &size, &code, &text)) {
        if (is_used(r, code) || !font_has(&r->font, code) || size >= CAPTION_MAX) continue;
        snprintf(caption, sizeof caption, "%.*s", (int)size, name);
        if (!find(r, caption)) TRY(add_glyph(r, code, caption, e));
    }
    return 0;
}

static int paint_one(Recipe *r, uint32_t code, const char *noun, const Colour *c, Err *e)
{
    char caption[CAPTION_MAX];
    Image glyph = {0}, im = {0};
    TRY(with_article(caption, c->name, noun, e));
    if (find(r, caption)) return 0;      /* the font has this colour */
    TRY(font_picture(&glyph, &r->font, code, e));
    int rc = paint_recolour(&glyph, c->rgb[0], c->rgb[1], c->rgb[2], e);
    if (!rc) rc = paint_frame(&im, &glyph, e);
    image_free(&glyph);
    return rc ? rc : add(r, caption, &im, e);
}

static int cmd_paint(Recipe *r, char *args, Err *e)
{
    uint32_t code;
    char *noun, *part[COLOURS_MAX], *list;
    size_t n;
    TRY(take_code(&code, &noun, args, e));
    if (!(list = split(noun, '=')))
        return err_set(e, ERR_INPUT, "expected: paint CODE NOUN = COLOUR; COLOUR; ...");
    noun = trim(noun);
    TRY(items(part, &n, COLOURS_MAX, list, e));
    for (size_t i = 0; i < n; i++) {
        size_t k = 0;
        while (k < r->colours && strcmp(r->colour[k].name, part[i])) k++;
        if (k == r->colours) return err_set(e, ERR_INPUT, "no colour \"%s\" so far", part[i]);
        TRY(paint_one(r, code, noun, &r->colour[k], e));
    }
    return 0;
}

/* How a layout makes captions from its list. */
typedef enum {
    SIZE,                  /* a SMALL red heart: each item by itself */
    SIDE,                  /* a red heart ON THE LEFT: each item by itself */
    BOTH,                  /* a red heart AND a banana: every two items, in both orders */
    COUNT                  /* TWO red hearts: items are "red hearts = a red heart" */
} Phrasing;

/* Where the parts go. Multiples of 8, so that parts sit alike on the latent grid. */
typedef struct {
    const char *command, *words;
    Phrasing phrasing;
    int parts, side;
    struct { int x, y; } at[3];
} Layout;

static const Layout layouts[] = {
    {"small", "small", SIZE, 1, 48, {{40, 40}}},
    {"left", "on the left", SIDE, 1, 56, {{8, 40}}},
    {"right", "on the right", SIDE, 1, 56, {{64, 40}}},
    {"pair", "and", BOTH, 2, 56, {{8, 40}, {64, 40}}},
    {"above", "above", BOTH, 2, 56, {{40, 8}, {40, 64}}},
    {"two", "two", COUNT, 2, 56, {{8, 40}, {64, 40}}},
    {"three", "three", COUNT, 3, 56, {{40, 8}, {8, 64}, {64, 64}}},
};

/* Draws the layout, a and b in turn, and adds it under the caption. */
static int lay_out(Recipe *r, const Layout *l, const char *caption, const char *a, const char *b,
                   Err *e)
{
    Image im = {0};
    int rc = paint_blank(&im, e);
    for (int i = 0; i < l->parts && !rc; i++) {
        const Picture *src = NULL;
        rc = source(&src, r, i % 2 ? b : a, e);
        if (!rc) rc = paint_place(&im, &src->im, l->at[i].x, l->at[i].y, l->side, e);
    }
    if (!rc) return add(r, caption, &im, e);
    image_free(&im);
    return rc;
}

/* "A WORDS B", or "A WORDS" when b is empty. */
static int join(char *out, const char *a, const char *words, const char *b, Err *e)
{
    int n = snprintf(out, CAPTION_MAX, "%s %s%s%s", a, words, *b ? " " : "", b);
    return n < CAPTION_MAX ? 0 : err_set(e, ERR_INPUT, "the caption is too long");
}

static int lay_out_item(Recipe *r, const Layout *l, char *item, Err *e)
{
    char caption[CAPTION_MAX];
    const char *from = item;
    if (l->phrasing == COUNT) {
        char *one = split(item, '=');
        if (!one) return err_set(e, ERR_INPUT, "expected: %s PLURAL = CAPTION; ...", l->command);
        from = trim(one);
        TRY(join(caption, l->words, trim(item), "", e));
    } else if (l->phrasing == SIZE) {
        TRY(with_article(caption, l->words, without_article(item), e));
    } else {
        TRY(join(caption, item, l->words, "", e));
    }
    return lay_out(r, l, caption, from, from, e);
}

static int cmd_layout(Recipe *r, const Layout *l, char *args, Err *e)
{
    char *part[64], caption[CAPTION_MAX];
    size_t n;
    TRY(items(part, &n, 64, args, e));
    for (size_t i = 0; i < n; i++) {
        if (l->phrasing != BOTH) TRY(lay_out_item(r, l, part[i], e));
        else for (size_t k = 0; k < n; k++) {
            if (i == k) continue;
            TRY(join(caption, part[i], l->words, part[k], e));
            TRY(lay_out(r, l, caption, part[i], part[k], e));
        }
    }
    return 0;
}

/* ---- the recipe and the output ---- */

static int run_line(Recipe *r, char *line, Err *e)
{
    static const struct {
        const char *word;
        int (*run)(Recipe *, char *, Err *);
    } commands[] = {
        {"folder", cmd_folder}, {"colour", cmd_colour}, {"hold", cmd_hold},
        {"glyph", cmd_glyph}, {"paint", cmd_paint}, {"rest", cmd_rest},
    };
    char *args = split(line, ' ');
    args = args ? trim(args) : line + strlen(line);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(line, commands[i].word)) return commands[i].run(r, args, e);
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        if (!strcmp(line, layouts[i].command)) return cmd_layout(r, &layouts[i], args, e);
    return err_set(e, ERR_INPUT, "unknown command \"%s\"", line);
}

/* Runs every line; a held caption that no line made is a mistake in the recipe. */
static int run(Recipe *r, const char *path, Err *e)
{
    int number = 1;
    for (char *line = r->text, *next; line; line = next, number++) {
        next = split(line, '\n');
        char *hash = strchr(line, '#');
        if (hash) *hash = 0;
        line = trim(line);
        if (*line && run_line(r, line, e)) return err_prefix(e, "%s:%d", path, number);
    }
    for (size_t i = 0; i < r->held_count; i++)
        if (!find(r, r->held[i]))
            return err_set(e, ERR_INPUT, "%s: \"%s\" is held out, but no line makes it", path,
                           r->held[i]);
    return 0;
}

static int write_picture(const Picture *p, const char *out, Err *e)
{
    char name[CAPTION_MAX];
    slug(name, p->caption);
    char *dir = mem_printf("%s/%s", out, p->folder);
    char *png = mem_printf("%s/%s/%s.png", out, p->folder, name);
    char *txt = mem_printf("%s/%s/%s.txt", out, p->folder, name);
    char *line = mem_printf("%s\n", p->caption);
    int rc = dir && png && txt && line ? 0 : err_nomem(e, strlen(out) + CAPTION_MAX, "a name");
    if (!rc) rc = io_mkdirs(dir, e);
    if (!rc) rc = image_save(png, &p->im, NULL, e);
    if (!rc) rc = io_write_file(txt, line, strlen(line), e);
    mem_free(dir);
    mem_free(png);
    mem_free(txt);
    mem_free(line);
    return rc;
}

static int make(Recipe *r, char **argv, Err *e)
{
    TRY(font_open(&r->font, argv[1], e));
    TRY(io_read_text(&r->names, NULL, argv[2], 8 << 20, e));
    TRY(io_read_text(&r->text, NULL, argv[3], 1 << 20, e));
    TRY(run(r, argv[3], e));
    for (size_t i = 0; i < r->count; i++) TRY(write_picture(&r->list[i], argv[4], e));
    return 0;
}

static void recipe_free(Recipe *r)
{
    for (size_t i = 0; i < r->count; i++) {
        mem_free(r->list[i].caption);
        mem_free(r->list[i].folder);
        image_free(&r->list[i].im);
    }
    for (size_t i = 0; i < r->held_count; i++) mem_free(r->held[i]);
    mem_free(r->list);
    mem_free(r->held);
    mem_free(r->used);
    mem_free(r->text);
    mem_free(r->names);
    font_close(&r->font);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: emoji FONT EMOJI-TEST RECIPE OUT\n");
        return ERR_USAGE;
    }
    Err e = {0};
    Recipe r = {.folder = "emoji"};
    int rc = make(&r, argv, &e);
    if (rc) fprintf(stderr, "emoji: %s\n", e.msg);
    else printf("%s: %zu pictures\n", argv[4], r.count);
    recipe_free(&r);
    return rc;
}
