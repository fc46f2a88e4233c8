/* machine.c - see machine.h. */
#include "tools/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "kernels/dev.h"

const char *machine_device(char *buf, size_t cap, const char *option)
{
    const char *limit = getenv("SDC_CPU"), *name = option ? option : getenv("SDC_DEVICE");
    int limited = limit && *limit;
    if (!name || !*name) name = limited ? "cpu" : "auto";
    if (limited && !strcmp(name, "cpu")) snprintf(buf, cap, "cpu:%s", limit);
    else snprintf(buf, cap, "%s", name);
    return buf;
}

int machine_fast_bf16(const char *device, int threads)
{
    Dev *d;
    if (dev_open(&d, device, threads, ~0u) != DEV_OK) return 0;
    int fast = dev_fast_bf16(d);
    dev_close(d);
    return fast;
}

double machine_seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

int64_t machine_random_seed(void)
{
    uint32_t v;
    if (getrandom(&v, sizeof v, 0) != (ssize_t)sizeof v) v = (uint32_t)(machine_seconds() * 1e6);
    return (int64_t)v;
}
