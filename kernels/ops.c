/* ops.c - fills the table of ops (ops.h) from the list of versions (impl.def). */
#include "kernels/impl.h"

/* While the versions are being written, one that is missing leaves its slot as
 * it is. */
#define IMPL(op, dt, impl) extern op##_fn op##_##dt##_##impl __attribute__((weak));
#define IMPL_CAST(dst, src, impl) extern cast_fn cast_##dst##_##src##_##impl __attribute__((weak));
#include "kernels/impl.def"
#undef IMPL
#undef IMPL_CAST
extern __typeof__(optim_ops_init) optim_ops_init __attribute__((weak));
#ifdef SDC_X86
extern __typeof__(linear_scratch_x86) linear_scratch_x86 __attribute__((weak));
extern __typeof__(conv2d_scratch_x86) conv2d_scratch_x86 __attribute__((weak));
extern __typeof__(attention_scratch_x86) attention_scratch_x86 __attribute__((weak));
#endif

enum { ISA_ref = DEV_REF, ISA_avx2 = DEV_AVX2, ISA_avx512 = DEV_AVX512 };
enum { DT_f32 = DT_F32, DT_bf16 = DT_BF16, DT_f16 = DT_F16 };

static size_t linear_scratch_ref(const Dev *d, const Linear *p, Dtype dt)
{
    (void)d, (void)p, (void)dt;
    return 0;
}

static size_t conv2d_scratch_ref(const Dev *d, const Conv2d *p, Dtype dt)
{
    (void)d, (void)p, (void)dt;
    return 0;
}

static size_t attention_scratch_ref(const Dev *d, const Attention *p, Dtype dt)
{
    (void)d, (void)p, (void)dt;
    return 0;
}

/* One pass over the list for each instruction set, plainest first, so that the
 * order of lines in impl.def does not matter. */
static void fill(Ops *ops, unsigned isa)
{
#define IMPL(op_, dt, impl)                                                              \
    if (ISA_##impl == isa && op_##_##dt##_##impl) ops->op_[DT_##dt] = op_##_##dt##_##impl;
#define IMPL_CAST(dst, src, impl)                                                        \
    if (ISA_##impl == isa && cast_##dst##_##src##_##impl)                                \
        ops->cast[DT_##dst][DT_##src] = cast_##dst##_##src##_##impl;
#include "kernels/impl.def"
#undef IMPL
#undef IMPL_CAST
}

void ops_init(Ops *ops, const Dev *d)
{
    *ops = (Ops){
        .linear_scratch = linear_scratch_ref,
        .conv2d_scratch = conv2d_scratch_ref,
        .attention_scratch = attention_scratch_ref,
    };
    for (unsigned isa = DEV_REF; isa <= DEV_AVX512; isa <<= 1)
        if (d->isa & isa) fill(ops, isa);
    if (optim_ops_init) optim_ops_init(&ops->optim, d);
#ifdef SDC_X86
    if (d->isa & (DEV_AVX2 | DEV_AVX512)) {
        if (linear_scratch_x86) ops->linear_scratch = linear_scratch_x86;
        if (conv2d_scratch_x86) ops->conv2d_scratch = conv2d_scratch_x86;
        if (attention_scratch_x86) ops->attention_scratch = attention_scratch_x86;
    }
#endif
}
