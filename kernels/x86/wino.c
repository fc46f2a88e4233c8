/* wino.c - 3x3 convolution by Winograd's algorithm, batch by batch of tiles as
 * planned in wino_plan.h.
 */
#include <omp.h>

#include "kernels/x86/wino.h"

static int min_int(int a, int b) { return a < b ? a : b; }

/* A batch of tiles and a block of input channels. */
typedef struct {
    const Wino *w;
    const WinoPlan *g;
    int first, tiles;
    int c0, kc;
    float *v;
    char *u, *sums;             /* weights of each thread, sums as planned */
} Batch;

static void put_inputs(Dev *d, const Batch *b, const void *zeros)
{
#pragma omp parallel for num_threads(d->threads) schedule(dynamic, 4)
    for (int t = 0; t < b->tiles; t++)
        ISA(wino_put_input)(b->w, b->g, b->first + t, t, b->c0, b->kc, zeros, b->v);
}

/* One panel of output channels for tiles t0..t1-1 of the batch. */
static void run_panel(const Batch *b, int panel, int t0, int t1, float *u, float *sums)
{
    const WinoPlan *g = b->g;
    int end = t0 + wino_rows(t1 - t0, MR);
    if (t0 >= t1) return;
    ISA(wino_put_weights)(b->w, g, panel * NR, b->c0, b->kc, u);
    for (int p = 0; p < g->points; p++) {
        const float *v = b->v + (size_t)p * g->v_plane, *q = u + (size_t)p * g->u_plane;
        float *acc = sums + (size_t)p * g->m_plane;
        /* Rows go in twos (AVX2) or fours: some times MR_FEW, then MR until the end. */
        for (int t = t0, mr; t < end; t += mr) {
            int few = (end - t) % MR != 0;
            mr = few ? MR_FEW : MR;
            Run run = {.steps = (size_t)b->kc};
            for (int i = 0; i < mr; i++)
                run.row[i] = (const char *)(v + (size_t)(t + i) * (size_t)g->kc);
            micro_fn *micro = few ? ISA(gemm_micro_few) : ISA(gemm_micro)[0][0];
            micro(&run, &run + 1, q, acc + (size_t)t * NR, b->c0 == 0);
        }
    }
    if (b->c0 + b->kc < b->w->s.c) return;
    for (int t = t0; t < t1; t++)
        ISA(wino_get_output)(b->w, g, b->first + t, panel * NR, sums + (size_t)t * NR);
}

static void run_block(Dev *d, const Batch *b)
{
    const WinoPlan *g = b->g;
    int groups = (b->tiles + MR - 1) / MR;
#pragma omp parallel for num_threads(d->threads) schedule(dynamic, 1)
    for (int k = 0; k < g->tasks; k++) {
        int panel = k / g->parts, part = k % g->parts, thread = omp_get_thread_num();
        int t0 = groups * part / g->parts * MR;
        int t1 = min_int(groups * (part + 1) / g->parts * MR, b->tiles);
        char *u = b->u + (size_t)thread * g->u_bytes;
        char *sums = b->sums + (size_t)(g->nk > 1 ? panel : thread) * g->m_bytes;
        run_panel(b, panel, t0, t1, (float *)(void *)u, (float *)(void *)sums);
    }
}

void ISA(wino_run)(Dev *d, const Wino *w, const WinoPlan *g)
{
    char *zeros = d->ws, *v = zeros + g->zero_bytes;
    Batch b = {.w = w, .g = g, .v = (float *)(void *)v, .u = v + g->v_bytes};
    b.sums = b.u + g->u_bytes * (size_t)d->threads;
    memset(zeros, 0, g->zero_bytes);
    for (; b.first < g->tiles; b.first += g->batch) {
        b.tiles = min_int(g->batch, g->tiles - b.first);
        for (b.c0 = 0; b.c0 < w->s.c; b.c0 += g->kc) {
            b.kc = min_int(g->kc, w->s.c - b.c0);
            put_inputs(d, &b, zeros);
            run_block(d, &b);
        }
    }
}
