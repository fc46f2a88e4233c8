/* pickle.h - reads a Python pickle as data. Nothing is ever executed or imported.
 *
 * The machine knows the opcodes that torch.save writes and torch's own
 * weights_only loader accepts (torch/_weights_only_unpickler.py), protocol 2. A
 * pickle names Python classes and functions ("globals"): those needed for tensors
 * become symbols, harmless companions of real Stable Diffusion checkpoints become
 * PICKLE_OTHER, and every other name makes the file ERR_UNSAFE, all of them listed
 * in the message. A "call" is a note of what was called with what.
 *
 * Values are nodes of one array that refer to each other by index, never copied, so
 * that a few bytes cannot make much of themselves; cycles are possible. Limits: 64 MiB
 * of pickle, 4 million opcodes, memo of 1 million.
 */
#ifndef SDC_ENGINE_PICKLE_H
#define SDC_ENGINE_PICKLE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"
#include "engine/tensorfile.h"

enum { PICKLE_MAX = 64 << 20 };

typedef enum {
    PICKLE_OTHER,            /* anything that does not matter to tensors */
    PICKLE_NONE, PICKLE_TRUE,
    PICKLE_INT,
    PICKLE_STRING,           /* text, not NUL-terminated, not yet checked as UTF-8 */
    PICKLE_TUPLE, PICKLE_LIST,   /* n items */
    PICKLE_DICT,             /* n items: key, value, key, value... */
    PICKLE_GLOBAL,           /* symbol, dtype */
    PICKLE_CALL,             /* of symbol (and dtype) with one item, the argument tuple */
    PICKLE_PERSISTENT        /* one item: the id, in torch a tuple about a storage */
} PickleKind;

typedef enum {
    SYMBOL_IGNORED,          /* known and harmless: what is made of it is PICKLE_OTHER */
    SYMBOL_DICT,             /* collections.OrderedDict */
    SYMBOL_SIZE,             /* torch.Size: calls of it become the tuple itself */
    SYMBOL_TENSOR,           /* (storage, offset, size, stride, ...) */
    SYMBOL_TENSOR_V3,        /* (storage, offset, size, stride, grad, hooks, dtype, ...) */
    SYMBOL_PARAMETER,        /* (tensor, ...) */
    SYMBOL_STORAGE,          /* torch.HalfStorage...: of dtype; FD_OTHER: complex */
    SYMBOL_BYTES,            /* torch.storage.UntypedStorage: counted in bytes */
    SYMBOL_DTYPE             /* torch.float16... */
} PickleSymbol;

typedef struct {
    uint8_t kind, symbol, dtype;     /* PickleKind, PickleSymbol, FileDtype */
    uint8_t seen;                    /* free for the caller; 0 */
    uint32_t n, cap;                 /* items, or bytes of text */
    union {
        int64_t number;
        const char *text;            /* in the pickle */
        uint32_t *item;              /* indices of values, owned */
    } u;
} PickleValue;

typedef struct {
    PickleValue *value;
    size_t count, cap;
    uint32_t root;
} Pickle;

/* Reads one pickle from the start of data; *used (NULL ok) is its length. ERR_INPUT
 * when it is broken or over a limit, ERR_UNSAFE as above. data must outlive p. */
int pickle_parse(Pickle *p, const uint8_t *data, size_t size, size_t *used, Err *e);
void pickle_free(Pickle *p);

static inline PickleValue *pickle_at(const Pickle *p, uint32_t i) { return &p->value[i]; }
/* Item i of a container, with i < n. */
static inline PickleValue *pickle_item(const Pickle *p, const PickleValue *v, uint32_t i)
{
    return &p->value[v->u.item[i]];
}
/* Is v this string? */
int pickle_is(const PickleValue *v, const char *text);

#endif
