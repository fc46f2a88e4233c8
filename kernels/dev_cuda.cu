/* dev_cuda.cu - a GPU as a device (dev.h).
 *
 * One stream: everything runs in the order in which it was asked for. Copies
 * from and to the host go through pinned buffers, so that an upload overlaps
 * with the host and with earlier work. The step is recorded as a CUDA graph.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"

enum { UP = 4, DOWN = 2, SM_LEAST = 75 };
static const size_t SLOT = (size_t)4 << 20;

/* Memory that is not ours to take: what a desktop needs to stay alive, or a
 * little for the driver's own needs where no display hangs on the card. */
static const size_t reserve_display = (size_t)256 << 20, reserve = (size_t)64 << 20;

/* A pinned buffer. `used` bytes of it belong to copies up to `done`. */
typedef struct { char *p; size_t used; cudaEvent_t done; } Slot;

typedef struct {
    CudaDev c;               /* first: a Dev * is a Gpu * */
    pthread_mutex_t lock;    /* of up: several threads load weights at once */
    Slot up[UP], down[DOWN];
    int up_now;
    size_t reserve;
    char before[256];        /* CudaDev.error when a recording began */
} Gpu;

struct DevRecord { cudaGraphExec_t exec; };

extern "C" void cuda_fail(Dev *d, const char *what, const char *why)
{
    CudaDev *c = cuda_dev(d);
    if (!c->error[0]) snprintf(c->error, sizeof c->error, "%s: %s", what, why);
}

extern "C" int cuda_failed(Dev *d, const char *what, cudaError_t rc)
{
    if (rc != cudaSuccess) cuda_fail(d, what, cudaGetErrorString(rc));
    return rc != cudaSuccess;
}

/* The current device belongs to a thread: every entry sets it. */
static Gpu *gpu(const Dev *d)
{
    Gpu *g = (Gpu *)d;
    cudaSetDevice(g->c.device);
    return g;
}

/* ---- what there is ------------------------------------------------------- */

static const char *reason(cudaError_t rc)
{
    int driver = 0;
    if (rc == cudaSuccess) return "there is none";
    if (rc != cudaErrorInsufficientDriver) return cudaGetErrorString(rc);
    return cudaDriverGetVersion(&driver) == cudaSuccess && !driver ? "there is no driver"
         : "the driver is older than this program's CUDA";
}

/* Number of GPUs; 0 with a reason in why (NULL ok). */
static int count_devices(char *why, size_t cap)
{
    int n = 0;
    cudaError_t rc = cudaGetDeviceCount(&n);
    if (rc == cudaSuccess && n > 0) return n;
    cudaGetLastError();                          /* it is sticky */
    if (why) snprintf(why, cap, "no GPU can be used here: %s", reason(rc));
    return 0;
}

static double gigabytes(size_t bytes) { return (double)bytes / (1 << 30); }

static void why_not(int number, char *why, size_t cap)
{
    int n = count_devices(why, cap);
    cudaDeviceProp prop;
    if (number < 0) number = 0;
    if (!n) return;
    if (number >= n)
        snprintf(why, cap, "there is no GPU number %d, the last one is %d", number, n - 1);
    else if (cudaGetDeviceProperties(&prop, number) == cudaSuccess &&
             prop.major * 10 + prop.minor < SM_LEAST)
        snprintf(why, cap, "%s (sm_%d%d) is too old, sm_%d or later is needed",
                 prop.name, prop.major, prop.minor, SM_LEAST);
    else snprintf(why, cap, "GPU number %d is there but cannot be used", number);
}

extern "C" void dev_cuda_why(int number, char *why, size_t cap)
{
    why_not(number, why, cap);
    size_t at = strlen(why);
    snprintf(why + at, cap - at, "; try cpu, and see: sdc doctor");
}

extern "C" void dev_cuda_missing(char *why, size_t cap)
{
    why_not(0, why, cap);
#ifndef __CUDACC__
    if (count_devices(NULL, 0)) snprintf(why, cap, "the emulated GPU is used by name only");
#endif
}

extern "C" int dev_cuda_describe(int i, char *text, size_t cap)
{
    char why[200];
    int n = count_devices(why, sizeof why), driver = 0, runtime = 0;
    size_t left = 0, all = 0;
    cudaDeviceProp prop;
    if (!n) snprintf(text, cap, "none: %s", why);
    if (i >= n) return !n && !i;
    if (cudaGetDeviceProperties(&prop, i) != cudaSuccess || cudaSetDevice(i) != cudaSuccess ||
        cudaMemGetInfo(&left, &all) != cudaSuccess)
        return snprintf(text, cap, "cuda:%d cannot be used: %s", i,
                        cudaGetErrorString(cudaGetLastError())),
               1;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    snprintf(text, cap,
             "cuda:%d %s, %.1f GB free of %.1f GB, compute capability %d.%d, %d processors, "
             "driver for CUDA %d.%d, built with %d.%d",
             i, prop.name, gigabytes(left), gigabytes(all), prop.major, prop.minor,
             prop.multiProcessorCount, driver / 1000, driver % 1000 / 10, runtime / 1000,
             runtime % 1000 / 10);
    return 1;
}

/* ---- memory and copies --------------------------------------------------- */

static size_t gpu_memory_free(const Dev *d)
{
    Gpu *g = gpu(d);
    size_t left = 0, all = 0;
    if (cuda_failed(&g->c.dev, "cudaMemGetInfo", cudaMemGetInfo(&left, &all))) return 0;
    return left > g->reserve ? left - g->reserve : 0;
}

static int gpu_alloc(Dev *d, void **p, size_t bytes)
{
    if (bytes > gpu_memory_free(d)) return DEV_NO_MEMORY;
    if (cudaMalloc(p, bytes ? bytes : 1) == cudaSuccess) return DEV_OK;
    cudaGetLastError();
    *p = NULL;
    return DEV_NO_MEMORY;
}

static void gpu_free(Dev *d, void *p, size_t bytes)
{
    (void)bytes;
    gpu(d);
    cuda_failed(d, "cudaFree", cudaFree(p));
}

/* A slot with room for some of `bytes`; waits for the oldest copies if need be. */
static Slot *up_slot(Gpu *g, size_t bytes)
{
    Slot *s = &g->up[g->up_now];
    if (s->used + (bytes < 4096 ? bytes : 4096) <= SLOT) return s;
    g->up_now = (g->up_now + 1) % UP;
    s = &g->up[g->up_now];
    cuda_failed(&g->c.dev, "an upload", cudaEventSynchronize(s->done));
    s->used = 0;
    return s;
}

static void gpu_upload(Dev *d, void *dst, const void *src_host, size_t bytes)
{
    Gpu *g = gpu(d);
    pthread_mutex_lock(&g->lock);
    for (size_t at = 0; at < bytes;) {
        Slot *s = up_slot(g, bytes - at);
        size_t n = bytes - at < SLOT - s->used ? bytes - at : SLOT - s->used;
        memcpy(s->p + s->used, (const char *)src_host + at, n);
        cudaError_t rc = cudaMemcpyAsync((char *)dst + at, s->p + s->used, n,
                                         cudaMemcpyHostToDevice, g->c.stream);
        if (rc == cudaSuccess) rc = cudaEventRecord(s->done, g->c.stream);
        if (cuda_failed(d, "an upload", rc)) break;
        s->used = (s->used + n + 63) & ~(size_t)63;
        at += n;
    }
    pthread_mutex_unlock(&g->lock);
}

/* Chunks go to the two slots in turn: one is copied out while the other fills. */
static void gpu_download(Dev *d, void *dst_host, const void *src, size_t bytes)
{
    Gpu *g = gpu(d);
    size_t chunks = (bytes + SLOT - 1) / SLOT;
    int bad = 0;
    for (size_t i = 0; i <= chunks && !bad; i++) {
        if (i < chunks) {
            Slot *s = &g->down[i % DOWN];
            s->used = bytes - i * SLOT < SLOT ? bytes - i * SLOT : SLOT;
            cudaError_t rc = cudaMemcpyAsync(s->p, (const char *)src + i * SLOT, s->used,
                                             cudaMemcpyDeviceToHost, g->c.stream);
            if (rc == cudaSuccess) rc = cudaEventRecord(s->done, g->c.stream);
            bad = cuda_failed(d, "a download", rc);
        }
        if (i && !bad) {
            Slot *s = &g->down[(i - 1) % DOWN];
            bad = cuda_failed(d, "a download, or work before it", cudaEventSynchronize(s->done));
            if (!bad) memcpy((char *)dst_host + (i - 1) * SLOT, s->p, s->used);
        }
    }
    if (bad) memset(dst_host, 0, bytes);
}

static void gpu_copy(Dev *d, void *dst, const void *src, size_t bytes)
{
    Gpu *g = gpu(d);
    cuda_failed(d, "a copy",
                cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, g->c.stream));
}

static void gpu_zero(Dev *d, void *dst, size_t bytes)
{
    Gpu *g = gpu(d);
    cuda_failed(d, "a fill", cudaMemsetAsync(dst, 0, bytes, g->c.stream));
}

static void gpu_sync(Dev *d)
{
    Gpu *g = gpu(d);
    cuda_failed(d, "work on the GPU", cudaStreamSynchronize(g->c.stream));
}

/* ---- recording ----------------------------------------------------------- */

static int gpu_record_begin(Dev *d)
{
    Gpu *g = gpu(d);
    memcpy(g->before, g->c.error, sizeof g->before);
    cudaError_t rc = cudaStreamBeginCapture(g->c.stream, cudaStreamCaptureModeThreadLocal);
    if (rc == cudaSuccess) return DEV_OK;
    cudaGetLastError();
    return DEV_FAILED;
}

static int gpu_record_end(Dev *d, DevRecord **r)
{
    Gpu *g = gpu(d);
    cudaGraph_t graph = NULL;
    DevRecord *made = (DevRecord *)calloc(1, sizeof *made);
    cudaError_t rc = cudaStreamEndCapture(g->c.stream, &graph);
    int ok = made && rc == cudaSuccess && !strcmp(g->before, g->c.error);
    if (ok) ok = cudaGraphInstantiate(&made->exec, graph, 0) == cudaSuccess;
    if (graph) cudaGraphDestroy(graph);
    if (ok) {
        *r = made;
        return DEV_OK;
    }
    cudaGetLastError();
    memcpy(g->c.error, g->before, sizeof g->before);     /* what failed has not run */
    free(made);
    return DEV_FAILED;
}

static void gpu_replay(Dev *d, DevRecord *r)
{
    Gpu *g = gpu(d);
    cuda_failed(d, "the recorded step", cudaGraphLaunch(r->exec, g->c.stream));
}

static void gpu_record_free(Dev *d, DevRecord *r)
{
    gpu_sync(d);                                         /* it may run still */
    cuda_failed(d, "cudaGraphExecDestroy", cudaGraphExecDestroy(r->exec));
    free(r);
}

/* ---- opening ------------------------------------------------------------- */

static const char *gpu_name(const Dev *d) { return ((const Gpu *)d)->c.name; }
static const char *gpu_failure(const Dev *d) { return ((const Gpu *)d)->c.error; }
static int gpu_fast_bf16(const Dev *d) { return ((const Gpu *)d)->c.sm >= 80; }

static void slots_free(Slot *s, int n)
{
    for (int i = 0; i < n; i++) {
        if (s[i].p) cudaFreeHost(s[i].p);
        if (s[i].done) cudaEventDestroy(s[i].done);
    }
}

static int slots_new(Slot *s, int n)
{
    for (int i = 0; i < n; i++)
        if (cudaMallocHost((void **)&s[i].p, SLOT) != cudaSuccess ||
            cudaEventCreateWithFlags(&s[i].done, cudaEventDisableTiming) != cudaSuccess)
            return DEV_NO_MEMORY;
    return DEV_OK;
}

static void gpu_close(Dev *d)
{
    Gpu *g = gpu(d);
    CudaDev *c = &g->c;
    if (c->stream) cudaStreamSynchronize(c->stream);
    cuda_plans_free(c);
#ifdef SDC_CUDNN
    if (c->dnn) cudnnDestroy(c->dnn);
#endif
    if (c->blas) cublasLtDestroy(c->blas);
    slots_free(g->up, UP);
    slots_free(g->down, DOWN);
    if (c->reduce) cudaFree(c->reduce);
    if (c->stream) cudaStreamDestroy(c->stream);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

static const DevKind gpu_kind = {
    1,          gpu_close,       gpu_name,        gpu_failure,      gpu_fast_bf16,
    gpu_alloc,  gpu_free,        gpu_upload,      gpu_download,     gpu_copy,
    gpu_zero,   gpu_sync,        gpu_memory_free, gpu_record_begin, gpu_record_end,
    gpu_replay, gpu_record_free,
};

static int fill_in(Gpu *g, int number, int threads)
{
    CudaDev *c = &g->c;
    cudaDeviceProp p;
    int display = 0;
    if (cudaSetDevice(number) != cudaSuccess || cudaGetDeviceProperties(&p, number) != cudaSuccess)
        return DEV_NO_DEVICE;
    c->dev.kind = &gpu_kind;
    c->dev.threads = dev_cpu_threads(threads);
    c->dev.isa = DEV_CUDA;
    c->device = number;
    c->sm = p.major * 10 + p.minor;
    c->processors = p.multiProcessorCount;
    c->shared_max = p.sharedMemPerBlockOptin;
    if (c->sm < SM_LEAST) return DEV_NO_DEVICE;
    cudaDeviceGetAttribute(&display, cudaDevAttrKernelExecTimeout, number);
    g->reserve = display ? reserve_display : reserve;
    snprintf(c->name, sizeof c->name, "cuda:%d (%.100s, sm_%d, %.1f GB)", number, p.name, c->sm,
             gigabytes(p.totalGlobalMem));
    if (cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking) != cudaSuccess ||
        cublasLtCreate(&c->blas) != CUBLAS_STATUS_SUCCESS ||
        cudaMalloc(&c->reduce, CUDA_REDUCE) != cudaSuccess)
        return DEV_NO_MEMORY;
#ifdef SDC_CUDNN
    if (cudnnCreate(&c->dnn) != CUDNN_STATUS_SUCCESS ||
        cudnnSetStream(c->dnn, c->stream) != CUDNN_STATUS_SUCCESS)
        return DEV_NO_MEMORY;
#endif
    return slots_new(g->up, UP) || slots_new(g->down, DOWN) ? DEV_NO_MEMORY : DEV_OK;
}

extern "C" int dev_cuda_open(Dev **d, int number, int threads, int automatic)
{
    *d = NULL;
    if (number < 0) number = 0;
#ifndef __CUDACC__
    if (automatic) return DEV_NO_DEVICE;         /* an emulator: for tests, far too slow */
#endif
    (void)automatic;
    if (number >= count_devices(NULL, 0)) return DEV_NO_DEVICE;
    Gpu *g = (Gpu *)calloc(1, sizeof *g);
    if (!g) return DEV_NO_MEMORY;
    pthread_mutex_init(&g->lock, NULL);
    int rc = fill_in(g, number, threads);
    cudaGetLastError();
    if (rc == DEV_OK) *d = &g->c.dev;
    else gpu_close(&g->c.dev);
    return rc;
}
