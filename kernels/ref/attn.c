/* attn.c - softmax attention, forward and backward: the definition. */
#include "kernels/ref/ref.h"

enum { MAX_D = 1024 };

/* Row of q or o, and of k or v, that belongs to head h. */
REF_INLINE size_t qrow(const Attention *p, int n, int i, int h)
{
    return (((size_t)n * p->tq + i) * p->heads + h) * p->d;
}

REF_INLINE size_t krow(const Attention *p, int n, int j, int h)
{
    return (((size_t)n * p->tk + j) * p->heads + h) * p->d;
}

REF_INLINE double dot(Dtype dt, const void *a, size_t ai, const void *b, size_t bi, int n)
{
    double s = 0;
    for (int c = 0; c < n; c++) s += ref_get(dt, a, ai + c) * ref_get(dt, b, bi + c);
    return s;
}

REF_INLINE void attention_any(Dtype dt, const Attention *p, void *o, float *lse, const void *q,
                              const void *k, const void *v)
{
    assert(p->d <= MAX_D && (!p->causal || p->tq == p->tk));
    for (int n = 0; n < p->n; n++)
        for (int h = 0; h < p->heads; h++)
            for (int i = 0; i < p->tq; i++) {
                int keys = p->causal ? i + 1 : p->tk;
                size_t qi = qrow(p, n, i, h);
                double max = -INFINITY, sum = 0, acc[MAX_D];
                for (int j = 0; j < keys; j++)
                    max = fmax(max, p->scale * dot(dt, q, qi, k, krow(p, n, j, h), p->d));
                for (int c = 0; c < p->d; c++) acc[c] = 0;
                for (int j = 0; j < keys; j++) {
                    size_t kj = krow(p, n, j, h);
                    double e = exp(p->scale * dot(dt, q, qi, k, kj, p->d) - max);
                    sum += e;
                    for (int c = 0; c < p->d; c++) acc[c] += e * ref_get(dt, v, kj + c);
                }
                for (int c = 0; c < p->d; c++) ref_put(dt, o, qi + c, acc[c] / sum);
                if (lse)
                    lse[((size_t)n * p->heads + h) * p->tq + i] = (float)(max + log(sum));
            }
}

/* Probability of key j for query i, and the gradient of their score times
 * scale: with P the probabilities and dP = dout v^T, the softmax gives
 * dS = P (dP - delta), delta_i = dout_i . o_i. */
typedef struct { double prob, dscore; } Pair;

REF_INLINE Pair pair(Dtype dt, const Attention *p, size_t qi, size_t kj, double lse, double delta,
                     const void *dout, const void *q, const void *k, const void *v)
{
    double prob = exp(p->scale * dot(dt, q, qi, k, kj, p->d) - lse);
    return (Pair){prob, p->scale * prob * (dot(dt, dout, qi, v, kj, p->d) - delta)};
}

REF_INLINE void bwd_q(Dtype dt, const Attention *p, void *dq, const void *dout, const void *q,
                      const void *k, const void *v, const void *o, const float *lse)
{
    for (int n = 0; n < p->n; n++)
        for (int h = 0; h < p->heads; h++)
            for (int i = 0; i < p->tq; i++) {
                size_t qi = qrow(p, n, i, h);
                double l = (double)lse[((size_t)n * p->heads + h) * p->tq + i];
                double delta = dot(dt, dout, qi, o, qi, p->d), acc[MAX_D] = {0};
                for (int j = 0; j < (p->causal ? i + 1 : p->tk); j++) {
                    size_t kj = krow(p, n, j, h);
                    double ds = pair(dt, p, qi, kj, l, delta, dout, q, k, v).dscore;
                    for (int c = 0; c < p->d; c++) acc[c] += ds * ref_get(dt, k, kj + c);
                }
                for (int c = 0; c < p->d; c++) ref_put(dt, dq, qi + c, acc[c]);
            }
}

REF_INLINE void bwd_kv(Dtype dt, const Attention *p, void *dk, void *dv, const void *dout,
                       const void *q, const void *k, const void *v, const void *o,
                       const float *lse)
{
    for (int n = 0; n < p->n; n++)
        for (int h = 0; h < p->heads; h++)
            for (int j = 0; j < p->tk; j++) {
                size_t kj = krow(p, n, j, h);
                double ak[MAX_D] = {0}, av[MAX_D] = {0};
                for (int i = p->causal ? j : 0; i < p->tq; i++) {
                    size_t qi = qrow(p, n, i, h);
                    double l = (double)lse[((size_t)n * p->heads + h) * p->tq + i];
                    double delta = dot(dt, dout, qi, o, qi, p->d);
                    Pair s = pair(dt, p, qi, kj, l, delta, dout, q, k, v);
                    for (int c = 0; c < p->d; c++) {
                        ak[c] += s.dscore * ref_get(dt, q, qi + c);
                        av[c] += s.prob * ref_get(dt, dout, qi + c);
                    }
                }
                for (int c = 0; c < p->d; c++) {
                    ref_put(dt, dk, kj + c, ak[c]);
                    ref_put(dt, dv, kj + c, av[c]);
                }
            }
}

REF_INLINE void attention_bwd_any(Dtype dt, const Attention *p, void *dq, void *dk, void *dv,
                                  const void *dout, const void *q, const void *k, const void *v,
                                  const void *o, const float *lse)
{
    assert(p->d <= MAX_D && (!p->causal || p->tq == p->tk) && !dk == !dv);
    if (dq) bwd_q(dt, p, dq, dout, q, k, v, o, lse);
    if (dk) bwd_kv(dt, p, dk, dv, dout, q, k, v, o, lse);
}

REF(attention, (Dev *d, const Attention *p, void *o, float *lse, const void *q, const void *k,
                const void *v),
    (DT, p, o, lse, q, k, v))
REF(attention_bwd, (Dev *d, const Attention *p, void *dq, void *dk, void *dv, const void *dout,
                    const void *q, const void *k, const void *v, const void *o, const float *lse),
    (DT, p, dq, dk, dv, dout, q, k, v, o, lse))
