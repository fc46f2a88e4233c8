/* train_network.c - --network_module and --network_args: what kind of modules a LoRA has,
 * their ranks, their dropout, and the rates of the U-Net's blocks.
 *
 * Sources: kohya networks/lora.py, loha.py and lokr.py (create_network,
 * get_block_index, get_block_lr_weight, get_block_dims_and_alphas,
 * prepare_optimizer_params); KohakuBlueleaf/LyCORIS lycoris/kohya.py.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/mem.h"
#include "tools/train.h"

/* ---- values ---------------------------------------------------------------- */

static int number(const char *key, const char *text, double lo, double hi, double *v, Err *e)
{
    char *end;
    *v = strtod(text, &end);
    if (end == text || *end || !(*v >= lo && *v <= hi))
        return err_set(e, ERR_USAGE, "option --network_args: %s=%s is not a number from %g to %g",
                       key, text, lo, hi);
    return 0;
}

/* Python's True and what LyCORIS takes for it. */
static int truth(const char *key, const char *text, int *v, Err *e)
{
    static const char *const yes[] = {"true", "1", "yes"}, *const no[] = {"false", "0", "no",
                                                                          "none"};
    for (size_t i = 0; i < 3; i++)
        if (!strcasecmp(text, yes[i])) return *v = 1, 0;
    for (size_t i = 0; i < 4; i++)
        if (!strcasecmp(text, no[i])) return *v = 0, 0;
    return err_set(e, ERR_USAGE, "option --network_args: %s=%s is not True or False", key, text);
}

/* One number for all, or a list of `count` with gaps that are `empty`. Shorter lists are
 * filled with `rest`; exact: they are refused. */
static int list(const char *key, const char *text, int count, double empty, double rest, int exact,
                double *v, Err *e)
{
    int n = 0;
    for (const char *s = text;; s++) {
        char item[64];
        size_t len = strcspn(s, ",");
        snprintf(item, sizeof item, "%.*s", (int)len, s);
        double x = empty;
        if (*item) TRY(number(key, item, -1e6, 1e6, &x, e));
        if (n == count)
            return err_set(e, ERR_USAGE, "option --network_args: %s has more than %d values", key,
                           count);
        v[n++] = x;
        s += len;
        if (!*s) break;
    }
    if (exact && n != count)
        return err_set(e, ERR_USAGE, "option --network_args: %s has %d values; %d blocks there are",
                       key, n, count);
    for (; n < count; n++) v[n] = rest;
    return 0;
}

/* ---- rates of blocks ------------------------------------------------------- */

enum { SIDE = 12, MIDDLE = 12, UPPER = 13 };      /* 12 blocks down, one between, 12 up */

/* kohya's named courses, "cosine+.25": down a block is i of 12. */
static int course(const char *text, double *v)
{
    static const char *const names[] = {"cosine", "sine", "linear", "reverse_linear", "zeros"};
    size_t n = strcspn(text, "+");
    double base = text[n] ? strtod(text + n + 1, NULL) : 0;
    for (int k = 0; k < 5; k++) {
        if (strlen(names[k]) != n || strncmp(text, names[k], n)) continue;
        for (int i = 0; i < SIDE; i++) {
            double up = (double)i / (SIDE - 1), down = (double)(SIDE - 1 - i) / (SIDE - 1);
            const double value[5] = {sin(acos(-1) * down / 2), sin(acos(-1) * up / 2), up, down, 0};
            v[i] = value[k] + base;
        }
        return 1;
    }
    return 0;
}

static int side_rates(const char *key, const char *text, double *v, Err *e)
{
    return course(text, v) ? 0 : list(key, text, SIDE, 0, 1, 0, v, e);
}

/* kohya's block of a U-Net module, 0..24. */
int train_block(const char *name)
{
    const char *down = strstr(name, "down_blocks_"), *up = strstr(name, "up_blocks_"),
               *s = down ? down : up;
    if (!s) return MIDDLE;
    s = strstr(s, "blocks_") + 7;
    int i = atoi(s), part = 2;
    const char *inner = strstr(s, "_resnets_");
    if (!inner) inner = strstr(s, "_attentions_");
    if (inner) part = atoi(strpbrk(inner + 1, "0123456789"));
    return (down ? 1 : UPPER) + 3 * i + part;
}

/* ---- arguments ------------------------------------------------------------- */

typedef struct { const char *name, *why; } Known;

/* What has no effect here, or only the one that there is. */
static const char *const ignored[] = {"bypass_mode", "unbalanced_factorization", "train_t5xxl",
                                      "block_size", "verbose"};

/* Refused unless their value is False, 0 or none. */
static const Known refused[] = {
    {"use_tucker", "Tucker cores are read, but not trained"}, {"use_cp", "Tucker cores are read, but not trained"},
    {"use_conv_cp", "Tucker cores are read, but not trained"}, {"use_scalar", "modules begin at zero without it"},
    {"train_norm", "norms are trained with --full"}, {"rank_dropout_scale", "kohya's scale is used: 1 / (1 - p)"},
    {"constraint", "belongs to OFT"}, {"rescaled", "belongs to OFT"}, {"exclude_patterns", "not supported"},
    {"include_patterns", "not supported"}, {"network_reg_dims", "not supported"}, {"network_reg_lrs", "not supported"},
    {"bias", "not supported"}};

static int set_algo(TrainNetwork *n, const char *text, Err *e)
{
    static const struct { const char *name; LoraAlgo algo; } known[] = {
        {"lora", LORA_PLAIN}, {"locon", LORA_PLAIN}, {"loha", LORA_LOHA}, {"lokr", LORA_LOKR}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcasecmp(text, known[i].name)) return n->algo = known[i].algo, 0;
    return err_set(e, ERR_USAGE,
                   "option --network_args: algo=%s is not supported; lora, locon, loha and lokr "
                   "are", text);
}

/* Arguments that are numbers and truths, by name. 0: not among them. */
static int plain_argument(TrainNetwork *n, TrainOptions *o, const char *key, const char *text,
                          int *known, Err *e)
{
    const struct { const char *name; double lo, hi, *v; } numbers[] = {
        {"conv_alpha", 0, 1e6, &o->conv_alpha}, {"dropout", 0, 0.99, &n->dropout},
        {"rank_dropout", 0, 0.99, &n->rank_dropout}, {"module_dropout", 0, 0.99, &n->module_dropout},
        {"block_lr_zero_threshold", 0, 1e6, &n->zero_threshold}, {"loraplus_lr_ratio", 0, 1e6, &n->plus},
        {"loraplus_unet_lr_ratio", 0, 1e6, &n->plus_unet}, {"loraplus_text_encoder_lr_ratio", 0, 1e6, &n->plus_text}};
    const struct { const char *name; int *v; } truths[] = {
        {"decompose_both", &n->decompose_both}, {"full_matrix", &n->full_matrix}, {"rs_lora", &n->rs_lora},
        {"dora_wd", &n->dora}, {"use_dora", &n->dora}, {"weight_decompose", &n->dora}, {"wd_on_output", &n->wd_on_output},
        {"wd_on_out", &n->wd_on_output}};
    *known = 1;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!strcmp(key, numbers[i].name))
            return number(key, text, numbers[i].lo, numbers[i].hi, numbers[i].v, e);
    for (size_t i = 0; i < sizeof truths / sizeof *truths; i++)
        if (!strcmp(key, truths[i].name)) return truth(key, text, truths[i].v, e);
    *known = 0;
    return 0;
}

static int block_argument(TrainNetwork *n, const char *key, const char *text, int *known, Err *e)
{
    *known = 1;
    if (!strcmp(key, "down_lr_weight")) return n->has_rates = 1, side_rates(key, text, n->rate, e);
    if (!strcmp(key, "mid_lr_weight"))
        return n->has_rates = 1, list(key, text, 1, 0, 1, 0, n->rate + MIDDLE, e);
    if (!strcmp(key, "up_lr_weight"))
        return n->has_rates = 1, side_rates(key, text, n->rate + UPPER, e);
    if (!strcmp(key, "block_dims"))
        return n->has_dims = 1, list(key, text, TRAIN_BLOCKS, 0, 0, 1, n->dim, e);
    if (!strcmp(key, "block_alphas"))
        return n->has_alphas = 1, list(key, text, TRAIN_BLOCKS, 0, 0, 1, n->alpha, e);
    if (!strcmp(key, "conv_block_dims"))
        return n->has_conv_dims = 1, list(key, text, TRAIN_BLOCKS, 0, 0, 1, n->conv_dim, e);
    if (!strcmp(key, "conv_block_alphas"))
        return n->has_conv_alphas = 1, list(key, text, TRAIN_BLOCKS, 0, 0, 1, n->conv_alpha, e);
    *known = 0;
    return 0;
}

static int argument(TrainNetwork *n, TrainOptions *o, const char *key, const char *text, Err *e)
{
    int known, on = 0;
    double v;
    TRY(plain_argument(n, o, key, text, &known, e));
    if (!known) TRY(block_argument(n, key, text, &known, e));
    if (known) return 0;
    if (!strcmp(key, "algo") && n->lycoris) return set_algo(n, text, e);
    if (!strcmp(key, "preset") && n->lycoris) {
        n->attn_only = !strcmp(text, "attn-mlp");
        return n->attn_only || !strcmp(text, "full")
                   ? 0
                   : err_set(e, ERR_USAGE,
                             "option --network_args: preset=%s "
                             "is not supported; full and attn-mlp are",
                             text);
    }
    if (!strcmp(key, "conv_dim"))
        return number(key, text, 0, 4096, &v, e) ? e->code : (o->conv_dim = (int)v, 0);
    if (!strcmp(key, "factor"))
        return number(key, text, -1, 4096, &v, e) ? e->code : (n->factor = (int)v, 0);
    if (!strcmp(key, "disable_conv_cp")) return 0;
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        if (!strcmp(key, ignored[i])) return 0;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (strcmp(key, refused[i].name)) continue;
        Err quiet = {0};
        int rc = truth(key, text, &on, &quiet);
        return !rc && !on
                   ? 0
                   : err_set(e, ERR_USAGE, "option --network_args: %s: %s", key, refused[i].why);
    }
    return err_set(e, ERR_USAGE,
                   "option --network_args: \"%s\"; known are conv_dim, conv_alpha, algo, factor, "
                   "dora_wd, rank_dropout, module_dropout, down_lr_weight, mid_lr_weight, "
                   "up_lr_weight, block_dims, block_alphas, loraplus_lr_ratio and others of "
                   "kohya's and LyCORIS's", key);
}

static int set_module(TrainNetwork *n, const char *name, Err *e)
{
    static const struct { const char *name; LoraAlgo algo; int lycoris; } known[] = {
        {"networks.lora", LORA_PLAIN, 0}, {"networks.loha", LORA_LOHA, 0}, {"networks.lokr", LORA_LOKR, 0},
        {"lycoris.kohya", LORA_PLAIN, 1}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (name && strcmp(name, known[i].name)) continue;
        n->algo = known[i].algo;
        n->lycoris = known[i].lycoris;
        return 0;
    }
    return err_set(e, ERR_USAGE,
                   "option --network_module: \"%s\" is not supported; networks.lora, "
                   "networks.loha, networks.lokr and lycoris.kohya are", name);
}

/* What the arguments mean together. */
static int check(TrainNetwork *n, const TrainOptions *o, Err *e)
{
    int drops = n->dropout > 0 || n->rank_dropout > 0 || n->module_dropout > 0;
    if (n->dora && drops)
        return err_set(e, ERR_USAGE, "option --network_args: dropout is not supported with DoRA");
    if (n->algo != LORA_PLAIN && n->dropout > 0)
        return err_set(e, ERR_USAGE,
                       "option --network_dropout: not with LoHa and LoKr, as in LyCORIS; use "
                       "rank_dropout or module_dropout of --network_args");
    if (n->algo == LORA_LOKR && n->rank_dropout > 0)
        return err_set(e, ERR_USAGE,
                       "option --network_args: rank_dropout is not supported with LoKr; use "
                       "module_dropout");
    if ((n->algo != LORA_PLAIN || n->dora) && o->int8_base)
        return err_set(e, ERR_USAGE,
                       "option --int8_base: only for plain LoRAs; others change the weights "
                       "themselves");
    if (n->algo != LORA_PLAIN && (n->plus > 0 || n->plus_unet > 0 || n->plus_text > 0))
        return err_set(e, ERR_USAGE,
                       "option --network_args: loraplus_lr_ratio is for plain LoRAs, which have "
                       "lora_up");
    for (int i = 0; i < TRAIN_BLOCKS; i++)
        if (n->rate[i] <= n->zero_threshold) n->rate[i] = 0;
    return 0;
}

int train_network_parse(TrainNetwork *n, TrainOptions *o, Err *e)
{
    *n = (TrainNetwork){.wd_on_output = 1, .dropout = o->network_dropout, .factor = -1};
    for (int i = 0; i < TRAIN_BLOCKS; i++) n->rate[i] = 1;
    TRY(set_module(n, o->network_module, e));
    for (size_t i = 0; i < o->network_arg_list.count; i++) {
        const char *a = o->network_arg_list.item[i], *eq = strchr(a, '=');
        char key[64];
        if (!eq || eq == a || eq - a >= (int)sizeof key)
            return err_set(e, ERR_USAGE,
                           "option --network_args: \"%s\"; key=value is expected, such as "
                           "conv_dim=8", a);
        snprintf(key, sizeof key, "%.*s", (int)(eq - a), a);
        TRY(argument(n, o, key, eq + 1, e));
    }
    if (n->lycoris && !n->attn_only && !o->conv_dim) o->conv_dim = o->network_dim;
    if (isnan(o->network_alpha)) o->network_alpha = o->network_dim / 2.0;
    if (isnan(o->conv_alpha)) o->conv_alpha = o->conv_dim / 2.0;
    return check(n, o, e);
}

/* ---- modules ---------------------------------------------------------------- */

/* LoraNew.choose: kohya leaves out modules of blocks whose rate is 0. */
static void choose(void *ctx, const LoraTarget *t, int *dim, float *alpha)
{
    const TrainNetwork *n = ctx;
    if (t->text) return;
    int block = train_block(t->name), wide = t->k == 3;
    if (wide && n->has_conv_dims) *dim = (int)n->conv_dim[block];
    if (wide && n->has_conv_alphas) *alpha = (float)n->conv_alpha[block];
    if (!wide && n->has_dims && *dim) *dim = (int)n->dim[block];
    if (!wide && n->has_alphas) *alpha = (float)n->alpha[block];
    if (n->rate[block] == 0) *dim = 0;
}

int train_network_new(TrainRun *r, Err *e)
{
    const TrainOptions *o = &r->o;
    TrainNetwork *n = &r->network;
    LoraNew c = {.dim = o->network_dim,
                 .conv_dim = o->conv_dim,
                 .alpha = (float)o->network_alpha,
                 .conv_alpha = (float)o->conv_alpha,
                 .unet = o->unet_lr != 0,
                 .text = o->text_lr != 0,
                 .seed = (uint64_t)o->seed,
                 .edge = n->lycoris && !n->attn_only,
                 .algo = n->algo,
                 .rs_lora = n->rs_lora,
                 .factor = n->factor,
                 .decompose_both = n->decompose_both,
                 .full_matrix = n->full_matrix,
                 .choose = choose,
                 .ctx = n,
                 .dora_of = !n->dora          ? LORA_NO_DORA
                            : n->wd_on_output ? LORA_DORA_OUT
                                              : LORA_DORA_IN};
    return lora_new(&r->lora, &c, r->m.targets, r->m.target_count, e);
}

/* ---- rates ------------------------------------------------------------------ */

static double ratio(const TrainNetwork *n, int text)
{
    double own = text ? n->plus_text : n->plus_unet;
    return own > 0 ? own : n->plus > 0 ? n->plus : 1;
}

/* ModelTraining.group: behind the usual ones two for each block of the U-Net and for the
 * text encoder; the second is LoRA+'s. */
static int group_of(void *ctx, const LoraTarget *t, const char *factor)
{
    const TrainRun *r = ctx;
    int plus = !strcmp(factor, "lora_up.weight") && ratio(&r->network, t->text) != 1;
    int block = t->text ? TRAIN_BLOCKS : r->network.has_rates ? train_block(t->name) : MIDDLE;
    if (!plus && (t->text || !r->network.has_rates)) return t->text ? GROUP_TEXT : GROUP_UNET;
    return GROUP_COUNT + 2 * block + plus;
}

void train_network_train(TrainRun *r, ModelTraining *t)
{
    const TrainNetwork *n = &r->network;
    t->lora = &r->lora;
    t->lora_unet = r->o.unet_lr != 0;
    t->lora_text = r->o.text_lr != 0;
    t->dropout = (Dropout){.each = (float)n->dropout,
                           .channel = (float)n->rank_dropout,
                           .all = (float)n->module_dropout};
    t->group = group_of;
    t->group_ctx = r;
}

int train_network_rates(const TrainRun *r, double *lr)
{
    const TrainNetwork *n = &r->network;
    for (int block = 0; block <= TRAIN_BLOCKS; block++) {
        int text = block == TRAIN_BLOCKS;
        double rate = text ? lr[GROUP_TEXT] : lr[GROUP_UNET] * (n->has_rates ? n->rate[block] : 1);
        lr[GROUP_COUNT + 2 * block] = rate;
        lr[GROUP_COUNT + 2 * block + 1] = rate * ratio(n, text);
    }
    return GROUP_COUNT + 2 * (TRAIN_BLOCKS + 1);
}

/* ---- its name ---------------------------------------------------------------- */

const char *train_network_name(const TrainNetwork *n)
{
    static const char *const names[3][2] = {{"LoRA", "DoRA"},
                                            {"LoHa", "LoHa with DoRA"},
                                            {"LoKr", "LoKr with DoRA"}};
    return names[n->algo][n->dora != 0];
}

/* kohya's ss_network_args: a JSON object of texts. */
char *train_network_args(const TrainOptions *o)
{
    char *s = mem_strdup("{");
    for (size_t i = 0; s && i < o->network_arg_list.count; i++) {
        const char *a = o->network_arg_list.item[i], *eq = strchr(a, '=');
        char *more = mem_printf("%s%s\"%.*s\": \"%s\"", s, i ? ", " : "", (int)(eq - a), a, eq + 1);
        mem_free(s);
        s = more;
    }
    char *all = s ? mem_printf("%s}", s) : NULL;
    mem_free(s);
    return all;
}
