/* make_zip.h - builds small zip files in memory, right or wrong on purpose, for
 * tests and fuzz targets. Members are stored, or deflated with zlib. */
#ifndef SDC_TESTS_MAKE_ZIP_H
#define SDC_TESTS_MAKE_ZIP_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

typedef struct {
    uint8_t *data;             /* the members, and behind zip_end all of the file */
    size_t size, cap;
    uint8_t *dir;              /* the directory so far */
    size_t dir_size, dir_cap;
    unsigned count;
} ZipMaker;

static inline void zip_put(uint8_t **at, size_t *size, size_t *cap, const void *p, size_t n)
{
    if (*size + n > *cap) {
        *cap = 2 * (*size + n) + 256;
        *at = realloc(*at, *cap);
        if (!*at) abort();
    }
    if (n) memcpy(*at + *size, p, n);
    *size += n;
}

static inline void zip_put32(uint8_t *p, size_t x)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(x >> (8 * i));
}

static inline void zip_member(ZipMaker *z, const char *name, const void *bytes, size_t n,
                              int deflated)
{
    uint8_t local[30] = "PK\3\4", dir[46] = "PK\1\2";
    uLongf packed_size = deflated ? compressBound((uLong)n) : (uLong)n;
    uint8_t *packed = malloc(packed_size + 1);
    if (!packed) abort();
    const uint8_t *out = bytes;
    if (deflated) {                       /* a zlib stream without its frame */
        if (compress2(packed, &packed_size, bytes, (uLong)n, 6) != Z_OK) abort();
        out = packed + 2;
        packed_size -= 6;
    }
    zip_put32(local + 26, strlen(name));
    dir[10] = local[8] = deflated ? 8 : 0;
    zip_put32(dir + 16, crc32(0, bytes, (uInt)n));
    zip_put32(dir + 20, packed_size);
    zip_put32(dir + 24, n);
    zip_put32(dir + 28, strlen(name));
    zip_put32(dir + 42, z->size);
    zip_put(&z->data, &z->size, &z->cap, local, sizeof local);
    zip_put(&z->data, &z->size, &z->cap, name, strlen(name));
    zip_put(&z->data, &z->size, &z->cap, out, packed_size);
    zip_put(&z->dir, &z->dir_size, &z->dir_cap, dir, sizeof dir);
    zip_put(&z->dir, &z->dir_size, &z->dir_cap, name, strlen(name));
    z->count++;
    free(packed);
}

static inline void zip_end(ZipMaker *z)
{
    uint8_t end[22] = "PK\5\6";
    zip_put32(end + 10, z->count);
    zip_put32(end + 12, z->dir_size);
    zip_put32(end + 16, z->size);
    zip_put(&z->data, &z->size, &z->cap, z->dir, z->dir_size);
    zip_put(&z->data, &z->size, &z->cap, end, sizeof end);
}

static inline void zip_free(ZipMaker *z)
{
    free(z->data);
    free(z->dir);
    *z = (ZipMaker){0};
}

#endif
