/* train_record.c - the settings of a run that chose some itself, in a file beside its
 * results. See train.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "tools/train.h"

static const char first_line[] = "# settings of an sdc train run; repeat it with: sdc train "
                                 "--config_file THIS_FILE\n";
enum { RECORD_MAX = 1 << 20 };

/* What belongs to a start of the program and not to the run. */
static int passing(const char *name)
{
    static const char *const names[] = {"resume", "config_file", "dry_run", "stop_after_steps",
                                        "preset", "trigger", "time", "sweep", "sweep_halving"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) return 1;
    return 0;
}

static char *record_path(const TrainRun *r)
{
    return mem_printf("%s/%s.toml", r->o.output_dir, r->o.output_name);
}

/* Runs that choose nothing have none: their command line is all there is. */
static int wanted(const TrainRun *r)
{
    return !r->recalled && (r->choice_count || r->o.time || r->find[GROUP_UNET] ||
                            r->find[GROUP_TEXT]);
}

/* ---- writing --------------------------------------------------------------------- */

typedef struct {
    IoFile f;
    Err *e;
    int rc;
} Toml;

static void put(Toml *t, const char *s, size_t n)
{
    if (!t->rc) t->rc = io_write(&t->f, s, n, t->e);
}

static void put_text(Toml *t, const char *s) { put(t, s, strlen(s)); }

static void put_string(Toml *t, const char *s)
{
    put(t, "\"", 1);
    for (; *s; s++) {
        char code[8];
        if (*s == '"' || *s == '\\') put(t, "\\", 1);
        snprintf(code, sizeof code, "\\u%04x", (unsigned char)*s);
        if ((unsigned char)*s < 32 || *s == 127) put_text(t, code);
        else put(t, s, 1);
    }
    put(t, "\"", 1);
}

static void put_value(Toml *t, const TrainRun *r, const Option *o)
{
    if (o->kind == OPT_LIST) {
        const OptionList *l = (const OptionList *)((const char *)&r->o + o->offset);
        put(t, "[", 1);
        for (size_t i = 0; i < l->count; i++) {
            if (i) put(t, ", ", 2);
            put_string(t, l->item[i]);
        }
        put(t, "]", 1);
        return;
    }
    char *value = options_text(&r->opt, o->name);
    if (!value) t->rc = t->rc ? t->rc : err_nomem(t->e, 64, "settings");
    else if (o->kind == OPT_TEXT || o->kind == OPT_MAYBE) put_string(t, value);
    else put_text(t, value);
    mem_free(value);
}

static void put_option(Toml *t, const TrainRun *r, const Option *o)
{
    const char *reason = train_reason(r, o->name);
    put_text(t, o->name);
    put_text(t, " = ");
    put_value(t, r, o);
    if (reason) put_text(t, "  # ");
    for (; reason && *reason; reason++) put(t, (unsigned char)*reason < 32 ? " " : reason, 1);
    put(t, "\n", 1);
}

static void put_all(Toml *t, const TrainRun *r)
{
    char seed[48];
    put_text(t, first_line);
    for (size_t i = 0; i < r->opt.count; i++) {
        const Option *o = &r->opt.table[i];
        if (!o->name || o->kind == OPT_REFUSED || o->kind == OPT_IGNORED || !r->opt.given[i] ||
            passing(o->name)) continue;
        put_option(t, r, o);
    }
    if (!options_given(&r->opt, "mixed_precision"))
        put_text(t, r->m.dtype == DT_BF16 ? "mixed_precision = \"bf16\"  # fast here\n"
                 : "mixed_precision = \"no\"\n");
    if (!r->o.train_vae && r->o.batch > 1 && !options_given(&r->opt, "micro_batch_size")) {
        snprintf(seed, sizeof seed, "micro_batch_size = %d\n", r->o.micro); /* sums in this order */
        put_text(t, seed);
    }
    snprintf(seed, sizeof seed, "seed = %lld  # drawn\n", (long long)r->o.seed);
    if (!options_given(&r->opt, "seed")) put_text(t, seed);
}

int train_record_write(const TrainRun *r, const char *path, Err *e)
{
    Toml t = {.e = e};
    TRY(io_create(&t.f, path, e));
    put_all(&t, r);
    if (!t.rc) return io_commit(&t.f, e);
    io_abort(&t.f);
    return t.rc;
}

int train_record(const TrainRun *r, Err *e)
{
    if (!wanted(r)) return 0;
    char *path = record_path(r);
    int rc = path ? train_record_write(r, path, e) : err_nomem(e, 64, "a file name");
    mem_free(path);
    if (!rc && r->prompts)
        rc = io_write_file(r->o.sample_prompts, r->prompts, strlen(r->prompts), e);
    return rc;
}

/* ---- reading --------------------------------------------------------------------- */

static int is_record(const char *path)
{
    char start[sizeof first_line] = "";
    io_read_small(start, sizeof start, path);
    return !strncmp(start, first_line, 20);
}

int train_record_check(const TrainRun *r, Err *e)
{
    if (!wanted(r)) return 0;
    char *path = record_path(r);
    if (!path) return err_nomem(e, 64, "a file name");
    int rc = 0;
    if (io_exists(path) == 1 && !is_record(path))
        rc = err_set(e, ERR_USAGE, "%s: the settings of this run go there, and another file has "
                                   "that name; give another "
                     "--output_name or --output_dir", path);
    mem_free(path);
    return rc;
}

/* What the command line leaves to the program, and the record knows. */
static void forget_what_was_found(TrainRun *r)
{
    const struct { const char *name; double *rate; } list[] = {
        {"learning_rate", &r->o.lr}, {"unet_lr", &r->o.unet_lr},
        {"text_encoder_lr", &r->o.text_lr}};
    for (size_t i = 0; i < 3; i++)
        if (*list[i].rate == OPTION_AUTO) {
            options_forget(&r->opt, list[i].name);
            *list[i].rate = NAN;
        }
    if (!r->o.time) return;
    options_forget(&r->opt, "max_train_epochs");
    options_forget(&r->opt, "max_train_steps");
    r->o.epochs = r->o.steps = 0;
}

int train_recall(TrainRun *r, Err *e)
{
    const TrainOptions *o = &r->o;
    TRY(train_preset_names(r, e));
    int found = o->lr == OPTION_AUTO || o->unet_lr == OPTION_AUTO || o->text_lr == OPTION_AUTO;
    if (!o->resume || !(o->preset || o->trigger || o->time || found)) return 0;
    char *path = record_path(r), *state = mem_printf("%s/%s-state.safetensors", r->o.output_dir,
                                                     r->o.output_name);
    int rc = path && state ? 0 : err_nomem(e, 64, "a file name");
    int there = !rc && (*r->o.resume || io_exists(state) == 1) && io_exists(path) == 1 &&
                is_record(path);
    if (there) forget_what_was_found(r);
    if (there) rc = options_file(&r->opt, path, e);
    r->recalled = there;
    if (there && !rc) fprintf(stderr, "settings   of the first start, from %s\n", path);
    mem_free(path);
    mem_free(state);
    return rc;
}
