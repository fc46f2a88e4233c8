/* prompt.c - see prompt.h. */
#include "tokenizer/prompt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/mem.h"
#include "tokenizer/utf8.h"

typedef struct { const char *at, *end; } Span;

/* ---- characters as Python's re sees them ------------------------------------------------- */

static int is_word(uint32_t c)
{
    Utf8Class k = utf8_class(c);
    return c == '_' || k == UTF8_LETTER || k == UTF8_NUMBER;
}

static int is_space(uint32_t c)
{
    return (c >= 0x1C && c <= 0x1F) || utf8_class(c) == UTF8_SPACE;
}

/* The start of the code point before p, p > begin, in well-formed text. */
static const char *before(const char *p, const char *begin)
{
    do p--; while (p > begin && ((unsigned char)*p & 0xC0) == 0x80);
    return p;
}

static uint32_t code_at(const char *p, const char *end) { return utf8_next(&p, end); }

static const char *skip_space(const char *p, const char *end)
{
    for (const char *q = p; p < end && is_space(utf8_next(&q, end));) p = q;
    return p;
}

/* A finite decimal number, all of s. */
static int number(Span s, double *value)
{
    char buf[64], *end;
    size_t n = (size_t)(s.end - s.at);
    if (n == 0 || n >= sizeof buf) return 0;
    memcpy(buf, s.at, n);
    buf[n] = 0;
    if (strspn(buf, "0123456789+-.eE") != n) return 0;      /* no hex, inf, nan, locale */
    *value = strtod(buf, &end);
    return end == buf + n && isfinite(*value);
}

/* ---- networks --------------------------------------------------------------------------- */

/* Takes the next item before `sep` off *rest; 0 at the end. An empty rest has one empty item. */
static int next_item(Span *rest, char sep, Span *item)
{
    if (!rest->at) return 0;
    const char *p = rest->at < rest->end ? memchr(rest->at, sep, (size_t)(rest->end - rest->at))
                                         : NULL;
    *item = (Span){rest->at, p ? p : rest->end};
    rest->at = p ? p + 1 : NULL;
    return 1;
}

static int is_text(Span s, const char *text)
{
    return (size_t)(s.end - s.at) == strlen(text) && !memcmp(s.at, text, strlen(text));
}

static Span trim(Span s)
{
    s.at = skip_space(s.at, s.end);
    for (const char *p; s.end > s.at && is_space(code_at(p = before(s.end, s.at), s.end));)
        s.end = p;
    return s;
}

static int lora_weight(Span s, double *value, Span tag, Err *e)
{
    s = trim(s);
    if (number(s, value)) return 0;
    return err_set(e, ERR_USAGE, "prompt: \"%.*s\" in %.*s is not a number; "
                   "<lora:name:0.8> was expected",
                   (int)(s.end - s.at > 60 ? 60 : s.end - s.at), s.at,
                   (int)(tag.end - tag.at > 200 ? 200 : tag.end - tag.at), tag.at);
}

/* tag: all of <lora:args>. */
static int add_lora(Prompt *p, size_t *cap, Span tag, Span args, Err *e)
{
    Span pos[3] = {{0}}, te = {0}, unet = {0}, item, half[3];
    size_t count = 0;
    while (next_item(&args, ':', &item)) {
        Span rest = item;
        size_t parts = 0;
        while (parts < 3 && next_item(&rest, '=', &half[parts])) parts++;
        if (parts != 2) {
            if (count < 3) pos[count] = item;
            count++;
        } else if (is_text(half[0], "te")) {
            te = half[1];
        } else if (is_text(half[0], "unet")) {
            unet = half[1];
        }
    }
    if (!count)
        return err_set(e, ERR_USAGE, "prompt: %.*s has no name; <lora:name:0.8> was expected",
                       (int)(tag.end - tag.at > 200 ? 200 : tag.end - tag.at), tag.at);
    PromptLora l = {.te = 1};
    if (te.at || pos[1].at) TRY(lora_weight(te.at ? te : pos[1], &l.te, tag, e));
    l.unet = l.te;
    if (unet.at || pos[2].at) TRY(lora_weight(unet.at ? unet : pos[2], &l.unet, tag, e));
    PromptLora *a = mem_grow(p->loras, p->lora_count, cap, sizeof *a);
    if (a) p->loras = a;
    l.name = mem_printf("%.*s", (int)(pos[0].end - pos[0].at), pos[0].at);
    if (!a || !l.name) {
        mem_free(l.name);
        return err_nomem(e, sizeof *a, "the networks of a prompt");
    }
    p->loras[p->lora_count++] = l;
    return 0;
}

static int add_ignored(Prompt *p, size_t *cap, Span tag, Err *e)
{
    char **a = mem_grow(p->ignored, p->ignored_count, cap, sizeof *a);
    if (a) p->ignored = a;
    char *s = a ? mem_printf("%.*s", (int)(tag.end - tag.at), tag.at) : NULL;
    if (!s) return err_nomem(e, sizeof *a, "the networks of a prompt");
    p->ignored[p->ignored_count++] = s;
    return 0;
}

/* Cuts the networks out of p->text, size bytes; *left is how many remain. */
static int cut_networks(Prompt *p, size_t size, size_t *left, Err *e)
{
    char *out = p->text;
    const char *end = p->text + size;
    const char *close = p->text;        /* the first '>' at or after the last tag's args */
    size_t lora_cap = 0, ignored_cap = 0;
    for (const char *s = p->text; s < end;) {
        const char *word = s + 1, *colon = word;
        while (*s == '<' && colon < end) {
            const char *q = colon;
            if (!is_word(utf8_next(&q, end))) break;
            colon = q;
        }
        int tag = *s == '<' && colon > word && colon < end && *colon == ':';
        if (tag && close && close <= colon)
            close = memchr(colon, '>', (size_t)(end - colon));
        if (!tag || !close || close == colon + 1) {
            *out++ = *s++;
            continue;
        }
        Span all = {s, close + 1}, args = {colon + 1, close};
        TRY(is_text((Span){word, colon}, "lora") ? add_lora(p, &lora_cap, all, args, e)
                                                 : add_ignored(p, &ignored_cap, all, e));
        s = close + 1;
    }
    *out = 0;
    *left = (size_t)(out - p->text);
    return 0;
}

/* ---- attention -------------------------------------------------------------------------- */

typedef struct {
    Prompt *p;
    char *out;                          /* the end of p->plain */
    size_t cap;                         /* of p->pieces */
    size_t round[PROMPT_MAX_OPEN], square[PROMPT_MAX_OPEN];     /* pieces they begin at */
    size_t round_count, square_count;
    Err *e;
} Attention;

static int put(Attention *a, const char *s, const char *end, double weight)
{
    PromptPiece *v = mem_grow(a->p->pieces, a->p->piece_count, &a->cap, sizeof *v);
    if (!v) return err_nomem(a->e, a->cap * 2 * sizeof *v, "the pieces of a prompt");
    a->p->pieces = v;
    size_t n = (size_t)(end - s);
    v[a->p->piece_count++] = (PromptPiece){a->out, n, weight};
    memcpy(a->out, s, n);
    a->out += n;
    return 0;
}

/* Puts text that has no syntax in it but BREAK. */
static int put_text(Attention *a, const char *s, const char *end)
{
    static const char word[5] = "BREAK";
    const char *from = s, *hit = s;
    while ((hit = memmem(hit, (size_t)(end - hit), word, 5)) != NULL) {
        const char *left = hit, *right = hit += 5;
        if ((left > from && is_word(code_at(before(left, from), end)))
            || (right < end && is_word(code_at(right, end))))
            continue;
        for (const char *q; left > from && is_space(code_at(q = before(left, from), end));)
            left = q;
        right = skip_space(right, end);
        TRY(put(a, from, left, 1));
        TRY(put(a, word, word + 5, -1));
        from = hit = right;
    }
    return put(a, from, end, 1);
}

static void scale_from(Attention *a, size_t start, double factor)
{
    for (size_t i = start; i < a->p->piece_count; i++) a->p->pieces[i].weight *= factor;
}

static int open_bracket(Attention *a, size_t *stack, size_t *count)
{
    if (*count == PROMPT_MAX_OPEN)
        return err_set(a->e, ERR_USAGE, "prompt: more than %d brackets are open at once; "
                       "write (text:1.5) for a large weight", PROMPT_MAX_OPEN);
    stack[(*count)++] = a->p->piece_count;
    return 0;
}

/* The end of ":1.3)" at s, its number in *weight; NULL when something else is there. */
static const char *weight_at(const char *s, const char *end, double *weight)
{
    Span n;
    n.at = n.end = skip_space(s + 1, end);
    while (n.end < end && memchr("0123456789.+-", *n.end, 13)) n.end++;
    const char *close = skip_space(n.end, end);
    return close < end && *close == ')' && number(n, weight) ? close + 1 : NULL;
}

/* Takes one lexeme at s; *next is where the following one begins. */
static int lexeme(Attention *a, const char *s, const char *end, const char **next)
{
    static const double square = 1 / 1.1;
    const char *after;
    double w;
    *next = s + 1;
    switch (*s) {
    case '\\':
        if (s + 1 == end || !memchr("()[]\\", s[1], 5)) return put(a, s, s, 1);
        *next = s + 2;
        return put(a, s + 1, s + 2, 1);
    case '(':
        return open_bracket(a, a->round, &a->round_count);
    case '[':
        return open_bracket(a, a->square, &a->square_count);
    case ':':
        if (!a->round_count || !(after = weight_at(s, end, &w))) break;
        *next = after;
        scale_from(a, a->round[--a->round_count], w);
        return 0;
    case ')':
        if (!a->round_count) break;
        scale_from(a, a->round[--a->round_count], 1.1);
        return 0;
    case ']':
        if (!a->square_count) break;
        scale_from(a, a->square[--a->square_count], square);
        return 0;
    default:
        while (*next < end && !memchr("\\()[]:", **next, 6)) ++*next;
    }
    return put_text(a, s, *next);
}

/* Neighbours of equal weight are neighbours in p->plain too, so joining is adding lengths. */
static int join_equal(Prompt *p, Err *e)
{
    size_t n = 0;
    for (size_t i = 0; i < p->piece_count; i++) {
        PromptPiece *v = p->pieces;
        if (!isfinite(v[i].weight))
            return err_set(e, ERR_USAGE, "prompt: the weights around \"%.*s\" multiply to "
                           "infinity", (int)(v[i].len > 60 ? 60 : v[i].len), v[i].text);
        if (n && v[n - 1].weight == v[i].weight) v[n - 1].len += v[i].len;
        else v[n++] = v[i];
    }
    p->piece_count = n;
    return 0;
}

static int attention(Prompt *p, size_t size, Err *e)
{
    p->plain = mem_alloc(size + 1);
    if (!p->plain) return err_nomem(e, size + 1, "a prompt");
    Attention a = {.p = p, .out = p->plain, .e = e};
    for (const char *s = p->text, *end = s + size; s < end;) TRY(lexeme(&a, s, end, &s));
    for (size_t i = 0; i < a.round_count; i++) scale_from(&a, a.round[i], 1.1);
    for (size_t i = 0; i < a.square_count; i++) scale_from(&a, a.square[i], 1 / 1.1);
    if (!p->piece_count) TRY(put(&a, p->text, p->text, 1));
    return join_equal(p, e);
}

int prompt_parse(Prompt *p, const char *text, size_t len, Err *e)
{
    *p = (Prompt){0};
    if (len > PROMPT_MAX_BYTES)
        return err_set(e, ERR_USAGE, "prompt: %zu bytes; at most %d are taken", len,
                       PROMPT_MAX_BYTES);
    size_t size = 0;
    p->text = utf8_clean(text, len, &size);
    int rc = p->text ? 0 : err_nomem(e, 3 * len, "a prompt");
    if (!rc) rc = cut_networks(p, size, &size, e);
    if (!rc) rc = attention(p, size, e);
    if (rc) prompt_free(p);
    return rc;
}

void prompt_free(Prompt *p)
{
    for (size_t i = 0; i < p->lora_count; i++) mem_free(p->loras[i].name);
    for (size_t i = 0; i < p->ignored_count; i++) mem_free(p->ignored[i]);
    mem_free(p->loras);
    mem_free(p->ignored);
    mem_free(p->pieces);
    mem_free(p->text);
    mem_free(p->plain);
    *p = (Prompt){0};
}
