/* test_rng.c - torch.randn against torch's own output, and the counter-based draws. */
#include <stdint.h>
#include <stdlib.h>

#include "engine/io.h"
#include "engine/rng.h"
#include "tests/test.h"

/* data/rng/NAME.f32: `draws` calls of n normals, raw little-endian f32, from
 * PyTorch (cpu) and a numpy restatement of its GPU generator (nv). */
static void golden(const char *name, RngSource source, uint64_t seed, size_t n, int draws)
{
    char path[200];
    snprintf(path, sizeof path, "tests/data/rng/%s.f32", name);
    IoMap m;
    Err e = {0};
    CHECK_OK(io_map(&m, path, &e), &e);
    CHECK_INT(m.size, n * (size_t)draws * sizeof(float));
    float *x = malloc(n * sizeof *x);
    RngTorch r;
    rng_torch_init(&r, source, seed);
    double worst = 0;
    size_t differ = 0;
    for (int d = 0; d < draws; d++) {
        rng_torch_normal(&r, x, n);
        for (size_t i = 0; i < n; i++) {
            float want;
            memcpy(&want, m.data + ((size_t)d * n + i) * sizeof want, sizeof want);
            worst = fmax(worst, fabs((double)x[i] - (double)want));
            differ += x[i] != want;
        }
    }
    free(x);
    io_unmap(&m);
    /* torch's vector log and cos: ten times below the 2e-5 of the contract. */
    CHECK_NEAR(worst, 0, 2e-6);
    if (source == RNG_NV) CHECK_INT(differ, 0);
}

TEST(rng_torch_cpu_goldens)
{
    golden("cpu-0-4x8x8", RNG_CPU, 0, 256, 1);
    golden("cpu-42-4x32x32-draws2", RNG_CPU, 42, 4096, 2);
    golden("cpu-1234567890123-4x5x7-draws3", RNG_CPU, 1234567890123, 140, 3);
    golden("cpu-7-3x5-draws3", RNG_CPU, 7, 15, 3);
    golden("cpu-8-16", RNG_CPU, 8, 16, 1);
    golden("cpu-9-17-draws2", RNG_CPU, 9, 17, 2);
    golden("cpu-4294967295-4x24x16", RNG_CPU, 4294967295u, 1536, 1);
}

TEST(rng_torch_nv_goldens)
{
    golden("nv-0-3x4", RNG_NV, 0, 12, 1);
    golden("nv-42-4x32x32-draws2", RNG_NV, 42, 4096, 2);
    golden("nv-1234567890123-4x5x7-draws3", RNG_NV, 1234567890123, 140, 3);
}

TEST(rng_philox_known_answers)
{
    /* The three vectors of Random123's kat_vectors for philox4x32-10. */
    static const uint32_t in[3][6] = {
        {0, 0, 0, 0, 0, 0},
        {~0u, ~0u, ~0u, ~0u, ~0u, ~0u},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0},
    };
    static const uint32_t out[3][4] = {
        {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
    };
    for (int i = 0; i < 3; i++) {
        uint32_t o[4];
        rng_philox(o, in[i], in[i] + 4);
        for (int j = 0; j < 4; j++) CHECK_INT(o[j], out[i][j]);
    }
}

TEST(rng_streams_are_distinct)
{
    RngKey base = {1, 2, 3, 4}, others[] = {{2, 2, 3, 4}, {1ull << 32 | 1, 2, 3, 4}, {1, 3, 3, 4},
                                            {1, 2, 4, 4}, {1, 2, 3, 5}};
    for (size_t k = 0; k < sizeof others / sizeof *others; k++) {
        int same = 0;
        for (uint32_t i = 0; i < 64; i++) same += rng_u32(base, i) == rng_u32(others[k], i);
        CHECK_INT(same, 0);
    }
}

TEST(rng_below_is_unbiased)
{
    /* 30000 draws below 6: each count is 5000 +- 65 (one sigma); 6 sigma. */
    RngKey k = {9, 0, 0, 1};
    int count[6] = {0};
    for (uint32_t i = 0; i < 30000; i++) {
        uint32_t v = rng_below(k, i, 6);
        CHECK(v < 6);
        count[v]++;
    }
    for (int v = 0; v < 6; v++) CHECK_NEAR(count[v], 5000, 390);
    CHECK_INT(rng_below(k, 7, 1), 0);
    /* A range that is no power of two reaches its upper third as often. */
    int high = 0;
    for (uint32_t i = 0; i < 3000; i++) high += rng_below(k, i, 3u << 30) >= 2u << 30;
    CHECK_NEAR(high, 1000, 160);
}

TEST(rng_normal_ignores_chunking)
{
    RngKey k = {5, 6, 7, 8};
    enum { N = 4099 };
    static float whole[N], part[N];
    rng_normal(k, 0, whole, N);
    for (size_t i = 0, n = 1; i < N; i += n, n = n % 13 + 1) {
        if (n > N - i) n = N - i;
        rng_normal(k, i, part + i, n);
        float other[5];
        rng_normal((RngKey){1, 1, 1, 1}, 0, other, 5);     /* leaves nothing behind */
    }
    CHECK(!memcmp(whole, part, sizeof whole));
    double m1 = 0, m2 = 0, m4 = 0;
    for (int i = 0; i < N; i++) {
        double v = (double)whole[i];
        m1 += v / N, m2 += v * v / N, m4 += v * v * v * v / N;
    }
    /* Standard errors 1/64, sqrt(2)/64, sqrt(96)/64; four of each. */
    CHECK_NEAR(m1, 0, 4.0 / 64);
    CHECK_NEAR(m2, 1, 4 * 1.42 / 64);
    CHECK_NEAR(m4, 3, 4 * 9.8 / 64);
}

TEST(rng_uniform_covers_unit_interval)
{
    RngKey k = {0, 0, 0, 0};
    double mean = 0;
    for (uint32_t i = 0; i < 10000; i++) {
        float u = rng_uniform(k, i);
        CHECK(u >= 0 && u < 1);
        mean += (double)u / 10000;
    }
    CHECK_NEAR(mean, 0.5, 4 * 0.2887 / 100);
}

TEST(rng_shuffle_is_a_fair_permutation)
{
    /* First element over 4000 shuffles of 4: 1000 +- 27; 6 sigma. */
    int first[4] = {0};
    for (uint32_t s = 0; s < 4000; s++) {
        uint32_t v[4] = {0, 1, 2, 3};
        rng_shuffle((RngKey){3, s, 0, 2}, v, 4);
        CHECK_INT((1 << v[0]) | (1 << v[1]) | (1 << v[2]) | (1 << v[3]), 15);
        first[v[0]]++;
    }
    for (int i = 0; i < 4; i++) CHECK_NEAR(first[i], 1000, 165);
    uint32_t one = 5;
    rng_shuffle((RngKey){0}, &one, 1);
    rng_shuffle((RngKey){0}, &one, 0);
    CHECK_INT(one, 5);
}

TEST(rng_uniforms_are_those_one_by_one)
{
    RngKey k = {11, 2, 3, RNG_PURPOSE_INIT};
    float x[13];
    for (uint32_t first = 0; first < 9; first++) {
        rng_uniforms(k, first, x, 13);
        for (uint32_t i = 0; i < 13; i++) CHECK(x[i] == rng_uniform(k, first + i));
    }
}
