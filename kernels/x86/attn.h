/* attn.h - what attention forward and backward share: a small product on blocks
 * that lie in the cache, transposes, packing, and the plan of the scratch.
 *
 * Layout. A block of LANES rows of one side (queries in the forward, keys in
 * the backward) is transposed once, so that these rows are the lanes of VECS
 * vectors; the rows of the other side are then streamed, each of their elements
 * broadcast. So no head size wastes lanes, the softmax has no sums across lanes
 * in the forward, and the streamed side is read where it lies.
 *
 * Everything below counts in words of 4 bytes: f32, or (`pair`, DEV_BF16 only)
 * two bf16 that are neighbours along the summed axis, for vdpbf16ps. bf16 and
 * f16 without pairs are widened into scratch first.
 */
#ifndef SDC_KERNELS_X86_ATTN_H
#define SDC_KERNELS_X86_ATTN_H

#include <assert.h>
#include <omp.h>

#include "kernels/x86/vec.h"

enum {
    VECS = 3,                   /* vectors per block */
    LANES = VECS * VW,
    BLOCK = 96,                 /* keys per step of the forward, at most */
    GROUP = 4,                  /* blocks that share a pass over the other side, at most */
    STREAM = 64,                /* queries per step of the backward */
    BWD_TASKS = 32,             /* the backward makes about as many tasks */
    PARTIAL = 8 << 20           /* floats: attn_splits */
};

/* c (rows, vecs * VW) = a b, or += with acc: row r, word k of a lies at
 * a[r * ar + k * ak]; row k of b at b + k * bs; n words are summed. */
typedef struct {
    float *c;
    const void *a, *b;
    size_t cs, ar, ak, bs;
    int rows, vecs, n, acc;
} Product;
void ISA(attn_product)(int pair, const Product *p);

/* dst[c * ds + r] = src[r * ss + c] for words. */
void ISA(attn_transpose)(float *dst, size_t ds, const void *src, size_t ss, int rows, int cols);

/* dst (N,H,T,D) f32 = src (N,T,H*D) dt. */
void ISA(attn_widen)(Dev *d, Dtype dt, float *dst, const void *src, int n, int t, int h, int dim);

/* dst (N,H,ceil(T/2),D) = pairs of rows 2t and 2t+1 of src (N,T,H*D) bf16; the
 * partner of a last odd row is 0. */
void ISA(attn_pairs)(Dev *d, float *dst, const void *src, int n, int t, int h, int dim);

/* Two rows as one of pairs; b's lanes are the upper halves. */
VEC vf attn_pair_rows(vf a, vf b)
{
#ifdef SDC_BF16
    __m512i h = (__m512i)_mm512_cvtne2ps_pbh(b, a);
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9,
                                           24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1,
                                           16, 0);
    return (vf)_mm512_permutexvar_epi16(order, h);
#else
    (void)b;
    return a;
#endif
}

/* Rows r < rows of dst (stride C, from element `at`) = src row r * scale[r];
 * scale NULL: 1. */
VEC void attn_put_rows(Dtype dt, void *dst, size_t at, size_t stride, const float *src, size_t ss,
                       int rows, int dim, const float *scale)
{
    for (int r = 0; r < rows; r++) {
        vf s = vec_set(scale ? scale[r] : 1.0f);
        int c = 0;
        for (; c + VW <= dim; c += VW)
            vec_put(dt, dst, at + r * stride + c, vec_mul(vec_load(src + r * ss + c), s));
        if (c < dim)
            vec_put_n(dt, dst, at + r * stride + c, vec_mul(vec_load(src + r * ss + c), s),
                      (size_t)(dim - c));
    }
}

/* How a tensor (N,T,H*D) is read: head (n,h) begins at base + (n * n_step +
 * h * h_step) bytes; rows (or pairs of rows) are `row` words apart. */
typedef struct { const char *base; size_t n_step, h_step, row; } Heads;
VEC const char *attn_head(const Heads *s, int n, int h)
{
    return s->base + (size_t)n * s->n_step + (size_t)h * s->h_step;
}
/* As it is in memory (elem: its bytes), or as a packed (N,H,rows,D) of words. */
VEC Heads attn_direct(const void *p, size_t elem, int t, int h, int dim)
{
    size_t c = (size_t)h * dim;
    return (Heads){p, (size_t)t * c * elem, dim * elem, c * elem / 4};
}
VEC Heads attn_packed(const float *p, int rows, int h, int dim)
{
    size_t one = (size_t)rows * dim * 4;
    return (Heads){(const char *)p, h * one, one, (size_t)dim};
}

/* Scratch, in floats: areas shared by all threads, then one area per thread. */
typedef struct { size_t shared[4], area, total; } AttnPlan;

/* Rounded up to a cache line. */
VEC size_t attn_round(size_t floats) { return (floats + 15) & ~(size_t)15; }

VEC int attn_pair(Dtype dt, const Attention *p, int isa)
{
    return isa == DEV_BF16 && dt == DT_BF16 && p->d % 2 == 0;
}

/* VW of that version. */
VEC int attn_lanes(int isa) { return isa == DEV_AVX2 ? 8 : 16; }

VEC size_t attn_packed_size(const Attention *p, int t, int pair)
{
    return attn_round((size_t)p->n * p->heads * (pair ? (t + 1) / 2 : t) * p->d);
}

/* Blocks that share a pass: as many as fit the level-2 cache beside a step of
 * the other side; each keeps `arrays` arrays of (D,LANES). */
VEC int attn_group(const Attention *p, int arrays)
{
    int fit = 1280 / (p->d * arrays);
    return fit < 1 ? 1 : fit < GROUP ? fit : GROUP;
}

/* Forward: shared K (widened), V (widened or paired); per thread Q^T and O^T
 * (D,LANES) for each query block, scores (BLOCK,LANES), rows of Q or O
 * (LANES,D+16). */
VEC AttnPlan attn_plan(const Attention *p, Dtype dt, int isa, int threads)
{
    int pair = attn_pair(dt, p, isa), vw = attn_lanes(isa);
    size_t lanes = (size_t)VECS * vw, d = (size_t)p->d;
    AttnPlan a = {0};
    if (dt != DT_F32) a.shared[1] = attn_packed_size(p, p->tk, pair);
    if (dt != DT_F32 && !pair) a.shared[0] = a.shared[1];
    a.area = attn_round(lanes * (2 * d * attn_group(p, 2) + BLOCK + d + 16));
    a.total = a.shared[0] + a.shared[1] + a.area * threads;
    return a;
}

/* Rows of dQ, padded to whole vectors. */
VEC size_t attn_padded(const Attention *p, int vw) { return (size_t)(p->d + vw - 1) / vw * vw; }

/* Key ranges that the backward works on independently, each with its own dQ:
 * enough for many threads, but no more than PARTIAL floats of them. */
VEC int attn_splits(const Attention *p, int vw)
{
    size_t heads = (size_t)p->n * p->heads, lanes = (size_t)VECS * vw;
    size_t want = (BWD_TASKS + heads - 1) / heads, blocks = (p->tk + lanes - 1) / lanes;
    size_t fit = PARTIAL / (heads * p->tq * attn_padded(p, vw));
    if (want > fit) want = fit ? fit : 1;
    return (int)(want < blocks ? want : blocks);
}

/* Backward: shared Q and dO (widened or paired), delta, partial dQ (one for
 * each split, rows padded to whole vectors); per thread and key block K^T, V^T,
 * dK^T, dV^T (D,LANES) and rows of K (LANES,Dp); per thread scores and their
 * gradients (STREAM,LANES) and, with pairs, those two as bf16 in 1.5 of that. */
VEC AttnPlan attn_bwd_plan(const Attention *p, Dtype dt, int isa, int threads)
{
    int pair = attn_pair(dt, p, isa), vw = attn_lanes(isa);
    size_t lanes = (size_t)VECS * vw, d = (size_t)p->d;
    size_t dp = attn_padded(p, vw);
    size_t heads = (size_t)p->n * p->heads;
    AttnPlan a = {0};
    if (dt != DT_F32) a.shared[0] = a.shared[1] = attn_packed_size(p, p->tq, pair);
    a.shared[2] = attn_round(heads * p->tq);
    a.shared[3] = attn_round(heads * attn_splits(p, vw) * p->tq * dp);
    size_t each = (4 * d + dp) * attn_group(p, 4), common = (pair ? 7 : 4) * STREAM / 2;
    a.area = attn_round(lanes * (each + common));
    a.total = a.area * threads;
    for (int i = 0; i < 4; i++) a.total += a.shared[i];
    return a;
}

#endif
