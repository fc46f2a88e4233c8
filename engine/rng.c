/* rng.c - see rng.h. */
#include "engine/rng.h"

#include <assert.h>
#include <math.h>

#define TWO_PI 6.283185307179586476925286766559

/* ---- Philox ---- */

void rng_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t a = counter[0], b = counter[1], c = counter[2], d = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p = (uint64_t)a * 0xD2511F53u, q = (uint64_t)c * 0xCD9E8D57u;
        a = (uint32_t)(q >> 32) ^ b ^ k0;
        b = (uint32_t)q;
        c = (uint32_t)(p >> 32) ^ d ^ k1;
        d = (uint32_t)p;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}

/* ---- mt19937, Matsumoto and Nishimura 1998 ---- */

enum { MT_N = 624, MT_M = 397 };

static void mt_seed(RngTorch *r, uint32_t seed)
{
    r->mt[0] = seed;
    for (uint32_t i = 1; i < MT_N; i++)
        r->mt[i] = 1812433253u * (r->mt[i - 1] ^ (r->mt[i - 1] >> 30)) + i;
    r->next = MT_N;
}

static void mt_refill(RngTorch *r)
{
    for (int i = 0; i < MT_N; i++) {
        uint32_t y = (r->mt[i] & 0x80000000u) | (r->mt[(i + 1) % MT_N] & 0x7fffffffu);
        r->mt[i] = r->mt[(i + MT_M) % MT_N] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    r->next = 0;
}

static uint32_t mt_u32(RngTorch *r)
{
    if (r->next == MT_N) mt_refill(r);
    uint32_t y = r->mt[r->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

/* ---- torch.randn on the CPU ---- */

static double mt_uniform53(RngTorch *r)
{
    uint64_t hi = mt_u32(r), lo = mt_u32(r);
    return (double)((hi << 32 | lo) & ((1ull << 53) - 1)) * 0x1p-53;
}

static float mt_normal(RngTorch *r)
{
    r->has_spare = !r->has_spare;
    if (!r->has_spare) return (float)r->spare;
    double u1 = mt_uniform53(r), u2 = mt_uniform53(r);
    double radius = sqrt(-2 * log1p(-u2)), theta = TWO_PI * u1;
    r->spare = radius * sin(theta);
    return (float)(radius * cos(theta));
}

static void mt_uniforms(RngTorch *r, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = (float)(mt_u32(r) & 0xffffff) * 0x1p-24f;
}

static void box_muller_16(float *d)
{
    for (int j = 0; j < 8; j++) {
        double u1 = 1 - (double)d[j], theta = TWO_PI * (double)d[j + 8];
        double radius = sqrt(-2 * log(u1));
        d[j] = (float)(radius * cos(theta));
        d[j + 8] = (float)(radius * sin(theta));
    }
}

static void cpu_normal(RngTorch *r, float *x, size_t n)
{
    if (n < 16) {
        for (size_t i = 0; i < n; i++) x[i] = mt_normal(r);
        return;
    }
    mt_uniforms(r, x, n);
    for (size_t i = 0; i + 16 <= n; i += 16) box_muller_16(x + i);
    if (n % 16) {
        mt_uniforms(r, x + n - 16, 16);
        box_muller_16(x + n - 16);
    }
}

/* ---- torch.randn on a GPU ---- */

static void nv_normal(RngTorch *r, float *x, size_t n)
{
    /* curand's constants are rounded to f32 before they are used. */
    const double to_unit = (double)2.3283064e-10f;
    const double to_angle = (double)(float)(2.3283064e-10 * 6.2831855);
    const uint32_t key[2] = {(uint32_t)r->seed, (uint32_t)(r->seed >> 32)};
    for (size_t i = 0; i < n; i++) {
        uint32_t o[4], counter[4] = {r->calls, 0, (uint32_t)i, (uint32_t)((uint64_t)i >> 32)};
        rng_philox(o, counter, key);
        double u = o[0] * to_unit + to_unit / 2, v = o[1] * to_angle + to_angle / 2;
        /* u can round to a little over 1: sqrt of -0.0 or less would be NaN. */
        x[i] = u >= 1 ? 0.0f : (float)(sqrt(-2 * log(u)) * sin(v));
    }
    r->calls++;
}

void rng_torch_init(RngTorch *r, RngSource source, uint64_t seed)
{
    *r = (RngTorch){.source = source, .seed = seed};
    mt_seed(r, (uint32_t)seed);
}

void rng_torch_normal(RngTorch *r, float *x, size_t n)
{
    if (r->source == RNG_CPU) cpu_normal(r, x, n);
    else nv_normal(r, x, n);
}

/* ---- counter-based draws ---- */

/* Four words for block number `block`; `attempt` gives the same block anew. */
static void draw(uint32_t out[4], const RngKey *k, uint32_t block, uint32_t attempt)
{
    assert(k->purpose < 1u << 24);
    const uint32_t counter[4] = {block, k->step, k->sample, k->purpose | attempt << 24};
    const uint32_t key[2] = {(uint32_t)k->seed, (uint32_t)(k->seed >> 32)};
    rng_philox(out, counter, key);
}

uint32_t rng_u32(RngKey k, uint32_t i)
{
    uint32_t w[4];
    draw(w, &k, i / 4, 0);
    return w[i % 4];
}

uint32_t rng_below(RngKey k, uint32_t i, uint32_t n)
{
    assert(n > 0);
    uint64_t skip = (0 - (uint64_t)n) % n;      /* 2^64 mod n: the incomplete cycle */
    uint64_t x;
    uint32_t attempt = 0;
    /* One attempt fails with probability below 2^-32. */
    do {
        uint32_t w[4];
        draw(w, &k, i, attempt++);
        x = (uint64_t)w[0] << 32 | w[1];
    } while (x < skip);
    return (uint32_t)(x % n);
}

float rng_uniform(RngKey k, uint32_t i)
{
    return (float)(rng_u32(k, i) >> 8) * 0x1p-24f;
}

void rng_uniforms(RngKey k, uint32_t first, float *x, size_t n)
{
    uint32_t w[4];
    for (size_t j = 0; j < n; j++) {
        uint32_t i = first + (uint32_t)j;
        if (j == 0 || i % 4 == 0) draw(w, &k, i / 4, 0);
        x[j] = (float)(w[i % 4] >> 8) * 0x1p-24f;
    }
}

void rng_normal(RngKey k, uint64_t first, float *x, size_t n)
{
    assert(first <= 1ull << 34 && n <= (1ull << 34) - first);
    float z[4];
    for (size_t j = 0; j < n; j++) {
        uint64_t i = first + j;
        if (j == 0 || i % 4 == 0) {
            uint32_t w[4];
            draw(w, &k, (uint32_t)(i / 4), 0);
            for (int p = 0; p < 4; p += 2) {
                double radius = sqrt(-2 * log((w[p] + 0.5) * 0x1p-32));
                double theta = TWO_PI * 0x1p-32 * w[p + 1];
                z[p] = (float)(radius * cos(theta));
                z[p + 1] = (float)(radius * sin(theta));
            }
        }
        x[j] = z[i % 4];
    }
}

void rng_shuffle(RngKey k, uint32_t *index, uint32_t n)
{
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = rng_below(k, i - 1, i), t = index[i - 1];
        index[i - 1] = index[j];
        index[j] = t;
    }
}
