/* gemm_micro.c - the inner loops of gemm.h: MR rows of P times one panel of Q.
 *
 * A step is 4 bytes of P broadcast against NR words of Q: one k in f32, two in
 * bf16. The addresses of the rows are what fills the general registers, so
 * rows may lie anywhere.
 */

#include "kernels/x86/gemm.h"

#define UNROLL _Pragma("GCC unroll 16")

/* With AVX2 a step is 23 instructions and six cycles of products, and processors take
 * four in a cycle: what counts the steps is shared by several. */
#ifdef SDC_AVX2
#define STEPS _Pragma("GCC unroll 4")
#else
#define STEPS
#endif

VEC vf multiply(int pair, vf a, vf b, vf c)
{
#ifdef SDC_BF16
    if (pair) return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
#endif
    (void)pair;
    return vec_fma(a, b, c);
}

VEC void micro(int pair, int rows, int vecs, const Run *run, const Run *end, const float *q,
               float *acc, int first)
{
    vf c[MR][2];
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int j = 0; j < 2; j++) {
            if (j >= vecs) continue;
            c[i][j] = vec_zero();
            _mm_prefetch((const char *)(acc + i * NR + j * VW), _MM_HINT_T0);
        }
    }
    for (; run < end; run++) {
        const char *row[MR];
        UNROLL
        for (int i = 0; i < rows; i++) row[i] = run->row[i] + 4 * run->steps;
        STEPS
        for (ptrdiff_t k = -4 * (ptrdiff_t)run->steps; k; k += 4, q += NR) {
            vf b[2];
            UNROLL
            for (int j = 0; j < 2; j++) b[j] = j < vecs ? vec_load(q + j * VW) : vec_zero();
            UNROLL
            for (int i = 0; i < rows; i++) {
                vf a = vec_set(*(const float *)(const void *)(row[i] + k));
                UNROLL
                for (int j = 0; j < 2; j++)
                    if (j < vecs) c[i][j] = multiply(pair, a, b[j], c[i][j]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int j = 0; j < 2; j++) {
            if (j >= vecs) continue;
            float *to = acc + i * NR + j * VW;
            vec_store(to, first ? c[i][j] : vec_add(c[i][j], vec_load(to)));
        }
    }
}

#define MICRO(name, pair, rows, vecs)                                                     \
    static void name(const Run *run, const Run *end, const float *q, float *acc, int first) \
    { micro(pair, rows, vecs, run, end, q, acc, first); }
MICRO(f32_full, 0, MR, 2)
MICRO(f32_narrow, 0, MR, 1)
MICRO(f32_few, 0, MR_FEW, 2)
micro_fn *const ISA(gemm_micro_few) = f32_few;
#ifdef SDC_BF16
MICRO(pair_full, 1, MR, 2)
MICRO(pair_narrow, 1, MR, 1)
micro_fn *const ISA(gemm_micro)[2][2] = {{f32_full, f32_narrow}, {pair_full, pair_narrow}};
#else
micro_fn *const ISA(gemm_micro)[2][2] = {{f32_full, f32_narrow}, {0, 0}};
#endif
