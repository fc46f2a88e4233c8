/* unet.c - see unet.h. Shapes in comments are those of SD 1.5 at 512x512. */
#include "models/unet.h"

#define P(...) block_path(__VA_ARGS__)

enum { SKIPS_MAX = 16 };

typedef struct {
    Build *b;
    const SdConfig *c;
    Tensor *temb;              /* silu(time embedding) (N,1280) */
    Tensor *context;           /* (N,77,768) */
    Tensor *skip[SKIPS_MAX];   /* outputs of the way down, for the way up */
    int skips;
} Unet;

/* Sinusoid, two linear layers; with the SiLU that every residual block would
 * otherwise repeat. (N) -> (N,1280) */
static Tensor *time_embedding(Build *b, const SdConfig *c, Tensor *t)
{
    int width = c->unet_width[0];
    Tensor *e = graph_time_embed(b->g, t, width);
    e = block_linear(b, P("unet.time_embedding.linear_1"), e, 4 * width, 1, NULL);
    e = graph_act(b->g, e, ACT_SILU);
    e = block_linear(b, P("unet.time_embedding.linear_2"), e, 4 * width, 1, NULL);
    return graph_act(b->g, e, ACT_SILU);
}

/* x += to_out(attention(to_q(n), to_k(ctx), to_v(ctx))), n normalised x. */
static Tensor *attention(Unet *u, Path at, Tensor *x, Tensor *n, Tensor *ctx, int heads)
{
    Build *b = u->b;
    int c = tensor_last(x);
    Tensor *q = block_linear(b, P("%s.to_q", at.s), n, c, 0, NULL);
    Tensor *k = block_linear(b, P("%s.to_k", at.s), ctx, c, 0, NULL);
    Tensor *v = block_linear(b, P("%s.to_v", at.s), ctx, c, 0, NULL);
    b->g->scope = at.s;
    Tensor *o = graph_attention(b->g, q, k, v, heads, 0);
    b->g->scope = NULL;
    return block_linear(b, P("%s.to_out.0", at.s), o, c, 1, x);
}

/* x (N,64,64,320) -> the same shape: self-attention, cross-attention with the
 * context, gated feed-forward, each on a normalised copy and added. */
static Tensor *transformer(Unet *u, Path at, Tensor *x, int heads)
{
    Build *b = u->b;
    int c = tensor_last(x);
    Tensor *h = block_groupnorm(b, P("%s.norm", at.s), x, 1e-6f, 0);
    h = block_linear(b, P("%s.proj_in", at.s), h, c, 1, NULL);
    Path t = P("%s.transformer_blocks.0", at.s);
    Tensor *n = block_layernorm(b, P("%s.norm1", t.s), h);
    h = attention(u, P("%s.attn1", t.s), h, n, n, heads);
    n = block_layernorm(b, P("%s.norm2", t.s), h);
    h = attention(u, P("%s.attn2", t.s), h, n, u->context, heads);
    n = block_layernorm(b, P("%s.norm3", t.s), h);
    Tensor *f = block_linear(b, P("%s.ff.net.0.proj", t.s), n, 8 * c, 1, NULL);
    f = graph_geglu(b->g, f);
    h = block_linear(b, P("%s.ff.net.2", t.s), f, c, 1, h);
    return block_linear(b, P("%s.proj_out", at.s), h, c, 1, x);
}

static Tensor *down(Unet *u, int level, Tensor *x)
{
    int width = u->c->unet_width[level], heads = u->c->unet_heads[level];
    for (int i = 0; i < 2; i++) {
        x = block_resnet(u->b, P("unet.down_blocks.%d.resnets.%d", level, i), x, width, u->temb,
                         1e-5f);
        if (level < SD_LEVELS - 1)
            x = transformer(u, P("unet.down_blocks.%d.attentions.%d", level, i), x, heads);
        u->skip[u->skips++] = x;
    }
    if (level < SD_LEVELS - 1) {
        x = block_conv3(u->b, P("unet.down_blocks.%d.downsamplers.0.conv", level), x, width, 2, 1,
                        NULL, NULL);
        u->skip[u->skips++] = x;
    }
    return x;
}

/* block counts from the bottom, as its name in checkpoints does. */
static Tensor *up(Unet *u, int block, Tensor *x)
{
    int level = SD_LEVELS - 1 - block;
    int width = u->c->unet_width[level], heads = u->c->unet_heads[level];
    for (int i = 0; i < 3; i++) {
        x = graph_concat(u->b->g, x, u->skip[--u->skips]);
        x = block_resnet(u->b, P("unet.up_blocks.%d.resnets.%d", block, i), x, width, u->temb,
                         1e-5f);
        if (block > 0) x = transformer(u, P("unet.up_blocks.%d.attentions.%d", block, i), x, heads);
    }
    if (block == SD_LEVELS - 1) return x;
    /* a size that was rounded up on the way down is cut back on the way up */
    const Tensor *like = u->skip[u->skips - 1];
    x = graph_upsample2x(u->b->g, x, like->dim[1], like->dim[2]);
    return block_conv3(u->b, P("unet.up_blocks.%d.upsamplers.0.conv", block), x, width, 1, 1, NULL,
                       NULL);
}

Tensor *unet_build(Build *b, const SdConfig *c, Tensor *x, Tensor *t, Tensor *context)
{
    Unet u = {.b = b, .c = c, .context = graph_cast(b->g, context, b->g->act)};
    int deep = c->unet_width[SD_LEVELS - 1];
    if (tensor_last(x) != c->in_channels)
        err_set(&b->g->err, ERR_INPUT, "tensor %s: %d channels; the model takes %d", x->name,
                tensor_last(x), c->in_channels);
    if (tensor_last(context) != c->text_width)
        err_set(&b->g->err, ERR_INPUT, "tensor %s: width %d; the model takes %d", context->name,
                tensor_last(context), c->text_width);
    u.temb = time_embedding(b, c, t);
    x = graph_cast(b->g, x, b->g->act);
    x = block_conv3(b, P("unet.conv_in"), x, c->unet_width[0], 1, 1, NULL,
                    NULL); /* (N,64,64,320) */
    u.skip[u.skips++] = x;
    for (int i = 0; i < SD_LEVELS; i++) x = down(&u, i, x); /* (N,8,8,1280) */
    x = block_resnet(b, P("unet.mid_block.resnets.0"), x, deep, u.temb, 1e-5f);
    x = transformer(&u, P("unet.mid_block.attentions.0"), x, c->unet_heads[SD_LEVELS - 1]);
    x = block_resnet(b, P("unet.mid_block.resnets.1"), x, deep, u.temb, 1e-5f);
    for (int i = 0; i < SD_LEVELS; i++) x = up(&u, i, x); /* (N,64,64,320) */
    x = block_groupnorm(b, P("unet.conv_norm_out"), x, 1e-5f, 1);
    return block_conv3(b, P("unet.conv_out"), x, SD_LATENT, 1, 1, NULL, NULL); /* (N,64,64,4) */
}
