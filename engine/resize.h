/* resize.h - the resampling of kohya's data sets and of taggers, to the bit.
 *
 * Source: library/utils.py resize_image, which takes PIL for lanczos and box, OpenCV for the
 * rest. out is a new picture of w x h and in's channels, owned by the caller; in stays.
 * ERR_MEMORY; sizes beyond image_new's are ERR_FAIL.
 */
#ifndef SDC_ENGINE_RESIZE_H
#define SDC_ENGINE_RESIZE_H

#include "engine/image.h"

typedef enum {
    RESIZE_AUTO, /* kohya's default: area when neither axis grows, else lanczos */
    RESIZE_LANCZOS,
    RESIZE_NEAREST,
    RESIZE_LINEAR,
    RESIZE_CUBIC,
    RESIZE_AREA,
    RESIZE_BOX,
    RESIZE_METHODS
} ResizeMethod;

#define RESIZE_NAMES "lanczos, nearest, bilinear, linear, bicubic, cubic, area, box"
/* From one of these names, which are kohya's. 0: there is no such. */
int resize_method(ResizeMethod *m, const char *name);
const char *resize_name(ResizeMethod m);                 /* "" for RESIZE_AUTO */
int resize_by(ResizeMethod m, Image *out, const Image *in, int w, int h, Err *e);
int resize_auto(Image *out, const Image *in, int w, int h, Err *e);

/* PIL Image.resize(LANCZOS): separable, a = 3, widened when shrinking, 22-bit
 * coefficients, 8 bits between the passes, RGBA through premultiplied alpha.
 * Pillow src/libImaging/Resample.c as of 11.3: across first, then down (13.0
 * goes down first where that is cheaper, which rounds differently). */
int resize_lanczos(Image *out, const Image *in, int w, int h, Err *e);

/* PIL Image.resize(BICUBIC), a = -0.5, in the same way. */
int resize_bicubic(Image *out, const Image *in, int w, int h, Err *e);

/* PIL Image.resize(BOX). */
int resize_box(Image *out, const Image *in, int w, int h, Err *e);

/* cv2.resize(INTER_AREA): each pixel is the mean of the area it covers, in f32; where an axis
 * grows, of two neighbours. */
int resize_area(Image *out, const Image *in, int w, int h, Err *e);

/* cv2.resize with INTER_NEAREST_EXACT, INTER_LINEAR and INTER_CUBIC: no wider when shrinking.
 * Cubic is OpenCV's own; its builds with Intel's IPP differ by a level in some bytes. */
int resize_nearest(Image *out, const Image *in, int w, int h, Err *e);
int resize_cv_linear(Image *out, const Image *in, int w, int h, Err *e);
int resize_cv_cubic(Image *out, const Image *in, int w, int h, Err *e);

#endif
