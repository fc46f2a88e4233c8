/* tensorfile.c - opens a tensor file of either format, finds and reads tensors
 * (tensorfile.h); what the two format readers share (tensorfile_impl.h). */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/ckpt.h"
#include "engine/mem.h"
#include "engine/safetensors.h"
#include "engine/tensorfile_impl.h"

struct TensorFileBlock {
    TensorFileBlock *next;
    size_t used, cap;
    _Alignas(16) uint8_t bytes[];
};

enum { BLOCK_BYTES = 64 << 10, CHUNK = 1024 /* elements converted at a time */ };

static TensorFileBlock *new_block(TensorFile *tf, size_t cap, Err *e)
{
    TensorFileBlock *b = NULL;
    if (cap <= SIZE_MAX - sizeof *b) b = mem_alloc(sizeof *b + cap);
    if (!b) {
        err_nomem(e, cap, "the contents of a tensor file");
        return NULL;
    }
    b->used = 0;
    b->cap = cap;
    b->next = tf->blocks;
    tf->blocks = b;
    return b;
}

void *tensorfile_alloc(TensorFile *tf, size_t bytes, Err *e)
{
    if (bytes > BLOCK_BYTES / 4) return tensorfile_alloc_large(tf, bytes, e);
    bytes = (bytes + 15) & ~(size_t)15;
    TensorFileBlock *b = tf->blocks;
    if (!b || b->cap - b->used < bytes) b = new_block(tf, BLOCK_BYTES, e);
    if (!b) return NULL;
    void *p = b->bytes + b->used;
    b->used += bytes;
    return p;
}

void *tensorfile_alloc_large(TensorFile *tf, size_t bytes, Err *e)
{
    TensorFileBlock *current = tf->blocks, *b = new_block(tf, bytes, e);
    if (!b) return NULL;
    b->used = bytes;
    if (current) {                    /* keep filling the block that was current */
        tf->blocks = current;
        b->next = current->next;
        current->next = b;
    }
    return b->bytes;
}

int tensorfile_text(TensorFile *tf, const char **copy, const char *text, size_t size, Err *e)
{
    for (size_t i = 0; i < size;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + i,
                                              (utf8proc_ssize_t)(size - i), &c);
        if (n <= 0) return err_set(e, ERR_INPUT, "a name is not valid UTF-8");
        if (c == 0) return err_set(e, ERR_INPUT, "a name contains a NUL character");
        i += (size_t)n;
    }
    char *s = tensorfile_alloc(tf, size + 1, e);
    if (!s) return ERR_MEMORY;
    memcpy(s, text, size);
    s[size] = 0;
    *copy = s;
    return 0;
}

/* The product in 64 bits unsigned, as the reference computes it: a 0 after an
 * overflow does not make it valid. */
static int count_of(int64_t *count, int ndim, const int64_t *shape)
{
    uint64_t n = 1;
    for (int i = 0; i < ndim; i++)
        if (shape[i] < 0 || __builtin_mul_overflow(n, (uint64_t)shape[i], &n)) return 0;
    *count = (int64_t)n;
    return n <= INT64_MAX / 8;
}

int tensorfile_shape(TensorFile *tf, FileTensor *t, const char *name, FileDtype dt, int ndim,
                     const int64_t *shape, const int64_t *stride, Err *e)
{
    *t = (FileTensor){.name = name, .dtype = dt, .dtype_name = file_dtype_name(dt), .ndim = ndim};
    if (!count_of(&t->count, ndim, shape))
        return err_set(e, ERR_INPUT, "tensor %s: the shape is negative or too large", name);
    t->bytes = (uint64_t)t->count * file_dtype_bytes(dt);
    int64_t *own = tensorfile_alloc(tf, 2 * (size_t)ndim * sizeof *own, e);
    if (!own) return ERR_MEMORY;
    t->shape = own;
    t->stride = own + ndim;
    int64_t step = t->count ? 1 : 0;
    for (int i = ndim - 1; i >= 0; i--) {
        own[i] = shape[i];
        own[ndim + i] = stride && t->count && shape[i] > 1 ? stride[i] : step;
        step *= shape[i];             /* a divisor of count, or 0 */
    }
    return 0;
}

int tensorfile_add(TensorFile *tf, const FileTensor *t, Err *e)
{
    FileTensor *a = mem_grow(tf->tensors, tf->count, &tf->cap, sizeof *a);
    if (!a) return err_nomem(e, tf->cap * 2 * sizeof *a, "the list of tensors");
    tf->tensors = a;
    a[tf->count++] = *t;
    return 0;
}

int tensorfile_add_meta(TensorFile *tf, const char *key, const char *value, Err *e)
{
    TensorFileMeta *a = mem_grow(tf->meta, tf->meta_count, &tf->meta_cap, sizeof *a);
    if (!a) return err_nomem(e, tf->meta_cap * 2 * sizeof *a, "metadata");
    tf->meta = a;
    a[tf->meta_count++] = (TensorFileMeta){key, value};
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const FileTensor *const *)a)->name, (*(const FileTensor *const *)b)->name);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const TensorFileMeta *)a)->key, ((const TensorFileMeta *)b)->key);
}

static int sort_for_lookup(TensorFile *tf, Err *e)
{
    tf->by_name = mem_calloc(tf->count, sizeof *tf->by_name);
    if (!tf->by_name) return err_nomem(e, tf->count * sizeof *tf->by_name, "the list of tensors");
    for (size_t i = 0; i < tf->count; i++) tf->by_name[i] = &tf->tensors[i];
    qsort(tf->by_name, tf->count, sizeof *tf->by_name, by_name);
    for (size_t i = 1; i < tf->count; i++)
        if (!by_name(&tf->by_name[i - 1], &tf->by_name[i]))
            return err_set(e, ERR_INPUT, "tensor %s stands in the file twice",
                           tf->by_name[i]->name);
    if (tf->meta_count) qsort(tf->meta, tf->meta_count, sizeof *tf->meta, by_key);
    for (size_t i = 1; i < tf->meta_count; i++)
        if (!by_key(&tf->meta[i - 1], &tf->meta[i]))
            return err_set(e, ERR_INPUT, "metadata key %s stands in the file twice",
                           tf->meta[i].key);
    return 0;
}

static int ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

/* A zip starts with a local header, whose ninth byte is a compression method; a
 * pickle with protocol 2 or later and an opcode. As the length of a safetensors
 * header, the latter is beyond any limit unless bytes 4 to 7 are 0. */
static int read_format(TensorFile *tf, Err *e)
{
    const uint8_t *d = tf->data;
    int zip = tf->size >= 9 && !memcmp(d, "PK", 2) && d[8] != '{';
    int pickle = tf->size >= 8 && d[0] == 0x80 && d[1] >= 2 && d[1] <= 5 &&
                 memcmp(d + 4, "\0\0\0\0", 4) != 0;
    if (!zip && !pickle) {
        tf->format = "safetensors";
        return safetensors_read(tf, e);
    }
    if (ends_with(tf->path, ".safetensors"))
        return err_set(e, ERR_INPUT, "this is a %s, not a safetensors file; if you trust where it "
                       "came from, rename it to .ckpt", zip ? "zip (a torch .ckpt?)" : "pickle");
    tf->format = "ckpt";
    return zip ? ckpt_read_zip(tf, e) : ckpt_read_legacy(tf, e);
}

/* Takes over *map (which may be zero) in every case. */
static int open_bytes(TensorFile **out, const char *path, IoMap map, const void *data,
                      size_t size, Err *e)
{
    *out = NULL;
    TensorFile *tf = mem_calloc(1, sizeof *tf);
    if (!tf) {
        io_unmap(&map);
        return err_nomem(e, sizeof *tf, path);
    }
    tf->map = map;
    tf->data = data;
    tf->size = size;
    size_t n = strlen(path) + 1;
    char *own = tensorfile_alloc(tf, n, e);
    int rc = own ? 0 : ERR_MEMORY;
    if (own) tf->path = memcpy(own, path, n);
    if (!rc) rc = read_format(tf, e);
    if (!rc) rc = sort_for_lookup(tf, e);
    if (rc) {
        if (e) err_prefix(e, "%s", path);
        tensorfile_close(tf);
        return rc;
    }
    *out = tf;
    return 0;
}

int tensorfile_open(TensorFile **tf, const char *path, Err *e)
{
    IoMap map;
    *tf = NULL;
    TRY(io_map(&map, path, e));
    return open_bytes(tf, path, map, map.data, map.size, e);
}

int tensorfile_open_memory(TensorFile **tf, const char *label, const void *data, size_t size,
                           Err *e)
{
    return open_bytes(tf, label, (IoMap){0}, data, size, e);
}

void tensorfile_close(TensorFile *tf)
{
    if (!tf) return;
    for (TensorFileBlock *b = tf->blocks, *next; b; b = next) {
        next = b->next;
        mem_free(b);
    }
    mem_free(tf->tensors);
    mem_free(tf->by_name);
    mem_free(tf->meta);
    io_unmap(&tf->map);
    mem_free(tf);
}

const char *tensorfile_path(const TensorFile *tf) { return tf->path; }
const char *tensorfile_format(const TensorFile *tf) { return tf->format; }
size_t tensorfile_count(const TensorFile *tf) { return tf->count; }
const FileTensor *tensorfile_at(const TensorFile *tf, size_t i) { return &tf->tensors[i]; }
size_t tensorfile_meta_count(const TensorFile *tf) { return tf->meta_count; }

const FileTensor *tensorfile_find(const TensorFile *tf, const char *name)
{
    FileTensor key = {.name = name}, *want = &key;
    const FileTensor **hit = bsearch(&want, tf->by_name, tf->count, sizeof *tf->by_name, by_name);
    return hit ? *hit : NULL;
}

void tensorfile_meta_at(const TensorFile *tf, size_t i, const char **key, const char **value)
{
    *key = tf->meta[i].key;
    *value = tf->meta[i].value;
}

const char *tensorfile_meta(const TensorFile *tf, const char *key)
{
    TensorFileMeta want = {key, NULL}, *hit = NULL;
    if (tf->meta_count) hit = bsearch(&want, tf->meta, tf->meta_count, sizeof want, by_key);
    return hit ? hit->value : NULL;
}

static int is_contiguous(const FileTensor *t)
{
    int64_t step = 1;
    for (int i = t->ndim - 1; i >= 0; i--) {
        if (t->shape[i] > 1 && t->stride[i] != step) return 0;
        step *= t->shape[i];
    }
    return 1;
}

/* Copies elements [first, first+count) of a tensor with any strides. */
static void gather(const FileTensor *t, int64_t first, int64_t count, uint8_t *dst)
{
    size_t size = file_dtype_bytes(t->dtype);
    int64_t at[TENSOR_MAX_DIMS], offset = 0;
    for (int i = t->ndim - 1; i >= 0; i--) {
        at[i] = first % t->shape[i];
        first /= t->shape[i];
        offset += at[i] * t->stride[i];
    }
    for (; count > 0; count--, dst += size) {
        memcpy(dst, t->data + (uint64_t)offset * size, size);
        for (int i = t->ndim - 1; i >= 0; i--) {
            offset += t->stride[i];
            if (++at[i] < t->shape[i]) break;
            offset -= at[i] * t->stride[i];
            at[i] = 0;
        }
    }
}

static int check_range(const TensorFile *tf, const FileTensor *t, int64_t first, int64_t count,
                       Err *e)
{
    if (t->dtype == FD_OTHER)
        return err_set(e, ERR_INPUT, "%s: tensor %s: type %s cannot be read here; convert the "
                       "file to F16, BF16 or F32", tf->path, t->name, t->dtype_name);
    if (first < 0 || count < 0 || first > t->count || count > t->count - first)
        return err_set(e, ERR_INPUT, "%s: tensor %s: elements %lld to %lld were wanted of %lld",
                       tf->path, t->name, (long long)first, (long long)first + (long long)count,
                       (long long)t->count);
    return 0;
}

int tensorfile_read_raw(const TensorFile *tf, const FileTensor *t, int64_t first,
                        int64_t count, void *dst, Err *e)
{
    TRY(check_range(tf, t, first, count, e));
    size_t size = file_dtype_bytes(t->dtype);
    if (!count) return 0;
    if (is_contiguous(t)) memcpy(dst, t->data + (size_t)first * size, (size_t)count * size);
    else gather(t, first, count, dst);
    return 0;
}

int tensorfile_read_f32(const TensorFile *tf, const FileTensor *t, int64_t first,
                        int64_t count, float *dst, Err *e)
{
    TRY(check_range(tf, t, first, count, e));
    if (!count) return 0;
    if (is_contiguous(t)) {
        file_dtype_to_f32(t->dtype, dst, t->data + (size_t)first * file_dtype_bytes(t->dtype),
                          (size_t)count);
        return 0;
    }
    uint8_t raw[CHUNK * 8];
    for (int64_t i = 0; i < count; i += CHUNK) {
        int64_t n = count - i < CHUNK ? count - i : CHUNK;
        gather(t, first + i, n, raw);
        file_dtype_to_f32(t->dtype, dst + i, raw, (size_t)n);
    }
    return 0;
}

void tensorfile_drop(const TensorFile *tf, const FileTensor *t, int64_t first, int64_t count)
{
    size_t each = file_dtype_bytes(t->dtype);
    if (!is_contiguous(t) || first < 0 || count < 0 || first > t->count - count) return;
    io_map_drop(&tf->map, t->data + (size_t)first * each, (size_t)count * each);
}

static int is_integer(FileDtype dt)
{
    return dt == FD_BOOL || dt == FD_U8 || dt == FD_I8 || dt == FD_I16 || dt == FD_U16 ||
           dt == FD_I32 || dt == FD_U32 || dt == FD_I64 || dt == FD_U64;
}

int tensorfile_read_i64(const TensorFile *tf, const FileTensor *t, int64_t first,
                        int64_t count, int64_t *dst, Err *e)
{
    TRY(check_range(tf, t, first, count, e));
    if (!is_integer(t->dtype))
        return err_set(e, ERR_INPUT, "%s: tensor %s: integers were expected, not %s", tf->path,
                       t->name, t->dtype_name);
    uint8_t raw[CHUNK * 8];
    for (int64_t i = 0; i < count; i += CHUNK) {
        int64_t n = count - i < CHUNK ? count - i : CHUNK;
        TRY(tensorfile_read_raw(tf, t, first + i, n, raw, e));
        file_dtype_to_i64(t->dtype, dst + i, raw, (size_t)n);
    }
    return 0;
}
