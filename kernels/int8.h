/* int8.h - weights of linear and conv2d in 8 bits (DT_I8): layout and conversion.
 *
 * Row n of a weight (N, taps, C) (a linear has one tap) is the integers -127..127
 * times one scale, the largest |value| of the row / 127. Rows lie in panels of 16, as
 * the instructions for dot products of bytes want them; a panel is
 *
 *     int8 q[taps][C/4][16][4]   four neighbouring c of each row
 *     float scale[16]
 *     float sum[taps][16]        sum over c of q: what an offset of the input adds
 *
 * and a multiple of 64 bytes. N is a multiple of 16, C of 4, taps at most 9: other
 * weights cannot be DT_I8.
 */
#ifndef SDC_KERNELS_INT8_H
#define SDC_KERNELS_INT8_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

enum { I8_ROWS = 16, I8_STEP = 4, I8_TAPS = 9 };

static inline int i8_fits(int n, int taps, int c)
{
    return n % I8_ROWS == 0 && c % I8_STEP == 0 && taps <= I8_TAPS;
}

/* Bytes of one panel; of a weight with n rows. */
static inline size_t i8_panel(size_t taps, size_t c)
{
    return I8_ROWS * taps * c + I8_ROWS * sizeof(float) * (1 + taps);
}
static inline size_t i8_bytes(size_t n, size_t taps, size_t c)
{
    return n / I8_ROWS * i8_panel(taps, c);
}

/* The scales of a panel; behind them, its sums. */
static inline float *i8_scale(const void *panel, size_t taps, size_t c)
{
    return (float *)(void *)((char *)(uintptr_t)panel + I8_ROWS * taps * c);
}

/* Where element k = tap * c + i of row r of a panel is. */
static inline size_t i8_at(size_t r, size_t k)
{
    return k / I8_STEP * (I8_ROWS * I8_STEP) + r * I8_STEP + k % I8_STEP;
}

/* Element k of row n of a weight. */
static inline double i8_get(const void *w, size_t taps, size_t c, size_t n, size_t k)
{
    const char *panel = (const char *)w + n / I8_ROWS * i8_panel(taps, c);
    int q = ((const int8_t *)panel)[i8_at(n % I8_ROWS, k)];
    return q * (double)i8_scale(panel, taps, c)[n % I8_ROWS];
}

/* Rows of a weight from and to f32 (rows, taps, c), on the host; rows is a multiple of
 * 16, and w the panel of the first. A row with a value that is not finite becomes NaN. */
void i8_from_f32(void *w, const float *src, size_t rows, size_t taps, size_t c);
void i8_to_f32(float *dst, const void *w, size_t rows, size_t taps, size_t c);

#endif
