/* exif.c - see exif.h. */
#include "engine/exif.h"

#include <string.h>
#include <utf8proc.h>

#include "engine/mem.h"
#include "engine/png.h"

enum { TAG_ORIENTATION = 0x0112, TAG_EXIF_IFD = 0x8769, TAG_USER_COMMENT = 0x9286 };
enum { TYPE_BYTE = 1, TYPE_ASCII = 2, TYPE_SHORT = 3, TYPE_LONG = 4, TYPE_UNDEFINED = 7 };

/* ---- where it is ---- */

static uint32_t be16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static uint32_t le16(const uint8_t *p) { return (uint32_t)p[1] << 8 | p[0]; }
static uint32_t be32(const uint8_t *p) { return be16(p) << 16 | be16(p + 2); }
static uint32_t le32(const uint8_t *p) { return le16(p + 2) << 16 | le16(p); }

static Exif skip_prefix(const uint8_t *p, size_t n)
{
    int prefixed = n >= 6 && !memcmp(p, "Exif\0\0", 6);
    return prefixed ? (Exif){p + 6, n - 6} : (Exif){p, n};
}

static Exif find_jpeg(const uint8_t *p, size_t n)
{
    size_t i = 2;
    while (i + 4 <= n && p[i] == 0xff) {
        int marker = p[i + 1];
        if (marker == 0xff) {                        /* fill byte */
            i++;
            continue;
        }
        if (marker == 0xda || marker == 0xd9) break; /* the pixels */
        size_t len = be16(p + i + 2);
        if (len < 2 || len > n - i - 2) break;
        if (marker == 0xe1 && len >= 8 && !memcmp(p + i + 4, "Exif\0\0", 6))
            return (Exif){p + i + 10, len - 8};
        i += 2 + len;
    }
    return (Exif){0};
}

static Exif find_png(const uint8_t *p, size_t n)
{
    PngChunk c;
    for (size_t pos = 0; png_next(&c, p, n, &pos);)
        if (!memcmp(c.type, "eXIf", 4) && c.crc_ok) return skip_prefix(c.data, c.size);
    return (Exif){0};
}

static Exif find_webp(const uint8_t *p, size_t n)
{
    for (size_t i = 12; n - i >= 8;) {
        size_t len = le32(p + i + 4), room = n - i - 8;
        if (len > room) break;
        if (!memcmp(p + i, "EXIF", 4)) return skip_prefix(p + i + 8, len);
        len += len & 1;
        if (len > room) break;
        i += 8 + len;
    }
    return (Exif){0};
}

Exif exif_find(const uint8_t *file, size_t size)
{
    if (size >= 4 && file[0] == 0xff && file[1] == 0xd8) return find_jpeg(file, size);
    if (png_is(file, size)) return find_png(file, size);
    if (size >= 12 && !memcmp(file, "RIFF", 4) && !memcmp(file + 8, "WEBP", 4))
        return find_webp(file, size);
    return (Exif){0};
}

/* ---- TIFF ---- */

static uint32_t get16(Exif x, const uint8_t *p) { return x.data[0] == 'M' ? be16(p) : le16(p); }
static uint32_t get32(Exif x, const uint8_t *p) { return x.data[0] == 'M' ? be32(p) : le32(p); }

static int is_tiff(Exif x)
{
    if (x.size < 8) return 0;
    return !memcmp(x.data, "MM\0*", 4) || !memcmp(x.data, "II*\0", 4);
}

/* The 12-byte entry of a tag in the IFD at offset, or NULL. */
static const uint8_t *entry(Exif x, uint32_t offset, uint32_t tag)
{
    if (offset > x.size || x.size - offset < 2) return NULL;
    size_t count = get16(x, x.data + offset), room = (x.size - offset - 2) / 12;
    const uint8_t *p = x.data + offset + 2;
    for (size_t i = 0; i < count && i < room; i++, p += 12)
        if (get16(x, p) == tag) return p;
    return NULL;
}

int exif_orientation(Exif x)
{
    if (!is_tiff(x)) return 1;
    const uint8_t *p = entry(x, get32(x, x.data + 4), TAG_ORIENTATION);
    if (!p || get16(x, p + 2) != TYPE_SHORT || get32(x, p + 4) != 1) return 1;
    uint32_t v = get16(x, p + 8);
    return v >= 1 && v <= 8 ? (int)v : 1;
}

/* UTF-16 of n bytes to UTF-8; lone surrogates become U+FFFD. NUL ends it. */
static void from_utf16(char *dst, const uint8_t *p, size_t n)
{
    size_t high_zeros = 0, low_zeros = 0;
    for (size_t i = 0; i + 1 < n; i += 2) {
        high_zeros += !p[i];
        low_zeros += !p[i + 1];
    }
    int little = low_zeros > high_zeros;
    for (size_t i = 0; i + 1 < n; i += 2) {
        uint32_t u = little ? le16(p + i) : be16(p + i);
        if (u >= 0xd800 && u < 0xdc00 && i + 3 < n) {
            uint32_t low = little ? le16(p + i + 2) : be16(p + i + 2);
            if (low >= 0xdc00 && low < 0xe000) {
                u = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
                i += 2;
            }
        }
        if (u >= 0xd800 && u < 0xe000) u = 0xfffd;
        if (!u) break;
        dst += utf8proc_encode_char((utf8proc_int32_t)u, (utf8proc_uint8_t *)dst);
    }
    *dst = 0;
}

int exif_user_comment(char **text, Exif x, Err *e)
{
    *text = NULL;
    if (!is_tiff(x)) return 0;
    const uint8_t *p = entry(x, get32(x, x.data + 4), TAG_EXIF_IFD);
    if (!p || get16(x, p + 2) != TYPE_LONG) return 0;
    p = entry(x, get32(x, p + 8), TAG_USER_COMMENT);
    uint32_t type = p ? get16(x, p + 2) : 0;     /* UNDEFINED by the book; Pillow: BYTE */
    if (type != TYPE_UNDEFINED && type != TYPE_BYTE && type != TYPE_ASCII) return 0;
    size_t n = get32(x, p + 4), offset = get32(x, p + 8);
    if (n <= 8 || offset > x.size || n > x.size - offset) return 0;
    const uint8_t *s = x.data + offset;
    int wide = !memcmp(s, "UNICODE\0", 8);
    if (!wide && memcmp(s, "ASCII\0\0\0", 8)) return 0;
    s += 8, n -= 8;
    if (!(*text = mem_alloc(2 * n + 1))) return err_nomem(e, 2 * n + 1, "an EXIF comment");
    if (wide) {
        from_utf16(*text, s, n);
    } else {
        memcpy(*text, s, n);
        (*text)[n] = 0;
    }
    return 0;
}

/* ---- writing ---- */

static uint8_t *put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8), p[1] = (uint8_t)v;
    return p + 2;
}

static uint8_t *put32(uint8_t *p, uint32_t v)
{
    return put16(put16(p, v >> 16), v & 0xffff);
}

static uint8_t *put_ifd(uint8_t *p, uint32_t tag, uint32_t type, uint32_t count, uint32_t value)
{
    p = put16(put16(put16(p, 1), tag), type);
    return put32(put32(put32(p, count), value), 0);
}

int exif_app1(uint8_t **out, size_t *size, const char *comment, Err *e)
{
    /* Offsets in the TIFF structure: header 0, IFD 8, Exif IFD 26, comment 44. */
    enum { IFD = 8, EXIF_IFD = 26, COMMENT = 44, TIFF = 10 };
    size_t len = strlen(comment), cap = TIFF + COMMENT + 8 + 2 * len;
    uint8_t *p = *out = mem_alloc(cap);
    if (!p) return err_nomem(e, cap, "an EXIF comment");
    p += TIFF + COMMENT;
    memcpy(p, "UNICODE\0", 8);
    p += 8;
    for (size_t i = 0; i < len;) {
        utf8proc_int32_t u;
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)comment + i,
                                                 (utf8proc_ssize_t)(len - i), &u);
        if (used < 1) used = 1, u = 0xfffd;
        if (u >= 0x10000) p = put16(p, 0xd800 + ((uint32_t)(u - 0x10000) >> 10));
        p = put16(p, u >= 0x10000 ? 0xdc00 + ((uint32_t)u & 0x3ff) : (uint32_t)u);
        i += (size_t)used;
    }
    *size = (size_t)(p - *out);
    if (*size - 2 > 0xffff) {
        mem_free(*out);
        *out = NULL;
        return err_set(e, ERR_FAIL, "%zu bytes of parameters do not fit into a JPEG's EXIF; "
                       "write a .png", len);
    }
    uint32_t bytes = (uint32_t)(*size - TIFF - COMMENT);
    p = put16(put16(*out, 0xffe1), (uint32_t)(*size - 2));
    memcpy(p, "Exif\0\0MM\0*", 10);
    p = put32(p + 10, IFD);
    p = put_ifd(p, TAG_EXIF_IFD, TYPE_LONG, 1, EXIF_IFD);
    put_ifd(p, TAG_USER_COMMENT, TYPE_UNDEFINED, bytes, COMMENT);
    return 0;
}
