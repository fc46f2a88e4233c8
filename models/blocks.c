/* blocks.c - see blocks.h. */
#include "models/blocks.h"

#include <stdarg.h>
#include <stdio.h>

#include "models/adapter.h"

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

static const LoraModule *lora_of(Build *b, Path path)
{
    return b->lora ? b->lora(b->lora_ctx, path.s) : NULL;
}

/* y + scale * up(h) of a plain module; others are in the weight. */
static Tensor *close_lora(Build *b, Path path, const LoraModule *m, Tensor *h, Tensor *y)
{
    Tensor *up = adapter_factor(b, path, m, "lora_up.weight");
    return graph_linear(b->g, adapter_dropout(b, path, h), up, NULL, y, lora_scale(m));
}

Tensor *block_linear(Build *b, Path path, Tensor *x, int n, int bias, Tensor *res)
{
    int k = tensor_last(x);
    const LoraModule *m = lora_of(b, path);
    b->g->scope = path.s;
    Tensor *w = block_param(b, block_path("%s.weight", path.s), 2, (int[]){n, k});
    Tensor *own = m ? adapter_weight(b, path, m, w) : w;
    Tensor *y = graph_linear(b->g, x, own, bias ? vector(b, path, "bias", n) : NULL, res, 1);
    if (m && own == w) {
        Tensor *down = adapter_factor(b, path, m, "lora_down.weight");
        y = close_lora(b, path, m, graph_linear(b->g, x, down, NULL, NULL, 1), y);
    }
    b->g->scope = NULL;
    return y;
}

Tensor *block_conv3(Build *b, Path path, Tensor *x, int cout, int stride, int pad_lo,
                    Tensor *rowbias, Tensor *res)
{
    int cin = tensor_last(x);
    const LoraModule *m = lora_of(b, path);
    b->g->scope = path.s;
    Tensor *w = block_param(b, block_path("%s.weight", path.s), 4, (int[]){cout, 3, 3, cin});
    Tensor *own = m ? adapter_weight(b, path, m, w) : w;
    Tensor *y = graph_conv2d(b->g, x, own, vector(b, path, "bias", cout), rowbias, res, stride,
                             pad_lo, 1, 1);
    if (m && own == w) {
        Tensor *down = adapter_factor(b, path, m, "lora_down.weight");
        y = close_lora(b, path, m,
                       graph_conv2d(b->g, x, down, NULL, NULL, NULL, stride, pad_lo, 1, 1), y);
    }
    b->g->scope = NULL;
    return y;
}

Tensor *block_groupnorm(Build *b, Path path, Tensor *x, float eps, int silu)
{
    int c = tensor_last(x);
    b->g->scope = path.s;
    Tensor *y = graph_groupnorm(b->g, x, vector(b, path, "weight", c), vector(b, path, "bias", c),
                                32, eps, silu);
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
    Tensor *t =
        temb ? block_linear(b, block_path("%s.time_emb_proj", path.s), temb, cout, 1, NULL) : NULL;
    /* first, so that the norm can be written over x */
    Tensor *skip = x;
    if (tensor_last(x) != cout)
        skip = block_linear(b, block_path("%s.conv_shortcut", path.s), x, cout, 1, NULL);
    Tensor *h = block_groupnorm(b, block_path("%s.norm1", path.s), x, eps, 1);
    h = block_conv3(b, block_path("%s.conv1", path.s), h, cout, 1, 1, t, NULL);
    h = block_groupnorm(b, block_path("%s.norm2", path.s), h, eps, 1);
    return block_conv3(b, block_path("%s.conv2", path.s), h, cout, 1, 1, NULL, skip);
}
