/* pixels.h - the test picture that data/image/make.py also knows. */
#ifndef SDC_TESTS_PIXELS_H
#define SDC_TESTS_PIXELS_H

#include <stdint.h>
#include <string.h>

#include "engine/image.h"

static inline uint8_t noise(int x, int y, int c)
{
    return (uint8_t)((x * 73 + y * 151 + c * 59 + x * x * y / 3) ^ (x * y));
}

static inline Image make_noise(int w, int h, int c)
{
    Image im;
    image_new(&im, w, h, c, NULL);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int k = 0; k < c; k++) im.px[(y * w + x) * c + k] = noise(x, y, k);
    return im;
}

static inline int same(const Image *a, const Image *b)
{
    return a->w == b->w && a->h == b->h && a->c == b->c
        && !memcmp(a->px, b->px, (size_t)a->w * (size_t)a->h * (size_t)a->c);
}

#endif
