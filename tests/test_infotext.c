/* test_infotext.c - A1111's parameters text, both ways. */
#include <stdlib.h>

#include "engine/infotext.h"
#include "engine/mem.h"
#include "tests/fail.h"
#include "tests/test.h"

/* Parses s; a zeroed Infotext when that fails. */
static Infotext parse(const char *s)
{
    Infotext t;
    Err e = {0};
    if (infotext_parse(&t, s, strlen(s), &e)) test_fail(__FILE__, __LINE__, "%s", e.msg);
    return t;
}

static const char *get(const Infotext *t, const char *key)
{
    const char *v = infotext_get(t, key);
    return v ? v : "(none)";
}

TEST(infotext_parses_a1111)
{
    Infotext t = parse(
        "  a (cat:1.2), <lora:fluffy:0.7>  \nsecond: line, here\n"
        "Negative prompt: blurry,\n bad: hands \n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 123, "
        "Size: 512x768, Model hash: 6ce0161689, Model: v1-5-pruned, "
        "Lora hashes: \"fluffy: 0123456789ab, big one: ba9876543210\", TI hashes: , "
        "Hires prompt: \"say \\\"hi\\\",\\n\\u732b\", Version: v1.10.1");
    CHECK_STR(t.prompt, "a (cat:1.2), <lora:fluffy:0.7>\nsecond: line, here");
    CHECK_STR(t.negative, "blurry,\nbad: hands");
    CHECK_INT(t.count, 11);
    CHECK_STR(t.fields[0].key, "Steps");
    CHECK_STR(get(&t, "Schedule type"), "Karras");
    CHECK_STR(get(&t, "Model"), "v1-5-pruned");
    CHECK_STR(get(&t, "Hires prompt"), "say \"hi\",\n\xe7\x8c\xab");
    CHECK_STR(get(&t, "TI hashes"), "(none)");
    int w, h;
    CHECK(infotext_get_pair(&t, "Size", &w, &h));
    CHECK_INT(w, 512);
    CHECK_INT(h, 768);
    CHECK(!infotext_get_pair(&t, "Seed", &w, &h));
    const char *list = get(&t, "Lora hashes"), *name, *hash;
    size_t nn, hn;
    CHECK(infotext_next_hash(&list, &name, &nn, &hash, &hn));
    CHECK(nn == 6 && !memcmp(name, "fluffy", 6) && hn == 12 && !memcmp(hash, "0123456789ab", 12));
    CHECK(infotext_next_hash(&list, &name, &nn, &hash, &hn));
    CHECK(nn == 7 && !memcmp(name, "big one", 7));
    CHECK(!infotext_next_hash(&list, &name, &nn, &hash, &hn));
    infotext_free(&t);
}

TEST(infotext_splits_old_samplers)
{
    static const char *const cases[][3] = {
        {"DPM++ 2M Karras", "DPM++ 2M", "Karras"},
        {"DPM++ 2M SDE Exponential", "DPM++ 2M SDE", "Exponential"},
        {"Euler sgm_uniform", "Euler", "SGM Uniform"},
        {"Euler a", "Euler a", "(none)"},
        {"DDIM", "DDIM", "(none)"},
        {"Karras", "Karras", "(none)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char s[200];
        snprintf(s, sizeof s, "x\nSteps: 20, Sampler: %s, CFG scale: 7", cases[i][0]);
        Infotext t = parse(s);
        CHECK_STR(get(&t, "Sampler"), cases[i][1]);
        CHECK_STR(get(&t, "Schedule type"), cases[i][2]);
        infotext_free(&t);
    }
}

TEST(infotext_last_line_may_be_prompt)
{
    Infotext t = parse("a cat\nSteps: 20, Sampler: Euler");
    CHECK_STR(t.prompt, "a cat\nSteps: 20, Sampler: Euler");
    CHECK_INT(t.count, 0);
    infotext_free(&t);
    t = parse("Steps: 20, Sampler: Euler, Seed: 1");        /* nothing but fields */
    CHECK_STR(t.prompt, "");
    CHECK_INT(t.count, 3);
    infotext_free(&t);
    t = parse("Negative prompt: no\nSteps: 20, Sampler: Euler, Seed: 1");
    CHECK_STR(t.prompt, "");
    CHECK_STR(t.negative, "no");
    infotext_free(&t);
    t = parse("");
    CHECK_STR(t.prompt, "");
    infotext_free(&t);
}

TEST(infotext_parses_as_the_regex)
{
    /* Expected values are those of Python's re with A1111's pattern. */
    Infotext t = parse(
        "p\nab: \"x, y\" z, 1, k: v, k: w, Steps: , : q, a/b-c d: 1:2, dup: 1, dup: 2, "
        "\xe7\x8c\xab\xe7\x8c\xab: neko, bad: \"\\x\", open: \"a, e\xe2\x80\x94m ab: 5, "
        "end: \"\\u00e9\"");
    CHECK_STR(get(&t, "ab"), "\"x");                          /* text after the quote */
    CHECK_STR(get(&t, "m ab"), "5");                         /* a dash is no letter */
    CHECK_STR(get(&t, "k"), "(none)");                       /* one letter is no key */
    CHECK_STR(get(&t, "Steps"), "(none)");
    CHECK_STR(get(&t, "a/b-c d"), "1:2");
    CHECK_STR(get(&t, "dup"), "2");
    CHECK_STR(get(&t, "\xe7\x8c\xab\xe7\x8c\xab"), "neko");
    CHECK_STR(get(&t, "bad"), "\"\\x\"");                    /* no JSON: as it stands */
    CHECK_STR(get(&t, "open"), "\"a");
    CHECK_STR(get(&t, "end"), "\xc3\xa9");
    infotext_free(&t);
}

TEST(infotext_formats_a1111)
{
    Infotext t = {0};
    Err e = {0};
    char *s;
    CHECK_OK(infotext_set_prompt(&t, " a cat, <lora:x:1>", "bad", &e), &e);
    infotext_set(&t, "Version", "sdc 1", &e);
    infotext_set(&t, "Lora hashes", "x: 0123456789ab", &e);
    infotext_set(&t, "Size", "512x512", &e);
    infotext_set_number(&t, "CFG scale", 7, &e);
    infotext_set_number(&t, "Denoising strength", 0.35, &e);
    infotext_set_number(&t, "Eta", 0.1234567, &e);
    infotext_set(&t, "Sampler", "Euler a", &e);
    infotext_set(&t, "Steps", "20", &e);
    infotext_set(&t, "Note", "tab\t \"q\" \\ \xe7\x8c\xab,\nline", &e);
    infotext_set(&t, "Tiling", "Tiling", &e);
    infotext_set_number(&t, "Seed", 4294967295.0, &e);
    infotext_set_number(&t, "Steps", 25, &e);
    CHECK_OK(e.code, &e);
    CHECK_OK(infotext_format(&s, &t, &e), &e);
    CHECK_STR(s, "a cat, <lora:x:1>\nNegative prompt: bad\n"
                 "Steps: 25, Sampler: Euler a, CFG scale: 7, Seed: 4294967295, Size: 512x512, "
                 "Denoising strength: 0.35, Tiling, Lora hashes: \"x: 0123456789ab\", "
                 "Eta: 0.1234567, "
                 "Note: \"tab\\t \\\"q\\\" \\\\ \xe7\x8c\xab,\\nline\", Version: sdc 1");
    Infotext back = parse(s);
    CHECK_STR(get(&back, "Note"), infotext_get(&t, "Note"));
    CHECK_STR(back.prompt, "a cat, <lora:x:1>");
    CHECK_INT(back.count, t.count - 1);                      /* "Tiling" alone is no field */
    mem_free(s);
    infotext_free(&t);
    infotext_free(&back);
    t = (Infotext){0};
    infotext_set_prompt(&t, "only", "", &e);
    CHECK_OK(infotext_format(&s, &t, &e), &e);
    CHECK_STR(s, "only");
    mem_free(s);
    infotext_free(&t);
}

TEST(infotext_is_bounded)
{
    size_t n = 200000;
    char *s = malloc(n + 1);
    Infotext t;
    Err e = {0};
    memset(s, 'a', n);                                       /* one run, no colon: linear */
    CHECK_OK(infotext_parse(&t, s, n, &e), &e);
    infotext_free(&t);
    for (size_t i = 0; i + 8 <= n; i += 8) {
        char field[16];
        snprintf(field, sizeof field, "%05d:1,", (int)(i / 8));
        memcpy(s + i, field, 8);
    }
    CHECK_INT(infotext_parse(&t, s, n, &e), ERR_INPUT);
    free(s);
    Err e2 = {0};
    CHECK_INT(infotext_parse(&t, "", INFOTEXT_MAX + 1u, &e2), ERR_INPUT);
}

TEST(infotext_survives_no_memory)
{
    static const char s[] = "p\nNegative prompt: n\nSteps: 20, Sampler: Euler Karras, Seed: \"a\"";
    int rc = 1;
    for (long n = 1; rc && n < 100; n++) {
        Infotext t;
        Err e = {0};
        fail_mem(n);
        rc = infotext_parse(&t, s, sizeof s - 1, &e);
        fail_mem(0);
        CHECK(!rc || e.code == ERR_MEMORY);
        infotext_free(&t);
    }
    CHECK_INT(rc, 0);
}
