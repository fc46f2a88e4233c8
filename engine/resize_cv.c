/* resize_cv.c - OpenCV's resampling of bytes. See resize.h.
 *
 * Source: OpenCV 4.8 modules/imgproc/src/resize.cpp, whose fixed-point arithmetic this is.
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "engine/mem.h"
#include "engine/resize.h"

/* ---- area, to shrink ---- */

typedef struct {
    int to, from;
    float weight;
} Share;

/* Which part of which input belongs to which output, for a ratio that is no
 * whole number. share has room for in + 2*out entries; returns how many. Slivers
 * below a thousandth of a pixel are dropped, as OpenCV does. */
static size_t area_shares(Share *share, int in, int out)
{
    double scale = 1 / ((double)out / in);
    size_t n = 0;
    for (int o = 0; o < out; o++) {
        double from = o * scale, to = from + scale, cell = fmin(scale, in - from);
        int a = (int)ceil(from), b = (int)floor(to);
        if (b > in - 1) b = in - 1;
        if (a > b) a = b;
        if (a - from > 1e-3) share[n++] = (Share){o, a - 1, (float)((a - from) / cell)};
        for (int i = a; i < b; i++) share[n++] = (Share){o, i, (float)(1 / cell)};
        if (to - b > 1e-3)
            share[n++] = (Share){o, b, (float)(fmin(fmin(to - b, 1), cell) / cell)};
    }
    return n;
}

static uint8_t round8(float v)
{
    v = rintf(v);
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static int area_general(Image *out, const Image *in, Err *e)
{
    int c = in->c;
    size_t row = (size_t)out->w * (size_t)c, in_row = (size_t)in->w * (size_t)c;
    size_t nx = (size_t)in->w + 2 * (size_t)out->w, ny = (size_t)in->h + 2 * (size_t)out->h;
    Share *sx = mem_alloc((nx + ny) * sizeof *sx), *sy = sx ? sx + nx : NULL;
    float *line = mem_alloc(2 * row * sizeof *line), *sum = line ? line + row : NULL;
    if (!sx || !line) {
        mem_free(sx);
        mem_free(line);
        return err_nomem(e, (nx + ny) * sizeof *sx, "resizing a picture");
    }
    nx = area_shares(sx, in->w, out->w);
    ny = area_shares(sy, in->h, out->h);
    for (size_t j = 0; j < ny; j++) {
        const uint8_t *p = in->px + (size_t)sy[j].from * in_row;
        memset(line, 0, row * sizeof *line);
        for (size_t k = 0; k < nx; k++)
            for (int i = 0; i < c; i++)
                line[sx[k].to * c + i] += (float)p[sx[k].from * c + i] * sx[k].weight;
        int fresh = j == 0 || sy[j].to != sy[j - 1].to;
        for (size_t i = 0; i < row; i++)
            sum[i] = (fresh ? 0 : sum[i]) + sy[j].weight * line[i];
        if (j + 1 == ny || sy[j + 1].to != sy[j].to)
            for (size_t i = 0; i < row; i++)
                out->px[(size_t)sy[j].to * row + i] = round8(sum[i]);
    }
    mem_free(sx);
    mem_free(line);
    return 0;
}

/* Whole ratios: kx x ky pixels each, exact integer sums. */
static void area_whole(Image *out, const Image *in, int kx, int ky)
{
    int c = in->c;
    size_t in_row = (size_t)in->w * (size_t)c;
    float inverse = 1.0f / ((float)kx * (float)ky);
    uint8_t *q = out->px;
    for (int y = 0; y < out->h; y++) {
        for (int x = 0; x < out->w; x++) {
            for (int ch = 0; ch < c; ch++) {
                const uint8_t *p = in->px + (size_t)y * (size_t)ky * in_row
                                 + (size_t)x * (size_t)(kx * c) + ch;
                int64_t sum = 0;
                for (int j = 0; j < ky; j++, p += in_row)
                    for (int i = 0; i < kx; i++) sum += p[i * c];
                /* OpenCV rounds halves up in its 2x2 path, to even elsewhere. */
                *q++ = kx == 2 && ky == 2 ? (uint8_t)((sum + 2) >> 2)
                                          : round8((float)sum * inverse);
            }
        }
    }
}

static int shrink(Image *out, const Image *in, Err *e)
{
    if (in->w % out->w == 0 && in->h % out->h == 0) {
        area_whole(out, in, in->w / out->w, in->h / out->h);
        return 0;
    }
    return area_general(out, in, e);
}

/* ---- two or four neighbours ---- */

typedef enum { LINEAR, CUBIC, STRETCH } Kind;   /* STRETCH: area's way of enlarging */
enum { ONE = 2048, TAPS_MAX = 4 };              /* 11 bits */

/* The neighbours of each place along one axis: at (first + k), with weights that sum to ONE. */
typedef struct {
    int first;
    int16_t weight[TAPS_MAX];
} Place;

static int taps_of(Kind kind) { return kind == CUBIC ? 4 : 2; }

static void cubic_weights(float *w, float x)
{
    const float a = -0.75f;
    w[0] = ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a;
    w[1] = ((a + 2) * x - (a + 3)) * x * x + 1;
    w[2] = ((a + 2) * (1 - x) - (a + 3)) * (1 - x) * (1 - x) + 1;
    w[3] = 1.f - w[0] - w[1] - w[2];
}

/* clamp: a place beyond the outermost pixel is on it (across; down takes such rows twice). */
static void find_place(Place *p, Kind kind, int at, int in, int out, int clamp)
{
    double inverse = (double)out / in, scale = 1 / inverse;
    float w[TAPS_MAX], f;
    int s;
    if (kind == STRETCH) {
        s = (int)floor(at * scale);
        f = (float)((at + 1) - (s + 1) * inverse);
        f = f <= 0 ? 0 : f - floorf(f);
    } else {
        f = (float)((at + 0.5) * scale - 0.5);
        s = (int)floorf(f);
        f -= (float)s;
    }
    if (clamp && kind != CUBIC && (s < 0 || s >= in - 1)) {
        s = s < 0 ? 0 : in - 1;
        f = 0;
    }
    if (kind == CUBIC) {
        cubic_weights(w, f);
    } else {
        w[0] = 1.f - f;
        w[1] = f;
    }
    p->first = s - taps_of(kind) / 2 + 1;
    for (int i = 0; i < taps_of(kind); i++) p->weight[i] = (int16_t)lrintf(w[i] * ONE);
}

static int within(int i, int n) { return i < 0 ? 0 : i < n ? i : n - 1; }

/* line (w,c) from the row x. */
static void blend_across(int *line, const uint8_t *x, int in, int w, int c, const Place *p,
                         int taps)
{
    for (int i = 0; i < w; i++, p++)
        for (int ch = 0; ch < c; ch++) {
            int sum = 0;
            for (int k = 0; k < taps; k++)
                sum += x[within(p->first + k, in) * c + ch] * p->weight[k];
            *line++ = sum;
        }
}

static uint8_t clip8(int v) { return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v); }

/* y (row) from as many lines as there are taps. */
static void blend_down(uint8_t *y, int *const *line, size_t row, const Place *p, int taps)
{
    const int16_t *w = p->weight;
    for (size_t i = 0; i < row; i++) {
        int sum = 1 << 21;
        if (taps == 2) {
            y[i] = (uint8_t)((((w[0] * (line[0][i] >> 4)) >> 16) +
                              ((w[1] * (line[1][i] >> 4)) >> 16) + 2) >> 2);
            continue;
        }
        for (int k = 0; k < taps; k++) sum += line[k][i] * w[k];
        y[i] = clip8(sum >> 22);
    }
}

typedef struct {
    const Place *x;
    int *line[TAPS_MAX];           /* rows of the input, resized across */
    int have[TAPS_MAX];            /* which; -1: none */
    int taps;
} Lines;

/* The resized row r, from what is there or made in place of the oldest. */
static int *line_of(Lines *l, const Image *in, int w, int r)
{
    int slot = r % l->taps;
    if (l->have[slot] != r) {
        l->have[slot] = r;
        blend_across(l->line[slot], in->px + (size_t)r * (size_t)in->w * (size_t)in->c, in->w, w,
                     in->c, l->x, l->taps);
    }
    return l->line[slot];
}

/* Fills out. */
static int blend(Image *out, const Image *in, Kind kind, Err *e)
{
    size_t row = (size_t)out->w * (size_t)out->c;
    Lines l = {.taps = taps_of(kind), .have = {-1, -1, -1, -1}};
    size_t taps = (size_t)l.taps;
    Place *x = mem_alloc((size_t)out->w * sizeof *x);
    int *lines = mem_alloc(row * taps * sizeof *lines);
    int ok = x && lines;
    for (int i = 0; ok && i < out->w; i++) find_place(&x[i], kind, i, in->w, out->w, 1);
    for (size_t k = 0; ok && k < taps; k++) l.line[k] = lines + k * row;
    l.x = x;
    for (int i = 0; ok && i < out->h; i++) {
        Place y;
        int *line[TAPS_MAX];
        find_place(&y, kind, i, in->h, out->h, 0);
        for (int k = 0; k < l.taps; k++)
            line[k] = line_of(&l, in, out->w, within(y.first + k, in->h));
        blend_down(out->px + (size_t)i * row, line, row, &y, l.taps);
    }
    mem_free(x);
    mem_free(lines);
    return ok ? 0 : err_nomem(e, row * taps * sizeof *lines, "resizing a picture");
}

/* ---- what there is ---- */

static int copied(Image *out, const Image *in)
{
    if (out->w != in->w || out->h != in->h) return 0;
    memcpy(out->px, in->px, (size_t)in->w * (size_t)in->h * (size_t)in->c);
    return 1;
}

static int resize_cv(Image *out, const Image *in, int w, int h, Kind kind, Err *e)
{
    assert(w > 0 && h > 0);
    TRY(image_new(out, w, h, in->c, e));
    if (copied(out, in)) return 0;
    int half = kind == LINEAR && in->w == 2 * w && in->h == 2 * h;
    int smaller = kind == STRETCH && w <= in->w && h <= in->h;
    int rc = half || smaller ? shrink(out, in, e) : blend(out, in, kind, e);
    if (rc) image_free(out);
    return rc;
}

int resize_cv_linear(Image *out, const Image *in, int w, int h, Err *e)
{
    return resize_cv(out, in, w, h, LINEAR, e);
}

int resize_cv_cubic(Image *out, const Image *in, int w, int h, Err *e)
{
    return resize_cv(out, in, w, h, CUBIC, e);
}

int resize_area(Image *out, const Image *in, int w, int h, Err *e)
{
    return resize_cv(out, in, w, h, STRETCH, e);
}

/* The input's pixel for place `at`, in 16-bit fixed point. */
static int nearest(int at, int in, int out)
{
    int64_t step = (((int64_t)in << 16) + out / 2) / out, first = step / 2 - in % 2;
    int64_t i = (step * at + first) >> 16;
    return i < in ? (int)i : in - 1;
}

int resize_nearest(Image *out, const Image *in, int w, int h, Err *e)
{
    assert(w > 0 && h > 0);
    TRY(image_new(out, w, h, in->c, e));
    size_t c = (size_t)in->c;
    uint8_t *q = out->px;
    for (int y = 0; y < h; y++) {
        const uint8_t *row = in->px + (size_t)nearest(y, in->h, h) * (size_t)in->w * c;
        for (int x = 0; x < w; x++, q += c) memcpy(q, row + (size_t)nearest(x, in->w, w) * c, c);
    }
    return 0;
}
