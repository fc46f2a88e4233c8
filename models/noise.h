/* noise.h - the noise of a training step: plain, or one of kohya's variants.
 *
 *   noise = randn
 *   offset      noise += o * randn per channel, o = noise_offset [* uniform of the batch]
 *               [+ adaptive_noise_scale * |mean of the latents' channel|, not below 0]
 *   multires    for i < iterations: r = 2 + 2 uniform of the batch, noise += discount^i *
 *               bilinear(randn of the size / r^i), until a side is 1; then the batch is
 *               divided by its standard deviation
 *   ip gamma    the input gets noise + g * randn, the target is noise; g [* uniform]
 *
 * Source: kohya sd-scripts library/train_util.py get_noise_noisy_latents_and_timesteps,
 * library/custom_train_functions.py apply_noise_offset, pyramid_noise_like. Its random
 * numbers are replaced by counters (rng.h).
 */
#ifndef SDC_MODELS_NOISE_H
#define SDC_MODELS_NOISE_H

#include <stddef.h>

#include "engine/rng.h"

/* All zero: plain noise. */
typedef struct {
    float offset, adaptive;        /* 0: off */
    int offset_random;
    int iterations;                /* of multires; 0: off */
    float discount;
    float gamma;                   /* ip_noise_gamma; 0: off */
    int gamma_random;
} NoiseConfig;

/* The noise (h,w,4) of one sample. key: its step and sample; batch: the key that all
 * samples of the batch share. latents (h,w,4); scratch (h,w,4) with iterations. */
void noise_draw(const NoiseConfig *c, float *noise, const float *latents, int h, int w, RngKey key,
                RngKey batch, float *scratch);
/* Over the whole batch of count values, when every sample is drawn. */
void noise_finish(const NoiseConfig *c, float *noise, size_t count);
/* With gamma: what goes into the input (count values of one sample). */
void noise_perturb(const NoiseConfig *c, float *input, const float *noise, size_t count, RngKey key,
                   RngKey batch);

#endif
