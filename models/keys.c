/* keys.c - canonical parameter names to those of LDM, diffusers and kohya files. */
#include "models/keys.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct { const char *ours, *theirs; } Rename;
#define END {0, 0}

static const Rename unet_top[] = {
    {"time_embedding.linear_1.", "time_embed.0."}, {"time_embedding.linear_2.", "time_embed.2."},
    {"conv_in.", "input_blocks.0.0."}, {"conv_norm_out.", "out.0."}, {"conv_out.", "out.2."}, END};
static const Rename unet_resnet[] = {
    {"norm1.", "in_layers.0."}, {"conv1.", "in_layers.2."}, {"time_emb_proj.", "emb_layers.1."},
    {"norm2.", "out_layers.0."}, {"conv2.", "out_layers.3."},
    {"conv_shortcut.", "skip_connection."}, END};
static const Rename vae_resnet[] = {{"conv_shortcut.", "nin_shortcut."}, END};
static const Rename vae_attention[] = {
    {"group_norm.", "norm."}, {"to_q.", "q."}, {"to_k.", "k."}, {"to_v.", "v."},
    {"to_out.0.", "proj_out."}, END};
/* diffusers before 0.18 */
static const Rename vae_attention_old[] = {
    {"to_q.", "query."}, {"to_k.", "key."}, {"to_v.", "value."}, {"to_out.0.", "proj_attn."}, END};
static const Rename openclip_top[] = {
    {"embeddings.token_embedding.weight", "token_embedding.weight"},
    {"embeddings.position_embedding.weight", "positional_embedding"},
    {"final_layer_norm.", "ln_final."}, END};
static const Rename openclip_layer[] = {
    {"layer_norm1.", "ln_1."}, {"layer_norm2.", "ln_2."}, {"mlp.fc1.", "mlp.c_fc."},
    {"mlp.fc2.", "mlp.c_proj."}, {"self_attn.out_proj.", "attn.out_proj."}, END};
static const Rename openclip_packed[] = {
    {"self_attn.q_proj.", "attn.in_proj_"}, {"self_attn.k_proj.", "attn.in_proj_"},
    {"self_attn.v_proj.", "attn.in_proj_"}, END};

/* s behind prefix, or NULL */
static const char *after(const char *s, const char *prefix)
{
    size_t n = strlen(prefix);
    return strncmp(s, prefix, n) ? NULL : s + n;
}

static int put(KeyRef *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int put(KeyRef *r, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(r->key, sizeof r->key, fmt, ap);
    va_end(ap);
    return n > 0 && (size_t)n < sizeof r->key;
}

/* "head" + s with its beginning renamed by the table. Returns the row of the
 * table counted from 1; 0: none fits, nothing written. */
static int rename_into(KeyRef *r, const char *head, const Rename *t, const char *s)
{
    for (int i = 0; t[i].ours; i++) {
        const char *rest = after(s, t[i].ours);
        if (rest) return put(r, "%s%s%s", head, t[i].theirs, rest) ? i + 1 : 0;
    }
    return 0;
}

/* As above, but a name that the table lacks stays as it is. */
static int rename_or_keep(KeyRef *r, const char *head, const Rename *t, const char *s)
{
    return rename_into(r, head, t, s) || put(r, "%s%s", head, s);
}

/* Where "down_blocks.1.resnets.0.conv1.weight" points. */
typedef struct {
    int block, index;
    char kind[16];          /* resnets, attentions, downsamplers, upsamplers */
    const char *rest;
} Place;

static int place_in(Place *p, const char *s, const char *blocks)
{
    int n = 0;
    const char *t = after(s, blocks);
    if (!t) return 0;
    p->block = 0;
    if (!strcmp(blocks, "mid_block."))
        sscanf(t, "%15[a-z].%1d.%n", p->kind, &p->index, &n);
    else
        sscanf(t, "%1d.%15[a-z].%1d.%n", &p->block, p->kind, &p->index, &n);
    p->rest = t + n;
    return n > 0;
}

static int is(const Place *p, const char *kind) { return !strcmp(p->kind, kind); }

/* A residual block or transformer of the U-Net: the names within a transformer
 * are the same in both worlds. */
static int ldm_unet_body(KeyRef *r, const char *where, int block, int slot, const Place *p)
{
    char head[64];
    snprintf(head, sizeof head, "model.diffusion_model.%s.%d.", where, block);
    if (slot >= 0) snprintf(head + strlen(head), sizeof head - strlen(head), "%d.", slot);
    return is(p, "resnets") ? rename_into(r, head, unet_resnet, p->rest)
                            : put(r, "%s%s", head, p->rest);
}

static int ldm_unet(KeyRef *r, const char *s)
{
    Place p;
    if (rename_into(r, "model.diffusion_model.", unet_top, s)) return 1;
    if (place_in(&p, s, "mid_block."))
        return ldm_unet_body(r, "middle_block", is(&p, "attentions") ? 1 : 2 * p.index, -1, &p);
    if (place_in(&p, s, "down_blocks.")) {
        if (is(&p, "downsamplers")) {
            const char *rest = after(p.rest, "conv.");
            return rest && put(r, "model.diffusion_model.input_blocks.%d.0.op.%s",
                               3 * p.block + 3, rest);
        }
        return ldm_unet_body(r, "input_blocks", 3 * p.block + p.index + 1, is(&p, "attentions"),
                             &p);
    }
    if (place_in(&p, s, "up_blocks.")) {
        /* the deepest level has no attention, so its upsampler stands one place earlier */
        if (is(&p, "upsamplers"))
            return ldm_unet_body(r, "output_blocks", 3 * p.block + 2, p.block ? 2 : 1, &p);
        return ldm_unet_body(r, "output_blocks", 3 * p.block + p.index, is(&p, "attentions"), &p);
    }
    return 0;
}

/* half: "encoder." or "decoder."; s is behind it */
static int ldm_vae_half(KeyRef *r, const char *half, const char *s)
{
    static const Rename top[] = {{"conv_norm_out.", "norm_out."}, END};
    char head[64];
    Place p;
    if (place_in(&p, s, "mid_block.")) {
        if (is(&p, "attentions")) {
            snprintf(head, sizeof head, "first_stage_model.%smid.attn_1.", half);
            int row = rename_into(r, head, vae_attention, p.rest);
            r->conv1x1 = row > 1 && strstr(p.rest, ".weight");
            return row;
        }
        snprintf(head, sizeof head, "first_stage_model.%smid.block_%d.", half, p.index + 1);
    } else if (place_in(&p, s, "down_blocks.") || place_in(&p, s, "up_blocks.")) {
        int up = s[0] == 'u', level = up ? 3 - p.block : p.block;   /* LDM counts up.3 first */
        const char *dir = up ? "up" : "down";
        if (is(&p, "resnets"))
            snprintf(head, sizeof head, "first_stage_model.%s%s.%d.block.%d.", half, dir, level,
                     p.index);
        else
            snprintf(head, sizeof head, "first_stage_model.%s%s.%d.%ssample.", half, dir, level,
                     dir);
    } else {
        snprintf(head, sizeof head, "first_stage_model.%s", half);
        return rename_or_keep(r, head, top, s);
    }
    return rename_or_keep(r, head, vae_resnet, p.rest);
}

static int ldm_vae(KeyRef *r, const char *s)
{
    const char *rest;
    if ((rest = after(s, "encoder."))) return ldm_vae_half(r, "encoder.", rest);
    if ((rest = after(s, "decoder."))) return ldm_vae_half(r, "decoder.", rest);
    return put(r, "first_stage_model.%s", s);
}

static int openclip(KeyRef *r, const char *s)
{
    char head[64];
    int layer, n = 0;
    s = after(s, "text_model.");
    if (!s) return 0;
    if (sscanf(s, "encoder.layers.%2d.%n", &layer, &n) != 1 || !n)
        return rename_into(r, "cond_stage_model.model.", openclip_top, s);
    snprintf(head, sizeof head, "cond_stage_model.model.transformer.resblocks.%d.", layer);
    int row = rename_into(r, head, openclip_packed, s + n);
    if (!row) return rename_into(r, head, openclip_layer, s + n);
    r->part = row - 1;
    r->parts = 3;
    return 1;
}

/* Text encoder keys with and without "text_model.": transformers 4.x and 5,
 * and single files made by early converters. */
static int clip_l(KeyRef *r, const char *head, const char *s, int alt)
{
    const char *bare = after(s, "text_model.");
    if (alt == 0) return put(r, "%s%s", head, s);
    return alt == 1 && bare && put(r, "%s%s", head, bare);
}

static int diffusers_vae(KeyRef *r, const char *s, int alt)
{
    const char *attn = strstr(s, "mid_block.attentions.0.");
    char head[64];
    if (alt == 0) return put(r, "%s", s);
    if (alt > 1 || !attn) return 0;
    attn += strlen("mid_block.attentions.0.");
    snprintf(head, sizeof head, "%.*s", (int)(attn - s), s);
    return rename_into(r, head, vae_attention_old, attn) != 0;
}

int key_ref(KeyRef *r, KeyDialect d, const char *canonical, int alt)
{
    const char *unet = after(canonical, "unet."), *vae = after(canonical, "vae.");
    const char *text = after(canonical, "text_encoder.");
    *r = (KeyRef){.parts = 1};
    if (d == KEY_DIFFUSERS) {
        if (text) return clip_l(r, "", text, alt);
        if (vae) return diffusers_vae(r, vae, alt);
        return unet && alt == 0 && put(r, "%s", unet);
    }
    if (text && d == KEY_LDM) return clip_l(r, "cond_stage_model.transformer.", text, alt);
    if (alt) return 0;
    if (text) return openclip(r, text) != 0;
    if (unet) return ldm_unet(r, unet) != 0;
    return vae && ldm_vae(r, vae) != 0;
}

int key_kohya(char *buf, size_t cap, const char *layer)
{
    const char *unet = after(layer, "unet."), *text = after(layer, "text_encoder.");
    if (!unet && !text) return 0;
    int n = snprintf(buf, cap, "%s%s", unet ? "lora_unet_" : "lora_te_", unet ? unet : text);
    if (n < 0 || (size_t)n >= cap) return 0;
    for (char *p = buf; *p; p++)
        if (*p == '.') *p = '_';
    return 1;
}
