/* attn.h - what the files of CUDA attention share.
 *
 *   attn.cu          forward for any device, dtype and head size; the op
 *   attn_bwd.cu      backward for any device, dtype and head size; the op
 *   attn_simt.h      the tiles of these two
 *   attn_mma.cu      forward on tensor cores: bf16 and f16
 *   attn_mma_bwd.cu  backward on tensor cores
 *   attn_mma.h       the tiles of these two
 *
 * Flash attention 2 (Dao, arXiv:2307.08691): a block keeps a tile of rows of one
 * head and streams the other side past it through shared memory; nothing of
 * size TQ x TK exists. The backward makes the probabilities again from lse, in
 * one kernel for dq (rows are queries) and one for dk and dv (rows are keys), so
 * that no block adds to what another one wrote. A kernel is written once for
 * all head sizes: as an inlined function whose first arguments are constants.
 */
#ifndef SDC_KERNELS_CUDA_ATTN_H
#define SDC_KERNELS_CUDA_ATTN_H

#include "kernels/cuda/cuda.h"

/* Before a loop whose bounds are constants once its function is inlined: unrolled
 * as a whole, so that the arrays indexed in it are registers. */
#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#define UNROLL_2 _Pragma("unroll 2")
#else
#define UNROLL
#define UNROLL_2
#endif

#define ATTN_LOG2E 1.44269504f

enum { ATTN_PAD = 64 };     /* rows of the backward's scratch are padded to this */

static inline int attn_padded(int t) { return (t + ATTN_PAD - 1) / ATTN_PAD * ATTN_PAD; }

typedef struct {
    Attention p;
    const Elem *q, *k, *v;
    Elem *o;
    float *lse;                     /* NULL ok */
} AttnForward;

/* Either half of the backward. With S = x0 y0^T and G = x1 y1^T, rows of x
 * against rows of y, both halves are
 *   P = exp(scale S - lse),   dS = P (G - delta),
 *   out0 = scale dS y0,       out1 = P y1.
 *   dq:      x = q, dout   y = k, v      out0 = dq
 *   dk, dv:  x = k, v      y = q, dout   out0 = dk, out1 = dv */
typedef struct {
    Attention p;
    int xt, yt;                     /* rows of x and of y */
    int padded;                     /* attn_padded(TQ) */
    const Elem *x0, *x1, *y0, *y1;
    Elem *out0, *out1;
    const float *lse2, *delta;      /* (N,H,padded), as attn_bwd.cu's attn_rows leaves them */
    /* Few rows of x (cross attention has 77 keys) do not fill a device: rows of y
     * are then taken in `splits` ranges of `range`, by blocks of their own, whose
     * sums go to part (splits,2,N,XT,H*D); splits 1: NULL. */
    int splits, range;
    float *part;
} AttnBackward;

/* Where a range's sum of an output (0 or 1) begins. */
static __device__ __forceinline__ float *attn_part(const AttnBackward *a, int split, int out)
{
    return a->part + (2 * split + out) * ((size_t)a->p.n * a->xt * a->p.heads * a->p.d);
}

/* Index of the first element of row t of head h, in a tensor of `rows` rows. */
static __device__ __forceinline__ size_t attn_at(const Attention *p, int rows, int n, int h, int t)
{
    return (((size_t)n * rows + t) * p->heads + h) * p->d;
}

#ifndef SDC_F32
/* Tensor cores multiply f16 from sm_75 on, bf16 from sm_80 on. */
#ifdef SDC_F16
enum { ATTN_MMA_SM = 75 };
#else
enum { ATTN_MMA_SM = 80 };
#endif

/* 1 when they did it: head sizes that are multiples of 8 up to 512 (backward: 160),
 * where the device has the shared memory. */
#ifdef __cplusplus
extern "C" {
#endif
int OP(attn_mma)(Dev *d, const AttnForward *a);
int OP(attn_mma_bwd)(Dev *d, const AttnBackward *a);
#ifdef __cplusplus
}
#endif
#endif

#endif
