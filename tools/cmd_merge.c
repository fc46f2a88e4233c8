/* cmd_merge.c - `sdc merge`: LoRAs into a checkpoint, or into one LoRA.
 *
 *     sdc merge --model M --lora A:0.7 --lora B:0.4 --out merged.safetensors
 *     sdc merge --lora A:0.7 --lora B:0.3 [--rank R] --out c.safetensors
 *
 * Into a checkpoint every tensor keeps key, shape and (unless --save_precision)
 * dtype; changed ones are computed in f32 and rounded once, the others are
 * copied. The target of a merge may be one of its sources. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/lora_merge.h"
#include "engine/mem.h"
#include "models/checkpoint.h"
#include "tools/cmd.h"
#include "tools/options.h"

typedef struct {
    char *model, *out, *precision;
    OptionList loras;
    int rank;
} Fields;

static const Option table[] = {
    {"model", 'm', OPT_TEXT, offsetof(Fields, model), 0, 0, "FILE",
     "checkpoint to merge into; without it the LoRAs become one LoRA", "sd_model"},
    {"lora", 0, OPT_LIST, offsetof(Fields, loras), 0, 0, "FILE[:W[:TEW]]",
     "LoRA, weight (1), weight of the text encoder (W); repeatable", "loras"},
    {"out", 'o', OPT_TEXT, offsetof(Fields, out), 0, 0, "FILE", "file to write", "save_to"},
    {"rank", 'r', OPT_INT, offsetof(Fields, rank), 1, 65536, "R",
     "cut the merged LoRA to this rank (default: exact, ranks add up)", "new_rank"},
    {"save_precision", 0, OPT_TEXT, offsetof(Fields, precision), 0, 0, "TYPE",
     "float, fp16 or bf16 (default: the checkpoint's; float for a LoRA)", NULL},
};

/* The LoRAs of a merge, opened against one list of modules. */
typedef struct {
    LoraTarget *targets;
    size_t target_count;
    Lora *list;
    size_t count;
} Loras;

static void close_loras(Loras *ls)
{
    for (size_t i = 0; i < ls->count; i++) lora_close(&ls->list[i]);
    mem_free(ls->list);
    lora_targets_free(ls->targets, ls->target_count);
}

static int open_loras(Loras *ls, const OptionList *specs, Err *e)
{
    ls->list = mem_calloc(specs->count, sizeof *ls->list);
    if (!ls->list) return err_nomem(e, specs->count * sizeof *ls->list, "the list of LoRAs");
    for (; ls->count < specs->count; ls->count++)
        TRY(lora_open_spec(&ls->list[ls->count], specs->item[ls->count], ls->targets,
                           ls->target_count, e));
    return 0;
}

static int precision(const char *name, FileDtype *dt, Err *e)
{
    static const struct { const char *name; FileDtype dt; } known[] = {
        {"float", FD_F32}, {"fp32", FD_F32}, {"f32", FD_F32}, {"fp16", FD_F16}, {"f16", FD_F16},
        {"bf16", FD_BF16}};
    for (size_t i = 0; name && i < sizeof known / sizeof *known; i++)
        if (!strcmp(name, known[i].name)) {
            *dt = known[i].dt;
            return 0;
        }
    return name ? err_set(e, ERR_USAGE, "--save_precision %s: expected float, fp16 or bf16", name)
                : 0;
}

/* ---- into a checkpoint ------------------------------------------------------------ */

/* The module whose weight a parameter is, or NULL. */
static const LoraTarget *target_of(const Loras *ls, const CheckpointEntry *en)
{
    const char *path = en->layer->path;
    if (en->layer->lora == LORA_NONE || strcmp(en->name + strlen(path), ".weight")) return NULL;
    for (size_t i = 0; i < ls->target_count; i++)
        if (!strcmp(ls->targets[i].path, path)) return &ls->targets[i];
    return NULL;
}

static int merged_values(void *ctx, const CheckpointEntry *en, float *values, int *changed, Err *e)
{
    const Loras *ls = ctx;
    const LoraTarget *t = target_of(ls, en);
    for (size_t i = 0; t && i < ls->count; i++) {
        const LoraModule *m = lora_find(&ls->list[i], t);
        float weight = lora_weight(&ls->list[i], t);
        if (!m || weight == 0) continue;
        if (!*changed) TRY(checkpoint_read_f32(en, values, e));
        *changed = 1;
        TRY(lora_add_delta(m, weight, values, e));
    }
    return 0;
}

static int merge_into(const Checkpoint *ck, const Fields *f, Loras *ls, Err *e)
{
    CheckpointSave save = {.values = merged_values, .ctx = ls, .cast = f->precision != NULL};
    TRY(precision(f->precision, &save.dtype, e));
    TRY(layers_lora_targets(&ck->layers, &ls->targets, &ls->target_count, e));
    TRY(open_loras(ls, &f->loras, e));
    return checkpoint_save(ck, f->out, &save, e);
}

static int merge_model(const Fields *f, Loras *ls, Err *e)
{
    Checkpoint *ck;
    if (f->rank) return err_set(e, ERR_USAGE, "--rank is for merging LoRAs without --model");
    TRY(checkpoint_open(&ck, f->model, e));
    int rc = merge_into(ck, f, ls, e);
    checkpoint_close(ck);
    return rc;
}

/* ---- into one LoRA -------------------------------------------------------------------- */

/* kohya's minimum of metadata, ss_network_dim "Dynamic" where ranks differ. */
static int save_lora(const Lora *lo, const Fields *f, Err *e)
{
    FileDtype dt = FD_F32;
    int rank = lo->count ? lo->list[0].rank : 0;
    for (size_t i = 1; i < lo->count; i++)
        if (lo->list[i].rank != rank) rank = 0;
    char dim[32] = "Dynamic";
    if (rank) snprintf(dim, sizeof dim, "%d", rank);
    LoraMeta meta[5] = {{"ss_network_module", "networks.lora"}, {"ss_network_dim", dim},
                        {"ss_network_alpha", dim}};
    size_t n = 3;
    if (lo->base) {
        meta[n++] = (LoraMeta){"ss_base_model_version", lo->base};
        meta[n++] = (LoraMeta){"ss_v2", strncmp(lo->base, "sd_v2", 5) ? "False" : "True"};
    }
    TRY(precision(f->precision, &dt, e));
    return lora_save(f->out, lo->list, lo->count, dt, meta, n, e);
}

static int targets_of(Loras *ls, const OptionList *specs, Err *e)
{
    char **paths = mem_calloc(specs->count, sizeof *paths);
    float w, tew;
    int rc = paths ? 0 : err_nomem(e, specs->count * sizeof *paths, "the list of LoRAs");
    for (size_t i = 0; i < specs->count && !rc; i++)
        rc = lora_spec(specs->item[i], &paths[i], &w, &tew, e);
    if (!rc)
        rc = lora_targets_from_files((const char *const *)paths, specs->count, &ls->targets,
                                     &ls->target_count, e);
    for (size_t i = 0; paths && i < specs->count; i++) mem_free(paths[i]);
    mem_free(paths);
    return rc;
}

static int merge_loras(const Fields *f, Loras *ls, Err *e)
{
    Lora merged;
    double error = 0;
    TRY(targets_of(ls, &f->loras, e));
    TRY(open_loras(ls, &f->loras, e));
    TRY(lora_merge(&merged, ls->list, ls->count, ls->targets, ls->target_count, f->rank, &error,
                   e));
    int rc = save_lora(&merged, f, e);
    lora_close(&merged);
    if (!rc && f->rank)
        fprintf(stderr, "cut to rank %d: relative error %.3g\n", f->rank, error);
    return rc;
}

/* ----------------------------------------------------------------------------------------- */

static int run(const Fields *f, Err *e)
{
    Loras ls = {0};
    if (!f->loras.count) return err_set(e, ERR_USAGE, "no --lora given: what is to be merged?");
    if (!f->out) return err_set(e, ERR_USAGE, "no --out given: where is the result to go?");
    int rc = f->model ? merge_model(f, &ls, e) : merge_loras(f, &ls, e);
    close_loras(&ls);
    return rc;
}

int cmd_merge(int argc, char **argv, Err *e)
{
    Fields f = {0};
    Options o = {.table = table, .count = sizeof table / sizeof *table, .fields = &f,
                 .command = "sdc merge", .summary = "LoRAs into a checkpoint, or into one LoRA"};
    int help = 0;
    int rc = options_parse(&o, argc, argv, &help, e);
    if (!rc && help) options_help(&o, stdout);
    else if (!rc) rc = run(&f, e);
    options_free(&o);
    return rc;
}
