/* test_doctor.c - `sdc doctor DIR` finds what was planted, and nothing where all is well. */
#include <stdlib.h>
#include <unistd.h>

#include "engine/image.h"
#include "engine/io.h"
#include "tests/test.h"

/* A picture of soft colours drawn from `seed`; `noise` moves every value a little. */
static void picture(const char *path, int w, int h, unsigned seed, int noise)
{
    Image im;
    Err e = {0};
    if (image_new(&im, w, h, 3, &e)) abort();
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < 3; c++) {
                int wave = (x * 8 / w + 1) * (int)(seed * 7 + 3) * (y * 8 / h + c + 1) * 37;
                im.px[(y * w + x) * 3 + c] = (uint8_t)(wave % 240 + (noise ? (x + y) % 3 : 0));
            }
    if (image_save(path, &im, NULL, &e)) abort();
    image_free(&im);
}

static void put(const char *dir, const char *name, int w, int h, unsigned seed, int noise,
                const char *caption)
{
    char path[600];
    Err e = {0};
    snprintf(path, sizeof path, "%s/%s.png", dir, name);
    picture(path, w, h, seed, noise);
    snprintf(path, sizeof path, "%s/%s.txt", dir, name);
    if (caption) io_write_file(path, caption, strlen(caption), &e);
}

static int doctor(const char *dir, const char *more, char *out, size_t cap)
{
    char line[2000], err[1000];
    snprintf(line, sizeof line, "doctor %s --resolution 64 %s", dir, more);
    return test_sdc(line, out, err, cap);
}

TEST(doctor_is_content_with_a_good_set)
{
    char dir[600], out[8000];
    Err e = {0};
    snprintf(dir, sizeof dir, "%s/10_cat", test_dir());
    CHECK_OK(io_mkdirs(dir, &e), &e);
    put(dir, "a", 64, 64, 1, 0, "cat, red"), put(dir, "b", 64, 64, 2, 0, "cat, red");
    put(dir, "c", 80, 80, 3, 0, "cat, red"), put(dir, "d", 96, 96, 4, 0, "cat, red");
    CHECK_INT(doctor(test_dir(), "", out, sizeof out), 0);
    CHECK(strstr(out, "4, 40 uses") && strstr(out, "10_cat: 4 pictures x 10"));
    CHECK(strstr(out, "\n0 findings\n"));
}

TEST(doctor_finds_what_is_wrong)
{
    char dir[600], other[600], path[1300], sheet[1200], out[8000];
    Err e = {0};
    snprintf(dir, sizeof dir, "%s/10_cat", test_dir());
    snprintf(other, sizeof other, "%s/1_dog", test_dir());
    CHECK_OK(io_mkdirs(dir, &e), &e);
    CHECK_OK(io_mkdirs(other, &e), &e);
    put(dir, "a", 64, 64, 1, 0, "cat, red"), put(dir, "twin", 64, 64, 1, 0, "cat, red");
    put(dir, "near", 64, 64, 1, 1, "cat, redd"), put(dir, "tiny", 20, 20, 5, 0, "cat");
    put(dir, "wide", 640, 64, 6, 0, " , "), put(other, "bare", 64, 64, 7, 0, NULL);
    snprintf(path, sizeof path, "%s/broken.png", dir);
    CHECK_OK(io_write_file(path, "\x89PNG\r\n", 6, &e), &e);
    snprintf(sheet, sizeof sheet, "%s/sheet.png", test_dir());
    snprintf(path, sizeof path, "--sheet %s", sheet);
    CHECK_INT(doctor(test_dir(), path, out, sizeof out), 0);
    CHECK(strstr(out, "cannot be used") && strstr(out, "broken.png"));
    CHECK(strstr(out, "enlarged for training\n    tiny.png: 20x20, 3.2 times"));
    CHECK(strstr(out, "much to the crop\n    wide.png: 640x64"));
    char *same = strstr(out, "the same picture twice"),
         *near = strstr(out, "nearly the same picture");
    CHECK(same && strstr(same, "a.png and") && strstr(same, "twin.png"));
    CHECK(near && strstr(near, "near.png"));
    CHECK(strstr(out, "no caption file") && strstr(out, "bare.png"));
    CHECK(strstr(out, "empty caption") && strstr(out, "wide.txt"));
    CHECK(strstr(out, "tags of a single picture\n    redd"));
    CHECK(strstr(out, "10_cat is seen"));
    Image im;
    CHECK_OK(image_load(&im, sheet, &e), &e);
    image_free(&im);
}

TEST(doctor_says_what_it_cannot_look_at)
{
    char out[2000];
    CHECK_INT(doctor("/nowhere", "", out, sizeof out), ERR_INPUT);
    CHECK_INT(doctor(test_dir(), "", out, sizeof out), ERR_INPUT);
    CHECK_INT(doctor("a b", "", out, sizeof out), ERR_USAGE);
}
