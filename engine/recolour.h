/* recolour.h - kohya's color_aug on a picture: another hue, or another gamma.
 *
 * Source: kohya sd-scripts, library/train_util.py AugHelper, and OpenCV's 8-bit HSV, whose
 * vectors cut fractions off (its code for what is left of a row rounds instead).
 */
#ifndef SDC_ENGINE_RECOLOUR_H
#define SDC_ENGINE_RECOLOUR_H

#include "engine/image.h"

/* Turns the hue by `by` of 180; im->c >= 3. As in kohya the picture counts as BGR, though it
 * is RGB: the hue turns backwards. */
void recolour_hue(Image *im, double by);
/* v to v^gamma of 0..255, cut off; channels beyond the third stay. */
void recolour_gamma(Image *im, double gamma);

#endif
