/* dev.c - one interface (dev.h) to every kind of device. */
#include "kernels/dev.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The number that a name of a GPU ends in, -1 for none; -2: not such a name. */
static int gpu_number(const char *name)
{
    static const char word[] = "cuda";
    const size_t n = sizeof word - 1;
    char *end;
    if (strncmp(name, word, n)) return -2;
    if (!name[n]) return -1;
    if (name[n] != ':' || name[n + 1] < '0' || name[n + 1] > '9') return -2;
    long number = strtol(name + n + 1, &end, 10);
    return *end || number > 1023 ? -2 : (int)number;
}

#ifndef SDC_CUDA
static int dev_cuda_open(Dev **d, int number, int threads, int automatic)
{
    (void)number, (void)threads, (void)automatic;
    *d = NULL;
    return DEV_NO_DEVICE;
}

static void dev_cuda_why(int number, char *why, size_t cap)
{
    (void)number;
    snprintf(why, cap, "this program was built without CUDA (build it with: make CUDA=1); try cpu");
}

static void dev_cuda_missing(char *why, size_t cap)
{
    if (cap) *why = 0;
}

static int dev_cuda_describe(int i, char *text, size_t cap)
{
    snprintf(text, cap, "none: built without CUDA (make CUDA=1)");
    return !i;
}
#endif

static int open_automatic(Dev **d, int threads, unsigned isa_mask)
{
    char why[200];
    if (dev_cuda_open(d, -1, threads, 1) == DEV_OK) return DEV_OK;
    dev_cuda_missing(why, sizeof why);
    int rc = dev_cpu_open(d, "cpu", threads, isa_mask);
    if (rc == DEV_OK && *why) dev_cpu_note(*d, why);
    return rc;
}

int dev_open(Dev **d, const char *name, int threads, unsigned isa_mask)
{
    int number = gpu_number(name);
    *d = NULL;
    if (number > -2) return dev_cuda_open(d, number, threads, 0);
    return strcmp(name, "auto") ? dev_cpu_open(d, name, threads, isa_mask)
                                : open_automatic(d, threads, isa_mask);
}

void dev_why(const char *name, char *why, size_t cap)
{
    int number = gpu_number(name);
    if (number > -2) dev_cuda_why(number, why, cap);
    else snprintf(why, cap, "no device \"%s\" here; expected " DEV_NAMES, name);
}

int dev_describe(int i, char *text, size_t cap) { return dev_cuda_describe(i, text, cap); }

void dev_close(Dev *d)
{
    if (d) d->kind->close(d);
}

const char *dev_name(const Dev *d) { return d->kind->name(d); }
const char *dev_failure(const Dev *d) { return d->kind->failure(d); }
int dev_own_memory(const Dev *d) { return d->kind->own_memory; }
int dev_fast_bf16(const Dev *d) { return d->kind->fast_bf16(d); }

int dev_alloc(Dev *d, void **p, size_t bytes)
{
    *p = NULL;
    return d->kind->alloc(d, p, bytes);
}

void dev_free(Dev *d, void *p, size_t bytes)
{
    if (p) d->kind->free(d, p, bytes);
}

void dev_upload(Dev *d, void *dst, const void *src_host, size_t bytes)
{
    if (bytes) d->kind->upload(d, dst, src_host, bytes);
}

void dev_download(Dev *d, void *dst_host, const void *src, size_t bytes)
{
    if (bytes) d->kind->download(d, dst_host, src, bytes);
}

void dev_copy(Dev *d, void *dst, const void *src, size_t bytes)
{
    if (bytes) d->kind->copy(d, dst, src, bytes);
}

void dev_zero(Dev *d, void *dst, size_t bytes)
{
    if (bytes) d->kind->zero(d, dst, bytes);
}

void dev_sync(Dev *d) { d->kind->sync(d); }
size_t dev_memory_free(const Dev *d) { return d->kind->memory_free(d); }

int dev_record_begin(Dev *d)
{
    return d->kind->record_begin ? d->kind->record_begin(d) : DEV_NO_DEVICE;
}

int dev_record_end(Dev *d, DevRecord **r)
{
    *r = NULL;
    return d->kind->record_end(d, r);
}

void dev_replay(Dev *d, DevRecord *r) { d->kind->replay(d, r); }

void dev_record_free(Dev *d, DevRecord *r)
{
    if (r) d->kind->record_free(d, r);
}
