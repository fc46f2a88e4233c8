/* cast.cu - conversion between activation dtypes. */
#include "kernels/cuda/cuda.h"

static __device__ __forceinline__ float f32_same(float v) { return v; }

enum { CAST_THREADS = 256, CAST_VEC = 8 };

typedef struct __align__(16) { float e[CAST_VEC]; } Vec_f32;
typedef struct __align__(16) { __nv_bfloat16 e[CAST_VEC]; } Vec_bf16;
typedef struct __align__(16) { __half e[CAST_VEC]; } Vec_f16;

/* Eight elements to a thread; the last thread has what is left. */
#define CAST(dst, Dst, put, src, Src, get)                                                  \
    static __global__ void cast_##dst##_##src##_kernel(size_t count, Dst *y, const Src *x)  \
    {                                                                                       \
        size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * CAST_VEC;              \
        for (; i < count; i += (size_t)gridDim.x * blockDim.x * CAST_VEC) {                 \
            if (count - i >= CAST_VEC) {                                                    \
                Vec_##src a = *(const Vec_##src *)(x + i);                                  \
                Vec_##dst b;                                                                \
                _Pragma("unroll")                                                           \
                for (int k = 0; k < CAST_VEC; k++) b.e[k] = put(get(a.e[k]));               \
                *(Vec_##dst *)(y + i) = b;                                                  \
            } else {                                                                        \
                for (size_t k = i; k < count; k++) y[k] = put(get(x[k]));                   \
            }                                                                               \
        }                                                                                   \
    }                                                                                       \
    void cast_##dst##_##src##_cuda(Dev *d, size_t count, void *y, const void *x)            \
    {                                                                                       \
        CUDA_LAUNCH(d, cast_##dst##_##src##_kernel,                                         \
                    cuda_blocks(count, (size_t)CAST_THREADS * CAST_VEC), CAST_THREADS, 0,   \
                    count, (Dst *)y, (const Src *)x);                                       \
    }

#define CASTS(src, Src, get) CAST(f32, float, f32_same, src, Src, get)                      \
    CAST(bf16, __nv_bfloat16, bf16_put, src, Src, get)                                      \
    CAST(f16, __half, f16_put, src, Src, get)

CASTS(f32, float, f32_same)
CASTS(bf16, __nv_bfloat16, bf16_get)
CASTS(f16, __half, f16_get)
