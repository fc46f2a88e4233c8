/* denoise.h - one training step of the noise predictor as a graph.
 *
 *   x_t = sqrt(ac_t) x_0 + sqrt(1 - ac_t) noise          Ho et al., arXiv:2006.11239
 *   pred = unet(x_t, t, clip(ids))
 *   target = noise, or v = sqrt(ac_t) noise - sqrt(1 - ac_t) x_0     arXiv:2202.00512
 *   loss = mean over samples of weight * snr weight * mean(elementwise loss * mask)
 * in the order of kohya's train_network.py (process_batch). The backward pass
 * reaches whatever Model.train says is trained and adds to Param.grad.
 */
#ifndef SDC_MODELS_DENOISE_H
#define SDC_MODELS_DENOISE_H

#include "engine/schedule.h"
#include "models/model.h"

typedef struct {
    LossKind loss;
    HuberKind huber;
    float huber_c, huber_scale;    /* 0.1; 1, which 0 means, too */
    float min_snr_gamma;       /* 0: off */
    int debiased, scale_v_loss;    /* kohya's --debiased_estimation_loss,
                                      --scale_v_pred_loss_like_noise_pred */
    float v_pred_like;         /* --v_pred_like_loss; 0: off */
    int v_pred;
    int clip_skip;             /* 0 or 1: none */
} DenoiseConfig;

/* "l2", "l1", "huber", "smooth_l1"; ERR_USAGE with the list otherwise. */
int denoise_find_loss(LossKind *kind, const char *name, Err *e);

/* A graph for one batch size and latent size. */
typedef struct {
    Model *m;
    const Schedule *schedule;
    DenoiseConfig c;
    int n, h, w, chunks;       /* samples, latent height and width, 77-token chunks per caption */
    int masked, backward;
    Exec exec;
    float *host;               /* staging for the inputs, owned */
} Denoise;

typedef struct {
    const float *latents;      /* (N,h,w,4) clean, scaled */
    const float *noise;        /* (N,h,w,4) the target's noise */
    const int *timestep;       /* (N) 0..999 */
    const int32_t *ids;        /* (N,chunks,77) */
    const float *weight;       /* (N), NULL: 1 */
    const float *mask;         /* (N,h,w); only with masked */
    const float *input_noise;  /* (N,h,w,4) the input's, where that is another; NULL: the same */
    uint32_t dropout_seed;     /* of the LoRA's dropout */
} DenoiseBatch;

/* Builds and plans; call before model_load. *schedule must outlive d. */
int denoise_init(Denoise *d, Model *m, const Schedule *schedule, const DenoiseConfig *c, int n,
                 int h, int w, int chunks, int masked, int backward, Err *e);
void denoise_free(Denoise *d);                              /* zeroed d ok */
/* Runs forward, and backward with gradients scaled by grad_scale (1 / micro
 * batches). *loss: the batch's; per (N) or NULL. */
int denoise_run(Denoise *d, const DenoiseBatch *b, float grad_scale, float *loss, float *per,
                Err *e);

#endif
