/* test_png.c - PNG files and their text, and contact sheets. */
#include <stdint.h>
#include <stdlib.h>
#include <zlib.h>

#include "engine/grid.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "engine/png.h"
#include "tests/fail.h"
#include "tests/pixels.h"
#include "tests/test.h"

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

TEST(grid_places_pictures_and_labels)
{
    Image cells[3] = {make_noise(40, 30, 3), make_noise(40, 30, 3), make_noise(40, 30, 3)}, out;
    const char *const rows[] = {"with", "a long label that needs lines"};
    const char *const cols[] = {"1", "\xe7\x8c\xab"};
    Grid g = {.rows = 2, .cols = 2, .margin = 4, .row_labels = rows, .col_labels = cols};
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
    cells[1].h = 28;                                /* in the middle; grids below each other */
    Grid two = {.rows = 1, .cols = 2, .sheets = 2, .sheet_labels = rows};
    int w, h;
    CHECK_OK(grid_size(&two, 40, 30, &w, &h, &e), &e);
    CHECK_OK(grid_compose(&out, cells, 3, &two, &e), &e);
    int band = h / 2 - 30, third = h / 2 + band;
    ok = w == 80 && out.w == w && out.h == h && band > 0;
    for (int y = 0; ok && y < 30; y++) {
        ok &= y >= 1 && y < 29
                  ? !memcmp(out.px + ((band + y) * 80 + 40) * 3, cells[1].px + (y - 1) * 120, 120)
                  : out.px[((band + y) * 80 + 40) * 3] == 255;
        ok &= !memcmp(out.px + (third + y) * 240, cells[2].px + y * 120, 120);
    }
    image_free(&out);
    CHECK(ok);
    CHECK_INT(grid_size(&two, 40, 65535, &w, &h, &e), ERR_FAIL);
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
