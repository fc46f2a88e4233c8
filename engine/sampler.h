/* sampler.h - samplers: from unit gaussian noise to latents, by calling a
 * network that predicts noise (eps) or velocity (v).
 *
 * Host arithmetic on f32 latents of any layout; a sampler sees n numbers and
 * knows no graph, no file and no random generator. Network, noise and progress
 * are callbacks. The k-diffusion samplers are k-diffusion 0.1.1's functions with
 * their default arguments (eta 1, no churn) over DiscreteEpsDDPMDenoiser, which
 * is what AUTOMATIC1111 runs; ddim, plms, unipc and lcm are diffusers 0.42's
 * schedulers. Coefficients are computed in double from the f32 noise levels.
 *
 *     Sampler s;
 *     TRY(sampler_init(&s, &config, &schedule, e));   (allocates; s.t, s.calls known)
 *     ... x = unit gaussian ...
 *     rc = sampler_run(&s, x, &callbacks, e);
 *     sampler_free(&s);
 */
#ifndef SDC_ENGINE_SAMPLER_H
#define SDC_ENGINE_SAMPLER_H

#include <stddef.h>

#include "engine/error.h"
#include "engine/schedule.h"

typedef enum {
    SAMPLER_EULER,         /* k-diffusion sample_euler; arXiv:2206.00364 algorithm 2 */
    SAMPLER_EULER_A,       /* sample_euler_ancestral */
    SAMPLER_HEUN,          /* sample_heun */
    SAMPLER_DPM2,          /* sample_dpm_2; arXiv:2206.00927 */
    SAMPLER_DPM2_A,        /* sample_dpm_2_ancestral */
    SAMPLER_DPMPP_2S_A,    /* sample_dpmpp_2s_ancestral; arXiv:2211.01095 */
    SAMPLER_DPMPP_2M,      /* sample_dpmpp_2m */
    SAMPLER_DPMPP_SDE,     /* sample_dpmpp_sde, r = 1/2 */
    SAMPLER_DPMPP_2M_SDE,  /* sample_dpmpp_2m_sde, midpoint */
    SAMPLER_DPMPP_3M_SDE,  /* sample_dpmpp_3m_sde */
    SAMPLER_LMS,           /* sample_lms, order 4 */
    SAMPLER_DDIM,          /* diffusers DDIMScheduler, eta 0, leading, offset 1; arXiv:2010.02502 */
    SAMPLER_PLMS,          /* PNDMScheduler, skip_prk_steps, offset 1; arXiv:2202.09778 */
    SAMPLER_UNIPC,         /* UniPCMultistepScheduler, order 2, bh2; arXiv:2302.04867 */
    SAMPLER_LCM,           /* LCMScheduler, 50 original steps; arXiv:2310.04378 */
    SAMPLER_KINDS
} SamplerKind;

typedef struct {
    const char *name;            /* on the command line: "dpm++2m" */
    const char *label;           /* A1111's "Sampler": "DPM++ 2M" */
    const char *aliases;         /* more names, separated by blanks; NULL: none */
    ScheduleKind auto_schedule;  /* A1111's schedule type "Automatic" */
    int noisy;                   /* draws noise on the way */
    int discard_next_to_last;    /* runs the schedule of steps + 1 without its last but one */
    int own_timesteps;           /* a diffusers sampler: takes no schedule but its own */
    int min_steps, max_steps;
} SamplerInfo;

/* The table, for help and suggestions; NULL past the end. */
const SamplerInfo *sampler_info(int kind);

/* Name, label or alias to kind, but for case, '-', '_' and blanks. A schedule
 * may follow as in A1111's older pictures ("DPM++ 2M Karras"): then it is stored
 * in *schedule, which is otherwise left alone. ERR_USAGE with the list of names
 * when there is no such sampler. */
int sampler_find(SamplerKind *kind, ScheduleKind *schedule, const char *name, Err *e);

typedef struct {
    SamplerKind kind;
    ScheduleKind schedule;       /* SCHEDULE_AUTO: the sampler's auto_schedule */
    int steps;                   /* as the user counts them */
    int v_pred;                  /* the network predicts v, else eps */
    size_t n;                    /* numbers in the whole batch: N*4*h*w; > 0 */
} SamplerConfig;

/* Each callback returns 0, or an ErrCode that ends the run and becomes the
 * result of sampler_run. */
typedef struct {
    /* out = the (guided) network's output for x_in at the fractional timestep t
     * in 0..999, the same for the whole batch. x_in has unit scale: the sampler
     * has divided by sqrt(sigma^2+1). x_in and out do not overlap, n floats. */
    int (*predict)(void *ctx, const float *x_in, float t, float *out, Err *e);
    /* dst = the next n unit gaussians. NULL ok when Sampler.noises is 0. */
    int (*noise)(void *ctx, float *dst, Err *e);
    /* After each step: done = 1..total. NULL ok. Returns nonzero to stop. */
    int (*step)(void *ctx, int done, int total, Err *e);
    void *ctx;
} SamplerCallbacks;

/* Read-only for the caller. */
typedef struct {
    SamplerKind kind;
    ScheduleKind schedule;                /* resolved, never SCHEDULE_AUTO */
    const Schedule *table;                /* borrowed */
    int v_pred;
    size_t n;
    int steps;                            /* steps taken: ddim_uniform may add, plms adds one */
    int calls, noises;                    /* how often predict and noise will be called */
    float t[2 * SCHEDULE_T];              /* (calls) the timesteps that predict will be given */
    float sigma[SCHEDULE_T + 1];          /* (steps+1) noise levels, the last is 0 */
    int timestep[SCHEDULE_T + 1];         /* (steps) own_timesteps only */
    float *work;                          /* scratch vectors, owned */
    size_t work_bytes;
} Sampler;

/* Checks the configuration, makes the noise levels, and allocates all that the
 * run will need. *table must outlive s. ERR_USAGE for steps out of range and for
 * a schedule with a sampler that has its own; ERR_MEMORY. */
int sampler_init(Sampler *s, const SamplerConfig *c, const Schedule *table, Err *e);
void sampler_free(Sampler *s);            /* zeroed s ok */

/* x (n): unit gaussian in, final latents (scaled space) out. Runs any number of
 * times. ERR_FAIL when the network returns numbers that are not finite. After an
 * error x is undefined. */
int sampler_run(const Sampler *s, float *x, const SamplerCallbacks *cb, Err *e);

/* Classifier-free guidance: out = uncond + scale (cond - uncond), n floats; out
 * may be cond or uncond. At scale 1 use cond alone instead. */
void sampler_guide(float *out, const float *cond, const float *uncond, float scale, size_t n);

#endif
