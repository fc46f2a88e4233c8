/* test_emu.h - what the tests of the emulator share. */
#ifndef EMU_TEST_H
#define EMU_TEST_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/ptx.h"

extern "C" {
#include "tests/test.h"
}

/* A device with a stream, enough for CUDA_LAUNCH. */
static inline CudaDev emu_test_open(void)
{
    CudaDev c = {};
    cudaStreamCreateWithFlags(&c.stream, cudaStreamNonBlocking);
    return c;
}

static inline void emu_test_close(CudaDev *c) { cudaStreamDestroy(c->stream); }

/* n bytes on the device, a copy of p (NULL: as cudaMalloc leaves them). */
static inline void *emu_test_up(const void *p, size_t n)
{
    void *d = NULL;
    if (cudaMalloc(&d, n)) return NULL;
    if (p) cudaMemcpy(d, p, n, cudaMemcpyHostToDevice);
    return d;
}

/* Waits, copies n bytes back and frees them. */
static inline void emu_test_down(CudaDev *c, void *p, void *d, size_t n)
{
    cudaStreamSynchronize(c->stream);
    cudaMemcpy(p, d, n, cudaMemcpyDeviceToHost);
    cudaFree(d);
}

/* Runs f in a process of its own; 1 when that ends badly and, if text is not
 * NULL, says text (the sanitizer's own words will do too). */
int emu_test_dies(void (*f)(void), const char *text);

#endif
