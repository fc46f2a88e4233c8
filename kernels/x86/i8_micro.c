/* i8_micro.c - the inner loops of i8.h: some rows of x times panels of 16 columns. */
#include "kernels/x86/i8.h"

#define UNROLL _Pragma("GCC unroll 16")

#ifdef SDC_AVX512

/* c += four products of bytes in each lane. Written so because gcc 12 moves every sum
 * from register to register around the intrinsic. */
VEC vi dot(vi c, vi x, vi w)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(c) : "v"(x), "v"(w));
    return c;
}

/* One tap: acc = or += step * sum(q qw) + offset * sum(qw); the last one is scaled. */
VEC void add_tap(int rows, const I8Tap *tap, int c, const char *const w[2],
                 const float *const sum[2], float *acc, int first)
{
    vi s[I8_MR][2];
    const uint8_t *row[I8_MR];
    UNROLL
    for (int i = 0; i < rows; i++) {
        row[i] = tap->row[i] + c;
        s[i][0] = s[i][1] = _mm512_setzero_si512();
    }
    const char *w0 = w[0];
    ptrdiff_t other = w[1] - w[0];
    for (ptrdiff_t k = -c; k; k += I8_STEP, w0 += 64) {
        vi b0 = _mm512_loadu_si512(w0), b1 = _mm512_loadu_si512(w0 + other);
        UNROLL
        for (int i = 0; i < rows; i++) {
            vi a = _mm512_set1_epi32(*(const int *)(row[i] + k));
            s[i][0] = dot(s[i][0], a, b0);
            s[i][1] = dot(s[i][1], a, b1);
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        vf step = vec_set(tap->range[i].step), offset = vec_set(tap->range[i].offset);
        UNROLL
        for (int j = 0; j < 2; j++) {
            float *to = acc + i * NR + j * VW;
            vf v = vec_mul(offset, vec_load(sum[j]));
            v = vec_fma(step, _mm512_cvtepi32_ps(s[i][j]), v);
            vec_store(to, first ? v : vec_add(v, vec_load(to)));
        }
    }
}

#else

/* Bytes are widened to 16 bits. A vector holds two sums for each of four columns. */
VEC void add_tap(int rows, const I8Tap *tap, int c, const char *const w[1],
                 const float *const sum[1], float *acc, int first)
{
    vi s[I8_MR][4];
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < 4; j++) s[i][j] = _mm256_setzero_si256();
    const char *at = w[0];
    for (int k = 0; k < c; k += I8_STEP, at += 64) {
        vi a[I8_MR];
        UNROLL
        for (int i = 0; i < rows; i++)
            a[i] = _mm256_cvtepu8_epi16(_mm_set1_epi32(*(const int *)(tap->row[i] + k)));
        UNROLL
        for (int j = 0; j < 4; j++) {
            vi b = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(at + 16 * j)));
            UNROLL
            for (int i = 0; i < rows; i++)
                s[i][j] = _mm256_add_epi32(s[i][j], _mm256_madd_epi16(a[i], b));
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        vf step = vec_set(tap->range[i].step), offset = vec_set(tap->range[i].offset);
        UNROLL
        for (int j = 0; j < 2; j++) {
            float *to = acc + i * NR + j * VW;
            vi pairs = _mm256_hadd_epi32(s[i][2 * j], s[i][2 * j + 1]);
            vf v = vec_mul(offset, vec_load(sum[0] + j * VW));
            v = vec_fma(step, _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(pairs, 0xd8)), v);
            vec_store(to, first ? v : vec_add(v, vec_load(to)));
        }
    }
}

#endif

VEC void tile(int rows, const I8Tap *tap, int taps, int c, const char *const w[I8_WIDE], float *acc)
{
    const char *at[I8_WIDE];
    const float *scale[I8_WIDE], *sum[I8_WIDE];
    for (int j = 0; j < I8_WIDE; j++) {
        at[j] = w[j];
        scale[j] = i8_scale(w[j], (size_t)taps, (size_t)c);
        sum[j] = scale[j] + I8_ROWS;
    }
    for (int t = 0; t < taps; t++) {
        add_tap(rows, &tap[t], c, at, sum, acc, t == 0);
        for (int j = 0; j < I8_WIDE; j++) at[j] += I8_ROWS * c, sum[j] += I8_ROWS;
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < NR; j += VW) {
            float *to = acc + i * NR + j;
            vec_store(to, vec_mul(vec_load(to), vec_load(scale[j / I8_ROWS] + j % I8_ROWS)));
        }
}

void ISA(i8_tile)(const I8Tap *tap, int taps, int c, int rows, const char *const w[I8_WIDE],
                  float *acc)
{
    (void)rows;
#ifdef SDC_AVX512
    if (rows <= 4) tile(4, tap, taps, c, w, acc);
    else if (rows <= 8) tile(8, tap, taps, c, w, acc);
    else
#endif
        tile(I8_MR, tap, taps, c, w, acc);
}
