/* recompute.c - see recompute.h. */
#include "engine/recompute.h"

#include <limits.h>
#include <stdint.h>
#include <string.h>

#include "engine/cost.h"
#include "engine/mem.h"

/* When a tensor is used, by index of node. */
typedef struct { int last_forward, first_backward, last; } Uses;

typedef struct {
    Graph *g;
    Uses *uses;                /* by Tensor.index */
    size_t *live;              /* bytes live at each node */
    int peak;                  /* where most are */
    int stamp;                 /* marks the nodes of the closure under work */
    int cheap_only;
} Search;

/* What it takes to compute a node again at `use`. */
typedef struct {
    int use;                   /* the node that wants it */
    size_t saved;              /* bytes set free at the peak */
    size_t extra;              /* bytes that must now be kept over the peak for it */
    double seconds;
} Closure;

/* A pass over memory: no product. In a forward part linear_dx is one of two factors, and
 * short: compose.. make weights of parameters that wait anyway. */
static int is_cheap(OpKind op)
{
    switch (op) {
    case OP_groupnorm: case OP_layernorm: case OP_act: case OP_geglu: case OP_add: case OP_concat:
    case OP_cast:
    case OP_upsample2x:
    case OP_linear_dx:
    case OP_compose:
    case OP_kron:
    case OP_dora:
    case OP_dropout:
        return 1;
    default:
        return 0;
    }
}

static int has_backward(const Graph *g) { return g->forward > 0 && g->forward < g->node_count; }

/* ---- what is live -------------------------------------------------------- */

static void search_free(Search *s)
{
    mem_free(s->uses);
    mem_free(s->live);
}

static int search_new(Search *s, Graph *g, int cheap_only, Err *e)
{
    size_t n = (size_t)g->tensor_count;
    *s = (Search){.g = g, .cheap_only = cheap_only};
    s->uses = mem_alloc((n + 1) * sizeof *s->uses);
    s->live = mem_alloc(((size_t)g->node_count + 2) * sizeof *s->live);
    if (!s->uses || !s->live) {
        search_free(s);
        return err_nomem(e, n * sizeof *s->uses, "the memory plan");
    }
    for (size_t i = 0; i < n; i++) s->uses[i] = (Uses){-1, INT_MAX, -1};
    for (int i = 0; i < g->node_count; i++) {
        g->nodes[i]->mark = 0;
        for (int k = 0; k < NODE_MAX_IN; k++) {
            const Tensor *t = g->nodes[i]->in[k];
            if (!t) continue;
            Uses *u = &s->uses[t->index];
            u->last = i;
            if (i < g->forward) u->last_forward = i;
            else if (u->first_backward == INT_MAX) u->first_backward = i;
        }
    }
    plan_lifetimes(g);
    s->peak = plan_live(g, s->live);
    return 0;
}

/* ---- one candidate ------------------------------------------------------- */

static void visit(Search *s, Node *n, Closure *c);

/* How a closure gets one of its inputs: it waits anyway, is kept from now on, or
 * is computed again, too. */
static void need(Search *s, const Tensor *t, Closure *c)
{
    if (!t || t->param || !t->made_by || t->keep || t->made_by->again) return;
    int last = s->uses[t->index].last;
    if (last >= c->use || last >= s->peak) return;
    size_t bytes = tensor_bytes(t);
    if (!is_cheap(t->made_by->op) && (s->cheap_only || bytes * 4 <= c->saved)) c->extra += bytes;
    else visit(s, t->made_by, c);
}

static void visit(Search *s, Node *n, Closure *c)
{
    if (n->again || n->mark == s->stamp) return;
    n->mark = s->stamp;
    c->seconds += cost_seconds(&cost_nominal, n);
    for (int k = 0; k < NODE_MAX_IN; k++) need(s, n->in[k], c);
}

/* What it would bring to compute n again; saved is 0 when nothing. */
static Closure weigh(Search *s, Node *n)
{
    Closure c = {.use = INT_MAX};
    for (int k = 0; k < NODE_MAX_OUT; k++) {
        const Tensor *t = n->out[k];
        if (!t) continue;
        const Uses *u = &s->uses[t->index];
        if (u->first_backward < c.use) c.use = u->first_backward;
        if (!t->keep && u->last_forward < s->peak && u->last >= s->peak)
            c.saved += tensor_bytes(t);
    }
    if (c.use == INT_MAX || c.use <= s->peak) c.saved = 0;
    if (!c.saved) return c;
    s->stamp++;
    visit(s, n, &c);
    return c;
}

static Node *best_candidate(Search *s)
{
    Node *best = NULL;
    double best_rate = 0;
    for (int i = 0; i < s->g->forward && i < s->peak; i++) {
        Node *n = s->g->nodes[i];
        if (n->again || (s->cheap_only && !is_cheap(n->op))) continue;
        Closure c = weigh(s, n);
        if (c.saved <= c.extra) continue;
        double rate = (double)(c.saved - c.extra) / c.seconds;
        if (rate > best_rate) best = n, best_rate = rate;
    }
    return best;
}

/* ---- changing the graph -------------------------------------------------- */

static Tensor *again_of(Tensor *t)
{
    if (!t || !t->made_by || !t->made_by->again) return t;
    for (int k = 0; k < NODE_MAX_OUT; k++)
        if (t->made_by->out[k] == t) return t->made_by->again->out[k];
    return t;
}

/* Clones the nodes of a closure; each stands at the end of the list for now. */
static void clone_marked(Search *s)
{
    Graph *g = s->g;
    for (int i = 0; i < g->forward && !g->err.code; i++) {
        Node *n = g->nodes[i];
        if (n->mark != s->stamp || n->again) continue;
        Node *c = graph_node(g, n->op, n->dt);
        if (!c) return;
        c->p = n->p;
        c->clone = 1;
        memcpy(c->in, n->in, sizeof c->in);
        memcpy(c->name, n->name, sizeof c->name);
        for (int k = 0; k < NODE_MAX_OUT; k++)
            if (n->out[k]) graph_out(g, c, k, n->out[k]->dt, n->out[k]->ndim, n->out[k]->dim);
        if (n->scratch) graph_scratch(g, c, tensor_bytes(n->scratch));
        n->again = c;
    }
}

static void emit(Node *n, Node **order, int *count)
{
    if (n->mark == -1) return;
    n->mark = -1;
    for (int k = 0; k < NODE_MAX_IN; k++) {
        Node *maker = n->in[k] ? n->in[k]->made_by : NULL;
        if (maker && maker->clone) emit(maker, order, count);
    }
    order[(*count)++] = n;
}

/* Everything behind the forward part reads from the clones; each clone goes right
 * before its first reader. */
static int rewire(Graph *g, Err *e)
{
    Node **order = mem_alloc((size_t)g->node_count * sizeof *order);
    if (!order) return err_nomem(e, (size_t)g->node_count * sizeof *order, "the memory plan");
    int count = 0;
    for (int i = g->forward; i < g->node_count; i++) {
        g->nodes[i]->mark = 0;
        for (int k = 0; k < NODE_MAX_IN; k++) g->nodes[i]->in[k] = again_of(g->nodes[i]->in[k]);
    }
    for (int i = g->forward; i < g->node_count; i++)
        if (!g->nodes[i]->clone) emit(g->nodes[i], order, &count);
    memcpy(g->nodes + g->forward, order, (size_t)count * sizeof *order);
    g->node_count = g->forward + count;
    mem_free(order);
    return 0;
}

/* Takes the best candidate at the peak, if that is above target. *done: there was
 * nothing to do or nothing to take. *least: the smallest peak so far. */
static int step(Graph *g, size_t target, int cheap_only, int *done, size_t *least, Err *e)
{
    Search s;
    TRY(search_new(&s, g, cheap_only, e));
    if (s.live[s.peak] < *least) *least = s.live[s.peak];
    Node *n = s.live[s.peak] > target ? best_candidate(&s) : NULL;
    *done = !n;
    if (n) {
        weigh(&s, n);                          /* marks its closure */
        clone_marked(&s);
    }
    search_free(&s);
    if (g->err.code) return err_set(e, g->err.code, "%s", g->err.msg);
    return n ? rewire(g, e) : 0;
}

static double share_of_clones(const Graph *g)
{
    double clones = 0, all = 0;
    for (int i = 0; i < g->node_count; i++) {
        double s = cost_seconds(&cost_nominal, g->nodes[i]);
        all += s;
        if (g->nodes[i]->clone) clones += s;
    }
    return clones > 0 ? clones / (all - clones) : 0;
}

int recompute_fit(Plan *plan, Graph *g, size_t slab_bytes, const Dev *dev, const Ops *ops, Err *e)
{
    int done = g->err.code || !has_backward(g);
    size_t least = SIZE_MAX;
    TRY(plan_scratch(g, dev, ops, e));
    while (!done) TRY(step(g, 0, 1, &done, &least, e));
    TRY(plan_make(plan, g, dev, ops, e));
    /* placing loses a little: aim below what is asked for by as much */
    size_t target = slab_bytes;
    while (has_backward(g) && plan->slab_bytes > slab_bytes && target) {
        size_t over = plan->slab_bytes - slab_bytes;
        target = plan->peak_bytes > over ? plan->peak_bytes - over : 0;
        if (target > slab_bytes) target = slab_bytes;
        int nothing = 1;
        for (done = 0; !done; nothing &= done) TRY(step(g, target, 0, &done, &least, e));
        if (nothing) break;
        TRY(plan_make(plan, g, dev, ops, e));
    }
    plan->again_share = share_of_clones(g);
    plan->least_bytes = least < plan->slab_bytes ? least : plan->slab_bytes;
    return 0;
}
