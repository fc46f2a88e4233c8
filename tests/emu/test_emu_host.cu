/* test_emu_host.cu - the emulator's host side: memory apart, order, graphs, errors. */
#include "tests/emu/test_emu.h"

#include <unistd.h>

static __global__ void fill(float *p, float v, int n)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) p[i] = v;
}

static __global__ void add_one(float *p) { p[threadIdx.x] += 1; }

/* ---- what must end the process ------------------------------------------- */

static void host_reads(void)
{
    volatile float *p = (float *)emu_test_up(NULL, 64);
    if (p[3] == 1) puts("unlikely");
}

static void past_the_end(void)
{
    CudaDev c = emu_test_open();
    float *p = (float *)emu_test_up(NULL, 256 * sizeof *p);
    CUDA_LAUNCH(&c.dev, fill, 2, 256, 0, p, 1.0f, 257);
    cudaStreamSynchronize(c.stream);
    cudaFree(p);
}

static void freed(void)
{
    CudaDev c = emu_test_open();
    float *p = (float *)emu_test_up(NULL, 256);
    cudaFree(p);
    CUDA_LAUNCH(&c.dev, fill, 1, 32, 0, p, 1.0f, 32);
    cudaStreamSynchronize(c.stream);
}

static void host_pointer(void)
{
    CudaDev c = emu_test_open();
    float here[32];
    CUDA_LAUNCH(&c.dev, fill, 1, 32, 0, here, 1.0f, 32);
}

static __global__ void diverges(int how)
{
    if (how == 0 && threadIdx.x < 40) __syncwarp();
    if (how == 1 && threadIdx.x == 5) __shfl_sync(~0u, 1, 0);
    if (how == 2 && threadIdx.x < 32) __shfl_sync(threadIdx.x < 16 ? 0xffffu : ~0u, 1, 0);
    if (how == 3 && threadIdx.x == 5) __shfl_sync(1u, 1, 0);
    __syncthreads();
}

static void diverge(int how)
{
    CudaDev c = emu_test_open();
    CUDA_LAUNCH(&c.dev, diverges, 1, 64, 0, how);
    cudaStreamSynchronize(c.stream);
}
static void lanes_missing(void) { diverge(0); }
static void lane_alone(void) { diverge(1); }
static void masks_differ(void) { diverge(2); }
static void not_in_mask(void) { diverge(3); }

static __global__ void misaligned(const char *p)
{
    __shared__ __align__(16) char tile[64];
    copy_async16(tile + 16, p + 8, 1);
}

static void copies_misaligned(void)
{
    CudaDev c = emu_test_open();
    CUDA_LAUNCH(&c.dev, misaligned, 1, 1, 0, (const char *)emu_test_up(NULL, 64));
    cudaStreamSynchronize(c.stream);
}

TEST(emu_catches)
{
    CHECK(emu_test_dies(host_reads, "by the host"));
    CHECK(emu_test_dies(past_the_end, NULL));
    CHECK(emu_test_dies(freed, "not allocated"));
    CHECK(emu_test_dies(host_pointer, "memory of the host"));
    CHECK(emu_test_dies(lanes_missing, "not all threads arrive"));
    CHECK(emu_test_dies(lane_alone, "not all threads arrive"));
    CHECK(emu_test_dies(masks_differ, "not all threads arrive"));
    CHECK(emu_test_dies(not_in_mask, "not in its mask"));
    CHECK(emu_test_dies(copies_misaligned, "not a multiple of 16"));
}

/* ---- order --------------------------------------------------------------- */

TEST(emu_results_come_after_a_wait)
{
    CudaDev c = emu_test_open();
    float *pinned, *p = (float *)emu_test_up(NULL, 128);
    CHECK_INT(cudaMallocHost((void **)&pinned, 128), 0);
    CUDA_LAUNCH(&c.dev, fill, 1, 32, 0, p, 5.0f, 32);
    CHECK_INT(cudaMemcpyAsync(pinned, p, 128, cudaMemcpyDeviceToHost, c.stream), 0);
    CHECK_NEAR(pinned[0], 0, 0);
    CHECK_INT(cudaStreamSynchronize(c.stream), 0);
    CHECK_NEAR(pinned[31], 5, 0);

    /* An upload from pinned memory reads when its turn comes. */
    pinned[0] = 1;
    CHECK_INT(cudaMemcpyAsync(p, pinned, 4, cudaMemcpyHostToDevice, c.stream), 0);
    pinned[0] = 2;
    cudaEvent_t e;
    CHECK_INT(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), 0);
    CHECK_INT(cudaEventRecord(e, c.stream), 0);
    CHECK_INT(cudaEventSynchronize(e), 0);
    float back;
    CHECK_INT(cudaMemcpy(&back, p, 4, cudaMemcpyDeviceToHost), 0);
    CHECK_NEAR(back, 2, 0);
    cudaEventDestroy(e), cudaFree(p), cudaFreeHost(pinned);
    emu_test_close(&c);
}

TEST(emu_copies_are_checked)
{
    CudaDev c = emu_test_open();
    char here[64], *p = (char *)emu_test_up(NULL, 64);
    CHECK_INT(cudaMemcpyAsync(p, p, 64, cudaMemcpyHostToDevice, c.stream), cudaErrorInvalidValue);
    CHECK_INT(cudaMemcpyAsync(p + 1, here, 64, cudaMemcpyHostToDevice, c.stream),
              cudaErrorInvalidValue);
    CHECK_INT(cudaMemcpyAsync(here, p, 65, cudaMemcpyDeviceToHost, c.stream),
              cudaErrorInvalidValue);
    CHECK_INT(cudaMemsetAsync(here, 0, 64, c.stream), cudaErrorInvalidValue);
    CHECK_INT(cudaGetLastError(), cudaErrorInvalidValue);
    CHECK_INT(cudaGetLastError(), cudaSuccess);
    CHECK_INT(cudaFree(p + 4), cudaErrorInvalidValue);
    CHECK_INT(cudaFree(p), 0);
    CHECK_INT(cudaFree(p), cudaErrorInvalidValue);
    cudaGetLastError();
    emu_test_close(&c);
}

/* ---- graphs -------------------------------------------------------------- */

TEST(emu_graphs_replay)
{
    CudaDev c = emu_test_open();
    float zero[32] = {0}, back[32], *p = (float *)emu_test_up(zero, sizeof zero);
    cudaGraph_t g;
    cudaGraphExec_t x;
    CHECK_INT(cudaStreamBeginCapture(c.stream, cudaStreamCaptureModeThreadLocal), 0);
    CUDA_LAUNCH(&c.dev, add_one, 1, 32, 0, p);
    CUDA_LAUNCH(&c.dev, add_one, 1, 32, 0, p);
    CHECK_INT(cudaStreamEndCapture(c.stream, &g), 0);
    CHECK_INT(cudaGraphInstantiate(&x, g, 0), 0);
    CHECK_INT(cudaGraphDestroy(g), 0);
    cudaMemcpy(back, p, sizeof back, cudaMemcpyDeviceToHost);
    CHECK_NEAR(back[7], 0, 0);                  /* captured, not run */
    for (int i = 0; i < 3; i++) CHECK_INT(cudaGraphLaunch(x, c.stream), 0);
    emu_test_down(&c, back, p, sizeof back);
    CHECK_NEAR(back[31], 6, 0);
    cudaGraphExecDestroy(x);
    emu_test_close(&c);
}

TEST(emu_captures_refuse)
{
    CudaDev c = emu_test_open();
    cudaGraph_t g = NULL;
    void *p;
    for (int what = 0; what < 4; what++) {
        float v, *d = (float *)emu_test_up(NULL, 4);
        CHECK_INT(cudaStreamBeginCapture(c.stream, cudaStreamCaptureModeGlobal), 0);
        if (what == 0) CHECK_INT(cudaStreamSynchronize(c.stream),
                                 cudaErrorStreamCaptureUnsupported);
        if (what == 1) CHECK_INT(cudaMalloc(&p, 64), cudaErrorStreamCaptureUnsupported);
        if (what == 2) CHECK_INT(cudaMemcpy(d, &v, 4, cudaMemcpyHostToDevice),
                                 cudaErrorStreamCaptureImplicit);
        if (what == 3) CHECK_INT(cudaMemcpyAsync(&v, d, 4, cudaMemcpyDeviceToHost, c.stream),
                                 cudaErrorStreamCaptureUnsupported);
        CHECK_INT(cudaStreamEndCapture(c.stream, &g), cudaErrorStreamCaptureInvalidated);
        CHECK(!g);
        CHECK_INT(cudaStreamSynchronize(c.stream), 0);
        CHECK_INT(cudaFree(d), 0);
    }
    cudaGetLastError();
    emu_test_close(&c);
}

/* ---- limits and errors --------------------------------------------------- */

TEST(emu_launches_are_checked)
{
    CudaDev c = emu_test_open();
    float *p = (float *)emu_test_up(NULL, 4);
    CUDA_LAUNCH(&c.dev, fill, 1, 1025, 0, p, 0.0f, 1);
    CHECK_STR(c.error, "fill: invalid configuration argument");
    c.error[0] = 0;
    CUDA_LAUNCH(&c.dev, fill, dim3(1, 65536), 1, 0, p, 0.0f, 1);
    CHECK_STR(c.error, "fill: invalid configuration argument");
    c.error[0] = 0;
    CUDA_LAUNCH(&c.dev, fill, 1, 1, 49153, p, 0.0f, 1);
    CHECK_STR(c.error, "fill: invalid argument");
    c.error[0] = 0;
    CUDA_SHARED_MAX(&c.dev, fill, 49168);
    CUDA_LAUNCH(&c.dev, fill, 1, 1, 49153, p, 0.0f, 1);
    CHECK_STR(c.error, "");
    CUDA_SHARED_MAX(&c.dev, fill, 128 << 10);
    CHECK_STR(c.error, "fill: invalid argument");
    cudaGetLastError();
    cudaFree(p);
    emu_test_close(&c);
}

TEST(emu_memory_is_limited)
{
    size_t before, left, all;
    void *p = NULL, *q = NULL;
    CHECK_INT(cudaMemGetInfo(&before, &all), 0);
    CHECK_INT(cudaMalloc(&p, 1 << 20), 0);
    CHECK_INT(cudaMemGetInfo(&left, &all), 0);
    CHECK_INT(before - left, 1 << 20);
    CHECK_INT(cudaMalloc(&q, left + 1), cudaErrorMemoryAllocation);
    CHECK(!q);
    CHECK_INT(cudaGetLastError(), cudaErrorMemoryAllocation);
    cudaFree(p);
}

static void fails(void)
{
    setenv("SDC_EMU_FAIL", "add_one", 1);
    CudaDev c = emu_test_open();
    float *p = (float *)emu_test_up(NULL, 128);
    CUDA_LAUNCH(&c.dev, add_one, 1, 32, 0, p);
    if (cudaGetLastError()) return;
    if (cudaStreamSynchronize(c.stream) != cudaErrorIllegalAddress) return;
    for (int i = 0; i < 3; i++)
        if (cudaGetLastError() != cudaErrorIllegalAddress) return;
    if (cudaFree(p) != cudaErrorIllegalAddress) return;
    fprintf(stderr, "fault stays");
    _exit(1);
}

static void no_device(void)
{
    setenv("SDC_EMU_DEVICES", "0", 1);
    int n = 7;
    void *p;
    if (cudaGetDeviceCount(&n) != cudaErrorNoDevice || n) return;
    if (cudaMalloc(&p, 4) != cudaErrorNoDevice) return;
    fprintf(stderr, "no device");
    _exit(1);
}

TEST(emu_faults_stay) { CHECK(emu_test_dies(fails, "fault stays")); }
TEST(emu_without_a_device) { CHECK(emu_test_dies(no_device, "no device")); }
