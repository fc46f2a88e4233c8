/* plan.c - see plan.h. */
#include "engine/plan.h"

#include <stdlib.h>
#include <string.h>

#include "engine/mem.h"

enum { ALIGN = 64 };

static size_t align_up(size_t n) { return (n + ALIGN - 1) & ~(size_t)(ALIGN - 1); }

/* ---- lifetimes ----------------------------------------------------------- */

static void touch(Tensor *t, int at)
{
    if (!t || t->param) return;
    while (t->base) t = t->base;
    if (at < t->first) t->first = at;
    if (at > t->last) t->last = at;
}

static void lifetimes(Graph *g)
{
    for (int i = 0; i < g->tensor_count; i++) {
        Tensor *t = g->tensors[i];
        t->buffer = t;
        t->first = g->node_count;
        t->last = -1;
        if (t->keep) t->last = g->node_count;
        if (t->keep && !t->made_by) t->first = -1;     /* an input is there before the run */
    }
    for (int i = 0; i < g->node_count; i++) {
        const Node *n = g->nodes[i];
        for (int k = 0; k < NODE_MAX_IN; k++) touch(n->in[k], i);
        for (int k = 0; k < NODE_MAX_OUT; k++) touch(n->out[k], i), touch(n->prev[k], i);
        touch(n->scratch, i);
        touch(n->dw, i);
        touch(n->db, i);
    }
}

/* The input that the op may overwrite with output 0 (ops.h: "in place ok"), or NULL. */
static Tensor *inplace_input(const Node *n)
{
    switch (n->op) {
    case OP_linear: return n->in[3];
    case OP_conv2d: return n->in[4];
    case OP_groupnorm:
    case OP_layernorm:
    case OP_act:
    case OP_add:
    case OP_dropout: return n->in[0];
    case OP_compose_bwd: case OP_dora_bwd: return n->in[0];
    case OP_groupnorm_bwd: case OP_act_bwd: return n->prev[0] ? NULL : n->in[0];
    case OP_geglu_bwd: return n->prev[0] ? NULL : n->in[1];
    default: return NULL;
    }
}

static int try_share(Tensor *out, Tensor *in, int at)
{
    if (!in || in->param || in->keep || out->buffer != out || out->base || in->base) return 0;
    Tensor *buf = in->buffer;
    if (buf->last != at || buf->keep || tensor_bytes(out) != tensor_bytes(in)) return 0;
    out->buffer = buf;
    if (out->last > buf->last) buf->last = out->last;
    return 1;
}

/* Lets outputs take over the bytes of inputs that die at the same node. A
 * buffer's lifetime is the union of the tensors that share it, so nodes must be
 * visited in order. */
static void share_buffers(Graph *g)
{
    for (int i = 0; i < g->node_count; i++) {
        Node *n = g->nodes[i];
        for (int k = 0; k < NODE_MAX_OUT; k++)
            if (n->out[k] && n->prev[k]) try_share(n->out[k], n->prev[k], i);
        if (n->out[0] && !n->out[0]->keep && !n->prev[0]) {
            Tensor *in = inplace_input(n);
            int twice = 0; /* x + x must not overwrite x while reading it as the other operand */
            for (int k = 0; k < NODE_MAX_IN; k++)
                twice += in && n->in[k] && n->in[k]->buffer == in->buffer;
            if (twice == 1) try_share(n->out[0], in, i);
            else if (n->op == OP_add && !twice) try_share(n->out[0], n->in[1], i);
        }
    }
}

void plan_lifetimes(Graph *g)
{
    lifetimes(g);
    share_buffers(g);
}

/* ---- offsets ------------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
    const Tensor *x = *(Tensor *const *)a, *y = *(Tensor *const *)b;
    size_t sx = tensor_bytes(x), sy = tensor_bytes(y);
    if (sx != sy) return sx < sy ? 1 : -1;
    return (x->index > y->index) - (x->index < y->index);
}

static int by_offset(const void *a, const void *b)
{
    const Tensor *x = *(Tensor *const *)a, *y = *(Tensor *const *)b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

/* Lowest offset at which t fits between the placed buffers that live at the
 * same time. placed[] is sorted by offset. */
static size_t lowest_gap(const Tensor *t, Tensor **placed, int count)
{
    size_t at = 0, need = align_up(tensor_bytes(t));
    for (int i = 0; i < count; i++) {
        const Tensor *o = placed[i];
        if (o->last < t->first || o->first > t->last) continue;
        if (at + need <= o->offset) break;
        size_t end = o->offset + align_up(tensor_bytes(o));
        if (end > at) at = end;
    }
    return at;
}

/* Greedy by size: large buffers first, each as low as it fits (Pisarchyk & Lee,
 * arXiv:2001.03288, algorithm 3). */
static int place(Plan *plan, Graph *g, Err *e)
{
    Tensor **order = mem_alloc(sizeof *order * (size_t)(g->tensor_count + 1) * 2);
    if (!order) return err_nomem(e, sizeof *order * (size_t)g->tensor_count * 2, "the memory plan");
    Tensor **placed = order + g->tensor_count + 1;
    int n = 0;
    for (int i = 0; i < g->tensor_count; i++) {
        Tensor *t = g->tensors[i];
        if (!t->param && t->buffer == t && t->last >= 0 && t->first <= g->node_count)
            order[n++] = t;
    }
    qsort(order, (size_t)n, sizeof *order, by_size);
    for (int i = 0; i < n; i++) {
        Tensor *t = order[i];
        t->offset = lowest_gap(t, placed, i);
        size_t end = t->offset + align_up(tensor_bytes(t));
        if (end > plan->slab_bytes) plan->slab_bytes = end;
        int k = i;
        for (; k > 0 && by_offset(&placed[k - 1], &t) > 0; k--) placed[k] = placed[k - 1];
        placed[k] = t;
    }
    mem_free(order);
    for (int i = 0; i < g->tensor_count; i++) {
        Tensor *t = g->tensors[i], *own = t;
        size_t at = 0;
        for (; own->base; own = own->base) at += own->at;
        t->offset = own->buffer->offset + at;
    }
    return 0;
}

int plan_live(const Graph *g, size_t *live)
{
    int last = g->node_count, peak = 0;
    memset(live, 0, ((size_t)last + 1) * sizeof *live);
    /* what comes and goes at each node, then the running sum; a size_t wraps and wraps back */
    for (int i = 0; i < g->tensor_count; i++) {
        const Tensor *t = g->tensors[i];
        if (t->param || t->buffer != t || t->last < 0 || t->first > last) continue;
        live[t->first < 0 ? 0 : t->first] += align_up(tensor_bytes(t));
        if (t->last < last) live[t->last + 1] -= align_up(tensor_bytes(t));
    }
    for (int i = 1; i < last; i++) {
        live[i] += live[i - 1];
        if (live[i] > live[peak]) peak = i;
    }
    return peak;
}

static int find_peak(Plan *plan, const Graph *g, Err *e)
{
    size_t bytes = ((size_t)g->node_count + 1) * sizeof(size_t);
    size_t *live = mem_alloc(bytes);
    if (!live) return err_nomem(e, bytes, "the memory plan");
    int peak = plan_live(g, live);
    if (g->node_count) plan->peak = g->nodes[peak];
    plan->peak_bytes = live[peak];
    mem_free(live);
    for (int i = 0; i < g->node_count; i++)
        for (int k = 0; g->nodes[i]->clone && k < NODE_MAX_OUT; k++)
            if (g->nodes[i]->out[k]) plan->again_bytes += tensor_bytes(g->nodes[i]->out[k]);
    for (int i = 0; i < g->node_count; i++) plan->again_nodes += g->nodes[i]->clone;
    return 0;
}

/* ---- what the device can do ---------------------------------------------- */

static int supported(const Node *n, const Ops *ops)
{
    switch (n->op) {
#define X(name) case OP_##name: return ops->name[n->dt] != NULL;
        OPS_LIST(X)
#undef X
    case OP_zero: case OP_update: return 1;
    case OP_cast: return ops->cast[n->out[0]->dt][n->in[0]->dt] != NULL;
    default: return 0;
    }
}

static size_t scratch_of(const Node *n, const Dev *dev, const Ops *ops)
{
    switch (n->op) {
    case OP_linear: case OP_linear_dx: case OP_linear_dw:
        return ops->linear_scratch(dev, &n->p.linear, n->dt);
    case OP_conv2d: case OP_conv2d_dx: case OP_conv2d_dw:
        return ops->conv2d_scratch(dev, &n->p.conv2d, n->dt);
    case OP_attention: case OP_attention_bwd:
        return ops->attention_scratch(dev, &n->p.attention, n->dt, n->op == OP_attention_bwd);
    default: return 0;
    }
}

int plan_scratch(Graph *g, const Dev *dev, const Ops *ops, Err *e)
{
    for (int i = 0; i < g->node_count && !g->err.code; i++) {
        Node *n = g->nodes[i];
        if (!supported(n, ops))
            return err_set(e, ERR_FAIL, "%s: this device has no %s for this dtype; try --dtype f32",
                           n->name, op_name(n->op));
        size_t bytes = n->scratch ? 0 : scratch_of(n, dev, ops);
        if (bytes) graph_scratch(g, n, bytes);
    }
    return g->err.code ? err_set(e, g->err.code, "%s", g->err.msg) : 0;
}

int plan_make(Plan *plan, Graph *g, const Dev *dev, const Ops *ops, Err *e)
{
    *plan = (Plan){0};
    TRY(plan_scratch(g, dev, ops, e));
    for (int i = 0; i < g->node_count; i++) {
        size_t s = g->nodes[i]->scratch ? tensor_bytes(g->nodes[i]->scratch) : 0;
        if (s > plan->scratch_bytes) plan->scratch_bytes = s;
    }
    plan_lifetimes(g);
    TRY(place(plan, g, e));
    return find_peak(plan, g, e);
}
