/* rng.h - random numbers: torch's generators for sampling, counters for training.
 *
 * Sampling wants the same picture as PyTorch programs for the same seed, so
 * RngTorch restates torch.randn of both of torch's generators. Training wants
 * the same run at any thread count and after a resume, so its draws are pure
 * functions of a key: nothing to save, nothing that depends on order.
 *
 * Both compute in double and round once to f32.
 */
#ifndef SDC_ENGINE_RNG_H
#define SDC_ENGINE_RNG_H

#include <stddef.h>
#include <stdint.h>

/* ---- torch.randn ---- */

typedef enum {
    RNG_CPU,               /* torch's CPU generator, mt19937 (A1111: RNG "CPU") */
    RNG_NV                 /* philox4x32-10 as on a GPU (A1111: RNG "GPU" and "NV") */
} RngSource;

/* One generator; A1111 has one per image, with seed + index in the batch. */
typedef struct {
    RngSource source;
    uint64_t seed;
    uint32_t calls;        /* NV: draws made so far */
    uint32_t mt[624];      /* CPU: state, next word, and the unused second half */
    int next, has_spare;   /*      of the last pair drawn by a call of n < 16 */
    double spare;
} RngTorch;

void rng_torch_init(RngTorch *r, RngSource source, uint64_t seed);

/* One torch.randn call: x (n) f32, standard normal, and the state moves on.
 * The numbers depend on n as in torch, so draw a tensor in one call.
 *   CPU: aten/src/ATen/native/cpu/DistributionTemplates.h. Seeds mod 2^32.
 *        n >= 16: blocks of 16, Box-Muller between their halves; the last 16
 *        are drawn again when n % 16 != 0. n < 16: one at a time from 53-bit
 *        uniforms. torch's vector log and cos differ from libm's in the last
 *        bits: below 2e-5 absolute.
 *   NV:  the GPU generator (first output of curand_normal per element), for tensors
 *        of at most as many elements as the GPU has threads in flight. */
void rng_torch_normal(RngTorch *r, float *x, size_t n);

/* ---- counter-based draws ---- */

/* What a draw is for: RngKey.purpose. */
enum {
    RNG_PURPOSE_INIT = 1,      /* initial weights; sample: hash of the tensor's name */
    RNG_PURPOSE_NOISE,         /* noise of a training step */
    RNG_PURPOSE_NOISE_OFFSET,
    RNG_PURPOSE_TIMESTEP,
    RNG_PURPOSE_LATENT,        /* sample of a VAE posterior */
    RNG_PURPOSE_CROP,          /* random crops of VAE training */
    RNG_PURPOSE_ROUND,         /* stochastic rounding of trained weights; sample: the tensor */
    RNG_PURPOSE_NOISE_STRENGTH,   /* models/noise.h: numbers that a batch shares, */
    RNG_PURPOSE_NOISE_SCALES,     /* coarse noise, */
    RNG_PURPOSE_NOISE_INPUT,      /* noise of the input alone */
    RNG_PURPOSE_DROPOUT,       /* seed of a batch; sample: the batch of the step */
    RNG_PURPOSE_TEMPLATE,      /* captions of textual inversion */
    RNG_PURPOSE_DATA = 64      /* engine/data.c and caption.c count on from here */
};

/* The key says what a number is for. Two keys that differ in any field give
 * unrelated streams, and so do two purposes; use one kind of draw per key. */
typedef struct {
    uint64_t seed;         /* of the run */
    uint32_t step;         /* optimizer step, or epoch */
    uint32_t sample;       /* image in the batch, or its index in the data set */
    uint32_t purpose;      /* < 2^24: timestep, noise, crop, ... */
} RngKey;

/* Philox4x32-10, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
 * (SC11), section 4.3: out = bijection of the 128-bit counter under the key. */
void rng_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

/* The i-th draw of the key's stream. */
uint32_t rng_u32(RngKey k, uint32_t i);
uint32_t rng_below(RngKey k, uint32_t i, uint32_t n);   /* 0..n-1, unbiased; n > 0 */
float rng_uniform(RngKey k, uint32_t i);                /* [0,1), multiples of 2^-24 */
/* x[j] = rng_uniform(k, first+j), j < n. */
void rng_uniforms(RngKey k, uint32_t first, float *x, size_t n);

/* x[j] = normal number first+j of the key's stream, j < n: filling a tensor in
 * pieces gives the same numbers. first + n <= 2^34. */
void rng_normal(RngKey k, uint64_t first, float *x, size_t n);

/* Puts index (n) in a random order, all n! equally likely up to the key. */
void rng_shuffle(RngKey k, uint32_t *index, uint32_t n);

#endif
