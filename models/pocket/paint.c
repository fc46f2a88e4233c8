/* paint.c - frame, recolour and lay out; see paint.h. */
#include "models/pocket/paint.h"

#include <string.h>

#include "engine/resize.h"

typedef struct {
    int x0, y0, x1, y1;
} Box;

static int max_int(int a, int b) { return a > b ? a : b; }

static float clamp01(float x) { return x < 0 ? 0 : x > 1 ? 1 : x; }

/* The part of an RGB picture that is not white. */
static Box drawn_box(const Image *im)
{
    Box b = {im->w, im->h, 0, 0};
    for (int y = 0; y < im->h; y++)
        for (int x = 0; x < im->w; x++) {
            const uint8_t *p = im->px + ((size_t)y * im->w + x) * 3;
            if (p[0] > 250 && p[1] > 250 && p[2] > 250) continue;
            if (x < b.x0) b.x0 = x;
            if (y < b.y0) b.y0 = y;
            if (x >= b.x1) b.x1 = x + 1;
            if (y >= b.y1) b.y1 = y + 1;
        }
    return b;
}

static int blank(Image *out, int side, Err *e)
{
    TRY(image_new(out, side, side, 3, e));
    memset(out->px, 255, (size_t)side * side * 3);
    return 0;
}

int paint_blank(Image *out, Err *e) { return blank(out, PAINT_SIDE, e); }

/* Copies the box into the middle of a white square. */
static void copy_middle(Image *out, const Image *in, Box b)
{
    int w = b.x1 - b.x0, h = b.y1 - b.y0, x = (out->w - w) / 2, y = (out->h - h) / 2;
    for (int i = 0; i < h; i++)
        memcpy(out->px + ((size_t)(y + i) * out->w + x) * 3,
               in->px + ((size_t)(b.y0 + i) * in->w + b.x0) * 3, (size_t)w * 3);
}

/* Centred as it is where it fits, else shrunk. */
static int frame_rgb(Image *out, const Image *in, Err *e)
{
    Box b = drawn_box(in);
    if (b.x1 <= b.x0) return err_set(e, ERR_INPUT, "the glyph is empty");
    int need = max_int(b.x1 - b.x0, b.y1 - b.y0), side = max_int(need, PAINT_SIDE);
    Image square = {0};
    TRY(blank(&square, side, e));
    copy_middle(&square, in, b);
    if (side == PAINT_SIDE) {
        *out = square;
        return 0;
    }
    int rc = resize_area(out, &square, PAINT_SIDE, PAINT_SIDE, e);
    image_free(&square);
    return rc;
}

int paint_frame(Image *out, const Image *in, Err *e)
{
    Image flat = {0};
    TRY(image_new(&flat, in->w, in->h, in->c, e));
    memcpy(flat.px, in->px, (size_t)in->w * in->h * in->c);
    image_flatten(&flat, 255, 255, 255);
    int rc = frame_rgb(out, &flat, e);
    image_free(&flat);
    return rc;
}

int paint_place(Image *out, const Image *in, int x, int y, int side, Err *e)
{
    Image part = {0};
    TRY(resize_area(&part, in, side, side, e));
    for (int i = 0; i < side; i++)
        memcpy(out->px + ((size_t)(y + i) * out->w + x) * 3, part.px + (size_t)i * side * 3,
               (size_t)side * 3);
    image_free(&part);
    return 0;
}

/* ---- recolouring ---- */

typedef struct {
    float hue;             /* degrees, 0 at red */
    float chroma;          /* largest less smallest channel, 0..255 */
    float luma;            /* Rec. 601, 0..255 */
} Tone;

static Tone tone_of(const uint8_t *p)
{
    float r = p[0], g = p[1], b = p[2];
    float top = r > g ? (r > b ? r : b) : (g > b ? g : b);
    float low = r < g ? (r < b ? r : b) : (g < b ? g : b);
    Tone t = {0, top - low, 0.299f * r + 0.587f * g + 0.114f * b};
    if (t.chroma > 0) {
        t.hue = top == r ? (g - b) / t.chroma : top == g ? 2 + (b - r) / t.chroma
                                                         : 4 + (r - g) / t.chroma;
        t.hue *= 60;
        if (t.hue < 0) t.hue += 360;
    }
    return t;
}

static float hue_distance(float a, float b)
{
    float d = a > b ? a - b : b - a;
    return d > 180 ? 360 - d : d;
}

/* The hue with the most colour around it: 10-degree bins, each with its neighbours. */
static int main_hue(float *hue, const Image *im)
{
    float bins[36] = {0}, best = 0;
    for (size_t i = 0; i < (size_t)im->w * im->h; i++) {
        const uint8_t *p = im->px + i * im->c;
        Tone t = tone_of(p);
        if (im->c == 4 && p[3] < 128) continue;
        bins[(int)(t.hue / 10) % 36] += t.chroma / 256;
    }
    for (int i = 0; i < 36; i++) {
        float sum = bins[i] + bins[(i + 1) % 36] + bins[(i + 35) % 36];
        if (sum <= best) continue;
        best = sum;
        *hue = 10.0f * (float)i + 5;
    }
    return best > 50;
}

/* Half-width of the hues that are painted, and of the soft edge beyond it. */
static const float reach = 30, soft = 10;

/* Median luma of the pixels of the main hue. */
static float main_luma(const Image *im, float hue)
{
    size_t counts[256] = {0}, total = 0, below = 0;
    for (size_t i = 0; i < (size_t)im->w * im->h; i++) {
        const uint8_t *p = im->px + i * im->c;
        Tone t = tone_of(p);
        if ((im->c == 4 && p[3] < 128) || t.chroma < 40 || hue_distance(t.hue, hue) > reach)
            continue;
        counts[(int)t.luma & 255]++;
        total++;
    }
    for (int i = 0; i < 256; i++) {
        below += counts[i];
        if (2 * below >= total && total) return (float)max_int(i, 1);
    }
    return 128;
}

/* The new colour's shade that is as far from it as luma is from base. */
static float shade(float to, float luma, float base)
{
    if (luma <= base) return to * luma / base;
    float room = 255 - (base < 128 ? base : 128);
    return to + (255 - to) * clamp01((luma - base) / room);
}

int paint_recolour(Image *im, uint8_t r, uint8_t g, uint8_t b, Err *e)
{
    float hue = 0, to[3] = {r, g, b};
    if (!main_hue(&hue, im)) return err_set(e, ERR_INPUT, "the glyph has no colour to change");
    float base = main_luma(im, hue);
    for (size_t i = 0; i < (size_t)im->w * im->h; i++) {
        uint8_t *p = im->px + i * im->c;
        Tone t = tone_of(p);
        float w = clamp01((reach + soft - hue_distance(t.hue, hue)) / soft)
                * clamp01((t.chroma - 10) / 30);
        for (int k = 0; k < 3; k++) {
            float v = shade(to[k], t.luma, base);
            p[k] = (uint8_t)(p[k] + w * (v - p[k]) + 0.5f);
        }
    }
    return 0;
}
