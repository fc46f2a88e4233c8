/* sample_options.c - the options of `sdc sample`; see sample.h. */
#include <stddef.h>
#include <string.h>
#include <strings.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "tokenizer/utf8.h"
#include "tools/machine.h"
#include "tools/sample.h"

#define AT(field) offsetof(SampleOptions, field)
#define HEADING(text) {NULL, 0, OPT_FLAG, 0, 0, 0, NULL, text, NULL}

const Option sample_table[] = {
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
const size_t sample_table_count = sizeof sample_table / sizeof *sample_table;

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

int sample_fill(char **field, const char *value, Err *e)
{
    if (!*field && !(*field = mem_strdup(value))) return err_nomem(e, strlen(value), "an option");
    return 0;
}

int sample_check_name(const char *option, const char *path, Err *e)
{
    static const char *const endings[] = {".png", ".jpg", ".jpeg"};
    const char *dot = strrchr(path, '.');
    for (int i = 0; dot && i < 3; i++)
        if (!strcasecmp(dot, endings[i])) return 0;
    return err_set(e, ERR_USAGE, "option --%s: %s does not end in .png or .jpg", option, path);
}

int sample_check(Options *opt, SampleOptions *o, Infotext *png, int *tags, Err *e)
{
    *tags = !o->from_png || !o->lora.count || options_given(opt, "prompt");
    if (o->from_png) TRY(sample_info_read(opt, o, png, e));
    if (!o->model) {
        const char *name = infotext_get(png, "Model");
        const char *hash = infotext_get(png, "Model hash");
        if (!name) return err_set(e, ERR_USAGE, "option --model is missing");
        return err_set(e, ERR_USAGE, "option --model is missing; the picture was made with %s "
                       "(hash %s)", name, hash ? hash : "unknown");
    }
    if (!o->prompt) return err_set(e, ERR_USAGE, "option --prompt is missing");
    TRY(sample_fill(&o->negative, "", e));
    TRY(sample_fill(&o->out, "out.png", e));
    TRY(sample_fill(&o->rng, "nv", e));
    TRY(clean(&o->prompt, e));
    TRY(clean(&o->negative, e));
    TRY(sample_check_name("output", o->out, e));
    if (o->grid) TRY(sample_check_name("grid", o->grid, e));
    if (has_editing(o->prompt) || has_editing(o->negative))
        sample_note("AND, [a:b:0.5] and [a|b] are read as plain text");
    if (strstr(o->negative, "<lora:"))
        sample_note("<lora:...> in the negative prompt has no effect");
    if (o->seed < 0) o->seed = machine_random_seed();
    return 0;
}

char *sample_file_name(const char *out, int i)
{
    const char *dot = strrchr(out, '.');
    return i ? mem_printf("%.*s-%d%s", (int)(dot - out), out, i, dot) : mem_strdup(out);
}

int sample_try_file(const char *path, Err *e)
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
