/* ref.h - what the reference kernels share: typed access in f64.
 *
 * The references define the ops: plain loops, every element read into a double,
 * every sum a double, rounded once when stored. An op is written once as
 * <op>_any with the dtype as a constant; REF makes its three versions.
 */
#ifndef SDC_KERNELS_REF_H
#define SDC_KERNELS_REF_H

#include <assert.h>
#include <math.h>

#include "kernels/half.h"
#include "kernels/impl.h"

#define REF_INLINE static inline __attribute__((always_inline, unused))

REF_INLINE double ref_get(Dtype dt, const void *p, size_t i)
{
    if (dt == DT_F32) return (double)((const float *)p)[i];
    uint16_t h = ((const uint16_t *)p)[i];
    return (double)(dt == DT_BF16 ? bf16_to_f32(h) : f16_to_f32(h));
}

REF_INLINE void ref_put(Dtype dt, void *p, size_t i, double v)
{
    if (dt == DT_F32) ((float *)p)[i] = (float)v;
    else ((uint16_t *)p)[i] = dt == DT_BF16 ? f32_to_bf16((float)v) : f32_to_f16((float)v);
}

/* p[i] = v, or += v. */
REF_INLINE void ref_acc(Dtype dt, void *p, size_t i, double v, int acc)
{
    ref_put(dt, p, i, acc ? ref_get(dt, p, i) + v : v);
}

REF_INLINE double ref_sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* Defines <op>_f32_ref, _bf16_ref and _f16_ref with the given parameters; each
 * calls <op>_any with the given arguments, where DT is its dtype. */
#define REF(op, params, args) REF1(op, f32, DT_F32, params, args) \
    REF1(op, bf16, DT_BF16, params, args) REF1(op, f16, DT_F16, params, args)
#define REF1(op, name, dtype, params, args) \
    void op##_##name##_ref params { const Dtype DT = dtype; (void)d; op##_any args; }

#endif
