/* tensorwriter.c - writes safetensors files (tensorfile.h). */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/hash.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "engine/safetensors.h"
#include "engine/tensorfile.h"

enum { CHUNK = 1024 /* elements converted at a time */ };

typedef struct {
    char *name;
    FileDtype dtype;
    int ndim;
    int64_t *shape;
    uint64_t bytes;
} Item;

typedef struct {
    char *key, *value;
} Pair;

struct TensorWriter {
    IoFile file;                      /* fd < 0 in a dry run */
    Item *item;
    Pair *meta;
    size_t count, cap, meta_count, meta_cap;
    int begun;
    size_t at;                        /* the item whose data is due, once begun */
    uint64_t left;                    /* bytes of it still to come */
    uint64_t position;                /* in the file */
    Hash *data, *window;              /* of all data; of the bytes of the legacy hash */
    char data_hex[HASH_HEX], window_hex[HASH_HEX];
};

/* Text that grows; after a failed allocation it only remembers that. */
typedef struct {
    char *at;
    size_t size, cap;
    int failed;
} Text;

/* ---- declaring --------------------------------------------------------------- */

int tensorwriter_new(TensorWriter **out, const char *path, Err *e)
{
    *out = NULL;
    TensorWriter *w = mem_calloc(1, sizeof *w);
    if (!w) return err_nomem(e, sizeof *w, "a tensor file");
    w->file.fd = -1;
    int rc = hash_new(&w->data, e);
    if (!rc) rc = hash_new(&w->window, e);
    if (!rc && path) rc = io_create(&w->file, path, e);
    if (rc) tensorwriter_abort(w);
    else *out = w;
    return rc;
}

static const char *path_of(const TensorWriter *w)
{
    return w->file.path ? w->file.path : "a dry run";
}

static int check_utf8(const TensorWriter *w, const char *s, const char *what, Err *e)
{
    for (utf8proc_int32_t c; *s;) {
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)s, -1, &c);
        if (n <= 0)
            return err_set(e, ERR_FAIL, "%s: %s is not valid UTF-8: %s", path_of(w), what, s);
        s += n;
    }
    return 0;
}

int tensorwriter_meta(TensorWriter *w, const char *key, const char *value, Err *e)
{
    assert(!w->begun);
    TRY(check_utf8(w, key, "a metadata key", e));
    TRY(check_utf8(w, value, "a metadata value", e));
    char *v = mem_strdup(value);
    if (!v) return err_nomem(e, strlen(value), "metadata");
    for (size_t i = 0; i < w->meta_count; i++) {
        if (strcmp(w->meta[i].key, key)) continue;
        mem_free(w->meta[i].value);
        w->meta[i].value = v;
        return 0;
    }
    char *k = mem_strdup(key);
    Pair *a = mem_grow(w->meta, w->meta_count, &w->meta_cap, sizeof *a);
    if (a) w->meta = a;
    if (a && k) {
        a[w->meta_count++] = (Pair){k, v};
        return 0;
    }
    mem_free(k);
    mem_free(v);
    return err_nomem(e, strlen(key), "metadata");
}

int tensorwriter_add(TensorWriter *w, const char *name, FileDtype dt, int ndim,
                     const int64_t *shape, Err *e)
{
    assert(!w->begun && dt != FD_OTHER && ndim >= 0);
    TRY(check_utf8(w, name, "a tensor name", e));
    if (!strcmp(name, "__metadata__"))
        return err_set(e, ERR_FAIL, "%s: no tensor can be named __metadata__", path_of(w));
    Item item = {.dtype = dt, .ndim = ndim, .bytes = file_dtype_bytes(dt)};
    int ok = ndim <= TENSOR_MAX_DIMS;
    for (int i = 0; ok && i < ndim; i++)
        ok = shape[i] >= 0 && !__builtin_mul_overflow(item.bytes, (uint64_t)shape[i], &item.bytes);
    if (!ok || item.bytes > INT64_MAX)
        return err_set(e, ERR_FAIL, "%s: tensor %s: not a shape", path_of(w), name);
    Item *a = mem_grow(w->item, w->count, &w->cap, sizeof *a);
    if (!a) return err_nomem(e, 2 * w->cap * sizeof *a, "the list of tensors");
    w->item = a;
    item.name = mem_strdup(name);
    item.shape = mem_alloc((size_t)ndim * sizeof *shape);
    if (!item.name || !item.shape) {
        mem_free(item.name);
        mem_free(item.shape);
        return err_nomem(e, strlen(name), "the list of tensors");
    }
    if (ndim) memcpy(item.shape, shape, (size_t)ndim * sizeof *shape);
    a[w->count++] = item;
    return 0;
}

/* ---- the header -------------------------------------------------------------- */

static void put(Text *t, const char *s, size_t n)
{
    if (t->failed || n > SIZE_MAX / 4 - t->size) {
        t->failed = 1;
        return;
    }
    if (t->size + n > t->cap) {
        size_t cap = 2 * (t->size + n) + 256;
        char *a = mem_realloc(t->at, cap);
        if (!a) {
            t->failed = 1;
            return;
        }
        t->at = a;
        t->cap = cap;
    }
    memcpy(t->at + t->size, s, n);
    t->size += n;
}

static void put_text(Text *t, const char *s) { put(t, s, strlen(s)); }

static void put_number(Text *t, uint64_t x)
{
    char digit[20];
    size_t n = sizeof digit;
    do digit[--n] = (char)('0' + x % 10); while (x /= 10);
    put(t, digit + n, sizeof digit - n);
}

/* As serde_json writes it: short escapes where JSON has them, \u00xx for other
 * control characters, all else as it is. */
static void put_string(Text *t, const char *s)
{
    put(t, "\"", 1);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        const char *from = "\"\\\b\f\n\r\t", *to = "\"\\bfnrt", *hit = strchr(from, c);
        char escape[6] = {'\\', 'u', '0', '0', "01"[c >> 4 & 1], "0123456789abcdef"[c & 15]};
        if (hit) escape[1] = to[hit - from];
        if (hit) put(t, escape, 2);
        else if (c < 32) put(t, escape, 6);
        else put(t, s, 1);
    }
    put(t, "\"", 1);
}

static void put_metadata(Text *t, const TensorWriter *w)
{
    put_text(t, "\"__metadata__\":{");
    for (size_t i = 0; i < w->meta_count; i++) {
        if (i) put_text(t, ",");
        put_string(t, w->meta[i].key);
        put_text(t, ":");
        put_string(t, w->meta[i].value);
    }
    put_text(t, "}");
}

static void put_item(Text *t, const Item *item, uint64_t begin)
{
    put_string(t, item->name);
    put_text(t, ":{\"dtype\":");
    put_string(t, file_dtype_name(item->dtype));
    put_text(t, ",\"shape\":[");
    for (int i = 0; i < item->ndim; i++) {
        if (i) put_text(t, ",");
        put_number(t, (uint64_t)item->shape[i]);
    }
    put_text(t, "],\"data_offsets\":[");
    put_number(t, begin);
    put_text(t, ",");
    put_number(t, begin + item->bytes);
    put_text(t, "]}");
}

static void put_header(Text *t, const TensorWriter *w)
{
    uint64_t at = 0;
    put(t, "\0\0\0\0\0\0\0", 8);
    put_text(t, "{");
    if (w->meta_count) put_metadata(t, w);
    for (size_t i = 0; i < w->count; i++) {
        if (i || w->meta_count) put_text(t, ",");
        put_item(t, &w->item[i], at);
        at += w->item[i].bytes;
    }
    put_text(t, "}");
    while (t->size % 8 && !t->failed) put_text(t, " ");
    uint64_t n = t->size - 8;
    if (!t->failed) memcpy(t->at, &n, 8);
}

static int by_dtype_and_name(const void *pa, const void *pb)
{
    const Item *a = pa, *b = pb;
    if (a->dtype != b->dtype) return a->dtype > b->dtype ? -1 : 1;
    return strcmp(a->name, b->name);
}

static int by_name(const void *pa, const void *pb)
{
    return strcmp(((const Item *)pa)->name, ((const Item *)pb)->name);
}

static int by_key(const void *pa, const void *pb)
{
    return strcmp(((const Pair *)pa)->key, ((const Pair *)pb)->key);
}

static int sort_items(TensorWriter *w, Err *e)
{
    uint64_t total = 0;
    if (w->meta_count) qsort(w->meta, w->meta_count, sizeof *w->meta, by_key);
    if (!w->count) return 0;
    qsort(w->item, w->count, sizeof *w->item, by_name);
    for (size_t i = 0; i < w->count; i++) {
        if (i && !by_name(&w->item[i - 1], &w->item[i]))
            return err_set(e, ERR_FAIL, "%s: tensor %s is declared twice", path_of(w),
                           w->item[i].name);
        if (__builtin_add_overflow(total, w->item[i].bytes, &total) || total > INT64_MAX)
            return err_set(e, ERR_FAIL, "%s: more than 2^63 bytes", path_of(w));
    }
    qsort(w->item, w->count, sizeof *w->item, by_dtype_and_name);
    return 0;
}

/* ---- writing ----------------------------------------------------------------- */

static int emit(TensorWriter *w, const uint8_t *p, size_t n, Err *e)
{
    if (w->file.path) TRY(io_write(&w->file, p, n, e));
    uint64_t from = w->position, to = from + n;
    w->position = to;
    if (from < HASH_LEGACY_AT) from = HASH_LEGACY_AT;
    if (to > HASH_LEGACY_AT + HASH_LEGACY_BYTES) to = HASH_LEGACY_AT + HASH_LEGACY_BYTES;
    if (from < to) hash_update(w->window, p + (from - (w->position - n)), to - from);
    return 0;
}

/* Steps to the next tensor that has data; behind the last one, makes the hashes. */
static void settle(TensorWriter *w)
{
    while (w->at < w->count && !w->left)
        if (++w->at < w->count) w->left = w->item[w->at].bytes;
    if (w->at < w->count) return;
    hash_finish(w->data, w->data_hex);
    hash_finish(w->window, w->window_hex);
}

int tensorwriter_begin(TensorWriter *w, Err *e)
{
    assert(!w->begun);
    TRY(sort_items(w, e));
    Text t = {0};
    put_header(&t, w);
    int rc = 0;
    if (t.failed) rc = err_nomem(e, t.size, "the header of a tensor file");
    else if (t.size - 8 > SAFETENSORS_HEADER_MAX)
        rc = err_set(e, ERR_FAIL, "%s: the header would be %zu bytes; %d are allowed", path_of(w),
                     t.size, SAFETENSORS_HEADER_MAX);
    else rc = emit(w, (const uint8_t *)t.at, t.size, e);
    mem_free(t.at);
    if (rc) return rc;
    w->begun = 1;
    if (w->count) w->left = w->item[0].bytes;
    settle(w);
    return 0;
}

const char *tensorwriter_next(const TensorWriter *w)
{
    assert(w->begun);
    return w->at < w->count ? w->item[w->at].name : NULL;
}

int tensorwriter_write(TensorWriter *w, const void *raw, size_t bytes, Err *e)
{
    assert(w->begun && bytes <= w->left);
    if (!bytes) return 0;
    TRY(emit(w, raw, bytes, e));
    hash_update(w->data, raw, bytes);
    w->left -= bytes;
    if (!w->left) settle(w);
    return 0;
}

int tensorwriter_write_f32(TensorWriter *w, const float *src, size_t count, Err *e)
{
    uint8_t raw[CHUNK * 8];
    if (!count) return 0;
    assert(w->begun && w->at < w->count);
    FileDtype dt = w->item[w->at].dtype;
    size_t size = file_dtype_bytes(dt);
    if (dt == FD_F32) return tensorwriter_write(w, src, count * size, e);
    for (size_t i = 0; i < count; i += CHUNK) {
        size_t n = count - i < CHUNK ? count - i : CHUNK;
        file_dtype_from_f32(dt, raw, src + i, n);
        TRY(tensorwriter_write(w, raw, n * size, e));
    }
    return 0;
}

void tensorwriter_data_sha256(const TensorWriter *w, char hex[65])
{
    assert(w->begun && w->at == w->count);
    memcpy(hex, w->data_hex, HASH_HEX);
}

void tensorwriter_legacy_hash(const TensorWriter *w, char hex[9])
{
    assert(w->begun && w->at == w->count);
    memcpy(hex, w->window_hex, HASH_LEGACY_HEX - 1);
    hex[HASH_LEGACY_HEX - 1] = 0;
}

int tensorwriter_commit(TensorWriter *w, Err *e)
{
    assert(w->begun && w->at == w->count);
    int rc = w->file.path ? io_commit(&w->file, e) : 0;
    tensorwriter_abort(w);
    return rc;
}

void tensorwriter_abort(TensorWriter *w)
{
    if (!w) return;
    io_abort(&w->file);
    for (size_t i = 0; i < w->count; i++) {
        mem_free(w->item[i].name);
        mem_free(w->item[i].shape);
    }
    for (size_t i = 0; i < w->meta_count; i++) {
        mem_free(w->meta[i].key);
        mem_free(w->meta[i].value);
    }
    mem_free(w->item);
    mem_free(w->meta);
    hash_free(w->data);
    hash_free(w->window);
    mem_free(w);
}
