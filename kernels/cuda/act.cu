/* act.cu - activations, GEGLU and addition, forward and backward. */
#include "kernels/cuda/columns.h"

#define SQRT1_2 0.70710678118654752440f
#define SQRT1_2PI 0.39894228040143267794f

static __device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
static __device__ __forceinline__ float gelu(float x)
{
    return 0.5f * x * (1.0f + erff(x * SQRT1_2));
}

static __device__ __forceinline__ float gelu_slope(float x)
{
    return 0.5f * (1.0f + erff(x * SQRT1_2)) + x * (SQRT1_2PI * expf(-0.5f * x * x));
}

/* The argument of the sigmoid in x sigmoid(u) and its slope. */
static __device__ __forceinline__ float act_inner(int kind, float x, float *slope)
{
    float a = kind == ACT_SILU ? 1.0f : 1.702f, b = 0.0f;
    if (kind == ACT_GELU_TANH) a = (float)GELU_TANH_A, b = (float)GELU_TANH_B * x * x;
    *slope = a + 3.0f * b;
    return x * (a + b);
}

static __device__ __forceinline__ float act_value(int kind, float x)
{
    float slope;
    if (kind == ACT_GELU) return gelu(x);
    return x * sigmoid(act_inner(kind, x, &slope));
}

static __device__ __forceinline__ float act_slope(int kind, float x)
{
    if (kind == ACT_GELU) return gelu_slope(x);
    float slope, s = sigmoid(act_inner(kind, x, &slope));
    return s + x * s * (1.0f - s) * slope;
}

/* Once per kind, so that no element asks for it. */
static __device__ __forceinline__ void act_all(const int kind, size_t count, Elem *y, const Elem *x)
{
    FLAT_EACH(count, i, m) {
        float v[VEC];
        vec_get(v, x + i, m);
#pragma unroll
        for (int k = 0; k < VEC; k++) v[k] = act_value(kind, v[k]);
        vec_put(y + i, v, m);
    }
}

static __global__ void act_kernel(Act p, Elem *y, const Elem *x)
{
    if (p.kind == ACT_SILU) act_all(ACT_SILU, p.count, y, x);
    else if (p.kind == ACT_GELU) act_all(ACT_GELU, p.count, y, x);
    else if (p.kind == ACT_GELU_TANH) act_all(ACT_GELU_TANH, p.count, y, x);
    else act_all(ACT_QUICK_GELU, p.count, y, x);
}

void OP(act)(Dev *d, const Act *p, void *y, const void *x)
{
    CUDA_LAUNCH(d, act_kernel, flat_blocks(p->count), FLAT_THREADS, 0, *p, (Elem *)y,
                (const Elem *)x);
}

static __device__ __forceinline__ void act_bwd_all(const int kind, size_t count, Elem *dx,
                                                   const Elem *dy, const Elem *x, int acc)
{
    FLAT_EACH(count, i, m) {
        float v[VEC], g[VEC];
        vec_get(v, x + i, m);
        vec_get(g, dy + i, m);
#pragma unroll
        for (int k = 0; k < VEC; k++) g[k] *= act_slope(kind, v[k]);
        vec_acc(dx + i, g, m, acc);
    }
}

static __global__ void act_bwd_kernel(Act p, Elem *dx, const Elem *dy, const Elem *x, int acc)
{
    if (p.kind == ACT_SILU) act_bwd_all(ACT_SILU, p.count, dx, dy, x, acc);
    else if (p.kind == ACT_GELU) act_bwd_all(ACT_GELU, p.count, dx, dy, x, acc);
    else if (p.kind == ACT_GELU_TANH) act_bwd_all(ACT_GELU_TANH, p.count, dx, dy, x, acc);
    else act_bwd_all(ACT_QUICK_GELU, p.count, dx, dy, x, acc);
}

void OP(act_bwd)(Dev *d, const Act *p, void *dx, const void *dy, const void *x, int acc)
{
    CUDA_LAUNCH(d, act_bwd_kernel, flat_blocks(p->count), FLAT_THREADS, 0, *p, (Elem *)dx,
                (const Elem *)dy, (const Elem *)x, acc);
}

/* A row of C outputs is C / width threads of one grid-stride loop. */
static __global__ void geglu_kernel(size_t units, int c, int width, Elem *y, const Elem *x)
{
    unsigned per = (unsigned)(c / width);
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i < units; i += (size_t)gridDim.x * blockDim.x) {
        unsigned r = (unsigned)i / per, k = ((unsigned)i - r * per) * width;
        float a[VEC], g[VEC];
        vec_get(a, x + (size_t)r * 2 * c + k, width);
        vec_get(g, x + (size_t)r * 2 * c + c + k, width);
#pragma unroll
        for (int j = 0; j < VEC; j++) a[j] *= gelu(g[j]);
        vec_put(y + (size_t)r * c + k, a, width);
    }
}

/* Threads of a geglu; they are counted in 32 bits, as 64-bit division is slow. */
static size_t geglu_units(const Geglu *p, int *width)
{
    *width = p->c % VEC ? 1 : VEC;
    size_t units = (size_t)p->rows * (p->c / *width);
    assert(units <= UINT32_MAX);
    return units;
}

void OP(geglu)(Dev *d, const Geglu *p, void *y, const void *x)
{
    int width;
    size_t units = geglu_units(p, &width);
    CUDA_LAUNCH(d, geglu_kernel, cuda_blocks(units, FLAT_THREADS), FLAT_THREADS, 0, units, p->c,
                width, (Elem *)y, (const Elem *)x);
}

static __global__ void geglu_bwd_kernel(size_t units, int c, int width, Elem *dx, const Elem *dy,
                                        const Elem *x, int acc)
{
    unsigned per = (unsigned)(c / width);
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i < units; i += (size_t)gridDim.x * blockDim.x) {
        unsigned r = (unsigned)i / per, k = ((unsigned)i - r * per) * width;
        size_t lin = (size_t)r * 2 * c + k, gate = lin + c;
        float a[VEC], g[VEC], e[VEC];
        vec_get(a, x + lin, width);
        vec_get(g, x + gate, width);
        vec_get(e, dy + (size_t)r * c + k, width);
#pragma unroll
        for (int j = 0; j < VEC; j++) {
            a[j] *= e[j] * gelu_slope(g[j]);
            e[j] *= gelu(g[j]);
        }
        vec_acc(dx + lin, e, width, acc);
        vec_acc(dx + gate, a, width, acc);
    }
}

void OP(geglu_bwd)(Dev *d, const Geglu *p, void *dx, const void *dy, const void *x, int acc)
{
    int width;
    size_t units = geglu_units(p, &width);
    CUDA_LAUNCH(d, geglu_bwd_kernel, cuda_blocks(units, FLAT_THREADS), FLAT_THREADS, 0, units, p->c,
                width, (Elem *)dx, (const Elem *)dy, (const Elem *)x, acc);
}

static __global__ void add_kernel(size_t count, Elem *y, const Elem *a, const Elem *b)
{
    FLAT_EACH(count, i, m) {
        float u[VEC], v[VEC];
        vec_get(u, a + i, m);
        vec_get(v, b + i, m);
#pragma unroll
        for (int k = 0; k < VEC; k++) u[k] += v[k];
        vec_put(y + i, u, m);
    }
}

void OP(add)(Dev *d, size_t count, void *y, const void *a, const void *b)
{
    CUDA_LAUNCH(d, add_kernel, flat_blocks(count), FLAT_THREADS, 0, count, (Elem *)y,
                (const Elem *)a, (const Elem *)b);
}
