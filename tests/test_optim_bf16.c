/* test_optim_bf16.c - weights in bf16 under training: rounding by chance, and what it is for. */
#include <stdlib.h>

#include "engine/mem.h"
#include "engine/optim.h"
#include "tests/test.h"

TEST(dither_rounds_to_a_neighbour_and_keeps_the_mean)
{
    enum { N = 40001 };
    Dev *d;
    Ops ref, ops;
    CHECK_INT(dev_open(&d, "cpu:ref", 1, ~0u), 0);
    ops_init(&ref, d);
    float *x = malloc(N * sizeof *x);
    uint16_t *y = malloc(2 * N), *z = malloc(2 * N);
    Dither h = {{5, 6}, 0};
    for (int i = 0; i < N; i++) x[i] = 1 + 0.3f / 128;         /* a step of bf16 at 1 is 1/128 */
    ref.optim.dither(d, &h, N, y, x);
    double up = 0;
    for (int i = 0; i < N; i++) {
        CHECK(y[i] == 0x3f80 || y[i] == 0x3f81);
        up += y[i] == 0x3f81;
    }
    CHECK_NEAR(up / N, 0.3, 4 * sqrt(0.3 * 0.7 / N));
    for (int i = 0; i < N; i++) x[i] = sinf((float)i) / 8;
    x[7] = INFINITY, x[8] = -INFINITY, x[9] = NAN, x[10] = 0, x[11] = -1.5f;
    ref.optim.dither(d, &h, N, y, x);
    CHECK(y[7] == 0x7f80 && y[8] == 0xff80 && (y[9] & 0x7fff) > 0x7f80 && y[10] == 0 &&
          y[11] == 0xbfc0);
    dev_close(d);
    /* the same bits in every version, and in pieces */
    static const char *const device[] = {"cpu:avx2", "cpu:avx512", "cpu:avx512bf16"};
    for (int k = 0; k < 3; k++) {
        CHECK_INT(dev_open(&d, device[k], 2, ~0u), 0);
        ops_init(&ops, d);
        ops.optim.dither(d, &h, 1000, z, x);
        ops.optim.dither(d, &(Dither){{5, 6}, 1000}, N - 1000, z + 1000, x + 1000);
        dev_close(d);
        CHECK(!memcmp(y, z, 2 * N));
    }
    free(x);
    free(y);
    free(z);
}

/* Many small updates move a bf16 weight by their sum, though each is far below half a
 * step; rounding to the nearest would leave it alone. */
TEST(optim_bf16_weights_learn_from_small_updates)
{
    enum { N = 5000, UPDATES = 200 };
    Dev *d;
    Ops ops;
    Err e = {0};
    OptimConfig c;
    const double lr = 1e-5;
    CHECK_INT(dev_open(&d, "cpu", 2, ~0u), 0);
    ops_init(&ops, d);
    CHECK_OK(optim_parse(&c, "AdamW8bit", "weight_decay=0", &e), &e);
    double moved[2];
    uint16_t first[2] = {0};
    for (int run = 0; run < 2; run++) {
        Optim *o = optim_new(&c, d, &ops, &lr, 1, &e);
        uint16_t *w = malloc(2 * N);
        float *g = malloc(4 * N);
        for (int i = 0; i < N; i++) w[i] = 0x3f00, g[i] = 1;    /* 0.5: a step is 2^-9 */
        CHECK_OK(optim_add(o, "w", 0, N, NULL, g, &e), &e);
        o->list[0].param = w;
        o->list[0].dt = DT_BF16;
        o->seed = 11;
        void *state = aligned_alloc(64, optim_bytes(o));
        CHECK_OK(optim_place(o, state, &e), &e);
        for (int s = 0; s < UPDATES; s++)
            CHECK_OK(optim_update(o, 0, &(OptimStep){.lr_factor = 1}, &e), &e);
        moved[run] = 0;
        for (int i = 0; i < N; i++) {
            union { uint32_t u; float f; } v = {(uint32_t)w[i] << 16};
            moved[run] += (0.5 - v.f) / N;
        }
        first[run] = w[123];
        optim_free(o);
        free(state);
        free(w);
        free(g);
    }
    dev_close(d);
    CHECK_NEAR(moved[0], UPDATES * lr, 0.05 * UPDATES * lr);
    CHECK(moved[0] == moved[1] && first[0] == first[1]);
}
