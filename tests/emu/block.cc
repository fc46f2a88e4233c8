/* block.cc - runs a kernel: blocks one after another, a block's threads as fibers.
 *
 * A thread runs until it waits or ends. Which of the threads that can run goes
 * next is drawn from the seed: in half of the blocks any of them, in the other
 * half one of the last to become able to, so that one warp runs far ahead of
 * the others. A thread that never waits costs no switch: the fiber that ran the
 * last one runs it.
 */
#include "emu.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "warp.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
void *emu_dynamic_shared;
unsigned block_alive[32];

typedef enum { FRESH, READY, BARRIER, WARP, ENDED } State;
typedef struct { State state; EmuFiber *fiber; uint3 idx; int vote; } Thread;

enum { THREADS = 1024 };

static struct {
    const EmuLaunch *launch;                   /* NULL: nothing runs */
    Thread thread[THREADS];
    int threads, live, at_barrier, now;
    int queue[THREADS], queued, window;        /* threads that can run */
    uint64_t rng;
    int votes, all, any;
    EmuFiber *idle[THREADS + 1];               /* fibers without a thread */
    int idles, start;                          /* start: the thread that an idle one shall run */
} B;

unsigned emu_random(unsigned n)
{
    B.rng ^= B.rng << 13, B.rng ^= B.rng >> 7, B.rng ^= B.rng << 17;
    return (unsigned)((B.rng >> 32) * n >> 32);
}

int emu_thread(void) { return B.now; }

const char *emu_where(void)
{
    static char text[400];
    text[0] = 0;
    if (B.launch)
        snprintf(text, sizeof text, "kernel %s, block (%u,%u,%u) of (%u,%u,%u), "
                 "thread (%u,%u,%u) of "
                 "(%u,%u,%u)", B.launch->name, blockIdx.x, blockIdx.y, blockIdx.z, gridDim.x,
                 gridDim.y, gridDim.z, threadIdx.x, threadIdx.y, threadIdx.z, blockDim.x,
                 blockDim.y, blockDim.z);
    return text;
}

void emu_die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "emu: %s: ", emu_where());
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    abort();
}

/* ---- who goes next ------------------------------------------------------- */

static void can_run(int t)
{
    B.thread[t].state = READY;
    B.queue[B.queued++] = t;
}

/* Nobody can run, but some wait: says where the first few are. */
__attribute__((noreturn)) static void deadlock(void)
{
    char text[600];
    int n = snprintf(text, sizeof text, "%d threads ended, %d wait at __syncthreads",
                     B.threads - B.live, B.at_barrier);
    int shown = 0;
    for (int t = 0; t < B.threads && shown < 4; t++) {
        const char *what = B.thread[t].state == WARP ? warp_waits_at(t) : NULL;
        if (!what) continue;
        n += snprintf(text + n, sizeof text - (size_t)n, ", thread %d waits at %s", t, what);
        shown++;
    }
    emu_die("not all threads arrive: %s", text);
}

/* Takes the next thread from the queue; -1 when all have ended. */
static int next_thread(void)
{
    if (!B.queued) {
        if (B.live) deadlock();
        return -1;
    }
    int last = B.queued < B.window ? B.queued : B.window;
    int i = B.queued - 1 - (int)emu_random((unsigned)last), t = B.queue[i];
    B.queue[i] = B.queue[--B.queued];
    return t;
}

static void enter(int t)
{
    B.now = t;
    threadIdx = B.thread[t].idx;
}

static void release_barrier(void)
{
    for (int t = 0; t < B.threads; t++)
        if (B.thread[t].state == BARRIER) {
            B.thread[t].vote = B.launch ? (B.votes << 2 | B.all << 1 | B.any) : 0;
            can_run(t);
        }
    B.at_barrier = B.votes = B.any = 0;
    B.all = 1;
}

/* What every fiber runs: one thread after another, until a thread that waited
 * comes next or none is left. */
static void work(void)
{
    for (;;) {
        int t = B.start;
        EmuFiber *self = B.thread[t].fiber;
        while (t >= 0 && B.thread[t].state == FRESH) {
            B.thread[t].fiber = self;
            enter(t);
            B.launch->body();
            B.thread[t].state = ENDED;
            block_alive[t >> 5] &= ~(1u << (t & 31));
            B.live--;
            if (B.at_barrier && B.at_barrier == B.live) release_barrier();
            t = next_thread();
        }
        B.idle[B.idles++] = self;
        emu_fiber_switch(self, t < 0 ? emu_fiber_main() : B.thread[t].fiber);
    }
}

/* The fiber to switch to for thread t. */
static EmuFiber *fiber_of(int t)
{
    if (B.thread[t].state != FRESH) return B.thread[t].fiber;
    B.start = t;
    B.thread[t].fiber = B.idles ? B.idle[--B.idles] : emu_fiber_new(work);
    return B.thread[t].fiber;
}

/* The thread that runs now waits, or steps aside when it is in the queue. */
static void yield(void)
{
    int self = B.now, t = next_thread();
    if (t != self) {
        EmuFiber *from = B.thread[self].fiber;
        emu_fiber_switch(from, fiber_of(t));
    }
    enter(self);
}

int emu_barrier(EmuVote vote, int value)
{
    if (!B.launch) emu_die("a barrier outside of a kernel");
    int self = B.now;
    B.thread[self].state = BARRIER;
    B.votes += value != 0, B.all &= value != 0, B.any |= value != 0;
    if (++B.at_barrier == B.live) release_barrier();
    yield();
    int v = B.thread[self].vote;
    return vote == EMU_COUNT ? v >> 2 : vote == EMU_AND ? v >> 1 & 1 : v & 1;
}

void block_wait(void)
{
    B.thread[B.now].state = WARP;
    yield();
}

void block_resume(int t) { can_run(t); }
void block_step_aside(void) { can_run(B.now), yield(); }
int block_threads(void) { return B.threads; }

/* ---- blocks -------------------------------------------------------------- */

enum { SHARED_MAX = 256 << 10 };
static unsigned char *shared_end;              /* of SHARED_MAX bytes, then an unmapped page */

/* Dynamic shared memory of exactly the size asked for, rounded up to 16. */
static void fill_shared(const EmuLaunch *l)
{
    if (!shared_end) shared_end = (unsigned char *)emu_guarded(SHARED_MAX) + SHARED_MAX;
    size_t n = (l->shared + 15) & ~(size_t)15;
    emu_dynamic_shared = shared_end - n;
    memset(emu_dynamic_shared, 0xff, n);
    if (l->fixed) memset(l->fixed, 0xff, (size_t)(l->fixed_end - l->fixed));
}

int emu_in_shared(const void *p, size_t n)
{
    const unsigned char *q = (const unsigned char *)p;
    const unsigned char *dynamic = (unsigned char *)emu_dynamic_shared;
    if (q >= dynamic && q + n <= dynamic + B.launch->shared) return 1;
    return q >= B.launch->fixed && q + n <= B.launch->fixed_end;
}

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void run_block(const EmuLaunch *l, uint64_t seed)
{
    fill_shared(l);
    emu_async_reset();
    warp_reset();
    B.rng = mix(seed) | 1;
    B.threads = B.live = B.queued = (int)(l->block.x * l->block.y * l->block.z);
    memset(block_alive, 0, sizeof block_alive);
    B.at_barrier = B.votes = B.any = 0, B.all = 1;
    B.window = emu_random(2) ? THREADS : 4;
    for (int t = 0; t < B.threads; t++) {
        unsigned u = (unsigned)t;
        B.thread[t].idx = make_uint3(u % l->block.x, u / l->block.x % l->block.y,
                                     u / l->block.x / l->block.y);
        B.thread[t].state = FRESH;
        block_alive[t >> 5] |= 1u << (t & 31);
        int j = (int)emu_random(u + 1);
        B.queue[t] = B.queue[j];
        B.queue[j] = t;
    }
    emu_fiber_switch(emu_fiber_main(), fiber_of(next_thread()));
}

static uint64_t gcd(uint64_t a, uint64_t b) { return b ? gcd(b, a % b) : a; }

void emu_run(const EmuLaunch *l, uint64_t seed)
{
    uint64_t n = (uint64_t)l->grid.x * l->grid.y * l->grid.z, step = 1 + mix(seed) % n;
    while (gcd(step, n) != 1) step = step % n + 1;
    uint64_t b = mix(seed + 1) % n;
    B.launch = l;
    gridDim = l->grid, blockDim = l->block;
    for (uint64_t i = 0; i < n; i++, b = (b + step) % n) {
        blockIdx = make_uint3((unsigned)(b % l->grid.x), (unsigned)(b / l->grid.x % l->grid.y),
                              (unsigned)(b / l->grid.x / l->grid.y));
        run_block(l, seed + 0x9e3779b97f4a7c15u * (b + 1));
    }
    B.launch = NULL;
}
