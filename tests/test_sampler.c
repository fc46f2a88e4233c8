/* test_sampler.c - noise schedules, samplers and learning rate schedules: against
 * the numbers of k-diffusion and diffusers in tests/data/sampler/sampler.txt, and
 * against the exact solution for Gaussian data. */
#include <stdint.h>
#include <stdlib.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "engine/sampler.h"
#include "tests/fail.h"
#include "tests/test.h"

enum { N = 16, DRAWS = 61 };

/* ---- the fixture: lines of "WORD ARGUMENTS : NUMBERS" */
static char *fixture(void)
{
    char *text = NULL;
    Err e = {0};
    if (io_read_text(&text, NULL, "tests/data/sampler/sampler.txt", 1 << 20, &e))
        test_fail(__FILE__, __LINE__, "%s", e.msg);
    return text;
}

/* The next line after *p that starts with word: its arguments, or NULL. */
static char *line_of(char **p, const char *word)
{
    size_t n = strlen(word);
    while (*p && **p) {
        char *line = *p, *end = strchr(line, '\n');
        *p = end ? end + 1 : NULL;
        if (!strncmp(line, word, n) && line[n] == ' ') return line + n + 1;
    }
    return NULL;
}

static int numbers(const char *line, double *v, int cap)
{
    char *p = strchr(line, ':');
    int n = 0;
    for (p = p ? p + 1 : NULL; p && *p == ' ' && n < cap; n++) v[n] = strtod(p, &p);
    return n;
}

/* ---- the network of the fixture, and a plain Gaussian one */
typedef struct {
    const Schedule *table;
    double ripple;             /* 0: the exact eps of Gaussian data on the real schedule */
    const double *noise;       /* (draws, n) */
    float *asked;              /* timesteps seen */
    int calls, draws, max_draws, steps, stop_at, nan_at, fail_at;
    size_t n;
    unsigned long long lcg;
} Net;

static const double data_std = 0.8;

static double mean(size_t i) { return cos((double)i); }

static int net_predict(void *ctx, const float *x, float t, float *out, Err *e)
{
    Net *net = ctx;
    double sigma = net->ripple != 0 ? exp(-3.5 + 0.0062 * (double)t)
                                    : (double)schedule_t_to_sigma(net->table, t);
    double a = 1 / (1 + sigma * sigma), var = data_std * data_std * a + 1 - a;
    for (size_t i = 0; i < net->n; i++) {
        double eps = sqrt(1 - a) * (x[i] - sqrt(a) * mean(i)) / var;
        out[i] = (float)(eps + net->ripple * sin(3 * (double)x[i]));
    }
    if (net->asked) net->asked[net->calls] = t;
    if (++net->calls == net->nan_at) out[0] = NAN;
    return net->calls == net->fail_at ? err_set(e, ERR_MEMORY, "no network") : 0;
}

static int net_noise(void *ctx, float *dst, Err *e)
{
    Net *net = ctx;
    if (net->draws == net->max_draws)
        return err_set(e, ERR_INPUT, "step_noise has %d draws, more are needed", net->max_draws);
    const double *z = net->noise + (size_t)net->draws++ * net->n;
    for (size_t i = 0; i < net->n; i++) dst[i] = (float)z[i];
    return 0;
}

static int net_step(void *ctx, int done, int total, Err *e)
{
    Net *net = ctx;
    if (done != ++net->steps || done > total) return err_set(e, ERR_FAIL, "step %d", done);
    return done == net->stop_at ? ERR_INT : 0;
}

static double distance(const float *x, const double *want, size_t n)
{
    double d = 0, w = 0;
    for (size_t i = 0; i < n; i++) {
        d += (x[i] - want[i]) * (x[i] - want[i]);
        w += want[i] * want[i];
    }
    return sqrt(d / w);
}

/* ---- schedules */
TEST(schedule_matches_torch)
{
    static Schedule s;
    schedule_init(&s);
    double v[64];
    char *text = fixture(), *p = text;
    CHECK(text);
    int n = numbers(line_of(&p, "alphas_cumprod"), v, 64), bad = n != 22;
    for (int i = 0; i < n; i += 2) bad += s.ac[(int)v[i]] != (float)v[i + 1];
    n = numbers(line_of(&p, "table_sigmas"), v, 64), bad += n != 22;
    for (int i = 0; i < n; i += 2) bad += fabs(s.sigma[(int)v[i]] / v[i + 1] - 1) > 1.3e-7;
    n = numbers(line_of(&p, "sigma_to_t"), v, 64), bad += n != 18;
    double worst = 0;
    for (int i = 0; i < n; i += 2)
        worst = fmax(worst, fabs((double)schedule_sigma_to_t(&s, (float)v[i]) - v[i + 1]));
    mem_free(text);
    CHECK_INT(bad, 0);
    CHECK_NEAR(worst, 0, 3e-4);    /* an ulp of log sigma is up to 6e-5 of a timestep */
    for (int t = 0; t < SCHEDULE_T; t++) {
        CHECK_NEAR(schedule_sigma_to_t(&s, s.sigma[t]), t, 1e-6);
        CHECK_NEAR(schedule_t_to_sigma(&s, (float)t) / s.sigma[t], 1, 3e-7);
        CHECK_NEAR(schedule_sigma_to_t(&s, schedule_t_to_sigma(&s, (float)t + 0.3f)),
                   t < 999 ? t + 0.3 : 999, 1e-3);
    }
}

TEST(schedule_lists_match_k_diffusion)
{
    static Schedule s;
    schedule_init(&s);
    char *text = fixture(), *p = text, *line, name[40];
    CHECK(text);
    int lines = 0, bad = 0;
    while ((line = line_of(&p, "sigmas"))) {
        int steps, count, got = -1;
        double want[64];
        float sigma[SCHEDULE_T + 1];
        ScheduleKind kind = SCHEDULE_DISCRETE;
        Err e = {0};
        bad += sscanf(line, "%39s %d %d", name, &steps, &count) != 3;
        bad += numbers(line, want, 64) != count || schedule_find(&kind, name, &e) != 0;
        bad += schedule_sigmas(&s, kind, steps, sigma, &got, &e) != 0 || got != count - 1;
        for (int i = 0; i < count && !bad; i++) bad += fabs(sigma[i] - want[i]) > 1e-6 * want[i];
        if (bad) test_fail(__FILE__, __LINE__, "%s %d differs", name, steps);
        lines++;
    }
    mem_free(text);
    CHECK_INT(bad, 0);
    CHECK_INT(lines, 21);
}

/* Samplers divide by differences of levels: no two may be equal, for any number of steps. */
TEST(schedule_lists_fall)
{
    static Schedule s;
    schedule_init(&s);
    for (int kind = SCHEDULE_DISCRETE; kind < SCHEDULE_KINDS; kind++)
        for (int n = 2; n <= SCHEDULE_T; n += n < 40 ? 1 : 16) {
            float sigma[SCHEDULE_T + 1];
            int count;
            Err e = {0};
            CHECK_OK(schedule_sigmas(&s, (ScheduleKind)kind, n, sigma, &count, &e), &e);
            CHECK(count >= n - 1 && count <= SCHEDULE_T);    /* ddim_uniform has 999 at most */
            CHECK(sigma[0] < 14.615f);
            for (int i = 0; i < count; i++) CHECK(sigma[i] > sigma[i + 1]);
            CHECK(sigma[count] == 0);
        }
}

TEST(schedule_names)
{
    ScheduleKind k = SCHEDULE_AUTO;
    Err e = {0};
    for (int i = 0; i < SCHEDULE_KINDS; i++) {
        CHECK_OK(schedule_find(&k, schedule_info(i)->name, &e), &e);
        CHECK_INT(k, i);
        CHECK_OK(schedule_find(&k, schedule_info(i)->label, &e), &e);
        CHECK_INT(k, i);
    }
    CHECK(!schedule_info(SCHEDULE_KINDS) && !schedule_info(-1));
    CHECK_OK(schedule_find(&k, "SGM-uniform", &e), &e);
    CHECK_INT(k, SCHEDULE_SGM_UNIFORM);
    CHECK_INT(schedule_find(&k, "karas", &e), ERR_USAGE);
    CHECK(strstr(e.msg, "\"karas\"") && strstr(e.msg, "karras, exponential"));
    float sigma[SCHEDULE_T + 1];
    static Schedule s;
    schedule_init(&s);
    int count, bad[][2] = {{SCHEDULE_KARRAS, 0}, {SCHEDULE_KARRAS, -3}, {SCHEDULE_SIMPLE, 1001},
                           {SCHEDULE_DDIM_UNIFORM, 1}};
    for (int i = 0; i < 4; i++) {
        Err e2 = {0};
        ScheduleKind kind = (ScheduleKind)bad[i][0];
        CHECK_INT(schedule_sigmas(&s, kind, bad[i][1], sigma, &count, &e2), ERR_USAGE);
        CHECK(strstr(e2.msg, schedule_info(bad[i][0])->name));
    }
}

TEST(schedule_training_weights)
{
    static Schedule s;
    schedule_init(&s);
    CHECK_NEAR(s.snr[0], 1175.46, 0.1);
    CHECK_NEAR(s.snr[999], 0.0046819, 1e-6);
    for (int t = 0; t < SCHEDULE_T; t += 111) {
        double ac = (double)s.ac[t], snr = ac / (1 - ac), sigma = sqrt(1 / snr);
        CHECK_NEAR(s.sqrt_ac[t], sqrt(ac), 1e-7);
        CHECK_NEAR(s.sqrt_1mac[t], sqrt(1 - ac), 1e-7);
        CHECK_NEAR(schedule_min_snr_weight(&s, t, 5, 0), snr > 5 ? 5 / snr : 1, 1e-5);
        CHECK_NEAR(schedule_min_snr_weight(&s, t, 5, 1), (snr > 5 ? 5 : snr) / (snr + 1), 1e-5);
        double cut = snr < 1000 ? snr : 1000;
        CHECK_NEAR(schedule_snr_scale(&s, t), cut / (cut + 1), 1e-6);
        CHECK_NEAR(schedule_debiased_weight(&s, t, 0), 1 / sqrt(cut), 1e-4);
        CHECK_NEAR(schedule_debiased_weight(&s, t, 1), 1 / (cut + 1), 1e-6);
        CHECK_NEAR(schedule_huber_c(&s, HUBER_SNR, 0.1f, 2, t), 0.9 / pow(1 + sigma, 2) + 0.1,
                   1e-5);
        CHECK_NEAR(schedule_huber_c(&s, HUBER_EXPONENTIAL, 0.1f, 2, t), 2 * pow(0.1, t / 1000.),
                   1e-6);
        CHECK_NEAR(schedule_huber_c(&s, HUBER_CONSTANT, 0.1f, 3, t), 0.3, 1e-7);
    }
    HuberKind k;
    Err e = {0};
    CHECK_OK(schedule_find_huber(&k, "exponential", &e), &e);
    CHECK_INT(k, HUBER_EXPONENTIAL);
    CHECK_INT(schedule_find_huber(&k, "linear", &e), ERR_USAGE);
    CHECK(strstr(e.msg, "linear"));
}

/* kohya custom_train_functions.py fix_noise_scheduler_betas_for_zero_terminal_snr */
TEST(schedule_with_zero_terminal_snr)
{
    static Schedule was, s;
    schedule_init(&was);
    s = was;
    schedule_zero_terminal(&s);
    double first = sqrt((double)was.ac[0]), last = sqrt((double)was.ac[999]);
    for (int t = 0; t < SCHEDULE_T; t++) {
        double root = (sqrt((double)was.ac[t]) - last) * first / (first - last);
        CHECK_NEAR(s.ac[t], root * root, 1e-6);
        CHECK_NEAR(s.sqrt_1mac[t], sqrt(1 - root * root), 2e-5);
        CHECK(s.snr[t] == was.snr[t]);               /* the quirk: weights keep the old one */
    }
    CHECK(s.ac[999] == 0 && s.sqrt_1mac[999] == 1);
    CHECK_NEAR(s.ac[0], was.ac[0], 1e-6);
    CHECK_NEAR(schedule_huber_c(&s, HUBER_SNR, 0.1f, 1, 999), 0.1, 1e-6);
}

/* ---- samplers */
TEST(sampler_names)
{
    static const char *const more[][2] = {
        {"k_euler_a", "euler_a"}, {"Euler A", "euler_a"}, {"k_dpm_2_ancestral", "dpm2_a"},
        {"dpmpp_2m_sde", "dpm++2m_sde"}, {"DPM++-2M", "dpm++2m"}, {"pndm", "plms"},
        {"UNI_PC", "unipc"}, {"dpmsolver++", "dpm++2m"},
    };
    SamplerKind k;
    ScheduleKind schedule = SCHEDULE_AUTO;
    Err e = {0};
    for (int i = 0; i < SAMPLER_KINDS; i++) {
        CHECK_OK(sampler_find(&k, &schedule, sampler_info(i)->name, &e), &e);
        CHECK_INT(k, i);
        CHECK_OK(sampler_find(&k, &schedule, sampler_info(i)->label, &e), &e);
        CHECK_INT(k, i);
    }
    CHECK(!sampler_info(SAMPLER_KINDS) && !sampler_info(-1));
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        CHECK_OK(sampler_find(&k, &schedule, more[i][0], &e), &e);
        CHECK_STR(sampler_info((int)k)->name, more[i][1]);
    }
    CHECK_INT(schedule, SCHEDULE_AUTO);
    CHECK_OK(sampler_find(&k, &schedule, "DPM++ 2M SDE Exponential", &e), &e);
    CHECK(k == SAMPLER_DPMPP_2M_SDE && schedule == SCHEDULE_EXPONENTIAL);
    CHECK_OK(sampler_find(&k, &schedule, "Euler a SGM Uniform", &e), &e);
    CHECK(k == SAMPLER_EULER_A && schedule == SCHEDULE_SGM_UNIFORM);
    CHECK_INT(sampler_find(&k, &schedule, "eulr", &e), ERR_USAGE);
    CHECK(strstr(e.msg, "\"eulr\"") && strstr(e.msg, "euler, euler_a") && strstr(e.msg, "lcm"));
    char big[300];
    memset(big, ' ', sizeof big);
    big[sizeof big - 1] = 0;
    CHECK_INT(sampler_find(&k, &schedule, big, &e), ERR_USAGE);
    CHECK_INT(sampler_find(&k, &schedule, "", &e), ERR_USAGE);
}

/* One "run" line: "" when all is as expected, else what is not. */
static const char *check_run(const char *line, const Schedule *table, const double *noise,
                             double *worst)
{
    char name[40], sched[40];
    int steps, v_pred, calls, draws;
    double want[N];
    float x[N], asked[2 * SCHEDULE_T];
    if (sscanf(line, "%39s %39s %d %d %d %d", name, sched, &steps, &v_pred, &calls, &draws) != 6
        || numbers(line, want, N) != N) return "line";
    SamplerConfig c = {.steps = steps, .v_pred = v_pred, .n = N};
    Sampler s;
    Err e = {0};
    if (sampler_find(&c.kind, &c.schedule, name, &e) || schedule_find(&c.schedule, sched, &e)
        || sampler_init(&s, &c, table, &e)) return "init";
    Net net = {.ripple = 0.1, .noise = noise, .max_draws = draws, .n = N, .asked = asked};
    SamplerCallbacks cb = {net_predict, net_noise, net_step, &net};
    for (int i = 0; i < N; i++) x[i] = (float)noise[(DRAWS - 1) * N + i];
    int rc = sampler_run(&s, x, &cb, &e);
    const char *bad = rc ? "run" : s.calls != calls || net.calls != calls ? "calls"
                      : s.noises != draws || net.draws != draws ? "draws"
                      : net.steps != s.steps ? "steps"
                      : memcmp(asked, s.t, (size_t)calls * sizeof *asked) ? "timesteps" : "";
    sampler_free(&s);
    *worst = distance(x, want, N);
    return bad;
}

/* The reference works in f32: over two huge steps it loses digits by cancellation (2e-5
 * in the ancestral split); everything else agrees to a few units of the last place. */
TEST(sampler_runs_match_reference)
{
    static Schedule table;
    static double noise[DRAWS * N];
    schedule_init(&table);
    char *text = fixture(), *p = text, *line;
    CHECK(text);
    int failed = numbers(line_of(&p, "noise"), noise, DRAWS * N) != DRAWS * N, lines = 0;
    while ((line = line_of(&p, "run"))) {
        double d = 1;
        const char *bad = check_run(line, &table, noise, &d);
        if (*bad || !(d <= (strstr(line, " discrete 2 ") ? 3e-5 : 1e-6))) {
            test_fail(__FILE__, __LINE__, "%s, distance %g: %.40s", bad, d, line);
            failed++;
        }
        lines++;
    }
    mem_free(text);
    CHECK_INT(failed, 0);
    CHECK_INT(lines, 83);
}

/* Distance from the exact solution of the probability flow for Gaussian data, followed
 * for those that come down to the denoised prediction by that from the last level. */
static double flow_error(SamplerKind kind, ScheduleKind schedule, int steps)
{
    static Schedule table;
    schedule_init(&table);
    SamplerConfig c = {kind, schedule, steps, 0, N};
    Sampler s;
    Err e = {0};
    if (sampler_init(&s, &c, &table, &e)) return 1e9;
    Net net = {.table = &table, .n = N};
    SamplerCallbacks cb = {.predict = net_predict, .ctx = &net};
    int own = sampler_info(kind)->own_timesteps;
    double from = (double)(own ? table.sigma[s.timestep[0]] : s.sigma[0]), want[N];
    int keeps_noise = kind == SAMPLER_DDIM || kind == SAMPLER_PLMS, denoises = kind != SAMPLER_LMS;
    double to = (double)(keeps_noise ? table.sigma[0] : denoises ? s.sigma[s.steps - 1] : 0);
    float x[N];
    for (int i = 0; i < N; i++) {
        double v2 = data_std * data_std, start = sin(7.0 * i + 1);
        x[i] = (float)start;
        start *= own ? sqrt(from * from + 1) : from;
        double off = sqrt((v2 + to * to) / (v2 + from * from)) * (start - mean((size_t)i));
        if (!keeps_noise) want[i] = mean((size_t)i) + off * v2 / (v2 + to * to);
        else want[i] = (mean((size_t)i) + off) / sqrt(to * to + 1);
    }
    int rc = sampler_run(&s, x, &cb, &e);
    sampler_free(&s);
    return rc ? 1e9 : distance(x, want, N);
}

TEST(sampler_orders_of_convergence)
{
    static const struct {
        SamplerKind kind;
        ScheduleKind schedule;
        double error, gain;    /* at 40 steps, and from 40 to 80 */
    } cases[] = {
        {SAMPLER_EULER, SCHEDULE_KARRAS, 0.035, 1.9}, {SAMPLER_HEUN, SCHEDULE_KARRAS, 0.003, 3.8},
        {SAMPLER_DPM2, SCHEDULE_KARRAS, 0.002, 3.8}, {SAMPLER_LMS, SCHEDULE_KARRAS, 0.0005, 8},
        {SAMPLER_DPMPP_2M, SCHEDULE_KARRAS, 0.003, 3.8},
        {SAMPLER_DDIM, SCHEDULE_DISCRETE, 0.035, 1.9}, {SAMPLER_PLMS, SCHEDULE_DISCRETE, 0.002, 4},
        /* even timesteps leave long steps of log sigma at the end, however many there are */
        {SAMPLER_UNIPC, SCHEDULE_DISCRETE, 0.002, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double a = flow_error(cases[i].kind, cases[i].schedule, 40);
        double b = flow_error(cases[i].kind, cases[i].schedule, 80);
        CHECK(a < cases[i].error);
        CHECK(a / b > cases[i].gain);
    }
}

/* Samplers that add noise must end in the data's distribution. */
static int gaussian(void *ctx, float *dst, Err *e)
{
    Net *net = ctx;
    (void)e;
    for (size_t i = 0; i < net->n; i++) {
        double u[2];
        for (int k = 0; k < 2; k++) {
            net->lcg = net->lcg * 6364136223846793005u + 1442695040888963407u;
            u[k] = ((double)(net->lcg >> 40) + 0.5) / (1 << 24);
        }
        dst[i] = (float)(sqrt(-2 * log(u[0])) * cos(6.283185307179586 * u[1]));
    }
    return 0;
}

TEST(sampler_noise_keeps_the_distribution)
{
    enum { M = 4000 };
    static Schedule table;
    static float x[M];
    schedule_init(&table);
    for (int kind = 0; kind < SAMPLER_KINDS; kind++) {
        if (!sampler_info(kind)->noisy || kind == SAMPLER_LCM) continue;
        SamplerConfig c = {(SamplerKind)kind, SCHEDULE_KARRAS, 60, 0, M};
        Sampler s;
        Err e = {0};
        CHECK_OK(sampler_init(&s, &c, &table, &e), &e);
        Net net = {.table = &table, .n = M, .lcg = 5};
        SamplerCallbacks cb = {.predict = net_predict, .noise = gaussian, .ctx = &net};
        gaussian(&net, x, &e);
        int rc = sampler_run(&s, x, &cb, &e);
        sampler_free(&s);
        CHECK_INT(rc, 0);
        double m = 0, v = 0;
        for (size_t i = 0; i < M; i++) m += (x[i] - mean(i)) / M;
        for (size_t i = 0; i < M; i++) v += pow(x[i] - mean(i) - m, 2) / M;
        CHECK_NEAR(m, 0, 0.05);                    /* 4 standard errors */
        CHECK_NEAR(sqrt(v), data_std, 0.05);       /* 4 standard errors, and 60 steps */
    }
}

TEST(sampler_refuses_bad_steps)
{
    static Schedule table;
    schedule_init(&table);
    for (int kind = 0; kind < SAMPLER_KINDS; kind++) {
        const SamplerInfo *info = sampler_info(kind);
        int bad[] = {0, -5, info->min_steps - 1, info->max_steps + 1, 2147483647};
        for (int i = 0; i < 5; i++) {
            SamplerConfig c = {(SamplerKind)kind, SCHEDULE_DISCRETE, bad[i], 0, N};
            Sampler s;
            Err e = {0};
            CHECK_INT(sampler_init(&s, &c, &table, &e), ERR_USAGE);
            CHECK(strstr(e.msg, info->name) && strstr(e.msg, "steps; give"));
            sampler_free(&s);
        }
        SamplerConfig c = {(SamplerKind)kind, SCHEDULE_AUTO, info->max_steps, 0, N};
        Sampler s;
        Err e = {0};
        CHECK_OK(sampler_init(&s, &c, &table, &e), &e);
        int calls = s.calls;
        CHECK(s.schedule == info->auto_schedule);
        for (int i = 0; i < calls; i++) CHECK(s.t[i] >= 0 && s.t[i] <= 999);
        sampler_free(&s);
        CHECK(calls >= info->max_steps && calls < 2 * info->max_steps + 1);
    }
    SamplerConfig c = {SAMPLER_DDIM, SCHEDULE_KARRAS, 10, 0, N};
    Sampler s;
    Err e = {0}, e2 = {0};
    CHECK_INT(sampler_init(&s, &c, &table, &e), ERR_USAGE);
    CHECK(strstr(e.msg, "ddim") && strstr(e.msg, "karras"));
    c = (SamplerConfig){SAMPLER_EULER, SCHEDULE_DDIM_UNIFORM, 1, 0, N};
    CHECK_INT(sampler_init(&s, &c, &table, &e2), ERR_USAGE);
    CHECK(strstr(e2.msg, "ddim_uniform"));
}

TEST(sampler_stops_on_errors)
{
    static Schedule table;
    static double noise[10 * N];
    schedule_init(&table);
    for (int kind = 0; kind < SAMPLER_KINDS; kind++) {
        SamplerConfig c = {(SamplerKind)kind, SCHEDULE_DISCRETE, 5, 0, N};
        Sampler s;
        Err e = {0}, e2 = {0}, e3 = {0};
        float x[N] = {1, 2, 3};
        CHECK_OK(sampler_init(&s, &c, &table, &e), &e);
        for (int at = 1; at <= s.calls; at++) {
            Net net = {.ripple = 0.1, .noise = noise, .max_draws = 10, .n = N, .fail_at = at};
            SamplerCallbacks cb = {net_predict, net_noise, NULL, &net};
            CHECK_INT(sampler_run(&s, x, &cb, &e), ERR_MEMORY);
            CHECK_INT(net.calls, at);
            net = (Net){.ripple = 0.1, .noise = noise, .max_draws = 10, .n = N, .nan_at = at};
            CHECK_INT(sampler_run(&s, x, &cb, &e2), ERR_FAIL);
            CHECK(strstr(e2.msg, "not finite"));
        }
        for (int draws = 0; draws < s.noises; draws++) {
            Net net = {.ripple = 0.1, .noise = noise, .max_draws = draws, .n = N};
            SamplerCallbacks cb = {net_predict, net_noise, NULL, &net};
            CHECK_INT(sampler_run(&s, x, &cb, &e3), ERR_INPUT);
            CHECK(strstr(e3.msg, "step_noise"));
        }
        Net net = {.ripple = 0.1, .noise = noise, .max_draws = 10, .n = N, .stop_at = 2};
        SamplerCallbacks cb = {net_predict, net_noise, net_step, &net};
        int rc = sampler_run(&s, x, &cb, &e);
        sampler_free(&s);
        CHECK_INT(rc, ERR_INT);
        CHECK_INT(net.steps, 2);
    }
}

TEST(sampler_runs_again_after_an_error)
{
    static Schedule table;
    schedule_init(&table);
    SamplerConfig c = {SAMPLER_LMS, SCHEDULE_KARRAS, 6, 0, N};
    Sampler s;
    Err e = {0}, e2 = {0};
    CHECK_OK(sampler_init(&s, &c, &table, &e), &e);
    float x[3][N];
    for (int k = 0; k < 3; k++) {    /* good, broken, good */
        for (int i = 0; i < N; i++) x[k][i] = (float)sin(i);
        Net net = {.ripple = 0.1, .n = N, .nan_at = k == 1 ? 4 : 0};
        SamplerCallbacks cb = {.predict = net_predict, .ctx = &net};
        CHECK_INT(sampler_run(&s, x[k], &cb, &e2), k == 1 ? ERR_FAIL : 0);
    }
    sampler_free(&s);
    CHECK(!memcmp(x[0], x[2], sizeof x[0]));
}

TEST(sampler_out_of_memory)
{
    static Schedule table;
    schedule_init(&table);
    SamplerConfig c = {SAMPLER_EULER, SCHEDULE_AUTO, 6, 0, N};
    Sampler s;
    Err e = {0}, e2 = {0};
    fail_mem(1);
    int rc = sampler_init(&s, &c, &table, &e);
    fail_mem(0);
    sampler_free(&s);
    CHECK_INT(rc, ERR_MEMORY);
    c.n = SIZE_MAX / 4;
    CHECK_INT(sampler_init(&s, &c, &table, &e2), ERR_MEMORY);
}

TEST(sampler_guidance)
{
    float cond[3] = {1, -2, 3}, uncond[3] = {0.5f, 1, 3};
    sampler_guide(cond, cond, uncond, 7.5f, 3);
    CHECK_NEAR(cond[0], 4.25, 1e-6);
    CHECK_NEAR(cond[1], -21.5, 1e-6);
    CHECK_NEAR(cond[2], 3, 1e-6);
}
