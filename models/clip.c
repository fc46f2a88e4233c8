/* clip.c - see clip.h. Shapes in comments are those of SD 1.5. */
#include "models/clip.h"

#define P(...) block_path(__VA_ARGS__)
#define TEXT "text_encoder.text_model"

/* x (N,77,768): causal self-attention and a two-layer perceptron, each on a
 * normalised copy and added. */
static Tensor *layer(Build *b, const SdConfig *c, int i, Tensor *x)
{
    Path at = P(TEXT ".encoder.layers.%d", i);
    int w = c->text_width;
    Tensor *n = block_layernorm(b, P("%s.layer_norm1", at.s), x);
    Tensor *q = block_linear(b, P("%s.self_attn.q_proj", at.s), n, w, 1, NULL);
    Tensor *k = block_linear(b, P("%s.self_attn.k_proj", at.s), n, w, 1, NULL);
    Tensor *v = block_linear(b, P("%s.self_attn.v_proj", at.s), n, w, 1, NULL);
    b->g->scope = at.s;
    Tensor *o = graph_attention(b->g, q, k, v, c->text_heads, 1);
    b->g->scope = NULL;
    x = block_linear(b, P("%s.self_attn.out_proj", at.s), o, w, 1, x);
    n = block_layernorm(b, P("%s.layer_norm2", at.s), x);
    Tensor *f = block_linear(b, P("%s.mlp.fc1", at.s), n, c->text_ff, 1, NULL);
    f = graph_act(b->g, f, c->text_gelu ? ACT_GELU : ACT_QUICK_GELU);
    return block_linear(b, P("%s.mlp.fc2", at.s), f, w, 1, x);
}

static Tensor *token_table(Build *b, const SdConfig *c, const Tensor *ids)
{
    int dim[2] = {c->vocab, c->text_width};
    if (params_trains(b->ps, CLIP_TABLE)) return block_param(b, P(CLIP_TABLE), 2, dim);
    dim[0] = (int)tensor_count(ids);
    return graph_input(b->g, CLIP_ROWS, b->ps->wdt, 2, dim);
}

Tensor *clip_build(Build *b, const SdConfig *c, Tensor *ids, int clip_skip)
{
    int run = c->text_layers - (clip_skip > 1 ? clip_skip - 1 : 0);
    if (run < 1)
        err_set(&b->g->err, ERR_USAGE, "option --clip-skip %d: the text encoder has %d layers",
                clip_skip, c->text_layers);
    Tensor *table = token_table(b, c, ids);
    Tensor *pos = block_param(b, P(TEXT ".embeddings.position_embedding.weight"), 2,
                              (int[]){SD_POSITIONS, c->text_width});
    Tensor *more = NULL;
    if (b->added_tokens)
        more = graph_cast(b->g,
                          block_param(b, P(CLIP_ADDED), 2, (int[]){b->added_tokens, c->text_width}),
                          DT_F32);
    Tensor *x = graph_token_embed(b->g, ids, table, pos, more);
    for (int i = 0; i < run; i++) x = layer(b, c, i, x);
    return block_layernorm(b, P(TEXT ".final_layer_norm"), x);
}
