/* ptx.h - instructions that C has no name for, as functions.
 *
 * Each is one instruction of the PTX ISA 8 (section named beside it), called by
 * all 32 lanes of a warp. For the host, tests/emu/include/ptx_emu.h has the same
 * functions with the same fragments.
 */
#ifndef SDC_KERNELS_CUDA_PTX_H
#define SDC_KERNELS_CUDA_PTX_H

#include "kernels/cuda/cuda.h"

#ifndef __CUDACC__
#include "ptx_emu.h"
#else

/* 9.7.14.5.8, mma.m16n8k16: d (16,8) f32 += a (16,16) b (16,8), tensor cores of
 * sm_80 and later, for f16 also of sm_75. With g = lane / 4 and t = lane % 4, and two elements to a
 * register, the lower column (a) or row (b) in the low half:
 *   a[0] row g,   columns 2t, 2t+1     a[1] row g+8, columns 2t, 2t+1
 *   a[2] row g,   columns 2t+8, 2t+9   a[3] row g+8, columns 2t+8, 2t+9
 *   b[0] rows 2t, 2t+1 of column g     b[1] rows 2t+8, 2t+9 of column g
 *   d[0] row g, column 2t   d[1] row g, column 2t+1   d[2], d[3] the same of row g+8 */
static __device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4],
                                                const uint32_t b[2])
{
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

static __device__ __forceinline__ void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif __CUDA_ARCH__ >= 750     /* m16n8k8, section 9.7.14.5.7, once for each half of k */
#pragma unroll
    for (int h = 0; h < 2; h++)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                     "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[2 * h]), "r"(a[2 * h + 1]), "r"(b[h]));
#endif
}

/* 9.7.14.5.15, ldmatrix: four 8x8 matrices of 16-bit elements from shared
 * memory, r[i] from the rows whose addresses (multiples of 16) lanes 8i..8i+7
 * give. Lane l gets elements 2(l%4), 2(l%4)+1 of row l/4 of each; transposed,
 * of column l/4. */
static __device__ __forceinline__ void ldmatrix4(uint32_t r[4], const void *row)
{
    unsigned a = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
}

static __device__ __forceinline__ void ldmatrix4_trans(uint32_t r[4], const void *row)
{
    unsigned a = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a) : "memory");
}

/* 9.7.9.25, cp.async: 16 bytes from global to shared memory, both addresses
 * multiples of 16, without passing through registers; zeros when not `valid`
 * (src is then not read). Before sm_80 a plain copy. The bytes may be read after
 * copy_async_wait and a barrier. */
static __device__ __forceinline__ void copy_async16(void *shared, const void *src, int valid)
{
#if __CUDA_ARCH__ >= 800
    unsigned a = (unsigned)__cvta_generic_to_shared(shared);
    int n = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(a), "l"(src), "r"(n)
                 : "memory");
#else
    *(uint4 *)shared = valid ? *(const uint4 *)src : make_uint4(0, 0, 0, 0);
#endif
}

/* Closes the group of copies issued since the last one. */
static __device__ __forceinline__ void copy_async_commit(void)
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits until at most PENDING groups, a literal, are under way. */
#if __CUDA_ARCH__ >= 800
#define copy_async_wait(PENDING) asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory")
#else
#define copy_async_wait(PENDING) ((void)0)
#endif

#endif
#endif
