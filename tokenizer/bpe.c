/* bpe.c - see bpe.h. */
#include "tokenizer/bpe.h"

#include <string.h>
#include <zlib.h>

#include "engine/mem.h"
#include "tokenizer/clip_merges.h"
#include "tokenizer/utf8.h"

enum {
    FIRST_MERGE = 512,          /* also the number of byte symbols */
    WORD_END = 256,             /* added to the id of a byte symbol */
    TABLE_BITS = 17,            /* slots of the hash tables: 2.7 for each entry */
    TABLE = 1 << TABLE_BITS,
    MERGES_TEXT = 524645        /* bytes of lines 1..48895 of the merges file */
};

/* What a pair of adjacent symbols merges into. Better merges have lower ids, so the id is the
 * rank as well. Open addressing; an empty slot has id 0, which is never the result of a merge. */
struct Tokenizer {
    uint32_t pair[TABLE];       /* left << 16 | right */
    uint16_t id[TABLE];
    struct Added {
        BpeIds ids;             /* of the word */
        int32_t first;          /* what it becomes: count ids from here on */
        int count;
    } *added;
    size_t added_count, added_cap;
};

static size_t pair_slot(const Tokenizer *t, uint32_t pair)
{
    size_t i = (pair * UINT32_C(2654435769)) >> (32 - TABLE_BITS);
    while (t->id[i] && t->pair[i] != pair) i = (i + 1) % TABLE;
    return i;
}

static unsigned merged(const Tokenizer *t, unsigned left, unsigned right)
{
    return t->id[pair_slot(t, left << 16 | right)];
}

/* ---- the vocabulary --------------------------------------------------------------------- */

/* The ids of symbols by the 64-bit hash of their text; used while the merges are read. Two
 * symbols of the same hash would be noticed, and are not there. */
typedef struct {
    uint64_t hash[TABLE];       /* 0: empty */
    uint16_t id[TABLE];
} Symbols;

/* FNV-1a; going on from the hash of a gives that of a and b together. */
static const uint64_t HASH_EMPTY = UINT64_C(0xcbf29ce484222325);
static uint64_t hash_more(uint64_t h, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * UINT64_C(0x100000001b3);
    return h;
}

static size_t symbol_slot(const Symbols *s, uint64_t hash)
{
    size_t i = hash % TABLE;
    while (s->hash[i] && s->hash[i] != hash) i = (i + 1) % TABLE;
    return i;
}

/* Returns 0 when the symbol is there already. */
static int symbol_add(Symbols *s, uint64_t hash, unsigned id)
{
    size_t i = symbol_slot(s, hash);
    if (s->hash[i]) return 0;
    s->hash[i] = hash;
    s->id[i] = (uint16_t)id;
    return 1;
}

static unsigned byte_id(unsigned b)
{
    if (b >= 33 && b <= 126) return b - 33;
    if (b >= 161 && b <= 172) return b - 161 + 94;
    if (b >= 174) return b - 174 + 106;
    return 188 + (b <= 32 ? b : b <= 160 ? b - 127 + 33 : 67);
}

/* The merges file writes a printable byte as the code point of the same number, the others as
 * U+0100 and on. */
static void add_bytes(Symbols *s)
{
    for (unsigned b = 0; b < 256; b++) {
        unsigned id = byte_id(b);
        char c[4];
        uint64_t h = hash_more(HASH_EMPTY, c, utf8_put(c, id < 188 ? b : 256 + id - 188));
        symbol_add(s, h, id);
        symbol_add(s, hash_more(h, "</w>", 4), id + WORD_END);
    }
}

static int add_merges(Tokenizer *t, Symbols *s, const char *p, const char *end)
{
    p = memchr(p, '\n', (size_t)(end - p));
    for (unsigned id = FIRST_MERGE; id < BPE_BOS; id++) {
        if (!p || ++p >= end) return 0;
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        const char *gap = eol ? memchr(p, ' ', (size_t)(eol - p)) : NULL;
        if (!gap) return 0;
        uint64_t left = hash_more(HASH_EMPTY, p, (size_t)(gap - p));
        size_t l = symbol_slot(s, left);
        size_t r = symbol_slot(s, hash_more(HASH_EMPTY, gap + 1, (size_t)(eol - gap - 1)));
        if (!s->hash[l] || !s->hash[r]) return 0;
        uint32_t pair = (uint32_t)s->id[l] << 16 | s->id[r];
        size_t i = pair_slot(t, pair);
        if (t->id[i] || !symbol_add(s, hash_more(left, gap + 1, (size_t)(eol - gap - 1)), id))
            return 0;
        t->pair[i] = pair;
        t->id[i] = (uint16_t)id;
        p = eol;
    }
    return 1;
}

static voidpf z_alloc(voidpf unused, uInt n, uInt size)
{
    (void)unused;
    return mem_calloc(n, size);
}

static void z_free(voidpf unused, voidpf p)
{
    (void)unused;
    mem_free(p);
}

/* Inflates the used part of the merges file into out (MERGES_TEXT bytes). */
static int inflate_merges(char *out, Err *e)
{
    size_t size;
    const unsigned char *gz = clip_merges(&size);
    z_stream z = {.next_in = (Bytef *)(uintptr_t)gz, .avail_in = (uInt)size,
                  .next_out = (Bytef *)out, .avail_out = MERGES_TEXT,
                  .zalloc = z_alloc, .zfree = z_free};
    int zrc = inflateInit2(&z, 16 + MAX_WBITS);         /* 16: gzip */
    if (zrc == Z_OK) {
        zrc = inflate(&z, Z_SYNC_FLUSH);
        inflateEnd(&z);
    }
    if (zrc == Z_MEM_ERROR) return err_nomem(e, MERGES_TEXT, "the tokenizer");
    if (z.avail_out) return err_set(e, ERR_FAIL, "the built-in vocabulary does not inflate");
    return 0;
}

int bpe_open(Tokenizer **out, Err *e)
{
    *out = NULL;
    Tokenizer *t = mem_calloc(1, sizeof *t);
    Symbols *s = mem_calloc(1, sizeof *s);
    char *text = mem_alloc(MERGES_TEXT);
    int rc = 0;
    if (!t || !s || !text) rc = err_nomem(e, sizeof *t, "the tokenizer");
    if (!rc) rc = inflate_merges(text, e);
    if (!rc) {
        add_bytes(s);
        if (!add_merges(t, s, text, text + MERGES_TEXT))
            rc = err_set(e, ERR_FAIL, "the built-in vocabulary is damaged");
    }
    mem_free(s);
    mem_free(text);
    if (rc) mem_free(t);
    else *out = t;
    return rc;
}

void bpe_close(Tokenizer *t)
{
    for (size_t i = 0; t && i < t->added_count; i++) bpe_ids_free(&t->added[i].ids);
    if (t) mem_free(t->added);
    mem_free(t);
}

void bpe_ids_free(BpeIds *ids)
{
    mem_free(ids->ids);
    *ids = (BpeIds){0};
}

static int add_id(BpeIds *out, int32_t id, Err *e)
{
    int32_t *ids = mem_grow(out->ids, out->count, &out->cap, sizeof *ids);
    if (!ids) return err_nomem(e, 2 * out->cap * sizeof *ids, "token ids");
    ids[out->count++] = id;
    out->ids = ids;
    return 0;
}

/* ---- one word --------------------------------------------------------------------------- */

enum { GONE = UINT16_MAX };             /* a symbol merged into its left neighbour */
static const uint32_t NONE = UINT32_MAX;

/* A word under work: a list of symbols linked through the positions of their first bytes, and
 * a heap of the possible merges, (merged id << 32 | position of the left symbol), least first.
 * Entries are not removed when one of their symbols changes: they are checked when popped. */
typedef struct {
    uint16_t *symbol;
    uint32_t *prev, *next;
    uint64_t *heap;
    size_t cap, heap_count;     /* cap: bytes of the longest word there is room for */
} Word;

static void word_free(Word *w)
{
    mem_free(w->symbol);
    mem_free(w->prev);
    mem_free(w->next);
    mem_free(w->heap);
    *w = (Word){0};
}

static int word_reserve(Word *w, size_t n, Err *e)
{
    if (n <= w->cap) return 0;
    size_t cap = n < 256 ? 256 : n;
    word_free(w);
    w->symbol = mem_alloc(cap * sizeof *w->symbol);
    w->prev = mem_alloc(cap * sizeof *w->prev);
    w->next = mem_alloc(cap * sizeof *w->next);
    w->heap = mem_alloc(2 * cap * sizeof *w->heap);     /* n - 1, and one more each merge */
    if (!w->symbol || !w->prev || !w->next || !w->heap) {
        word_free(w);
        return err_nomem(e, cap * 26, "a word of the prompt");
    }
    w->cap = cap;
    return 0;
}

static void heap_push(Word *w, uint64_t x)
{
    size_t i = w->heap_count++;
    for (size_t up; i > 0 && w->heap[up = (i - 1) / 2] > x; i = up) w->heap[i] = w->heap[up];
    w->heap[i] = x;
}

static uint64_t heap_pop(Word *w)
{
    uint64_t *h = w->heap, top = h[0], x = h[--w->heap_count];
    size_t n = w->heap_count, i = 0;
    for (size_t k; (k = 2 * i + 1) < n; i = k) {
        if (k + 1 < n && h[k + 1] < h[k]) k++;
        if (x <= h[k]) break;
        h[i] = h[k];
    }
    h[i] = x;
    return top;
}

static void push_pair(const Tokenizer *t, Word *w, uint32_t left)
{
    unsigned id = merged(t, w->symbol[left], w->symbol[w->next[left]]);
    if (id) heap_push(w, (uint64_t)id << 32 | left);
}

/* Appends the ids of a word of n > 0 bytes, room for which is there in w. */
static int encode_word(const Tokenizer *t, Word *w, const char *s, size_t n, BpeIds *out, Err *e)
{
    for (size_t i = 0; i < n; i++) {
        w->symbol[i] = (uint16_t)(byte_id((unsigned char)s[i]) + (i + 1 == n ? WORD_END : 0));
        w->prev[i] = i ? (uint32_t)i - 1 : NONE;
        w->next[i] = i + 1 < n ? (uint32_t)i + 1 : NONE;
    }
    w->heap_count = 0;
    for (size_t i = 0; i + 1 < n; i++) push_pair(t, w, (uint32_t)i);
    while (w->heap_count) {
        uint64_t top = heap_pop(w);
        uint32_t left = (uint32_t)top, right = w->next[left];
        unsigned id = (unsigned)(top >> 32);
        if (w->symbol[left] == GONE || right == NONE
            || merged(t, w->symbol[left], w->symbol[right]) != id)
            continue;
        w->symbol[left] = (uint16_t)id;
        w->symbol[right] = GONE;
        w->next[left] = w->next[right];
        if (w->next[left] != NONE) {
            w->prev[w->next[left]] = left;
            push_pair(t, w, left);
        }
        if (w->prev[left] != NONE) push_pair(t, w, w->prev[left]);
    }
    for (uint32_t i = 0; i != NONE; i = w->next[i]) TRY(add_id(out, w->symbol[i], e));
    return 0;
}

/* ---- text to words ---------------------------------------------------------------------- */

/* The length of the contraction 's 't 're 've 'm 'll 'd at p, or 0. */
static size_t contraction_at(const char *p, const char *end)
{
    static const char *const tails[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    if (*p++ != '\'') return 0;
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        size_t n = strlen(tails[i]);
        if ((size_t)(end - p) >= n && !memcmp(p, tails[i], n)) return n + 1;
    }
    return 0;
}

/* The end of the word that begins at p, or of the one blank at p. */
static const char *word_end(const char *p, const char *end)
{
    size_t n = contraction_at(p, end);
    if (n) return p + n;
    Utf8Class class = utf8_class(utf8_next(&p, end));
    while (class != UTF8_NUMBER && class != UTF8_SPACE && p < end) {
        const char *q = p;
        if (utf8_class(utf8_next(&q, end)) != class) break;
        p = q;
    }
    return p;
}

/* Appends the ids of text that has no special tokens in it. */
static int encode_plain(const Tokenizer *t, Word *w, const char *text, size_t len, BpeIds *out,
                        Err *e)
{
    size_t size = 0;
    char *folded = utf8_fold(text, len, &size);
    if (!folded) return err_nomem(e, 16 * len, "a prompt");
    int rc = 0;
    for (const char *p = folded, *end = p + size, *q; !rc && p < end; p = q) {
        const char *next = p;
        q = word_end(p, end);
        if (utf8_class(utf8_next(&next, end)) == UTF8_SPACE) continue;
        rc = word_reserve(w, (size_t)(q - p), e);
        if (!rc) rc = encode_word(t, w, p, (size_t)(q - p), out, e);
    }
    mem_free(folded);
    return rc;
}

/* The special token whose text begins at p, or 0; *size is the length of that text. */
static int32_t special_at(const char *p, const char *end, size_t *size)
{
    static const struct { const char *text; int32_t id; } special[] = {
        {"<|startoftext|>", BPE_BOS}, {"<|endoftext|>", BPE_EOS}};
    for (size_t i = 0; *p == '<' && i < 2; i++) {
        *size = strlen(special[i].text);
        if ((size_t)(end - p) >= *size && !memcmp(p, special[i].text, *size))
            return special[i].id;
    }
    return 0;
}

/* ---- added words ------------------------------------------------------------------------ */

int bpe_add(Tokenizer *t, const char *word, int32_t first, int count, Err *e)
{
    struct Added a = {.first = first, .count = count};
    struct Added *list = mem_grow(t->added, t->added_count, &t->added_cap, sizeof *list);
    if (!list) return err_nomem(e, sizeof *list, "an added word");
    t->added = list;
    size_t known = t->added_count;
    t->added_count = 0;                     /* a word is spelled in letters, not in other words */
    int rc = bpe_encode(t, word, strlen(word), &a.ids, e);
    t->added_count = known;
    if (!rc && !a.ids.count) rc = err_set(e, ERR_USAGE, "\"%s\" is no word for a prompt", word);
    if (rc) {
        bpe_ids_free(&a.ids);
        return rc;
    }
    list[t->added_count++] = a;
    return 0;
}

/* The longest added word at ids[0..n), or NULL. */
static const struct Added *added_at(const Tokenizer *t, const int32_t *ids, size_t n)
{
    const struct Added *best = NULL;
    for (size_t i = 0; i < t->added_count; i++) {
        const BpeIds *w = &t->added[i].ids;
        if (w->count > n || memcmp(w->ids, ids, w->count * sizeof *ids)) continue;
        if (!best || w->count > best->ids.count) best = &t->added[i];
    }
    return best;
}

/* Puts added words in the place of their ids, from `from` on. */
static int replace_added(const Tokenizer *t, BpeIds *out, size_t from, Err *e)
{
    BpeIds old = {0};
    size_t n = out->count - from;
    for (size_t i = from; i < out->count; i++)
        TRY(add_id(&old, out->ids[i], e) ? (bpe_ids_free(&old), e->code) : 0);
    out->count = from;
    int rc = 0;
    for (size_t i = 0; i < n && !rc;) {
        const struct Added *a = added_at(t, old.ids + i, n - i);
        for (int k = 0; a && k < a->count && !rc; k++) rc = add_id(out, a->first + k, e);
        if (!a) rc = add_id(out, old.ids[i], e);
        i += a ? a->ids.count : 1;
    }
    bpe_ids_free(&old);
    return rc;
}

int bpe_encode(const Tokenizer *t, const char *text, size_t len, BpeIds *out, Err *e)
{
    size_t before = out->count;
    if (len > BPE_MAX_TEXT)
        return err_set(e, ERR_USAGE, "a text of %zu bytes; at most %d can be tokenized",
                       len, BPE_MAX_TEXT);
    Word w = {0};
    int rc = 0;
    for (const char *p = text, *end = text + len; !rc && p < end;) {
        const char *q = p;
        int32_t special = 0;
        size_t size = 0;
        while (q < end && !(special = special_at(q, end, &size))) q++;
        if (q > p) rc = encode_plain(t, &w, p, (size_t)(q - p), out, e);
        if (!rc && special) rc = add_id(out, special, e);
        p = special ? q + size : end;
    }
    word_free(&w);
    return rc || !t->added_count ? rc : replace_added(t, out, before, e);
}
