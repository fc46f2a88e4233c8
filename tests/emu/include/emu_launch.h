/* emu_launch.h - kernel launches: CUDA_LAUNCH, CUDA_SHARED_MAX, CUDA_SHARED. */
#ifndef EMU_LAUNCH_H
#define EMU_LAUNCH_H

#include <functional>

#include "emu_device.h"

typedef struct CUstream_st *cudaStream_t;

struct EmuLaunch {
    const char *name;
    dim3 grid, block;
    size_t shared;                       /* dynamic, bytes */
    unsigned char *fixed, *fixed_end;    /* the object file's __shared__ section */
    const void *kernel;
    std::function<void()> body;          /* one thread */
};

/* Checks the launch and queues it; what is wrong is left for cudaGetLastError. */
void emu_launch(cudaStream_t stream, const EmuLaunch &launch);
/* Ends the process when p, argument number i of the kernel, is memory that a
 * device cannot reach. */
void emu_argument(const char *kernel, int i, const void *p);

template <class T> static inline void emu_check_argument(const char *, int, const T &) {}
template <class T> static inline void emu_check_argument(const char *kernel, int i, T *const &p)
{ emu_argument(kernel, i, (const void *)p); }

template <class T> struct EmuSame { typedef T type; };

/* The arguments are evaluated and converted to the kernel's parameters now, as
 * in a launch; the threads run later. */
template <class... P>
static inline void emu_bind(cudaStream_t stream, const char *name, dim3 grid, dim3 block,
                            size_t shared, void (*kernel)(P...), typename EmuSame<P>::type... a)
{
    int i = 0;
    (emu_check_argument(name, i++, a), ...);
    (void)i;
    EmuLaunch l = {name, grid, block, shared, EMU_SECTION_START, EMU_SECTION_STOP,
                   (const void *)kernel, [=] { kernel(a...); }};
    emu_launch(stream, l);
}

#define CUDA_LAUNCH(d, kernel, grid, block, shared, ...)                                  \
    do {                                                                                  \
        emu_bind(cuda_dev(d)->stream, #kernel, (grid), (block), (shared), (kernel),       \
                 __VA_ARGS__);                                                            \
        cuda_failed((d), #kernel, cudaGetLastError());                                    \
    } while (0)
#define CUDA_SHARED_MAX(d, kernel, shared)                                                \
    cuda_failed((d), #kernel, cudaFuncSetAttribute((const void *)(kernel),                \
                cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(shared)))
#define CUDA_SHARED(type, name) type *name = (type *)emu_dynamic_shared

#endif
