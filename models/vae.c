/* vae.c - see vae.h. Shapes in comments are those of SD 1.5 at 512x512. */
#include "models/vae.h"

#define P(...) block_path(__VA_ARGS__)
#define EPS 1e-6f

/* residual block, single-head attention over all pixels, residual block */
static Tensor *middle(Build *b, const char *side, Tensor *x)
{
    int c = tensor_last(x);
    x = block_resnet(b, P("vae.%s.mid_block.resnets.0", side), x, c, NULL, EPS);
    Path at = P("vae.%s.mid_block.attentions.0", side);
    Tensor *n = block_groupnorm(b, P("%s.group_norm", at.s), x, EPS, 0);
    Tensor *q = block_linear(b, P("%s.to_q", at.s), n, c, 1, NULL);
    Tensor *k = block_linear(b, P("%s.to_k", at.s), n, c, 1, NULL);
    Tensor *v = block_linear(b, P("%s.to_v", at.s), n, c, 1, NULL);
    b->g->scope = at.s;
    Tensor *o = graph_attention(b->g, q, k, v, 1, 0);
    b->g->scope = NULL;
    x = block_linear(b, P("%s.to_out.0", at.s), o, c, 1, x);
    return block_resnet(b, P("vae.%s.mid_block.resnets.1", side), x, c, NULL, EPS);
}

Tensor *vae_encode_build(Build *b, const SdConfig *c, Tensor *image)
{
    if (image->ndim == 4 && (image->dim[1] % 8 || image->dim[2] % 8))
        err_set(&b->g->err, ERR_INPUT,
                "tensor %s: size %dx%d; height and width must be multiples of 8", image->name,
                image->dim[1], image->dim[2]);
    Tensor *x = graph_cast(b->g, image, b->g->act);
    x = block_conv3(b, P("vae.encoder.conv_in"), x, c->vae_width[0], 1, 1, NULL,
                    NULL); /* (N,512,512,128) */
    for (int i = 0; i < SD_LEVELS; i++) {
        for (int j = 0; j < 2; j++)
            x = block_resnet(b, P("vae.encoder.down_blocks.%d.resnets.%d", i, j), x,
                             c->vae_width[i], NULL, EPS);
        /* zeros on the right and the bottom only */
        if (i < SD_LEVELS - 1)
            x = block_conv3(b, P("vae.encoder.down_blocks.%d.downsamplers.0.conv", i), x,
                            c->vae_width[i], 2, 0, NULL, NULL);
    }
    x = middle(b, "encoder", x); /* (N,64,64,512) */
    x = block_groupnorm(b, P("vae.encoder.conv_norm_out"), x, EPS, 1);
    x = block_conv3(b, P("vae.encoder.conv_out"), x, 2 * SD_LATENT, 1, 1, NULL, NULL);
    return block_linear(b, P("vae.quant_conv"), x, 2 * SD_LATENT, 1, NULL); /* (N,64,64,8) */
}

Tensor *vae_decode_build(Build *b, const SdConfig *c, Tensor *latents)
{
    Tensor *x = graph_cast(b->g, latents, b->g->act);
    x = block_linear(b, P("vae.post_quant_conv"), x, SD_LATENT, 1, NULL);
    x = block_conv3(b, P("vae.decoder.conv_in"), x, c->vae_width[SD_LEVELS - 1], 1, 1, NULL, NULL);
    x = middle(b, "decoder", x); /* (N,64,64,512) */
    for (int i = 0; i < SD_LEVELS; i++) {
        int width = c->vae_width[SD_LEVELS - 1 - i];
        for (int j = 0; j < 3; j++)
            x = block_resnet(b, P("vae.decoder.up_blocks.%d.resnets.%d", i, j), x, width, NULL,
                             EPS);
        if (i == SD_LEVELS - 1) break;
        x = graph_upsample2x(b->g, x, 2 * x->dim[1], 2 * x->dim[2]);
        x = block_conv3(b, P("vae.decoder.up_blocks.%d.upsamplers.0.conv", i), x, width, 1, 1, NULL,
                        NULL);
    }
    x = block_groupnorm(b, P("vae.decoder.conv_norm_out"), x, EPS, 1);
    return block_conv3(b, P("vae.decoder.conv_out"), x, 3, 1, 1, NULL, NULL); /* (N,512,512,3) */
}
