/* dev.h - a device: where buffers live and ops run.
 *
 * The whole backend besides the ops themselves: memory, copies, order, name.
 * kernels/ knows no Err: these functions return 0 or a DEV_* code, and engine/
 * words it. A Dev is used by one host thread at a time (but dev_upload by any);
 * two Devs are independent. Work queued on a Dev runs in order; dev_sync waits
 * for it. Memory of a device is read and written by ops and by the copies below
 * only: its addresses mean nothing to the host.
 */
#ifndef SDC_KERNELS_DEV_H
#define SDC_KERNELS_DEV_H

#include <stddef.h>

typedef enum { DEV_OK, DEV_NO_MEMORY, DEV_NO_DEVICE, DEV_FAILED } DevCode;

/* Which versions of the ops may be used (bits of Dev.isa). */
enum { DEV_REF = 1, DEV_AVX2 = 2, DEV_AVX512 = 4, DEV_CUDA = 8 };

typedef struct Dev {
    const struct DevKind *kind;
    int threads;        /* of the host; results never depend on it */
    unsigned isa;       /* DEV_* bits of what this machine can run */
    void *ws;           /* scratch for the op that runs now; 64-byte aligned */
    size_t ws_bytes;    /* at least what ops_scratch() asked for that op */
} Dev;

/* Opens a device by name:
 *   cpu                       also "cpu:avx2", "cpu:ref": no more than these instructions
 *   cuda, cuda:N              a GPU, the first or number N
 *   auto                      the first GPU when there is one, else the processor; with CUDA
 *                             its name says why
 * threads 0: one per core that this process may use. isa_mask limits the
 * instruction sets of the processor (~0u: all the machine has). */
int dev_open(Dev **d, const char *name, int threads, unsigned isa_mask);
void dev_close(Dev *d);                                    /* NULL ok */
#define DEV_NAMES "auto, cpu, cuda or cuda:N (auto: a GPU when there is one)"
/* Why dev_open(name) gives DEV_NO_DEVICE here, and what to do; into why. */
void dev_why(const char *name, char *why, size_t cap);
/* Line i of what `sdc doctor` says of GPUs, into text; 0 when there is no such line. */
int dev_describe(int i, char *text, size_t cap);

const char *dev_name(const Dev *d);                        /* "cpu (avx512, 2 threads)" */
/* The first thing that went wrong on the device: which kernel or copy, and what
 * it says. "" when all is well. A device that failed once is not to be trusted
 * with more. Work that still runs may fail later: ask after dev_sync to be sure. */
const char *dev_failure(const Dev *d);

/* 1 when it has memory of its own, beside the host's. */
int dev_own_memory(const Dev *d);
/* 1 when products of bf16 are faster than of f32 here. */
int dev_fast_bf16(const Dev *d);

/* 64-byte aligned, uninitialised; large blocks are page-aligned. */
int dev_alloc(Dev *d, void **p, size_t bytes);
void dev_free(Dev *d, void *p, size_t bytes);
/* In order with other work. The host's bytes may be changed or freed as soon as
 * dev_upload is back, and are there when dev_download is. */
void dev_upload(Dev *d, void *dst, const void *src_host, size_t bytes);
void dev_download(Dev *d, void *dst_host, const void *src, size_t bytes);
void dev_copy(Dev *d, void *dst, const void *src, size_t bytes);   /* on the device */
void dev_zero(Dev *d, void *dst, size_t bytes);
void dev_sync(Dev *d);
/* Bytes that dev_alloc could still get without swapping. */
size_t dev_memory_free(const Dev *d);

/* Recording: the ops and dev_copy between begin and end are not run but kept,
 * with all their arguments (addresses and Dev.ws included), and run as one by
 * dev_replay. DEV_NO_DEVICE: this kind of device does not record (ops run as
 * always). dev_record_end gives NULL and DEV_FAILED when something in between
 * could not be recorded; nothing has run then, and the device is as good as
 * before. A record is freed before its Dev is closed. */
typedef struct DevRecord DevRecord;
int dev_record_begin(Dev *d);
int dev_record_end(Dev *d, DevRecord **r);
void dev_replay(Dev *d, DevRecord *r);
void dev_record_free(Dev *d, DevRecord *r);                /* NULL ok */

/* ---- for kernels/dev_*.c ------------------------------------------------- */

/* One kind of device: the functions above. No recording: record_begin is NULL. */
typedef struct DevKind {
    int own_memory;
    void (*close)(Dev *d);
    const char *(*name)(const Dev *d);
    const char *(*failure)(const Dev *d);
    int (*fast_bf16)(const Dev *d);
    int (*alloc)(Dev *d, void **p, size_t bytes);
    void (*free)(Dev *d, void *p, size_t bytes);
    void (*upload)(Dev *d, void *dst, const void *src_host, size_t bytes);
    void (*download)(Dev *d, void *dst_host, const void *src, size_t bytes);
    void (*copy)(Dev *d, void *dst, const void *src, size_t bytes);
    void (*zero)(Dev *d, void *dst, size_t bytes);
    void (*sync)(Dev *d);
    size_t (*memory_free)(const Dev *d);
    int (*record_begin)(Dev *d);
    int (*record_end)(Dev *d, DevRecord **r);
    void (*replay)(Dev *d, DevRecord *r);
    void (*record_free)(Dev *d, DevRecord *r);
} DevKind;

int dev_cpu_open(Dev **d, const char *name, int threads, unsigned isa_mask);
int dev_cpu_threads(int threads);                  /* as Dev.threads, 0: one per core */
void dev_cpu_note(Dev *d, const char *note);       /* adds it to the name */
#ifdef SDC_CUDA
/* number -1: from a name without one. automatic: not an emulated one. */
int dev_cuda_open(Dev **d, int number, int threads, int automatic);
void dev_cuda_why(int number, char *why, size_t cap);
void dev_cuda_missing(char *why, size_t cap);      /* why automatic gives none, without advice */
int dev_cuda_describe(int i, char *text, size_t cap);
#endif

#endif
