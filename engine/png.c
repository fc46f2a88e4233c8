/* png.c - see png.h. */
#include "engine/png.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include <zlib.h>

#include "engine/mem.h"

static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24), p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8), p[3] = (uint8_t)v;
}

static void *z_alloc(void *opaque, unsigned count, unsigned size)
{
    (void)opaque;
    return mem_calloc(count, size);
}

static void z_free(void *opaque, void *p)
{
    (void)opaque;
    mem_free(p);
}

/* ---- chunks ---- */

int png_is(const uint8_t *file, size_t size)
{
    return size >= 8 && !memcmp(file, signature, 8);
}

int png_next(PngChunk *c, const uint8_t *file, size_t size, size_t *pos)
{
    if (*pos == 0) *pos = png_is(file, size) ? 8 : size;
    if (size - *pos < 12) return 0;
    const uint8_t *p = file + *pos;
    size_t n = be32(p);
    if (n > size - *pos - 12) return 0;
    if (!memcmp(p + 4, "IEND", 4)) return 0;
    c->type = p + 4;
    c->data = p + 8;
    c->size = n;
    c->crc_ok = crc32_z(0, c->type, n + 4) == be32(c->data + n);
    *pos += n + 12;
    return 1;
}

int png_check(const uint8_t *file, size_t size, Err *e)
{
    PngChunk c;
    size_t pos = 0;
    while (png_next(&c, file, size, &pos))
        if (!c.crc_ok && !(c.type[0] & 0x20))
            return err_set(e, ERR_INPUT, "the PNG is damaged: checksum of chunk %.4s is wrong",
                           (const char *)c.type);
    if (size - pos < 12 || memcmp(file + pos + 4, "IEND", 4))
        return err_set(e, ERR_INPUT, "the PNG is cut short: no IEND chunk after byte %zu", pos);
    return 0;
}

/* ---- writing ---- */

typedef struct {
    uint8_t *data;
    size_t size;
} Buf;

static uint8_t *add_chunk(uint8_t *p, const char *type, const void *data, size_t n)
{
    put32(p, (uint32_t)n);
    memcpy(p + 4, type, 4);
    if (n) memmove(p + 8, data, n);      /* the pixels are in place already */
    put32(p + 8 + n, (uint32_t)crc32_z(0, p + 4, n + 4));
    return p + 12 + n;
}

/* Latin-1 of a UTF-8 string into dst (strlen(s) bytes is enough); -1 when it
 * has other characters. */
static long to_latin1(uint8_t *dst, const char *s)
{
    long n = 0;
    for (const uint8_t *p = (const uint8_t *)s; *p; n++) {
        if (*p < 0x80) {
            dst[n] = *p++;
        } else {
            if ((*p != 0xc2 && *p != 0xc3) || (p[1] & 0xc0) != 0x80) return -1;
            dst[n] = (uint8_t)((*p & 3) << 6 | (p[1] & 0x3f));
            p += 2;
        }
    }
    return n;
}

static int is_utf8(const char *s)
{
    utf8proc_int32_t u;
    for (utf8proc_ssize_t used; *s; s += used)
        if ((used = utf8proc_iterate((const utf8proc_uint8_t *)s, -1, &u)) < 1) return 0;
    return 1;
}

static int key_ok(const char *key)
{
    size_t n = strlen(key);
    for (const char *p = key; *p; p++)
        if (*p < 32 || *p > 126) return 0;
    return n >= 1 && n <= 79;
}

/* Appends one text chunk to p; body is scratch for key, text and 5 bytes. */
static uint8_t *add_text(uint8_t *p, uint8_t *body, const PngText *t)
{
    size_t key = strlen(t->key), len = strlen(t->text);
    memcpy(body, t->key, key + 1);
    long latin = to_latin1(body + key + 1, t->text);
    if (latin < 0 && !is_utf8(t->text)) {
        memcpy(body + key + 1, t->text, len);
        latin = (long)len;
    }
    if (latin >= 0) return add_chunk(p, "tEXt", body, key + 1 + (size_t)latin);
    memset(body + key + 1, 0, 4);        /* not compressed, method 0, no language, no key */
    memcpy(body + key + 5, t->text, len);
    return add_chunk(p, "iTXt", body, key + 5 + len);
}

static uint8_t paeth(int a, int b, int c)
{
    int pa = abs(b - c), pb = abs(a - c), pc = abs(a + b - 2 * c);
    return (uint8_t)(pa <= pb && pa <= pc ? a : pb <= pc ? b : c);
}

/* Filters a row (n bytes, c per pixel) into dst (1 + n); up is the row above
 * (zeros for the first). Returns the sum of the results as signed sizes. */
static long filter_row(uint8_t *dst, int type, const uint8_t *x, const uint8_t *up, size_t n,
                       size_t c)
{
    long sum = 0;
    *dst++ = (uint8_t)type;
    for (size_t i = 0; i < n; i++) {
        int a = i >= c ? x[i - c] : 0, b = up[i], ab = i >= c ? up[i - c] : 0, guess = 0;
        if (type == 1) guess = a;
        else if (type == 2) guess = b;
        else if (type == 3) guess = (a + b) / 2;
        else if (type == 4) guess = paeth(a, b, ab);
        dst[i] = (uint8_t)(x[i] - guess);
        sum += dst[i] < 128 ? dst[i] : 256 - dst[i];
    }
    return sum;
}

/* Deflates the filtered rows into dst (*n bytes of room, becomes the size). For
 * each row the filter with the smallest sum, as the specification advises. */
static int deflate_rows(uint8_t *dst, size_t *n, const Image *im, uint8_t *scratch)
{
    size_t c = (size_t)im->c, row = (size_t)im->w * c, room = *n;
    const uint8_t *zeros = scratch;
    uint8_t *best = scratch + row, *other = best + row + 1;
    z_stream z = {.zalloc = z_alloc, .zfree = z_free};
    if (deflateInit(&z, 6) != Z_OK) return -1;
    z.next_out = dst;
    int rc = Z_OK;
    for (int y = 0; y < im->h && rc == Z_OK; y++) {
        const uint8_t *x = im->px + (size_t)y * row, *up = y ? x - row : zeros;
        long least = filter_row(best, 0, x, up, row, c);
        for (int type = 1; type < 5; type++) {
            long sum = filter_row(other, type, x, up, row, c);
            if (sum >= least) continue;
            least = sum;
            uint8_t *t = best;
            best = other;
            other = t;
        }
        size_t used = (size_t)(z.next_out - dst);
        z.next_in = best;
        z.avail_in = (unsigned)(row + 1);
        z.avail_out = (unsigned)(room - used);
        rc = deflate(&z, y + 1 < im->h ? Z_NO_FLUSH : Z_FINISH);
    }
    *n = (size_t)(z.next_out - dst);
    deflateEnd(&z);
    return rc == Z_STREAM_END ? 0 : -1;
}

/* How many bytes deflate_rows can need at most. */
static size_t deflate_room(const Image *im)
{
    return deflateBound(NULL, ((uLong)im->w * (uLong)im->c + 1) * (uLong)im->h);
}

int png_encode(uint8_t **out, size_t *size, const Image *im, const PngText *text, size_t n,
               Err *e)
{
    size_t row = (size_t)im->w * (size_t)im->c, room = deflate_room(im);
    size_t cap = 8 + 25 + 12 + room + 12, scratch = 3 * row + 2;
    for (size_t i = 0; i < n; i++) {
        if (!key_ok(text[i].key))
            return err_set(e, ERR_FAIL, "'%s' cannot be the key of a PNG text", text[i].key);
        size_t body = strlen(text[i].key) + strlen(text[i].text) + 5;
        if (body > PNG_TEXT_MAX)
            return err_set(e, ERR_FAIL, "a PNG text of %zu bytes is too long; at most %d",
                           body, PNG_TEXT_MAX);
        cap += 12 + body;
        if (body > scratch) scratch = body;
    }
    uint8_t *p = *out = mem_alloc(cap), *tmp = mem_calloc(1, scratch);
    if (!p || !tmp) {
        mem_free(p);
        mem_free(tmp);
        *out = NULL;
        return err_nomem(e, cap, "a PNG");
    }
    uint8_t head[13] = {[8] = 8, [9] = im->c == 4 ? 6 : 2};
    put32(head, (uint32_t)im->w);
    put32(head + 4, (uint32_t)im->h);
    memcpy(p, signature, 8);
    p = add_chunk(p + 8, "IHDR", head, sizeof head);
    for (size_t i = 0; i < n; i++) p = add_text(p, tmp, &text[i]);
    memset(tmp, 0, row);
    int rc = deflate_rows(p + 8, &room, im, tmp);
    mem_free(tmp);
    if (rc) {
        mem_free(*out);
        *out = NULL;
        return err_nomem(e, 1 << 18, "a PNG");
    }
    p = add_chunk(p, "IDAT", p + 8, room);
    p = add_chunk(p, "IEND", NULL, 0);
    *size = (size_t)(p - *out);
    return 0;
}

/* ---- reading text ---- */

/* Unpacks zlib data; data NULL when it is broken or more than limit bytes. */
static int unpack(Buf *b, const uint8_t *p, size_t n, size_t limit, Err *e)
{
    z_stream z = {.zalloc = z_alloc, .zfree = z_free};
    *b = (Buf){0};
    if (inflateInit(&z) != Z_OK) return err_nomem(e, 1 << 16, "a PNG text");
    z.next_in = (z_const Bytef *)(uintptr_t)p;
    z.avail_in = (unsigned)n;
    size_t cap = 0;
    int rc = Z_OK;
    while (rc == Z_OK && b->size < limit) {
        if (b->size == cap) {
            cap = cap ? 2 * cap : 4096;
            uint8_t *more = mem_realloc(b->data, cap);
            if (!more) break;
            b->data = more;
        }
        z.next_out = b->data + b->size;
        z.avail_out = (unsigned)(cap - b->size);
        rc = inflate(&z, Z_NO_FLUSH);
        b->size = cap - z.avail_out;
    }
    inflateEnd(&z);
    int starved = rc == Z_MEM_ERROR || (rc == Z_OK && b->size < limit);
    if (rc != Z_STREAM_END || b->size > limit) {
        mem_free(b->data);
        b->data = NULL;
    }
    return starved ? err_nomem(e, cap, "a PNG text") : 0;
}

static char *from_latin1(const uint8_t *p, size_t n)
{
    char *s = mem_alloc(2 * n + 1), *q = s;
    for (size_t i = 0; s && i < n && p[i]; i++)
        q += utf8proc_encode_char(p[i], (utf8proc_uint8_t *)q);
    if (s) *q = 0;
    return s;
}

/* The bytes if they are UTF-8, up to a NUL; *s NULL when they are not. */
static int from_utf8(char **s, const uint8_t *p, size_t n, Err *e)
{
    if (!(*s = mem_alloc(n + 1))) return err_nomem(e, n + 1, "a PNG text");
    if (n) memcpy(*s, p, n);
    (*s)[n] = 0;
    if (!is_utf8(*s)) {
        mem_free(*s);
        *s = NULL;
    }
    return 0;
}

/* Where the text of a chunk begins, how it is packed. 0 when malformed. */
static int locate(const PngChunk *c, size_t *key, size_t *start, int *packed, int *utf8)
{
    const uint8_t *end = memchr(c->data, 0, c->size < 80 ? c->size : 80);
    if (!end || end == c->data) return 0;
    *key = (size_t)(end - c->data);
    *start = *key + 1;
    *packed = *utf8 = 0;
    if (!memcmp(c->type, "tEXt", 4)) return 1;
    if (!memcmp(c->type, "zTXt", 4)) {
        *packed = 1;
        return c->size > *start && c->data[(*start)++] == 0;
    }
    if (c->size < *start + 2 || c->data[*start + 1] != 0) return 0;
    *packed = c->data[*start] != 0;
    *utf8 = 1;
    *start += 2;
    for (int i = 0; i < 2; i++) {        /* language and translated key */
        end = memchr(c->data + *start, 0, c->size - *start);
        if (!end) return 0;
        *start = (size_t)(end - c->data) + 1;
    }
    return 1;
}

/* Reads one chunk; text NULL when it is no good. *left is what may still be
 * unpacked: broken chunks cost as much as good ones. */
static int read_chunk(PngText *t, const PngChunk *c, size_t *left, Err *e)
{
    size_t key, start;
    int packed, utf8;
    *t = (PngText){0};
    if (!c->crc_ok || c->size > PNG_TEXT_MAX || !locate(c, &key, &start, &packed, &utf8))
        return 0;
    Buf b = {0};
    const uint8_t *p = c->data + start;
    size_t n = c->size - start;
    if (packed) {
        TRY(unpack(&b, p, n, *left < PNG_TEXT_MAX ? *left : PNG_TEXT_MAX, e));
        *left -= b.size < *left ? b.size : *left;
        if (!b.data) return 0;
        p = b.data, n = b.size;
    }
    int rc = 0;
    if (utf8) rc = from_utf8(&t->text, p, n, e);
    else if (!(t->text = from_latin1(p, n))) rc = err_nomem(e, 2 * n, "a PNG text");
    mem_free(b.data);
    if (!rc && t->text && !(t->key = from_latin1(c->data, key)))
        rc = err_nomem(e, 2 * key, "a PNG text");
    if (rc) {
        mem_free(t->text);
        *t = (PngText){0};
    }
    return rc;
}

int png_read_text(PngText **text, size_t *n, const uint8_t *file, size_t size, Err *e)
{
    *text = NULL;
    *n = 0;
    if (!png_is(file, size)) return err_set(e, ERR_INPUT, "not a PNG");
    PngChunk c;
    size_t cap = 0, left = 4 * (size_t)PNG_TEXT_MAX;
    for (size_t pos = 0; png_next(&c, file, size, &pos);) {
        if (memcmp(c.type, "tEXt", 4) && memcmp(c.type, "zTXt", 4) && memcmp(c.type, "iTXt", 4))
            continue;
        PngText t, *more = mem_grow(*text, *n, &cap, sizeof *more);
        int rc = more ? 0 : err_nomem(e, sizeof *more, "a PNG text");
        if (more) *text = more;
        if (!rc) rc = read_chunk(&t, &c, &left, e);
        if (rc) {
            png_free_text(*text, *n);
            *text = NULL;
            *n = 0;
            return rc;
        }
        if (!t.text) continue;
        (*text)[(*n)++] = t;
    }
    return 0;
}

void png_free_text(PngText *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        mem_free(text[i].key);
        mem_free(text[i].text);
    }
    mem_free(text);
}
