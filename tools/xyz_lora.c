/* xyz_lora.c - the axes of `sdc grid` that change a LoRA, where it stands: in a tag of the
 * prompt, or in --lora; see xyz.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/mem.h"
#include "tools/xyz.h"

/* One LoRA of the options. */
typedef struct {
    char *name;                /* of the tag, or the file */
    char *args;                /* ":0.7" and so on, may be empty */
    size_t at, size;           /* of the tag in the prompt */
    char **item;               /* of --lora; NULL: a tag */
} Place;

static void place_free(Place *p)
{
    mem_free(p->name);
    mem_free(p->args);
    *p = (Place){0};
}

/* The next tag of the prompt from offset `from` on; p->name NULL when there is none. */
static int next_tag(Place *p, const char *prompt, size_t from, Err *e)
{
    static const char open[] = "<lora:";
    *p = (Place){0};
    const char *s = strstr(prompt + from, open), *end = s ? strchr(s, '>') : NULL;
    if (!end) return 0;
    const char *name = s + sizeof open - 1;
    size_t n = strcspn(name, ":>");
    *p = (Place){.name = mem_printf("%.*s", (int)n, name), .args = mem_printf("%.*s", (int)(end - name - (long)n), name + n),
                 .at = (size_t)(s - prompt), .size = (size_t)(end + 1 - s)};
    return p->name && p->args ? 0 : err_nomem(e, 64, "a LoRA");
}

static int of_item(Place *p, char **item, Err *e)
{
    float unet, text;
    *p = (Place){.item = item};
    TRY(lora_spec(*item, &p->name, &unet, &text, e));
    p->args = mem_strdup(*item + strlen(p->name));
    return p->args ? 0 : err_nomem(e, 64, "a LoRA");
}

/* Keeps p as the one that is meant, or frees it. */
static int consider(Place *best, Place *p, const char *which, int *count, Err *e)
{
    char *base = sample_base_name(p->name);
    int rc = base ? 0 : err_nomem(e, 64, "a LoRA");
    if (!rc && which && strcmp(base, which) && strcmp(p->name, which)) {
        place_free(p);
    } else if (!rc && (*count)++) {
        rc = err_set(e, ERR_USAGE, "there are several LoRAs; say which: \"lora_strength %s: ...\"",
                     base);
        place_free(p);
    } else {
        *best = *p;
    }
    mem_free(base);
    return rc;
}

/* *count: 0 when there is no LoRA, or none of that name. */
static int find_lora(Place *best, SampleOptions *o, const char *which, int *count, Err *e)
{
    Place p;
    *best = (Place){0};
    *count = 0;
    for (size_t from = 0;; from = p.at + p.size) {
        TRY(next_tag(&p, o->prompt, from, e));
        if (!p.name) break;
        Place tag = p;
        TRY(consider(best, &tag, which, count, e));
    }
    for (size_t i = 0; i < o->lora.count; i++) {
        int rc = of_item(&p, &o->lora.item[i], e);
        if (rc) return place_free(&p), rc;
        TRY(consider(best, &p, which, count, e));
    }
    return 0;
}

static int need_lora(Place *p, SampleOptions *o, const char *which, Err *e)
{
    int count, rc = find_lora(p, o, which, &count, e);
    if (!rc && !count)
        rc = which ? err_set(e, ERR_USAGE, "there is no LoRA %s in the prompt or in --lora", which)
                   : err_set(e, ERR_USAGE,
                             "there is no LoRA; give --lora FILE or <lora:name:1> in the prompt");
    if (rc) place_free(p);
    return rc;
}

/* Another name and other arguments in the same place; name NULL: nothing there. */
static int put(SampleOptions *o, const Place *p, const char *name, const char *args, Err *e)
{
    char *s;
    if (p->item && !name) {
        size_t i = (size_t)(p->item - o->lora.item);
        mem_free(*p->item);
        memmove(p->item, p->item + 1, (--o->lora.count - i) * sizeof *p->item);
        return 0;
    }
    if (p->item) s = mem_printf("%s%s", name, args);
    else
        s = mem_printf("%.*s%s%s%s%s%s", (int)p->at, o->prompt, name ? "<lora:" : "",
                       name ? name : "", name ? args : "", name ? ">" : "",
                       o->prompt + p->at + p->size);
    if (!s) return err_nomem(e, 64, "a LoRA");
    char **field = p->item ? p->item : &o->prompt;
    mem_free(*field);
    *field = s;
    return 0;
}

int xyz_lora_strength(SampleOptions *o, const char *which, const char *value, Err *e)
{
    Place p;
    char *end, args[48];
    double v = strtod(value, &end);
    if (end == value || *end || !(v >= -1000 && v <= 1000))
        return err_set(e, ERR_USAGE, "\"%s\" is not a strength between -1000 and 1000", value);
    snprintf(args, sizeof args, ":%s", value);
    TRY(need_lora(&p, o, which, e));
    int rc = put(o, &p, p.name, args, e);
    place_free(&p);
    return rc;
}

static int add_lora(SampleOptions *o, const char *spec, Err *e)
{
    OptionList *l = &o->lora;
    char **item = mem_grow(l->item, l->count, &l->cap, sizeof *item);
    if (item) l->item = item;
    char *copy = item ? mem_strdup(spec) : NULL;
    if (!copy) return err_nomem(e, strlen(spec), "a LoRA");
    l->item[l->count++] = copy;
    return 0;
}

int xyz_lora_file(SampleOptions *o, const char *which, const char *value, Err *e)
{
    Place old, new = {0};
    int count, none = !strcmp(value, "none");
    char *copy = mem_strdup(value);
    int rc = copy ? find_lora(&old, o, which, &count, e) : err_nomem(e, 64, "a LoRA");
    if (rc) {
        if (copy) place_free(&old);
        mem_free(copy);
        return rc;
    }
    if (which && !count)
        rc = err_set(e, ERR_USAGE, "there is no LoRA %s in the prompt or in --lora", which);
    if (!rc && !none) rc = of_item(&new, &copy, e);
    if (!rc && count) rc = put(o, &old, new.name, none || *new.args ? new.args : old.args, e);
    else if (!rc && !none) rc = add_lora(o, value, e);
    place_free(&old);
    place_free(&new);
    mem_free(copy);
    return rc;
}

/* The length of a file's name, of n bytes, without its ending. */
static size_t stem_of(const char *name, size_t n)
{
    static const char *const endings[] = {".safetensors", ".ckpt", ".pt"};
    for (int i = 0; i < 3; i++) {
        size_t k = strlen(endings[i]);
        if (n > k && !strncmp(name + n - k, endings[i], k)) return n - k;
    }
    return n;
}

/* The length of a name without a mark and digits, as -000010, in front of `end`. */
static size_t without(const char *name, size_t end, const char *mark, size_t digits)
{
    size_t k = strlen(mark);
    if (end <= k + digits || strncmp(name + end - digits - k, mark, k) ||
        strspn(name + end - digits, "0123456789") < digits)
        return end;
    return end - digits - k;
}

char *xyz_lora_label(const char *value)
{
    const char *slash = strrchr(value, '/'), *name = slash ? slash + 1 : value;
    size_t n = strcspn(name, ":"), stem = stem_of(name, n);
    size_t epoch = without(name, stem, "-", 6), step = without(name, stem, "-step", 8);
    if (n && strspn(name, "0123456789") == n && !name[n])
        return mem_printf("%ld", strtol(name, NULL, 10));
    if (step < stem)
        return mem_printf("%.*s step %ld%s", (int)step, name, strtol(name + stem - 8, NULL, 10),
                          name + n);
    if (epoch < stem)
        return mem_printf("%.*s epoch %ld%s", (int)epoch, name, strtol(name + stem - 6, NULL, 10),
                          name + n);
    return mem_printf("%.*s%s", (int)stem, name, name + n);
}

int xyz_lora_epoch(SampleOptions *o, const char *which, const char *value, Err *e)
{
    Place p;
    char *end, epoch[16] = "";
    long n = strtol(value, &end, 10);
    if (strcmp(value, "last")) {
        if (end == value || *end || n < 0 || n > 999999)
            return err_set(e, ERR_USAGE, "\"%s\" is not an epoch, such as 4, or last", value);
        snprintf(epoch, sizeof epoch, "-%06ld", n);
    }
    TRY(need_lora(&p, o, which, e));
    size_t stem = stem_of(p.name, strlen(p.name));
    char *name = mem_printf("%.*s%s%s", (int)without(p.name, stem, "-", 6), p.name, epoch,
                            p.name + stem);
    int rc = name ? put(o, &p, name, p.args, e) : err_nomem(e, 64, "a LoRA");
    mem_free(name);
    place_free(&p);
    return rc;
}
