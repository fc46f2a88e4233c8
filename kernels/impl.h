/* impl.h - prototypes of every op version, made from impl.def.
 *
 * The names are <op>_<dtype>_<implementation>, for casts
 * cast_<destination>_<source>_<implementation>. Only kernels/ and its tests
 * include this; everybody else calls through the table of ops.h.
 */
#ifndef SDC_KERNELS_IMPL_H
#define SDC_KERNELS_IMPL_H

#include "kernels/ops.h"

/* More bits of Dev.isa. DEV_AVX512 stands for F, BW, DQ and VL: Skylake-X and newer. */
enum {
    DEV_BF16 = 16,      /* and products of bf16: Cooper Lake, Sapphire Rapids, Zen 4 */
    DEV_VNNI = 32       /* and products of bytes; no versions of its own */
};

#define IMPL(op, dt, impl) extern op##_fn op##_##dt##_##impl;
#define IMPL_CAST(dst, src, impl) extern cast_fn cast_##dst##_##src##_##impl;
#include "kernels/impl.def"
#undef IMPL
#undef IMPL_CAST

/* Bytes of scratch that the x86 or CUDA versions of an op want (ops.h: *_scratch); for
 * x86 the largest of all its versions. The references want none. */
size_t linear_scratch_x86(const Dev *d, const Linear *p, Dtype dt);
size_t conv2d_scratch_x86(const Dev *d, const Conv2d *p, Dtype dt);
size_t attention_scratch_x86(const Dev *d, const Attention *p, Dtype dt, int backward);
size_t linear_scratch_cuda(const Dev *d, const Linear *p, Dtype dt);
size_t conv2d_scratch_cuda(const Dev *d, const Conv2d *p, Dtype dt);
size_t attention_scratch_cuda(const Dev *d, const Attention *p, Dtype dt, int backward);

#endif
