/* resize.h - the resampling of kohya's data sets and of taggers, to the bit.
 *
 * (library/utils.py resize_image: OpenCV INTER_AREA when neither axis grows,
 * else PIL LANCZOS.) out is a new picture of w x h and in's channels, owned by
 * the caller; in stays. ERR_MEMORY; sizes beyond image_new's are ERR_FAIL.
 */
#ifndef SDC_ENGINE_RESIZE_H
#define SDC_ENGINE_RESIZE_H

#include "engine/image.h"

/* kohya's choice of the two. */
int resize_auto(Image *out, const Image *in, int w, int h, Err *e);

/* PIL Image.resize(LANCZOS): separable, a = 3, widened when shrinking, 22-bit
 * coefficients, 8 bits between the passes, RGBA through premultiplied alpha.
 * Pillow src/libImaging/Resample.c as of 11.3: across first, then down (13.0
 * goes down first where that is cheaper, which rounds differently). */
int resize_lanczos(Image *out, const Image *in, int w, int h, Err *e);

/* PIL Image.resize(BICUBIC), a = -0.5, in the same way. */
int resize_bicubic(Image *out, const Image *in, int w, int h, Err *e);

/* cv2.resize(INTER_AREA), for w <= in->w and h <= in->h: each pixel is the mean
 * of the area it covers, in f32. OpenCV modules/imgproc/src/resize.cpp. */
int resize_area(Image *out, const Image *in, int w, int h, Err *e);

#endif
