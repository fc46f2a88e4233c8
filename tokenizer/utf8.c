/* utf8.c - see utf8.h. Categories, mappings and decompositions come from utf8proc. */
#include "tokenizer/utf8.h"

#include <string.h>
#include <utf8proc.h>

#include "engine/mem.h"

Utf8Class utf8_class(uint32_t c)
{
    if ((c >= 9 && c <= 13) || c == 0x85) return UTF8_SPACE;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM: case UTF8PROC_CATEGORY_LO:
        return UTF8_LETTER;
    case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_NO:
        return UTF8_NUMBER;
    case UTF8PROC_CATEGORY_ZS: case UTF8PROC_CATEGORY_ZL: case UTF8PROC_CATEGORY_ZP:
        return UTF8_SPACE;
    default:
        return UTF8_OTHER;
    }
}

uint32_t utf8_next(const char **p, const char *end)
{
    const unsigned char *s = (const unsigned char *)*p, *stop = (const unsigned char *)end;
    uint32_t c = *s++;
    unsigned lo = 0x80, hi = 0xBF;        /* what the second byte may be */
    int more = 0;
    if (c >= 0xF0) {
        more = c <= 0xF4 ? 3 : -1;
        if (c == 0xF0) lo = 0x90;
        if (c == 0xF4) hi = 0x8F;
        c &= 7;
    } else if (c >= 0xE0) {
        more = 2;
        if (c == 0xE0) lo = 0xA0;
        if (c == 0xED) hi = 0x9F;         /* surrogates */
        c &= 15;
    } else if (c >= 0x80) {
        more = c >= 0xC2 ? 1 : -1;
        c &= 31;
    }
    for (; more > 0 && s < stop && *s >= lo && *s <= hi; more--, lo = 0x80, hi = 0xBF)
        c = c << 6 | (*s++ & 63);
    *p = (const char *)s;
    return more ? 0xFFFD : c;
}

size_t utf8_put(char *out, uint32_t c)
{
    static const unsigned lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; c >>= 6) out[i] = (char)(0x80 | (c & 63));
    out[0] = (char)(lead[n] | c);
    return n;
}

char *utf8_clean(const char *text, size_t len, size_t *size)
{
    char *out = len <= (SIZE_MAX - 1) / 3 ? mem_alloc(3 * len + 1) : NULL;
    if (!out) return NULL;
    size_t n = 0;
    for (const char *p = text, *end = text + len; p < end;)
        n += utf8_put(out + n, utf8_next(&p, end));
    out[n] = 0;
    *size = n;
    return out;
}

static int mark_class(int32_t c) { return utf8proc_get_property(c)->combining_class; }

/* Sorts n marks by their class, keeping the order within a class; tmp: n. */
static void sort_marks(int32_t *c, size_t n, int32_t *tmp)
{
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++) at[mark_class(c[i]) + 1]++;
    for (int k = 0; k < 256; k++) at[k + 1] += at[k];
    for (size_t i = 0; i < n; i++) tmp[at[mark_class(c[i])]++] = c[i];
    memcpy(c, tmp, n * sizeof *c);
}

/* The canonical order. utf8proc has it too, but takes quadratic time. tmp: n. */
static void order_marks(int32_t *c, size_t n, int32_t *tmp)
{
    for (size_t i = 0, j; i < n; i = j) {
        int sorted = 1, last = mark_class(c[i]);
        j = i + 1;
        if (!last) continue;
        for (int k; j < n && (k = mark_class(c[j])) != 0; j++, last = k) sorted &= k >= last;
        if (!sorted) sort_marks(c + i, j - i, tmp);
    }
}

/* Writes text in normal form C to c; returns its length. c and tmp have room for `cap` code
 * points, at least len; 2 * len + 2 is always enough (the worst is U+0390: 2 bytes, 3 code
 * points), and if some day it is not, a character stays as it is. */
static size_t compose(int32_t *c, int32_t *tmp, size_t cap, const char *text, size_t len)
{
    size_t n = 0;
    for (const char *p = text, *end = text + len; p < end;) {
        int32_t one = (int32_t)utf8_next(&p, end);
        int unused = 0;
        utf8proc_ssize_t room = (utf8proc_ssize_t)(cap - n - (size_t)(end - p));
        utf8proc_ssize_t k = utf8proc_decompose_char(one, c + n, room, UTF8PROC_DECOMPOSE,
                                                     &unused);
        if (k < 1 || k > room) c[n] = one, k = 1;
        n += (size_t)k;
    }
    order_marks(c, n, tmp);
    utf8proc_ssize_t m = utf8proc_normalize_utf32(c, (utf8proc_ssize_t)n,
                                                  UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    return m < 0 ? n : (size_t)m;
}

char *utf8_fold(const char *text, size_t len, size_t *size)
{
    if (len > SIZE_MAX / 32) return NULL;
    size_t cap = 2 * len + 2, n = 0;
    int32_t *c = mem_alloc(2 * cap * sizeof *c);
    if (!c) return NULL;
    size_t count = compose(c, c + cap, cap, text, len);
    char *out = mem_alloc(4 * count + 1);
    for (size_t i = 0; out && i < count; i++) {
        if (c[i] == 0x130) {
            memcpy(out + n, "i\xCC\x87", 3);
            n += 3;
        } else {
            n += utf8_put(out + n, (uint32_t)utf8proc_tolower(c[i]));
        }
    }
    mem_free(c);
    if (!out) return NULL;
    out[n] = 0;
    *size = n;
    return out;
}
