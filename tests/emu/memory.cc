/* memory.cc - device memory: a range of addresses of its own that faults whenever
 * no kernel, copy or library call runs.
 *
 * Each allocation ends at an unmapped page, is filled with 0xff (NaN) and is
 * unmapped for good when freed: its addresses are not given out again.
 */
#include <map>

#include "emu.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

typedef struct {                               /* by its address */
    size_t bytes, map_bytes;
    unsigned char *map;
    size_t start;                              /* bytes from map on that are closed each time */
    int rest_closed;
} Block;
typedef std::map<uintptr_t, Block> Blocks;

enum { PAGE = 4096, ALIGN = 256 };
static unsigned char *base;                    /* of the device's addresses */
static size_t range, taken, allocated;
static Blocks device_blocks, pinned_blocks;
static int opened;
static struct sigaction before;

static size_t pages(size_t n) { return (n + PAGE - 1) / PAGE * PAGE; }

/* ---- what a fault means -------------------------------------------------- */

static void explain(const unsigned char *p)
{
    Blocks::iterator i = device_blocks.upper_bound((uintptr_t)p);
    fprintf(stderr, "emu: %s%saccess to device memory at %p", emu_where(), opened ? ": " : "",
            (const void *)p);
    if (!opened) fprintf(stderr, " by the host");
    if (i == device_blocks.begin()) fprintf(stderr, ", which is not allocated\n");
    else {
        --i;
        fprintf(stderr, ", byte %zu from the start of an allocation of %zu bytes\n",
                (uintptr_t)p - i->first, i->second.bytes);
    }
}

/* Explains, then lets the fault happen again with the handler there was before. */
static void on_fault(int sig, siginfo_t *info, void *context)
{
    (void)context;
    const unsigned char *p = (const unsigned char *)info->si_addr;
    if (base && p >= base && p < base + range) explain(p);
    else if (emu_fiber_overflow(p)) fprintf(stderr, "emu: %s: stack overflow\n", emu_where());
    else if (emu_where()[0])
        fprintf(stderr, "emu: %s: access to %p, which is neither device nor shared memory\n",
                emu_where(), info->si_addr);
    sigaction(sig, &before, NULL);
}

static void catch_faults(void)
{
    stack_t st = {};
    st.ss_size = 64 << 10;
    st.ss_sp = malloc(st.ss_size);
    stack_t old;
    if (!sigaltstack(NULL, &old) && old.ss_flags & SS_DISABLE) sigaltstack(&st, NULL);
    else free(st.ss_sp);
    struct sigaction a = {};
    a.sa_sigaction = on_fault;
    a.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &a, &before);
}

static int reserve(void)
{
    if (base) return 1;
    for (range = (size_t)1 << 40; range >= (size_t)1 << 32; range >>= 1) {
        void *m = mmap(NULL, range, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (m == MAP_FAILED) continue;
        base = (unsigned char *)m;
        catch_faults();
        return 1;
    }
    return 0;
}

/* ---- access -------------------------------------------------------------- */

static void protect(unsigned char *p, size_t n, int how)
{
    if (!mprotect(p, n, how)) return;
    perror("emu: mprotect");
    abort();
}

/* The start of a large block is closed each time, the rest (which costs) only
 * sometimes: who reads device memory by mistake reads the start, too. */
enum { START = 64 << 10, SOMETIMES = 32 };

void emu_memory_open(void)
{
    if (opened++) return;
    for (Blocks::value_type &i : device_blocks) {
        Block *b = &i.second;
        protect(b->map, b->rest_closed ? b->map_bytes : b->start, PROT_READ | PROT_WRITE);
        b->rest_closed = 0;
    }
}

void emu_memory_close(void)
{
    static unsigned closed;
    if (--opened) return;
    closed++;
    for (Blocks::value_type &i : device_blocks) {
        Block *b = &i.second;
        b->rest_closed = b->start == b->map_bytes || closed % SOMETIMES == 0;
        protect(b->map, b->rest_closed ? b->map_bytes : b->start, PROT_NONE);
    }
}

/* The allocation that p lies in; past one that ends at p when n is 0. */
static const Blocks::value_type *holder(Blocks &blocks, const void *p, size_t n)
{
    Blocks::iterator i = blocks.upper_bound((uintptr_t)p);
    if (i == blocks.begin()) return NULL;
    --i;
    size_t at = (uintptr_t)p - i->first;
    return at <= i->second.bytes && n <= i->second.bytes - at ? &*i : NULL;
}

int emu_device_address(const void *p)
{
    return base && (const unsigned char *)p >= base && (const unsigned char *)p < base + range;
}

int emu_is_device(const void *p, size_t n) { return holder(device_blocks, p, n) != NULL; }
int emu_is_pinned(const void *p, size_t n) { return holder(pinned_blocks, p, n) != NULL; }

size_t emu_device_room(const void *p)
{
    const Blocks::value_type *i = holder(device_blocks, p, 0);
    return i ? i->second.bytes - ((uintptr_t)p - i->first) : 0;
}

void emu_argument(const char *kernel, int i, const void *p)
{
    if (!p || emu_is_device(p, 0) || emu_is_pinned(p, 0)) return;
    emu_die("kernel %s, argument %d: %p is %s", kernel, i, p,
            emu_device_address(p) ? "not allocated on the device" : "memory of the host");
}

void *emu_guarded(size_t bytes)
{
    size_t n = pages(bytes);
    unsigned char *m = (unsigned char *)mmap(NULL, n + PAGE, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED || mprotect(m + n, PAGE, PROT_NONE)) {
        perror("emu: memory");
        abort();
    }
    return m + n - bytes;
}

/* ---- the calls ----------------------------------------------------------- */

static size_t total(void) { return (size_t)emu_setting("SDC_EMU_MEMORY", (long long)2 << 30); }

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    EmuLock lock;
    cudaError_t rc = emu_device_ok();
    if (!rc) rc = emu_unsafe_now();
    if (!rc && !p) rc = cudaErrorInvalidValue;
    if (rc) return emu_error(rc);
    *p = NULL;
    if (!bytes) return cudaSuccess;
    emu_flush_all();
    size_t body = (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1), map = pages(body);
    if (!reserve() || bytes > total() - allocated || map + PAGE > range - taken)
        return emu_error(cudaErrorMemoryAllocation);
    unsigned char *m = base + taken, *start = m + map - body;
    taken += map + PAGE;
    mprotect(m, map, PROT_READ | PROT_WRITE);
    memset(m, 0xff, map);
    ASAN_POISON_MEMORY_REGION(m, (size_t)(start - m));
    ASAN_POISON_MEMORY_REGION(start + bytes, body - bytes);
    if (!opened) mprotect(m, map, PROT_NONE);
    device_blocks[(uintptr_t)start] = {bytes, map, m, map < 2 * START ? map : (size_t)START, 1};
    allocated += bytes;
    *p = start;
    return cudaSuccess;
}

/* Outside of ASan a write just behind an allocation is only seen here. */
static void check_end(uintptr_t at, const Block &b)
{
#if !defined __SANITIZE_ADDRESS__
    emu_memory_open();
    const unsigned char *start = (const unsigned char *)at;
    for (const unsigned char *q = b.map; q < b.map + b.map_bytes; q++)
        if ((q < start || q >= start + b.bytes) && *q != 0xff)
            emu_die("something wrote outside of an allocation of %zu bytes, at byte %td",
                    b.bytes, q - start);
    emu_memory_close();
#else
    (void)at, (void)b;
#endif
}

cudaError_t cudaFree(void *p)
{
    EmuLock lock;
    cudaError_t rc = emu_device_ok();
    if (!rc) rc = emu_unsafe_now();
    if (rc) return emu_error(rc);
    if (!p) return cudaSuccess;
    emu_flush_all();
    Blocks::iterator i = device_blocks.find((uintptr_t)p);
    if (i == device_blocks.end()) return emu_error(cudaErrorInvalidValue);
    check_end(i->first, i->second);
    allocated -= i->second.bytes;
    ASAN_UNPOISON_MEMORY_REGION(i->second.map, i->second.map_bytes);
    if (mmap(i->second.map, i->second.map_bytes, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        emu_die("cudaFree: cannot unmap");
    device_blocks.erase(i);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags)
{
    EmuLock lock;
    cudaError_t rc = emu_device_ok();
    if (!rc) rc = emu_unsafe_now();
    if (!rc && (!p || flags > 7)) rc = cudaErrorInvalidValue;
    if (rc) return emu_error(rc);
    *p = NULL;
    if (!bytes) return cudaSuccess;
    size_t body = (bytes + 63) & ~(size_t)63, map = pages(body);
    unsigned char *m = (unsigned char *)mmap(NULL, map + PAGE, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED) return emu_error(cudaErrorMemoryAllocation);
    mprotect(m + map, PAGE, PROT_NONE);
    *p = m + map - body;
    pinned_blocks[(uintptr_t)*p] = {bytes, map + PAGE, m, 0, 0};
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes) { return cudaHostAlloc(p, bytes, 0); }

cudaError_t cudaFreeHost(void *p)
{
    EmuLock lock;
    cudaError_t rc = emu_device_ok();
    if (!rc) rc = emu_unsafe_now();
    if (rc) return emu_error(rc);
    if (!p) return cudaSuccess;
    emu_flush_all();
    Blocks::iterator i = pinned_blocks.find((uintptr_t)p);
    if (i == pinned_blocks.end() || !i->second.map) return emu_error(cudaErrorInvalidValue);
    munmap(i->second.map, i->second.map_bytes);
    pinned_blocks.erase(i);
    return cudaSuccess;
}

cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned flags)
{
    EmuLock lock;
    cudaError_t rc = emu_device_ok();
    if (rc) return emu_error(rc);
    if (!p || !bytes || flags > 7) return emu_error(cudaErrorInvalidValue);
    if (emu_is_pinned(p, 1)) return emu_error(cudaErrorHostMemoryAlreadyRegistered);
    pinned_blocks[(uintptr_t)p] = {bytes, 0, NULL, 0, 0};
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *p)
{
    EmuLock lock;
    emu_flush_all();
    Blocks::iterator i = pinned_blocks.find((uintptr_t)p);
    if (i == pinned_blocks.end() || i->second.map) return emu_error(cudaErrorInvalidValue);
    pinned_blocks.erase(i);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all)
{
    EmuLock lock;
    cudaError_t rc = emu_device_ok();
    if (rc) return emu_error(rc);
    *all = total();
    *free_bytes = total() - allocated;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p)
{
    EmuLock lock;
    *a = {};
    void *q = (void *)p;
    if (emu_is_device(p, 1)) a->type = cudaMemoryTypeDevice, a->devicePointer = q;
    else if (emu_is_pinned(p, 1))
        a->type = cudaMemoryTypeHost, a->hostPointer = a->devicePointer = q;
    else a->hostPointer = q;
    return cudaSuccess;
}
