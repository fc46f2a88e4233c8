/* taglist.c - see taglist.h. */
#include "engine/taglist.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"

enum { FIELDS = 4, CSV_MAX_BYTES = 64 << 20, TAGS_MAX = 1 << 20 };

/* Cuts the line at *at into fields, in place, and moves *at behind it; fields beyond FIELDS
 * do not count. 0 when a quote is not closed. */
static int cut_line(char **at, char *field[FIELDS], int *count)
{
    char *in = *at, *out = in;
    int quoted = 0, open = 0;
    *count = 1;
    field[0] = out;
    for (; *in && (quoted || (*in != '\n' && *in != '\r')); in++) {
        if (*in == '"' && quoted && in[1] == '"') *out++ = *in++;
        else if (*in == '"' && (quoted || out == field[open])) quoted = !quoted;
        else if (*in == '\n') return 0;
        else if (*in == ',' && !quoted) {
            *out++ = 0;
            if (++*count <= FIELDS) open = *count - 1, field[open] = out;
        } else *out++ = *in;
    }
    if (*in == '\r') in++;
    if (*in == '\n') in++;
    *out = 0;
    *at = in;
    return !quoted;
}

static int number(const char *s, long long *v)
{
    char *end;
    *v = strtoll(s, &end, 10);
    return end != s && !*end;
}

static int is_header(char *const *field, int count)
{
    return count >= 3 && !strcmp(field[0], "tag_id") && !strcmp(field[1], "name") &&
           !strcmp(field[2], "category");
}

static int add_row(TagList *t, char *const *field, int count, int columns, Err *e)
{
    long long id, category, uses = 0;
    if (count != columns || !number(field[0], &id) || !*field[1] || !number(field[2], &category) ||
        category < 0 || category >= TAG_CATEGORIES || (columns > 3 && !number(field[3], &uses)))
        return err_set(e, ERR_INPUT, "expected %d fields: a number, a tag, a category from 0 to "
                       "9%s", columns, columns > 3 ? ", a count" : "");
    if (t->count >= TAGS_MAX) return err_set(e, ERR_INPUT, "more than %d tags", TAGS_MAX);
    TRY(taglist_add(t, field[1], (int)category, uses, e));
    t->list[t->count - 1].id = id;
    return 0;
}

static int parse(TagList *t, char *text, Err *e)
{
    char *field[FIELDS];
    int columns, count;
    if (!strncmp(text, "\xEF\xBB\xBF", 3)) text += 3;
    if (!cut_line(&text, field, &columns) || !is_header(field, columns))
        return err_set(e, ERR_INPUT, "no list of tags: its first line must be "
                       "tag_id,name,category,count");
    for (int line = 2; *text; line++) {
        int rc = 0;
        if (!cut_line(&text, field, &count)) rc = err_set(e, ERR_INPUT, "a quote is not closed");
        if (!rc && count == 1 && !*field[0]) continue;               /* an empty line */
        if (!rc) rc = add_row(t, field, count, columns < FIELDS ? columns : FIELDS, e);
        if (rc) return err_prefix(e, "line %d", line), rc;
    }
    return t->count ? 0 : err_set(e, ERR_INPUT, "no tags in it");
}

int taglist_read(TagList *t, const char *path, Err *e)
{
    char *text;
    size_t size;
    *t = (TagList){0};
    TRY(io_read_text(&text, &size, path, CSV_MAX_BYTES, e));
    int rc = strlen(text) == size ? parse(t, text, e) : err_set(e, ERR_INPUT, "a zero byte in it");
    if (rc) err_prefix(e, "%s", path), taglist_free(t);
    mem_free(text);
    return rc;
}

int taglist_add(TagList *t, const char *name, int category, long long count, Err *e)
{
    TagEntry *list = mem_grow(t->list, t->count, &t->cap, sizeof *list);
    if (!list) return err_nomem(e, sizeof *list, "the list of tags");
    t->list = list;
    TagEntry *n = &list[t->count];
    *n = (TagEntry){mem_strdup(name), category, (long long)t->count, count};
    if (!n->name) return err_nomem(e, strlen(name), "the list of tags");
    t->count++;
    return 0;
}

static int write_row(IoFile *f, const TagEntry *n, Err *e)
{
    char number[96];
    int quote = strpbrk(n->name, ",\"\r\n") != NULL;
    snprintf(number, sizeof number, "%lld,%s", n->id, quote ? "\"" : "");
    TRY(io_write(f, number, strlen(number), e));
    for (const char *s = n->name; *s; s++) {
        if (*s == '"') TRY(io_write(f, s, 1, e));
        TRY(io_write(f, s, 1, e));
    }
    snprintf(number, sizeof number, "%s,%d,%lld\n", quote ? "\"" : "", n->category, n->count);
    return io_write(f, number, strlen(number), e);
}

int taglist_write(const TagList *t, const char *path, Err *e)
{
    static const char head[] = "tag_id,name,category,count\n";
    IoFile f;
    TRY(io_create(&f, path, e));
    int rc = io_write(&f, head, sizeof head - 1, e);
    for (size_t i = 0; i < t->count && !rc; i++) rc = write_row(&f, &t->list[i], e);
    if (rc) return io_abort(&f), rc;
    return io_commit(&f, e);
}

void taglist_free(TagList *t)
{
    for (size_t i = 0; i < t->count; i++) mem_free(t->list[i].name);
    mem_free(t->list);
    *t = (TagList){0};
}
