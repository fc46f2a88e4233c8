/* paint.h - the deterministic pixel work of the pocket data: frame, recolour, lay out.
 *
 * Pictures are RGB on white, PAINT_SIDE square, unless said otherwise.
 */
#ifndef SDC_POCKET_PAINT_H
#define SDC_POCKET_PAINT_H

#include <stdint.h>

#include "engine/image.h"

enum { PAINT_SIDE = 128 };

/* Turns a glyph into a picture: white behind it, the drawing centred, cut or
 * padded to a square where it fits, else shrunk. in stays; out is owned by the
 * caller. ERR_INPUT for an empty glyph. */
int paint_frame(Image *out, const Image *in, Err *e);

/* Gives the glyph's main hue another colour, in place; other hues and greys
 * (wheels, eyes) stay. Shades keep their distance from the main tone. ERR_INPUT
 * when the glyph has no colour. */
int paint_recolour(Image *im, uint8_t r, uint8_t g, uint8_t b, Err *e);

/* Puts in, shrunk to a side x side square, at x,y of out. */
int paint_place(Image *out, const Image *in, int x, int y, int side, Err *e);

/* A white picture. */
int paint_blank(Image *out, Err *e);

#endif
