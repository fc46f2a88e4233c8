/* ops.c - fills the table of ops (ops.h) from the list of versions (impl.def). */
#include "kernels/impl.h"

enum { ISA_ref = DEV_REF, ISA_avx2 = DEV_AVX2, ISA_avx512 = DEV_AVX512,
       ISA_avx512bf16 = DEV_BF16, ISA_cuda = DEV_CUDA };
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

static size_t attention_scratch_ref(const Dev *d, const Attention *p, Dtype dt, int backward)
{
    (void)d, (void)p, (void)dt, (void)backward;
    return 0;
}

/* One pass over the list for each instruction set, plainest first, so that the
 * order of lines in impl.def does not matter. */
static void fill(Ops *ops, unsigned isa)
{
#define IMPL(op_, dt, impl)                                                              \
    if (ISA_##impl == isa) ops->op_[DT_##dt] = op_##_##dt##_##impl;
#define IMPL_CAST(dst, src, impl)                                                        \
    if (ISA_##impl == isa) ops->cast[DT_##dst][DT_##src] = cast_##dst##_##src##_##impl;
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
        .int8 = !(d->isa & DEV_CUDA),
    };
    for (unsigned isa = DEV_REF; isa <= DEV_BF16; isa <<= 1)
        if (d->isa & isa) fill(ops, isa);
    optim_ops_init(&ops->optim, d);
#ifdef SDC_X86
    if (d->isa & (DEV_AVX2 | DEV_AVX512 | DEV_BF16)) {
        ops->linear_scratch = linear_scratch_x86;
        ops->conv2d_scratch = conv2d_scratch_x86;
        ops->attention_scratch = attention_scratch_x86;
        ops->strips = 1;
    }
#endif
#ifdef SDC_CUDA
    if (d->isa & DEV_CUDA) {
        ops->linear_scratch = linear_scratch_cuda;
        ops->conv2d_scratch = conv2d_scratch_cuda;
        ops->attention_scratch = attention_scratch_cuda;
    }
#endif
}
