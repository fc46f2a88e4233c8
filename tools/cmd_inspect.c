/* cmd_inspect.c - `sdc inspect FILE...`: what a model file is.
 *
 * Kind and architecture, element types, hashes as A1111 and kohya show them,
 * metadata. Nothing of the file is trusted: control bytes are escaped. A file
 * that cannot be used is described as far as possible and is then an error. */
#include <stdio.h>
#include <string.h>

#include "engine/hash.h"
#include "engine/io.h"
#include "engine/lora.h"
#include "engine/mem.h"
#include "models/checkpoint.h"
#include "tools/cmd.h"
#include "tools/options.h"

typedef struct {
    int tensors, full;
} Fields;

static const Option table[] = {
    {"tensors", 't', OPT_FLAG, offsetof(Fields, tensors), 0, 0, NULL, "list every tensor", NULL},
    {"full", 0, OPT_FLAG, offsetof(Fields, full), 0, 0, NULL, "do not shorten metadata", NULL},
};

enum { SHORT_VALUE = 160 };

/* Text from a file: control bytes as \xNN, at most limit bytes of it. */
static void print_text(const char *s, size_t limit)
{
    size_t n = strlen(s), end = n < limit ? n : limit;
    while (end < n && end > 0 && ((unsigned char)s[end] & 0xc0) == 0x80) end--;  /* whole letters */
    for (size_t i = 0; i < end; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c < 0x20 || c == 0x7f) printf("\\x%02x", c);
        else putchar(c);
    }
    if (end < n) printf("... (%zu bytes)", n);
}

static void print_field(const char *name, const char *value)
{
    printf("%-14s ", name);
    print_text(value, (size_t)-1);
    putchar('\n');
}

/* "980 (11.2 M elements: F16 976, F32 3, I64 1)" */
static void print_types(TensorFile *const *files, size_t n)
{
    size_t count = 0, of_type[FD_OTHER + 1] = {0};
    double elements = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < tensorfile_count(files[i]); j++, count++) {
            const FileTensor *t = tensorfile_at(files[i], j);
            elements += (double)t->count;
            of_type[t->dtype]++;
        }
    printf("%-14s %zu (%.4g M elements", "tensors", count, elements / 1e6);
    const char *sep = ": ";
    for (int d = 0; d <= FD_OTHER; d++)
        if (of_type[d]) {
            printf("%s%s %zu", sep, d == FD_OTHER ? "other" : file_dtype_name((FileDtype)d),
                   of_type[d]);
            sep = ", ";
        }
    printf(")\n");
}

static void print_tensors(const TensorFile *tf)
{
    for (size_t i = 0; i < tensorfile_count(tf); i++) {
        const FileTensor *t = tensorfile_at(tf, i);
        printf("  ");
        print_text(t->name, (size_t)-1);
        printf(" %s [", t->dtype_name);
        for (int j = 0; j < t->ndim; j++) printf("%s%lld", j ? "," : "", (long long)t->shape[j]);
        printf("]\n");
    }
}

static void print_meta(const TensorFile *tf, const Fields *f)
{
    for (size_t i = 0; i < tensorfile_meta_count(tf); i++) {
        const char *key, *value;
        tensorfile_meta_at(tf, i, &key, &value);
        printf("  ");
        print_text(key, SHORT_VALUE);
        printf(" = ");
        print_text(value, f->full ? (size_t)-1 : SHORT_VALUE);
        putchar('\n');
    }
}

/* ---- checkpoints ---------------------------------------------------------------------- */

static void print_widths(const char *name, const int *w)
{
    printf("%-14s %d %d %d %d\n", name, w[0], w[1], w[2], w[3]);
}

static int print_checkpoint(const char *path, int file, Err *e)
{
    Checkpoint *ck;
    size_t unused;
    TRY(checkpoint_open(&ck, path, e));
    const SdConfig *c = &ck->config;
    printf("%-14s %s checkpoint (%s, predicts %s)\n", "kind", config_name(c),
           file ? "single file" : "diffusers folder", c->v_prediction ? "v" : "noise");
    print_widths("U-Net", c->unet_width);
    printf("%-14s %d wide, %d layers, %d heads, %d tokens, %s\n", "text encoder", c->text_width,
           c->text_layers, c->text_heads, c->vocab, c->openclip ? "OpenCLIP" : "CLIP-L");
    print_widths("VAE", c->vae_width);
    print_types(ck->files, ck->file_count);
    int rc = checkpoint_unused(ck, NULL, NULL, &unused, e);
    if (!rc) printf("%-14s %zu (kept when merging)\n", "not weights", unused);
    checkpoint_close(ck);
    return rc;
}

/* ---- LoRA ------------------------------------------------------------------------------- */

typedef struct {
    int rank[2];
    float alpha[2];                        /* smallest, largest */
    size_t text, conv, algo[3], dora;
} LoraFacts;

static LoraFacts facts_of(const Lora *lo)
{
    LoraFacts f = {0};
    for (size_t i = 0; i < lo->count; i++) {
        const LoraModule *m = &lo->list[i];
        int rank = m->algo == LORA_LOKR ? m->rank2 : m->rank;
        if (rank && (!f.rank[0] || rank < f.rank[0])) f.rank[0] = rank;
        if (rank > f.rank[1]) f.rank[1] = rank;
        if (!i || m->alpha < f.alpha[0]) f.alpha[0] = m->alpha;
        if (!i || m->alpha > f.alpha[1]) f.alpha[1] = m->alpha;
        f.text += m->target->text != 0;
        f.conv += m->target->k == 3;
        f.algo[m->algo]++;
        f.dora += m->dora_of != LORA_NO_DORA;
    }
    return f;
}

static void print_algos(const LoraFacts *f)
{
    static const char *const names[] =
        {[LORA_PLAIN] = "LoRA", [LORA_LOHA] = "LoHa", [LORA_LOKR] = "LoKr"};
    const char *sep = "";
    printf("%-14s ", "kind");
    for (int i = 0; i < 3; i++) {
        if (!f->algo[i]) continue;
        printf("%s%s", sep, names[i]);
        sep = ", ";
    }
    printf("%s\n", f->dora ? " with DoRA" : "");
}

static int print_lora(const char *path, Err *e)
{
    LoraTarget *targets;
    size_t count;
    Lora lo;
    TRY(lora_targets_from_files(&path, 1, &targets, &count, e));
    int rc = lora_open(&lo, path, targets, count, e);
    if (!rc) {
        LoraFacts f = facts_of(&lo);
        print_algos(&f);
        printf("%-14s %zu (U-Net %zu, text encoder %zu; 3x3 convolutions %zu)\n", "modules",
               lo.count, lo.count - f.text, f.text, f.conv);
        if (!f.rank[1]) printf("%-14s full matrices\n", "rank");
        else if (f.rank[0] == f.rank[1]) printf("%-14s %d\n", "rank", f.rank[0]);
        else printf("%-14s %d to %d\n", "rank", f.rank[0], f.rank[1]);
        if (f.alpha[0] == f.alpha[1]) printf("%-14s %g\n", "alpha", (double)f.alpha[0]);
        else printf("%-14s %g to %g\n", "alpha", (double)f.alpha[0], (double)f.alpha[1]);
        if (lo.base) print_field("base model", lo.base);
        lora_close(&lo);
    }
    lora_targets_free(targets, count);
    return rc;
}

/* ---- any file ----------------------------------------------------------------------------- */

static int print_hashes(const TensorFile *tf, int lora, Err *e)
{
    const char *path = tensorfile_path(tf);
    char sha[HASH_HEX], data[HASH_HEX], old[HASH_LEGACY_HEX];
    TRY(hash_file(sha, path, e));
    TRY(hash_file_legacy(old, path, e));
    printf("%-14s %s\n", "sha256", sha);
    if (!strcmp(tensorfile_format(tf), "safetensors")) {
        TRY(hash_file_data(data, path, e));
        printf("%-14s %s\n", "sshs", data);
        if (lora) printf("%-14s %.12s (A1111, Civitai AutoV3)\n", "LoRA hash", data);
    }
    if (!lora) printf("%-14s %.10s (A1111), %s (old)\n", "model hash", sha, old);
    return 0;
}

static int is_lora(const char *kind)
{
    return kind && (!strcmp(kind, "a LoRA") || !strcmp(kind, "a LoHa adapter") ||
                    !strcmp(kind, "a LoKr adapter"));
}

static int has_unet(const TensorFile *tf)
{
    static const char start[] = "model.diffusion_model.";
    for (size_t i = 0; i < tensorfile_count(tf); i++)
        if (!strncmp(tensorfile_at(tf, i)->name, start, sizeof start - 1)) return 1;
    return 0;
}

/* What it is; the error of something that is nearly usable. */
static int print_kind(TensorFile *tf, Err *e)
{
    const char *kind = config_other_kind(tf), *path = tensorfile_path(tf);
    if (is_lora(kind)) TRY(print_lora(path, e));
    else if (!kind && has_unet(tf)) return print_checkpoint(path, 1, e);
    else print_field("kind", kind ? kind : "tensors of no known kind of model");
    print_types(&tf, 1);
    return 0;
}

static int inspect_file(const char *path, const Fields *f, Err *e)
{
    TensorFile *tf;
    TRY(tensorfile_open(&tf, path, e));
    print_field("file", path);
    print_field("format", tensorfile_format(tf));
    int rc = print_kind(tf, e);
    if (!rc) rc = print_hashes(tf, is_lora(config_other_kind(tf)), e);
    if (tensorfile_meta_count(tf)) printf("metadata\n");
    print_meta(tf, f);
    if (f->tensors) print_tensors(tf);
    tensorfile_close(tf);
    return rc;
}

static int inspect_folder(const char *path, const Fields *f, Err *e)
{
    Checkpoint *ck;
    print_field("folder", path);
    TRY(print_checkpoint(path, 0, e));
    if (!f->tensors) return 0;
    TRY(checkpoint_open(&ck, path, e));
    for (size_t i = 0; i < ck->file_count; i++) {
        print_field("file", tensorfile_path(ck->files[i]));
        print_tensors(ck->files[i]);
    }
    checkpoint_close(ck);
    return 0;
}

static int run(const Fields *f, const OptionList *paths, Err *e)
{
    if (!paths->count) return err_set(e, ERR_USAGE, "sdc inspect: a file or folder is expected");
    for (size_t i = 0; i < paths->count; i++) {
        if (i) putchar('\n');
        TRY(io_exists(paths->item[i]) == 2 ? inspect_folder(paths->item[i], f, e)
                                           : inspect_file(paths->item[i], f, e));
    }
    return 0;
}

int cmd_inspect(int argc, char **argv, Err *e)
{
    Fields f = {0};
    OptionList paths = {0};
    Options o = {.table = table, .count = sizeof table / sizeof *table, .fields = &f,
                 .command = "sdc inspect", .summary = "what a model file is", .rest = &paths};
    int help = 0;
    int rc = options_parse(&o, argc, argv, &help, e);
    if (!rc && help) options_help(&o, stdout);
    else if (!rc) rc = run(&f, &paths, e);
    options_free(&o);
    return rc;
}
