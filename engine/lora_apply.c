/* lora_apply.c - adds what an adapter does to a layer's weight. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "engine/lora.h"
#include "engine/mem.h"

/* row[j] = sum_r a[r] * b[r][j], four terms at a time to spare loads of row. */
static void combine(float *row, const float *a, const float *b, int rank, size_t n)
{
    int r = 0;
    memset(row, 0, n * sizeof *row);
    for (; r + 4 <= rank; r += 4, a += 4, b += 4 * n) {
        const float *b1 = b + n, *b2 = b1 + n, *b3 = b2 + n;
        float a0 = a[0], a1 = a[1], a2 = a[2], a3 = a[3];
#pragma omp simd
        for (size_t j = 0; j < n; j++)
            row[j] += (a0 * b[j] + a1 * b1[j]) + (a2 * b2[j] + a3 * b3[j]);
    }
    for (; r < rank; r++, a++, b += n)
        for (size_t j = 0; j < n; j++) row[j] += *a * b[j];
}

/* Row o of dW, without DoRA; tmp has n floats. */
static void delta_row(const LoraModule *m, size_t o, size_t n, float *d, float *tmp)
{
    float scale = m->alpha / (float)m->rank;
    combine(d, m->up + o * (size_t)m->rank, m->down, m->rank, n);
    if (m->up2) {
        combine(tmp, m->up2 + o * (size_t)m->rank2, m->down2, m->rank2, n);
        for (size_t j = 0; j < n; j++) d[j] *= tmp[j];
    }
    for (size_t j = 0; j < n; j++) d[j] *= scale;
}

/* DoRA gives the row W + dW the norm `to`; d becomes the change against W. */
static void dora_row(const float *w, size_t n, float to, float *d)
{
    double sum = 0;
    for (size_t j = 0; j < n; j++) sum += ((double)w[j] + d[j]) * ((double)w[j] + d[j]);
    if (sum == 0) return;
    double scale = to / sqrt(sum);
    for (size_t j = 0; j < n; j++) d[j] = (float)(((double)w[j] + d[j]) * scale - w[j]);
}

int lora_add_delta(const LoraModule *m, float weight, float *w, Err *e)
{
    const LoraTarget *t = m->target;
    size_t n = (size_t)t->in * (size_t)t->k * (size_t)t->k;
    if (weight == 0) return 0;
    size_t bytes = (size_t)omp_get_max_threads() * 2 * n * sizeof(float);
    float *scratch = mem_alloc(bytes);
    if (!scratch) return err_nomem(e, bytes, t->name);
#pragma omp parallel for schedule(static)
    for (int o = 0; o < t->out; o++) {
        float *d = scratch + (size_t)omp_get_thread_num() * 2 * n, *row = w + (size_t)o * n;
        delta_row(m, (size_t)o, n, d, d + n);
        if (m->dora) dora_row(row, n, m->dora[o], d);
        for (size_t j = 0; j < n; j++) row[j] += weight * d[j];
    }
    mem_free(scratch);
    return 0;
}
