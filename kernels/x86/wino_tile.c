/* wino_tile.c - tiles and weights through the transforms of wino.h, to and from
 * the layouts of the products between them.
 */
#include "kernels/x86/wino.h"

#define UNROLL _Pragma("GCC unroll 10")
#define UNROLL_VW _Pragma("GCC unroll 16")
/* A loop of transforms stays one: unrolled, all its addresses would be kept. */
#define ROLLED _Pragma("GCC unroll 1")

/* Runs `call`, which uses M and DT as constants, for this tile and dtype. */
#define CASE(m, d, call) { enum { M = m }; const Dtype DT = d; call; break; }
#define DISPATCH(m, dt, call)                                                             \
    switch ((m) * 4 + (int)(dt)) {                                                        \
    case 16: CASE(4, DT_F32, call) case 17: CASE(4, DT_BF16, call)                        \
    case 18: CASE(4, DT_F16, call) case 24: CASE(6, DT_F32, call)                         \
    case 25: CASE(6, DT_BF16, call) case 26: CASE(6, DT_F16, call)                        \
    case 32: CASE(8, DT_F32, call) case 33: CASE(8, DT_BF16, call)                        \
    case 34: CASE(8, DT_F16, call) default: break;                                        \
    }

/* Where tile number `tile` is: picture, first row and column of its output. */
typedef struct { int n, y, x; } Place;

static Place place_of(const WinoPlan *g, int tile)
{
    int x = tile % g->tx, r = tile / g->tx;
    return (Place){r / g->ty, r % g->ty * g->m, x * g->m};
}

/* One vector of channels of a tile: its points to v, `plane` floats apart. */
VEC void tile_in(int m, Dtype dt, const void *const *src, size_t c, size_t lanes, float *v,
                 size_t plane)
{
    const int n = m + 2;
    vf t[WINO_N][WINO_N], d[WINO_N], o[WINO_N];
    ROLLED
    for (int j = 0; j < n; j++) {
        UNROLL
        for (int i = 0; i < n; i++) d[i] = vec_get_most(dt, src[i * n + j], c, lanes);
        wino_input(m, o, d);
        UNROLL
        for (int i = 0; i < n; i++) t[i][j] = o[i];
    }
    ROLLED
    for (int i = 0; i < n; i++, v += (size_t)n * plane) {
        UNROLL
        for (int j = 0; j < n; j++) d[j] = t[i][j];
        wino_input(m, o, d);
        UNROLL
        for (int j = 0; j < n; j++) vec_store(v + (size_t)j * plane, o[j]);
    }
}

VEC void tile_in_all(int m, Dtype dt, const void *const *src, int c0, int kc, float *v,
                     size_t plane)
{
    size_t c = (size_t)c0, end = (size_t)(c0 + kc);
    for (; c + VW <= end; c += VW, v += VW) tile_in(m, dt, src, c, VW, v, plane);
    if (c < end) tile_in(m, dt, src, c, end - c, v, plane);
}

void ISA(wino_put_input)(const Wino *w, const WinoPlan *g, int tile, int row, int c0, int kc,
                         const void *zeros, float *v)
{
    const WinoShape *s = &w->s;
    const void *src[WINO_N * WINO_N];
    Place at = place_of(g, tile);
    int n = g->m + 2;
    for (int i = 0; i < n * n; i++) {
        int y = at.y - s->top + i / n, x = at.x - s->pad + i % n;
        int inside = (unsigned)y < (unsigned)s->h && (unsigned)x < (unsigned)s->w;
        size_t pixel = ((size_t)at.n * (size_t)s->h + (size_t)y) * (size_t)s->w + (size_t)x;
        src[i] = inside ? (const char *)w->x + pixel * (size_t)s->c * dtype_bytes(w->dt) : zeros;
    }
    v += (size_t)row * (size_t)g->kc;
    DISPATCH(g->m, w->dt, tile_in_all(M, DT, src, c0, kc, v, g->v_plane))
}

/* The 9 taps of VW input channels from c0 (`cs` of them) and VW output channels
 * from o0 (`os`), as vectors of output channels: g [c][tap]. They lie far apart in
 * memory, so those of `more` channels further on are asked for ahead. */
VEC void load_taps(Dtype dt, const Wino *w, int o0, int os, int c0, int cs, int more, vf g[VW][9])
{
    ptrdiff_t ahead = more > 2 * VW ? 2 * VW * w->sc : 0;
    for (int tap = 0; tap < 9; tap++) {
        vf r[VW];
        ptrdiff_t at = o0 * w->so + c0 * w->sc + (w->flip ? 8 - tap : tap) * w->st;
        ptrdiff_t step = w->sc == 1 ? w->so : w->sc;
        for (int i = 0; i < VW && ahead; i++)
            _mm_prefetch((const char *)w->w + (size_t)(at + ahead + i * step) * dtype_bytes(dt),
                         _MM_HINT_T0);
        if (w->sc == 1) {
            UNROLL_VW
            for (int i = 0; i < VW; i++)
                r[i] = i < os ? vec_get_most(dt, w->w, (size_t)(at + i * w->so), (size_t)cs)
                              : vec_zero();
            gemm_transpose(r);
        } else {
            for (int i = 0; i < VW; i++)
                r[i] = i < cs ? vec_get_most(dt, w->w, (size_t)(at + i * w->sc), (size_t)os)
                              : vec_zero();
        }
        UNROLL_VW
        for (int i = 0; i < VW; i++) g[i][tap] = r[i];
    }
}

/* One input channel by VW output channels. */
VEC void weight_in(int m, const vf g[9], float *u, size_t plane)
{
    const int n = m + 2;
    vf t[WINO_N][3], col[3], o[WINO_N];
    ROLLED
    for (int j = 0; j < 3; j++) {
        UNROLL
        for (int i = 0; i < 3; i++) col[i] = g[3 * i + j];
        wino_weight(m, o, col);
        UNROLL
        for (int i = 0; i < n; i++) t[i][j] = o[i];
    }
    ROLLED
    for (int i = 0; i < n; i++, u += (size_t)n * plane) {
        UNROLL
        for (int j = 0; j < 3; j++) col[j] = t[i][j];
        wino_weight(m, o, col);
        UNROLL
        for (int j = 0; j < n; j++) vec_store(u + (size_t)j * plane, o[j]);
    }
}

VEC void weights_in(int m, Dtype dt, const Wino *w, const WinoPlan *g, int o0, int c0, int kc,
                    float *u)
{
    for (int half = 0; half < NR; half += VW)
        for (int k = 0; k < kc; k += VW) {
            vf taps[VW][9];
            int os = w->s.cout - o0 - half, cs = kc - k < VW ? kc - k : VW;
            os = os < 0 ? 0 : os < VW ? os : VW;
            load_taps(dt, w, o0 + half, os, c0 + k, cs, kc - k, taps);
            for (int i = 0; i < cs; i++)
                weight_in(m, taps[i], u + (k + i) * NR + half, g->u_plane);
        }
}

void ISA(wino_put_weights)(const Wino *w, const WinoPlan *g, int o0, int c0, int kc, float *u)
{
    DISPATCH(g->m, w->wdt, weights_in(M, DT, w, g, o0, c0, kc, u))
}

/* One vector of output channels of a tile, of which rows x cols pixels exist. */
VEC void tile_out(int m, Dtype dt, const Out *o, const float *sums, size_t plane, size_t at,
                  size_t row, vf bias, size_t lanes, int rows, int cols)
{
    const int n = m + 2;
    vf t[WINO_N - 2][WINO_N], p[WINO_N], q[WINO_N], alpha = vec_set(o->alpha);
    ROLLED
    for (int j = 0; j < n; j++, sums += plane) {
        UNROLL
        for (int i = 0; i < n; i++) p[i] = vec_load(sums + (size_t)(i * n) * plane);
        wino_output(m, q, p);
        UNROLL
        for (int i = 0; i < m; i++) t[i][j] = q[i];
    }
    ROLLED
    for (int i = 0; i < rows; i++, at += row) {
        UNROLL
        for (int j = 0; j < n; j++) p[j] = t[i][j];
        wino_output(m, q, p);
        UNROLL
        for (int j = 0; j < m; j++) {
            if (j >= cols) break;
            size_t to = at + (size_t)j * (size_t)o->sx;
            vf y = vec_fma(alpha, q[j], bias);
            if (o->res) y = vec_add(y, vec_get_most(dt, o->res, to, lanes));
            vec_put_most(dt, o->y, to, y, lanes);
        }
    }
}

VEC void tile_out_all(int m, Dtype dt, const Wino *w, const WinoPlan *g, Place at, int o0,
                      const float *sums)
{
    const WinoShape *s = &w->s;
    const Out *o = &w->out;
    int rows = s->ho - at.y < m ? s->ho - at.y : m, cols = s->wo - at.x < m ? s->wo - at.x : m;
    size_t row = (size_t)s->wo * (size_t)o->sx;
    size_t pixel = ((size_t)at.n * (size_t)s->ho + (size_t)at.y) * (size_t)s->wo + (size_t)at.x;
    for (int c = 0; c < NR && o0 + c < s->cout; c += VW) {
        size_t col = (size_t)(o0 + c), lanes = vec_left(col, (size_t)s->cout);
        vf bias = o->b ? vec_get_most(DT_F32, o->b, col, lanes) : vec_zero();
        if (o->rowbias)
            bias = vec_add(bias, vec_get_most(dt, o->rowbias, (size_t)at.n * (size_t)s->cout + col,
                                              lanes));
        size_t to = pixel * (size_t)o->sx + col;
        if (lanes == VW && rows == m && cols == m)
            tile_out(m, dt, o, sums + c, g->m_plane, to, row, bias, VW, m, m);
        else tile_out(m, dt, o, sums + c, g->m_plane, to, row, bias, lanes, rows, cols);
    }
}

void ISA(wino_get_output)(const Wino *w, const WinoPlan *g, int tile, int o0, const float *sums)
{
    Place at = place_of(g, tile);
    DISPATCH(g->m, w->dt, tile_out_all(M, DT, w, g, at, o0, sums))
}
