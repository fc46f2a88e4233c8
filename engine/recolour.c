/* recolour.c - see recolour.h. */
#include "engine/recolour.h"

#include <assert.h>
#include <math.h>

enum { SHIFT = 12, HALF = 1 << (SHIFT - 1), HUES = 180 };

typedef struct { int h, s, v; } Hsv;               /* 0..179, 0..255, 0..255 */

static Hsv to_hsv(const uint8_t *p)
{
    int b = p[0], g = p[1], r = p[2], v = b > g ? b : g, low = b < g ? b : g;
    if (r > v) v = r;
    if (r < low) low = r;
    int d = v - low, h = v == r ? g - b : v == g ? b - r + 2 * d : r - g + 4 * d;
    int by_v = v ? (int)lrint((255 << SHIFT) / (double)v) : 0;
    int by_d = d ? (int)lrint((HUES << SHIFT) / (6.0 * d)) : 0;
    h = (h * by_d + HALF) >> SHIFT;
    return (Hsv){h < 0 ? h + HUES : h, (d * by_v + HALF) >> SHIFT, v};
}

static void from_hsv(uint8_t *p, Hsv c)
{
    static const uint8_t at[6][3] = {{1, 3, 0}, {1, 0, 2}, {3, 0, 1}, {0, 2, 1}, {0, 1, 3},
                                     {2, 1, 0}};
    const float part = 1.0f / 255;
    float h = (float)c.h * (6.0f / HUES), s = (float)c.s * part, v = (float)c.v * part;
    int sector = (int)h;
    h -= (float)sector;
    const float level[4] = {v, v * (1 - s), v * (1 - s * h), v * (1 - s * (1 - h))};
    for (int i = 0; i < 3; i++) p[i] = (uint8_t)(level[at[sector % 6][i]] * 255.0f);
}

void recolour_hue(Image *im, double by)
{
    assert(im->c >= 3);
    double shift = by < 0 ? by + HUES : by;
    uint8_t *end = im->px + (size_t)im->w * (size_t)im->h * (size_t)im->c;
    for (uint8_t *p = im->px; p < end; p += im->c) {
        Hsv c = to_hsv(p);
        c.h = (int)fmod(c.h + shift, HUES);
        from_hsv(p, c);
    }
}

void recolour_gamma(Image *im, double gamma)
{
    uint8_t to[256];
    for (int i = 0; i < 256; i++) to[i] = (uint8_t)fmin(pow(i, gamma), 255);
    uint8_t *end = im->px + (size_t)im->w * (size_t)im->h * (size_t)im->c;
    for (uint8_t *p = im->px; p < end; p += im->c)
        for (int i = 0; i < 3 && i < im->c; i++) p[i] = to[p[i]];
}
