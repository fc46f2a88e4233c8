/* png.h - PNG chunks: writing pictures with text, reading the text back.
 *
 * W3C PNG specification, third edition. Pixels are read by image.h.
 */
#ifndef SDC_ENGINE_PNG_H
#define SDC_ENGINE_PNG_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"
#include "engine/image.h"

typedef struct {
    char *key;             /* 1..79 characters */
    char *text;            /* UTF-8 */
} PngText;

/* Encodes RGB or RGBA, 8 bits, with n text chunks before the pixels. Like
 * Pillow, a text is written as tEXt when Latin-1 can hold it (bytes that are no
 * UTF-8 as they are), else as iTXt, not compressed. The same input gives the
 * same bytes. *out owned by the caller (mem_free). ERR_MEMORY; ERR_FAIL for a
 * key that is not 1..79 printable ASCII characters. */
int png_encode(uint8_t **out, size_t *size, const Image *im, const PngText *text, size_t n,
               Err *e);

/* Reads the tEXt, zTXt and iTXt chunks of a file, in order. Chunks that are
 * broken or larger than PNG_TEXT_MAX are left out, and packed ones after
 * 4 * PNG_TEXT_MAX bytes were unpacked. No text is no error: *text NULL, *n 0.
 * ERR_INPUT when it is no PNG; ERR_MEMORY. Free with png_free_text. */
enum { PNG_TEXT_MAX = 4 << 20 };
int png_read_text(PngText **text, size_t *n, const uint8_t *file, size_t size, Err *e);
void png_free_text(PngText *text, size_t n);

/* ---- chunks ---- */

typedef struct {
    const uint8_t *type;   /* 4 letters */
    const uint8_t *data;
    size_t size;
    int crc_ok;
} PngChunk;

/* Whether the file begins with PNG's signature. */
int png_is(const uint8_t *file, size_t size);

/* Steps through the chunks; *pos starts at 0. 1, or 0 after IEND, at the end
 * of the file or where a chunk is cut. */
int png_next(PngChunk *c, const uint8_t *file, size_t size, size_t *pos);

/* Refuses a file whose critical chunks fail their CRC or that has no IEND, as
 * Pillow does (stb_image would show what there is). */
int png_check(const uint8_t *file, size_t size, Err *e);

#endif
