/* test_dev.c - the processor and a GPU as devices: names, memory, copies, records,
 * failures, the table of ops. */
#include <stdint.h>
#include <stdlib.h>

#include "tests/kern.h"
#include "tests/test.h"

TEST(dev_opens_cpu)
{
    Dev *d;
    CHECK_INT(dev_open(&d, "gpu9", 0, ~0u), DEV_NO_DEVICE);
    CHECK(!d);
    CHECK_INT(dev_open(&d, "cpu", 3, DEV_REF), DEV_OK);
    CHECK_STR(dev_name(d), "cpu (plain C, 3 threads)");
    dev_close(d);
    CHECK_INT(dev_open(&d, "cpu", 0, ~0u), DEV_OK);
    int threads = d->threads, ref = d->isa & DEV_REF;
    dev_close(d);
    CHECK(threads >= 1 && ref);
    dev_close(NULL);
}

/* Blocks of many sizes hold what is put at both ends; too large is refused. */
static int check_memory(Dev *d)
{
    static const size_t sizes[] = {0, 1, 100, 4095, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, 5000001};
    int ok = 1;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *p;
        unsigned char first = 7, last = 9, back[2] = {0};
        if (dev_alloc(d, &p, sizes[i])) return 0;
        ok &= (uintptr_t)p % 64 == 0;
        dev_zero(d, p, sizes[i]);
        if (sizes[i]) {
            dev_upload(d, p, &first, 1);
            dev_upload(d, (char *)p + sizes[i] - 1, &last, 1);
            dev_download(d, back, p, 1);
            dev_download(d, back + 1, (char *)p + sizes[i] - 1, 1);
            ok &= back[0] == (sizes[i] > 1 ? 7 : 9) && back[1] == 9;
        }
        dev_free(d, p, sizes[i]);
    }
    void *p;
    ok &= dev_memory_free(d) > 1 << 20;
    ok &= dev_alloc(d, &p, SIZE_MAX - 100) == DEV_NO_MEMORY;
    ok &= dev_alloc(d, &p, (size_t)1 << 50) == DEV_NO_MEMORY && !p;
    dev_free(d, NULL, 5);
    return ok && !dev_failure(d)[0];
}

TEST(dev_memory)
{
    Dev *d;
    void *p;
    CHECK_INT(dev_open(&d, "cpu", 1, ~0u), DEV_OK);
    CHECK(check_memory(d));
    CHECK_INT(dev_alloc(d, &p, 2 << 20), DEV_OK);
    CHECK_INT((uintptr_t)p % (2 << 20), 0);
    dev_free(d, p, 2 << 20);
    CHECK_INT(dev_record_begin(d), DEV_NO_DEVICE);
    dev_close(d);
}

/* ---- a GPU, real or emulated; where there is none, that is said ----------- */

/* NULL where there is none. */
static Dev *open_gpu(void)
{
    Dev *d;
    char why[300];
    if (dev_open(&d, "cuda", 1, ~0u) == DEV_OK) return d;
    dev_why("cuda", why, sizeof why);
    if (strncmp(kern_device(), "cpu", 3)) test_fail(__FILE__, __LINE__, "%s", why);
    if (!strstr(why, "built without CUDA") && !strstr(why, "no GPU can be used"))
        test_fail(__FILE__, __LINE__, "\"%s\" does not say why", why);
    return NULL;
}

TEST(dev_gpu_memory_and_names)
{
    Dev *d = open_gpu(), *none;
    char why[300];
    CHECK_INT(dev_open(&none, "cuda:1023", 1, ~0u), DEV_NO_DEVICE);
    CHECK_INT(dev_open(&none, "cuda:-1", 1, ~0u), DEV_NO_DEVICE);
    CHECK_INT(dev_open(&none, "cuda9", 1, ~0u), DEV_NO_DEVICE);
    dev_why("cuda9", why, sizeof why);
    CHECK(!none && strstr(why, "no device \"cuda9\" here"));
    CHECK(dev_describe(0, why, sizeof why) == 1 && strlen(why) > 8);
    CHECK(!dev_describe(1024, why, sizeof why));
    if (!d) return;
    dev_why("cuda:1023", why, sizeof why);
    CHECK(strstr(why, "no GPU number 1023"));
    CHECK(!strncmp(dev_name(d), "cuda:0 (", 8));
    CHECK_INT(d->isa, DEV_CUDA);
    CHECK(d->threads >= 1 && check_memory(d));
    dev_close(d);
}

/* An upload is done with the host's bytes when it returns, at every size, from
 * several threads, in order with later copies; a download has them all. */
TEST(dev_gpu_copies)
{
    enum { N = 11 << 20, PIECE = 700001 };
    Dev *d = open_gpu();
    void *a, *b;
    if (!d) return;
    unsigned char *host = malloc(N), *want = malloc(N);
    CHECK(!dev_alloc(d, &a, N) && !dev_alloc(d, &b, N));
    for (size_t i = 0; i < N; i++) want[i] = (unsigned char)(i * 2654435761u >> 24);
    memcpy(host, want, N);
    dev_upload(d, a, host, N);
    memset(host, 1, N);
    dev_download(d, host, a, N);
    int whole = !memcmp(host, want, N);
#pragma omp parallel for num_threads(3)
    for (size_t i = 0; i < N; i += PIECE) {
        size_t n = N - i < PIECE ? N - i : PIECE;
        memset(host + i, 2, n);
        dev_upload(d, (char *)b + i, want + i, n);
    }
    dev_copy(d, a, b, N / 2);
    dev_zero(d, (char *)a + N / 2, N - N / 2);
    dev_download(d, host, a, N);
    memset(want + N / 2, 0, N - N / 2);
    int pieces = !memcmp(host, want, N);
    dev_free(d, a, N), dev_free(d, b, N);
    free(host), free(want);
    int ok = !dev_failure(d)[0];
    dev_close(d);
    CHECK(whole && pieces && ok);
}

/* A record runs when it is replayed, not when it is made, and on what is there
 * then. One that cannot be made leaves the device as it was. */
TEST(dev_gpu_records)
{
    Dev *d = open_gpu();
    DevRecord *r;
    void *a, *b;
    unsigned got = 0, one = 1, two = 2;
    if (!d) return;
    CHECK(!dev_alloc(d, &a, 4) && !dev_alloc(d, &b, 4));
    dev_upload(d, a, &one, 4);
    dev_zero(d, b, 4);
    CHECK_INT(dev_record_begin(d), DEV_OK);
    dev_copy(d, b, a, 4);
    CHECK_INT(dev_record_end(d, &r), DEV_OK);
    dev_download(d, &got, b, 4);
    CHECK_INT(got, 0);
    for (int i = 0; i < 2; i++) {
        dev_upload(d, a, i ? &two : &one, 4);
        dev_replay(d, r);
        dev_download(d, &got, b, 4);
        CHECK_INT(got, i ? 2 : 1);
    }
    dev_record_free(d, r);
    dev_record_free(d, NULL);
    CHECK_INT(dev_record_begin(d), DEV_OK);
    dev_sync(d);                                         /* cannot be recorded */
    CHECK_INT(dev_record_end(d, &r), DEV_FAILED);
    CHECK(!r);
    CHECK_STR(dev_failure(d), "");
    dev_zero(d, b, 4);
    dev_download(d, &got, b, 4);
    CHECK_INT(got, 0);
    dev_free(d, a, 4), dev_free(d, b, 4);
    dev_close(d);
}

TEST(dev_gpu_keeps_the_first_failure)
{
    Dev *d = open_gpu();
    void *p;
    if (!d) return;
    CHECK(!dev_alloc(d, &p, 1024));
    CHECK_STR(dev_failure(d), "");
    dev_free(d, (char *)p + 256, 768);                   /* not what dev_alloc gave */
    CHECK(!strncmp(dev_failure(d), "cudaFree: ", 10));
    dev_free(d, p, 1024);
    CHECK(!strncmp(dev_failure(d), "cudaFree: ", 10));
    dev_close(d);
}

/* Gradients of what adapters compose: their factors are f32. */
static int f32_only(const char *op)
{
    return !strcmp(op, "compose_bwd") || !strcmp(op, "kron_bwd") || !strcmp(op, "dora_bwd");
}

/* Every slot of every table is filled, and the masks are obeyed. */
TEST(ops_table_is_full)
{
    static const unsigned masks[] = {DEV_REF, DEV_REF | DEV_AVX2, ~0u, DEV_CUDA};
    for (int i = 0; i < 4; i++) {
        Dev *d;
        Ops o;
        if (i == 3 && !(d = open_gpu())) return;
        if (i < 3) CHECK_INT(dev_open(&d, "cpu", 1, masks[i]), DEV_OK);
        CHECK_INT(d->isa & ~masks[i], 0);
        ops_init(&o, d);
        dev_close(d);
        for (int dt = 0; dt < DT_N; dt++) {
#define X(op) CHECK(o.op[dt] || (dt != DT_F32 && f32_only(#op)));
            OPS_LIST(X)
#undef X
            for (int src = 0; src < DT_N; src++) CHECK(o.cast[dt][src]);
        }
        CHECK(o.linear_scratch && o.conv2d_scratch && o.attention_scratch);
#define X(op) CHECK(o.optim.op);
        OPTIM_LIST(X)
#undef X
    }
}
