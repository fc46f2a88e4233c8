/* adafactor.c - Adafactor in plain C: the definition of kernels/optim.h, adafactor.
 *
 * Sums run in f64 in index order; each is the work of one thread, or of the fixed parts of
 * optim_part.
 */
#include <math.h>

#include "kernels/optim.h"

enum { CHUNK = 64 };

/* dst (outer,inner) = beta dst + (1 - beta) mean over n of (clip x)^2 + eps; x (outer,n,inner) */
static void mean_squares(Dev *d, const Adafactor *h, float *dst, const float *x, size_t outer,
                         size_t n, size_t inner)
{
    float keep = (float)h->beta2, fresh = (float)(1 - h->beta2), clip = (float)h->clip;
    float eps = (float)h->eps1;
    size_t chunks = (inner + CHUNK - 1) / CHUNK;
#pragma omp parallel for num_threads(d->threads)
    for (size_t k = 0; k < outer * chunks; k++) {
        size_t a = k / chunks, c = k % chunks * CHUNK, m = inner - c < CHUNK ? inner - c : CHUNK;
        double sum[CHUNK] = {0};
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < m; j++) {
                float g = x[(a * n + i) * inner + c + j] * clip;
                sum[j] += (double)(g * g + eps);
            }
        for (size_t j = 0; j < m; j++) {
            float *to = dst + a * inner + c + j;
            *to = keep * *to + fresh * (float)(sum[j] / (double)n);
        }
    }
}

/* The tensor as lines along which one factor by row holds. */
typedef struct { size_t lines, cols, inner; const float *by_row, *by_col; } Lines;

/* 1 / sqrt(row / its mean over rows) and 1 / sqrt(col), or 1 / sqrt(v), into room. */
static Lines factors(Dev *d, const Adafactor *h, size_t count, const AdafactorState *s)
{
    static const float one = 1;
    size_t n = h->rows, inner = h->inner, cols = n ? h->outer * h->cols * inner : count;
    float *by_row = s->room, *by_col = by_row + (n ? h->outer * n * inner : 0);
    const float *col = n ? s->col : s->v;
#pragma omp parallel for num_threads(d->threads)
    for (size_t k = 0; k < (n ? h->outer * inner : 0); k++) {
        size_t at = k / inner * n * inner + k % inner;
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += (double)s->row[at + i * inner];
        float mean = (float)(sum / (double)n);
        for (size_t i = 0; i < n; i++)
            by_row[at + i * inner] = 1 / sqrtf(s->row[at + i * inner] / mean);
    }
#pragma omp parallel for num_threads(d->threads)
    for (size_t k = 0; k < cols; k++) by_col[k] = 1 / sqrtf(col[k]);
    return n ? (Lines){h->outer * n, h->cols, inner, by_row, by_col}
             : (Lines){1, count, 1, &one, by_col};
}

/* The factors of line r: by_row (inner), by_col (cols,inner). */
static Lines line(const Lines *l, size_t rows, size_t r)
{
    Lines at = *l;
    at.by_row += r * l->inner;
    if (rows) at.by_col += r / rows * l->cols * l->inner;
    return at;
}

static double sum_of_squares(Dev *d, const Lines *l, size_t rows, float clip, const float *g)
{
    double part[OPTIM_PARTS], all = 0;
#pragma omp parallel for num_threads(d->threads)
    for (int k = 0; k < OPTIM_PARTS; k++) {
        double sum = 0;
        for (size_t r = optim_part(l->lines, 1, k); r < optim_part(l->lines, 1, k + 1); r++) {
            Lines at = line(l, rows, r);
            size_t from = r * l->cols * l->inner;
            for (size_t j = 0; j < l->cols; j++)
                for (size_t c = 0; c < l->inner; c++) {
                    size_t i = j * l->inner + c;
                    float u = g[from + i] * clip * (at.by_row[c] * at.by_col[i]);
                    sum += (double)u * u;
                }
        }
        part[k] = sum;
    }
    for (int k = 0; k < OPTIM_PARTS; k++) all += part[k];
    return all;
}

void adafactor_ref(Dev *d, const Adafactor *h, size_t count, float *p, const AdafactorState *s,
                   const float *g)
{
    float clip = (float)h->clip, b1 = (float)h->beta1, c1 = (float)(1 - h->beta1);
    if (h->rows) {
        mean_squares(d, h, s->row, g, h->outer * h->rows, h->cols, h->inner);
        mean_squares(d, h, s->col, g, h->outer, h->rows, h->cols * h->inner);
    } else {
        mean_squares(d, h, s->v, g, 1, 1, count);
    }
    Lines l = factors(d, h, count, s);
    sumsq_ref(d, count, s->sums, p);
    s->sums[1] = sum_of_squares(d, &l, h->rows, clip, g);
    double size = sqrt(s->sums[0] / (double)count), rms = sqrt(s->sums[1] / (double)count);
    double rate = h->lr * (h->scale_parameter ? fmax(h->eps2, size) : 1);
    float shrink = (float)fmax(1, rms / h->threshold), lr = (float)rate;
    float decay = (float)(h->weight_decay * rate);
#pragma omp parallel for num_threads(d->threads)
    for (size_t r = 0; r < l.lines; r++) {
        Lines at = line(&l, h->rows, r);
        for (size_t j = 0; j < l.cols * l.inner; j++) {
            size_t i = r * l.cols * l.inner + j;
            float u = g[i] * clip * (at.by_row[j % l.inner] * at.by_col[j]) / shrink * lr;
            if (s->m) u = s->m[i] = b1 * s->m[i] + c1 * u;
            p[i] = p[i] - decay * p[i] - u;
        }
    }
}
