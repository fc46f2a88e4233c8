/* product_plan.cu - how a product is cut into tiles and splits (product.h), which
 * products a library does, and the scratch of linear and conv2d.
 */
#include "kernels/cuda/plans.h"
#include "kernels/cuda/product.h"

/* ---- tiles --------------------------------------------------------------- */

/* m, n: of the tile. macs: multiply-adds per clock of a multiprocessor that has
 * enough to do. resident: blocks that it holds at a time. */
typedef struct { int m, n, warps, resident; double macs; } Tile;

static const Tile tiles[] = {
    {64, 64, 4, 4, 96},             /* TILE_SIMT */
    {64, 64, 4, 4, 380},            /* TILE_SMALL */
    {128, 32, 4, 4, 300},           /* TILE_TALL */
    {128, 128, 8, 2, 480},          /* TILE_BIG */
};

enum { SPLIT_STEP = 32, SPLIT_LEAST = 128, SPLIT_MOST = 32 };
static const size_t PART_MOST = (size_t)32 << 20;

/* Clocks that it takes: the busiest multiprocessor's tiles, then reading and
 * adding the partial sums. Estimates that only have to rank the choices. */
static double cost(const Tile *t, const Product *p, int splits, int processors)
{
    double blocks = (double)product_ceil(p->m, t->m) * product_ceil(p->n, t->n) * splits;
    double each = ceil(blocks / processors), steps = ceil((double)p->k / splits / SPLIT_STEP);
    double warps = (each < t->resident ? each : t->resident) * t->warps;
    double rate = t->macs * (warps >= 8 ? 1 : 0.65);
    double clocks = each * (t->m * t->n * (steps + 4) * SPLIT_STEP / rate);
    if (splits > 1) clocks += 3000 + (double)p->m * p->n * (splits + 1) * 8 / (12.0 * processors);
    return clocks;
}

int product_mma(const CudaDev *c, Dtype dt)
{
    return (dt == DT_BF16 && c->sm >= 80) || (dt == DT_F16 && c->sm >= 75);
}

size_t product_plan(const CudaDev *c, Product *p, Dtype dt)
{
    static const int cuts[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, SPLIT_MOST};
    int mma = product_mma(c, dt), first = mma ? TILE_SMALL : TILE_SIMT, splits = 1;
    int last = !mma ? TILE_SIMT : p->conv || p->mode == PRODUCT_NT ? TILE_BIG : TILE_TALL;
    size_t plane = (size_t)p->m * (size_t)p->n * sizeof(float);
    double best = 0;
    for (int t = first; t <= last; t++)
        for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
            int s = cuts[i];
            if (s > 1 && (p->k / s < SPLIT_LEAST || plane * (size_t)s > PART_MOST)) break;
            double now = cost(&tiles[t], p, s, c->processors);
            if (best == 0 || now < best) best = now, p->tile = t, splits = s;
        }
    p->k_split = product_ceil(product_ceil(p->k, splits), SPLIT_STEP) * SPLIT_STEP;
    p->splits = product_ceil(p->k, p->k_split);
    return p->splits > 1 ? plane * (size_t)p->splits : 0;
}

size_t product_weight_bytes(Dtype dt, Dtype wdt, size_t count)
{
    return wdt == dt ? 0 : (count * dtype_bytes(dt) + 255) & ~(size_t)255;
}

int product_colsum_parts(const CudaDev *c, int rows, int cols)
{
    int parts = product_ceil(4 * c->processors, product_ceil(cols, 32));
    int most = product_ceil(rows, 64);
    return parts < most ? parts : most;
}

size_t product_colsum_bytes(const CudaDev *c, int rows, int cols)
{
    return (size_t)product_colsum_parts(c, rows, cols) * (size_t)cols * sizeof(float);
}

/* ---- who does it --------------------------------------------------------- */

/* Products of a low rank, the halves of a LoRA, are bound by memory: a library's
 * tiles of the usual sizes leave most of the device idle. */
enum { LOW_RANK = 64 };

const Plan *linear_library(Dev *d, const Linear *p, Dtype dt, PlanOp op, int bias)
{
    if (dt == DT_BF16 && cuda_dev(d)->sm < 80) return NULL;
    if (dt != DT_F32) {
        /* The library would round the bias to 16 bits, or the sum before it. */
        if (op == PLAN_FORWARD && bias) return NULL;
        if (product_mma(cuda_dev(d), dt) && (p->n <= LOW_RANK || p->k <= LOW_RANK)) return NULL;
    }
    return plan_linear(d, p, dt, op, bias);
}

const Plan *conv2d_library(Dev *d, const Conv2d *p, Dtype dt, PlanOp op)
{
    if (dt == DT_BF16 && cuda_dev(d)->sm < 80) return NULL;
    if (p->pad_lo != p->pad_hi) return NULL;
    /* In 16 bits the library rounds a sum before anything is added to it, and
     * gives dw in 16 bits; its tensor core kernels want channels by eights. */
    if (dt != DT_F32 && (op != PLAN_DX || p->cin % 8 || p->cout % 8)) return NULL;
    return plan_conv2d(d, p, dt, op);
}

/* ---- scratch ------------------------------------------------------------- */

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static size_t tiles_bytes(const CudaDev *c, int mode, int conv, int m, int n, int k,
                          Dtype dt)
{
    Product p = {};
    p.mode = mode, p.conv = conv, p.m = m, p.n = n, p.k = k;
    return product_plan(c, &p, dt);
}

size_t linear_scratch_cuda(const Dev *dev, const Linear *p, Dtype dt)
{
    Dev *d = (Dev *)dev;            /* what it finds out is kept in CudaDev.plans */
    const CudaDev *c = cuda_dev(d);
    size_t most = tiles_bytes(c, PRODUCT_NT, 0, p->m, p->n, p->k, dt);
    most = larger(most, tiles_bytes(c, PRODUCT_NN, 0, p->m, p->k, p->n, dt));
    for (int op = PLAN_FORWARD; op <= PLAN_DX; op++)
        for (int bias = 0; bias <= (op == PLAN_FORWARD); bias++)
            most = larger(most, plan_bytes(linear_library(d, p, dt, (PlanOp)op, bias)));
    most += product_weight_bytes(dt, p->wdt, (size_t)p->n * (size_t)p->k);
    most = larger(most, plan_bytes(linear_library(d, p, dt, PLAN_DW, 0)));
    most = larger(most, tiles_bytes(c, PRODUCT_TN, 0, p->n, p->k, p->m, dt));
    return larger(most, product_colsum_bytes(c, p->m, p->n));
}

size_t conv2d_scratch_cuda(const Dev *dev, const Conv2d *p, Dtype dt)
{
    Dev *d = (Dev *)dev;
    const CudaDev *c = cuda_dev(d);
    int k = p->ks * p->ks * p->cin, pixels = p->n * p->h * p->w;
    int m = p->n * conv2d_out(p, p->h) * conv2d_out(p, p->w);
    size_t most = tiles_bytes(c, PRODUCT_NT, 1, m, p->cout, k, dt);
    most = larger(most, tiles_bytes(c, PRODUCT_NN, 1, pixels, p->cin, p->ks * p->ks * p->cout, dt));
    for (int op = PLAN_FORWARD; op <= PLAN_DX; op++)
        most = larger(most, plan_bytes(conv2d_library(d, p, dt, (PlanOp)op)));
    most += product_weight_bytes(dt, p->wdt, (size_t)p->cout * (size_t)k);
    most = larger(most, plan_bytes(conv2d_library(d, p, dt, PLAN_DW)));
    most = larger(most, tiles_bytes(c, PRODUCT_TN, 1, p->cout, k, m, dt));
    Linear as = {m, p->cout, k, p->alpha, p->wdt};
    if (conv2d_is_linear(p)) most = larger(most, linear_scratch_cuda(dev, &as, dt));
    return larger(most, product_colsum_bytes(c, m, p->cout));
}
