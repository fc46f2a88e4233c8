/* wino_plan.c - see wino_plan.h. */
#include "kernels/wino_plan.h"

#include "kernels/impl.h"

/* Input channels of a block, and about the bytes of a transformed batch of them, which
 * every panel reads from the cache that the threads share. */
enum { KC = 128, V_CAP = 4096 << 10, LINE = 16, LEAST_CHANNELS = 32 };

/* Below it the transforms' traffic decides, which is not modelled. */
static const double LEAST_GAIN = 1.15;

static int ceil_div(int a, int b) { return (a + b - 1) / b; }
static int round_up(int a, int b) { return ceil_div(a, b) * b; }

WinoShape wino_shape(const Conv2d *p, int dx)
{
    int ho = conv2d_rows(p), wo = conv2d_out(p, p->w), pad = p->ks - 1 - p->pad_lo;
    if (dx) return (WinoShape){p->n, ho, wo, p->cout, p->h, p->w, p->cin, pad, pad};
    return (WinoShape){p->n, p->h, p->w, p->cin, ho, wo, p->cout, p->pad_lo, conv2d_top(p)};
}

/* Cycles of one thread, with constants as measured. */
static double direct_cost(const WinoShape *s, int n, Dtype dt, int isa)
{
    double lanes = isa == DEV_AVX2 ? 8 : isa == DEV_BF16 && dt == DT_BF16 ? 32 : 16;
    return (double)n * s->ho * s->wo * 9 * s->c * s->cout / (2 * lanes * 0.92);
}

static double wino_cost(const WinoPlan *g, const WinoShape *s, int n, int isa)
{
    double lanes = isa == DEV_AVX2 ? 8 : 16, pairs = (double)s->c * round_up(s->cout, g->nr);
    int tiles = n * g->ty * g->tx, batch = V_CAP / (g->points * 4 * (s->c < KC ? s->c : KC));
    double product = wino_rows(tiles, g->mr) * pairs / (2 * lanes * 0.85);
    double weights = ceil_div(tiles, batch) * pairs * 4.5 / lanes;
    return g->points * (product + weights + tiles * 6.0 * (s->c + s->cout) / lanes);
}

/* How many times as fast as the direct product. For one picture and two, whatever
 * n is: a picture must come out the same alone and among others. */
static double gain(const WinoPlan *g, const WinoShape *s, Dtype dt, int isa)
{
    return (direct_cost(s, 1, dt, isa) + direct_cost(s, 2, dt, isa)) /
           (wino_cost(g, s, 1, isa) + wino_cost(g, s, 2, isa));
}

static void cut(WinoPlan *g, const WinoShape *s, int threads)
{
    g->nk = ceil_div(s->c, KC);
    g->kc = round_up(ceil_div(s->c, g->nk), LINE);
    g->nk = ceil_div(s->c, g->kc);
    int fit = V_CAP / (g->points * g->kc * 4), batches = (g->tiles + fit / 2) / fit;
    g->batch = ceil_div(g->tiles, batches ? batches : 1);
    g->panels = ceil_div(s->cout, g->nr);
    for (g->parts = 1; g->parts < ceil_div(g->batch, g->mr); g->parts++)
        if (g->panels * g->parts >= 4 * threads || g->panels * g->parts % threads == 0) break;
    g->tasks = g->panels * g->parts;
    g->sums = g->nk > 1 ? g->panels : threads;
}

void wino_plan(WinoPlan *g, const Conv2d *p, int dx, Dtype dt, int threads, int isa)
{
    int wide = isa != DEV_AVX2;
    Conv2d all = conv2d_whole(p);
    WinoShape s = wino_shape(p, dx), whole = wino_shape(&all, dx);
    WinoPlan best = {0};
    double most = LEAST_GAIN;
    int fits = p->ks == 3 && p->stride == 1 && p->wdt != DT_I8 && s.c >= LEAST_CHANNELS &&
               s.cout >= LEAST_CHANNELS;
    for (int m = 4; m <= 8 && fits; m += 2) {
        if (m > 6 && dt == DT_F32) break;           /* they would lose a digit */
        *g = (WinoPlan){.m = m, .points = (m + 2) * (m + 2), .mr = wide ? 12 : 6,
                        .nr = wide ? 32 : 16, .ty = ceil_div(whole.ho, m), .tx = ceil_div(s.wo, m)};
        double times = gain(g, &whole, dt, isa);
        if (times > most) best = *g, most = times;
    }
    *g = best;
    if (!g->m) return;
    g->ty = ceil_div(s.ho, g->m);
    g->tiles = s.n * g->ty * g->tx;
    cut(g, &s, threads);
    /* A line more, so that the points of a tile do not share a set of the cache. */
    size_t points = (size_t)g->points, rows = (size_t)round_up(g->batch, g->mr);
    g->v_plane = rows * (size_t)g->kc + LINE;
    g->u_plane = (size_t)g->kc * (size_t)g->nr + LINE;
    g->m_plane = rows * (size_t)g->nr + LINE;
    g->zero_bytes = (size_t)round_up(s.c, LINE) * 4;
    g->v_bytes = g->v_plane * 4 * points;
    g->u_bytes = g->u_plane * 4 * points;
    g->m_bytes = g->m_plane * 4 * points;
}

size_t wino_bytes(const WinoPlan *g, int threads)
{
    if (!g->m) return 0;
    return g->zero_bytes + g->v_bytes + g->u_bytes * (size_t)threads +
           g->m_bytes * (size_t)g->sums;
}
