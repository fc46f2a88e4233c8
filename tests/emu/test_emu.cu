/* test_emu.cu - the emulator itself: threads, barriers, warps, fragments, copies. */
#include "tests/emu/test_emu.h"

#include <sys/wait.h>
#include <unistd.h>

int emu_test_dies(void (*f)(void), const char *text)
{
    int fd[2];
    static char said[65536];
    if (pipe(fd)) return 0;
    fflush(NULL);
    pid_t pid = fork();
    if (!pid) {
        dup2(fd[1], 2);
        close(fd[0]);
        f();
        _exit(0);
    }
    close(fd[1]);
    size_t n = 0;
    ssize_t got;
    while (n < sizeof said - 1 && (got = read(fd[0], said + n, sizeof said - 1 - n)) > 0)
        n += (size_t)got;
    said[n] = 0;
    close(fd[0]);
    int status = 0;
    waitpid(pid, &status, 0);
    int ok = status != 0 && (!text || strstr(said, text));
    if (!ok) fprintf(stderr, "status %x, said: %s\n", status, said);
    return ok;
}

/* ---- barriers ------------------------------------------------------------ */

static __global__ void reverse(int *p, int barrier)
{
    __shared__ int tile[256];
    int t = (int)threadIdx.x, at = (int)(blockIdx.x * 256);
    tile[t] = p[at + t];
    if (barrier) __syncthreads();
    p[at + t] = tile[255 - t];
}

/* How many of 1024 elements come out as they should. */
static int reversed(int barrier)
{
    CudaDev c = emu_test_open();
    int host[1024], good = 0;
    for (int i = 0; i < 1024; i++) host[i] = i;
    int *p = (int *)emu_test_up(host, sizeof host);
    CUDA_LAUNCH(&c.dev, reverse, 4, 256, 0, p, barrier);
    emu_test_down(&c, host, p, sizeof host);
    for (int i = 0; i < 1024; i++) good += host[i] == i / 256 * 256 + 255 - i % 256;
    emu_test_close(&c);
    return good;
}

TEST(emu_barrier)
{
    const char *kept = getenv("SDC_EMU_SEED");
    char before[32];
    snprintf(before, sizeof before, "%s", kept ? kept : "1");
    for (int seed = 1; seed <= 5; seed++) {
        char text[16];
        snprintf(text, sizeof text, "%d", seed);
        setenv("SDC_EMU_SEED", text, 1);
        CHECK_INT(reversed(1), 1024);
        CHECK(reversed(0) < 1024);              /* a missing barrier shows */
    }
    setenv("SDC_EMU_SEED", before, 1);
}

/* The order of blocks and threads, by tickets. */
static __global__ void ticket(unsigned *next, unsigned *mine)
{
    mine[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(next, 1u);
}

static void tickets(unsigned *mine, const char *seed)
{
    setenv("SDC_EMU_SEED", seed, 1);
    CudaDev c = emu_test_open();
    unsigned zero = 0, *next = (unsigned *)emu_test_up(&zero, 4);
    unsigned *p = (unsigned *)emu_test_up(NULL, 512 * sizeof *p);
    CUDA_LAUNCH(&c.dev, ticket, 8, 64, 0, next, p);
    emu_test_down(&c, mine, p, 512 * sizeof *p);
    cudaFree(next);
    emu_test_close(&c);
}

TEST(emu_order)
{
    unsigned a[512], b[512], seen[512] = {0};
    int differ = 0, inner = 0;
    tickets(a, "7");
    tickets(b, "8");
    unsetenv("SDC_EMU_SEED");
    for (int i = 0; i < 512; i++) {
        CHECK(a[i] < 512 && !seen[a[i]]++);     /* everyone, once */
        differ += a[i] / 64 != b[i] / 64;
        inner += a[i] % 64 != (unsigned)i % 64;
    }
    CHECK(differ > 0 && inner > 256);
}

/* ---- warps --------------------------------------------------------------- */

static __global__ void shuffles(int *p)
{
    int lane = (int)threadIdx.x & 31, *o = p + threadIdx.x * 8;
    o[0] = __shfl_sync(~0u, lane * 3, lane + 5);
    o[1] = __shfl_up_sync(~0u, lane, 3u);
    o[2] = __shfl_down_sync(~0u, lane, 4u, 8);
    o[3] = __shfl_xor_sync(~0u, lane, 17);
    o[4] = (int)__ballot_sync(~0u, lane % 3 == 0);
    o[5] = __any_sync(~0u, lane == 9) * 2 + __all_sync(~0u, lane < 31);
    o[6] = lane < 16 ? __shfl_xor_sync(0xffffu, lane, 1) : __shfl_sync(0xffff0000u, lane, 20);
    o[7] = (int)__shfl_sync(~0u, (long long)lane << 33, 6, 16) +
           (int)(__shfl_sync(~0u, (double)lane, 2));
}

TEST(emu_shuffles)
{
    CudaDev c = emu_test_open();
    int out[96 * 8], *p = (int *)emu_test_up(NULL, sizeof out);
    unsigned third = 0;
    for (int l = 0; l < 32; l += 3) third |= 1u << l;
    CUDA_LAUNCH(&c.dev, shuffles, 1, dim3(32, 3), 0, p);
    emu_test_down(&c, out, p, sizeof out);
    for (int l = 0; l < 32; l++) {
        int *o = out + l * 8;
        CHECK_INT(o[0], (l + 5) % 32 * 3);
        CHECK_INT(o[1], l < 3 ? l : l - 3);
        CHECK_INT(o[2], l % 8 + 4 > 7 ? l : l + 4);
        CHECK_INT(o[3], l ^ 17);
        CHECK_INT(o[4], (int)third);
        CHECK_INT(o[5], 2);
        CHECK_INT(o[6], l < 16 ? l ^ 1 : 20);
        CHECK_INT(o[7], 2);
    }
    emu_test_close(&c);
}

/* ---- fragments ----------------------------------------------------------- */

/* a (16,16), b (16,8) in 16 bits, d (16,8): through the fragments of ptx.h. */
static __global__ void product(const uint16_t *a, const uint16_t *b, float *d, int bf16)
{
    int g = (int)threadIdx.x / 4, t = (int)threadIdx.x % 4;
    uint32_t ra[4], rb[2];
    float rd[4];
    for (int i = 0; i < 4; i++) {
        const uint16_t *p = a + (g + i % 2 * 8) * 16 + 2 * t + i / 2 * 8;
        ra[i] = p[0] | (uint32_t)p[1] << 16;
        rd[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    }
    for (int i = 0; i < 2; i++) {
        const uint16_t *p = b + (2 * t + i * 8) * 8 + g;
        rb[i] = p[0] | (uint32_t)p[8] << 16;
    }
    if (bf16) mma_bf16(rd, ra, rb);
    else mma_f16(rd, ra, rb);
    for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = rd[i];
}

TEST(emu_mma)
{
    CudaDev c = emu_test_open();
    for (int bf16 = 0; bf16 < 2; bf16++) {
        uint16_t a[256], b[128];
        float d[128], want[128], fa[256], fb[128];
        for (int i = 0; i < 256; i++) {
            fa[i] = (float)(i * 7 % 23 - 11), a[i] = bf16 ? f32_to_bf16(fa[i]) : f32_to_f16(fa[i]);
            if (i >= 128) continue;
            fb[i] = (float)(i * 5 % 17 - 8), b[i] = bf16 ? f32_to_bf16(fb[i]) : f32_to_f16(fb[i]);
            d[i] = (float)i;
        }
        for (int i = 0; i < 16; i++)
            for (int j = 0; j < 8; j++) {
                want[i * 8 + j] = d[i * 8 + j];
                for (int k = 0; k < 16; k++) want[i * 8 + j] += fa[i * 16 + k] * fb[k * 8 + j];
            }
        void *pa = emu_test_up(a, sizeof a), *pb = emu_test_up(b, sizeof b);
        void *pd = emu_test_up(d, sizeof d);
        CUDA_LAUNCH(&c.dev, product, 1, 32, 0, (uint16_t *)pa, (uint16_t *)pb, (float *)pd, bf16);
        emu_test_down(&c, d, pd, sizeof d);
        cudaFree(pa), cudaFree(pb);
        for (int i = 0; i < 128; i++) CHECK_NEAR(d[i], want[i], 0);
    }
    emu_test_close(&c);
}

/* The tile of 32 x 8 is four matrices of 8 x 8. */
static __global__ void load_matrices(uint32_t *out, int transposed)
{
    __shared__ __align__(16) uint16_t tile[32][8];
    int t = (int)threadIdx.x;
    uint32_t r[4];
    for (int i = 0; i < 8; i++) tile[t][i] = (uint16_t)(t * 8 + i);
    __syncwarp();
    if (transposed) ldmatrix4_trans(r, tile[t]);
    else ldmatrix4(r, tile[t]);
    for (int i = 0; i < 4; i++) out[t * 4 + i] = r[i];
}

TEST(emu_ldmatrix)
{
    CudaDev c = emu_test_open();
    for (int transposed = 0; transposed < 2; transposed++) {
        uint32_t out[128], *p = (uint32_t *)emu_test_up(NULL, sizeof out);
        CUDA_LAUNCH(&c.dev, load_matrices, 1, 32, 0, p, transposed);
        emu_test_down(&c, out, p, sizeof out);
        for (int l = 0; l < 32; l++)
            for (int i = 0; i < 4; i++) {
                int a = l % 4 * 2, b = l / 4;
                int low = transposed ? a * 8 + b : b * 8 + a, high = transposed ? low + 8 : low + 1;
                CHECK_INT(out[l * 4 + i], (i * 64 + low) | (uint32_t)(i * 64 + high) << 16);
            }
    }
    emu_test_close(&c);
}

/* ---- copies to shared memory --------------------------------------------- */

static __global__ void staged(const float *in, float *out, int wait)
{
    CUDA_SHARED(float, tile);
    int t = (int)threadIdx.x;
    copy_async16(tile + 4 * t, in + 4 * t, 1);
    copy_async_commit();
    copy_async16(tile + 256 + 4 * t, in, 0);
    copy_async_commit();
    if (wait == 2) copy_async_wait(0);
    if (wait == 1) copy_async_wait(1);
    __syncthreads();
    for (int i = 0; i < 8; i++) out[8 * t + i] = tile[8 * t + i];
}

TEST(emu_copy_async)
{
    CudaDev c = emu_test_open();
    int sm80 = !getenv("SDC_EMU_SM") || atoi(getenv("SDC_EMU_SM")) >= 80;
    float in[256], out[512];
    for (int i = 0; i < 256; i++) in[i] = (float)i;
    for (int wait = 0; wait < 3; wait++) {
        float *pi = (float *)emu_test_up(in, sizeof in);
        float *po = (float *)emu_test_up(NULL, sizeof out);
        CUDA_LAUNCH(&c.dev, staged, 1, 64, 2048, pi, po, wait);
        emu_test_down(&c, out, po, sizeof out);
        cudaFree(pi);
        for (int i = 0; i < 512; i++) {
            int there = !sm80 || wait >= (i < 256 ? 1 : 2);
            CHECK(there ? out[i] == (i < 256 ? in[i] : 0) : isnan(out[i]));
        }
    }
    emu_test_close(&c);
}

/* Shared memory starts as NaN in every block. */
static __global__ void uninitialised(float *out)
{
    __shared__ float fixed[4];
    CUDA_SHARED(float, dynamic);
    out[blockIdx.x] = fixed[2] + dynamic[0];
    fixed[2] = dynamic[0] = 0;
}

TEST(emu_shared_is_nan)
{
    CudaDev c = emu_test_open();
    float out[3], *p = (float *)emu_test_up(NULL, sizeof out);
    CUDA_LAUNCH(&c.dev, uninitialised, 3, 1, 4, p);
    emu_test_down(&c, out, p, sizeof out);
    for (int i = 0; i < 3; i++) CHECK(isnan(out[i]));
    emu_test_close(&c);
}
