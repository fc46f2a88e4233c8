/* resize.c - see resize.h. */
#include "engine/resize.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "engine/mem.h"

#define PI 3.14159265358979323846

/* ---- PIL's filters ---- */

enum { COEF_BITS = 32 - 8 - 2 };   /* two bits of headroom for overshoot */

typedef struct {
    int taps;         /* room per output */
    int *first, *n;   /* (out) first input and how many */
    int *coef;        /* (out, taps) fixed point */
} Filter;

static double sinc(double x)
{
    return x == 0 ? 1 : sin(PI * x) / (PI * x);
}

static double lanczos3(double x)
{
    return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

static double cubic(double x)
{
    x = fabs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? -0.5 * (((x - 5) * x + 8) * x - 4) : 0;
}

typedef struct {
    double (*weight)(double x);
    double reach;     /* it is 0 beyond */
} Kernel;

static const Kernel kernel_lanczos = {lanczos3, 3}, kernel_cubic = {cubic, 2};

static void filter_free(Filter *f)
{
    mem_free(f->first);
    mem_free(f->coef);
}

/* Fills output xx's row; w (taps) is scratch. */
static void filter_row(Filter *f, const Kernel *kn, int xx, int in, double scale, double *w)
{
    double stretch = scale < 1 ? 1 : scale, support = kn->reach * stretch;
    double center = (xx + 0.5) * scale, sum = 0;
    int lo = (int)(center - support + 0.5), hi = (int)(center + support + 0.5);
    if (lo < 0) lo = 0;
    if (hi > in) hi = in;
    for (int x = lo; x < hi; x++) {
        w[x - lo] = kn->weight((x - center + 0.5) * (1 / stretch));
        sum += w[x - lo];
    }
    f->first[xx] = lo;
    f->n[xx] = hi - lo;
    int *k = f->coef + (size_t)xx * (size_t)f->taps;
    for (int x = 0; x < hi - lo; x++) {
        double v = (sum != 0 ? w[x] / sum : w[x]) * (1 << COEF_BITS);
        k[x] = (int)(v < 0 ? v - 0.5 : v + 0.5);
    }
}

static int filter_new(Filter *f, const Kernel *kn, int in, int out, Err *e)
{
    double scale = (double)in / out;
    *f = (Filter){.taps = (int)ceil(kn->reach * (scale < 1 ? 1 : scale)) * 2 + 1};
    size_t taps = (size_t)f->taps;
    double *w = mem_calloc(taps, sizeof *w);
    f->first = mem_calloc((size_t)out, 2 * sizeof *f->first);
    f->coef = mem_calloc((size_t)out * taps, sizeof *f->coef);
    if (!w || !f->first || !f->coef) {
        mem_free(w);
        filter_free(f);
        return err_nomem(e, (size_t)out * taps * sizeof *f->coef, "resizing a picture");
    }
    f->n = f->first + out;
    for (int xx = 0; xx < out; xx++) filter_row(f, kn, xx, in, scale, w);
    mem_free(w);
    return 0;
}

static uint8_t clip8(int v)
{
    v >>= COEF_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* y (h,w,c) from x (h,in,c). */
static void pass_across(uint8_t *y, const uint8_t *x, int h, int in, int w, int c,
                        const Filter *f)
{
    for (int r = 0; r < h; r++, x += (size_t)in * (size_t)c) {
        for (int xx = 0; xx < w; xx++) {
            const int *k = f->coef + (size_t)xx * (size_t)f->taps;
            const uint8_t *p = x + (size_t)f->first[xx] * (size_t)c;
            for (int ch = 0; ch < c; ch++) {
                int sum = 1 << (COEF_BITS - 1);
                for (int i = 0; i < f->n[xx]; i++) sum += p[i * c + ch] * k[i];
                *y++ = clip8(sum);
            }
        }
    }
}

/* y (h,row) from x (any,row). */
static void pass_down(uint8_t *y, const uint8_t *x, int h, size_t row, const Filter *f)
{
    for (int yy = 0; yy < h; yy++) {
        const int *k = f->coef + (size_t)yy * (size_t)f->taps;
        const uint8_t *p = x + (size_t)f->first[yy] * row;
        for (size_t i = 0; i < row; i++) {
            int sum = 1 << (COEF_BITS - 1);
            for (int j = 0; j < f->n[yy]; j++) sum += p[(size_t)j * row + i] * k[j];
            *y++ = clip8(sum);
        }
    }
}

static int copy(Image *out, const Image *in, Err *e)
{
    TRY(image_new(out, in->w, in->h, in->c, e));
    memcpy(out->px, in->px, (size_t)in->w * (size_t)in->h * (size_t)in->c);
    return 0;
}

static int across(Image *out, const Image *in, int w, const Kernel *kn, Err *e)
{
    Filter f;
    TRY(image_new(out, w, in->h, in->c, e));
    int rc = filter_new(&f, kn, in->w, w, e);
    if (rc) {
        image_free(out);
        return rc;
    }
    pass_across(out->px, in->px, in->h, in->w, w, in->c, &f);
    filter_free(&f);
    return 0;
}

static int down(Image *out, const Image *in, int h, const Kernel *kn, Err *e)
{
    Filter f;
    TRY(image_new(out, in->w, h, in->c, e));
    int rc = filter_new(&f, kn, in->h, h, e);
    if (rc) {
        image_free(out);
        return rc;
    }
    pass_down(out->px, in->px, h, (size_t)in->w * (size_t)in->c, &f);
    filter_free(&f);
    return 0;
}

/* PIL's MULDIV255: a*b/255, rounded. */
static uint8_t mul255(int a, int b)
{
    int t = a * b + 128;
    return (uint8_t)(((t >> 8) + t) >> 8);
}

static void premultiply(Image *im)
{
    uint8_t *end = im->px + (size_t)im->w * (size_t)im->h * 4;
    for (uint8_t *p = im->px; p < end; p += 4)
        for (int i = 0; i < 3; i++) p[i] = mul255(p[i], p[3]);
}

static void unpremultiply(Image *im)
{
    uint8_t *end = im->px + (size_t)im->w * (size_t)im->h * 4;
    for (uint8_t *p = im->px; p < end; p += 4) {
        if (p[3] == 0 || p[3] == 255) continue;
        for (int i = 0; i < 3; i++) {
            int v = 255 * p[i] / p[3];
            p[i] = (uint8_t)(v > 255 ? 255 : v);
        }
    }
}

static int resize_pil(Image *out, const Image *in, int w, int h, const Kernel *kn, Err *e)
{
    assert(w > 0 && h > 0);
    Image src = {0}, mid = {0};
    const Image *cur = in;
    *out = (Image){0};
    if (w == in->w && h == in->h) return copy(out, in, e);
    if (in->c == 4) {
        TRY(copy(&src, in, e));
        premultiply(&src);
        cur = &src;
    }
    int rc = 0;
    if (w != in->w) {
        rc = across(&mid, cur, w, kn, e);
        cur = &mid;
    }
    if (!rc && h != in->h) {
        rc = down(out, cur, h, kn, e);
    } else if (!rc) {
        *out = mid;
        mid = (Image){0};
    }
    image_free(&src);
    image_free(&mid);
    if (!rc && out->c == 4) unpremultiply(out);
    return rc;
}

int resize_lanczos(Image *out, const Image *in, int w, int h, Err *e)
{
    return resize_pil(out, in, w, h, &kernel_lanczos, e);
}

int resize_bicubic(Image *out, const Image *in, int w, int h, Err *e)
{
    return resize_pil(out, in, w, h, &kernel_cubic, e);
}

/* ---- area ---- */

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

int resize_area(Image *out, const Image *in, int w, int h, Err *e)
{
    assert(w > 0 && h > 0 && w <= in->w && h <= in->h);
    TRY(image_new(out, w, h, in->c, e));
    if (in->w % w == 0 && in->h % h == 0) {
        area_whole(out, in, in->w / w, in->h / h);
        return 0;
    }
    int rc = area_general(out, in, e);
    if (rc) image_free(out);
    return rc;
}

int resize_auto(Image *out, const Image *in, int w, int h, Err *e)
{
    if (w <= in->w && h <= in->h) return resize_area(out, in, w, h, e);
    return resize_lanczos(out, in, w, h, e);
}
