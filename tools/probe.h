/* probe.h - what the parts of `sdc probe` share (cmd_probe.c, probe_train.c). */
#ifndef SDC_TOOLS_PROBE_H
#define SDC_TOOLS_PROBE_H

#include "engine/tensorfile.h"
#include "models/model.h"
#include "tools/options.h"

typedef struct {
    char *model, *in, *out, *device, *dtype, *rng, *shape, *sampler, *schedule, *loss,
        *huber_schedule, *optimizer, *optimizer_args, *lr_scheduler, *embeddings;
    OptionList lora;
    int clip_skip, steps, draws, v_pred, full, train_te, warmup, threads, trace, debiased,
        scale_v_loss, zero_terminal;
    int64_t seed;
    double cfg_scale, huber_c, min_snr_gamma, v_pred_like, lr, unet_lr, te_lr, weight_decay,
        max_grad_norm;
} ProbeOptions;

/* One run: options, the input file, the output writer. */
typedef struct {
    const ProbeOptions *o;
    TensorFile *in;
    TensorWriter *out;
    Model m;
} Probe;

/* An input tensor; ERR_INPUT naming it when it is missing, has another number
 * of axes, or is empty or absurdly large. */
int probe_tensor(const Probe *p, const char *name, int ndim, const FileTensor **t, Err *e);
/* Its values, owned by the caller (mem_free). */
int probe_f32(const Probe *p, const FileTensor *t, float **v, Err *e);
int probe_ids(const Probe *p, const FileTensor *t, int32_t **v, Err *e);
/* Declares an f32 output; data follow with probe_write in the writer's order. */
typedef struct { const char *name; int ndim; int64_t shape[4]; const float *data; } ProbeOut;
int probe_write(Probe *p, const ProbeOut *outs, size_t count, Err *e);
/* Opens the model; loras are merged into the weights, or left out when they
 * are to be trained. */
int probe_model(Probe *p, int merge_loras, Err *e);

int probe_grad(Probe *p, Err *e);
int probe_train(Probe *p, Err *e);

#endif
