/* gemm_pack.c - operands of gemm.h brought into the layouts of the micro kernel.
 *
 * A word is what one step of the micro kernel takes from one row: an f32, or a
 * pair of bf16 with neighbouring k. Odd ends are filled with zeros.
 */
#include "kernels/x86/gemm.h"

/* Runs `call`, which uses PAIR and DT as constants, for this pair and dtype. */
#define CASE(p, d, call) { enum { PAIR = p }; const Dtype DT = d; call; break; }
#ifdef SDC_BF16
#define PAIR_CASES(call)                                                                  \
    case 3: CASE(1, DT_F32, call) case 4: CASE(1, DT_BF16, call) case 5: CASE(1, DT_F16, call)
#else
#define PAIR_CASES(call)
#endif
#define DISPATCH(pair, dt, call)                                                          \
    switch ((pair) * 3 + (int)(dt)) {                                                     \
    case 0: CASE(0, DT_F32, call) case 1: CASE(0, DT_BF16, call)                          \
    case 2: CASE(0, DT_F16, call) PAIR_CASES(call)                                        \
    default: break;                                                                       \
    }

static const char *at(const View *v, ptrdiff_t i)
{
    return (const char *)v->p + i * (ptrdiff_t)dtype_bytes(v->dt);
}

/* VW words from element i of a row with n elements left. */
VEC vf get_words(int pair, Dtype dt, const void *p, size_t i, size_t n)
{
    if (!pair) return gemm_get(dt, p, i, n < VW ? n : VW);
#ifdef SDC_BF16
    if (dt == DT_BF16) {
        const uint16_t *h = (const uint16_t *)p + i;
        return (vf)(n >= 32 ? _mm512_loadu_si512(h)
                            : _mm512_maskz_loadu_epi16((__mmask32)((1u << n) - 1), h));
    }
    vf lo = gemm_get(dt, p, i, n < 16 ? n : 16);
    vf hi = n > 16 ? gemm_get(dt, p, i + 16, n < 32 ? n - 16 : 16) : vec_zero();
    return (vf)_mm512_cvtne2ps_pbh(hi, lo);
#else
    return vec_zero();
#endif
}

/* VW words from element i of one row (f32) or of two rows (pairs): the first n
 * lanes; a missing row is NULL and counts as zeros. */
VEC vf get_across(int pair, Dtype dt, const void *a, const void *b, size_t i, size_t n)
{
    vf lo = a ? gemm_get(dt, a, i, n) : vec_zero();
    if (!pair) return lo;
    vf hi = b ? gemm_get(dt, b, i, n) : vec_zero();
#ifdef SDC_BF16
    if (dt != DT_BF16) {
        lo = (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(vec_narrow(lo)), 16);
        hi = (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(vec_narrow(hi)), 16);
    }
    return (vf)_mm512_or_si512(_mm512_srli_epi32((vi)lo, 16), (vi)hi);
#else
    return hi;
#endif
}

/* The position of a row in a view: image, and its source pixel before any tap. */
typedef struct { ptrdiff_t n; int a, b; } Pos;

static Pos pos_of(const View *v, int row)
{
    int b = row % v->gb, r = row / v->gb;
    return (Pos){r / v->ga, r % v->ga, b};
}

static void pos_next(const View *v, Pos *p)
{
    if (++p->b < v->gb) return;
    p->b = 0;
    if (++p->a == v->ga) p->a = 0, p->n++;
}

/* The channels of a row at tap (i,j); NULL outside the picture. */
static const char *tap_at(const View *v, const Pos *p, int i, int j)
{
    int y = p->a * v->step + v->dy + i * v->dtap, x = p->b * v->step + v->dx + j * v->dtap;
    if ((unsigned)y >= (unsigned)v->h || (unsigned)x >= (unsigned)v->w) return 0;
    return at(v, p->n * v->sn + y * v->sy + x * v->sx);
}

VEC void copy_row(int pair, Dtype dt, const char *src, int len, char *dst)
{
    int word = VW << pair;
    if (!src) {
        for (int k = 0; k < len; k += word, dst += VW * 4)
            vec_store((float *)(void *)dst, vec_zero());
        return;
    }
    int k = 0;
    for (; k + word <= len; k += word, dst += VW * 4)
        vec_store((float *)(void *)dst, get_words(pair, dt, src, (size_t)k, (size_t)word));
    if (k < len)
        vec_store((float *)(void *)dst, get_words(pair, dt, src, (size_t)k, (size_t)(len - k)));
}

VEC void copy_rows(int pair, Dtype dt, const View *v, int r0, int nr, int tap, int c0, int len,
                   char *dst, size_t stride)
{
    Pos pos = pos_of(v, r0);
    for (int i = 0; i < nr; i++, pos_next(v, &pos)) {
        const char *src = tap_at(v, &pos, tap / v->kw, tap % v->kw);
        if (src) src += (size_t)c0 * dtype_bytes(dt);
        copy_row(pair, dt, src, len, dst + (size_t)i * stride);
    }
}

void ISA(gemm_pack_rows)(const View *v, int pair, int r0, int nr, int rows, int k0, int kc,
                         char *dst, size_t stride)
{
    /* Each part is written with whole vectors, over which the next one is
     * written in turn. */
    for (int k = k0, tap = k0 / v->c; k < k0 + kc; tap++) {
        int c0 = k - tap * v->c, len = v->c - c0;
        if (len > k0 + kc - k) len = k0 + kc - k;
        char *to = dst + (size_t)(k - k0) * (pair ? 2 : 4);
        DISPATCH(pair, v->dt, copy_rows(PAIR, DT, v, r0, nr, tap, c0, len, to, stride))
        k += len;
    }
    for (int i = nr; i < rows; i++) memset(dst + (size_t)i * stride, 0, stride);
}

VEC void copy_rows_t(int pair, Dtype dt, const View *v, int c0, int nc, int k0, int kc, char *dst,
                     size_t stride)
{
    for (int k = 0; k < kc; k += VW << pair, dst += VW * 4) {
        vf r[VW];
        const char *row = at(v, (k0 + k) * v->sx + c0);
        size_t bytes = (size_t)v->sx * dtype_bytes(dt);
        for (int t = 0; t < VW; t++, row += bytes << pair) {
            for (int i = 0; i <= pair; i++)
                _mm_prefetch((const char *)((uintptr_t)row + ((VW << pair) + (size_t)i) * bytes),
                             _MM_HINT_T0);
            int left = kc - k - (t << pair);
            r[t] = get_across(pair, dt, left > 0 ? row : 0, left > 1 ? row + bytes : 0, 0,
                              (size_t)nc);
        }
        gemm_transpose(r);
        for (int i = 0; i < MR; i++) vec_store((float *)(void *)(dst + (size_t)i * stride), r[i]);
    }
}

void ISA(gemm_pack_rows_t)(const View *v, int pair, int c0, int nc, int k0, int kc, char *dst,
                           size_t stride)
{
    DISPATCH(pair, v->dt, copy_rows_t(PAIR, DT, v, c0, nc, k0, kc, dst, stride))
}

/* One vector of columns of a panel from VW rows; the missing ones are NULL. */
VEC void transpose_rows(int pair, Dtype dt, const char *const row[VW], int kc, float *dst)
{
    int steps = (kc + pair) >> pair;
    for (int s = 0; s < steps; s += VW, dst += VW * NR) {
        vf r[VW];
        size_t k = (size_t)s << pair, left = (size_t)kc - k, full = VW << pair;
        if (left >= full) {
#pragma GCC unroll 16
            for (int t = 0; t < VW; t++)
                r[t] = row[t] ? get_words(pair, dt, row[t], k, full) : vec_zero();
        } else {
            for (int t = 0; t < VW; t++)
                r[t] = row[t] ? get_words(pair, dt, row[t], k, left) : vec_zero();
        }
        gemm_transpose(r);
        if (steps - s >= VW) {
#pragma GCC unroll 16
            for (int t = 0; t < VW; t++) vec_store(dst + t * NR, r[t]);
        } else {
            for (int t = 0; t < steps - s; t++) vec_store(dst + t * NR, r[t]);
        }
    }
}

void ISA(gemm_pack_panel_t)(const View *v, int pair, int j0, int nj, int k0, int kc, float *dst,
                            char *stage, size_t stride)
{
    for (int half = 0; half < NR && half < nj; half += VW) {
        const char *row[VW];
        int n = nj - half < VW ? nj - half : VW;
        Dtype dt = v->dt;
        if (v->kh * v->kw == 1 && v->ga == 1) {
            for (int t = 0; t < VW; t++)
                row[t] = t < n ? at(v, (j0 + half + t) * v->sx + k0) : 0;
        } else {
            ISA(gemm_pack_rows)(v, pair, j0 + half, n, n, k0, kc, stage, stride);
            for (int t = 0; t < VW; t++) row[t] = t < n ? stage + (size_t)t * stride : 0;
            dt = pair ? DT_BF16 : DT_F32;
        }
        DISPATCH(pair, dt, transpose_rows(PAIR, DT, row, kc, dst + half))
    }
}

/* nj columns of a row that spread over several taps, gathered. */
static const char *gather(const View *v, const Pos *pos, int j0, int nj, char *to)
{
    size_t size = dtype_bytes(v->dt);
    for (int j = j0, tap = j0 / v->c; j < j0 + nj; tap++) {
        int c0 = j - tap * v->c, len = v->c - c0;
        if (len > j0 + nj - j) len = j0 + nj - j;
        const char *src = tap_at(v, pos, tap / v->kw, tap % v->kw);
        char *dst = to + (size_t)(j - j0) * size;
        if (src) memcpy(dst, src + (size_t)c0 * size, (size_t)len * size);
        else memset(dst, 0, (size_t)len * size);
        j += len;
    }
    return to;
}

/* nj columns, all of one tap, or one panel of several taps. Row by row, since
 * that is how they lie in memory. */
VEC void copy_panels(int pair, Dtype dt, const View *v, int j0, int nj, int k0, int kc, float *dst,
                     size_t panel)
{
    float room[2][NR];
    int tap = j0 / v->c, split = (j0 + nj - 1) / v->c != tap;
    int ti = tap / v->kw, tj = tap % v->kw;
    size_t skip = (size_t)(j0 - tap * v->c) * dtype_bytes(dt), n = (size_t)nj;
    ptrdiff_t ahead = 8 * v->sx * v->step * (ptrdiff_t)dtype_bytes(dt);
    Pos pos = pos_of(v, k0);
    for (int k = 0; k < kc; k += 1 << pair, dst += NR) {
        const char *row[2] = {0};
        for (int i = 0; i <= pair && k + i < kc; i++, pos_next(v, &pos)) {
            row[i] = split ? gather(v, &pos, j0, nj, (char *)room[i]) : tap_at(v, &pos, ti, tj);
            if (row[i] && !split) row[i] += skip;
            for (size_t b = 0; row[i] && !split && b < n * dtype_bytes(dt); b += 64)
                _mm_prefetch((const char *)((uintptr_t)row[i] + (size_t)ahead + b), _MM_HINT_T0);
        }
        float *to = dst;
        size_t j = 0;
        for (; j + NR <= n; j += NR, to += panel) {
            vec_store(to, get_across(pair, dt, row[0], row[1], j, VW));
            vec_store(to + VW, get_across(pair, dt, row[0], row[1], j + VW, VW));
        }
        if (j == n) continue;
        size_t left = n - j, lo = left < VW ? left : VW;
        vec_store(to, get_across(pair, dt, row[0], row[1], j, lo));
        if (left > VW) vec_store(to + VW, get_across(pair, dt, row[0], row[1], j + VW, left - VW));
    }
}

void ISA(gemm_pack_panels)(const View *v, int pair, int j0, int nj, int k0, int kc, float *dst,
                           size_t panel)
{
    while (nj > 0) {
        int n = v->c - j0 % v->c;                       /* columns left in this tap */
        n = n >= nj ? nj : n >= NR ? n / NR * NR : nj < NR ? nj : NR;
        DISPATCH(pair, v->dt, copy_panels(PAIR, DT, v, j0, n, k0, kc, dst, panel))
        j0 += n, nj -= n;
        dst += (size_t)(n / NR) * panel;
    }
}

/* What rows outside the picture and rows past the last read. */
static const char zeros[GEMM_STEPS * 4] __attribute__((aligned(64)));

int ISA(gemm_runs)(const View *v, int pair, int r0, int nr, int k0, int kc, Run *run)
{
    size_t size = dtype_bytes(v->dt), apart = (size_t)(v->sx * v->step) * size;
    if (v->dt != (pair ? DT_BF16 : DT_F32) || v->c % (1 + pair) || kc % (1 + pair)) return 0;
    /* Rows a multiple of 4096 bytes apart would share a few lines of the cache. */
    if ((v->c < RUN_MIN && v->kh * v->kw > 1) || apart % 4096 == 0) return 0;
    int n = 0;
    for (int k = k0, tap = k0 / v->c; k < k0 + kc; tap++, n++) {
        int c0 = k - tap * v->c, len = v->c - c0, i = tap / v->kw, j = tap % v->kw;
        if (len > k0 + kc - k) len = k0 + kc - k;
        run[n].steps = (size_t)len >> pair;
        Pos pos = pos_of(v, r0);
        for (int r = 0; r < MR; r++, pos_next(v, &pos)) {
            const char *src = r < nr ? tap_at(v, &pos, i, j) : 0;
            run[n].row[r] = src ? src + (size_t)c0 * size : zeros;
        }
        k += len;
    }
    return n;
}
