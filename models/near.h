/* near.h - how near sample pictures come to the training pictures: a sign of learning by
 * heart. The distance of two pictures is that of their latents, root mean square; a sample's
 * to the nearest training picture is measured by how far training pictures are from the
 * nearest other one, on average. 1 or more: a picture of its own; near 0: a copy. Only
 * pictures of the sample's size are compared, mirrored, too, where training does so.
 */
#ifndef SDC_MODELS_NEAR_H
#define SDC_MODELS_NEAR_H

#include "models/finetune.h"

/* Of latents (h,w,4), not scaled, to the nearest training picture; NAN: there is none. */
double near_distance(const Finetune *f, const float *latents, int w, int h);
/* The mean distance of training pictures of that size to the nearest other; NAN: there are
 * no two different ones. */
double near_scale(const Finetune *f, int w, int h);

#endif
