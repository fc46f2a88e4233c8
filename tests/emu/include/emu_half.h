/* emu_half.h - the storage formats of cuda_fp16.h and cuda_bf16.h: f32 to and from 16 bits. */
#ifndef EMU_HALF_H
#define EMU_HALF_H

#include "emu_device.h"
#include "kernels/half.h"

#define EMU_HALF_TYPE(T, T2, raw)                                                         \
    struct __align__(2) T { uint16_t bits; };                                             \
    struct __align__(4) T2 { T x, y; };                                                   \
    typedef T raw;

EMU_HALF_TYPE(__half, __half2, __half_raw)
EMU_HALF_TYPE(__nv_bfloat16, __nv_bfloat162, __nv_bfloat16_raw)
#undef EMU_HALF_TYPE
typedef __half half;
typedef __half2 half2;
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

static inline float __half2float(__half v) { return f16_to_f32(v.bits); }
static inline __half __float2half_rn(float v) { return {f32_to_f16(v)}; }
static inline __half __float2half(float v) { return {f32_to_f16(v)}; }
static inline unsigned short __half_as_ushort(__half v) { return v.bits; }
static inline __half __ushort_as_half(unsigned short v) { return {v}; }
static inline __half2 __floats2half2_rn(float x, float y)
{ return {__float2half_rn(x), __float2half_rn(y)}; }
static inline float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }
static inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
static inline __half __low2half(__half2 v) { return v.x; }
static inline __half __high2half(__half2 v) { return v.y; }
static inline float __low2float(__half2 v) { return __half2float(v.x); }
static inline float __high2float(__half2 v) { return __half2float(v.y); }

static inline float __bfloat162float(__nv_bfloat16 v) { return bf16_to_f32(v.bits); }
static inline __nv_bfloat16 __float2bfloat16_rn(float v) { return {f32_to_bf16(v)}; }
static inline __nv_bfloat16 __float2bfloat16(float v) { return {f32_to_bf16(v)}; }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) { return v.bits; }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short v) { return {v}; }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{ return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)}; }
static inline float2 __bfloat1622float2(__nv_bfloat162 v)
{ return {__bfloat162float(v.x), __bfloat162float(v.y)}; }
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
static inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v) { return v.x; }
static inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v) { return v.y; }

#endif
