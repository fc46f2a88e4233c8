/* test_tokenizer.c - tokenizer/: byte pairs, prompt grammar, chunks.
 *
 * data/tokenizer/tokens.jsonl has texts and the ids on which transformers' CLIPTokenizer and
 * open_clip's SimpleTokenizer agree; parse.jsonl has prompts and what an independent
 * implementation of A1111's grammar makes of them.
 */
#include <jansson.h>
#include <stdlib.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "tests/fail.h"
#include "tests/test.h"
#include "tokenizer/bpe.h"
#include "tokenizer/chunk.h"
#include "tokenizer/prompt.h"
#include "tokenizer/utf8.h"

enum { A = 320, WORD_BREAK = 2568 };      /* "a</w>", "break</w>" */

/* Calls check() on each line of a .jsonl file; returns the number of lines, or minus the number
 * of the first one on which it returned 0. */
static long each_line(const char *path, int (*check)(const Tokenizer *, json_t *))
{
    Err e = {0};
    Tokenizer *t = NULL;
    char *text = NULL;
    long line = 0;
    int ok = !bpe_open(&t, &e) && !io_read_text(&text, NULL, path, 1 << 20, &e);
    for (char *p = text, *eol; ok && p && (eol = strchr(p, '\n')); p = eol + 1) {
        json_t *j = json_loadb(p, (size_t)(eol - p), JSON_ALLOW_NUL, NULL);
        ok = j && check(t, j);
        json_decref(j);
        line++;
    }
    mem_free(text);
    bpe_close(t);
    return ok ? line : -line;
}

static int tokens_equal(const Tokenizer *t, json_t *j)
{
    json_t *text = json_object_get(j, "text"), *want = json_object_get(j, "ids");
    BpeIds got = {0};
    Err e = {0};
    int ok = !bpe_encode(t, json_string_value(text), json_string_length(text), &got, &e)
             && got.count == json_array_size(want);
    for (size_t i = 0; ok && i < got.count; i++)
        ok = got.ids[i] == json_integer_value(json_array_get(want, i));
    bpe_ids_free(&got);
    return ok;
}

static int parse_equal(const Tokenizer *t, json_t *j)
{
    (void)t;
    json_t *text = json_object_get(j, "prompt"), *pieces = json_object_get(j, "chunks");
    json_t *loras = json_object_get(j, "loras");
    Prompt p;
    Err e = {0};
    if (prompt_parse(&p, json_string_value(text), json_string_length(text), &e)) return 0;
    int ok = p.piece_count == json_array_size(pieces) && p.lora_count == json_array_size(loras);
    for (size_t i = 0; ok && i < p.piece_count; i++) {
        json_t *s = json_array_get(json_array_get(pieces, i), 0);
        ok = json_string_length(s) == p.pieces[i].len
             && !memcmp(json_string_value(s), p.pieces[i].text, p.pieces[i].len)
             && json_number_value(json_array_get(json_array_get(pieces, i), 1))
                == p.pieces[i].weight;
    }
    for (size_t i = 0; ok && i < p.lora_count; i++) {
        json_t *l = json_array_get(loras, i);
        ok = !strcmp(json_string_value(json_object_get(l, "name")), p.loras[i].name)
             && json_number_value(json_object_get(l, "te")) == p.loras[i].te
             && json_number_value(json_object_get(l, "unet")) == p.loras[i].unet;
    }
    prompt_free(&p);
    return ok;
}

TEST(tokenizer_agrees_with_references)
{
    CHECK_INT(each_line("tests/data/tokenizer/tokens.jsonl", tokens_equal), 1500);
}

TEST(prompt_agrees_with_reference)
{
    CHECK_INT(each_line("tests/data/tokenizer/parse.jsonl", parse_equal), 87);
}

/* Whether text has exactly these ids; want ends with a negative number. */
static int ids_are(const Tokenizer *t, const char *text, size_t len, const int *want)
{
    BpeIds ids = {0};
    Err e = {0};
    int ok = !bpe_encode(t, text, len, &ids, &e);
    size_t n = 0;
    for (; ok && want[n] >= 0; n++) ok = n < ids.count && ids.ids[n] == want[n];
    ok = ok && n == ids.count;
    bpe_ids_free(&ids);
    return ok;
}
#define IDS(text, ...) ids_are(t, text, sizeof(text) - 1, (const int[]){__VA_ARGS__, -1})

TEST(tokenizer_special_cases)
{
    Tokenizer *t;
    Err e = {0};
    CHECK_OK(bpe_open(&t, &e), &e);
    CHECK(IDS("", -1));
    CHECK(IDS(" \t\n\xC2\xA0\xE3\x80\x80 ", -1));
    CHECK(IDS("a,\r\nA", A, BPE_COMMA, A));
    CHECK(IDS("a\0a", A, 188 + 256, A));
    CHECK(IDS("a<|endoftext|>a <|startoftext|>", A, BPE_EOS, A, BPE_BOS));
    CHECK(IDS("JEKYLL", BPE_BOS - 1));                  /* the last merge */
    CHECK(IDS("caf\xC3\xA9", 15304));
    CHECK(IDS("cafe\xCC\x81", 15304));                  /* to NFC */
    CHECK(IDS("\xC4\xB0", 328, 16384));                 /* U+0130 is lowered to i U+0307 */
    /* Marks of classes 230, 220, 230, 220 are put in order of class. */
    CHECK(IDS("x\xCC\x81\xCC\xA3\xCC\x81\xCC\xA3", 343, 136, 96, 136, 96, 136, 223, 136, 479));
    CHECK(IDS("x\xCC\xA3\xCC\xA3\xCC\x81\xCC\x81", 343, 136, 96, 136, 96, 136, 223, 136, 479));
    bpe_close(t);
}

TEST(tokenizer_replaces_ill_formed_bytes)
{
    /* As Python's errors="replace": one U+FFFD for each maximal piece. */
#define BAD "\xEF\xBF\xBD"
    static const char text[] = "\xFF\xE0\x80" "a\xED\xA0\x80\xF0\x9F\x98 \xC3\xF5\x80\xE0\xA0";
    size_t size;
    char *clean = utf8_clean(text, sizeof text - 1, &size);
    CHECK(clean);
    CHECK_STR(clean, BAD BAD BAD "a" BAD BAD BAD BAD " " BAD BAD BAD BAD);
    CHECK_INT(size, strlen(clean));
    mem_free(clean);
    Tokenizer *t;
    Err e = {0};
    CHECK_OK(bpe_open(&t, &e), &e);
    CHECK(IDS("\xFF\xE0\x80", 47356, 47356, 39802));
    CHECK(IDS(BAD BAD BAD, 47356, 47356, 39802));
    bpe_close(t);
}

/* n times s; mem_free. */
static char *times(const char *s, size_t n)
{
    size_t len = strlen(s);
    char *r = mem_alloc(n * len + 1);
    for (size_t i = 0; r && i < n; i++) memcpy(r + i * len, s, len);
    if (r) r[n * len] = 0;
    return r;
}

/* Anything quadratic would take hours here. */
TEST(tokenizer_is_fast_on_hostile_text)
{
    static const struct { const char *piece; size_t times, ids; } cases[] = {
        {"a", 1000000, 125001},                     /* one word */
        {"\xCC\x81\xCC\xA3", 200000, 800000},       /* marks in the wrong order */
        {"a'", 500000, 1000000},
        {"<|", 500000, 1000000},
    };
    Tokenizer *t;
    Err e = {0};
    CHECK_OK(bpe_open(&t, &e), &e);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = times(cases[i].piece, cases[i].times);
        CHECK(text);
        BpeIds ids = {0};
        CHECK_OK(bpe_encode(t, text, strlen(text), &ids, &e), &e);
        CHECK_INT(ids.count, cases[i].ids);
        bpe_ids_free(&ids);
        mem_free(text);
    }
    BpeIds ids = {0};
    CHECK_INT(bpe_encode(t, "", BPE_MAX_TEXT + 1, &ids, &e), ERR_USAGE);
    bpe_close(t);
}

/* ---- prompts ---------------------------------------------------------------------------- */

TEST(prompt_networks)
{
    Prompt p;
    Err e = {0};
    const char *s = "a<lora:x/y:0.5><hypernet:h:1>b "
                    "<lora:z: 1 :2:3:unet=-.5:te=+2e-1:dyn=4> <lora:><lora:a=b=c:2>";
    CHECK_OK(prompt_parse(&p, s, strlen(s), &e), &e);
    CHECK_STR(p.text, "ab  <lora:>");
    CHECK_INT(p.lora_count, 3);
    CHECK_STR(p.loras[0].name, "x/y");
    CHECK_NEAR(p.loras[0].unet, 0.5, 0);
    CHECK_STR(p.loras[1].name, "z");
    CHECK_NEAR(p.loras[1].te, 0.2, 0);
    CHECK_NEAR(p.loras[1].unet, -0.5, 0);
    CHECK_STR(p.loras[2].name, "a=b=c");
    CHECK_NEAR(p.loras[2].unet, 2, 0);
    CHECK_INT(p.ignored_count, 1);
    CHECK_STR(p.ignored[0], "<hypernet:h:1>");
    prompt_free(&p);
}

TEST(prompt_refuses)
{
    static const struct { const char *text, *mention; } cases[] = {
        {"cat <lora:x:heavy>", "\"heavy\" in <lora:x:heavy>"},
        {"<lora:x:1:>", "\"\" in <lora:x:1:>"},
        {"<lora:x:nan>", "\"nan\""},
        {"<lora:x:0x10>", "\"0x10\""},
        {"<lora:x:unet=1e999>", "\"1e999\""},
        {"<lora:te=1>", "<lora:te=1> has no name"},
        {"(((((((((cat:9999999999999999999999999999999999999)"
         ":9999999999999999999999999999999999999):9999999999999999999999999999999999999)"
         ":9999999999999999999999999999999999999):9999999999999999999999999999999999999)"
         ":9999999999999999999999999999999999999):9999999999999999999999999999999999999)"
         ":9999999999999999999999999999999999999):9999999999999999999999999999999999999)",
         "around \"cat\" multiply to infinity"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Prompt p;
        Err e = {0};
        CHECK_INT(prompt_parse(&p, cases[i].text, strlen(cases[i].text), &e), ERR_USAGE);
        if (!strstr(e.msg, cases[i].mention)) CHECK_STR(e.msg, cases[i].mention);
        CHECK(!p.text && !p.pieces && !p.loras);
    }
}

/* A1111 raises an exception for these; here they are text. */
TEST(prompt_takes_odd_numbers_as_text)
{
    static const char *const texts[] = {"(a:1.2.3)", "(a:...)", "(a:+)", "(a:--1)"};
    for (size_t i = 0; i < 4; i++) {
        Prompt p;
        Err e = {0};
        CHECK_OK(prompt_parse(&p, texts[i], strlen(texts[i]), &e), &e);
        CHECK_INT(p.piece_count, 1);
        CHECK_NEAR(p.pieces[0].weight, 1.1, 0);
        CHECK_INT(p.pieces[0].len, strlen(texts[i]) - 2);
        prompt_free(&p);
    }
}

TEST(prompt_hostile_depth_and_length)
{
    static const struct { const char *piece; size_t times; int code; } cases[] = {
        {"(", PROMPT_MAX_OPEN, 0},
        {"(", PROMPT_MAX_OPEN + 1, ERR_USAGE},
        {"[", PROMPT_MAX_OPEN + 1, ERR_USAGE},
        {"()", 500000, 0},
        {"<a:", 300000, 0},
        {"<lora:a:", 100000, 0},
        {"<lora:a>", 100000, 0},
        {"(:", 500, 0},
        {":   ", 200000, 0},
        {" BREAK", 150000, 0},
        {"\\", PROMPT_MAX_BYTES, 0},
        {"\xFF", PROMPT_MAX_BYTES, 0},
        {"a", PROMPT_MAX_BYTES + 1, ERR_USAGE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = times(cases[i].piece, cases[i].times);
        CHECK(text);
        Prompt p;
        Err e = {0};
        CHECK_INT(prompt_parse(&p, text, strlen(text), &e), cases[i].code);
        prompt_free(&p);
        mem_free(text);
    }
    /* 500 levels and far over 500 pieces under them */
    char *open = times("(", 500), *many = times("(a)b", 50000);
    char *text = mem_printf("%s%s", open, many);
    Prompt p;
    Err e = {0};
    CHECK_OK(prompt_parse(&p, text, strlen(text), &e), &e);
    CHECK_INT(p.piece_count, 100000);
    CHECK_NEAR(log(p.pieces[1].weight), 500 * log(1.1), 1e-9);
    prompt_free(&p);
    mem_free(open);
    mem_free(many);
    mem_free(text);
}

/* ---- chunks ----------------------------------------------------------------------------- */

/* The chunks of a prompt; empty when it fails. */
static ChunkList chunks_of(const char *text, int32_t pad)
{
    ChunkList c = {0};
    Prompt p = {0};
    Tokenizer *t = NULL;
    Err e = {0};
    if (!bpe_open(&t, &e) && !prompt_parse(&p, text, strlen(text), &e))
        chunk_prompt(&c, t, &p, pad, &e);
    prompt_free(&p);
    bpe_close(t);
    return c;
}

/* Tokens between BOS and the first EOS. */
static int tokens_in(const Chunk *c)
{
    int n = 1;
    while (c->ids[n] != BPE_EOS) n++;
    return n - 1;
}

/* Tokens of each chunk of before x "a", a comma, after x "a", as decimal digits. */
static long long fill(size_t before, size_t after)
{
    char *x = times("a ", before), *y = times(" a", after), *text = mem_printf("%s,%s", x, y);
    ChunkList c = chunks_of(text, BPE_EOS);
    long long r = 0;
    for (size_t i = 0; i < c.count; i++) r = r * 100 + tokens_in(&c.chunks[i]);
    chunk_list_free(&c);
    mem_free(x);
    mem_free(y);
    mem_free(text);
    return r;
}

TEST(chunk_fills_and_goes_back_to_the_comma)
{
    CHECK_INT(fill(3, 3), 7);
    CHECK_INT(fill(3, 71), 75);
    CHECK_INT(fill(70, 20), 7120);          /* what follows the comma moves on */
    CHECK_INT(fill(55, 20), 5620);          /* comma 20 back */
    CHECK_INT(fill(54, 21), 7501);          /* 21 back: too far */
    CHECK_INT(fill(74, 1), 7501);           /* the comma is the last of its chunk */
    CHECK_INT(fill(75, 0), 7501);
    CHECK_INT(fill(75, 75), 757501);        /* a comma that begins a chunk is forgotten */
    CHECK_INT(fill(70, 76), 717501);
}

TEST(chunk_layout_and_weights)
{
    ChunkList c = chunks_of("a (a:1.5)", BPE_EOS);
    CHECK_INT(c.count, 1);
    const Chunk *k = &c.chunks[0];
    CHECK(k->ids[0] == BPE_BOS && k->ids[1] == A && k->ids[2] == A && k->ids[3] == BPE_EOS);
    CHECK_INT(k->ids[76], BPE_EOS);
    CHECK(k->weights[0] == 1 && k->weights[1] == 1 && k->weights[2] == 1.5f && k->weights[3] == 1);
    chunk_list_free(&c);

    c = chunks_of("a", 0);
    CHECK(c.chunks[0].ids[1] == A && c.chunks[0].ids[2] == BPE_EOS && c.chunks[0].ids[3] == 0);
    CHECK_INT(c.chunks[0].ids[76], 0);
    chunk_list_free(&c);

    c = chunks_of("a<|endoftext|>a", 0);    /* everything after the first EOS */
    CHECK(c.chunks[0].ids[2] == BPE_EOS && c.chunks[0].ids[3] == 0);
    chunk_list_free(&c);
}

TEST(chunk_break)
{
    ChunkList c = chunks_of("a BREAK a a BREAK", BPE_EOS);
    CHECK_INT(c.count, 2);
    CHECK_INT(tokens_in(&c.chunks[0]), 1);
    CHECK_INT(tokens_in(&c.chunks[1]), 2);
    chunk_list_free(&c);
    c = chunks_of("", BPE_EOS);
    CHECK_INT(c.count, 1);
    CHECK_INT(tokens_in(&c.chunks[0]), 0);
    chunk_list_free(&c);
    c = chunks_of("(a BREAK a)", BPE_EOS);  /* in brackets it is a word, as in A1111 */
    CHECK_INT(c.count, 1);
    CHECK_INT(c.chunks[0].ids[2], WORD_BREAK);
    CHECK_NEAR(c.chunks[0].weights[2], -1.1f, 0);
    chunk_list_free(&c);
}

TEST(chunk_even_adds_empty_chunks)
{
    ChunkList one = chunks_of("a", 0), three = chunks_of("a BREAK a BREAK a", 0);
    Err e = {0};
    CHECK_OK(chunk_even((ChunkList *const[]){&one, &three}, 2, 0, &e), &e);
    CHECK(one.count == 3 && three.count == 3);
    CHECK_INT(one.chunks[0].ids[1], A);
    CHECK(one.chunks[2].ids[0] == BPE_BOS && one.chunks[2].ids[1] == BPE_EOS);
    CHECK(one.chunks[2].ids[2] == 0 && one.chunks[2].weights[1] == 1);
    chunk_list_free(&one);
    chunk_list_free(&three);
}

TEST(chunk_emphasis_restores_the_mean)
{
    enum { W = 3, N = 2 * CHUNK_IDS * W };
    ChunkList c = chunks_of("(a:3) BREAK a", BPE_EOS);
    const Chunk *both[2] = {&c.chunks[0], &c.chunks[1]};
    float z[N], want[N];
    double before = 0, after = 0;
    for (int i = 0; i < N; i++) {
        z[i] = (float)(i % 7) - 1;
        want[i] = z[i] * (i / W == 1 ? 3.0f : 1.0f);
        before += z[i];
        after += want[i];
    }
    chunk_emphasize(z + N / 2, 1, W, both + 1);     /* weights 1: nothing to do */
    CHECK(z[N - 1] == want[N - 1]);
    chunk_emphasize(z, 2, W, both);
    for (int i = 0; i < N; i++) CHECK_NEAR(z[i], want[i] * (before / after), 1e-6);
    memset(z, 0, sizeof z);                         /* no mean to restore */
    chunk_emphasize(z, 2, W, both);
    CHECK(z[0] == 0 && z[5] == 0);
    chunk_list_free(&c);
}

TEST(chunk_caption_as_kohya)
{
    enum { B = BPE_BOS, E = BPE_EOS };
    /* of n times "a" in `count` chunks with `pad`: ids at 0, 1, 75, 76 of the last chunk */
    static const struct { size_t n, count; int32_t pad, last[4]; } cases[] = {
        {0, 1, E, {B, E, E, E}},   {3, 1, E, {B, A, E, E}},    {75, 1, E, {B, A, A, E}},
        {76, 1, E, {B, A, A, E}},  {0, 1, 0, {B, E, 0, 0}},    {75, 1, 0, {B, A, A, E}},
        {74, 1, 0, {B, A, E, 0}},  {100, 2, E, {B, A, E, E}},  {150, 2, E, {B, A, A, E}},
        {75, 2, E, {B, E, E, E}},  {900, 3, E, {B, A, A, E}},  {225, 3, 0, {B, A, A, E}},
        {100, 2, 0, {B, A, 0, 0}}, {75, 2, 0, {B, E, 0, 0}},   {80, 3, 0, {B, E, 0, 0}},
        {149, 2, 0, {B, A, E, 0}},
    };
    Tokenizer *t;
    Err e = {0};
    int32_t ids[3 * CHUNK_IDS];
    CHECK_OK(bpe_open(&t, &e), &e);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static const int at[4] = {0, 1, 75, 76};
        char *text = times("a ", cases[i].n);
        CHECK_OK(chunk_caption(ids, cases[i].count, t, text, strlen(text), cases[i].pad, &e), &e);
        for (int k = 0; k < 4; k++)
            if (ids[(cases[i].count - 1) * CHUNK_IDS + at[k]] != cases[i].last[k])
                test_fail(__FILE__, __LINE__, "case %zu, id %d", i, at[k]);
        mem_free(text);
    }
    /* a full chunk that is not the last ends in EOS with either pad; brackets are text */
    char *text = times("a ", 80);
    CHECK_OK(chunk_caption(ids, 2, t, text, strlen(text), 0, &e), &e);
    CHECK(ids[75] == A && ids[76] == E && ids[77] == B && ids[82] == A && ids[83] == E);
    mem_free(text);
    CHECK_OK(chunk_caption(ids, 1, t, "(a)", 3, E, &e), &e);
    CHECK(ids[1] == 263 && ids[2] == A && ids[3] == 264 && ids[4] == E);
    bpe_close(t);
}

/* ---- failures --------------------------------------------------------------------------- */

static int whole_job(Err *e)
{
    static const char text[] = "a <lora:x:1> <y:z> (b:2) BREAK c,";
    Tokenizer *t = NULL;
    Prompt p = {0};
    ChunkList one = {0}, two = {0};
    int32_t ids[CHUNK_IDS];
    int rc = bpe_open(&t, e);
    if (!rc) rc = prompt_parse(&p, text, sizeof text - 1, e);
    if (!rc) rc = chunk_prompt(&one, t, &p, 0, e);
    if (!rc) rc = chunk_even((ChunkList *const[]){&one, &two}, 2, 0, e);
    if (!rc) rc = chunk_caption(ids, 1, t, text, sizeof text - 1, 0, e);
    chunk_list_free(&one);
    chunk_list_free(&two);
    prompt_free(&p);
    bpe_close(t);
    return rc;
}

TEST(tokenizer_survives_lack_of_memory)
{
    for (long n = 1;; n++) {
        Err e = {0};
        fail_mem(n);
        int rc = whole_job(&e);
        fail_mem(0);
        if (!rc) {
            CHECK(n > 20);
            break;
        }
        CHECK_INT(rc, ERR_MEMORY);
        CHECK(e.msg[0]);
    }
}
