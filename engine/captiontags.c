/* captiontags.c - see captiontags.h. */
#include "engine/captiontags.h"

#include <ctype.h>
#include <string.h>

#include "engine/mem.h"

static int add(CaptionTags *t, const char *s, size_t n, int lower, Err *e)
{
    char **list = mem_grow(t->tag, t->count, &t->cap, sizeof *list);
    if (!list) return err_nomem(e, sizeof *list, "the tags of a caption");
    t->tag = list;
    char *tag = mem_printf("%.*s", (int)n, s);
    if (!tag) return err_nomem(e, n, "the tags of a caption");
    for (char *c = tag; lower && *c; c++) *c = (char)tolower((unsigned char)*c);
    for (size_t i = 0; i < t->count; i++)
        if (!strcmp(t->tag[i], tag)) return mem_free(tag), 0;
    t->tag[t->count++] = tag;
    return 0;
}

static int inside(unsigned char c, int words)
{
    if (!words) return c && c != ',' && c != '\n' && c != '\r';
    return isalnum(c) || c == '-' || c == '\'' || c > 127;
}

int captiontags(CaptionTags *t, const char *s, int words, Err *e)
{
    *t = (CaptionTags){0};
    while (*s) {
        const char *end = s;
        while (inside((unsigned char)*end, words)) end++;
        const char *stop = end;
        while (s < stop && isspace((unsigned char)*s)) s++;
        while (stop > s && isspace((unsigned char)stop[-1])) stop--;
        int rc = stop > s ? add(t, s, (size_t)(stop - s), words, e) : 0;
        if (rc) return captiontags_free(t), rc;
        s = *end ? end + 1 : end;
    }
    return 0;
}

void captiontags_free(CaptionTags *t)
{
    for (size_t i = 0; i < t->count; i++) mem_free(t->tag[i]);
    mem_free(t->tag);
    *t = (CaptionTags){0};
}
