/* device.cc - the one emulated device: its properties, errors, and launches. */
#include <map>
#include <mutex>
#include <string>

#include "emu.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static std::recursive_mutex mutex;
static cudaError_t last, fault;                /* fault: stays, as on a device */

EmuLock::EmuLock() { mutex.lock(); }
EmuLock::~EmuLock() { mutex.unlock(); }

long long emu_setting(const char *name, long long otherwise)
{
    const char *s = getenv(name);
    return s && *s ? strtoll(s, NULL, 0) : otherwise;
}

int emu_sm(void)
{
    static int sm;
    if (!sm) sm = (int)emu_setting("SDC_EMU_SM", 80);
    return sm;
}

/* No more than the smallest of the cards from sm_80 on has, so that what works
 * here works there. */
size_t emu_shared_optin(void) { return (size_t)(emu_sm() < 80 ? 64 : 99) << 10; }

/* -1: not even a driver. */
static int devices(void) { return (int)emu_setting("SDC_EMU_DEVICES", 1); }

static cudaError_t none(void)
{
    return devices() < 0 ? cudaErrorInsufficientDriver : cudaErrorNoDevice;
}

cudaError_t emu_error(cudaError_t e)
{
    if (e) last = e;
    return e;
}

cudaError_t emu_device_ok(void)
{
    return fault ? fault : devices() > 0 ? cudaSuccess : none();
}

cudaError_t cudaGetLastError(void)
{
    EmuLock lock;
    cudaError_t e = last;
    last = fault;
    return e;
}

cudaError_t cudaPeekAtLastError(void) { return last; }

static const struct { cudaError_t code; const char *name, *text; } errors[] = {
#define E(code, text) {cudaError##code, "cudaError" #code, text}
    {cudaSuccess, "cudaSuccess", "no error"},
    E(InvalidValue, "invalid argument"), E(MemoryAllocation, "out of memory"),
    E(InitializationError, "initialization error"),
    E(InvalidConfiguration, "invalid configuration argument"),
    E(InvalidDevicePointer, "invalid device pointer"),
    E(InvalidMemcpyDirection, "invalid copy direction for memcpy"),
    E(InsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"),
    E(InvalidDeviceFunction, "invalid device function"),
    E(NoDevice, "no CUDA-capable device is detected"),
    E(InvalidDevice, "invalid device ordinal"),
    E(InvalidResourceHandle, "invalid resource handle"), E(NotReady, "device not ready"),
    E(IllegalAddress, "an illegal memory access was encountered"),
    E(LaunchOutOfResources, "too many resources requested for launch"),
    E(HostMemoryAlreadyRegistered, "part or all of the requested memory range is already mapped"),
    E(LaunchFailure, "unspecified launch failure"), E(NotSupported, "operation not supported"),
    E(StreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    E(StreamCaptureInvalidated, "operation failed due to a previous error during capture"),
    E(StreamCaptureUnmatched, "capture was not initiated in this stream"),
    E(StreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
    E(StreamCaptureImplicit, "operation would make the legacy stream "
      " depend on a capturing blocking stream"),
#undef E
};

const char *cudaGetErrorString(cudaError_t e)
{
    for (auto &i : errors)
        if (i.code == e) return i.text;
    return "unrecognized error code";
}

const char *cudaGetErrorName(cudaError_t e)
{
    for (auto &i : errors)
        if (i.code == e) return i.name;
    return "unrecognized error code";
}

/* ---- properties ---------------------------------------------------------- */

cudaError_t cudaGetDeviceCount(int *n)
{
    EmuLock lock;
    *n = devices() > 0 ? devices() : 0;
    return *n ? cudaSuccess : emu_error(none());
}

static cudaError_t known(int device)
{
    return device >= 0 && device < devices() ? cudaSuccess
         : emu_error(devices() > 0 ? cudaErrorInvalidDevice : none());
}

cudaError_t cudaSetDevice(int device) { return known(device); }
cudaError_t cudaSetDeviceFlags(unsigned flags) { (void)flags; return known(0); }

cudaError_t cudaGetDevice(int *device)
{
    EmuLock lock;
    *device = 0;
    return known(0);
}

cudaError_t cudaDeviceReset(void) { return cudaDeviceSynchronize(); }

cudaError_t cudaDriverGetVersion(int *v)
{
    EmuLock lock;
    *v = devices() < 0 ? 0 : 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *v)
{
    EmuLock lock;
    *v = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *v, enum cudaDeviceAttr a, int device)
{
    EmuLock lock;
    cudaError_t rc = known(device);
    if (rc) return rc;
    switch (a) {
    case cudaDevAttrMaxThreadsPerBlock: *v = 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *v = 48 << 10; break;
    case cudaDevAttrWarpSize: *v = 32; break;
    case cudaDevAttrMaxRegistersPerBlock: *v = 65536; break;
    case cudaDevAttrMultiProcessorCount: *v = (int)emu_setting("SDC_EMU_PROCESSORS", 20); break;
    case cudaDevAttrKernelExecTimeout: *v = 0; break;
    case cudaDevAttrIntegrated: *v = 0; break;
    case cudaDevAttrGlobalMemoryBusWidth: *v = 256; break;
    case cudaDevAttrL2CacheSize: *v = 4 << 20; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *v = emu_sm() == 75 ? 1024 : 1536; break;
    case cudaDevAttrComputeCapabilityMajor: *v = emu_sm() / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *v = emu_sm() % 10; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *v = (int)emu_shared_optin() + 1024; break;
    case cudaDevAttrMaxRegistersPerMultiprocessor: *v = 65536; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *v = (int)emu_shared_optin(); break;
    default: return emu_error(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

static int attribute(enum cudaDeviceAttr a)
{
    int v = 0;
    cudaDeviceGetAttribute(&v, a, 0);
    return v;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    EmuLock lock;
    cudaError_t rc = known(device);
    if (rc) return rc;
    *p = {};
    snprintf(p->name, sizeof p->name, "CUDA on a CPU");
    size_t unused;
    cudaMemGetInfo(&unused, &p->totalGlobalMem);
    p->sharedMemPerBlock = 48 << 10;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32, p->maxThreadsPerBlock = 1024;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = emu_sm() / 10, p->minor = emu_sm() % 10;
    p->multiProcessorCount = attribute(cudaDevAttrMultiProcessorCount);
    p->l2CacheSize = attribute(cudaDevAttrL2CacheSize);
    p->maxThreadsPerMultiProcessor = attribute(cudaDevAttrMaxThreadsPerMultiProcessor);
    p->sharedMemPerMultiprocessor = (size_t)attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
    p->sharedMemPerBlockOptin = emu_shared_optin();
    return cudaSuccess;
}

/* ---- launches ------------------------------------------------------------ */

static std::map<const void *, int> shared_max;  /* kernels allowed more than 48 KiB */

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute a, int value)
{
    EmuLock lock;
    if (!kernel) return emu_error(cudaErrorInvalidDeviceFunction);
    if (a != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || (size_t)value > emu_shared_optin()) return emu_error(cudaErrorInvalidValue);
    shared_max[kernel] = value;
    return cudaSuccess;
}

static size_t shared_limit(const void *kernel)
{
    auto i = shared_max.find(kernel);
    return i != shared_max.end() && i->second > 48 << 10 ? (size_t)i->second : 48 << 10;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, const void *kernel)
{
    EmuLock lock;
    *a = {};
    a->maxThreadsPerBlock = 1024, a->numRegs = 64;
    a->ptxVersion = a->binaryVersion = emu_sm();
    a->maxDynamicSharedSizeBytes = (int)shared_limit(kernel);
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *kernel, int threads,
                                                          size_t shared)
{
    EmuLock lock;
    if (threads < 1 || threads > 1024 || shared > shared_limit(kernel))
        return emu_error(cudaErrorInvalidValue);
    int by_threads = attribute(cudaDevAttrMaxThreadsPerMultiProcessor) / threads;
    int by_shared = (int)(emu_shared_optin() / (shared + 1024));
    *n = by_threads < by_shared ? by_threads : by_shared;
    return cudaSuccess;
}

static cudaError_t check(const EmuLaunch *l)
{
    const dim3 &g = l->grid, &b = l->block;
    if (!g.x || !g.y || !g.z || g.x > 2147483647 || g.y > 65535 || g.z > 65535 ||
        !b.x || !b.y || !b.z || b.x > 1024 || b.y > 1024 || b.z > 64 || b.x * b.y * b.z > 1024 ||
        l->shared > shared_limit(l->kernel)) {
        fprintf(stderr, "emu: launch of %s: grid (%u,%u,%u), block (%u,%u,%u), %zu bytes of shared "
                "memory (%zu allowed)\n", l->name, g.x, g.y, g.z, b.x, b.y, b.z, l->shared,
                shared_limit(l->kernel));
        return l->shared > shared_limit(l->kernel) ? cudaErrorInvalidValue
                                                   : cudaErrorInvalidConfiguration;
    }
    return cudaSuccess;
}

/* SDC_EMU_TIMES=1: what each kernel took, at the end of the process. */
typedef struct { unsigned long long launches, blocks; double seconds; } Spent;
static std::map<std::string, Spent> spent;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void print_times(void)
{
    for (auto &i : spent)
        fprintf(stderr, "emu: %8.3f s %7llu launches %8llu blocks  %s\n", i.second.seconds,
                i.second.launches, i.second.blocks, i.first.c_str());
}

static void run_timed(const EmuLaunch &l, uint64_t seed)
{
    static int times = -1;
    if (times < 0 && (times = (int)emu_setting("SDC_EMU_TIMES", 0)) > 0) atexit(print_times);
    double start = times ? now() : 0;
    emu_run(&l, seed);
    if (!times) return;
    Spent *s = &spent[l.name];
    s->launches++, s->seconds += now() - start;
    s->blocks += (unsigned long long)l.grid.x * l.grid.y * l.grid.z;
}

/* SDC_EMU_FAIL=NAME: the kernel of that name ends with an error, as after an
 * illegal access on a device: found by whoever waits, and for good. */
static void run(const EmuLaunch &l, unsigned long long number)
{
    const char *fail = getenv("SDC_EMU_FAIL");
    if (fail && !strcmp(fail, l.name)) {
        last = fault = cudaErrorIllegalAddress;
        return;
    }
    run_timed(l, (uint64_t)emu_setting("SDC_EMU_SEED", 1) * 0x9e3779b97f4a7c15u +
              number * 0x632be59bd9b4e019u);
}

void emu_launch(cudaStream_t stream, const EmuLaunch &l)
{
    EmuLock lock;
    static unsigned long long launches;
    unsigned long long number = ++launches;
    cudaError_t rc = emu_device_ok();
    if (!rc) rc = check(&l);
    if (!rc) rc = emu_queue(stream, l.name, [l, number] { run(l, number); });
    emu_error(rc);
}
