/* optim.h - the optimizer part of ops.h: updates of flat f32 arrays.
 *
 * The rules of ops.h hold. `count` elements; p parameter, g gradient (already
 * unscaled), m, v moments. Hyper-parameters that depend on the step (learning
 * rate, bias corrections, clip factor) are computed by engine/optim.c.
 */
#ifndef SDC_KERNELS_OPTIM_H
#define SDC_KERNELS_OPTIM_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/dev.h"

/* out[0] = sum of g^2 (f64); a NaN or Inf in g makes it not finite. */
typedef void sumsq_fn(Dev *d, size_t count, double *out, const float *g);
/* g *= s. */
typedef void scale_fn(Dev *d, size_t count, float *g, float s);

/* AdamW, Loshchilov & Hutter, arXiv:1711.05101, in torch.optim.AdamW's order of
 * operations. g is multiplied by `clip` first. */
typedef struct {
    float lr, beta1, beta2, eps, weight_decay;
    float bias1, bias2;       /* 1 - beta^step */
    float clip;
} AdamW;
typedef void adamw_fn(Dev *d, const AdamW *h, size_t count, float *p, float *m, float *v,
                      const float *g);

typedef struct {
    sumsq_fn *sumsq;
    scale_fn *scale;
    adamw_fn *adamw;
} OptimOps;

#endif
