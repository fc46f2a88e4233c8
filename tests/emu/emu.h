/* emu.h - what the parts of the emulator share. */
#ifndef EMU_H
#define EMU_H

#include <functional>

#include "cuda_runtime.h"

/* ---- fiber.cc: stacks to switch between ---------------------------------- */

typedef struct EmuFiber EmuFiber;
/* The fiber that stands for the thread that calls. */
EmuFiber *emu_fiber_main(void);
/* A fiber that runs entry(), which must not return. Reused by the caller. */
EmuFiber *emu_fiber_new(void (*entry)(void));
void emu_fiber_switch(EmuFiber *from, EmuFiber *to);
/* 1 when p lies in the unmapped page below a fiber's stack. */
int emu_fiber_overflow(const void *p);

/* ---- block.cc, warp.cc, async.cc: the threads of a block ----------------- */

/* Runs all blocks of a launch in an order drawn from `seed`. */
void emu_run(const EmuLaunch *l, uint64_t seed);
/* "kernel K, block (x,y,z), thread (x,y,z)" of what runs now; "" when none does. */
const char *emu_where(void);
/* Ends the process with a message that starts with emu_where(). */
__attribute__((format(printf, 1, 2), noreturn)) void emu_die(const char *fmt, ...);
/* A number from 0..n-1 from the block's own generator. */
unsigned emu_random(unsigned n);
int emu_thread(void);                          /* its number in the block */
int emu_in_shared(const void *p, size_t n);
/* Called by one lane: waits until all lanes of mask called it with the same
 * `what`, the last of which calls complete(args by lane, mask). */
void emu_rendezvous(const char *what, unsigned mask, void *arg,
                    void (*complete)(void **arg, unsigned mask));
void emu_async_reset(void);                    /* before each block */

/* ---- memory.cc: device memory apart from the host's ---------------------- */

/* Device memory can be read and written between these two; they nest. */
void emu_memory_open(void);
void emu_memory_close(void);
/* 1 when the n bytes at p lie in one allocation of the device. */
int emu_is_device(const void *p, size_t n);
/* 1 when p lies in the range of addresses of the device, allocated or not. */
int emu_device_address(const void *p);
int emu_is_pinned(const void *p, size_t n);    /* of cudaMallocHost */
/* The bytes from p to the end of its allocation, on the device. */
size_t emu_device_room(const void *p);
void *emu_guarded(size_t bytes);               /* ends at an unmapped page; never freed */

/* ---- stream.cc: order ---------------------------------------------------- */

/* Queues work on the stream, or records it while it is capturing. */
cudaError_t emu_queue(cudaStream_t s, const char *what, std::function<void()> run);
cudaError_t emu_error(cudaError_t e);          /* keeps e for cudaGetLastError, gives it back */
/* 0 or why a call that waits (or may wait) must not be made now: some stream is capturing. */
cudaError_t emu_unsafe_now(void);
void emu_flush_all(void);
cudaError_t emu_device_ok(void);               /* a device, and no fault so far */

/* Several host threads may call; one at a time is inside. */
struct EmuLock { EmuLock(); ~EmuLock(); };

/* ---- settings ------------------------------------------------------------ */

long long emu_setting(const char *name, long long otherwise);  /* an environment variable */
int emu_sm(void);                              /* SDC_EMU_SM, 80 */
size_t emu_shared_optin(void);                 /* dynamic shared memory a block may ask for */

#endif
