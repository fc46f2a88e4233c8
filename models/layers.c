/* layers.c - the walk over the architecture of SD 1.x and 2.x.
 *
 * Follows diffusers' UNet2DConditionModel, AutoencoderKL and transformers'
 * CLIPTextModel; names are theirs. */
#include "models/layers.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/mem.h"
#include "models/keys.h"

/* The list being built; rc is sticky. prefix is where the walk stands. */
typedef struct {
    Layers *ls;
    const SdConfig *c;
    int rc;
    Err *e;
    char prefix[96];
} Walk;

static void at(Walk *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void at(Walk *w, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(w->prefix, sizeof w->prefix, fmt, ap);
    va_end(ap);
}

static void add(Walk *w, const char *name, Layer l)
{
    if (w->rc) return;
    Layer *list = mem_grow(w->ls->list, w->ls->count, &w->ls->cap, sizeof *list);
    if (!list) {
        w->rc = err_nomem(w->e, sizeof *list, "the list of layers");
        return;
    }
    w->ls->list = list;
    snprintf(l.path, sizeof l.path, "%s.%s", w->prefix, name);
    list[w->ls->count++] = l;
}

static void linear(Walk *w, const char *name, int in, int out, int bias, LoraSet lora)
{
    add(w, name, (Layer){.kind = LAYER_LINEAR, .in = in, .out = out, .k = 1, .stride = 1,
                         .bias = bias, .lora = lora});
}

static void conv(Walk *w, const char *name, int in, int out, int k, int stride, LoraSet lora)
{
    add(w, name, (Layer){.kind = LAYER_CONV, .in = in, .out = out, .k = k, .stride = stride,
                         .bias = 1, .lora = lora});
}

static void norm(Walk *w, const char *name, int channels)
{
    add(w, name, (Layer){.kind = LAYER_NORM, .in = channels, .out = channels, .bias = 1});
}

static void embedding(Walk *w, const char *name, int rows, int width)
{
    add(w, name, (Layer){.kind = LAYER_EMBEDDING, .in = rows, .out = width});
}

/* ---- text encoder --------------------------------------------------------------- */

static void text_encoder(Walk *w)
{
    static const char *const attn[] = {"self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj",
                                       "self_attn.out_proj"};
    int c = w->c->text_width;
    at(w, "text_encoder.text_model");
    embedding(w, "embeddings.token_embedding", w->c->vocab, c);
    embedding(w, "embeddings.position_embedding", SD_POSITIONS, c);
    for (int i = 0; i < w->c->text_layers; i++) {
        at(w, "text_encoder.text_model.encoder.layers.%d", i);
        norm(w, "layer_norm1", c);
        for (int j = 0; j < 4; j++) linear(w, attn[j], c, c, 1, LORA_DEFAULT);
        norm(w, "layer_norm2", c);
        linear(w, "mlp.fc1", c, w->c->text_ff, 1, LORA_DEFAULT);
        linear(w, "mlp.fc2", w->c->text_ff, c, 1, LORA_DEFAULT);
    }
    at(w, "text_encoder.text_model");
    norm(w, "final_layer_norm", c);
}

/* ---- U-Net ---------------------------------------------------------------------- */

/* time: width of the time embedding, 0 in the VAE, which no LoRA touches. */
static void resnet(Walk *w, const char *block, int index, int in, int out, int time)
{
    LoraSet lora = time ? LORA_CONV : LORA_NONE;
    at(w, "%s.resnets.%d", block, index);
    norm(w, "norm1", in);
    conv(w, "conv1", in, out, 3, 1, lora);
    if (time) linear(w, "time_emb_proj", time, out, 1, lora);
    norm(w, "norm2", out);
    conv(w, "conv2", out, out, 3, 1, lora);
    if (in != out) conv(w, "conv_shortcut", in, out, 1, 1, lora);
}

static void projection(Walk *w, const char *name, int c)
{
    if (w->c->linear_proj) linear(w, name, c, c, 1, LORA_DEFAULT);
    else conv(w, name, c, c, 1, 1, LORA_DEFAULT);
}

static void cross_attention(Walk *w, const char *name, int c, int context)
{
    static const char *const part[] = {"to_q", "to_k", "to_v", "to_out.0"};
    for (int i = 0; i < 4; i++) {
        char buf[64];
        snprintf(buf, sizeof buf, "transformer_blocks.0.%s.%s", name, part[i]);
        linear(w, buf, i == 1 || i == 2 ? context : c, c, i == 3, LORA_DEFAULT);
    }
}

static void transformer(Walk *w, const char *block, int index, int c)
{
    at(w, "%s.attentions.%d", block, index);
    norm(w, "norm", c);
    projection(w, "proj_in", c);
    norm(w, "transformer_blocks.0.norm1", c);
    cross_attention(w, "attn1", c, c);
    norm(w, "transformer_blocks.0.norm2", c);
    cross_attention(w, "attn2", c, w->c->text_width);
    norm(w, "transformer_blocks.0.norm3", c);
    linear(w, "transformer_blocks.0.ff.net.0.proj", c, 8 * c, 1, LORA_DEFAULT);
    linear(w, "transformer_blocks.0.ff.net.2", 4 * c, c, 1, LORA_DEFAULT);
    projection(w, "proj_out", c);
}

/* skip[]: channels of the feature maps that the way up takes back, last first. */
static int unet_down(Walk *w, int *skip)
{
    const int *width = w->c->unet_width, time = 4 * width[0];
    int n = 0, in = width[0];
    char block[64];
    skip[n++] = in;
    for (int i = 0; i < SD_LEVELS; i++) {
        snprintf(block, sizeof block, "unet.down_blocks.%d", i);
        for (int j = 0; j < 2; j++) {
            resnet(w, block, j, in, width[i], time);
            if (i < 3) transformer(w, block, j, width[i]);
            skip[n++] = in = width[i];
        }
        if (i == 3) break;
        at(w, "%s.downsamplers.0", block);
        conv(w, "conv", in, in, 3, 2, LORA_CONV);
        skip[n++] = in;
    }
    return n;
}

static void unet(Walk *w)
{
    const int *width = w->c->unet_width, time = 4 * width[0];
    int skip[3 * SD_LEVELS], in = width[3];
    char block[64];
    at(w, "unet");
    conv(w, "conv_in", w->c->in_channels, width[0], 3, 1, LORA_EDGE);
    linear(w, "time_embedding.linear_1", width[0], time, 1, LORA_EDGE);
    linear(w, "time_embedding.linear_2", time, time, 1, LORA_EDGE);
    int n = unet_down(w, skip);
    resnet(w, "unet.mid_block", 0, in, in, time);
    transformer(w, "unet.mid_block", 0, in);
    resnet(w, "unet.mid_block", 1, in, in, time);
    for (int i = 0; i < SD_LEVELS; i++) {
        int out = width[3 - i];
        snprintf(block, sizeof block, "unet.up_blocks.%d", i);
        for (int j = 0; j < 3; j++) {
            resnet(w, block, j, in + skip[--n], out, time);
            if (i > 0) transformer(w, block, j, out);
            in = out;
        }
        if (i == 3) break;
        at(w, "%s.upsamplers.0", block);
        conv(w, "conv", in, in, 3, 1, LORA_CONV);
    }
    at(w, "unet");
    norm(w, "conv_norm_out", in);
    conv(w, "conv_out", in, SD_LATENT, 3, 1, LORA_EDGE);
}

/* ---- VAE ------------------------------------------------------------------------ */

static void vae_middle(Walk *w, const char *half, int c)
{
    static const char *const part[] = {"to_q", "to_k", "to_v", "to_out.0"};
    char block[64];
    snprintf(block, sizeof block, "%s.mid_block", half);
    resnet(w, block, 0, c, c, 0);
    at(w, "%s.attentions.0", block);
    norm(w, "group_norm", c);
    for (int i = 0; i < 4; i++) linear(w, part[i], c, c, 1, LORA_NONE);
    resnet(w, block, 1, c, c, 0);
}

static void vae_encoder(Walk *w)
{
    const int *width = w->c->vae_width;
    int in = width[0];
    char block[64];
    at(w, "vae.encoder");
    conv(w, "conv_in", 3, in, 3, 1, LORA_NONE);
    for (int i = 0; i < SD_LEVELS; i++) {
        snprintf(block, sizeof block, "vae.encoder.down_blocks.%d", i);
        for (int j = 0; j < 2; j++, in = width[i]) resnet(w, block, j, in, width[i], 0);
        if (i == 3) break;
        at(w, "%s.downsamplers.0", block);
        conv(w, "conv", in, in, 3, 2, LORA_NONE);
    }
    vae_middle(w, "vae.encoder", in);
    at(w, "vae.encoder");
    norm(w, "conv_norm_out", in);
    conv(w, "conv_out", in, 2 * SD_LATENT, 3, 1, LORA_NONE);
    at(w, "vae");
    conv(w, "quant_conv", 2 * SD_LATENT, 2 * SD_LATENT, 1, 1, LORA_NONE);
}

static void vae_decoder(Walk *w)
{
    const int *width = w->c->vae_width;
    int in = width[3];
    char block[64];
    at(w, "vae");
    conv(w, "post_quant_conv", SD_LATENT, SD_LATENT, 1, 1, LORA_NONE);
    at(w, "vae.decoder");
    conv(w, "conv_in", SD_LATENT, in, 3, 1, LORA_NONE);
    vae_middle(w, "vae.decoder", in);
    for (int i = 0; i < SD_LEVELS; i++) {
        int out = width[3 - i];
        snprintf(block, sizeof block, "vae.decoder.up_blocks.%d", i);
        for (int j = 0; j < 3; j++, in = out) resnet(w, block, j, in, out, 0);
        if (i == 3) break;
        at(w, "%s.upsamplers.0", block);
        conv(w, "conv", in, in, 3, 1, LORA_NONE);
    }
    at(w, "vae.decoder");
    norm(w, "conv_norm_out", in);
    conv(w, "conv_out", in, 3, 3, 1, LORA_NONE);
}

/* --------------------------------------------------------------------------------- */

int layers_build(Layers *ls, const SdConfig *c, Err *e)
{
    Walk w = {.ls = ls, .c = c, .e = e};
    *ls = (Layers){0};
    text_encoder(&w);
    unet(&w);
    vae_encoder(&w);
    vae_decoder(&w);
    if (w.rc) layers_free(ls);
    return w.rc;
}

void layers_free(Layers *ls)
{
    mem_free(ls->list);
    *ls = (Layers){0};
}

int layer_param(const Layer *l, int i, char *name, int64_t shape[4])
{
    if (i < 0 || i > 1 || (i == 1 && !l->bias)) return 0;
    if (name) snprintf(name, KEY_MAX, "%s.%s", l->path, i ? "bias" : "weight");
    shape[0] = l->kind == LAYER_EMBEDDING ? l->in : l->out;
    shape[1] = l->kind == LAYER_EMBEDDING ? l->out : l->in;
    shape[2] = shape[3] = l->k;
    if (i == 1 || l->kind == LAYER_NORM) return 1;
    return l->kind == LAYER_CONV ? 4 : 2;
}

static int target_from(LoraTarget *t, const Layer *l, Err *e)
{
    char name[KEY_MAX];
    if (!key_kohya(name, sizeof name, l->path))
        return err_set(e, ERR_FAIL, "layer %s has no LoRA name", l->path);
    t->path = mem_strdup(l->path);
    t->name = mem_strdup(name);
    if (!t->path || !t->name) return err_nomem(e, sizeof name, "the list of LoRA modules");
    t->out = l->out;
    t->in = l->in;
    t->k = l->k;
    t->stride = l->stride;
    t->conv = l->kind == LAYER_CONV;
    t->text = !strncmp(l->path, "text_encoder.", 13);
    t->set = l->lora;
    return 0;
}

int layers_lora_targets(const Layers *ls, LoraTarget **list, size_t *count, Err *e)
{
    size_t n = 0;
    LoraTarget *t = mem_calloc(ls->count, sizeof *t);
    if (!t) return err_nomem(e, ls->count * sizeof *t, "the list of LoRA modules");
    for (size_t i = 0; i < ls->count; i++) {
        if (ls->list[i].lora == LORA_NONE) continue;
        int rc = target_from(&t[n++], &ls->list[i], e);
        if (rc) {
            lora_targets_free(t, n);
            return rc;
        }
    }
    *list = t;
    *count = n;
    return 0;
}
