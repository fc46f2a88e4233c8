/* gemm_plan.c - see gemm_plan.h. Compiled for any x86, like all that runs
 * before the instruction set is known. */
#include "kernels/gemm_plan.h"
#include "kernels/i8_plan.h"
#include "kernels/impl.h"
#include "kernels/wino_plan.h"

enum { ROW_PAD = 64, PANEL_PAD = 64, STEPS = 384, ACC_CAP = 2 << 20 };

static int ceil_div(int a, int b) { return (a + b - 1) / b; }
static int round_up(int a, int b) { return ceil_div(a, b) * b; }
static size_t align64(size_t b) { return (b + 63) & ~(size_t)63; }

int gemm_swap(int m, int n) { return m <= 192 && m < n; }

int gemm_swap_conv(const Conv2d *p)
{
    Conv2d all = conv2d_whole(p);
    return gemm_swap(all.n * conv2d_rows(&all) * conv2d_out(&all, all.w), p->cout);
}

/* Time of the whole product with tasks of mc x nc, in cycles for each step of
 * k: products, then packing of Q and P (cycles per element: estimates that
 * only have to rank the ways to cut). */
static double plan_cost(const GemmPlan *g, const GemmShape *s, int mc, int nc)
{
    double lanes = g->nr, cp = s->p_across ? 0.8 : 0.15, cq = s->q_across ? 0.25 : 0.5;
    int tasks = ceil_div(s->m, mc) * ceil_div(s->n, nc), rounds = ceil_div(tasks, g->threads);
    double task = (double)mc * nc / lanes + cq * nc + cp * mc;
    return task * rounds * (1 + 0.04 / rounds);     /* many small tasks even out disturbances */
}

static void plan_tasks(GemmPlan *g, const GemmShape *s, size_t q_cap)
{
    int step_bytes = (g->kc >> s->pair) * 4;
    int nc_max = (int)(q_cap / (size_t)step_bytes) / g->nr * g->nr;
    if (nc_max < g->nr) nc_max = g->nr;
    double best = 0;
    for (int i = 0, tn = ceil_div(s->n, nc_max); i < 4 * g->threads; i++, tn++) {
        int nc = round_up(ceil_div(s->n, tn), g->nr);
        int mc_max = g->nk > 1 ? ACC_CAP / 4 / nc : s->m;
        for (int j = 0, tm = ceil_div(s->m, mc_max); j < 4 * g->threads; j++, tm++) {
            int mc = round_up(ceil_div(s->m, tm), g->mr);
            double cost = plan_cost(g, s, mc, nc);
            if (best == 0 || cost < best) best = cost, g->mc = mc, g->nc = nc;
            if (mc <= g->mr) break;
        }
        if (nc <= g->nr) break;
    }
    g->tm = ceil_div(s->m, g->mc);
    g->tn = ceil_div(s->n, g->nc);
}

void gemm_plan(GemmPlan *g, const GemmShape *s, int threads, int wide)
{
    *g = (GemmPlan){.mr = wide ? 12 : 6, .nr = wide ? 32 : 16};
    int steps = ceil_div(s->k, 1 << s->pair), most = STEPS;
    /* Q's part of a block has to stay in the second-level cache. A Q that does as
     * a whole needs one block only, which saves adding up; but a P that is packed
     * across wants short blocks and many columns. */
    size_t q_cap = wide ? 640 << 10 : 192 << 10, q_all = (size_t)steps * 4 * (size_t)s->n;
    if (!s->p_across && steps <= GEMM_STEPS && q_all <= q_cap) most = steps;
    g->nk = ceil_div(steps, most);
    g->kc = round_up(ceil_div(steps, g->nk), 4) << s->pair;
    g->nk = ceil_div(s->k, g->kc);
    /* A thread costs some microseconds to wake; this much work is worth it. */
    double work = (double)s->m * s->n * s->k;
    g->threads = work < 1e6 ? 1 : threads;
    plan_tasks(g, s, q_cap);
    if (g->threads > g->tm * g->tn) g->threads = g->tm * g->tn;

    g->p_stride = (size_t)(g->kc >> s->pair) * 4 + ROW_PAD;
    g->p_bytes = align64(g->p_stride * 16);         /* also stages the rows of one vector of Q */
    g->panel = (size_t)(g->kc >> s->pair) * (size_t)g->nr + PANEL_PAD;
    g->q_bytes = align64(g->panel * 4 * (size_t)ceil_div(g->nc, g->nr));
    g->acc_bytes = align64((size_t)round_up(g->mc, g->mr) * (size_t)round_up(g->nc, g->nr) * 4);
    if (g->nk == 1) g->acc_bytes = align64((size_t)g->mr * g->nr * 4);
    g->bytes = g->p_bytes + g->q_bytes + g->acc_bytes;
}

ConvClass conv_class(const Conv2d *p, int py, int px)
{
    ConvClass c = {.i0 = (py + p->pad_lo) % p->stride, .j0 = (px + p->pad_lo) % p->stride};
    c.rows = py < p->h ? (p->h - 1 - py) / p->stride + 1 : 0;
    c.cols = px < p->w ? (p->w - 1 - px) / p->stride + 1 : 0;
    c.kh = c.i0 < p->ks ? (p->ks - 1 - c.i0) / p->stride + 1 : 0;
    c.kw = c.j0 < p->ks ? (p->ks - 1 - c.j0) / p->stride + 1 : 0;
    c.oy0 = (py + p->pad_lo - c.i0) / p->stride;
    c.ox0 = (px + p->pad_lo - c.j0) / p->stride;
    return c;
}

static size_t need(size_t least, GemmShape s, int threads)
{
    for (int i = 0; i < 2 + s.pair; i++) {      /* AVX2, AVX-512, the same with pairs */
        GemmPlan g;
        GemmShape t = s;
        t.pair = i == 2;
        gemm_plan(&g, &t, threads, i > 0);
        size_t bytes = g.bytes * (size_t)g.threads;
        if (bytes > least) least = bytes;
    }
    return least;
}

static size_t forward_need(int threads, int pair, int m, int n, int k, int swap)
{
    GemmShape s = {.m = swap ? n : m, .n = swap ? m : n, .k = k, .pair = pair};
    return need(0, s, threads);
}

size_t linear_scratch_x86(const Dev *d, const Linear *p, Dtype dt)
{
    if (p->wdt == DT_I8) return i8_linear_scratch(d, p, dt);
    int pair = dt == DT_BF16;
    size_t b = forward_need(d->threads, pair, p->m, p->n, p->k, gemm_swap(p->m, p->n));
    b = need(b, (GemmShape){p->m, p->k, p->n, pair, 0, 1}, d->threads);
    b = need(b, (GemmShape){p->n, p->k, p->m, pair, 1, 1}, d->threads);
    size_t few = p->m <= GEMM_FEW ? gemm_few_bytes(p->k) : 0;
    return few > b ? few : b;
}

size_t conv2d_scratch_x86(const Dev *d, const Conv2d *p, Dtype dt)
{
    if (p->wdt == DT_I8) return i8_conv2d_scratch(d, p, dt);
    int pair = dt == DT_BF16, k = p->ks * p->ks * p->cin;
    int m = p->n * conv2d_rows(p) * conv2d_out(p, p->w);
    size_t b = forward_need(d->threads, pair, m, p->cout, k, gemm_swap_conv(p));
    b = need(b, (GemmShape){p->cout, k, m, pair, 1, 1}, d->threads);
    for (int i = 0; i < p->stride * p->stride; i++) {
        ConvClass c = conv_class(p, i / p->stride, i % p->stride);
        GemmShape s = {p->n * c.rows * c.cols, p->cin, c.kh * c.kw * p->cout, pair, 0, 1};
        if (s.m && s.k) b = need(b, s, d->threads);
    }
    static const int isa[] = {DEV_AVX2, DEV_AVX512, DEV_BF16};
    for (int i = 0; i < 6; i++) {                   /* forward and dx */
        WinoPlan g;
        wino_plan(&g, p, i & 1, dt, d->threads, isa[i / 2]);
        size_t bytes = wino_bytes(&g, d->threads);
        if (bytes > b) b = bytes;
    }
    return b;
}
