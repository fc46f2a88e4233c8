/* file_dtype.c - element types of tensor files: names, sizes, conversions to
 * and from f32 (tensorfile.h). Works on raw little-endian bytes at any
 * alignment; the host is little-endian. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "engine/tensorfile.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensor files are little-endian");

static const struct {
    const char *name;
    uint8_t bytes;
} dtypes[] = {
    [FD_BOOL] = {"BOOL", 1}, [FD_U8] = {"U8", 1},
    [FD_I8] = {"I8", 1}, [FD_F8_E5M2] = {"F8_E5M2", 1},
    [FD_F8_E4M3] = {"F8_E4M3", 1}, [FD_I16] = {"I16", 2},
    [FD_U16] = {"U16", 2}, [FD_F16] = {"F16", 2},
    [FD_BF16] = {"BF16", 2}, [FD_I32] = {"I32", 4},
    [FD_U32] = {"U32", 4}, [FD_F32] = {"F32", 4},
    [FD_F64] = {"F64", 8}, [FD_I64] = {"I64", 8},
    [FD_U64] = {"U64", 8}, [FD_OTHER] = {"?", 0},
};

size_t file_dtype_bytes(FileDtype dt) { return dtypes[dt].bytes; }
const char *file_dtype_name(FileDtype dt) { return dtypes[dt].name; }

FileDtype file_dtype_by_name(const char *name)
{
    for (int i = 0; i < FD_OTHER; i++)
        if (!strcmp(dtypes[i].name, name)) return (FileDtype)i;
    return FD_OTHER;
}

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static uint32_t to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* Small floats: 1 sign bit, an exponent with this bias, `man` mantissa bits.
 * The functions below work on the magnitude, as bits.
 *
 * narrow: |x| to the small format, round to nearest even. A subnormal result
 * is rounded by adding the power of two whose last place is the smallest
 * subnormal; a normal one by adding just under half of what is cut off, and 1
 * more when the last kept bit is odd. Too large values carry into exponents
 * beyond the format's largest: the caller tests for those. */
static inline uint32_t narrow(uint32_t a, int man, int bias)
{
    int cut = 23 - man;
    if (a < (uint32_t)(128 - bias) << 23) {
        uint32_t magic = (uint32_t)(128 - bias + cut) << 23;
        return to_bits(from_bits(a) + from_bits(magic)) - magic;
    }
    a -= (uint32_t)(127 - bias) << 23;
    return (a + (1u << (cut - 1)) - 1 + (a >> cut & 1)) >> cut;
}

/* Exact. A subnormal is read as a normal number of the smallest exponent, whose
 * implied leading 1 is then subtracted. */
static inline float widen(uint32_t m, int man, int bias)
{
    uint32_t u = (m << (23 - man)) + ((uint32_t)(127 - bias) << 23);
    if (m >> man) return from_bits(u);
    return from_bits(u + (1u << 23)) - from_bits((uint32_t)(128 - bias) << 23);
}

static float with_sign(float x, uint32_t negative) { return negative ? -x : x; }

static float f16_to_f32(uint16_t h)
{
    uint32_t m = h & 0x7fffu;
    float x = m >= 0x7c00 ? from_bits(0x7f800000u | (m & 0x3ff) << 13) : widen(m, 10, 15);
    return with_sign(x, h >> 15);
}

static uint16_t f16_from_f32(float x)
{
    uint32_t u = to_bits(x), a = u & 0x7fffffffu, r;
    if (a > 0x7f800000u) r = 0x7e00;
    else if (a >= 0x47800000u) r = 0x7c00;           /* 65536; 65520 gets here by carry */
    else r = narrow(a, 10, 15);
    return (uint16_t)(r | (u >> 16 & 0x8000));
}

static uint16_t bf16_from_f32(float x)
{
    uint32_t u = to_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static uint8_t e5m2_from_f32(float x)
{
    uint32_t u = to_bits(x), a = u & 0x7fffffffu, r;
    if (a > 0x7f800000u) r = 0x7f;
    else if (a >= 0x47800000u) r = 0x7c;
    else r = narrow(a, 2, 15);
    return (uint8_t)(r | (u >> 24 & 0x80));
}

/* E4M3FN: no infinity, one NaN (all ones), largest number 448. */
static float e4m3_to_f32(uint8_t h)
{
    uint32_t m = h & 0x7fu;
    return with_sign(m == 0x7f ? from_bits(0x7fc00000u) : widen(m, 3, 7), h >> 7);
}

static uint8_t e4m3_from_f32(float x)
{
    uint32_t u = to_bits(x), a = u & 0x7fffffffu;
    uint32_t r = a >= 0x43f00000u ? 0x7f : narrow(a, 3, 7);     /* 480 */
    return (uint8_t)(r | (u >> 24 & 0x80));
}

/* Rounds to nearest even and saturates to [lo, hi]; hi+1 is a power of two and
 * thus exact as f32. */
static int64_t int_from_f32(float x, int64_t lo, int64_t hi)
{
    if (isnan(x)) return 0;
    x = nearbyintf(x);
    if (x <= (float)lo) return lo;
    return x >= (float)hi ? hi : (int64_t)x;
}

static uint64_t u64_from_f32(float x)
{
    if (!(x > 0)) return 0;
    return x >= 0x1p64f ? UINT64_MAX : (uint64_t)nearbyintf(x);
}

/* One loop per type: T is the stored type, v the value read or made. */
#define EACH_READ(T, expr)                                              \
    for (size_t i = 0; i < count; i++) {                                \
        T v;                                                            \
        memcpy(&v, s + i * sizeof v, sizeof v);                         \
        dst[i] = (expr);                                                \
    }                                                                   \
    break
#define EACH_WRITE(T, expr)                                             \
    for (size_t i = 0; i < count; i++) {                                \
        float x = src[i];                                               \
        T v = (T)(expr);                                                \
        memcpy(d + i * sizeof v, &v, sizeof v);                         \
    }                                                                   \
    break

/* f16_to_f32 without branches, for whole models: 2^112 moves the exponent's bias
 * and makes normals of subnormals exactly; infinity and NaN get their exponent. */
static void f16_array(float *dst, const uint8_t *s, size_t count)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        uint16_t h;
        memcpy(&h, s + 2 * i, 2);
        uint32_t m = h & 0x7fffu, special = 0u - (uint32_t)(m >= 0x7c00);
        uint32_t u = to_bits(from_bits(m << 13) * 0x1p112f);
        dst[i] = from_bits(u | (special & 0x7f800000u) | (uint32_t)(h & 0x8000) << 16);
    }
}

void file_dtype_to_f32(FileDtype dt, float *dst, const void *src, size_t count)
{
    const uint8_t *s = src;
    switch (dt) {
    case FD_BOOL: EACH_READ(uint8_t, v != 0);
    case FD_U8: EACH_READ(uint8_t, v);
    case FD_I8: EACH_READ(int8_t, v);
    case FD_F8_E5M2: EACH_READ(uint8_t, f16_to_f32((uint16_t)(v << 8)));
    case FD_F8_E4M3: EACH_READ(uint8_t, e4m3_to_f32(v));
    case FD_I16: EACH_READ(int16_t, v);
    case FD_U16: EACH_READ(uint16_t, v);
    case FD_F16: f16_array(dst, s, count); break;
    case FD_BF16: EACH_READ(uint16_t, from_bits((uint32_t)v << 16));
    case FD_I32: EACH_READ(int32_t, (float)v);
    case FD_U32: EACH_READ(uint32_t, (float)v);
    case FD_F32: memcpy(dst, s, count * sizeof *dst); break;
    case FD_F64: EACH_READ(double, (float)v);
    case FD_I64: EACH_READ(int64_t, (float)v);
    case FD_U64: EACH_READ(uint64_t, (float)v);
    case FD_OTHER: assert(!"a type without elements"); break;
    }
}

void file_dtype_to_i64(FileDtype dt, int64_t *dst, const void *src, size_t count)
{
    const uint8_t *s = src;
    switch (dt) {
    case FD_BOOL: EACH_READ(uint8_t, v != 0);
    case FD_U8: EACH_READ(uint8_t, v);
    case FD_I8: EACH_READ(int8_t, v);
    case FD_I16: EACH_READ(int16_t, v);
    case FD_U16: EACH_READ(uint16_t, v);
    case FD_I32: EACH_READ(int32_t, v);
    case FD_U32: EACH_READ(uint32_t, v);
    case FD_I64: memcpy(dst, s, count * sizeof *dst); break;
    case FD_U64: EACH_READ(uint64_t, v > INT64_MAX ? INT64_MAX : (int64_t)v);
    default: assert(!"not an integer type"); break;
    }
}

void file_dtype_from_f32(FileDtype dt, void *dst, const float *src, size_t count)
{
    uint8_t *d = dst;
    switch (dt) {
    case FD_BOOL: EACH_WRITE(uint8_t, x != 0);
    case FD_U8: EACH_WRITE(uint8_t, int_from_f32(x, 0, UINT8_MAX));
    case FD_I8: EACH_WRITE(int8_t, int_from_f32(x, INT8_MIN, INT8_MAX));
    case FD_F8_E5M2: EACH_WRITE(uint8_t, e5m2_from_f32(x));
    case FD_F8_E4M3: EACH_WRITE(uint8_t, e4m3_from_f32(x));
    case FD_I16: EACH_WRITE(int16_t, int_from_f32(x, INT16_MIN, INT16_MAX));
    case FD_U16: EACH_WRITE(uint16_t, int_from_f32(x, 0, UINT16_MAX));
    case FD_F16: EACH_WRITE(uint16_t, f16_from_f32(x));
    case FD_BF16: EACH_WRITE(uint16_t, bf16_from_f32(x));
    case FD_I32: EACH_WRITE(int32_t, int_from_f32(x, INT32_MIN, INT32_MAX));
    case FD_U32: EACH_WRITE(uint32_t, int_from_f32(x, 0, UINT32_MAX));
    case FD_F32: memcpy(d, src, count * sizeof *src); break;
    case FD_F64: EACH_WRITE(double, x);
    case FD_I64: EACH_WRITE(int64_t, int_from_f32(x, INT64_MIN, INT64_MAX));
    case FD_U64: EACH_WRITE(uint64_t, u64_from_f32(x));
    case FD_OTHER: assert(!"a type without elements"); break;
    }
}
