/* test_lrsched.c - learning rate schedules against those that kohya calls (tests/data/lrsched). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io.h"
#include "engine/lrsched.h"
#include "engine/mem.h"
#include "tests/test.h"

/* One line of expected.txt: a schedule, a colon, the factors of its steps and three more. */
static int same(char *line, LrSched *s)
{
    char name[40], rules[80];
    Err e = {0};
    int n = sscanf(line, "%39s %d %d %d %d %d %lf %lf %lf %lf %79s", name, &s->warmup, &s->total,
                   &s->decay, &s->timescale, &s->cycles, &s->power, &s->lr, &s->min_ratio,
                   &s->lr_end, rules);
    char *at = strchr(line, ':');
    for (; at && at[-1] != ' '; at = strchr(at + 1, ':')) {}
    if (n != 11 || !at || lrsched_find(&s->kind, name, &e)) return 0;
    if (*rules != '-' && lrsched_rules(s, rules, &e)) return 0;
    if (lrsched_check(s, &e)) return 0;
    for (int k = 0; k < s->total + 3; k++) {
        double want = strtod(++at, &at), have = lrsched_factor(s, k);
        /* past its end restarts begin anew there, and linear and cosine stay at 0 as here */
        if (k > s->total && s->kind != LRSCHED_CONSTANT_WITH_WARMUP) continue;
        if (!(fabs(have - want) <= 1e-12))
            return test_fail(__FILE__, __LINE__, "%s: step %d is %.15g, not %.15g", name, k, have,
                             want),
                   0;
    }
    return 1;
}

TEST(lrsched_agrees_with_transformers)
{
    char *text;
    Err e = {0};
    int lines = 0, seen[LRSCHED_KINDS] = {0};
    CHECK_OK(io_read_text(&text, NULL, "tests/data/lrsched/expected.txt", 1 << 16, &e), &e);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        LrSched s = {0};
        if (!same(line, &s)) test_fail(__FILE__, __LINE__, "line %d differs", lines + 1);
        seen[s.kind] = 1;
    }
    mem_free(text);
    CHECK_INT(lines, 16);
    for (int k = 0; k < LRSCHED_KINDS; k++)
        if (!seen[k] && k != LRSCHED_ADAFACTOR)
            test_fail(__FILE__, __LINE__, "%s has no line", lrsched_name(k));
}

TEST(lrsched_rules_are_checked)
{
    static const char *const bad[] =
        {"",          "1:3",
         "1:3,",      "a:3,1",
         "1:0,1",     "1:3,2:3,1",
         "1:3,2:2,1", "-1",
         "1:2.5,1",   "1;2",
         "nan",       "1:1,1:2,1:3,1:4,1:5,1:6,1:7,1:8,1:9,1:10,1:11,1:12,1:13,1:14,1:15,1:16,2"};
    LrSched s = {.kind = LRSCHED_PIECEWISE_CONSTANT, .total = 9};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Err e = {0};
        CHECK_INT(lrsched_rules(&s, bad[i], &e), ERR_USAGE);
        CHECK_INT(lrsched_check(&s, &e), ERR_USAGE);
    }
    Err e = {0};
    CHECK_OK(lrsched_rules(&s, "0.5", &e), &e);
    CHECK_OK(lrsched_check(&s, &e), &e);
    CHECK_NEAR(lrsched_factor(&s, 1000), 0.5, 0);
}

TEST(lrsched_refuses)
{
    static const LrSched bad[] = {
        {.kind = LRSCHED_CONSTANT, .warmup = 3, .total = 10, .cycles = 1, .power = 1, .lr = 1e-4},
        {.kind = LRSCHED_LINEAR, .warmup = -1, .total = 10, .cycles = 1, .power = 1, .lr = 1e-4},
        {.kind = LRSCHED_LINEAR, .warmup = 0, .total = 0, .cycles = 1, .power = 1, .lr = 1e-4},
        {.kind = LRSCHED_COSINE_WITH_RESTARTS,
         .warmup = 0,
         .total = 10,
         .cycles = 0,
         .power = 1,
         .lr = 1e-4},
        {.kind = LRSCHED_POLYNOMIAL, .warmup = 0, .total = 10, .cycles = 1, .power = 0, .lr = 1e-4},
        {.kind = LRSCHED_POLYNOMIAL, .warmup = 0, .total = 10, .cycles = 1, .power = 1, .lr = 1e-8},
        {.kind = LRSCHED_POLYNOMIAL,
         .warmup = 0,
         .total = 10,
         .cycles = 1,
         .power = NAN,
         .lr = 1e-4},
        {.kind = LRSCHED_POLYNOMIAL, .warmup = 0, .total = 10, .cycles = 1, .power = 1, .lr = NAN},
        {.kind = LRSCHED_COSINE_WITH_MIN_LR, .total = 9, .cycles = 1, .min_ratio = NAN},
        {.kind = LRSCHED_COSINE_WITH_MIN_LR, .total = 9, .cycles = 1, .min_ratio = 2},
        {.kind = LRSCHED_WARMUP_STABLE_DECAY, .total = 9, .cycles = 1, .warmup = 5, .decay = 5},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Err e = {0};
        CHECK_INT(lrsched_check(&bad[i], &e), ERR_USAGE);
        CHECK(strstr(e.msg, "learning rate schedule"));
    }
    LrKind k;
    Err e = {0};
    for (int i = 0; i < LRSCHED_KINDS; i++) {
        CHECK_OK(lrsched_find(&k, lrsched_name(i), &e), &e);
        CHECK_INT(k, i);
    }
    CHECK(!lrsched_name(LRSCHED_KINDS) && !lrsched_name(-1));
    CHECK_INT(lrsched_find(&k, "cosin", &e), ERR_USAGE);
    CHECK(strstr(e.msg, "\"cosin\"") && strstr(e.msg, "cosine_with_restarts"));
    LrSched late =
        {.kind = LRSCHED_LINEAR, .warmup = 9, .total = 5, .cycles = 1, .power = 1, .lr = 1e-4};
    CHECK_NEAR(lrsched_factor(&late, 2000000000), 0, 0);
}
