/* train_norms.c - --scale_weight_norms: after each step every module of the LoRA is made
 * smaller whose product has grown beyond the norm given.
 *
 * Source: kohya networks/lora.py apply_max_norm_regularization.
 */
#include <math.h>
#include <stdio.h>

#include "engine/mem.h"
#include "tools/train.h"

static Param *param_of(const TrainRun *r, const LoraModule *m, const LoraFactor *f)
{
    char name[300];
    snprintf(name, sizeof name, "%s.%s", m->target->path, f->suffix);
    return params_find(r->m.ps, name);
}

/* Puts the values of a module of the run into m; returns how many factors its product has,
 * 0 when it is not trained. */
static int read_module(const TrainRun *r, LoraModule *m, LoraFactor f[LORA_FACTORS], Err *e)
{
    int n = lora_factors(m, f) - (m->dora_of != LORA_NO_DORA);         /* the last one */
    for (int k = 0; k < n; k++) {
        Param *p = param_of(r, m, &f[k]);
        if (!p || !p->trainable) return 0;
        if (!(*f[k].values = mem_alloc(p->count * sizeof(float))))
            return err_nomem(e, p->count * 4, p->name), 0;
        if (params_read(r->m.ps, p, *f[k].values, e)) return 0;
    }
    return n;
}

/* One module: its norm after scaling is added to the run's numbers. What is too much is
 * shared by its factors, as in kohya and LyCORIS. */
static int scale_module(TrainRun *r, const LoraModule *m, const LoraFactor *f, int factors, Err *e)
{
    double max = r->o.scale_weight_norms, norm;
    TRY(lora_module_norm(m, &norm, e));
    double ratio = norm > max ? max / norm : 1;
    r->norms_scaled += ratio < 1;
    r->norm_mean += norm * ratio;
    r->norm_max = fmax(r->norm_max, norm * ratio);
    if (ratio >= 1) return 0;
    float root = (float)pow(ratio, 1.0 / factors);
    for (int k = 0; k < factors; k++) {
        Param *p = param_of(r, m, &f[k]);
        for (size_t i = 0; i < p->count; i++) (*f[k].values)[i] *= root;
        TRY(params_set(r->m.ps, p, *f[k].values, e));
    }
    return 0;
}

int train_scale_norms(TrainRun *r, Err *e)
{
    size_t modules = 0;
    int rc = 0;
    r->norms_scaled = 0;
    r->norm_mean = r->norm_max = 0;
    for (size_t i = 0; !rc && r->o.scale_weight_norms > 0 && i < r->lora.count; i++) {
        LoraModule m = r->lora.list[i];
        LoraFactor f[LORA_FACTORS];
        m.up = m.down = m.up2 = m.down2 = m.dora = NULL;
        int factors = read_module(r, &m, f, e);
        rc = e->code;
        if (!rc && factors) {
            rc = scale_module(r, &m, f, factors, e);
            modules++;
        }
        lora_module_free(&m);
    }
    if (modules) r->norm_mean /= (double)modules;
    return rc;
}
