/* plans.h - products that cuBLASLt and cuDNN do, and what was found out about them.
 *
 * A Plan is the library's descriptors for one op and shape with the algorithm
 * that its heuristics rank first among those that always give the same bits and
 * want no more than PLAN_MOST bytes. It is made when the scratch is planned (or
 * at first use), and kept in CudaDev.plans; so are the shapes that a library
 * refuses. Sums and scalars are f32, without TF32.
 */
#ifndef SDC_KERNELS_CUDA_PLANS_H
#define SDC_KERNELS_CUDA_PLANS_H

#include "kernels/cuda/cuda.h"

typedef enum { PLAN_FORWARD, PLAN_DX, PLAN_DW } PlanOp;
typedef struct Plan Plan;
enum { PLAN_MOST = 32 << 20 };

/* A 1x1 convolution that is a linear layer of its pixels. */
static inline int conv2d_is_linear(const Conv2d *p)
{
    return p->ks == 1 && p->stride == 1 && !p->pad_lo && !p->pad_hi;
}

#ifdef __cplusplus
extern "C" {
#endif

/* The plan, good until the next one is asked for; NULL: the library cannot.
 * alpha and wdt do not matter: weights are given in dt. */
const Plan *plan_linear(Dev *d, const Linear *p, Dtype dt, PlanOp op, int bias);
const Plan *plan_conv2d(Dev *d, const Conv2d *p, Dtype dt, PlanOp op);
/* The same where a library is the better choice, else NULL. */
const Plan *linear_library(Dev *d, const Linear *p, Dtype dt, PlanOp op, int bias);
const Plan *conv2d_library(Dev *d, const Conv2d *p, Dtype dt, PlanOp op);
/* Bytes of workspace; 0 for NULL. */
size_t plan_bytes(const Plan *plan);

/* Queues it; the workspace is Dev.ws from `used` bytes on.
 *   PLAN_FORWARD  out = alpha x w^T + bias + add    a: x    b: w
 *   PLAN_DX       out = alpha dy w + add            a: dy   b: w
 *   PLAN_DW       out = alpha dy^T x + add          a: dy   b: x   out, add f32
 * add: NULL or of out's shape, may be out. bias: given if asked for. */
void plan_linear_run(Dev *d, const Plan *plan, size_t used, float alpha, void *out, const void *a,
                     const void *b, const float *bias, const void *add);
/* The same for convolutions: out = alpha conv (+ out, when acc). PLAN_DW in dt. */
void plan_conv2d_run(Dev *d, const Plan *plan, size_t used, float alpha, void *out, const void *a,
                     const void *b, int acc);

#ifdef __cplusplus
}
#endif
#endif
