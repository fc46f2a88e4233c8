/* lora_apply.c - adds what an adapter does to a layer's weight. */
#include <float.h>
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

/* The two matrices of a LoKr, in full; a product is computed once. */
typedef struct {
    const float *w1, *w2;
    float *made1, *made2;
} Kron;

static int multiply(const float **w, float **made, const float *up, const float *down, int rows,
                    int rank, size_t n, Err *e)
{
    *w = up;
    if (!rank) return 0;
    *w = *made = mem_alloc((size_t)rows * n * sizeof **made);
    if (!*made) return err_nomem(e, (size_t)rows * n * sizeof **made, "a LoKr");
    for (int i = 0; i < rows; i++)
        combine(*made + (size_t)i * n, up + (size_t)i * (size_t)rank, down, rank, n);
    return 0;
}

static void kron_close(Kron *k)
{
    mem_free(k->made1);
    mem_free(k->made2);
}

static int kron_open(Kron *k, const LoraModule *m, Err *e)
{
    const LoraTarget *t = m->target;
    *k = (Kron){0};
    if (m->algo != LORA_LOKR) return 0;
    size_t n = (size_t)(t->in / m->kron_in) * (size_t)t->k * (size_t)t->k;
    int rc =
        multiply(&k->w1, &k->made1, m->up, m->down, m->kron_out, m->rank, (size_t)m->kron_in, e);
    if (!rc)
        rc = multiply(&k->w2, &k->made2, m->up2, m->down2, t->out / m->kron_out, m->rank2, n, e);
    if (rc) kron_close(k);
    return rc;
}

static void kron_row(const LoraModule *m, const Kron *k, size_t o, size_t n, float scale, float *d)
{
    size_t in = (size_t)m->kron_in, part = n / in, rows = (size_t)(m->target->out / m->kron_out);
    const float *w1 = k->w1 + o / rows * in, *w2 = k->w2 + o % rows * part;
    for (size_t i = 0; i < in; i++)
        for (size_t j = 0; j < part; j++) d[i * part + j] = scale * (w1[i] * w2[j]);
}

/* Row o of dW, without DoRA; tmp has n floats. */
static void delta_row(const LoraModule *m, const Kron *k, size_t o, size_t n, float *d, float *tmp)
{
    float scale = lora_scale(m);
    if (m->algo == LORA_LOKR) {
        kron_row(m, k, o, n, scale, d);
        return;
    }
    combine(d, m->up + o * (size_t)m->rank, m->down, m->rank, n);
    if (m->algo == LORA_LOHA) {
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
    double scale = to / (sqrt(sum) + FLT_EPSILON);
    for (size_t j = 0; j < n; j++) d[j] = (float)(((double)w[j] + d[j]) * scale - w[j]);
}

/* ---- DoRA of input channels --------------------------------------------------------- */

/* Norms of the input channels of a (rows, in, kk). */
static void channel_norms(const float *a, size_t rows, size_t in, size_t kk, float *norm)
{
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < in; i++) {
        double sum = 0;
        for (size_t r = 0; r < rows; r++)
            for (size_t x = 0; x < kk; x++) {
                double v = a[(r * in + i) * kk + x];
                sum += v * v;
            }
        norm[i] = (float)sqrt(sum);
    }
}

/* w += weight * (dora * V / |V| - w), V = W + dW in v: every row is needed first. */
static int add_channels(const LoraModule *m, float weight, float *w, const float *v, Err *e)
{
    const LoraTarget *t = m->target;
    size_t rows = (size_t)t->out, in = (size_t)t->in, kk = (size_t)t->k * (size_t)t->k;
    float *scale = mem_alloc(in * sizeof *scale);
    if (!scale) return err_nomem(e, in * sizeof *scale, t->name);
    channel_norms(v, rows, in, kk, scale);
    for (size_t i = 0; i < in; i++) scale[i] = m->dora[i] / (scale[i] + FLT_EPSILON);
#pragma omp parallel for schedule(static)
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < in; i++)
            for (size_t x = 0; x < kk; x++) {
                size_t at = (r * in + i) * kk + x;
                w[at] += weight * (v[at] * scale[i] - w[at]);
            }
    mem_free(scale);
    return 0;
}

void lora_dora_norms(const LoraModule *m, const float *w, float *norm)
{
    const LoraTarget *t = m->target;
    size_t rows = (size_t)t->out, in = (size_t)t->in, kk = (size_t)t->k * (size_t)t->k;
    if (m->dora_of == LORA_DORA_OUT) channel_norms(w, 1, rows, in * kk, norm);
    else channel_norms(w, rows, in, kk, norm);
}

/* ------------------------------------------------------------------------------------- */

/* Row by row; with v, W + dW goes there and w stays. scratch: 2n floats a thread. */
static void add_rows(const LoraModule *m, const Kron *k, float weight, float *w, float *v,
                     float *scratch)
{
    const LoraTarget *t = m->target;
    size_t n = (size_t)t->in * (size_t)t->k * (size_t)t->k;
#pragma omp parallel for schedule(static)
    for (int o = 0; o < t->out; o++) {
        float *d = scratch + (size_t)omp_get_thread_num() * 2 * n, *row = w + (size_t)o * n;
        delta_row(m, k, (size_t)o, n, d, d + n);
        if (m->dora_of == LORA_DORA_OUT) dora_row(row, n, m->dora[o], d);
        if (v)
            for (size_t j = 0; j < n; j++) v[(size_t)o * n + j] = row[j] + d[j];
        else
            for (size_t j = 0; j < n; j++) row[j] += weight * d[j];
    }
}

int lora_add_delta(const LoraModule *m, float weight, float *w, Err *e)
{
    const LoraTarget *t = m->target;
    size_t n = (size_t)t->in * (size_t)t->k * (size_t)t->k;
    Kron k;
    if (weight == 0) return 0;
    TRY(kron_open(&k, m, e));
    int channels = m->dora_of == LORA_DORA_IN;
    size_t bytes =
        ((size_t)omp_get_max_threads() * 2 + (channels ? (size_t)t->out : 0)) * n * sizeof(float);
    float *scratch = mem_alloc(bytes);
    int rc = scratch ? 0 : err_nomem(e, bytes, t->name);
    float *v = channels && scratch ? scratch + (size_t)omp_get_max_threads() * 2 * n : NULL;
    if (!rc) add_rows(m, &k, weight, w, v, scratch);
    if (!rc && v) rc = add_channels(m, weight, w, v, e);
    mem_free(scratch);
    kron_close(&k);
    return rc;
}
