/* train_norms.c - --scale_weight_norms: after each step every module of the LoRA is made
 * smaller whose product has grown beyond the norm given.
 *
 * Source: kohya networks/lora.py apply_max_norm_regularization.
 */
#include <math.h>
#include <stdio.h>

#include "engine/mem.h"
#include "tools/train.h"

/* One module: its norm after scaling is added to the run's numbers. */
static int scale_module(TrainRun *r, const LoraModule *m, Param *up, Param *down, float *values, Err *e)
{
    size_t rank = (size_t)m->rank, out = up->count / rank, in = down->count / rank;
    float *u = values, *d = values + up->count;
    TRY(params_read(r->m.ps, up, u, e));
    TRY(params_read(r->m.ps, down, d, e));
    double max = r->o.scale_weight_norms, norm = fabs((double)m->alpha) / m->rank * lora_norm(u, d, out, rank, in);
    double ratio = norm > max ? max / norm : 1;
    r->norms_scaled += ratio < 1;
    r->norm_mean += norm * ratio;
    r->norm_max = fmax(r->norm_max, norm * ratio);
    if (ratio >= 1) return 0;
    float root = (float)sqrt(ratio);
    for (size_t i = 0; i < up->count + down->count; i++) values[i] *= root;
    TRY(params_set(r->m.ps, up, u, e));
    return params_set(r->m.ps, down, d, e);
}

static Param *factor(const TrainRun *r, const LoraModule *m, const char *which)
{
    char name[300];
    snprintf(name, sizeof name, "%s.lora_%s.weight", m->target->path, which);
    return params_find(r->m.ps, name);
}

int train_scale_norms(TrainRun *r, Err *e)
{
    size_t modules = 0;
    int rc = 0;
    r->norms_scaled = 0;
    r->norm_mean = r->norm_max = 0;
    for (size_t i = 0; !rc && r->o.scale_weight_norms > 0 && i < r->lora.count; i++) {
        const LoraModule *m = &r->lora.list[i];
        Param *up = factor(r, m, "up"), *down = factor(r, m, "down");
        if (!up || !down || !up->trainable) continue;
        float *values = mem_alloc((up->count + down->count) * sizeof *values);
        rc = values ? scale_module(r, m, up, down, values, e) : err_nomem(e, up->count * 4, up->name);
        mem_free(values);
        modules++;
    }
    if (modules) r->norm_mean /= (double)modules;
    return rc;
}
