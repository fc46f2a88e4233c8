/* attn_block.c - products, transposes and packing for attention (attn.h). */
#include "kernels/x86/attn.h"

#define UNROLL _Pragma("GCC unroll 16")
enum { ROWS = VW == 16 ? 8 : 4 };     /* ROWS * VECS accumulators fit the registers */

VEC float word(const char *a, size_t i)
{
    float f;
    memcpy(&f, a + 4 * i, 4);
    return f;
}

/* acc + a b, where a is one word for all lanes. */
VEC vf multiply(int pair, float a, vf b, vf acc)
{
#ifdef SDC_BF16
    if (pair) return _mm512_dpbf16_ps(acc, (__m512bh)vec_set(a), (__m512bh)b);
#endif
    (void)pair;
    return vec_fma(vec_set(a), b, acc);
}

VEC void tile(int pair, int rows, int vecs, float *c, const char *a, const float *b,
              const Product *p)
{
    vf acc[ROWS][VECS];
    size_t cs = p->cs, ar = p->ar, ak = p->ak, bs = p->bs;
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vecs; v++)
            acc[r][v] = p->acc ? vec_load(c + r * cs + v * VW) : vec_zero();
    for (int k = 0, n = p->n; k < n; k++, a += 4 * ak, b += bs) {
        vf bv[VECS];
        UNROLL for (int v = 0; v < vecs; v++) bv[v] = vec_load(b + v * VW);
        UNROLL for (int r = 0; r < rows; r++) {
            float x = word(a, r * ar);
            UNROLL for (int v = 0; v < vecs; v++) acc[r][v] = multiply(pair, x, bv[v], acc[r][v]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < vecs; v++) vec_store(c + r * cs + v * VW, acc[r][v]);
}

typedef void tile_fn(float *c, const char *a, const float *b, const Product *p);

#define TILE(pair, r, v)                                                                 \
    static void tile_##pair##_##r##_##v(float *c, const char *a, const float *b,         \
                                        const Product *p)                                \
    {                                                                                    \
        tile(pair, r, v, c, a, b, p);                                                    \
    }
#define TILES(pair, r) TILE(pair, r, 1) TILE(pair, r, 2) TILE(pair, r, 3)
#define NAMES(pair, r) {tile_##pair##_##r##_1, tile_##pair##_##r##_2, tile_##pair##_##r##_3}
#ifdef SDC_AVX512
#define EACH(X, pair, sep) X(pair, 1) sep X(pair, 2) sep X(pair, 3) sep X(pair, 4) sep   \
    X(pair, 5) sep X(pair, 6) sep X(pair, 7) sep X(pair, 8)
#else
#define EACH(X, pair, sep) X(pair, 1) sep X(pair, 2) sep X(pair, 3) sep X(pair, 4)
#endif
#define NOTHING
#define COMMA ,
EACH(TILES, 0, NOTHING)
#ifdef SDC_BF16
EACH(TILES, 1, NOTHING)
#endif

static tile_fn *const tiles[][ROWS][VECS] = {
    {EACH(NAMES, 0, COMMA)},
#ifdef SDC_BF16
    {EACH(NAMES, 1, COMMA)},
#endif
};

void ISA(attn_product)(int pair, const Product *p)
{
    int groups = (p->vecs + VECS - 1) / VECS;
    for (int g = 0; g < groups; g++) {
        int v0 = p->vecs * g / groups, v1 = p->vecs * (g + 1) / groups;
        for (int r = 0; r < p->rows; r += ROWS) {
            int rows = p->rows - r < ROWS ? p->rows - r : ROWS;
            tiles[pair][rows - 1][v1 - v0 - 1](p->c + r * p->cs + v0 * VW,
                                               (const char *)p->a + 4 * (r * p->ar),
                                               (const float *)p->b + v0 * VW, p);
        }
    }
}

/* An 8 x 8 block of words. */
VEC void transpose8(float *dst, size_t ds, const char *src, size_t ss)
{
    __m256 r[8], t[8];
    UNROLL for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps((const float *)(src + 4 * i * ss));
    UNROLL for (int i = 0; i < 8; i += 4) {
        __m256 a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
        __m256 c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]);
        __m256 d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
        t[i] = _mm256_shuffle_ps(a, c, 0x44), t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm256_shuffle_ps(b, d, 0x44), t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    UNROLL for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(dst + i * ds, _mm256_permute2f128_ps(t[i], t[i + 4], 0x20));
        _mm256_storeu_ps(dst + (i + 4) * ds, _mm256_permute2f128_ps(t[i], t[i + 4], 0x31));
    }
}

void ISA(attn_transpose)(float *dst, size_t ds, const void *src, size_t ss, int rows, int cols)
{
    const char *s = src;
    int r8 = rows & ~7, c8 = cols & ~7;
    for (int r = 0; r < r8; r += 8)
        for (int c = 0; c < c8; c += 8) transpose8(dst + c * ds + r, ds, s + 4 * (r * ss + c), ss);
    for (int r = 0; r < rows; r++)
        for (int c = r < r8 ? c8 : 0; c < cols; c++) dst[c * ds + r] = word(s, r * ss + c);
}

void ISA(attn_widen)(Dev *d, Dtype dt, float *dst, const void *src, int n, int t, int h, int dim)
{
#pragma omp parallel for num_threads(d->threads) if ((size_t)n * t * h * dim > 1 << 16)
    for (int row = 0; row < n * t; row++)
        for (int k = 0; k < h; k++) {
            size_t from = ((size_t)row * h + k) * dim;
            float *to = dst + (((size_t)(row / t) * h + k) * t + row % t) * dim;
            for (int c = 0; c < dim; c += VW) {
                size_t m = dim - c < VW ? (size_t)(dim - c) : VW;
                vf x = dt == DT_BF16 ? vec_get_n(DT_BF16, src, from + c, m)
                                     : vec_get_n(DT_F16, src, from + c, m);
                vec_store_n(to + c, x, m);
            }
        }
}

void ISA(attn_pairs)(Dev *d, float *dst, const void *src, int n, int t, int h, int dim)
{
    int half = (t + 1) / 2;
    const uint16_t *s = src;
#pragma omp parallel for num_threads(d->threads) if ((size_t)n * t * h * dim > 1 << 16)
    for (int row = 0; row < n * half; row++)
        for (int k = 0; k < h; k++) {
            int i = row % half * 2;
            const uint16_t *a = s + (((size_t)(row / half) * t + i) * h + k) * dim;
            const uint16_t *b = a + (size_t)h * dim;
            float *to = dst + (((size_t)(row / half) * h + k) * half + i / 2) * dim;
            for (int c = 0; c < dim; c++) {
                uint32_t w = a[c] | (i + 1 < t ? (uint32_t)b[c] << 16 : 0);
                memcpy(to + c, &w, 4);
            }
        }
}

#ifdef SDC_AVX2
static size_t most(size_t a, size_t b) { return a > b ? a : b; }

size_t attention_scratch_x86(const Dev *d, const Attention *p, Dtype dt, int backward)
{
    size_t m = 0;
    static const int isa[] = {DEV_AVX2, DEV_AVX512, DEV_BF16};
    for (int i = 0; i < 3; i++) {
        AttnPlan plan = backward ? attn_bwd_plan(p, dt, isa[i], d->threads)
                                 : attn_plan(p, dt, isa[i], d->threads);
        m = most(m, plan.total);
    }
    return m * 4;
}
#endif
