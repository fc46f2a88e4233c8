/* vec.h - vectors of VW floats, for code that is compiled for AVX2 (VW 8), for
 * AVX-512 (VW 16) and once more for AVX-512 with products of bf16.
 *
 * A file in kernels/x86/ is written once against these names and compiled with
 * -DSDC_AVX2, with -DSDC_AVX512, and with -DSDC_AVX512 -DSDC_BF16, where it gives
 * the ops of bf16 only; ISA(f) gives f the suffix of impl.def, THIS_ISA is its bit,
 * PAIRS is 1 where there are products of bf16.
 * Buffers are addressed by element: vec_get(dt, p, i) reads VW elements of
 * dtype dt (a constant) from element i and widens them to f32,
 * vec_put rounds to nearest even and writes. The _n forms touch only the first
 * n <= VW elements; missing ones read as 0. bf16 subnormals may be flushed.
 */
#ifndef SDC_KERNELS_X86_VEC_H
#define SDC_KERNELS_X86_VEC_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/impl.h"

#define VEC static inline __attribute__((always_inline, unused))
#define VEC_JOIN(a, b) a##b

#ifdef SDC_AVX512

#ifdef SDC_BF16
#define ISA(name) VEC_JOIN(name, _avx512bf16)
enum { VW = 16, THIS_ISA = DEV_BF16, PAIRS = 1 };
#define VEC_DTYPES(X) X(bf16, DT_BF16)
#else
#define ISA(name) VEC_JOIN(name, _avx512)
enum { VW = 16, THIS_ISA = DEV_AVX512, PAIRS = 0 };
#endif
typedef __m512 vf;
typedef __m512i vi;

VEC vf vec_zero(void) { return _mm512_setzero_ps(); }
VEC vf vec_set(float x) { return _mm512_set1_ps(x); }
VEC vf vec_load(const float *p) { return _mm512_loadu_ps(p); }
VEC void vec_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
VEC vf vec_add(vf a, vf b) { return _mm512_add_ps(a, b); }
VEC vf vec_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
VEC vf vec_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
VEC vf vec_div(vf a, vf b) { return _mm512_div_ps(a, b); }
VEC vf vec_sqrt(vf a) { return _mm512_sqrt_ps(a); }
VEC vf vec_max(vf a, vf b) { return _mm512_max_ps(a, b); }   /* b where either is NaN */
VEC vf vec_min(vf a, vf b) { return _mm512_min_ps(a, b); }
VEC vf vec_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }     /* ab + c */
VEC vf vec_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }   /* c - ab */
VEC vf vec_abs(vf a) { return _mm512_abs_ps(a); }

VEC __mmask16 vec_mask(size_t n) { return (__mmask16)((1u << n) - 1); }
VEC vf vec_load_n(const float *p, size_t n) { return _mm512_maskz_loadu_ps(vec_mask(n), p); }
VEC void vec_store_n(float *p, vf a, size_t n) { _mm512_mask_storeu_ps(p, vec_mask(n), a); }
/* a in the first n lanes, b in the others. */
VEC vf vec_first(vf a, vf b, size_t n) { return _mm512_mask_blend_ps(vec_mask(n), b, a); }
/* x >= 0 ? a : b */
VEC vf vec_pick(vf x, vf a, vf b)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, vec_zero(), _CMP_GE_OQ), b, a);
}

VEC vf vec_widen(__m256i h) { return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16); }
#ifdef SDC_BF16
VEC __m256i vec_narrow(vf a) { return (__m256i)_mm512_cvtneps_pbh(a); }
#else
VEC __m256i vec_narrow(vf a)
{
    vi u = (vi)a, odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    vi r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
}
#endif
VEC vf vec_load_bf16(const uint16_t *p)
{
    return vec_widen(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
VEC void vec_store_bf16(uint16_t *p, vf a)
{
    _mm256_storeu_si256((__m256i *)(void *)p, vec_narrow(a));
}
VEC vf vec_load_bf16_n(const uint16_t *p, size_t n)
{
    return vec_widen(_mm256_maskz_loadu_epi16(vec_mask(n), p));
}
VEC void vec_store_bf16_n(uint16_t *p, vf a, size_t n)
{
    _mm256_mask_storeu_epi16(p, vec_mask(n), vec_narrow(a));
}

VEC vf vec_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
VEC vf vec_load_f16_n(const uint16_t *p, size_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vec_mask(n), p));
}
VEC void vec_store_f16_n(uint16_t *p, vf a, size_t n)
{
    _mm256_mask_storeu_epi16(p, vec_mask(n), _mm512_cvtps_ph(a, 0));
}
VEC void vec_store_f16(uint16_t *p, vf a)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(a, 0));
}

/* Sums and maxima across the lanes, folded in halves: one fixed order. */
VEC float vec_sum(vf a)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
VEC float vec_hmax(vf a)
{
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

/* Sum across the lanes in f64. */
VEC double vec_sum_f64(vf a)
{
    __m512d s = _mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(a)),
                              _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)));
    __m256d h = _mm256_add_pd(_mm512_castpd512_pd256(s), _mm512_extractf64x4_pd(s, 1));
    __m128d q = _mm_add_pd(_mm256_castpd256_pd128(h), _mm256_extractf128_pd(h, 1));
    return _mm_cvtsd_f64(_mm_add_sd(q, _mm_unpackhi_pd(q, q)));
}

/* a * 2^n, n integral, with correct underflow and overflow. */
VEC vf vec_scale2(vf a, vf n) { return _mm512_scalef_ps(a, n); }
VEC vf vec_round(vf a) { return _mm512_roundscale_ps(a, 0); }

#else

#define ISA(name) VEC_JOIN(name, _avx2)
enum { VW = 8, THIS_ISA = DEV_AVX2, PAIRS = 0 };
typedef __m256 vf;
typedef __m256i vi;

VEC vf vec_zero(void) { return _mm256_setzero_ps(); }
VEC vf vec_set(float x) { return _mm256_set1_ps(x); }
VEC vf vec_load(const float *p) { return _mm256_loadu_ps(p); }
VEC void vec_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
VEC vf vec_add(vf a, vf b) { return _mm256_add_ps(a, b); }
VEC vf vec_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
VEC vf vec_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
VEC vf vec_div(vf a, vf b) { return _mm256_div_ps(a, b); }
VEC vf vec_sqrt(vf a) { return _mm256_sqrt_ps(a); }
VEC vf vec_max(vf a, vf b) { return _mm256_max_ps(a, b); }
VEC vf vec_min(vf a, vf b) { return _mm256_min_ps(a, b); }
VEC vf vec_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
VEC vf vec_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
VEC vf vec_abs(vf a) { return _mm256_andnot_ps(vec_set(-0.0f), a); }

VEC vi vec_mask(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
VEC vf vec_load_n(const float *p, size_t n) { return _mm256_maskload_ps(p, vec_mask(n)); }
VEC void vec_store_n(float *p, vf a, size_t n) { _mm256_maskstore_ps(p, vec_mask(n), a); }
VEC vf vec_first(vf a, vf b, size_t n) { return _mm256_blendv_ps(b, a, (vf)vec_mask(n)); }
VEC vf vec_pick(vf x, vf a, vf b)
{
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, vec_zero(), _CMP_GE_OQ));
}

VEC vf vec_widen(__m128i h) { return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16); }
VEC __m128i vec_narrow(vf a)
{
    vi u = (vi)a, odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    vi r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    vi quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    r = _mm256_blendv_epi8(r, quiet, (vi)_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    r = _mm256_srli_epi32(r, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}
VEC vf vec_load_bf16(const uint16_t *p)
{
    return vec_widen(_mm_loadu_si128((const __m128i *)(const void *)p));
}
VEC void vec_store_bf16(uint16_t *p, vf a)
{
    _mm_storeu_si128((__m128i *)(void *)p, vec_narrow(a));
}
VEC vf vec_load_bf16_n(const uint16_t *p, size_t n)
{
    uint16_t t[8] = {0};
    memcpy(t, p, n * 2);
    return vec_load_bf16(t);
}
VEC void vec_store_bf16_n(uint16_t *p, vf a, size_t n)
{
    uint16_t t[8];
    vec_store_bf16(t, a);
    memcpy(p, t, n * 2);
}

VEC vf vec_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
VEC vf vec_load_f16_n(const uint16_t *p, size_t n)
{
    uint16_t t[8] = {0};
    memcpy(t, p, n * 2);
    return vec_load_f16(t);
}
VEC void vec_store_f16(uint16_t *p, vf a)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(a, 0));
}
VEC void vec_store_f16_n(uint16_t *p, vf a, size_t n)
{
    uint16_t t[8];
    vec_store_f16(t, a);
    memcpy(p, t, n * 2);
}

VEC float vec_sum(vf a)
{
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
VEC float vec_hmax(vf a)
{
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

VEC double vec_sum_f64(vf a)
{
    __m256d h = _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(a)),
                              _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)));
    __m128d q = _mm_add_pd(_mm256_castpd256_pd128(h), _mm256_extractf128_pd(h, 1));
    return _mm_cvtsd_f64(_mm_add_sd(q, _mm_unpackhi_pd(q, q)));
}

VEC vf vec_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* In two steps, since 2^n itself may not be a float. */
VEC vf vec_scale2(vf a, vf n)
{
    vi k = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(k, 1), bias = _mm256_set1_epi32(127);
    vi rest = _mm256_sub_epi32(k, half);
    a = vec_mul(a, (vf)_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    return vec_mul(a, (vf)_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
}

#endif

VEC vf vec_get(Dtype dt, const void *p, size_t i)
{
    if (dt == DT_F32) return vec_load((const float *)p + i);
    const uint16_t *h = (const uint16_t *)p + i;
    return dt == DT_BF16 ? vec_load_bf16(h) : vec_load_f16(h);
}
VEC vf vec_get_n(Dtype dt, const void *p, size_t i, size_t n)
{
    if (dt == DT_F32) return vec_load_n((const float *)p + i, n);
    const uint16_t *h = (const uint16_t *)p + i;
    return dt == DT_BF16 ? vec_load_bf16_n(h, n) : vec_load_f16_n(h, n);
}
VEC void vec_put(Dtype dt, void *p, size_t i, vf a)
{
    if (dt == DT_F32) vec_store((float *)p + i, a);
    else if (dt == DT_BF16) vec_store_bf16((uint16_t *)p + i, a);
    else vec_store_f16((uint16_t *)p + i, a);
}
VEC void vec_put_n(Dtype dt, void *p, size_t i, vf a, size_t n)
{
    if (dt == DT_F32) vec_store_n((float *)p + i, a, n);
    else if (dt == DT_BF16) vec_store_bf16_n((uint16_t *)p + i, a, n);
    else vec_store_f16_n((uint16_t *)p + i, a, n);
}

/* The same for n <= VW elements where n is seldom less. */
VEC vf vec_get_most(Dtype dt, const void *p, size_t i, size_t n)
{
    return n == VW ? vec_get(dt, p, i) : vec_get_n(dt, p, i, n);
}
VEC void vec_put_most(Dtype dt, void *p, size_t i, vf a, size_t n)
{
    if (n == VW) vec_put(dt, p, i, a);
    else vec_put_n(dt, p, i, a, n);
}
VEC void vec_acc_most(Dtype dt, void *p, size_t i, vf a, size_t n, int acc)
{
    vec_put_most(dt, p, i, acc ? vec_add(a, vec_get_most(dt, p, i, n)) : a, n);
}

/* Elements of the vector that begins at i, of a range that ends at end. */
VEC size_t vec_left(size_t i, size_t end) { return end - i < VW ? end - i : VW; }

/* 2^x for x <= 127: relative error < 2.2e-7 (polynomial 9.2e-8, a minimax fit on
 * |r| <= 1/2 with constant term 1); 0 from -150 down; NaN stays. */
VEC vf vec_exp2_low(vf x)
{
    x = vec_max(vec_set(-151.0f), x);
    vf n = vec_round(x), r = vec_sub(x, n);
    vf p = vec_set(1.326470861e-3f);
    p = vec_fma(p, r, vec_set(9.671523615e-3f));
    p = vec_fma(p, r, vec_set(5.550733888e-2f));
    p = vec_fma(p, r, vec_set(2.402224192e-1f));
    p = vec_fma(p, r, vec_set(6.931469775e-1f));
    p = vec_fma(p, r, vec_set(1.0f));
    return vec_scale2(p, n);
}

/* e^x for x <= 88: relative error < 2.4e-7 (polynomial 1.05e-7, found by a
 * minimax fit on |r| <= ln2/2, the rest rounding); 0 from -104 down; NaN stays. */
VEC vf vec_exp_low(vf x)
{
    x = vec_max(vec_set(-104.0f), x);
    vf n = vec_round(vec_mul(x, vec_set(1.44269504f)));
    vf r = vec_fnma(n, vec_set(0.693145752f), x);       /* ln 2 in two parts; n * the */
    r = vec_fnma(n, vec_set(1.42860677e-6f), r);        /* first is exact */
    vf p = vec_set(8.312526765e-3f);
    p = vec_fma(p, r, vec_set(4.189016640e-2f));
    p = vec_fma(p, r, vec_set(1.666711461e-1f));
    p = vec_fma(p, r, vec_set(4.999923140e-1f));
    p = vec_fma(p, r, vec_set(1.0f));
    p = vec_fma(p, r, vec_set(1.0f));
    return vec_scale2(p, n);
}

/* e^x for any x: infinite from 88.73 up. */
VEC vf vec_exp(vf x) { return vec_exp_low(vec_min(vec_set(89.0f), x)); }

VEC vf vec_sigmoid(vf x)
{
    vf one = vec_set(1.0f);
    return vec_div(one, vec_add(one, vec_exp(vec_sub(vec_zero(), x))));
}

/* The standard normal distribution at x: cumulative (1 + erf(x/sqrt 2))/2 and
 * density; gelu(x) = x cdf, its derivative cdf + x pdf. The tail
 * erfc(z) = exp(-z^2) t P(t), t = 1/(1 + 0.3 z), z = |x|/sqrt 2, is fitted with
 * relative error 2e-8 on 0..9.6, so |cdf error| < 3e-7 everywhere, and relative
 * to the tail < 1e-6 (1 + x^2). */
VEC vf vec_normal(vf x, vf *pdf)
{
    static const float c[9] = {1.691891723e-1f, 1.706983496e-1f, 1.484428903e-1f,
                               2.145717757e-1f, -9.391397496e-2f, 5.467633983e-1f,
                               -5.115195165e-1f, 4.852268344e-1f, -1.294589486e-1f};
    vf e = vec_exp_low(vec_mul(vec_mul(x, x), vec_set(-0.5f)));
    vf t = vec_fma(vec_abs(x), vec_set(0.3f * 0.707106781f), vec_set(1.0f));
    t = vec_div(vec_set(1.0f), t);
    vf p = vec_set(c[8]);
    for (int i = 7; i >= 0; i--) p = vec_fma(p, t, vec_set(c[i]));
    vf tail = vec_mul(vec_mul(e, vec_set(0.5f)), vec_mul(p, t));
    *pdf = vec_mul(e, vec_set(0.398942280f));
    return vec_pick(x, vec_sub(vec_set(1.0f), tail), tail);
}

/* The call, made with DT a constant equal to dt. Compilers move the body of an
 * OpenMP loop into a function of its own, where constants outside are not seen:
 * so ops dispatch inside the loop. */
#define VEC_BY(dt, call)                                                                 \
    do {                                                                                 \
        if (dt == DT_F32) { const Dtype DT = DT_F32; call; }                             \
        else if (dt == DT_BF16) { const Dtype DT = DT_BF16; call; }                      \
        else { const Dtype DT = DT_F16; call; }                                          \
    } while (0)

/* X(name, dtype) for each dtype whose ops are compiled here. */
#ifndef VEC_DTYPES
#define VEC_DTYPES(X) X(f32, DT_F32) X(bf16, DT_BF16) X(f16, DT_F16)
#endif

/* Defines <op>_f32, _bf16 and _f16 of this version, which call <op>_any with the
 * given arguments, where DT is the dtype. */
#ifdef SDC_BF16
#define VEC_OP(op, params, args) VEC_OP1(op, bf16, DT_BF16, params, args)
#else
#define VEC_OP(op, params, args) VEC_OP1(op, f32, DT_F32, params, args)                   \
    VEC_OP1(op, bf16, DT_BF16, params, args) VEC_OP1(op, f16, DT_F16, params, args)
#endif
#define VEC_OP1(op, name, dtype, params, args)                                           \
    void ISA(op##_##name) params { const Dtype DT = dtype; op##_any args; }

#endif
