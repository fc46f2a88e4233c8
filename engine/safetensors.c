/* safetensors.c - the reader of safetensors.h.
 *
 * The header is cut into its members here, and each name and each entry is
 * parsed by jansson on its own: memory stays in proportion to the tensors found,
 * however hostile the header, and 100 000 tensors open in a moment.
 */
#include "engine/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/mem.h"

enum { ENTRY_MAX = 1 << 20, DEPTH_MAX = 8 };

typedef struct {
    const char *at;
    size_t size;
} Text;

typedef int member_fn(void *ctx, Text key, Text value, Err *e);

/* A parsed entry; offsets are from the start of the data, not yet checked. */
typedef struct {
    FileTensor tensor;
    uint64_t begin, end;
} Entry;

typedef struct {
    TensorFile *tf;
    Entry *entry;
    size_t count, cap;
    int has_meta;
} Reader;

/* safetensors' types that sdc lists but does not read. */
static const struct {
    const char *name;
    uint8_t bits;
} other_types[] = {
    {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F8_E8M0", 8},
    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"C64", 64},
};

/* ---- cutting ---------------------------------------------------------------- */

static const char *skip_space(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) p++;
    return p;
}

/* p is behind an opening quote; returns the place behind the closing one, or end. */
static const char *skip_string(const char *p, const char *end)
{
    for (; p < end; p++) {
        if (*p == '"') return p + 1;
        if (*p == '\\' && p + 1 < end) p++;
    }
    return end;
}

/* Finds where a value ends: at a comma or closing bracket that does not belong to
 * it. What is between is jansson's to judge, except the depth, which bounds its
 * recursion, and -0, which it takes for an integer. */
static int skip_value(const char **pos, const char *end, Err *e)
{
    const char *p = *pos;
    int depth = 1;                    /* of the object that holds the value */
    while (p < end) {
        char c = *p;
        if (c == '"') {
            p = skip_string(p + 1, end);
            continue;
        }
        if (depth == 1 && (c == ',' || c == '}' || c == ']')) break;
        if ((c == '{' || c == '[') && ++depth > DEPTH_MAX)
            return err_set(e, ERR_INPUT, "header: nested deeper than %d", DEPTH_MAX);
        if (c == '}' || c == ']') depth--;
        if (c == '-' && p + 1 < end && p[1] == '0' && (p + 2 == end || !strchr(".eE", p[2])))
            return err_set(e, ERR_INPUT, "header: -0 is not a number of elements or bytes");
        p++;
    }
    *pos = p;
    return 0;
}

/* Calls fn for each member of the one object in text. */
static int each_member(Text text, member_fn *fn, void *ctx, Err *e)
{
    const char *end = text.at + text.size, *p = skip_space(text.at, end);
    const char *what = "{";
    if (p == end || *p != '{') goto bad;
    p = skip_space(p + 1, end);
    int more = p == end || *p != '}';
    while (more) {
        what = "a quoted name";
        if (p == end || *p != '"') goto bad;
        Text key = {p, 0}, value;
        p = skip_string(p + 1, end);
        key.size = (size_t)(p - key.at);
        what = ":";
        p = skip_space(p, end);
        if (p == end || *p != ':') goto bad;
        value.at = ++p;
        TRY(skip_value(&p, end, e));
        value.size = (size_t)(p - value.at);
        TRY(fn(ctx, key, value, e));
        what = ", or }";
        if (p == end || (*p != ',' && *p != '}')) goto bad;
        more = *p == ',';
        if (more) p = skip_space(p + 1, end);
    }
    p = skip_space(p + 1, end);
    what = "the end";
    if (p == end) return 0;
bad:
    return err_set(e, ERR_INPUT, "header: not valid JSON: %s expected %zu bytes before its end",
                   what, (size_t)(end - p));
}

/* ---- one member ------------------------------------------------------------- */

/* jansson leaves the text empty when it is out of memory. */
static int parse(json_t **out, Text text, Err *e)
{
    json_error_t je = {0};
    *out = json_loadb(text.at, text.size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je);
    if (*out) return 0;
    if (!je.text[0] || json_error_code(&je) == json_error_out_of_memory)
        return err_nomem(e, text.size, "the header");
    return err_set(e, ERR_INPUT, "header: not valid JSON: %s in \"%.*s\"", je.text,
                   text.size > 60 ? 60 : (int)text.size, text.at);
}

static int parse_string(TensorFile *tf, const char **out, Text text, Err *e)
{
    json_t *j;
    TRY(parse(&j, text, e));
    int rc = json_is_string(j)
                 ? tensorfile_text(tf, out, json_string_value(j), json_string_length(j), e)
                 : err_set(e, ERR_INPUT, "header: a string was expected in place of \"%.*s\"",
                           text.size > 60 ? 60 : (int)text.size, text.at);
    json_decref(j);
    return rc;
}

static int on_meta(void *ctx, Text key, Text value, Err *e)
{
    TensorFile *tf = ctx;
    const char *k, *v;
    TRY(parse_string(tf, &k, key, e));
    int rc = parse_string(tf, &v, value, e);
    if (rc) {
        if (e) err_prefix(e, "metadata %s", k);
        return rc;
    }
    return tensorfile_add_meta(tf, k, v, e);
}

/* Type and size of the data; a type of ours or one of other_types. */
static int read_type(FileTensor *t, uint64_t *bytes, const char *dtype, Err *e)
{
    unsigned bits = 8 * (unsigned)file_dtype_bytes(t->dtype);
    for (size_t i = 0; t->dtype == FD_OTHER && i < sizeof other_types / sizeof *other_types; i++)
        if (!strcmp(dtype, other_types[i].name)) {
            t->dtype_name = other_types[i].name;
            bits = other_types[i].bits;
        }
    if (!bits) return err_set(e, ERR_INPUT, "tensor %s: unknown dtype \"%s\"", t->name, dtype);
    uint64_t total;
    if (__builtin_mul_overflow((uint64_t)t->count, bits, &total))
        return err_set(e, ERR_INPUT, "tensor %s: the shape is too large", t->name);
    if (total % 8)
        return err_set(e, ERR_INPUT, "tensor %s: %s elements do not fill whole bytes", t->name,
                       t->dtype_name);
    *bytes = total / 8;
    return 0;
}

/* Reads an array of at most max integers >= 0; returns their number, or -1. */
static int read_ints(const json_t *array, int64_t *out, int max)
{
    size_t n = json_array_size(array);
    if (!json_is_array(array) || n > (size_t)max) return -1;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(array, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0) return -1;
        out[i] = json_integer_value(v);
    }
    return (int)n;
}

static int read_entry(Reader *r, const char *name, const json_t *j, Err *e)
{
    const json_t *dtype = json_object_get(j, "dtype"), *offs = json_object_get(j, "data_offsets");
    int64_t shape[TENSOR_MAX_DIMS], at[2];
    int ndim = read_ints(json_object_get(j, "shape"), shape, TENSOR_MAX_DIMS);
    if (!json_is_string(dtype))
        return err_set(e, ERR_INPUT, "tensor %s: no dtype (a string was expected)", name);
    if (ndim < 0)
        return err_set(e, ERR_INPUT, "tensor %s: shape must be an array of at most %d integers "
                       ">= 0", name, TENSOR_MAX_DIMS);
    if (read_ints(offs, at, 2) != 2 || at[0] > at[1])
        return err_set(e, ERR_INPUT, "tensor %s: data_offsets must be two integers, begin <= end",
                       name);
    Entry *a = mem_grow(r->entry, r->count, &r->cap, sizeof *a), *n;
    if (!a) return err_nomem(e, 2 * r->cap * sizeof *a, "the list of tensors");
    r->entry = a;
    n = &a[r->count];
    *n = (Entry){.begin = (uint64_t)at[0], .end = (uint64_t)at[1]};
    FileTensor *t = &n->tensor;
    FileDtype dt = file_dtype_by_name(json_string_value(dtype));
    TRY(tensorfile_shape(r->tf, t, name, dt, ndim, shape, NULL, e));
    TRY(read_type(t, &t->bytes, json_string_value(dtype), e));
    if (n->end - n->begin != t->bytes)
        return err_set(e, ERR_INPUT, "tensor %s: data_offsets span %llu bytes, but dtype and shape "
                       "need %llu", name, (unsigned long long)(n->end - n->begin),
                       (unsigned long long)t->bytes);
    r->count++;
    return 0;
}

static int on_member(void *ctx, Text key, Text value, Err *e)
{
    Reader *r = ctx;
    const char *name;
    TRY(parse_string(r->tf, &name, key, e));
    if (!strcmp(name, "__metadata__")) {
        if (r->has_meta++) return err_set(e, ERR_INPUT, "__metadata__ stands in the file twice");
        const char *end = value.at + value.size, *p = skip_space(value.at, end);
        if (end - p >= 4 && !memcmp(p, "null", 4) && skip_space(p + 4, end) == end) return 0;
        return each_member(value, on_meta, r->tf, e);
    }
    if (value.size > ENTRY_MAX)
        return err_set(e, ERR_INPUT, "tensor %s: an entry of %zu bytes", name, value.size);
    json_t *j;
    TRY(parse(&j, value, e));
    int rc = json_is_object(j) ? read_entry(r, name, j, e)
                               : err_set(e, ERR_INPUT, "tensor %s: an object was expected", name);
    json_decref(j);
    return rc;
}

/* ---- the file --------------------------------------------------------------- */

static int by_offset(const void *pa, const void *pb)
{
    const Entry *a = pa, *b = pb;
    if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
    if (a->end != b->end) return a->end < b->end ? -1 : 1;
    return strcmp(a->tensor.name, b->tensor.name);
}

/* The tensors must tile the data: no hole, no overlap, nothing behind the last. */
static int place(Reader *r, const uint8_t *data, uint64_t size, Err *e)
{
    uint64_t at = 0;
    if (r->count) qsort(r->entry, r->count, sizeof *r->entry, by_offset);
    for (size_t i = 0; i < r->count; i++) {
        Entry *n = &r->entry[i];
        if (n->end > size)
            return err_set(e, ERR_INPUT, "tensor %s ends at byte %llu of %llu: the file is cut "
                           "short; download it again", n->tensor.name, (unsigned long long)n->end,
                           (unsigned long long)size);
        if (n->begin != at)
            return err_set(e, ERR_INPUT, "tensor %s starts at byte %llu, but the data before it "
                           "ends at %llu: %s", n->tensor.name, (unsigned long long)n->begin,
                           (unsigned long long)at, n->begin < at ? "an overlap" : "a hole");
        n->tensor.data = data + at;
        at = n->end;
        TRY(tensorfile_add(r->tf, &n->tensor, e));
    }
    if (at != size)
        return err_set(e, ERR_INPUT, "%llu bytes behind the last tensor belong to none",
                       (unsigned long long)(size - at));
    return 0;
}

int safetensors_data_start(size_t *start, const uint8_t *data, size_t size, Err *e)
{
    uint64_t n = 0;
    if (size >= 8) memcpy(&n, data, 8);
    if (size >= 8 && n <= SAFETENSORS_HEADER_MAX && n <= size - 8) {
        *start = 8 + (size_t)n;
        return 0;
    }
    const char *lfs = "version https://git-lfs";
    if (size > strlen(lfs) && !memcmp(data, lfs, strlen(lfs)))
        return err_set(e, ERR_INPUT, "this is a Git LFS pointer, not the model; run git lfs pull");
    if (size >= 2 && data[0] == '<')
        return err_set(e, ERR_INPUT, "this is a web page, not the model; download it again");
    if (size < 8) return err_set(e, ERR_INPUT, "%zu bytes: too short for a tensor file", size);
    if (n > SAFETENSORS_HEADER_MAX)
        return err_set(e, ERR_INPUT, "not a safetensors file or torch checkpoint");
    return err_set(e, ERR_INPUT, "the header is %llu bytes long, the file only %zu: it is cut "
                   "short or no safetensors file; download it again", (unsigned long long)n, size);
}

int safetensors_read(TensorFile *tf, Err *e)
{
    size_t start;
    TRY(safetensors_data_start(&start, tf->data, tf->size, e));
    if (start > 8 && memchr(tf->data + 8, 0, start - 8))   /* jansson may skip it */
        return err_set(e, ERR_INPUT, "header: not valid JSON: a NUL byte");
    Reader r = {.tf = tf};
    int rc = each_member((Text){(const char *)tf->data + 8, start - 8}, on_member, &r, e);
    if (!rc) rc = place(&r, tf->data + start, tf->size - start, e);
    mem_free(r.entry);
    return rc;
}
