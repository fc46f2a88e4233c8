/* int8.c - see int8.h. */
#include "kernels/int8.h"

/* The step of a row: NaN when one of its values is not finite. A row of steps below
 * 1e-30 is stored as zeros. */
static float step_of(const float *src, size_t count)
{
    float most = 0, bad = 0;
    for (size_t i = 0; i < count; i++) {
        float a = fabsf(src[i]);
        most = a > most ? a : most;
        bad += src[i] * 0.0f;
    }
    return most / 127 + bad;
}

static void row_from_f32(int8_t *q, float *scale, float *sum, const float *src, size_t r,
                         size_t taps, size_t c)
{
    float step = step_of(src, taps * c), inv = step > 1e-30f ? 1 / step : 0;
    scale[r] = step;
    for (size_t t = 0; t < taps; t++) {
        int total = 0;
        for (size_t i = 0; i < c; i++) {
            float v = rintf(src[t * c + i] * inv);
            int n = v >= 127 ? 127 : v >= -127 ? (int)v : -127;                /* or NaN */
            q[i8_at(r, t * c + i)] = (int8_t)n;
            total += n;
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
