/* ops.h - the one interface between engine/ and kernels/.
 *
 * An op is a pure function of buffers. It never allocates, never fails, keeps
 * no state and knows nothing of graphs. Ops is the table of them: a slot per op
 * and activation dtype. ops_init() fills it with the plain C reference
 * (kernels/ref/) and then puts faster versions over it (kernels/x86/);
 * tests/test_kernels.c holds every version to the reference. The list of all
 * versions is kernels/impl.def.
 *
 * Rules that hold for every op
 *   Shapes are outermost first, row-major, contiguous. Feature maps are
 *   (N,H,W,C), tokens (N,T,C); heads are slices of the last axis.
 *   T is the activation dtype of the slot. `w` of a product has the dtype
 *   p->wdt (f32, bf16 or f16), whatever T is. Norm weights, biases, statistics
 *   and all parameter gradients are f32.
 *   With wdt DT_I8, w is laid out as in int8.h; the result is that of the values it
 *   stands for. Versions of linear and conv2d may round x for it, each row of
 *   channels to 256 steps between its smallest and its largest value.
 *   Buffers are 64-byte aligned and do not overlap unless "in place ok".
 *   Outputs are overwritten. A data gradient is overwritten, or added to when
 *   its `acc` is 1. Parameter gradients are always added to. A NULL optional
 *   pointer means "absent" or "not wanted".
 *   Sums run in f32 or wider whatever T is (ref: double). Every sum has one
 *   fixed order: results do not depend on the number of threads.
 *   A bad shape is a bug in the caller (assert).
 */
#ifndef SDC_KERNELS_OPS_H
#define SDC_KERNELS_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/dev.h"
#include "kernels/optim.h"

/* DT_I8 is no dtype of activations: only wdt of linear and conv2d may be it. */
typedef enum { DT_F32, DT_BF16, DT_F16, DT_N, DT_I8 = DT_N } Dtype;
static inline size_t dtype_bytes(Dtype dt) { return dt == DT_F32 ? 4 : dt == DT_I8 ? 1 : 2; }

/* ---- products ------------------------------------------------------------ */

/* Fully connected layer, torch.nn.Linear; also 1x1 convolution, and either
 * half of a LoRA.
 *   x (M,K) T   w (N,K) wdt   b (N) f32 or NULL   res (M,N) T or NULL
 *   y (M,N) T = alpha * x w^T + b + res.   In place ok: res == y. */
typedef struct { int m, n, k; float alpha; Dtype wdt; } Linear;
enum { LINEAR_ROWS = 256 };
typedef void linear_fn(Dev *d, const Linear *p, void *y, const void *x, const void *w,
                       const float *b, const void *res);
/* dx (M,K) T (+)= alpha * dy (M,N) w. */
typedef void linear_dx_fn(Dev *d, const Linear *p, void *dx, const void *dy, const void *w,
                          int acc);
/* dw (N,K) f32 += alpha * dy^T x;  db (N) f32 += column sums of dy. Either may be NULL. */
typedef void linear_dw_fn(Dev *d, const Linear *p, float *dw, float *db, const void *dy,
                          const void *x);

/* 3x3 convolution (or any ksize), torch.nn.Conv2d.
 *   x (N,H,W,CIN) T   w (COUT,ks,ks,CIN) wdt   b (COUT) f32 or NULL
 *   rowbias (N,COUT) T or NULL: one bias per picture (the time embedding)
 *   res (N,HO,WO,COUT) T or NULL
 *   y (N,HO,WO,COUT) T = alpha * conv(x, w) + b + rowbias + res
 *   with pad_lo zeros before and pad_hi after each spatial axis;
 *   HO = (H + pad_lo + pad_hi - ks) / stride + 1. In place ok: res == y. */
typedef struct {
    int n, h, w, cin, cout, ks, stride, pad_lo, pad_hi;
    float alpha;
    Dtype wdt;
    int above, below;
} Conv2d;
static inline int conv2d_out(const Conv2d *p, int in)
{
    return (in + p->pad_lo + p->pad_hi - p->ks) / p->stride + 1;
}
/* A strip: x lacks `above` and `below` rows of its map, and y is what follows from the
 * rows that are there; zeros stand only at the map's own edges. n and stride are 1, and
 * there is no rowbias; conv2d alone takes it. Where Ops.strips says so, y is bit for bit
 * a part of what the map gives, if its first row there is a multiple of CONV2D_STRIP. */
enum { CONV2D_STRIP = 24 };
static inline int conv2d_top(const Conv2d *p) { return p->above ? 0 : p->pad_lo; }
static inline int conv2d_rows(const Conv2d *p)
{
    return (p->h + conv2d_top(p) + (p->below ? 0 : p->pad_hi) - p->ks) / p->stride + 1;
}
static inline Conv2d conv2d_whole(const Conv2d *p)
{
    Conv2d all = *p;
    all.h += p->above + p->below, all.above = all.below = 0;
    return all;
}
typedef void conv2d_fn(Dev *d, const Conv2d *p, void *y, const void *x, const void *w,
                       const float *b, const void *rowbias, const void *res);
/* dx (N,H,W,CIN) T (+)= gradient of y = alpha * conv(x, w). */
typedef void conv2d_dx_fn(Dev *d, const Conv2d *p, void *dx, const void *dy, const void *w,
                          int acc);
/* dw (COUT,ks,ks,CIN) f32 +=;  db (COUT) f32 +=. Either may be NULL. */
typedef void conv2d_dw_fn(Dev *d, const Conv2d *p, float *dw, float *db, const void *dy,
                          const void *x);

/* Softmax attention, softmax(scale * q k^T) v for each head; never stores T x T
 * (Dao, arXiv:2307.08691).
 *   q, o (N,TQ,H*D) T   k, v (N,TK,H*D) T
 *   lse (N,H,TQ) f32: log of the sum of exp(scores), for the backward; NULL ok
 *   causal: query i sees keys 0..i (TQ == TK). */
typedef struct { int n, tq, tk, heads, d, causal; float scale; } Attention;
typedef void attention_fn(Dev *d, const Attention *p, void *o, float *lse, const void *q,
                          const void *k, const void *v);
/* dq like q; dk, dv like k: overwritten; each may be NULL (dk and dv together). */
typedef void attention_bwd_fn(Dev *d, const Attention *p, void *dq, void *dk, void *dv,
                              const void *dout, const void *q, const void *k, const void *v,
                              const void *o, const float *lse);

/* ---- normalisation ------------------------------------------------------- */

/* Group normalisation, Wu & He, arXiv:1803.08494, as torch.nn.GroupNorm, with
 * an optional SiLU behind it.
 *   x, y (N,HW,C) T   w, b (C) f32   stats (N,groups,2) f32: mean, 1/sqrt(var+eps)
 *   y = f((x - mean) * rstd * w + b), f = silu or identity. In place ok.
 * given: stats are read instead, those of a map of which x is a part. y NULL: only stats.
 * (A device without Ops.strips takes neither.) */
typedef struct { int n, hw, c, groups, silu; float eps; int given; } GroupNorm;
typedef void groupnorm_fn(Dev *d, const GroupNorm *p, void *y, float *stats, const void *x,
                          const float *w, const float *b);
/* dx (N,HW,C) T (+)=;  dw, db (C) f32 +=, NULL ok. dx may be dy when acc is 0. */
typedef void groupnorm_bwd_fn(Dev *d, const GroupNorm *p, void *dx, float *dw, float *db,
                              const void *dy, const void *x, const float *stats,
                              const float *w, const float *b, int acc);

/* Layer normalisation over the last axis, Ba et al., arXiv:1607.06450.
 *   x, y (ROWS,C) T   w, b (C) f32   stats (ROWS,2) f32: mean, rstd. In place ok. */
typedef struct { int rows, c; float eps; } LayerNorm;
typedef void layernorm_fn(Dev *d, const LayerNorm *p, void *y, float *stats, const void *x,
                          const float *w, const float *b);
typedef void layernorm_bwd_fn(Dev *d, const LayerNorm *p, void *dx, float *dw, float *db,
                              const void *dy, const void *x, const float *stats,
                              const float *w, int acc);

/* ---- elementwise --------------------------------------------------------- */

/* silu: x sigmoid(x). gelu: exact, by erf. quick_gelu: x sigmoid(1.702 x). gelu_tanh: the
 * approximation x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)), Hendrycks & Gimpel, arXiv:1606.08415. */
typedef enum { ACT_SILU, ACT_GELU, ACT_QUICK_GELU, ACT_GELU_TANH } ActKind;
#define GELU_TANH_A 1.5957691216057308      /* 2 sqrt(2/pi) */
#define GELU_TANH_B 0.07135481627159306     /* that times 0.044715 */
typedef struct { size_t count; ActKind kind; } Act;
typedef void act_fn(Dev *d, const Act *p, void *y, const void *x);            /* in place ok */
/* dx may be dy when acc is 0. */
typedef void act_bwd_fn(Dev *d, const Act *p, void *dx, const void *dy, const void *x, int acc);

/* GEGLU, Shazeer, arXiv:2002.05202: x (ROWS,2C) T -> y (ROWS,C) T = x[:C] * gelu(x[C:]).
 * dx may be x when acc is 0. */
typedef struct { int rows, c; } Geglu;
typedef void geglu_fn(Dev *d, const Geglu *p, void *y, const void *x);
typedef void geglu_bwd_fn(Dev *d, const Geglu *p, void *dx, const void *dy, const void *x, int acc);

/* y = a + b, count elements. In place ok. */
typedef void add_fn(Dev *d, size_t count, void *y, const void *a, const void *b);

/* Nearest-neighbour doubling: x (N,H,W,C) T -> y (N,2H-cut_h,2W-cut_w,C) T. A cut
 * of 1 leaves out the last row or column, for maps whose halving was rounded up. */
typedef struct { int n, h, w, c, cut_h, cut_w; } Upsample;
typedef void upsample2x_fn(Dev *d, const Upsample *p, void *y, const void *x);
typedef void upsample2x_bwd_fn(Dev *d, const Upsample *p, void *dx, const void *dy, int acc);

/* y (ROWS,CA+CB) T = a (ROWS,CA) beside b (ROWS,CB). The backward splits; da
 * or db may be NULL. */
typedef struct { int rows, ca, cb; } Concat;
typedef void concat_fn(Dev *d, const Concat *p, void *y, const void *a, const void *b);
typedef void concat_bwd_fn(Dev *d, const Concat *p, void *da, void *db, const void *dy, int acc_a,
                           int acc_b);

/* y (N,C) T (+)= sum over HW of x (N,HW,C) T: the gradient of a rowbias. */
typedef struct { int n, hw, c; } Rowsum;
typedef void rowsum_fn(Dev *d, const Rowsum *p, void *y, const void *x, int acc);

/* Conversion between activation dtypes, count elements: slot [dst][src]. */
typedef void cast_fn(Dev *d, size_t count, void *dst, const void *src);

/* ---- weights under an adapter -------------------------------------------- */

/* What a layer's weight becomes under LoHa, LoKr and DoRA (engine/lora.h). Products of
 * low-rank factors are linear_dx: a (M,N) times b (N,K). */

/* w (count) T = base (count) wdt + alpha * a [* b];  a, b f32, b NULL ok. In place ok:
 * base where it has w's dtype. */
typedef struct { size_t count; float alpha; Dtype wdt; } Compose;
typedef void compose_fn(Dev *d, const Compose *p, void *w, const void *base, const float *a,
                        const float *b);
/* The gradients da = alpha * g [* b], db = alpha * g * a; each may be NULL, db is with b.
 * da may be g. f32 only. */
typedef void compose_bwd_fn(Dev *d, const Compose *p, float *da, float *db, const float *g,
                            const float *a, const float *b);

/* The same with a Kronecker product of w1 (L1,M1) and w2 (L2,S,M2), f32:
 *   w (L1*L2,S,M1*M2) T: w[i1*L2+i2, s, j1*M2+j2] = base + alpha * w1[i1,j1] * w2[i2,s,j2] */
typedef struct { int l1, m1, l2, s, m2; float alpha; Dtype wdt; } Kron;
typedef void kron_fn(Dev *d, const Kron *p, void *w, const void *base, const float *w1,
                     const float *w2);
/* dw1, dw2 f32 +=; each may be NULL. f32 only. */
typedef void kron_bwd_fn(Dev *d, const Kron *p, float *dw1, float *dw2, const float *g,
                         const float *w1, const float *w2);

/* Weight decomposition, Liu et al., arXiv:2402.09353: v (N,S,K) f32 gets the norms m,
 *   w (N,S,K) T = v * m / (|v| + 2^-23), |v| over a row of N, or, with `in`, over N and S
 *   m (N or K) f32   norm (N or K) f32: |v|, for the backward */
typedef struct { int n, s, k, in; } Dora;
typedef void dora_fn(Dev *d, const Dora *p, void *w, float *norm, const float *v, const float *m);
/* dv (N,S,K) f32 overwritten, may be g;  dm f32 +=, NULL ok. f32 only. */
typedef void dora_bwd_fn(Dev *d, const Dora *p, float *dv, float *dm, const float *g,
                         const float *v, const float *norm, const float *m);

/* Dropout of adapters: y (N,T,C) T (+)= x * keep / (1 - p), where keep is 0 with the
 * probability `each` for an element, `channel` for a channel of one of N, `row` for one of
 * N, and, without a factor, `all` for everything. Which ones is a function of seed (1)
 * int32, stream and the indices, so that a gradient is the same op. In place ok. */
typedef struct { int n, t, c; float each, channel, row, all; uint32_t stream; } Dropout;
typedef void dropout_fn(Dev *d, const Dropout *p, void *y, const void *x, const int32_t *seed,
                        int acc);

/* A number in [0, 1) for index i of one of the four kinds of choices. */
static inline float dropout_draw(uint32_t seed, const Dropout *p, uint32_t kind, uint32_t i)
{
    const uint32_t key[2] = {seed + kind * 0x9e3779b9u, p->stream};
    return (float)(optim_bits(key, i) >> 8) * 0x1p-24f;
}

/* ---- embeddings ---------------------------------------------------------- */

/* Sinusoidal time embedding, Ho et al., arXiv:2006.11239, in diffusers' order
 * with flip_sin_to_cos and frequency shift 0:
 *   y (N,DIM) T: y[i] = cos(t f_i), y[DIM/2+i] = sin(t f_i), f_i = 10000^(-i/(DIM/2))
 *   t (N) f32, may be fractional. DIM even. */
typedef struct { int n, dim; } TimeEmbed;
typedef void time_embed_fn(Dev *d, const TimeEmbed *p, void *y, const float *t);

/* y (N,T,C) T = table[ids] + pos.  table (VOCAB,C) wdt, pos (T,C) wdt,
 * pos NULL: none.  more (MORE,C) f32: rows VOCAB.. of the table, or NULL when MORE is 0;
 * ids (N,T) int32 in 0..VOCAB+MORE-1. */
typedef struct { int n, t, c, vocab, more; Dtype wdt; } TokenEmbed;
typedef void token_embed_fn(Dev *d, const TokenEmbed *p, void *y, const int32_t *ids,
                            const void *table, const void *pos, const float *more);
/* dtable (VOCAB,C), dpos (T,C), dmore (MORE,C) f32 +=; each may be NULL. */
typedef void token_embed_bwd_fn(Dev *d, const TokenEmbed *p, float *dtable, float *dpos,
                                float *dmore, const void *dy, const int32_t *ids);

/* ---- losses -------------------------------------------------------------- */

/* Weighted element loss of kohya's training step. With e = pred - target:
 *   l2 e^2;  l1 |e|;  huber 2c(sqrt(e^2+c^2)-c);  smooth_l1 2(sqrt(e^2+c^2)-c)
 *   bce: binary cross-entropy of logits, log(1 + exp(pred)) - target pred, target in [0,1]
 *   per[n] = weight[n] * mean over HW,C of (loss * mask);  loss = mean over n of per
 *   pred (N,HW,C) T   target (N,HW,C) f32   mask (N,HW) f32 or NULL
 *   weight (N) f32   huber_c (N) f32 (of the hubers only; else NULL ok)
 *   loss (1) f32   per (N) f32 */
typedef enum { LOSS_L2, LOSS_L1, LOSS_HUBER, LOSS_SMOOTH_L1, LOSS_BCE } LossKind;
typedef struct { int n, hw, c; LossKind kind; } Loss;
typedef void loss_fn(Dev *d, const Loss *p, float *loss, float *per, const void *pred,
                     const float *target, const float *mask, const float *weight,
                     const float *huber_c);
/* dpred (N,HW,C) T = scale[0] * dloss/dpred. */
typedef void loss_bwd_fn(Dev *d, const Loss *p, void *dpred, const float *scale, const void *pred,
                         const float *target, const float *mask, const float *weight,
                         const float *huber_c);

/* Reconstruction loss of an autoencoder for pictures y, x (N,H,W,C):
 *   loss = mean|e| + mean e^2 + edge * (mean|e(i+1,j)-e(i,j)| + mean|e(i,j+1)-e(i,j)|),
 *   e = y - x; x f32, y T; each mean over its own number of elements. */
typedef struct { int n, h, w, c; float edge; } Recon;
typedef void recon_fn(Dev *d, const Recon *p, float *loss, const void *y, const float *x);
typedef void recon_bwd_fn(Dev *d, const Recon *p, void *dy, const float *scale, const void *y,
                          const float *x);

/* The posterior of a VAE (Kingma & Welling, arXiv:1312.6114):
 *   m (ROWS,2C) T: mean, log-variance (clamped to [-30,20] as in LDM)
 *   z (ROWS,C) T = mean + exp(logvar/2) * noise;  noise (ROWS,C) f32
 *   kl (1) f32 = mean over ROWS*C of (mean^2 + exp(logvar) - 1 - logvar) / 2 */
typedef struct { int rows, c; } Gauss;
typedef void gauss_fn(Dev *d, const Gauss *p, void *z, float *kl, const void *m,
                      const float *noise);
/* dm (ROWS,2C) T = gradient of dz and of kl_scale[0] * kl; zero where clamped. dz may be NULL. */
typedef void gauss_bwd_fn(Dev *d, const Gauss *p, void *dm, const void *dz, const float *kl_scale,
                          const void *m, const float *noise);

/* ---- the table ----------------------------------------------------------- */

/* Every op with a slot per activation dtype: X(name). */
#define OPS_LIST(X)                                                                      \
    X(linear) X(linear_dx) X(linear_dw) X(conv2d) X(conv2d_dx) X(conv2d_dw)              \
    X(attention) X(attention_bwd) X(groupnorm) X(groupnorm_bwd) X(layernorm)             \
    X(layernorm_bwd) X(act) X(act_bwd) X(geglu) X(geglu_bwd) X(add) X(upsample2x)        \
    X(upsample2x_bwd) X(concat) X(concat_bwd) X(rowsum) X(time_embed) X(token_embed)     \
    X(token_embed_bwd) X(loss) X(loss_bwd) X(recon) X(recon_bwd) X(gauss) X(gauss_bwd)  \
    X(compose) X(compose_bwd) X(kron) X(kron_bwd) X(dora) X(dora_bwd)          \
    X(dropout)

typedef struct {
#define X(op) op##_fn *op[DT_N];
    OPS_LIST(X)
#undef X
    cast_fn *cast[DT_N][DT_N];       /* [destination][source] */
    OptimOps optim;                  /* kernels/optim.h; f32 only */
    int strips;                      /* 1: parts of maps give the bits of the whole: conv2d of a
                                        strip, groupnorm with its statistics, and linear of
                                        LINEAR_ROWS rows or more */
    int int8;                        /* 1: linear and conv2d take weights of DT_I8 */
    /* Scratch bytes (Dev.ws) that any of linear, linear_dx, linear_dw and so
     * on needs for these shapes with T == dt. Never NULL. */
    size_t (*linear_scratch)(const Dev *d, const Linear *p, Dtype dt);
    size_t (*conv2d_scratch)(const Dev *d, const Conv2d *p, Dtype dt);
    size_t (*attention_scratch)(const Dev *d, const Attention *p, Dtype dt, int backward);
} Ops;

/* Fills *ops with the best versions that d->isa allows. */
void ops_init(Ops *ops, const Dev *d);

#endif
