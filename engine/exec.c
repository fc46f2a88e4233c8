/* exec.c - see exec.h. One switch turns nodes into calls of the op table. */
#include "engine/exec.h"

#include <stdint.h>
#include <string.h>
#include <time.h>

#include "engine/mem.h"
#include "engine/convert.h"
#include "engine/recompute.h"
#include "engine/strips.h"

/* ---- memory -------------------------------------------------------------- */

void slab_want(Slab *s, const Plan *plan)
{
    if (plan->slab_bytes > s->bytes) s->bytes = plan->slab_bytes;
}

int slab_alloc(Slab *s, Dev *dev, Err *e)
{
    s->dev = dev;
    if (dev_alloc(dev, &s->base, s->bytes + 64) != DEV_OK) {
        s->base = NULL;
        return err_nomem(e, s->bytes, "activations");
    }
    return 0;
}

void slab_release(Slab *s)
{
    if (s->base) dev_free(s->dev, s->base, s->bytes + 64);
    s->base = NULL;
}

void slab_free(Slab *s)
{
    slab_release(s);
    *s = (Slab){0};
}

int exec_init(Exec *x, Graph *g, Slab *slab, Dev *dev, const Ops *ops, Err *e)
{
    *x = (Exec){.g = g, .ops = ops, .slab = slab};
    if (!g) return err_nomem(e, sizeof *g, "the graph");
    TRY(strips_cut(g, STRIPS_LEAST, ops, e));
    TRY(recompute_fit(&x->plan, g, SIZE_MAX, dev, ops, e));
    slab->dev = dev;
    slab_want(slab, &x->plan);
    return 0;
}

int exec_fit(Exec *x, size_t slab_bytes, Err *e)
{
    if (x->plan.slab_bytes > slab_bytes)
        TRY(recompute_fit(&x->plan, x->g, slab_bytes, x->slab->dev, x->ops, e));
    slab_want(x->slab, &x->plan);
    return 0;
}

void exec_free(Exec *x)
{
    if (x->record) dev_record_free(x->slab->dev, x->record);
    graph_free(x->g);
    *x = (Exec){0};
}

void *exec_address(const Exec *x, const Tensor *t)
{
    if (!t) return NULL;
    if (t->param) return t->of ? (void *)t->param->grad : t->param->data;
    return (char *)x->slab->base + t->offset;
}

/* ERR_FAIL when the device has failed. What ran before n may have failed as well,
 * unless it was waited for. */
static int check_device(const Exec *x, const Node *n, int waited, Err *e)
{
    const char *why = dev_failure(x->slab->dev);
    if (!why[0]) return 0;
    return err_set(e, ERR_FAIL, "%s failed %s layer %s (%s): %s%s", dev_name(x->slab->dev),
                   waited ? "in" : "in or before", n->name, op_name(n->op), why,
                   waited ? "" : "; with --trace it says which");
}

static int check_all(const Exec *x, Err *e)
{
    const Graph *g = x->g;
    return g->node_count ? check_device(x, g->nodes[g->node_count - 1], 0, e) : 0;
}

/* ---- inputs and outputs -------------------------------------------------- */

enum { PART = 8192 };                  /* values that are converted at a time */

static int lookup(const Exec *x, const char *name, size_t count, Tensor **t, Err *e)
{
    *t = graph_find(x->g, name);
    if (!*t) return err_set(e, ERR_FAIL, "the graph has no tensor %s", name);
    if (tensor_count(*t) != count)
        return err_set(e, ERR_INPUT, "tensor %s: %zu values given, %zu expected", name, count,
                       tensor_count(*t));
    return 0;
}

static void upload(Exec *x, const Tensor *t, size_t first, const void *host, size_t count)
{
    Dev *d = x->slab->dev;
    char *dst = (char *)exec_address(x, t) + first * (t->is_int ? 4 : dtype_bytes(t->dt));
    if (t->is_int || t->dt == DT_F32) {
        dev_upload(d, dst, host, count * 4);
        return;
    }
    uint16_t part[PART];
    for (size_t i = 0; i < count; i += PART) {
        size_t n = count - i < PART ? count - i : PART;
        half_from_f32(t->dt, part, (const float *)host + i, n);
        dev_upload(d, dst + 2 * i, part, 2 * n);
    }
}

int exec_set(Exec *x, const char *name, const void *host, size_t count, Err *e)
{
    Tensor *t;
    TRY(lookup(x, name, count, &t, e));
    upload(x, t, 0, host, count);
    return 0;
}

int exec_set_part(Exec *x, const char *name, size_t first, const void *host, size_t count, Err *e)
{
    const Tensor *t = graph_find(x->g, name);
    if (!t || first + count > tensor_count(t))
        return err_set(e, ERR_FAIL, "the graph has no tensor %s of %zu values", name,
                       first + count);
    upload(x, t, first, host, count);
    return 0;
}

int exec_get(Exec *x, const char *name, float *host, size_t count, Err *e)
{
    Tensor *t;
    TRY(lookup(x, name, count, &t, e));
    Dev *d = x->slab->dev;
    const char *src = exec_address(x, t);
    if (t->dt == DT_F32) {
        dev_download(d, host, src, count * 4);
        return check_all(x, e);
    }
    uint16_t part[PART];
    for (size_t i = 0; i < count; i += PART) {
        size_t n = count - i < PART ? count - i : PART;
        dev_download(d, part, src + 2 * i, 2 * n);
        half_to_f32(t->dt, host + i, part, n);
    }
    return check_all(x, e);
}

/* ---- running ------------------------------------------------------------- */

/* Calls the kernel of one node. a: input addresses, y: outputs, acc: 1 where
 * the output holds an earlier partial gradient. */
static void call(const Exec *x, const Node *n, void *const *a, void *const *y, const int *acc)
{
    Dev *d = x->slab->dev;
    const Ops *o = x->ops;
    Dtype t = n->dt;
    float *dw = exec_address(x, n->dw), *db = exec_address(x, n->db);
    switch (n->op) {
    case OP_linear: o->linear[t](d, &n->p.linear, y[0], a[0], a[1], a[2], a[3]); break;
    case OP_linear_dx: o->linear_dx[t](d, &n->p.linear, y[0], a[0], a[1], acc[0]); break;
    case OP_linear_dw: o->linear_dw[t](d, &n->p.linear, dw, db, a[0], a[1]); break;
    case OP_conv2d: o->conv2d[t](d, &n->p.conv2d, y[0], a[0], a[1], a[2], a[3], a[4]); break;
    case OP_conv2d_dx: o->conv2d_dx[t](d, &n->p.conv2d, y[0], a[0], a[1], acc[0]); break;
    case OP_conv2d_dw: o->conv2d_dw[t](d, &n->p.conv2d, dw, db, a[0], a[1]); break;
    case OP_attention: o->attention[t](d, &n->p.attention, y[0], y[1], a[0], a[1], a[2]); break;
    case OP_attention_bwd:
        o->attention_bwd[t](d, &n->p.attention, y[0], y[1], y[2], a[0], a[1], a[2], a[3], a[4],
                            a[5]);
        break;
    case OP_groupnorm:                     /* with given statistics these are an input */
        o->groupnorm[t](d, &n->p.groupnorm, y[0], n->p.groupnorm.given ? a[3] : y[1], a[0], a[1],
                        a[2]);
        break;
    case OP_groupnorm_bwd:
        o->groupnorm_bwd[t](d, &n->p.groupnorm, y[0], dw, db, a[0], a[1], a[2], a[3], a[4], acc[0]);
        break;
    case OP_layernorm: o->layernorm[t](d, &n->p.layernorm, y[0], y[1], a[0], a[1], a[2]); break;
    case OP_layernorm_bwd:
        o->layernorm_bwd[t](d, &n->p.layernorm, y[0], dw, db, a[0], a[1], a[2], a[3], acc[0]);
        break;
    case OP_act: o->act[t](d, &n->p.act, y[0], a[0]); break;
    case OP_act_bwd: o->act_bwd[t](d, &n->p.act, y[0], a[0], a[1], acc[0]); break;
    case OP_geglu: o->geglu[t](d, &n->p.geglu, y[0], a[0]); break;
    case OP_geglu_bwd: o->geglu_bwd[t](d, &n->p.geglu, y[0], a[0], a[1], acc[0]); break;
    case OP_add: o->add[t](d, n->p.count, y[0], a[0], a[1]); break;
    case OP_upsample2x: o->upsample2x[t](d, &n->p.upsample, y[0], a[0]); break;
    case OP_upsample2x_bwd: o->upsample2x_bwd[t](d, &n->p.upsample, y[0], a[0], acc[0]); break;
    case OP_concat: o->concat[t](d, &n->p.concat, y[0], a[0], a[1]); break;
    case OP_concat_bwd:
        o->concat_bwd[t](d, &n->p.concat, y[0], y[1], a[0], acc[0], acc[1]);
        break;
    case OP_rowsum: o->rowsum[t](d, &n->p.rowsum, y[0], a[0], acc[0]); break;
    case OP_time_embed: o->time_embed[t](d, &n->p.time_embed, y[0], a[0]); break;
    case OP_token_embed:
        o->token_embed[t](d, &n->p.token_embed, y[0], a[0], a[1], a[2], a[3]);
        break;
    case OP_token_embed_bwd:
        o->token_embed_bwd[t](d, &n->p.token_embed, dw, db, y[0], a[0], a[1]);
        break;
    case OP_loss: o->loss[t](d, &n->p.loss, y[0], y[1], a[0], a[1], a[2], a[3], a[4]); break;
    case OP_loss_bwd:
        o->loss_bwd[t](d, &n->p.loss, y[0], a[0], a[1], a[2], a[3], a[4], a[5]);
        break;
    case OP_recon: o->recon[t](d, &n->p.recon, y[0], a[0], a[1]); break;
    case OP_recon_bwd: o->recon_bwd[t](d, &n->p.recon, y[0], a[0], a[1], a[2]); break;
    case OP_gauss: o->gauss[t](d, &n->p.gauss, y[0], y[1], a[0], a[1]); break;
    case OP_gauss_bwd: o->gauss_bwd[t](d, &n->p.gauss, y[0], a[0], a[1], a[2], a[3]); break;
    case OP_dropout: o->dropout[t](d, &n->p.dropout, y[0], a[0], a[1], acc[0]); break;
    case OP_compose: o->compose[t](d, &n->p.compose, y[0], a[0], a[1], a[2]); break;
    case OP_compose_bwd: o->compose_bwd[t](d, &n->p.compose, y[0], y[1], a[0], a[1], a[2]); break;
    case OP_kron: o->kron[t](d, &n->p.kron, y[0], a[0], a[1], a[2]); break;
    case OP_kron_bwd: o->kron_bwd[t](d, &n->p.kron, dw, db, a[0], a[1], a[2]); break;
    case OP_dora: o->dora[t](d, &n->p.dora, y[0], y[1], a[0], a[1]); break;
    case OP_dora_bwd: o->dora_bwd[t](d, &n->p.dora, y[0], dw, a[0], a[1], a[2], a[3]); break;
    case OP_cast: o->cast[n->out[0]->dt][n->in[0]->dt](d, n->p.count, y[0], a[0]); break;
    case OP_zero: dev_zero(d, y[0], tensor_bytes(n->out[0])); break;
    case OP_update: case OP_COUNT: break;
    }
}

static void run_node(Exec *x, const Node *n)
{
    Dev *d = x->slab->dev;
    void *a[NODE_MAX_IN], *y[NODE_MAX_OUT];
    int acc[NODE_MAX_OUT] = {0};
    d->ws = exec_address(x, n->scratch);
    d->ws_bytes = n->scratch ? tensor_bytes(n->scratch) : 0;
    for (int i = 0; i < NODE_MAX_IN; i++) a[i] = exec_address(x, n->in[i]);
    for (int i = 0; i < NODE_MAX_OUT; i++) {
        y[i] = exec_address(x, n->out[i]);
        if (!n->out[i] || !n->prev[i]) continue;
        acc[i] = 1;
        /* an earlier partial gradient that others still read cannot be added to in place */
        if (n->prev[i]->buffer != n->out[i]->buffer)
            dev_copy(d, y[i], exec_address(x, n->prev[i]), tensor_bytes(n->out[i]));
    }
    call(x, n, a, y, acc);
}

/* ---- trace --------------------------------------------------------------- */

static double now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec * 1e-6;
}

/* FNV-1a over a tensor's 32-bit words: equal runs print equal sums. */
static uint64_t checksum(Exec *x, const Tensor *t)
{
    uint64_t h = 1469598103934665603u;
    uint32_t part[4096];
    size_t bytes = tensor_bytes(t);
    for (size_t i = 0; i < bytes; i += sizeof part) {
        size_t n = bytes - i < sizeof part ? bytes - i : sizeof part;
        part[(n - 1) / 4] = 0;         /* the last word may be half */
        dev_download(x->slab->dev, part, (const char *)exec_address(x, t) + i, n);
        dev_sync(x->slab->dev);
        for (size_t k = 0; k < (n + 3) / 4; k++) h = (h ^ part[k]) * 1099511628211u;
    }
    return h;
}

static void trace_node(Exec *x, const Node *n, double ms)
{
    const Tensor *t = n->out[0];
    fprintf(x->trace, "%-18s %9.3f ms", op_name(n->op), ms);
    if (t) {
        fprintf(x->trace, " %12zu B %016llx ", tensor_bytes(t), (unsigned long long)checksum(x, t));
        for (int i = 0; i < t->ndim; i++) fprintf(x->trace, "%s%d", i ? "x" : "", t->dim[i]);
    }
    fprintf(x->trace, " %s\n", n->name);
}

static int ask(Exec *x, int node, Err *e)
{
    int rc = x->tick ? x->tick(x->ctx, node, x->g->node_count) : 0;
    return rc ? err_set(e, rc, "stopped") : 0;
}

/* Node after node; quiet: nobody is asked, nothing is printed. */
static int walk(Exec *x, int quiet, Err *e)
{
    Dev *d = x->slab->dev;
    for (int i = 0; i < x->g->node_count; i++) {
        const Node *n = x->g->nodes[i];
        if (!quiet) TRY(ask(x, i, e));
        double start = x->trace ? now_ms() : 0;
        if (n->op != OP_update) run_node(x, n);
        else if (x->update)
            TRY(x->update(x->update_ctx, n->in[0]->of, exec_address(x, n->in[0]), e));
        if (x->trace && !quiet) {
            dev_sync(d);
            trace_node(x, n, now_ms() - start);
        }
        TRY(check_device(x, n, x->trace != NULL, e));
    }
    return 0;
}

/* FNV-1a over all addresses that nodes are given: a record is good as long as
 * it stays the same. */
static uint64_t addresses(const Exec *x)
{
    uint64_t h = 1469598103934665603u;
    for (int i = 0; i < x->g->node_count; i++) {
        const Node *n = x->g->nodes[i];
        for (int k = 0; k < NODE_MAX_IN; k++)
            h = (h ^ (uintptr_t)exec_address(x, n->in[k])) * 1099511628211u;
        for (int k = 0; k < NODE_MAX_OUT; k++)
            h = (h ^ (uintptr_t)exec_address(x, n->out[k])) * 1099511628211u;
        h = (h ^ (uintptr_t)exec_address(x, n->scratch)) * 1099511628211u;
        h = (h ^ (uintptr_t)exec_address(x, n->dw) ^ (uintptr_t)exec_address(x, n->db) << 1) *
            1099511628211u;
    }
    return h;
}

/* Makes the record of all nodes from the second run on, where the device can;
 * else nodes are walked as before. Weights may have moved since it was made. */
static void record(Exec *x)
{
    Dev *d = x->slab->dev;
    uint64_t now = x->runs ? addresses(x) : 0;
    if (x->runs && now != x->recorded) {
        dev_record_free(d, x->record);
        x->record = NULL;
        if (dev_record_begin(d) == DEV_OK) {
            walk(x, 1, NULL);
            dev_record_end(d, &x->record);
        }
        x->recorded = now;
    }
    x->runs = 1;
}

int exec_run(Exec *x, Err *e)
{
    if (!x->trace && !x->g->updates) record(x);       /* the rate changes from step to step */
    if (!x->record || x->trace) return walk(x, 0, e);
    TRY(ask(x, 0, e));
    dev_replay(x->slab->dev, x->record);
    return check_all(x, e);
}
