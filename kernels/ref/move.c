/* move.c - upsampling, concatenation, sums over pixels, casts: the definition. */
#include "kernels/ref/ref.h"

REF_INLINE void upsample2x_any(Dtype dt, const Upsample *p, void *y, const void *x)
{
    size_t high = 2 * (size_t)p->h - p->cut_h, wide = 2 * (size_t)p->w - p->cut_w, c = (size_t)p->c;
    for (size_t n = 0; n < (size_t)p->n; n++)
        for (size_t r = 0; r < high; r++)
            for (size_t i = 0; i < wide; i++)
                for (size_t k = 0; k < c; k++)
                    ref_put(dt, y, ((n * high + r) * wide + i) * c + k,
                            ref_get(dt, x, ((n * p->h + r / 2) * p->w + i / 2) * c + k));
}

REF_INLINE void upsample2x_bwd_any(Dtype dt, const Upsample *p, void *dx, const void *dy, int acc)
{
    size_t high = 2 * (size_t)p->h - p->cut_h, wide = 2 * (size_t)p->w - p->cut_w, c = (size_t)p->c;
    for (size_t n = 0; n < (size_t)p->n; n++)
        for (size_t r = 0; r < (size_t)p->h; r++)
            for (size_t i = 0; i < (size_t)p->w; i++)
                for (size_t k = 0; k < c; k++) {
                    double sum = 0;
                    for (size_t a = 2 * r; a < 2 * r + 2 && a < high; a++)
                        for (size_t b = 2 * i; b < 2 * i + 2 && b < wide; b++)
                            sum += ref_get(dt, dy, ((n * high + a) * wide + b) * c + k);
                    ref_acc(dt, dx, ((n * p->h + r) * p->w + i) * c + k, sum, acc);
                }
}

REF_INLINE void concat_any(Dtype dt, const Concat *p, void *y, const void *a, const void *b)
{
    size_t ca = (size_t)p->ca, cb = (size_t)p->cb;
    for (size_t r = 0; r < (size_t)p->rows; r++) {
        for (size_t c = 0; c < ca; c++)
            ref_put(dt, y, r * (ca + cb) + c, ref_get(dt, a, r * ca + c));
        for (size_t c = 0; c < cb; c++)
            ref_put(dt, y, r * (ca + cb) + ca + c, ref_get(dt, b, r * cb + c));
    }
}

REF_INLINE void concat_bwd_any(Dtype dt, const Concat *p, void *da, void *db, const void *dy,
                               int acc_a, int acc_b)
{
    size_t ca = (size_t)p->ca, cb = (size_t)p->cb;
    for (size_t r = 0; r < (size_t)p->rows; r++) {
        for (size_t c = 0; da && c < ca; c++)
            ref_acc(dt, da, r * ca + c, ref_get(dt, dy, r * (ca + cb) + c), acc_a);
        for (size_t c = 0; db && c < cb; c++)
            ref_acc(dt, db, r * cb + c, ref_get(dt, dy, r * (ca + cb) + ca + c), acc_b);
    }
}

REF_INLINE void rowsum_any(Dtype dt, const Rowsum *p, void *y, const void *x, int acc)
{
    for (size_t n = 0; n < (size_t)p->n; n++)
        for (size_t c = 0, C = (size_t)p->c; c < C; c++) {
            double s = 0;
            for (size_t i = 0; i < (size_t)p->hw; i++) s += ref_get(dt, x, (n * p->hw + i) * C + c);
            ref_acc(dt, y, n * C + c, s, acc);
        }
}

REF(upsample2x, (Dev *d, const Upsample *p, void *y, const void *x), (DT, p, y, x))
REF(upsample2x_bwd, (Dev *d, const Upsample *p, void *dx, const void *dy, int acc),
    (DT, p, dx, dy, acc))
REF(concat, (Dev *d, const Concat *p, void *y, const void *a, const void *b), (DT, p, y, a, b))
REF(concat_bwd, (Dev *d, const Concat *p, void *da, void *db, const void *dy, int acc_a,
                 int acc_b),
    (DT, p, da, db, dy, acc_a, acc_b))
REF(rowsum, (Dev *d, const Rowsum *p, void *y, const void *x, int acc), (DT, p, y, x, acc))

#define CAST(dst, dst_dt, src, src_dt)                                                   \
    void cast_##dst##_##src##_ref(Dev *d, size_t count, void *y, const void *x)          \
    {                                                                                    \
        (void)d;                                                                         \
        for (size_t i = 0; i < count; i++) ref_put(dst_dt, y, i, ref_get(src_dt, x, i)); \
    }
#define CASTS(src, src_dt) CAST(f32, DT_F32, src, src_dt)                                \
    CAST(bf16, DT_BF16, src, src_dt) CAST(f16, DT_F16, src, src_dt)
CASTS(f32, DT_F32)
CASTS(bf16, DT_BF16)
CASTS(f16, DT_F16)
