/* sample_plan.c - from the options of `sdc sample` to a model and the plan of a picture; see
 * sample.h. */
#include <stdio.h>
#include <string.h>

#include "engine/mem.h"
#include "tools/machine.h"
#include "tools/sample.h"

int sample_config(PipelineConfig *c, const SampleOptions *o, const SampleLoras *l,
                  const SdConfig *sd, Err *e)
{
    *c = (PipelineConfig){.prompt = l->prompt, .negative = o->negative, .width = o->width,
                          .height = o->height, .steps = o->steps, .cfg_scale = (float)o->cfg_scale,
                          .sampler = SAMPLER_DPMPP_2M, .clip_skip = o->clip_skip,
                          .v_pred = sd->v_prediction, .pad_conds = o->pad_conds,
                          .trace = o->trace ? stderr : NULL};
    if (o->sampler) TRY(sampler_find(&c->sampler, &c->schedule, o->sampler, e));
    if (o->schedule) TRY(schedule_find(&c->schedule, o->schedule, e));
    if (!strcmp(o->rng, "nv")) c->rng = RNG_NV;
    else if (!strcmp(o->rng, "cpu")) c->rng = RNG_CPU;
    else return err_set(e, ERR_USAGE, "option --rng: \"%s\" is not cpu or nv", o->rng);
    if (!o->prediction) return 0;
    c->v_pred = !strcmp(o->prediction, "v");
    if (!c->v_pred && strcmp(o->prediction, "eps"))
        return err_set(e, ERR_USAGE, "option --prediction: \"%s\" is not eps or v", o->prediction);
    return 0;
}

int sample_open(Model *m, SampleOptions *o, const SampleLoras *l, Err *e)
{
    char device[64];
    ModelOptions mo = {.path = o->model, .device = machine_device(device, sizeof device, o->device),
                       .threads = o->threads, .lora_count = l->count};
    TRY(sample_fill(&o->dtype, machine_fast_bf16(device, o->threads) ? "bf16" : "f32", e));
    TRY(model_dtype(&mo, o->dtype, e));
    char **specs = sample_lora_specs(l);
    if (!specs) return err_nomem(e, l->count * sizeof *specs, "LoRA files");
    mo.lora = specs;
    int rc = model_open(m, &mo, e);
    mem_free(specs);
    TRY(rc);
    int side = m->ck->config.text_width < 512 ? 128 : 512;
    if (!o->width) o->width = side;
    if (!o->height) o->height = side;
    return 0;
}

char **sample_lora_specs(const SampleLoras *l)
{
    char **specs = mem_calloc(l->count + 1, sizeof *specs);
    for (size_t i = 0; specs && i < l->count; i++) specs[i] = l->list[i].spec;
    return specs;
}

void sample_account(Memory *m, const Pipeline *p, size_t pictures)
{
    size_t decoder = params_part(p->m->ps, "vae.").frozen;
    *m = (Memory){.weights = pipeline_weights(p), .process = memory_held(p->m->dev)};
    if (!dev_own_memory(p->m->dev)) m->host = pipeline_bytes(p) + pictures;
    memory_graph(m, &p->text);
    memory_graph(m, &p->unet[0]);
    if (p->unet[1].g) memory_graph(m, &p->unet[1]);
    if (!p->c.swap) {
        memory_graph(m, &p->vae);
    } else if (decoder + p->slab.bytes > m->weights + m->activations) {
        m->weights = decoder;                  /* the decoder alone is the larger part */
        m->activations = 0;
        memory_graph(m, &p->vae);
    }
    snprintf(m->note, sizeof m->note, "the text encoder is released after the prompt%s",
             p->c.swap ? "; U-Net and decoder take turns" : "");
}

double sample_step_seconds(const Pipeline *p, const Speed *s)
{
    double sum = cost_graph_seconds(s, p->unet[0].g);
    return p->unet[1].g ? sum + cost_graph_seconds(s, p->unet[1].g) : sum;
}
