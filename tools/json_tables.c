/* json_tables.c - see json_tables.h. */
#include "tools/json_tables.h"

#include <jansson.h>
#include <stdio.h>

typedef struct {
    const char *path;
    toml_value_fn *fn;
    toml_table_fn *table;
    void *ctx;
} Reader;

enum { NAME_MAX_LEN = 192 };

static int scalar(const Reader *r, const char *key, const json_t *v, int index, Err *e)
{
    char number[40];
    if (json_is_string(v)) return r->fn(r->ctx, key, json_string_value(v), index, e);
    if (json_is_boolean(v)) return r->fn(r->ctx, key, json_is_true(v) ? "true" : "false", index, e);
    if (json_is_integer(v))
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (json_is_real(v)) snprintf(number, sizeof number, "%.17g", json_real_value(v));
    else
        return err_set(e, ERR_USAGE,
                       "%s: %.60s: a string, a number, true, false or a list of these was expected",
                       r->path, key);
    return r->fn(r->ctx, key, number, index, e);
}

static int is_table(const json_t *v)
{
    return json_is_object(v) || json_is_object(json_array_get(v, 0));
}

static int value(const Reader *r, const char *key, const json_t *v, Err *e)
{
    size_t i;
    json_t *one;
    if (!json_is_array(v)) return scalar(r, key, v, 0, e);
    json_array_foreach(v, i, one) TRY(scalar(r, key, one, (int)i, e));
    return 0;
}

/* An object: of the name `name`, "" for that around all. A name that is too long is cut, and
 * no table is called so. */
static int object(const Reader *r, const char *name, json_t *o, Err *e)
{
    const char *key;
    json_t *v, *one;
    size_t i;
    char below[NAME_MAX_LEN];
    json_object_foreach(o, key, v) if (!is_table(v)) TRY(value(r, key, v, e));
    json_object_foreach(o, key, v) {
        if (!is_table(v)) continue;
        snprintf(below, sizeof below, "%s%s%.96s", name, *name ? "." : "", key);
        if (json_is_object(v)) {
            TRY(r->table(r->ctx, below, 0, e));
            TRY(object(r, below, v, e));
        }
        json_array_foreach(v, i, one) {
            if (!json_is_object(one))
                return err_set(e, ERR_USAGE, "%s: %s: a list of objects was expected", r->path,
                               below);
            TRY(r->table(r->ctx, below, 1, e));
            TRY(object(r, below, one, e));
        }
    }
    return 0;
}

int json_read_tables(const char *text, const char *path, toml_value_fn *fn, toml_table_fn *table,
                     void *ctx, Err *e)
{
    json_error_t why;
    const Reader r = {path, fn, table, ctx};
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (!root) return err_set(e, ERR_USAGE, "%s:%d: %s", path, why.line, why.text);
    int rc = json_is_object(root)
                 ? object(&r, "", root, e)
                 : err_set(e, ERR_USAGE, "%s: not an object with general and datasets", path);
    json_decref(root);
    return rc;
}
