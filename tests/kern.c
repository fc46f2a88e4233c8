/* kern.c - helpers for the tests of kernels/ (kern.h). */
#include "tests/kern.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/half.h"
#include "kernels/impl.h"

enum { ISA_ref = DEV_REF, ISA_avx2 = DEV_AVX2, ISA_avx512 = DEV_AVX512, ISA_avx512bf16 = DEV_BF16,
       ISA_cuda = DEV_CUDA };
enum { DT_f32 = DT_F32, DT_bf16 = DT_BF16, DT_f16 = DT_F16 };

static const KernImpl impls[] = {
#define IMPL(op, dt, impl)                                                               \
    {#op, #impl, (Dtype)DT_##dt, ISA_##impl, (void (*)(void))op##_##dt##_##impl},
#define IMPL_CAST(dst, src, impl)                                                        \
    {"cast_" #dst, #impl, (Dtype)DT_##src, ISA_##impl,                                   \
     (void (*)(void))cast_##dst##_##src##_##impl},
#include "kernels/impl.def"
#undef IMPL
#undef IMPL_CAST
};
enum { IMPLS = sizeof impls / sizeof *impls };

const char *kern_device(void)
{
    const char *name = getenv("SDC_TEST_DEVICE");
    return name && *name ? name : "cpu";
}

static int on_gpu(void) { return strncmp(kern_device(), "cpu", 3) != 0; }

const KernImpl *kern_next(const char *op, const KernImpl *prev, const Dev *d)
{
    unsigned isa = on_gpu() ? DEV_CUDA : d->isa;
    for (const KernImpl *i = prev ? prev + 1 : impls; i < impls + IMPLS; i++)
        if (!strcmp(i->op, op) && i->isa & isa && i->fn) return i;
    return NULL;
}

const KernImpl *kern_ref(const char *op, Dtype dt)
{
    for (const KernImpl *i = impls; i < impls + IMPLS; i++)
        if (!strcmp(i->op, op) && i->isa == DEV_REF && i->dt == dt && i->fn) return i;
    return NULL;
}

const char *kern_dtype(Dtype dt) { return dt == DT_F32 ? "f32" : dt == DT_BF16 ? "bf16" : "f16"; }

enum { GUARD = 64, GUARD_BYTE = 0xff, PAGE = 4096 };

KernBuf kern_buf(size_t bytes)
{
    size_t body = (bytes + 63) & ~(size_t)63, len = (GUARD + body + PAGE - 1) / PAGE * PAGE;
    KernBuf b = {.bytes = bytes, .map_bytes = len + PAGE};
    b.map = mmap(NULL, b.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b.map == MAP_FAILED) abort();
    memset(b.map, GUARD_BYTE, len);
    mprotect(b.map + len, PAGE, PROT_NONE);
    b.p = b.map + len - body;
    return b;
}

int kern_free(KernBuf *b)
{
    if (!b->map) return 1;
    unsigned char *p = b->p, *end = b->map + b->map_bytes - PAGE;
    int ok = 1;
    for (unsigned char *q = p - GUARD; q < p; q++) ok &= *q == GUARD_BYTE;
    for (unsigned char *q = p + b->bytes; q < end; q++) ok &= *q == GUARD_BYTE;
    munmap(b->map, b->map_bytes);
    *b = (KernBuf){0};
    return ok;
}

uint64_t kern_u64(KernRng *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

int kern_int(KernRng *r, int lo, int hi)
{
    return lo + (int)(kern_u64(r) % (uint64_t)(hi - lo + 1));
}

double kern_uniform(KernRng *r) { return (double)(kern_u64(r) >> 11) * 0x1p-53; }

double kern_normal(KernRng *r)
{
    double u = 1 - kern_uniform(r), v = kern_uniform(r);
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

double kern_at(Dtype dt, const void *p, size_t i)
{
    if (dt == DT_F32) return (double)((const float *)p)[i];
    uint16_t h = ((const uint16_t *)p)[i];
    return (double)(dt == DT_BF16 ? bf16_to_f32(h) : f16_to_f32(h));
}

void kern_put(Dtype dt, void *p, size_t i, double v)
{
    if (dt == DT_F32) ((float *)p)[i] = (float)v;
    else ((uint16_t *)p)[i] = dt == DT_BF16 ? f32_to_bf16((float)v) : f32_to_f16((float)v);
}

KernBuf kern_tensor(KernRng *r, Dtype dt, size_t n, KernKind kind)
{
    KernBuf b = kern_buf(n * dtype_bytes(dt));
    for (size_t i = 0; i < n; i++)
        kern_put(dt, b.p, i, kind == KERN_ZERO ? 0 : (kind == KERN_MEAN) * 100.0 + kern_normal(r));
    return b;
}

KernBuf kern_as(Dtype to, Dtype from, const void *p, size_t n)
{
    KernBuf b = kern_buf(n * dtype_bytes(to));
    for (size_t i = 0; i < n; i++) kern_put(to, b.p, i, kern_at(from, p, i));
    return b;
}

double kern_gap(Dtype dt, const void *got, const float *want, size_t n, double abs, double rel)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double g = kern_at(dt, got, i), w = (double)want[i];
        if ((isnan(g) && isnan(w)) || g == w) continue;
        double gap = fabs(g - w) / (abs + rel * fabs(w));
        if (!(gap <= worst)) worst = isnan(gap) ? INFINITY : gap;
    }
    return worst;
}

KernDev kern_open(int threads, unsigned isa)
{
    KernDev k = {0};
    if (dev_open(&k.d, "cpu", threads, isa) != DEV_OK) abort();
    return k;
}

/* One GPU for all tests: opening one takes long. */
static Dev *gpu(void)
{
    static Dev *d;
    char why[300];
    if (d) return d;
    if (dev_open(&d, kern_device(), 1, ~0u) == DEV_OK) return d;
    dev_why(kern_device(), why, sizeof why);
    fprintf(stderr, "SDC_TEST_DEVICE=%s: %s\n", kern_device(), why);
    exit(1);
}

static KernDev open_gpu(int threads)
{
    return (KernDev){.d = gpu(), .tail = threads % 2 ? 0 : GUARD};
}

KernDev kern_open_for(const KernImpl *im, int threads)
{
    unsigned isa = im->isa | DEV_REF | (threads % 2 ? DEV_VNNI : 0);
    return im->isa == DEV_CUDA ? open_gpu(threads) : kern_open(threads, isa);
}

KernDev kern_open_tested(int threads)
{
    return on_gpu() ? open_gpu(threads) : kern_open(threads, ~0u);
}

/* ---- blocks of a GPU ----------------------------------------------------- */

/* Allocates [guard][bytes][tail], all GUARD_BYTE but what p has (NULL ok). */
static unsigned char *block_new(KernDev *k, const void *p, size_t bytes)
{
    void *block;
    size_t all = GUARD + bytes + k->tail;
    unsigned char *host = malloc(all);
    if (!host || dev_alloc(k->d, &block, all)) abort();
    memset(host, GUARD_BYTE, all);
    if (p) memcpy(host + GUARD, p, bytes);
    dev_upload(k->d, block, host, all);
    free(host);
    return block;
}

/* The bytes to p (NULL ok); 1 when the guards are intact. */
static int block_free(KernDev *k, unsigned char *block, void *p, size_t bytes)
{
    size_t all = GUARD + bytes + k->tail;
    unsigned char *host = malloc(all);
    int ok = 1;
    if (!host) abort();
    dev_download(k->d, host, block, all);
    for (size_t i = 0; i < GUARD; i++) ok &= host[i] == GUARD_BYTE;
    for (size_t i = 0; i < k->tail; i++) ok &= host[GUARD + bytes + i] == GUARD_BYTE;
    if (p) memcpy(p, host + GUARD, bytes);
    free(host);
    dev_free(k->d, block, all);
    return ok;
}

void *kern_on(KernDev *k, void *p, size_t bytes)
{
    if (k->d->isa != DEV_CUDA || !p) return p;
    for (int i = 0; i < k->count; i++)
        if (k->on[i].host == p) return k->on[i].block + GUARD;
    if (k->count == KERN_BLOCKS) abort();
    KernBlock *b = &k->on[k->count++];
    *b = (KernBlock){p, bytes, block_new(k, p, bytes)};
    return b->block + GUARD;
}

int kern_back(KernDev *k)
{
    int ok = 1;
    if (k->d->isa != DEV_CUDA) return 1;
    dev_sync(k->d);
    for (int i = 0; i < k->count; i++)
        ok &= block_free(k, k->on[i].block, k->on[i].host, k->on[i].bytes);
    k->count = 0;
    if (!dev_failure(k->d)[0]) return ok;
    fprintf(stderr, "%s: %s\n", dev_name(k->d), dev_failure(k->d));
    return 0;
}

static int ws_free(KernDev *k)
{
    int ok = kern_free(&k->ws);
    if (k->d->isa == DEV_CUDA && k->d->ws)
        ok &= block_free(k, (unsigned char *)k->d->ws - GUARD, NULL, k->d->ws_bytes);
    k->d->ws = NULL;
    k->d->ws_bytes = 0;
    return ok;
}

int kern_ws(KernDev *k, size_t bytes)
{
    int ok = ws_free(k);
    if (k->d->isa == DEV_CUDA) {
        k->d->ws = block_new(k, NULL, bytes) + GUARD;
    } else {
        k->ws = kern_buf(bytes);
        k->d->ws = k->ws.p;
    }
    k->d->ws_bytes = bytes;
    return ok;
}

int kern_close(KernDev *k)
{
    int ok = kern_back(k) & ws_free(k);
    if (k->d->isa != DEV_CUDA) dev_close(k->d);
    k->d = NULL;
    return ok;
}
