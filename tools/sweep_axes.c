/* sweep_axes.c - see sweep.h. */
#include <string.h>

#include "engine/mem.h"
#include "tools/sweep.h"

/* Short names beside the table's own names and aliases. */
static const char *full_name(const char *name)
{
    static const char *const names[][2] = {
        {"lr", "learning_rate"}, {"te_lr", "text_encoder_lr"}, {"dim", "network_dim"}, {"rank", "network_dim"},
        {"alpha", "network_alpha"}, {"epochs", "max_train_epochs"}, {"steps", "max_train_steps"},
        {"batch", "train_batch_size"}, {"repeats", "num_repeats"}, {"scheduler", "lr_scheduler"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i][0])) return names[i][1];
    return name;
}

static int add_value(SweepAxis *x, const char *value, Err *e)
{
    char **item = mem_grow(x->values.item, x->values.count, &x->values.cap, sizeof *item);
    if (item) x->values.item = item;
    char *copy = item ? mem_strdup(value) : NULL;
    if (!copy) return err_nomem(e, strlen(value), "the sweep");
    for (size_t i = 0; i < x->values.count; i++)
        if (!strcmp(item[i], value)) {
            mem_free(copy);
            return err_set(e, ERR_USAGE, "option --sweep: %s has the value %s twice", x->label,
                           value);
        }
    item[x->values.count++] = copy;
    return 0;
}

/* Names that say where a run's files are, or that do not belong to a run. */
static int fixed(const char *option)
{
    static const char *const names[] = {"output_name",    "output_dir",
                                        "resume",         "config_file",
                                        "sweep",          "sweep_halving",
                                        "dry_run",        "validation_split",
                                        "validation_dir", "validation_seed",
                                        "sample_prompts", "vae"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(option, names[i])) return 1;
    return 0;
}

static int find_axis(SweepAxis **x, SweepAxes *a, const char *label, const Options *opt, Err *e)
{
    const Option *o = options_find(opt, full_name(label));
    if (!o || o->kind == OPT_REFUSED || o->kind == OPT_IGNORED || o->kind == OPT_LIST ||
        o->kind == OPT_AXES)
        return err_set(e, ERR_USAGE,
                       "option --sweep: \"%s\" is no option that can be varied; names are those "
                       "of sdc train --help, and lr, te_lr, dim, alpha, repeats, epochs, steps, "
                       "batch, optimizer", label);
    if (fixed(o->name))
        return err_set(e, ERR_USAGE, "option --sweep: %s must be the same in all runs", o->name);
    for (size_t i = 0; i < a->count; i++)
        if (a->axis[i].option == o->name) return *x = &a->axis[i], 0;
    if (a->count == SWEEP_AXES)
        return err_set(e, ERR_USAGE, "option --sweep: more than %d options", SWEEP_AXES);
    *x = &a->axis[a->count++];
    **x = (SweepAxis){.option = o->name, .label = mem_strdup(label)};
    return (*x)->label ? 0 : err_nomem(e, strlen(label), "the sweep");
}

/* One word of --sweep: NAME=VALUE,VALUE... Cut in place. */
static int add_word(SweepAxes *a, char *word, const Options *opt, Err *e)
{
    SweepAxis *x = NULL;
    char *eq = strchr(word, '=');
    if (!eq || eq == word || !eq[1])
        return err_set(e, ERR_USAGE, "option --sweep: \"%s\" is not NAME=VALUE,VALUE...", word);
    *eq = 0;
    TRY(find_axis(&x, a, word, opt, e));
    for (char *at = eq + 1, *next; at; at = next) {
        if ((next = strchr(at, ','))) *next++ = 0;
        if (!*at) return err_set(e, ERR_USAGE, "option --sweep: %s has an empty value", word);
        TRY(add_value(x, at, e));
    }
    return 0;
}

static int add_text(SweepAxes *a, const char *text, const Options *opt, Err *e)
{
    char *copy = mem_strdup(text), *rest = NULL;
    int rc = copy ? 0 : err_nomem(e, strlen(text), "the sweep");
    for (char *word = copy ? strtok_r(copy, " \t\n", &rest) : NULL; word && !rc;
         word = strtok_r(NULL, " \t\n", &rest))
        rc = add_word(a, word, opt, e);
    mem_free(copy);
    return rc;
}

static int check(SweepAxes *a, const Options *opt, Err *e)
{
    int lr = 0;
    a->runs = 1;
    for (size_t i = 0; i < a->count; i++) {
        lr |= !strcmp(a->axis[i].option, "learning_rate");
        a->runs *= a->axis[i].values.count;
        if (a->runs > SWEEP_RUNS)
            return err_set(e, ERR_USAGE, "option --sweep: more than %d runs", SWEEP_RUNS);
    }
    if (a->runs < 2)
        return err_set(e, ERR_USAGE,
                       "option --sweep: one run only; give several values, \"lr=1e-4,3e-4\"");
    if (lr && options_given(opt, "unet_lr"))
        return err_set(e, ERR_USAGE,
                       "option --sweep: learning_rate has no effect beside --unet_lr; leave that "
                       "out, or vary unet_lr");
    return 0;
}

int sweep_axes(SweepAxes *a, const OptionList *text, const Options *opt, Err *e)
{
    *a = (SweepAxes){0};
    int rc = 0;
    for (size_t i = 0; !rc && i < text->count; i++) rc = add_text(a, text->item[i], opt, e);
    if (!rc) rc = check(a, opt, e);
    if (rc) sweep_axes_free(a);
    return rc;
}

void sweep_axes_free(SweepAxes *a)
{
    for (size_t i = 0; i < a->count; i++) {
        SweepAxis *x = &a->axis[i];
        for (size_t k = 0; k < x->values.count; k++) mem_free(x->values.item[k]);
        mem_free(x->values.item);
        mem_free(x->label);
    }
    *a = (SweepAxes){0};
}

const char *sweep_value(const SweepAxes *a, size_t k, size_t i)
{
    for (size_t j = a->count - 1; j > k; j--) i /= a->axis[j].values.count;
    return a->axis[k].values.item[i % a->axis[k].values.count];
}

char *sweep_label(const SweepAxes *a, size_t from, size_t to, size_t i)
{
    char *s = mem_strdup("");
    for (size_t k = from; s && k < to; k++) {
        char *more =
            mem_printf("%s%s%s=%s", s, k > from ? " " : "", a->axis[k].label, sweep_value(a, k, i));
        mem_free(s);
        s = more;
    }
    return s;
}
