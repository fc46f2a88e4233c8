/* strips.c - see strips.h. */
#include "engine/strips.h"

#include <string.h>

#include "engine/mem.h"

/* What stands at node `at` and is to be done in strips. */
typedef struct {
    int at, rows, count;           /* rows of a strip; the last of them has the rest, too */
    Node *conv, *before, *skip;    /* skip: the linear that makes conv's residual, or NULL */
} Cut;

static const Tensor *root(const Tensor *t)
{
    while (t->base) t = t->base;
    return t;
}

/* Nodes from number `from` on that read t or a part of it. */
static int readers(const Graph *g, const Tensor *t, int from)
{
    int n = 0;
    for (int i = from; i < g->node_count; i++)
        for (int k = 0; k < NODE_MAX_IN; k++)
            n += g->nodes[i]->in[k] && root(g->nodes[i]->in[k]) == root(t);
    return n;
}

/* t is made for one node alone. */
static int is_private(const Graph *g, const Tensor *t)
{
    return t->made_by && !t->base && !root(t)->keep && readers(g, t, 0) == 1;
}

/* ---- what can be cut ----------------------------------------------------- */

static int fits_before(const Node *n)
{
    if (n->op == OP_groupnorm) return !n->p.groupnorm.given && n->out[1];
    return n->op == OP_upsample2x && !n->p.upsample.cut_h && !n->p.upsample.cut_w;
}

/* The linear of the residual, if it can be done in strips: a shortcut of the map. */
static Node *find_skip(const Graph *g, const Cut *c)
{
    const Tensor *res = c->conv->in[4];
    Node *n = res && is_private(g, res) ? res->made_by : NULL;
    if (!n || n->op != OP_linear || n->in[3] || n->p.linear.wdt == DT_I8) return NULL;
    const Tensor *x = n->in[0], *y = c->conv->out[0];
    int same = x->ndim == 4 && x->dim[0] == 1 && x->dim[1] == y->dim[1] && x->dim[2] == y->dim[2];
    return same && c->rows * y->dim[2] >= LINEAR_ROWS ? n : NULL;
}

static int find(const Graph *g, int at, size_t least, Cut *c)
{
    Node *n = g->nodes[at];
    const Conv2d *p = &n->p.conv2d;
    if (n->op != OP_conv2d || p->n != 1 || p->ks != 3 || p->stride != 1 || p->pad_lo != 1 ||
        p->pad_hi != 1 || p->above || p->below || p->wdt == DT_I8 || n->in[3])
        return 0;
    const Tensor *x = n->in[0];
    if (tensor_bytes(x) < least || !is_private(g, x) || !fits_before(x->made_by)) return 0;
    size_t row = tensor_bytes(x) / (size_t)p->h,
           rows = least / 2 / row / CONV2D_STRIP * CONV2D_STRIP;
    *c = (Cut){.at = at, .rows = rows ? (int)rows : CONV2D_STRIP, .conv = n, .before = x->made_by};
    c->count = p->h / c->rows;
    c->skip = find_skip(g, c);
    return c->count > 1;
}

/* What the result may be written over: the residual, or what the shortcut is made of,
 * when nobody reads it later and the rows still to come are not reached. */
static Tensor *place_of(const Graph *g, const Cut *c)
{
    Tensor *y = c->conv->out[0], *t = c->skip ? c->skip->in[0] : c->conv->in[4];
    if (!t || t->param || root(t)->keep || y->keep || root(t) == root(c->before->in[0]))
        return NULL;
    if (readers(g, t, c->at + 1) || t->dt != y->dt) return NULL;
    int fits = c->skip ? tensor_bytes(y) <= tensor_bytes(t) : tensor_bytes(y) == tensor_bytes(t);
    return fits ? t : NULL;
}

/* ---- cutting ------------------------------------------------------------- */

static Node *copy_of(Graph *g, const Node *n)
{
    g->scope = n->name;
    Node *c = graph_node(g, n->op, n->dt);
    if (!c) return NULL;
    c->p = n->p;
    memcpy(c->in, n->in, sizeof c->in);
    return c;
}

static void add_statistics(Graph *g, Node *norm)
{
    Node *n = copy_of(g, norm);
    if (!n) return;
    n->out[1] = norm->out[1];
    n->out[1]->made_by = n;
}

/* Rows [a,b) of what stands in front of the convolution. */
static Tensor *add_before(Graph *g, const Node *before, const Tensor *whole, int a, int b)
{
    Node *n = copy_of(g, before);
    if (!n) return &g->bad;
    int dim[4] = {1, b - a, whole->dim[2], whole->dim[3]};
    if (n->op == OP_groupnorm) {
        n->p.groupnorm.hw = dim[1] * dim[2];
        n->p.groupnorm.given = 1;
        n->in[0] = graph_rows(g, n->in[0], a, b - a);
        n->in[3] = before->out[1];
        return graph_out(g, n, 0, whole->dt, 4, dim);
    }
    int first = a / 2, end = (b + 1) / 2;
    n->p.upsample.h = end - first;
    n->in[0] = graph_rows(g, n->in[0], first, end - first);
    dim[1] = 2 * (end - first);
    return graph_rows(g, graph_out(g, n, 0, whole->dt, 4, dim), a - 2 * first, b - a);
}

/* Rows [r0,r1) of the residual; NULL: there is none. */
static Tensor *add_residual(Graph *g, const Cut *c, int r0, int r1)
{
    Tensor *res = c->conv->in[4];
    if (!c->skip) return res ? graph_rows(g, res, r0, r1 - r0) : NULL;
    Node *n = copy_of(g, c->skip);
    if (!n) return &g->bad;
    n->p.linear.m = (r1 - r0) * res->dim[2];
    n->in[0] = graph_rows(g, n->in[0], r0, r1 - r0);
    return graph_out(g, n, 0, res->dt, 4, (int[]){1, r1 - r0, res->dim[2], res->dim[3]});
}

/* All strips of a cut, as nodes at the end of the graph's list. */
static void add_strips(Graph *g, const Cut *c)
{
    Tensor *y = c->conv->out[0];
    int h = c->conv->p.conv2d.h;
    if (c->before->op == OP_groupnorm) add_statistics(g, c->before);
    for (int s = 0; s < c->count && !g->err.code; s++) {
        int r0 = s * c->rows, r1 = s == c->count - 1 ? h : r0 + c->rows;
        int a = r0 ? r0 - 1 : 0, b = r1 < h ? r1 + 1 : h;
        Tensor *x = add_before(g, c->before, c->conv->in[0], a, b),
               *res = add_residual(g, c, r0, r1);
        Node *n = copy_of(g, c->conv);
        if (!n) return;
        n->in[0] = x;
        n->in[4] = res;
        n->p.conv2d.h = b - a, n->p.conv2d.above = a, n->p.conv2d.below = h - b;
        n->out[0] = graph_rows(g, y, r0, r1 - r0);
        n->out[0]->made_by = y->made_by = n;
    }
}

/* Puts the nodes from number `first` on where the convolution stood, and removes what
 * they stand for. */
static int replace(Graph *g, const Cut *c, int first, Err *e)
{
    Node **order = mem_alloc((size_t)g->node_count * sizeof *order);
    if (!order) return err_nomem(e, (size_t)g->node_count * sizeof *order, "the graph");
    int count = 0;
    for (int i = 0; i < first; i++) {
        Node *n = g->nodes[i];
        if (n == c->conv)
            for (int k = first; k < g->node_count; k++) order[count++] = g->nodes[k];
        else if (n != c->before && n != c->skip) order[count++] = n;
    }
    memcpy(g->nodes, order, (size_t)count * sizeof *order);
    g->node_count = count;
    mem_free(order);
    c->before->out[0]->made_by = NULL;
    if (c->skip) c->skip->out[0]->made_by = NULL;
    mem_free(c->conv);
    mem_free(c->before);
    mem_free(c->skip);
    return 0;
}

int strips_cut(Graph *g, size_t least, const Ops *ops, Err *e)
{
    if (!ops->strips || g->forward || g->err.code) return 0;
    for (int i = 0; i < g->node_count; i++) {
        Cut c;
        if (!find(g, i, least, &c)) continue;
        Tensor *over = place_of(g, &c);
        int first = g->node_count;
        add_strips(g, &c);
        if (g->err.code) break;
        c.conv->out[0]->base = over;
        TRY(replace(g, &c, first, e));
    }
    g->scope = NULL;
    return 0;
}
