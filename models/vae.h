/* vae.h - the autoencoder between pictures and latents (8x smaller each way).
 *
 * Rombach et al., arXiv:2112.10752; structure as diffusers' AutoencoderKL.
 * Latents here are unscaled: the factor 0.18215 belongs to the caller.
 */
#ifndef SDC_MODELS_VAE_H
#define SDC_MODELS_VAE_H

#include "models/blocks.h"
#include "models/config.h"

#define VAE_SCALE 0.18215f     /* latents as the U-Net sees them = VAE_SCALE * latents */

/* image (N,H,W,3) in [-1,1], H and W multiples of 8. Returns mean and log
 * variance (not clamped) of the posterior, (N,H/8,W/8,8). */
Tensor *vae_encode_build(Build *b, const SdConfig *c, Tensor *image);
/* latents (N,h,w,4) -> image (N,8h,8w,3), not clamped. */
Tensor *vae_decode_build(Build *b, const SdConfig *c, Tensor *latents);

#endif
