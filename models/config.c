/* config.c - the architecture from tensor shapes, and what shapes cannot say. */
#include "models/config.h"

#include <stdio.h>
#include <string.h>

/* What a lookup of shapes needs. */
typedef struct {
    config_find_fn *find;
    void *ctx;
    Err *e;
} Shapes;

enum { WIDTH_MAX = 1 << 16, VOCAB_MAX = 1 << 24 };

/* Axis `axis` of a tensor that must have ndim axes (0: any number). */
static int axis_of(Shapes *s, const char *name, int ndim, int axis, int64_t max, int *out)
{
    const FileTensor *t = s->find(s->ctx, name);
    if (!t) return err_set(s->e, ERR_INPUT, "no tensor for %s: not a complete SD checkpoint", name);
    if ((ndim && t->ndim != ndim) || axis >= t->ndim)
        return err_set(s->e, ERR_INPUT, "tensor %s has %d axes, which SD does not have", t->name,
                       t->ndim);
    if (t->shape[axis] < 1 || t->shape[axis] > max)
        return err_set(s->e, ERR_INPUT, "tensor %s: size %lld of axis %d is impossible", t->name,
                       (long long)t->shape[axis], axis);
    *out = (int)t->shape[axis];
    return 0;
}

static int widths(Shapes *s, const char *prefix, int *w)
{
    for (int i = 0; i < SD_LEVELS; i++) {
        char name[96];
        snprintf(name, sizeof name, "%s.down_blocks.%d.resnets.0.conv1.weight", prefix, i);
        TRY(axis_of(s, name, 4, 0, WIDTH_MAX, &w[i]));
    }
    return 0;
}

/* 0, which config_check refuses, when the width does not divide. */
static int heads_of_64(int width) { return width % 64 ? 0 : width / 64; }

void config_default_heads(SdConfig *c)
{
    for (int i = 0; i < SD_LEVELS; i++)
        c->unet_heads[i] = c->linear_proj ? heads_of_64(c->unet_width[i]) : 8;
    c->text_heads = heads_of_64(c->text_width);
}

static int text_shapes(SdConfig *c, Shapes *s, int extra_layer)
{
    static const char table[] = "text_encoder.text_model.embeddings.token_embedding.weight";
    static const char fc1[] = "text_encoder.text_model.encoder.layers.0.mlp.fc1.weight";
    TRY(axis_of(s, table, 2, 0, VOCAB_MAX, &c->vocab));
    TRY(axis_of(s, table, 2, 1, WIDTH_MAX, &c->text_width));
    TRY(axis_of(s, fc1, 2, 0, WIDTH_MAX, &c->text_ff));
    int n = 0;
    for (; n <= SD_TEXT_LAYERS_MAX; n++) {
        char name[96];
        snprintf(name, sizeof name, "text_encoder.text_model.encoder.layers.%d.layer_norm1.weight",
                 n);
        if (!s->find(s->ctx, name)) break;
    }
    c->text_layers = n - (extra_layer ? 1 : 0);
    if (c->text_layers < 1 || n > SD_TEXT_LAYERS_MAX)
        return err_set(s->e, ERR_INPUT, "a text encoder of %d layers is not SD's", n);
    return 0;
}

int config_from_tensors(SdConfig *c, config_find_fn *find, void *ctx, int stored_extra_layer,
                        Err *e)
{
    static const char proj[] = "unet.down_blocks.0.attentions.0.proj_in.weight";
    static const char context[] =
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    Shapes s = {find, ctx, e};
    int width;
    *c = (SdConfig){0};
    TRY(axis_of(&s, "unet.conv_in.weight", 4, 1, WIDTH_MAX, &c->in_channels));
    TRY(widths(&s, "unet", c->unet_width));
    TRY(axis_of(&s, proj, 0, 0, WIDTH_MAX, &width));
    c->linear_proj = find(ctx, proj)->ndim == 2;
    TRY(text_shapes(c, &s, stored_extra_layer));
    TRY(widths(&s, "vae.encoder", c->vae_width));
    c->openclip = stored_extra_layer || c->linear_proj;
    c->text_gelu = c->openclip;
    config_default_heads(c);
    TRY(axis_of(&s, context, 2, 1, WIDTH_MAX, &width));
    if (width != c->text_width)
        return err_set(e, ERR_INPUT, "the U-Net wants a text width of %d, but the text encoder's "
                       "is %d: parts of different models", width, c->text_width);
    return 0;
}

static int check_widths(const char *what, const int *w, Err *e)
{
    for (int i = 0; i < SD_LEVELS; i++)
        if (w[i] < 32 || w[i] % 32 || w[i] > WIDTH_MAX)
            return err_set(e, ERR_INPUT, "%s width %d at level %d is not a multiple of 32", what,
                           w[i], i);
    return 0;
}

int config_check(const SdConfig *c, Err *e)
{
    static const struct { int channels; const char *what; } other[] = {
        {5, "a depth-to-image model"}, {7, "the x4 upscaler"}, {8, "InstructPix2Pix"}};
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        if (c->in_channels == other[i].channels)
            return err_set(e, ERR_INPUT, "this is %s (%d input channels); only SD 1.x and 2.x with "
                           "4 or 9 are supported", other[i].what, c->in_channels);
    if (c->in_channels != 4 && c->in_channels != 9)
        return err_set(e, ERR_INPUT, "the U-Net has %d input channels; SD has 4, or 9 for "
                       "inpainting", c->in_channels);
    TRY(check_widths("U-Net", c->unet_width, e));
    TRY(check_widths("VAE", c->vae_width, e));
    for (int i = 0; i < SD_LEVELS; i++)
        if (c->unet_heads[i] < 1 || c->unet_width[i] % c->unet_heads[i])
            return err_set(e, ERR_INPUT, "U-Net width %d does not divide into attention heads (%d)",
                           c->unet_width[i], c->unet_heads[i]);
    if (c->text_heads < 1 || c->text_width % c->text_heads)
        return err_set(e, ERR_INPUT, "text width %d does not divide into attention heads (%d)",
                       c->text_width, c->text_heads);
    return 0;
}

/* ---- other kinds of file ------------------------------------------------------ */

static int has_prefix(const TensorFile *tf, const char *prefix)
{
    size_t n = strlen(prefix);
    for (size_t i = 0; i < tensorfile_count(tf); i++)
        if (!strncmp(tensorfile_at(tf, i)->name, prefix, n)) return 1;
    return 0;
}

static int has_part(const TensorFile *tf, const char *part)
{
    for (size_t i = 0; i < tensorfile_count(tf); i++)
        if (strstr(tensorfile_at(tf, i)->name, part)) return 1;
    return 0;
}

typedef struct {
    const char *mark;       /* ^ at the start: the beginning of a tensor's name, else a part */
    const char *kind, *hint;
} OtherKind;

static const char only_sd[] = "only SD 1.x and 2.x are supported";

static const OtherKind others[] = {
    {".lora_down.", "a LoRA", "give it with --lora"},
    {".lora_A.", "a LoRA", "give it with --lora"},
    {".lora.down.", "a LoRA", "give it with --lora"},
    {"_lora.down.", "a LoRA", "give it with --lora"},
    {".hada_w1_a", "a LoHa adapter", "give it with --lora"},
    {".lokr_w1", "a LoKr adapter", "give it with --lora"},
    {"^conditioner.embedders.", "an SDXL checkpoint", only_sd},
    {"^model.diffusion_model.label_emb.", "an SDXL or unCLIP checkpoint", only_sd},
    {"^add_embedding.linear_1.", "an SDXL U-Net", only_sd},
    {"^model.diffusion_model.joint_blocks.", "an SD3 checkpoint", only_sd},
    {"^joint_blocks.", "an SD3 checkpoint", only_sd},
    {"^model.diffusion_model.double_blocks.", "a Flux checkpoint", only_sd},
    {"^double_blocks.", "a Flux checkpoint", only_sd},
    {"^model.diffusion_model.time_embed.cond_proj", "a distilled LCM checkpoint", only_sd},
    {"^control_model.", "a ControlNet", only_sd},
    {"^controlnet_cond_embedding.", "a ControlNet", only_sd},
    {"zero_convs.", "a ControlNet", only_sd},
    {"motion_modules.", "an AnimateDiff motion module", only_sd},
    {"^emb_params", "a textual-inversion embedding", "give it with --embeddings"},
    {"^string_to_param", "a textual-inversion embedding", "give it with --embeddings"},
    {"^clip_g", "an SDXL embedding", "it is no model"},
};

static const OtherKind lone_parts[] = {     /* only without a U-Net beside them */
    {"^down_blocks.", "a diffusers U-Net alone", "give the folder that holds unet/, vae/ and "
     "text_encoder/"},
    {"^decoder.conv_in.", "a VAE alone", "a full checkpoint is needed"},
    {"^first_stage_model.", "a VAE alone", "a full checkpoint is needed"},
    {"^text_model.", "a text encoder alone", "a full checkpoint is needed"},
    {"^*", "a textual-inversion embedding", "give it with --embeddings"},
};

static int matches(const TensorFile *tf, const char *mark)
{
    return *mark == '^' ? has_prefix(tf, mark + 1) : has_part(tf, mark);
}

static const OtherKind *other_kind(const TensorFile *tf)
{
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (matches(tf, others[i].mark)) return &others[i];
    if (has_prefix(tf, "model.diffusion_model.")) return NULL;
    for (size_t i = 0; i < sizeof lone_parts / sizeof *lone_parts; i++)
        if (matches(tf, lone_parts[i].mark)) return &lone_parts[i];
    return NULL;
}

const char *config_other_kind(const TensorFile *tf)
{
    const OtherKind *k = other_kind(tf);
    return k ? k->kind : NULL;
}

int config_refuse_other(const TensorFile *tf, Err *e)
{
    const OtherKind *k = other_kind(tf);
    if (!k) return 0;
    return err_set(e, ERR_INPUT, "%s: this is %s, not an SD checkpoint; %s", tensorfile_path(tf),
                   k->kind, k->hint);
}

const char *config_name(const SdConfig *c)
{
    static const char *const names[2][2] = {{"SD 1.x", "SD 1.x inpainting"},
                                            {"SD 2.x", "SD 2.x inpainting"}};
    return names[c->linear_proj][c->in_channels == 9];
}
