/* i8.h - products with int8 weights (kernels/int8.h) by dot products of bytes.
 *
 * A row of channels of x (a token, a pixel) is rounded to x = offset + step q, q in
 * 0..255. Then sum x w over the channels of a tap is
 *     scale (step sum(q qw) + offset sum(qw)),
 * where sum(q qw) is exact in 32 bits and sum(qw) is stored with the weights. The taps
 * of a convolution meet different rows of x: each tap is summed in integers and added
 * up in f32. Outside the picture, a row has step and offset 0.
 */
#ifndef SDC_KERNELS_X86_I8_H
#define SDC_KERNELS_X86_I8_H

#include "kernels/i8_plan.h"
#include "kernels/int8.h"
#include "kernels/x86/gemm.h"

#ifdef SDC_AVX512
enum { I8_MR = 12 };
#else
enum { I8_MR = 3 };
#endif

/* x after rounding. Row x_rows is the one outside the picture. */
typedef struct { float step, offset; } I8Range;
typedef struct { const uint8_t *q; const I8Range *range; size_t stride, zero; } I8Input;

/* Rows of x into d->ws as planned (i8_quant.c). */
I8Input ISA(i8_quantize)(Dev *d, const I8Plan *plan, Dtype dt, const void *x, int c, int threads);

/* What one tap reads for the rows of a tile. */
typedef struct { const uint8_t *row[I8_MR]; I8Range range[I8_MR]; } I8Tap;

/* acc [rows][NR] = the result of a tile before alpha: the sum over all taps, for the
 * NR columns of the panels w[0..] (i8_micro.c). rows <= I8_MR. */
enum { I8_WIDE = NR / I8_ROWS };
void ISA(i8_tile)(const I8Tap *tap, int taps, int c, int rows, const char *const w[I8_WIDE],
                  float *acc);

/* Forward. AVX-512 without VNNI has no fast products of bytes: there, AVX2's are used. */
typedef void i8_linear_fn(Dev *d, const Linear *p, Dtype dt, void *y, const void *x,
                          const void *w, const float *b, const void *res);
typedef void i8_conv2d_fn(Dev *d, const Conv2d *p, Dtype dt, void *y, const void *x,
                          const void *w, const float *b, const void *rowbias, const void *res);
extern i8_linear_fn ISA(i8_linear), i8_linear_avx2;
extern i8_conv2d_fn ISA(i8_conv2d), i8_conv2d_avx2;

void ISA(i8_linear_dx)(Dev *d, const Linear *p, Dtype dt, void *dx, const void *dy, const void *w,
                       int acc);
void ISA(i8_conv2d_dx)(Dev *d, const Conv2d *p, Dtype dt, void *dx, const void *dy, const void *w,
                       int acc);

#endif
