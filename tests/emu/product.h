/* product.h - the matrix product behind the emulated libraries. */
#ifndef EMU_PRODUCT_H
#define EMU_PRODUCT_H

#include <stddef.h>

/* out (n,m) = a^T b^T for a (k,m) and b (n,k), all f32, last dimension contiguous:
 * out[j][i] = sum over k, in order, of a[k][i] b[j][k]. */
void emu_product(size_t m, size_t n, size_t k, const float *a, const float *b, float *out);

/* Elements of a library's matrix as f32; type: 0 f32, 1 bf16, 2 f16. */
enum { EMU_F32, EMU_BF16, EMU_F16 };
size_t emu_type_bytes(int type);
float emu_load(int type, const void *p, size_t i);
void emu_store(int type, void *p, size_t i, float v);

#endif
