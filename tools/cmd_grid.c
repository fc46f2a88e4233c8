/* cmd_grid.c - `sdc grid`: pictures along axes on one sheet; see xyz.h.
 *
 * Each picture is the one that `sdc sample` makes of its options. The model is read once:
 * first the text encoder works through all prompts, then U-Net and decoder make the
 * pictures, those with the same LoRAs one after another; between these, only the weights
 * that a LoRA changes are read again.
 */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "tools/cmd.h"
#include "tools/stop.h"
#include "tools/xyz.h"

#define AXIS(k) (offsetof(XyzOptions, axis) + (k) * sizeof(char *))

static const Option axis_table[] = {
    {NULL, 0, OPT_FLAG, 0, 0, 0, NULL,
     "Along which axes:\n"
     "  seed, steps, cfg, clip_skip   VALUES: 10,20,30 or 1-5 or 4-12(+4) or 1-10[5], five of them\n"
     "  lora_strength                 the same; lora_strength NAME: where there are several LoRAs\n"
     "  lora_epoch                    2,4,6,last: NAME-000002.safetensors, ..., NAME.safetensors\n"
     "  lora                          FILE[:W[:TEW]],...; none: without it\n"
     "  sampler, schedule             names; see below\n"
     "  size                          512x512,512x768\n"
     "  prompt_sr                     words: the first is searched for in the prompts, each put there",
     NULL},
    {"x", 'x', OPT_TEXT, AXIS(0), 0, 0, "\"NAME: VALUES\"", "columns", NULL},
    {"y", 'y', OPT_TEXT, AXIS(1), 0, 0, "\"NAME: VALUES\"", "rows", NULL},
    {"z", 'z', OPT_TEXT, AXIS(2), 0, 0, "\"NAME: VALUES\"", "grids, one below the other", NULL},
    {"save_cells", 0, OPT_FLAG, offsetof(XyzOptions, save_cells), 0, 0, NULL,
     "each picture in a file of its own, too: grid-1.png, ...", NULL},
};
enum { AXIS_ROWS = sizeof axis_table / sizeof *axis_table };

/* Of sdc sample, what does not make one picture. */
static int left_out(const char *name)
{
    return name &&
           (!strcmp(name, "prompt_file") || !strcmp(name, "batch_count") || !strcmp(name, "grid"));
}

static int make_table(XyzRun *r, Err *e)
{
    size_t n = 0;
    r->table = mem_calloc(AXIS_ROWS + sample_table_count, sizeof *r->table);
    if (!r->table) return err_nomem(e, sample_table_count * sizeof *r->table, "options");
    for (size_t i = 0; i < AXIS_ROWS; i++) r->table[n++] = axis_table[i];
    for (size_t i = 0; i < sample_table_count; i++) {
        if (left_out(sample_table[i].name)) continue;
        r->table[n] = sample_table[i];
        if (sample_table[i].name && !strcmp(sample_table[i].name, "output"))
            r->table[n].help = ".png or .jpg (grid.png)";
        n++;
    }
    r->x.o = (SampleOptions)SAMPLE_DEFAULTS;
    r->opt = (Options){.table = r->table, .count = n, .fields = &r->x, .command = "sdc grid",
                       .summary = "pictures along axes on one sheet: A1111's X/Y/Z plot"};
    return 0;
}

/* Those of the command line, or of the sheet that is repeated. */
static int read_axes(XyzRun *r, Err *e)
{
    int given = 0;
    for (int k = 0; k < XYZ_AXES; k++) given |= r->x.axis[k] != NULL;
    for (int k = 0; k < XYZ_AXES; k++) {
        char letter = (char)('x' + k), *old = given ? NULL : xyz_recorded(letter, &r->png);
        int rc = xyz_axis(&r->axis[k], letter, old ? old : r->x.axis[k], e);
        mem_free(old);
        TRY(rc);
    }
    for (int k = 0; k < XYZ_AXES; k++)
        if (r->axis[k].kind) return 0;
    char *names = xyz_names();
    int rc =
        err_set(e, ERR_USAGE, "no axis: give --x, --y or --z \"NAME: VALUES\"; NAME is one of %s",
                names ? names : "");
    mem_free(names);
    return rc;
}

/* ---- plan ---------------------------------------------------------------- */

/* PipelineConfig.poll */
static int poll(void *ctx, int done, int total)
{
    XyzRun *r = ctx;
    size_t all = r->before + (size_t)done;
    (void)total;
    if (all != r->shown) {
        r->shown = all;
        progress_show(&r->progress, all, r->steps, "");
    }
    return stop_code();
}

static int config_of(XyzRun *r, const XyzCell *c, PipelineConfig *pc, Err *e)
{
    TRY(sample_config(pc, &c->x.o, &c->loras, &r->m.ck->config, e));
    pc->poll = poll;
    pc->ctx = r;
    return 0;
}

/* The pipeline of a cell's shape, made ready for it. */
static int use_shape(XyzRun *r, const XyzCell *c, Pipeline **p, Err *e)
{
    PipelineConfig pc;
    int fits;
    *p = &r->shape[c->shape]->p;
    TRY(config_of(r, c, &pc, e));
    return pipeline_reuse(*p, r->tok, &pc, &fits, e);
}

static int plan_cell(XyzRun *r, XyzCell *c, int swap, Err *e)
{
    PipelineConfig pc;
    int fits = 0;
    TRY(config_of(r, c, &pc, e));
    pc.swap = swap;
    for (c->shape = 0; c->shape < r->shapes && !fits; c->shape += !fits)
        TRY(pipeline_reuse(&r->shape[c->shape]->p, r->tok, &pc, &fits, e));
    if (!fits) {
        XyzShape *s = r->shape[r->shapes] = mem_calloc(1, sizeof *s);
        if (!s) return err_nomem(e, sizeof *s, "the grid");
        TRY(pipeline_init(&s->p, &r->m, r->tok, &pc, e));
        r->shapes++;
    }
    XyzShape *s = r->shape[c->shape];
    size_t bytes = pipeline_bytes(&s->p);
    s->bytes = bytes > s->bytes ? bytes : s->bytes;
    r->steps += (size_t)s->p.sampler.steps;
    return 0;
}

static void free_shapes(XyzRun *r)
{
    for (size_t i = 0; r->shape && i < r->count && r->shape[i]; i++) {
        pipeline_free(&r->shape[i]->p);
        mem_free(r->shape[i]);
        r->shape[i] = NULL;
    }
    r->shapes = 0;
}

/* What the pictures, the contexts of their prompts and the LoRAs of one of them take. */
static size_t kept_bytes(const XyzRun *r)
{
    size_t bytes = 0, most = 0, width = (size_t)r->m.ck->config.text_width;
    for (size_t i = 0; i < r->count; i++) {
        const XyzCell *c = &r->cells[i];
        const Pipeline *p = &r->shape[c->shape]->p;
        size_t files = 0;
        bytes += 2 * 3 * (size_t)c->x.o.width * (size_t)c->x.o.height;
        if (c->cond == i)
            bytes += (p->chunks[0].count + p->chunks[1].count) * CHUNK_IDS * width * sizeof(float);
        for (size_t k = 0; k < c->loras.count; k++)
            for (size_t f = 0; f < r->files.count; f++)
                if (!strcmp(r->files.list[f].path, c->loras.list[k].path))
                    files += r->file_bytes[f];
        most = files > most ? files : most;
    }
    return bytes + most;
}

static void account(XyzRun *r)
{
    size_t host = kept_bytes(r);
    for (size_t i = 0; i < r->shapes; i++) {
        Memory m;
        sample_account(&m, &r->shape[i]->p, 0);
        host += r->shape[i]->bytes;
        m.host = 0;
        if (!i || memory_total(&m) > memory_total(&r->memory)) r->memory = m;
    }
    if (!dev_own_memory(r->m.dev)) r->memory.host = host;
}

static int plan_with(XyzRun *r, int swap, Err *e)
{
    free_shapes(r);
    r->m.slab = (Slab){.dev = r->m.dev};
    r->steps = 0;
    for (size_t i = 0; i < r->count; i++) TRY(plan_cell(r, &r->cells[i], swap, e));
    account(r);
    return 0;
}

static int plan(XyzRun *r, Err *e)
{
    size_t budget = memory_default(r->m.dev) + memory_held(r->m.dev);
    char need[32], have[32];
    if (r->x.o.ram) TRY(memory_size(&budget, "ram", r->x.o.ram, e));
    r->shape = mem_calloc(r->count + 1, sizeof *r->shape);
    if (!r->shape) return err_nomem(e, r->count * sizeof *r->shape, "the grid");
    for (int swap = 0; swap < 2; swap++) {
        TRY(plan_with(r, swap, e));
        if (memory_total(&r->memory) <= budget) return 0;
    }
    memory_text(need, sizeof need, memory_total(&r->memory));
    memory_text(have, sizeof have, budget);
    return err_set(e, ERR_MEMORY, "the grid needs %s in %s, and %s %s", need,
                   model_precision(&r->m), have, r->x.o.ram ? "is allowed by --ram" : "is free");
}

/* ---- prepare ------------------------------------------------------------- */

/* The embeddings that any of the prompts names. */
static int open_embeddings(XyzRun *r, Err *e)
{
    SampleOptions o = r->x.o;
    size_t size = 2;
    for (size_t i = 0; i < r->count; i++)
        size += strlen(r->cells[i].x.o.prompt) + strlen(r->cells[i].x.o.negative) + 2;
    o.prompt = mem_alloc(size);
    if (!o.prompt) return err_nomem(e, size, "the prompts");
    char *at = o.prompt;
    *at = 0;
    for (size_t i = 0; i < r->count; i++)
        if (r->cells[i].cond == i)
            at += sprintf(at, "%s\n%s\n", r->cells[i].x.o.prompt, r->cells[i].x.o.negative);
    int rc = sample_embeddings(&r->m.embeddings, r->tok, &o, &r->m.ck->config, e);
    mem_free(o.prompt);
    return rc;
}

static int prepare(XyzRun *r, Err *e)
{
    SampleLoras none = {0};
    TRY(sample_fill(&r->x.o.out, "grid.png", e));
    TRY(sample_check(&r->opt, &r->x.o, &r->png, &r->tags, e));
    TRY(read_axes(r, e));
    TRY(sample_open(&r->m, &r->x.o, &none, e));
    TRY(xyz_cells(r, e));
    TRY(bpe_open(&r->tok, e));
    TRY(open_embeddings(r, e));
    TRY(plan(r, e));
    return xyz_sheet_check(r, e);
}

static void summary(const XyzRun *r)
{
    fprintf(stderr, "device     %s, %s\n", dev_name(r->m.dev), model_precision(&r->m));
    fprintf(stderr, "model      %s (%s)\n", r->x.o.model, config_name(&r->m.ck->config));
    for (int k = 0; k < XYZ_AXES; k++)
        for (size_t i = 0; r->axis[k].kind && i < xyz_count(&r->axis[k]); i++) {
            char *label = xyz_label(&r->axis[k], i);
            if (!i) fprintf(stderr, "%c          ", r->axis[k].option);
            fprintf(stderr, "%s%s", i ? " | " : "", label ? label : "");
            if (i + 1 == xyz_count(&r->axis[k])) fprintf(stderr, "\n");
            mem_free(label);
        }
    fprintf(stderr, "pictures   %zu, %zu steps\n", r->count, r->steps);
    memory_line(&r->memory, stderr);
}

/* ---- pictures ------------------------------------------------------------ */

static int use_loras(XyzRun *r, const XyzCell *c, Err *e)
{
    if (r->merged && r->merged->set == c->set) return 0;
    char **specs = sample_lora_specs(&c->loras);
    r->merged = c;
    if (!specs) return err_nomem(e, 64, "LoRA files");
    int rc = model_loras(&r->m, specs, c->loras.count, e);
    mem_free(specs);
    return rc;
}

/* Calls one for every cell, those with the same LoRAs one after another. */
static int for_each(XyzRun *r, int (*one)(XyzRun *, size_t, Err *), Err *e)
{
    for (size_t set = 0; set < r->count; set++) {
        if (r->cells[set].set != set) continue;
        TRY(use_loras(r, &r->cells[set], e));
        for (size_t i = set; i < r->count; i++)
            if (r->cells[i].set == set) TRY(one(r, i, e));
    }
    return 0;
}

static int encode(XyzRun *r, size_t i, Err *e)
{
    XyzCell *c = &r->cells[i];
    Pipeline *p;
    if (c->cond != i) return 0;
    TRY(use_shape(r, c, &p, e));
    TRY(pipeline_encode(p, e));
    c->context = pipeline_context(p);
    return c->context ? 0 : err_nomem(e, pipeline_bytes(p), "the prompts");
}

static int draw(XyzRun *r, size_t i, Err *e)
{
    const XyzCell *c = &r->cells[i];
    Image im = {0};
    Pipeline *p;
    TRY(use_shape(r, c, &p, e));
    pipeline_set_context(p, r->cells[c->cond].context);
    if (!i) TRY(xyz_sheet_text(r, p, e));
    TRY(image_new(&im, c->x.o.width, c->x.o.height, 3, e));
    int rc = pipeline_run(p, (uint64_t)c->x.o.seed, &im, e);
    if (p->c.swap) slab_release(&p->slab);     /* the next picture may be another shape's */
    if (rc) return image_free(&im), rc;
    r->images[i] = im;
    r->before += (size_t)p->sampler.steps;
    if (!r->x.save_cells) return 0;
    return sample_save(&im, (int)i + 1, &c->x.o, &r->names, &c->loras, p, (uint64_t)c->x.o.seed,
                       &r->progress, e);
}

static int hash_files(XyzRun *r, Err *e)
{
    TRY(sample_info_hashes(&r->names, &r->x.o, &r->files, e));
    for (size_t i = 0; i < r->count; i++)
        for (size_t k = 0; k < r->cells[i].loras.count; k++)
            for (size_t f = 0; f < r->files.count; f++) {
                SampleLora *one = &r->cells[i].loras.list[k];
                if (!strcmp(one->path, r->files.list[f].path))
                    memcpy(one->hash, r->files.list[f].hash, sizeof one->hash);
            }
    sample_info_compare(&r->png, &r->names, &r->files);
    return 0;
}

/* What is drawn is kept when a signal ends the run. */
static int make_all(XyzRun *r, Err *e)
{
    Pipeline *first = &r->shape[0]->p;
    TRY(sample_try_file(r->x.o.out, e));
    TRY(hash_files(r, e));
    TRY(pipeline_load_text(first, e));
    progress_start(&r->progress, "steps");
    int rc = for_each(r, encode, e);
    if (!rc) rc = use_loras(r, &r->cells[0], e);
    if (!rc) rc = pipeline_load_rest(first, e);
    if (!rc) rc = for_each(r, draw, e);
    progress_end(&r->progress);
    if (rc && rc != ERR_INT && rc != ERR_TERM) return rc;
    for (size_t i = 0; i < r->count; i++)
        if (r->images[i].px) return xyz_sheet(r, rc ? NULL : e) && !rc ? e->code : rc;
    return rc;
}

static int run(XyzRun *r, Err *e)
{
    stop_install();
    TRY(prepare(r, e));
    summary(r);
    if (!r->x.o.dry_run) return make_all(r, e);
    memory_print(&r->memory, stdout);
    return 0;
}

static void close_run(XyzRun *r)
{
    free_shapes(r);
    mem_free(r->shape);
    xyz_cells_free(r);
    for (int k = 0; k < XYZ_AXES; k++) xyz_axis_free(&r->axis[k]);
    bpe_close(r->tok);
    model_close(&r->m);
    mem_free(r->names.model_name);
    mem_free(r->text);
    infotext_free(&r->png);
    options_free(&r->opt);
    mem_free(r->table);
    mem_free(r);
}

int cmd_grid(int argc, char **argv, Err *e)
{
    XyzRun *r = mem_calloc(1, sizeof *r);
    if (!r) return err_nomem(e, sizeof *r, "the run");
    int help = 0, rc = make_table(r, e);
    if (!rc) rc = options_parse(&r->opt, argc, argv, &help, e);
    if (!rc && help) options_help(&r->opt, stdout);
    else if (!rc) rc = run(r, e);
    close_run(r);
    return rc;
}
