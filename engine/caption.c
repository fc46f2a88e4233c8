/* caption.c - captions of pictures. See caption.h. */
#include <math.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/caption.h"
#include "engine/io.h"
#include "engine/mem.h"

/* Purposes of RngKey; 0xCA.... belongs to captions. */
enum {
    DRAW_DROPOUT = 0xCA0001,
    DRAW_SHUFFLE = 0xCA0002,
    DRAW_TAGS = 0xCA0003,
    DRAW_CHOICE = 0xCA0004
};

static int is_blank(char ch) { return ch == ' ' || (ch >= '\t' && ch <= '\r'); }

typedef struct { const char *s; size_t n; } Span;

static Span strip(Span a)
{
    while (a.n && is_blank(a.s[0])) a.s++, a.n--;
    while (a.n && is_blank(a.s[a.n - 1])) a.n--;
    return a;
}

static int is_utf8(const char *s, size_t n)
{
    const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)s;
    for (size_t at = 0; at < n;) {
        utf8proc_int32_t cp;
        utf8proc_ssize_t k = utf8proc_iterate(p + at, (utf8proc_ssize_t)(n - at), &cp);
        if (k <= 0 || cp == 0) return 0;
        at += (size_t)k;
    }
    return 1;
}

static int read_lines(char **text, const char *path, int all, Err *e)
{
    size_t size;
    *text = NULL;
    TRY(io_read_text(text, &size, path, CAPTION_MAX_BYTES, e));
    if (!is_utf8(*text, size)) {
        mem_free(*text);
        *text = NULL;
        return err_set(e, ERR_INPUT, "%s: caption is not UTF-8 text; save it as UTF-8", path);
    }
    Span line = {*text, size};
    if (line.n >= 3 && !memcmp(line.s, "\xEF\xBB\xBF", 3)) line.s += 3, line.n -= 3;
    size_t out = 0;
    for (int first = 1; line.n && (first || all); first = 0) {
        size_t end = 0;
        while (end < line.n && line.s[end] != '\n' && line.s[end] != '\r') end++;
        Span one = strip((Span){line.s, end});
        if (one.n && out) (*text)[out++] = '\n';
        memmove(*text + out, one.s, one.n);
        out += one.n;
        line = (Span){line.s + end, line.n - end};
        if (line.n) line.s++, line.n--;
    }
    (*text)[out] = 0;
    return 0;
}

int caption_read(char **text, const char *path, Err *e) { return read_lines(text, path, 0, e); }

int caption_read_lines(char **text, const char *path, Err *e)
{
    return read_lines(text, path, 1, e);
}

int caption_check(const CaptionConfig *c, Err *e)
{
    if (!(c->dropout_rate >= 0 && c->dropout_rate <= 1))
        return err_set(e, ERR_USAGE, "--caption_dropout_rate %g: must be between 0 and 1",
                       c->dropout_rate);
    if (!(c->tag_dropout_rate >= 0 && c->tag_dropout_rate <= 1))
        return err_set(e, ERR_USAGE, "--caption_tag_dropout_rate %g: must be between 0 and 1",
                       c->tag_dropout_rate);
    if (c->dropout_every_n_epochs < 0)
        return err_set(e, ERR_USAGE, "--caption_dropout_every_n_epochs %d: must be 0 or more",
                       c->dropout_every_n_epochs);
    if (c->keep_tokens < 0)
        return err_set(e, ERR_USAGE, "--keep_tokens %d: must be 0 or more", c->keep_tokens);
    if (c->token_warmup_min < 0 || !(c->token_warmup_step >= 0 && c->token_warmup_step < 1e9))
        return err_set(e, ERR_USAGE, "--token_warmup_min and --token_warmup_step: must be 0 or "
                       "more");
    return 0;
}

static int varies_tags(const CaptionConfig *c)
{
    return c->shuffle || c->tag_dropout_rate > 0 || c->token_warmup_step > 0;
}

int caption_is_fixed(const CaptionConfig *c)
{
    return !c->wildcards && !varies_tags(c) && c->dropout_rate <= 0 &&
           c->dropout_every_n_epochs == 0;
}

/* Tags of a caption: head stays in front, flex varies, tail stays behind. */
typedef struct {
    Span *tag;
    size_t count, cap, head, tail;     /* flex is tag[head .. tail) */
} Tags;

static int add_tags(Tags *t, Span text, const char *separator, int skip_empty, Err *e)
{
    size_t len = strlen(separator);
    for (int last = 0; !last;) {
        const char *cut = memmem(text.s, text.n, separator, len);
        Span tag = {text.s, cut ? (size_t)(cut - text.s) : text.n};
        last = !cut;
        if (cut) text = (Span){cut + len, text.n - tag.n - len};
        tag = strip(tag);
        if (skip_empty && !tag.n) continue;
        Span *grown = mem_grow(t->tag, t->count, &t->cap, sizeof *grown);
        if (!grown) return err_nomem(e, sizeof *grown, "a caption");
        t->tag = grown;
        t->tag[t->count++] = tag;
    }
    return 0;
}

static int split(Tags *t, const CaptionConfig *c, const char *caption, Err *e)
{
    const char *sep = c->separator && *c->separator ? c->separator : ",";
    const char *keep = c->keep_tokens_separator, *cut = NULL;
    if (keep && *keep) cut = strstr(caption, keep);
    if (!cut) {
        TRY(add_tags(t, strip((Span){caption, strlen(caption)}), sep, 0, e));
        t->head = (size_t)c->keep_tokens < t->count ? (size_t)c->keep_tokens : t->count;
        t->tail = t->count;
        return 0;
    }
    const char *flex = cut + strlen(keep), *tail = strstr(flex, keep);
    TRY(add_tags(t, (Span){caption, (size_t)(cut - caption)}, sep, 1, e));
    t->head = t->count;
    TRY(add_tags(t, (Span){flex, tail ? (size_t)(tail - flex) : strlen(flex)}, sep, 1, e));
    t->tail = t->count;
    if (tail) tail += strlen(keep);
    return tail ? add_tags(t, (Span){tail, strlen(tail)}, sep, 1, e) : 0;
}

/* How many of n varying tags are in use at this step. */
static size_t warmed(const CaptionConfig *c, size_t n, uint32_t step)
{
    double min = c->token_warmup_min ? c->token_warmup_min : 1, until = c->token_warmup_step;
    if (until < 1) until = floor(until * (double)c->max_train_steps);
    if (!(until > 0) || step >= until) return n;
    double have = floor(step * (((double)n - min) / until)) + min;
    return have >= (double)n ? n : have > 0 ? (size_t)have : 0;
}

/* "head, flex, tail" with the varying tags in the order of `index` (used of
 * them); drop[i] leaves one out. */
static char *join(const Tags *t, const uint32_t *index, size_t used, const uint8_t *drop)
{
    size_t size = 1, n = 0;
    for (size_t i = 0; i < t->count; i++) size += t->tag[i].n + 2;
    char *out = mem_alloc(size);
    if (!out) return NULL;
    for (size_t i = 0, first = 1; i < t->count; i++) {
        size_t flex = i - t->head;
        int varying = i >= t->head && i < t->tail;
        if (varying && (flex >= used || drop[flex])) continue;
        Span tag = t->tag[varying ? t->head + index[flex] : i];
        if (!first) memcpy(out + n, ", ", 2), n += 2;
        if (tag.n) memcpy(out + n, tag.s, tag.n);
        n += tag.n;
        first = 0;
    }
    out[n] = 0;
    return out;
}

static int vary_tags(char **out, const CaptionConfig *c, const char *caption, RngKey key,
                     uint32_t step, Err *e)
{
    Tags t = {0};
    uint32_t *index = NULL;
    uint8_t *drop = NULL;
    int rc = split(&t, c, caption, e);
    size_t used = warmed(c, t.tail - t.head, step);
    if (!rc) {
        index = mem_alloc((used + 1) * sizeof *index);
        drop = mem_calloc(used + 1, 1);
        if (!index || !drop) rc = err_nomem(e, used * 5, "a caption");
    }
    if (!rc) {
        for (size_t i = 0; i < used; i++) index[i] = (uint32_t)i;
        key.purpose = DRAW_SHUFFLE;
        if (c->shuffle) rng_shuffle(key, index, (uint32_t)used);
        key.purpose = DRAW_TAGS;
        for (size_t i = 0; i < used && c->tag_dropout_rate > 0; i++)
            drop[i] = rng_uniform(key, (uint32_t)i) < c->tag_dropout_rate;
        *out = join(&t, index, used, drop);
        if (!*out) rc = err_nomem(e, strlen(caption), "a caption");
    }
    mem_free(t.tag);
    mem_free(index);
    mem_free(drop);
    return rc;
}

/* One of the lines, in place. */
static void choose_line(char *text, RngKey key)
{
    uint32_t n = 1, k;
    for (const char *s = text; *s; s++) n += *s == '\n';
    k = rng_below(key, 0, n);
    const char *line = text;
    while (k--) line = strchr(line, '\n') + 1;
    size_t size = strcspn(line, "\n");
    memmove(text, line, size);
    text[size] = 0;
}

/* {a|b} becomes a or b, in place, as re.sub(r"\{([^}]+)\}"): from a brace to the next
 * closing one. Doubled braces stand for themselves. */
static void choose_words(char *text, RngKey key)
{
    char *out = text;
    uint32_t draw = 1;
    for (const char *s = text; *s;) {
        if ((s[0] == '{' || s[0] == '}') && s[1] == s[0]) {
            *out++ = *s, s += 2;
            continue;
        }
        const char *end = *s == '{' ? s + 1 : NULL;
        while (end && *end && (*end != '}' || end[1] == '}')) end += *end == '}' ? 2 : 1;
        if (!end || !*end || end == s + 1) {
            *out++ = *s++;
            continue;
        }
        uint32_t n = 1;
        for (const char *p = s; p < end; p++) n += *p == '|';
        const char *word = s + 1;
        for (uint32_t k = rng_below(key, draw++, n); k--;) word = strchr(word, '|') + 1;
        for (; word < end && *word != '|'; word++) {
            *out++ = *word;
            if ((*word == '{' || *word == '}') && word[1] == *word) word++;
        }
        s = end + 1;
    }
    *out = 0;
}

/* Every `from` becomes `to`. NULL when there is no memory. */
static char *replace(const char *text, const char *from, const char *to)
{
    size_t n = 0, cut = strlen(from);
    for (const char *s = text; (s = strstr(s, from)); s += cut) n++;
    char *out = mem_alloc(strlen(text) + n * strlen(to) + 1), *at = out;
    for (const char *s = text, *hit; out && s; s = hit ? hit + cut : NULL) {
        hit = strstr(s, from);
        size_t size = hit ? (size_t)(hit - s) : strlen(s);
        memcpy(at, s, size);
        at += size;
        if (hit) memcpy(at, to, strlen(to)), at += strlen(to);
        *at = 0;
    }
    return out;
}

/* What follows the dropout; text is consumed. */
static int vary(char **out, const CaptionConfig *c, char *text, RngKey key, uint32_t step, Err *e)
{
    int rc = 0;
    key.purpose = DRAW_CHOICE;
    if (c->wildcards) choose_line(text, key), choose_words(text, key);
    *out = text;
    if (varies_tags(c)) {
        char *varied = NULL;
        rc = vary_tags(&varied, c, text, key, step, e);
        mem_free(text);
        *out = varied;
    }
    if (rc || !c->secondary || !*c->secondary) return rc;
    text = *out;
    *out = replace(text, c->secondary, c->separator && *c->separator ? c->separator : ",");
    mem_free(text);
    return *out ? 0 : err_nomem(e, 0, "a caption");
}

int caption_process(char **out, const CaptionConfig *c, const char *caption, RngKey key,
                    uint32_t epoch, uint32_t step, Err *e)
{
    const char *pre = c->prefix ? c->prefix : "", *post = c->suffix ? c->suffix : "";
    key.step = epoch;
    key.purpose = DRAW_DROPOUT;
    int drop = c->dropout_rate > 0 && rng_uniform(key, 0) < c->dropout_rate;
    int every = c->dropout_every_n_epochs;
    if (every > 0 && (epoch + 1) % (uint32_t)every == 0) drop = 1;
    *out = NULL;
    char *full = drop ? mem_strdup("") : mem_printf("%s%s%s%s%s", pre, *pre ? " " : "", caption,
                                                    *post ? " " : "", post);
    if (!full) return err_nomem(e, strlen(caption), "a caption");
    if (!drop) return vary(out, c, full, key, step, e);
    *out = full;
    return 0;
}
