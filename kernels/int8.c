/* int8.c - see int8.h. */
#include "kernels/int8.h"

#include <string.h>

#include "kernels/half.h"

/* The step of a row: NaN when one of its values is not finite. Positive floats are in
 * the order of their bits. Several maxima, so that compilers use vectors. */
static float step_of(const float *src, size_t count)
{
    int most[16] = {0};
    for (size_t i = 0; i < count; i += 16) {
        float end[16] = {0};
        const float *v = count - i < 16 ? memcpy(end, src + i, (count - i) * 4) : src + i;
#pragma omp simd
        for (int j = 0; j < 16; j++) {
            int a = (int)(f32_bits(v[j]) & 0x7fffffff);
            most[j] = a > most[j] ? a : most[j];
        }
    }
    for (int j = 1; j < 16; j++) most[0] = most[j] > most[0] ? most[j] : most[0];
    return most[0] < 0x7f800000 ? f32_from_bits((uint32_t)most[0]) / 127 : NAN;
}

enum { PART = 256 };                    /* values that are rounded at a time */

/* q = src * inv, rounded: adding 1.5 * 2^23 leaves the number, in two's complement, in
 * the last bits. Returns the sum. */
static int round_part(int8_t *q, const float *src, float inv, size_t n)
{
    int total = 0;
#pragma omp simd
    for (size_t i = 0; i < n; i++) q[i] = (int8_t)(f32_bits(src[i] * inv + 0x1.8p23f) & 255);
#pragma omp simd reduction(+ : total)
    for (size_t i = 0; i < n; i++) total += q[i];
    return total;
}

/* A row with steps below 1e-30 becomes zeros. */
static void row_from_f32(int8_t *panel, float *scale, float *sum, const float *src, size_t r,
                         size_t taps, size_t c)
{
    float step = step_of(src, taps * c), inv = step > 1e-30f ? 1 / step : 0;
    int8_t q[PART], *to = panel + i8_at(r, 0);
    scale[r] = step;
    for (size_t t = 0; t < taps; t++) {
        int total = 0;
        for (size_t i = 0; i < c; i += PART) {
            size_t n = c - i < PART ? c - i : PART;
            total += round_part(q, src + t * c + i, inv, n);
            for (size_t k = 0; k < n; k += I8_STEP, to += I8_ROWS * I8_STEP)
                memcpy(to, q + k, I8_STEP);
        }
        sum[t * I8_ROWS + r] = (float)total;
    }
}

void i8_from_f32(void *w, const float *src, size_t rows, size_t taps, size_t c)
{
    for (size_t n = 0; n < rows; n++, src += taps * c) {
        char *panel = (char *)w + n / I8_ROWS * i8_panel(taps, c);
        float *scale = i8_scale(panel, taps, c);
        row_from_f32((int8_t *)panel, scale, scale + I8_ROWS, src, n % I8_ROWS, taps, c);
    }
}

void i8_to_f32(float *dst, const void *w, size_t rows, size_t taps, size_t c)
{
    for (size_t n = 0; n < rows; n++)
        for (size_t k = 0; k < taps * c; k++) *dst++ = (float)i8_get(w, taps, c, n, k);
}
