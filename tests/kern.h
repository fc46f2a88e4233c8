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

/* The version of `op` after `prev` (NULL: the first) that d can run, in the
 * order of impl.def; NULL when there is no more. */
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
typedef struct { Dev *d; KernBuf ws; } KernDev;
KernDev kern_open(int threads, unsigned isa);
int kern_ws(KernDev *k, size_t bytes);
int kern_close(KernDev *k);

#endif
