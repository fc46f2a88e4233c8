/* sampler.c - names, steps and the sampling loop; see sampler.h.
 *
 * Every update of every sampler is a weighted sum of a few vectors (the latents,
 * denoised predictions, noise), so a step here computes the weights and calls
 * MIX. A noise level s with next level sn enters mostly as exp(-h) = sn / s,
 * where h is the step in log sigma.
 */
#include "engine/sampler.h"

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "engine/mem.h"

enum { HISTORY = 4, BUFFERS = HISTORY + 3, LCM_STEPS = 50 };

typedef struct {
    const Sampler *s;
    const SamplerCallbacks *cb;
    Err *e;
    size_t n;
    float *x, *x2, *in, *noise;    /* latents, intermediate latents, network input, gaussian */
    float *hist[HISTORY];          /* predictions, newest first; samplers without memory use [1] */
} Run;

typedef int StepFn(Run *r, int i);

/* ---- the table */
static const SamplerInfo infos[SAMPLER_KINDS] = {
    [SAMPLER_EULER] = {"euler", "Euler", "k_euler", SCHEDULE_DISCRETE, 0, 0, 0, 1, 1000},
    [SAMPLER_EULER_A] = {"euler_a", "Euler a", "k_euler_a euler_ancestral k_euler_ancestral",
                         SCHEDULE_DISCRETE, 1, 0, 0, 1, 1000},
    [SAMPLER_HEUN] = {"heun", "Heun", "k_heun", SCHEDULE_DISCRETE, 0, 0, 0, 1, 1000},
    [SAMPLER_DPM2] = {"dpm2", "DPM2", "k_dpm_2", SCHEDULE_KARRAS, 0, 1, 0, 1, 999},
    [SAMPLER_DPM2_A] = {"dpm2_a", "DPM2 a", "k_dpm_2_a dpm_2_ancestral k_dpm_2_ancestral",
                        SCHEDULE_KARRAS, 1, 1, 0, 1, 999},
    [SAMPLER_DPMPP_2S_A] = {"dpm++2s_a", "DPM++ 2S a", "k_dpmpp_2s_a dpmpp_2s_ancestral",
                            SCHEDULE_KARRAS, 1, 0, 0, 1, 1000},
    [SAMPLER_DPMPP_2M] = {"dpm++2m", "DPM++ 2M", "k_dpmpp_2m dpmsolver++", SCHEDULE_KARRAS,
                          0, 0, 0, 1, 1000},
    [SAMPLER_DPMPP_SDE] = {"dpm++sde", "DPM++ SDE", "k_dpmpp_sde", SCHEDULE_KARRAS,
                           1, 0, 0, 1, 1000},
    [SAMPLER_DPMPP_2M_SDE] = {"dpm++2m_sde", "DPM++ 2M SDE", "k_dpmpp_2m_sde",
                              SCHEDULE_EXPONENTIAL, 1, 0, 0, 1, 1000},
    [SAMPLER_DPMPP_3M_SDE] = {"dpm++3m_sde", "DPM++ 3M SDE", "k_dpmpp_3m_sde",
                              SCHEDULE_EXPONENTIAL, 1, 1, 0, 1, 999},
    [SAMPLER_LMS] = {"lms", "LMS", "k_lms", SCHEDULE_DISCRETE, 0, 0, 0, 1, 1000},
    [SAMPLER_DDIM] = {"ddim", "DDIM", NULL, SCHEDULE_DISCRETE, 0, 0, 1, 2, 999},
    [SAMPLER_PLMS] = {"plms", "PLMS", "pndm", SCHEDULE_DISCRETE, 0, 0, 1, 2, 999},
    [SAMPLER_UNIPC] = {"unipc", "UniPC", NULL, SCHEDULE_DISCRETE, 0, 0, 1, 1, 999},
    [SAMPLER_LCM] = {"lcm", "LCM", "k_lcm", SCHEDULE_DISCRETE, 1, 0, 1, 1, LCM_STEPS},
};

const SamplerInfo *sampler_info(int kind)
{
    return kind >= 0 && kind < SAMPLER_KINDS ? &infos[kind] : NULL;
}

static int find(SamplerKind *kind, const char *name)
{
    for (int k = 0; k < SAMPLER_KINDS; k++) {
        if (!schedule_same_name(name, infos[k].name, infos[k].aliases)) continue;
        *kind = (SamplerKind)k;
        return 1;
    }
    return 0;
}

int sampler_find(SamplerKind *kind, ScheduleKind *schedule, const char *name, Err *e)
{
    if (find(kind, name)) return 0;
    char head[64];
    for (size_t i = 0; name[i] && i < sizeof head; i++) {    /* "SAMPLER SCHEDULE" */
        if (name[i] == ' ' || name[i] == '_' || name[i] == '-') {
            memcpy(head, name, i);
            head[i] = 0;
            if (find(kind, head) && !schedule_find(schedule, name + i + 1, NULL)) return 0;
        }
    }
    char list[300] = "";
    for (int k = 0; k < SAMPLER_KINDS; k++) {
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", k ? ", " : "", infos[k].name);
    }
    return err_set(e, ERR_USAGE, "unknown sampler \"%s\"; choose one of %s", name, list);
}

/* ---- arithmetic */
typedef struct { double c; const float *v; } Term;

/* dst = sum of c v over the terms, in double; dst may be one of the vectors. */
static void mix(size_t n, float *dst, const Term *term, size_t terms)
{
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t k = 0; k < terms; k++) sum += term[k].c * (double)term[k].v[i];
        dst[i] = (float)sum;
    }
}
#define MIX(r, dst, ...) \
    mix((r)->n, dst, (const Term[]){__VA_ARGS__}, \
        sizeof (const Term[]){__VA_ARGS__} / sizeof(Term))

void sampler_guide(float *out, const float *cond, const float *uncond, float scale, size_t n)
{
    for (size_t i = 0; i < n; i++) out[i] = uncond[i] + scale * (cond[i] - uncond[i]);
}

static int predict(Run *r, const float *in, float t, float *out)
{
    TRY(r->cb->predict(r->cb->ctx, in, t, out, r->e));
    for (size_t i = 0; i < r->n; i++)
        if (!isfinite(out[i]))
            return err_set(r->e, ERR_FAIL, "timestep %.1f: the network's output is not finite; "
                           "the model or a LoRA is broken, or needs --dtype f32", (double)t);
    return 0;
}

static int draw(Run *r)
{
    return r->cb->noise(r->cb->ctx, r->noise, r->e);
}

/* In place: the network's output at x = a x_0 + b noise becomes x_0. */
static void to_x0(Run *r, double a, double b, const float *x, float *out)
{
    if (r->s->v_pred) MIX(r, out, {a, x}, {-b, out});
    else MIX(r, out, {1 / a, x}, {-b / a, out});
}

/* ---- k-diffusion: x = x_0 + sigma noise */
static int denoise(Run *r, const float *x, double sigma, float *out)
{
    double a = 1 / sqrt(sigma * sigma + 1);
    MIX(r, r->in, {a, x});
    TRY(predict(r, r->in, schedule_sigma_to_t(r->s->table, (float)sigma), out));
    to_x0(r, a, sigma * a, r->in, out);
    return 0;
}

/* An ancestral step goes down past the target and adds noise up to it. */
typedef struct { double down, up; } Split;

static Split split(double s, double sn)
{
    double q = sn / s;
    return (Split){sn * q, sn * sqrt(1 - q * q)};
}

static Split target(const Run *r, int i)
{
    double s = (double)r->s->sigma[i], sn = (double)r->s->sigma[i + 1];
    return infos[r->s->kind].noisy ? split(s, sn) : (Split){sn, 0};
}

static int add_noise(Run *r, float *x, double up)
{
    if (up == 0) return 0;
    TRY(draw(r));
    MIX(r, x, {1, x}, {up, r->noise});
    return 0;
}

static int step_euler(Run *r, int i)
{
    Split to = target(r, i);
    double q = to.down / (double)r->s->sigma[i];
    MIX(r, r->x, {q, r->x}, {1 - q, r->hist[0]});
    return add_noise(r, r->x, to.up);
}

static int step_heun(Run *r, int i)
{
    double s = (double)r->s->sigma[i], sn = (double)r->s->sigma[i + 1], half = (sn - s) / 2;
    MIX(r, r->x2, {sn / s, r->x}, {1 - sn / s, r->hist[0]});
    TRY(denoise(r, r->x2, sn, r->hist[1]));
    MIX(r, r->x, {1 + half / s, r->x}, {-half / s, r->hist[0]}, {half / sn, r->x2},
        {-half / sn, r->hist[1]});
    return 0;
}

static int step_dpm2(Run *r, int i)
{
    Split to = target(r, i);
    double s = (double)r->s->sigma[i], mid = sqrt(s * to.down), c = (to.down - s) / mid;
    MIX(r, r->x2, {mid / s, r->x}, {1 - mid / s, r->hist[0]});
    TRY(denoise(r, r->x2, mid, r->hist[1]));
    MIX(r, r->x, {1, r->x}, {c, r->x2}, {-c, r->hist[1]});
    return add_noise(r, r->x, to.up);
}

static int step_dpmpp_2s(Run *r, int i)
{
    Split to = target(r, i);
    double s = (double)r->s->sigma[i], mid = sqrt(s * to.down), q = to.down / s;
    MIX(r, r->x2, {mid / s, r->x}, {1 - mid / s, r->hist[0]});
    TRY(denoise(r, r->x2, mid, r->hist[1]));
    MIX(r, r->x, {q, r->x}, {1 - q, r->hist[1]});
    return add_noise(r, r->x, to.up);
}

static int step_dpmpp_sde(Run *r, int i)
{
    double s = (double)r->s->sigma[i], mid = sqrt(s * (double)r->s->sigma[i + 1]);
    Split half = split(s, mid), to = target(r, i);
    MIX(r, r->x2, {half.down / s, r->x}, {1 - half.down / s, r->hist[0]});
    TRY(add_noise(r, r->x2, half.up));
    TRY(denoise(r, r->x2, mid, r->hist[1]));
    MIX(r, r->x, {to.down / s, r->x}, {1 - to.down / s, r->hist[1]});
    return add_noise(r, r->x, to.up);
}

/* The step i of -log sigma. */
static double log_step(const Run *r, int i)
{
    return log((double)r->s->sigma[i] / (double)r->s->sigma[i + 1]);
}

static int step_dpmpp_2m(Run *r, int i)
{
    double h = log_step(r, i), q = exp(-h);
    double k = i ? h / (2 * log_step(r, i - 1)) : 0;
    MIX(r, r->x, {q, r->x}, {(1 - q) * (1 + k), r->hist[0]}, {(q - 1) * k, r->hist[i > 0]});
    return 0;
}

static int step_dpmpp_2m_sde(Run *r, int i)
{
    double h = log_step(r, i), a = exp(-2 * h);
    double k = i ? h / (2 * log_step(r, i - 1)) : 0;
    MIX(r, r->x, {a, r->x}, {(1 - a) * (1 + k), r->hist[0]}, {(a - 1) * k, r->hist[i > 0]});
    return add_noise(r, r->x, (double)r->s->sigma[i + 1] * sqrt(1 - a));
}

static int step_dpmpp_3m_sde(Run *r, int i)
{
    double h = log_step(r, i), a = exp(-2 * h);
    double phi2 = expm1(-2 * h) / (2 * h) + 1, phi3 = phi2 / (2 * h) - 0.5;
    double c[3] = {1 - a, 0, 0};    /* of the newest denoised, the one before, ... */
    double r0 = i > 0 ? log_step(r, i - 1) / h : 0, r1 = i > 1 ? log_step(r, i - 2) / h : 0;
    if (i == 1) {
        c[0] += phi2 / r0;
        c[1] = -phi2 / r0;
    } else if (i > 1) {
        /* first and second differences: u of hist[0] - hist[1], w of hist[1] - hist[2] */
        double u = (phi2 * (1 + r0 / (r0 + r1)) - phi3 / (r0 + r1)) / r0;
        double w = (phi3 / (r0 + r1) - phi2 * r0 / (r0 + r1)) / r1;
        c[0] += u;
        c[1] = w - u;
        c[2] = -w;
    }
    MIX(r, r->x, {a, r->x}, {c[0], r->hist[0]}, {c[1], r->hist[i > 0]},
        {c[2], r->hist[i > 1 ? 2 : 0]});
    return add_noise(r, r->x, (double)r->s->sigma[i + 1] * sqrt(1 - a));
}

/* The integral over step i of the Lagrange polynomial of node i - j among the
 * nodes i .. i - order + 1. Two Gauss points are exact up to cubics. */
static double lms_weight(const float *sigma, int i, int j, int order)
{
    double lo = (double)sigma[i], hi = (double)sigma[i + 1], node = (double)sigma[i - j], sum = 0;
    for (int g = -1; g <= 1; g += 2) {
        double tau = (lo + hi + g * (hi - lo) / sqrt(3)) / 2, prod = (hi - lo) / 2;
        for (int k = 0; k < order; k++) {
            double other = (double)sigma[i - k];
            if (k != j) prod *= (tau - other) / (node - other);
        }
        sum += prod;
    }
    return sum;
}

static int step_lms(Run *r, int i)
{
    double s = (double)r->s->sigma[i];
    MIX(r, r->hist[0], {1 / s, r->x}, {-1 / s, r->hist[0]});    /* remembers slopes */
    int order = i + 1 < HISTORY ? i + 1 : HISTORY;
    double w[HISTORY] = {0};
    for (int j = 0; j < order; j++) w[j] = lms_weight(r->s->sigma, i, j, order);
    MIX(r, r->x, {1, r->x}, {w[0], r->hist[0]}, {w[1], r->hist[1]}, {w[2], r->hist[2]},
        {w[3], r->hist[3]});
    return 0;
}

/* ---- diffusers: x = sqrt(ac) x_0 + sqrt(1 - ac) noise, integer timesteps */
static int predict_x0(Run *r, int i)
{
    int t = r->s->timestep[i];
    double ac = (double)r->s->table->ac[t];
    TRY(predict(r, r->x, (float)t, r->hist[0]));
    to_x0(r, sqrt(ac), sqrt(1 - ac), r->x, r->hist[0]);
    return 0;
}

/* ac of the level that the step from t arrives at; there is none below ac[0]. */
static double ac_below(const Run *r, int t, int stride)
{
    return (double)r->s->table->ac[t > stride ? t - stride : 0];
}

static int step_ddim(Run *r, int i)
{
    int t = r->s->timestep[i];
    double ac = (double)r->s->table->ac[t], to = ac_below(r, t, SCHEDULE_T / r->s->steps);
    double q = sqrt((1 - to) / (1 - ac));
    TRY(predict_x0(r, i));
    MIX(r, r->x, {q, r->x}, {sqrt(to) - q * sqrt(ac), r->hist[0]});
    return 0;
}

static int step_plms(Run *r, int i)
{
    /* Adams-Bashforth weights; the second call repeats the first step as Heun's method. */
    static const double weights[][HISTORY] = {
        {1, 0, 0, 0}, {3 / 2., -1 / 2., 0, 0}, {23 / 12., -16 / 12., 5 / 12., 0},
        {55 / 24., -59 / 24., 37 / 24., -9 / 24.},
    };
    int stride = SCHEDULE_T / (r->s->steps - 1), t = r->s->timestep[i];
    TRY(predict(r, r->x, (float)t, r->hist[0]));
    if (i == 1) {
        t += stride;
        MIX(r, r->in, {0.5, r->hist[0]}, {0.5, r->hist[1]});
        memcpy(r->hist[0], r->hist[1], r->n * sizeof(float));
        memcpy(r->x, r->x2, r->n * sizeof(float));
    } else {
        if (i == 0) memcpy(r->x2, r->x, r->n * sizeof(float));
        const double *w = weights[i == 0 ? 0 : i < 4 ? i - 1 : 3];
        MIX(r, r->in, {w[0], r->hist[0]}, {w[1], r->hist[1]}, {w[2], r->hist[2]},
            {w[3], r->hist[3]});
    }
    double ac = (double)r->s->table->ac[t], to = ac_below(r, t, stride);
    double c = (ac - to) / (ac * sqrt(1 - to) + sqrt(ac * (1 - ac) * to)), q = sqrt(to / ac);
    if (r->s->v_pred) MIX(r, r->x, {q + c * sqrt(1 - ac), r->x}, {c * sqrt(ac), r->in});
    else MIX(r, r->x, {q, r->x}, {c, r->in});
    return 0;
}

/* dst = src moved from level k to k + 1 with the slope given by x_0 predictions:
 * m0 at level k, m1 at k - 1 with weight c1, mt at k + 1 with weight ct. */
static void unipc_move(Run *r, int k, float *dst, const float *src, const float *m0,
                       const float *m1, double c1, const float *mt, double ct)
{
    double s = (double)r->s->sigma[k], sn = (double)r->s->sigma[k + 1];
    double an = 1 / sqrt(sn * sn + 1), c = an * (1 - sn / s);
    MIX(r, dst, {sn / s * an * sqrt(s * s + 1), src}, {c * (1 - c1 - ct), m0}, {c * c1, m1},
        {c * ct, mt});
}

static int step_unipc(Run *r, int i)
{
    float **m = r->hist;
    int n = r->s->steps;
    TRY(predict_x0(r, i));
    if (i == 1) unipc_move(r, 0, r->x, r->x2, m[1], m[1], 0, m[0], 0.5);
    if (i > 1) {    /* correct the last step, order 2, now that its end is known */
        double h = -log_step(r, i - 1), rk = log_step(r, i - 2) / h, b = expm1(h);
        double phi = b / h - 1, b1 = phi / b, b2 = 2 * (phi / h - 0.5) / b;
        double rho = (b1 - b2) / (1 - rk);
        unipc_move(r, i - 1, r->x, r->x2, m[1], m[2], rho / rk, m[0], b1 - rho);
    }
    memcpy(r->x2, r->x, r->n * sizeof(float));
    if (i == n - 1) memcpy(r->x, m[0], r->n * sizeof(float));
    else if (i == 0) unipc_move(r, i, r->x, r->x2, m[0], m[0], 0, m[0], 0);
    else unipc_move(r, i, r->x, r->x2, m[0], m[1], -0.5 * log_step(r, i) / log_step(r, i - 1),
                    m[0], 0);
    return 0;
}

static int step_lcm(Run *r, int i)
{
    const int *t = r->s->timestep;
    const double data2 = 0.25, scaled = 10.0 * t[i], norm = scaled * scaled + data2;
    TRY(predict_x0(r, i));
    MIX(r, r->x, {scaled / sqrt(norm), r->hist[0]}, {data2 / norm, r->x});
    if (i == r->s->steps - 1) return 0;
    double to = (double)r->s->table->ac[t[i + 1]];
    TRY(draw(r));
    MIX(r, r->x, {sqrt(to), r->x}, {sqrt(1 - to), r->noise});
    return 0;
}

/* ---- the loop */
static StepFn *const step_fns[SAMPLER_KINDS] = {
    [SAMPLER_EULER] = step_euler, [SAMPLER_EULER_A] = step_euler, [SAMPLER_HEUN] = step_heun,
    [SAMPLER_DPM2] = step_dpm2, [SAMPLER_DPM2_A] = step_dpm2,
    [SAMPLER_DPMPP_2S_A] = step_dpmpp_2s, [SAMPLER_DPMPP_2M] = step_dpmpp_2m,
    [SAMPLER_DPMPP_SDE] = step_dpmpp_sde, [SAMPLER_DPMPP_2M_SDE] = step_dpmpp_2m_sde,
    [SAMPLER_DPMPP_3M_SDE] = step_dpmpp_3m_sde, [SAMPLER_LMS] = step_lms,
    [SAMPLER_DDIM] = step_ddim, [SAMPLER_PLMS] = step_plms, [SAMPLER_UNIPC] = step_unipc,
    [SAMPLER_LCM] = step_lcm,
};

/* k-diffusion denoises first; at noise level 0 every update but LMS's comes down
 * to the denoised prediction, by limits that the formulas cannot take. */
static int k_step(Run *r, int i)
{
    TRY(denoise(r, r->x, (double)r->s->sigma[i], r->hist[0]));
    if (r->s->sigma[i + 1] > 0 || r->s->kind == SAMPLER_LMS) return step_fns[r->s->kind](r, i);
    memcpy(r->x, r->hist[0], r->n * sizeof(float));
    return 0;
}

/* n may be less than s->n: sampler_init runs with none. */
static int run(const Sampler *s, size_t n, float *x, const SamplerCallbacks *cb, Err *e)
{
    Run r = {.s = s, .cb = cb, .e = e, .n = n, .x = x};
    float *w = s->work;
    r.x2 = w, r.in = w + n, r.noise = w + 2 * n;
    for (int k = 0; k < HISTORY; k++) r.hist[k] = w + (size_t)(3 + k) * n;
    memset(w, 0, BUFFERS * n * sizeof(float));    /* weights of 0 meet no stale NaN */
    if (!infos[s->kind].own_timesteps) MIX(&r, x, {(double)s->sigma[0], x});
    for (int i = 0; i < s->steps; i++) {
        float *oldest = r.hist[HISTORY - 1];
        memmove(r.hist + 1, r.hist, (HISTORY - 1) * sizeof r.hist[0]);
        r.hist[0] = oldest;
        TRY(infos[s->kind].own_timesteps ? step_fns[s->kind](&r, i) : k_step(&r, i));
        if (cb->step) TRY(cb->step(cb->ctx, i + 1, s->steps, e));
    }
    return 0;
}

int sampler_run(const Sampler *s, float *x, const SamplerCallbacks *cb, Err *e)
{
    assert(s->noises == 0 || cb->noise);
    return run(s, s->n, x, cb, e);
}

/* ---- set-up */
static void own_timesteps(Sampler *s, int steps)
{
    int stride = SCHEDULE_T / steps;
    s->steps = steps + (s->kind == SAMPLER_PLMS);
    for (int i = 0; i < s->steps; i++) {
        int left = steps - i;
        switch (s->kind) {
        case SAMPLER_UNIPC:
            s->timestep[i] = (int)rint(left * ((SCHEDULE_T - 1) / (double)steps));
            s->sigma[i] = s->table->sigma[s->timestep[i]];
            break;
        case SAMPLER_LCM:
            s->timestep[i] = (LCM_STEPS - (int)(i * (LCM_STEPS / (double)steps)))
                             * (SCHEDULE_T / LCM_STEPS) - 1;
            break;
        case SAMPLER_PLMS:    /* the second timestep comes twice */
            s->timestep[i] = (i < 2 ? left - 1 : left) * stride + 1;
            break;
        default:
            s->timestep[i] = (left - 1) * stride + 1;
        }
    }
    s->sigma[s->steps] = 0;
}

static int count_call(void *ctx, const float *x_in, float t, float *out, Err *e)
{
    Sampler *s = ctx;
    (void)x_in, (void)out, (void)e;
    assert(s->calls < 2 * SCHEDULE_T);
    s->t[s->calls++] = t;
    return 0;
}

static int count_noise(void *ctx, float *dst, Err *e)
{
    Sampler *s = ctx;
    (void)dst, (void)e;
    s->noises++;
    return 0;
}

int sampler_init(Sampler *s, const SamplerConfig *c, const Schedule *table, Err *e)
{
    const SamplerInfo *info = &infos[c->kind];
    assert(c->n > 0);
    memset(s, 0, sizeof *s);
    s->kind = c->kind, s->table = table, s->v_pred = c->v_pred, s->n = c->n;
    s->schedule = c->schedule == SCHEDULE_AUTO ? info->auto_schedule : c->schedule;
    if (c->steps < info->min_steps || c->steps > info->max_steps)
        return err_set(e, ERR_USAGE, "sampler %s: %d steps; give %d to %d", info->name, c->steps,
                       info->min_steps, info->max_steps);
    if (info->own_timesteps) {
        if (s->schedule != SCHEDULE_DISCRETE)
            return err_set(e, ERR_USAGE, "sampler %s has its own timesteps: schedule %s cannot be "
                           "used with it; leave the schedule out", info->name,
                           schedule_info((int)s->schedule)->name);
        own_timesteps(s, c->steps);
    } else {
        TRY(schedule_sigmas(table, s->schedule, c->steps + info->discard_next_to_last, s->sigma,
                            &s->steps, e));
        if (info->discard_next_to_last) s->sigma[--s->steps] = 0;
    }
    const size_t each = BUFFERS * sizeof(float);
    s->work_bytes = s->n <= SIZE_MAX / each ? s->n * each : SIZE_MAX;
    s->work = s->work_bytes < SIZE_MAX ? mem_alloc(s->work_bytes) : NULL;
    if (!s->work) return err_nomem(e, s->work_bytes, "the sampler");
    /* A run over no numbers finds out what the sampler will ask for. */
    SamplerCallbacks count = {.predict = count_call, .noise = count_noise, .ctx = s};
    return run(s, 0, s->work, &count, e);
}

void sampler_free(Sampler *s)
{
    mem_free(s->work);
    memset(s, 0, sizeof *s);
}
