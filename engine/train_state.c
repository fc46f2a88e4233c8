/* train_state.c - a Trainer on disk (train.h): one safetensors file.
 *
 *   metadata   sdc_train_state "1", step, and the facts of the run
 *   F32        "param/<name>" in file layout, "losses"; "points": step, held_out and training
 *              of each (whole numbers below 2^24 are exact); absent when there are none
 *   U8         "state/<blob>": the optimizer's exact bytes (optim.h)
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/mem.h"
#include "engine/tensorfile.h"
#include "engine/train.h"

enum { NAME = 256 };

typedef struct {
    TensorWriter *w;
    const TensorFile *f;
    int wrote;               /* this pass over the optimizer wrote something */
} State;

static const char *blob_name(char *buf, const char *name)
{
    snprintf(buf, NAME, "state/%s", name);
    return buf;
}

/* optim_save_fn: first pass, sizes */
static int declare_blob(void *ctx, const char *name, const void *bytes, size_t size, Err *e)
{
    char buf[NAME];
    (void)bytes;
    return tensorwriter_add(((State *)ctx)->w, blob_name(buf, name), FD_U8, 1,
                            (int64_t[]){(int64_t)size}, e);
}

/* optim_save_fn: writes the blob if it is the one that is due */
static int write_blob(void *ctx, const char *name, const void *bytes, size_t size, Err *e)
{
    State *s = ctx;
    char buf[NAME];
    const char *due = tensorwriter_next(s->w);
    if (!due || strcmp(due, blob_name(buf, name))) return 0;
    s->wrote = 1;
    return tensorwriter_write(s->w, bytes, size, e);
}

static int declare(const Trainer *t, State *s, const TrainFact *facts, size_t count, Err *e)
{
    char buf[NAME];
    TRY(tensorwriter_meta(s->w, "sdc_train_state", "1", e));
    snprintf(buf, sizeof buf, "%" PRIu32, t->step);
    TRY(tensorwriter_meta(s->w, "step", buf, e));
    for (size_t i = 0; i < count; i++)
        TRY(tensorwriter_meta(s->w, facts[i].key, facts[i].value, e));
    for (size_t i = 0; i < t->ps->count; i++) {
        const Param *p = t->ps->list[i];
        if (!p->trainable) continue;
        snprintf(buf, sizeof buf, "param/%s", p->name);
        TRY(tensorwriter_add(s->w, buf, FD_F32, 1, (int64_t[]){(int64_t)p->count}, e));
    }
    TRY(tensorwriter_add(s->w, "losses", FD_F32, 1, (int64_t[]){t->c.loss_window}, e));
    if (t->point_count)
        TRY(tensorwriter_add(s->w, "points", FD_F32, 2, (int64_t[]){(int64_t)t->point_count, 3},
                             e));
    TRY(optim_save(t->optim, declare_blob, s, e));
    return tensorwriter_begin(s->w, e);
}

static int write_param(const Trainer *t, State *s, const char *name, Err *e)
{
    const Param *p = params_find(t->ps, name);
    float *v = mem_alloc(p->count * sizeof(float));
    if (!v) return err_nomem(e, p->count * 4, name);
    int rc = params_read(t->ps, p, v, e);
    if (!rc) rc = tensorwriter_write_f32(s->w, v, p->count, e);
    mem_free(v);
    return rc;
}

static int write_points(const Trainer *t, State *s, Err *e)
{
    float *v = mem_alloc(t->point_count * 3 * sizeof *v);
    if (!v) return err_nomem(e, t->point_count * 12, "points");
    for (size_t i = 0; i < t->point_count; i++) {
        const TrainPoint *p = &t->points[i];
        memcpy(v + 3 * i, (float[]){(float)p->step, p->held_out, p->training}, 3 * sizeof *v);
    }
    int rc = tensorwriter_write_f32(s->w, v, t->point_count * 3, e);
    mem_free(v);
    return rc;
}

static int write_all(const Trainer *t, State *s, Err *e)
{
    for (const char *due; (due = tensorwriter_next(s->w));) {
        if (!strncmp(due, "param/", 6)) TRY(write_param(t, s, due + 6, e));
        else if (!strcmp(due, "losses"))
            TRY(tensorwriter_write_f32(s->w, t->window, t->c.loss_window, e));
        else if (!strcmp(due, "points")) TRY(write_points(t, s, e));
        else {
            /* the optimizer lists its blobs in (nearly) the file's order: one pass or few */
            s->wrote = 0;
            TRY(optim_save(t->optim, write_blob, s, e));
            if (!s->wrote) return err_set(e, ERR_FAIL, "optimizer state %s was not written", due);
        }
    }
    return 0;
}

int train_save(const Trainer *t, const char *path, const TrainFact *facts, size_t count, Err *e)
{
    State s = {0};
    TRY(tensorwriter_new(&s.w, path, e));
    int rc = declare(t, &s, facts, count, e);
    if (!rc) rc = write_all(t, &s, e);
    if (rc) tensorwriter_abort(s.w);
    else rc = tensorwriter_commit(s.w, e);
    return rc;
}

/* optim_load_fn */
static int read_blob(void *ctx, const char *name, void *bytes, size_t size, Err *e)
{
    const State *s = ctx;
    char buf[NAME];
    const FileTensor *ft = tensorfile_find(s->f, blob_name(buf, name));
    if (!ft || ft->dtype != FD_U8 || (size_t)ft->count != size)
        return err_set(e, ERR_INPUT, "%s: tensor %s is missing or of another size",
                       tensorfile_path(s->f), buf);
    return tensorfile_read_raw(s->f, ft, 0, ft->count, bytes, e);
}

static int check_facts(const TensorFile *f, const TrainFact *facts, size_t count, Err *e)
{
    for (size_t i = 0; i < count; i++) {
        const char *was = tensorfile_meta(f, facts[i].key);
        if (!was || strcmp(was, facts[i].value))
            return err_set(e, ERR_USAGE,
                           "%s: --%s was \"%s\" in this run and is \"%s\" now; give the old value "
                           "to resume, or start a new output_name",
                           tensorfile_path(f), facts[i].key, was ? was : "(not recorded)",
                           facts[i].value);
    }
    return 0;
}

static int load_f32(const TensorFile *f, const char *name, size_t count, float *v, Err *e)
{
    const FileTensor *ft = tensorfile_find(f, name);
    if (!ft || (size_t)ft->count != count)
        return err_set(e, ERR_INPUT, "%s: tensor %s is missing or of another size",
                       tensorfile_path(f), name);
    return tensorfile_read_f32(f, ft, 0, ft->count, v, e);
}

static int load_params(Trainer *t, const TensorFile *f, Err *e)
{
    for (size_t i = 0; i < t->ps->count; i++) {
        Param *p = t->ps->list[i];
        char name[NAME];
        if (!p->trainable) continue;
        snprintf(name, sizeof name, "param/%s", p->name);
        float *v = mem_alloc(p->count * sizeof(float));
        int rc = v ? load_f32(f, name, p->count, v, e) : err_nomem(e, p->count * 4, name);
        if (!rc) rc = params_set(t->ps, p, v, e);
        mem_free(v);
        TRY(rc);
    }
    return 0;
}

static int load_points(Trainer *t, const TensorFile *f, Err *e)
{
    const FileTensor *ft = tensorfile_find(f, "points");
    if (!ft) return 0;
    if (ft->ndim != 2 || ft->shape[1] != 3)
        return err_set(e, ERR_INPUT, "%s: tensor points is of another size", tensorfile_path(f));
    float *v = mem_alloc((size_t)ft->count * sizeof *v);
    int rc = v ? load_f32(f, "points", (size_t)ft->count, v, e)
               : err_nomem(e, (size_t)ft->count * 4, "points");
    for (int64_t i = 0; !rc && i < ft->shape[0]; i++) {
        const float *p = v + 3 * i;
        if (!(p[0] >= 0 && p[0] < 0x1p32f))
            rc =
                err_set(e, ERR_INPUT, "%s: tensor points: %g is no step", tensorfile_path(f), p[0]);
        else rc = train_point(t, (TrainPoint){(uint32_t)p[0], p[1], p[2]}, e);
    }
    mem_free(v);
    return rc;
}

static int load_all(Trainer *t, const TensorFile *f, const TrainFact *facts, size_t count, Err *e)
{
    const char *version = tensorfile_meta(f, "sdc_train_state"), *step = tensorfile_meta(f, "step");
    if (!version || strcmp(version, "1") || !step)
        return err_set(e, ERR_INPUT, "%s: not a training state of sdc", tensorfile_path(f));
    TRY(check_facts(f, facts, count, e));
    char *end;
    unsigned long long n = strtoull(step, &end, 10);
    if (*end || end == step || n > (unsigned long long)t->c.sched.total)
        return err_set(e, ERR_INPUT, "%s: metadata step is \"%s\"", tensorfile_path(f), step);
    TRY(load_params(t, f, e));
    TRY(load_f32(f, "losses", t->c.loss_window, t->window, e));
    TRY(load_points(t, f, e));
    State s = {.f = f};
    TRY(optim_load(t->optim, read_blob, &s, e));
    t->step = (uint32_t)n;
    return 0;
}

int train_load(Trainer *t, const char *path, const TrainFact *facts, size_t count, Err *e)
{
    TensorFile *f;
    TRY(tensorfile_open(&f, path, e));
    int rc = load_all(t, f, facts, count, e);
    tensorfile_close(f);
    return rc;
}
