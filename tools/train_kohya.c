/* train_kohya.c - command lines that were made for kohya's scripts, pasted as they are:
 *
 *     sdc train accelerate launch --num_cpu_threads_per_process 1 train_network.py --...
 *
 * and what is not as kohya's defaults would have it.
 */
#include <stdio.h>
#include <string.h>

#include "engine/mem.h"
#include "tools/train.h"

/* Python scripts of sd-scripts by the beginning of their names. */
static const struct {
    const char *name, *refused;
    int full;
} scripts[] = {
    {"train_network.py", NULL, 0}, {"train_db.py", NULL, 1}, {"fine_tune.py", NULL, 1},
    {"train_textual_inversion", "trains an embedding; give the options of train_network.py", 0},
    {"train_controlnet", "trains a ControlNet, which sdc does not", 0},
    {"sdxl_", "is for SDXL, which sdc does not train", 0},
    {"sd3_", "is for SD 3, which sdc does not train", 0},
    {"flux_", "is for Flux, which sdc does not train", 0},
    {"lumina_", "is for Lumina, which sdc does not train", 0},
};

/* kohya's launcher also runs modules and shell prefixes: the script is what ends in .py. */
static int find_script(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        size_t n = strlen(argv[i]);
        if (n > 3 && argv[i][0] != '-' && !strcmp(argv[i] + n - 3, ".py")) return i;
    }
    return 0;
}

int train_kohya_command(TrainRun *r, int argc, char **argv, int *skip, Err *e)
{
    int at = find_script(argc, argv);
    *skip = 0;
    if (!at || strcspn(argv[1], "-") == 0) return 0;       /* options first: a file of the user's */
    const char *slash = strrchr(argv[at], '/'), *name = slash ? slash + 1 : argv[at];
    for (size_t i = 0; i < sizeof scripts / sizeof *scripts; i++) {
        if (strncmp(name, scripts[i].name, strlen(scripts[i].name))) continue;
        if (scripts[i].refused) return err_set(e, ERR_USAGE, "%s %s", name, scripts[i].refused);
        if (scripts[i].full) {
            fprintf(stderr, "note: %s trains the whole model: --full\n", name);
            r->o.full = 1;
        }
        *skip = at;
        return 0;
    }
    return err_set(e, ERR_USAGE, "%s is not a script that sdc train stands for; train_network.py, "
                                 "train_db.py and "
                   "fine_tune.py are", name);
}

/* What a run does when an option is not given, there and here. */
void train_print_defaults(const TrainRun *r)
{
    const TrainOptions *o = &r->o;
    static const struct { const char *name, *kohyas; int lora; } list[] = {
        {"network_dim", "4", 1}, {"network_alpha", "1", 1}, {"unet_lr", "2e-06", 1},
        {"text_encoder_lr", "2e-06", 1},
        {"learning_rate", "2e-06", 0}, {"save_precision", "float", 0}, {"enable_bucket", "false", 0},
    };
    char line[600];
    size_t at = 0;
    int rates = options_given(&r->opt, "learning_rate");
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        const char *name = list[i].name;
        int rate = strstr(name, "_lr") != NULL;
        if (options_given(&r->opt, name) || (list[i].lora && (o->full || o->train_vae)) ||
            (rate && rates))
            continue;
        if (!strcmp(name, "learning_rate") && !o->full && !o->train_vae) continue;
        char *value = options_text(&r->opt, name);
        if (value && *value && strcmp(value, list[i].kohyas))
            at += (size_t)snprintf(line + at, sizeof line - at, "%s%s %s (%s)", at ? ", " : "",
                                   name, value, list[i].kohyas);
        mem_free(value);
    }
    if (!options_given(&r->opt, "max_train_epochs") && !options_given(&r->opt, "max_train_steps"))
        at += (size_t)snprintf(line + at, sizeof line - at, "%s10 epochs (1600 steps)",
                               at ? ", " : "");
    if (!options_given(&r->opt, "mixed_precision") && r->m.dtype == DT_BF16)
        at += (size_t)snprintf(line + at, sizeof line - at, "%smixed_precision bf16 (no)",
                               at ? ", " : "");
    if (!options_given(&r->opt, "caption_extension"))
        at += (size_t)snprintf(line + at, sizeof line - at, "%s.txt before .caption (.caption)",
                               at ? ", " : "");
    if (at) fprintf(stderr, "defaults   not kohya's, in brackets: %s\n", line);
}
