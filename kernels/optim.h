/* optim.h - the optimizer part of ops.h: updates of flat f32 arrays.
 *
 * The rules of ops.h hold. count elements; p parameter (in place), g gradient
 * (never written), m, v, s state (in place). `clip` multiplies g first. Numbers
 * that depend on the step (learning rate, bias corrections, clip) come from
 * engine/optim.c. They are double: 1 - beta must be rounded to f32 once, as
 * torch does, since 1 - 0.999f is 5e-5 off. Elementwise arithmetic is f32 in
 * the order of operations of the named source, sums are f64 over OPTIM_PARTS
 * fixed parts of the array. Elementwise ops give the same bits in every version.
 */
#ifndef SDC_KERNELS_OPTIM_H
#define SDC_KERNELS_OPTIM_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/dev.h"

enum { OPTIM_PARTS = 64, ADAMW8_BLOCK = 256 };

/* out[0] = sum of g^2 (f64); a NaN or Inf in g makes it not finite. */
typedef void sumsq_fn(Dev *d, size_t count, double *out, const float *g);
/* g *= s. */
typedef void scale_fn(Dev *d, size_t count, float *g, float s);

/* AdamW, Loshchilov & Hutter, arXiv:1711.05101, as torch.optim.AdamW:
 *   p *= 1 - lr weight_decay;  m += (1 - beta1)(g - m);  v = beta2 v + (1 - beta2) g^2
 *   p -= lr / bias1 * m / (sqrt(v) / sqrt(bias2) + eps) */
typedef struct {
    double lr, beta1, beta2, eps, weight_decay;
    double bias1, bias2;      /* 1 - beta^step */
    double clip;
} AdamW;
typedef void adamw_fn(Dev *d, const AdamW *h, size_t count, float *p, float *m, float *v,
                      const float *g);

/* AdamW with 8-bit moments, Dettmers et al., arXiv:2110.02861, as bitsandbytes'
 * optimizer_update_8bit_blockwise: each block of ADAMW8_BLOCK elements holds
 * map[q] * absmax of the block; the new moments are rounded to the nearest value
 * of the map after they were used. Blocks are ceil(count / ADAMW8_BLOCK).
 *   mq, vq (count) u8   mabs, vabs (blocks) f32   map (512) f32: the signed map,
 *   then the unsigned one, each ascending (engine/optim.h, optim_dynamic_map) */
typedef struct { uint8_t *mq, *vq; float *mabs, *vabs; } Moments8;
typedef void adamw8_fn(Dev *d, const AdamW *h, size_t count, float *p, const Moments8 *s,
                       const float *map, const float *g);

/* Lion, Chen et al., arXiv:2302.06675, as lion_pytorch:
 *   p *= 1 - lr weight_decay;  p -= lr sign(beta1 m + (1 - beta1) g)
 *   m = beta2 m + (1 - beta2) g */
typedef struct { double lr, beta1, beta2, weight_decay, clip; } Lion;
typedef void lion_fn(Dev *d, const Lion *h, size_t count, float *p, float *m, const float *g);

/* torch.optim.SGD: g += weight_decay p;  m = momentum m + (1 - dampening) g, or
 * m = g when `first`;  p -= lr * (nesterov ? g + momentum m : m). m is NULL when
 * momentum is 0. */
typedef struct {
    double lr, momentum, dampening, weight_decay, clip;
    int nesterov, first;
} Sgd;
typedef void sgd_fn(Dev *d, const Sgd *h, size_t count, float *p, float *m, const float *g);

/* The two learning-rate-free Adams. First, for every tensor, the statistics:
 * with g += l2 p, the moments and the running sum s advance,
 *   m = beta1 m + m_scale g;  v = beta2 v + v_scale g^2;  s = beta3 s + s_scale g
 * and sums[0] = a dot product, sums[1] = sum |s|, from which engine/optim.c gets
 * the new d. Then, for every tensor, adapt_step.
 *   dadapt_stats   dadaptation.DAdaptAdam (Defazio & Mishchenko, arXiv:2301.07733):
 *                  sums[0] = sum g s / (sqrt(v) + eps), with s and v of before
 *   prodigy_stats  prodigyopt.Prodigy (Mishchenko & Defazio, arXiv:2306.06101):
 *                  sums[0] = sum g (p0 - p); s, p0 and both sums are over every
 *                  slice-th element only; first: p0 = p is stored
 *   s (count), or (ceil(count / slice)) as p0 */
typedef struct {
    double beta1, beta2, beta3, m_scale, v_scale, s_scale, l2, eps, clip;
    int slice, first;
} Adapt;
typedef struct { float *m, *v, *s, *p0; } AdaptState;
typedef void dadapt_stats_fn(Dev *d, const Adapt *h, size_t count, double *sums, const float *p,
                             const AdaptState *s, const float *g);
typedef void prodigy_stats_fn(Dev *d, const Adapt *h, size_t count, double *sums, const float *p,
                              const AdaptState *s, const float *g);
/* p -= decay p;  p -= lr m / (sqrt(v) + eps). */
typedef struct { double lr, decay, eps; } AdaptStep;
typedef void adapt_step_fn(Dev *d, const AdaptStep *h, size_t count, float *p, const float *m,
                           const float *v);

/* Stochastic rounding to bf16 (Gupta et al., arXiv:1502.02551): y is one of the two
 * neighbours of x, the upper one with a probability that makes x the mean, so that
 * updates smaller than half a step of bf16 are not lost. Element i draws the bits
 * optim_bits(key, first + i): the same at any number of threads and pieces. */
typedef struct { uint32_t key[2], first; } Dither;
typedef void dither_fn(Dev *d, const Dither *h, size_t count, uint16_t *y, const float *x);

/* Every op: X(name), its plain version is <name>_ref, that for a GPU <name>_cuda;
 * the five that have fast ones for x86, <name>_avx2 and <name>_avx512. */
#define OPTIM_LIST(X)                                                                     \
    X(sumsq) X(scale) X(adamw) X(adamw8) X(lion) X(sgd) X(dadapt_stats) X(prodigy_stats)  \
    X(adapt_step) X(dither)
#define OPTIM_LIST_X86(X) X(sumsq) X(adamw) X(adamw8) X(lion) X(dither)

typedef struct {
#define X(op) op##_fn *op;
    OPTIM_LIST(X)
#undef X
} OptimOps;

#define X(op) op##_fn op##_ref;
OPTIM_LIST(X)
#undef X
#define X(op) op##_fn op##_avx2, op##_avx512;
OPTIM_LIST_X86(X)
#undef X
#ifdef SDC_CUDA
#define X(op) op##_fn op##_cuda;
OPTIM_LIST(X)
#undef X
#endif

/* The bounds of part i of count elements: a pure function of count; parts start
 * at multiples of `unit` elements. */
static inline size_t optim_part(size_t count, size_t unit, int i)
{
    size_t units = (count + unit - 1) / unit, k = (size_t)i;
    size_t at = (units / OPTIM_PARTS * k + units % OPTIM_PARTS * k / OPTIM_PARTS) * unit;
    return at < count ? at : count;
}

/* A hash that is a bijection of 32 bits (C. Wellons, "prospecting for hash functions",
 * 2018, lowbias32), applied twice with the halves of a key. */
static inline uint32_t optim_mix(uint32_t v)
{
    v ^= v >> 16;
    v *= 0x7feb352du;
    v ^= v >> 15;
    v *= 0x846ca68bu;
    return v ^ v >> 16;
}

static inline uint32_t optim_bits(const uint32_t key[2], uint32_t i)
{
    return optim_mix(optim_mix(i ^ key[0]) + key[1]);
}

/* x rounded with the lower half of r; infinities stay, NaN stays NaN. */
static inline uint16_t optim_dither(uint32_t x, uint32_t r)
{
    uint32_t nan = (x & 0x7fffffffu) > 0x7f800000u;
    return (uint16_t)((x + (nan ? 0 : r & 0xffffu)) >> 16 | nan);
}

/* Fills *ops with the best versions that d->isa allows. */
void optim_ops_init(OptimOps *ops, const Dev *d);

#endif
