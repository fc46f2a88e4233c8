/* train_strengths.c - --sample_strengths: the samples of a finished LoRA at other strengths,
 * at equal seeds. A strength is a factor on one of the two matrices of a module. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/mem.h"
#include "tools/machine.h"
#include "tools/train_samples.h"

int train_strengths_init(TrainRun *r, Err *e)
{
    const char *text = r->o.sample_strengths;
    if (!text) return 0;
    if (!r->o.sample_prompts || !train_is_lora(&r->o) || r->network.algo != LORA_PLAIN ||
        r->network.dora)
        return err_set(e, ERR_USAGE,
                       "option --sample_strengths: needs --sample_prompts and a plain LoRA");
    for (char *end; *text; text = *end == ',' ? end + 1 : end) {
        double v = strtod(text, &end);
        if (end == text || (*end && *end != ',') || !(v > 0 && v <= 10) ||
            r->strength_count == STRENGTHS_MAX)
            return err_set(e, ERR_USAGE, "option --sample_strengths: \"%s\" is not a list of at "
                                         "most %d numbers above 0, "
                           "such as 0.4,0.7,1", r->o.sample_strengths, STRENGTHS_MAX);
        r->strengths[r->strength_count++] = v;
    }
    return 0;
}

/* Every product of a module times factor. */
static int scale(TrainRun *r, double factor, Err *e)
{
    static const char end[] = ".lora_up.weight";
    const Params *ps = r->m.ps;
    for (size_t i = 0; i < ps->count; i++) {
        Param *p = ps->list[i];
        size_t n = strlen(p->name);
        if (!p->trainable || n < sizeof end || strcmp(p->name + n + 1 - sizeof end, end)) continue;
        float *v = mem_alloc(p->count * sizeof *v);
        int rc = v ? params_read(ps, p, v, e) : err_nomem(e, p->count * sizeof *v, p->name);
        for (size_t k = 0; !rc && k < p->count; k++) v[k] = (float)(v[k] * factor);
        if (!rc) rc = params_set(r->m.ps, p, v, e);
        mem_free(v);
        TRY(rc);
    }
    return 0;
}

int train_strengths(TrainRun *r, Err *e)
{
    double now = 1, start = machine_seconds();
    char label[24];
    for (int i = 0; i < r->strength_count; i++) {
        TRY(scale(r, r->strengths[i] / now, e));
        now = r->strengths[i];
        snprintf(label, sizeof label, "s%.2f", now);
        TRY(train_samples_make(r, label, e));
    }
    r->spent.samples += machine_seconds() - start;
    return 0;
}
