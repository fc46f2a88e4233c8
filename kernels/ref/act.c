/* act.c - activations, GEGLU and addition, forward and backward: the definition. */
#include "kernels/ref/ref.h"

#define SQRT1_2 0.70710678118654752440
#define SQRT1_2PI 0.39894228040143267794

REF_INLINE double gelu(double x) { return x * 0.5 * erfc(-x * SQRT1_2); }

REF_INLINE double gelu_slope(double x)
{
    return 0.5 * erfc(-x * SQRT1_2) + x * SQRT1_2PI * exp(-0.5 * x * x);
}

REF_INLINE double act(ActKind kind, double x)
{
    if (kind == ACT_GELU) return gelu(x);
    if (kind == ACT_GELU_TANH) return x * ref_sigmoid(x * (GELU_TANH_A + GELU_TANH_B * x * x));
    return x * ref_sigmoid(kind == ACT_SILU ? x : 1.702 * x);
}

REF_INLINE double act_slope(ActKind kind, double x)
{
    if (kind == ACT_GELU) return gelu_slope(x);
    if (kind == ACT_GELU_TANH) {
        double t = ref_sigmoid(x * (GELU_TANH_A + GELU_TANH_B * x * x));
        return t + x * t * (1 - t) * (GELU_TANH_A + 3 * GELU_TANH_B * x * x);
    }
    double a = kind == ACT_SILU ? 1 : 1.702, s = ref_sigmoid(a * x);
    return s + a * x * s * (1 - s);
}

REF_INLINE void act_any(Dtype dt, const Act *p, void *y, const void *x)
{
    for (size_t i = 0; i < p->count; i++) ref_put(dt, y, i, act(p->kind, ref_get(dt, x, i)));
}

REF_INLINE void act_bwd_any(Dtype dt, const Act *p, void *dx, const void *dy, const void *x,
                            int acc)
{
    for (size_t i = 0; i < p->count; i++)
        ref_acc(dt, dx, i, ref_get(dt, dy, i) * act_slope(p->kind, ref_get(dt, x, i)), acc);
}

REF_INLINE void geglu_any(Dtype dt, const Geglu *p, void *y, const void *x)
{
    for (size_t r = 0; r < (size_t)p->rows; r++)
        for (size_t c = 0, C = (size_t)p->c; c < C; c++)
            ref_put(dt, y, r * C + c,
                    ref_get(dt, x, r * 2 * C + c) * gelu(ref_get(dt, x, (r * 2 + 1) * C + c)));
}

REF_INLINE void geglu_bwd_any(Dtype dt, const Geglu *p, void *dx, const void *dy, const void *x,
                              int acc)
{
    for (size_t r = 0; r < (size_t)p->rows; r++)
        for (size_t c = 0, C = (size_t)p->c; c < C; c++) {
            size_t lin = r * 2 * C + c, gate = lin + C;
            double a = ref_get(dt, x, lin), g = ref_get(dt, x, gate);
            double e = ref_get(dt, dy, r * C + c);
            ref_acc(dt, dx, lin, e * gelu(g), acc);
            ref_acc(dt, dx, gate, e * a * gelu_slope(g), acc);
        }
}

REF_INLINE void add_any(Dtype dt, size_t count, void *y, const void *a, const void *b)
{
    for (size_t i = 0; i < count; i++) ref_put(dt, y, i, ref_get(dt, a, i) + ref_get(dt, b, i));
}

REF(act, (Dev *d, const Act *p, void *y, const void *x), (DT, p, y, x))
REF(act_bwd, (Dev *d, const Act *p, void *dx, const void *dy, const void *x, int acc),
    (DT, p, dx, dy, x, acc))
REF(geglu, (Dev *d, const Geglu *p, void *y, const void *x), (DT, p, y, x))
REF(geglu_bwd, (Dev *d, const Geglu *p, void *dx, const void *dy, const void *x, int acc),
    (DT, p, dx, dy, x, acc))
REF(add, (Dev *d, size_t count, void *y, const void *a, const void *b), (DT, count, y, a, b))
