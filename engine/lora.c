/* lora.c - adapter files read against the list of a model's modules. */
#include "engine/lora.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/lora_names.h"
#include "engine/mem.h"

enum { RANK_MAX = 1 << 16 };

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

/* The tensors of one module. */
typedef struct {
    const TensorFile *tf;
    const char *module;
    int peft;
    const FileTensor *part[PART_COUNT];
} Group;

/* Collects the group that starts at items[i]; returns where the next one does. */
static int next_group(Group *g, const TensorFile *tf, const Item *items, size_t count, size_t *i,
                      Err *e)
{
    *g = (Group){.tf = tf, .module = items[*i].module, .peft = items[*i].peft};
    for (; *i < count && !strcmp(items[*i].module, g->module); ++*i) {
        const Item *it = &items[*i];
        if (g->part[it->part])
            return err_set(e, ERR_INPUT, "%s: %s and %s are the same factor of one module",
                           tensorfile_path(tf), g->part[it->part]->name, it->tensor->name);
        g->part[it->part] = it->tensor;
    }
    int loha = g->part[PART_W1A] != NULL;
    for (int p = 0; p < PART_COUNT; p++) {
        int needed = loha ? p >= PART_W1A : p == PART_UP || p == PART_DOWN;
        if (needed && !g->part[p])
            return err_set(e, ERR_INPUT, "%s: module %s is incomplete (LoRA needs up and down, "
                           "LoHa w1_a, w1_b, w2_a, w2_b)", tensorfile_path(tf), g->module);
    }
    return 0;
}

static int64_t axis(const FileTensor *t, int i) { return i < t->ndim ? t->shape[i] : 1; }

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

static int add_target(TargetList *l, const Group *g, Err *e)
{
    const FileTensor *up = g->part[PART_W1A] ? g->part[PART_W1A] : g->part[PART_UP];
    const FileTensor *down = g->part[PART_W1B] ? g->part[PART_W1B] : g->part[PART_DOWN];
    const FileTensor *space = g->part[PART_MID] ? g->part[PART_MID] : down;
    int64_t out = axis(up, 0), in = axis(down, 1), k = axis(space, 2);
    if (out < 1 || in < 1 || out > 1 << 24 || in > 1 << 24 || (k != 1 && k != 3))
        return err_set(e, ERR_INPUT, "%s: tensor %s has an impossible shape",
                       tensorfile_path(g->tf), down->name);
    LoraTarget *list = mem_grow(l->list, l->count, &l->cap, sizeof *list);
    if (!list) return err_nomem(e, sizeof *list, "the list of LoRA modules");
    l->list = list;
    char *name = mem_strdup(g->module);
    if (!name) return err_nomem(e, LORA_NAME_MAX, "the list of LoRA modules");
    list[l->count++] = (LoraTarget){.path = name, .name = name, .out = (int)out, .in = (int)in,
        .k = (int)k, .stride = 1, .conv = down->ndim == 4,
        .text = !strncmp(name, "lora_te", 7), .set = k == 3 ? LORA_CONV : LORA_DEFAULT};
    return 0;
}

static int add_targets_of(TargetList *l, const char *path, Err *e)
{
    TensorFile *tf;
    Item *items = NULL;
    size_t count = 0;
    Group g;
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

/* ---- reading a module ----------------------------------------------------------- */

/* A factor as f32, of shape (a, b, k, k), axes of size 1 at the end not counted;
 * flat: (a, b*k*k) will do as well. */
static int read_factor(float **out, const Group *g, LoraPart part, int64_t a, int64_t b, int k,
                       int flat, Err *e)
{
    const FileTensor *t = g->part[part];
    int64_t n = a * b * k * k;
    int ok = axis(t, 0) == a && t->count == n;
    if (!(flat && axis(t, 1) == b * k * k)) ok = ok && axis(t, 1) == b && axis(t, 2) == k;
    if (!ok)
        return err_set(e, ERR_INPUT, "%s: tensor %s has shape [%lld,%lld%s], which does not fit "
                       "the model's layer (%lld,%lld%s): is it for another model?",
                       tensorfile_path(g->tf), t->name, (long long)axis(t, 0),
                       (long long)axis(t, 1), axis(t, 2) == 3 ? ",3,3" : "", (long long)a,
                       (long long)b, k == 3 ? ",3,3" : "");
    *out = mem_alloc((size_t)n * sizeof **out);
    if (!*out) return err_nomem(e, (size_t)n * sizeof **out, t->name);
    TRY(tensorfile_read_f32(g->tf, t, 0, n, *out, e));
    for (int64_t i = 0; i < n; i++)
        if (!isfinite((*out)[i]))
            return err_set(e, ERR_INPUT, "%s: tensor %s contains NaN or infinity",
                           tensorfile_path(g->tf), t->name);
    return 0;
}

static int rank_of(const Group *g, LoraPart down, int *rank, Err *e)
{
    int64_t r = axis(g->part[down], 0);
    if (r < 1 || r > RANK_MAX)
        return err_set(e, ERR_INPUT, "%s: tensor %s has rank %lld", tensorfile_path(g->tf),
                       g->part[down]->name, (long long)r);
    *rank = (int)r;
    return 0;
}

/* Tucker form (LyCORIS): down (b,in), mid (r,b,k,k); their product is a plain
 * down (r,in,k,k). */
static int read_tucker(LoraModule *m, const Group *g, Err *e)
{
    const LoraTarget *t = m->target;
    int inner, kk = t->k * t->k;
    float *down = NULL, *mid = NULL;
    TRY(rank_of(g, PART_DOWN, &inner, e));
    TRY(rank_of(g, PART_MID, &m->rank, e));
    int rc = read_factor(&down, g, PART_DOWN, inner, t->in, 1, 0, e);
    if (!rc) rc = read_factor(&mid, g, PART_MID, m->rank, inner, t->k, 0, e);
    size_t n = (size_t)m->rank * (size_t)t->in * (size_t)kk;
    if (!rc && !(m->down = mem_calloc(n, sizeof *m->down))) rc = err_nomem(e, 4 * n, g->module);
    for (int r = 0; r < m->rank && !rc; r++)
        for (int b = 0; b < inner; b++)
            for (int i = 0; i < t->in; i++)
                for (int x = 0; x < kk; x++)
                    m->down[((size_t)r * (size_t)t->in + (size_t)i) * (size_t)kk + (size_t)x] +=
                        mid[((size_t)r * (size_t)inner + (size_t)b) * (size_t)kk + (size_t)x] *
                        down[(size_t)b * (size_t)t->in + (size_t)i];
    mem_free(down);
    mem_free(mid);
    return rc;
}

static int read_factors(LoraModule *m, const Group *g, Err *e)
{
    const LoraTarget *t = m->target;
    if (g->part[PART_W1A]) {
        TRY(rank_of(g, PART_W1B, &m->rank, e));
        TRY(rank_of(g, PART_W2B, &m->rank2, e));
        TRY(read_factor(&m->up, g, PART_W1A, t->out, m->rank, 1, 0, e));
        TRY(read_factor(&m->down, g, PART_W1B, m->rank, t->in, t->k, 1, e));
        TRY(read_factor(&m->up2, g, PART_W2A, t->out, m->rank2, 1, 0, e));
        return read_factor(&m->down2, g, PART_W2B, m->rank2, t->in, t->k, 1, e);
    }
    if (g->part[PART_MID] && t->k == 3) {
        TRY(read_tucker(m, g, e));
    } else {
        TRY(rank_of(g, PART_DOWN, &m->rank, e));
        TRY(read_factor(&m->down, g, PART_DOWN, m->rank, t->in, t->k, 0, e));
    }
    return read_factor(&m->up, g, PART_UP, t->out, m->rank, 1, 0, e);
}

/* Without alpha, or with 0 as kohya has it, alpha is the rank. */
static int read_alpha(LoraModule *m, const Group *g, Err *e)
{
    const FileTensor *t = g->part[PART_ALPHA];
    m->alpha = (float)m->rank;
    if (!t) return 0;
    float v = 0;
    if (t->count != 1)
        return err_set(e, ERR_INPUT, "%s: tensor %s is not a single number",
                       tensorfile_path(g->tf), t->name);
    TRY(tensorfile_read_f32(g->tf, t, 0, 1, &v, e));
    if (!isfinite(v))
        return err_set(e, ERR_INPUT, "%s: tensor %s is not finite", tensorfile_path(g->tf),
                       t->name);
    if (v != 0) m->alpha = v;
    return 0;
}

void lora_module_free(LoraModule *m)
{
    mem_free(m->up);
    mem_free(m->down);
    mem_free(m->up2);
    mem_free(m->down2);
    mem_free(m->dora);
}

static int read_module(LoraModule *m, const LoraTarget *t, const Group *g, Err *e)
{
    *m = (LoraModule){.target = t};
    TRY(read_factors(m, g, e));
    TRY(read_alpha(m, g, e));
    return g->part[PART_DORA] ? read_factor(&m->dora, g, PART_DORA, t->out, 1, 1, 0, e) : 0;
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

static int no_such_module(const Group *g, Err *e)
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
    Group g;
    lo->list = mem_calloc(n, sizeof *lo->list);     /* at most one module a tensor */
    if (!lo->list) return err_nomem(e, n * sizeof *lo->list, "the modules of a LoRA");
    for (size_t i = 0; i < n;) {
        TRY(next_group(&g, tf, items, n, &i, e));
        const LoraTarget *const *t = targets ? bsearch(g.module, index, targets, sizeof *index,
                                                       name_vs_target) : NULL;
        if (!t) return no_such_module(&g, e);
        LoraModule *m = &lo->list[lo->count++];
        TRY(read_module(m, *t, &g, e));
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
