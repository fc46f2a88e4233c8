/* optim.c - which version of each optimizer op runs on this machine. */
#include "kernels/optim.h"

void optim_ops_init(OptimOps *ops, const Dev *d)
{
#define X(op) ops->op = op##_ref;
    OPTIM_LIST(X)
#undef X
#ifdef SDC_X86
#define X(op) if (d->isa & DEV_AVX2) ops->op = op##_avx2;
    OPTIM_LIST_X86(X)
#undef X
#define X(op) if (d->isa & DEV_AVX512) ops->op = op##_avx512;
    OPTIM_LIST_X86(X)
#undef X
#endif
#ifdef SDC_CUDA
#define X(op) if (d->isa & DEV_CUDA) ops->op = op##_cuda;
    OPTIM_LIST(X)
#undef X
#endif
    (void)d;
}
