/* infotext.c - see infotext.h. */
#include "engine/infotext.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/mem.h"

enum { MAX_FIELDS = 1000 };

/* ---- fields ---- */

void infotext_free(Infotext *t)
{
    for (size_t i = 0; i < t->count; i++) {
        mem_free(t->fields[i].key);
        mem_free(t->fields[i].value);
    }
    mem_free(t->fields);
    mem_free(t->prompt);
    mem_free(t->negative);
    *t = (Infotext){0};
}

static char *copy_span(const char *s, size_t n)
{
    char *r = mem_alloc(n + 1);
    if (!r) return NULL;
    if (n) memcpy(r, s, n);
    r[n] = 0;
    return r;
}

static InfotextField *find(const Infotext *t, const char *key)
{
    for (size_t i = 0; i < t->count; i++)
        if (!strcmp(t->fields[i].key, key)) return &t->fields[i];
    return NULL;
}

const char *infotext_get(const Infotext *t, const char *key)
{
    const InfotextField *f = find(t, key);
    return f ? f->value : NULL;
}

/* Takes key and value over, NULL (no memory) included. */
static int put(Infotext *t, char *key, char *value, Err *e)
{
    InfotextField *f = key && value ? find(t, key) : NULL;
    if (f) {
        mem_free(f->value);
        mem_free(key);
        f->value = value;
        return 0;
    }
    InfotextField *more = NULL;
    if (key && value) more = mem_grow(t->fields, t->count, &t->cap, sizeof *more);
    if (!more) {
        mem_free(key);
        mem_free(value);
        return err_nomem(e, sizeof *more, "generation parameters");
    }
    t->fields = more;
    t->fields[t->count++] = (InfotextField){key, value};
    return 0;
}

int infotext_set(Infotext *t, const char *key, const char *value, Err *e)
{
    return put(t, mem_strdup(key), mem_strdup(value), e);
}

int infotext_set_number(Infotext *t, const char *key, double value, Err *e)
{
    char s[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, value);
        if (strtod(s, NULL) == value) break;
    }
    return infotext_set(t, key, s, e);
}

int infotext_set_prompt(Infotext *t, const char *prompt, const char *negative, Err *e)
{
    char *p = mem_strdup(prompt), *n = mem_strdup(negative);
    if (!p || !n) {
        mem_free(p);
        mem_free(n);
        return err_nomem(e, strlen(prompt) + strlen(negative), "a prompt");
    }
    mem_free(t->prompt);
    mem_free(t->negative);
    t->prompt = p;
    t->negative = n;
    return 0;
}

static const char *number(const char *s, int *v)
{
    const char *start = s;
    for (*v = 0; *s >= '0' && *s <= '9'; s++)
        if ((*v = *v * 10 + (*s - '0')) > 65535) return NULL;
    return s > start && *v > 0 ? s : NULL;
}

int infotext_get_pair(const Infotext *t, const char *key, int *a, int *b)
{
    const char *s = infotext_get(t, key);
    if (!s || !(s = number(s, a)) || *s != 'x') return 0;
    return (s = number(s + 1, b)) && !*s;
}

int infotext_next_hash(const char **list, const char **name, size_t *name_size,
                       const char **hash, size_t *hash_size)
{
    while (**list) {
        const char *item = *list + strspn(*list, " ,"), *end = item + strcspn(item, ",");
        const char *colon = memchr(item, ':', (size_t)(end - item));
        *list = end;
        if (!colon) continue;
        *name = item;
        *name_size = (size_t)(colon - item);
        colon += 1 + strspn(colon + 1, " ");
        while (end > colon && end[-1] == ' ') end--;
        *hash = colon;
        *hash_size = (size_t)(end - colon);
        return 1;
    }
    return 0;
}

/* ---- characters as Python's re and str see them ---- */

/* Decodes one character of s (n > 0 bytes); a byte that is no UTF-8 is -1. */
static utf8proc_int32_t peek(const char *s, size_t n, size_t *used)
{
    utf8proc_int32_t u;
    utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &u);
    *used = k > 0 ? (size_t)k : 1;
    return k > 0 ? u : -1;
}

static int is_word(utf8proc_int32_t u)       /* \w: letters, digits, numerals, _ */
{
    if (u < 0) return 0;
    utf8proc_category_t c = utf8proc_category(u);
    return u == '_' || (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO)
        || (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
}

static int is_space(utf8proc_int32_t u)      /* \s, and what strip() removes */
{
    if ((u >= 9 && u <= 13) || (u >= 28 && u <= 32) || u == 0x85) return 1;
    if (u < 0xa0) return 0;
    utf8proc_category_t c = utf8proc_category(u);
    return c >= UTF8PROC_CATEGORY_ZS && c <= UTF8PROC_CATEGORY_ZP;
}

typedef struct {
    const char *s;
    size_t n;
} Span;

static Span strip_left(Span x)
{
    size_t used;
    while (x.n && is_space(peek(x.s, x.n, &used))) x.s += used, x.n -= used;
    return x;
}

static Span strip(Span x)
{
    x = strip_left(x);
    size_t end = 0, used;
    for (size_t i = 0; i < x.n; i += used)
        if (!is_space(peek(x.s + i, x.n - i, &used))) end = i + used;
    x.n = end;
    return x;
}

/* ---- writing ---- */

/* A1111's order. What stands before Version is followed by the extra fields. */
static const char *const order[] = {
    "Steps", "Sampler", "Schedule type", "CFG scale", "Image CFG scale", "Seed",
    "Face restoration", "Size", "Model hash", "Model", "FP8 weight",
    "Cache FP16 weight for LoRA", "VAE hash", "VAE", "Variation seed",
    "Variation seed strength", "Seed resize from", "Denoising strength",
    "Conditional mask weight", "Clip skip", "ENSD", "Token merging ratio",
    "Token merging ratio hr", "Init image hash", "RNG", "Tiling", NULL, "Version", "User",
};
enum { ORDER = sizeof order / sizeof *order };

static int rank_of(const char *key)
{
    int extra = 0;
    for (int i = 0; i < ORDER; i++) {
        if (!order[i]) extra = i;
        else if (!strcmp(order[i], key)) return i;
    }
    return extra;
}

/* json.dumps(s, ensure_ascii=False) at p; six bytes for each of s are enough. */
static char *put_json(char *p, const char *s)
{
    static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    *p++ = '"';
    for (; *s; s++) {
        const char *hit = strchr(plain, *s);
        if (hit) *p++ = '\\', *p++ = letter[hit - plain];
        else if ((unsigned char)*s < 32) p += sprintf(p, "\\u%04x", (unsigned)*s);
        else *p++ = *s;
    }
    *p++ = '"';
    return p;
}

static char *put_string(char *p, const char *s)
{
    size_t n = strlen(s);
    memcpy(p, s, n);
    return p + n;
}

static char *put_field(char *p, const InfotextField *f)
{
    p = put_string(p, f->key);
    if (!strcmp(f->key, f->value)) return p;
    p = put_string(p, ": ");
    return strpbrk(f->value, ",\n:") ? put_json(p, f->value) : put_string(p, f->value);
}

int infotext_format(char **text, const Infotext *t, Err *e)
{
    const char *prompt = t->prompt ? t->prompt : "", *negative = t->negative ? t->negative : "";
    size_t cap = strlen(prompt) + strlen(negative) + 32;
    for (size_t i = 0; i < t->count; i++)
        cap += strlen(t->fields[i].key) + 6 * strlen(t->fields[i].value) + 8;
    char *p = *text = mem_alloc(cap);
    if (!p) return err_nomem(e, cap, "generation parameters");
    p = put_string(p, prompt);
    if (*negative) p = put_string(put_string(p, "\nNegative prompt: "), negative);
    *p++ = '\n';
    const char *line = p;
    for (int rank = 0; rank < ORDER; rank++) {
        for (size_t i = 0; i < t->count; i++) {
            if (rank_of(t->fields[i].key) != rank) continue;
            if (p > line) p = put_string(p, ", ");
            p = put_field(p, &t->fields[i]);
        }
    }
    Span all = strip((Span){*text, (size_t)(p - *text)});
    memmove(*text, all.s, all.n);
    (*text)[all.n] = 0;
    return 0;
}

/* ---- reading ---- */

static int hex4(const char *s, size_t n, uint32_t *v)
{
    *v = 0;
    for (int i = 0; i < 4; i++) {
        if ((size_t)i >= n) return 0;
        int c = s[i] | 0x20;
        if (s[i] >= '0' && s[i] <= '9') c = s[i] - '0';
        else if (c >= 'a' && c <= 'f') c = c - 'a' + 10;
        else return 0;
        *v = *v << 4 | (uint32_t)c;
    }
    return 1;
}

/* One \uXXXX (or a pair of them) at s, after the 'u'; bytes used, 0: bad. */
static size_t read_unicode(const char *s, size_t n, char **p)
{
    uint32_t u, low;
    size_t used = 4;
    if (!hex4(s, n, &u) || u == 0) return 0;
    if (u >= 0xd800 && u < 0xdc00) {
        if (n < 10 || s[4] != '\\' || s[5] != 'u' || !hex4(s + 6, n - 6, &low)) return 0;
        if (low < 0xdc00 || low > 0xdfff) return 0;
        u = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
        used = 10;
    } else if (u >= 0xdc00 && u < 0xe000) {
        return 0;
    }
    *p += utf8proc_encode_char((utf8proc_int32_t)u, (utf8proc_uint8_t *)*p);
    return used;
}

/* The JSON string v, with its quotes, to p (v.n bytes are enough). 0 when it is
 * none: A1111 then takes the text as it stands. */
static int read_json(char *p, Span v)
{
    static const char letter[] = "\"\\/bfnrt", plain[] = "\"\\/\b\f\n\r\t";
    for (size_t i = 1; i + 1 < v.n; i++) {
        if ((unsigned char)v.s[i] < 32) return 0;
        if (v.s[i] != '\\') {
            *p++ = v.s[i];
            continue;
        }
        if (++i + 1 >= v.n) return 0;
        const char *hit = memchr(letter, v.s[i], sizeof letter - 1);
        if (hit) {
            *p++ = plain[hit - letter];
        } else {
            size_t used = v.s[i] == 'u' ? read_unicode(v.s + i + 1, v.n - i - 2, &p) : 0;
            if (!used) return 0;
            i += used;
        }
    }
    *p = 0;
    return 1;
}

/* Length of a quoted string at the front of x that a comma or the end follows. */
static size_t quoted(Span x)
{
    if (x.n < 3 || x.s[0] != '"') return 0;
    for (size_t i = 1; i < x.n; i++) {
        if (x.s[i] == '\\') i++;
        else if (x.s[i] == '"')
            return i > 1 && (i + 1 == x.n || x.s[i + 1] == ',') ? i + 1 : 0;
    }
    return 0;
}

/* The next match of \s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$) in
 * *line, which moves behind it. Linear: a run of key characters that no colon
 * follows cannot begin a match anywhere inside. */
static int next_field(Span *line, Span *key, Span *value)
{
    Span x = strip_left(*line);
    while (x.n) {
        size_t used, n, chars = 1;
        if (!is_word(peek(x.s, x.n, &n))) {
            x = strip_left((Span){x.s + n, x.n - n});
            continue;
        }
        for (; n < x.n; n += used, chars++) {
            utf8proc_int32_t u = peek(x.s + n, x.n - n, &used);
            if (!is_word(u) && u != ' ' && u != '-' && u != '/') break;
        }
        if (chars < 2 || n == x.n || x.s[n] != ':') {
            x = strip_left((Span){x.s + n, x.n - n});
            continue;
        }
        *key = (Span){x.s, n};
        x = strip_left((Span){x.s + n + 1, x.n - n - 1});
        size_t len = quoted(x);
        const char *comma = memchr(x.s, ',', x.n);
        if (!len) len = comma ? (size_t)(comma - x.s) : x.n;
        *value = (Span){x.s, len};
        if (len < x.n) len++;                     /* the comma */
        *line = (Span){x.s + len, x.n - len};
        return 1;
    }
    return 0;
}

static int add_field(Infotext *t, Span key, Span v, Err *e)
{
    char *value = mem_alloc(v.n + 1);
    int json = value && v.n >= 2 && v.s[0] == '"' && v.s[v.n - 1] == '"' && read_json(value, v);
    if (value && !json) {
        memcpy(value, v.s, v.n);
        value[v.n] = 0;
    }
    return put(t, copy_span(key.s, key.n), value, e);
}

static int parse_fields(Infotext *t, Span line, Err *e)
{
    Span key, value;
    while (next_field(&line, &key, &value)) {
        if (!value.n) continue;                   /* as A1111 does */
        if (t->count >= MAX_FIELDS)
            return err_set(e, ERR_INPUT, "the generation parameters have more than %d fields",
                           MAX_FIELDS);
        TRY(add_field(t, key, value, e));
    }
    return 0;
}

/* Appends a line to a prompt that has room for it. */
static void add_line(char *prompt, size_t *n, Span line)
{
    if (*n) prompt[(*n)++] = '\n';
    if (line.n) memcpy(prompt + *n, line.s, line.n);
    *n += line.n;
    prompt[*n] = 0;
}

static void parse_prompts(Infotext *t, Span x)
{
    static const char mark[] = "Negative prompt:";
    size_t len[2] = {0, 0}, m = sizeof mark - 1;
    int negative = 0;
    for (int more = 1; more;) {
        const char *end = memchr(x.s, '\n', x.n);
        size_t n = end ? (size_t)(end - x.s) : x.n;
        Span line = strip((Span){x.s, n});
        if (line.n >= m && !memcmp(line.s, mark, m)) {
            negative = 1;
            line = strip((Span){line.s + m, line.n - m});
        }
        add_line(negative ? t->negative : t->prompt, &len[negative], line);
        more = end != NULL;
        if (more) x = (Span){end + 1, x.n - n - 1};
    }
}

/* Names that ended a sampler's name before they were a field of their own:
 * label, and A1111's other names for it. */
static int split_sampler(Infotext *t, Err *e)
{
    static const char *const names[][3] = {
        {"Automatic", "automatic"}, {"Uniform", "uniform"}, {"Karras", "karras"},
        {"Exponential", "exponential"}, {"Polyexponential", "polyexponential"},
        {"SGM Uniform", "sgm_uniform", "SGMUniform"}, {"KL Optimal", "kl_optimal"},
        {"Align Your Steps", "align_your_steps"}, {"Simple", "simple"}, {"Normal", "normal"},
        {"DDIM", "ddim"}, {"Beta", "beta"},
    };
    InfotextField *f = find(t, "Sampler");
    if (!f) return 0;
    size_t n = strlen(f->value);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        for (int j = 0; j < 3 && names[i][j]; j++) {
            size_t k = strlen(names[i][j]);
            if (n < k + 2 || f->value[n - k - 1] != ' ' || strcmp(f->value + n - k, names[i][j]))
                continue;
            f->value[n - k - 1] = 0;
            return infotext_set(t, "Schedule type", names[i][0], e);
        }
    }
    return 0;
}

int infotext_parse(Infotext *t, const char *text, size_t size, Err *e)
{
    *t = (Infotext){0};
    if (size > INFOTEXT_MAX)
        return err_set(e, ERR_INPUT, "generation parameters of %zu bytes; at most %d are read",
                       size, INFOTEXT_MAX);
    const char *nul = size ? memchr(text, 0, size) : NULL;
    Span all = strip((Span){text, nul ? (size_t)(nul - text) : size}), key, value;
    size_t cut = all.n;
    while (cut && all.s[cut - 1] != '\n') cut--;
    Span last = {all.s + cut, all.n - cut}, line = last;
    int fields = 0;
    while (fields < 3 && next_field(&line, &key, &value)) fields++;
    /* Lines before the fields; there may be none at all. */
    Span head = fields < 3 ? all : (Span){all.s, cut ? cut - 1 : 0};
    t->prompt = mem_calloc(head.n + 2, 1);
    t->negative = mem_calloc(head.n + 2, 1);
    int rc = 0;
    if (!t->prompt || !t->negative) rc = err_nomem(e, head.n + 2, "a prompt");
    if (!rc && head.n) parse_prompts(t, head);
    if (!rc && fields >= 3) rc = parse_fields(t, last, e);
    if (!rc) rc = split_sampler(t, e);
    if (rc) infotext_free(t);
    return rc;
}
