/* gemm_micro.c - the inner loops of gemm.h: MR rows of P times one panel of Q.
 *
 * A step is 4 bytes of P broadcast against NR words of Q: one k in f32, two in
 * bf16. Row addresses are three bases plus 0..3 strides, which fit the
 * addressing modes, so P needs no copy per row in registers.
 */
#include "kernels/x86/gemm.h"

#define UNROLL _Pragma("GCC unroll 16")

VEC vf multiply(int pair, vf a, vf b, vf c)
{
#ifdef SDC_AVX512
    if (pair) return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
#endif
    (void)pair;
    return vec_fma(a, b, c);
}

VEC void micro(int pair, int vecs, size_t steps, const char *p, size_t stride, const float *q,
               float *acc, int first)
{
    vf c[MR][2];
    const char *base[3] = {p, p + 4 * stride, p + 8 * stride};
    const size_t row[4] = {0, stride, 2 * stride, 3 * stride};
    UNROLL
    for (int i = 0; i < MR; i++) {
        UNROLL
        for (int j = 0; j < 2; j++) {
            if (j >= vecs) continue;
            c[i][j] = vec_zero();
            _mm_prefetch((const char *)(acc + i * NR + j * VW), _MM_HINT_T0);
        }
    }
    for (size_t k = 0; k < steps; k++, q += NR) {
        vf b[2];
        UNROLL
        for (int j = 0; j < 2; j++) b[j] = j < vecs ? vec_load(q + j * VW) : vec_zero();
        UNROLL
        for (int i = 0; i < MR; i++) {
            vf a = vec_set(*(const float *)(const void *)(base[i / 4] + row[i % 4] + 4 * k));
            UNROLL
            for (int j = 0; j < 2; j++)
                if (j < vecs) c[i][j] = multiply(pair, a, b[j], c[i][j]);
        }
    }
    UNROLL
    for (int i = 0; i < MR; i++) {
        UNROLL
        for (int j = 0; j < 2; j++) {
            if (j >= vecs) continue;
            float *to = acc + i * NR + j * VW;
            vec_store(to, first ? c[i][j] : vec_add(c[i][j], vec_load(to)));
        }
    }
}

#define MICRO(name, pair, vecs)                                                           \
    static void name(size_t steps, const char *p, size_t stride, const float *q, float *acc, \
                     int first)                                                           \
    { micro(pair, vecs, steps, p, stride, q, acc, first); }
MICRO(f32_full, 0, 2)
MICRO(f32_narrow, 0, 1)
#ifdef SDC_AVX512
MICRO(pair_full, 1, 2)
MICRO(pair_narrow, 1, 1)
micro_fn *const ISA(gemm_micro)[2][2] = {{f32_full, f32_narrow}, {pair_full, pair_narrow}};
#else
micro_fn *const ISA(gemm_micro)[2][2] = {{f32_full, f32_narrow}, {0, 0}};
#endif
