/* cost.c - see cost.h. */
#include "engine/cost.h"

#include <string.h>
#include <time.h>

/* Ratios of a processor with bf16 products; only they matter. */
const Speed cost_nominal = {.flops = {[COST_LINEAR] = 3e11,
                                      [COST_LINEAR_DW] = 2e11,
                                      [COST_CONV] = 3e11,
                                      [COST_CONV_DW] = 2e11,
                                      [COST_ATTENTION] = 1.5e11,
                                      [COST_ATTENTION_BWD] = 1.5e11,
                                      [COST_MEMORY] = 1},
                            .bytes = 1.5e10};

CostKind cost_kind(OpKind op)
{
    switch (op) {
    case OP_linear: case OP_linear_dx: return COST_LINEAR;
    case OP_linear_dw: return COST_LINEAR_DW;
    case OP_conv2d: case OP_conv2d_dx: return COST_CONV;
    case OP_conv2d_dw: return COST_CONV_DW;
    case OP_attention: return COST_ATTENTION;
    case OP_attention_bwd: return COST_ATTENTION_BWD;
    default: return COST_MEMORY;
    }
}

static double linear_flops(const Linear *p) { return 2.0 * p->m * p->n * p->k; }

static double conv2d_flops(const Conv2d *p)
{
    double pixels = (double)p->n * conv2d_rows(p) * conv2d_out(p, p->w);
    return 2.0 * pixels * p->cout * p->cin * p->ks * p->ks;
}

/* Two products of queries and keys; the backward has five. */
static double attention_flops(const Attention *p, int products)
{
    double pairs = (double)p->n * p->heads * p->tq * p->tk;
    return 2.0 * products * pairs * p->d * (p->causal ? 0.5 : 1);
}

Cost cost_of(const Node *n)
{
    Cost c = {0};
    for (int i = 0; i < NODE_MAX_IN; i++)
        if (n->in[i]) c.bytes += (double)tensor_bytes(n->in[i]);
    for (int i = 0; i < NODE_MAX_OUT; i++)
        if (n->out[i]) c.bytes += (double)tensor_bytes(n->out[i]);
    switch (n->op) {
    case OP_linear: case OP_linear_dx: case OP_linear_dw:
        c.flops = linear_flops(&n->p.linear);
        break;
    case OP_conv2d: case OP_conv2d_dx: case OP_conv2d_dw:
        c.flops = conv2d_flops(&n->p.conv2d);
        break;
    case OP_attention: c.flops = attention_flops(&n->p.attention, 2); break;
    case OP_attention_bwd: c.flops = attention_flops(&n->p.attention, 5); break;
    case OP_token_embed:                   /* of the table only the rows asked for */
        c.bytes = 3.0 * (double)tensor_bytes(n->out[0]);
        break;
    default: break;
    }
    return c;
}

double cost_seconds(const Speed *s, const Node *n)
{
    Cost c = cost_of(n);
    return c.flops / s->flops[cost_kind(n->op)] + c.bytes / s->bytes;
}

double cost_graph_seconds(const Speed *s, const Graph *g)
{
    double sum = 0;
    for (int i = 0; i < g->node_count; i++) sum += cost_seconds(s, g->nodes[i]);
    return sum;
}

/* ---- measuring ----------------------------------------------------------- */

enum { ROWS = 1024, WIDTH = 640, SIDE = 32, CHANNELS = 320, HEADS = 16, ELEMENTS = 4 << 20 };

static const Linear linear_probe = {ROWS, WIDTH, WIDTH, 1, DT_F32};
static const Conv2d conv_probe = {1, SIDE, SIDE, CHANNELS, CHANNELS, 3, 1, 1, 1, 1, DT_F32, 0, 0};
static const Attention attention_probe = {1, 512, 512, HEADS, 40, 0, 0.158f};

typedef struct {
    Dev *dev;
    const Ops *ops;
    Dtype dt, wdt;
    char *a, *b, *c, *w;           /* buffers of ELEMENTS floats; w for two */
    void *scratch;
    size_t scratch_bytes;
} Probe;

static void run_probe(const Probe *p, CostKind kind)
{
    Linear l = linear_probe;
    Conv2d v = conv_probe;
    const Attention *t = &attention_probe;
    l.wdt = v.wdt = p->wdt;
    Dev *d = p->dev;
    float *f = (float *)(void *)p->w;
    /* q, k, v and so on: pieces of the buffers, whose contents are zeros */
    char *q = p->a, *k = p->a + ELEMENTS, *o = p->b, *dq = p->c;
    switch (kind) {
    case COST_LINEAR: p->ops->linear[p->dt](d, &l, p->c, p->a, p->w, NULL, NULL); break;
    case COST_LINEAR_DW: p->ops->linear_dw[p->dt](d, &l, f, NULL, p->a, p->b); break;
    case COST_CONV: p->ops->conv2d[p->dt](d, &v, p->c, p->a, p->w, NULL, NULL, NULL); break;
    case COST_CONV_DW: p->ops->conv2d_dw[p->dt](d, &v, f, NULL, p->a, p->b); break;
    case COST_ATTENTION: p->ops->attention[p->dt](d, t, o, f, q, k, k); break;
    case COST_ATTENTION_BWD:
        p->ops->attention_bwd[p->dt](d, t, dq, dq + ELEMENTS, dq + 2 * ELEMENTS, o, q, k, k, o, f);
        break;
    default: p->ops->add[p->dt](d, ELEMENTS, p->c, p->a, p->b); break;
    }
    dev_sync(d);
}

static double probe_work(const Probe *p, CostKind kind)
{
    switch (kind) {
    case COST_LINEAR: case COST_LINEAR_DW: return linear_flops(&linear_probe);
    case COST_CONV: case COST_CONV_DW: return conv2d_flops(&conv_probe);
    case COST_ATTENTION: return attention_flops(&attention_probe, 2);
    case COST_ATTENTION_BWD: return attention_flops(&attention_probe, 5);
    default: return 3.0 * ELEMENTS * (double)dtype_bytes(p->dt);
    }
}

/* Of one thread its own time: other programs do not count. */
static double now(const Dev *d)
{
    struct timespec ts;
    clock_gettime(d->threads == 1 && !dev_own_memory(d) ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC,
                  &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void measure(Speed *s, Probe *p)
{
    void *ws = p->dev->ws;
    size_t ws_bytes = p->dev->ws_bytes;
    p->dev->ws = p->scratch;
    p->dev->ws_bytes = p->scratch_bytes;
    for (CostKind k = 0; k < COST_KINDS; k++) {
        /* the best of several, as long as they are short: others may use the machine, too */
        double best = 1e9, all = 0;
        for (int i = 0; i < 1 || (i < 12 && all < 0.06); i++) {
            double start = now(p->dev);
            run_probe(p, k);
            double took = now(p->dev) - start;
            if (took < best) best = took;
            all += took;
        }
        double rate = probe_work(p, k) / (best > 1e-9 ? best : 1e-9);
        if (k == COST_MEMORY) s->bytes = rate;
        else s->flops[k] = rate;
    }
    p->dev->ws = ws;
    p->dev->ws_bytes = ws_bytes;
}

int cost_measure(Speed *s, Dev *dev, const Ops *ops, Dtype dt, Dtype wdt, Err *e)
{
    Probe p = {.dev = dev, .ops = ops, .dt = dt, .wdt = wdt};
    Linear linear = linear_probe;
    Conv2d conv = conv_probe;
    linear.wdt = conv.wdt = wdt;
    size_t room = (size_t)ELEMENTS * sizeof(float), all = 5 * room;
    size_t need[4] = {ops->linear_scratch(dev, &linear, dt), ops->conv2d_scratch(dev, &conv, dt),
                      ops->attention_scratch(dev, &attention_probe, dt, 0),
                      ops->attention_scratch(dev, &attention_probe, dt, 1)};
    for (int i = 0; i < 4; i++)
        if (need[i] > p.scratch_bytes) p.scratch_bytes = need[i];
    *s = (Speed){.flops = {[COST_MEMORY] = 1}};
    all += p.scratch_bytes + 64;
    void *block;
    if (dev_alloc(dev, &block, all) != DEV_OK) return err_nomem(e, all, "measuring the machine");
    dev_zero(dev, block, all);
    p.a = block;
    p.b = p.a + room;
    p.c = p.b + room;
    p.w = p.c + room;
    p.scratch = p.w + 2 * room;
    measure(s, &p);
    dev_free(dev, block, all);
    return 0;
}
