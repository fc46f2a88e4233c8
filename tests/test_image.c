/* test_image.c - pictures: decoding, EXIF, resizing, saving. The files in
 * data/image/ are made by the make.py there, with Pillow and OpenCV. */
#include <stdint.h>
#include <stdlib.h>

#include "engine/image.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "engine/recolour.h"
#include "engine/resize.h"
#include "tests/fail.h"
#include "tests/pixels.h"
#include "tests/test.h"

static uint8_t smooth(int x, int y, int c)
{
    return (uint8_t)(x * 160 / 40 + y * 60 / 24 + c * 15);
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
    Err e = {0}, e2 = {0}, e3 = {0};
    CHECK_INT(image_decode(&im, table, sizeof table, &e), ERR_INPUT);
    CHECK(strstr(e.msg, "Huffman") != NULL);
    /* Tables 3 are never defined: stb must find zeros there, not what memory held. */
    IoMap m;
    uint8_t file[2000];
    CHECK_OK(io_map(&m, "tests/data/image/baseline.jpg", &e3), &e3);
    size_t size = m.size;
    memcpy(file, m.data, size);
    io_unmap(&m);
    uint8_t *sos = memmem(file, size, "\xff\xda", 2);
    CHECK(sos != NULL);
    sos[6] = sos[8] = sos[10] = 0x33;
    if (!image_decode(&im, file, size, NULL)) image_free(&im);
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
    IoMap map;
    Err e = {0};
    Image in = make_noise(w, h, c), out;
    ResizeMethod m;
    snprintf(path, sizeof path, "tests/data/image/%s_%dx%d_%dx%dx%d.raw", method, w, h, ow, oh, c);
    CHECK(resize_method(&m, method));
    CHECK_OK(io_map(&map, path, &e), &e);
    CHECK_INT(map.size, ow * oh * c);
    CHECK_OK(resize_auto(&out, &in, ow, oh, &e), &e);
    int auto_differs = memcmp(out.px, map.data, map.size);
    image_free(&out);
    CHECK_OK(resize_by(m, &out, &in, ow, oh, &e), &e);
    int differ = 0;
    for (size_t i = 0; i < map.size; i++) differ += out.px[i] != map.data[i];
    image_free(&in);
    image_free(&out);
    io_unmap(&map);
    if (differ) test_fail(__FILE__, __LINE__, "%s: %d bytes differ", path, differ);
    int shrinks = ow <= w && oh <= h;
    if (m == (shrinks ? RESIZE_AREA : RESIZE_LANCZOS) && auto_differs)
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
    static const char *const methods[] = {"nearest", "bilinear", "bicubic", "box", "area"};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        resized(methods[i], 23, 17, 10, 8, 3);
        resized(methods[i], 13, 9, 29, 21, 4);
        resized(methods[i], 20, 14, 10, 7, 3);
        resized(methods[i], 15, 21, 20, 9, 3);
    }
    ResizeMethod m, same;
    CHECK(resize_method(&m, "linear") && resize_method(&same, "bilinear") && m == same);
    CHECK(resize_method(&m, "cubic") && resize_method(&same, "bicubic") && m == same);
    CHECK(!resize_method(&m, "lanczos4") && !resize_method(&m, ""));
}

/* OpenCV's f32 may fall to the other side of a whole number, where a fraction is cut off: that
 * may happen where all of v, s and the sector's part meet in one, a few of 2304 bytes. */
TEST(recolour_hue_is_opencvs)
{
    static const struct { const char *file; double by; } cases[] = {{"hue_5.25", 5.25},
                                                                    {"hue_177", -3}};
    for (int k = 0; k < 2; k++) {
        char path[100];
        IoMap map;
        Err e = {0};
        Image im = make_noise(48, 16, 3);
        snprintf(path, sizeof path, "tests/data/image/%s.raw", cases[k].file);
        CHECK_OK(io_map(&map, path, &e), &e);
        CHECK_INT(map.size, 48 * 16 * 3);
        recolour_hue(&im, cases[k].by);
        int off = 0, far = 0;
        for (size_t i = 0; i < map.size; i++) {
            off += im.px[i] != map.data[i];
            far += abs(im.px[i] - map.data[i]) > 1;
        }
        image_free(&im);
        io_unmap(&map);
        if (far || off > 4) test_fail(__FILE__, __LINE__, "%s: %d off, %d far", path, off, far);
    }
}

TEST(recolour_gamma_is_numpys)
{
    Image im = make_noise(16, 16, 4), was = make_noise(16, 16, 4);
    recolour_gamma(&im, 0.97);         /* np.clip(image**gamma, 0, 255).astype(np.uint8) */
    for (int i = 0; i < 16 * 16 * 4; i++) {
        int want = i % 4 == 3 ? was.px[i] : (int)fmin(255, pow(was.px[i], 0.97));
        CHECK_INT(im.px[i], want);
    }
    image_free(&im);
    image_free(&was);
}

TEST(resize_survives_no_memory)
{
    Image in = make_noise(9, 8, 4), out;
    for (int i = 0; i < 2 * RESIZE_METHODS; i++) {
        int rc = 1, to = i % 2 ? 20 : 4;
        for (long n = 1; rc && n < 50; n++) {
            Err e = {0};
            fail_mem(n);
            rc = resize_by((ResizeMethod)(i / 2), &out, &in, to, to - 1, &e);
            fail_mem(0);
            CHECK(!rc == !!out.px);
            image_free(&out);
        }
        CHECK_INT(rc, 0);
    }
    image_free(&in);
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
