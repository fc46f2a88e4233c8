/* lora_save.c - writes kohya LoRA files.
 *
 * The hashes stand in the header but depend on what follows it, so the file is
 * made twice: first a dry run with the ss_* metadata alone, which is what kohya
 * hashes (library/train_util.py, precalculate_safetensors_hashes). */
#include <stdlib.h>
#include <string.h>

#include "engine/lora.h"
#include "engine/mem.h"

typedef enum { DOWN, UP, ALPHA, PIECES } Piece;

static const char *const suffix[PIECES] = {
    [DOWN] = ".lora_down.weight", [UP] = ".lora_up.weight", [ALPHA] = ".alpha"};

/* One tensor of the file. */
typedef struct {
    char *name;
    const LoraModule *m;
    Piece piece;
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
    for (size_t i = 0; i < job->count; i++) {
        const Out *o = &job->list[i];
        const LoraTarget *t = o->m->target;
        int64_t down[4] = {o->m->rank, t->in, t->k, t->k}, up[4] = {t->out, o->m->rank, 1, 1};
        int ndim = o->piece == ALPHA ? 0 : t->conv ? 4 : 2;
        TRY(tensorwriter_add(w, o->name, job->dtype, ndim, o->piece == DOWN ? down : up, e));
    }
    return 0;
}

static int write_one(TensorWriter *w, const Out *o, Err *e)
{
    const LoraModule *m = o->m;
    size_t in = (size_t)m->target->in * (size_t)m->target->k * (size_t)m->target->k;
    size_t rank = (size_t)m->rank;
    if (o->piece == ALPHA) return tensorwriter_write_f32(w, &m->alpha, 1, e);
    if (o->piece == DOWN) return tensorwriter_write_f32(w, m->down, rank * in, e);
    return tensorwriter_write_f32(w, m->up, (size_t)m->target->out * rank, e);
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
    for (const char *name; (name = tensorwriter_next(w));)
        TRY(write_one(w, bsearch(name, job->list, job->count, sizeof *job->list, name_vs_out), e));
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

int lora_save(const char *path, const LoraModule *list, size_t count, FileDtype dtype,
              const LoraMeta *meta, size_t meta_count, Err *e)
{
    Job job = {.dtype = dtype, .meta = meta, .meta_count = meta_count};
    int rc = 0;
    job.list = mem_calloc(count * PIECES, sizeof *job.list);
    if (!job.list) return err_nomem(e, count * PIECES * sizeof *job.list, "a LoRA");
    for (size_t i = 0; i < count * PIECES && !rc; i++) {
        const LoraModule *m = &list[i / PIECES];
        Piece piece = (Piece)(i % PIECES);
        if (m->up2 || m->dora) {
            rc = err_set(e, ERR_FAIL, "module %s is %s, which is not written", m->target->name,
                         m->dora ? "DoRA" : "LoHa");
            break;
        }
        char *name = mem_printf("%s%s", m->target->name, suffix[piece]);
        if (!name) rc = err_nomem(e, strlen(m->target->name) + 32, "a LoRA");
        else job.list[job.count++] = (Out){name, m, piece};
    }
    if (!rc) {
        if (job.count) qsort(job.list, job.count, sizeof *job.list, by_name);
        rc = save(&job, path, e);
    }
    for (size_t i = 0; i < job.count; i++) mem_free(job.list[i].name);
    mem_free(job.list);
    return rc;
}
