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
 *   m = beta2 m + (1 - beta2) g
 * lion8: the same with m in 8 bits as in adamw8, as bitsandbytes' Lion8bit. */
typedef struct { double lr, beta1, beta2, weight_decay, clip; } Lion;
typedef void lion_fn(Dev *d, const Lion *h, size_t count, float *p, float *m, const float *g);
/* mq (count), mabs (blocks); map (256): the signed one. */
typedef struct { uint8_t *mq; float *mabs; const float *map; } Moment8;
typedef void lion8_fn(Dev *d, const Lion *h, size_t count, float *p, const Moment8 *s,
                      const float *g);

/* torch.optim.SGD: g += weight_decay p;  m = momentum m + (1 - dampening) g, or
 * m = g when `first`;  p -= lr * (nesterov ? g + momentum m : m). m is NULL when
 * momentum is 0. sgd8: the same with m in 8 bits. */
typedef struct {
    double lr, momentum, dampening, weight_decay, clip;
    int nesterov, first;
} Sgd;
typedef void sgd_fn(Dev *d, const Sgd *h, size_t count, float *p, float *m, const float *g);
typedef void sgd8_fn(Dev *d, const Sgd *h, size_t count, float *p, const Moment8 *s,
                     const float *g);

/* Adafactor, Shazeer & Stern, arXiv:1804.04235, as transformers.optimization.Adafactor. The
 * tensor is (outer, rows, cols, inner), outermost first; rows 0: it is a vector, and v is v.
 *   row (outer,rows,inner) = beta2 row + (1 - beta2) mean over cols of (g^2 + eps1)
 *   col (outer,cols,inner) = beta2 col + (1 - beta2) mean over rows of (g^2 + eps1)
 *   1/sqrt(v) = 1/sqrt(row / mean of row over rows) * 1/sqrt(col)
 *   u = g / sqrt(v);  u *= lr s / max(1, rms(u) / threshold),  s = scale_parameter ?
 *   max(eps2, rms(p)) : 1;  m = beta1 m + (1 - beta1) u and u = m, if m;
 *   p -= weight_decay lr s p;  p -= u
 * room: outer * (rows + cols) * inner f32 of scratch, count for a vector; sums: 2 f64. */
typedef struct {
    double lr, beta1, beta2, eps1, eps2, threshold, weight_decay, clip;
    int scale_parameter;
    size_t outer, rows, cols, inner;
} Adafactor;
typedef struct { float *m, *v, *row, *col, *room; double *sums; } AdafactorState;
typedef void adafactor_fn(Dev *d, const Adafactor *h, size_t count, float *p,
                          const AdafactorState *s, const float *g);

/* Schedule-free, Defazio et al., arXiv:2405.15682, as the package schedulefree: p is y, where
 * gradients are taken, x the average that is the result.
 *   v = beta2 v + (1 - beta2) g^2;  g /= sqrt(v / bias2) + eps     (without v: neither)
 *   g += weight_decay y;  y += c (z - y);  y += lr_y g;  z -= lr g;  x += c (z - x)
 * adaptive 0: v advances, but does not divide. */
typedef struct {
    double lr, lr_y, c, beta2, bias2, eps, weight_decay, clip;
    int adaptive;
} SchedFree;
typedef struct { float *v, *x, *z; } SchedFreeState;
typedef void schedfree_fn(Dev *d, const SchedFree *h, size_t count, float *p,
                          const SchedFreeState *s, const float *g);

/* x += t (p - x): an average of parameters, as diffusers' EMAModel. */
typedef void ema_fn(Dev *d, size_t count, float *x, const float *p, float t);
/* Exchanges a and b. */
typedef void swap_fn(Dev *d, size_t count, float *a, float *b);

/* The methods that find their rate themselves. First, for every tensor, adapt_stats: with
 * g += l2 p, moments and the running sum s advance, and sums[0..2] come out, from which
 * engine/optim.c gets the new d. Then, for every tensor, adapt_step. In all of them
 *   m = beta1 m + m_scale g;  v = beta2 v + v_scale g^2;  s = beta3 s + s_scale g;
 *   sums[1] = sum |s|
 * where they exist, and D = sqrt(v) + eps. Sources: dadaptation 3.2 (Defazio & Mishchenko,
 * arXiv:2301.07733) and prodigyopt 1.1.2 (Mishchenko & Defazio, arXiv:2306.06101).
 *   ADAM      DAdaptAdam: sums[0] = sum g s / D with s and v of before
 *   PREPRINT  DAdaptAdamPreprint: sums[0] = sum g^2 / D, sums[2] = sum s^2 / D, of after
 *   ADAGRAD   DAdaptAdaGrad: as PREPRINT, without m; first: v = v_first, x = p
 *   ADAN      DAdaptAdan: h = g - x, x = g, on the first step h = 0; diff = beta_d diff +
 *             diff_scale h; in v, g + beta_d h stands for g; sums as PREPRINT
 *   ADAN_IP   DAdaptAdanIP: as ADAN, but sums as ADAM
 *   LION      DAdaptLion: u = sign(beta1 m + (1 - beta1) g); p -= decay p; p -= lr u;
 *             m = beta2 m + m_scale g; sums[0] = sum u s, s of before; u for g in s
 *   SGD       DAdaptSGD: sums[0] = sum g s, s of before; sums[1] = sum s^2; first: x = p
 *   PRODIGY   sums[0] = sum g (x - p); s, x and both sums are over every slice-th element
 *             only; first: x = p
 *   s, x (count), or (ceil(count / slice)) with PRODIGY */
typedef enum {
    ADAPT_ADAM, ADAPT_PREPRINT, ADAPT_ADAGRAD, ADAPT_ADAN, ADAPT_ADAN_IP, ADAPT_LION, ADAPT_SGD,
    ADAPT_PRODIGY
} AdaptKind;
typedef struct {
    AdaptKind kind;
    double beta1, beta2, beta3, beta_d, m_scale, v_scale, s_scale, diff_scale, v_first;
    double l2, eps, clip, lr, decay;
    int slice, first;
} Adapt;
typedef struct { float *m, *v, *s, *x, *diff; } AdaptState;
typedef void adapt_stats_fn(Dev *d, const Adapt *h, size_t count, double sums[3], float *p,
                            const AdaptState *s, const float *g);
/* ADAM, PREPRINT, PRODIGY:  p -= decay p;  p -= lr m / D.
 * ADAN, ADAN_IP:  p *= keep;  p -= (m + beta_d diff) / D;  p /= shrink.
 * ADAGRAD:  p = momentum p + (1 - momentum) (x - s / D);  SGD: the same with D = 1. */
typedef struct {
    AdaptKind kind;
    double lr, decay, eps, beta_d, keep, shrink, momentum;
} AdaptStep;
typedef void adapt_step_fn(Dev *d, const AdaptStep *h, size_t count, float *p,
                           const AdaptState *s);

/* torch.lerp: a + t (b - a), exact at both ends. */
static inline float optim_lerp(float a, float b, float t)
{
    return t < 0.5f ? a + t * (b - a) : b - (b - a) * (1 - t);
}

/* Stochastic rounding to bf16 (Gupta et al., arXiv:1502.02551): y is one of the two
 * neighbours of x, the upper one with a probability that makes x the mean, so that
 * updates smaller than half a step of bf16 are not lost. Element i draws the bits
 * optim_bits(key, first + i): the same at any number of threads and pieces. */
typedef struct { uint32_t key[2], first; } Dither;
typedef void dither_fn(Dev *d, const Dither *h, size_t count, uint16_t *y, const float *x);

/* Every op: X(name), its plain version is <name>_ref, that for a GPU <name>_cuda;
 * those of OPTIM_LIST_X86 have fast ones for x86, <name>_avx2 and <name>_avx512. */
#define OPTIM_LIST(X)                                                                     \
    X(sumsq) X(adamw) X(adamw8) X(lion) X(lion8) X(sgd) X(sgd8) X(adafactor) X(schedfree)  \
    X(ema) X(swap) X(adapt_stats) X(adapt_step) X(dither)
#define OPTIM_LIST_X86(X) X(sumsq) X(adamw) X(adamw8) X(lion) X(lion8) X(sgd8) X(dither)

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
