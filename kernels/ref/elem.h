/* elem.h - one element of a buffer of any dtype, widened to f64. */
#ifndef SDC_KERNELS_REF_ELEM_H
#define SDC_KERNELS_REF_ELEM_H

#include <stddef.h>

#include "kernels/half.h"
#include "kernels/int8.h"
#include "kernels/ops.h"

static inline double elem_get(Dtype dt, const void *p, size_t i)
{
    if (dt == DT_F32) return ((const float *)p)[i];
    uint16_t h = ((const uint16_t *)p)[i];
    return dt == DT_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
}

/* Element k of row n of a weight (N, taps, c) of any dtype. */
static inline double elem_weight(Dtype dt, const void *w, int taps, int c, size_t n, size_t k)
{
    size_t t = (size_t)taps, cs = (size_t)c;
    return dt == DT_I8 ? i8_get(w, t, cs, n, k) : elem_get(dt, w, n * t * cs + k);
}

static inline void elem_put(Dtype dt, void *p, size_t i, double v)
{
    if (dt == DT_F32) ((float *)p)[i] = (float)v;
    else ((uint16_t *)p)[i] = dt == DT_BF16 ? f32_to_bf16((float)v) : f32_to_f16((float)v);
}

#endif
