/* resize.c - PIL's resampling, and the choice among all. See resize.h. */
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

static double box(double x)
{
    return -0.5 < x && x <= 0.5;
}

typedef struct {
    double (*weight)(double x);
    double reach;     /* it is 0 beyond */
} Kernel;

static const Kernel kernel_lanczos = {lanczos3, 3}, kernel_cubic = {cubic, 2},
                    kernel_box = {box, 0.5};

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

int resize_box(Image *out, const Image *in, int w, int h, Err *e)
{
    return resize_pil(out, in, w, h, &kernel_box, e);
}

/* ---- the choice ---- */

static const char *const names[RESIZE_METHODS] = {"",       "lanczos", "nearest", "bilinear",
                                                  "bicubic", "area",    "box"};

int resize_method(ResizeMethod *m, const char *name)
{
    if (!strcmp(name, "linear")) name = "bilinear";
    if (!strcmp(name, "cubic")) name = "bicubic";
    for (int i = 1; i < RESIZE_METHODS; i++) {
        if (strcmp(name, names[i])) continue;
        *m = (ResizeMethod)i;
        return 1;
    }
    return 0;
}

const char *resize_name(ResizeMethod m) { return names[m]; }

int resize_by(ResizeMethod m, Image *out, const Image *in, int w, int h, Err *e)
{
    if (m == RESIZE_AUTO) m = w <= in->w && h <= in->h ? RESIZE_AREA : RESIZE_LANCZOS;
    switch (m) {
    case RESIZE_NEAREST: return resize_nearest(out, in, w, h, e);
    case RESIZE_LINEAR: return resize_cv_linear(out, in, w, h, e);
    case RESIZE_CUBIC: return resize_cv_cubic(out, in, w, h, e);
    case RESIZE_AREA: return resize_area(out, in, w, h, e);
    case RESIZE_BOX: return resize_box(out, in, w, h, e);
    default: return resize_lanczos(out, in, w, h, e);
    }
}

int resize_auto(Image *out, const Image *in, int w, int h, Err *e)
{
    return resize_by(RESIZE_AUTO, out, in, w, h, e);
}
