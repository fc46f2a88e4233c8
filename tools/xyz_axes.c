/* xyz_axes.c - see xyz.h. */
#include "tools/xyz.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/mem.h"
#include "engine/schedule.h"
#include "tools/machine.h"

typedef enum { TEXTS, WHOLES, NUMBERS } XyzRange;

typedef int apply_fn(SampleOptions *o, const char *which, const char *value, Err *e);

struct XyzKind {
    const char *label;         /* A1111's; its name is the same without regard to case and blanks */
    const char *names;         /* more names; the first is the one in messages */
    const char *option;        /* that is set to the value; NULL: apply or replace */
    XyzRange range;
    apply_fn *apply;
    int is_lora;               /* takes a name: "lora_strength sks: 0.4,0.8" */
};

static int apply_size(SampleOptions *o, const char *which, const char *value, Err *e)
{
    int w, h, end = 0;
    (void)which;
    if (sscanf(value, "%5d%*1[xX]%5d%n", &w, &h, &end) != 2 || value[end] || w < 1 || h < 1)
        return err_set(e, ERR_USAGE, "\"%s\" is not a size such as 512x768", value);
    o->width = w;
    o->height = h;
    return 0;
}

static const XyzKind kinds[] = {
    {"Seed", "seed", "seed", WHOLES, NULL, 0},
    {"Steps", "steps", "steps", WHOLES, NULL, 0},
    {"CFG Scale", "cfg cfg_scale", "cfg_scale", NUMBERS, NULL, 0},
    {"Sampler", "sampler sampling_method", "sampler", TEXTS, NULL, 0},
    {"Schedule type", "schedule scheduler", "schedule", TEXTS, NULL, 0},
    {"Clip skip", "clip_skip", "clip_skip", WHOLES, NULL, 0},
    {"Size", "size", NULL, TEXTS, apply_size, 0},
    {"Prompt S/R", "prompt_sr sr", NULL, TEXTS, NULL, 0},
    {"LoRA strength", "lora_strength strength", NULL, NUMBERS, xyz_lora_strength, 1},
    {"LoRA", "lora", NULL, TEXTS, xyz_lora_file, 1},
    {"LoRA epoch", "lora_epoch epoch", NULL, WHOLES, xyz_lora_epoch, 1},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

char *xyz_names(void)
{
    char *s = mem_strdup("");
    for (int i = 0; s && i < KINDS; i++) {
        char *more = mem_printf("%s%s%.*s", s, i ? ", " : "", (int)strcspn(kinds[i].names, " "),
                                kinds[i].names);
        mem_free(s);
        s = more;
    }
    return s;
}

static int bad(const XyzAxis *a, Err *e, const char *fmt, const char *value)
{
    char what[300];
    snprintf(what, sizeof what, fmt, value);
    return err_set(e, ERR_USAGE, "option --%c: %s", a->option, what);
}

/* ---- values -------------------------------------------------------------- */

static int add(XyzAxis *a, const char *value, Err *e)
{
    OptionList *l = &a->values;
    if (l->count == XYZ_VALUES) return bad(a, e, "more than %s values", "1000");
    char **item = mem_grow(l->item, l->count, &l->cap, sizeof *item);
    if (item) l->item = item;
    char *copy = item ? mem_strdup(value) : NULL;
    if (!copy) return err_nomem(e, strlen(value), "an axis");
    l->item[l->count++] = copy;
    return 0;
}

static int add_number(XyzAxis *a, double v, Err *e)
{
    char text[40];
    if (a->kind->range == WHOLES) snprintf(text, sizeof text, "%.0f", trunc(v));
    else snprintf(text, sizeof text, "%.6g", v);
    return add(a, text, e);
}

/* The number at *s, with blanks around it. */
static int take_number(const char **s, double *v)
{
    char *end;
    *s += strspn(*s, " ");
    if (!strchr("+-.0123456789", **s) || !**s) return 0;
    *v = strtod(*s, &end);
    if (end == *s || !isfinite(*v)) return 0;
    *s = end + strspn(end, " ");
    return 1;
}

/* "1-5", "1-10(+2)", "10-1(-3)", "1-10[5]". *is_range is 0 for anything else. */
static int add_range(XyzAxis *a, const char *text, int *is_range, Err *e)
{
    const char *s = text;
    double from, to, step = 1;
    char kind = 0;
    *is_range = 0;
    if (!take_number(&s, &from) || *s++ != '-' || !take_number(&s, &to)) return 0;
    if (*s == '(' || *s == '[') {
        kind = *s++;
        if (!take_number(&s, &step) || *s++ != (kind == '(' ? ')' : ']')) return 0;
        s += strspn(s, " ");
    }
    if (*s) return 0;
    *is_range = 1;
    if (kind == '[') {
        int n = step >= 1 && step <= XYZ_VALUES ? (int)step : 0;
        if (!n || n != step)
            return bad(a, e, "\"%s\": the number in [] is not a count from 1 to 1000", text);
        for (int i = 0; i < n; i++)
            TRY(add_number(a, n > 1 ? from + (to - from) * i / (n - 1) : from, e));
        return 0;
    }
    if (!kind && to < from) step = -1;
    if (step == 0 || (to - from) / step < 0)
        return bad(a, e, "\"%s\": the step does not lead to the end", text);
    if ((to - from) / step >= XYZ_VALUES) return bad(a, e, "\"%s\": more than 1000 values", text);
    int n = (int)floor((to - from) / step + 1e-6);
    for (int i = 0; i <= n; i++) TRY(add_number(a, from + i * step, e));
    return 0;
}

static int add_value(XyzAxis *a, const char *text, Err *e)
{
    char seed[24];
    int is_range = 0;
    if (a->kind->range != TEXTS) TRY(add_range(a, text, &is_range, e));
    if (is_range) return 0;
    if (a->kind->option && !strcmp(a->kind->option, "seed") && !strcmp(text, "-1")) {
        snprintf(seed, sizeof seed, "%lld", (long long)machine_random_seed());
        text = seed;
    }
    return add(a, text, e);
}

/* One item of a list as Python's csv reads it: a quoted one may have commas, and "" for a
 * quote; without blanks around it. Cut in place. NULL at the end. */
static char *next_item(char **at)
{
    char *s = *at, *out, *end;
    if (!s) return NULL;
    s += strspn(s, " \t\n");
    int quoted = *s == '"';
    out = end = s + quoted;
    for (s = out; *s && (quoted || *s != ','); s++) {
        if (quoted && *s == '"' && s[1] != '"') quoted = 0;
        else if (quoted && *s == '"') *end++ = *s++;
        else *end++ = *s;
    }
    *at = *s ? s + 1 : NULL;
    while (end > out && strchr(" \t\n", end[-1])) end--;
    *end = 0;
    return out;
}

static int read_values(XyzAxis *a, const char *text, Err *e)
{
    char *copy = mem_strdup(text), *at = copy, *item;
    int rc = copy && (a->raw = mem_strdup(text)) ? 0 : err_nomem(e, strlen(text), "an axis");
    int replaces = !a->kind->option && !a->kind->apply;        /* by nothing, too */
    while (!rc && (item = next_item(&at)))
        if (*item || (replaces && a->values.count)) rc = add_value(a, item, e);
    mem_free(copy);
    if (!rc && !a->values.count) rc = bad(a, e, "%s has no values", a->kind->label);
    return rc;
}

/* ---- names --------------------------------------------------------------- */

static int has_name(const XyzKind *k, const char *name)
{
    return schedule_same_name(name, k->label, k->names);
}

/* The kind of a name, and in *which what stands behind it. */
static const XyzKind *find_kind(char *name, char **which)
{
    *which = NULL;
    for (int i = 0; i < KINDS; i++)
        if (has_name(&kinds[i], name)) return &kinds[i];
    for (char *s = name + strlen(name); s > name; s--) {
        if (*s != ' ') continue;
        *s = 0;
        for (int i = 0; i < KINDS; i++)
            if (kinds[i].is_lora && has_name(&kinds[i], name)) return *which = s + 1, &kinds[i];
        *s = ' ';
    }
    return NULL;
}

static int find_name(XyzAxis *a, char *name, Err *e)
{
    char *which;
    size_t n = strlen(name);
    while (n && name[n - 1] == ' ') name[--n] = 0;
    a->kind = find_kind(name, &which);
    if (a->kind && which && !(a->which = mem_strdup(which))) return err_nomem(e, n, "an axis");
    if (a->kind) return 0;
    char *names = xyz_names();
    int rc = err_set(e, ERR_USAGE, "option --%c: there is no axis \"%s\"; there are %s", a->option,
                     name, names ? names : "");
    mem_free(names);
    return rc;
}

int xyz_axis(XyzAxis *a, char option, const char *text, Err *e)
{
    *a = (XyzAxis){.option = option};
    if (!text) return 0;
    const char *colon = strchr(text, ':');
    if (!colon) return bad(a, e, "\"%s\" is not NAME: VALUE,VALUE...", text);
    text += strspn(text, " ");
    char *name = mem_printf("%.*s", colon > text ? (int)(colon - text) : 0, text);
    int rc = name ? find_name(a, name, e) : err_nomem(e, 64, "an axis");
    mem_free(name);
    return rc ? rc : read_values(a, colon + 1 + strspn(colon + 1, " "), e);
}

void xyz_axis_free(XyzAxis *a)
{
    for (size_t i = 0; i < a->values.count; i++) mem_free(a->values.item[i]);
    mem_free(a->values.item);
    mem_free(a->which);
    mem_free(a->raw);
    *a = (XyzAxis){0};
}

size_t xyz_count(const XyzAxis *a) { return a->kind ? a->values.count : 1; }

int xyz_is_file(const XyzAxis *a)
{
    return a->kind && (a->kind->apply == xyz_lora_file || a->kind->apply == xyz_lora_epoch);
}

/* ---- what a value does --------------------------------------------------- */

/* Each `from` in text becomes `to`. Returns how many, -1: no memory. */
static int replace_all(char **text, const char *from, const char *to)
{
    int n = 0;
    for (size_t at = 0; n >= 0;) {
        char *s = strstr(*text + at, from);
        if (!s) return n;
        size_t before = (size_t)(s - *text);
        char *more = mem_printf("%.*s%s%s", (int)before, *text, to, s + strlen(from));
        if (!more) return -1;
        mem_free(*text);
        *text = more;
        at = before + strlen(to);
        n++;
    }
    return n;
}

static int replace(const XyzAxis *a, SampleOptions *o, const char *value, Err *e)
{
    const char *from = a->values.item[0];
    int n = replace_all(&o->prompt, from, value),
        k = n < 0 ? n : replace_all(&o->negative, from, value);
    if (k < 0) return err_nomem(e, strlen(o->prompt), "a prompt");
    return n + k ? 0 : bad(a, e, "\"%s\" is not in the prompt or the negative prompt", from);
}

int xyz_apply(const XyzAxis *a, size_t i, Options *opt, SampleOptions *o, Err *e)
{
    if (!a->kind) return 0;
    const char *value = a->values.item[i];
    if (!a->kind->option && !a->kind->apply) return replace(a, o, value, e);
    char where[16];
    snprintf(where, sizeof where, "option --%c", a->option);
    int rc = a->kind->apply ? a->kind->apply(o, a->which, value, e)
                            : options_set(opt, a->kind->option, value, OPTIONS_COMMAND, e);
    return rc ? err_prefix(e, "%s", where) : 0;
}

/* ---- the record ---------------------------------------------------------- */

char *xyz_label(const XyzAxis *a, size_t i)
{
    const char *value = a->kind ? a->values.item[i] : "";
    if (!a->kind) return mem_strdup("");
    if (!a->kind->option && !a->kind->apply) return mem_strdup(value);
    char *text = a->kind->is_lora ? xyz_lora_label(value) : mem_strdup(value);
    char *label = text ? mem_printf("%s: %s", a->kind->label, text) : NULL;
    mem_free(text);
    return label;
}

int xyz_record(const XyzAxis *a, Infotext *t, Err *e)
{
    char key[32], letter = (char)toupper(a->option);
    if (!a->kind) return 0;
    char *type =
        a->which ? mem_printf("%s %s", a->kind->label, a->which) : mem_strdup(a->kind->label);
    snprintf(key, sizeof key, "%c Type", letter);
    int rc = type ? infotext_set(t, key, type, e) : err_nomem(e, 64, "an axis");
    mem_free(type);
    snprintf(key, sizeof key, "%c Values", letter);
    if (!rc) rc = infotext_set(t, key, a->raw, e);
    if (rc || !a->kind->option || strcmp(a->kind->option, "seed")) return rc;
    char *fixed = options_join(&a->values, ", ");
    snprintf(key, sizeof key, "Fixed %c Values", letter);
    rc = fixed ? infotext_set(t, key, fixed, e) : err_nomem(e, 64, "an axis");
    mem_free(fixed);
    return rc;
}

char *xyz_recorded(char option, const Infotext *t)
{
    char key[3][32], letter = (char)toupper(option);
    snprintf(key[0], sizeof key[0], "%c Type", letter);
    snprintf(key[1], sizeof key[1], "Fixed %c Values", letter);
    snprintf(key[2], sizeof key[2], "%c Values", letter);
    const char *type = infotext_get(t, key[0]), *values = infotext_get(t, key[1]);
    if (!values) values = infotext_get(t, key[2]);
    return type && values ? mem_printf("%s: %s", type, values) : NULL;
}
