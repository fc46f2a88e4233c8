/* test_runlog.c - the log of a run: lines, TensorBoard's records, and resuming. */
#include <dirent.h>
#include <stdlib.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "engine/runlog.h"
#include "tests/test.h"

TEST(runlog_crc_is_castagnolis)
{
    CHECK_INT(runlog_crc("123456789", 9), 0xe3069283u);     /* RFC 3720, B.4 */
    uint8_t zeros[32] = {0};
    CHECK_INT(runlog_crc(zeros, 32), 0x8a9136aau);
}

static char *read_lines(const RunLog *l)
{
    char *text = NULL;
    Err e = {0};
    io_read_text(&text, NULL, l->lines, 1 << 20, &e);
    return text;
}

static int steps_are(const RunLog *l, const char *want)
{
    char *text = read_lines(l), got[200] = "";
    for (char *at = text; at && *at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL) {
        int step = -1;
        sscanf(at, "{\"step\": %d,", &step);
        snprintf(got + strlen(got), sizeof got - strlen(got), "%d ", step);
    }
    mem_free(text);
    if (strcmp(got, want)) test_fail(__FILE__, __LINE__, "steps %s, not %s", got, want);
    return !strcmp(got, want);
}

TEST(runlog_lines_follow_the_state)
{
    RunLog l;
    Err e = {0};
    RunScalar s[] = {{"loss/current", 0.25}, {"lr/unet", 1e-4}, {"grad", NAN}};
    CHECK_OK(runlog_open(&l, test_dir(), "x", test_dir(), 0, &e), &e);
    for (uint32_t i = 1; i <= 4; i++) CHECK_OK(runlog_step(&l, i, s, 3, &e), &e);
    char *text = read_lines(&l);
    CHECK(strstr(text, "\"loss/current\": 0.25, \"lr/unet\": 0.0001}\n"));
    mem_free(text);
    CHECK_OK(io_append(l.lines, "{\"step\": 5, \"ti", 15, &e), &e);    /* killed here */
    runlog_close(&l);
    CHECK_OK(runlog_open(&l, test_dir(), "x", test_dir(), 3, &e), &e); /* from the state of 3 */
    CHECK_OK(runlog_step(&l, 4, s, 3, &e), &e);
    CHECK(steps_are(&l, "1 2 3 4 "));
    runlog_close(&l);
    CHECK_OK(runlog_open(&l, test_dir(), "x", test_dir(), 0, &e), &e);              /* begun anew */
    CHECK(steps_are(&l, ""));
    runlog_close(&l);
}

static uint64_t le(const uint8_t *p, int n)
{
    uint64_t v = 0;
    for (int i = n; i--;) v = v << 8 | p[i];
    return v;
}

/* The bytes of one event with two numbers, taken apart by hand. */
TEST(runlog_records_are_tensorboards)
{
    RunLog l;
    Err e = {0};
    IoMap m;
    RunScalar s[] = {{"a", 0.5}, {"bc", -2}};
    CHECK_OK(runlog_open(&l, test_dir(), "x", test_dir(), 0, &e), &e);
    CHECK_OK(runlog_step(&l, 300, s, 2, &e), &e);
    CHECK_OK(io_map(&m, l.events, &e), &e);
    size_t records = 0, at = 0;
    for (; at + 12 <= m.size; records++) {
        const uint8_t *p = m.data + at;
        size_t n = (size_t)le(p, 8);
        uint32_t c = runlog_crc(p, 8), d = runlog_crc(p + 12, n);
        CHECK_INT(le(p + 8, 4), (uint32_t)((c >> 15 | c << 17) + 0xa282ead8u));
        CHECK_INT(le(p + 12 + n, 4), (uint32_t)((d >> 15 | d << 17) + 0xa282ead8u));
        static const uint8_t second[] = {2 << 3, 0xac, 0x02, 5 << 3 | 2, 21,
            1 << 3 | 2, 8, 1 << 3 | 2, 1, 'a', 2 << 3 | 5, 0, 0, 0, 0x3f,
            1 << 3 | 2, 9, 1 << 3 | 2, 2, 'b', 'c', 2 << 3 | 5, 0, 0, 0, 0xc0};
        if (records == 0) CHECK(!memcmp(p + 12 + 11, "\x1a\x0d" "brain.Event:2", 15));
        else CHECK(n == 9 + sizeof second && !memcmp(p + 12 + 9, second, sizeof second));
        at += 16 + n;
    }
    CHECK_INT(records, 2);
    CHECK_INT(at, m.size);
    io_unmap(&m);
    runlog_close(&l);
}

TEST(runlog_says_where_it_cannot_write)
{
    RunLog l;
    Err e = {0};
    CHECK(runlog_open(&l, "/proc/nothing", "x", "/proc/nothing", 0, &e) != 0);
    CHECK(strstr(e.msg, "/proc/nothing"));
}
