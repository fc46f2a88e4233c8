/* test_tags.c - tags of many captions: reading, edits, undo, and what a failure leaves. */
#include <stdlib.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "engine/tags.h"
#include "tests/fail.h"
#include "tests/test.h"

static void put(const char *dir, const char *name, const char *text)
{
    char path[600];
    Err e = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (io_write_file(path, text, strlen(text), &e)) test_fail(__FILE__, __LINE__, "%s", e.msg);
}

/* The file's text; "-" when there is none. Good until the next call but three. */
static const char *get(const char *dir, const char *name)
{
    static char ring[4][400];
    static int at;
    char path[600], *text = NULL, *out = ring[at++ % 4];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    Err e = {0};
    if (io_read_text(&text, NULL, path, 300, &e)) return "-";
    snprintf(out, sizeof ring[0], "%s", text);
    mem_free(text);
    return out;
}

/* Three pictures (their bytes are never read), one without a caption. */
static const char *folder(void)
{
    const char *dir = test_dir();
    put(dir, "a.png", ""), put(dir, "b.JPG", ""), put(dir, "c.webp", ""), put(dir, "note.md", "");
    put(dir, "a.txt", "sks cat, red hat,  1girl ,red hat\nsecond line\n");
    put(dir, "b.txt", "\xEF\xBB\xBFsmile,red hat");
    return dir;
}

TEST(tags_edits)
{
    static const struct {
        TagEdit d;
        const char *words[3], *a, *b, *c;
        size_t changed;
    } cases[] = {
        {{.kind = TAGS_ADD}, {"x", "red hat"}, "sks cat, red hat, 1girl, red hat, x",
         "smile, red hat, x", "x, red hat", 3},
        {{.kind = TAGS_ADD, .at_start = 1}, {"x", "y"}, "x, y, sks cat, red hat, 1girl, red hat",
         "x, y, smile, red hat", "x, y", 3},
        {{.kind = TAGS_REMOVE}, {"red hat", "nothing"}, "sks cat, 1girl", "smile", "", 2},
        {{.kind = TAGS_REPLACE}, {"red hat", "hat"}, "sks cat, hat, 1girl", "smile, hat", "", 2},
        {{.kind = TAGS_REPLACE}, {"red hat", "smile"}, "sks cat, smile, 1girl", "smile", "", 2},
        {{.kind = TAGS_REPLACE}, {"red hat", ""}, "sks cat, 1girl", "smile", "", 2},
        {{.kind = TAGS_FIRST}, {"1girl", "z", "1girl"}, "1girl, z, sks cat, red hat, red hat",
         "1girl, z, smile, red hat", "1girl, z", 3},
        {{.kind = TAGS_DEDUPE}, {0}, "sks cat, red hat, 1girl", "smile, red hat", "", 1},
        {{.kind = TAGS_SORT}, {0}, "1girl, red hat, red hat, sks cat", "red hat, smile", "", 2},
        {{.kind = TAGS_SORT, .keep = 1}, {0}, "sks cat, 1girl, red hat, red hat",
         "smile, red hat", "", 1},
        {{.kind = TAGS_SORT, .by_count = 1}, {0}, "red hat, red hat, 1girl, sks cat",
         "red hat, smile", "", 2},
        {{.kind = TAGS_ADD, .having = "smile"}, {"x"}, "sks cat, red hat, 1girl, red hat",
         "smile, red hat, x", "", 1},
        {{.kind = TAGS_ADD, .lacking = "smile"}, {"x"}, "sks cat, red hat, 1girl, red hat, x",
         "smile, red hat", "x", 2},
    };
    const char *dir = folder();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *want[3] = {cases[i].a, cases[i].b, cases[i].c};
        TagEdit d = cases[i].d;
        TagFolder t;
        Err e = {0};
        size_t changed;
        d.words = cases[i].words;
        while (d.word_count < 3 && d.words[d.word_count]) d.word_count++;
        CHECK_OK(tags_open(&t, dir, NULL, 0, &e), &e);
        CHECK_INT(t.count, 3);
        CHECK_OK(tags_edit(&t, &d, &changed, &e), &e);
        for (int k = 0; k < 3; k++) {
            char *text = tags_text(&t.files[k]);
            text[strcspn(text, "\n")] = 0;
            if (strcmp(text, want[k]))
                test_fail(__FILE__, __LINE__, "case %zu, file %d: \"%s\"", i, k, text);
            mem_free(text);
        }
        CHECK_INT(changed, cases[i].changed);
        tags_close(&t);
    }
}

TEST(tags_refuses_words)
{
    static const char *const bad[] = {"", "a,b", " a", "a ", "a\nb"};
    TagFolder t;
    Err e = {0};
    CHECK_OK(tags_open(&t, folder(), NULL, 0, &e), &e);
    for (size_t i = 0; i < 5; i++) {
        size_t changed;
        TagEdit d = {.kind = TAGS_ADD, .words = bad + i, .word_count = 1};
        e = (Err){0};
        CHECK_INT(tags_edit(&t, &d, &changed, &e), ERR_USAGE);
    }
    tags_close(&t);
}

TEST(tags_counts)
{
    TagFolder t;
    TagCount *c;
    size_t n;
    Err e = {0};
    CHECK_OK(tags_open(&t, folder(), NULL, 0, &e), &e);
    CHECK_OK(tags_count(&t, &c, &n, &e), &e);
    CHECK_INT(n, 4);
    CHECK_STR(c[0].tag, "red hat");
    CHECK_INT(c[0].count, 2);                     /* captions, not occurrences */
    CHECK_STR(c[1].tag, "1girl");
    mem_free(c);
    tags_close(&t);
}

static int tags(const char *dir, const char *args)
{
    char line[700], err[1000];
    snprintf(line, sizeof line, "tags %s %s", dir, args);
    return test_sdc(line, NULL, err, sizeof err);
}

TEST(tags_command_and_undo)
{
    const char *dir = folder(), *a = "sks cat, red hat,  1girl ,red hat\nsecond line\n";
    CHECK_INT(tags(dir, "add x --dry-run"), 0);
    CHECK_STR(get(dir, "a.txt"), a);
    CHECK_INT(tags(dir, "add x"), 0);
    CHECK_STR(get(dir, "a.txt"), "sks cat, red hat, 1girl, red hat, x\nsecond line\n");
    CHECK_STR(get(dir, "c.txt"), "x");
    CHECK_INT(tags(dir, "replace 'red hat' hut"), 0);
    CHECK_STR(get(dir, "b.txt"), "smile, hut, x");
    put(dir, "b.txt", "mine");                    /* edited since: stays */
    CHECK_INT(tags(dir, "undo"), 0);
    CHECK_STR(get(dir, "a.txt"), "sks cat, red hat, 1girl, red hat, x\nsecond line\n");
    CHECK_STR(get(dir, "b.txt"), "mine");
    CHECK_INT(tags(dir, "undo"), 0);
    CHECK_STR(get(dir, "a.txt"), a);
    CHECK_STR(get(dir, "c.txt"), "-");            /* there was none */
    CHECK_INT(tags(dir, "undo"), ERR_INPUT);
    CHECK_INT(tags(dir, "sort extra"), ERR_USAGE);
    CHECK_INT(tags(dir, "replace one"), ERR_USAGE);
    CHECK_INT(tags(dir, "ad x"), ERR_USAGE);
    CHECK_INT(tags("/nowhere", "list"), ERR_INPUT);
}

/* Whichever write fails, undo leads back, or nothing was changed. */
TEST(tags_failed_save_can_be_undone)
{
    const char *dir = folder(), *word = "x";
    TagEdit d = {.kind = TAGS_ADD, .words = &word, .word_count = 1};
    char before[3][64];
    static const char *const names[3] = {"a.txt", "b.txt", "c.txt"};
    for (int k = 0; k < 3; k++) snprintf(before[k], sizeof before[k], "%s", get(dir, names[k]));
    int failed = 0, undone = 0;
    for (long n = 1; n <= 4 * 3; n++) {           /* a write, a sync and the folder's, 4 files */
        TagFolder t;
        Err e = {0};
        size_t changed, restored, skipped;
        char *what;
        CHECK_OK(tags_open(&t, dir, NULL, 0, &e), &e);
        CHECK_OK(tags_edit(&t, &d, &changed, &e), &e);
        fail_io(n);
        failed += tags_save(&t, "add", &e) != 0;
        fail_io(0);
        tags_close(&t);
        e = (Err){0};
        undone += !tags_undo(dir, &what, &restored, &skipped, &e);
        mem_free(what);
        CHECK_INT(skipped, 0);
        for (int k = 0; k < 3; k++) CHECK_STR(get(dir, names[k]), before[k]);
    }
    CHECK_INT(failed, 4 * 2);                     /* a folder that cannot be synced is no failure */
    CHECK_INT(undone, 4 * 3 - 2);                 /* all but those of the undo file itself */
}

TEST(tags_undo_file_is_not_trusted)
{
    static const char *const bad[] = {
        "{}", "[", "[{\"files\": [{\"path\": \"../x\", \"before\": null, \"after\": \"\"}]}]",
        "[{\"files\": [{\"path\": \"/etc/x\", \"before\": null, \"after\": \"\"}]}]",
        "[{\"files\": [{\"path\": \"a/../../x\", \"before\": null, \"after\": \"\"}]}]",
        "[{\"files\": [{\"before\": null, \"after\": \"\"}]}]",
    };
    const char *dir = folder();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put(dir, ".sdc_tags_undo.json", bad[i]);
        CHECK_INT(tags(dir, "undo"), ERR_INPUT);
    }
}

TEST(tags_recursive)
{
    const char *dir = folder();
    char sub[600];
    Err e = {0};
    snprintf(sub, sizeof sub, "%s/10_cat", dir);
    CHECK_OK(io_mkdirs(sub, &e), &e);
    put(sub, "d.bmp", ""), put(sub, "d.txt", "cat");
    CHECK_INT(tags(dir, "first sks"), 0);
    CHECK_STR(get(sub, "d.txt"), "cat");
    CHECK_INT(tags(dir, "first sks -r"), 0);
    CHECK_STR(get(sub, "d.txt"), "sks, cat");
    CHECK_INT(tags(dir, "undo"), 0);
    CHECK_STR(get(sub, "d.txt"), "cat");
}

/* What a long run writes in several goes is one step to take back. */
TEST(tags_put_and_saved_twice_is_undone_at_once)
{
    const char *dir = folder();
    TagFolder t;
    Err e = {0};
    char *what;
    size_t restored, skipped;
    CHECK_OK(tags_open(&t, dir, NULL, 0, &e), &e);
    tags_put(&t.files[0], mem_strdup("one | two\n"));
    CHECK(tags_changed(&t.files[0]) && !tags_changed(&t.files[2]));
    CHECK_OK(tags_save(&t, "tag", &e), &e);
    CHECK(!tags_changed(&t.files[0]));
    tags_put(&t.files[2], mem_strdup("three\n"));
    CHECK_OK(tags_save(&t, "tag", &e), &e);
    tags_close(&t);
    CHECK_STR(get(dir, "a.txt"), "one | two\n");
    CHECK_STR(get(dir, "c.txt"), "three\n");
    CHECK_OK(tags_undo(dir, &what, &restored, &skipped, &e), &e);
    CHECK_STR(what, "tag");
    mem_free(what);
    CHECK_INT(restored, 2);
    CHECK_INT(skipped, 0);
    CHECK_STR(get(dir, "a.txt"), "sks cat, red hat,  1girl ,red hat\nsecond line\n");
    CHECK_STR(get(dir, "c.txt"), "-");
}
