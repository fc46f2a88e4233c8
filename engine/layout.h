/* layout.h - between PyTorch's (N,C,H,W) of files and our (N,H,W,C), on the host. */
#ifndef SDC_ENGINE_LAYOUT_H
#define SDC_ENGINE_LAYOUT_H

#include <stddef.h>

/* dst (N,HW,C) <- src (N,C,HW). */
static inline void layout_from_nchw(float *dst, const float *src, size_t n, size_t c, size_t hw)
{
    for (size_t i = 0; i < n; i++, dst += c * hw, src += c * hw)
        for (size_t a = 0; a < c; a++)
            for (size_t b = 0; b < hw; b++) dst[b * c + a] = src[a * hw + b];
}

/* dst (N,C,HW) <- src (N,HW,C). */
static inline void layout_to_nchw(float *dst, const float *src, size_t n, size_t c, size_t hw)
{
    for (size_t i = 0; i < n; i++, dst += c * hw, src += c * hw)
        for (size_t a = 0; a < c; a++)
            for (size_t b = 0; b < hw; b++) dst[a * hw + b] = src[b * c + a];
}

#endif
