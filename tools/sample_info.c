/* sample_info.c - see sample.h. */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "tools/filehash.h"
#include "tools/sample.h"

/* The same line twice, as for each picture of a grid, is printed once. */
static int said(const char *line)
{
    static uint32_t lines[256];
    static size_t count;
    uint32_t h = 2166136261u;
    for (const char *s = line; *s; s++) h = (h ^ (unsigned char)*s) * 16777619u;
    for (size_t i = 0; i < count; i++)
        if (lines[i] == h) return 1;
    if (count < sizeof lines / sizeof *lines) lines[count++] = h;
    return 0;
}

void sample_note(const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    Err clean = {0};
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    err_set(&clean, ERR_FAIL, "%s", line);
    if (!said(clean.msg)) fprintf(stderr, "note: %s\n", clean.msg);
}

/* ---- reading ------------------------------------------------------------- */

/* Fields that are options of the same meaning. */
static const struct { const char *key, *option; } same[] = {
    {"Steps", "steps"}, {"Sampler", "sampler"}, {"Schedule type", "schedule"},
    {"CFG scale", "cfg_scale"}, {"Seed", "seed"}, {"Clip skip", "clip_skip"},
    {"Dtype", "dtype"}, {"Prediction", "prediction"}, {"Pad conds", "pad_conds"},
};
enum { SAME = sizeof same / sizeof *same };

/* Fields that are read in another way, or do not change the picture. */
static const char *const known[] = {
    "Size", "RNG", "Model", "Model hash", "Lora hashes", "Hashes", "Version", "User",
};
enum { KNOWN = sizeof known / sizeof *known };

/* Of the text of a sheet (xyz.h), which only the command with these axes understands. */
static int is_axis(const char *key, const Options *opt)
{
    static const char *const keys[] = {"Script",         "X Type", "X Values",
                                       "Fixed X Values", "Y Type", "Y Values",
                                       "Fixed Y Values", "Z Type", "Z Values",
                                       "Fixed Z Values"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strcmp(keys[i], key)) return options_find(opt, "x") != NULL;
    return 0;
}

static int is_known(const char *key, const Options *opt)
{
    if (is_axis(key, opt)) return 1;
    for (int i = 0; i < SAME; i++)
        if (!strcmp(same[i].key, key)) return 1;
    for (int i = 0; i < KNOWN; i++)
        if (!strcmp(known[i], key)) return 1;
    return 0;
}

/* Option from the picture unless the command line has it. value NULL: nothing. */
static int take(Options *opt, const char *option, const char *value, Err *e)
{
    return value ? options_set(opt, option, value, 2, e) : 0;
}

static int take_all(Options *opt, const SampleOptions *o, const Infotext *t, Err *e)
{
    SamplerKind kind;
    ScheduleKind ignored;
    int w, h, fixed = options_given(opt, "sampler");     /* then its schedule, too, is the user's */
    TRY(take(opt, "prompt", t->prompt, e));
    TRY(take(opt, "negative_prompt", t->negative, e));
    for (int i = 0; i < SAME; i++) {
        if (!strcmp(same[i].option, "schedule")) {
            if (fixed) continue;
            if (o->sampler) TRY(sampler_find(&kind, &ignored, o->sampler, e));
            if (o->sampler && sampler_info((int)kind)->own_timesteps) continue;
        }
        TRY(take(opt, same[i].option, infotext_get(t, same[i].key), e));
    }
    const char *rng = infotext_get(t, "RNG");
    TRY(take(opt, "rng", rng && !strcmp(rng, "CPU") ? "cpu" : "nv", e));
    if (infotext_get_pair(t, "Size", &w, &h)) {
        char side[2][16];
        snprintf(side[0], sizeof side[0], "%d", w);
        snprintf(side[1], sizeof side[1], "%d", h);
        TRY(take(opt, "width", side[0], e));
        TRY(take(opt, "height", side[1], e));
    }
    for (size_t i = 0; i < t->count; i++)
        if (!is_known(t->fields[i].key, opt))
            sample_note("%s: \"%s: %s\" cannot be repeated here; the picture may differ",
                        o->from_png, t->fields[i].key, t->fields[i].value);
    return 0;
}

static int read_text(Infotext *t, const char *path, Err *e)
{
    IoMap m;
    char *text = NULL;
    TRY(io_map(&m, path, e));
    int rc = image_parameters(&text, m.data, m.size, e);
    if (!rc && !text) rc = err_set(e, ERR_INPUT, "the picture has no generation parameters");
    if (!rc) rc = infotext_parse(t, text, strlen(text), e);
    if (!rc && !t->count) rc = err_set(e, ERR_INPUT, "its text has no generation parameters");
    mem_free(text);
    io_unmap(&m);
    return rc ? err_prefix(e, "%s", path) : 0;
}

int sample_info_read(Options *opt, SampleOptions *o, Infotext *t, Err *e)
{
    TRY(read_text(t, o->from_png, e));
    return take_all(opt, o, t, e) ? err_prefix(e, "%s", o->from_png) : 0;
}

/* ---- hashes -------------------------------------------------------------- */

int sample_info_hashes(SampleModel *sm, const SampleOptions *o, SampleLoras *l, Err *e)
{
    char hex[HASH_HEX];
    sm->model_name = sample_base_name(o->model);
    if (!sm->model_name) return err_nomem(e, strlen(o->model), "a name");
    if (io_exists(o->model) == 1) {
        TRY(filehash(hex, o->model, 0, e));
        memcpy(sm->model_hash, hex, sizeof sm->model_hash - 1);
    }
    for (size_t i = 0; i < l->count; i++) {
        TRY(filehash(hex, l->list[i].path, 1, e));
        memcpy(l->list[i].hash, hex, sizeof l->list[i].hash - 1);
    }
    return 0;
}

void sample_info_compare(const Infotext *t, const SampleModel *sm, const SampleLoras *l)
{
    const char *was = infotext_get(t, "Model hash"), *name = infotext_get(t, "Model");
    const char *list = infotext_get(t, "Lora hashes"), *hash;
    size_t n, k;
    if (was && strlen(was) == sizeof sm->model_hash - 1 && *sm->model_hash &&
        strcmp(was, sm->model_hash))
        sample_note("the picture was made with model %s (hash %s), this is %s (%s): it will differ",
                    name ? name : "?", was, sm->model_name, sm->model_hash);
    while (list && infotext_next_hash(&list, &name, &n, &hash, &k))
        for (size_t i = 0; i < l->count; i++)
            if (strlen(l->list[i].name) == n && !memcmp(l->list[i].name, name, n) && k >= 12 &&
                memcmp(l->list[i].hash, hash, 12))
                sample_note("the picture was made with another LoRA %s (hash %.*s, this is %s): it "
                            "will differ", l->list[i].name, (int)k, hash, l->list[i].hash);
}

/* ---- writing ------------------------------------------------------------- */

static int set_loras(Infotext *t, const SampleLoras *l, Err *e)
{
    char *list = NULL;
    for (size_t i = 0; i < l->count; i++) {
        char *more = mem_printf("%s%s%s: %s", list ? list : "", list ? ", " : "", l->list[i].name,
                                l->list[i].hash);
        mem_free(list);
        if (!(list = more)) return err_nomem(e, 64, "the picture's text");
    }
    int rc = list ? infotext_set(t, "Lora hashes", list, e) : 0;
    mem_free(list);
    return rc;
}

static int set_fields(Infotext *t, const SampleOptions *o, const SampleModel *sm,
                      const SampleLoras *l, const Pipeline *p, uint64_t seed, Err *e)
{
    char s[64];
    const SamplerInfo *si = sampler_info((int)p->sampler.kind);
    TRY(infotext_set_prompt(t, l->prompt, o->negative, e));
    TRY(infotext_set_number(t, "Steps", o->steps, e));
    TRY(infotext_set(t, "Sampler", si->label, e));
    if (!si->own_timesteps)
        TRY(infotext_set(t, "Schedule type", schedule_info((int)p->sampler.schedule)->label, e));
    TRY(infotext_set_number(t, "CFG scale", o->cfg_scale, e));
    snprintf(s, sizeof s, "%llu", (unsigned long long)seed);
    TRY(infotext_set(t, "Seed", s, e));
    snprintf(s, sizeof s, "%dx%d", o->width, o->height);
    TRY(infotext_set(t, "Size", s, e));
    if (*sm->model_hash) TRY(infotext_set(t, "Model hash", sm->model_hash, e));
    TRY(infotext_set(t, "Model", sm->model_name, e));
    if (o->clip_skip > 1) TRY(infotext_set_number(t, "Clip skip", o->clip_skip, e));
    if (p->c.rng == RNG_CPU) TRY(infotext_set(t, "RNG", "CPU", e));
    TRY(set_loras(t, l, e));
    if (o->pad_conds) TRY(infotext_set(t, "Pad conds", "True", e));
    if (o->prediction) TRY(infotext_set(t, "Prediction", p->c.v_pred ? "v" : "eps", e));
    TRY(infotext_set(t, "Dtype", model_precision(p->m), e));
    return infotext_set(t, "Version", "sdc", e);
}

/* Written, read and written again, so that a picture made from the text has
 * the same text: reading strips blanks from each line. */
int sample_info_write(char **text, const SampleOptions *o, const SampleModel *sm,
                      const SampleLoras *l, const Pipeline *p, uint64_t seed, Err *e)
{
    Infotext t = {0}, again = {0};
    char *first = NULL;
    int rc = set_fields(&t, o, sm, l, p, seed, e);
    if (!rc) rc = infotext_format(&first, &t, e);
    if (!rc) rc = infotext_parse(&again, first, strlen(first), e);
    if (!rc) rc = infotext_format(text, &again, e);
    mem_free(first);
    infotext_free(&t);
    infotext_free(&again);
    return rc;
}

int sample_save(const Image *im, int i, const SampleOptions *o, const SampleModel *sm,
                const SampleLoras *l, const Pipeline *p, uint64_t seed, Progress *shown, Err *e)
{
    char *text = NULL, *path = sample_file_name(o->out, i);
    int rc = path ? 0 : err_nomem(e, strlen(o->out), "a file name");
    if (!rc) rc = sample_info_write(&text, o, sm, l, p, seed, e);
    if (!rc) rc = image_save(path, im, text, e);
    if (!rc) {
        progress_end(shown);
        printf("%s\n", path);
        fflush(stdout);
    }
    mem_free(text);
    mem_free(path);
    return rc;
}
