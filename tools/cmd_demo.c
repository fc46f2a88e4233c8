/* cmd_demo.c - `sdc demo`: the whole job in small, offline, within minutes.
 *
 * Trains a LoRA on eight cat faces that the pocket model has never seen, and
 * draws the same prompts with the same seeds without and with it, two unseen
 * expressions among them. It only runs other commands, and prints them.
 */
#include <stdio.h>
#include <string.h>

#include "engine/grid.h"
#include "engine/image.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "tools/cmd.h"
#include "tools/machine.h"
#include "tools/options.h"
#include "tools/pocket.h"
#include "tools/prompts.h"

enum { ARGS_MAX = 64 };

typedef struct {
    char *out, *data;              /* where results go; the folder of the pocket model */
    int steps;
} DemoOptions;

static const Option demo_options[] = {
    {"output_dir", 'o', OPT_TEXT, offsetof(DemoOptions, out), 0, 0, "DIR", "where results go (demo)", NULL},
    {"data", 'd', OPT_TEXT, offsetof(DemoOptions, data), 0, 0, "DIR", "the pocket model's folder (found by itself)", NULL},
    {"steps", 0, OPT_INT, offsetof(DemoOptions, steps), 1, 100000, "N", "training steps (300)", NULL},
};

/* ---- running commands ---------------------------------------------------- */

typedef struct {
    char *argv[ARGS_MAX];          /* owned */
    int argc;
} Args;

/* Words of text, with %d, %o, %s for data folder, output folder, steps; a word
 * in which they stand may hold blanks after that. */
static int words(Args *a, const char *text, const DemoOptions *o, Err *e)
{
    while (*(text += strspn(text, " "))) {
        size_t n = strcspn(text, " ");
        char word[256], steps[16];
        snprintf(word, sizeof word, "%.*s", (int)n, text);
        snprintf(steps, sizeof steps, "%d", o->steps);
        char *mark = strchr(word, '%');
        const char *by = !mark ? "" : mark[1] == 'd' ? o->data : mark[1] == 'o' ? o->out : steps;
        if (mark) *mark = 0;
        char *full = mem_printf("%s%s%s", word, by, mark ? mark + 2 : "");
        if (!full || a->argc == ARGS_MAX) {
            mem_free(full);
            return err_nomem(e, 64, "a command");
        }
        a->argv[a->argc++] = full;
        text += n;
    }
    return 0;
}

static int run(const char *text, cmd_fn *cmd, const DemoOptions *o, Err *e)
{
    Args a = {0};
    int rc = words(&a, text, o, e);
    if (!rc) {
        printf("\n$ sdc");
        for (int i = 0; i < a.argc; i++)
            printf(strchr(a.argv[i], ' ') ? " '%s'" : " %s", a.argv[i]);
        printf("\n");
        fflush(stdout);
        rc = cmd(a.argc, a.argv, e);
    }
    for (int i = 0; i < a.argc; i++) mem_free(a.argv[i]);
    return rc;
}

/* ---- the picture --------------------------------------------------------- */

/* Picture i of a row: row.png, row-1.png, ... as `sdc sample` names them. */
static int load_cell(Image *im, const DemoOptions *o, const char *row, size_t i, Err *e)
{
    char *path =
        i ? mem_printf("%s/%s-%zu.png", o->out, row, i) : mem_printf("%s/%s.png", o->out, row);
    int rc = path ? image_load(im, path, e) : err_nomem(e, 64, "a path");
    if (!rc) image_drop_alpha(im);
    mem_free(path);
    return rc;
}

static int compose(const DemoOptions *o, const SamplePrompts *p, Err *e)
{
    static const char *const rows[] = {"before", "after"}, *const labels[] = {"without LoRA",
                                                                              "with LoRA"};
    size_t n = p->count;
    Image *cells = mem_calloc(2 * n, sizeof *cells), sheet = {0};
    const char **columns = mem_calloc(n, sizeof *columns);
    int rc = cells && columns ? 0 : err_nomem(e, 2 * n * sizeof *cells, "the picture");
    for (size_t i = 0; !rc && i < 2 * n; i++) rc = load_cell(&cells[i], o, rows[i / n], i % n, e);
    for (size_t i = 0; !rc && i < n; i++) columns[i] = p->list[i].text;
    Grid g = {.rows = 2, .cols = (int)n, .margin = 4, .row_labels = labels, .col_labels = columns};
    char *path = mem_printf("%s/before_after.png", o->out);
    if (!rc && !path) rc = err_nomem(e, 64, "a path");
    if (!rc) rc = grid_compose(&sheet, cells, 2 * n, &g, e);
    if (!rc) rc = image_save(path, &sheet, NULL, e);
    image_free(&sheet);
    for (size_t i = 0; cells && i < 2 * n; i++) image_free(&cells[i]);
    mem_free(cells);
    mem_free(columns);
    mem_free(path);
    return rc;
}

static int demo(DemoOptions *o, Err *e)
{
    double start = machine_seconds();
    SamplePrompts p = {0};
    if (!o->out && !(o->out = mem_strdup("demo"))) return err_nomem(e, 8, "a path");
    if (!o->data) TRY(pocket_find(&o->data, "pocket.safetensors", "--data", e));
    TRY(io_mkdirs(o->out, e));
    TRY(run(
            "train -m %d/pocket.safetensors -d %d/cats -o %o --output_name cats --resolution 128 "
            "--network_dim 16 --network_alpha 16 --network_args conv_dim=16 conv_alpha=16 "
            "--train_batch_size 4 --max_train_steps %s --unet_lr 2e-3 --text_encoder_lr 5e-4 "
            "--lr_scheduler cosine --min_snr_gamma 5 --validation_dir %d/held --seed 1",
            cmd_train, o, e));
    TRY(run("sample -m %d/pocket.safetensors --prompt_file %d/prompts-cats.txt -o %o/before.png",
            cmd_sample, o, e));
    TRY(run(
            "sample -m %d/pocket.safetensors --lora %o/cats.safetensors --prompt_file "
            "%d/prompts-cats.txt -o %o/after.png", cmd_sample, o, e));
    char *prompts = mem_printf("%s/prompts-cats.txt", o->data);
    int rc = prompts ? prompts_read(&p, prompts, e) : err_nomem(e, 64, "a path");
    if (!rc) rc = compose(o, &p, e);
    prompts_free(&p);
    mem_free(prompts);
    if (!rc) printf("\n%s/before_after.png  (%.0f seconds)\n", o->out, machine_seconds() - start);
    return rc;
}

int cmd_demo(int argc, char **argv, Err *e)
{
    DemoOptions o = {.steps = 300};
    Options opt = {demo_options, sizeof demo_options / sizeof *demo_options, &o, "sdc demo",
                   "train a LoRA on eight cat faces and draw with it", NULL, NULL};
    int help = 0, rc = options_parse(&opt, argc, argv, &help, e);
    if (!rc && help) options_help(&opt, stdout);
    else if (!rc) rc = demo(&o, e);
    options_free(&opt);
    return rc;
}
