/* schedule.c - the 1000 noise levels and the lists that samplers visit; see schedule.h. */
#include "engine/schedule.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static const ScheduleInfo infos[SCHEDULE_KINDS] = {
    [SCHEDULE_AUTO] = {"automatic", "Automatic", "auto"},
    [SCHEDULE_DISCRETE] = {"discrete", "Uniform", "normal"},
    [SCHEDULE_KARRAS] = {"karras", "Karras", NULL},
    [SCHEDULE_EXPONENTIAL] = {"exponential", "Exponential", NULL},
    [SCHEDULE_SGM_UNIFORM] = {"sgm_uniform", "SGM Uniform", NULL},
    [SCHEDULE_SIMPLE] = {"simple", "Simple", NULL},
    [SCHEDULE_DDIM_UNIFORM] = {"ddim_uniform", "DDIM", NULL},
};

static const char *const huber_names[HUBER_KINDS] = {
    [HUBER_SNR] = "snr", [HUBER_EXPONENTIAL] = "exponential", [HUBER_CONSTANT] = "constant",
};

/* PyTorch's kernel counts from both ends, and its compiler fuses the multiply and add. */
float schedule_linspace(float start, float end, int n, int i)
{
    if (n < 2) return start;
    float step = (end - start) / (float)(n - 1);
    return i < n / 2 ? fmaf(step, (float)i, start) : fmaf(-step, (float)(n - 1 - i), end);
}

static void set_level(Schedule *s, int t, float ac)
{
    s->ac[t] = ac;
    s->sqrt_ac[t] = sqrtf(ac);
    s->sqrt_1mac[t] = sqrtf(1 - ac);
    s->sigma[t] = sqrtf((1 - ac) / ac);
    s->log_sigma[t] = logf(s->sigma[t]);
}

void schedule_init(Schedule *s)
{
    float lo = (float)sqrt(0.00085), hi = (float)sqrt(0.012);
    double prod = 1;    /* torch.cumprod accumulates f32 in double */
    for (int t = 0; t < SCHEDULE_T; t++) {
        float root = schedule_linspace(lo, hi, SCHEDULE_T, t);
        float alpha = 1 - root * root;
        prod *= (double)alpha;
        float ac = (float)prod;
        set_level(s, t, ac);
        s->snr[t] = ac / (1 - ac);
    }
}

void schedule_zero_terminal(Schedule *s)
{
    float first = s->sqrt_ac[0], last = s->sqrt_ac[SCHEDULE_T - 1];
    for (int t = 0; t < SCHEDULE_T; t++) {
        float root = (s->sqrt_ac[t] - last) * (first / (first - last));
        set_level(s, t, root * root);
    }
}

float schedule_sigma_to_t(const Schedule *s, float sigma)
{
    float l = logf(sigma);
    int lo = 0, hi = SCHEDULE_T - 1;    /* log_sigma[lo] <= l, or lo is 0 */
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (l >= s->log_sigma[mid]) lo = mid;
        else hi = mid;
    }
    float w = (s->log_sigma[lo] - l) / (s->log_sigma[lo] - s->log_sigma[lo + 1]);
    w = fminf(fmaxf(w, 0), 1);
    return (1 - w) * (float)lo + w * (float)(lo + 1);
}

float schedule_t_to_sigma(const Schedule *s, float t)
{
    t = fminf(fmaxf(t, 0), SCHEDULE_T - 1);
    int lo = (int)t, hi = lo < SCHEDULE_T - 1 ? lo + 1 : lo;
    float w = t - (float)lo;
    return expf((1 - w) * s->log_sigma[lo] + w * s->log_sigma[hi]);
}

const ScheduleInfo *schedule_info(int kind)
{
    return kind >= 0 && kind < SCHEDULE_KINDS ? &infos[kind] : NULL;
}

/* The next significant character of *p, folded; 0 at the end or at `stop`. */
static int folded(const char **p, char stop)
{
    while (**p == '-' || **p == '_' || (**p == ' ' && stop != ' ')) ++*p;
    char c = **p;
    if (!c || c == stop) return 0;
    ++*p;
    return c == '+' ? 'p' : c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c;
}

static int same(const char *name, const char *want, char stop)
{
    for (;;) {
        int a = folded(&name, 0), b = folded(&want, stop);
        if (a != b) return 0;
        if (!a) return 1;
    }
}

int schedule_same_name(const char *name, const char *want, const char *aliases)
{
    if (same(name, want, 0)) return 1;
    for (const char *a = aliases; a; a = strchr(a, ' ')) {
        a += *a == ' ';
        if (same(name, a, ' ')) return 1;
    }
    return 0;
}

int schedule_find(ScheduleKind *kind, const char *name, Err *e)
{
    char list[200] = "";
    for (int k = 0; k < SCHEDULE_KINDS; k++) {
        if (schedule_same_name(name, infos[k].name, infos[k].aliases)
            || schedule_same_name(name, infos[k].label, NULL)) {
            *kind = (ScheduleKind)k;
            return 0;
        }
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", k ? ", " : "", infos[k].name);
    }
    return err_set(e, ERR_USAGE, "unknown schedule \"%s\"; choose one of %s", name, list);
}

static float karras(double smin, double smax, float ramp)
{
    double lo = pow(smin, 1 / 7.0), hi = pow(smax, 1 / 7.0);
    return powf((float)hi + ramp * (float)(lo - hi), 7);
}

int schedule_sigmas(const Schedule *s, ScheduleKind kind, int n, float *sigmas, int *count,
                    Err *e)
{
    const float top = SCHEDULE_T - 1;
    double smin = s->sigma[0], smax = s->sigma[SCHEDULE_T - 1];
    int least = kind == SCHEDULE_DDIM_UNIFORM ? 2 : 1;
    if (n < least || n > SCHEDULE_T)
        return err_set(e, ERR_USAGE, "schedule %s: %d steps; give %d to %d", infos[kind].name, n,
                       least, SCHEDULE_T);
    int k = SCHEDULE_T / n;
    *count = kind == SCHEDULE_DDIM_UNIFORM ? (SCHEDULE_T - 2) / k + 1 : n;
    for (int i = 0; i < *count; i++) {
        switch (kind) {
        case SCHEDULE_KARRAS:
            sigmas[i] = karras(smin, smax, schedule_linspace(0, 1, n, i));
            break;
        case SCHEDULE_EXPONENTIAL:
            sigmas[i] = expf(schedule_linspace((float)log(smax), (float)log(smin), n, i));
            break;
        case SCHEDULE_SGM_UNIFORM:
            sigmas[i] = schedule_t_to_sigma(s, schedule_linspace(top, 0, n + 1, i));
            break;
        case SCHEDULE_SIMPLE:
            sigmas[i] = s->sigma[SCHEDULE_T - 1 - (int)(i * (SCHEDULE_T / (double)n))];
            break;
        case SCHEDULE_DDIM_UNIFORM:
            sigmas[i] = s->sigma[1 + (*count - 1 - i) * k];
            break;
        default:
            sigmas[i] = schedule_t_to_sigma(s, schedule_linspace(top, 0, n, i));
        }
    }
    sigmas[*count] = 0;
    return 0;
}

float schedule_min_snr_weight(const Schedule *s, int t, float gamma, int v_pred)
{
    float snr = s->snr[t];
    return fminf(snr, gamma) / (v_pred ? snr + 1 : snr);
}

float schedule_snr_scale(const Schedule *s, int t)
{
    float snr = fminf(s->snr[t], 1000);
    return snr / (snr + 1);
}

float schedule_debiased_weight(const Schedule *s, int t, int v_pred)
{
    float snr = fminf(s->snr[t], 1000);
    return v_pred ? 1 / (snr + 1) : 1 / sqrtf(snr);
}

int schedule_find_huber(HuberKind *kind, const char *name, Err *e)
{
    for (int k = 0; k < HUBER_KINDS; k++) {
        if (!schedule_same_name(name, huber_names[k], NULL)) continue;
        *kind = (HuberKind)k;
        return 0;
    }
    return err_set(e, ERR_USAGE, "unknown huber schedule \"%s\"; choose one of snr, exponential, "
                   "constant", name);
}

float schedule_huber_c(const Schedule *s, HuberKind kind, float hc, float scale, int t)
{
    float sigma1 = 1 + s->sigma[t];
    switch (kind) {
    case HUBER_SNR: return (1 - hc) / (sigma1 * sigma1) + hc;    /* kohya leaves scale out, too */
    case HUBER_EXPONENTIAL: return (float)exp(log((double)hc) * t / SCHEDULE_T) * scale;
    default: return hc * scale;
    }
}
