/* sweep.c - see sweep.h.
 *
 * The journal, OUTPUT_NAME-sweep.jsonl: a first line with a hash of what is swept and the
 * seed, then a line for each run at the end of each round. A sweep that was killed reads
 * it, and the run that it was at goes on from its state.
 */
#include "tools/sweep.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/hash.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "tools/machine.h"
#include "tools/stop.h"
#include "tools/train_samples.h"

enum { ROUNDS = SWEEP_ROUNDS, JOURNAL_MAX = 1 << 24, PROMPTS = 2 };

/* Parts of the steps, in quarters, that a run has done at the end of a round. */
static const uint32_t quarters[ROUNDS] = {1, 2, 4};

double sweep_score(const Sweep *s, const SweepRun *r)
{
    return s->until_best ? r->best : r->held_out;
}

static char *run_name(const Sweep *s, size_t i) { return mem_printf("%s-%02zu", s->name, i + 1); }

/* ---- a run ------------------------------------------------------------------ */

static int set(TrainRun *r, const char *option, const char *value, int source, Err *e)
{
    return value ? options_set(&r->opt, option, value, source, e) : err_nomem(e, 64, "the sweep");
}

/* The options of run i. Held-out pictures and samples are chosen when nothing is said. */
static int set_options(const Sweep *s, TrainRun *r, size_t i, Err *e)
{
    char seed[32], *name = run_name(s, i);
    int rc = set(r, "output_name", name, OPTIONS_COMMAND, e);
    mem_free(name);
    snprintf(seed, sizeof seed, "%lld", (long long)s->seed);
    if (!rc) rc = set(r, "seed", seed, OPTIONS_COMMAND, e);
    for (size_t k = 0; !rc && k < s->axes.count; k++)
        rc = set(r, s->axes.axis[k].option, sweep_value(&s->axes, k, i), OPTIONS_COMMAND, e);
    if (!rc) rc = set(r, "resume", "", OPTIONS_COMMAND, e);
    if (!rc && !r->o.validation_dir && !(r->o.validation_split > 0) && !r->o.until_best)
        rc = set(r, "validation_split", "0.25", OPTIONS_CHOSEN, e);
    if (!rc && s->prompts) rc = set(r, "sample_prompts", s->prompts, OPTIONS_CHOSEN, e);
    if (!rc && s->prompts && !r->o.sample_every_n_epochs && !r->o.sample_every_n_steps)
        rc = set(r, "sample_every_n_epochs", "1000000", OPTIONS_CHOSEN, e);
    return rc;
}

static int open_run(Sweep *s, TrainRun *r, size_t i, Err *e)
{
    int help;
    r->shared = &s->shared;
    TRY(train_parse(r, s->argc, s->argv, &help, e));
    TRY(set_options(s, r, i, e));
    TRY(train_open(r, e));
    if (!r->val_ds)
        return err_set(e, ERR_USAGE,
                       "sdc sweep: runs are compared by held-out loss, and nothing is held out");
    char *toml = mem_printf("%s/%s.toml", s->dir, r->o.output_name);
    int rc = toml ? train_record_write(r, toml, e) : err_nomem(e, 64, "a file name");
    mem_free(toml);
    return rc;
}

static int append_line(const Sweep *s, size_t i, Err *e)
{
    const SweepRun *r = &s->run[i];
    char *line =
        mem_printf("{\"run\": %zu, \"round\": %d, \"done\": %d, \"step\": %" PRIu32
                   ", \"of\": %" PRIu32
                   ", \"held_out\": %.9g, \"lowest\": %.9g, \"lowest_step\": %" PRIu32 "}\n",
                   i + 1, r->rounds, r->done, r->step, r->total, r->held_out, r->best,
                   r->best_step);
    int rc = line ? io_append(s->journal, line, strlen(line), e) : err_nomem(e, 256, "the journal");
    mem_free(line);
    return rc;
}

static int keep_result(Sweep *s, const TrainRun *r, size_t i, int round, Err *e)
{
    SweepRun *run = &s->run[i];
    const TrainPoint *best = train_watch_best(r);
    run->rounds = round + 1;
    run->done = r->t.step == r->total || *r->watch.why;
    run->step = r->t.step;
    run->total = r->total;
    run->best = best->held_out;
    run->best_step = best->step;
    run->held_out = r->t.points[r->t.point_count - 1].held_out;
    run->score[round] = sweep_score(s, run);
    return append_line(s, i, e);
}

/* Steps of run i until the end of the round. */
static int train_round(Sweep *s, TrainRun *r, size_t i, int round, Err *e)
{
    TRY(open_run(s, r, i, e));
    uint32_t goal = (uint32_t)(((uint64_t)r->total * quarters[round] + 3) / 4);
    if (!s->until_best) r->watch.extra = goal; /* --auto decides by what a single run measures */
    char *label = sweep_label(&s->axes, 0, s->axes.count, i);
    fprintf(stderr, "\nrun %zu of %zu  %s, to step %" PRIu32 " of %" PRIu32 "\n", i + 1,
            s->axes.runs, label ? label : "", train_watch_next(r, goal), r->total);
    mem_free(label);
    TRY(train_start(r, e));
    TRY(train_steps(r, train_watch_next(r, goal), e));
    int ended = r->t.step == r->total || *r->watch.why;
    if (ended && r->samples) {
        TRY(train_result(r, 1, e));
        TRY(train_samples_make(r, "sweep", e));
    }
    TRY(ended ? train_finish(r, e) : train_pause(r, e));
    return keep_result(s, r, i, round, e);
}

static int one_run(Sweep *s, size_t i, int round, Err *e)
{
    TrainRun *r = mem_calloc(1, sizeof *r);
    if (!r) return err_nomem(e, sizeof *r, "the run");
    int rc = train_round(s, r, i, round, e);
    train_close(r);
    mem_free(r);
    return rc;
}

/* ---- rounds ----------------------------------------------------------------- */

/* How many runs take part in a round. */
static size_t places(const Sweep *s, int round)
{
    size_t n = s->axes.runs;
    for (int i = 0; s->halving && i < round; i++) n = (n + 1) / 2;
    return n;
}

/* What run i is judged by after a round; INFINITY: it was not in it. */
static double score_after(const Sweep *s, size_t i, int round)
{
    const SweepRun *r = &s->run[i];
    return r->rounds > round ? r->score[round] : r->done ? sweep_score(s, r) : INFINITY;
}

/* Does run i take part: is it among the best of those that did the round before? Runs that
 * have ended keep their place. */
static int takes_part(const Sweep *s, size_t i, int round)
{
    size_t better = 0;
    if (s->run[i].done || s->run[i].rounds < round || s->run[i].rounds > round) return 0;
    for (size_t k = 0; k < s->axes.runs && round; k++) {
        double a = score_after(s, k, round - 1), b = score_after(s, i, round - 1);
        better += a < b || (a == b && k < i);
    }
    return better < places(s, round);
}

static int all_rounds(Sweep *s, Err *e)
{
    unsigned char *part = mem_alloc(s->axes.runs);
    if (!part) return err_nomem(e, s->axes.runs, "the sweep");
    int rc = 0;
    for (int round = s->halving ? 0 : ROUNDS - 1; round < ROUNDS && !rc; round++) {
        for (size_t i = 0; i < s->axes.runs; i++)
            part[i] = s->halving ? takes_part(s, i, round) : !s->run[i].done;
        for (size_t i = 0; i < s->axes.runs && !rc; i++)
            if (part[i]) rc = one_run(s, i, round, e);
    }
    mem_free(part);
    return rc;
}

/* ---- the journal -------------------------------------------------------------- */

/* One line; 0: it is none. */
static int read_line(Sweep *s, const char *line)
{
    SweepRun r = {0};
    size_t i;
    int end = 0;
    int n =
        sscanf(line,
               "{\"run\": %zu, \"round\": %d, \"done\": %d, \"step\": %" SCNu32 ", \"of\": %" SCNu32
               ", \"held_out\": %lf, \"lowest\": %lf, \"lowest_step\": %" SCNu32 "}%n",
               &i, &r.rounds, &r.done, &r.step, &r.total, &r.held_out, &r.best, &r.best_step, &end);
    if (n != 8 || !end || line[end] != '\n' || i < 1 || i > s->axes.runs || r.rounds < 1 ||
        r.rounds > ROUNDS || !isfinite(r.held_out) || !isfinite(r.best))
        return 0;
    memcpy(r.score, s->run[i - 1].score, sizeof r.score);
    r.score[r.rounds - 1] = sweep_score(s, &r);
    s->run[i - 1] = r;
    return 1;
}

/* What must be equal for a journal to be gone on with: all settings of a run but what the
 * axes and the names set, and the axes. */
static int hash_settings(const Sweep *s, const TrainRun *r, char hex[HASH_HEX], Err *e)
{
    static const char *const free_names[] = {"threads",         "device",      "ram",
                                             "resume",          "logging_dir", "seed",
                                             "stop_after_steps"};
    Hash *h;
    TRY(hash_new(&h, e));
    for (size_t i = 0; i < r->opt.count; i++) {
        const Option *o = &r->opt.table[i];
        int skip = !o->name || !r->opt.given[i] || o->kind == OPT_REFUSED || o->kind == OPT_IGNORED;
        for (size_t k = 0; !skip && k < sizeof free_names / sizeof *free_names; k++)
            skip = !strcmp(o->name, free_names[k]);
        char *v = skip ? NULL : options_text(&r->opt, o->name);
        if (!v) continue;
        hash_update(h, o->name, strlen(o->name));
        hash_update(h, v, strlen(v) + 1);
        mem_free(v);
    }
    for (size_t i = 0; i < s->axes.runs; i++) {
        char *label = sweep_label(&s->axes, 0, s->axes.count, i);
        if (label) hash_update(h, label, strlen(label) + 1);
        mem_free(label);
    }
    hash_finish(h, hex);
    hash_free(h);
    return 0;
}

static int read_journal(Sweep *s, char *text, const char *hex, Err *e)
{
    char have[HASH_HEX] = "";
    long long seed;
    int end = 0;
    if (sscanf(text, "{\"sweep\": \"%64[0-9a-f]\", \"seed\": %lld}\n%n", have, &seed, &end) != 2 ||
        !end || strcmp(have, hex))
        return err_set(e, ERR_USAGE,
                       "%s: belongs to a sweep with other settings; give another --output_name, "
                       "or remove it", s->journal);
    s->seed = seed;
    char *at = text + end, *next;
    for (; (next = strchr(at, '\n')) && read_line(s, at); at = next + 1) continue;
    size_t whole = (size_t)(at - text);
    return text[whole] ? io_write_file(s->journal, text, whole, e)
                       : 0; /* without a line that was cut short */
}

static int open_journal(Sweep *s, const TrainRun *r, Err *e)
{
    char hex[HASH_HEX], line[160], *text;
    TRY(hash_settings(s, r, hex, e));
    if (io_exists(s->journal) == 1) {
        TRY(io_read_text(&text, NULL, s->journal, JOURNAL_MAX, e));
        int rc = read_journal(s, text, hex, e);
        mem_free(text);
        return rc;
    }
    s->seed = r->o.seed >= 0 ? r->o.seed : machine_random_seed();
    snprintf(line, sizeof line, "{\"sweep\": \"%s\", \"seed\": %lld}\n", hex, (long long)s->seed);
    return io_write_file(s->journal, line, strlen(line), e);
}

/* ---- the sweep ---------------------------------------------------------------- */

/* Sample prompts where none are given: the first captions, at one seed. */
static int choose_prompts(Sweep *s, const TrainRun *r, Err *e)
{
    Dataset *ds;
    if (r->o.sample_prompts || r->o.preset || r->o.full) return 0;
    TRY(train_dataset(&ds, &r->o, 1, e));
    char *text = mem_strdup("");
    for (size_t i = 0, n = 0; text && i < ds->item_count && n < PROMPTS; i++) {
        const char *caption = ds->items[i].caption;
        if (!*caption || *caption == '#' || strstr(text, caption) || strstr(caption, "--"))
            continue;
        char *more =
            mem_printf("%s%.*s --d %d --s 20\n", text, (int)strcspn(caption, "\r\n"), caption, 1);
        mem_free(text);
        text = more;
        n++;
    }
    dataset_close(ds);
    int rc = text ? 0 : err_nomem(e, 64, "sample prompts");
    if (!rc && *text && !(s->prompts = mem_printf("%s/%s-prompts.txt", s->dir, s->name)))
        rc = err_nomem(e, 64, "a file name");
    if (!rc && s->prompts) rc = io_write_file(s->prompts, text, strlen(text), e);
    mem_free(text);
    return rc;
}

/* Where the pictures of the runs are: known from a run that is open. */
static int list_pictures(Sweep *s, Err *e)
{
    TrainRun *r = mem_calloc(1, sizeof *r);
    if (!r) return err_nomem(e, sizeof *r, "the run");
    int rc = open_run(s, r, 0, e);
    size_t n = !rc && r->samples ? train_samples_count(r) : 0;
    s->prompt = n ? mem_calloc(n, sizeof *s->prompt) : NULL;
    s->pictures = n ? mem_calloc(n * s->axes.runs, sizeof *s->pictures) : NULL;
    s->prompt_count = s->prompt && s->pictures ? n : 0;
    if (n && !s->prompt_count) rc = err_nomem(e, n * sizeof *s->prompt, "the grid");
    for (size_t i = 0; !rc && i < s->axes.runs && n; i++) {
        mem_free(r->o.output_name);
        r->o.output_name = run_name(s, i);
        for (size_t k = 0; r->o.output_name && k < n; k++)
            s->pictures[i * n + k] = train_samples_path(r, "sweep", k);
    }
    for (size_t k = 0; !rc && k < n; k++) s->prompt[k] = mem_strdup(train_samples_prompt(r, k));
    train_close(r);
    mem_free(r);
    return rc;
}

static int is_drawn(const Sweep *s, size_t i)
{
    for (size_t k = 0; k < s->prompt_count; k++) {
        const char *path = s->pictures[i * s->prompt_count + k];
        if (path && io_exists(path) != 1) return 0;
    }
    return 1;
}

static int draw_one(Sweep *s, size_t i, Err *e)
{
    TrainRun *r = mem_calloc(1, sizeof *r);
    if (!r) return err_nomem(e, sizeof *r, "the run");
    fprintf(stderr, "\nrun %zu of %zu  pictures\n", i + 1, s->axes.runs);
    int rc = open_run(s, r, i, e);
    if (!rc) rc = train_start(r, e);
    if (!rc) rc = train_result(r, 0, e);
    if (!rc) rc = train_samples_make(r, "sweep", e);
    train_close(r);
    mem_free(r);
    return rc;
}

/* Pictures of runs that were stopped early, once each, from their states. */
static int draw_stopped(Sweep *s, Err *e)
{
    for (size_t i = 0; i < s->axes.runs; i++)
        if (!s->run[i].done && !is_drawn(s, i)) TRY(draw_one(s, i, e));
    return 0;
}

static int run_all(Sweep *s, const TrainRun *r, Err *e)
{
    TRY(sweep_axes(&s->axes, &r->o.sweep, &r->opt, e));
    s->run = mem_calloc(s->axes.runs, sizeof *s->run);
    s->dir = mem_strdup(r->o.output_dir);
    s->name = mem_strdup(r->o.output_name);
    s->journal = mem_printf("%s/%s-sweep.jsonl", r->o.output_dir, r->o.output_name);
    if (!s->run || !s->dir || !s->name || !s->journal) return err_nomem(e, 256, "the sweep");
    if (r->o.train_vae) return err_set(e, ERR_USAGE, "option --sweep: not with --train_vae");
    if (r->o.dry_run) {
        for (size_t i = 0; i < s->axes.runs; i++) {
            char *label = sweep_label(&s->axes, 0, s->axes.count, i);
            printf("%3zu  %s\n", i + 1, label ? label : "");
            mem_free(label);
        }
        return 0;
    }
    TRY(io_mkdirs(s->dir, e));
    TRY(open_journal(s, r, e));
    TRY(choose_prompts(s, r, e));
    TRY(all_rounds(s, e));
    TRY(list_pictures(s, e));
    TRY(draw_stopped(s, e));
    return sweep_result(s, e);
}

int sweep_train(const TrainRun *r, Err *e)
{
    Sweep s = {.halving = r->o.sweep_halving,
               .until_best = r->o.until_best,
               .argc = r->argc,
               .argv = r->argv};
    int rc = run_all(&s, r, e);
    for (size_t i = 0; i < s.prompt_count * s.axes.runs; i++) mem_free(s.pictures[i]);
    for (size_t i = 0; i < s.prompt_count; i++) mem_free(s.prompt[i]);
    char *owned[] = {s.dir, s.name, s.journal, s.prompts};
    for (int i = 0; i < 4; i++) mem_free(owned[i]);
    mem_free(s.pictures);
    mem_free(s.prompt);
    mem_free(s.run);
    train_shared_free(&s.shared);
    sweep_axes_free(&s.axes);
    return rc;
}
