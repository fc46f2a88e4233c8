/* dev_cpu.c - the processor as a device (dev.h). */
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef SDC_X86
#include <cpuid.h>
#endif

#include "kernels/impl.h"

typedef struct {
    Dev dev;            /* first: a Dev * is a CpuDev * */
    char name[256];
} CpuDev;

#ifdef SDC_X86
/* AVX-512 and what it comes with. */
static unsigned find_avx512(void)
{
    unsigned a, b, c, e, isa = DEV_AVX512;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return 0;
    if (!__builtin_cpu_supports("avx512vnni")) return isa;
    isa |= DEV_VNNI;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &e) && a >> 5 & 1) isa |= DEV_BF16;
    return isa;
}
#endif

static unsigned find_isa(void)
{
    unsigned isa = DEV_REF;
#ifdef SDC_X86
    __builtin_cpu_init();
    unsigned a, b, c, e;
    int f16c = __get_cpuid(1, &a, &b, &c, &e) && c >> 29 & 1;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c)
        isa |= DEV_AVX2 | find_avx512();
#endif
    return isa;
}

/* First number of a one-line file such as those of cgroups, or `absent` where
 * there is none ("max" included). */
static double read_number(const char *path, double absent)
{
    FILE *f = fopen(path, "re");
    if (!f) return absent;
    double v = absent;
    if (fscanf(f, "%lf", &v) != 1) v = absent;
    fclose(f);
    return v;
}

/* Folder of this process's control group (version 2), "" when unknown. */
static void cgroup_dir(char *dir, size_t cap)
{
    char line[512];
    dir[0] = 0;
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f) return;
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, "0::/", 4)) {
            line[strcspn(line, "\n")] = 0;
            snprintf(dir, cap, "/sys/fs/cgroup%s", line + 3);
        }
    fclose(f);
}

/* Calls limit() on the group's folder and on each one above it; the least. */
static double cgroup_least(double (*limit)(const char *dir))
{
    char dir[600];
    double least = 1e300;
    cgroup_dir(dir, sizeof dir);
    size_t root = strlen("/sys/fs/cgroup");
    while (strlen(dir) >= root) {
        double v = limit(dir);
        if (v < least) least = v;
        *strrchr(dir, '/') = 0;
    }
    return least;
}

static double cpu_quota(const char *dir)
{
    char path[700];
    snprintf(path, sizeof path, "%s/cpu.max", dir);
    FILE *f = fopen(path, "re");
    if (!f) return 1e300;
    double quota, period;
    int n = fscanf(f, "%lf %lf", &quota, &period);
    fclose(f);
    return n == 2 && period > 0 ? quota / period : 1e300;
}

static double memory_left(const char *dir)
{
    char path[700], key[64];
    snprintf(path, sizeof path, "%s/memory.max", dir);
    double max = read_number(path, 1e300), reclaimable = 0, v;
    if (max >= 1e300) return max;
    snprintf(path, sizeof path, "%s/memory.current", dir);
    double used = read_number(path, 0);
    snprintf(path, sizeof path, "%s/memory.stat", dir);
    FILE *f = fopen(path, "re");
    if (f) {
        while (fscanf(f, "%63s %lf", key, &v) == 2)
            if (!strcmp(key, "inactive_file") || !strcmp(key, "active_file")) reclaimable += v;
        fclose(f);
    }
    double left = max - used + reclaimable;
    return left > 0 ? left : 0;
}

static int count_cores(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    double quota = cgroup_least(cpu_quota);
    if (quota < n) n = (int)(quota + 0.5);
    return n < 1 ? 1 : n;
}

/* The mask that "cpu:NAME" asks for, 0 when there is no such name. */
static unsigned isa_of_name(const char *name)
{
    if (!strcmp(name, "cpu") || !strcmp(name, "cpu:avx512bf16")) return ~0u;
    if (!strcmp(name, "cpu:avx512")) return ~(unsigned)DEV_BF16;
    if (!strcmp(name, "cpu:avx2")) return DEV_REF | DEV_AVX2;
    return strcmp(name, "cpu:ref") ? 0 : DEV_REF;
}

static const char *isa_name(unsigned isa)
{
    if (isa & DEV_AVX512) return isa & DEV_BF16 ? "avx512bf16" : "avx512";
    return isa & DEV_AVX2 ? "avx2" : "plain C";
}

int dev_cpu_threads(int threads) { return threads > 0 ? threads : count_cores(); }

static void cpu_close(Dev *d) { free(d); }
static const char *cpu_name(const Dev *d) { return ((const CpuDev *)d)->name; }
static int cpu_fast_bf16(const Dev *d) { return (d->isa & DEV_BF16) != 0; }

static const char *cpu_failure(const Dev *d)
{
    (void)d;
    return "";
}

/* Blocks from HUGE on are mapped at a multiple of it, for huge pages; smaller
 * ones come from the heap. dev_free decides by the same size. */
#define HUGE ((size_t)2 << 20)
#define PAGE ((size_t)4096)

static int map_large(void **p, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) return DEV_NO_MEMORY;
    size_t len = (bytes + PAGE - 1) & ~(PAGE - 1), all = len + HUGE;
    char *m = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED) return DEV_NO_MEMORY;
    size_t head = (HUGE - (uintptr_t)m % HUGE) % HUGE;
    if (head) munmap(m, head);
    if (all - head - len) munmap(m + head + len, all - head - len);
    madvise(m + head, len, MADV_HUGEPAGE);      /* a wish: kernels without it say no */
    *p = m + head;
    return DEV_OK;
}

static size_t cpu_memory_free(const Dev *d)
{
    (void)d;
    char line[128];
    double left = 0, kb;
    FILE *f = fopen("/proc/meminfo", "re");
    if (f) {
        while (fgets(line, sizeof line, f))
            if (sscanf(line, "MemAvailable: %lf", &kb) == 1) left = kb * 1024;
        fclose(f);
    }
    double group = cgroup_least(memory_left);
    double v1 = read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes", 1e300) -
                read_number("/sys/fs/cgroup/memory/memory.usage_in_bytes", 0);
    if (group < left) left = group;
    if (v1 < left) left = v1 > 0 ? v1 : 0;
    return (size_t)left;
}

static int cpu_alloc(Dev *d, void **p, size_t bytes)
{
    if (bytes < HUGE) {
        *p = aligned_alloc(64, (bytes + 64) & ~(size_t)63);
        return *p ? DEV_OK : DEV_NO_MEMORY;
    }
    /* Linux hands out more than there is and kills later: say no now. */
    if (bytes > cpu_memory_free(d)) return DEV_NO_MEMORY;
    return map_large(p, bytes);
}

static void cpu_free(Dev *d, void *p, size_t bytes)
{
    (void)d;
    if (bytes < HUGE) free(p);
    else munmap(p, (bytes + PAGE - 1) & ~(PAGE - 1));
}

static void cpu_upload(Dev *d, void *dst, const void *src_host, size_t bytes)
{
    (void)d;
    memcpy(dst, src_host, bytes);
}

static void cpu_download(Dev *d, void *dst_host, const void *src, size_t bytes)
{
    (void)d;
    memcpy(dst_host, src, bytes);
}

static void cpu_copy(Dev *d, void *dst, const void *src, size_t bytes)
{
    (void)d;
    memcpy(dst, src, bytes);
}

static void cpu_zero(Dev *d, void *dst, size_t bytes)
{
    (void)d;
    memset(dst, 0, bytes);
}

static void cpu_sync(Dev *d) { (void)d; }

static const DevKind cpu_kind = {
    .close = cpu_close, .name = cpu_name, .failure = cpu_failure, .fast_bf16 = cpu_fast_bf16,
    .alloc = cpu_alloc, .free = cpu_free, .upload = cpu_upload, .download = cpu_download,
    .copy = cpu_copy, .zero = cpu_zero, .sync = cpu_sync, .memory_free = cpu_memory_free,
};

int dev_cpu_open(Dev **d, const char *name, int threads, unsigned isa_mask)
{
    *d = NULL;
    isa_mask &= isa_of_name(name);
    if (!isa_mask) return DEV_NO_DEVICE;
    CpuDev *c = calloc(1, sizeof *c);
    if (!c) return DEV_NO_MEMORY;
    c->dev.kind = &cpu_kind;
    c->dev.threads = dev_cpu_threads(threads);
    c->dev.isa = (find_isa() & isa_mask) | DEV_REF;
    snprintf(c->name, sizeof c->name, "cpu (%s, %d thread%s)",
             isa_name(c->dev.isa), c->dev.threads, c->dev.threads == 1 ? "" : "s");
    *d = &c->dev;
    return DEV_OK;
}

void dev_cpu_note(Dev *d, const char *note)
{
    CpuDev *c = (CpuDev *)d;
    size_t at = strlen(c->name) - 1;             /* of ")" */
    snprintf(c->name + at, sizeof c->name - at, "; %.*s)", (int)(sizeof c->name - at - 4), note);
}
