/* test_kernels_small.c - every version of the embeddings and losses against the
 * reference (tests/cases.h). */
#include "tests/cases.h"

/* ---- embeddings ---------------------------------------------------------- */

CALLER(time_embed, CALL(time_embed, out[0], in[0]))
CALLER(token_embed, CALL(token_embed, out[0], in[0], in[1], in[2], in[3]))
CALLER(token_embed_bwd, CALL(token_embed_bwd, out[0], out[1], out[2], in[0], in[1]))

static void prepare_times(Dev *d, const Case *c, void **in)
{
    (void)d;
    float *t = in[0];
    for (size_t i = 0; i < c->in[0].n; i++) t[i] = i ? fabsf(t[i]) * 200 : 0;
}

/* A frequency is an exponential, good to 4 ulps, and its product with t up to 800
 * is rounded too: an angle is known to 5 ulps of 800. */
TEST(kernels_time_embed)
{
    static const TimeEmbed p[] = {{1, 2}, {2, 6}, {3, 320}, {5, 34}};
    for (uint64_t i = 0; i < sizeof p / sizeof *p; i++) {
        Case f = {.op = "time_embed", .p = p + i, .call = call_time_embed,
                  .prepare = prepare_times};
        reads(&f, DT_F32, (size_t)p[i].n, KERN_NORMAL);
        writes(&f, T, (size_t)p[i].n * (size_t)p[i].dim, 0, 5 * 800, 1, 0);
        CHECK(case_check(&f, i));
    }
}

/* Identifiers travel as the bits of floats; some come twice. */
static void put_ids(int32_t *id, size_t n, int vocab)
{
    for (size_t i = 0; i < n; i++) id[i] = (int32_t)(i * i * 7 % (size_t)vocab);
}

static void prepare_token_embed(Dev *d, const Case *c, void **in)
{
    (void)d;
    put_ids(in[0], c->in[0].n,
            ((const TokenEmbed *)c->p)->vocab + ((const TokenEmbed *)c->p)->more);
}

static void prepare_token_embed_bwd(Dev *d, const Case *c, void **in)
{
    (void)d;
    put_ids(in[1], c->in[1].n,
            ((const TokenEmbed *)c->p)->vocab + ((const TokenEmbed *)c->p)->more);
}

TEST(kernels_token_embed)
{
    static const TokenEmbed sizes[] = {{1, 1, 1, 1, 0, DT_F32}, {2, 3, 5, 7, 2, DT_F32},
        {1, 77, 64, 100, 0, DT_F32}, {2, 77, 48, 20, 3, DT_F32}, {3, 33, 130, 3, 1, DT_F32}};
    for (uint64_t i = 0; i < 3 * sizeof sizes / sizeof *sizes; i++) {
        TokenEmbed exact = sizes[i / 3], p = exact;
        size_t rows = (size_t)p.n * (size_t)p.t, ch = (size_t)p.c;
        p.wdt = (Dtype)(i % 3);
        Case f = {.op = "token_embed", .p = &p, .exact = &exact, .call = call_token_embed,
                  .prepare = prepare_token_embed};
        reads(&f, DT_F32, rows, KERN_NORMAL), reads(&f, p.wdt, (size_t)p.vocab * ch, KERN_NORMAL);
        reads(&f, p.wdt, i % 5 == 4 ? 0 : (size_t)p.t * ch, KERN_NORMAL);
        reads(&f, DT_F32, (size_t)p.more * ch, KERN_NORMAL);
        writes(&f, T, rows * ch, 0, 1, 1, 0);
        Case b = {.op = "token_embed_bwd", .p = &p, .call = call_token_embed_bwd,
                  .prepare = prepare_token_embed_bwd};
        reads(&b, T, rows * ch, KERN_NORMAL), reads(&b, DT_F32, rows, KERN_NORMAL);
        double sum = sum_ulps((double)rows) * sqrt((double)rows);
        writes(&b, DT_F32, i % 3 == 1 ? 0 : (size_t)p.vocab * ch, 1, sum, 1, 0);
        writes(&b, DT_F32, i % 3 == 2 ? 0 : (size_t)p.t * ch, 1, sum, 1, 0);
        writes(&b, DT_F32, i % 2 ? 0 : (size_t)p.more * ch, 1, sum, 1, 0);
        CHECK(case_check(&f, i) && case_check(&b, i));
    }
}

/* ---- losses -------------------------------------------------------------- */

CALLER(loss, CALL(loss, out[0], out[1], in[0], in[1], in[2], in[3], in[4]))
CALLER(loss_bwd, CALL(loss_bwd, out[0], in[0], in[1], in[2], in[3], in[4], in[5]))
CALLER(recon, CALL(recon, out[0], in[0], in[1]))
CALLER(recon_bwd, CALL(recon_bwd, out[0], in[0], in[1], in[2]))
CALLER(gauss, CALL(gauss, out[0], out[1], in[0], in[1]))
CALLER(gauss_bwd, CALL(gauss_bwd, out[0], in[0], in[1], in[2], in[3]))

/* The last input is huber_c: above 0. */
static void prepare_loss(Dev *d, const Case *c, void **in)
{
    (void)d;
    float *h = in[c->ins - 1];
    for (size_t i = 0; h && i < c->in[c->ins - 1].n; i++) h[i] = fabsf(h[i]) + 0.1f;
}

/* Elements of at most e^2 = 60, or their slope 2e = 15, times a mask and a weight of
 * up to 4; sqrt(e^2 + c^2) - c loses what c has more of digits. */
TEST(kernels_loss)
{
    static const Loss sizes[] = {{1, 1, 1, LOSS_L2}, {2, 5, 3, LOSS_L2}, {3, 64, 4, LOSS_L2},
                                 {1, 1030, 4, LOSS_L2}, {5, 300, 7, LOSS_L2}};
    for (uint64_t i = 0; i < 10 * sizeof sizes / sizeof *sizes; i++) {
        Loss p = sizes[i / 10];
        p.kind = (LossKind)(i % 5);
        size_t n = (size_t)p.n, hw = n * (size_t)p.hw, all = hw * (size_t)p.c;
        size_t mask = i % 10 > 4 ? hw : 0, c = p.kind > LOSS_L1 ? n : 0;
        Case f = {.op = "loss", .p = &p, .call = call_loss, .prepare = prepare_loss};
        reads(&f, T, all, KERN_NORMAL), reads(&f, DT_F32, all, KERN_NORMAL);
        reads(&f, DT_F32, mask, KERN_NORMAL), reads(&f, DT_F32, n, KERN_NORMAL);
        reads(&f, DT_F32, c, KERN_NORMAL);
        double each = (double)p.hw * p.c, ulps = 30 + sum_ulps(each) / sqrt(each);
        writes(&f, DT_F32, 1, 0, ulps, 60, 0), writes(&f, DT_F32, i % 3 ? n : 0, 0, ulps, 60, 0);
        Case b = {.op = "loss_bwd", .p = &p, .call = call_loss_bwd, .prepare = prepare_loss};
        reads(&b, DT_F32, 1, KERN_NORMAL), reads(&b, T, all, KERN_NORMAL);
        reads(&b, DT_F32, all, KERN_NORMAL), reads(&b, DT_F32, mask, KERN_NORMAL);
        reads(&b, DT_F32, n, KERN_NORMAL), reads(&b, DT_F32, c, KERN_NORMAL);
        writes(&b, T, all, 0, 30, 15 / (double)all, 0);
        CHECK(case_check(&f, i) && case_check(&b, i));
    }
}

TEST(kernels_recon)
{
    static const Recon p[] = {{1, 1, 1, 3, 0.5f}, {2, 3, 5, 3, 0.5f}, {1, 1, 40, 2, 2},
                              {3, 33, 1, 3, 0}, {2, 40, 36, 3, 0.5f}};
    for (uint64_t i = 0; i < sizeof p / sizeof *p; i++) {
        size_t n = (size_t)p[i].n * (size_t)p[i].h * (size_t)p[i].w * (size_t)p[i].c;
        Case f = {.op = "recon", .p = p + i, .call = call_recon};
        reads(&f, T, n, KERN_NORMAL), reads(&f, DT_F32, n, KERN_NORMAL);
        writes(&f, DT_F32, 1, 0, 30 + sum_ulps((double)n) / sqrt((double)n), 60, 0);
        Case b = {.op = "recon_bwd", .p = p + i, .call = call_recon_bwd};
        reads(&b, DT_F32, 1, KERN_NORMAL), reads(&b, T, n, KERN_NORMAL);
        reads(&b, DT_F32, n, KERN_NORMAL), writes(&b, T, n, 0, 30, 20 / (double)n, 0);
        CHECK(case_check(&f, i) && case_check(&b, i));
    }
}

/* exp(logvar) is up to 60 for normal ones. */
TEST(kernels_gauss)
{
    static const Gauss p[] = {{1, 1}, {3, 4}, {64, 4}, {1000, 5}};
    for (uint64_t i = 0; i < 2 * sizeof p / sizeof *p; i++) {
        const Gauss *g = p + i / 2;
        size_t n = (size_t)g->rows * (size_t)g->c;
        Case f = {.op = "gauss", .p = g, .call = call_gauss};
        reads(&f, T, 2 * n, KERN_NORMAL), reads(&f, DT_F32, n, KERN_NORMAL);
        writes(&f, T, n, 0, 20, 36, 0);
        writes(&f, DT_F32, 1, 0, 30 + sum_ulps((double)n) / sqrt((double)n), 60, 0);
        Case b = {.op = "gauss_bwd", .p = g, .call = call_gauss_bwd};
        reads(&b, T, i % 2 ? 0 : n, KERN_NORMAL), reads(&b, DT_F32, 1, KERN_NORMAL);
        reads(&b, T, 2 * n, i % 4 == 3 ? KERN_MEAN : KERN_NORMAL);     /* clamped: 100 */
        reads(&b, DT_F32, n, KERN_NORMAL), writes(&b, T, 2 * n, 0, 20, 60, 0);
        CHECK(case_check(&f, i) && case_check(&b, i));
    }
}
