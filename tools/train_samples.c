/* train_samples.c - see train_samples.h.
 *
 *   output_dir/sample/NAME_e000002_00_SEED.png   (or _000100_ for steps), as kohya
 *   output_dir/NAME-grid.png                     a row per moment, a column per prompt
 * The grid is put together from the files, so that a resumed run continues it.
 */
#include "tools/train_samples.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/grid.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "models/near.h"
#include "models/pipeline.h"
#include "tools/machine.h"
#include "tools/prompts.h"
#include "tools/stop.h"
#include "tools/train_judge.h"

enum { ROWS_MAX = 64 };

struct TrainSamples {
    SamplePrompts prompts;
    Pipeline **pipes;              /* one per prompt */
    int64_t *seed;
    TrainJudge judge;
    double *near, *scale; /* of each prompt: its last picture (models/near.h); 0: not yet known */
};

static int poll_stop(void *ctx, int done, int total)
{
    (void)ctx, (void)done, (void)total;
    return stop_code();
}

static int init_pipe(TrainRun *r, size_t i, Err *e)
{
    struct TrainSamples *s = r->samples;
    const SamplePrompt *p = &s->prompts.list[i];
    const BucketConfig *size = &r->ds->cfg.bucket;
    PipelineConfig c = {.prompt = p->text,
                        .negative = p->negative,
                        .width = p->width ? p->width : size->w,
                        .height = p->height ? p->height : size->h,
                        .steps = p->steps ? p->steps : 30,
                        .cfg_scale = (float)(isnan(p->cfg) ? 7.5 : p->cfg),
                        .schedule = SCHEDULE_AUTO,
                        .clip_skip = r->o.clip_skip,
                        .v_pred = r->o.v_pred,
                        .poll = poll_stop};
    TRY(sampler_find(&c.sampler, &c.schedule, p->sampler ? p->sampler : r->o.sample_sampler, e));
    s->seed[i] = p->seed >= 0 ? p->seed : r->o.seed + (int64_t)i;
    s->pipes[i] = mem_calloc(1, sizeof **s->pipes);
    if (!s->pipes[i]) return err_nomem(e, sizeof **s->pipes, "sample pictures");
    return pipeline_init(s->pipes[i], &r->m, r->tok, &c, e);
}

int train_samples_init(TrainRun *r, Err *e)
{
    const TrainOptions *o = &r->o;
    if (!o->sample_prompts) return 0;
    if (o->train_vae) return err_set(e, ERR_USAGE, "option --sample_prompts: not with --train_vae");
    struct TrainSamples *s = r->samples = mem_calloc(1, sizeof *s);
    if (!s) return err_nomem(e, sizeof *s, "sample pictures");
    if (r->prompts) TRY(prompts_parse(&s->prompts, r->prompts, o->sample_prompts, e));
    else TRY(prompts_read(&s->prompts, o->sample_prompts, e));
    s->pipes = mem_calloc(s->prompts.count, sizeof *s->pipes);
    s->seed = mem_calloc(s->prompts.count, sizeof *s->seed);
    s->near = mem_calloc(s->prompts.count, sizeof *s->near);
    s->scale = mem_calloc(s->prompts.count, sizeof *s->scale);
    if (!s->pipes || !s->seed || !s->near || !s->scale) return err_nomem(e, 64, "sample pictures");
    for (size_t i = 0; i < s->prompts.count; i++) TRY(init_pipe(r, i, e));
    return train_judge_open(&s->judge, r, &s->prompts, e);
}

int train_samples_want(TrainRun *r, Err *e)
{
    const struct TrainSamples *s = r->samples;
    for (size_t i = 0; s && i < s->prompts.count; i++) TRY(pipeline_want(s->pipes[i], e));
    return 0;
}

void train_samples_free(TrainRun *r)
{
    struct TrainSamples *s = r->samples;
    if (!s) return;
    for (size_t i = 0; s->pipes && i < s->prompts.count; i++) {
        if (s->pipes[i]) pipeline_free(s->pipes[i]);
        mem_free(s->pipes[i]);
    }
    mem_free(s->pipes);
    mem_free(s->seed);
    mem_free(s->near);
    mem_free(s->scale);
    train_judge_close(&s->judge);
    prompts_free(&s->prompts);
    mem_free(s);
    r->samples = NULL;
}

/* The name of a moment: "e000002" after an epoch, "000100" after a step. */
static int by_epoch(const TrainRun *r)
{
    return !r->o.sample_every_n_steps || r->o.sample_every_n_epochs;
}

static void moment(const TrainRun *r, uint32_t done, char *s, size_t cap)
{
    if (by_epoch(r) && done % r->steps_per_epoch == 0)
        snprintf(s, cap, "e%06" PRIu32, done / r->steps_per_epoch);
    else snprintf(s, cap, "%06" PRIu32, done);
}

/* As people write it, from its name: "before", "epoch 2", "step 100" (mem_free). */
static char *plain_name(const char *label)
{
    int step = *label != 'e';
    long n = strtol(label + !step, NULL, 10);
    return n ? mem_printf("%s %ld", step ? "step" : "epoch", n) : mem_strdup("before");
}

static char *moment_name(const TrainRun *r, uint32_t done)
{
    char label[24];
    moment(r, done, label, sizeof label);
    return plain_name(label);
}

char *train_samples_path(const TrainRun *r, const char *label, size_t i)
{
    return mem_printf("%s/sample/%s_%s_%02zu_%lld.png", r->o.output_dir, r->o.output_name, label, i,
                      (long long)r->samples->seed[i]);
}

uint32_t train_samples_interval(const TrainRun *r)
{
    const TrainOptions *o = &r->o;
    if (by_epoch(r))
        return (uint32_t)(o->sample_every_n_epochs ? o->sample_every_n_epochs : 1) *
               r->steps_per_epoch;
    return (uint32_t)o->sample_every_n_steps;
}

/* The moment after `at` that has a row: the next of the interval, or that of the trained file. */
static uint32_t next_moment(const TrainRun *r, uint32_t at)
{
    uint32_t interval = train_samples_interval(r), next = (at / interval + 1) * interval,
             last = train_result_step(r);
    return at < last && last < next ? last : next;
}

size_t train_samples_count(const TrainRun *r) { return r->samples ? r->samples->prompts.count : 0; }
const char *train_samples_prompt(const TrainRun *r, size_t i)
{
    return r->samples->prompts.list[i].text;
}

/* A row of the grid: pictures made at `done`; 0 when they are not all there. */
static int load_row(const TrainRun *r, uint32_t done, Image *cells)
{
    char when[24];
    moment(r, done, when, sizeof when);
    for (size_t i = 0; i < r->samples->prompts.count; i++) {
        char *path = train_samples_path(r, when, i);
        int rc = path ? image_load(&cells[i], path, NULL) : ERR_MEMORY;
        mem_free(path);
        if (rc) return 0;
        image_drop_alpha(&cells[i]);
    }
    return 1;
}

static int write_grid(TrainRun *r, uint32_t done, Err *e)
{
    size_t columns = r->samples->prompts.count, rows = 0;
    Image *cells = mem_calloc(columns * ROWS_MAX, sizeof *cells);
    char *labels[ROWS_MAX];
    const char *row_labels[ROWS_MAX], **col_labels = mem_calloc(columns, sizeof *col_labels);
    int rc = cells && col_labels ? 0 : err_nomem(e, columns * sizeof *cells, "the grid");
    for (uint32_t at = 0; !rc && at <= done && rows < ROWS_MAX; at = next_moment(r, at)) {
        if (!load_row(r, at, cells + rows * columns)) continue;
        row_labels[rows] = labels[rows] = moment_name(r, at);
        if (!labels[rows++]) rc = err_nomem(e, 64, "the grid");
    }
    for (size_t i = 0; !rc && i < columns; i++) col_labels[i] = r->samples->prompts.list[i].text;
    Grid g = {.rows = (int)rows,
              .cols = (int)columns,
              .margin = 4,
              .row_labels = row_labels,
              .col_labels = col_labels};
    Image out = {0};
    char *path = mem_printf("%s/%s-grid.png", r->o.output_dir, r->o.output_name);
    if (!rc && !path) rc = err_nomem(e, 64, "a file name");
    if (!rc && rows) rc = grid_compose(&out, cells, rows * columns, &g, e);
    if (!rc && rows) rc = image_save(path, &out, NULL, e);
    image_free(&out);
    for (size_t i = 0; cells && i < columns * ROWS_MAX; i++) image_free(&cells[i]);
    for (size_t i = 0; i < rows; i++) mem_free(labels[i]);
    mem_free(cells);
    mem_free(col_labels);
    mem_free(path);
    return rc;
}

/* Of the picture that was just made; its latents are still there. */
static double nearness(const TrainRun *r, size_t i)
{
    const struct TrainSamples *s = r->samples;
    const Pipeline *p = s->pipes[i];
    if (!s->scale[i]) s->scale[i] = near_scale(&r->ft, p->w, p->h);
    return near_distance(&r->ft, p->x, p->w, p->h) / s->scale[i];
}

int train_samples_near(const TrainRun *r) { return r->samples->scale[0] > 0; }

double train_samples_found(const TrainRun *r)
{
    const TrainJudge *j = r->samples ? &r->samples->judge : NULL;
    return j && j->rows ? (double)j->found / (double)j->known : NAN;
}

size_t train_samples_judge_bytes(const TrainRun *r)
{
    return r->samples ? r->samples->judge.bytes : 0;
}

/* The mean of a row. */
static int log_row(TrainRun *r, uint32_t done, Err *e)
{
    RunScalar list[2];
    double sum = 0, found = train_samples_found(r);
    size_t n = r->samples->prompts.count, count = 0;
    for (size_t i = 0; i < n; i++) sum += r->samples->near[i] / (double)n;
    if (isfinite(sum)) list[count++] = (RunScalar){"samples/distance_to_nearest_picture", sum};
    if (isfinite(found)) list[count++] = (RunScalar){"samples/prompt_tags_found", found};
    return count ? runlog_step(&r->log, done, list, count, e) : 0;
}

static int make_picture(TrainRun *r, const char *label, size_t i, Err *e)
{
    Pipeline *p = r->samples->pipes[i];
    Image im;
    TRY(image_new(&im, p->c.width, p->c.height, 3, e));
    char *path = train_samples_path(r, label, i);
    int rc = path ? pipeline_encode(p, e) : err_nomem(e, 64, "a file name");
    if (!rc) rc = pipeline_run(p, (uint64_t)r->samples->seed[i], &im, e);
    if (!rc) rc = image_save(path, &im, NULL, e);
    if (!rc) r->samples->near[i] = nearness(r, i);
    mem_free(path);
    image_free(&im);
    return rc;
}

int train_samples_make(TrainRun *r, const char *label, Err *e)
{
    char *dir = mem_printf("%s/sample", r->o.output_dir);
    int rc = dir ? io_mkdirs(dir, e) : err_nomem(e, 64, "a file name");
    mem_free(dir);
    progress_end(&r->progress);
    for (size_t i = 0; !rc && i < r->samples->prompts.count; i++) rc = make_picture(r, label, i, e);
    return rc;
}

static int make_all(TrainRun *r, uint32_t done, Err *e)
{
    char when[24];
    double start = machine_seconds();
    moment(r, done, when, sizeof when);
    TRY(train_samples_make(r, when, e));
    TRY(train_judge_row(&r->samples->judge, r, when, e));
    r->spent.samples += machine_seconds() - start;
    return write_grid(r, done, e);
}

/* With the averages of --use_ema, where there are any. */
static int make_averaged(TrainRun *r, uint32_t done, Err *e)
{
    optim_swap(r->t.optim);
    int rc = make_all(r, done, e);
    optim_swap(r->t.optim);
    return rc ? rc : log_row(r, done, e);
}

size_t train_samples_rows(const TrainRun *r, int strengths, char (*label)[24], size_t cap)
{
    size_t n = 0;
    uint32_t at = 0;
    for (int i = 0; n < cap && (strengths ? i < r->strength_count : at <= r->t.step); i++) {
        if (strengths) snprintf(label[n], 24, "s%.2f", r->strengths[i]);
        else moment(r, at, label[n], 24), at = next_moment(r, at);
        char *path = train_samples_path(r, label[n], 0);
        n += path && io_exists(path) == 1;
        mem_free(path);
    }
    return n;
}

char *train_samples_row_name(const TrainRun *r, const char *label)
{
    char kept[24] = "";
    if (*label == 's') return mem_printf("%g", strtod(label + 1, NULL));
    if (r->o.until_best) moment(r, train_result_step(r), kept, sizeof kept);
    char *name = plain_name(label);
    char *all = name ? mem_printf("%s%s", name, strcmp(label, kept) ? "" : " (kept)") : NULL;
    mem_free(name);
    return all;
}

double train_samples_cost(const TrainRun *r)
{
    const struct TrainSamples *s = r->samples;
    double sum = 0;
    for (size_t i = 0; s && i < s->prompts.count; i++) {
        const Pipeline *p = s->pipes[i];
        const Graph *g[] = {p->unet[0].g, p->unet[1].g};
        for (int k = 0; k < 2; k++)
            if (g[k]) sum += p->c.steps * cost_graph_seconds(&cost_nominal, g[k]);
        sum += cost_graph_seconds(&cost_nominal, p->text.g) +
               cost_graph_seconds(&cost_nominal, p->vae.g);
    }
    return s ? sum + s->judge.seconds : sum;
}

int train_samples_first(TrainRun *r, Err *e)
{
    return r->samples && r->o.sample_at_first && !r->t.step ? make_averaged(r, 0, e) : 0;
}

int train_samples_after(TrainRun *r, uint32_t done, Err *e)
{
    if (!r->samples || done % train_samples_interval(r)) return 0;
    double before = r->spent.samples;
    TRY(make_averaged(r, done, e));
    r->spent.steps -= r->spent.samples - before;
    return 0;
}

/* A run that was to have no rows, as those of a sweep, has none of its end either. */
int train_samples_last(TrainRun *r, Err *e)
{
    uint32_t step = train_result_step(r);
    if (!r->samples || train_samples_interval(r) > r->total ||
        step % train_samples_interval(r) == 0)
        return 0;
    TRY(make_all(r, step, e));
    return step == r->t.step ? log_row(r, step, e) : 0;       /* a log goes on only */
}
