/* blocks.h - the building blocks that U-Net, VAE and text encoder share.
 *
 * A layer is addressed by its canonical path ("unet.mid_block.resnets.0.conv1");
 * the names of its weights are path + ".weight" and ".bias", which is what
 * checkpoints call them (models/keys.h). A layer with a LoRA under training
 * gets the low-rank product beside its own:  y = W x + b + scale * up(down(x)); with
 * other kinds of adapters W is another (models/adapter.h).
 */
#ifndef SDC_MODELS_BLOCKS_H
#define SDC_MODELS_BLOCKS_H

#include "engine/graph.h"
#include "engine/lora.h"

/* The LoRA that a module carries, by canonical path; NULL for none. */
typedef const LoraModule *block_lora_fn(void *ctx, const char *module);

typedef struct {
    Graph *g;
    Params *ps;
    block_lora_fn *lora;       /* NULL: no LoRA anywhere */
    void *lora_ctx;
    Dropout dropout;           /* of the LoRA: each, channel (rank_dropout), all (module_dropout) */
    int added_tokens;          /* vectors of embeddings, behind the text encoder's table */
    Tensor *seed;              /* of the dropout, ids (1,1); NULL: nothing is dropped */
} Build;

enum { BLOCK_PATH = 160 };
typedef struct { char s[BLOCK_PATH]; } Path;
Path block_path(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* x (.., K) -> (.., n) [+ res]. Serves 1x1 convolutions too. */
Tensor *block_linear(Build *b, Path path, Tensor *x, int n, int bias, Tensor *res);
/* 3x3 convolution x (N,H,W,C) -> (N,HO,WO,cout); stride 1 pads 1; stride 2 pads
 * pad_lo before and 1 after. */
Tensor *block_conv3(Build *b, Path path, Tensor *x, int cout, int stride, int pad_lo,
                    Tensor *rowbias, Tensor *res);
/* 32 groups. */
Tensor *block_groupnorm(Build *b, Path path, Tensor *x, float eps, int silu);
Tensor *block_layernorm(Build *b, Path path, Tensor *x);      /* eps 1e-5 */
/* A weight without a layer around it. */
Tensor *block_param(Build *b, Path name, int ndim, const int *dim);

/* The residual block of U-Net and VAE: norm1+silu, conv1 (+ time), norm2+silu,
 * conv2, + shortcut. temb is silu(time embedding) (N,E), NULL in a VAE. */
Tensor *block_resnet(Build *b, Path path, Tensor *x, int cout, Tensor *temb, float eps);

#endif
