/* i8_quant.c - rows of activations rounded to bytes, see i8.h. */
#include "kernels/x86/i8.h"

VEC float hmin(vf a) { return -vec_hmax(vec_sub(vec_zero(), a)); }

/* VW numbers in 0..255, rounded, as bytes. */
VEC void put_bytes(uint8_t *to, vf a)
{
#ifdef SDC_AVX512
    _mm_storeu_si128((__m128i *)(void *)to, _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(a)));
#else
    vi n = _mm256_cvtps_epi32(a);
    __m128i h = _mm_packus_epi32(_mm256_castsi256_si128(n), _mm256_extracti128_si256(n, 1));
    _mm_storel_epi64((__m128i *)(void *)to, _mm_packus_epi16(h, h));
#endif
}

/* One row, padded to whole vectors. A value that is not finite makes the range NaN, and
 * so every result of the row. */
VEC void round_row(Dtype dt, const void *x, size_t at, size_t c, uint8_t *q, I8Range *range)
{
    vf lo = vec_set(INFINITY), hi = vec_set(-INFINITY), bad = vec_zero();
    size_t whole = c / VW * VW;
    for (size_t i = 0; i < whole; i += VW) {
        vf v = vec_get(dt, x, at + i);
        lo = vec_min(v, lo), hi = vec_max(v, hi), bad = vec_fma(v, vec_zero(), bad);
    }
    if (whole < c) {
        vf v = vec_get_n(dt, x, at + whole, c - whole);
        lo = vec_first(vec_min(v, lo), lo, c - whole);
        hi = vec_first(vec_max(v, hi), hi, c - whole);
        bad = vec_fma(v, vec_zero(), bad);
    }
    float least = hmin(lo), span = vec_hmax(hi) - least, nan = vec_sum(bad);
    vf inv = vec_set(span > 1e-30f ? 255 / span : 0), from = vec_set(least);
    *range = (I8Range){span / 255 + nan, least + nan};
    for (size_t i = 0; i < c; i += VW)
        put_bytes(q + i, vec_mul(vec_sub(vec_get_most(dt, x, at + i, vec_left(i, c)), from), inv));
}

I8Input ISA(i8_quantize)(Dev *d, const I8Plan *plan, Dtype dt, const void *x, int c, int threads)
{
    uint8_t *q = d->ws;
    I8Range *range = (I8Range *)(void *)(q + plan->x_bytes);
    size_t rows = plan->x_rows, stride = plan->stride;
    memset(q + rows * stride, 0, stride);
    range[rows] = (I8Range){0, 0};
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (size_t r = 0; r < rows; r++)
        VEC_BY(dt, round_row(DT, x, r * (size_t)c, (size_t)c, q + r * stride, &range[r]));
    return (I8Input){q, range, stride, rows};
}
