/* test_tag.c - `sdc tag`: which tags are picked, in what order, and what it writes. */
#include <stdlib.h>

#include "engine/captiontags.h"
#include "engine/image.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "engine/tagpick.h"
#include "tests/fail.h"
#include "tests/test.h"

/* ---- picking -------------------------------------------------------------------- */

static const struct { const char *name; int category; float p; } known[] = {
    {"general", 9, 0.2f},      {"explicit", 9, 0.7f},      {"1girl", 0, 0.9f},
    {"long_hair", 0, 0.5f},
    {"o_o", 0, 0.6f},          {"cat_ears", 0, 0.35f},     {"a,b", 0, 0.8f},    {"rare", 0, 0.1f},
    {"miku_(vocaloid)", 4, 0.9f}, {"saber_(alter)_(fate)", 4, 0.86f}, {"someone", 4, 0.5f},
};
enum { KNOWN = sizeof known / sizeof *known };

static int list_of(TagList *t, float prob[KNOWN], Err *e)
{
    *t = (TagList){0};
    for (int i = 0; i < KNOWN; i++) {
        TRY(taglist_add(t, known[i].name, known[i].category, 10, e));
        prob[i] = known[i].p;
    }
    return 0;
}

/* The caption under c, "" after a failure, whose code is *rc. */
static const char *caption(const TagPickConfig *c, const char *existing, int *rc, Err *e)
{
    static char text[500];
    float prob[KNOWN];
    TagList t;
    TagPick p;
    TagPickConfig full = *c;
    char *s = NULL;
    for (int i = 0; i < TAG_CATEGORIES; i++) full.threshold[i] = i == TAG_CHARACTER ? 0.85 : 0.35;
    *text = 0;
    *rc = list_of(&t, prob, e);
    if (!*rc) *rc = tagpick_init(&p, &t, &full, e);
    if (!*rc) {
        *rc = tagpick_caption(&s, &p, tagpick_run(&p, prob), existing, e);
        tagpick_free(&p);
    }
    if (s) snprintf(text, sizeof text, "%s", s);
    mem_free(s);
    taglist_free(&t);
    return text;
}

#define BASE "1girl, long_hair, o_o, cat_ears, a,b"
#define CHARACTERS "miku_(vocaloid), saber_(alter)_(fate)"

TEST(tag_options_of_kohya)
{
    static const struct { TagPickConfig c; const char *existing, *want; } cases[] = {
        {.want = BASE ", " CHARACTERS},
        {{.remove_underscore = 1}, NULL,
         "1girl, long hair, o_o, cat ears, a,b, miku (vocaloid), saber (alter) (fate)"},
        {{.rating = 1}, NULL, "explicit, " BASE ", " CHARACTERS},
        {{.rating_last = 1}, NULL, BASE ", " CHARACTERS ", explicit"},
        {{.rating = 1, .undesired = "explicit"}, NULL, BASE ", " CHARACTERS},
        {{.character_first = 1}, NULL, "saber_(alter)_(fate), miku_(vocaloid), " BASE},
        {{.character_expand = 1}, NULL, BASE ", miku, vocaloid, saber_(alter), fate"},
        {{.undesired = " long_hair,  1girl ,nothing,"}, NULL, "o_o, cat_ears, a,b, " CHARACTERS},
        {{.undesired = "long hair", .remove_underscore = 1}, NULL,
         "1girl, o_o, cat ears, a,b, miku (vocaloid), saber (alter) (fate)"},
        {{.first = "o_o, rare,cat_ears"}, NULL,
         "cat_ears, o_o, 1girl, long_hair, a,b, " CHARACTERS},
        {{.replacement = "1girl,girl;someone,nobody; a\\,b , a\\;b"}, NULL,
         "girl, long_hair, o_o, cat_ears, a;b, " CHARACTERS},
        {{.replacement = "1girl,girl", .undesired = "girl", .first = "1girl"}, NULL,
         "long_hair, o_o, cat_ears, a,b, " CHARACTERS},
        {{.separator = " | ", .undesired = "a,b|o_o", .first = "long_hair|cat_ears"}, NULL,
         "cat_ears | long_hair | 1girl | miku_(vocaloid) | saber_(alter)_(fate)"},
        {{.undesired = "long_hair,cat_ears,o_o"}, "sks,  1girl ,\n",
         "sks, 1girl, a,b, " CHARACTERS},
        {{.undesired = "long_hair,cat_ears,o_o"}, "", "1girl, a,b, " CHARACTERS},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Err e = {0};
        int rc;
        char want[500];
        snprintf(want, sizeof want, "%s\n", cases[i].want);
        const char *got = caption(&cases[i].c, cases[i].existing, &rc, &e);
        if (rc || strcmp(got, want))
            test_fail(__FILE__, __LINE__, "case %zu: \"%s\" %s", i, got, e.msg);
    }
}

TEST(tag_replacement_is_checked)
{
    static const char *const bad[] = {"a", "a,", ",b", "a,b,c", "a,b;c", "a,b;;c,d"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Err e = {0};
        int rc;
        caption(&(TagPickConfig){.replacement = bad[i]}, NULL, &rc, &e);
        if (rc != ERR_USAGE || !strstr(e.msg, "--tag_replacement"))
            test_fail(__FILE__, __LINE__, "\"%s\": %d %s", bad[i], rc, e.msg);
    }
}

TEST(tag_thresholds_and_frequency)
{
    TagList t;
    TagPick p;
    Err e = {0};
    float prob[KNOWN];
    size_t order[KNOWN];
    TagPickConfig c = {.threshold = {[TAG_GENERAL] = 0.55, [TAG_CHARACTER] = 0.5}};
    CHECK_OK(list_of(&t, prob, &e), &e);
    CHECK_OK(tagpick_init(&p, &t, &c, &e), &e);
    prob[4] = 0.55f;                                  /* as much as is wanted: it is in */
    CHECK_INT(tagpick_run(&p, prob), 6);
    prob[2] = prob[4] = 0, prob[8] = NAN;             /* what is no number is in nothing */
    CHECK_INT(tagpick_run(&p, prob), 3);
    prob[4] = 1, prob[6] = 0;
    CHECK_INT(tagpick_run(&p, prob), 3);
    CHECK_INT(tagpick_frequency(&p, order), 6);
    CHECK_STR(p.name[order[0]], "saber_(alter)_(fate)");
    CHECK_STR(p.name[order[2]], "o_o");               /* twice, as "a,b", but found first */
    CHECK_STR(p.name[order[3]], "a,b");
    CHECK_STR(p.name[order[4]], "1girl");
    CHECK_INT(p.seen[order[0]], 3);
    CHECK_INT(p.seen[order[4]], 1);
    tagpick_free(&p);
    taglist_free(&t);
}

TEST(tag_picking_survives_missing_memory)
{
    Err e = {0};
    int rc = 1;
    for (long n = 1; rc; n++) {
        e = (Err){0};
        fail_mem(n);
        caption(&(TagPickConfig){.character_expand = 1, .replacement = "1girl,girl"}, "x", &rc, &e);
        fail_mem(0);
        CHECK(!rc || rc == ERR_MEMORY);
        CHECK(n < 300);
    }
}

TEST(tag_words_of_captions)
{
    CaptionTags t;
    Err e = {0};
    CHECK_OK(captiontags(&t, " A sks Cat, angry,, it's a\tcat-like one.\n", 1, &e), &e);
    static const char *const words[] = {"a", "sks", "cat", "angry", "it's", "cat-like", "one"};
    CHECK_INT(t.count, 7);
    for (size_t i = 0; i < 7; i++) CHECK_STR(t.tag[i], words[i]);
    captiontags_free(&t);
    CHECK_OK(captiontags(&t, " Red hat ,x,,red hat,Red hat\nmore", 0, &e), &e);
    CHECK_INT(t.count, 4);
    CHECK_STR(t.tag[0], "Red hat");
    CHECK_STR(t.tag[3], "more");
    captiontags_free(&t);
}

/* ---- the list ------------------------------------------------------------------- */

TEST(taglist_is_written_as_it_is_read)
{
    static const char text[] = "tag_id,name,category,count\n0,plain,0,10\n"
                               "1,\"a,\"\"b\"\"\",9,10\n2,\xC3\xA9,4,10\n";
    TagList t = {0}, again;
    Err e = {0};
    char path[600], *read;
    snprintf(path, sizeof path, "%s/t.csv", test_dir());
    CHECK_OK(taglist_add(&t, "plain", 0, 10, &e), &e);
    CHECK_OK(taglist_add(&t, "a,\"b\"", 9, 10, &e), &e);
    CHECK_OK(taglist_add(&t, "\xC3\xA9", 4, 10, &e), &e);
    CHECK_OK(taglist_write(&t, path, &e), &e);
    CHECK_OK(io_read_text(&read, NULL, path, 1000, &e), &e);
    CHECK_STR(read, text);
    mem_free(read);
    CHECK_OK(taglist_read(&again, path, &e), &e);
    CHECK_INT(again.count, 3);
    for (size_t i = 0; i < 3; i++) CHECK_STR(again.list[i].name, t.list[i].name);
    CHECK_INT(again.list[2].id, 2);
    taglist_free(&again);
    taglist_free(&t);
    static const char other[] = "\xEF\xBB\xBFtag_id,name,category\r\n7,a,0\r\n\r\n8,b,4";
    CHECK_OK(io_write_file(path, other, sizeof other - 1, &e), &e);
    CHECK_OK(taglist_read(&t, path, &e), &e);
    CHECK_INT(t.count, 2);
    CHECK_STR(t.list[1].name, "b");
    CHECK_INT(t.list[1].category, 4);
    taglist_free(&t);
}

/* ---- the command ---------------------------------------------------------------- */

static char out[8192], err[8192];

static int tag(const char *more)
{
    char args[2000];
    snprintf(args, sizeof args, "tag %s --tagger tests/golden/tagger/fc --threads 2 %s",
             test_dir(), more);
    return test_sdc(args, out, err, sizeof out);
}

static void put(const char *name, const char *text)
{
    char path[600];
    Err e = {0};
    snprintf(path, sizeof path, "%s/%s", test_dir(), name);
    if (io_write_file(path, text, strlen(text), &e)) abort();
}

/* "-" when there is none. */
static const char *get(const char *name)
{
    static char text[4][500];
    static int at;
    char path[600], *s = NULL, *to = text[at++ % 4];
    Err e = {0};
    snprintf(path, sizeof path, "%s/%s", test_dir(), name);
    snprintf(to, 500, "%s", io_read_text(&s, NULL, path, 400, &e) ? "-" : s);
    mem_free(s);
    return to;
}

static int put_picture(const char *name)
{
    char path[600];
    Image im;
    Err e = {0};
    TRY(image_load(&im, "tests/golden/tagger/high.png", &e));
    snprintf(path, sizeof path, "%s/%s", test_dir(), name);
    int rc = image_save(path, &im, NULL, &e);
    image_free(&im);
    return rc;
}

/* timm on "high", the fc model: ^_^ 0.455, solo 0.848, say_"hi" 0.950, cat_ears 0.359, hatsune_miku
 * 0.905, saber_(fate) 0.857, ratings 0.902 and 0.948. */
#define FOUND "^_^, solo, say_\"hi\", cat_ears, hatsune_miku, saber_(fate)\n"

TEST(tag_command_writes_captions)
{
    CHECK(!put_picture("a.png") && !put_picture("b.png"));
    put("b.txt", "sks, solo\nmore\n");
    CHECK_INT(tag("--dry_run --frequency_tags"), 0);
    CHECK(strstr(out, "b.png: " FOUND) && strstr(out, "Tag frequencies:\n^_^: 2\n"));
    CHECK_STR(get("a.txt"), "-");
    CHECK_INT(tag("--batch_size 4 --use_rating_tags --thresh 0.9"), 0);
    CHECK_STR(get("a.txt"), "sensitive, say_\"hi\", hatsune_miku\n");
    CHECK_STR(get("b.txt"), "sensitive, say_\"hi\", hatsune_miku\n");
    CHECK(strstr(err, "2 pictures tagged; 1 captions were overwritten"));
    char args[700];
    snprintf(args, sizeof args, "tags %s undo", test_dir());
    CHECK_INT(test_sdc(args, out, err, sizeof out), 0);
    CHECK_STR(get("a.txt"), "-");
    CHECK_STR(get("b.txt"), "sks, solo\nmore\n");
    CHECK_INT(tag("--append_tags --character_threshold 0.9 --general_threshold 0.5"), 0);
    CHECK_STR(get("a.txt"), "solo, say_\"hi\", hatsune_miku\n");
    CHECK_STR(get("b.txt"), "sks, solo\nmore, solo, say_\"hi\", hatsune_miku\n");
    CHECK(!strstr(err, "overwritten"));
    CHECK_INT(tag("--caption_extension .tags --caption_separator ' ; ' --general_threshold 0.9"),
              0);
    CHECK_STR(get("a.tags"), "say_\"hi\" ; hatsune_miku ; saber_(fate)\n");
}

TEST(tag_command_goes_on_over_bad_pictures)
{
    CHECK(!put_picture("a.png"));
    put("bad.png", "no picture");
    CHECK_INT(tag("--debug"), 0);
    CHECK(strstr(err, "skipped:") && strstr(err, "bad.png") &&
          strstr(err, "1 pictures tagged, 1 skipped"));
    CHECK(strstr(err, "0.905  character  hatsune_miku"));
    CHECK_STR(get("a.txt"), FOUND);
    CHECK_STR(get("bad.txt"), "-");
}

TEST(tag_command_refuses)
{
    CHECK_INT(tag(""), 3);
    CHECK(strstr(err, "no pictures here"));
    put("bad.png", "no picture");
    CHECK_INT(tag(""), 3);
    CHECK(strstr(err, "none of its pictures can be read"));
    CHECK(!put_picture("a.png"));
    CHECK_INT(tag("--interpolation nearest"), 2);
    CHECK_INT(tag("--dtype int8"), 2);
    CHECK_INT(tag("--thresh 1.5"), 2);
    CHECK_INT(tag("--tag_replacement x"), 2);
    CHECK_INT(tag("--caption_separator ''"), 2);
    CHECK_INT(tag("--repo_id SmilingWolf/wd-vit-tagger-v3"), 2);
    CHECK(strstr(err, "--tagger"));
    CHECK_INT(tag("--remove_underscores"), 2);
    CHECK(strstr(err, "remove_underscore"));
    CHECK_INT(tag("more"), 2);
    CHECK_INT(tag("--tagger tests/golden/tagger"), 3);
    CHECK_STR(get("a.txt"), "-");
    put("a.txt", "\xff\xfe");
    CHECK_INT(tag(""), 3);                            /* not text: it is not overwritten */
    CHECK(strstr(err, "a.txt"));
}

/* Every option of kohya's tag_images_by_wd14_tagger.py, but those that download. */
TEST(tag_command_knows_all_options_of_kohya)
{
    CHECK(!put_picture("a.png"));
    CHECK_INT(tag("--batch_size 2 --max_data_loader_n_workers 2 --pin_memory --caption_extention "
                  ".cap --thresh 0.4 --general_threshold 0.5 --character_threshold 0.9 "
                  "--meta_threshold 0.5 --model_threshold 0.5 --copyright_threshold 0.5 "
                  "--artist_threshold 0.5 --recursive --remove_underscore --debug "
                  "--undesired_tags solo --frequency_tags --onnx --append_tags --use_rating_tags "
                  "--use_rating_tags_as_last_tag --use_quality_tags "
                  "--use_quality_tags_as_last_tag --character_tags_first --always_first_tags "
                  "'^_^' --caption_separator ', ' --tag_replacement 'solo,alone' "
                  "--character_tag_expand"), 0);
    CHECK_STR(get("a.cap"), "sensitive, hatsune miku, alone, say \"hi\"\n");
    CHECK_INT(tag("--model_dir x"), 2);
    CHECK_INT(tag("--force_download"), 2);
}

/* The tagger that comes with the program knows the cats of the demo. */
TEST(tag_command_has_a_tagger_of_its_own)
{
    CHECK_INT(test_sdc("tag models/pocket/cats/10_cat --dry_run --threads 2", out, err, sizeof out),
              0);
    CHECK(strstr(err, "pocket model's tagger: 203 words"));
    int cats = 0, lines = 0;
    for (char *line = strtok(out, "\n"); line; line = strtok(NULL, "\n"), lines++)
        cats +=
            strstr(line, ".png: ") && strstr(strstr(line, ".png: "), "cat") && strstr(line, "face");
    CHECK_INT(lines, 8);
    CHECK_INT(cats, 8);
    CHECK_INT(test_sdc("tag models/pocket/held/1_cat --dry_run --threads 2 --thresh 0.5", out, err,
                       sizeof out), 0);
    CHECK(strstr(out, "crying.png: face, cat") || strstr(out, "crying.png: cat, face"));
}

TEST(tag_command_looks_below)
{
    char path[600];
    Err e = {0};
    snprintf(path, sizeof path, "%s/10_x/y", test_dir());
    CHECK_OK(io_mkdirs(path, &e), &e);
    CHECK(!put_picture("10_x/y/a.png"));
    CHECK_INT(tag(""), 3);
    CHECK(strstr(err, "--recursive"));
    CHECK_INT(tag("--recursive --interpolation kohya"), 0);
    CHECK(strstr(get("10_x/y/a.txt"), "hatsune_miku"));
}
