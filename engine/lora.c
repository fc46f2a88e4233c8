/* lora.c - adapter files read against the list of a model's modules. */
#include "engine/lora.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/lora_names.h"
#include "engine/lora_read.h"
#include "engine/mem.h"

/* ---- FILE[:W[:TEW]] ------------------------------------------------------------- */

/* Cuts ":NUMBER" off the end of s; returns 0 when there is none. */
static int cut_number(char *s, float *v)
{
    char *colon = strrchr(s, ':'), *end;
    if (!colon || colon == s || !colon[1] || colon[1 + strspn(colon + 1, "0123456789+-.eE")])
        return 0;
    double d = strtod(colon + 1, &end);
    if (*end || !isfinite(d) || fabs(d) > 1e6) return 0;
    *v = (float)d;
    *colon = 0;
    return 1;
}

int lora_spec(const char *spec, char **path, float *w, float *tew, Err *e)
{
    float first = 1, second = 1;
    char *s = mem_strdup(spec);
    *path = NULL;
    if (!s) return err_nomem(e, strlen(spec) + 1, "a path");
    int n = cut_number(s, &first);
    if (n) n += cut_number(s, &second);
    *w = n == 2 ? second : first;
    *tew = first;
    if (!*s || *s == ':') {
        mem_free(s);
        return err_set(e, ERR_USAGE, "--lora %s: expected FILE[:WEIGHT[:TEXT_WEIGHT]]", spec);
    }
    *path = s;
    return 0;
}

/* ---- the tensors of a file, by module ------------------------------------------- */

typedef struct {
    char module[LORA_NAME_MAX];
    LoraPart part;
    int peft;
    const FileTensor *tensor;
} Item;

static int by_module(const void *a, const void *b)
{
    const Item *x = a, *y = b;
    int c = strcmp(x->module, y->module);
    return c ? c : (int)x->part - (int)y->part;
}

/* A checkpoint in place of a LoRA, by the one prefix that all of them have. */
static int is_checkpoint(const TensorFile *tf)
{
    static const char start[] = "model.diffusion_model.";
    for (size_t i = 0; i < tensorfile_count(tf); i++)
        if (!strncmp(tensorfile_at(tf, i)->name, start, sizeof start - 1)) return 1;
    return 0;
}

static int read_items(const TensorFile *tf, Item **items, size_t *count, Err *e)
{
    size_t n = tensorfile_count(tf);
    *items = NULL;
    *count = n;
    if (!n) return err_set(e, ERR_INPUT, "%s: no tensors in it", tensorfile_path(tf));
    if (is_checkpoint(tf))
        return err_set(e, ERR_INPUT, "%s: this is a checkpoint, not a LoRA", tensorfile_path(tf));
    Item *it = mem_calloc(n, sizeof *it);
    if (!it) return err_nomem(e, n * sizeof *it, "the tensors of a LoRA");
    for (size_t i = 0; i < n; i++) {
        it[i].tensor = tensorfile_at(tf, i);
        if (lora_name(it[i].tensor->name, it[i].module, &it[i].part, &it[i].peft, e)) {
            mem_free(it);
            return err_prefix(e, "%s", tensorfile_path(tf));
        }
    }
    qsort(it, n, sizeof *it, by_module);
    *items = it;
    return 0;
}

/* Collects the group that starts at items[i]; returns where the next one does. */
static int next_group(LoraGroup *g, const TensorFile *tf, const Item *items, size_t count,
                      size_t *i, Err *e)
{
    *g = (LoraGroup){.tf = tf, .module = items[*i].module, .peft = items[*i].peft};
    for (; *i < count && !strcmp(items[*i].module, g->module); ++*i) {
        const Item *it = &items[*i];
        if (g->part[it->part])
            return err_set(e, ERR_INPUT, "%s: %s and %s are the same factor of one module",
                           tensorfile_path(tf), g->part[it->part]->name, it->tensor->name);
        g->part[it->part] = it->tensor;
    }
    return lora_group_check(g, e);
}

/* ---- targets from files --------------------------------------------------------- */

void lora_targets_free(LoraTarget *list, size_t count)
{
    for (size_t i = 0; list && i < count; i++) {
        if (list[i].path != list[i].name) mem_free((char *)list[i].path);
        mem_free((char *)list[i].name);
    }
    mem_free(list);
}

static int by_target_name(const void *a, const void *b)
{
    return strcmp(((const LoraTarget *)a)->name, ((const LoraTarget *)b)->name);
}

typedef struct {
    LoraTarget *list;
    size_t count, cap;
} TargetList;

static int add_target(TargetList *l, const LoraGroup *g, Err *e)
{
    LoraTarget t = {.stride = 1};
    TRY(lora_group_shape(g, &t, e));
    LoraTarget *list = mem_grow(l->list, l->count, &l->cap, sizeof *list);
    if (!list) return err_nomem(e, sizeof *list, "the list of LoRA modules");
    l->list = list;
    char *name = mem_strdup(g->module);
    if (!name) return err_nomem(e, LORA_NAME_MAX, "the list of LoRA modules");
    t.path = t.name = name;
    t.text = !strncmp(name, "lora_te", 7);
    t.set = t.k == 3 ? LORA_CONV : LORA_DEFAULT;
    list[l->count++] = t;
    return 0;
}

static int add_targets_of(TargetList *l, const char *path, Err *e)
{
    TensorFile *tf;
    Item *items = NULL;
    size_t count = 0;
    LoraGroup g;
    TRY(tensorfile_open(&tf, path, e));
    int rc = read_items(tf, &items, &count, e);
    for (size_t i = 0; i < count && !rc;) {
        rc = next_group(&g, tf, items, count, &i, e);
        if (!rc) rc = add_target(l, &g, e);
    }
    mem_free(items);
    tensorfile_close(tf);
    return rc;
}

/* Joins equal names: a file may write a 1x1 convolution as a matrix. Shapes that
 * differ are found when the file is read against the list. */
static void join(TargetList *l)
{
    size_t n = 0;
    if (l->count) qsort(l->list, l->count, sizeof *l->list, by_target_name);
    for (size_t i = 0; i < l->count; i++) {
        LoraTarget *t = &l->list[i];
        if (n && !strcmp(l->list[n - 1].name, t->name)) {
            l->list[n - 1].conv |= t->conv;
            mem_free((char *)t->name);
        } else {
            l->list[n++] = *t;
        }
    }
    l->count = n;
}

int lora_targets_from_files(const char *const *paths, size_t n, LoraTarget **list, size_t *count,
                            Err *e)
{
    TargetList l = {0};
    int rc = 0;
    for (size_t i = 0; i < n && !rc; i++) rc = add_targets_of(&l, paths[i], e);
    if (rc) {
        lora_targets_free(l.list, l.count);
        return rc;
    }
    join(&l);
    *list = l.list;
    *count = l.count;
    return 0;
}

/* ---- PEFT's alpha --------------------------------------------------------------- */

/* Whether a dotted path of PEFT's is the whole or the end of a kohya name. */
static int path_is(const char *path, const char *module)
{
    size_t n = strlen(path), m = strlen(module);
    if (n > m) return 0;
    for (size_t i = 0; i < n; i++)
        if ((path[i] == '.' ? '_' : path[i]) != module[m - n + i]) return 0;
    return n == m || module[m - n - 1] == '_';
}

static void peft_alpha(LoraModule *m, const json_t *o)
{
    static const char *const keys[2][3] = {
        {"unet.lora_alpha", "unet.alpha_pattern", "unet.use_rslora"},
        {"text_encoder.lora_alpha", "text_encoder.alpha_pattern", "text_encoder.use_rslora"}};
    const char *const *k = keys[m->target->text != 0];
    const char *path;
    json_t *v = json_object_get(o, k[0]);
    if (json_is_number(v)) m->alpha = (float)json_number_value(v);
    json_object_foreach(json_object_get(o, k[1]), path, v)
        if (json_is_number(v) && path_is(path, m->target->name))
            m->alpha = (float)json_number_value(v);
    if (json_is_true(json_object_get(o, k[2]))) m->alpha *= sqrtf((float)m->rank);
    if (!isfinite(m->alpha)) m->alpha = (float)m->rank;
}

/* ---- opening -------------------------------------------------------------------- */

static int name_vs_target(const void *name, const void *t)
{
    return strcmp(name, (*(const LoraTarget *const *)t)->name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const LoraTarget *const *)a)->name, (*(const LoraTarget *const *)b)->name);
}

static int by_target(const void *a, const void *b)
{
    const LoraModule *x = a, *y = b;
    return (x->target > y->target) - (x->target < y->target);
}

static int no_such_module(const LoraGroup *g, Err *e)
{
    const FileTensor *t = NULL;
    for (int p = 0; p < PART_COUNT && !t; p++) t = g->part[p];
    int xl = strstr(g->module, "_input_blocks_") || strstr(g->module, "_output_blocks_") ||
             !strncmp(g->module, "lora_te1_", 9) || !strncmp(g->module, "lora_te2_", 9);
    return err_set(e, ERR_INPUT, "%s: tensor %s is for module %s, which the model does not have%s",
                   tensorfile_path(g->tf), t->name, g->module, xl ? "; this is a LoRA for SDXL" :
                   ": is it for another model?");
}

static int read_all(Lora *lo, const TensorFile *tf, const Item *items, size_t n,
                    const LoraTarget *const *index, size_t targets, const json_t *peft, Err *e)
{
    LoraGroup g;
    lo->list = mem_calloc(n, sizeof *lo->list);     /* at most one module a tensor */
    if (!lo->list) return err_nomem(e, n * sizeof *lo->list, "the modules of a LoRA");
    for (size_t i = 0; i < n;) {
        TRY(next_group(&g, tf, items, n, &i, e));
        const LoraTarget *const *t = targets ? bsearch(g.module, index, targets, sizeof *index,
                                                       name_vs_target) : NULL;
        if (!t) return no_such_module(&g, e);
        LoraModule *m = &lo->list[lo->count++];
        TRY(lora_read_module(m, *t, &g, e));
        if (peft && g.peft && !g.part[PART_ALPHA]) peft_alpha(m, peft);
    }
    qsort(lo->list, lo->count, sizeof *lo->list, by_target);
    return 0;
}

static int open_items(Lora *lo, const TensorFile *tf, const Item *items, size_t n,
                      const LoraTarget *targets, size_t count, Err *e)
{
    const char *base = tensorfile_meta(tf, "ss_base_model_version");
    const char *peft = tensorfile_meta(tf, "lora_adapter_metadata");
    const LoraTarget **index = mem_calloc(count, sizeof *index);
    if (!index || !(lo->path = mem_strdup(tensorfile_path(tf))) ||
        (base && !(lo->base = mem_strdup(base)))) {
        mem_free(index);
        return err_nomem(e, count * sizeof *index, "a LoRA");
    }
    for (size_t i = 0; i < count; i++) index[i] = &targets[i];
    qsort(index, count, sizeof *index, by_name);
    json_t *o = peft ? json_loads(peft, 0, NULL) : NULL;
    int rc = 0;
    if (peft && !json_is_object(o))
        rc = err_set(e, ERR_INPUT, "%s: metadata lora_adapter_metadata is not a JSON object",
                     lo->path);
    if (!rc) rc = read_all(lo, tf, items, n, index, count, o, e);
    json_decref(o);
    mem_free(index);
    return rc;
}

int lora_open(Lora *lo, const char *path, const LoraTarget *targets, size_t count, Err *e)
{
    TensorFile *tf;
    Item *items;
    size_t n;
    *lo = (Lora){.unet_weight = 1, .text_weight = 1};
    TRY(tensorfile_open(&tf, path, e));
    int rc = read_items(tf, &items, &n, e);
    if (!rc) rc = open_items(lo, tf, items, n, targets, count, e);
    mem_free(items);
    tensorfile_close(tf);
    if (rc) lora_close(lo);
    return rc;
}

int lora_open_spec(Lora *lo, const char *spec, const LoraTarget *targets, size_t count, Err *e)
{
    char *path;
    float w, tew;
    *lo = (Lora){0};
    TRY(lora_spec(spec, &path, &w, &tew, e));
    int rc = lora_open(lo, path, targets, count, e);
    mem_free(path);
    if (rc) return rc;
    lo->unet_weight = w;
    lo->text_weight = tew;
    return 0;
}

void lora_close(Lora *lo)
{
    for (size_t i = 0; i < lo->count; i++) lora_module_free(&lo->list[i]);
    mem_free(lo->list);
    mem_free(lo->path);
    mem_free(lo->base);
    *lo = (Lora){0};
}

const LoraModule *lora_find(const Lora *lo, const LoraTarget *t)
{
    LoraModule key = {.target = t};
    return lo->count ? bsearch(&key, lo->list, lo->count, sizeof key, by_target) : NULL;
}

float lora_weight(const Lora *lo, const LoraTarget *t)
{
    return t->text ? lo->text_weight : lo->unet_weight;
}
