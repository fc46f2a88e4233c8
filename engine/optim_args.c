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
    {"lion", OPTIM_LION},
    {"sgd", OPTIM_SGD}, {"sgdnesterov", OPTIM_SGD},
    {"dadaptadam", OPTIM_DADAPT_ADAM}, {"dadaptation", OPTIM_DADAPT_ADAM},
    {"dadaptadampreprint", OPTIM_DADAPT_ADAM},
    {"prodigy", OPTIM_PRODIGY},
};

static const char *const paths[] = {
    "torch.optim.adamw.AdamW", "bitsandbytes.optim.adamw.AdamW8bit",
    "lion_pytorch.lion_pytorch.Lion", "torch.optim.sgd.SGD",
    "dadaptation.dadapt_adam.DAdaptAdam",
    "prodigyopt.prodigy.Prodigy",
};

enum {
    ADAMW = 1 << OPTIM_ADAMW, ADAMW8 = 1 << OPTIM_ADAMW8BIT, LION = 1 << OPTIM_LION,
    SGD = 1 << OPTIM_SGD, DADAPT = 1 << OPTIM_DADAPT_ADAM, PRODIGY = 1 << OPTIM_PRODIGY,
    TORCH = ADAMW | SGD, ADAMS = ADAMW | ADAMW8 | DADAPT | PRODIGY, ANY = ADAMS | LION | SGD,
};

/* BETAS fills beta1 and beta2; OFF takes False only (a variant of the method
 * that we do not have); SKIP takes any value: it does not change the numbers. */
typedef enum { NUMBER, INTEGER, FLAG, BETAS, OFF, SKIP } ArgType;

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
    {"betas", ADAMS | LION, BETAS, AT(beta1), 0, 1},
    {"beta3", PRODIGY, NUMBER, AT(beta3), 0, 1},
    {"eps", ADAMS, NUMBER, AT(eps), 0, 1e9},
    {"momentum", SGD, NUMBER, AT(momentum), 0, 1e9},
    {"dampening", SGD, NUMBER, AT(dampening), -1e9, 1e9},
    {"nesterov", SGD, FLAG, AT(nesterov), 0, 0},
    {"decoupled_weight_decay", LION, FLAG, AT(decoupled_weight_decay), 0, 0},
    {"min_8bit_size", ADAMW8, INTEGER, AT(min_8bit_size), 0, 2147483648.0},
    {"decouple", DADAPT | PRODIGY, FLAG, AT(decouple), 0, 0},
    {"use_bias_correction", DADAPT | PRODIGY, FLAG, AT(use_bias_correction), 0, 0},
    {"safeguard_warmup", PRODIGY, FLAG, AT(safeguard_warmup), 0, 0},
    {"d0", DADAPT | PRODIGY, NUMBER, AT(d0), 1e-300, 1e9},
    {"d_coef", PRODIGY, NUMBER, AT(d_coef), 0, 1e9},
    {"growth_rate", DADAPT | PRODIGY, NUMBER, AT(growth_rate), 1, HUGE_VAL},
    {"slice_p", PRODIGY, INTEGER, AT(slice_p), 1, 65536},
    {"amsgrad", ADAMW | ADAMW8, OFF, 0, 0, 0},
    {"maximize", TORCH, OFF, 0, 0, 0},
    {"foreach", TORCH, SKIP, 0, 0, 0},
    {"fused", TORCH, SKIP, 0, 0, 0},
    {"capturable", ADAMW, SKIP, 0, 0, 0},
    {"is_paged", ADAMW8, SKIP, 0, 0, 0},
    {"use_triton", LION, SKIP, 0, 0, 0},
    {"log_every", DADAPT, SKIP, 0, 0, 0},
    {"fsdp_in_use", DADAPT | PRODIGY, SKIP, 0, 0, 0},
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
        c->momentum = c->nesterov ? 0.9 : 0;
        return 0;
    }
    return err_set(e, ERR_USAGE, "optimizer \"%.64s\" is not known; use AdamW, AdamW8bit, Lion, "
                   "SGD, SGDNesterov, DAdaptAdam or Prodigy", name);
}

static void set_defaults(OptimConfig *c)
{
    int kind = 1 << c->kind;
    c->weight_decay = kind & (ADAMW | ADAMW8) ? 0.01 : 0;
    c->beta1 = 0.9;
    c->beta2 = kind & LION ? 0.99 : 0.999;
    c->beta3 = -1;
    c->eps = 1e-8;
    c->min_8bit_size = 4096;
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

static int apply(OptimConfig *c, const char *key, char value[2][32], int n, Err *e)
{
    const Arg *a = NULL;
    for (int i = 0; i < ARGS; i++)
        if (!strcmp(args_known[i].key, key) && args_known[i].kinds & 1u << c->kind)
            a = &args_known[i];
    if (!a) return unknown_arg(c, key, e);
    if (n != (a->type == BETAS ? 2 : 1))
        return bad_value(key, n ? value[0] : "", a->type == BETAS ? "two numbers" : "one value", e);
    char *field = (char *)c + a->at;
    double x = 0;
    int yes = !strcasecmp(value[0], "true") || !strcmp(value[0], "1");
    int no = !strcasecmp(value[0], "false") || !strcmp(value[0], "0") || !strcmp(value[0], "None");
    switch (a->type) {
    case NUMBER:
        if (a->at == AT(beta3) && !strcmp(value[0], "None")) x = -1;
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
    case BETAS:
        TRY(number(a, value[0], &c->beta1, e));
        TRY(number(a, value[1], &c->beta2, e));
        break;
    case OFF:
        if (!no) return bad_value(key, value[0], "False; this variant is not supported", e);
        break;
    case SKIP: break;
    }
    size_t used = strlen(c->args);
    snprintf(c->args + used, sizeof c->args - used, n == 2 ? "%s%s=(%s, %s)" : "%s%s=%s",
             used ? "," : "", key, value[0], value[1]);
    return 0;
}

/* Brackets and quotes are blanks; a word without '=' is one more value of the
 * item before it, so that betas=0.9,0.99 and betas=(0.9, 0.99) are the same. */
static int parse_args(OptimConfig *c, const char *args, Err *e)
{
    static const char blanks[] = " ,()[]'\"\t\r\n";
    char key[32] = "", value[2][32] = {"", ""};
    int n = 0;
    if (strlen(args) > 400)
        return err_set(e, ERR_USAGE, "optimizer arguments: longer than 400 characters");
    for (const char *s = args + strspn(args, blanks); *s; s += strspn(s, blanks)) {
        size_t len = strcspn(s, blanks);
        const char *eq = memchr(s, '=', len), *word = eq ? eq + 1 : s;
        size_t key_len = eq ? (size_t)(eq - s) : 0, left = len - (size_t)(word - s);
        if (eq && *key) TRY(apply(c, key, value, n, e));
        if (eq) n = 0;
        if ((eq ? !key_len : !*key) || key_len >= sizeof key || left >= sizeof *value || n == 2)
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
    return 0;
}

void optim_describe(const OptimConfig *c, char *text, size_t size)
{
    const char *args = c->args;
    snprintf(text, size, *args ? "%s(%s)" : "%s%s", paths[c->kind], args);
}

const char *optim_lr_advice(const OptimConfig *c, double lr)
{
    if ((1 << c->kind & (DADAPT | PRODIGY)) && lr <= 0.1)
        return "this optimizer finds the learning rate itself: use a learning rate around 1";
    if ((1 << c->kind & (ADAMW | ADAMW8 | LION)) && lr >= 0.1)
        return "this learning rate is very high for this optimizer: 1e-4 is usual";
    return NULL;
}
