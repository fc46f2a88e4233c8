/* test_judge.c - sample pictures of a training, judged by a tagger. */
#include <stdlib.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "tests/fixture.h"
#include "tests/test.h"

static char out[8192], err[8192], args[2048];

static int train(const char *more)
{
    snprintf(args, sizeof args,
             "train -m %s -d %s -o %s --output_name x --resolution 64 --network_dim 2 --threads 1 "
             "--seed 5 --max_train_steps 1 --sample_every_n_steps 1 --sample_prompts %s %s",
             fixture_model(), test_path("data"), test_path("o"), test_path("p.txt"), more);
    return test_sdc(args, out, err, sizeof out);
}

static int prompts(const char *text)
{
    Err e = {0};
    return io_write_file(test_path("p.txt"), text, strlen(text), &e);
}

/* How many of the tags sdc tag finds in the sample whose name ends so. */
static int count(const char *picture, const char *const *tags)
{
    char *line = strstr(out, picture), text[600];
    int n = 0;
    snprintf(text, sizeof text, "%.*s,", line ? (int)strcspn(line, "\n") : 0, line ? line : "");
    for (; *tags; tags++) {
        char tag[40];
        snprintf(tag, sizeof tag, " %s,", *tags);
        n += strstr(text, tag) != NULL;
    }
    return n;
}

TEST(judge_counts_what_sdc_tag_finds)
{
    static const char *const first[] = {"1girl", "long_hair", "solo", NULL},
                             *const second[] = {"hatsune_miku", "cat_ears", NULL};
    Err e = {0};
    double share[2];
    CHECK(fixture_model());
    CHECK_OK(fixture_data(test_path("data"), &e), &e);
    /* once each, without weights and what is not wanted; between commas, or as words */
    CHECK_INT(prompts("a (1girl:1.2), Long Hair, solo, 1girl [saber_(fate):-1], x --s 2 --d 5\n"
                      "Hatsune_Miku and (cat_ears) --s 2 --d 6\nnothing --s 2 --d 7\n"), 0);
    for (int i = 0; i < 2; i++) {
        char *log, more[100];
        snprintf(more, sizeof more, "--tagger tests/golden/tagger/%s", i ? "fc" : "wd");
        CHECK_INT(train(more), 0);
        CHECK_OK(io_read_text(&log, NULL, test_path("o/x.jsonl"), 1 << 20, &e), &e);
        const char *at = strstr(log, "samples/prompt_tags_found\": ");
        share[i] = at ? strtod(strchr(at, ' '), NULL) : -1;
        mem_free(log);
        snprintf(args, sizeof args, "tag %s %s --dry_run --threads 1", test_path("o/sample"), more);
        CHECK_INT(test_sdc(args, out, err, sizeof out), 0);
        CHECK_NEAR(share[i], (count("_00_5.png", first) + count("_01_6.png", second)) / 5., 1e-6);
    }
    CHECK(share[0] != share[1]);
    char *report;
    CHECK_OK(io_read_text(&report, NULL, test_path("o/x-report.html"), 1 << 22, &e), &e);
    int said = strstr(report, "prompt tags found") && strstr(report, "that a tagger finds in them");
    mem_free(report);
    CHECK(said);
    CHECK_INT(prompts("nothing --s 2\n"), 0);
    CHECK_INT(train("--tagger tests/golden/tagger/wd"), 0);
    CHECK(strstr(err, "none of its tags is in the sample prompts"));
    CHECK_INT(train("--tagger nowhere"), 3);
    CHECK(strstr(err, "nowhere"));
}
