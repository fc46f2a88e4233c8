/* schedule.h - the noise schedule of Stable Diffusion: 1000 noise levels, and
 * the lists of levels that samplers visit.
 *
 * x_t = sqrt(ac[t]) x_0 + sqrt(1 - ac[t]) noise for t in 0..999 ("ac" is the
 * cumulative product of 1 - beta; DDPM, arXiv:2006.11239). The same level in
 * the variance-exploding form of k-diffusion is sigma = sqrt((1 - ac) / ac),
 * x = x_0 + sigma noise. All numbers are f32 and computed as PyTorch does on a
 * CPU, operation by operation. Latents are in scaled space (x 0.18215).
 *
 * Sources: diffusers DDPMScheduler (scaled_linear), k-diffusion 0.1.1
 * external.py DiscreteSchedule and sampling.py get_sigmas_*, AUTOMATIC1111
 * modules/sd_schedulers.py, kohya sd-scripts library/custom_train_functions.py.
 */
#ifndef SDC_ENGINE_SCHEDULE_H
#define SDC_ENGINE_SCHEDULE_H

#include "engine/error.h"

enum { SCHEDULE_T = 1000 };

/* Read-only after schedule_init. Index: timestep. */
typedef struct {
    float ac[SCHEDULE_T];          /* 0.99915 .. 0.0047 */
    float sqrt_ac[SCHEDULE_T];     /* x_t = sqrt_ac x_0 + sqrt_1mac noise */
    float sqrt_1mac[SCHEDULE_T];   /* v target = sqrt_ac noise - sqrt_1mac x_0 */
    float snr[SCHEDULE_T];         /* ac / (1 - ac): 1175 .. 0.0047 */
    float sigma[SCHEDULE_T];       /* 0.0292 .. 14.61 */
    float log_sigma[SCHEDULE_T];
} Schedule;

/* Betas: linspace(sqrt(0.00085), sqrt(0.012), 1000)^2. */
void schedule_init(Schedule *s);

/* Between noise level and fractional timestep, linear in log sigma. Both clamp
 * to the ends of the table. */
float schedule_sigma_to_t(const Schedule *s, float sigma);
float schedule_t_to_sigma(const Schedule *s, float t);

/* ---- the levels of a sampling run */
typedef enum {
    SCHEDULE_AUTO,           /* "automatic": what A1111 uses for the sampler */
    SCHEDULE_DISCRETE,       /* evenly spaced t from 999 to 0 */
    SCHEDULE_KARRAS,         /* rho 7, arXiv:2206.00364 eq. 5 */
    SCHEDULE_EXPONENTIAL,    /* evenly spaced log sigma */
    SCHEDULE_SGM_UNIFORM,    /* evenly spaced t from 999, the last (0) left out */
    SCHEDULE_SIMPLE,         /* every (1000/n)-th table entry from the top */
    SCHEDULE_DDIM_UNIFORM,   /* table entries 1, 1+k, 1+2k, ...; k = 1000 / n */
    SCHEDULE_KINDS
} ScheduleKind;

typedef struct {
    const char *name;        /* on the command line: "sgm_uniform" */
    const char *label;       /* A1111's "Schedule type": "SGM Uniform" */
    const char *aliases;     /* more names, separated by blanks */
} ScheduleInfo;

/* The table, for help and suggestions; NULL past the end. */
const ScheduleInfo *schedule_info(int kind);

/* Name, label or alias to kind. Case, '-', '_' and blanks do not matter.
 * ERR_USAGE with the list of names when there is none. */
int schedule_find(ScheduleKind *kind, const char *name, Err *e);

/* The table lookup behind schedule_find, sampler_find and lrsched_find: nonzero
 * when `name` is `want` or one of the blank-separated `aliases` (NULL ok), but
 * for case, '-', '_' and blanks, with "+" and "p" the same ("dpm++" = "dpmpp"). */
int schedule_same_name(const char *name, const char *want, const char *aliases);

/* Writes the noise levels of n steps (1..SCHEDULE_T), falling, and then 0, to
 * sigmas (SCHEDULE_T + 1) and their number, without the 0, to *count.
 * ddim_uniform may give more than n. ERR_USAGE for n out of range, and for
 * ddim_uniform with n = 1, which would start below all the noise. kind must not
 * be SCHEDULE_AUTO. */
int schedule_sigmas(const Schedule *s, ScheduleKind kind, int n, float *sigmas, int *count,
                    Err *e);

/* torch.linspace(start, end, n)[i] in f32. */
float schedule_linspace(float start, float end, int n, int i);

/* ---- training */
/* kohya's --zero_terminal_snr (arXiv:2305.08891): sqrt(ac) is moved and stretched so that
 * it ends at 0 and begins where it did. The last sigma is infinite. snr keeps the values
 * from before, as in kohya, whose loss weights do not know of the change. For training. */
void schedule_zero_terminal(Schedule *s);

/* Loss weight of timestep t: min(snr,gamma)/snr to predict noise,
 * min(snr,gamma)/(snr+1) to predict v (arXiv:2303.09556). */
float schedule_min_snr_weight(const Schedule *s, int t, float gamma, int v_pred);

/* kohya's further weights, by custom_train_functions.py, with the SNR cut at 1000:
 * snr/(snr+1), which makes a loss of v like one of noise (--scale_v_pred_loss_like_noise_pred;
 * its inverse is behind --v_pred_like_loss), and --debiased_estimation_loss
 * (arXiv:2310.08442): 1/sqrt(snr) to predict noise, 1/(snr+1) to predict v. */
float schedule_snr_scale(const Schedule *s, int t);
float schedule_debiased_weight(const Schedule *s, int t, int v_pred);

typedef enum { HUBER_SNR, HUBER_EXPONENTIAL, HUBER_CONSTANT, HUBER_KINDS } HuberKind;

/* "snr", "exponential", "constant"; ERR_USAGE with the list otherwise. */
int schedule_find_huber(HuberKind *kind, const char *name, Err *e);

/* The c of the huber and smooth_l1 losses at timestep t: snr (1-hc)/(1+sigma)^2
 * + hc, exponential hc^(t/1000) scale, constant hc scale. hc > 0. */
float schedule_huber_c(const Schedule *s, HuberKind kind, float hc, float scale, int t);

#endif
