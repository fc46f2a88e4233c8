/* autoencode.h - training a VAE from scratch or further (`sdc train --train_vae`).
 *
 *   loss = mean|e| + mean e^2 + 0.5 mean|gradient of e| + kl_weight * KL,
 *   e = decode(sample(encode(x))) - x,  x random crops in [-1,1], half of
 *   them with their colour channels shuffled
 * No discriminator and no perceptual network: what small pictures of flat
 * colours need (ops.h: recon, gauss).
 */
#ifndef SDC_MODELS_AUTOENCODE_H
#define SDC_MODELS_AUTOENCODE_H

#include "engine/data.h"
#include "models/model.h"

typedef struct {
    int batch, crop;           /* samples a step; side of the square crops, a multiple of 8 */
    float kl_weight;           /* 3e-4 */
    uint64_t seed;
} AutoencodeConfig;

typedef struct {
    Model *m;
    const Dataset *ds;
    AutoencodeConfig c;
    Exec exec;
    Image *pictures;           /* (item_count) as trained on; owned */
    uint32_t *order, epoch;    /* permutation of the data set's entries in `epoch` */
    float *crops, *noise;      /* (N,crop,crop,3), (N,crop/8,crop/8,4) */
} Autoencode;

/* Builds and plans; call before model_load. Reads all pictures into memory. */
int autoencode_init(Autoencode *a, Model *m, const Dataset *ds, const AutoencodeConfig *c, Err *e);
void autoencode_free(Autoencode *a);                     /* zeroed a ok */
/* Forward and backward of step's batch (TrainTask.run). */
int autoencode_run(Autoencode *a, uint32_t step, float *loss, Err *e);

/* Scales the latents so that VAE_SCALE * latents has unit variance over `steps`
 * batches, which is what the noise schedule of the U-Net expects (Rombach et
 * al., section D.1): the posterior's mean and deviation times s in quant_conv,
 * the input of post_quant_conv divided by s. Decoded pictures do not change. */
int autoencode_unit_latents(Autoencode *a, int steps, Err *e);

#endif
