/* product.cc - see product.h. */
#include "product.h"

#include <string.h>

#include "kernels/half.h"

static const size_t ROWS = 4, COLS = 256;

/* Rows j..j+rows-1, columns i..i+cols-1. Reads only what the caller packed, so
 * the sanitizer need not look at every access. */
__attribute__((no_sanitize("address", "undefined")))
static void tile(size_t m, size_t k, const float *a, const float *b, float *out, size_t rows,
                 size_t cols)
{
    float sum[ROWS][COLS] = {};
    for (size_t kk = 0; kk < k; kk++) {
        const float *av = a + kk * m;
        float b0 = b[kk], b1 = b[(rows > 1 ? k : 0) + kk], b2 = b[(rows > 2 ? 2 * k : 0) + kk],
              b3 = b[(rows > 3 ? 3 * k : 0) + kk];
        for (size_t i = 0; i < cols; i++) {
            sum[0][i] += av[i] * b0;
            sum[1][i] += av[i] * b1;
            sum[2][i] += av[i] * b2;
            sum[3][i] += av[i] * b3;
        }
    }
    for (size_t j = 0; j < rows; j++) memcpy(out + j * m, sum[j], cols * sizeof(float));
}

void emu_product(size_t m, size_t n, size_t k, const float *a, const float *b, float *out)
{
    size_t down = (n + ROWS - 1) / ROWS, across = (m + COLS - 1) / COLS;
#pragma omp parallel for schedule(static) if (m * n * k > 1 << 20)
    for (size_t t = 0; t < down * across; t++) {
        size_t j = t / across * ROWS, i = t % across * COLS;
        tile(m, k, a + i, b + j * k, out + j * m + i, n - j < ROWS ? n - j : ROWS,
             m - i < COLS ? m - i : COLS);
    }
}

size_t emu_type_bytes(int type) { return type == EMU_F32 ? 4 : 2; }

float emu_load(int type, const void *p, size_t i)
{
    if (type == EMU_F32) return ((const float *)p)[i];
    uint16_t h = ((const uint16_t *)p)[i];
    return type == EMU_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
}

void emu_store(int type, void *p, size_t i, float v)
{
    if (type == EMU_F32) ((float *)p)[i] = v;
    else ((uint16_t *)p)[i] = type == EMU_BF16 ? f32_to_bf16(v) : f32_to_f16(v);
}
