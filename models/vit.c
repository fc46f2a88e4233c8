/* vit.c - see vit.h. Shapes in comments are those of ViT-B/16 at 448. */
#include "models/vit.h"

#include <stdio.h>
#include <string.h>

#define P(...) block_path(__VA_ARGS__)

static const float EPS = 1e-6f;          /* of all norms, as in timm */

/* ---- the graph ------------------------------------------------------------------ */

static Tensor *norm(Build *b, Path path, Tensor *x)
{
    int c = tensor_last(x);
    b->g->scope = path.s;
    Tensor *y = graph_layernorm(b->g, x, block_param(b, P("%s.weight", path.s), 1, &c),
                                block_param(b, P("%s.bias", path.s), 1, &c), EPS);
    b->g->scope = NULL;
    return y;
}

/* x (N,784,768) */
static Tensor *block(Build *b, const VitConfig *c, int i, Tensor *x)
{
    Path at = P("blocks.%d", i);
    Tensor *n = norm(b, P("%s.norm1", at.s), x);
    Tensor *q = block_linear(b, P("%s.attn.q", at.s), n, c->width, 1, NULL);
    Tensor *k = block_linear(b, P("%s.attn.k", at.s), n, c->width, 1, NULL);
    Tensor *v = block_linear(b, P("%s.attn.v", at.s), n, c->width, 1, NULL);
    b->g->scope = at.s;
    Tensor *o = graph_attention(b->g, q, k, v, c->heads, 0);
    b->g->scope = NULL;
    x = block_linear(b, P("%s.attn.proj", at.s), o, c->width, 1, x);
    n = norm(b, P("%s.norm2", at.s), x);
    Tensor *f = block_linear(b, P("%s.mlp.fc1", at.s), n, c->ff, 1, NULL);
    return block_linear(b, P("%s.mlp.fc2", at.s), graph_act(b->g, f, c->act), c->width, 1, x);
}

/* x (N,784,768) -> (N,1,768). A query of zeros is equally near to all keys, so attention
 * with it is the mean of the values: no op of its own is needed. */
static Tensor *mean(Build *b, const VitConfig *c, Tensor *x)
{
    Tensor *zero = graph_input(b->g, "mean", b->g->act, 3, (int[]){x->dim[0], 1, c->width});
    b->g->scope = "mean";
    Tensor *y = graph_attention(b->g, zero, x, x, c->heads, 0);
    b->g->scope = NULL;
    return y;
}

Tensor *vit_build(Build *b, const VitConfig *c, int n)
{
    int grid = c->side / c->patch, tokens = grid * grid;
    Tensor *image = graph_input(b->g, "image", DT_F32, 4, (int[]){n, c->side, c->side, 3});
    Tensor *ids = graph_input_ids(b->g, "positions", n, tokens);
    Tensor *table = block_param(b, P("pos_embed"), 2, (int[]){tokens, c->width});
    Tensor *pos = graph_token_embed(b->g, ids, table, NULL, NULL);
    b->g->scope = "patch_embed.proj";
    Tensor *w = block_param(b, P("patch_embed.proj.weight"), 4,
                            (int[]){c->width, c->patch, c->patch, 3});
    Tensor *bias = block_param(b, P("patch_embed.proj.bias"), 1, &c->width);
    Tensor *x = graph_conv2d(b->g, graph_cast(b->g, image, b->g->act), w, bias, NULL, pos, c->patch,
                             0, 0, 1);                                     /* (N,28,28,768) */
    b->g->scope = NULL;
    for (int i = 0; i < c->depth; i++) x = block(b, c, i, x);
    if (!c->fc_norm) x = norm(b, P("norm"), x);
    x = mean(b, c, x);
    if (c->fc_norm) x = norm(b, P("fc_norm"), x);
    return block_linear(b, P("head"), x, c->classes, 1, NULL);             /* (N,1,10861) */
}

/* ---- tensors of the file -------------------------------------------------------- */

Path vit_part(const char *fused, int k)
{
    const char *at = strstr(fused, ".qkv.");
    return P("%.*s.%c.%s", (int)(at - fused), fused, "qkv"[k], at + 5);
}

static int tensor(VitTensor *t, const char *name, int ndim, const int *shape)
{
    *t = (VitTensor){.ndim = ndim, .fused = strstr(name, ".qkv.") != NULL};
    snprintf(t->name, sizeof t->name, "%s", name);
    for (int i = 0; i < ndim; i++) t->shape[i] = shape[i];
    return 1;
}

/* The twelve of a block. */
static int block_tensor(const VitConfig *c, int i, VitTensor *t)
{
    static const char *const names[6] = {"norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1",
                                         "mlp.fc2"};
    int w = c->width, k = i % 12 / 2;
    int out[6] = {w, 3 * w, w, w, c->ff, w}, in[6] = {0, w, w, 0, w, c->ff};
    Path name = P("blocks.%d.%s.%s", i / 12, names[k], i % 2 ? "bias" : "weight");
    return tensor(t, name.s, i % 2 || !in[k] ? 1 : 2, (int[]){out[k], in[k]});
}

int vit_tensor(const VitConfig *c, int i, VitTensor *t)
{
    int grid = c->side / c->patch, w = c->width, p = c->patch;
    if (i == 0) return tensor(t, "pos_embed", 3, (int[]){1, grid * grid, w});
    if (i == 1) return tensor(t, "patch_embed.proj.weight", 4, (int[]){w, 3, p, p});
    if (i == 2) return tensor(t, "patch_embed.proj.bias", 1, &w);
    if ((i -= 3) < 12 * c->depth) return block_tensor(c, i, t);
    i -= 12 * c->depth;
    if (i < 2)
        return tensor(t, P("%snorm.%s", c->fc_norm ? "fc_" : "", i ? "bias" : "weight").s, 1, &w);
    if (i == 2) return tensor(t, "head.weight", 2, (int[]){c->classes, w});
    return i == 3 ? tensor(t, "head.bias", 1, &c->classes) : 0;
}

/* ---- sizes ---------------------------------------------------------------------- */

enum { SIDE_MAX = 2048, WIDTH_MAX = 1 << 13, DEPTH_MAX = 128, CLASSES_MAX = 1 << 20 };

static int in_range(const char *what, int v, int most, Err *e)
{
    if (v >= 1 && v <= most) return 0;
    return err_set(e, ERR_INPUT, "%s is %d, expected 1 to %d", what, v, most);
}

int vit_check(const VitConfig *c, Err *e)
{
    TRY(in_range("patch_size", c->patch, 256, e));
    TRY(in_range("img_size", c->side, SIDE_MAX, e));
    TRY(in_range("embed_dim", c->width, WIDTH_MAX, e));
    TRY(in_range("depth", c->depth, DEPTH_MAX, e));
    TRY(in_range("num_heads", c->heads, 256, e));
    TRY(in_range("the width of the perceptron", c->ff, 8 * WIDTH_MAX, e));
    TRY(in_range("num_classes", c->classes, CLASSES_MAX, e));
    if (c->side % c->patch)
        return err_set(e, ERR_INPUT, "img_size %d is no multiple of patch_size %d", c->side,
                       c->patch);
    if (c->width % c->heads)
        return err_set(e, ERR_INPUT, "embed_dim %d cannot be divided among %d heads", c->width,
                       c->heads);
    return 0;
}

/* Axis `axis` of a tensor with ndim of them; it must agree with *v unless that is 0. */
static int size_from(int *v, const TensorFile *tf, const char *name, int ndim, int axis, Err *e)
{
    const FileTensor *t = tensorfile_find(tf, name);
    if (!t)
        return err_set(e, ERR_INPUT, "%s: no tensor %s: not a ViT tagger in timm's names",
                       tensorfile_path(tf), name);
    if (t->ndim != ndim || t->shape[axis] < 1 || t->shape[axis] > CLASSES_MAX)
        return err_set(e, ERR_INPUT, "%s: tensor %s has a shape that no ViT tagger has",
                       tensorfile_path(tf), name);
    if (*v && *v != t->shape[axis])
        return err_set(e, ERR_INPUT, "%s: axis %d of tensor %s is %lld, but config.json says %d",
                       tensorfile_path(tf), axis, name, (long long)t->shape[axis], *v);
    *v = (int)t->shape[axis];
    return 0;
}

static int count_blocks(const TensorFile *tf)
{
    int n = 0;
    while (n <= DEPTH_MAX && tensorfile_find(tf, P("blocks.%d.norm1.weight", n).s)) n++;
    return n;
}

/* Every tensor is there in the right shape, and there are no others. */
static int check_tensors(const VitConfig *c, const TensorFile *tf, Err *e)
{
    const char *path = tensorfile_path(tf);
    VitTensor want;
    size_t known = 0;
    for (int i = 0; vit_tensor(c, i, &want); i++, known++) {
        const FileTensor *t = tensorfile_find(tf, want.name);
        if (!t) return err_set(e, ERR_INPUT, "%s: no tensor %s", path, want.name);
        int same = t->ndim == want.ndim;
        for (int k = 0; same && k < want.ndim; k++) same = t->shape[k] == want.shape[k];
        if (!same)
            return err_set(e, ERR_INPUT, "%s: tensor %s has another shape than its neighbours ask "
                           "for", path, want.name);
    }
    for (size_t i = 0; known < tensorfile_count(tf) && i < tensorfile_count(tf); i++) {
        const char *name = tensorfile_at(tf, i)->name;
        int found = 0;
        for (int k = 0; !found && vit_tensor(c, k, &want); k++) found = !strcmp(name, want.name);
        if (!found)
            return err_set(e, ERR_INPUT, "%s: tensor %s belongs to no layer of a ViT with average "
                           "pooling and without a class token (wd-vit-tagger-v3)", path, name);
    }
    return 0;
}

int vit_from_tensors(VitConfig *c, const TensorFile *tf, Err *e)
{
    int tokens = 0, depth = count_blocks(tf), grid = 1;
    TRY(size_from(&c->width, tf, "patch_embed.proj.weight", 4, 0, e));
    TRY(size_from(&c->patch, tf, "patch_embed.proj.weight", 4, 2, e));
    TRY(size_from(&tokens, tf, "pos_embed", 3, 1, e));
    TRY(size_from(&c->ff, tf, "blocks.0.mlp.fc1.weight", 2, 0, e));
    TRY(size_from(&c->classes, tf, "head.weight", 2, 0, e));
    while (grid * grid < tokens && grid < SIDE_MAX) grid++;
    if (grid * grid != tokens || (c->side && c->side != grid * c->patch))
        return err_set(e, ERR_INPUT,
                       "%s: %d positions in pos_embed, which is not a square "
                       "picture%s",
                       tensorfile_path(tf), tokens, c->side ? " of the size in config.json" : "");
    if (c->depth && c->depth != depth)
        return err_set(e, ERR_INPUT, "%s: %d blocks, but config.json says %d", tensorfile_path(tf),
                       depth, c->depth);
    c->side = grid * c->patch;
    c->depth = depth;
    c->fc_norm = tensorfile_find(tf, "fc_norm.weight") != NULL;
    if (!c->heads) c->heads = c->width >= 64 ? c->width / 64 : 1;
    int rc = vit_check(c, e);
    if (rc) return err_prefix(e, "%s", tensorfile_path(tf));
    return check_tensors(c, tf, e);
}
