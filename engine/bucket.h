/* bucket.h - aspect-ratio buckets: which size a picture is trained at.
 *
 * Source: kohya sd-scripts, library/model_util.py make_bucket_resolutions and
 * library/train_util.py BucketManager.select_bucket and
 * trim_and_resize_if_required. All sizes in pixels.
 */
#ifndef SDC_ENGINE_BUCKET_H
#define SDC_ENGINE_BUCKET_H

#include "engine/error.h"

typedef struct {
    int w, h;                /* --resolution; its area is that of every bucket */
    int enable;              /* 0: everything is resized and cropped to w x h */
    int no_upscale;          /* --bucket_no_upscale: no list, pictures are only shrunk */
    int min_reso, max_reso;  /* sides of the list */
    int steps;               /* sides are multiples of it; 64 */
} BucketConfig;

typedef struct { int w, h; } BucketSize;

/* How a picture becomes a training sample: resize to (rw,rh), cut out the
 * rectangle of bucket.w x bucket.h at (x,y). */
typedef struct {
    BucketSize bucket;
    int rw, rh, x, y;
    double ar_error;         /* bucket.w/bucket.h minus the picture's w/h */
} BucketFit;

typedef struct {
    BucketConfig cfg;
    BucketSize *list;        /* sorted by w, then h; empty with no_upscale */
    int count;
} Buckets;

/* Fills defaults for zero min_reso (256, or steps for small resolutions),
 * max_reso (1024, or twice a larger resolution) and steps, rounds min_reso down
 * and max_reso up to steps, and makes the list. ERR_USAGE names the option:
 * sides must be multiples of 8 and lie between min_reso and max_reso. */
int bucket_open(Buckets *b, const BucketConfig *c, Err *e);
void bucket_close(Buckets *b);                   /* zeroed b ok */

/* The bucket of a picture of w x h: an exact size first, else the nearest
 * w/h (plain difference, the first in the list of equals). ERR_INPUT when a
 * picture is too narrow for any bucket. */
int bucket_fit(const Buckets *b, int w, int h, BucketFit *fit, Err *e);
/* For crops of a picture of w x h as it is: it is not resized, if it is large enough. */
void bucket_keep_size(BucketFit *fit, int w, int h);

#endif
