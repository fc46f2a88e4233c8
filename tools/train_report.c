/* train_report.c - OUTPUT_NAME-report.html: what a run made, measured, was given and chose,
 * gathered for engine/report.h. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/mem.h"
#include "engine/report.h"
#include "engine/resize.h"
#include "engine/tags.h"
#include "tools/machine.h"
#include "tools/train.h"
#include "tools/train_samples.h"

enum { THUMBS = 60, THUMB_SIDE = 112, TAGS = 24, SIZES = 12, FIGURES = 7, MACHINE = 8, GRIDS = 2 };

/* ---- the command and the settings ------------------------------------------------ */

typedef struct {
    char *text;
    int failed;
} Text;

static void add(Text *t, const char *a, const char *b, const char *c)
{
    char *s = mem_printf("%s%s%s%s", t->text ? t->text : "", a, b, c);
    mem_free(t->text);
    t->text = s;
    t->failed |= !s;
}

/* A word of a shell's command line. */
static void add_word(Text *t, const char *word)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+.,/:@%";
    if (*word && !word[strspn(word, plain)]) {
        add(t, " ", word, "");
        return;
    }
    add(t, " '", "", "");
    for (const char *s = word; *s; s++) {
        char c[2] = {*s, 0};
        add(t, *s == '\'' ? "'\\''" : c, "", "");
    }
    add(t, "'", "", "");
}

/* The command line without --resume, and with the seed that was drawn. */
static char *command(const TrainRun *r)
{
    Text t = {mem_strdup("sdc train"), 0};
    for (int i = 1; i < r->argc; i++) {
        const char *a = r->argv[i];
        if (!strcmp(a, "--resume")) i += i + 1 < r->argc && r->argv[i + 1][0] != '-';
        else if (strncmp(a, "--resume=", 9)) add_word(&t, a);
    }
    char seed[32];
    snprintf(seed, sizeof seed, "%lld", (long long)r->o.seed);
    if (!options_given(&r->opt, "seed")) add(&t, " --seed ", seed, "");
    return t.text;
}

/* Options that have a value, with what was given first. */
static size_t list_rows(const TrainRun *r, ReportRow *rows, int given)
{
    size_t n = 0;
    for (size_t i = 0; i < r->opt.count; i++) {
        const Option *o = &r->opt.table[i];
        if (!o->name || o->kind == OPT_REFUSED || o->kind == OPT_IGNORED ||
            !!r->opt.given[i] != given) continue;
        char *value = options_text(&r->opt, o->name);
        int empty =
            !value || !*value || (!given && (!strcmp(value, "false") || !strcmp(value, "0")));
        if (!value || (empty && !given)) {
            mem_free(value);
            continue;
        }
        const char *reason = train_reason(r, o->name);
        rows[n++] = (ReportRow){o->name, value, reason ? reason : o->help};
    }
    return n;
}

/* ---- small owned texts ----------------------------------------------------------- */

/* Everything that a report points to and that was made for it. */
typedef struct {
    char **text;
    size_t count, cap;
    int failed;
} Owned;

/* Keeps s; "" when there is none. */
static const char *own(Owned *o, char *s)
{
    char **list = s ? mem_grow(o->text, o->count, &o->cap, sizeof *list) : NULL;
    if (list) o->text = list, list[o->count++] = s;
    else o->failed = 1, mem_free(s);
    return list ? s : "";
}

static void free_owned(Owned *o)
{
    for (size_t i = 0; i < o->count; i++) mem_free(o->text[i]);
    mem_free(o->text);
}

static const char *duration(Owned *o, double s)
{
    if (s < 100) return own(o, mem_printf("%.3g s", s));
    if (s < 6000) return own(o, mem_printf("%.0f min %02.0f s", floor(s / 60), floor(fmod(s, 60))));
    return own(o, mem_printf("%.0f h %02.0f min", floor(s / 3600), floor(fmod(s, 3600) / 60)));
}

static const char *bytes(Owned *o, size_t n)
{
    char s[32];
    return own(o, mem_strdup(memory_text(s, sizeof s, n)));
}

/* ---- figures --------------------------------------------------------------------- */

static double step_seconds(const TrainRun *r)
{
    uint32_t steps = r->t.step - r->first_step;
    return steps ? r->spent.steps / steps : 0;
}

static void figures(Report *p, const TrainRun *r, ReportRow *rows, Owned *o)
{
    size_t n = 0;
    rows[n++] = (ReportRow){"steps", own(o, mem_printf("%" PRIu32, r->t.step)), NULL};
    rows[n++] = (ReportRow){"pictures", own(o, mem_printf("%zu", r->ds->item_count)), NULL};
    if (r->spent.steps > 0) rows[n++] = (ReportRow){"a step", duration(o, step_seconds(r)), NULL};
    rows[n++] = (ReportRow){"mean loss at the end", own(o, mem_printf("%.4f", r->t.avr_loss)),
                            NULL};
    if (!r->o.full && !r->o.train_vae)
        rows[n++] = (ReportRow){"rank", own(o, mem_printf("%d", r->o.network_dim)), NULL};
    double found = train_samples_found(r);
    if (isfinite(found))
        rows[n++] = (ReportRow){"prompt tags found", own(o, mem_printf("%.0f%%", 100 * found)),
                                NULL};
    rows[n++] = (ReportRow){"memory", bytes(o, memory_peak()), NULL};
    p->figures = rows;
    p->figure_count = n;
}

static void machine(Report *p, const TrainRun *r, ReportRow *rows, Owned *o)
{
    size_t n = 0;
    double all = machine_seconds() - r->spent.start;
    rows[n++] = (ReportRow){"device", own(o, mem_printf("%s, %s", dev_name(r->m.dev),
                                                        model_dtype_name(r->m.dtype))), NULL};
    rows[n++] = (ReportRow){"latents of the pictures", duration(o, r->spent.latents), NULL};
    rows[n++] =
        (ReportRow){"steps", duration(o, r->spent.steps),
                    own(o, mem_printf("%" PRIu32 " steps, %s each, with measuring and saving",
                                      r->t.step - r->first_step, duration(o, step_seconds(r))))};
    if (r->samples) rows[n++] = (ReportRow){"sample pictures", duration(o, r->spent.samples), NULL};
    rows[n++] = (ReportRow){"all", duration(o, all), r->first_step ? "since this run was resumed"
                            : NULL};
    rows[n++] = (ReportRow){"memory, planned", bytes(o, memory_total(&r->memory)),
                            "before the first step"};
    rows[n++] = (ReportRow){"memory, used", bytes(o, memory_peak()),
                            dev_own_memory(r->m.dev) ? "of the process; the device has its own"
                            : "most of the process at a time"};
    p->machine = rows;
    p->machine_count = n;
}

/* ---- the data set ---------------------------------------------------------------- */

static int by_count(const void *a, const void *b)
{
    const ReportBar *x = a, *y = b;
    return x->count != y->count ? (x->count < y->count ? 1 : -1) : strcmp(x->name, y->name);
}

static void add_tag(ReportBar *tags, size_t *count, size_t cap, const char *s, size_t n, Owned *o)
{
    while (n && s[0] == ' ') s++, n--;
    while (n && s[n - 1] == ' ') n--;
    for (size_t i = 0; i < *count; i++)
        if (strlen(tags[i].name) == n && !memcmp(tags[i].name, s, n)) {
            tags[i].count++;
            return;
        }
    if (n && *count < cap) tags[(*count)++] = (ReportBar){own(o, mem_printf("%.*s", (int)n, s)), 1};
}

/* The tags of all captions, the commonest first; at most cap different ones are counted. */
static size_t count_tags(const TrainRun *r, ReportBar *tags, size_t cap, Owned *o)
{
    size_t n = 0;
    for (size_t i = 0; i < r->ds->item_count; i++)
        for (const char *s = r->ds->items[i].caption; *s; s += *s == ',') {
            size_t k = strcspn(s, ",");
            add_tag(tags, &n, cap, s, k, o);
            s += k;
        }
    qsort(tags, n, sizeof *tags, by_count);
    return n;
}

static size_t list_sizes(const TrainRun *r, ReportBar *sizes, Owned *o)
{
    const Dataset *ds = r->ds;
    size_t n = 0;
    for (size_t b = 0; b < ds->bucket_count && n < SIZES; b++) {
        size_t pictures = 0;
        for (size_t i = 0; i < ds->item_count; i++)
            pictures += ds->items[i].repeats && ds->items[i].bucket == (int)b;
        sizes[n++] = (ReportBar){own(o, mem_printf("%d x %d", ds->buckets[b].w, ds->buckets[b].h)),
                                 pictures};
    }
    qsort(sizes, n, sizeof *sizes, by_count);
    return n;
}

/* As it is trained on, small. One that cannot be read any more is left out. */
static int thumb(Image *im, const DataItem *it)
{
    Image small;
    Err e = {0};
    if (dataset_image(im, it, 0, &e)) return 0;
    int w = im->w * THUMB_SIDE / im->h, h = THUMB_SIDE;
    if (im->h > h && w && !resize_auto(&small, im, w, h, &e)) {
        image_free(im);
        *im = small;
    }
    return 1;
}

static size_t list_thumbs(const TrainRun *r, ReportThumb *thumbs)
{
    const Dataset *ds = r->ds;
    size_t n = 0, every = (ds->item_count + THUMBS - 1) / THUMBS;
    for (size_t i = 0; i < ds->item_count && n < THUMBS; i += every) {
        const DataItem *it = &ds->items[i];
        if (!it->repeats || !thumb(&thumbs[n].image, it)) continue;
        thumbs[n++].caption = it->caption;
    }
    return n;
}

/* ---- the grids of samples -------------------------------------------------------- */

/* mem_free */
static char *about_samples(const TrainRun *r)
{
    int near = train_samples_near(r), judged = isfinite(train_samples_found(r));
    return mem_printf(
        "The same seeds at each moment.%s%s%s%s", near || judged ? " Under Curves: " : "",
        near ? "how far they are from the nearest training picture (1: as far as training pictures "
               "are from each other; near 0: learnt by heart)" : "",
        near && judged ? ", against " : "",
        judged ? "the part of the prompts' tags that a tagger finds in them." : near ? "." : "");
}

static int sample_grid(ReportGrid *g, const TrainRun *r, int strengths, Owned *o, Err *e)
{
    enum { ROWS = 64 };
    char label[ROWS][24];
    size_t cols = train_samples_count(r), rows = train_samples_rows(r, strengths, label, ROWS);
    const char **list = mem_calloc((rows + 1) * (cols + 1) + rows + cols, sizeof *list);
    const char **names = list;
    if (!list) return err_nomem(e, rows * cols * sizeof *list, "the report");
    own(o, (char *)(void *)list);
    for (size_t i = 0; i < rows; i++) names[i] = own(o, train_samples_row_name(r, label[i]));
    for (size_t c = 0; c < cols; c++) names[rows + c] = train_samples_prompt(r, c);
    for (size_t i = 0; i < rows * cols; i++)
        names[rows + cols + i] = own(o, train_samples_path(r, label[i / cols], i % cols));
    *g = (ReportGrid){
        strengths ? "Strength" : "Samples",
        strengths ? "The finished LoRA at other strengths, with the same seeds. "
                    "Where it looks best is what to write behind its name: "
                    "<lora:NAME:0.8>."
                  : own(o, about_samples(r)),
        names,
        names + rows,
        names + rows + cols,
        rows,
        cols};
    return 0;
}

static int grids(Report *p, const TrainRun *r, ReportGrid *g, Owned *o, Err *e)
{
    p->grids = g;
    if (!r->samples) return 0;
    for (int strengths = 0; strengths < 2; strengths++) {
        TRY(sample_grid(&g[p->grid_count], r, strengths, o, e));
        p->grid_count += g[p->grid_count].row_count > 0;
    }
    return 0;
}

/* ---- all of it ------------------------------------------------------------------- */

typedef struct {
    ReportRow figures[FIGURES], machine[MACHINE], *rows;
    ReportGrid grids[GRIDS];
    ReportThumb thumbs[THUMBS];
    ReportBar *tags, sizes[SIZES];
    Owned owned;
} Parts;

static int gather(Report *p, Parts *parts, const TrainRun *r, Err *e)
{
    enum { TAGS_COUNTED = 4096 };
    Owned *o = &parts->owned;
    parts->rows = mem_calloc(r->opt.count, sizeof *parts->rows);
    parts->tags = mem_calloc(TAGS_COUNTED, sizeof *parts->tags);
    if (!parts->rows || !parts->tags)
        return err_nomem(e, r->opt.count * sizeof *parts->rows, "the report");
    p->rows = parts->rows;
    p->row_count = list_rows(r, parts->rows, 1);
    p->unset = list_rows(r, parts->rows + p->row_count, 0);
    p->row_count += p->unset;
    p->tags = parts->tags;
    size_t tags = count_tags(r, parts->tags, TAGS_COUNTED, o);
    p->tag_count = tags < TAGS ? tags : TAGS;
    p->sizes = parts->sizes;
    p->size_count = list_sizes(r, parts->sizes, o);
    p->thumbs = parts->thumbs;
    p->thumb_count = list_thumbs(r, parts->thumbs);
    p->data = own(o, mem_printf("%zu pictures from %s, %" PRIu32 " uses an epoch, %zu different "
                                "tags%s. As they are cut for training; the caption shows under "
                                "the pointer.", r->ds->item_count, r->ds->cfg.train_dir,
                                r->ds->entry_count, tags,
                                p->thumb_count < r->ds->item_count ? "; a selection" : ""));
    figures(p, r, parts->figures, o);
    machine(p, r, parts->machine, o);
    p->command = own(o, command(r));
    p->verdict = own(o, train_verdict(r));
    TRY(grids(p, r, parts->grids, o, e));
    return o->failed ? err_nomem(e, 64, "the report") : 0;
}

int train_report(const TrainRun *r, Err *e)
{
    Parts *parts = mem_calloc(1, sizeof *parts);
    char *path = mem_printf("%s/%s-report.html", r->o.output_dir, r->o.output_name);
    Report p = {.title = r->o.output_name, .log = r->log.lines};
    int rc = parts && path ? gather(&p, parts, r, e) : err_nomem(e, sizeof *parts, "the report");
    if (!rc) rc = report_write(path, &p, e);
    if (!rc) printf("%s\n", path);
    for (size_t i = 0; i < p.row_count; i++) mem_free((void *)(uintptr_t)p.rows[i].value);
    for (size_t i = 0; i < p.thumb_count; i++) image_free(&parts->thumbs[i].image);
    if (parts) {
        free_owned(&parts->owned);
        mem_free(parts->rows);
        mem_free(parts->tags);
    }
    mem_free(parts);
    mem_free(path);
    return rc;
}
