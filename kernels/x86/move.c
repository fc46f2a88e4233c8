/* move.c - upsampling, concatenation, sums over pixels, casts for AVX2 and
 * AVX-512. */
#include "kernels/x86/vec.h"

enum { CHUNK = 1 << 14, STRIP = 4 * VW, RUN = 128 };

/* dst[i] = src[i], or += with acc, for count elements. */
VEC void move(Dtype dt, void *dst, size_t to, const void *src, size_t from, size_t count, int acc)
{
    size_t e = dtype_bytes(dt);
    if (!acc) {
        memcpy((char *)dst + to * e, (const char *)src + from * e, count * e);
        return;
    }
    for (size_t i = 0; i < count; i += VW) {
        size_t n = vec_left(i, count);
        vec_acc_most(dt, dst, to + i, vec_get_most(dt, src, from + i, n), n, 1);
    }
}

static void upsample2x_any(Dtype dt, Dev *d, const Upsample *p, void *y, const void *x)
{
    size_t h = (size_t)p->h, w = (size_t)p->w, c = (size_t)p->c, rows = (size_t)p->n * h;
    size_t high = 2 * h - p->cut_h, wide = 2 * w - p->cut_w;
#pragma omp parallel for num_threads(d->threads) if (rows * w * c > CHUNK)
    for (size_t r = 0; r < rows; r++) {
        size_t at = (r / h * high + r % h * 2) * wide;      /* pixel where the output row begins */
        for (size_t i = 0; i < wide; i++) move(dt, y, (at + i) * c, x, (r * w + i / 2) * c, c, 0);
        if (r % h * 2 + 1 < high) move(dt, y, (at + wide) * c, y, at * c, wide * c, 0);
    }
}

/* Row r of dx (of all pictures) from the one or two rows of dy above it. */
VEC void upsample2x_bwd_row(Dtype dt, const Upsample *p, size_t r, void *dx, const void *dy,
                            int acc)
{
    size_t h = (size_t)p->h, w = (size_t)p->w, c = (size_t)p->c;
    size_t high = 2 * h - p->cut_h, wide = 2 * w - p->cut_w;
    size_t at = (r / h * high + r % h * 2) * wide;
    int low = r % h * 2 + 1 < high;
    for (size_t i = 0; i < w; i++)
        for (size_t k = 0; k < c; k += VW) {
            size_t n = vec_left(k, c), a = (at + 2 * i) * c + k, b = a + wide * c;
            int right = 2 * i + 1 < wide;
            vf sum = vec_get_most(dt, dy, a, n);
            if (right) sum = vec_add(sum, vec_get_most(dt, dy, a + c, n));
            if (low) {
                vf next = vec_get_most(dt, dy, b, n);
                if (right) next = vec_add(next, vec_get_most(dt, dy, b + c, n));
                sum = vec_add(sum, next);
            }
            vec_acc_most(dt, dx, (r * w + i) * c + k, sum, n, acc);
        }
}

static void upsample2x_bwd_any(Dtype dt, Dev *d, const Upsample *p, void *dx, const void *dy,
                               int acc)
{
    size_t rows = (size_t)p->n * (size_t)p->h;
#pragma omp parallel for num_threads(d->threads) if (rows * (size_t)p->w * (size_t)p->c > CHUNK)
    for (size_t r = 0; r < rows; r++) VEC_BY(dt, upsample2x_bwd_row(DT, p, r, dx, dy, acc));
}

static void concat_any(Dtype dt, Dev *d, const Concat *p, void *y, const void *a, const void *b)
{
    size_t ca = (size_t)p->ca, cb = (size_t)p->cb, c = ca + cb, rows = (size_t)p->rows;
#pragma omp parallel for num_threads(d->threads) if (rows * c > CHUNK)
    for (size_t r = 0; r < rows; r++) {
        move(dt, y, r * c, a, r * ca, ca, 0);
        move(dt, y, r * c + ca, b, r * cb, cb, 0);
    }
}

static void concat_bwd_any(Dtype dt, Dev *d, const Concat *p, void *da, void *db, const void *dy,
                           int acc_a, int acc_b)
{
    size_t ca = (size_t)p->ca, cb = (size_t)p->cb, c = ca + cb, rows = (size_t)p->rows;
#pragma omp parallel for num_threads(d->threads) if (rows * c > CHUNK)
    for (size_t r = 0; r < rows; r++) {
        if (da) VEC_BY(dt, move(DT, da, r * ca, dy, r * c, ca, acc_a));
        if (db) VEC_BY(dt, move(DT, db, r * cb, dy, r * c + ca, cb, acc_b));
    }
}

/* A strip of channels k .. end-1 of one picture, summed in runs of RUN pixels,
 * so that the rounding of a sum grows with RUN + pixels / RUN. */
VEC void rowsum_strip(Dtype dt, size_t hw, size_t c, void *y, const void *x, size_t n, size_t k,
                      size_t end, int acc)
{
    vf sum[STRIP / VW], run[STRIP / VW];
    for (int v = 0; v < STRIP / VW; v++) sum[v] = vec_zero();
    for (size_t i0 = 0; i0 < hw; i0 += RUN) {
        for (int v = 0; v < STRIP / VW; v++) run[v] = vec_zero();
        for (size_t i = i0; i < hw && i < i0 + RUN; i++)
            for (size_t at = k, v = 0; at < end; at += VW, v++)
                run[v] = vec_add(run[v], vec_get_most(dt, x, (n * hw + i) * c + at,
                                                      vec_left(at, end)));
        for (int v = 0; v < STRIP / VW; v++) sum[v] = vec_add(sum[v], run[v]);
    }
    for (size_t at = k, v = 0; at < end; at += VW, v++)
        vec_acc_most(dt, y, n * c + at, sum[v], vec_left(at, end), acc);
}

static void rowsum_any(Dtype dt, Dev *d, const Rowsum *p, void *y, const void *x, int acc)
{
    size_t c = (size_t)p->c, hw = (size_t)p->hw, strips = (c + STRIP - 1) / STRIP;
#pragma omp parallel for num_threads(d->threads) if (p->n * hw * c > CHUNK)
    for (size_t task = 0; task < (size_t)p->n * strips; task++) {
        size_t n = task / strips, k = task % strips * STRIP, end = k + STRIP < c ? k + STRIP : c;
        VEC_BY(dt, rowsum_strip(DT, hw, c, y, x, n, k, end, acc));
    }
}

VEC void cast_chunk(Dtype to, Dtype from, void *y, const void *x, size_t i, size_t end)
{
    if (to == from) {
        move(to, y, i, x, i, end - i, 0);
        return;
    }
    for (; i < end; i += VW) {
        size_t n = vec_left(i, end);
        vec_put_most(to, y, i, vec_get_most(from, x, i, n), n);
    }
}

VEC_OP(upsample2x, (Dev *d, const Upsample *p, void *y, const void *x), (DT, d, p, y, x))
VEC_OP(upsample2x_bwd, (Dev *d, const Upsample *p, void *dx, const void *dy, int acc),
       (DT, d, p, dx, dy, acc))
VEC_OP(concat, (Dev *d, const Concat *p, void *y, const void *a, const void *b),
       (DT, d, p, y, a, b))
VEC_OP(concat_bwd, (Dev *d, const Concat *p, void *da, void *db, const void *dy, int acc_a,
                    int acc_b),
       (DT, d, p, da, db, dy, acc_a, acc_b))
VEC_OP(rowsum, (Dev *d, const Rowsum *p, void *y, const void *x, int acc), (DT, d, p, y, x, acc))

#define CAST(dst, dst_dt, src, src_dt)                                                   \
    void ISA(cast_##dst##_##src)(Dev *d, size_t count, void *y, const void *x)           \
    {                                                                                    \
        _Pragma("omp parallel for num_threads(d->threads) if (count > CHUNK)")           \
        for (size_t i = 0; i < count; i += CHUNK)                                        \
            cast_chunk(dst_dt, src_dt, y, x, i, count - i < CHUNK ? count : i + CHUNK);  \
    }
#define CASTS(src, src_dt) CAST(f32, DT_F32, src, src_dt)                                \
    CAST(bf16, DT_BF16, src, src_dt) CAST(f16, DT_F16, src, src_dt)
#ifndef SDC_BF16
CASTS(f32, DT_F32)
CASTS(bf16, DT_BF16)
CASTS(f16, DT_F16)
#endif
