/* pickle.c - the pickle machine of pickle.h: a stack of value indices, a memo, and
 * the table of names that may stand in a checkpoint. */
#include "engine/pickle.h"

#include <stdio.h>
#include <string.h>

#include "engine/mem.h"

enum { OPS_MAX = 4000000, MEMO_MAX = 1 << 20, NAME_MAX_BYTES = 4096 };
#define MARK UINT32_MAX               /* on the stack: a mark; in the memo: empty */

typedef struct {
    Pickle *p;
    const uint8_t *d;
    size_t size, at;
    uint32_t *stack, *memo;
    size_t depth, stack_cap, memo_count;
    char unsafe[600];                 /* "os.system, posix.system, " */
    size_t unsafe_len;
    size_t ops;
    int done;
    Err *e;
} Machine;

/* ---- names ------------------------------------------------------------------- */

static const struct {
    const char *module, *name;
    PickleSymbol symbol;
    FileDtype dtype;
} symbols[] = {
    {"collections", "OrderedDict", SYMBOL_DICT, 0},
    {"torch", "Size", SYMBOL_SIZE, 0},
    {"torch._utils", "_rebuild_tensor", SYMBOL_TENSOR, 0},
    {"torch._utils", "_rebuild_tensor_v2", SYMBOL_TENSOR, 0},
    {"torch._utils", "_rebuild_tensor_v3", SYMBOL_TENSOR_V3, 0},
    {"torch._utils", "_rebuild_parameter", SYMBOL_PARAMETER, 0},
    {"torch._utils", "_rebuild_parameter_with_state", SYMBOL_PARAMETER, 0},
    {"torch.storage", "UntypedStorage", SYMBOL_BYTES, 0},
    {"torch.storage", "_UntypedStorage", SYMBOL_BYTES, 0},
    {"torch", "UntypedStorage", SYMBOL_BYTES, 0},
    {"torch", "FloatStorage", SYMBOL_STORAGE, FD_F32},
    {"torch", "HalfStorage", SYMBOL_STORAGE, FD_F16},
    {"torch", "BFloat16Storage", SYMBOL_STORAGE, FD_BF16},
    {"torch", "DoubleStorage", SYMBOL_STORAGE, FD_F64},
    {"torch", "LongStorage", SYMBOL_STORAGE, FD_I64},
    {"torch", "IntStorage", SYMBOL_STORAGE, FD_I32},
    {"torch", "ShortStorage", SYMBOL_STORAGE, FD_I16},
    {"torch", "CharStorage", SYMBOL_STORAGE, FD_I8},
    {"torch", "ByteStorage", SYMBOL_STORAGE, FD_U8},
    {"torch", "BoolStorage", SYMBOL_STORAGE, FD_BOOL},
    {"torch", "ComplexFloatStorage", SYMBOL_STORAGE, FD_OTHER},
    {"torch", "ComplexDoubleStorage", SYMBOL_STORAGE, FD_OTHER},
    {"torch", "float32", SYMBOL_DTYPE, FD_F32},
    {"torch", "float16", SYMBOL_DTYPE, FD_F16},
    {"torch", "bfloat16", SYMBOL_DTYPE, FD_BF16},
    {"torch", "float64", SYMBOL_DTYPE, FD_F64},
    {"torch", "float8_e4m3fn", SYMBOL_DTYPE, FD_F8_E4M3},
    {"torch", "float8_e5m2", SYMBOL_DTYPE, FD_F8_E5M2},
    {"torch", "int64", SYMBOL_DTYPE, FD_I64},
    {"torch", "int32", SYMBOL_DTYPE, FD_I32},
    {"torch", "int16", SYMBOL_DTYPE, FD_I16},
    {"torch", "int8", SYMBOL_DTYPE, FD_I8},
    {"torch", "uint64", SYMBOL_DTYPE, FD_U64},
    {"torch", "uint32", SYMBOL_DTYPE, FD_U32},
    {"torch", "uint16", SYMBOL_DTYPE, FD_U16},
    {"torch", "uint8", SYMBOL_DTYPE, FD_U8},
    {"torch", "bool", SYMBOL_DTYPE, FD_BOOL},
    {"torch", "device", SYMBOL_IGNORED, 0},
    {"torch.nn.modules.container", "ParameterDict", SYMBOL_DICT, 0},
    {"pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", SYMBOL_IGNORED, 0},
    {"pytorch_lightning.callbacks", "ModelCheckpoint", SYMBOL_IGNORED, 0},
    {"numpy.core.multiarray", "scalar", SYMBOL_IGNORED, 0},
    {"numpy.core.multiarray", "_reconstruct", SYMBOL_IGNORED, 0},
    {"numpy._core.multiarray", "scalar", SYMBOL_IGNORED, 0},
    {"numpy._core.multiarray", "_reconstruct", SYMBOL_IGNORED, 0},
    {"numpy", "dtype", SYMBOL_IGNORED, 0},
    {"numpy", "ndarray", SYMBOL_IGNORED, 0},
    {"_codecs", "encode", SYMBOL_IGNORED, 0},
    {"__builtin__", "set", SYMBOL_IGNORED, 0},
    {"builtins", "set", SYMBOL_IGNORED, 0},
};

static int same(const char *s, size_t n, const char *text)
{
    return strlen(text) == n && !memcmp(s, text, n);
}

int pickle_is(const PickleValue *v, const char *text)
{
    return v->kind == PICKLE_STRING && same(v->u.text, v->n, text);
}

/* ---- stack and values -------------------------------------------------------- */

static int bad(Machine *m, const char *what)
{
    return err_set(m->e, ERR_INPUT, "the pickle is broken at byte %zu: %s", m->at, what);
}

/* Points *p at the next n bytes. */
static int take(Machine *m, const uint8_t **p, size_t n)
{
    if (n > m->size - m->at) return bad(m, "it is cut short");
    *p = m->d + m->at;
    m->at += n;
    return 0;
}

static int take_uint(Machine *m, uint32_t *x, size_t n)
{
    const uint8_t *p = NULL;
    *x = 0;
    TRY(take(m, &p, n));
    for (size_t i = 0; i < n; i++) *x |= (uint32_t)p[i] << (8 * i);
    return 0;
}

static int push(Machine *m, uint32_t i)
{
    uint32_t *s = mem_grow(m->stack, m->depth, &m->stack_cap, sizeof *s);
    if (!s) return err_nomem(m->e, m->stack_cap * 2 * sizeof *s, "a pickle");
    m->stack = s;
    s[m->depth++] = i;
    return 0;
}

/* Makes a value, not yet on the stack. */
static int make(Machine *m, PickleValue v, uint32_t *i)
{
    Pickle *p = m->p;
    PickleValue *a = mem_grow(p->value, p->count, &p->cap, sizeof *a);
    if (!a) return err_nomem(m->e, p->cap * 2 * sizeof *a, "a pickle");
    p->value = a;
    a[p->count] = v;
    *i = (uint32_t)p->count++;
    return 0;
}

static int push_value(Machine *m, PickleValue v)
{
    uint32_t i = 0;
    TRY(make(m, v, &i));
    return push(m, i);
}

static int push_kind(Machine *m, PickleKind kind)
{
    return push_value(m, (PickleValue){.kind = (uint8_t)kind});
}

static int top(Machine *m, PickleValue **v)
{
    if (!m->depth || m->stack[m->depth - 1] == MARK) return bad(m, "nothing on the stack");
    *v = pickle_at(m->p, m->stack[m->depth - 1]);
    return 0;
}

static int pop(Machine *m, uint32_t *i)
{
    PickleValue *v = NULL;
    TRY(top(m, &v));
    *i = m->stack[--m->depth];
    return 0;
}

/* Appends n items from the stack (from index first on) to a container. */
static int append(Machine *m, PickleValue *v, size_t first, size_t n)
{
    if (n > UINT32_MAX / 2 - v->n) return bad(m, "too many items");
    uint32_t want = v->n + (uint32_t)n;
    if (want > v->cap) {
        uint32_t cap = want > 2 * v->cap ? want : 2 * v->cap;
        uint32_t *a = mem_realloc(v->u.item, cap * sizeof *a);
        if (!a) return err_nomem(m->e, cap * sizeof *a, "a pickle");
        v->u.item = a;
        v->cap = cap;
    }
    if (n) memcpy(v->u.item + v->n, m->stack + first, n * sizeof *m->stack);
    v->n = want;
    return 0;
}

/* The stack index of the first value above the topmost mark. What is above is
 * consumed by the opcode, so that the search costs no more than the pushes did. */
static int find_mark(Machine *m, size_t *first)
{
    size_t i = m->depth;
    while (i && m->stack[i - 1] != MARK) i--;
    if (!i) return bad(m, "no mark on the stack");
    *first = i;
    return 0;
}

/* ---- opcodes ----------------------------------------------------------------- */

/* Replaces the values from stack index first on, and `drop` more below them (a
 * mark), by one value that holds them as items. */
static int collect(Machine *m, PickleValue v, size_t first, size_t drop)
{
    uint32_t i = 0;
    TRY(make(m, v, &i));
    TRY(append(m, pickle_at(m->p, i), first, m->depth - first));
    m->depth = first - drop;
    return push(m, i);
}

static int op_tuple(Machine *m, size_t n)
{
    if (n > m->depth) return bad(m, "nothing on the stack");
    for (size_t i = 0; i < n; i++)
        if (m->stack[m->depth - 1 - i] == MARK) return bad(m, "a mark in a tuple");
    return collect(m, (PickleValue){.kind = PICKLE_TUPLE}, m->depth - n, 0);
}

static int op_tuple_mark(Machine *m)
{
    size_t first = 0;
    TRY(find_mark(m, &first));
    return collect(m, (PickleValue){.kind = PICKLE_TUPLE}, first, 1);
}

/* APPEND(S), SETITEM(S): the values from first on go to the container below them
 * (below the mark, when there is one). */
static int add_items(Machine *m, size_t first, size_t drop, PickleKind kind)
{
    size_t n = m->depth - first;
    if (kind == PICKLE_DICT && n % 2) return bad(m, "a key without a value");
    m->depth = first - drop;
    PickleValue *v = NULL;
    TRY(top(m, &v));
    if (v->kind == PICKLE_OTHER) return 0;
    if (v->kind != kind)
        return bad(m, kind == PICKLE_DICT ? "an item is set in what is no dict"
                                          : "an item is appended to what is no list");
    return append(m, v, first, n);
}

static int op_items(Machine *m, PickleKind kind)
{
    size_t first = 0;
    TRY(find_mark(m, &first));
    return add_items(m, first, 1, kind);
}

static int op_item(Machine *m, size_t n, PickleKind kind)
{
    for (size_t i = 0; i < n; i++)
        if (i >= m->depth || m->stack[m->depth - 1 - i] == MARK)
            return bad(m, "nothing on the stack");
    return add_items(m, m->depth - n, 0, kind);
}

static int op_put(Machine *m, size_t width)
{
    uint32_t slot;
    PickleValue *v = NULL;
    TRY(take_uint(m, &slot, width));
    TRY(top(m, &v));
    if (slot >= MEMO_MAX) return bad(m, "the memo is too large");
    if (slot >= m->memo_count) {
        size_t n = slot + 1 > 2 * m->memo_count ? slot + 1 : 2 * m->memo_count;
        uint32_t *a = mem_realloc(m->memo, n * sizeof *a);
        if (!a) return err_nomem(m->e, n * sizeof *a, "a pickle");
        for (size_t i = m->memo_count; i < n; i++) a[i] = MARK;
        m->memo = a;
        m->memo_count = n;
    }
    m->memo[slot] = m->stack[m->depth - 1];
    return 0;
}

static int op_get(Machine *m, size_t width)
{
    uint32_t slot;
    TRY(take_uint(m, &slot, width));
    if (slot >= m->memo_count || m->memo[slot] == MARK) return bad(m, "an empty memo is read");
    return push(m, m->memo[slot]);
}

static int op_int(Machine *m, size_t width)
{
    uint32_t x;
    TRY(take_uint(m, &x, width));
    int64_t number = width == 4 ? (int32_t)x : (int64_t)x;
    return push_value(m, (PickleValue){.kind = PICKLE_INT, .u.number = number});
}

/* LONG1: little-endian two's complement of any length; beyond 64 bits it cannot be
 * a size of ours. */
static int op_long(Machine *m)
{
    uint32_t n;
    const uint8_t *p = NULL;
    TRY(take_uint(m, &n, 1));
    TRY(take(m, &p, n));
    if (n > 8) return push_kind(m, PICKLE_OTHER);
    uint64_t x = n && p[n - 1] & 0x80 ? UINT64_MAX : 0;
    if (n) memcpy(&x, p, n);
    return push_value(m, (PickleValue){.kind = PICKLE_INT, .u.number = (int64_t)x});
}

static int op_string(Machine *m, size_t width)
{
    uint32_t n;
    const uint8_t *p = NULL;
    TRY(take_uint(m, &n, width));
    TRY(take(m, &p, n));
    return push_value(m, (PickleValue){.kind = PICKLE_STRING, .n = n, .u.text = (const char *)p});
}

static int op_float(Machine *m)
{
    const uint8_t *p = NULL;
    TRY(take(m, &p, 8));
    return push_kind(m, PICKLE_OTHER);
}

static int take_line(Machine *m, const char **s, size_t *n)
{
    const uint8_t *start = m->d + m->at;
    size_t most = m->size - m->at < NAME_MAX_BYTES ? m->size - m->at : NAME_MAX_BYTES;
    const uint8_t *end = most ? memchr(start, '\n', most) : NULL;
    if (!end) return bad(m, "a name without an end");
    *s = (const char *)start;
    *n = (size_t)(end - start);
    m->at += *n + 1;
    return 0;
}

static void note_unsafe(Machine *m, const char *module, size_t mn, const char *name, size_t nn)
{
    size_t room = sizeof m->unsafe - m->unsafe_len;
    int n = snprintf(m->unsafe + m->unsafe_len, room, "%s%.*s.%.*s", m->unsafe_len ? ", " : "",
                     mn > 100 ? 100 : (int)mn, module, nn > 100 ? 100 : (int)nn, name);
    if (n > 0 && (size_t)n < room) m->unsafe_len += (size_t)n;
    else m->unsafe[m->unsafe_len] = 0;      /* no room: keep the whole names */
}

static int op_global(Machine *m)
{
    const char *module, *name;
    size_t mn, nn;
    TRY(take_line(m, &module, &mn));
    TRY(take_line(m, &name, &nn));
    if (same(module, mn, "torch.cuda")) mn = strlen("torch");   /* of the storage classes */
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++)
        if (same(module, mn, symbols[i].module) && same(name, nn, symbols[i].name))
            return push_value(m, (PickleValue){.kind = PICKLE_GLOBAL,
                                               .symbol = (uint8_t)symbols[i].symbol,
                                               .dtype = (uint8_t)symbols[i].dtype});
    note_unsafe(m, module, mn, name, nn);
    return push_kind(m, PICKLE_OTHER);
}

static int refuse_code(Machine *m, const char *opcode)
{
    note_unsafe(m, "opcode", 6, opcode, strlen(opcode));
    return bad(m, "an opcode that makes objects");
}

/* OrderedDict of a list of pairs, as Python 2 wrote it. */
static int dict_of_pairs(Machine *m, uint32_t list)
{
    TRY(push_kind(m, PICKLE_DICT));
    uint32_t self = m->stack[m->depth - 1], n = pickle_at(m->p, list)->n;
    m->ops += n;                      /* the only opcode whose work is not bounded */
    if (m->ops > OPS_MAX) return bad(m, "too long");
    for (uint32_t i = 0; i < n; i++) {
        PickleValue *pair = pickle_item(m->p, pickle_at(m->p, list), i);
        if ((pair->kind != PICKLE_LIST && pair->kind != PICKLE_TUPLE) || pair->n != 2)
            return bad(m, "an OrderedDict of what is no pair");
        uint32_t key = pair->u.item[0], value = pair->u.item[1];
        TRY(push(m, key));
        TRY(push(m, value));
        TRY(append(m, pickle_at(m->p, self), m->depth - 2, 2));
        m->depth -= 2;
    }
    return 0;
}

/* REDUCE and NEWOBJ: the top two values are what is called, and its arguments. */
static int op_call(Machine *m)
{
    uint32_t args, callee;
    TRY(pop(m, &args));
    TRY(pop(m, &callee));
    PickleValue *f = pickle_at(m->p, callee), *a = pickle_at(m->p, args);
    if (a->kind != PICKLE_TUPLE) return bad(m, "a call without arguments");
    if (f->kind == PICKLE_OTHER) return push_kind(m, PICKLE_OTHER);
    if (f->kind != PICKLE_GLOBAL) return bad(m, "a call of what is no function");
    switch ((PickleSymbol)f->symbol) {
    case SYMBOL_DICT:
        if (a->n && pickle_item(m->p, a, 0)->kind == PICKLE_LIST)
            return dict_of_pairs(m, a->u.item[0]);
        return push_kind(m, PICKLE_DICT);
    case SYMBOL_SIZE:
        if (a->n == 1 && pickle_item(m->p, a, 0)->kind == PICKLE_TUPLE)
            return push(m, a->u.item[0]);
        return bad(m, "a torch.Size of what is no tuple");
    case SYMBOL_TENSOR: case SYMBOL_TENSOR_V3: case SYMBOL_PARAMETER: {
        PickleValue call = {.kind = PICKLE_CALL, .symbol = f->symbol};
        TRY(push(m, args));
        return collect(m, call, m->depth - 1, 0);
    }
    default:
        return push_kind(m, PICKLE_OTHER);
    }
}

static int op_persistent(Machine *m)
{
    PickleValue *id;
    TRY(top(m, &id));
    return collect(m, (PickleValue){.kind = PICKLE_PERSISTENT}, m->depth - 1, 0);
}

/* Pairs of one dict into the one on top of the stack. */
static int add_pairs(Machine *m, uint32_t from)
{
    uint32_t self = m->stack[m->depth - 1], n = pickle_at(m->p, from)->n;
    m->ops += n;                      /* as in dict_of_pairs */
    if (m->ops > OPS_MAX) return bad(m, "too long");
    for (uint32_t i = 0; i + 1 < n; i += 2) {
        TRY(push(m, pickle_at(m->p, from)->u.item[i]));
        TRY(push(m, pickle_at(m->p, from)->u.item[i + 1]));
        TRY(append(m, pickle_at(m->p, self), m->depth - 2, 2));
        m->depth -= 2;
    }
    return 0;
}

/* BUILD sets attributes of an object; none matter to tensors (OrderedDict._metadata) but what
 * is in a ParameterDict. */
static int op_build(Machine *m)
{
    uint32_t state;
    PickleValue *object;
    TRY(pop(m, &state));
    TRY(top(m, &object));
    const PickleValue *s = pickle_at(m->p, state);
    if (object->kind != PICKLE_DICT || s->kind != PICKLE_DICT) return 0;
    for (uint32_t i = 0; i + 1 < s->n; i += 2)
        if (pickle_is(pickle_item(m->p, s, i), "_parameters") &&
            pickle_item(m->p, s, i + 1)->kind == PICKLE_DICT)
            return add_pairs(m, s->u.item[i + 1]);
    return 0;
}

static int op_proto(Machine *m)
{
    uint32_t version;
    TRY(take_uint(m, &version, 1));
    if (version == 2) return 0;
    return err_set(m->e, ERR_UNSAFE, "pickle protocol %u: only 2, which torch.save writes, is "
                   "known to be safe; save the file again as safetensors", version);
}

static int step(Machine *m)
{
    const uint8_t *op = NULL;
    TRY(take(m, &op, 1));
    switch (*op) {
    case 0x80: return op_proto(m);
    case '.': m->done = 1; return 0;
    case '(': return push(m, MARK);
    case 'N': return push_kind(m, PICKLE_NONE);
    case 0x88: return push_kind(m, PICKLE_TRUE);
    case 0x89: return push_kind(m, PICKLE_OTHER);                          /* False */
    case 'K': return op_int(m, 1);
    case 'M': return op_int(m, 2);
    case 'J': return op_int(m, 4);
    case 0x8a: return op_long(m);
    case 'G': return op_float(m);
    case 'X': return op_string(m, 4);                                      /* BINUNICODE */
    case 'U': return op_string(m, 1);                                      /* SHORT_BINSTRING */
    case ')': return op_tuple(m, 0);
    case 0x85: return op_tuple(m, 1);
    case 0x86: return op_tuple(m, 2);
    case 0x87: return op_tuple(m, 3);
    case 't': return op_tuple_mark(m);
    case ']': return push_kind(m, PICKLE_LIST);
    case 'a': return op_item(m, 1, PICKLE_LIST);
    case 'e': return op_items(m, PICKLE_LIST);
    case '}': return push_kind(m, PICKLE_DICT);
    case 's': return op_item(m, 2, PICKLE_DICT);
    case 'u': return op_items(m, PICKLE_DICT);
    case 0x8f: return push_kind(m, PICKLE_OTHER);                          /* EMPTY_SET */
    case 'q': return op_put(m, 1);
    case 'r': return op_put(m, 4);
    case 'h': return op_get(m, 1);
    case 'j': return op_get(m, 4);
    case 'c': return op_global(m);
    case 'R': case 0x81: return op_call(m);                                /* REDUCE, NEWOBJ */
    case 'b': return op_build(m);
    case 'Q': return op_persistent(m);
    case 'i': return refuse_code(m, "INST");
    case 'o': return refuse_code(m, "OBJ");
    case 0x82: case 0x83: case 0x84: return refuse_code(m, "EXT");
    case 0x92: return refuse_code(m, "NEWOBJ_EX");
    case 0x93: return refuse_code(m, "STACK_GLOBAL");
    default: return bad(m, "an opcode that torch.save does not write");
    }
}

static int run(Machine *m)
{
    while (!m->done) {
        if (++m->ops > OPS_MAX) return bad(m, "too long");
        TRY(step(m));
    }
    TRY(pop(m, &m->p->root));
    return m->depth ? bad(m, "values are left on the stack") : 0;
}

int pickle_parse(Pickle *p, const uint8_t *data, size_t size, size_t *used, Err *e)
{
    *p = (Pickle){0};
    Err inner = {0};
    Machine m = {.p = p, .d = data, .size = size < PICKLE_MAX ? size : PICKLE_MAX, .e = &inner};
    int rc = run(&m);
    mem_free(m.stack);
    mem_free(m.memo);
    if (m.unsafe_len)                 /* whatever else is wrong with it */
        rc = err_set(e, ERR_UNSAFE, "refused: the pickle names code that is not about tensors: "
                     "%s", m.unsafe);
    else if (rc)
        rc = err_set(e, rc, "%s", inner.msg);
    if (rc) pickle_free(p);
    else if (used) *used = m.at;
    return rc;
}

void pickle_free(Pickle *p)
{
    for (size_t i = 0; i < p->count; i++) {
        PickleKind kind = (PickleKind)p->value[i].kind;
        if (kind == PICKLE_TUPLE || kind == PICKLE_LIST || kind == PICKLE_DICT ||
            kind == PICKLE_CALL || kind == PICKLE_PERSISTENT)
            mem_free(p->value[i].u.item);
    }
    mem_free(p->value);
    *p = (Pickle){0};
}
