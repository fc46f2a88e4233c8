/* image.c - see image.h. The only file besides stb.c that sees stb_image. */
#include "engine/image.h"

#include <assert.h>
#include <limits.h>
#include <math.h>
#include <string.h>
#include <strings.h>
#ifdef SDC_WEBP
#include <webp/decode.h>
#endif

#include "engine/exif.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "engine/png.h"
#include "engine/stb.h"

static const uint64_t MAX_BYTES = 2ull << 30;   /* of a picture, and of most decodes */

int image_new(Image *im, int w, int h, int c, Err *e)
{
    assert(w > 0 && h > 0 && (c == 3 || c == 4));
    *im = (Image){w, h, c, NULL};
    uint64_t n = (uint64_t)w * (uint64_t)h * (uint64_t)c;
    if (w > 65535 || h > 65535 || n > MAX_BYTES)
        return err_set(e, ERR_FAIL, "a picture of %dx%d is too large", w, h);
    im->px = mem_alloc(n);
    return im->px ? 0 : err_nomem(e, n, "a picture");
}

void image_free(Image *im)
{
    mem_free(im->px);
    *im = (Image){0};
}

/* ---- what a file says about itself ---- */

typedef enum { KIND_NONE, KIND_PNG, KIND_JPEG, KIND_BMP, KIND_WEBP } Kind;

typedef struct {
    Kind kind;
    int w, h, alpha;       /* as stored; alpha: WebP only */
} Header;

static Kind kind_of(const uint8_t *p, size_t n)
{
    if (png_is(p, n)) return KIND_PNG;
    if (n >= 3 && p[0] == 0xff && p[1] == 0xd8 && p[2] == 0xff) return KIND_JPEG;
    if (n >= 26 && p[0] == 'B' && p[1] == 'M') return KIND_BMP;
    if (n >= 12 && !memcmp(p, "RIFF", 4) && !memcmp(p + 8, "WEBP", 4)) return KIND_WEBP;
    return KIND_NONE;
}

static int webp_header(Header *hd, const uint8_t *data, size_t size, Err *e)
{
#ifdef SDC_WEBP
    WebPBitstreamFeatures f;
    if (WebPGetFeatures(data, size, &f) != VP8_STATUS_OK)
        return err_set(e, ERR_INPUT, "the WebP header is damaged");
    if (f.has_animation)
        return err_set(e, ERR_INPUT, "animated WebP; save the frame you want as a picture");
    hd->w = f.width, hd->h = f.height, hd->alpha = f.has_alpha;
    return 0;
#else
    (void)hd, (void)data, (void)size;
    return err_set(e, ERR_INPUT, "this build cannot read WebP; convert the picture to PNG");
#endif
}

/* Fewest bytes that can hold w x h pixels: deflate packs 1032:1 at best and PNG
 * has 1 bit a pixel; a JPEG spends a bit on each 8x8 block; BMP does not pack. */
static uint64_t least_size(Kind kind, uint64_t w, uint64_t h)
{
    if (kind == KIND_PNG) return (w / 8 + 1) * h / 1032;
    if (kind == KIND_JPEG) return w * h / 64 / 8;
    return kind == KIND_BMP ? w * h / 8 : 0;
}

/* Whether the tables of a DHT segment have at most 256 codes each: stb, as
 * packaged, writes behind its table when they do not. */
static int huffman_ok(const uint8_t *p, size_t n)
{
    while (n >= 17) {
        size_t codes = 0;
        for (int i = 1; i <= 16; i++) codes += p[i];
        if (codes > 256 || codes > n - 17) return 0;
        p += 17 + codes;
        n -= 17 + codes;
    }
    return n == 0;
}

/* Walks the segments as stb does. A file without its end marker is refused, as
 * Pillow does; stb would fill up with grey. */
static int check_jpeg(const uint8_t *p, size_t n, Err *e)
{
    int scans = 0;
    for (size_t i = 2, len; i < n; i += len) {
        const uint8_t *mark = memchr(p + i, 0xff, n - i);
        if (!mark) break;
        i = (size_t)(mark - p) + 1;
        while (i < n && p[i] == 0xff) i++;
        if (i == n || p[i] == 0xd9) {
            if (i < n) return 0;
            break;
        }
        uint8_t m = p[i++];
        len = 0;
        if (m == 0 || (m >= 0xd0 && m <= 0xd7)) continue;    /* among the pixels */
        if (n - i < 2) break;
        len = (size_t)p[i] << 8 | p[i + 1];
        if (len < 2 || len > n - i) break;
        /* Each scan of a progressive file visits all pixels: hundreds of empty
         * ones take minutes. Encoders write about ten. */
        if (m == 0xda && ++scans > 256)
            return err_set(e, ERR_INPUT, "the JPEG has hundreds of scans; save it anew");
        if (m == 0xc4 && !huffman_ok(p + i + 2, len - 2))
            return err_set(e, ERR_INPUT, "the JPEG is damaged (Huffman table)");
    }
    return err_set(e, ERR_INPUT, "the JPEG is cut short (no end marker); get it again");
}

static int read_header(Header *hd, const uint8_t *data, size_t size, Err *e)
{
    *hd = (Header){.kind = kind_of(data, size)};
    if (hd->kind == KIND_NONE)
        return err_set(e, ERR_INPUT, "not a PNG, JPEG, BMP or WebP picture");
    if (size > INT_MAX / 2)
        return err_set(e, ERR_INPUT, "%zu bytes are too many for a picture", size);
    if (hd->kind == KIND_WEBP) {
        TRY(webp_header(hd, data, size, e));
    } else {
        int c;
        if (hd->kind == KIND_JPEG) TRY(check_jpeg(data, size, e));
        stb_budget(1 << 20);
        if (!stbi_info_from_memory(data, (int)size, &hd->w, &hd->h, &c))
            return err_set(e, ERR_INPUT, "the picture's header is damaged (%s)",
                           stbi_failure_reason());
    }
    if (hd->w < 1 || hd->h < 1 || hd->w > IMAGE_MAX_SIDE || hd->h > IMAGE_MAX_SIDE)
        return err_set(e, ERR_INPUT, "the picture is %dx%d; a side of 1 to %d was expected",
                       hd->w, hd->h, IMAGE_MAX_SIDE);
    uint64_t least = least_size(hd->kind, (uint64_t)hd->w, (uint64_t)hd->h);
    if (size < least)
        return err_set(e, ERR_INPUT, "the picture is cut short: %zu bytes cannot hold %dx%d "
                       "pixels", size, hd->w, hd->h);
    return 0;
}

int image_has_extension(const char *name)
{
    static const char *const ext[] = {".png", ".jpg", ".jpeg", ".webp", ".bmp"};
    const char *dot = strrchr(name, '.');
    if (*name == '.' || !dot) return 0;
    for (size_t i = 0; i < sizeof ext / sizeof *ext; i++)
        if (!strcasecmp(dot, ext[i])) return 1;
    return 0;
}

int image_size(int *w, int *h, const uint8_t *data, size_t size, Err *e)
{
    Header hd;
    TRY(read_header(&hd, data, size, e));
    int turned = exif_orientation(exif_find(data, size)) >= 5;
    *w = turned ? hd.h : hd.w;
    *h = turned ? hd.w : hd.h;
    return 0;
}

int image_parameters(char **text, const uint8_t *data, size_t size, Err *e)
{
    *text = NULL;
    if (png_is(data, size)) {
        PngText *t;
        size_t n;
        TRY(png_read_text(&t, &n, data, size, e));
        for (size_t i = 0; i < n && !*text; i++) {
            if (strcmp(t[i].key, "parameters")) continue;
            *text = t[i].text;
            t[i].text = NULL;
        }
        png_free_text(t, n);
    }
    return *text ? 0 : exif_user_comment(text, exif_find(data, size), e);
}

/* ---- decoding ---- */

#ifdef SDC_WEBP
static int decode_webp(Image *im, const Header *hd, const uint8_t *data, size_t size, Err *e)
{
    TRY(image_new(im, hd->w, hd->h, hd->alpha ? 4 : 3, e));
    size_t row = (size_t)im->w * (size_t)im->c, n = row * (size_t)im->h;
    uint8_t *ok = im->c == 4 ? WebPDecodeRGBAInto(data, size, im->px, n, (int)row)
                             : WebPDecodeRGBInto(data, size, im->px, n, (int)row);
    return ok ? 0 : err_set(e, ERR_INPUT, "the WebP is damaged or cut short");
}
#else
static int decode_webp(Image *im, const Header *hd, const uint8_t *data, size_t size, Err *e)
{
    (void)im;
    Header copy = *hd;
    return webp_header(&copy, data, size, e);
}
#endif

/* Grey (1) or grey with alpha (2) to RGB or RGBA. Takes px over. */
static int from_grey(Image *im, uint8_t *px, int w, int h, int c, Err *e)
{
    int rc = image_new(im, w, h, c + 2, e);
    size_t n = (size_t)w * (size_t)h;
    const uint8_t *p = px;
    uint8_t *q = im->px;
    for (size_t i = 0; !rc && i < n; i++, p += c, q += c + 2) {
        q[0] = q[1] = q[2] = p[0];
        if (c == 2) q[3] = p[1];
    }
    mem_free(px);
    return rc;
}

static int decode_stb(Image *im, const Header *hd, const uint8_t *data, size_t size, Err *e)
{
    if (hd->kind == KIND_PNG) TRY(png_check(data, size, e));
    /* Unpacked data and the result, at 8 or 16 bits: 8 or 16 bytes a pixel. */
    int deep = hd->kind == KIND_PNG && data[24] == 16;
    uint64_t pixels = (uint64_t)hd->w * (uint64_t)hd->h;
    if (pixels * (deep ? 16 : 8) > MAX_BYTES)
        return err_set(e, ERR_INPUT, "a picture of %dx%d at %d bits takes too much memory; "
                       "make it smaller", hd->w, hd->h, deep ? 16 : 8);
    /* What stb needs at most for these pixels (progressive CMYK; 16-bit RGBA),
     * in whole JPEG units, plus a growing copy of the packed data. */
    uint64_t units = (uint64_t)(hd->w + 63) * (uint64_t)(hd->h + 63);
    uint64_t budget = 24 * units + 4 * (uint64_t)size + (1 << 20);
    stb_budget(budget < 3 * MAX_BYTES / 2 ? budget : 3 * MAX_BYTES / 2);
    int w, h, c;
    uint8_t *px = stbi_load_from_memory(data, (int)size, &w, &h, &c, 0);
    if (!px) {
        const char *why = stbi_failure_reason();
        if (!strcmp(why, "outofmem")) return err_nomem(e, pixels * 3, "decoding a picture");
        return err_set(e, ERR_INPUT, "the picture is damaged (%s)", why);
    }
    if (c < 3) return from_grey(im, px, w, h, c, e);
    *im = (Image){w, h, c, px};
    return 0;
}

int image_decode(Image *im, const uint8_t *data, size_t size, Err *e)
{
    Header hd;
    *im = (Image){0};
    TRY(read_header(&hd, data, size, e));
    int rc = hd.kind == KIND_WEBP ? decode_webp(im, &hd, data, size, e)
                                  : decode_stb(im, &hd, data, size, e);
    if (!rc) rc = image_orient(im, exif_orientation(exif_find(data, size)), e);
    if (rc) image_free(im);
    return rc;
}

int image_load(Image *im, const char *path, Err *e)
{
    IoMap m;
    *im = (Image){0};
    TRY(io_map(&m, path, e));
    int rc = image_decode(im, m.data, m.size, e);
    io_unmap(&m);
    if (rc) err_prefix(e, "%s", path);
    return rc;
}

/* ---- pixels ---- */

static void drop4(Image *im)
{
    size_t n = (size_t)im->w * (size_t)im->h;
    for (size_t i = 0; i < n; i++) memmove(im->px + 3 * i, im->px + 4 * i, 3);
    im->c = 3;
    uint8_t *smaller = mem_realloc(im->px, 3 * n);
    if (smaller) im->px = smaller;
}

void image_drop_alpha(Image *im)
{
    if (im->c == 4) drop4(im);
}

void image_flatten(Image *im, uint8_t r, uint8_t g, uint8_t b)
{
    if (im->c != 4) return;
    const int back[3] = {r, g, b};
    size_t n = (size_t)im->w * (size_t)im->h;
    for (uint8_t *p = im->px, *end = p + 4 * n; p < end; p += 4)
        for (int i = 0; i < 3; i++)
            p[i] = (uint8_t)((p[i] * p[3] + back[i] * (255 - p[3]) + 127) / 255);
    drop4(im);
}

void image_crop(Image *im, int x, int y, int w, int h)
{
    assert(x >= 0 && y >= 0 && w > 0 && h > 0 && x <= im->w - w && y <= im->h - h);
    size_t c = (size_t)im->c, row = (size_t)w * c, stride = (size_t)im->w * c;
    const uint8_t *from = im->px + (size_t)y * stride + (size_t)x * c;
    for (int i = 0; i < h; i++)
        memmove(im->px + (size_t)i * row, from + (size_t)i * stride, row);
    im->w = w, im->h = h;
}

void image_flip(Image *im)
{
    int c = im->c;
    for (int y = 0; y < im->h; y++) {
        uint8_t *l = im->px + (size_t)y * (size_t)im->w * (size_t)c;
        uint8_t *r = l + (size_t)(im->w - 1) * (size_t)c;
        for (; l < r; l += c, r -= c) {
            uint8_t t[4];
            memcpy(t, l, (size_t)c);
            memcpy(l, r, (size_t)c);
            memcpy(r, t, (size_t)c);
        }
    }
}

int image_orient(Image *im, int orientation, Err *e)
{
    assert(orientation >= 1 && orientation <= 8);
    if (orientation == 1) return 0;
    int swap = orientation >= 5;
    int mirror_x = 1 << orientation & (1 << 2 | 1 << 3 | 1 << 7 | 1 << 8);
    int mirror_y = 1 << orientation & (1 << 3 | 1 << 4 | 1 << 6 | 1 << 7);
    Image out;
    TRY(image_new(&out, swap ? im->h : im->w, swap ? im->w : im->h, im->c, e));
    uint8_t *q = out.px;
    for (int y = 0; y < out.h; y++) {
        for (int x = 0; x < out.w; x++, q += out.c) {
            int sx = swap ? y : x, sy = swap ? x : y;
            if (mirror_x) sx = im->w - 1 - sx;
            if (mirror_y) sy = im->h - 1 - sy;
            memcpy(q, im->px + ((size_t)sy * (size_t)im->w + (size_t)sx) * (size_t)im->c,
                   (size_t)im->c);
        }
    }
    image_free(im);
    *im = out;
    return 0;
}

void image_to_float(float *x, const Image *im)
{
    assert(im->c == 3);
    size_t n = (size_t)im->w * (size_t)im->h * 3;
    for (size_t i = 0; i < n; i++) x[i] = ((float)im->px[i] / 255.0f - 0.5f) / 0.5f;
}

void image_from_float(Image *im, const float *x)
{
    assert(im->c == 3);
    size_t n = (size_t)im->w * (size_t)im->h * 3;
    for (size_t i = 0; i < n; i++) {
        float v = (x[i] + 1.0f) / 2.0f;
        v = v > 0 ? v < 1 ? v : 1 : 0;       /* NaN is not > 0 */
        im->px[i] = (uint8_t)(255.0f * v);
    }
}

/* ---- saving ---- */

typedef struct {
    uint8_t *data;
    size_t size, cap;
    int failed;
} Sink;

static void sink_add(void *to, void *data, int n)
{
    Sink *s = to;
    size_t want = s->size + (size_t)n;
    if (want > s->cap && !s->failed) {
        size_t cap = 2 * want + 4096;
        uint8_t *more = mem_realloc(s->data, cap);
        if (more) s->data = more, s->cap = cap;
        else s->failed = 1;
    }
    if (s->failed) return;
    memcpy(s->data + s->size, data, (size_t)n);
    s->size = want;
}

int image_encode_jpeg(uint8_t **out, size_t *size, const Image *im, int quality,
                      const char *parameters, Err *e)
{
    assert(im->c == 3 && quality >= 1 && quality <= 100);
    uint8_t *app1 = NULL;
    size_t n = 0;
    *out = NULL;
    if (parameters && *parameters) TRY(exif_app1(&app1, &n, parameters, e));
    Sink s = {0};
    stbi_write_jpg_to_func(sink_add, &s, im->w, im->h, 3, im->px, quality);
    uint8_t *all = s.failed || !s.size ? NULL : mem_alloc(s.size + n);
    if (all) {
        memcpy(all, s.data, 2);              /* SOI, EXIF, the rest */
        if (n) memcpy(all + 2, app1, n);
        memcpy(all + 2 + n, s.data + 2, s.size - 2);
        *out = all;
        *size = s.size + n;
    }
    mem_free(s.data);
    mem_free(app1);
    return all ? 0 : err_nomem(e, s.size + n, "a JPEG");
}

static int save_jpeg(uint8_t **data, size_t *size, const Image *im, const char *parameters,
                     Err *e)
{
    if (im->c == 3) return image_encode_jpeg(data, size, im, 80, parameters, e);
    Image flat;
    TRY(image_new(&flat, im->w, im->h, 4, e));
    memcpy(flat.px, im->px, (size_t)im->w * (size_t)im->h * 4);
    image_flatten(&flat, 255, 255, 255);
    int rc = image_encode_jpeg(data, size, &flat, 80, parameters, e);
    image_free(&flat);
    return rc;
}

int image_save(const char *path, const Image *im, const char *parameters, Err *e)
{
    const char *dot = strrchr(path, '.');
    uint8_t *data = NULL;
    size_t size = 0;
    int rc;
    if (dot && !strcasecmp(dot, ".png")) {
        PngText t = {"parameters", (char *)(uintptr_t)parameters};   /* only read */
        rc = png_encode(&data, &size, im, &t, parameters && *parameters, e);
    } else if (dot && (!strcasecmp(dot, ".jpg") || !strcasecmp(dot, ".jpeg"))) {
        rc = save_jpeg(&data, &size, im, parameters, e);
    } else {
        return err_set(e, ERR_USAGE, "%s: pictures are written as .png, .jpg or .jpeg", path);
    }
    if (rc) err_prefix(e, "%s", path);
    if (!rc) rc = io_write_file(path, data, size, e);
    mem_free(data);
    return rc;
}
