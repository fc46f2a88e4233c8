/* lora_names.c - tensor names of adapter files.
 *
 * The dialects: kohya "lora_unet_a_b.lora_down.weight"; PEFT "unet.a.b.lora_A.weight";
 * diffusers 0.14 to 0.21 "unet.a.b.lora.down.weight", ".lora_linear_layer.down.weight",
 * "a.processor.to_q_lora.down.weight". Sources: loaders/lora_conversion_utils.py
 * and utils/state_dict_utils.py of huggingface/diffusers. */
#include "engine/lora_names.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *suffix;
    LoraPart part;
    int short_name;        /* "to_q_lora": the module is named by its role */
} suffixes[] = {
    {".lora_up.weight", PART_UP, 0}, {".lora_down.weight", PART_DOWN, 0},
    {".lora_mid.weight", PART_MID, 0}, {".alpha", PART_ALPHA, 0}, {".dora_scale", PART_DORA, 0},
    {".hada_w1_a", PART_W1A, 0}, {".hada_w1_b", PART_W1B, 0},
    {".hada_w2_a", PART_W2A, 0}, {".hada_w2_b", PART_W2B, 0},
    {".hada_t1", PART_T1, 0}, {".hada_t2", PART_T2, 0},
    {".lokr_w1", PART_K1, 0}, {".lokr_w1_a", PART_K1A, 0}, {".lokr_w1_b", PART_K1B, 0},
    {".lokr_w2", PART_K2, 0}, {".lokr_w2_a", PART_K2A, 0}, {".lokr_w2_b", PART_K2B, 0},
    {".lokr_t2", PART_KT2, 0},
    {".lora_B.weight", PART_UP, 0}, {".lora_A.weight", PART_DOWN, 0},
    {".lora_B.default.weight", PART_UP, 0}, {".lora_A.default.weight", PART_DOWN, 0},
    {".lora_linear_layer.up.weight", PART_UP, 0},
    {".lora_linear_layer.down.weight", PART_DOWN, 0},
    {".lora.up.weight", PART_UP, 0}, {".lora.down.weight", PART_DOWN, 0},
    {"_lora.up.weight", PART_UP, 1}, {"_lora.down.weight", PART_DOWN, 1},
    {".lora_magnitude_vector", PART_DORA, 0}, {".lora_magnitude_vector.weight", PART_DORA, 0},
    {".lora_magnitude_vector.default.weight", PART_DORA, 0},
};

static const struct { const char *part, *kind; } unsupported[] = {
    {".lokr_t1", "a LoKr adapter with two Tucker cores"}, {".oft_", "an OFT adapter"},
    {".on_input", "an IA3 adapter"}, {".diff", "a full difference"}, {".w_norm", "a norm adapter"},
    {".bm.", "a GLoRA adapter"}, {"emb_params", "a textual-inversion embedding"},
};

static const char *after(const char *s, const char *prefix)
{
    size_t n = strlen(prefix);
    return strncmp(s, prefix, n) ? NULL : s + n;
}

static char *ends_with(char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end) ? s + n - m : NULL;
}

/* The last part of an old short name: "to_out" -> "to_out.0", and in the text
 * encoder "to_q" -> "q_proj". stem has room for a few bytes more. */
static void long_name(char *stem, int text)
{
    static const char *const roles[][3] = {     /* short, U-Net, text encoder */
        {".to_q", ".to_q", ".q_proj"}, {".to_k", ".to_k", ".k_proj"},
        {".to_v", ".to_v", ".v_proj"}, {".to_out", ".to_out.0", ".out_proj"}};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        char *p = ends_with(stem, roles[i][0]);
        if (!p) continue;
        memcpy(p, roles[i][1 + text], strlen(roles[i][1 + text]) + 1);
        return;
    }
}

/* A dotted path to kohya's name. */
static int from_path(char module[LORA_NAME_MAX], char *stem, int short_name)
{
    const char *s = stem, *rest, *infix = "";
    int text = 0;
    char *p;
    if ((rest = after(s, "base_model.model."))) s = rest;
    if ((rest = after(s, "unet."))) s = rest;
    else if ((rest = after(s, "text_encoder."))) text = 1, s = rest;
    else if (after(s, "text_model.")) text = 1;
    else if (!after(s, "down_blocks.") && !after(s, "up_blocks.") && !after(s, "mid_block."))
        return 0;
    if (text && !after(s, "text_model.")) infix = "text_model_";
    if ((p = strstr(stem, ".processor."))) memmove(p, p + 10, strlen(p + 10) + 1);
    if (short_name) long_name(stem, text);
    int n = snprintf(module, LORA_NAME_MAX, "%s%s%s", text ? "lora_te_" : "lora_unet_", infix, s);
    if (n >= LORA_NAME_MAX) return 0;
    for (p = module; *p; p++)
        if (*p == '.') *p = '_';
    return 1;
}

static int refuse(const char *key, Err *e)
{
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++)
        if (strstr(key, unsupported[i].part))
            return err_set(e, ERR_INPUT, "tensor %s belongs to %s, which cannot be used as a LoRA",
                           key, unsupported[i].kind);
    return err_set(e, ERR_INPUT, "tensor %s is part of no known kind of LoRA", key);
}

int lora_name(const char *key, char module[LORA_NAME_MAX], LoraPart *part, int *peft, Err *e)
{
    char stem[LORA_NAME_MAX];
    size_t n = strlen(key);
    if (n >= LORA_NAME_MAX - 16) return refuse(key, e);
    memcpy(stem, key, n + 1);
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        char *end = ends_with(stem, suffixes[i].suffix);
        if (!end) continue;
        *end = 0;
        *part = suffixes[i].part;
        *peft = strchr(stem, '.') != NULL;
        if (!*peft) {
            memcpy(module, stem, sizeof stem);
            return *stem ? 0 : refuse(key, e);
        }
        return from_path(module, stem, suffixes[i].short_name) ? 0 : refuse(key, e);
    }
    return refuse(key, e);
}
