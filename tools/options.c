/* options.c - see options.h. */
#include "tools/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "tools/toml.h"

enum { NAME_MAX_LEN = 80, CONFIG_MAX_BYTES = 1 << 20 };

/* ---- names --------------------------------------------------------------- */

static int same_name(const char *a, const char *b)
{
    for (; *a && *b; a++, b++) {
        char x = *a == '-' ? '_' : *a, y = *b == '-' ? '_' : *b;
        if (x != y) return 0;
    }
    return *a == *b;
}

/* Levenshtein distance, cut off at names of NAME_MAX_LEN. */
static int distance(const char *a, const char *b)
{
    int la = (int)strlen(a), lb = (int)strlen(b), row[NAME_MAX_LEN + 1];
    if (la > NAME_MAX_LEN || lb > NAME_MAX_LEN) return NAME_MAX_LEN;
    for (int j = 0; j <= lb; j++) row[j] = j;
    for (int i = 1; i <= la; i++) {
        int diag = row[0];
        row[0] = i;
        for (int j = 1; j <= lb; j++) {
            char x = a[i - 1] == '-' ? '_' : a[i - 1], y = b[j - 1] == '-' ? '_' : b[j - 1];
            int best = diag + (x != y);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diag = row[j];
            row[j] = best;
        }
    }
    return row[lb];
}

const char *options_nearest(const char *word, const char *const *names, size_t count)
{
    const char *best = NULL;
    int least = (int)strlen(word) / 3 + 2;
    for (size_t i = 0; i < count; i++) {
        int d = distance(word, names[i]);
        if (d < least) least = d, best = names[i];
    }
    return best;
}

static size_t find(const Options *o, const char *name)
{
    for (size_t i = 0; i < o->count; i++) {
        const Option *t = &o->table[i];
        if (t->name && (same_name(t->name, name) || (t->alias && same_name(t->alias, name))))
            return i;
    }
    return o->count;
}

static int unknown(const Options *o, const char *name, const char *where, Err *e)
{
    const char *best = NULL;
    int least = (int)strlen(name) / 3 + 2;
    for (size_t i = 0; i < o->count; i++) {
        const char *both[2] = {o->table[i].name, o->table[i].alias};
        for (int k = 0; k < 2; k++) {
            int d = both[k] ? distance(name, both[k]) : NAME_MAX_LEN;
            if (d < least) least = d, best = both[k];
        }
    }
    if (best)
        return err_set(e, ERR_USAGE, "%s: unknown option --%s; did you mean --%s?", where, name,
                       best);
    return err_set(e, ERR_USAGE, "%s: unknown option --%s; see %s --help", where, name, o->command);
}

const Option *options_find(const Options *o, const char *name)
{
    size_t i = find(o, name);
    return i < o->count ? &o->table[i] : NULL;
}

int options_given(const Options *o, const char *name)
{
    size_t i = find(o, name);
    return i < o->count ? o->given[i] : 0;
}

void options_forget(Options *o, const char *name)
{
    size_t i = find(o, name);
    if (i < o->count) o->given[i] = 0;
}

static int takes_auto(const Option *t)
{
    return t->kind == OPT_FLOAT && t->arg && strstr(t->arg, "auto");
}

char *options_join(const OptionList *l, const char *between)
{
    char *text = mem_strdup("");
    for (size_t i = 0; text && i < l->count; i++) {
        char *more = mem_printf("%s%s%s", text, i ? between : "", l->item[i]);
        mem_free(text);
        text = more;
    }
    return text;
}

char *options_text(const Options *o, const char *name)
{
    size_t i = find(o, name);
    if (i == o->count) return mem_strdup("");
    const Option *t = &o->table[i];
    const void *field = (const char *)o->fields + t->offset;
    switch (t->kind) {
    case OPT_FLAG: return mem_strdup(*(const int *)field ? "true" : "false");
    case OPT_INT: return mem_printf("%d", *(const int *)field);
    case OPT_INT64: return mem_printf("%lld", (long long)*(const int64_t *)field);
    case OPT_FLOAT:
        if (takes_auto(t) && *(const double *)field == OPTION_AUTO) return mem_strdup("auto");
        return isnan(*(const double *)field) ? mem_strdup("")
                                             : mem_printf("%.15g", *(const double *)field);
    case OPT_TEXT:
    case OPT_MAYBE: return mem_strdup(*(char *const *)field ? *(char *const *)field : "");
    case OPT_LIST: case OPT_AXES: return options_join(field, " ");
    default: return mem_strdup("");
    }
}

/* ---- values -------------------------------------------------------------- */

static int bad_value(const Option *t, const char *value, const char *wanted, Err *e)
{
    return err_set(e, ERR_USAGE, "option --%s: \"%s\" is not %s", t->name, value, wanted);
}

static int set_number(const Option *t, void *field, const char *value, Err *e)
{
    char *end;
    if (takes_auto(t) && !strcmp(value, "auto")) return *(double *)field = OPTION_AUTO, 0;
    errno = 0;
    double v = strtod(value, &end);
    int whole = t->kind != OPT_FLOAT;
    long long n = 0;
    if (whole && end != value && !*end && v == floor(v)) {
        /* exact 64-bit seeds do not survive a double */
        char *end2;
        n = strtoll(value, &end2, 10);
        if (*end2 && fabs(v) >= 0x1p63) return bad_value(t, value, "in the range of 64 bits", e);
        if (*end2) n = (long long)v;
    }
    if (end == value || *end || !isfinite(v) || (whole && v != floor(v)) || errno == ERANGE)
        return bad_value(t, value, whole ? "a whole number" : "a number", e);
    if ((t->min != 0 || t->max != 0) && (v < t->min || v > t->max)) {
        char range[96];
        snprintf(range, sizeof range, "between %.15g and %.15g", t->min, t->max);
        return bad_value(t, value, range, e);
    }
    if (t->kind == OPT_INT && (v < -2147483648.0 || v > 2147483647.0))
        return bad_value(t, value, "in the range of 32 bits", e);
    if (t->kind == OPT_FLOAT) *(double *)field = v;
    else if (t->kind == OPT_INT) *(int *)field = (int)n;
    else *(int64_t *)field = n;
    return 0;
}

static int set_flag(const Option *t, void *field, const char *value, Err *e)
{
    static const char *const yes[] = {"true", "1", "yes", "on"}, *const no[] = {"false", "0", "no",
                                                                                "off"};
    for (int i = 0; i < 4; i++) {
        if (!strcasecmp(value, yes[i])) return *(int *)field = 1, 0;
        if (!strcasecmp(value, no[i])) return *(int *)field = 0, 0;
    }
    return bad_value(t, value, "true or false", e);
}

static int set_text(char **field, const char *value, Err *e)
{
    char *s = mem_strdup(value);
    if (!s) return err_nomem(e, strlen(value), "an option");
    mem_free(*field);
    *field = s;
    return 0;
}

static int append(OptionList *l, const char *value, Err *e)
{
    char **item = mem_grow(l->item, l->count, &l->cap, sizeof *item);
    char *s = mem_strdup(value);
    if (item) l->item = item;
    if (!item || !s) {
        mem_free(s);
        return err_nomem(e, strlen(value), "an option");
    }
    l->item[l->count++] = s;
    return 0;
}

static size_t field_bytes(OptionKind kind)
{
    switch (kind) {
    case OPT_FLAG: case OPT_INT: return sizeof(int);
    case OPT_INT64: return sizeof(int64_t);
    case OPT_FLOAT: return sizeof(double);
    default: return 0;
    }
}

int options_copy(Options *to, const Options *from, Err *e)
{
    void *fields = to->fields;
    *to = *from;
    to->fields = fields;
    to->rest = NULL;
    to->given = mem_alloc(from->count + 1);
    if (!to->given) return err_nomem(e, from->count, "options");
    memcpy(to->given, from->given, from->count);
    for (size_t i = 0; i < from->count; i++) {
        const Option *t = &from->table[i];
        const void *src = (const char *)from->fields + t->offset;
        void *dst = (char *)fields + t->offset;
        if (!t->name) continue;
        memcpy(dst, src, field_bytes(t->kind));
        if (t->kind == OPT_TEXT || t->kind == OPT_MAYBE) {
            if (*(char *const *)src) TRY(set_text(dst, *(char *const *)src, e));
        } else if (t->kind == OPT_LIST || t->kind == OPT_AXES) {
            const OptionList *l = src;
            for (size_t k = 0; k < l->count; k++) TRY(append(dst, l->item[k], e));
        }
    }
    return 0;
}

/* "false" for what is not here anyway: a file may say so. */
static int says_no(const char *value)
{
    static const char *const no[] = {"false", "0", "0.0", "none", "no", "off", ""};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (!strcasecmp(value, no[i])) return 1;
    return 0;
}

int options_set(Options *o, const char *name, const char *value, int source, Err *e)
{
    size_t i = find(o, name);
    if (i == o->count) return unknown(o, name, o->command, e);
    const Option *t = &o->table[i];
    void *field = (char *)o->fields + t->offset;
    if (o->given[i] && o->given[i] < source) return 0;     /* the command line wins over a file */
    int rc = 0;
    switch (t->kind) {
    case OPT_FLAG: rc = set_flag(t, field, value, e); break;
    case OPT_INT: case OPT_INT64: case OPT_FLOAT: rc = set_number(t, field, value, e); break;
    case OPT_TEXT: case OPT_MAYBE: rc = set_text(field, value, e); break;
    case OPT_LIST: case OPT_AXES: rc = append(field, value, e); break;
    case OPT_REFUSED:
        if (!says_no(value)) rc = err_set(e, ERR_USAGE, "option --%s: %s", t->name, t->help);
        break;
    case OPT_IGNORED:
        if (!says_no(value)) fprintf(stderr, "note: --%s is ignored: %s\n", t->name, t->help);
        break;
    }
    if (!rc) o->given[i] = (unsigned char)source;
    return rc;
}

/* ---- the command line ---------------------------------------------------- */

static int takes_value(const Option *t)
{
    if (t->kind == OPT_REFUSED || t->kind == OPT_IGNORED) return t->arg && *t->arg;
    return t->kind != OPT_FLAG;
}

/* Does the list go on with this argument? */
static int more_values(const Option *t, const char *arg)
{
    if ((t->kind != OPT_LIST && t->kind != OPT_IGNORED && t->kind != OPT_FLOAT) || !t->arg)
        return 0;
    if (!strcmp(t->arg, "K=V")) return arg[0] != '-' && strchr(arg, '=');
    return strstr(t->arg, "...") && (arg[0] != '-' || strchr("0123456789.", arg[1]));
}

/* One argument that starts with "--". *i is moved past the value. */
static int parse_long(Options *o, int argc, char **argv, int *i, Err *e)
{
    char name[NAME_MAX_LEN + 1];
    const char *arg = argv[*i] + 2, *eq = strchr(arg, '=');
    size_t n = eq ? (size_t)(eq - arg) : strlen(arg);
    if (n > NAME_MAX_LEN) return err_set(e, ERR_USAGE, "%s: unknown option --%s", o->command, arg);
    memcpy(name, arg, n);
    name[n] = 0;
    size_t k = find(o, name);
    if (k == o->count && (!strncmp(name, "no-", 3) || !strncmp(name, "no_", 3)) && !eq) {
        size_t p = find(o, name + 3);
        if (p < o->count && o->table[p].kind == OPT_FLAG)
            return options_set(o, name + 3, "false", OPTIONS_COMMAND, e);
    }
    if (k == o->count) return unknown(o, name, o->command, e);
    if (eq) return options_set(o, name, eq + 1, 1, e);
    if (!takes_value(&o->table[k])) return options_set(o, name, "true", 1, e);
    if (o->table[k].kind == OPT_MAYBE && (*i + 1 >= argc || argv[*i + 1][0] == '-'))
        return options_set(o, name, "", 1, e);
    if (*i + 1 >= argc)
        return err_set(e, ERR_USAGE, "option --%s: a value is missing", o->table[k].name);
    TRY(options_set(o, name, argv[++*i], 1, e));
    /* argparse's nargs="*": --optimizer_args a=1 b=2 */
    while (*i + 1 < argc && more_values(&o->table[k], argv[*i + 1])) {
        const char *more = argv[++*i];
        if (o->table[k].kind != OPT_FLOAT) TRY(options_set(o, name, more, OPTIONS_COMMAND, e));
    }
    return 0;
}

static int parse_short(Options *o, int argc, char **argv, int *i, Err *e)
{
    const char *arg = argv[*i];
    for (size_t k = 0; k < o->count; k++) {
        const Option *t = &o->table[k];
        if (!t->name || !t->letter || t->letter != arg[1]) continue;
        if (!takes_value(t) && !arg[2]) return options_set(o, t->name, "true", 1, e);
        if (arg[2]) return options_set(o, t->name, arg + 2, 1, e);
        if (*i + 1 >= argc) return err_set(e, ERR_USAGE, "option %s: a value is missing", arg);
        return options_set(o, t->name, argv[++*i], 1, e);
    }
    return err_set(e, ERR_USAGE, "%s: unknown option %s; see %s --help", o->command, arg,
                   o->command);
}

int options_parse(Options *o, int argc, char **argv, int *help, Err *e)
{
    *help = 0;
    if (!o->given && !(o->given = mem_calloc(o->count, 1)))
        return err_nomem(e, o->count, "options");
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (!strcmp(a, "--help") || !strcmp(a, "-h")) *help = 1;
        else if (a[0] == '-' && a[1] == '-' && a[2]) TRY(parse_long(o, argc, argv, &i, e));
        else if (a[0] == '-' && a[1] && a[1] != '-') TRY(parse_short(o, argc, argv, &i, e));
        else if (o->rest) TRY(append(o->rest, a, e));
        else return err_set(e, ERR_USAGE, "%s: unexpected argument \"%s\"", o->command, a);
    }
    return 0;
}

/* ---- config files -------------------------------------------------------- */

/* The table's option of this kind, or its end. */
static size_t find_axes(const Options *o)
{
    size_t i = 0;
    while (i < o->count && !(o->table[i].name && o->table[i].kind == OPT_AXES)) i++;
    return i;
}

/* Value index of a list where one value is expected. The first stands in the option, too. */
static int add_to_axes(Options *o, size_t axes, const Option *t, const char *value, int index,
                       Err *e)
{
    if (o->given[t - o->table] == OPTIONS_COMMAND) return 0;
    char *first = index == 1 ? options_text(o, t->name) : NULL;
    char *a = first ? mem_printf("%s=%s", t->name, first) : NULL,
         *b = mem_printf("%s=%s", t->name, value);
    int rc = b && (a || index > 1) ? 0 : err_nomem(e, 64, "options");
    if (!rc && a) rc = options_set(o, o->table[axes].name, a, OPTIONS_FILE, e);
    if (!rc) rc = options_set(o, o->table[axes].name, b, OPTIONS_FILE, e);
    mem_free(first);
    mem_free(a);
    mem_free(b);
    return rc;
}

static int from_file(void *ctx, const char *key, const char *value, int index, Err *e)
{
    Options *o = ctx;
    size_t i = find(o, key);
    if (i == o->count) return unknown(o, key, "config file", e);
    const Option *t = &o->table[i];
    if (index > 0 && t->kind == OPT_FLOAT && t->arg && strstr(t->arg, "...")) return 0;
    size_t axes = find_axes(o);
    if (index > 0 && t->kind != OPT_LIST && t->kind != OPT_AXES && axes < o->count)
        return add_to_axes(o, axes, t, value, index, e);
    if (index > 0 && t->kind != OPT_LIST)
        return err_set(e, ERR_USAGE, "option %s: one value expected, not a list", key);
    return options_set(o, key, value, 2, e);
}

int options_file_text(Options *o, const char *text, const char *path, Err *e)
{
    return toml_read(text, path, from_file, o, e);
}

int options_file(Options *o, const char *path, Err *e)
{
    char *text;
    TRY(io_read_text(&text, NULL, path, CONFIG_MAX_BYTES, e));
    int rc = options_file_text(o, text, path, e);
    mem_free(text);
    return rc;
}

/* ---- help ---------------------------------------------------------------- */

void options_help(const Options *o, FILE *f)
{
    fprintf(f, "%s - %s\n", o->command, o->summary);
    for (size_t i = 0; i < o->count; i++) {
        const Option *t = &o->table[i];
        if (!t->name) {
            fprintf(f, "\n%s\n", t->help);
            continue;
        }
        if (t->kind == OPT_REFUSED || t->kind == OPT_IGNORED) continue;
        char left[NAME_MAX_LEN + 40];
        char letter[8] = "    ";
        if (t->letter) snprintf(letter, sizeof letter, "-%c, ", t->letter);
        snprintf(left, sizeof left, "  %s--%s%s%s", letter, t->name, t->arg && *t->arg ? " " : "",
                 t->arg ? t->arg : "");
        fprintf(f, "%-38s%s%s\n", left, strlen(left) >= 38 ? " " : "", t->help);
    }
}

void options_free(Options *o)
{
    for (size_t i = 0; i < o->count; i++) {
        void *field = (char *)o->fields + o->table[i].offset;
        if (!o->table[i].name) continue;
        if (o->table[i].kind == OPT_TEXT || o->table[i].kind == OPT_MAYBE) {
            mem_free(*(char **)field);
            *(char **)field = NULL;
        } else if (o->table[i].kind == OPT_LIST || o->table[i].kind == OPT_AXES) {
            OptionList *l = field;
            for (size_t k = 0; k < l->count; k++) mem_free(l->item[k]);
            mem_free(l->item);
            *l = (OptionList){0};
        }
    }
    if (o->rest) {
        for (size_t k = 0; k < o->rest->count; k++) mem_free(o->rest->item[k]);
        mem_free(o->rest->item);
        *o->rest = (OptionList){0};
    }
    mem_free(o->given);
    o->given = NULL;
}
