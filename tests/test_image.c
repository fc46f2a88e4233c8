/* test_image.c - pictures: decoding, EXIF, resizing, PNG text, grids. The files
 * in data/image/ are made by the make.py there, with Pillow and OpenCV. */
#include <stdint.h>
#include <stdlib.h>
#include <zlib.h>

#include "engine/exif.h"
#include "engine/grid.h"
#include "engine/image.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "engine/png.h"
#include "engine/resize.h"
#include "tests/fail.h"
#include "tests/test.h"

static uint8_t noise(int x, int y, int c)
{
    return (uint8_t)((x * 73 + y * 151 + c * 59 + x * x * y / 3) ^ (x * y));
}

static uint8_t smooth(int x, int y, int c)
{
    return (uint8_t)(x * 160 / 40 + y * 60 / 24 + c * 15);
}

static Image make_noise(int w, int h, int c)
{
    Image im;
    image_new(&im, w, h, c, NULL);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int k = 0; k < c; k++) im.px[(y * w + x) * c + k] = noise(x, y, k);
    return im;
}

static int same(const Image *a, const Image *b)
{
    return a->w == b->w && a->h == b->h && a->c == b->c
        && !memcmp(a->px, b->px, (size_t)a->w * (size_t)a->h * (size_t)a->c);
}

/* Loads data/image/NAME; c 0 on failure. */
static Image load(const char *name)
{
    char path[200];
    Image im;
    Err e = {0};
    snprintf(path, sizeof path, "tests/data/image/%s", name);
    if (image_load(&im, path, &e)) test_fail(__FILE__, __LINE__, "%s", e.msg);
    return im;
}

static void exact(const char *name, int c)
{
    Image im = load(name), want = make_noise(7, 5, c);
    int ok = im.px && same(&im, &want);
    image_free(&im);
    image_free(&want);
    if (!ok) test_fail(__FILE__, __LINE__, "%s: wrong pixels", name);
}

TEST(image_reads_lossless_formats)
{
    exact("rgb.png", 3);
    exact("rgba.png", 4);
    exact("rgb16.png", 3);
    exact("rgb.bmp", 3);
#ifdef SDC_WEBP
    exact("lossless.webp", 3);
    exact("alpha.webp", 4);
#endif
}

TEST(image_reads_grey_and_palette)
{
    Image g = load("grey.png"), ga = load("grey_alpha.png"), p = load("palette.png");
    int ok = g.c == 3 && ga.c == 4 && p.c == 4, alpha_ok = 1;
    for (int i = 0; ok && i < 35; i++) {
        int x = i % 7, y = i / 7, v = noise(x, y, 0), k = v & 15;
        for (int c = 0; c < 3; c++) ok &= g.px[i * 3 + c] == v && ga.px[i * 4 + c] == v;
        alpha_ok &= ga.px[i * 4 + 3] == noise(x, y, 1);
        alpha_ok &= p.px[i * 4 + 3] == (k == 0 ? 0 : k == 1 ? 128 : 255);
        ok &= p.px[i * 4] == k * 16 && p.px[i * 4 + 1] == 255 - k && p.px[i * 4 + 2] == k;
    }
    image_free(&g);
    image_free(&ga);
    image_free(&p);
    CHECK(ok);
    CHECK(alpha_ok);
}

/* Mean and largest difference to smooth(): decoders round differently, and the
 * file itself is a few levels off. */
static void lossy(const char *name, int grey)
{
    Image im = load(name);
    double mean = 0;
    int worst = 0, n = im.w * im.h * 3;
    if (im.w != 40 || im.h != 24 || im.c != 3) test_fail(__FILE__, __LINE__, "%s: size", name);
    else
        for (int i = 0; i < n; i++) {
            int d = abs(im.px[i] - smooth(i / 3 % 40, i / 120, grey ? 0 : i % 3));
            mean += (double)d / n;
            if (d > worst) worst = d;
        }
    image_free(&im);
    if (mean > 2 || worst > 8)
        test_fail(__FILE__, __LINE__, "%s: mean %.2f, worst %d", name, mean, worst);
}

TEST(image_reads_lossy_formats)
{
    lossy("baseline.jpg", 0);
    lossy("progressive.jpg", 0);
    lossy("cmyk.jpg", 0);
    lossy("grey.jpg", 1);
#ifdef SDC_WEBP
    lossy("lossy.webp", 0);
#endif
}

/* Pillow's ImageOps.exif_transpose, pixel (x,y) of the upright picture. */
static void stored_at(int o, int x, int y, int *sx, int *sy)
{
    const int w = 7, h = 5;       /* stored */
    *sx = o == 2 || o == 3 ? w - 1 - x : o == 7 || o == 8 ? w - 1 - y : o >= 5 ? y : x;
    *sy = o == 3 || o == 4 ? h - 1 - y : o == 6 || o == 7 ? h - 1 - x : o >= 5 ? x : y;
}

TEST(image_turns_upright)
{
    for (int o = 2; o <= 8; o++) {
        char name[40];
        snprintf(name, sizeof name, "turned%d.png", o);
        Image im = load(name);
        int ok = im.w == (o < 5 ? 7 : 5) && im.h == (o < 5 ? 5 : 7);
        for (int i = 0; ok && i < 105; i++) {
            int sx, sy;
            stored_at(o, i / 3 % im.w, i / 3 / im.w, &sx, &sy);
            ok = im.px[i] == noise(sx, sy, i % 3);
        }
        image_free(&im);
        CHECK(ok);
    }
    Image j = load("turned.jpg");
    /* 6: the stored left column is on top, and its foot comes first. */
    int ok = j.w == 24 && j.h == 40 && abs(j.px[23 * 3] - smooth(0, 0, 0)) < 8
          && abs(j.px[0] - smooth(0, 23, 0)) < 8;
    image_free(&j);
    CHECK(ok);
#ifdef SDC_WEBP
    Image v = load("turned.webp"), p = load("turned6.png");
    ok = same(&v, &p);
    image_free(&v);
    image_free(&p);
    CHECK(ok);
#endif
    IoMap m;
    Err e = {0};
    int w, h;
    CHECK_OK(io_map(&m, "tests/data/image/turned.jpg", &e), &e);
    int rc = image_size(&w, &h, m.data, m.size, &e);
    io_unmap(&m);
    CHECK_OK(rc, &e);
    CHECK_INT(w, 24);
    CHECK_INT(h, 40);
}

TEST(image_refuses_damage)
{
    static const char *const files[] = {"rgb.png", "rgb16.png", "baseline.jpg", "progressive.jpg",
#ifdef SDC_WEBP
                                        "lossless.webp",
#endif
                                        "text.png"};
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        char path[200];
        IoMap m;
        Err e = {0};
        Image im;
        snprintf(path, sizeof path, "tests/data/image/%s", files[f]);
        CHECK_OK(io_map(&m, path, &e), &e);
        uint8_t *copy = malloc(m.size);
        int bad = 0;
        for (size_t n = 0; n + 1 < m.size; n++) {      /* every way to cut it short */
            memcpy(copy, m.data, n);
            Err e2 = {0};
            if (image_decode(&im, copy, n, &e2) == ERR_INPUT && !im.px) continue;
            image_free(&im);
            bad++;
        }
        free(copy);
        io_unmap(&m);
        if (bad) test_fail(__FILE__, __LINE__, "%s: read %d times though cut short", path, bad);
    }
}

TEST(image_refuses_wrong_checksum_and_bombs)
{
    IoMap m;
    Err e = {0}, e2 = {0}, e3 = {0}, e4 = {0};
    Image im;
    CHECK_OK(io_map(&m, "tests/data/image/rgb.png", &e), &e);
    uint8_t copy[400];
    size_t n = m.size;
    memcpy(copy, m.data, n);
    io_unmap(&m);
    copy[n - 20] ^= 1;                                /* in IDAT's data or checksum */
    CHECK_INT(image_decode(&im, copy, n, &e2), ERR_INPUT);
    CHECK(strstr(e2.msg, "checksum") != NULL);
    copy[n - 20] ^= 1;
    copy[18] = 0x20, copy[22] = 0x20;                 /* 8192 x 8192 in 178 bytes */
    CHECK_INT(image_decode(&im, copy, n, &e3), ERR_INPUT);
    CHECK(strstr(e3.msg, "cut short") != NULL);
    copy[17] = 1;                                     /* 73728 wide */
    CHECK_INT(image_decode(&im, copy, n, &e4), ERR_INPUT);
    Err e5 = {0};
    CHECK_INT(image_decode(&im, (const uint8_t *)"GIF89a", 6, &e5), ERR_INPUT);
    CHECK_STR(e5.msg, "not a PNG, JPEG, BMP or WebP picture");
    Err e6 = {0};
    CHECK_INT(image_load(&im, "tests/data/image/none.png", &e6), ERR_INPUT);
}

TEST(image_refuses_hostile_jpeg)
{
    /* A Huffman table of 300 codes overflows stb's; 300 scans take minutes. */
    uint8_t table[400] = {0xff, 0xd8, 0xff, 0xc4, 319 >> 8, 319 & 255, 0, [14] = 255, [15] = 45};
    table[2 + 2 + 319] = 0xff, table[2 + 2 + 320] = 0xd9;
    Image im;
    Err e = {0}, e2 = {0};
    CHECK_INT(image_decode(&im, table, sizeof table, &e), ERR_INPUT);
    CHECK(strstr(e.msg, "Huffman") != NULL);
    static uint8_t scans[4 * 300 + 4] = {0xff, 0xd8};
    for (int i = 0; i < 300; i++) memcpy(scans + 2 + 4 * i, "\xff\xda\0\2", 4);
    memcpy(scans + 2 + 4 * 300, "\xff\xd9", 2);
    CHECK_INT(image_decode(&im, scans, sizeof scans, &e2), ERR_INPUT);
    CHECK(strstr(e2.msg, "scans") != NULL);
}

TEST(image_survives_no_memory)
{
    static const char *const files[] = {"rgb.png", "grey.png", "turned6.png", "progressive.jpg"};
    for (size_t f = 0; f < 4; f++) {
        char path[200];
        snprintf(path, sizeof path, "tests/data/image/%s", files[f]);
        int rc = 1;
        for (long n = 1; rc && n < 100; n++) {
            Image im;
            Err e = {0};
            fail_mem(n);
            rc = image_load(&im, path, &e);
            fail_mem(0);
            CHECK(!rc == !!im.px);
            image_free(&im);
        }
        CHECK_INT(rc, 0);
    }
}

TEST(image_alpha)
{
    Image a = load("rgba.png"), b = load("rgba.png"), want = make_noise(7, 5, 3);
    image_drop_alpha(&a);
    image_flatten(&b, 255, 255, 255);
    int ok = same(&a, &want) && b.c == 3;
    for (int i = 0; i < 105; i++) {
        int x = i / 3 % 7, y = i / 21, al = noise(x, y, 3);
        double v = (noise(x, y, i % 3) * al + 255 * (255 - al)) / 255.0;
        ok &= fabs(b.px[i] - v) <= 0.5;
    }
    image_free(&a);
    image_free(&b);
    image_free(&want);
    CHECK(ok);
}

TEST(image_crop_and_flip)
{
    for (int c = 3; c <= 4; c++) {
        Image im = make_noise(7, 5, c);
        image_crop(&im, 2, 1, 4, 3);
        image_flip(&im);
        int ok = im.w == 4 && im.h == 3;
        for (int i = 0; i < 12 * c; i++)
            ok &= im.px[i] == noise(2 + 3 - i / c % 4, 1 + i / c / 4, i % c);
        image_free(&im);
        CHECK(ok);
    }
}

TEST(image_floats_truncate)
{
    Image im = make_noise(16, 16, 3);
    for (int i = 0; i < 768; i++) im.px[i] = (uint8_t)i;
    float x[768];
    image_to_float(x, &im);
    CHECK_NEAR(x[0], -1, 0);
    CHECK_NEAR(x[255], 1, 0);
    CHECK_NEAR(x[51], -0.6, 1e-7);
    x[0] = -9, x[1] = 9, x[2] = NAN, x[3] = 0.999f, x[4] = 0, x[5] = INFINITY;
    image_from_float(&im, x);
    const int want[6] = {0, 255, 0, 254, 127, 255};
    for (int i = 0; i < 6; i++) CHECK_INT(im.px[i], want[i]);
    image_free(&im);
}

static void resized(const char *method, int w, int h, int ow, int oh, int c)
{
    char path[200];
    IoMap m;
    Err e = {0};
    Image in = make_noise(w, h, c), out;
    snprintf(path, sizeof path, "tests/data/image/%s_%dx%d_%dx%dx%d.raw", method, w, h, ow, oh, c);
    CHECK_OK(io_map(&m, path, &e), &e);
    CHECK_INT(m.size, ow * oh * c);
    CHECK_OK(resize_auto(&out, &in, ow, oh, &e), &e);
    int auto_differs = memcmp(out.px, m.data, m.size);
    image_free(&out);
    if (*method == 'l') resize_lanczos(&out, &in, ow, oh, &e);
    else resize_area(&out, &in, ow, oh, &e);
    int differ = 0;
    for (size_t i = 0; i < m.size; i++) differ += out.px[i] != m.data[i];
    image_free(&in);
    image_free(&out);
    io_unmap(&m);
    if (differ) test_fail(__FILE__, __LINE__, "%s: %d bytes differ", path, differ);
    int shrinks = ow <= w && oh <= h;
    if ((*method == 'a') == shrinks && auto_differs)
        test_fail(__FILE__, __LINE__, "%s: resize_auto", path);
}

TEST(resize_equals_pillow_and_opencv)
{
    resized("lanczos", 13, 9, 29, 21, 3);
    resized("lanczos", 13, 9, 13, 20, 3);
    resized("lanczos", 31, 9, 12, 9, 3);
    resized("lanczos", 40, 37, 11, 50, 3);
    resized("lanczos", 9, 8, 17, 5, 4);
    resized("lanczos", 3, 2, 8, 8, 3);
    resized("area", 16, 12, 8, 6, 3);
    resized("area", 27, 18, 9, 6, 3);
    resized("area", 31, 17, 13, 9, 3);
    resized("area", 20, 20, 20, 13, 4);
    resized("area", 64, 48, 33, 47, 3);
    resized("area", 50, 20, 7, 3, 3);
}

TEST(resize_survives_no_memory)
{
    Image in = make_noise(9, 8, 4), out;
    for (int to = 4; to <= 20; to += 16) {
        int rc = 1;
        for (long n = 1; rc && n < 50; n++) {
            Err e = {0};
            fail_mem(n);
            rc = resize_auto(&out, &in, to, to - 1, &e);
            fail_mem(0);
            CHECK(!rc == !!out.px);
            image_free(&out);
        }
        CHECK_INT(rc, 0);
    }
    image_free(&in);
}

TEST(png_text_of_pillow)
{
    IoMap m;
    Err e = {0};
    PngText *t;
    size_t n;
    CHECK_OK(io_map(&m, "tests/data/image/text.png", &e), &e);
    int rc = png_read_text(&t, &n, m.data, m.size, &e);
    char *p;
    int rc2 = image_parameters(&p, m.data, m.size, &e);
    io_unmap(&m);
    CHECK_OK(rc || rc2, &e);
    CHECK_INT(n, 4);
    CHECK_STR(p, "caf\xc3\xa9\nSteps: 20, Sampler: Euler a, Seed: 1");
    CHECK_STR(t[0].text, p);
    CHECK_STR(t[1].key, "Wide");
    CHECK_STR(t[1].text, "\xe7\x8c\xab \xf0\x9f\x90\xb1");
    CHECK_STR(t[2].key, "Packed");
    CHECK_INT(strlen(t[2].text), 20 * 9);
    CHECK_STR(t[3].key, "Both");
    CHECK_INT(strlen(t[3].text), 50 * 4);
    mem_free(p);
    png_free_text(t, n);
}

TEST(png_writes_what_it_reads)
{
    for (int c = 3; c <= 4; c++) {
        Image im = make_noise(37, 23, c), back;
        PngText text[] = {{"parameters", "na\xc3\xafve"}, {"wide", "\xe7\x8c\xab"},
                          {"odd", "\xff\xfe"}};
        uint8_t *a, *b;
        size_t na, nb, n;
        Err e = {0};
        PngText *t;
        CHECK_OK(png_encode(&a, &na, &im, text, 3, &e), &e);
        CHECK_OK(png_encode(&b, &nb, &im, text, 3, &e), &e);
        CHECK(na == nb && !memcmp(a, b, na));
        CHECK(memmem(a, na, "tEXtparameters\0na\xefve", 20) != NULL);
        CHECK(memmem(a, na, "iTXtwide\0\0\0\0\0\xe7\x8c\xab", 16) != NULL);
        CHECK_OK(image_decode(&back, a, na, &e), &e);
        CHECK(same(&im, &back));
        CHECK_OK(png_read_text(&t, &n, a, na, &e), &e);
        CHECK_INT(n, 3);
        CHECK_STR(t[0].text, text[0].text);
        CHECK_STR(t[1].text, text[1].text);
        CHECK_STR(t[2].text, "\xc3\xbf\xc3\xbe");
        png_free_text(t, n);
        mem_free(a);
        mem_free(b);
        image_free(&im);
        image_free(&back);
    }
}

TEST(png_filters_help)
{
    Image im;
    Err e = {0};
    image_new(&im, 256, 256, 3, &e);
    for (int i = 0; i < 256 * 256 * 3; i++)
        im.px[i] = (uint8_t)((i / 3 % 256 + i / 768) / 2 + i % 3);
    uint8_t *p;
    size_t n;
    CHECK_OK(png_encode(&p, &n, &im, NULL, 0, &e), &e);
    mem_free(p);
    image_free(&im);
    CHECK(n < 4000);              /* 196608 bytes; over 20000 without filters */
}

TEST(png_refuses_odd_text)
{
    Image im = make_noise(4, 4, 3);
    char *big = malloc(PNG_TEXT_MAX);
    memset(big, 'a', PNG_TEXT_MAX);
    big[PNG_TEXT_MAX - 1] = 0;
    static char *const keys[] = {"parameters", "", "caf\xc3\xa9"};
    for (int i = 0; i < 3; i++) {
        Err e = {0};
        uint8_t *p;
        size_t n;
        CHECK_INT(png_encode(&p, &n, &im, &(PngText){keys[i], i ? "x" : big}, 1, &e), ERR_FAIL);
    }
    free(big);
    image_free(&im);
}

static size_t chunk(uint8_t *p, const char *type, const void *data, size_t n)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(n >> (24 - 8 * i));
    memcpy(p + 4, type, 4);
    memcpy(p + 8, data, n);
    uLong crc = crc32(0, p + 4, (uInt)(n + 4));
    for (int i = 0; i < 4; i++) p[8 + n + (size_t)i] = (uint8_t)(crc >> (24 - 8 * i));
    return n + 12;
}

TEST(png_text_bombs_are_left_out)
{
    /* A good text; nine of a byte over 4 MiB, after which a good packed one is one
     * too many; no NUL; no UTF-8; wrong checksum. */
    static uint8_t packed[1 << 16], file[1 << 20];
    uLongf n = sizeof packed - 10;
    Bytef *big = calloc(1, PNG_TEXT_MAX + 1);
    memset(big, 'a', PNG_TEXT_MAX + 1);
    memcpy(packed, "bomb\0", 6);
    int rc = compress(packed + 6, &n, big, PNG_TEXT_MAX + 1);
    free(big);
    CHECK_INT(rc, Z_OK);
    memcpy(file, "\x89PNG\r\n\x1a\n", 8);
    size_t size = 8;
    size += chunk(file + size, "tEXt", "a\0xy", 4);
    for (int i = 0; i < 9; i++) size += chunk(file + size, "zTXt", packed, n + 6);
    n = sizeof packed - 10;
    compress(packed + 6, &n, (const Bytef *)"small", 5);
    size += chunk(file + size, "zTXt", packed, n + 6);
    size += chunk(file + size, "tEXt", "no key", 6);
    size += chunk(file + size, "iTXt", "k\0\0\0\0\0\xff", 7);
    size += chunk(file + size, "tEXt", "b\0z", 3);
    file[size - 1] ^= 1;
    PngText *t;
    size_t count;
    Err e = {0};
    CHECK_OK(png_read_text(&t, &count, file, size, &e), &e);
    CHECK_INT(count, 1);
    CHECK_STR(t[0].text, "xy");
    png_free_text(t, count);
}

TEST(png_survives_no_memory)
{
    Image im = make_noise(9, 4, 3);
    IoMap m;
    Err e = {0};
    CHECK_OK(io_map(&m, "tests/data/image/text.png", &e), &e);
    int wrote = 1, read = 1;
    for (long n = 1; (wrote || read) && n < 100; n++) {
        uint8_t *p;
        size_t size;
        char *s;
        fail_mem(n);
        wrote = png_encode(&p, &size, &im, NULL, 0, NULL);
        fail_mem(n);
        read = image_parameters(&s, m.data, m.size, NULL);
        fail_mem(0);
        CHECK(wrote == (p ? 0 : ERR_MEMORY));
        CHECK(read == (s ? 0 : ERR_MEMORY));
        mem_free(p);
        mem_free(s);
    }
    io_unmap(&m);
    image_free(&im);
    CHECK_INT(wrote, 0);
    CHECK_INT(read, 0);
}

TEST(image_saves_png_and_jpeg)
{
    Image im = make_noise(8, 8, 4), back;
    char path[300];
    Err e = {0};
    static const char text[] = "a \xe7\x8c\xab \xf0\x9f\x90\xb1, b";
    static const char *const names[] = {"a.png", "a.JPG", "a.jpeg"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", test_dir(), names[i]);
        CHECK_OK(image_save(path, &im, text, &e), &e);
        CHECK_OK(image_load(&back, path, &e), &e);
        CHECK_INT(back.c, i ? 3 : 4);
        CHECK(i || same(&im, &back));
        image_free(&back);
        IoMap m;
        char *p;
        CHECK_OK(io_map(&m, path, &e), &e);
        CHECK_OK(image_parameters(&p, m.data, m.size, &e), &e);
        io_unmap(&m);
        CHECK(p != NULL);
        CHECK_STR(p, text);
        mem_free(p);
    }
    CHECK_INT(image_save("a.gif", &im, NULL, &e), ERR_USAGE);
    image_free(&im);
    IoMap m;
    Err e2 = {0};
    char *p;
    CHECK_OK(io_map(&m, "tests/data/image/comment.jpg", &e2), &e2);
    CHECK_OK(image_parameters(&p, m.data, m.size, &e2), &e2);
    io_unmap(&m);
    CHECK_STR(p ? p : "none", text);
    mem_free(p);
}

TEST(grid_places_pictures_and_labels)
{
    Image cells[3] = {make_noise(40, 30, 3), make_noise(40, 30, 3), make_noise(40, 30, 3)}, out;
    const char *const rows[] = {"with", "a long label that needs lines"};
    const char *const cols[] = {"1", "\xe7\x8c\xab"};
    Grid g = {2, 2, 4, rows, cols};
    Err e = {0};
    CHECK_OK(grid_compose(&out, cells, 3, &g, &e), &e);
    int left = out.w - 2 * 44 - 4, top = out.h - 2 * 34 - 4, ink = 0, ok = 1;
    for (int y = 0; y < 30; y++)                    /* second picture, first row */
        ok &= !memcmp(out.px + ((top + 4 + y) * out.w + left + 4 + 44) * 3,
                      cells[0].px + y * 120, 120);
    for (int i = 0; i < out.w * out.h; i++) {
        int x = i % out.w, y = i / out.w, black = !out.px[i * 3] && !out.px[i * 3 + 1];
        if (x >= left && y >= top) continue;
        ink += black;
        ok &= black || out.px[i * 3] == 255;
    }
    const uint8_t *corner = out.px + ((size_t)out.w * (size_t)out.h - 1) * 3;
    ok &= corner[0] == 255;                         /* no fourth picture */
    image_free(&out);
    CHECK(ok);
    CHECK(left > 0 && top > 0 && ink > 100);
    cells[1].h = 29;
    CHECK_INT(grid_compose(&out, cells, 3, &g, &e), ERR_FAIL);
    for (int i = 0; i < 3; i++) image_free(&cells[i]);
}

TEST(grid_text_draws_glyphs)
{
    Image im = make_noise(12, 10, 3);
    memset(im.px, 255, 360);
    grid_text(&im, 0, 0, 1, "L-", 2);
    static const char *const want[10] = {
        "#           ", "#           ", "#           ", "#     ##### ", "#           ",
        "#           ", "#####       ", "            ", "            ", "            "};
    int ok = 1;
    for (int i = 0; i < 120; i++) ok &= (im.px[i * 3] == 0) == (want[i / 12][i % 12] == '#');
    grid_text(&im, -3, 8, 4, "W", 1);               /* clipped on all sides */
    image_free(&im);
    CHECK(ok);
}
