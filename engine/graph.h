/* graph.h - a computation as a list of typed nodes, in the order they run.
 *
 * models/ builds graphs with the graph_* functions below; grad.c appends the
 * backward pass, plan.c gives every tensor an address, exec.c runs the nodes.
 *
 * Shapes are (N,H,W,C) for feature maps and (N,T,C) for tokens; an op that
 * works on rows takes either, so nothing is ever transposed or reshaped.
 *
 * Errors are sticky: the first failure (a shape that does not fit, no memory)
 * is kept in g->err and every later call returns a dummy tensor, so that a
 * model's code needs no checks; whoever asked for the graph looks at g->err.
 *
 * Ownership: a Graph owns its nodes, tensors and names. It borrows Params,
 * which must outlive it.
 */
#ifndef SDC_ENGINE_GRAPH_H
#define SDC_ENGINE_GRAPH_H

#include "engine/error.h"
#include "engine/params.h"
#include "kernels/ops.h"

typedef enum {
#define X(op) OP_##op,
    OPS_LIST(X)
#undef X
        OP_cast,
    OP_zero,   /* out[0] = 0 */
    OP_update, /* in[0], the gradient of a parameter, is complete: Exec.update */
    OP_COUNT
} OpKind;

typedef struct Node Node;

/* Of both structs, what the planner reads again and again comes first: it walks through
 * thousands of them many times. */
typedef struct Tensor {
    Param *param;          /* set for weights: data and grad live there */
    struct Tensor *base;   /* this is a part of it, from byte `at` on; NULL: a tensor of its own */
    /* filled by plan.c */
    struct Tensor *buffer; /* whose bytes these are: itself, or the tensor written in place */
    int first, last;       /* node indices between which the buffer is live */
    size_t bytes;          /* of its elements */
    Node *made_by;         /* NULL for inputs and weights */
    int keep;              /* readable after the run: inputs and outputs */
    int index;
    size_t offset;         /* in the activation slab */
    size_t at;
    Dtype dt;              /* int32 ids are stored as DT_F32 with is_int set */
    int is_int;
    int ndim, dim[4];      /* (N,H,W,C), (N,T,C), (N,C), (C) */
    int needs_grad;        /* a trainable parameter is upstream */
    Param *of;             /* set for gradients of parameters: in Param.grad, or in the slab */
    struct Tensor *grad;   /* filled by graph_grad */
    char name[96];         /* the input's name, or the layer path and op that made it */
} Tensor;

enum { NODE_MAX_IN = 6, NODE_MAX_OUT = 3 };

struct Node {
    OpKind op;
    Dtype dt;                          /* which slot of the op table runs it */
    /* recompute.c: */
    int clone, mark;                   /* is computed once more; scratch of searches */
    Node *again;                       /* computes the same once more, in the backward part */
    Tensor *in[NODE_MAX_IN];           /* in the order of the op's parameters; NULL: absent */
    Tensor *out[NODE_MAX_OUT];
    Tensor *prev[NODE_MAX_OUT];        /* earlier partial gradient that out[i] is added to */
    Tensor *scratch;                   /* plan.c: what the op needs while it runs; NULL: nothing */
    Tensor *dw, *db;                   /* parameter gradients that a *_dw or *_bwd node adds to */
    union {
        Linear linear;
        Conv2d conv2d;
        Attention attention;
        GroupNorm groupnorm;
        LayerNorm layernorm;
        Act act;
        Geglu geglu;
        Upsample upsample;
        Concat concat;
        Rowsum rowsum;
        TimeEmbed time_embed;
        TokenEmbed token_embed;
        Loss loss;
        Recon recon;
        Gauss gauss;
        Compose compose;
        Kron kron;
        Dora dora;
        Dropout dropout;
        size_t count;
    } p;
    char name[96];
};

typedef struct Graph {
    Dtype act;                         /* dtype of activations */
    Node **nodes;
    int node_count;
    int updates;                       /* there are OP_update nodes */
    int forward;                       /* nodes before the backward pass; 0: there is none */
    Tensor **tensors;
    int tensor_count;
    size_t node_cap, tensor_cap;
    const char *scope;                 /* layer path for names of nodes; borrowed */
    Err err;
    Tensor bad;                        /* what builders return after an error */
} Graph;

Graph *graph_new(Dtype act);           /* NULL: no memory */
void graph_free(Graph *g);             /* NULL ok */

/* Tensors from outside. An input keeps its bytes for the whole run. */
Tensor *graph_input(Graph *g, const char *name, Dtype dt, int ndim, const int *dim);
Tensor *graph_input_ids(Graph *g, const char *name, int n, int t);
Tensor *graph_weight(Graph *g, Param *p);
/* Marks t as readable after the run, under a name of its own. */
void graph_output(Graph *g, Tensor *t, const char *name);
Tensor *graph_find(Graph *g, const char *name);    /* an input or output; NULL */

static inline int tensor_last(const Tensor *t) { return t->dim[t->ndim - 1]; }
/* Product of all axes but the last. */
int tensor_rows(const Tensor *t);
size_t tensor_count(const Tensor *t);
static inline size_t tensor_bytes(const Tensor *t) { return t->bytes; }

/* One builder per forward op of kernels/ops.h, which states the arithmetic.
 * b, res and rowbias may be NULL. The result is a new tensor of g->act. */
Tensor *graph_linear(Graph *g, Tensor *x, Tensor *w, Tensor *b, Tensor *res, float alpha);
Tensor *graph_conv2d(Graph *g, Tensor *x, Tensor *w, Tensor *b, Tensor *rowbias, Tensor *res,
                     int stride, int pad_lo, int pad_hi, float alpha);
/* k and v may have several rows of tokens for each picture of q: (N*chunks,T,C)
 * is (N,chunks*T,C). */
Tensor *graph_attention(Graph *g, Tensor *q, Tensor *k, Tensor *v, int heads, int causal);
Tensor *graph_groupnorm(Graph *g, Tensor *x, Tensor *w, Tensor *b, int groups, float eps, int silu);
Tensor *graph_layernorm(Graph *g, Tensor *x, Tensor *w, Tensor *b, float eps);
Tensor *graph_act(Graph *g, Tensor *x, ActKind kind);
Tensor *graph_geglu(Graph *g, Tensor *x);
Tensor *graph_add(Graph *g, Tensor *a, Tensor *b);
/* To h x w, each twice that of x or one less. */
Tensor *graph_upsample2x(Graph *g, Tensor *x, int h, int w);
Tensor *graph_concat(Graph *g, Tensor *a, Tensor *b);
Tensor *graph_time_embed(Graph *g, Tensor *t, int dim);
/* pos NULL ok; more: rows behind the table's, f32, NULL ok. */
Tensor *graph_token_embed(Graph *g, Tensor *ids, Tensor *table, Tensor *pos, Tensor *more);
Tensor *graph_cast(Graph *g, Tensor *x, Dtype dt);      /* x itself when it has that dtype */

/* Weights that are computed (kernels/ops.h, "weights under an adapter"). Their gradients
 * are f32 sums, as those of parameters. */
/* a (N,R) times b (R,...), both f32: (N,...), f32. */
Tensor *graph_lowrank(Graph *g, Tensor *a, Tensor *b);
/* base + alpha * a [* b], of dtype dt and base's shape; b may be NULL. */
Tensor *graph_compose(Graph *g, Dtype dt, Tensor *base, Tensor *a, Tensor *b, float alpha);
/* base + alpha * w1 (x) w2; w1 (L1,M1), w2 (L2,..,M2). */
Tensor *graph_kron(Graph *g, Dtype dt, Tensor *base, Tensor *w1, Tensor *w2, float alpha);
/* v (N,..,K) f32 with norms m (N), or with `in` (K). */
Tensor *graph_dora(Graph *g, Dtype dt, Tensor *v, Tensor *m, int in);

/* p's shape is x's; seed is ids (1,1). */
Tensor *graph_dropout(Graph *g, Tensor *x, Tensor *seed, Dropout p);

/* Losses: f32 scalars (1). per, if not NULL, gets the per-sample loss (N). */
Tensor *graph_loss(Graph *g, LossKind kind, Tensor *pred, Tensor *target, Tensor *mask,
                   Tensor *weight, Tensor *huber_c, Tensor **per);
Tensor *graph_recon(Graph *g, Tensor *y, Tensor *x, float edge);
/* z of the posterior m with given noise; *kl gets the f32 scalar. */
Tensor *graph_gauss(Graph *g, Tensor *m, Tensor *noise, Tensor **kl);

/* Used by grad.c: appends a node of op with one output of the given shape. */
Node *graph_node(Graph *g, OpKind op, Dtype dt);
Tensor *graph_out(Graph *g, Node *n, int slot, Dtype dt, int ndim, const int *dim);
Tensor *graph_param_grad(Graph *g, Param *p);
Tensor *graph_scratch(Graph *g, Node *n, size_t bytes);     /* sets n->scratch */
/* Rows [row, row+rows) of a map (1,H,W,C). */
Tensor *graph_rows(Graph *g, Tensor *map, int row, int rows);

/* grad.h's entry: appends the backward pass of sum(scale[i] * loss[i]) to g.
 * loss[i] was made by graph_loss, graph_recon or graph_gauss (kl); scale[i] is
 * an f32 input (1). Only paths that reach a trainable parameter are walked;
 * gradients of parameters are added to Param.grad. Those of streamed parameters
 * (params.h) begin at zero and live in the slab up to an OP_update, which comes when
 * they are complete and their parameter is not read any more. */
void graph_grad(Graph *g, Tensor *const *loss, Tensor *const *scale, int count);

/* "linear", "conv2d_dx"... */
const char *op_name(OpKind op);

#endif
