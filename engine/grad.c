/* grad.c - reverse-mode differentiation: one rule per op, one reverse walk.
 *
 * The walk visits the forward nodes from last to first. When it reaches a node,
 * the gradient of each of its outputs is complete, since all consumers come
 * later. The node's rule then contributes to the gradients of those inputs that
 * lead to a trainable parameter; nothing else is computed. A frozen layer
 * therefore costs a data gradient and never a weight gradient.
 *
 * The first contribution to a tensor's gradient creates it; a further one is
 * added by the op itself (Node.prev: the kernel's `acc`), or by an add node
 * where the op cannot.
 */
#include <stdio.h>
#include <string.h>

#include "engine/graph.h"
#include "engine/mem.h"

typedef struct {
    Graph *g;
    Node *fwd;             /* the node being differentiated */
    Tensor *dy;            /* gradient of its first output; NULL when none reached it */
    Tensor *const *loss, *const *scale;
    int losses;
} Grad;

typedef void rule_fn(Grad *c);

static int wanted(const Tensor *t) { return t && t->needs_grad; }

/* A node of the backward pass, named after the forward node it belongs to. */
static Node *bwd(Grad *c, OpKind op, int count, Tensor *const *in)
{
    if (c->g->err.code) return NULL;
    c->g->scope = c->fwd->name;
    Node *n = graph_node(c->g, op, c->fwd->dt);
    if (!n) return NULL;
    n->p = c->fwd->p;
    for (int i = 0; i < count; i++) n->in[i] = in[i];
    return n;
}

/* Output `slot` of n is (part of) the gradient of t: added by the kernel to
 * what is there already. */
static void into(Grad *c, Node *n, int slot, Tensor *t)
{
    n->prev[slot] = t->grad;
    t->grad = graph_out(c->g, n, slot, t->dt, t->ndim, t->dim);
}

/* The existing tensor d is a contribution to the gradient of t. */
static void contribute(Grad *c, Tensor *t, Tensor *d)
{
    if (!wanted(t)) return;
    t->grad = t->grad ? graph_add(c->g, t->grad, d) : d;
}

/* Output `slot` of n, for kernels that cannot add. */
static void fresh(Grad *c, Node *n, int slot, Tensor *t)
{
    contribute(c, t, graph_out(c->g, n, slot, t->dt, t->ndim, t->dim));
}

/* Where the gradient of weight w is summed; NULL when it is not wanted. That of a weight
 * which is computed begins with zeros, in the slab. */
static Tensor *param_grad(Grad *c, Tensor *w)
{
    if (!wanted(w)) return NULL;
    if (!w->grad && w->param) w->grad = graph_param_grad(c->g, w->param);
    if (!w->grad) {
        c->g->scope = c->fwd->name;
        Node *zero = graph_node(c->g, OP_zero, DT_F32);
        if (zero) w->grad = graph_out(c->g, zero, 0, DT_F32, w->ndim, w->dim);
    }
    return w->grad;
}

/* ---- rules, in the order of ops.h ---------------------------------------- */

static void product(Grad *c, OpKind dx, OpKind dw)
{
    Tensor *x = c->fwd->in[0], *w = c->fwd->in[1], *b = c->fwd->in[2];
    if (wanted(w) || wanted(b)) {
        Tensor *sum = param_grad(c, w), *bias = param_grad(c, b);
        Node *n = bwd(c, dw, 2, (Tensor *[]){c->dy, x});
        if (!n) return;
        n->dw = sum;
        n->db = bias;
    }
    if (wanted(x)) {
        Node *n = bwd(c, dx, 2, (Tensor *[]){c->dy, w});
        if (n) into(c, n, 0, x);
    }
}

static void rule_linear(Grad *c)
{
    product(c, OP_linear_dx, OP_linear_dw);
    contribute(c, c->fwd->in[3], c->dy);
}

static void rule_conv2d(Grad *c)
{
    product(c, OP_conv2d_dx, OP_conv2d_dw);
    Tensor *rowbias = c->fwd->in[3], *y = c->fwd->out[0];
    if (wanted(rowbias)) {
        Node *n = bwd(c, OP_rowsum, 1, &c->dy);
        if (!n) return;
        n->p.rowsum = (Rowsum){y->dim[0], y->dim[1] * y->dim[2], y->dim[3]};
        into(c, n, 0, rowbias);
    }
    contribute(c, c->fwd->in[4], c->dy);
}

static void rule_attention(Grad *c)
{
    Tensor **in = c->fwd->in, **out = c->fwd->out;
    Node *n = bwd(c, OP_attention_bwd, 6, (Tensor *[]){c->dy, in[0], in[1], in[2], out[0], out[1]});
    if (!n) return;
    if (wanted(in[0])) fresh(c, n, 0, in[0]);
    if (wanted(in[1]) || wanted(in[2])) {
        Tensor *dk = graph_out(c->g, n, 1, in[1]->dt, in[1]->ndim, in[1]->dim);
        Tensor *dv = graph_out(c->g, n, 2, in[2]->dt, in[2]->ndim, in[2]->dim);
        contribute(c, in[1], dk);
        contribute(c, in[2], dv);
    }
}

static void rule_norm(Grad *c, OpKind op, int count)
{
    Tensor **in = c->fwd->in;
    Node *n = bwd(c, op, count, (Tensor *[]){c->dy, in[0], c->fwd->out[1], in[1], in[2]});
    if (!n) return;
    n->dw = param_grad(c, in[1]);
    n->db = param_grad(c, in[2]);
    into(c, n, 0, in[0]);        /* the kernels always write dx */
}

static void rule_groupnorm(Grad *c) { rule_norm(c, OP_groupnorm_bwd, 5); }
static void rule_layernorm(Grad *c) { rule_norm(c, OP_layernorm_bwd, 4); }

static void rule_unary(Grad *c, OpKind op)
{
    Node *n = bwd(c, op, 2, (Tensor *[]){c->dy, c->fwd->in[0]});
    if (n) into(c, n, 0, c->fwd->in[0]);
}

static void rule_act(Grad *c) { rule_unary(c, OP_act_bwd); }
static void rule_geglu(Grad *c) { rule_unary(c, OP_geglu_bwd); }

static void rule_add(Grad *c)
{
    contribute(c, c->fwd->in[0], c->dy);
    contribute(c, c->fwd->in[1], c->dy);
}

static void rule_upsample2x(Grad *c)
{
    Node *n = bwd(c, OP_upsample2x_bwd, 1, &c->dy);
    if (n) into(c, n, 0, c->fwd->in[0]);
}

static void rule_concat(Grad *c)
{
    Node *n = bwd(c, OP_concat_bwd, 1, &c->dy);
    for (int i = 0; n && i < 2; i++)
        if (wanted(c->fwd->in[i])) into(c, n, i, c->fwd->in[i]);
}

static void rule_token_embed(Grad *c)
{
    Node *n = bwd(c, OP_token_embed_bwd, 2, (Tensor *[]){c->dy, c->fwd->in[0]});
    if (!n) return;
    n->dw = param_grad(c, c->fwd->in[1]);
    n->db = param_grad(c, c->fwd->in[2]);
    n->out[0] = param_grad(c, c->fwd->in[3]);
}

/* p = a b (graph_lowrank): da = dp b^T, which a linear layer adds to what is there, and
 * db = a^T dp. */
static void rule_linear_dx(Grad *c)
{
    Tensor *a = c->fwd->in[0], *b = c->fwd->in[1], *da = param_grad(c, a), *db = param_grad(c, b);
    if (da) {
        Node *n = bwd(c, OP_linear, 4, (Tensor *[]){c->dy, b, NULL, da});
        if (n) n->out[0] = da;
    }
    if (db) {
        Node *n = bwd(c, OP_linear_dw, 2, (Tensor *[]){a, c->dy});
        if (n) n->dw = db;
    }
}

static void rule_compose(Grad *c)
{
    Tensor **in = c->fwd->in;
    Node *n = bwd(c, OP_compose_bwd, 3, (Tensor *[]){c->dy, in[1], in[2]});
    if (!n) return;
    n->dt = DT_F32;
    if (wanted(in[1])) fresh(c, n, 0, in[1]);
    if (wanted(in[2])) fresh(c, n, 1, in[2]);
}

static void rule_kron(Grad *c)
{
    Tensor **in = c->fwd->in, *d1 = param_grad(c, in[1]), *d2 = param_grad(c, in[2]);
    Node *n = bwd(c, OP_kron_bwd, 3, (Tensor *[]){c->dy, in[1], in[2]});
    if (!n) return;
    n->dt = DT_F32;
    n->dw = d1;
    n->db = d2;
}

static void rule_dora(Grad *c)
{
    Tensor **in = c->fwd->in, *dm = param_grad(c, in[1]);
    Node *n = bwd(c, OP_dora_bwd, 4, (Tensor *[]){c->dy, in[0], c->fwd->out[1], in[1]});
    if (!n) return;
    n->dt = DT_F32;
    n->dw = dm;
    fresh(c, n, 0, in[0]);
}

static void rule_dropout(Grad *c)
{
    Tensor *x = c->fwd->in[0];
    Node *n = bwd(c, OP_dropout, 2, (Tensor *[]){c->dy, c->fwd->in[1]});
    if (!n) return;
    if (!x->param) {
        into(c, n, 0, x);
        return;
    }
    n->prev[0] = n->out[0] = param_grad(c, x);     /* of a factor: added to its sum */
}

static void rule_cast(Grad *c)
{
    Tensor *x = c->fwd->in[0];
    contribute(c, x, graph_cast(c->g, c->dy, x->dt));
}

/* The scale of loss tensor y, or NULL when it is not differentiated. */
static Tensor *scale_of(const Grad *c, const Tensor *y)
{
    for (int i = 0; i < c->losses; i++)
        if (c->loss[i] == y) return c->scale[i];
    return NULL;
}

static void rule_loss(Grad *c)
{
    Tensor **in = c->fwd->in, *s = scale_of(c, c->fwd->out[0]);
    if (!s) return;
    Node *n = bwd(c, OP_loss_bwd, 6, (Tensor *[]){s, in[0], in[1], in[2], in[3], in[4]});
    if (n) fresh(c, n, 0, in[0]);
}

static void rule_recon(Grad *c)
{
    Tensor **in = c->fwd->in, *s = scale_of(c, c->fwd->out[0]);
    if (!s) return;
    Node *n = bwd(c, OP_recon_bwd, 3, (Tensor *[]){s, in[0], in[1]});
    if (n) fresh(c, n, 0, in[0]);
}

static void rule_gauss(Grad *c)
{
    Tensor **in = c->fwd->in, *s = scale_of(c, c->fwd->out[1]);
    if (!s) {
        err_set(&c->g->err, ERR_FAIL, "the divergence of a posterior is not among the losses");
        return;
    }
    Node *n = bwd(c, OP_gauss_bwd, 4, (Tensor *[]){c->dy, s, in[0], in[1]});
    if (n) fresh(c, n, 0, in[0]);
}

/* An op without a rule has no gradient (its inputs never need one). */
static rule_fn *const rules[OP_COUNT] = {
    [OP_linear] = rule_linear,
    [OP_conv2d] = rule_conv2d,
    [OP_attention] = rule_attention,
    [OP_groupnorm] = rule_groupnorm,
    [OP_layernorm] = rule_layernorm,
    [OP_act] = rule_act,
    [OP_geglu] = rule_geglu,
    [OP_add] = rule_add,
    [OP_upsample2x] = rule_upsample2x,
    [OP_concat] = rule_concat,
    [OP_token_embed] = rule_token_embed,
    [OP_dropout] = rule_dropout,
    [OP_linear_dx] = rule_linear_dx,
    [OP_compose] = rule_compose,
    [OP_kron] = rule_kron,
    [OP_dora] = rule_dora,
    [OP_cast] = rule_cast,
    [OP_loss] = rule_loss,
    [OP_recon] = rule_recon,
    [OP_gauss] = rule_gauss,
};

/* ---- gradients that do not wait -------------------------------------------- */

/* Streamed gradients that node n adds to, or whose parameter it reads; returns how
 * many. */
static int streamed(const Node *n, Tensor *list[NODE_MAX_IN + 2])
{
    int count = 0;
    for (int k = 0; k < NODE_MAX_IN + 2; k++) {
        const Tensor *w = k < NODE_MAX_IN ? n->in[k] : NULL;
        Tensor *t = w && w->param ? w->grad : NULL;
        if (k == NODE_MAX_IN) t = n->dw;
        if (k > NODE_MAX_IN) t = n->db;
        if (t && t->of && t->of->streamed) list[count++] = t;
    }
    return count;
}

/* A node for t. It stands at the end of the graph's list and has a place in order. */
static Node *insert(Graph *g, OpKind op, Tensor *t, Node **order, int *count)
{
    g->scope = t->of->name;
    Node *n = graph_node(g, op, DT_F32);
    return n ? order[(*count)++] = n : NULL;
}

/* Zeroes each streamed gradient before its first use, and updates its parameter after
 * the last node that needs either. first and last are plan.c's, free until then. */
static void stream(Graph *g)
{
    Tensor *list[NODE_MAX_IN + 2];
    int total = g->node_count, count = g->forward;
    for (int i = g->forward; i < total; i++)
        for (int k = streamed(g->nodes[i], list) - 1; k >= 0; k--) {
            if (!list[k]->last) list[k]->first = i, g->updates++;
            list[k]->last = i;
        }
    size_t room = (size_t)(total + 2 * g->updates) * sizeof(Node *);
    Node **order = g->updates ? mem_alloc(room) : NULL;
    if (!order) {
        if (g->updates) err_nomem(&g->err, room, "the graph");
        return;
    }
    for (int i = g->forward; i < total && !g->err.code; i++) {
        int n = streamed(g->nodes[i], list);
        for (int k = 0; k < n; k++) {
            if (list[k]->made_by) continue;
            Node *zero = list[k]->made_by = insert(g, OP_zero, list[k], order, &count);
            if (zero) zero->out[0] = list[k];
        }
        order[count++] = g->nodes[i];
        for (int k = 0; k < n; k++) {
            if (list[k]->last != i) continue;
            Node *update = insert(g, OP_update, list[k], order, &count);
            if (update) update->in[0] = list[k];
            list[k]->last = -1;
        }
    }
    if (!g->err.code)
        memcpy(g->nodes + g->forward, order + g->forward,
               (size_t)(count - g->forward) * sizeof *order);
    mem_free(order);
}

static int is_loss(OpKind op) { return op == OP_loss || op == OP_recon || op == OP_gauss; }

void graph_grad(Graph *g, Tensor *const *loss, Tensor *const *scale, int count)
{
    g->forward = g->node_count;
    for (int i = g->forward - 1; i >= 0 && !g->err.code; i--) {
        Node *n = g->nodes[i];
        Tensor *y = n->out[0];
        if (!y || !y->needs_grad || (!y->grad && !is_loss(n->op))) continue;
        Grad c = {.g = g, .fwd = n, .dy = y->grad, .loss = loss, .scale = scale, .losses = count};
        if (rules[n->op]) rules[n->op](&c);
        else err_set(&g->err, ERR_FAIL, "%s: op %s has no gradient", n->name, op_name(n->op));
    }
    if (!g->err.code) stream(g);
    g->scope = NULL;
}
