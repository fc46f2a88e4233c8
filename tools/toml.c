/* toml.c - see toml.h. */
#include "tools/toml.h"

#include <ctype.h>
#include <string.h>

#include "engine/mem.h"

typedef struct {
    const char *s, *path;
    int line;
    char *buf;             /* the current value, unescaped; as long as the text */
    toml_value_fn *fn;
    toml_table_fn *table;  /* NULL: tables are skipped */
    void *ctx;
    Err *e;
} Toml;

enum { KEY_MAX_LEN = 96 };

static int fail(Toml *t, const char *what)
{
    return err_set(t->e, ERR_USAGE, "%s:%d: %s", t->path, t->line, what);
}

static void skip_blanks(Toml *t) { t->s += strspn(t->s, " \t\r"); }

/* Blanks, comments and line ends. */
static void skip_lines(Toml *t)
{
    for (;;) {
        skip_blanks(t);
        if (*t->s == '#') t->s += strcspn(t->s, "\n");
        if (*t->s != '\n') return;
        t->s++;
        t->line++;
    }
}

static void put_utf8(char **w, unsigned long c)
{
    char *p = *w;
    if (c < 0x80) *p++ = (char)c;
    else if (c < 0x800) *p++ = (char)(0xC0 | c >> 6), *p++ = (char)(0x80 | (c & 63));
    else if (c < 0x10000) {
        *p++ = (char)(0xE0 | c >> 12), *p++ = (char)(0x80 | (c >> 6 & 63)), *p++ = (char)(0x80 | (c & 63));
    } else {
        *p++ = (char)(0xF0 | c >> 18), *p++ = (char)(0x80 | (c >> 12 & 63));
        *p++ = (char)(0x80 | (c >> 6 & 63)), *p++ = (char)(0x80 | (c & 63));
    }
    *w = p;
}

/* After a backslash in a basic string. */
static int escape(Toml *t, char **w)
{
    static const char from[] = "btnfr\"\\", to[] = "\b\t\n\f\r\"\\";
    char c = *t->s++;
    const char *at = c ? strchr(from, c) : NULL;
    if (at) {
        *(*w)++ = to[at - from];
        return 0;
    }
    if (c != 'u' && c != 'U') return fail(t, "unknown escape in a string");
    unsigned long v = 0;
    for (int i = 0; i < (c == 'u' ? 4 : 8); i++, t->s++) {
        if (!isxdigit((unsigned char)*t->s))
            return fail(t, "a \\u escape needs hexadecimal digits");
        int d = *t->s <= '9' ? *t->s - '0' : (*t->s | 32) - 'a' + 10;
        v = v << 4 | (unsigned long)d;
    }
    if (!v || v > 0x10FFFF || (v >= 0xD800 && v < 0xE000))
        return fail(t, "a \\u escape is no character");
    put_utf8(w, v);
    return 0;
}

static int string(Toml *t)
{
    char q = *t->s, *w = t->buf;
    int many = t->s[1] == q && t->s[2] == q;
    t->s += many ? 3 : 1;
    if (many && *t->s == '\n') t->s++, t->line++;
    for (;;) {
        if (!*t->s || (*t->s == '\n' && !many)) return fail(t, "a string does not end");
        if (*t->s == q && (!many || (t->s[1] == q && t->s[2] == q))) break;
        if (*t->s == '\n') t->line++;
        if (*t->s == '\\' && q == '"') {
            t->s++;
            TRY(escape(t, &w));
        } else {
            *w++ = *t->s++;
        }
    }
    t->s += many ? 3 : 1;
    *w = 0;
    return 0;
}

/* Number or boolean; digits may be grouped with underscores. */
static int bare(Toml *t)
{
    char *w = t->buf;
    while (isalnum((unsigned char)*t->s) || (*t->s && strchr("+-._", *t->s))) {
        if (*t->s != '_') *w++ = *t->s;
        t->s++;
    }
    *w = 0;
    if (w == t->buf)
        return fail(t, "a value was expected: a string, a number, true, false or a list");
    if (strchr("+-.0123456789", t->buf[0]) || !strcmp(t->buf, "true") || !strcmp(t->buf, "false"))
        return 0;
    return fail(t, "a text must stand in quotes");
}

static int scalar(Toml *t) { return *t->s == '"' || *t->s == '\'' ? string(t) : bare(t); }

static int value(Toml *t, const char *key)
{
    skip_blanks(t);
    if (*t->s == '{') return fail(t, "inline tables are not understood here");
    if (*t->s != '[') {
        TRY(scalar(t));
        return t->fn(t->ctx, key, t->buf, 0, t->e);
    }
    t->s++;
    for (int i = 0;; i++) {
        skip_lines(t);
        if (*t->s == ']') break;
        if (*t->s == '[' || *t->s == '{') return fail(t, "lists in lists are not understood here");
        TRY(scalar(t));
        TRY(t->fn(t->ctx, key, t->buf, i, t->e));
        skip_lines(t);
        if (*t->s == ',') t->s++;
        else if (*t->s != ']') return fail(t, "a comma or ] was expected in a list");
    }
    t->s++;
    return 0;
}

static int key_value(Toml *t)
{
    char key[KEY_MAX_LEN];
    size_t n = 0;
    char q = *t->s == '"' || *t->s == '\'' ? *t->s++ : 0;
    while (*t->s && *t->s != '\n' &&
           (q ? *t->s != q : isalnum((unsigned char)*t->s) || *t->s == '_' || *t->s == '-')) {
        if (n + 1 >= sizeof key) return fail(t, "a key is too long");
        key[n++] = *t->s++;
    }
    key[n] = 0;
    if (q && *t->s++ != q) return fail(t, "a key does not end");
    skip_blanks(t);
    if (!n || *t->s != '=') return fail(t, "`key = value` was expected");
    t->s++;
    TRY(value(t, key));
    skip_blanks(t);
    if (*t->s == '#') t->s += strcspn(t->s, "\n");
    return *t->s && *t->s != '\n' ? fail(t, "something follows the value") : 0;
}

/* [name] or [[name]] */
static int table_name(Toml *t)
{
    char name[KEY_MAX_LEN];
    size_t n = 0;
    int array = t->s[1] == '[';
    t->s += 1 + array;
    for (; *t->s && !strchr("]\n#", *t->s); t->s++) {
        if (strchr(" \t\r", *t->s)) continue;
        if (n + 1 >= sizeof name) return fail(t, "a section's name is too long");
        name[n++] = *t->s;
    }
    name[n] = 0;
    if (t->s[0] != ']' || (array && t->s[1] != ']'))
        return fail(t, "a section's name does not end with ]");
    t->s += 1 + array;
    skip_blanks(t);
    if (*t->s == '#') t->s += strcspn(t->s, "\n");
    return *t->s && *t->s != '\n' ? fail(t, "something follows the section's name")
                                  : t->table(t->ctx, name, array, t->e);
}

int toml_read(const char *text, const char *path, toml_value_fn *fn, void *ctx, Err *e)
{
    return toml_read_tables(text, path, fn, NULL, ctx, e);
}

int toml_read_tables(const char *text, const char *path, toml_value_fn *fn, toml_table_fn *table,
                     void *ctx, Err *e)
{
    Toml t = {text, path, 1, mem_alloc(strlen(text) + 1), fn, table, ctx, e};
    if (!t.buf) return err_nomem(e, strlen(text), path);
    int rc = 0;
    skip_lines(&t);
    while (!rc && *t.s) {
        if (*t.s == '[' && table) {
            rc = table_name(&t);
        } else if (*t.s == '[') {
            t.s += strcspn(t.s, "]\n");
            while (*t.s == ']') t.s++;
        } else {
            rc = key_value(&t);
        }
        if (!rc) skip_lines(&t);         /* after an error t.s may be past the end */
    }
    mem_free(t.buf);
    return rc;
}
