/* glyph.h - pictures out of a colour bitmap font, and the names of emoji.
 *
 * OpenType 1.9: cmap format 12 (code point -> glyph), CBLC index formats 1 and 3
 * (glyph -> where), CBDT image formats 17 and 18 (PNG). That is all that Noto
 * Color Emoji needs for single code points. Font and list may be broken or
 * hostile: every offset is checked before it is followed.
 */
#ifndef SDC_POCKET_GLYPH_H
#define SDC_POCKET_GLYPH_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"
#include "engine/image.h"
#include "engine/io.h"

typedef struct {
    size_t at, size;       /* within the file */
} FontTable;

typedef struct {
    IoMap file;
    FontTable cmap, cblc, cbdt;
} Font;

/* ERR_INPUT when it is no font with the three tables. On failure f is zeroed. */
int font_open(Font *f, const char *path, Err *e);
void font_close(Font *f);

/* Decodes the bitmap of a code point; the first strike that has it wins. im is
 * owned by the caller. ERR_INPUT when there is none or it is broken. */
int font_picture(Image *im, const Font *f, uint32_t code, Err *e);

/* Whether the font has a bitmap for a code point. */
int font_has(const Font *f, uint32_t code);

/* Steps through the fully-qualified lines of emoji-test.txt that are a single
 * code point (or it with VS16): 0, with *text behind the line, or -1 at the end.
 * *name is not terminated and points into the text. */
int emoji_next(const char **name, size_t *size, uint32_t *code, const char **text);

/* The name of a code point among those. ERR_INPUT when there is no such line. */
int emoji_name(const char **name, size_t *size, const char *text, uint32_t code, Err *e);

#endif
