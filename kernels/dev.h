/* dev.h - a device: where buffers live and ops run.
 *
 * The whole backend besides the ops themselves: memory, copies, order, name.
 * kernels/ knows no Err: these functions return 0 or a DEV_* code, and engine/
 * words it. A Dev is used by one host thread at a time; two Devs are
 * independent. Work queued on a Dev runs in order; dev_sync waits for it.
 */
#ifndef SDC_KERNELS_DEV_H
#define SDC_KERNELS_DEV_H

#include <stddef.h>

typedef enum { DEV_OK, DEV_NO_MEMORY, DEV_NO_DEVICE, DEV_FAILED } DevCode;

/* Which instruction sets the ops may use (bits of Dev.isa and of SDC_CPU). */
enum { DEV_REF = 1, DEV_AVX2 = 2, DEV_AVX512 = 4, DEV_CUDA = 8 };

typedef struct Dev {
    int threads;        /* results never depend on it */
    unsigned isa;       /* DEV_* bits of what this machine can run */
    void *ws;           /* scratch for the op that runs now; 64-byte aligned */
    size_t ws_bytes;    /* at least what ops_scratch() asked for that op */
} Dev;

/* Opens "cpu", or "cpu:avx2", "cpu:ref" with no more than these instructions.
 * threads 0: one per core that this process may use. isa_mask
 * limits the instruction sets (~0u: all the machine has). */
int dev_open(Dev **d, const char *name, int threads, unsigned isa_mask);
void dev_close(Dev *d);                                    /* NULL ok */
const char *dev_name(const Dev *d);                        /* "cpu (avx512, 2 threads)" */

/* 1 when products of bf16 are faster than of f32 here. */
int dev_fast_bf16(const Dev *d);

/* 64-byte aligned, uninitialised; large blocks are page-aligned. */
int dev_alloc(Dev *d, void **p, size_t bytes);
void dev_free(Dev *d, void *p, size_t bytes);
void dev_upload(Dev *d, void *dst, const void *src_host, size_t bytes);
void dev_download(Dev *d, void *dst_host, const void *src, size_t bytes);
void dev_copy(Dev *d, void *dst, const void *src, size_t bytes);   /* on the device */
void dev_zero(Dev *d, void *dst, size_t bytes);
void dev_sync(Dev *d);
/* Bytes that dev_alloc could still get without swapping. */
size_t dev_memory_free(const Dev *d);

#endif
