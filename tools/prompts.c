/* prompts.c - see prompts.h. */
#include "tools/prompts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"

enum { FILE_MAX_BYTES = 1 << 20 };

static int set_text(char **field, const char *value, Err *e)
{
    mem_free(*field);
    *field = mem_strdup(value);
    return *field ? 0 : err_nomem(e, strlen(value), "prompts");
}

/* One "--key value" (without the dashes). */
static int set_option(SamplePrompt *p, const char *key, const char *value, const char *where,
                      Err *e)
{
    if (!strcmp(key, "n")) return set_text(&p->negative, value, e);
    if (!strcmp(key, "ss")) return set_text(&p->sampler, value, e);
    char *end;
    double v = strtod(value, &end);
    if (end == value || *end || !isfinite(v))
        return err_set(e, ERR_USAGE, "%s: --%s: \"%s\" is not a number", where, key, value);
    if (!strcmp(key, "w") && v >= 8 && v <= 8192) p->width = (int)v;
    else if (!strcmp(key, "h") && v >= 8 && v <= 8192) p->height = (int)v;
    else if (!strcmp(key, "s") && v >= 1 && v <= 1000) p->steps = (int)v;
    else if (!strcmp(key, "d") && v >= 0 && v <= 9e15) p->seed = (int64_t)v;
    else if (!strcmp(key, "l") && v >= 0 && v <= 100) p->cfg = v;
    else
        return err_set(e, ERR_USAGE,
                       "%s: --%s %s: not known or out of range; known are w h d s l n ss", where,
                       key, value);
    return 0;
}

static char *trim(char *s)
{
    s += strspn(s, " \t\r");
    size_t n = strlen(s);
    while (n && strchr(" \t\r", s[n - 1])) s[--n] = 0;
    return s;
}

static int parse_line(SamplePrompt *p, char *line, const char *where, Err *e)
{
    *p = (SamplePrompt){.cfg = NAN, .seed = -1};
    char *next = strstr(line, " --");
    if (next) *next = 0;
    TRY(set_text(&p->text, trim(line), e));
    TRY(set_text(&p->negative, "", e));
    while (next) {
        char *opt = next + 3;
        next = strstr(opt, " --");
        if (next) *next = 0;
        size_t n = strcspn(opt, " \t");
        char *value = opt[n] ? trim(opt + n + 1) : opt + n;
        opt[n] = 0;
        TRY(set_option(p, opt, value, where, e));
    }
    return 0;
}

static int read_lines(SamplePrompts *p, char *text, const char *path, Err *e)
{
    char where[300];
    int number = 0;
    for (char *line = text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        snprintf(where, sizeof where, "%s:%d", path, ++number);
        if (line[0] == '#' || !*trim(line)) continue;
        SamplePrompt *a = mem_grow(p->list, p->count, &p->cap, sizeof *a);
        if (!a) return err_nomem(e, sizeof *a, "prompts");
        p->list = a;
        TRY(parse_line(&a[p->count++], trim(line), where, e));
    }
    return p->count ? 0 : err_set(e, ERR_USAGE, "%s: no prompts in this file", path);
}

int prompts_parse(SamplePrompts *p, const char *text, const char *path, Err *e)
{
    char *copy = mem_strdup(text);
    *p = (SamplePrompts){0};
    int rc = copy ? read_lines(p, copy, path, e) : err_nomem(e, strlen(text), path);
    mem_free(copy);
    if (rc) prompts_free(p);
    return rc;
}

int prompts_read(SamplePrompts *p, const char *path, Err *e)
{
    char *text;
    *p = (SamplePrompts){0};
    TRY(io_read_text(&text, NULL, path, FILE_MAX_BYTES, e));
    int rc = prompts_parse(p, text, path, e);
    mem_free(text);
    return rc;
}

void prompts_free(SamplePrompts *p)
{
    for (size_t i = 0; i < p->count; i++) {
        mem_free(p->list[i].text);
        mem_free(p->list[i].negative);
        mem_free(p->list[i].sampler);
    }
    mem_free(p->list);
    *p = (SamplePrompts){0};
}
