/* convert.h - arrays between f32 and a storage dtype, on the host. */
#ifndef SDC_ENGINE_CONVERT_H
#define SDC_ENGINE_CONVERT_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/half.h"
#include "kernels/ops.h"

/* dst (count) of dt <- src (count) f32, round to nearest even. dt is not DT_F32. */
static inline void half_from_f32(Dtype dt, void *dst, const float *src, size_t count)
{
    uint16_t *d = dst;
    if (dt == DT_BF16) {
#pragma omp simd
        for (size_t i = 0; i < count; i++) {       /* f32_to_bf16 without branches */
            uint32_t u = f32_bits(src[i]), nan = 0u - (uint32_t)((u & 0x7fffffffu) > 0x7f800000u);
            uint32_t r = (u + 0x7fffu + (u >> 16 & 1)) >> 16;
            d[i] = (uint16_t)((r & ~nan) | ((u >> 16 | 0x40) & nan));
        }
    } else
        for (size_t i = 0; i < count; i++) d[i] = f32_to_f16(src[i]);
}

static inline void half_to_f32(Dtype dt, float *dst, const void *src, size_t count)
{
    const uint16_t *s = src;
    if (dt == DT_BF16)
        for (size_t i = 0; i < count; i++) dst[i] = bf16_to_f32(s[i]);
    else
        for (size_t i = 0; i < count; i++) dst[i] = f16_to_f32(s[i]);
}

#endif
