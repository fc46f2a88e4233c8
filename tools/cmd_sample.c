/* cmd_sample.c - `sdc sample`: pictures from a prompt.
 *
 * Order: options and --from-png; LoRAs; model; plan (memory is known, --dry_run
 * ends here); output files are tried; weights; pictures, each saved when it is
 * done.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/grid.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "tools/cmd.h"
#include "tools/machine.h"
#include "tools/progress.h"
#include "tools/prompts.h"
#include "tools/sample.h"
#include "tools/stop.h"

typedef struct {
    SampleOptions o;
    Options opt;
    Infotext png;              /* of --from_png */
    SampleLoras loras;
    SampleModel names;
    Model m;
    Tokenizer *tok;
    Pipeline p;
    Memory memory;
    int table;                 /* --ram was a list: a table was printed, and that is all */
    Progress progress;
    int tags;                  /* the <lora:...> of the prompt count */
    int picture, shown;        /* which one is under way; steps shown of all */
    Image *images;             /* of the grid, else one */
} SampleRun;

/* ---- model and plan ------------------------------------------------------ */

/* PipelineConfig.poll */
static int poll(void *ctx, int done, int total)
{
    SampleRun *r = ctx;
    int all = r->picture * total + done;
    if (all != r->shown) {
        r->shown = all;
        progress_show(&r->progress, (size_t)all, (size_t)total * (size_t)r->o.batch_count, "");
    }
    return stop_code();
}

static size_t grid_bytes(const SampleRun *r)
{
    size_t each = (size_t)r->o.width * (size_t)r->o.height * 3;
    return r->o.grid ? each * (size_t)r->o.batch_count * 2 : each;
}

static int plan_run(SampleRun *r, const PipelineConfig *c, Err *e)
{
    pipeline_free(&r->p);
    r->m.slab = (Slab){.dev = r->m.dev};
    TRY(pipeline_init(&r->p, &r->m, r->tok, c, e));
    sample_account(&r->memory, &r->p, grid_bytes(r));
    return 0;
}

/* "; 384x384 fits": the largest picture of about this shape that does. */
static void what_fits(SampleRun *r, PipelineConfig *c, size_t budget, char *text, size_t cap)
{
    int w = c->width, h = c->height;
    snprintf(text, cap, "; no size does");
    for (int less = 64; less < w && less < h; less += 64) {
        c->width = w - less;
        c->height = (int)((int64_t)h * c->width / w / 8 * 8);
        if (c->height < 64 || plan_run(r, c, NULL)) break;
        if (memory_total(&r->memory) > budget) continue;
        snprintf(text, cap, "; %dx%d would fit in %.2f GB", c->width, c->height,
                 (double)memory_total(&r->memory) / (1 << 30));
        return;
    }
}

/* Plans the run: with all of it in memory or, if that is more than budget, in turn.
 * Returns whether it fits. */
static int fits(SampleRun *r, PipelineConfig *c, size_t budget, int *rc, Err *e)
{
    for (c->swap = 0; c->swap < 2; c->swap++) {
        *rc = plan_run(r, c, e);
        if (*rc || memory_total(&r->memory) <= budget) return !*rc;
    }
    c->swap = 1;
    return 0;
}

static int too_large(SampleRun *r, PipelineConfig *c, size_t budget, Err *e)
{
    char need[32], have[32], other[80];
    memory_text(need, sizeof need, memory_total(&r->memory));
    memory_text(have, sizeof have, budget);
    what_fits(r, c, budget, other, sizeof other);
    return err_set(e, ERR_MEMORY, "%dx%d in %s needs %s, and %s %s%s%s", r->o.width, r->o.height,
                   model_precision(&r->m), need, have,
                   r->o.ram ? "is allowed by --ram" : "is free", other,
                   r->m.dtype == DT_F32 ? "; --dtype bf16 needs about half" :
                   r->m.ops.int8 && !r->m.int8 ? "; --dtype int8 needs less" : "");
}

/* --dry_run with several budgets: a line for each. */
static int print_table(SampleRun *r, PipelineConfig *c, const size_t *budget, int count, Err *e)
{
    Speed speed;
    TRY(cost_measure(&speed, r->m.dev, &r->m.ops, r->m.dtype, model_storage(&r->m), e));
    printf("allowed     needed     step  how\n");
    for (int i = 0; i < count; i++) {
        char allowed[32], need[32];
        int rc = 0, ok = fits(r, c, budget[i], &rc, e);
        TRY(rc);
        memory_text(allowed, sizeof allowed, budget[i]);
        memory_text(need, sizeof need, memory_total(&r->memory));
        if (!ok) printf("%-9s  %-9s  does not fit\n", allowed, need);
        else printf("%-9s  %-9s  %5.2f s  %s\n", allowed, need, sample_step_seconds(&r->p, &speed),
                    c->swap ? "U-Net and decoder take turns" : "all at once");
    }
    return 0;
}

static int fit(SampleRun *r, PipelineConfig *c, Err *e)
{
    size_t budget[MEMORY_ROWS] = {memory_default(r->m.dev) + memory_held(r->m.dev)};
    int count = 1, rc = 0;
    if (r->o.ram) TRY(memory_sizes(budget, MEMORY_ROWS, &count, "ram", r->o.ram, e));
    if (count > 1 && !r->o.dry_run)
        return err_set(e, ERR_USAGE, "option --ram: a list of sizes needs --dry_run");
    if (count > 1) TRY(print_table(r, c, budget, count, e));
    r->table = count > 1;
    if (r->table || fits(r, c, budget[0], &rc, e) || rc) return rc;
    return too_large(r, c, budget[0], e);
}

static int prepare(SampleRun *r, Err *e)
{
    PipelineConfig c;
    TRY(sample_check(&r->opt, &r->o, &r->png, &r->tags, e));
    TRY(sample_loras(&r->loras, &r->o, r->tags, e));
    TRY(sample_open(&r->m, &r->o, &r->loras, e));
    TRY(sample_config(&c, &r->o, &r->loras, &r->m.ck->config, e));
    c.poll = poll;
    c.ctx = r;
    TRY(bpe_open(&r->tok, e));
    TRY(sample_embeddings(&r->m.embeddings, r->tok, &r->o, &r->m.ck->config, e));
    return fit(r, &c, e);
}

static void summary(const SampleRun *r)
{
    const SampleOptions *o = &r->o;
    const Sampler *s = &r->p.sampler;
    const SamplerInfo *si = sampler_info((int)s->kind);
    const char *schedule = si->own_timesteps ? "" : schedule_info((int)s->schedule)->label;
    fprintf(stderr, "device     %s, %s\n", dev_name(r->m.dev), model_precision(&r->m));
    fprintf(stderr, "model      %s (%s)\n", o->model, config_name(&r->m.ck->config));
    for (size_t i = 0; i < r->loras.count; i++)
        fprintf(stderr, "LoRA       %s: U-Net %g, text encoder %g, %zu modules\n",
                r->loras.list[i].path, (double)r->loras.list[i].unet, (double)r->loras.list[i].text,
                r->m.lora[i].count);
    fprintf(stderr, "sampler    %s%s%s, %d steps, guidance %g\n", si->label, *schedule ? " " : "",
            schedule, o->steps, o->cfg_scale);
    fprintf(stderr, "pictures   %d of %dx%d, seed %" PRId64 "\n", o->batch_count, o->width,
            o->height, o->seed);
    memory_line(&r->memory, stderr);
}

static int print_plan(SampleRun *r, Err *e)
{
    Speed speed;
    TRY(cost_measure(&speed, r->m.dev, &r->m.ops, r->m.dtype, model_storage(&r->m), e));
    r->memory.seconds = sample_step_seconds(&r->p, &speed);
    memory_print(&r->memory, stdout);
    double picture = r->memory.seconds * r->o.steps + cost_graph_seconds(&speed, r->p.vae.g);
    printf("picture     %14.3g seconds, expected\n", picture);
    return 0;
}

/* ---- pictures ------------------------------------------------------------ */

static int make_one(SampleRun *r, int i, Image *im, Err *e)
{
    uint64_t seed = (uint64_t)r->o.seed + (uint64_t)i;
    r->picture = i;
    if (!im->px) TRY(image_new(im, r->o.width, r->o.height, 3, e));
    TRY(pipeline_run(&r->p, seed, im, e));
    return sample_save(im, i, &r->o, &r->names, &r->loras, &r->p, seed, &r->progress, e);
}

/* As square as A1111 makes it. */
static int save_grid(SampleRun *r, Err *e)
{
    Image sheet;
    char *text = NULL;
    int n = r->o.batch_count, rows = (int)lround(sqrt(n));
    Grid g = {.rows = rows, .cols = (n + rows - 1) / rows};
    TRY(grid_compose(&sheet, r->images, (size_t)n, &g, e));
    int rc = sample_info_write(&text, &r->o, &r->names, &r->loras, &r->p, (uint64_t)r->o.seed, e);
    if (!rc) rc = image_save(r->o.grid, &sheet, text, e);
    if (!rc) printf("%s\n", r->o.grid);
    mem_free(text);
    image_free(&sheet);
    return rc;
}

static int make_all(SampleRun *r, Err *e)
{
    size_t n = r->o.grid ? (size_t)r->o.batch_count : 1;
    TRY(sample_try_file(r->o.out, e));
    if (r->o.grid) TRY(sample_try_file(r->o.grid, e));
    TRY(sample_info_hashes(&r->names, &r->o, &r->loras, e));
    sample_info_compare(&r->png, &r->names, &r->loras);
    r->images = mem_calloc(n, sizeof *r->images);
    if (!r->images) return err_nomem(e, n * sizeof *r->images, "pictures");
    TRY(pipeline_load(&r->p, e));
    progress_start(&r->progress, "steps");
    int rc = 0;
    for (int i = 0; !rc && i < r->o.batch_count; i++)
        rc = make_one(r, i, &r->images[r->o.grid ? i : 0], e);
    progress_end(&r->progress);
    return !rc && r->o.grid ? save_grid(r, e) : rc;
}

/* ---- entry --------------------------------------------------------------- */

static void close_run(SampleRun *r)
{
    size_t n = r->images ? (r->o.grid ? (size_t)r->o.batch_count : 1) : 0;
    for (size_t i = 0; i < n; i++) image_free(&r->images[i]);
    mem_free(r->images);
    pipeline_free(&r->p);
    bpe_close(r->tok);
    model_close(&r->m);
    mem_free(r->names.model_name);
    sample_loras_free(&r->loras);
    infotext_free(&r->png);
}

static int run(SampleRun *r, Err *e)
{
    stop_install();
    TRY(prepare(r, e));
    if (r->table) return 0;
    summary(r);
    if (!r->o.dry_run) return make_all(r, e);
    return print_plan(r, e);
}

/* ---- a file of prompts --------------------------------------------------- */

static int replace(char **field, const char *value, Err *e)
{
    mem_free(*field);
    *field = NULL;
    return value ? sample_fill(field, value, e) : 0;
}

/* The options of one line over those of the command line. */
static int use_line(SampleOptions *o, const SampleOptions *all, const SamplePrompt *p, Err *e)
{
    TRY(replace(&o->prompt, p->text, e));
    TRY(replace(&o->negative, *p->negative ? p->negative : all->negative, e));
    TRY(replace(&o->sampler, p->sampler ? p->sampler : all->sampler, e));
    o->width = p->width ? p->width : all->width;
    o->height = p->height ? p->height : all->height;
    o->steps = p->steps ? p->steps : all->steps;
    o->cfg_scale = isnan(p->cfg) ? all->cfg_scale : p->cfg;
    o->seed = p->seed >= 0 ? p->seed : all->seed;
    return 0;
}

/* The pictures of a file, eight a row. */
static int file_grid(const char *path, const char *out, size_t count, Err *e)
{
    Image *cells = mem_calloc(count, sizeof *cells), sheet = {0};
    int rc = cells ? 0 : err_nomem(e, count * sizeof *cells, "the grid");
    for (size_t i = 0; !rc && i < count; i++) {
        char *name = sample_file_name(out, (int)i);
        rc = name ? image_load(&cells[i], name, e) : err_nomem(e, strlen(out), "a file name");
        if (!rc) image_drop_alpha(&cells[i]);
        mem_free(name);
    }
    int columns = count < 8 ? (int)count : 8;
    Grid g = {.rows = ((int)count + columns - 1) / columns, .cols = columns};
    if (!rc) rc = grid_compose(&sheet, cells, count, &g, e);
    if (!rc) rc = image_save(path, &sheet, NULL, e);
    if (!rc) printf("%s\n", path);
    image_free(&sheet);
    for (size_t i = 0; cells && i < count; i++) image_free(&cells[i]);
    mem_free(cells);
    return rc;
}

/* One run per line, each as it would be alone. */
static int run_lines(SampleRun *r, const SamplePrompts *p, const char *out, Err *e)
{
    SampleOptions all = r->o;
    r->o.negative = r->o.sampler = NULL;       /* now owned by all */
    int rc = 0;
    for (size_t i = 0; !rc && i < p->count; i++) {
        char *name = sample_file_name(out, (int)i);
        rc = name ? replace(&r->o.out, name, e) : err_nomem(e, strlen(out), "a file name");
        mem_free(name);
        if (!rc) rc = use_line(&r->o, &all, &p->list[i], e);
        if (!rc) rc = run(r, e);
        close_run(r);
        *r = (SampleRun){.o = r->o, .opt = r->opt};
    }
    mem_free(all.negative);
    mem_free(all.sampler);
    return rc;
}

static int run_file(SampleRun *r, Err *e)
{
    SampleOptions *o = &r->o;
    SamplePrompts p;
    if (o->prompt || o->from_png || o->batch_count > 1)
        return err_set(e, ERR_USAGE,
                       "option --prompt_file: not together with --prompt, --from_png or "
                       "--batch_count");
    TRY(sample_fill(&o->out, "out.png", e));
    TRY(sample_check_name("output", o->out, e));
    if (o->grid) TRY(sample_check_name("grid", o->grid, e));
    TRY(prompts_read(&p, o->prompt_file, e));
    char *grid = o->grid, *out = mem_strdup(o->out);
    o->grid = NULL;
    int rc = out ? run_lines(r, &p, out, e) : err_nomem(e, 64, "a file name");
    o->grid = grid;
    if (!rc && grid && !o->dry_run) rc = file_grid(grid, out, p.count, e);
    mem_free(out);
    prompts_free(&p);
    return rc;
}

int cmd_sample(int argc, char **argv, Err *e)
{
    SampleRun *r = mem_calloc(1, sizeof *r);
    if (!r) return err_nomem(e, sizeof *r, "the run");
    r->o = (SampleOptions)SAMPLE_DEFAULTS;
    r->opt = (Options){.table = sample_table, .count = sample_table_count, .fields = &r->o,
                       .command = "sdc sample", .summary = "pictures from a prompt"};
    int help = 0, rc = options_parse(&r->opt, argc, argv, &help, e);
    if (!rc && help) options_help(&r->opt, stdout);
    else if (!rc) rc = r->o.prompt_file ? run_file(r, e) : run(r, e);
    close_run(r);
    options_free(&r->opt);
    mem_free(r);
    return rc;
}
