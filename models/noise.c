/* noise.c - see noise.h. */
#include "models/noise.h"

#include <math.h>
#include <string.h>

#include "models/blocks.h"
#include "models/vae.h"

/* What a uniform number of the batch is for: its index in the stream. */
enum { DRAW_OFFSET, DRAW_GAMMA, DRAW_SCALES };

static float strength(RngKey batch, uint32_t index)
{
    batch.purpose = RNG_PURPOSE_NOISE_STRENGTH;
    return rng_uniform(batch, index);
}

static void add_offset(const NoiseConfig *c, float *noise, const float *latents, size_t pixels,
                       RngKey key, RngKey batch)
{
    float draw[SD_LATENT], amount[SD_LATENT];
    float base = c->offset * (c->offset_random ? strength(batch, DRAW_OFFSET) : 1);
    key.purpose = RNG_PURPOSE_NOISE_OFFSET;
    rng_normal(key, 0, draw, SD_LATENT);
    for (size_t k = 0; k < SD_LATENT; k++) {
        double mean = 0;
        for (size_t i = 0; c->adaptive != 0 && i < pixels; i++) mean += latents[i * SD_LATENT + k];
        amount[k] = base + c->adaptive * fabsf((float)(mean / (double)pixels));
        if (c->adaptive != 0) amount[k] = fmaxf(amount[k], 0);
    }
    for (size_t i = 0; i < pixels; i++)
        for (size_t k = 0; k < SD_LATENT; k++) noise[i * SD_LATENT + k] += amount[k] * draw[k];
}

/* Where place `at` of n lies among m places: torch's bilinear, align_corners=False. */
static void between(int at, int n, int m, int *lo, int *hi, float *part)
{
    float x = fmaxf(((float)at + 0.5f) * (float)m / (float)n - 0.5f, 0);
    *lo = (int)x;
    *hi = *lo + 1 < m ? *lo + 1 : *lo;
    *part = x - (float)*lo;
}

static void add_upsampled(float *noise, int h, int w, const float *small, int sh, int sw,
                          float amount)
{
    for (int y = 0; y < h; y++) {
        int y0, y1, x0, x1;
        float v, u;
        between(y, h, sh, &y0, &y1, &v);
        for (int x = 0; x < w; x++) {
            between(x, w, sw, &x0, &x1, &u);
            for (int k = 0; k < SD_LATENT; k++) {
                float a = small[(y0 * sw + x0) * SD_LATENT + k],
                      b = small[(y0 * sw + x1) * SD_LATENT + k];
                float c = small[(y1 * sw + x0) * SD_LATENT + k],
                      d = small[(y1 * sw + x1) * SD_LATENT + k];
                float top = a + u * (b - a), bottom = c + u * (d - c);
                noise[((size_t)y * (size_t)w + (size_t)x) * SD_LATENT + (size_t)k] +=
                    amount * (top + v * (bottom - top));
            }
        }
    }
}

static int coarser(int side, double factor)
{
    int n = (int)(side / factor);
    return n > 1 ? n : 1;
}

static void add_scales(const NoiseConfig *c, float *noise, int h, int w, RngKey key, RngKey batch,
                       float *scratch)
{
    size_t most = (size_t)h * (size_t)w * SD_LATENT;
    key.purpose = RNG_PURPOSE_NOISE_SCALES;
    for (int i = 0; i < c->iterations; i++) {
        double r = 2 + 2 * (double)strength(batch, DRAW_SCALES + (uint32_t)i), factor = pow(r, i);
        int sh = coarser(h, factor), sw = coarser(w, factor);
        rng_normal(key, (uint64_t)i * most, scratch, (size_t)sh * (size_t)sw * SD_LATENT);
        add_upsampled(noise, h, w, scratch, sh, sw, (float)pow(c->discount, i));
        if (sh == 1 || sw == 1) break;
    }
}

void noise_draw(const NoiseConfig *c, float *noise, const float *latents, int h, int w, RngKey key,
                RngKey batch, float *scratch)
{
    size_t pixels = (size_t)h * (size_t)w;
    key.purpose = RNG_PURPOSE_NOISE;
    rng_normal(key, 0, noise, pixels * SD_LATENT);
    if (c->offset != 0) add_offset(c, noise, latents, pixels, key, batch);
    if (c->iterations) add_scales(c, noise, h, w, key, batch, scratch);
}

void noise_finish(const NoiseConfig *c, float *noise, size_t count)
{
    if (!c->iterations || count < 2) return;
    double mean = 0, square = 0;
    for (size_t i = 0; i < count; i++) mean += noise[i];
    mean /= (double)count;
    for (size_t i = 0; i < count; i++) square += (noise[i] - mean) * (noise[i] - mean);
    double deviation = sqrt(square / (double)(count - 1));
    for (size_t i = 0; i < count; i++) noise[i] = (float)(noise[i] / deviation);
}

void noise_perturb(const NoiseConfig *c, float *input, const float *noise, size_t count, RngKey key,
                   RngKey batch)
{
    float gamma = c->gamma * (c->gamma_random ? strength(batch, DRAW_GAMMA) : 1);
    key.purpose = RNG_PURPOSE_NOISE_INPUT;
    rng_normal(key, 0, input, count);
    for (size_t i = 0; i < count; i++) input[i] = noise[i] + gamma * input[i];
}
