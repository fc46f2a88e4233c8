/* bench_ops.c - see bench_ops.h. */
#include "tools/bench_ops.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "engine/mem.h"
#include "kernels/half.h"
#include "kernels/int8.h"
#include "models/model.h"

enum { OPERANDS = 9, GROUPS = 32 };

typedef struct {
    const BenchOps *o;
    Dev *d;
    Ops ops;
    double flops, bytes;        /* peaks per second */
} Run;

/* One op with its parameters and operands. */
typedef struct Case {
    const char *op;
    char shape[64];
    double flop;                /* 0: bound by memory */
    size_t scratch;
    void (*call)(const Run *r, const struct Case *c);
    union {
        Linear linear;
        Conv2d conv;
        Attention attn;
        GroupNorm group;
        LayerNorm layer;
        Geglu geglu;
        Act act;
        Upsample up;
        Concat concat;
        size_t count;
    } p;
    int operands;
    struct { size_t count; Dtype dt; size_t bytes; } is[OPERANDS];
    void *at[OPERANDS];
} Case;

static void operand(Case *c, Dtype dt, size_t count)
{
    c->is[c->operands].count = count;
    c->is[c->operands].dt = dt;
    c->is[c->operands++].bytes = count * dtype_bytes(dt);
}

/* ---- time ---------------------------------------------------------------- */

static double now(const Run *r)
{
    struct timespec t;
    dev_sync(r->d);
    int own = r->d->threads == 1 && !dev_own_memory(r->d);
    clock_gettime(own ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void fill(void *host, Dtype dt, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        float v = (float)((i * 2654435761u >> 7 & 255) + 1) / 512.0f - 0.25f;
        if (dt == DT_F32) ((float *)host)[i] = v;
        else if (dt == DT_I8) ((int8_t *)host)[i] = 3;         /* scales too: small numbers */
        else ((uint16_t *)host)[i] = dt == DT_BF16 ? f32_to_bf16(v) : f32_to_f16(v);
    }
}

static int place(Run *r, Case *c, Err *e)
{
    for (int i = 0; i < c->operands; i++) {
        size_t bytes = c->is[i].bytes;
        void *host = mem_alloc(bytes);
        int bad = !host || dev_alloc(r->d, &c->at[i], bytes) != DEV_OK;
        if (!bad) {
            fill(host, c->is[i].dt, c->is[i].count);
            dev_upload(r->d, c->at[i], host, bytes);
        }
        mem_free(host);
        if (bad) return err_nomem(e, bytes, c->op);
    }
    r->d->ws_bytes = c->scratch;
    if (c->scratch && dev_alloc(r->d, &r->d->ws, c->scratch) != DEV_OK)
        return err_nomem(e, c->scratch, c->op);
    return 0;
}

static void release(Run *r, Case *c)
{
    for (int i = 0; i < c->operands; i++)
        if (c->at[i]) dev_free(r->d, c->at[i], c->is[i].bytes);
    if (r->d->ws) dev_free(r->d, r->d->ws, r->d->ws_bytes);
    r->d->ws = NULL, r->d->ws_bytes = 0;
}

/* Best of several runs; of a GPU's calls, which are queued, so many are waited for at once
 * that the wait does not count. */
static int seconds(Run *r, Case *c, double *best, Err *e)
{
    const int calls = dev_own_memory(r->d) ? 10 : 1;
    int rc = place(r, c, e);
    double spent = 0;
    *best = 1e9;
    for (int i = 0; !rc && (i < 3 || (spent < 0.15 && i < 2000)); i++) {
        double start = now(r);
        for (int k = 0; k < calls; k++) c->call(r, c);
        double t = (now(r) - start) / calls;
        spent += t * calls;
        if (t < *best) *best = t > 1e-9 ? t : 1e-9;
    }
    release(r, c);
    if (!rc && *dev_failure(r->d)) rc = err_set(e, ERR_FAIL, "%s", dev_failure(r->d));
    return rc;
}

static double bytes_of(const Case *c)
{
    double sum = 0;
    for (int i = 0; i < c->operands; i++) sum += (double)c->is[i].bytes;
    return sum;
}

static int line(Run *r, Case *c, Err *e)
{
    double t, bytes = bytes_of(c);
    if (r->o->only && !strstr(c->op, r->o->only) && !strstr(c->shape, r->o->only)) return 0;
    TRY(seconds(r, c, &t, e));
    double percent = 100 * (c->flop > 0 ? c->flop / t / r->flops : bytes / t / r->bytes);
    const char *form = "%-14s %-34s %9.3f ms %8.1f GFLOP/s %7.1f GB/s %6.1f%%\n";
    if (r->o->json)
        form = "{\"op\":\"%s\",\"shape\":\"%s\",\"ms\":%.4f,\"gflops\":%.1f,\"gbs\":%.1f,"
               "\"percent\":%.1f}\n";
    printf(form, c->op, c->shape, t * 1e3, c->flop / t * 1e-9, bytes / t * 1e-9, percent);
    fflush(stdout);
    return 0;
}

/* ---- products ------------------------------------------------------------ */

#define CALL(name, slot, ...)                                                             \
    static void name(const Run *r, const Case *c)                                         \
    {                                                                                     \
        void *const *at = c->at;                                                          \
        r->ops.slot[r->o->dtype](r->d, __VA_ARGS__);                                      \
    }
/* Operands of both: y, x, w, dw. */
CALL(call_linear, linear, &c->p.linear, at[0], at[1], at[2], NULL, NULL)
CALL(call_linear_dx, linear_dx, &c->p.linear, at[1], at[0], at[2], 0)
CALL(call_linear_dw, linear_dw, &c->p.linear, at[2], NULL, at[0], at[1])
CALL(call_conv, conv2d, &c->p.conv, at[0], at[1], at[2], NULL, NULL, NULL)
CALL(call_conv_dx, conv2d_dx, &c->p.conv, at[1], at[0], at[2], 0)
CALL(call_conv_dw, conv2d_dw, &c->p.conv, at[2], NULL, at[0], at[1])

typedef struct { const char *op; void (*call)(const Run *r, const Case *c); } Way;

/* A product forward, backward to x and to w; ny, nx elements, weights rows x taps x c. */
static int ways(Run *r, const Case *like, const Way way[3], size_t ny, size_t nx, size_t rows,
                size_t taps, size_t cin, Err *e)
{
    Dtype dt = r->o->dtype;
    for (int i = 0; i < (r->o->int8 ? 2 : 3); i++) {
        Case c = *like;
        c.op = way[i].op, c.call = way[i].call;
        operand(&c, dt, ny);
        operand(&c, dt, nx);
        if (r->o->int8) operand(&c, DT_I8, i8_bytes(rows, taps, cin));
        else operand(&c, i == 2 ? DT_F32 : dt, rows * taps * cin);
        TRY(line(r, &c, e));
    }
    return 0;
}

static int linear(Run *r, int m, int n, int k, Err *e)
{
    static const Way way[3] = {{"linear", call_linear}, {"linear_dx", call_linear_dx},
                               {"linear_dw", call_linear_dw}};
    Case c = {.flop = 2.0 * m * n * k, .p.linear = {m, n, k, 1, r->o->int8 ? DT_I8 : r->o->dtype}};
    if (r->o->int8 && !i8_fits(n, 1, k)) return 0;
    snprintf(c.shape, sizeof c.shape, "m %d n %d k %d", m, n, k);
    c.scratch = r->ops.linear_scratch(r->d, &c.p.linear, r->o->dtype);
    size_t rows = (size_t)m;
    return ways(r, &c, way, rows * (size_t)n, rows * (size_t)k, (size_t)n, 1, (size_t)k, e);
}

static int conv(Run *r, int n, int hw, int cin, int cout, int stride, Err *e)
{
    static const Way way[3] = {{"conv2d", call_conv}, {"conv2d_dx", call_conv_dx},
                               {"conv2d_dw", call_conv_dw}};
    Dtype wdt = r->o->int8 ? DT_I8 : r->o->dtype;
    Case c = {.p.conv = {n, hw, hw, cin, cout, 3, stride, 1, 1, 1, wdt, 0, 0}};
    if (r->o->int8 && !i8_fits(cout, 9, cin)) return 0;
    int ho = conv2d_out(&c.p.conv, hw);
    size_t out = (size_t)n * (size_t)ho * (size_t)ho, in = (size_t)n * (size_t)hw * (size_t)hw;
    snprintf(c.shape, sizeof c.shape, "%d x %dx%d %d>%d stride %d", n, hw, hw, cin, cout, stride);
    c.flop = 18.0 * (double)out * cin * cout;
    c.scratch = r->ops.conv2d_scratch(r->d, &c.p.conv, r->o->dtype);
    return ways(r, &c, way, out * (size_t)cout, in * (size_t)cin, (size_t)cout, 9, (size_t)cin, e);
}

/* Operands: o, q, k, v, lse, dq, dk, dv, do. */
CALL(call_attn, attention, &c->p.attn, at[0], at[4], at[1], at[2], at[3])
CALL(call_attn_bwd, attention_bwd, &c->p.attn, at[5], at[6], at[7], at[8], at[1], at[2], at[3],
     at[0], at[4])

static int attention(Run *r, int n, int tq, int tk, int heads, int d, int causal, Err *e)
{
    Dtype dt = r->o->dtype;
    Case c = {.op = "attention", .call = call_attn,
              .p.attn = {n, tq, tk, heads, d, causal, 1 / (float)d}};
    size_t q = (size_t)n * (size_t)tq * (size_t)(heads * d), k = q / (size_t)tq * (size_t)tk;
    snprintf(c.shape, sizeof c.shape, "%d x %d x %d, %d heads of %d%s", n, tq, tk, heads, d,
             causal ? ", causal" : "");
    c.flop = 4.0 * (double)q * tk / (causal ? 2 : 1);
    c.scratch = r->ops.attention_scratch(r->d, &c.p.attn, dt, 0);
    operand(&c, dt, q), operand(&c, dt, q), operand(&c, dt, k), operand(&c, dt, k);
    operand(&c, DT_F32, (size_t)n * (size_t)heads * (size_t)tq);
    TRY(line(r, &c, e));
    operand(&c, dt, q), operand(&c, dt, k), operand(&c, dt, k), operand(&c, dt, q);
    c.scratch = r->ops.attention_scratch(r->d, &c.p.attn, dt, 1);
    c.op = "attention_bwd", c.call = call_attn_bwd, c.flop *= 2.5;
    return line(r, &c, e);
}

/* ---- bound by memory ----------------------------------------------------- */

CALL(call_add, add, c->p.count, at[0], at[1], at[2])
CALL(call_act, act, &c->p.act, at[0], at[1])
CALL(call_geglu, geglu, &c->p.geglu, at[0], at[1])
CALL(call_geglu_bwd, geglu_bwd, &c->p.geglu, at[2], at[0], at[1], 0)
CALL(call_up, upsample2x, &c->p.up, at[0], at[1])
CALL(call_concat, concat, &c->p.concat, at[0], at[1], at[2])
CALL(call_group, groupnorm, &c->p.group, at[0], at[4], at[1], at[2], at[3])
CALL(call_group_bwd, groupnorm_bwd, &c->p.group, at[5], NULL, NULL, at[0], at[1], at[4], at[2],
     at[3], 0)
CALL(call_layer, layernorm, &c->p.layer, at[0], at[4], at[1], at[2], at[3])
CALL(call_layer_bwd, layernorm_bwd, &c->p.layer, at[5], NULL, NULL, at[0], at[1], at[4], at[2], 0)

/* y, x, w, b, stats, and dx of the gradient, of a norm. */
static int norm(Run *r, Case *c, size_t count, int channels, size_t stats, const Way way[2], Err *e)
{
    operand(c, r->o->dtype, count), operand(c, r->o->dtype, count);
    operand(c, DT_F32, (size_t)channels), operand(c, DT_F32, (size_t)channels);
    operand(c, DT_F32, 2 * stats);
    c->op = way[0].op, c->call = way[0].call;
    TRY(line(r, c, e));
    operand(c, r->o->dtype, count);
    c->op = way[1].op, c->call = way[1].call;
    return line(r, c, e);
}

static int groupnorm(Run *r, int n, int hw, int channels, Err *e)
{
    static const Way way[2] = {{"groupnorm", call_group}, {"groupnorm_bwd", call_group_bwd}};
    Case c = {.p.group = {n, hw * hw, channels, GROUPS, 1, 1e-5f, 0}};
    snprintf(c.shape, sizeof c.shape, "%d x %dx%d %d, silu", n, hw, hw, channels);
    return norm(r, &c, (size_t)n * (size_t)(hw * hw) * (size_t)channels, channels,
                (size_t)n * GROUPS, way, e);
}

static int layernorm(Run *r, int rows, int channels, Err *e)
{
    static const Way way[2] = {{"layernorm", call_layer}, {"layernorm_bwd", call_layer_bwd}};
    Case c = {.p.layer = {rows, channels, 1e-5f}};
    snprintf(c.shape, sizeof c.shape, "%d x %d", rows, channels);
    return norm(r, &c, (size_t)rows * (size_t)channels, channels, (size_t)rows, way, e);
}

static int geglu(Run *r, int rows, int channels, Err *e)
{
    Dtype dt = r->o->dtype;
    size_t count = (size_t)rows * (size_t)channels;
    Case c = {.op = "geglu", .call = call_geglu, .p.geglu = {rows, channels}};
    snprintf(c.shape, sizeof c.shape, "%d x %d", rows, channels);
    operand(&c, dt, count), operand(&c, dt, 2 * count);
    TRY(line(r, &c, e));
    operand(&c, dt, 2 * count);
    c.op = "geglu_bwd", c.call = call_geglu_bwd;
    return line(r, &c, e);
}

static Case add_case(const Run *r, size_t count)
{
    Case c = {.op = "add", .call = call_add, .p.count = count};
    snprintf(c.shape, sizeof c.shape, "%zu", count);
    for (int i = 0; i < 3; i++) operand(&c, r->o->dtype, count);
    return c;
}

static int moves(Run *r, Err *e)
{
    Dtype dt = r->o->dtype;
    size_t count = 2 * 4096 * 320;
    Case add = add_case(r, count);
    TRY(line(r, &add, e));
    Case act = {.op = "silu", .call = call_act, .shape = "2 x 4096 x 320",
                .p.act = {count, ACT_SILU}};
    operand(&act, dt, count), operand(&act, dt, count);
    TRY(line(r, &act, e));
    Case up = {.op = "upsample2x", .call = call_up, .shape = "2 x 32x32 640",
               .p.up = {2, 32, 32, 640, 0, 0}};
    operand(&up, dt, 2 * 64 * 64 * 640), operand(&up, dt, 2 * 32 * 32 * 640);
    TRY(line(r, &up, e));
    Case cat = {.op = "concat", .call = call_concat, .shape = "2 x 4096 x 320+320",
                .p.concat = {2 * 4096, 320, 320}};
    operand(&cat, dt, 2 * count), operand(&cat, dt, count), operand(&cat, dt, count);
    return line(r, &cat, e);
}

/* ---- all ----------------------------------------------------------------- */

/* The fastest product, of a shape that suits the blocking, and the memory. */
static int find_peaks(Run *r, Err *e)
{
    const int more = dev_own_memory(r->d) ? 4 : 1, m = more * 1536, n = more * 512, k = more * 1024;
    Dtype dt = r->o->dtype;
    Case c = {.op = "linear", .call = call_linear, .p.linear = {m, n, k, 1, dt}};
    double t;
    c.scratch = r->ops.linear_scratch(r->d, &c.p.linear, dt);
    operand(&c, dt, (size_t)m * (size_t)n), operand(&c, dt, (size_t)m * (size_t)k);
    operand(&c, dt, (size_t)n * (size_t)k);
    for (int i = 0; i < 2; i++) {
        TRY(seconds(r, &c, &t, e));
        if (2.0 * m * n * k / t > r->flops) r->flops = 2.0 * m * n * k / t;
    }
    Case add = add_case(r, 24 << 20);
    TRY(seconds(r, &add, &t, e));
    r->bytes = bytes_of(&add) / t;
    if (!r->o->json)
        printf("%s, %s%s; peaks %.0f GFLOP/s, %.1f GB/s\n", dev_name(r->d),
               dt == DT_F32 ? "f32" : dt == DT_BF16 ? "bf16" : "f16",
               r->o->int8 ? ", weights int8" : "", r->flops * 1e-9, r->bytes * 1e-9);
    return 0;
}

static int all(Run *r, Err *e)
{
    static const int lin[][3] = {
        {4096, 320, 320}, {8192, 320, 320}, {4096, 2560, 320}, {4096, 320, 1280}, {1024, 640, 640},
        {1024, 5120, 640}, {1024, 640, 2560}, {256, 1280, 1280}, {256, 10240, 1280},
        {256, 1280, 5120}, {64, 1280, 1280}, {77, 320, 768}, {77, 1280, 768}, {77, 3072, 768},
        {1, 1280, 320}, {1, 1280, 1280}, {2, 1280, 1280}, {16, 768, 192}, {4096, 32, 320},
        {4096, 320, 32}, {4096, 4, 320}, {4096, 320, 4}, {256, 128, 1280}, {256, 1280, 128}};
    static const int cv[][5] = {
        {1, 64, 320, 320, 1}, {2, 64, 320, 320, 1}, {1, 64, 960, 320, 1}, {1, 32, 640, 640, 1},
        {2, 32, 640, 640, 1}, {1, 16, 1280, 1280, 1}, {2, 16, 1280, 1280, 1}, {1, 8, 1280, 1280, 1},
        {2, 8, 1280, 1280, 1}, {1, 64, 320, 320, 2}, {1, 64, 4, 320, 1}, {1, 64, 320, 4, 1},
        {1, 64, 512, 512, 1}, {1, 256, 256, 256, 1}, {1, 512, 128, 128, 1}, {1, 512, 3, 128, 1},
        {1, 512, 128, 3, 1}, {16, 16, 64, 64, 1}, {16, 16, 192, 192, 1}, {16, 8, 192, 192, 1}};
    static const int at[][6] = {
        {1, 4096, 4096, 8, 40, 0}, {2, 4096, 4096, 8, 40, 0}, {2, 1024, 1024, 8, 80, 0},
        {2, 256, 256, 8, 160, 0}, {2, 64, 64, 8, 160, 0}, {2, 4096, 77, 8, 40, 0},
        {2, 1024, 77, 8, 80, 0}, {1, 4096, 4096, 1, 512, 0}, {1, 77, 77, 12, 64, 1}};
    static const int gn[][3] = {{2, 64, 320}, {2, 64, 960}, {2, 32, 640}, {2, 16, 1280},
                                {1, 512, 128}, {1, 256, 256}, {1, 64, 512}};
    static const int rows[][2] = {{2 * 4096, 320}, {2 * 1024, 640}, {2 * 256, 1280}};
    for (size_t i = 0; i < sizeof lin / sizeof *lin; i++)
        TRY(linear(r, lin[i][0], lin[i][1], lin[i][2], e));
    for (size_t i = 0; i < sizeof cv / sizeof *cv; i++)
        TRY(conv(r, cv[i][0], cv[i][1], cv[i][2], cv[i][3], cv[i][4], e));
    if (r->o->int8) return 0;                   /* the rest has no weights */
    for (size_t i = 0; i < sizeof at / sizeof *at; i++)
        TRY(attention(r, at[i][0], at[i][1], at[i][2], at[i][3], at[i][4], at[i][5], e));
    for (size_t i = 0; i < sizeof gn / sizeof *gn; i++)
        TRY(groupnorm(r, gn[i][0], gn[i][1], gn[i][2], e));
    for (size_t i = 0; i < 3; i++) TRY(layernorm(r, rows[i][0], rows[i][1], e));
    for (size_t i = 0; i < 3; i++) TRY(geglu(r, rows[i][0], 4 * rows[i][1], e));
    return moves(r, e);
}

int bench_ops(const BenchOps *o, Err *e)
{
    Run r = {.o = o};
    TRY(model_device(&r.d, &r.ops, o->device, o->threads, e));
    int rc = 0;
    if (o->int8 && !r.ops.int8)
        rc = err_set(e, ERR_USAGE, "option --dtype: no int8 on %s", dev_name(r.d));
    if (!rc) rc = find_peaks(&r, e);
    if (!rc) rc = all(&r, e);
    dev_close(r.d);
    return rc;
}
