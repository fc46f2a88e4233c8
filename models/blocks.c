/* blocks.c - see blocks.h. */
#include "models/blocks.h"

#include <stdarg.h>
#include <stdio.h>

Path block_path(const char *fmt, ...)
{
    Path p;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(p.s, sizeof p.s, fmt, ap);
    va_end(ap);
    return p;
}

Tensor *block_param(Build *b, Path name, int ndim, const int *dim)
{
    return graph_weight(b->g, params_get(b->ps, name.s, ndim, dim));
}

static Tensor *vector(Build *b, Path path, const char *what, int n)
{
    return block_param(b, block_path("%s.%s", path.s, what), 1, &n);
}

static int lora_rank(Build *b, Path path, float *scale)
{
    return b->lora ? b->lora(b->lora_ctx, path.s, scale) : 0;
}

Tensor *block_linear(Build *b, Path path, Tensor *x, int n, int bias, Tensor *res)
{
    int k = tensor_last(x);
    float scale = 1;
    b->g->scope = path.s;
    Tensor *w = block_param(b, block_path("%s.weight", path.s), 2, (int[]){n, k});
    Tensor *y = graph_linear(b->g, x, w, bias ? vector(b, path, "bias", n) : NULL, res, 1);
    int rank = lora_rank(b, path, &scale);
    if (rank) {
        Tensor *down = block_param(b, block_path("%s.lora_down.weight", path.s), 2, (int[]){rank, k});
        Tensor *up = block_param(b, block_path("%s.lora_up.weight", path.s), 2, (int[]){n, rank});
        Tensor *h = graph_linear(b->g, x, down, NULL, NULL, 1);
        y = graph_linear(b->g, h, up, NULL, y, scale);
    }
    b->g->scope = NULL;
    return y;
}

Tensor *block_conv3(Build *b, Path path, Tensor *x, int cout, int stride, int pad_lo,
                    Tensor *rowbias, Tensor *res)
{
    int cin = tensor_last(x);
    float scale = 1;
    b->g->scope = path.s;
    Tensor *w = block_param(b, block_path("%s.weight", path.s), 4, (int[]){cout, 3, 3, cin});
    Tensor *y = graph_conv2d(b->g, x, w, vector(b, path, "bias", cout), rowbias, res, stride, pad_lo,
                             1, 1);
    int rank = lora_rank(b, path, &scale);
    if (rank) {
        Tensor *down = block_param(b, block_path("%s.lora_down.weight", path.s), 4,
                                   (int[]){rank, 3, 3, cin});
        Tensor *up = block_param(b, block_path("%s.lora_up.weight", path.s), 2, (int[]){cout, rank});
        Tensor *h = graph_conv2d(b->g, x, down, NULL, NULL, NULL, stride, pad_lo, 1, 1);
        y = graph_linear(b->g, h, up, NULL, y, scale);
    }
    b->g->scope = NULL;
    return y;
}

Tensor *block_groupnorm(Build *b, Path path, Tensor *x, float eps, int silu)
{
    int c = tensor_last(x);
    b->g->scope = path.s;
    Tensor *y = graph_groupnorm(b->g, x, vector(b, path, "weight", c), vector(b, path, "bias", c), 32,
                                eps, silu);
    b->g->scope = NULL;
    return y;
}

Tensor *block_layernorm(Build *b, Path path, Tensor *x)
{
    int c = tensor_last(x);
    b->g->scope = path.s;
    Tensor *y = graph_layernorm(b->g, x, vector(b, path, "weight", c), vector(b, path, "bias", c),
                                1e-5f);
    b->g->scope = NULL;
    return y;
}

Tensor *block_resnet(Build *b, Path path, Tensor *x, int cout, Tensor *temb, float eps)
{
    Tensor *t = temb ? block_linear(b, block_path("%s.time_emb_proj", path.s), temb, cout, 1, NULL) : NULL;
    /* first, so that the norm can be written over x */
    Tensor *skip = x;
    if (tensor_last(x) != cout)
        skip = block_linear(b, block_path("%s.conv_shortcut", path.s), x, cout, 1, NULL);
    Tensor *h = block_groupnorm(b, block_path("%s.norm1", path.s), x, eps, 1);
    h = block_conv3(b, block_path("%s.conv1", path.s), h, cout, 1, 1, t, NULL);
    h = block_groupnorm(b, block_path("%s.norm2", path.s), h, eps, 1);
    return block_conv3(b, block_path("%s.conv2", path.s), h, cout, 1, 1, NULL, skip);
}
