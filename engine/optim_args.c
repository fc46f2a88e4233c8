/* optim_args.c - optimizer names and arguments: the OptimConfig half of optim.h. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/optim.h"

typedef struct {
    const char *name;        /* lower case, without '_' */
    OptimKind kind;
} Name;

static const Name names[] = {
    {"adamw", OPTIM_ADAMW}, {"pagedadamw", OPTIM_ADAMW}, {"pagedadamw32bit", OPTIM_ADAMW},
    {"adamw8bit", OPTIM_ADAMW8BIT}, {"pagedadamw8bit", OPTIM_ADAMW8BIT},
    {"lion", OPTIM_LION}, {"lion8bit", OPTIM_LION8BIT}, {"pagedlion8bit", OPTIM_LION8BIT},
    {"sgd", OPTIM_SGD}, {"sgdnesterov", OPTIM_SGD}, {"sgdnesterov8bit", OPTIM_SGD8BIT},
    {"adafactor", OPTIM_ADAFACTOR},
    {"adamwschedulefree", OPTIM_ADAMW_FREE}, {"radamschedulefree", OPTIM_RADAM_FREE},
    {"sgdschedulefree", OPTIM_SGD_FREE},
    {"dadaptation", OPTIM_DADAPT_PREPRINT}, {"dadaptadampreprint", OPTIM_DADAPT_PREPRINT},
    {"dadaptadam", OPTIM_DADAPT_ADAM}, {"dadaptadagrad", OPTIM_DADAPT_ADAGRAD},
    {"dadaptadan", OPTIM_DADAPT_ADAN}, {"dadaptadanip", OPTIM_DADAPT_ADAN_IP},
    {"dadaptlion", OPTIM_DADAPT_LION}, {"dadaptsgd", OPTIM_DADAPT_SGD},
    {"prodigy", OPTIM_PRODIGY},
};

static const char *const paths[OPTIM_KINDS] = {
    "torch.optim.adamw.AdamW", "bitsandbytes.optim.adamw.AdamW8bit",
    "lion_pytorch.lion_pytorch.Lion", "bitsandbytes.optim.lion.Lion8bit", "torch.optim.sgd.SGD",
    "bitsandbytes.optim.sgd.SGD8bit", "transformers.optimization.Adafactor",
    "schedulefree.adamw_schedulefree.AdamWScheduleFree",
    "schedulefree.radam_schedulefree.RAdamScheduleFree",
    "schedulefree.sgd_schedulefree.SGDScheduleFree",
    "dadaptation.dadapt_adam.DAdaptAdam",
    "dadaptation.experimental.dadapt_adam_preprint.DAdaptAdamPreprint",
    "dadaptation.dadapt_adagrad.DAdaptAdaGrad", "dadaptation.dadapt_adan.DAdaptAdan",
    "dadaptation.experimental.dadapt_adan_ip.DAdaptAdanIP",
    "dadaptation.dadapt_lion.DAdaptLion", "dadaptation.dadapt_sgd.DAdaptSGD",
    "prodigyopt.prodigy.Prodigy",
};

#define KIND(k) (1u << OPTIM_##k)
enum {
    ADAMW = KIND(ADAMW), ADAMW8 = KIND(ADAMW8BIT), LION = KIND(LION), LION8 = KIND(LION8BIT),
    SGD = KIND(SGD), SGD8 = KIND(SGD8BIT), FACTOR = KIND(ADAFACTOR),
    ADAMS_FREE = KIND(ADAMW_FREE) | KIND(RADAM_FREE), SGD_FREE = KIND(SGD_FREE),
    FREE = ADAMS_FREE | SGD_FREE, RADAM = KIND(RADAM_FREE),
    DADAM = KIND(DADAPT_ADAM), DADAMS = DADAM | KIND(DADAPT_PREPRINT),
    ADAGRAD = KIND(DADAPT_ADAGRAD), ADAN = KIND(DADAPT_ADAN) | KIND(DADAPT_ADAN_IP),
    DLION = KIND(DADAPT_LION), DSGD = KIND(DADAPT_SGD), PRODIGY = KIND(PRODIGY),
    DADAPT = DADAMS | ADAGRAD | ADAN | DLION | DSGD,
    BITS8 = ADAMW8 | LION8 | SGD8, TORCH = ADAMW | SGD, ADAMS = ADAMW | ADAMW8 | DADAMS | PRODIGY,
    ANY = (1u << OPTIM_KINDS) - 1,
};

/* PAIR and TRIPLE fill neighbouring fields; OFF takes False only (a variant of the method
 * that we do not have); SKIP takes any value: it does not change the numbers. */
typedef enum { NUMBER, INTEGER, FLAG, PAIR, TRIPLE, OFF, SKIP } ArgType;

typedef struct {
    const char *key;
    unsigned kinds;          /* whose argument */
    ArgType type;
    size_t at;               /* field of OptimConfig */
    double low, high;        /* low <= value < high */
} Arg;

#define AT(field) offsetof(OptimConfig, field)
static const Arg args_known[] = {
    {"weight_decay", ANY, NUMBER, AT(weight_decay), 0, 1e9},
    {"betas", ADAMS | LION | LION8 | ADAMS_FREE | DLION, PAIR, AT(beta1), 0, 1},
    {"betas", ADAN, TRIPLE, AT(beta1), 0, 1},
    {"beta1", FACTOR, NUMBER, AT(beta1), 0, 1},
    {"beta3", PRODIGY, NUMBER, AT(beta3), 0, 1},
    {"eps", ADAMS | ADAMS_FREE | ADAGRAD | ADAN, NUMBER, AT(eps), 0, 1e9},
    {"eps", FACTOR, PAIR, AT(eps), 0, 1e9},
    {"momentum", SGD | SGD8 | SGD_FREE | ADAGRAD | DSGD, NUMBER, AT(momentum), 0, 1e9},
    {"dampening", SGD, NUMBER, AT(dampening), -1e9, 1e9},
    {"nesterov", SGD, FLAG, AT(nesterov), 0, 0},
    {"decoupled_weight_decay", LION, FLAG, AT(decoupled_weight_decay), 0, 0},
    {"min_8bit_size", BITS8, INTEGER, AT(min_8bit_size), 0, 2147483648.0},
    {"clip_threshold", FACTOR, NUMBER, AT(clip_threshold), 1e-300, 1e9},
    {"decay_rate", FACTOR, NUMBER, AT(decay_rate), -1e9, 0},
    {"scale_parameter", FACTOR, FLAG, AT(scale_parameter), 0, 0},
    {"relative_step", FACTOR, FLAG, AT(relative_step), 0, 0},
    {"warmup_init", FACTOR, FLAG, AT(warmup_init), 0, 0},
    {"warmup_steps", FREE & ~RADAM, INTEGER, AT(warmup_steps), 0, 1e9},
    {"r", FREE, NUMBER, AT(r), -1e3, 1e3},
    {"weight_lr_power", FREE, NUMBER, AT(weight_lr_power), -1e3, 1e3},
    {"silent_sgd_phase", RADAM, FLAG, AT(silent_sgd_phase), 0, 0},
    {"decouple", DADAMS | PRODIGY, FLAG, AT(decouple), 0, 0},
    {"no_prox", ADAN, FLAG, AT(no_prox), 0, 0},
    {"use_bias_correction", DADAM | PRODIGY, FLAG, AT(use_bias_correction), 0, 0},
    {"safeguard_warmup", PRODIGY, FLAG, AT(safeguard_warmup), 0, 0},
    {"d0", DADAPT | PRODIGY, NUMBER, AT(d0), 1e-300, 1e9},
    {"d_coef", PRODIGY, NUMBER, AT(d_coef), 0, 1e9},
    {"growth_rate", (DADAPT & ~DLION) | PRODIGY, NUMBER, AT(growth_rate), 1, HUGE_VAL},
    {"slice_p", PRODIGY, INTEGER, AT(slice_p), 1, 65536},
    {"amsgrad", ADAMW | ADAMW8, OFF, 0, 0, 0},
    {"maximize", TORCH, OFF, 0, 0, 0},
    {"foreach", TORCH | FREE, SKIP, 0, 0, 0},
    {"fused", TORCH, SKIP, 0, 0, 0},
    {"capturable", ADAMW, SKIP, 0, 0, 0},
    {"is_paged", ADAMW8 | LION8, SKIP, 0, 0, 0},
    {"dampening", SGD8, SKIP, 0, 0, 0},      /* bitsandbytes takes it and does not use it */
    {"use_triton", LION, SKIP, 0, 0, 0},
    {"log_every", DADAPT, SKIP, 0, 0, 0},
    {"fsdp_in_use", (DADAPT & ~ADAGRAD & ~ADAN) | PRODIGY, SKIP, 0, 0, 0},
};
enum { NAMES = sizeof names / sizeof *names, ARGS = sizeof args_known / sizeof *args_known };

static int find_kind(OptimConfig *c, const char *name, Err *e)
{
    const char *dot = strrchr(name, '.');
    char key[32];
    size_t n = 0;
    for (const char *s = dot ? dot + 1 : name; *s && n + 1 < sizeof key; s++)
        if (*s != '_' && *s != '-') key[n++] = *s >= 'A' && *s <= 'Z' ? (char)(*s + 32) : *s;
    key[n] = 0;
    for (int i = 0; i < NAMES; i++) {
        if (strcmp(key, names[i].name)) continue;
        c->kind = names[i].kind;
        c->nesterov = !strcmp(key, "sgdnesterov");
        c->momentum = strstr(key, "nesterov") || c->kind == OPTIM_SGD_FREE ? 0.9 : 0;
        return 0;
    }
    return err_set(e, ERR_USAGE, "optimizer \"%.64s\" is not known; use AdamW, AdamW8bit, Lion, "
                   "Lion8bit, SGD, SGDNesterov, SGDNesterov8bit, Adafactor, Prodigy, "
                   "DAdaptation, DAdaptAdam, DAdaptAdaGrad, DAdaptAdan, DAdaptAdanIP, "
                   "DAdaptLion, DAdaptSGD, AdamWScheduleFree, RAdamScheduleFree or "
                   "SGDScheduleFree", name);
}

static void set_defaults(OptimConfig *c)
{
    unsigned kind = 1u << c->kind;
    c->weight_decay = kind & (ADAMW | ADAMW8) ? 0.01 : kind & ADAN ? 0.02 : 0;
    c->beta1 = kind & FACTOR ? -1 : kind & ADAN ? 0.98 : 0.9;
    c->beta2 = kind & (LION | LION8 | DLION) ? 0.99 : kind & ADAN ? 0.92 : 0.999;
    c->beta3 = kind & ADAN ? 0.99 : -1;
    c->eps = kind & FACTOR ? 1e-30 : kind & ADAGRAD ? 1e-6 : 1e-8;
    c->eps2 = 1e-3;
    c->min_8bit_size = 4096;
    c->clip_threshold = 1;
    c->decay_rate = -0.8;
    c->scale_parameter = c->relative_step = c->silent_sgd_phase = 1;
    c->weight_lr_power = 2;
    c->d0 = 1e-6;
    c->d_coef = 1;
    c->growth_rate = HUGE_VAL;
    c->decouple = !!(kind & PRODIGY);
    c->slice_p = 1;
}

static int unknown_arg(const OptimConfig *c, const char *key, Err *e)
{
    char list[512] = "";
    size_t n = 0;
    for (int i = 0; i < ARGS; i++)
        if (args_known[i].kinds & 1u << c->kind && args_known[i].type < OFF)
            n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "",
                                  args_known[i].key);
    return err_set(e, ERR_USAGE, "optimizer argument \"%.64s\" is not known to %s; it takes: %s",
                   key, strrchr(paths[c->kind], '.') + 1, list);
}

static int bad_value(const char *key, const char *value, const char *want, Err *e)
{
    return err_set(e, ERR_USAGE, "optimizer argument %s=%.64s: expected %s", key, value, want);
}

static int number(const Arg *a, const char *text, double *x, Err *e)
{
    char *end, want[80];
    *x = strtod(text, &end);
    if (!*end && *text && *x >= a->low && (*x < a->high || (isinf(a->high) && isinf(*x))))
        return 0;
    snprintf(want, sizeof want, "a number from %g up to %g", a->low, a->high);
    return bad_value(a->key, text, want, e);
}

static int apply(OptimConfig *c, const char *key, char value[3][32], int n, Err *e)
{
    const Arg *a = NULL;
    for (int i = 0; i < ARGS; i++)
        if (!strcmp(args_known[i].key, key) && args_known[i].kinds & 1u << c->kind)
            a = &args_known[i];
    if (!a) return unknown_arg(c, key, e);
    int want = a->type == PAIR ? 2 : a->type == TRIPLE ? 3 : 1;
    static const char *const wants[] = {"", "one value", "two numbers", "three numbers"};
    if (n != want) return bad_value(key, n ? value[0] : "", wants[want], e);
    char *field = (char *)c + a->at;
    double x = 0;
    int yes = !strcasecmp(value[0], "true") || !strcmp(value[0], "1");
    int no = !strcasecmp(value[0], "false") || !strcmp(value[0], "0") || !strcmp(value[0], "None");
    switch (a->type) {
    case NUMBER:
        if ((a->at == AT(beta3) || a->at == AT(beta1)) && !strcmp(value[0], "None")) x = -1;
        else TRY(number(a, value[0], &x, e));
        *(double *)(void *)field = x;
        break;
    case INTEGER:
        TRY(number(a, value[0], &x, e));
        if (x != floor(x)) return bad_value(key, value[0], "a whole number", e);
        *(int *)(void *)field = (int)x;
        break;
    case FLAG:
        if (!yes && !no) return bad_value(key, value[0], "True or False", e);
        *(int *)(void *)field = yes;
        break;
    case PAIR:
    case TRIPLE:
        for (int i = 0; i < n; i++) TRY(number(a, value[i], (double *)(void *)field + i, e));
        break;
    case OFF:
        if (!no) return bad_value(key, value[0], "False; this variant is not supported", e);
        break;
    case SKIP: break;
    }
    size_t used = strlen(c->args);
    snprintf(c->args + used, sizeof c->args - used,
             n == 3 ? "%s%s=(%s, %s, %s)" : n == 2 ? "%s%s=(%s, %s)" : "%s%s=%s",
             used ? "," : "", key, value[0], value[1], value[2]);
    return 0;
}

/* Brackets and quotes are blanks; a word without '=' is one more value of the
 * item before it, so that betas=0.9,0.99 and betas=(0.9, 0.99) are the same. */
static int parse_args(OptimConfig *c, const char *args, Err *e)
{
    static const char blanks[] = " ,()[]'\"\t\r\n";
    char key[32] = "", value[3][32] = {"", "", ""};
    int n = 0;
    if (strlen(args) > 400)
        return err_set(e, ERR_USAGE, "optimizer arguments: longer than 400 characters");
    for (const char *s = args + strspn(args, blanks); *s; s += strspn(s, blanks)) {
        size_t len = strcspn(s, blanks);
        const char *eq = memchr(s, '=', len), *word = eq ? eq + 1 : s;
        size_t key_len = eq ? (size_t)(eq - s) : 0, left = len - (size_t)(word - s);
        if (eq && *key) TRY(apply(c, key, value, n, e));
        if (eq) n = 0;
        if ((eq ? !key_len : !*key) || key_len >= sizeof key || left >= sizeof *value || n == 3)
            return err_set(e, ERR_USAGE, "optimizer arguments: \"%.*s\" is not key=value",
                           len > 64 ? 64 : (int)len, s);
        if (eq) snprintf(key, sizeof key, "%.*s", (int)key_len, s);
        if (left) snprintf(value[n++], sizeof *value, "%.*s", (int)left, word);
        s += len;
    }
    return *key ? apply(c, key, value, n, e) : 0;
}

int optim_parse(OptimConfig *c, const char *name, const char *args, Err *e)
{
    *c = (OptimConfig){0};
    TRY(find_kind(c, name, e));
    set_defaults(c);
    if (args) TRY(parse_args(c, args, e));
    if (c->nesterov && (c->momentum <= 0 || c->dampening != 0))
        return err_set(e, ERR_USAGE, "optimizer SGD: nesterov needs momentum above 0 and "
                       "dampening 0");
    if (c->kind == OPTIM_SGD8BIT && c->momentum == 0)
        return err_set(e, ERR_USAGE, "optimizer SGDNesterov8bit: needs momentum above 0");
    if (c->kind == OPTIM_SGD_FREE && !(c->momentum > 0 && c->momentum < 1))
        return err_set(e, ERR_USAGE, "optimizer SGDScheduleFree: needs momentum between 0 and 1");
    if (c->warmup_init) c->relative_step = 1;      /* as kohya sets it */
    return 0;
}

int optim_finds_rate(const OptimConfig *c) { return c->kind >= OPTIM_DADAPT_ADAM; }

int optim_has_schedule(const OptimConfig *c)
{
    return 1u << c->kind & FREE || (c->kind == OPTIM_ADAFACTOR && c->relative_step);
}

void optim_describe(const OptimConfig *c, char *text, size_t size)
{
    const char *args = c->args;
    snprintf(text, size, *args ? "%s(%s)" : "%s%s", paths[c->kind], args);
}

const char *optim_lr_advice(const OptimConfig *c, double lr)
{
    if (optim_finds_rate(c) && lr <= 0.1)
        return "this optimizer finds the learning rate itself: use a learning rate around 1";
    if (1u << c->kind & (ADAMW | ADAMW8 | LION | LION8 | ADAMS_FREE) && lr >= 0.1)
        return "this learning rate is very high for this optimizer: 1e-4 is usual";
    return NULL;
}
