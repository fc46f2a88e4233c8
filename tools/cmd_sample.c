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
#include <strings.h>

#include "engine/grid.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "tokenizer/utf8.h"
#include "tools/cmd.h"
#include "tools/machine.h"
#include "tools/memory.h"
#include "tools/progress.h"
#include "tools/prompts.h"
#include "tools/sample.h"
#include "tools/stop.h"

#define AT(field) offsetof(SampleOptions, field)
#define HEADING(text) {NULL, 0, OPT_FLAG, 0, 0, 0, NULL, text, NULL}

static const Option table[] = {
    HEADING("What:"),
    {"model", 'm', OPT_TEXT, AT(model), 0, 0, "FILE", "checkpoint or diffusers folder", "ckpt"},
    {"prompt", 'p', OPT_TEXT, AT(prompt), 0, 0, "TEXT",
     "A1111's syntax: (more:1.2) [less] BREAK <lora:name:0.7>", NULL},
    {"negative_prompt", 'n', OPT_TEXT, AT(negative), 0, 0, "TEXT", "what to keep away from", NULL},
    {"prompt_file", 0, OPT_TEXT, AT(prompt_file), 0, 0, "FILE",
     "a prompt a line with kohya's --w --h --d --s --l --n --ss: out.png, out-1.png, ...", NULL},
    {"lora", 0, OPT_LIST, AT(lora), 0, 0, "FILE[:W[:TEW]]",
     "LoRA, weight (1), weight of the text encoder (W); repeatable", NULL},
    {"embeddings", 0, OPT_LIST, AT(embeddings), 0, 0, "FILE...", "textual-inversion embeddings, used by file name in the prompt", NULL},
    {"embedding_dir", 0, OPT_TEXT, AT(embedding_dir), 0, 0, "DIR",
     "folder of embeddings (\"embeddings\" beside the model, A1111's)", "embeddings_dir"},
    {"lora_dir", 0, OPT_TEXT, AT(lora_dir), 0, 0, "DIR",
     "where <lora:name> is looked for (the model's folder, ../Lora, .)", "lora_model_dir"},
    {"from_png", 0, OPT_TEXT, AT(from_png), 0, 0, "FILE",
     "settings of this picture where no option is given (--lora replaces its LoRAs)", NULL},
    HEADING("How:"),
    {"width", 'W', OPT_INT, AT(width), 1, 65535, "N",
     "multiple of 8 (512; 128 for models with a text encoder below 512)", NULL},
    {"height", 'H', OPT_INT, AT(height), 1, 65535, "N", "as width", NULL},
    {"steps", 0, OPT_INT, AT(steps), 1, 1000, "N", "sampling steps (20)", NULL},
    {"cfg_scale", 0, OPT_FLOAT, AT(cfg_scale), -1000, 1000, "X",
     "guidance (7); 1: none, twice as fast", NULL},
    {"sampler", 0, OPT_TEXT, AT(sampler), 0, 0, "NAME",
     "euler, euler_a, heun, dpm2, dpm2_a, dpm++2s_a, dpm++2m (default), dpm++sde, dpm++2m_sde, "
     "dpm++3m_sde, lms, ddim, plms, unipc, lcm", "sampling_method"},
    {"schedule", 0, OPT_TEXT, AT(schedule), 0, 0, "NAME",
     "automatic (as A1111 for the sampler: karras for dpm++2m), discrete, karras, exponential, "
     "sgm_uniform, simple, ddim_uniform", "scheduler"},
    {"seed", 's', OPT_INT64, AT(seed), -1, 9.2e18, "N", "-1: random, and printed (-1)", NULL},
    {"clip_skip", 0, OPT_INT, AT(clip_skip), 0, 64, "N",
     "1: all layers of the text encoder; 2: all but the last... (1)", NULL},
    {"rng", 0, OPT_TEXT, AT(rng), 0, 0, "cpu|nv",
     "noise as torch draws it on a GPU (nv, default) or a CPU", NULL},
    {"prediction", 0, OPT_TEXT, AT(prediction), 0, 0, "eps|v",
     "what the model predicts, if its files do not say so", NULL},
    {"pad_conds", 0, OPT_FLAG, AT(pad_conds), 0, 0, NULL,
     "pad prompt and negative prompt to one length", NULL},
    HEADING("Where:"),
    {"output", 'o', OPT_TEXT, AT(out), 0, 0, "FILE", ".png or .jpg (out.png)", NULL},
    {"batch_count", 'b', OPT_INT, AT(batch_count), 1, 9999, "N",
     "pictures, with seeds counting up: out.png, out-1.png, ... (1)", NULL},
    {"grid", 0, OPT_TEXT, AT(grid), 0, 0, "FILE", "all of them on one sheet, too", NULL},
    {"dtype", 0, OPT_TEXT, AT(dtype), 0, 0, "TYPE",
     "f32, bf16, f16 or int8 (bf16 where that is faster, else f32)", "type"},
    {"device", 0, OPT_TEXT, AT(device), 0, 0, "NAME", "where to run: " DEV_NAMES, NULL},
    {"threads", 't', OPT_INT, AT(threads), 0, 1024, "N", "0: all cores (0)", NULL},
    {"ram", 0, OPT_TEXT, AT(ram), 0, 0, "SIZE",
     "memory to stay within, such as 3G (what is free, less a reserve)", "vram"},
    {"device_memory", 0, OPT_TEXT, AT(ram), 0, 0, "SIZE", "the same, of a device that is not here", NULL},
    {"dry_run", 0, OPT_FLAG, AT(dry_run), 0, 0, NULL,
     "print the memory that is planned and the time of a step, and stop", NULL},
    {"trace", 0, OPT_FLAG, AT(trace), 0, 0, NULL,
     "time and checksum of each operation on stderr", NULL},
};

typedef struct {
    SampleOptions o;
    Options opt;
    Infotext png;              /* of --from_png */
    SampleLoras loras;
    SampleModel names;
    char **specs;              /* of the LoRAs, borrowed */
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

/* ---- options ------------------------------------------------------------- */

/* Whether A1111 would see more than weights in a prompt: AND, [a:b:0.5], [a|b]. */
static int has_editing(const char *prompt)
{
    const char *open = NULL;
    if (strstr(prompt, " AND ")) return 1;
    for (const char *s = prompt; *s; s++) {
        if (*s == '\\' && s[1]) s++;
        else if (*s == '[') open = s;
        else if (*s == ']') open = NULL;
        else if (open && (*s == ':' || *s == '|') && strchr(s, ']')) return 1;
    }
    return 0;
}

/* Text that is no UTF-8 cannot be recorded: U+FFFD stands for it everywhere. */
static int clean(char **text, Err *e)
{
    size_t size, n = strlen(*text);
    char *s = utf8_clean(*text, n, &size);
    if (!s) return err_nomem(e, n, "a prompt");
    mem_free(*text);
    *text = s;
    return 0;
}

static int fill(char **field, const char *value, Err *e)
{
    if (!*field && !(*field = mem_strdup(value))) return err_nomem(e, strlen(value), "an option");
    return 0;
}

static int check_name(const char *option, const char *path, Err *e)
{
    static const char *const endings[] = {".png", ".jpg", ".jpeg"};
    const char *dot = strrchr(path, '.');
    for (int i = 0; dot && i < 3; i++)
        if (!strcasecmp(dot, endings[i])) return 0;
    return err_set(e, ERR_USAGE, "option --%s: %s does not end in .png or .jpg", option, path);
}

static int check_options(SampleRun *r, Err *e)
{
    SampleOptions *o = &r->o;
    r->tags = !o->from_png || !o->lora.count || options_given(&r->opt, "prompt");
    if (o->from_png) TRY(sample_info_read(&r->opt, o, &r->png, e));
    if (!o->model) {
        const char *name = infotext_get(&r->png, "Model");
        const char *hash = infotext_get(&r->png, "Model hash");
        if (!name) return err_set(e, ERR_USAGE, "option --model is missing");
        return err_set(e, ERR_USAGE, "option --model is missing; the picture was made with %s "
                       "(hash %s)", name, hash ? hash : "unknown");
    }
    if (!o->prompt) return err_set(e, ERR_USAGE, "option --prompt is missing");
    TRY(fill(&o->negative, "", e));
    TRY(fill(&o->out, "out.png", e));
    TRY(fill(&o->rng, "nv", e));
    TRY(clean(&o->prompt, e));
    TRY(clean(&o->negative, e));
    TRY(check_name("output", o->out, e));
    if (o->grid) TRY(check_name("grid", o->grid, e));
    if (has_editing(o->prompt) || has_editing(o->negative))
        sample_note("AND, [a:b:0.5] and [a|b] are read as plain text");
    if (strstr(o->negative, "<lora:"))
        sample_note("<lora:...> in the negative prompt has no effect");
    if (o->seed < 0) o->seed = machine_random_seed();
    return 0;
}

static int config_of(SampleRun *r, PipelineConfig *c, Err *e)
{
    const SampleOptions *o = &r->o;
    const SdConfig *sd = &r->m.ck->config;
    *c = (PipelineConfig){.prompt = r->loras.prompt, .negative = o->negative, .width = o->width,
                          .height = o->height, .steps = o->steps, .cfg_scale = (float)o->cfg_scale,
                          .sampler = SAMPLER_DPMPP_2M, .clip_skip = o->clip_skip,
                          .v_pred = sd->v_prediction, .pad_conds = o->pad_conds,
                          .trace = o->trace ? stderr : NULL};
    if (o->sampler) TRY(sampler_find(&c->sampler, &c->schedule, o->sampler, e));
    if (o->schedule) TRY(schedule_find(&c->schedule, o->schedule, e));
    if (!strcmp(o->rng, "nv")) c->rng = RNG_NV;
    else if (!strcmp(o->rng, "cpu")) c->rng = RNG_CPU;
    else return err_set(e, ERR_USAGE, "option --rng: \"%s\" is not cpu or nv", o->rng);
    if (!o->prediction) return 0;
    c->v_pred = !strcmp(o->prediction, "v");
    if (!c->v_pred && strcmp(o->prediction, "eps"))
        return err_set(e, ERR_USAGE, "option --prediction: \"%s\" is not eps or v", o->prediction);
    return 0;
}

/* ---- model and plan ------------------------------------------------------ */

static int open_model(SampleRun *r, Err *e)
{
    SampleOptions *o = &r->o;
    char device[64];
    ModelOptions mo = {.path = o->model, .device = machine_device(device, sizeof device, o->device),
                       .threads = o->threads, .lora_count = r->loras.count};
    TRY(fill(&o->dtype, machine_fast_bf16(device, o->threads) ? "bf16" : "f32", e));
    TRY(model_dtype(&mo, o->dtype, e));
    r->specs = mem_calloc(r->loras.count + 1, sizeof *r->specs);
    if (!r->specs) return err_nomem(e, r->loras.count * sizeof *r->specs, "LoRA files");
    for (size_t i = 0; i < r->loras.count; i++) r->specs[i] = r->loras.list[i].spec;
    mo.lora = r->specs;
    TRY(model_open(&r->m, &mo, e));
    int side = r->m.ck->config.text_width < 512 ? 128 : 512;
    if (!o->width) o->width = side;
    if (!o->height) o->height = side;
    return 0;
}

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

static void account(SampleRun *r)
{
    Pipeline *p = &r->p;
    Memory *m = &r->memory;
    size_t decoder = params_part(r->m.ps, "vae.").frozen;
    *m = (Memory){.weights = pipeline_weights(p), .process = memory_held(r->m.dev)};
    if (!dev_own_memory(r->m.dev)) m->host = pipeline_bytes(p) + grid_bytes(r);
    memory_graph(m, &p->text);
    memory_graph(m, &p->unet[0]);
    if (p->unet[1].g) memory_graph(m, &p->unet[1]);
    if (!p->c.swap) {
        memory_graph(m, &p->vae);
    } else if (decoder + p->slab.bytes + p->slab.scratch_bytes > m->weights + m->activations + m->scratch) {
        m->weights = decoder;                  /* the decoder alone is the larger part */
        m->activations = m->scratch = 0;
        memory_graph(m, &p->vae);
    }
    snprintf(m->note, sizeof m->note, "the text encoder is released after the prompt%s",
             p->c.swap ? "; U-Net and decoder take turns" : "");
}

static int plan_run(SampleRun *r, const PipelineConfig *c, Err *e)
{
    pipeline_free(&r->p);
    r->m.slab = (Slab){.dev = r->m.dev};
    TRY(pipeline_init(&r->p, &r->m, r->tok, c, e));
    account(r);
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

static double step_seconds(const SampleRun *r, const Speed *s)
{
    double sum = cost_graph_seconds(s, r->p.unet[0].g);
    return r->p.unet[1].g ? sum + cost_graph_seconds(s, r->p.unet[1].g) : sum;
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
        else printf("%-9s  %-9s  %5.2f s  %s\n", allowed, need, step_seconds(r, &speed),
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
    TRY(check_options(r, e));
    TRY(sample_loras(&r->loras, &r->o, r->tags, e));
    TRY(open_model(r, e));
    TRY(config_of(r, &c, e));
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
    r->memory.seconds = step_seconds(r, &speed);
    memory_print(&r->memory, stdout);
    double picture = r->memory.seconds * r->o.steps + cost_graph_seconds(&speed, r->p.vae.g);
    printf("picture     %14.3g seconds, expected\n", picture);
    return 0;
}

/* ---- pictures ------------------------------------------------------------ */

/* out.png, out-1.png, ... (mem_free) */
static char *name_of(const char *out, int i)
{
    const char *dot = strrchr(out, '.');
    return i ? mem_printf("%.*s-%d%s", (int)(dot - out), out, i, dot) : mem_strdup(out);
}

/* Finds out now, not after hours, that a file cannot be written. */
static int try_file(const char *path, Err *e)
{
    IoFile f = {0};
    const char *slash = strrchr(path, '/');
    char *folder = slash && slash > path ? mem_printf("%.*s", (int)(slash - path), path) : NULL;
    int rc = folder ? io_mkdirs(folder, e) : 0;
    mem_free(folder);
    if (!rc) rc = io_create(&f, path, e);
    io_abort(&f);
    return rc;
}

static int make_one(SampleRun *r, int i, Image *im, Err *e)
{
    uint64_t seed = (uint64_t)r->o.seed + (uint64_t)i;
    char *text = NULL, *path = name_of(r->o.out, i);
    r->picture = i;
    int rc = path ? 0 : err_nomem(e, strlen(r->o.out), "a file name");
    if (!rc && !im->px) rc = image_new(im, r->o.width, r->o.height, 3, e);
    if (!rc) rc = pipeline_run(&r->p, seed, im, e);
    if (!rc) rc = sample_info_write(&text, &r->o, &r->names, &r->loras, &r->p, seed, e);
    if (!rc) rc = image_save(path, im, text, e);
    if (!rc) {
        progress_end(&r->progress);
        printf("%s\n", path);
        fflush(stdout);
    }
    mem_free(text);
    mem_free(path);
    return rc;
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
    TRY(try_file(r->o.out, e));
    if (r->o.grid) TRY(try_file(r->o.grid, e));
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
    mem_free(r->specs);
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
    return value ? fill(field, value, e) : 0;
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
        char *name = name_of(out, (int)i);
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
        char *name = name_of(out, (int)i);
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
        return err_set(e, ERR_USAGE, "option --prompt_file: not together with --prompt, --from_png or --batch_count");
    TRY(fill(&o->out, "out.png", e));
    TRY(check_name("output", o->out, e));
    if (o->grid) TRY(check_name("grid", o->grid, e));
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
    r->o = (SampleOptions){.steps = 20, .cfg_scale = 7, .seed = -1, .batch_count = 1,
                           .clip_skip = 1};
    r->opt = (Options){.table = table, .count = sizeof table / sizeof *table, .fields = &r->o,
                       .command = "sdc sample", .summary = "pictures from a prompt"};
    int help = 0, rc = options_parse(&r->opt, argc, argv, &help, e);
    if (!rc && help) options_help(&r->opt, stdout);
    else if (!rc) rc = r->o.prompt_file ? run_file(r, e) : run(r, e);
    close_run(r);
    options_free(&r->opt);
    mem_free(r);
    return rc;
}
