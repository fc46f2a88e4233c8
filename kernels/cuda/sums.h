/* sums.h - sums in f64 over whole arrays, in a fixed order, for the optimizer's kernels. */
#ifndef SDC_KERNELS_CUDA_SUMS_H
#define SDC_KERNELS_CUDA_SUMS_H

#include "kernels/cuda/optim.h"

enum { OPTIM_BLOCKS = 8 * OPTIM_PARTS };

/* The parts of a sum, 8 to each of OPTIM_PARTS, are a function of count alone;
 * small arrays are one part. */
static unsigned sum_blocks(size_t count)
{
    unsigned b = cuda_blocks(count, OPTIM_THREADS * 32);
    return b < OPTIM_BLOCKS ? b : (unsigned)OPTIM_BLOCKS;
}

/* Sum over a block, in thread 0. shared: 32 doubles, free again on return. */
static __device__ __forceinline__ double block_sum_f64(double v, double *shared)
{
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    if (!lane) shared[warp] = v;
    __syncthreads();
    double s = 0;
    for (int w = 0; !threadIdx.x && w < warps; w++) s += shared[w];
    __syncthreads();
    return s;
}

/* out[k] = sum of part[k], part[k + of], ... for k < of. */
static __global__ void sum_total(int parts, int of, double *out, const double *part)
{
    __shared__ double shared[32];
    for (int k = 0; k < of; k++) {
        double s = 0;
        for (int i = (int)threadIdx.x; i < parts; i += (int)blockDim.x) s += part[i * of + k];
        s = block_sum_f64(s, shared);
        if (!threadIdx.x) out[k] = s;
    }
}

/* Where the blocks of a sum write: straight to out when there is only one. */
static double *sum_room(Dev *d, unsigned blocks, double *out)
{
    return blocks == 1 ? out : (double *)cuda_dev(d)->reduce;
}

static void sum_finish(Dev *d, unsigned blocks, int of, double *out)
{
    if (blocks > 1)
        CUDA_LAUNCH(d, sum_total, 1, OPTIM_THREADS, 0, (int)blocks, of, out,
                    (const double *)cuda_dev(d)->reduce);
}

#endif
