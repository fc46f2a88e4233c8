/* unet.h - the noise predictor of Stable Diffusion 1.x and 2.x.
 *
 * Rombach et al., arXiv:2112.10752; structure as diffusers'
 * UNet2DConditionModel with CrossAttn blocks.
 */
#ifndef SDC_MODELS_UNET_H
#define SDC_MODELS_UNET_H

#include "models/blocks.h"
#include "models/config.h"

/* x (N,H,W,in_channels) noisy latents of any size; t (N) f32
 * timesteps, may be fractional; context (N,T,text_width), any T.
 * Returns the predicted noise or v (N,H,W,4). */
Tensor *unet_build(Build *b, const SdConfig *c, Tensor *x, Tensor *t, Tensor *context);

#endif
