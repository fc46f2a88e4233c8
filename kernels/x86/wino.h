/* wino.h - the transforms of Winograd's algorithm for 3x3 convolutions, one
 * vector of channels at a time.
 *
 * With points 0, pairs +-p, and infinity, n = m + 2 of them (Toom-Cook):
 *   input    V = B d B^T      B (n,n): row p has the coefficients of
 *                             prod (x - q) over the other finite points q
 *   weights  U = G g G^T      G (n,3): row p is (1, p, p^2) / prod (p - q)
 *   output   Y = A (U V) A^T  A (m,n): row i is p^i at each point
 * Points of opposite sign share the even and the odd part of each sum.
 *
 * Points: those of the smallest error found among some dozens whose coefficients in
 * A and B are exact in f32. Error of random sums in f32, rms and relative to the
 * rms of the result, where the direct sum has 0.6e-6 to 0.9e-6 (C = 128..320):
 *   F(4,3)  5/8, 3/2              1.3e-6 (3.3e-6 with the usual 1, 2)
 *   F(6,3)  1/2, 1, 2             5e-6
 *   F(8,3)  3/8, 3/4, 5/4, 9/4    2e-5
 * The last is for T whose results are rounded by 1.4e-4 (f16) or 1.1e-3 (bf16).
 */
#ifndef SDC_KERNELS_X86_WINO_H
#define SDC_KERNELS_X86_WINO_H

#include "kernels/wino_plan.h"
#include "kernels/x86/gemm.h"

enum { WINO_N = 10 };           /* most points along an axis */

VEC vf wino_set(double x) { return vec_set((float)x); }
/* x + c y */
VEC vf wino_axpy(double c, vf y, vf x) { return vec_fma(wino_set(c), y, x); }

/* out[p] and out[p+1] = even +- a odd. */
VEC void wino_pair(vf *out, vf even, double a, vf odd)
{
    out[0] = wino_axpy(a, odd, even);
    out[1] = wino_axpy(-a, odd, even);
}

#define WINO_A4 0.625
#define WINO_B4 1.5
#define WINO_A6 0.5
#define WINO_C6 2.0             /* and 1 */

VEC void wino_input4(vf *o, const vf *d)
{
    const double a = WINO_A4, b = WINO_B4, aa = a * a, bb = b * b;
    o[0] = wino_axpy(aa * bb, d[0], wino_axpy(-(aa + bb), d[2], d[4]));
    wino_pair(o + 1, wino_axpy(-bb, d[2], d[4]), a, wino_axpy(-bb, d[1], d[3]));
    wino_pair(o + 3, wino_axpy(-aa, d[2], d[4]), b, wino_axpy(-aa, d[1], d[3]));
    o[5] = wino_axpy(aa * bb, d[1], wino_axpy(-(aa + bb), d[3], d[5]));
}

/* d[4] - (q + r) d[2] + q r d[0] */
VEC vf wino_quad(double q, double r, const vf *d)
{
    return wino_axpy(q * r, d[0], wino_axpy(-(q + r), d[2], d[4]));
}

VEC void wino_input6(vf *o, const vf *d)
{
    const double a = WINO_A6, c = WINO_C6, aa = a * a, cc = c * c;
    const double e = aa + 1 + cc, f = aa + cc + aa * cc, g = aa * cc;
    o[0] = wino_axpy(-g, d[0], wino_axpy(f, d[2], wino_axpy(-e, d[4], d[6])));
    wino_pair(o + 1, wino_quad(1, cc, d + 2), a, wino_quad(1, cc, d + 1));
    wino_pair(o + 3, wino_quad(aa, cc, d + 2), 1, wino_quad(aa, cc, d + 1));
    wino_pair(o + 5, wino_quad(aa, 1, d + 2), c, wino_quad(aa, 1, d + 1));
    o[7] = wino_axpy(-g, d[1], wino_axpy(f, d[3], wino_axpy(-e, d[5], d[7])));
}

/* The rows of G for +-p: (g0 +- p g1 + p^2 g2) k. */
VEC void wino_weight_pair(vf *o, const vf *g, double p, double k)
{
    vf even = wino_axpy(p * p * k, g[2], vec_mul(wino_set(k), g[0]));
    wino_pair(o, even, p * k, g[1]);
}

VEC void wino_weight4(vf *o, const vf *g)
{
    const double a = WINO_A4, b = WINO_B4, aa = a * a, bb = b * b;
    o[0] = vec_mul(wino_set(1 / (aa * bb)), g[0]);
    wino_weight_pair(o + 1, g, a, 0.5 / (aa * (aa - bb)));
    wino_weight_pair(o + 3, g, b, 0.5 / (bb * (bb - aa)));
    o[5] = g[2];
}

VEC void wino_weight6(vf *o, const vf *g)
{
    const double a = WINO_A6, c = WINO_C6, aa = a * a, cc = c * c;
    o[0] = vec_mul(wino_set(-1 / (aa * cc)), g[0]);
    wino_weight_pair(o + 1, g, a, 0.5 / (aa * (aa - 1) * (aa - cc)));
    wino_weight_pair(o + 3, g, 1, 0.5 / ((1 - aa) * (1 - cc)));
    wino_weight_pair(o + 5, g, c, 0.5 / (cc * (cc - aa) * (cc - 1)));
    o[7] = g[2];
}

VEC void wino_output4(vf *o, const vf *m)
{
    const double a = WINO_A4, b = WINO_B4;
    vf sa = vec_add(m[1], m[2]), da = vec_sub(m[1], m[2]);
    vf sb = vec_add(m[3], m[4]), db = vec_sub(m[3], m[4]);
    o[0] = vec_add(m[0], vec_add(sa, sb));
    o[1] = wino_axpy(a, da, vec_mul(wino_set(b), db));
    o[2] = wino_axpy(a * a, sa, vec_mul(wino_set(b * b), sb));
    o[3] = wino_axpy(a * a * a, da, wino_axpy(b * b * b, db, m[5]));
}

VEC void wino_output6(vf *o, const vf *m)
{
    const double a = WINO_A6, c = WINO_C6, aa = a * a, cc = c * c;
    vf sa = vec_add(m[1], m[2]), da = vec_sub(m[1], m[2]);
    vf s1 = vec_add(m[3], m[4]), d1 = vec_sub(m[3], m[4]);
    vf sc = vec_add(m[5], m[6]), dc = vec_sub(m[5], m[6]);
    o[0] = vec_add(vec_add(m[0], sa), vec_add(s1, sc));
    o[1] = wino_axpy(a, da, wino_axpy(c, dc, d1));
    o[2] = wino_axpy(aa, sa, wino_axpy(cc, sc, s1));
    o[3] = wino_axpy(aa * a, da, wino_axpy(cc * c, dc, d1));
    o[4] = wino_axpy(aa * aa, sa, wino_axpy(cc * cc, sc, s1));
    o[5] = wino_axpy(aa * aa * a, da, wino_axpy(cc * cc * c, dc, vec_add(d1, m[7])));
}

/* Squares of the points of F(8,3) by index, and their products. */
#define WINO_P8(i) ((i) == 0 ? 0.375 : (i) == 1 ? 0.75 : (i) == 2 ? 1.25 : 2.25)
#define WINO_Q8(i) (WINO_P8(i) * WINO_P8(i))

/* prod (x^2 - q) over three q at d[0], d[2], d[4], d[6]. */
VEC vf wino_hex(double q, double r, double s, const vf *d)
{
    vf low = wino_axpy(-(q * r * s), d[0], wino_axpy(-(q + r + s), d[4], d[6]));
    return wino_axpy(q * r + r * s + s * q, d[2], low);
}

/* The same over all four q of F(8,3). */
VEC vf wino_oct(const vf *d)
{
    const double q = WINO_Q8(0), r = WINO_Q8(1), s = WINO_Q8(2), t = WINO_Q8(3);
    vf a = wino_axpy(-(q + r + s + t), d[6], d[8]);
    a = wino_axpy((q + r) * (s + t) + q * r + s * t, d[4], a);
    a = wino_axpy(-(q * r * (s + t) + s * t * (q + r)), d[2], a);
    return wino_axpy(q * r * s * t, d[0], a);
}

#define WINO_EACH8 _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)

VEC void wino_input8(vf *o, const vf *d)
{
    o[0] = wino_oct(d);
    WINO_EACH8 {
        double q = WINO_Q8((i + 1) & 3), r = WINO_Q8((i + 2) & 3), s = WINO_Q8((i + 3) & 3);
        wino_pair(o + 1 + 2 * i, wino_hex(q, r, s, d + 2), WINO_P8(i), wino_hex(q, r, s, d + 1));
    }
    o[9] = wino_oct(d + 1);
}

VEC void wino_weight8(vf *o, const vf *g)
{
    o[0] = vec_mul(wino_set(1 / (WINO_Q8(0) * WINO_Q8(1) * WINO_Q8(2) * WINO_Q8(3))), g[0]);
    WINO_EACH8 {
        double p = WINO_Q8(i), q = WINO_Q8((i + 1) & 3), r = WINO_Q8((i + 2) & 3);
        double s = WINO_Q8((i + 3) & 3);
        wino_weight_pair(o + 1 + 2 * i, g, WINO_P8(i), 0.5 / (p * (p - q) * (p - r) * (p - s)));
    }
    o[9] = g[2];
}

/* Sum of c p^(2 j) x over the four p of F(8,3) and their x; c is p if odd, or else 1. */
VEC vf wino_powers8(int odd, int j, const vf x[4], vf sum)
{
    WINO_EACH8 {
        double c = odd ? WINO_P8(i) : 1;
        for (int k = 0; k < j; k++) c *= WINO_Q8(i);
        sum = wino_axpy(c, x[i], sum);
    }
    return sum;
}

VEC void wino_output8(vf *o, const vf *m)
{
    vf even[4], odd[4];
    WINO_EACH8 {
        even[i] = vec_add(m[1 + 2 * i], m[2 + 2 * i]);
        odd[i] = vec_sub(m[1 + 2 * i], m[2 + 2 * i]);
    }
    _Pragma("GCC unroll 4")
    for (int j = 0; j < 4; j++) {
        o[2 * j] = wino_powers8(0, j, even, j == 0 ? m[0] : vec_zero());
        o[2 * j + 1] = wino_powers8(1, j, odd, j == 3 ? m[9] : vec_zero());
    }
}

VEC void wino_input(int m, vf *o, const vf *d)
{
    if (m == 4) wino_input4(o, d);
    else if (m == 6) wino_input6(o, d);
    else wino_input8(o, d);
}
VEC void wino_weight(int m, vf *o, const vf *g)
{
    if (m == 4) wino_weight4(o, g);
    else if (m == 6) wino_weight6(o, g);
    else wino_weight8(o, g);
}
VEC void wino_output(int m, vf *o, const vf *t)
{
    if (m == 4) wino_output4(o, t);
    else if (m == 6) wino_output6(o, t);
    else wino_output8(o, t);
}

/* A convolution to be done: weights as element (cout, c, tap) at
 * cout so + c sc + tap st; flip: the taps in reverse. */
typedef struct {
    WinoShape s;
    const void *x, *w;
    Dtype dt, wdt;
    ptrdiff_t so, sc, st;
    int flip;
    Out out;                    /* gemm.h; without ga */
} Wino;

/* The whole convolution, scratch from d->ws (wino.c). */
void ISA(wino_run)(Dev *d, const Wino *w, const WinoPlan *plan);
/* Input channels c0.. (kc of them) of tile number `tile`: row `row` of v,
 * [point][tile][c]. */
void ISA(wino_put_input)(const Wino *w, const WinoPlan *g, int tile, int row, int c0, int kc,
                         const void *zeros, float *v);
/* The weights of output channels o0.. (nr of them, missing ones 0) and input channels
 * c0.. (kc of them): u, [point][c][nr]. */
void ISA(wino_put_weights)(const Wino *w, const WinoPlan *g, int o0, int c0, int kc, float *u);
/* Output channels o0.. of tile number `tile`, whose sums are a row of [point][tile][nr]. */
void ISA(wino_get_output)(const Wino *w, const WinoPlan *g, int tile, int o0, const float *sums);

#endif
