/* ckpt.c - see ckpt.h. */
#include "engine/ckpt.h"

#include <stdlib.h>
#include <string.h>

#include "engine/mem.h"
#include "engine/pickle.h"
#include "engine/zip.h"

enum { NEST_MAX = 8, NAME_BYTES = 1024, NAMES_TOTAL = 64 << 20, UNPACK_FREE = 64 << 20 };

/* A storage, from the tuple ("storage", type, key, device, count) of a persistent
 * id. Two ids of one key must agree. */
typedef struct {
    const char *key;
    uint32_t key_size;
    uint8_t dtype;                    /* FileDtype; FD_U8 for an untyped one */
    uint8_t untyped;
    uint64_t bytes;
    const uint8_t *data;              /* NULL until it is needed, or known */
} Storage;

typedef struct {
    TensorFile *tf;
    Pickle pickle;                    /* the one that describes the tensors */
    Storage *storage;                 /* sorted by key */
    size_t count, cap;
    Zip zip;                          /* empty for the legacy form */
    const char *root;                 /* "NAME/" of the members, root_size bytes */
    size_t root_size;
    uint64_t unpack_left;             /* bytes that may still be unpacked */
    uint64_t names_left;
    Err *e;
} Ckpt;

/* ---- storages ---------------------------------------------------------------- */

static int by_key(const void *pa, const void *pb)
{
    const Storage *a = pa, *b = pb;
    if (a->key_size != b->key_size) return a->key_size < b->key_size ? -1 : 1;
    return memcmp(a->key, b->key, a->key_size);
}

static Storage *find_storage(const Ckpt *c, const char *key, uint32_t key_size)
{
    Storage want = {.key = key, .key_size = key_size};
    return c->count ? bsearch(&want, c->storage, c->count, sizeof want, by_key) : NULL;
}

/* The key of a persistent id, checked to be of the form above. */
static const PickleValue *storage_key(const Ckpt *c, const PickleValue *id)
{
    const Pickle *p = &c->pickle;
    const PickleValue *t = pickle_item(p, id, 0);
    if (t->kind != PICKLE_TUPLE || t->n < 5 || !pickle_is(pickle_item(p, t, 0), "storage"))
        return NULL;
    const PickleValue *type = pickle_item(p, t, 1), *key = pickle_item(p, t, 2);
    int typed = type->kind == PICKLE_GLOBAL &&
                (type->symbol == SYMBOL_STORAGE || type->symbol == SYMBOL_BYTES);
    const PickleValue *count = pickle_item(p, t, 4);
    if (!typed || key->kind != PICKLE_STRING || count->kind != PICKLE_INT || count->u.number < 0)
        return NULL;
    return key;
}

static int add_storage(Ckpt *c, const PickleValue *id)
{
    const PickleValue *key = storage_key(c, id);
    if (!key) return err_set(c->e, ERR_INPUT, "a storage that is not described as torch does");
    const PickleValue *t = pickle_item(&c->pickle, id, 0);
    const PickleValue *type = pickle_item(&c->pickle, t, 1), *view;
    if (t->n > 5 && (view = pickle_item(&c->pickle, t, 5))->kind != PICKLE_NONE)
        return err_set(c->e, ERR_INPUT, "storage %.*s is a view of another, a form of before 2018 "
                       "that is not read", key->n > 60 ? 60 : (int)key->n, key->u.text);
    Storage *a = mem_grow(c->storage, c->count, &c->cap, sizeof *a), *s;
    if (!a) return err_nomem(c->e, 2 * c->cap * sizeof *a, "the list of storages");
    c->storage = a;
    s = &a[c->count++];
    *s = (Storage){.key = key->u.text, .key_size = key->n, .dtype = type->dtype};
    s->untyped = type->symbol == SYMBOL_BYTES;
    if (s->untyped) s->dtype = FD_U8;
    uint64_t n = (uint64_t)pickle_item(&c->pickle, t, 4)->u.number;
    size_t size = file_dtype_bytes((FileDtype)s->dtype);
    if (__builtin_mul_overflow(n, size ? size : 1, &s->bytes))
        return err_set(c->e, ERR_INPUT, "a storage of %llu elements", (unsigned long long)n);
    return 0;
}

static int list_storages(Ckpt *c)
{
    for (size_t i = 0; i < c->pickle.count; i++)
        if (c->pickle.value[i].kind == PICKLE_PERSISTENT)
            TRY(add_storage(c, &c->pickle.value[i]));
    if (!c->count) return 0;
    qsort(c->storage, c->count, sizeof *c->storage, by_key);
    size_t n = 1;
    for (size_t i = 1; i < c->count; i++) {
        Storage *last = &c->storage[n - 1], *s = &c->storage[i];
        if (by_key(last, s)) c->storage[n++] = *s;
        else if (last->dtype != s->dtype || last->untyped != s->untyped || last->bytes != s->bytes)
            return err_set(c->e, ERR_INPUT, "storage %.*s is described in two ways",
                           s->key_size > 60 ? 60 : (int)s->key_size, s->key);
    }
    c->count = n;
    return 0;
}

/* NAME/data/KEY, or another member of the same root. */
static const ZipEntry *find_member(const Ckpt *c, const char *folder, const char *key, size_t n)
{
    char name[512];
    size_t f = strlen(folder);
    if (n > sizeof name || c->root_size + f > sizeof name - n) return NULL;
    memcpy(name, c->root, c->root_size);
    memcpy(name + c->root_size, folder, f);
    memcpy(name + c->root_size + f, key, n);
    return zip_find(&c->zip, name, c->root_size + f + n);
}

/* A member as it is in the file, or unpacked to memory of tf. */
static int member_data(Ckpt *c, const ZipEntry *z, const uint8_t **data)
{
    *data = z->data;
    if (!z->deflated) return 0;
    int shown = z->name_size > 200 ? 200 : (int)z->name_size;
    if (z->size > c->unpack_left)
        return err_set(c->e, ERR_INPUT, "member %.*s unpacks to %llu bytes, more than a file of "
                       "this size is allowed (a zip bomb?); pack it again without compression",
                       shown, z->name, (unsigned long long)z->size);
    c->unpack_left -= z->size;
    uint8_t *dst = tensorfile_alloc_large(c->tf, z->size, c->e);
    *data = dst;
    return dst ? zip_unpack(z, dst, c->e) : ERR_MEMORY;
}

static int load_storage(Ckpt *c, Storage *s)
{
    int shown = s->key_size > 60 ? 60 : (int)s->key_size;
    if (s->data) return 0;
    const ZipEntry *z = c->root ? find_member(c, "data/", s->key, s->key_size) : NULL;
    if (!z) return err_set(c->e, ERR_INPUT, "storage %.*s is not in the file", shown, s->key);
    if (z->size != s->bytes)
        return err_set(c->e, ERR_INPUT, "storage %.*s has %llu bytes, but is described as %llu",
                       shown, s->key, (unsigned long long)z->size, (unsigned long long)s->bytes);
    return member_data(c, z, &s->data);
}

/* ---- tensors ----------------------------------------------------------------- */

/* Reads a tuple of integers >= 0; returns their number, or -1. */
static int read_ints(const Ckpt *c, const PickleValue *t, int64_t *out)
{
    if (t->kind != PICKLE_TUPLE || t->n > TENSOR_MAX_DIMS) return -1;
    for (uint32_t i = 0; i < t->n; i++) {
        const PickleValue *v = pickle_item(&c->pickle, t, i);
        if (v->kind != PICKLE_INT || v->u.number < 0) return -1;
        out[i] = v->u.number;
    }
    return (int)t->n;
}

/* Do all elements lie within `limit` elements from the storage's start? */
static int lies_within(const FileTensor *t, uint64_t offset, uint64_t limit)
{
    if (!t->count) return 1;
    uint64_t last = offset, step;
    for (int i = 0; i < t->ndim; i++)
        if (__builtin_mul_overflow((uint64_t)t->shape[i] - 1, (uint64_t)t->stride[i], &step) ||
            __builtin_add_overflow(last, step, &last))
            return 0;
    return last < limit;
}

static int add_tensor(Ckpt *c, const char *name, const PickleValue *call)
{
    const Pickle *p = &c->pickle;
    const PickleValue *args = pickle_item(p, call, 0);
    int64_t shape[TENSOR_MAX_DIMS], stride[TENSOR_MAX_DIMS];
    int v3 = call->symbol == SYMBOL_TENSOR_V3;
    if (args->n < (v3 ? 7u : 4u) || pickle_item(p, args, 0)->kind != PICKLE_PERSISTENT)
        return err_set(c->e, ERR_INPUT, "tensor %s is not described as torch does", name);
    const PickleValue *key = storage_key(c, pickle_item(p, args, 0));
    const PickleValue *offset = pickle_item(p, args, 1);
    int ndim = read_ints(c, pickle_item(p, args, 2), shape);
    if (offset->kind != PICKLE_INT || offset->u.number < 0 || ndim < 0 ||
        read_ints(c, pickle_item(p, args, 3), stride) != ndim)
        return err_set(c->e, ERR_INPUT, "tensor %s: shape, strides and offset must be integers "
                       ">= 0, at most %d dimensions", name, TENSOR_MAX_DIMS);
    Storage *s = find_storage(c, key->u.text, key->n);
    FileDtype dt = (FileDtype)s->dtype;
    if (v3) {
        const PickleValue *type = pickle_item(p, args, 6);
        dt = type->kind == PICKLE_GLOBAL && type->symbol == SYMBOL_DTYPE ? type->dtype : FD_OTHER;
    } else if (s->untyped) {
        return err_set(c->e, ERR_INPUT, "tensor %s has no type", name);
    }
    if (dt == FD_OTHER) return 0;
    FileTensor t = {0};
    TRY(tensorfile_shape(c->tf, &t, name, dt, ndim, shape, stride, c->e));
    TRY(load_storage(c, s));
    size_t size = file_dtype_bytes(dt);
    if ((uint64_t)t.count > s->bytes / size)
        return err_set(c->e, ERR_INPUT, "tensor %s has %lld elements in a storage of %llu bytes: "
                       "it is expanded or broken; save a contiguous copy", name,
                       (long long)t.count, (unsigned long long)s->bytes);
    if (!lies_within(&t, (uint64_t)offset->u.number, s->bytes / size))
        return err_set(c->e, ERR_INPUT, "tensor %s does not lie within its storage of %llu bytes",
                       name, (unsigned long long)s->bytes);
    if (t.count) t.data = s->data + (size_t)offset->u.number * size;
    return tensorfile_add(c->tf, &t, c->e);
}

static const PickleValue *dict_get(const Pickle *p, const PickleValue *dict, const char *key)
{
    for (uint32_t i = 0; i + 1 < dict->n; i += 2)
        if (pickle_is(pickle_item(p, dict, i), key)) return pickle_item(p, dict, i + 1);
    return NULL;
}

/* prefix + "." + key, as UTF-8. */
static int full_name(Ckpt *c, const char **name, const char *prefix, const PickleValue *key)
{
    char buf[NAME_BYTES];
    size_t n = strlen(prefix);
    if (n + 1 + key->n > sizeof buf || n + key->n + 2 > c->names_left)
        return err_set(c->e, ERR_INPUT, "the names of the tensors are too long");
    c->names_left -= n + key->n + 2;
    memcpy(buf, prefix, n);
    if (n) buf[n++] = '.';
    memcpy(buf + n, key->u.text, key->n);
    return tensorfile_text(c->tf, name, buf, n + key->n, c->e);
}

static int add_dict(Ckpt *c, PickleValue *dict, const char *prefix, int depth)
{
    if (dict->seen++ || depth > NEST_MAX) return 0;   /* once is enough; cycles end */
    for (uint32_t i = 0; i + 1 < dict->n; i += 2) {
        const PickleValue *key = pickle_item(&c->pickle, dict, i);
        PickleValue *v = pickle_item(&c->pickle, dict, i + 1);
        if (v->kind == PICKLE_CALL && v->symbol == SYMBOL_PARAMETER) {
            const PickleValue *args = pickle_item(&c->pickle, v, 0);
            if (args->n) v = pickle_item(&c->pickle, args, 0);
        }
        int tensor = v->kind == PICKLE_CALL && v->symbol != SYMBOL_PARAMETER;
        if (key->kind != PICKLE_STRING || (!tensor && v->kind != PICKLE_DICT)) continue;
        const char *name;
        TRY(full_name(c, &name, prefix, key));
        TRY(tensor ? add_tensor(c, name, v) : add_dict(c, v, name, depth + 1));
    }
    return 0;
}

static int add_tensors(Ckpt *c)
{
    const Pickle *p = &c->pickle;
    const PickleValue *dict = pickle_at(p, p->root), *inner;
    if (dict->kind != PICKLE_DICT)
        return err_set(c->e, ERR_INPUT, "the file holds no dict of tensors");
    for (int i = 0; i < NEST_MAX; i++) {
        inner = dict_get(p, dict, "state_dict");
        if (!inner || inner->kind != PICKLE_DICT) break;
        dict = inner;
    }
    c->names_left = NAMES_TOTAL;
    return add_dict(c, p->value + (dict - p->value), "", 0);
}

static void close_ckpt(Ckpt *c)
{
    pickle_free(&c->pickle);
    mem_free(c->storage);
    zip_close(&c->zip);
}

/* ---- zip form ---------------------------------------------------------------- */

/* The one member data.pkl, at the top or in a folder of any name. */
static int find_pickle(Ckpt *c, const ZipEntry **out)
{
    const char *want = "data.pkl";
    const size_t n = strlen(want);
    *out = NULL;
    for (size_t i = 0; i < c->zip.count; i++) {
        const ZipEntry *z = &c->zip.entry[i];
        if (z->name_size < n || memcmp(z->name + z->name_size - n, want, n)) continue;
        if (z->name_size > n && z->name[z->name_size - n - 1] != '/') continue;
        if (*out) return err_set(c->e, ERR_UNSAFE, "the zip has two pickles: readers would differ "
                                 "about what is in it");
        *out = z;
    }
    if (*out) return 0;
    return err_set(c->e, ERR_INPUT, "a zip without data.pkl is no torch checkpoint");
}

static int read_zip(Ckpt *c)
{
    const ZipEntry *z, *order;
    const uint8_t *data;
    TRY(zip_open(&c->zip, c->tf->data, c->tf->size, c->e));
    TRY(find_pickle(c, &z));
    c->root = z->name;
    c->root_size = z->name_size - strlen("data.pkl");
    c->unpack_left = 16 * (uint64_t)c->tf->size + UNPACK_FREE;
    order = find_member(c, "byteorder", "", 0);
    if (order) {
        TRY(member_data(c, order, &data));
        if (order->size != 6 || memcmp(data, "little", 6))
            return err_set(c->e, ERR_INPUT, "the tensors are not little-endian");
    }
    if (z->size > PICKLE_MAX)
        return err_set(c->e, ERR_INPUT, "data.pkl is %llu bytes; at most %d are read",
                       (unsigned long long)z->size, PICKLE_MAX);
    TRY(member_data(c, z, &data));
    if (!z->deflated) TRY(zip_check(z, data, c->e));
    TRY(pickle_parse(&c->pickle, data, z->size, NULL, c->e));
    TRY(list_storages(c));
    return add_tensors(c);
}

int ckpt_read_zip(TensorFile *tf, Err *e)
{
    Ckpt c = {.tf = tf, .e = e};
    int rc = read_zip(&c);
    close_ckpt(&c);
    return rc;
}

/* ---- legacy form ------------------------------------------------------------- */

/* Reads the pickle at *at and moves behind it; only the last one stays. */
static int next_pickle(const Ckpt *c, Pickle *p, size_t *at)
{
    size_t used;
    TRY(pickle_parse(p, c->tf->data + *at, c->tf->size - *at, &used, c->e));
    *at += used;
    return 0;
}

static int expect_little_endian(Ckpt *c, size_t *at)
{
    Pickle info;
    TRY(next_pickle(c, &info, at));
    const PickleValue *dict = pickle_at(&info, info.root), *v = NULL;
    if (dict->kind == PICKLE_DICT) v = dict_get(&info, dict, "little_endian");
    int ok = v && v->kind == PICKLE_TRUE;
    pickle_free(&info);
    return ok ? 0 : err_set(c->e, ERR_INPUT, "the tensors are not little-endian");
}

/* After the pickles: for each key of a list, an element count and the elements. */
static int place_storages(Ckpt *c, const Pickle *keys, size_t at)
{
    const PickleValue *list = pickle_at(keys, keys->root);
    if (list->kind != PICKLE_LIST) return err_set(c->e, ERR_INPUT, "no list of storages");
    for (uint32_t i = 0; i < list->n; i++) {
        const PickleValue *key = pickle_item(keys, list, i);
        Storage *s = key->kind == PICKLE_STRING ? find_storage(c, key->u.text, key->n) : NULL;
        size_t left = c->tf->size - at, size = s ? file_dtype_bytes((FileDtype)s->dtype) : 0;
        uint64_t n;
        if (!size || left < 8)
            return err_set(c->e, ERR_INPUT, "storage %u of %u is unknown or cut off", i, list->n);
        memcpy(&n, c->tf->data + at, 8);
        if (n != s->bytes / size || s->bytes > left - 8)
            return err_set(c->e, ERR_INPUT, "storage %u of %u has another size than described, or "
                           "is cut off", i, list->n);
        s->data = c->tf->data + at + 8;
        at += 8 + s->bytes;
    }
    return 0;
}

static int read_legacy(Ckpt *c)
{
    static const uint8_t magic[] = {0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20,
                                    0x6a, 0xa8, 0x50, 0x19, '.'};
    size_t at = 0;
    Pickle p;
    TRY(next_pickle(c, &p, &at));
    pickle_free(&p);
    if (at != sizeof magic || memcmp(c->tf->data, magic, at))
        return err_set(c->e, ERR_INPUT, "a bare pickle, not written by torch.save");
    TRY(next_pickle(c, &p, &at));
    const PickleValue *version = pickle_at(&p, p.root);
    int known = version->kind == PICKLE_INT && version->u.number == 1001;
    pickle_free(&p);
    if (!known) return err_set(c->e, ERR_INPUT, "an unknown version of torch's legacy format");
    TRY(expect_little_endian(c, &at));
    TRY(next_pickle(c, &c->pickle, &at));
    TRY(list_storages(c));
    TRY(next_pickle(c, &p, &at));
    int rc = place_storages(c, &p, at);
    pickle_free(&p);
    return rc ? rc : add_tensors(c);
}

int ckpt_read_legacy(TensorFile *tf, Err *e)
{
    Ckpt c = {.tf = tf, .e = e};
    int rc = read_legacy(&c);
    close_ckpt(&c);
    return rc;
}
