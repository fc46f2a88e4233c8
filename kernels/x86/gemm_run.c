/* gemm_run.c - the product of gemm.h, block by block as planned. */
#include <omp.h>

#include "kernels/x86/gemm.h"

static int min_int(int a, int b) { return a < b ? a : b; }

/* The part of one task that one tile of P takes: rows i0.. (absolute). */
typedef struct {
    const Gemm *g;
    const GemmPlan *plan;
    char *p;                /* packed tile of P; also the stage for panels of Q */
    float *q, *acc;
    int j0, nj;             /* columns of the task */
    int k0, kc;
} Block;

static void pack_q(const Block *b)
{
    const Gemm *g = b->g;
    size_t panel = b->plan->panel;
    if (g->s.q_across) {
        ISA(gemm_pack_panels)(&g->q, g->s.pair, b->j0, b->nj, b->k0, b->kc, b->q, panel);
        return;
    }
    for (int j = 0; j < b->nj; j += NR)
        ISA(gemm_pack_panel_t)(&g->q, g->s.pair, b->j0 + j, min_int(NR, b->nj - j), b->k0, b->kc,
                               b->q + (size_t)(j / NR) * panel, b->p, b->plan->p_stride);
}

static void store(const Gemm *g, const float *acc, int i0, int ni, int j0, int nj)
{
    if (g->swap) ISA(gemm_store_t)(&g->out, acc, i0, ni, j0, nj);
    else ISA(gemm_store)(&g->out, acc, i0, ni, j0, nj);
}

/* Rows i0.. of P as the micro kernel wants them. */
static const Run *get_p(const Block *b, int i0, int ni, Run *run)
{
    const Gemm *g = b->g;
    int pair = g->s.pair;
    size_t stride = b->plan->p_stride;
    if (g->s.p_across) {
        ISA(gemm_pack_rows_t)(&g->p, pair, i0, ni, b->k0, b->kc, b->p, stride);
    } else {
        int n = ISA(gemm_runs)(&g->p, pair, i0, ni, b->k0, b->kc, run);
        if (n) return run + n;
        ISA(gemm_pack_rows)(&g->p, pair, i0, ni, MR, b->k0, b->kc, b->p, stride);
    }
    run->steps = (size_t)(b->kc + pair) >> pair;
    for (int i = 0; i < MR; i++) run->row[i] = b->p + (size_t)i * stride;
    return run + 1;
}

/* One tile of P against all panels of the block. acc: tiles of this row. */
static void run_tile(const Block *b, int i0, int ni, float *acc)
{
    const Gemm *g = b->g;
    const GemmPlan *plan = b->plan;
    int first = b->k0 == 0, last = b->k0 + b->kc == g->s.k;
    Run run[RUNS];
    const Run *end = get_p(b, i0, ni, run);
    for (int j = 0; j < b->nj; j += NR) {
        int nj = min_int(NR, b->nj - j);
        const float *q = b->q + (size_t)(j / NR) * plan->panel;
        ISA(gemm_micro)[g->s.pair][nj <= VW](run, end, q, acc, first);
        if (last) store(g, acc, i0, ni, b->j0 + j, nj);
        if (plan->nk > 1) acc += MR * NR;
    }
}

static void run_task(const Gemm *g, const GemmPlan *plan, int task, char *ws)
{
    int i0 = task % plan->tm * plan->mc, i1 = min_int(i0 + plan->mc, g->s.m);
    Block b = {.g = g, .plan = plan, .p = ws, .q = (float *)(void *)(ws + plan->p_bytes)};
    b.acc = (float *)(void *)(ws + plan->p_bytes + plan->q_bytes);
    b.j0 = task / plan->tm * plan->nc;
    b.nj = min_int(plan->nc, g->s.n - b.j0);
    size_t acc_row = plan->nk > 1 ? (size_t)((b.nj + NR - 1) / NR) * MR * NR : 0;
    for (b.k0 = 0; b.k0 < g->s.k; b.k0 += plan->kc) {
        b.kc = min_int(plan->kc, g->s.k - b.k0);
        pack_q(&b);
        for (int i = i0; i < i1; i += MR)
            run_tile(&b, i, min_int(MR, i1 - i), b.acc + (size_t)((i - i0) / MR) * acc_row);
    }
}

void ISA(gemm_run)(Dev *d, const Gemm *g)
{
    GemmPlan plan;
    gemm_plan(&plan, &g->s, d->threads, WIDE);
    int tasks = plan.tm * plan.tn;
    if (plan.threads == 1) {
        for (int t = 0; t < tasks; t++) run_task(g, &plan, t, d->ws);
        return;
    }
#pragma omp parallel for num_threads(plan.threads) schedule(dynamic, 1)
    for (int t = 0; t < tasks; t++)
        run_task(g, &plan, t, (char *)d->ws + (size_t)omp_get_thread_num() * plan.bytes);
}
