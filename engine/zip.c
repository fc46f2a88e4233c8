/* zip.c - see zip.h. */
#include "engine/zip.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "engine/mem.h"

enum {
    END_SIZE = 22, COMMENT_MAX = 65535, LOCATOR_SIZE = 20, END64_SIZE = 56,
    DIRECTORY_SIZE = 46, LOCAL_SIZE = 30
};

static uint32_t u16(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8; }
static uint32_t u32(const uint8_t *p) { return u16(p) | u16(p + 2) << 16; }
static uint64_t u64(const uint8_t *p) { return u32(p) | (uint64_t)u32(p + 4) << 32; }

/* Is [at, at+want) inside size bytes? */
static int fits(uint64_t at, uint64_t want, uint64_t size)
{
    return at <= size && want <= size - at;
}

typedef struct {
    uint64_t count, size, offset;      /* of the directory */
} Directory;

/* The end record is the last thing in the file but for a comment that it measures. */
static int find_directory(Directory *dir, const uint8_t *d, size_t size, Err *e)
{
    size_t lowest = size < END_SIZE + COMMENT_MAX ? 0 : size - END_SIZE - COMMENT_MAX;
    size_t at = size < END_SIZE ? 0 : size - END_SIZE + 1;
    do {
        if (at == lowest || size < END_SIZE)
            return err_set(e, ERR_INPUT, "the end of the zip is missing: the file is cut short; "
                           "download it again");
        at--;
    } while (memcmp(d + at, "PK\5\6", 4) || u16(d + at + 20) != size - at - END_SIZE);
    const uint8_t *r = d + at;
    *dir = (Directory){u16(r + 10), u32(r + 12), u32(r + 16)};
    if (at < LOCATOR_SIZE || memcmp(r - LOCATOR_SIZE, "PK\6\7", 4)) return 0;
    uint64_t at64 = u64(r - LOCATOR_SIZE + 8);
    if (!fits(at64, END64_SIZE, at) || memcmp(d + at64, "PK\6\6", 4))
        return err_set(e, ERR_INPUT, "the zip64 end record is not where it should be");
    r = d + at64;
    *dir = (Directory){u64(r + 32), u64(r + 40), u64(r + 48)};
    return 0;
}

/* Sizes of 4 GiB and more stand in extra field 1, in this order, each only when its
 * 32-bit field is all ones. */
static int read_zip64(const uint8_t *extra, size_t n, ZipEntry *entry, uint64_t *offset)
{
    uint64_t *field[] = {&entry->size, &entry->packed_size, offset};
    int wanted = 0;
    for (int i = 0; i < 3; i++) wanted += *field[i] == UINT32_MAX;
    while (wanted && n >= 4) {
        size_t id = u16(extra), len = u16(extra + 2);
        extra += 4;
        n -= 4;
        if (len > n) return 0;
        if (id == 1) {
            if (len < 8 * (size_t)wanted) return 0;
            for (int i = 0; i < 3; i++) {
                if (*field[i] != UINT32_MAX) continue;
                *field[i] = u64(extra);
                extra += 8;
            }
            return 1;
        }
        extra += len;
        n -= len;
    }
    return !wanted;
}

/* Points entry->data behind the local header, whose name and extra field may
 * differ in length from the directory's. */
static int locate(ZipEntry *entry, uint64_t offset, const uint8_t *d, size_t size, Err *e)
{
    int shown = entry->name_size > 200 ? 200 : (int)entry->name_size;
    const uint8_t *h = d + offset;
    if (!fits(offset, LOCAL_SIZE, size) || memcmp(h, "PK\3\4", 4))
        return err_set(e, ERR_INPUT, "member %.*s: no local header", shown, entry->name);
    uint64_t start = offset + LOCAL_SIZE + u16(h + 26) + u16(h + 28);
    if (!fits(start, entry->packed_size, size))
        return err_set(e, ERR_INPUT, "member %.*s runs past the end of the file", shown,
                       entry->name);
    if (u16(h + 26) != entry->name_size || memcmp(h + LOCAL_SIZE, entry->name, entry->name_size))
        return err_set(e, ERR_INPUT, "member %.*s has another name in its local header", shown,
                       entry->name);
    entry->data = d + start;
    return 0;
}

static int read_entry(ZipEntry *entry, const uint8_t *d, size_t size, const uint8_t **pos,
                      const uint8_t *end, Err *e)
{
    const uint8_t *r = *pos;
    if (end - r < DIRECTORY_SIZE || memcmp(r, "PK\1\2", 4))
        return err_set(e, ERR_INPUT, "the zip directory is broken");
    size_t name = u16(r + 28), extra = u16(r + 30), comment = u16(r + 32);
    if ((size_t)(end - r) < DIRECTORY_SIZE + name + extra + comment)
        return err_set(e, ERR_INPUT, "the zip directory is cut short");
    *pos = r + DIRECTORY_SIZE + name + extra + comment;
    *entry = (ZipEntry){.name = (const char *)r + DIRECTORY_SIZE, .name_size = name,
                        .crc = u32(r + 16), .packed_size = u32(r + 20), .size = u32(r + 24)};
    uint64_t offset = u32(r + 42);
    int shown = name > 200 ? 200 : (int)name;
    if (u16(r + 8) & 1)
        return err_set(e, ERR_INPUT, "member %.*s is encrypted", shown, entry->name);
    uint32_t method = u16(r + 10);
    entry->deflated = method == 8;
    if (method != 0 && method != 8)
        return err_set(e, ERR_INPUT, "member %.*s: compression method %u is not read; pack the "
                       "file again with store or deflate", shown, entry->name, method);
    if (!read_zip64(r + DIRECTORY_SIZE + name, extra, entry, &offset))
        return err_set(e, ERR_INPUT, "member %.*s: broken zip64 sizes", shown, entry->name);
    if (!entry->deflated && entry->size != entry->packed_size)
        return err_set(e, ERR_INPUT, "member %.*s: stored, but its two sizes differ", shown,
                       entry->name);
    return locate(entry, offset, d, size, e);
}

static int compare_names(const char *a, size_t an, const char *b, size_t bn)
{
    int c = memcmp(a, b, an < bn ? an : bn);
    return c ? c : (an > bn) - (an < bn);
}

static int by_name(const void *pa, const void *pb)
{
    const ZipEntry *a = pa, *b = pb;
    return compare_names(a->name, a->name_size, b->name, b->name_size);
}

int zip_open(Zip *z, const uint8_t *data, size_t size, Err *e)
{
    *z = (Zip){0};
    Directory dir = {0};
    TRY(find_directory(&dir, data, size, e));
    if (!fits(dir.offset, dir.size, size) || dir.count > dir.size / DIRECTORY_SIZE)
        return err_set(e, ERR_INPUT, "the zip directory runs past the end of the file");
    z->entry = mem_calloc((size_t)dir.count, sizeof *z->entry);
    if (!z->entry) return err_nomem(e, dir.count * sizeof *z->entry, "the zip directory");
    const uint8_t *pos = data + dir.offset, *end = pos + dir.size;
    int rc = 0;
    while (!rc && z->count < dir.count)
        rc = read_entry(&z->entry[z->count++], data, size, &pos, end, e);
    if (!rc) qsort(z->entry, z->count, sizeof *z->entry, by_name);
    for (size_t i = 1; !rc && i < z->count; i++)
        if (!by_name(&z->entry[i - 1], &z->entry[i]))
            rc = err_set(e, ERR_INPUT, "member %.*s stands in the zip twice",
                         z->entry[i].name_size > 200 ? 200 : (int)z->entry[i].name_size,
                         z->entry[i].name);
    if (rc) zip_close(z);
    return rc;
}

void zip_close(Zip *z)
{
    mem_free(z->entry);
    *z = (Zip){0};
}

const ZipEntry *zip_find(const Zip *z, const char *name, size_t name_size)
{
    ZipEntry key = {.name = name, .name_size = name_size};
    return z->count ? bsearch(&key, z->entry, z->count, sizeof key, by_name) : NULL;
}

/* zlib counts in 32 bits: feed and drain in pieces. */
static int inflate_all(const ZipEntry *n, uint8_t *dst)
{
    const uint64_t piece = 1u << 30;
    z_stream s = {0};
    if (inflateInit2(&s, -MAX_WBITS) != Z_OK) return 0;
    uint64_t in = 0, out = 0;
    int rc;
    do {
        uint64_t give = n->packed_size - in < piece ? n->packed_size - in : piece;
        uint64_t room = n->size - out < piece ? n->size - out : piece;
        s.next_in = (Bytef *)(uintptr_t)(n->data + in);
        s.avail_in = (uInt)give;
        s.next_out = dst + out;
        s.avail_out = (uInt)room;
        rc = inflate(&s, Z_NO_FLUSH);
        in += give - s.avail_in;
        out += room - s.avail_out;
    } while (rc == Z_OK && (out < n->size || in < n->packed_size));
    inflateEnd(&s);
    return rc == Z_STREAM_END && out == n->size;
}

static int damaged(const ZipEntry *n, const char *how, Err *e)
{
    return err_set(e, ERR_INPUT, "member %.*s is damaged (%s); download the file again",
                   n->name_size > 200 ? 200 : (int)n->name_size, n->name, how);
}

int zip_check(const ZipEntry *n, const uint8_t *data, Err *e)
{
    uLong crc = crc32_z(0, NULL, 0);
    if (n->size) crc = crc32_z(crc, data, n->size);
    return crc == n->crc ? 0 : damaged(n, "wrong CRC-32", e);
}

int zip_unpack(const ZipEntry *n, uint8_t *dst, Err *e)
{
    if (n->deflated && !inflate_all(n, dst)) return damaged(n, "it does not unpack", e);
    if (!n->deflated && n->size) memcpy(dst, n->data, n->size);
    return zip_check(n, dst, e);
}
