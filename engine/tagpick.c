/* tagpick.c - see tagpick.h. */
#include "engine/tagpick.h"

#include <stdlib.h>
#include <string.h>

#include "engine/mem.h"

static int is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* ---- lists in options ------------------------------------------------------------ */

static const char *separator(const TagPickConfig *c) { return c->separator ? c->separator : ", "; }

/* The separator without blanks around it, for taking lists apart; all of it when it is
 * nothing but blanks. */
static void bare_separator(const TagPickConfig *c, const char **sep, size_t *n)
{
    const char *s = separator(c), *end = s + strlen(s);
    while (s < end && is_blank(*s)) s++;
    while (end > s && is_blank(end[-1])) end--;
    *sep = s < end ? s : separator(c);
    *n = s < end ? (size_t)(end - s) : strlen(*sep);
}

/* The next tag of the list at *at, without blanks around it; 0 at its end. */
static int next_tag(const char **at, const char *sep, size_t n, const char **tag, size_t *size)
{
    while (*at) {
        const char *s = *at, *end = s;
        while (*end && strncmp(end, sep, n)) end++;
        *at = *end ? end + n : NULL;
        while (s < end && is_blank(*s)) s++;
        while (end > s && is_blank(end[-1])) end--;
        *tag = s;
        *size = (size_t)(end - s);
        if (*size) return 1;
    }
    return 0;
}

static int same(const char *name, const char *tag, size_t n)
{
    return !strncmp(name, tag, n) && !name[n];
}

/* ---- names as they are written -------------------------------------------------- */

static void underscores(char *name)
{
    size_t characters = 0;
    for (const char *s = name; *s; s++) characters += ((unsigned char)*s & 0xC0) != 0x80;
    for (char *s = characters > 3 ? name : ""; *s; s++)
        if (*s == '_') *s = ' ';
}

/* "a_(b)_(c)" -> "a_(b), c". */
static int expand(char **name, const char *sep, Err *e)
{
    size_t n = strlen(*name);
    char *open = strrchr(*name, '(');
    if (!open || (*name)[n - 1] != ')') return 0;
    size_t head = (size_t)(open - *name);
    if (head && open[-1] == '_') head--;
    char *out = mem_printf("%.*s%s%.*s", (int)head, *name, sep,
                           (int)strcspn(open + 1, ")"), open + 1);
    if (!out) return err_nomem(e, n, "the list of tags");
    mem_free(*name);
    *name = out;
    return 0;
}

static int names(TagPick *p, Err *e)
{
    for (size_t i = 0; i < p->tags->count; i++) {
        p->name[i] = mem_strdup(p->tags->list[i].name);
        if (!p->name[i]) return err_nomem(e, 64, "the list of tags");
        int character = p->tags->list[i].category == TAG_CHARACTER;
        if (p->c.character_expand && character) TRY(expand(&p->name[i], separator(&p->c), e));
        if (p->c.remove_underscore) underscores(p->name[i]);
    }
    return 0;
}

/* ---- replacing ------------------------------------------------------------------ */

/* The text up to an unescaped `stop` or the end, without blanks around it. */
static char *piece(const char **at, const char *stop)
{
    char *out = mem_alloc(strlen(*at) + 1);
    size_t n = 0;
    const char *s = *at;
    while (is_blank(*s)) s++;
    for (; *s && !strchr(stop, *s); s++) {
        if (*s == '\\' && (s[1] == ',' || s[1] == ';')) s++;
        if (out) out[n++] = *s;
    }
    while (out && n && is_blank(out[n - 1])) n--;
    if (out) out[n] = 0;
    *at = s;
    return out;
}

/* General tags are looked at first, then characters, then ratings. */
static int replace(TagPick *p, const char *old, char **new)
{
    static const int order[] = {TAG_GENERAL, TAG_CHARACTER, TAG_RATING, TAG_ARTIST, TAG_COPYRIGHT,
                                TAG_META};
    for (size_t k = 0; k < sizeof order / sizeof *order; k++)
        for (size_t i = 0; i < p->tags->count; i++)
            if (p->tags->list[i].category == order[k] && !strcmp(p->name[i], old)) {
                mem_free(p->name[i]);
                p->name[i] = *new;
                *new = NULL;
                return 1;
            }
    return 0;
}

static int replacements(TagPick *p, Err *e)
{
    for (const char *at = p->c.replacement; at && *at;) {
        char *old = piece(&at, ",;"), *new = NULL;
        int pair = *at == ',';
        if (pair) at++, new = piece(&at, ",;");
        int rc = !old || (pair && !new) ? err_nomem(e, 64, "tags") : 0;
        if (!rc && (!pair || !*old || !*new || *at == ','))
            rc = err_set(e, ERR_USAGE, "option --tag_replacement: \"%s\": expected \"old,new\", "
                         "several of them divided by \";\" (a comma in a tag is \"\\,\")",
                         p->c.replacement);
        if (!rc) replace(p, old, &new);
        mem_free(old);
        mem_free(new);
        TRY(rc);
        if (*at == ';') at++;
    }
    return 0;
}

/* ---- the others ----------------------------------------------------------------- */

static void mark_undesired(TagPick *p)
{
    const char *sep, *tag, *at = p->c.undesired;
    size_t n, size;
    bare_separator(&p->c, &sep, &n);
    while (next_tag(&at, sep, n, &tag, &size))
        for (size_t i = 0; i < p->tags->count; i++)
            if (same(p->name[i], tag, size)) p->undesired[i] = 1;
}

static void list_first(TagPick *p)
{
    const char *sep, *tag, *at = p->c.first;
    size_t n, size;
    bare_separator(&p->c, &sep, &n);
    while (next_tag(&at, sep, n, &tag, &size))
        for (size_t i = 0; i < p->tags->count; i++)
            if (p->first_count < p->tags->count && same(p->name[i], tag, size))
                p->first[p->first_count++] = i;
}

int tagpick_init(TagPick *p, const TagList *tags, const TagPickConfig *c, Err *e)
{
    size_t n = tags->count;
    *p = (TagPick){.tags = tags, .c = *c};
    p->name = mem_calloc(n, sizeof *p->name);
    p->undesired = mem_calloc(n, 1);
    p->first = mem_calloc(n, sizeof *p->first);
    p->seen = mem_calloc(n, sizeof *p->seen);
    p->since = mem_calloc(n, sizeof *p->since);
    p->picked = mem_calloc(n + 1, sizeof *p->picked);
    int ok = p->name && p->undesired && p->first && p->seen && p->since && p->picked;
    int rc = ok ? 0 : err_nomem(e, n * 64, "the list of tags");
    if (!rc && c->separator && !*c->separator)
        rc = err_set(e, ERR_USAGE, "option --caption_separator: expected some text");
    if (!rc) rc = names(p, e);
    if (!rc) rc = replacements(p, e);
    if (rc) return tagpick_free(p), rc;
    mark_undesired(p);
    list_first(p);
    return 0;
}

void tagpick_free(TagPick *p)
{
    for (size_t i = 0; p->name && i < p->tags->count; i++) mem_free(p->name[i]);
    void *owned[] = {p->name, p->undesired, p->first, p->seen, p->since, p->picked};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) mem_free(owned[i]);
    *p = (TagPick){0};
}

/* ---- picking -------------------------------------------------------------------- */

static void put(TagPick *p, size_t *n, size_t at, size_t tag, float prob)
{
    if (p->undesired[tag]) return;
    memmove(p->picked + at + 1, p->picked + at, (*n - at) * sizeof *p->picked);
    p->picked[at] = (TagPicked){p->name[tag], prob, p->tags->list[tag].category};
    ++*n;
    if (!p->seen[tag]++) p->since[tag] = p->picks++;
}

static void put_rating(TagPick *p, size_t *n, const float *prob)
{
    size_t best = p->tags->count;
    for (size_t i = 0; i < p->tags->count; i++)
        if (p->tags->list[i].category == TAG_RATING &&
            (best == p->tags->count || prob[i] > prob[best]))
            best = i;
    if (best < p->tags->count) put(p, n, p->c.rating ? 0 : *n, best, prob[best]);
}

size_t tagpick_run(TagPick *p, const float *prob)
{
    size_t n = 0;
    for (size_t i = 0; i < p->tags->count; i++) {
        int category = p->tags->list[i].category;
        if (category == TAG_RATING || !(prob[i] >= (float)p->c.threshold[category])) continue;
        put(p, &n, category == TAG_CHARACTER && p->c.character_first ? 0 : n, i, prob[i]);
    }
    if (p->c.rating || p->c.rating_last) put_rating(p, &n, prob);
    for (size_t k = 0; k < p->first_count; k++)
        for (size_t i = 0; i < n; i++) {
            TagPicked t = p->picked[i];
            if (t.name != p->name[p->first[k]]) continue;
            memmove(p->picked + 1, p->picked, i * sizeof *p->picked);
            p->picked[0] = t;
        }
    return n;
}

typedef struct { char *s; size_t n, cap; const char *sep; } Text;

static int append(Text *t, const char *tag, size_t n, Err *e)
{
    size_t sep = t->n ? strlen(t->sep) : 0, need = t->n + sep + n + 2;
    if (need > t->cap) {
        char *s = mem_realloc(t->s, 2 * need);
        if (!s) return err_nomem(e, need, "a caption");
        t->s = s;
        t->cap = 2 * need;
    }
    if (sep) memcpy(t->s + t->n, t->sep, sep);
    memcpy(t->s + t->n + sep, tag, n);
    t->n += sep + n;
    return 0;
}

int tagpick_caption(char **text, const TagPick *p, size_t count, const char *existing, Err *e)
{
    const char *sep, *tag, *at = existing;
    size_t n, size;
    Text t = {.sep = separator(&p->c)};
    int rc = append(&t, "", 0, e);
    bare_separator(&p->c, &sep, &n);
    while (!rc && next_tag(&at, sep, n, &tag, &size)) rc = append(&t, tag, size, e);
    for (size_t i = 0; i < count && !rc; i++) {
        int there = 0;
        for (at = existing; !there && next_tag(&at, sep, n, &tag, &size);)
            there = same(p->picked[i].name, tag, size);
        if (!there) rc = append(&t, p->picked[i].name, strlen(p->picked[i].name), e);
    }
    if (rc) return mem_free(t.s), rc;
    memcpy(t.s + t.n, "\n", 2);
    *text = t.s;
    return 0;
}

/* ---- frequency ------------------------------------------------------------------ */

typedef struct { size_t tag, seen, since; } Seen;

static int by_seen(const void *a, const void *b)
{
    const Seen *x = a, *y = b;
    if (x->seen != y->seen) return x->seen > y->seen ? -1 : 1;
    return x->since < y->since ? -1 : x->since > y->since;
}

size_t tagpick_frequency(const TagPick *p, size_t *order)
{
    size_t n = 0;
    Seen *s = mem_alloc((p->tags->count + 1) * sizeof *s);
    if (!s) return 0;
    for (size_t i = 0; i < p->tags->count; i++)
        if (p->seen[i]) s[n++] = (Seen){i, p->seen[i], p->since[i]};
    qsort(s, n, sizeof *s, by_seen);
    for (size_t i = 0; i < n; i++) order[i] = s[i].tag;
    mem_free(s);
    return n;
}
