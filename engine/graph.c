/* graph.c - building graphs and inferring shapes; see graph.h. */
#include "engine/graph.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/mem.h"

const char *op_name(OpKind op)
{
    static const char *const names[] = {
#define X(op) #op,
        OPS_LIST(X)
#undef X
        "cast", "zero", "update"
    };
    return names[op];
}

Graph *graph_new(Dtype act)
{
    Graph *g = mem_calloc(1, sizeof *g);
    if (!g) return NULL;
    g->act = act;
    g->bad = (Tensor){.name = "?", .dt = act, .ndim = 1, .dim = {1}};
    return g;
}

void graph_free(Graph *g)
{
    if (!g) return;
    for (int i = 0; i < g->node_count; i++) mem_free(g->nodes[i]);
    for (int i = 0; i < g->tensor_count; i++) mem_free(g->tensors[i]);
    mem_free(g->nodes);
    mem_free(g->tensors);
    mem_free(g);
}

int tensor_rows(const Tensor *t)
{
    int rows = 1;
    for (int i = 0; i + 1 < t->ndim; i++) rows *= t->dim[i];
    return rows;
}

size_t tensor_count(const Tensor *t)
{
    size_t n = 1;
    for (int i = 0; i < t->ndim; i++) n *= (size_t)t->dim[i];
    return n;
}

/* All axes between the first and the last. */
static int inner(const Tensor *t)
{
    int n = 1;
    for (int i = 1; i + 1 < t->ndim; i++) n *= t->dim[i];
    return n;
}

static Tensor *new_tensor(Graph *g, const char *name, Dtype dt, int ndim, const int *dim)
{
    Tensor **list = mem_grow(g->tensors, (size_t)g->tensor_count, &g->tensor_cap, sizeof *list);
    if (list) g->tensors = list;
    Tensor *t = list ? mem_calloc(1, sizeof *t) : NULL;
    if (!t) {
        err_nomem(&g->err, sizeof *t, "the graph");
        return &g->bad;
    }
    snprintf(t->name, sizeof t->name, "%s", name);
    t->dt = dt;
    t->ndim = ndim;
    for (int i = 0; i < ndim; i++) {
        t->dim[i] = dim[i];
        if (dim[i] <= 0)
            err_set(&g->err, ERR_INPUT, "%s: axis %d has size %d", name, i, dim[i]);
    }
    t->bytes = tensor_count(t) * dtype_bytes(dt);
    t->buffer = t;
    t->index = g->tensor_count;
    g->tensors[g->tensor_count++] = t;
    return t;
}

Node *graph_node(Graph *g, OpKind op, Dtype dt)
{
    Node **list = mem_grow(g->nodes, (size_t)g->node_count, &g->node_cap, sizeof *list);
    if (list) g->nodes = list;
    Node *n = list ? mem_calloc(1, sizeof *n) : NULL;
    if (!n) {
        err_nomem(&g->err, sizeof *n, "the graph");
        return NULL;
    }
    n->op = op;
    n->dt = dt;
    snprintf(n->name, sizeof n->name, "%s", g->scope ? g->scope : "");
    g->nodes[g->node_count++] = n;
    return n;
}

Tensor *graph_out(Graph *g, Node *n, int slot, Dtype dt, int ndim, const int *dim)
{
    Tensor *t = new_tensor(g, n->name, dt, ndim, dim);
    t->made_by = n;
    n->out[slot] = t;
    for (int i = 0; i < NODE_MAX_IN; i++)
        if (n->in[i] && n->in[i]->needs_grad) t->needs_grad = 1;
    return t;
}

Tensor *graph_param_grad(Graph *g, Param *p)
{
    Tensor *t = new_tensor(g, p->name, DT_F32, p->ndim, p->dim);
    t->of = p;
    if (!p->streamed) t->param = p;
    return t;
}

Tensor *graph_scratch(Graph *g, Node *n, size_t bytes)
{
    enum { FLOATS = 16 };              /* rows of 64 bytes, so that large ones are an int of rows */
    Tensor *t = new_tensor(g, n->name, DT_F32, 2,
                           (int[]){(int)((bytes + 4 * FLOATS - 1) / (4 * FLOATS)), FLOATS});
    n->scratch = t == &g->bad ? NULL : t;
    return t;
}

Tensor *graph_rows(Graph *g, Tensor *map, int row, int rows)
{
    Tensor *t = new_tensor(g, map->name, map->dt, 4, (int[]){1, rows, map->dim[2], map->dim[3]});
    if (t == &g->bad) return t;
    t->base = map;
    t->at = (size_t)row * (tensor_bytes(map) / (size_t)map->dim[1]);
    return t;
}

Tensor *graph_input(Graph *g, const char *name, Dtype dt, int ndim, const int *dim)
{
    Tensor *t = new_tensor(g, name, dt, ndim, dim);
    t->keep = 1;
    return t;
}

Tensor *graph_input_ids(Graph *g, const char *name, int n, int t)
{
    Tensor *x = graph_input(g, name, DT_F32, 2, (int[]){n, t});
    x->is_int = 1;
    return x;
}

Tensor *graph_weight(Graph *g, Param *p)
{
    for (int i = 0; i < g->tensor_count; i++)
        if (g->tensors[i]->param == p && !g->tensors[i]->of) return g->tensors[i];
    Tensor *t = new_tensor(g, p->name, p->dt, p->ndim, p->dim);
    t->param = p;
    t->needs_grad = p->trainable;
    return t;
}

void graph_output(Graph *g, Tensor *t, const char *name)
{
    if (t == &g->bad) return;
    snprintf(t->name, sizeof t->name, "%s", name);
    t->keep = 1;
}

Tensor *graph_find(Graph *g, const char *name)
{
    for (int i = 0; i < g->tensor_count; i++)
        if (g->tensors[i]->keep && !strcmp(g->tensors[i]->name, name)) return g->tensors[i];
    return NULL;
}

/* ---- shape checks -------------------------------------------------------- */

static void shape_text(const Tensor *t, char *s, size_t cap)
{
    size_t o = 0;
    for (int i = 0; i < t->ndim && o < cap; i++)
        o += (size_t)snprintf(s + o, cap - o, "%s%d", i ? "x" : "", t->dim[i]);
}

/* Records "scope: op: what, got A and B" unless ok. */
static int require(Graph *g, int ok, const char *op, const char *what, const Tensor *a,
                   const Tensor *b)
{
    if (g->err.code) return 0;
    if (ok) return 1;
    char sa[64] = "", sb[64] = "";
    shape_text(a, sa, sizeof sa);
    if (b) shape_text(b, sb, sizeof sb);
    err_set(&g->err, ERR_INPUT, "%s: %s: %s, got %s (%s)%s%s%s%s", g->scope ? g->scope : "graph",
            op, what, a->name, sa, b ? " and " : "", b ? b->name : "", b ? " " : "", sb);
    return 0;
}

static int same_shape(const Tensor *a, const Tensor *b)
{
    if (tensor_count(a) != tensor_count(b) || tensor_last(a) != tensor_last(b)) return 0;
    return a->dim[0] == b->dim[0];
}

static int is_vector(const Tensor *t, int n) { return !t || (t->ndim == 1 && t->dim[0] == n); }

/* Appends a node whose inputs are in[0..count); NULL after an error. */
static Node *add(Graph *g, OpKind op, int count, Tensor *const *in)
{
    if (g->err.code) return NULL;
    Node *n = graph_node(g, op, g->act);
    if (!n) return NULL;
    for (int i = 0; i < count; i++) n->in[i] = in[i];
    return n;
}

/* ---- builders ------------------------------------------------------------ */

Tensor *graph_linear(Graph *g, Tensor *x, Tensor *w, Tensor *b, Tensor *res, float alpha)
{
    if (!require(g, w->ndim == 2 && tensor_last(x) == w->dim[1], "linear",
                 "the last axis must fit the weight", x, w) ||
        !require(g, is_vector(b, w->dim[0]), "linear", "the bias must fit the weight", w, b))
        return &g->bad;
    int dim[4];
    memcpy(dim, x->dim, sizeof dim);
    dim[x->ndim - 1] = w->dim[0];
    if (res && !require(g, tensor_rows(res) == tensor_rows(x) && tensor_last(res) == w->dim[0],
                        "linear", "the residual must fit", res, w))
        return &g->bad;
    Node *n = add(g, OP_linear, 4, (Tensor *[]){x, w, b, res});
    if (!n) return &g->bad;
    n->p.linear = (Linear){tensor_rows(x), w->dim[0], w->dim[1], alpha, w->dt};
    return graph_out(g, n, 0, g->act, x->ndim, dim);
}

Tensor *graph_conv2d(Graph *g, Tensor *x, Tensor *w, Tensor *b, Tensor *rowbias, Tensor *res,
                     int stride, int pad_lo, int pad_hi, float alpha)
{
    if (!require(g, x->ndim == 4 && w->ndim == 4 && x->dim[3] == w->dim[3], "conv2d",
                 "the input channels must fit the weight", x, w) ||
        !require(g, is_vector(b, w->dim[0]), "conv2d", "the bias must fit the weight", w, b))
        return &g->bad;
    Conv2d p = {x->dim[0], x->dim[1], x->dim[2], x->dim[3], w->dim[0], w->dim[1],
                stride, pad_lo, pad_hi, alpha, w->dt, 0, 0};
    int dim[4] = {p.n, conv2d_out(&p, p.h), conv2d_out(&p, p.w), p.cout};
    if (rowbias &&
        !require(g, rowbias->dim[0] == p.n && tensor_count(rowbias) == (size_t)p.n * (size_t)p.cout,
                 "conv2d", "the per-picture bias must fit", rowbias, w))
        return &g->bad;
    Node *n = add(g, OP_conv2d, 5, (Tensor *[]){x, w, b, rowbias, res});
    if (!n) return &g->bad;
    n->p.conv2d = p;
    Tensor *y = graph_out(g, n, 0, g->act, 4, dim);
    if (res && !require(g, same_shape(res, y), "conv2d", "the residual must fit", res, y))
        return &g->bad;
    return y;
}

Tensor *graph_attention(Graph *g, Tensor *q, Tensor *k, Tensor *v, int heads, int causal)
{
    int c = tensor_last(q);
    if (!require(g, tensor_last(k) == c && tensor_rows(k) % q->dim[0] == 0, "attention",
                 "q and k must fit", q, k) ||
        !require(g, same_shape(k, v), "attention", "k and v must fit", k, v) ||
        !require(g, heads > 0 && c % heads == 0, "attention", "heads must divide the channels", q,
                 NULL))
        return &g->bad;
    Node *n = add(g, OP_attention, 3, (Tensor *[]){q, k, v});
    if (!n) return &g->bad;
    int d = c / heads;
    n->p.attention = (Attention){q->dim[0], inner(q), tensor_rows(k) / q->dim[0], heads, d, causal,
                                 1.0f / sqrtf((float)d)};
    Tensor *o = graph_out(g, n, 0, g->act, q->ndim, q->dim);
    graph_out(g, n, 1, DT_F32, 3, (int[]){q->dim[0], heads, inner(q)});
    return o;
}

Tensor *graph_groupnorm(Graph *g, Tensor *x, Tensor *w, Tensor *b, int groups, float eps, int silu)
{
    int c = tensor_last(x);
    if (!require(g, is_vector(w, c) && is_vector(b, c), "groupnorm", "the weight must fit", x, w) ||
        !require(g, c % groups == 0, "groupnorm", "the groups must divide the channels", x, NULL))
        return &g->bad;
    Node *n = add(g, OP_groupnorm, 3, (Tensor *[]){x, w, b});
    if (!n) return &g->bad;
    n->p.groupnorm = (GroupNorm){x->dim[0], inner(x), c, groups, silu, eps, 0};
    Tensor *y = graph_out(g, n, 0, g->act, x->ndim, x->dim);
    graph_out(g, n, 1, DT_F32, 3, (int[]){x->dim[0], groups, 2});
    return y;
}

Tensor *graph_layernorm(Graph *g, Tensor *x, Tensor *w, Tensor *b, float eps)
{
    int c = tensor_last(x);
    if (!require(g, is_vector(w, c) && is_vector(b, c), "layernorm", "the weight must fit", x, w))
        return &g->bad;
    Node *n = add(g, OP_layernorm, 3, (Tensor *[]){x, w, b});
    if (!n) return &g->bad;
    n->p.layernorm = (LayerNorm){tensor_rows(x), c, eps};
    Tensor *y = graph_out(g, n, 0, g->act, x->ndim, x->dim);
    graph_out(g, n, 1, DT_F32, 2, (int[]){tensor_rows(x), 2});
    return y;
}

Tensor *graph_act(Graph *g, Tensor *x, ActKind kind)
{
    Node *n = add(g, OP_act, 1, &x);
    if (!n) return &g->bad;
    n->p.act = (Act){tensor_count(x), kind};
    return graph_out(g, n, 0, g->act, x->ndim, x->dim);
}

Tensor *graph_geglu(Graph *g, Tensor *x)
{
    if (!require(g, tensor_last(x) % 2 == 0, "geglu", "an even last axis is needed", x, NULL))
        return &g->bad;
    Node *n = add(g, OP_geglu, 1, &x);
    if (!n) return &g->bad;
    int dim[4];
    memcpy(dim, x->dim, sizeof dim);
    dim[x->ndim - 1] /= 2;
    n->p.geglu = (Geglu){tensor_rows(x), dim[x->ndim - 1]};
    return graph_out(g, n, 0, g->act, x->ndim, dim);
}

Tensor *graph_add(Graph *g, Tensor *a, Tensor *b)
{
    if (!require(g, same_shape(a, b) && a->dt == b->dt, "add", "equal shapes are needed", a, b))
        return &g->bad;
    Node *n = add(g, OP_add, 2, (Tensor *[]){a, b});
    if (!n) return &g->bad;
    n->dt = a->dt;
    n->p.count = tensor_count(a);
    return graph_out(g, n, 0, a->dt, a->ndim, a->dim);
}

Tensor *graph_upsample2x(Graph *g, Tensor *x, int h, int w)
{
    int cut_h = 2 * x->dim[1] - h, cut_w = 2 * x->dim[2] - w;
    Node *n = require(g, x->ndim == 4 && (cut_h | cut_w) >> 1 == 0, "upsample2x",
                      "a feature map of half the size is needed", x, NULL)
                  ? add(g, OP_upsample2x, 1, &x) : NULL;
    if (!n) return &g->bad;
    n->p.upsample = (Upsample){x->dim[0], x->dim[1], x->dim[2], x->dim[3], cut_h, cut_w};
    return graph_out(g, n, 0, g->act, 4, (int[]){x->dim[0], h, w, x->dim[3]});
}

Tensor *graph_concat(Graph *g, Tensor *a, Tensor *b)
{
    if (!require(g, a->ndim == b->ndim && tensor_rows(a) == tensor_rows(b), "concat",
                 "all axes but the last must be equal", a, b))
        return &g->bad;
    Node *n = add(g, OP_concat, 2, (Tensor *[]){a, b});
    if (!n) return &g->bad;
    n->p.concat = (Concat){tensor_rows(a), tensor_last(a), tensor_last(b)};
    int dim[4];
    memcpy(dim, a->dim, sizeof dim);
    dim[a->ndim - 1] += tensor_last(b);
    return graph_out(g, n, 0, g->act, a->ndim, dim);
}

Tensor *graph_time_embed(Graph *g, Tensor *t, int dim)
{
    Node *n = add(g, OP_time_embed, 1, &t);
    if (!n) return &g->bad;
    n->p.time_embed = (TimeEmbed){t->dim[0], dim};
    return graph_out(g, n, 0, g->act, 2, (int[]){t->dim[0], dim});
}

Tensor *graph_token_embed(Graph *g, Tensor *ids, Tensor *table, Tensor *pos, Tensor *more)
{
    int fits = ids->is_int && ids->ndim == 2 && (!pos || ids->dim[1] == pos->dim[0]);
    if (!require(g, fits, "token_embed", "ids must have one column per position", ids, pos))
        return &g->bad;
    if (more && !require(g, more->ndim == 2 && more->dim[1] == table->dim[1], "token_embed",
                         "the added rows must be as wide as the table", more, table))
        return &g->bad;
    Node *n = add(g, OP_token_embed, 4, (Tensor *[]){ids, table, pos, more});
    if (!n) return &g->bad;
    int c = table->dim[1];
    n->p.token_embed =
        (TokenEmbed){ids->dim[0], ids->dim[1], c, table->dim[0], more ? more->dim[0] : 0,
                     table->dt};
    return graph_out(g, n, 0, g->act, 3, (int[]){ids->dim[0], ids->dim[1], c});
}

Tensor *graph_cast(Graph *g, Tensor *x, Dtype dt)
{
    if (x->dt == dt) return x;
    Node *n = add(g, OP_cast, 1, &x);
    if (!n) return &g->bad;
    n->p.count = tensor_count(x);
    return graph_out(g, n, 0, dt, x->ndim, x->dim);
}

/* ---- weights that are computed --------------------------------------------- */

Tensor *graph_lowrank(Graph *g, Tensor *a, Tensor *b)
{
    int dim[4] = {a->dim[0], b->dim[1], b->dim[2], b->dim[3]};
    if (!require(g, a->ndim == 2 && a->dim[1] == b->dim[0] && a->dt == DT_F32 && b->dt == DT_F32,
                 "lowrank", "the ranks must fit", a, b))
        return &g->bad;
    Node *n = add(g, OP_linear_dx, 2, (Tensor *[]){a, b});
    if (!n) return &g->bad;
    n->dt = DT_F32;
    n->p.linear =
        (Linear){dim[0], b->dim[0], (int)(tensor_count(b) / (size_t)b->dim[0]), 1, DT_F32};
    return graph_out(g, n, 0, DT_F32, b->ndim, dim);
}

Tensor *graph_compose(Graph *g, Dtype dt, Tensor *base, Tensor *a, Tensor *b, float alpha)
{
    if (!require(g, same_shape(base, a), "compose", "the product must fit the weight", base, a) ||
        (b &&
         !require(g, same_shape(base, b), "compose", "the product must fit the weight", base, b)))
        return &g->bad;
    Node *n = add(g, OP_compose, 3, (Tensor *[]){base, a, b});
    if (!n) return &g->bad;
    n->dt = dt;
    n->p.compose = (Compose){tensor_count(base), alpha, base->dt};
    return graph_out(g, n, 0, dt, base->ndim, base->dim);
}

Tensor *graph_kron(Graph *g, Dtype dt, Tensor *base, Tensor *w1, Tensor *w2, float alpha)
{
    int fits = base->dim[0] == w1->dim[0] * w2->dim[0] &&
               tensor_last(base) == w1->dim[1] * tensor_last(w2);
    if (!require(g, fits && tensor_count(base) == tensor_count(w1) * tensor_count(w2), "kron",
                 "the product must fit the weight", base, w2))
        return &g->bad;
    Node *n = add(g, OP_kron, 3, (Tensor *[]){base, w1, w2});
    if (!n) return &g->bad;
    n->dt = dt;
    n->p.kron =
        (Kron){w1->dim[0], w1->dim[1], w2->dim[0], inner(w2), tensor_last(w2), alpha, base->dt};
    return graph_out(g, n, 0, dt, base->ndim, base->dim);
}

Tensor *graph_dora(Graph *g, Dtype dt, Tensor *v, Tensor *m, int in)
{
    int norms = in ? tensor_last(v) : v->dim[0];
    if (!require(g, is_vector(m, norms) && v->dt == DT_F32, "dora", "one norm each is needed", v,
                 m))
        return &g->bad;
    Node *n = add(g, OP_dora, 2, (Tensor *[]){v, m});
    if (!n) return &g->bad;
    n->dt = dt;
    n->p.dora = (Dora){v->dim[0], inner(v), tensor_last(v), in};
    Tensor *w = graph_out(g, n, 0, dt, v->ndim, v->dim);
    graph_out(g, n, 1, DT_F32, 1, &norms);
    return w;
}

Tensor *graph_dropout(Graph *g, Tensor *x, Tensor *seed, Dropout p)
{
    Node *n = add(g, OP_dropout, 2, (Tensor *[]){x, seed});
    if (!n) return &g->bad;
    n->dt = x->dt;
    n->p.dropout = p;
    n->p.dropout.n = x->dim[0];
    n->p.dropout.t = inner(x);
    n->p.dropout.c = tensor_last(x);
    return graph_out(g, n, 0, x->dt, x->ndim, x->dim);
}

Tensor *graph_loss(Graph *g, LossKind kind, Tensor *pred, Tensor *target, Tensor *mask,
                   Tensor *weight, Tensor *huber_c, Tensor **per)
{
    if (!require(g, same_shape(pred, target), "loss", "prediction and target must fit", pred,
                 target))
        return &g->bad;
    Node *n = add(g, OP_loss, 5, (Tensor *[]){pred, target, mask, weight, huber_c});
    if (!n) return &g->bad;
    n->dt = pred->dt;
    n->p.loss = (Loss){pred->dim[0], inner(pred), tensor_last(pred), kind};
    Tensor *y = graph_out(g, n, 0, DT_F32, 1, (int[]){1});
    Tensor *each = graph_out(g, n, 1, DT_F32, 1, (int[]){pred->dim[0]});
    if (per) *per = each;
    return y;
}

Tensor *graph_recon(Graph *g, Tensor *y, Tensor *x, float edge)
{
    if (!require(g, same_shape(y, x) && y->ndim == 4, "recon", "pictures must fit", y, x))
        return &g->bad;
    Node *n = add(g, OP_recon, 2, (Tensor *[]){y, x});
    if (!n) return &g->bad;
    n->dt = y->dt;
    n->p.recon = (Recon){y->dim[0], y->dim[1], y->dim[2], y->dim[3], edge};
    return graph_out(g, n, 0, DT_F32, 1, (int[]){1});
}

Tensor *graph_gauss(Graph *g, Tensor *m, Tensor *noise, Tensor **kl)
{
    int dim[4];
    memcpy(dim, m->dim, sizeof dim);
    dim[m->ndim - 1] /= 2;
    if (!require(g, tensor_count(noise) * 2 == tensor_count(m), "gauss", "noise must fit", m,
                 noise)) {
        *kl = &g->bad;
        return &g->bad;
    }
    Node *n = add(g, OP_gauss, 2, (Tensor *[]){m, noise});
    if (!n) return *kl = &g->bad;
    n->p.gauss = (Gauss){tensor_rows(m), dim[m->ndim - 1]};
    Tensor *z = graph_out(g, n, 0, g->act, m->ndim, dim);
    *kl = graph_out(g, n, 1, DT_F32, 1, (int[]){1});
    return z;
}
