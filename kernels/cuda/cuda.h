/* cuda.h - what the CUDA kernels share: the device, launches, element types.
 *
 * The language is C as CUDA's compiler takes it: no templates, classes or
 * overloads. Files of typed ops are compiled once per activation dtype, with
 * -DSDC_F32, -DSDC_BF16 or -DSDC_F16 (as kernels/x86 is once per vector width);
 * they define OP(name), which is name_bf16_cuda and so on. The same bytes are
 * compiled for the host by `make emu`, with tests/emu/include in place of
 * CUDA's headers; so kernels use only what both have:
 *   CUDA_LAUNCH and CUDA_SHARED below instead of <<< >>> and extern __shared__;
 *   __shared__ arrays declared at the top of a kernel; __syncthreads, __syncwarp,
 *   __shfl_sync, __shfl_xor_sync, __shfl_down_sync, __ballot_sync; integer
 *   atomics; math.h's float functions; kernels/cuda/ptx.h for everything that
 *   needs an instruction by name.
 * Reductions have one fixed order and no float atomics: results repeat.
 */
#ifndef SDC_KERNELS_CUDA_CUDA_H
#define SDC_KERNELS_CUDA_CUDA_H

#include <assert.h>
#include <math.h>
#include <stdint.h>

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#ifdef SDC_CUDNN
#include <cudnn.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif
#include "kernels/impl.h"
#ifdef __cplusplus
}
#endif

/* A GPU as a Dev (kernels/dev_cuda.cu). All work runs on one stream. */
typedef struct CudaDev {
    Dev dev;                 /* first: a Dev * is a CudaDev * */
    int device;              /* its number */
    int sm;                  /* compute capability, 86 for 8.6 */
    int processors;          /* streaming multiprocessors */
    size_t shared_max;       /* bytes of shared memory a block may ask for */
    cudaStream_t stream;
    cublasLtHandle_t blas;
#ifdef SDC_CUDNN
    cudnnHandle_t dnn;
#endif
    struct CudaPlans *plans; /* algorithms found so far, by shape (kernels/cuda/plans.h) */
    void *reduce;            /* CUDA_REDUCE bytes for the partial sums of ops that have no */
                             /* *_scratch() of their own, the optimizer's included */
    char name[160];
    char error[256];         /* the first failure, "kernel NAME: what CUDA says"; "" */
} CudaDev;

enum { CUDA_REDUCE = 4 << 20 };

static inline CudaDev *cuda_dev(Dev *d) { return (CudaDev *)d; }

#ifdef __cplusplus
extern "C" {
#endif
/* Keeps the first failure for dev_failure(). what: the kernel or call. */
void cuda_fail(Dev *d, const char *what, const char *why);
/* The same for a cudaError_t, when it is one; 1 when it is. */
int cuda_failed(Dev *d, const char *what, cudaError_t rc);
/* Frees c->plans, NULL ok (kernels/cuda/plans.cu). */
void cuda_plans_free(CudaDev *c);
#ifdef __cplusplus
}
#endif

/* Queues kernel<<<grid, block, shared>>>(...) on the device's stream. shared
 * beyond 48 KiB needs CUDA_SHARED_MAX(d, kernel, shared) before it. An emulator
 * defines its own. */
#ifndef CUDA_LAUNCH
#define CUDA_LAUNCH(d, kernel, grid, block, shared, ...)                                    \
    do {                                                                                    \
        kernel<<<(grid), (block), (shared), cuda_dev(d)->stream>>>(__VA_ARGS__);            \
        cuda_failed((d), #kernel, cudaGetLastError());                                      \
    } while (0)
#define CUDA_SHARED_MAX(d, kernel, shared)                                                  \
    cuda_failed((d), #kernel, cudaFuncSetAttribute((const void *)(kernel),                  \
                cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(shared)))
/* Declares `type *name`, the block's dynamic shared memory, 16-byte aligned. */
#define CUDA_SHARED(type, name)                                                             \
    extern __shared__ __align__(16) unsigned char cuda_shared_bytes[];                      \
    type *name = (type *)cuda_shared_bytes
#endif

/* Blocks of `per` threads that cover n, limited for grid-stride loops. */
static inline unsigned cuda_blocks(size_t n, size_t per)
{
    size_t b = (n + per - 1) / per;
    return (unsigned)(b < 1 ? 1 : b > 65535u * 16 ? 65535u * 16 : b);
}

/* ---- element types ------------------------------------------------------- */

static __device__ __forceinline__ float f16_get(__half v) { return __half2float(v); }
static __device__ __forceinline__ __half f16_put(float v) { return __float2half_rn(v); }
static __device__ __forceinline__ float bf16_get(__nv_bfloat16 v) { return __bfloat162float(v); }
static __device__ __forceinline__ __nv_bfloat16 bf16_put(float v) { return __float2bfloat16_rn(v); }

/* In a typed file: Elem, its dtype DT, elem_get, elem_put and VEC, the elements
 * of 16 bytes. */
#if defined SDC_F32
typedef float Elem;
enum { DT = DT_F32, VEC = 4 };
static __device__ __forceinline__ float elem_get(float v) { return v; }
static __device__ __forceinline__ float elem_put(float v) { return v; }
#define OP(name) name##_f32_cuda
#elif defined SDC_BF16
typedef __nv_bfloat16 Elem;
enum { DT = DT_BF16, VEC = 8 };
#define elem_get bf16_get
#define elem_put bf16_put
#define OP(name) name##_bf16_cuda
#elif defined SDC_F16
typedef __half Elem;
enum { DT = DT_F16, VEC = 8 };
#define elem_get f16_get
#define elem_put f16_put
#define OP(name) name##_f16_cuda
#endif

#ifdef OP
/* 16 bytes of elements, loaded and stored at once where the address is a
 * multiple of 16. */
typedef struct __align__(16) { Elem e[VEC]; } ElemVec;
#endif

/* ---- reductions ---------------------------------------------------------- */

/* v[i] of each lane, i < n = the sum or maximum of the v[i] of its run of `lanes` lanes
 * (2, 4 .. 32), half a run against the other first. All lanes of the warp call, n and
 * lanes are constants. The emulator's are one step for all lanes. */
#ifndef lanes_sum
#define LANES_EACH(n, lanes, v, expr)                                                       \
    _Pragma("unroll") for (int o = (lanes) / 2; o; o >>= 1)                                 \
        _Pragma("unroll") for (int i = 0; i < (n); i++) {                                   \
            float other = __shfl_xor_sync(0xffffffffu, v[i], o);                            \
            v[i] = expr;                                                                    \
        }
static __device__ __forceinline__ void lanes_sum(const int n, const int lanes, float *v)
{
    LANES_EACH(n, lanes, v, v[i] + other)
}

static __device__ __forceinline__ void lanes_max(const int n, const int lanes, float *v)
{
    LANES_EACH(n, lanes, v, fmaxf(v[i], other))
}
#endif

/* Sum or maximum over the 32 lanes of a warp, in every lane. */
static __device__ __forceinline__ float warp_sum(float v)
{
    lanes_sum(1, 32, &v);
    return v;
}

static __device__ __forceinline__ float warp_max(float v)
{
    lanes_max(1, 32, &v);
    return v;
}

/* Sum over a block of blockDim.x threads (a multiple of 32, at most 1024), in
 * every thread. part: 32 floats of shared memory, free again on return. */
static __device__ __forceinline__ float block_sum(float v, float *part)
{
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    v = warp_sum(v);
    if (!lane) part[warp] = v;
    __syncthreads();
    v = warp_sum(lane < warps ? part[lane] : 0.0f);
    __syncthreads();
    return v;
}

#endif
