/* hash.c - see hash.h. SHA-256 is libcrypto's. */
#include "engine/hash.h"

#include <assert.h>
#include <openssl/evp.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "engine/safetensors.h"

struct Hash {
    EVP_MD_CTX *ctx;
};

int hash_new(Hash **out, Err *e)
{
    Hash *h = mem_calloc(1, sizeof *h);
    *out = NULL;
    if (!h) return err_nomem(e, sizeof *h, "a hash");
    h->ctx = EVP_MD_CTX_new();
    if (!h->ctx || EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL) != 1) {
        int rc = h->ctx ? err_set(e, ERR_FAIL, "libcrypto has no SHA-256")
                        : err_nomem(e, sizeof *h, "a hash");
        hash_free(h);
        return rc;
    }
    *out = h;
    return 0;
}

/* With a started digest, libcrypto's update and final cannot fail. */
void hash_update(Hash *h, const void *data, size_t size)
{
    int ok = !size || EVP_DigestUpdate(h->ctx, data, size);
    assert(ok);
    (void)ok;
}

void hash_finish(Hash *h, char hex[HASH_HEX])
{
    unsigned char sum[EVP_MAX_MD_SIZE] = {0};
    int ok = EVP_DigestFinal_ex(h->ctx, sum, NULL);
    assert(ok);
    (void)ok;
    for (int i = 0; i < 32; i++) {
        hex[2 * i] = "0123456789abcdef"[sum[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[sum[i] & 15];
    }
    hex[64] = 0;
}

void hash_free(Hash *h)
{
    if (h) EVP_MD_CTX_free(h->ctx);
    mem_free(h);
}

/* Bytes [at, at+size) of a file. What was read need not stay in memory: a checkpoint is
 * larger than what is made of it. */
static int hash_bytes(char hex[HASH_HEX], const IoMap *m, size_t at, size_t size, Err *e)
{
    enum { PIECE = 16 << 20 };
    Hash *h;
    TRY(hash_new(&h, e));
    for (size_t n; size; at += n, size -= n) {
        n = size < PIECE ? size : PIECE;
        hash_update(h, m->data + at, n);
        io_map_drop(m, m->data + at, n);
    }
    hash_finish(h, hex);
    hash_free(h);
    return 0;
}

int hash_file(char hex[HASH_HEX], const char *path, Err *e)
{
    IoMap m;
    TRY(io_map(&m, path, e));
    int rc = hash_bytes(hex, &m, 0, m.size, e);
    io_unmap(&m);
    return rc;
}

int hash_file_data(char hex[HASH_HEX], const char *path, Err *e)
{
    IoMap m;
    size_t start;
    TRY(io_map(&m, path, e));
    int rc = safetensors_data_start(&start, m.data, m.size, e);
    if (rc) err_prefix(e, "%s", path);
    else rc = hash_bytes(hex, &m, start, m.size - start, e);
    io_unmap(&m);
    return rc;
}

int hash_file_legacy(char hex[HASH_LEGACY_HEX], const char *path, Err *e)
{
    IoMap m;
    char full[HASH_HEX];
    TRY(io_map(&m, path, e));
    size_t at = m.size < HASH_LEGACY_AT ? m.size : HASH_LEGACY_AT;
    size_t n = m.size - at < HASH_LEGACY_BYTES ? m.size - at : HASH_LEGACY_BYTES;
    int rc = hash_bytes(full, &m, at, n, e);
    io_unmap(&m);
    if (!rc) memcpy(hex, full, HASH_LEGACY_HEX - 1);
    if (!rc) hex[HASH_LEGACY_HEX - 1] = 0;
    return rc;
}
