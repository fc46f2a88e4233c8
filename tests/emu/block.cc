/* block.cc - runs a kernel: blocks one after another, a block's threads as fibers.
 *
 * A thread runs until it waits or ends. Which of the threads that can run goes
 * next is drawn from the seed: first the warp, then one of its lanes. In half of the
 * blocks another warp is drawn every few threads; in the other half a warp goes on
 * for as long as it can, far ahead of the others. (Lanes of one warp in a row are also
 * what the cache likes.) A thread that never waits costs no switch: the fiber that
 * ran the last one runs it.
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

enum { WARPS = 32, THREADS = 32 * WARPS, STAY = 8 };

static struct {
    const EmuLaunch *launch;                   /* NULL: nothing runs */
    EmuFiber *fiber[THREADS];                  /* of the threads that have begun */
    uint3 idx[THREADS];
    int threads, live, now;
    /* Lanes of each warp that can run, have not begun, wait at the barrier. */
    unsigned ready[WARPS], fresh[WARPS], waiting[WARPS];
    unsigned warps;                            /* those with a lane that can run */
    int warp, ahead;                           /* of `now`; whether warps run far ahead */
    uint64_t rng;
    int at_barrier, votes, all, any, vote;     /* vote: of the last barrier */
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

/* Nobody can run, but some wait: says where the first few are. */
__attribute__((noreturn)) static void deadlock(void)
{
    char text[600];
    int n = snprintf(text, sizeof text, "%d threads ended, %d wait at __syncthreads",
                     B.threads - B.live, B.at_barrier);
    int shown = 0;
    for (int t = 0; t < B.threads && shown < 4; t++) {
        unsigned lane = 1u << (t & 31);
        if (!(block_alive[t >> 5] & ~B.waiting[t >> 5] & lane)) continue;
        n += snprintf(text + n, sizeof text - (size_t)n, ", thread %d waits at %s", t,
                      warp_waits_at(t));
        shown++;
    }
    emu_die("not all threads arrive: %s", text);
}

/* One of the bits of mask, which is not 0. */
static int draw(unsigned mask)
{
    unsigned r = emu_random(32);
    return (int)(r + (unsigned)__builtin_ctz(mask >> r | mask << (-r & 31))) & 31;
}

/* Takes the next thread that can run; -1 when all have ended. */
static int next_thread(void)
{
    int w = B.warp;
    if (!B.ready[w] || (!B.ahead && !emu_random(STAY))) {
        if (!B.warps) {
            if (B.live) deadlock();
            return -1;
        }
        B.warp = w = draw(B.warps);
    }
    int lane = draw(B.ready[w]);
    B.ready[w] &= ~(1u << lane);
    if (!B.ready[w]) B.warps &= ~(1u << w);
    return w * 32 + lane;
}

static void enter(int t)
{
    B.now = t;
    threadIdx = B.idx[t];
}

void block_resume(int warp, unsigned lanes)
{
    B.ready[warp] |= lanes;
    B.warps |= 1u << warp;
}

static void release_barrier(void)
{
    B.vote = B.votes << 2 | B.all << 1 | B.any;
    for (int w = 0; w * 32 < B.threads; w++) {
        if (B.waiting[w]) block_resume(w, B.waiting[w]);
        B.waiting[w] = 0;
    }
    B.at_barrier = B.votes = B.any = 0;
    B.all = 1;
}

static int is_fresh(int t) { return B.fresh[t >> 5] >> (t & 31) & 1; }

/* What every fiber runs: one thread after another, until a thread that waited
 * comes next or none is left. */
static void work(void)
{
    for (;;) {
        int t = B.start;
        EmuFiber *self = B.fiber[t];
        do {
            unsigned lane = 1u << (t & 31);
            B.fiber[t] = self;
            B.fresh[t >> 5] &= ~lane;
            enter(t);
            B.launch->body();
            block_alive[B.now >> 5] &= ~(1u << (B.now & 31));
            B.live--;
            if (B.at_barrier && B.at_barrier == B.live) release_barrier();
            t = next_thread();
        } while (t >= 0 && is_fresh(t));
        B.idle[B.idles++] = self;
        emu_fiber_switch(self, t < 0 ? emu_fiber_main() : B.fiber[t]);
    }
}

/* The fiber to switch to for thread t. */
static EmuFiber *fiber_of(int t)
{
    if (!is_fresh(t)) return B.fiber[t];
    B.start = t;
    B.fiber[t] = B.idles ? B.idle[--B.idles] : emu_fiber_new(work);
    return B.fiber[t];
}

void block_yield(void)
{
    int self = B.now, t = next_thread();
    if (t != self) emu_fiber_switch(B.fiber[self], fiber_of(t));
    enter(self);
}

int emu_barrier(EmuVote vote, int value)
{
    if (!B.launch) emu_die("a barrier outside of a kernel");
    B.waiting[B.now >> 5] |= 1u << (B.now & 31);
    B.votes += value != 0, B.all &= value != 0, B.any |= value != 0;
    if (++B.at_barrier == B.live) release_barrier();
    block_yield();
    return vote == EMU_COUNT ? B.vote >> 2 : vote == EMU_AND ? B.vote >> 1 & 1 : B.vote & 1;
}

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
    B.threads = B.live = (int)(l->block.x * l->block.y * l->block.z);
    memset(block_alive, 0, sizeof block_alive);
    memset(B.waiting, 0, sizeof B.waiting);
    B.at_barrier = B.votes = B.any = 0, B.all = 1;
    B.ahead = (int)emu_random(2);
    for (int w = 0; w * 32 < B.threads; w++) {
        int n = B.threads - w * 32;
        B.ready[w] = B.fresh[w] = block_alive[w] = n < 32 ? (1u << n) - 1 : ~0u;
    }
    int warps = (B.threads + 31) / 32;
    B.warps = warps < 32 ? (1u << warps) - 1 : ~0u;
    B.warp = draw(B.warps);
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
    for (unsigned t = 0; t < l->block.x * l->block.y * l->block.z; t++)
        B.idx[t] = make_uint3(t % l->block.x, t / l->block.x % l->block.y,
                              t / l->block.x / l->block.y);
    for (uint64_t i = 0; i < n; i++, b = (b + step) % n) {
        blockIdx = make_uint3((unsigned)(b % l->grid.x), (unsigned)(b / l->grid.x % l->grid.y),
                              (unsigned)(b / l->grid.x / l->grid.y));
        run_block(l, seed + 0x9e3779b97f4a7c15u * (b + 1));
    }
    B.launch = NULL;
}
