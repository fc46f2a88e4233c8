/* test_report.c - the report of a run: whole, self-contained, and text stays text. */
#include <stdlib.h>

#include "engine/image.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "engine/runlog.h"
#include "tests/fail.h"
#include "tests/test.h"
#include "engine/report.h"

static char png[600], html[600], lines[600];

static void make_inputs(void)
{
    Image im;
    RunLog l;
    Err e = {0};
    snprintf(png, sizeof png, "%s/p.png", test_dir());
    snprintf(html, sizeof html, "%s/report.html", test_dir());
    snprintf(lines, sizeof lines, "%s/x.jsonl", test_dir());
    if (image_new(&im, 8, 8, 3, &e) || runlog_open(&l, test_dir(), "x", test_dir(), 0, &e)) abort();
    memset(im.px, 200, 192);
    if (image_save(png, &im, NULL, &e)) abort();
    image_free(&im);
    if (runlog_step(&l, 0, &(RunScalar){"samples/near", 2}, 1, &e)) abort();
    for (uint32_t i = 1; i <= 2000; i++) {
        RunScalar s[] = {{"loss/current", 1.0 / i}, {"loss/average", 2.0 / i}, {"lr/unet", 1e-4}};
        if (runlog_step(&l, i, s, 3, &e)) abort();
    }
    runlog_close(&l);
}

static int count(const char *text, const char *what)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, what)); at++) n++;
    return n;
}

TEST(report_has_everything_inside)
{
    Err e = {0};
    make_inputs();
    ReportRow rows[] = {{"rank", "16", "a <b>style</b> & more"},
                        {"seed", "1", NULL},
                        {"unset", "2", "so"}};
    const char *const names[] = {"\"0.4\"", "1"}, *const paths[] = {png, "/nowhere.png"};
    ReportGrid grid = {"Samples", NULL, names, names, paths, 1, 2};
    ReportThumb thumb = {.caption = "a cat's \"hat\""};
    ReportBar tags[] = {{"cat", 4}, {"<i>", 1}};
    CHECK_OK(image_load(&thumb.image, png, &e), &e);
    Report r = {.title = "run <1>",
                .command = "sdc train -m 'x y'",
                .verdict = "fine",
                .rows = rows,
                .row_count = 3,
                .unset = 1,
                .log = lines,
                .grids = &grid,
                .grid_count = 1,
                .data = "5 pictures",
                .thumbs = &thumb,
                .thumb_count = 1,
                .tags = tags,
                .tag_count = 2,
                .figures = rows,
                .figure_count = 1};
    int rc = report_write(html, &r, &e);
    image_free(&thumb.image);
    CHECK_INT(rc, 0);
    char *text;
    CHECK_OK(io_read_text(&text, NULL, html, 1 << 22, &e), &e);
    CHECK_INT(count(text, "<svg"), 3); /* loss, the wide one, leads; samples, lr */
    CHECK_INT(count(text, "<figure class=wide>"), 1);
    CHECK(strstr(text, "loss/current") &&
          strstr(text, "loss/current") < strstr(text, "samples/near"));
    CHECK_INT(count(text, "<img"), 2);
    CHECK_INT(count(text, "http"), 0);                    /* asks nobody */
    CHECK(strstr(text, "a &#60;b&#62;style&#60;/b&#62; &#38; more"));
    CHECK(strstr(text, "run &#60;1&#62;</h1>") && !strstr(text, "run <1>"));
    CHECK(strstr(text, "base64,/9j/"));                   /* a JPEG's first bytes */
    CHECK(strstr(text, "title=\"a cat&#39;s &#34;hat&#34;\"") &&
          strstr(text, "<td>&#60;i&#62;<td>"));
    CHECK(strstr(text, "<summary>1 settings") && strstr(text, "<th>&#34;0.4&#34;"));
    CHECK(count(text, "L") < 4 * 700);                    /* 2000 steps are thinned */
    mem_free(text);
}

TEST(report_survives_a_strange_log_and_a_full_disk)
{
    Err e = {0};
    static const char odd[] =
        "not json\n{\"step\": 1, \"loss/a\": 1}\n[]\n{\"step\": 2, \"loss/a\": "
        "\"x\", \"time\": 3}\n{\"step\": 3, \"loss/a\": 2}\n{\"st";
    make_inputs();
    CHECK_OK(io_write_file(lines, odd, sizeof odd - 1, &e), &e);
    Report r = {.title = "t", .log = lines};
    CHECK_OK(report_write(html, &r, &e), &e);
    char *text;
    CHECK_OK(io_read_text(&text, NULL, html, 1 << 22, &e), &e);
    CHECK_INT(count(text, "<svg"), 1);
    mem_free(text);
    for (long n = 1; n < 5; n++) {
        e = (Err){0};
        fail_io(n);
        CHECK(report_write(html, &r, &e) != 0);
        fail_io(0);
    }
    CHECK_INT(io_exists(html), 1);                        /* the old one */
}
