/* test_dev.c - the processor as a device: names, memory, instruction sets. */
#include <stdint.h>

#include "kernels/ops.h"
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

TEST(dev_memory)
{
    static const size_t sizes[] = {0, 1, 100, 4095, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, 5000001};
    Dev *d;
    CHECK_INT(dev_open(&d, "cpu", 1, ~0u), DEV_OK);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *p;
        unsigned char first = 7, last = 9, back[2] = {0};
        CHECK_INT(dev_alloc(d, &p, sizes[i]), DEV_OK);
        CHECK_INT((uintptr_t)p % 64, 0);
        if (sizes[i] >= 2 << 20) CHECK_INT((uintptr_t)p % (2 << 20), 0);
        dev_zero(d, p, sizes[i]);
        if (sizes[i]) {
            dev_upload(d, p, &first, 1);
            dev_upload(d, (char *)p + sizes[i] - 1, &last, 1);
            dev_sync(d);
            dev_download(d, back, p, 1);
            dev_download(d, back + 1, (char *)p + sizes[i] - 1, 1);
            CHECK_INT(back[0], sizes[i] > 1 ? 7 : 9);
            CHECK_INT(back[1], 9);
        }
        dev_free(d, p, sizes[i]);
    }
    void *p;
    CHECK(dev_memory_free(d) > 1 << 20);
    CHECK_INT(dev_alloc(d, &p, SIZE_MAX - 100), DEV_NO_MEMORY);
    CHECK_INT(dev_alloc(d, &p, (size_t)1 << 50), DEV_NO_MEMORY);
    CHECK(!p);
    dev_free(d, NULL, 5);
    dev_close(d);
}

/* Every slot of every table is filled, and the masks are obeyed. */
TEST(ops_table_is_full)
{
    static const unsigned masks[] = {DEV_REF, DEV_REF | DEV_AVX2, ~0u};
    for (int i = 0; i < 3; i++) {
        Dev *d;
        Ops o;
        CHECK_INT(dev_open(&d, "cpu", 1, masks[i]), DEV_OK);
        CHECK_INT(d->isa & ~masks[i], 0);
        ops_init(&o, d);
        dev_close(d);
        for (int dt = 0; dt < DT_N; dt++) {
#define X(op) CHECK(o.op[dt]);
            OPS_LIST(X)
#undef X
            for (int src = 0; src < DT_N; src++) CHECK(o.cast[dt][src]);
        }
        CHECK(o.linear_scratch && o.conv2d_scratch && o.attention_scratch && o.optim.adamw);
    }
}
