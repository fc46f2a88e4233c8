/* near.c - see near.h. */
#include "models/near.h"

#include <math.h>

enum { REFERENCES = 32 };          /* training pictures that the measure is taken from, at most */

/* The moments of picture i, mirrored or not, where it is w x h latents; else NULL. */
static const float *moments_of(const Finetune *f, size_t i, int flip, int w, int h)
{
    const DataItem *it = &f->ds->items[i];
    int fits = it->repeats && !it->is_reg && it->fit.bucket.w == 8 * w && it->fit.bucket.h == 8 * h;
    return fits ? f->moments[2 * i + (size_t)flip] : NULL;
}

/* Mean square of a - b, whose pixels have `step` and 8 values. */
static double distance(const float *a, size_t step, const float *b, size_t pixels)
{
    double sum = 0;
    for (size_t i = 0; i < pixels; i++)
        for (size_t c = 0; c < SD_LATENT; c++) {
            double d = a[i * step + c] - b[i * 2 * SD_LATENT + c];
            sum += d * d;
        }
    return sum / (double)(pixels * SD_LATENT);
}

/* To the nearest training picture but `without`; INFINITY: there is none. */
static double nearest(const Finetune *f, const float *a, size_t step, size_t without, int w, int h)
{
    double least = INFINITY;
    for (size_t i = 0; i < f->ds->item_count; i++)
        for (int flip = 0; flip < 2; flip++) {
            const float *b = i == without ? NULL : moments_of(f, i, flip, w, h);
            if (b) least = fmin(least, distance(a, step, b, (size_t)w * (size_t)h));
        }
    return sqrt(least);
}

double near_scale(const Finetune *f, int w, int h)
{
    size_t n = f->ds->item_count, every = (n + REFERENCES - 1) / REFERENCES, count = 0;
    double sum = 0;
    for (size_t i = 0; i < n; i += every) {
        const float *a = moments_of(f, i, 0, w, h);
        double d = a ? nearest(f, a, 2 * SD_LATENT, i, w, h) : INFINITY;
        if (d < INFINITY) sum += d, count++;
    }
    return count && sum > 0 ? sum / (double)count : NAN;
}

double near_distance(const Finetune *f, const float *latents, int w, int h)
{
    double d = nearest(f, latents, SD_LATENT, f->ds->item_count, w, h);
    return d < INFINITY ? d : NAN;
}
