/* image.h - pictures as 8-bit pixels: read, orient, crop, convert, save.
 *
 * Reads PNG, JPEG, BMP and (in builds with libwebp) still WebP. Files are
 * hostile: sizes are checked against IMAGE_MAX_SIDE, the memory a decode would
 * take and the size of the file before anything is decoded, so a small file
 * never costs much time or memory. Errors are ERR_INPUT unless said otherwise.
 */
#ifndef SDC_ENGINE_IMAGE_H
#define SDC_ENGINE_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

enum { IMAGE_MAX_SIDE = 16384 };   /* of a picture that is read */

typedef struct {
    int w, h, c;        /* c: 3 RGB, 4 RGBA (alpha not premultiplied) */
    uint8_t *px;        /* (h,w,c), owned */
} Image;

/* Uninitialised pixels. ERR_MEMORY; ERR_FAIL above 65535 a side or 2 GiB. */
int image_new(Image *im, int w, int h, int c, Err *e);
void image_free(Image *im);                     /* im zeroed; zeroed im ok */

/* Decodes and turns upright by the EXIF orientation. Grey and palette become
 * RGB, any transparency RGBA, 16 bits are cut to their upper 8, CMYK becomes
 * RGB. On failure im is zeroed. image_load names the path in its message. */
int image_decode(Image *im, const uint8_t *data, size_t size, Err *e);
int image_load(Image *im, const char *path, Err *e);

/* 1 for the name of a file that image_load might read: .png, .jpg, .jpeg, .webp
 * or .bmp in any case, and no dot in front. */
int image_has_extension(const char *name);

/* Width and height after orientation, from the headers alone. */
int image_size(int *w, int *h, const uint8_t *data, size_t size, Err *e);

/* The A1111 text of a picture: PNG text chunk `parameters`, else EXIF
 * UserComment. *text is UTF-8 (mem_free), NULL when there is none. */
int image_parameters(char **text, const uint8_t *data, size_t size, Err *e);

/* RGBA -> RGB in place; RGB stays. image_drop_alpha forgets the alpha as PIL's
 * convert("RGB") does, so what was transparent shows the colour stored there
 * (what kohya trains on); image_flatten puts the picture on a background. */
void image_drop_alpha(Image *im);
void image_flatten(Image *im, uint8_t r, uint8_t g, uint8_t b);

/* Both in place. The rectangle must lie inside the picture. */
void image_crop(Image *im, int x, int y, int w, int h);
void image_flip(Image *im);                     /* left <-> right */

/* EXIF orientation 1..8 to upright. ERR_MEMORY. */
int image_orient(Image *im, int orientation, Err *e);

/* x (h,w,3) f32 in [-1,1] of an RGB picture: (px/255 - 0.5)/0.5, as
 * torchvision's ToTensor and Normalize([0.5],[0.5]). */
void image_to_float(float *x, const Image *im);

/* Fills an RGB picture from x (h,w,3): (x+1)/2 clamped to [0,1], times 255,
 * **truncated**, as A1111 (modules/processing.py). NaN becomes 0. */
void image_from_float(Image *im, const float *x);

/* JPEG of an RGB picture, quality 1..100. parameters (NULL: none) goes into an
 * EXIF UserComment as A1111 writes it. *out is owned by the caller (mem_free).
 * ERR_MEMORY; ERR_FAIL when the text is too long for a JPEG segment. */
int image_encode_jpeg(uint8_t **out, size_t *size, const Image *im, int quality,
                      const char *parameters, Err *e);

/* Writes .png (see png.h), .jpg or .jpeg (quality 80, A1111's default; RGBA is
 * put on white) by the name's ending, atomically. parameters may be NULL.
 * ERR_USAGE for another ending. */
int image_save(const char *path, const Image *im, const char *parameters, Err *e);

#endif
