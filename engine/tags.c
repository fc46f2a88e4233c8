/* tags.c - reading, editing and counting tags. See tags.h. */
#include <stdlib.h>
#include <string.h>

#include "engine/caption.h"
#include "engine/image.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "engine/tags.h"

/* ---- one file ------------------------------------------------------------ */

static int is_blank(char ch) { return ch == ' ' || (ch >= '\t' && ch <= '\r'); }

/* Makes room at position `at` and puts a copy of n bytes there. */
static int insert(TagFile *f, size_t at, const char *s, size_t n, Err *e)
{
    char **list = mem_grow(f->tag, f->count, &f->cap, sizeof *list);
    if (!list) return err_nomem(e, sizeof *list, "a caption's tags");
    f->tag = list;
    char *copy = mem_printf("%.*s", (int)n, s);
    if (!copy) return err_nomem(e, n, "a caption's tags");
    memmove(list + at + 1, list + at, (f->count - at) * sizeof *list);
    list[at] = copy;
    f->count++;
    return 0;
}

static void drop(TagFile *f, size_t at)
{
    mem_free(f->tag[at]);
    f->count--;
    memmove(f->tag + at, f->tag + at + 1, (f->count - at) * sizeof *f->tag);
}

static size_t find(const TagFile *f, const char *tag, size_t from)
{
    size_t i = from;
    while (i < f->count && strcmp(f->tag[i], tag)) i++;
    return i;
}

static int has(const TagFile *f, const char *tag) { return find(f, tag, 0) < f->count; }

/* The tags of the first line of `before`; blanks around them do not count. */
static int parse(TagFile *f, Err *e)
{
    const char *s = f->before ? f->before : "";
    if (!strncmp(s, "\xEF\xBB\xBF", 3)) s += 3;
    size_t line = strcspn(s, "\r\n");
    f->rest = mem_strdup(s + line);
    if (!f->rest) return err_nomem(e, strlen(s), "a caption");
    for (const char *end = s + line; s < end;) {
        const char *comma = memchr(s, ',', (size_t)(end - s)), *next = comma ? comma + 1 : end;
        const char *stop = comma ? comma : end;
        while (s < stop && is_blank(*s)) s++;
        while (stop > s && is_blank(stop[-1])) stop--;
        if (stop > s) TRY(insert(f, f->count, s, (size_t)(stop - s), e));
        s = next;
    }
    return 0;
}

static int join(const TagFile *f, char *out, size_t *size)
{
    size_t n = 0;
    for (size_t i = 0; i < f->count; i++) {
        size_t k = strlen(f->tag[i]);
        if (out && i) memcpy(out + n, ", ", 2);
        n += i ? 2 : 0;
        if (out) memcpy(out + n, f->tag[i], k);
        n += k;
    }
    size_t k = strlen(f->rest);
    if (out) memcpy(out + n, f->rest, k + 1);
    *size = n + k + 1;
    return 0;
}

char *tags_text(const TagFile *f)
{
    size_t size;
    if (f->whole) return mem_strdup(f->whole);
    join(f, NULL, &size);
    char *text = mem_alloc(size);
    if (text) join(f, text, &size);
    return text;
}

/* Tags are compared, not bytes: a file that only spells its commas in another
 * way is left alone. */
int tags_changed(const TagFile *f)
{
    if (f->whole) return !f->before || strcmp(f->before, f->whole);
    TagFile old = {.before = f->before};
    Err e = {0};
    int changed = parse(&old, &e) != 0 || old.count != f->count;
    for (size_t i = 0; !changed && i < f->count; i++) changed = strcmp(old.tag[i], f->tag[i]) != 0;
    while (old.count) drop(&old, old.count - 1);
    mem_free(old.tag);
    mem_free(old.rest);
    return changed;
}

void tags_put(TagFile *f, char *text)
{
    mem_free(f->whole);
    f->whole = text;
}

/* ---- the folder ---------------------------------------------------------- */

static int read_file(TagFile *f, Err *e)
{
    char *check;
    if (io_exists(f->path) == 1) {
        TRY(caption_read(&check, f->path, e));              /* refuses what is not text */
        mem_free(check);
        TRY(io_read_text(&f->before, NULL, f->path, CAPTION_MAX_BYTES, e));
    }
    return parse(f, e);
}

static int add_picture(TagFolder *t, const char *path, const char *extension, Err *e)
{
    TagFile *list = mem_grow(t->files, t->count, &t->cap, sizeof *list);
    if (!list) return err_nomem(e, sizeof *list, "the list of captions");
    t->files = list;
    TagFile *f = &list[t->count++];
    const char *dot = strrchr(path, '.');
    *f = (TagFile){.picture = mem_strdup(path),
                   .path = mem_printf("%.*s%s%s", (int)(dot - path), path,
                                      *extension == '.' ? "" : ".", extension)};
    if (!f->picture || !f->path) return err_nomem(e, strlen(path), "the list of captions");
    return read_file(f, e);
}

enum { DEPTH_MAX = 16 };

static int scan(TagFolder *t, const char *dir, const char *extension, int depth, Err *e)
{
    char **names;
    size_t count;
    TRY(io_list(&names, &count, dir, e));
    int rc = 0;
    for (int folders = 0; folders <= (depth > 0); folders++)
        for (size_t i = 0; i < count && !rc; i++) {
            char *path = mem_printf("%s/%s", dir, names[i]);
            if (!path) rc = err_nomem(e, strlen(dir), "the list of captions");
            int kind = path && *names[i] != '.' ? io_exists(path) : 0;
            if (!rc && !folders && kind == 1 && image_has_extension(names[i]))
                rc = add_picture(t, path, extension, e);
            if (!rc && folders && kind == 2) rc = scan(t, path, extension, depth - 1, e);
            mem_free(path);
        }
    io_list_free(names, count);
    return rc;
}

int tags_open(TagFolder *t, const char *dir, const char *extension, int recursive, Err *e)
{
    *t = (TagFolder){.dir = mem_strdup(dir)};
    int rc = t->dir ? 0 : err_nomem(e, strlen(dir), "the list of captions");
    for (size_t n = t->dir ? strlen(t->dir) : 0; n > 1 && t->dir[n - 1] == '/';) t->dir[--n] = 0;
    if (!rc) rc = scan(t, t->dir, extension ? extension : ".txt", recursive ? DEPTH_MAX : 0, e);
    if (!rc && !t->count)
        rc = err_set(e, ERR_INPUT, "%s: no pictures here%s", dir,
                     recursive ? " nor below" : "; --recursive looks below it too");
    if (rc) tags_close(t);
    return rc;
}

void tags_close(TagFolder *t)
{
    for (size_t i = 0; i < t->count; i++) {
        TagFile *f = &t->files[i];
        while (f->count) drop(f, f->count - 1);
        mem_free(f->tag);
        mem_free(f->picture);
        mem_free(f->path);
        mem_free(f->before);
        mem_free(f->rest);
        mem_free(f->whole);
    }
    mem_free(t->files);
    mem_free(t->dir);
    *t = (TagFolder){0};
}

static int by_tag(const void *a, const void *b)
{
    return strcmp(((const TagCount *)a)->tag, ((const TagCount *)b)->tag);
}

static int by_count(const void *a, const void *b)
{
    const TagCount *x = a, *y = b;
    if (x->count != y->count) return x->count > y->count ? -1 : 1;
    return strcmp(x->tag, y->tag);
}

int tags_count(const TagFolder *t, TagCount **list, size_t *count, Err *e)
{
    size_t all = 0, n = 0;
    for (size_t i = 0; i < t->count; i++) all += t->files[i].count;
    TagCount *c = *list = mem_alloc((all + 1) * sizeof *c);
    if (!c) return err_nomem(e, all * sizeof *c, "the list of tags");
    for (size_t i = 0; i < t->count; i++)
        for (size_t k = 0; k < t->files[i].count; k++) {
            const TagFile *f = &t->files[i];
            if (find(f, f->tag[k], 0) == k) c[n++] = (TagCount){f->tag[k], 1};
        }
    qsort(c, n, sizeof *c, by_tag);
    *count = 0;
    for (size_t i = 0; i < n; i++)
        if (i && !strcmp(c[i].tag, c[*count - 1].tag)) c[*count - 1].count++;
        else c[(*count)++] = c[i];
    qsort(c, *count, sizeof *c, by_count);
    return 0;
}

/* ---- edits --------------------------------------------------------------- */

static int put(TagFile *f, const TagEdit *d, Err *e)
{
    size_t at = d->at_start ? 0 : f->count;
    for (size_t i = 0; i < d->word_count; i++)
        if (!has(f, d->words[i])) TRY(insert(f, at++, d->words[i], strlen(d->words[i]), e));
    return 0;
}

static void take(TagFile *f, const char *word)
{
    for (size_t i; (i = find(f, word, 0)) < f->count;) drop(f, i);
}

static int put_first(TagFile *f, const TagEdit *d, Err *e)
{
    for (size_t i = 0; i < d->word_count; i++) take(f, d->words[i]);
    for (size_t i = 0; i < d->word_count; i++)
        if (find(f, d->words[i], 0) == f->count)            /* a word may be given twice */
            TRY(insert(f, i < f->count ? i : f->count, d->words[i], strlen(d->words[i]), e));
    return 0;
}

static int replace(TagFile *f, const char *old, const char *new, Err *e)
{
    size_t at = find(f, old, 0);
    if (at == f->count || !strcmp(old, new)) return 0;
    int there = has(f, new) || !*new;
    take(f, old);
    return there ? 0 : insert(f, at < f->count ? at : f->count, new, strlen(new), e);
}

static void dedupe(TagFile *f)
{
    for (size_t i = 0; i < f->count; i++)
        for (size_t k; (k = find(f, f->tag[i], i + 1)) < f->count;) drop(f, k);
}

/* The tags of one caption in the order of `order`, behind the first `keep`. */
static void sort(TagFile *f, const TagCount *order, size_t count, size_t keep)
{
    size_t at = keep < f->count ? keep : f->count;
    for (size_t k = 0; k < count && at < f->count; k++)
        for (size_t i; (i = find(f, order[k].tag, at)) < f->count; at++) {
            char *tag = f->tag[i];
            memmove(f->tag + at + 1, f->tag + at, (i - at) * sizeof *f->tag);
            f->tag[at] = tag;
        }
}

static int check_words(const TagEdit *d, Err *e)
{
    for (size_t i = 0; i < d->word_count; i++) {
        const char *w = d->words[i];
        size_t n = strlen(w);
        if (d->kind == TAGS_REPLACE && i == 1 && !n) continue;
        if (!n || is_blank(*w) || is_blank(w[n - 1]) || strpbrk(w, ",\r\n"))
            return err_set(e, ERR_USAGE, "tag \"%s\": expected text without commas, line ends, or "
                           "blanks around it; give several tags as several arguments", w);
    }
    return 0;
}

static int edit_file(TagFile *f, const TagEdit *d, const TagCount *order, size_t count, Err *e)
{
    switch (d->kind) {
    case TAGS_ADD: return put(f, d, e);
    case TAGS_REMOVE:
        for (size_t i = 0; i < d->word_count; i++) take(f, d->words[i]);
        return 0;
    case TAGS_REPLACE: return replace(f, d->words[0], d->words[1], e);
    case TAGS_FIRST: return put_first(f, d, e);
    case TAGS_DEDUPE: dedupe(f); return 0;
    case TAGS_SORT: sort(f, order, count, d->keep); return 0;
    }
    return 0;
}

int tags_edit(TagFolder *t, const TagEdit *d, size_t *changed, Err *e)
{
    TagCount *order = NULL;
    size_t count = 0;
    *changed = 0;
    TRY(check_words(d, e));
    if (d->kind == TAGS_SORT) TRY(tags_count(t, &order, &count, e));
    if (order && !d->by_count) qsort(order, count, sizeof *order, by_tag);
    int rc = 0;
    for (size_t i = 0; i < t->count && !rc; i++) {
        TagFile *f = &t->files[i];
        if ((d->having && !has(f, d->having)) || (d->lacking && has(f, d->lacking))) continue;
        rc = edit_file(f, d, order, count, e);
        *changed += (size_t)tags_changed(f);
    }
    mem_free(order);
    return rc;
}
