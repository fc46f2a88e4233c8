/* kern.h - helpers for the tests of kernels/: guarded buffers, random tensors,
 * and the list of op versions that this machine can run.
 */
#ifndef SDC_TESTS_KERN_H
#define SDC_TESTS_KERN_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

/* One version of one op, from kernels/impl.def. A cast is "cast_<destination>"
 * with the source in dt. fn is cast back to <op>_fn * by the test. */
typedef struct {
    const char *op, *impl;
    Dtype dt;
    unsigned isa;
    void (*fn)(void);
} KernImpl;

/* The version of `op` after `prev` (NULL: the first) to be tested, in the order
 * of impl.def; NULL when there is no more. Those that d, a processor, can run;
 * with SDC_TEST_DEVICE=cuda in the environment, those of a GPU and no others. */
const KernImpl *kern_next(const char *op, const KernImpl *prev, const Dev *d);
/* The reference of op for dt; NULL when there is none. */
const KernImpl *kern_ref(const char *op, Dtype dt);
const char *kern_dtype(Dtype dt);

/* A buffer of `bytes` at p: 64-byte aligned, filled with 0xff (NaN in every
 * float type), with guard bytes on both sides and an unmapped page at most 63
 * bytes behind its end, so that a vector read past it faults. */
typedef struct { void *p; size_t bytes; unsigned char *map; size_t map_bytes; } KernBuf;
KernBuf kern_buf(size_t bytes);
/* Frees it; 1 when the guard bytes were as they should be. */
int kern_free(KernBuf *b);

/* A small generator (SplitMix64); tests start it with a constant. */
typedef struct { uint64_t state; } KernRng;
uint64_t kern_u64(KernRng *r);
int kern_int(KernRng *r, int lo, int hi);          /* lo..hi inclusive */
double kern_uniform(KernRng *r);                   /* [0,1) */
double kern_normal(KernRng *r);

typedef enum { KERN_NORMAL, KERN_MEAN, KERN_ZERO, KERN_KINDS } KernKind;   /* MEAN: 100 + normal */

/* n random elements of dtype dt. */
KernBuf kern_tensor(KernRng *r, Dtype dt, size_t n, KernKind kind);
/* A copy in another dtype (rounded where it is narrower). */
KernBuf kern_as(Dtype to, Dtype from, const void *p, size_t n);
double kern_at(Dtype dt, const void *p, size_t i);
void kern_put(Dtype dt, void *p, size_t i, double v);

/* Largest |got - want| / (abs + rel |want|): at most 1 when close. NaN counts
 * as infinite, unless both are NaN. want is f32. */
double kern_gap(Dtype dt, const void *got, const float *want, size_t n, double abs, double rel);

/* A Dev for tests with its own scratch: kern_ws makes room (guarded) and
 * fills it with NaN. kern_close gives 1 when its guards are intact. */
enum { KERN_BLOCKS = 24 };
typedef struct { void *host; size_t bytes; unsigned char *block; } KernBlock;
typedef struct {
    Dev *d;
    KernBuf ws;                        /* of a processor */
    KernBlock on[KERN_BLOCKS];         /* of a GPU: what kern_on made */
    int count;
    size_t tail;                       /* guard bytes behind each of them */
} KernDev;
KernDev kern_open(int threads, unsigned isa);
/* The device that a version under test runs on: that of kern_open, or a GPU
 * (which stays open to the end of the program). threads: on a GPU, with an odd
 * number blocks end with the last byte, so that an emulator or a sanitizer sees
 * every step past it, with an even one guard bytes follow; on a processor, an odd
 * one has products of bytes. Runs must give the same bits anyway. */
KernDev kern_open_for(const KernImpl *im, int threads);
KernDev kern_open_tested(int threads);             /* kern_device() */
int kern_ws(KernDev *k, size_t bytes);
int kern_close(KernDev *k);

/* What to give an op of k for a buffer of the host: p itself on a processor; on
 * a GPU a guarded copy in a block of its own (the same one when p was given
 * before; NULL for NULL). Then kern_back copies all of them back and frees them;
 * 1 when the guards are intact and nothing failed on the device. kern_close
 * does the same for what is left. */
void *kern_on(KernDev *k, void *p, size_t bytes);
int kern_back(KernDev *k);
/* The name of the device that commands and models are tested on: $SDC_TEST_DEVICE, or cpu. */
const char *kern_device(void);

#endif
