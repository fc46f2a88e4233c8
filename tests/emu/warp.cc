/* warp.cc - where the lanes of a warp meet: shuffles, votes, mma, ldmatrix. */
#include "warp.h"

#include <stdio.h>

#include "emu.h"
#include "kernels/half.h"

/* Lanes that have arrived at one collective with one mask. A lane waits in one
 * group at a time, so 32 are enough. */
typedef struct {
    const char *what;
    unsigned mask, arrived;
    void *arg[32];
} Group;
enum { WARPS = 32 };
static Group group[WARPS][32];
static int used[WARPS];                        /* groups that may wait, from the first */

void warp_reset(void)
{
    memset(used, 0, sizeof used);
}

const char *warp_waits_at(int t)
{
    static char text[120];
    for (int g = 0; g < used[t / 32]; g++) {
        Group *p = &group[t / 32][g];
        if (!p->mask || !(p->arrived >> t % 32 & 1)) continue;
        snprintf(text, sizeof text, "%s(mask %08x), lanes %08x missing", p->what, p->mask,
                 p->mask & ~p->arrived);
        return text;
    }
    return "nothing";
}

/* The group for mask, new when no lane of it has arrived. */
static Group *find(const char *what, int warp, unsigned mask)
{
    Group *unused = NULL;
    for (int g = 0; g < used[warp]; g++) {
        Group *p = &group[warp][g];
        if (!p->mask) unused = p;
        else if (p->mask == mask && p->what == what) return p;
    }
    if (!unused) unused = &group[warp][used[warp]++];
    unused->what = what, unused->mask = mask, unused->arrived = 0;
    return unused;
}

static void check(const char *what, int t, unsigned mask)
{
    unsigned alive = block_alive[t >> 5];
    int n = block_threads() - (t & ~31);
    if (!(mask & ~alive)) return;
    if (n < 32 && mask >> n) emu_die("%s: mask %08x, but the warp has %d lanes", what, mask, n);
    emu_die("%s: mask %08x, but lanes %08x have ended", what, mask, mask & ~alive);
}

void emu_rendezvous(const char *what, unsigned mask, void *arg,
                    void (*complete)(void **arg, unsigned mask))
{
    int t = emu_thread(), lane = t & 31;
    Group *g = find(what, t >> 5, mask);
    if (!g->arrived) check(what, t, mask);
    if (!(mask >> lane & 1))
        emu_die("%s: the lane that calls is not in its mask %08x", what, mask);
    g->arrived |= 1u << lane;
    g->arg[lane] = arg;
    if (g->arrived == mask) {
        complete(g->arg, mask);
        g->mask = 0;
        block_resume(t >> 5, mask);
    }
    block_yield();
}

/* ---- votes and shuffles -------------------------------------------------- */

static void nothing(void **arg, unsigned mask) { (void)arg, (void)mask; }
void emu_syncwarp(unsigned mask) { emu_rendezvous("__syncwarp", mask, NULL, nothing); }

static void vote(void **arg, unsigned mask)
{
    unsigned r = 0;
    for (int l = 0; l < 32; l++)
        if (mask >> l & 1 && *(unsigned *)arg[l]) r |= 1u << l;
    for (int l = 0; l < 32; l++)
        if (mask >> l & 1) *(unsigned *)arg[l] = r;
}

unsigned emu_ballot(const char *what, unsigned mask, int value)
{
    unsigned v = value != 0;
    emu_rendezvous(what, mask, &v, vote);
    return v;
}

/* Of each thread: what it gives, from which lane it takes, what it gets. */
static struct { uint64_t value, result; int source; } shuffles[WARPS * 32];

/* A lane outside of the mask has no defined value: NaN. */
static void shuffle(void **arg, unsigned mask)
{
    (void)arg;
    int first = emu_thread() & ~31;
    for (unsigned m = mask; m; m &= m - 1) {
        int l = first + __builtin_ctz(m), source = shuffles[l].source;
        shuffles[l].result = mask >> source & 1 ? shuffles[first + source].value : ~(uint64_t)0;
    }
}

uint64_t emu_shuffle(EmuShuffle kind, unsigned mask, uint64_t value, int by, int width)
{
    static const char *const names[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync",
                                        "__shfl_xor_sync"};
    if (width < 1 || width > 32 || width & (width - 1)) emu_die("%s: width %d", names[kind], width);
    int t = emu_thread(), lane = t & 31, first = lane & ~(width - 1), last = first + width - 1;
    int source = kind == EMU_IDX ? first | (by & (width - 1)) : kind == EMU_UP ? lane - by
               : kind == EMU_DOWN ? lane + by : lane ^ by;
    if (source > last || (kind == EMU_UP && source < first)) source = lane;
    shuffles[t].value = value, shuffles[t].source = source & 31;
    emu_rendezvous(names[kind], mask, NULL, shuffle);
    return shuffles[t].result;
}

/* How many values to a lane, and in how large runs of lanes: the same for all. */
typedef struct { int n, lanes; float *v; } Lanes;

static void lanes(void **arg, int max)
{
    const Lanes *first = (const Lanes *)arg[0];
    for (int l = 0; l < 32; l++) {
        const Lanes *p = (const Lanes *)arg[l];
        if (p->n != first->n || p->lanes != first->lanes)
            emu_die("lanes_%s: not the same for all lanes", max ? "max" : "sum");
    }
    for (int i = 0; i < first->n; i++) {
        float v[32], w[32];
        for (int l = 0; l < 32; l++) v[l] = ((const Lanes *)arg[l])->v[i];
        for (int o = first->lanes / 2; o; o >>= 1) {
            for (int l = 0; l < 32; l++) w[l] = max ? fmaxf(v[l], v[l ^ o]) : v[l] + v[l ^ o];
            memcpy(v, w, sizeof v);
        }
        for (int l = 0; l < 32; l++) ((const Lanes *)arg[l])->v[i] = v[l];
    }
}

static void lanes_of_sum(void **arg, unsigned mask) { (void)mask, lanes(arg, 0); }
static void lanes_of_max(void **arg, unsigned mask) { (void)mask, lanes(arg, 1); }

void emu_lanes(int max, int n, int lanes, float *v)
{
    Lanes a = {n, lanes, v};
    emu_rendezvous(max ? "lanes_max" : "lanes_sum", ~0u, &a, max ? lanes_of_max : lanes_of_sum);
}

/* ---- matrices ------------------------------------------------------------ */

typedef struct { float *d; const uint32_t *a, *b; } Mma;

static float low(uint32_t v, int bf16)
{
    return bf16 ? bf16_to_f32((uint16_t)v) : f16_to_f32((uint16_t)v);
}
static float high(uint32_t v, int bf16) { return low(v >> 16, bf16); }

static void mma(void **arg, int bf16)
{
    float a[16][16], b[16][8], d[16][8];
    for (int l = 0; l < 32; l++) {
        const Mma *m = (const Mma *)arg[l];
        int g = l / 4, c = l % 4 * 2;
        for (int i = 0; i < 4; i++) {
            int row = g + (i & 1) * 8, column = c + (i >> 1) * 8;
            a[row][column] = low(m->a[i], bf16);
            a[row][column + 1] = high(m->a[i], bf16);
            d[g + (i >> 1) * 8][c + (i & 1)] = m->d[i];
        }
        for (int i = 0; i < 2; i++) {
            b[c + i * 8][g] = low(m->b[i], bf16);
            b[c + i * 8 + 1][g] = high(m->b[i], bf16);
        }
    }
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 8; j++) d[i][j] += a[i][k] * b[k][j];
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++)
            ((const Mma *)arg[l])->d[i] = d[l / 4 + (i >> 1) * 8][l % 4 * 2 + (i & 1)];
}

static void mma_of_f16(void **arg, unsigned mask) { (void)mask, mma(arg, 0); }
static void mma_of_bf16(void **arg, unsigned mask) { (void)mask, mma(arg, 1); }

void emu_mma(int bf16, float *d, const uint32_t *a, const uint32_t *b)
{
    if (bf16 && emu_sm() < 80) return;
    Mma m = {d, a, b};
    emu_rendezvous(bf16 ? "mma_bf16" : "mma_f16", ~0u, &m, bf16 ? mma_of_bf16 : mma_of_f16);
}

typedef struct { uint32_t *r; const unsigned char *row; } Ldmatrix;

static void ldmatrix(void **arg, int transposed)
{
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) {
            uint16_t e[2];
            for (int k = 0; k < 2; k++) {
                int row = transposed ? l % 4 * 2 + k : l / 4;
                int column = transposed ? l / 4 : l % 4 * 2 + k;
                memcpy(&e[k], ((Ldmatrix *)arg[8 * i + row])->row + 2 * column, 2);
            }
            ((Ldmatrix *)arg[l])->r[i] = e[0] | (uint32_t)e[1] << 16;
        }
}

static void ldmatrix_plain(void **arg, unsigned mask) { (void)mask, ldmatrix(arg, 0); }
static void ldmatrix_trans(void **arg, unsigned mask) { (void)mask, ldmatrix(arg, 1); }

void emu_ldmatrix4(uint32_t *r, const void *row, int transposed)
{
    const char *what = transposed ? "ldmatrix4_trans" : "ldmatrix4";
    if ((uintptr_t)row % 16) emu_die("%s: row address %p is not a multiple of 16", what, row);
    if (!emu_in_shared(row, 16)) emu_die("%s: row address %p is not in shared memory", what, row);
    Ldmatrix m = {r, (const unsigned char *)row};
    emu_rendezvous(what, ~0u, &m, transposed ? ldmatrix_trans : ldmatrix_plain);
}
