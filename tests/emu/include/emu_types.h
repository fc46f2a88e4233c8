/* emu_types.h - CUDA's built-in types and qualifiers for the host (tests/emu/README.md). */
#ifndef EMU_TYPES_H
#define EMU_TYPES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

/* Shared memory is static memory in a section of its own for each object file
 * (EMU_UNIT, from the Makefile), which is filled with NaN before each block. */
#ifndef EMU_UNIT
#define EMU_UNIT one
#endif
#define EMU_JOIN_(a, b) a##b
#define EMU_JOIN(a, b) EMU_JOIN_(a, b)
#define EMU_TEXT_(a) #a
#define EMU_TEXT(a) EMU_TEXT_(a)
#define EMU_SECTION EMU_JOIN(emu_shared_, EMU_UNIT)
#define EMU_SECTION_START EMU_JOIN(__start_, EMU_SECTION)
#define EMU_SECTION_STOP EMU_JOIN(__stop_, EMU_SECTION)
#define __shared__ static __attribute__((section(EMU_TEXT(EMU_SECTION))))
extern "C" unsigned char EMU_SECTION_START[] __attribute__((weak));
extern "C" unsigned char EMU_SECTION_STOP[] __attribute__((weak));

struct uint3 { unsigned x, y, z; };

/* The one type that CUDA's headers too make with a constructor: grid sizes are
 * plain numbers in most launches. */
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

#define EMU_VECTOR(type, base, align2, align4)                                            \
    struct __align__(align2) base##2 { type x, y; };                                      \
    struct base##3 { type x, y, z; };                                                     \
    struct __align__(align4) base##4 { type x, y, z, w; };                                \
    static inline base##2 make_##base##2(type x, type y) { return {x, y}; }               \
    static inline base##3 make_##base##3(type x, type y, type z) { return {x, y, z}; }    \
    static inline base##4 make_##base##4(type x, type y, type z, type w)                  \
    { return {x, y, z, w}; }
EMU_VECTOR(signed char, char, 2, 4)
EMU_VECTOR(unsigned char, uchar, 2, 4)
EMU_VECTOR(short, short, 4, 8)
EMU_VECTOR(unsigned short, ushort, 4, 8)
EMU_VECTOR(int, int, 8, 16)
EMU_VECTOR(float, float, 8, 16)
EMU_VECTOR(double, double, 16, 16)
#undef EMU_VECTOR
struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
struct __align__(16) ulonglong2 { unsigned long long x, y; };
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{ return {x, y, z, w}; }
static inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y)
{ return {x, y}; }

#endif
