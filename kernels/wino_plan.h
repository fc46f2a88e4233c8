/* wino_plan.h - when and how a 3x3 convolution is done by Winograd's algorithm
 * (Lavin & Gray, arXiv:1509.09308), on x86.
 *
 * The output is cut into tiles of m x m pixels. A tile needs (m+2)^2 points of
 * the transformed input and as many products per pair of channels, where the
 * direct way needs 9 m^2: F(4x4,3x3) a quarter, F(6x6,3x3) a fifth, F(8x8,3x3) a
 * sixth. Products are f32 whatever T and wdt are: bf16 operands would lose 10 times more than the
 * direct product, while f32 ones lose less than bf16 results are rounded by.
 *
 * Tiles are worked on in batches, and in a batch block after block of input
 * channels: all threads transform a block of the inputs, then each takes panels of
 * output channels, transforms the weights of its panel and adds their products to
 * the panel's sums. Nothing transformed outlives the call. All sums have one
 * order, which depends neither on the number of pictures nor on that of threads.
 */
#ifndef SDC_KERNELS_WINO_PLAN_H
#define SDC_KERNELS_WINO_PLAN_H

#include "kernels/ops.h"

/* The convolution, or the one that a gradient is: from map h x w x c, summing
 * over c, to ho x wo x cout, with `pad` zeros before each axis (`top` before the rows). */
typedef struct { int n, h, w, c, ho, wo, cout, pad, top; } WinoShape;
WinoShape wino_shape(const Conv2d *p, int dx);

typedef struct {
    int m;                      /* pixels of a tile along an axis: 4, 6, 8; 0: direct is faster */
    int points;                 /* (m+2)^2 */
    int mr, nr;                 /* micro tile */
    int ty, tx, tiles;          /* of one picture along each axis, of all */
    int batch;                  /* tiles */
    int kc, nk;                 /* block of input channels, a multiple of 16, and their number */
    int panels, parts, tasks;   /* tasks of a batch: panels x parts of its tiles */
    size_t v_plane, u_plane, m_plane;   /* floats from point to point: input, weights, sums */
    size_t zero_bytes, v_bytes, u_bytes, m_bytes;   /* u for each thread; m for each panel, */
    int sums;                                       /* or if nk is 1 for each thread */
} WinoPlan;

/* The rows that a product of so many tiles works on: mr at a time, or two thirds of it. */
static inline int wino_rows(int tiles, int mr)
{
    int third = mr / 3, rows = (tiles + third - 1) / third * third;
    return rows < 2 * third ? 2 * third : rows;
}

/* isa: DEV_AVX2, DEV_AVX512 or DEV_BF16. dt: T. */
void wino_plan(WinoPlan *g, const Conv2d *p, int dx, Dtype dt, int threads, int isa);
/* Scratch. */
size_t wino_bytes(const WinoPlan *g, int threads);

#endif
