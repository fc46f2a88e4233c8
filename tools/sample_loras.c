/* sample_loras.c - see sample.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "tools/sample.h"

/* of a LoRA's file, in the order in which they are tried */
static const char *const endings[] = {".safetensors", "", ".ckpt", ".pt"};
enum { ENDINGS = sizeof endings / sizeof *endings };

char *sample_base_name(const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t start = end;
    while (start && path[start - 1] != '/') start--;
    char *s = mem_printf("%.*s", (int)(end - start), path + start);
    for (int i = 0; s && i < ENDINGS; i++) {
        size_t n = strlen(s), k = strlen(endings[i]);
        if (k && n > k && !strcasecmp(s + n - k, endings[i])) return s[n - k] = 0, s;
    }
    return s;
}

static int add(SampleLoras *l, const char *path, float unet, float text, Err *e)
{
    SampleLora *more = mem_grow(l->list, l->count, &l->cap, sizeof *more);
    if (more) l->list = more;
    SampleLora *one = more ? &l->list[l->count] : NULL;
    if (one)
        *one = (SampleLora){.name = sample_base_name(path), .path = mem_strdup(path),
                            .spec = mem_printf("%s:%.9g:%.9g", path, (double)unet, (double)text),
                            .unet = unet, .text = text};
    if (one) l->count++;
    return one && one->name && one->path && one->spec ? 0 : err_nomem(e, strlen(path), "a LoRA");
}

/* ---- tags ---------------------------------------------------------------- */

/* The file of a tag's name in a folder (mem_free), NULL when it is not there. */
static char *in_folder(const char *folder, const char *name)
{
    const char *slash = *name == '/' ? "" : "/";
    if (*name == '/') folder = "";
    for (int i = 0; i < ENDINGS; i++) {
        char *path = mem_printf("%s%s%s%s", folder, slash, name, endings[i]);
        if (path && io_exists(path) == 1) return path;
        mem_free(path);
    }
    return NULL;
}

static int find(char **path, const SampleOptions *o, const char *name, Err *e)
{
    const char *last = o->model ? strrchr(o->model, '/') : NULL;
    char *beside = last ? mem_printf("%.*s", (int)(last - o->model), o->model) : mem_strdup(".");
    char *webui = beside ? mem_printf("%s/../Lora", beside) : NULL;
    *path = NULL;
    int rc = beside && webui ? 0 : err_nomem(e, 64, "a folder name");
    const char *places[] = {o->lora_dir ? o->lora_dir : beside, webui, "."};
    for (int i = 0; !rc && i < (o->lora_dir ? 1 : 3) && !*path; i++)
        *path = in_folder(places[i], name);
    if (!rc && !*path)
        rc = err_set(e, ERR_USAGE, "<lora:%s> in the prompt: no %s.safetensors in %s%s; name its "
                     "folder with --lora-dir, or the file with --lora", name, name, places[0],
                     o->lora_dir ? "" : " and the current folder");
    mem_free(beside);
    mem_free(webui);
    return rc;
}

static int add_tags(SampleLoras *l, const SampleOptions *o, const Prompt *p, Err *e)
{
    for (size_t i = 0; i < p->lora_count; i++) {
        char *path;
        TRY(find(&path, o, p->loras[i].name, e));
        int rc = add(l, path, (float)p->loras[i].unet, (float)p->loras[i].te, e);
        mem_free(path);
        TRY(rc);
    }
    return 0;
}

/* ---- --lora -------------------------------------------------------------- */

/* The fewest digits that read back as the same f32. */
static void number(char *s, size_t cap, float v)
{
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(s, cap, "%.*g", digits, (double)v);
        if (strtof(s, NULL) == v) return;
    }
}

/* Puts the tag of a LoRA behind the prompt that will be recorded. */
static int append_tag(SampleLoras *l, const SampleLora *one, Err *e)
{
    char unet[32], text[32];
    if (strpbrk(one->name, ":=<>")) {
        sample_note("the name of %s cannot stand in a prompt: the picture will not record this "
                    "LoRA", one->path);
        return 0;
    }
    number(unet, sizeof unet, one->unet);
    number(text, sizeof text, one->text);
    size_t n = strlen(l->prompt);
    const char *gap = n && l->prompt[n - 1] != ' ' ? " " : "";
    char *s = one->unet == one->text
                  ? mem_printf("%s%s<lora:%s:%s>", l->prompt, gap, one->name, unet)
                  : mem_printf("%s%s<lora:%s:%s:%s>", l->prompt, gap, one->name, text, unet);
    if (!s) return err_nomem(e, n, "the prompt");
    mem_free(l->prompt);
    l->prompt = s;
    return 0;
}

static int add_options(SampleLoras *l, const SampleOptions *o, Err *e)
{
    for (size_t i = 0; i < o->lora.count; i++) {
        char *path;
        float unet, text;
        TRY(lora_spec(o->lora.item[i], &path, &unet, &text, e));
        int rc = add(l, path, unet, text, e);
        mem_free(path);
        TRY(rc);
        TRY(append_tag(l, &l->list[l->count - 1], e));
    }
    return 0;
}

int sample_loras(SampleLoras *l, const SampleOptions *o, int tags, Err *e)
{
    Prompt p;
    *l = (SampleLoras){0};
    TRY(prompt_parse(&p, o->prompt, strlen(o->prompt), e));
    for (size_t i = 0; i < p.ignored_count; i++)
        sample_note("%s in the prompt has no effect here", p.ignored[i]);
    l->prompt = mem_strdup(tags ? o->prompt : p.text);
    int rc = l->prompt ? 0 : err_nomem(e, strlen(o->prompt), "the prompt");
    if (!rc && tags) rc = add_tags(l, o, &p, e);
    if (!rc) rc = add_options(l, o, e);
    prompt_free(&p);
    return rc;
}

void sample_loras_free(SampleLoras *l)
{
    for (size_t i = 0; i < l->count; i++) {
        mem_free(l->list[i].name);
        mem_free(l->list[i].path);
        mem_free(l->list[i].spec);
    }
    mem_free(l->list);
    mem_free(l->prompt);
    *l = (SampleLoras){0};
}
