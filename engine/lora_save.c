/* lora_save.c - writes LoRA files with kohya's and LyCORIS's names.
 *
 * The hashes stand in the header but depend on what follows it, so the file is
 * made twice: first a dry run with the ss_* metadata alone, which is what kohya
 * hashes (library/train_util.py, precalculate_safetensors_hashes). */
#include <stdlib.h>
#include <string.h>

#include "engine/lora.h"
#include "engine/mem.h"

enum { PIECES = LORA_FACTORS + 1 };        /* and alpha */

/* One tensor of the file. */
typedef struct {
    char *name;
    const float *values;
    int ndim;
    int64_t dim[4];
    size_t count;
} Out;

typedef struct {
    Out *list;
    size_t count;
    FileDtype dtype;
    const LoraMeta *meta;
    size_t meta_count;
} Job;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const Out *)a)->name, ((const Out *)b)->name);
}

static int name_vs_out(const void *name, const void *o)
{
    return strcmp(name, ((const Out *)o)->name);
}

static int declare(const Job *job, TensorWriter *w, Err *e)
{
    for (size_t i = 0; i < job->count; i++)
        TRY(tensorwriter_add(w, job->list[i].name, job->dtype, job->list[i].ndim, job->list[i].dim,
                             e));
    return 0;
}

/* The whole file into w. hashes: NULL on the dry run, which has ss_* only. */
static int write_all(const Job *job, TensorWriter *w, const LoraMeta hashes[2], Err *e)
{
    for (size_t i = 0; i < job->meta_count; i++)
        if (hashes || !strncmp(job->meta[i].key, "ss_", 3))
            TRY(tensorwriter_meta(w, job->meta[i].key, job->meta[i].value, e));
    for (int i = 0; hashes && i < 2; i++)
        TRY(tensorwriter_meta(w, hashes[i].key, hashes[i].value, e));
    TRY(declare(job, w, e));
    TRY(tensorwriter_begin(w, e));
    for (const char *name; (name = tensorwriter_next(w));) {
        const Out *o = bsearch(name, job->list, job->count, sizeof *job->list, name_vs_out);
        TRY(tensorwriter_write_f32(w, o->values, o->count, e));
    }
    return 0;
}

static int save(const Job *job, const char *path, Err *e)
{
    TensorWriter *w;
    char data[65], legacy[9];
    TRY(tensorwriter_new(&w, NULL, e));
    int rc = write_all(job, w, NULL, e);
    if (!rc) tensorwriter_data_sha256(w, data);
    if (!rc) tensorwriter_legacy_hash(w, legacy);
    tensorwriter_abort(w);
    TRY(rc);
    TRY(tensorwriter_new(&w, path, e));
    const LoraMeta hashes[2] = {{"sshs_model_hash", data}, {"sshs_legacy_hash", legacy}};
    rc = write_all(job, w, hashes, e);
    if (!rc) return tensorwriter_commit(w, e);
    tensorwriter_abort(w);
    return rc;
}

static int add_out(Job *job, const LoraModule *m, const char *suffix, Out o, Err *e)
{
    o.name = mem_printf("%s.%s", m->target->name, suffix);
    if (!o.name) return err_nomem(e, strlen(m->target->name) + 32, "a LoRA");
    job->list[job->count++] = o;
    return 0;
}

static int add_module(Job *job, LoraModule m, const float *alpha, Err *e)
{
    LoraFactor f[LORA_FACTORS];
    int n = lora_factors(&m, f);
    for (int i = 0; i < n; i++) {
        Out o = {.values = *f[i].values, .ndim = f[i].ndim, .count = lora_factor_count(&f[i])};
        memcpy(o.dim, f[i].dim, sizeof o.dim);
        TRY(add_out(job, &m, f[i].suffix, o, e));
    }
    return add_out(job, &m, "alpha", (Out){.values = alpha, .count = 1}, e);
}

int lora_save(const char *path, const LoraModule *list, size_t count, FileDtype dtype,
              const LoraMeta *meta, size_t meta_count, Err *e)
{
    Job job = {.dtype = dtype, .meta = meta, .meta_count = meta_count};
    int rc = 0;
    job.list = mem_calloc(count * PIECES, sizeof *job.list);
    if (!job.list) return err_nomem(e, count * PIECES * sizeof *job.list, "a LoRA");
    for (size_t i = 0; i < count && !rc; i++) rc = add_module(&job, list[i], &list[i].alpha, e);
    if (!rc) {
        if (job.count) qsort(job.list, job.count, sizeof *job.list, by_name);
        rc = save(&job, path, e);
    }
    for (size_t i = 0; i < job.count; i++) mem_free(job.list[i].name);
    mem_free(job.list);
    return rc;
}
