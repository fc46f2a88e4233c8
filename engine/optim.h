/* optim.h - optimizers: which one, its state, one step over all parameters.
 *
 * optim_parse makes an OptimConfig from kohya's --optimizer_type and
 * --optimizer_args. optim_new / optim_add list the tensors to train, in groups
 * with a learning rate each; then optim_bytes is what optim_place needs, so a
 * planner can put the state into its slab. Nothing is allocated after
 * optim_place. A step is a pure function of parameters, gradients and state.
 *
 * Sources: torch.optim AdamW and SGD, torch.nn.utils.clip_grad_norm_, bitsandbytes 0.50
 * AdamW8bit, Lion8bit and SGD8bit, lion_pytorch 0.2.5, transformers 5.24 Adafactor,
 * schedulefree 1.4.1, dadaptation 3.2, prodigyopt 1.1.2, diffusers' EMAModel;
 * names as kohya sd-scripts (train_util.get_optimizer). The arithmetic is in
 * kernels/optim.h.
 */
#ifndef SDC_ENGINE_OPTIM_H
#define SDC_ENGINE_OPTIM_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"
#include "kernels/ops.h"

typedef enum {
    OPTIM_ADAMW, OPTIM_ADAMW8BIT, OPTIM_LION, OPTIM_LION8BIT, OPTIM_SGD, OPTIM_SGD8BIT,
    OPTIM_ADAFACTOR,
    OPTIM_ADAMW_FREE, OPTIM_RADAM_FREE, OPTIM_SGD_FREE,     /* ScheduleFree */
    OPTIM_DADAPT_ADAM, OPTIM_DADAPT_PREPRINT, OPTIM_DADAPT_ADAGRAD, OPTIM_DADAPT_ADAN,
    OPTIM_DADAPT_ADAN_IP, OPTIM_DADAPT_LION, OPTIM_DADAPT_SGD, OPTIM_PRODIGY,
    OPTIM_KINDS
} OptimKind;

/* The reference's own arguments; those of other optimizers are unused. */
typedef struct {
    OptimKind kind;
    double weight_decay;
    double beta1, beta2, beta3; /* beta1 -1: none (Adafactor); beta3 -1: sqrt(beta2) (Prodigy) */
    double eps, eps2;
    double momentum, dampening;      /* SGD, DAdaptSGD, DAdaptAdaGrad */
    int nesterov;
    int decoupled_weight_decay;      /* Lion: weight_decay is divided by the group's rate */
    int min_8bit_size;               /* 8 bit: smaller tensors keep f32 moments */
    double clip_threshold, decay_rate;                       /* Adafactor */
    int scale_parameter, relative_step, warmup_init;
    double r, weight_lr_power;       /* ScheduleFree */
    int warmup_steps, silent_sgd_phase;
    double d0, d_coef, growth_rate;  /* DAdapt..., Prodigy */
    int decouple, use_bias_correction, safeguard_warmup, no_prox;
    int slice_p;                     /* Prodigy: statistics of every n-th element */
    char args[1024];                 /* the given arguments, "key=value,key=(a, b)" */
    double ema_decay;                /* not an argument: keeps an average of the parameters as */
                                     /* diffusers' EMAModel; 0: none */
    int ema_update_after;            /* steps before it */
} OptimConfig;

/* name: kohya's names in any case, `_` and module paths ignored: AdamW,
 * AdamW8bit, Lion, Lion8bit, SGD, SGDNesterov, SGDNesterov8bit, Adafactor,
 * AdamWScheduleFree, RAdamScheduleFree, SGDScheduleFree, DAdaptation (which is
 * DAdaptAdamPreprint), DAdaptAdam, DAdaptAdaGrad, DAdaptAdan, DAdaptAdanIP, DAdaptLion,
 * DAdaptSGD, Prodigy; PagedAdamW(8bit,32bit) and PagedLion8bit are the unpaged ones (same
 * numbers). args (NULL ok): "key=value" items separated by spaces or commas,
 * values as Python literals: 1e-2, True, None, (0.9, 0.99), or 0.9,0.99.
 * ERR_USAGE lists what is known. As in bitsandbytes, SGDNesterov8bit's moments are plain
 * momentum. */
int optim_parse(OptimConfig *c, const char *name, const char *args, Err *e);
/* The method finds its rate itself: the learning rate is a factor on it, 1 is usual. */
int optim_finds_rate(const OptimConfig *c);
/* The method has its own schedule: the step's lr_factor means nothing (Adafactor with
 * relative_step, which knows no rate either) or should stay 1 (ScheduleFree). */
int optim_has_schedule(const OptimConfig *c);
/* As kohya's metadata ss_optimizer: "torch.optim.adamw.AdamW(weight_decay=0.1)". */
void optim_describe(const OptimConfig *c, char *text, size_t size);
/* A sentence when a rate is far from what this optimizer wants, or NULL. */
const char *optim_lr_advice(const OptimConfig *c, double lr);

/* Arrays of the state of a tensor: moments, sums, the point of start or the last gradient,
 * scales of 8-bit moments, Adafactor's factors, an average of the parameter. */
enum {
    OPTIM_M, OPTIM_V, OPTIM_S, OPTIM_X, OPTIM_DIFF, OPTIM_M_SCALE, OPTIM_V_SCALE, OPTIM_ROW,
    OPTIM_COL, OPTIM_AVERAGE, OPTIM_SLOTS
};
enum { OPTIM_GROUPS = 64 };

typedef struct {
    char *name;                      /* owned */
    int group;
    size_t count;
    size_t outer, rows, cols, inner; /* see optim_shape; rows 0: a vector */
    void *param;                     /* device, (count) of dt */
    Dtype dt;                        /* DT_F32; DT_BF16: updates are rounded stochastically */
    const float *grad;               /* device, (count); NULL: the loss does not depend on */
                                     /* it, and nothing touches it, not even weight decay */
    uint64_t steps;                  /* updates so far */
    void *state[OPTIM_SLOTS];        /* device; NULL: the optimizer has no such array */
} OptimTensor;

/* Device bytes of the state of one tensor. */
size_t optim_state_bytes(const OptimConfig *c, const OptimTensor *t);
/* Its shape in the engine's layout (params.h), which Adafactor factors by: a matrix, or the
 * kernels (kh,kw) of a convolution. 1x1 convolutions are matrices here, and not, as in
 * PyTorch, many kernels of one element. */
void optim_shape(OptimTensor *t, int ndim, const int *dim);

typedef struct Optim {
    OptimConfig cfg;
    Dev *dev;
    const Ops *ops;
    double lr[OPTIM_GROUPS];
    int groups;
    OptimTensor *list;
    size_t count, cap;
    float *map;                      /* device, (2,256): the maps of 8-bit moments */
    double *sums, *host;             /* (count,3), device and host */
    double d, d_max, numerator, g0;  /* DAdapt..., Prodigy */
    double weight_sum[OPTIM_GROUPS], lr_max[OPTIM_GROUPS];   /* ScheduleFree */
    uint64_t k;                      /* their step */
    float *room;                     /* device, of Adafactor */
    int averaged;                    /* optim_swap */
    float *stage;                    /* device: a piece of a bf16 parameter in f32; NULL: none is */
    uint64_t seed;                   /* of the rounding */
} Optim;

/* lr: one base rate per group. Those that find their rate need equal ones (ERR_USAGE). NULL on failure. dev and ops are borrowed. */
Optim *optim_new(const OptimConfig *c, Dev *dev, const Ops *ops, const double *lr, int groups,
                 Err *e);
void optim_free(Optim *o);                                       /* NULL ok */
/* Adds a tensor of f32, a vector (or set its dt and shape in o->list before optim_bytes).
 * One whose group has rate 0 is left out: it has no state and never changes. grad may be
 * set or changed later in o->list. */
int optim_add(Optim *o, const char *name, int group, size_t count, float *param,
              const float *grad, Err *e);
size_t optim_bytes(const Optim *o);              /* all state and tables; multiple of 64 */
/* Takes optim_bytes of device memory, 64-byte aligned, and clears it. */
int optim_place(Optim *o, void *memory, Err *e);

typedef struct {
    double lr_factor;        /* in: what the schedule multiplies each rate with */
    double max_grad_norm;    /* in: torch clip_grad_norm_ over all tensors; 0: off */
    double grad_norm;        /* out: before clipping */
    long bad;                /* out: index of the first tensor whose gradient is not finite */
} OptimStep;                 /*      (then ERR_FAIL, nothing was changed), else -1 */
int optim_step(Optim *o, OptimStep *s, Err *e);

/* One tensor alone, as soon as its gradient exists, so that gradients need not
 * live together. s->max_grad_norm clips this tensor's norm, s->grad_norm, and knows
 * nothing of the others (as kohya's --fused_backward_pass). A bad gradient changes
 * nothing of this tensor (ERR_FAIL). Only where optim_streams() is 1. */
int optim_streams(const OptimConfig *c);
int optim_update(Optim *o, size_t index, OptimStep *s, Err *e);

/* Averages, kept with ema_decay and by ScheduleFree, are what is sampled from and saved:
 * optim_swap exchanges them with the parameters, a second call brings these back, bit for
 * bit. Before the first step, and without an average, nothing happens. Steps, saving and
 * loading want them swapped back. */
int optim_has_average(const OptimConfig *c);
void optim_swap(Optim *o);

/* The rate a group really has, with d where the method finds it. */
double optim_lr(const Optim *o, int group, double lr_factor);

/* The exact state as named blobs: "optim", then "<tensor>.<state>" with torch's
 * state names. save is called once per blob with host memory that it must not
 * keep; load must fill exactly `size` bytes or fail. After a failed load the
 * state is undefined. */
typedef int optim_save_fn(void *ctx, const char *name, const void *bytes, size_t size, Err *e);
typedef int optim_load_fn(void *ctx, const char *name, void *bytes, size_t size, Err *e);
int optim_save(const Optim *o, optim_save_fn *save, void *ctx, Err *e);
int optim_load(Optim *o, optim_load_fn *load, void *ctx, Err *e);

/* The 256 values of bitsandbytes' dynamic 8-bit map (create_dynamic_map),
 * ascending, bit for bit. */
void optim_dynamic_map(float map[256], int is_signed);

#endif
