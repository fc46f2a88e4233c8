/* emu_device.h - what a kernel calls: indices, barriers, shuffles, atomics, math. */
#ifndef EMU_DEVICE_H
#define EMU_DEVICE_H

#include <math.h>

#include "emu_types.h"

/* Of the thread that runs now; gridDim and blockDim of its launch. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
static const int warpSize = 32;

/* The runtime's side (tests/emu/block.cc). Each waits until the threads it
 * concerns have arrived; a thread that never can arrive ends the process with
 * a message. */
enum EmuVote { EMU_COUNT, EMU_AND, EMU_OR };
int emu_barrier(EmuVote vote, int value);
void emu_syncwarp(unsigned mask);
unsigned emu_ballot(const char *what, unsigned mask, int value);
enum EmuShuffle { EMU_IDX, EMU_UP, EMU_DOWN, EMU_XOR };
uint64_t emu_shuffle(EmuShuffle kind, unsigned mask, uint64_t value, int by, int width);
extern void *emu_dynamic_shared;

/* Memory that other threads may have changed must be read again. */
#define EMU_FENCE() __asm__ volatile("" ::: "memory")

static inline void __syncthreads(void) { EMU_FENCE(); emu_barrier(EMU_COUNT, 0); EMU_FENCE(); }
static inline int __syncthreads_count(int v) { return emu_barrier(EMU_COUNT, v); }
static inline int __syncthreads_and(int v) { return emu_barrier(EMU_AND, v); }
static inline int __syncthreads_or(int v) { return emu_barrier(EMU_OR, v); }
static inline void __syncwarp(unsigned mask = 0xffffffffu)
{ EMU_FENCE(); emu_syncwarp(mask); EMU_FENCE(); }
static inline void __threadfence(void) { EMU_FENCE(); }
static inline void __threadfence_block(void) { EMU_FENCE(); }

static inline unsigned __ballot_sync(unsigned mask, int v)
{ return emu_ballot("__ballot_sync", mask, v); }
static inline int __any_sync(unsigned mask, int v)
{ return emu_ballot("__any_sync", mask, v) != 0; }
static inline int __all_sync(unsigned mask, int v)
{ return emu_ballot("__all_sync", mask, v) == mask; }

template <class T>
static inline T emu_shuffle_of(EmuShuffle kind, unsigned mask, T v, int by, int width)
{
    static_assert(sizeof(T) <= 8, "shuffles move 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof v);
    bits = emu_shuffle(kind, mask, bits, by, width);
    memcpy(&v, &bits, sizeof v);
    return v;
}
template <class T> static inline T __shfl_sync(unsigned mask, T v, int lane, int width = 32)
{ return emu_shuffle_of(EMU_IDX, mask, v, lane, width); }
template <class T> static inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32)
{ return emu_shuffle_of(EMU_UP, mask, v, (int)by, width); }
template <class T> static inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32)
{ return emu_shuffle_of(EMU_DOWN, mask, v, (int)by, width); }
template <class T> static inline T __shfl_xor_sync(unsigned mask, T v, int by, int width = 32)
{ return emu_shuffle_of(EMU_XOR, mask, v, by, width); }

/* kernels/cuda/cuda.h's, in its order of steps: lanes meet once for all of them. */
void emu_lanes(int max, int n, int lanes, float *v);
#define lanes_sum(n, lanes, v) emu_lanes(0, n, lanes, v)
#define lanes_max(n, lanes, v) emu_lanes(1, n, lanes, v)

/* Threads change places only where they wait, so a plain update is atomic. Of
 * integers only: sums of floats by atomics would not repeat. */
#define EMU_ATOMIC(name, type, expr)                                                      \
    static inline type name(type *p, type v)                                              \
    { type old = *(volatile type *)p; *(volatile type *)p = (type)(expr); return old; }
#define EMU_ATOMICS(type)                                                                 \
    EMU_ATOMIC(atomicAdd, type, old + v) EMU_ATOMIC(atomicMax, type, old > v ? old : v)    \
    EMU_ATOMIC(atomicMin, type, old < v ? old : v) EMU_ATOMIC(atomicExch, type, v)         \
    EMU_ATOMIC(atomicAnd, type, old & v) EMU_ATOMIC(atomicOr, type, old | v)               \
    static inline type atomicCAS(type *p, type want, type v)                              \
    { type old = *(volatile type *)p; if (old == want) *(volatile type *)p = v; return old; }
EMU_ATOMICS(int)
EMU_ATOMICS(unsigned)
EMU_ATOMICS(unsigned long long)
EMU_ATOMIC(atomicSub, int, old - v)
EMU_ATOMIC(atomicSub, unsigned, old - v)
EMU_ATOMIC(atomicInc, unsigned, old >= v ? 0 : old + 1)
#undef EMU_ATOMICS
#undef EMU_ATOMIC

template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T __ldcs(const T *p) { return *p; }
template <class T> static inline T __ldcg(const T *p) { return *p; }
template <class T> static inline void __stcs(T *p, T v) { *p = v; }
template <class T> static inline void __stcg(T *p, T v) { *p = v; }

#define EMU_MINMAX(type, a, b)                                                            \
    static inline type min(a x, b y) { return (type)x < (type)y ? (type)x : (type)y; }    \
    static inline type max(a x, b y) { return (type)x > (type)y ? (type)x : (type)y; }
EMU_MINMAX(int, int, int)
EMU_MINMAX(unsigned, unsigned, unsigned)
EMU_MINMAX(unsigned, int, unsigned)
EMU_MINMAX(unsigned, unsigned, int)
EMU_MINMAX(long, long, long)
EMU_MINMAX(unsigned long, unsigned long, unsigned long)
EMU_MINMAX(unsigned long, long, unsigned long)
EMU_MINMAX(unsigned long, unsigned long, long)
EMU_MINMAX(long long, long long, long long)
EMU_MINMAX(unsigned long long, unsigned long long, unsigned long long)
#undef EMU_MINMAX
#define EMU_MINMAX(type, a, b, suffix)                                                    \
    static inline type min(a x, b y) { return fmin##suffix(x, y); }                       \
    static inline type max(a x, b y) { return fmax##suffix(x, y); }
EMU_MINMAX(float, float, float, f)
EMU_MINMAX(double, double, double, )
EMU_MINMAX(double, float, double, )
EMU_MINMAX(double, double, float, )
#undef EMU_MINMAX

static inline unsigned __float_as_uint(float v) { unsigned u; memcpy(&u, &v, 4); return u; }
static inline int __float_as_int(float v) { int u; memcpy(&u, &v, 4); return u; }
static inline float __uint_as_float(unsigned u) { float v; memcpy(&v, &u, 4); return v; }
static inline float __int_as_float(int u) { float v; memcpy(&v, &u, 4); return v; }
static inline long long __double_as_longlong(double v)
{ long long u; memcpy(&u, &v, 8); return u; }
static inline double __longlong_as_double(long long u)
{ double v; memcpy(&v, &u, 8); return v; }

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
/* Macros, since glibc has functions of these names. */
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanhf(x) tanhf(x)
#define __powf(x, y) powf(x, y)
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }
static inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678f); }
static inline void sincospif(float x, float *s, float *c)
{ *s = (float)sin(M_PI * x), *c = (float)cos(M_PI * x); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __frsqrt_rn(float a) { return 1.0f / sqrtf(a); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline int __float2int_rn(float a) { return (int)rintf(a); }
static inline int __float2int_rz(float a) { return (int)a; }
static inline int __float2int_rd(float a) { return (int)floorf(a); }
static inline unsigned __float2uint_rn(float a) { return (unsigned)rintf(a); }
static inline float __int2float_rn(int a) { return (float)a; }
static inline float __uint2float_rn(unsigned a) { return (float)a; }
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline unsigned __umulhi(unsigned a, unsigned b)
{ return (unsigned)((uint64_t)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{ return (unsigned long long)((unsigned __int128)a * b >> 64); }
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s)
{
    uint64_t both = (uint64_t)y << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; i++)
        r |= (unsigned)(both >> 8 * (s >> 4 * i & 7) & 0xff) << 8 * i;
    return r;
}

#endif
