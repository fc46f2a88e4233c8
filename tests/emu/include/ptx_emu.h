/* ptx_emu.h - kernels/cuda/ptx.h for the host: the same functions, the same fragments.
 *
 * Below sm_80 (SDC_EMU_SM) products of bf16 do nothing, as there, and copies are
 * plain. From sm_80 on the bytes of a copy are NaN from the moment it is issued
 * until the wait that covers it.
 */
#ifndef EMU_PTX_H
#define EMU_PTX_H

#include "emu_device.h"

void emu_mma(int bf16, float *d, const uint32_t *a, const uint32_t *b);
void emu_ldmatrix4(uint32_t *r, const void *row, int transposed);
void emu_copy_async16(void *shared, const void *src, int valid);
void emu_copy_async_commit(void);
void emu_copy_async_wait(int pending);

static inline void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{ EMU_FENCE(); emu_mma(1, d, a, b); EMU_FENCE(); }
static inline void mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2])
{ EMU_FENCE(); emu_mma(0, d, a, b); EMU_FENCE(); }
static inline void ldmatrix4(uint32_t r[4], const void *row)
{ EMU_FENCE(); emu_ldmatrix4(r, row, 0); EMU_FENCE(); }
static inline void ldmatrix4_trans(uint32_t r[4], const void *row)
{ EMU_FENCE(); emu_ldmatrix4(r, row, 1); EMU_FENCE(); }
static inline void copy_async16(void *shared, const void *src, int valid)
{ EMU_FENCE(); emu_copy_async16(shared, src, valid); EMU_FENCE(); }
static inline void copy_async_commit(void) { emu_copy_async_commit(); }
#define copy_async_wait(PENDING)                                                          \
    do { EMU_FENCE(); emu_copy_async_wait(PENDING); EMU_FENCE(); } while (0)

#endif
