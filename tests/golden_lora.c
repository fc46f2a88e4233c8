/* golden_lora.c - is a merged LoRA the weighted sum of LoRAs? For test_golden.c. */
#include <stdlib.h>

#include "tests/golden.h"

enum { LORAS = 4 };

/* up (out, rank) @ down (rank, in) of a module, the weight and alpha/rank in up. */
typedef struct {
    size_t out, in, rank;
    float *up, *down;
} Factors;

static void factors_free(Factors *f)
{
    free(f->up);
    free(f->down);
}

static const FileTensor *part(const TensorFile *tf, const char *module, const char *suffix)
{
    char name[GOLDEN_NAME + 32];
    snprintf(name, sizeof name, "%s%s", module, suffix);
    return tensorfile_find(tf, name);
}

/* rank 0 when the file has no such module. */
static int factors_read(Factors *f, const TensorFile *tf, const char *module, double weight, Err *e)
{
    const FileTensor *d = part(tf, module, ".lora_down.weight");
    const FileTensor *u = part(tf, module, ".lora_up.weight"), *a = part(tf, module, ".alpha");
    *f = (Factors){0};
    if (!d) return 0;
    if (!u || !d->count || u->ndim < 2 || u->shape[1] != d->shape[0])
        return err_set(e, ERR_FAIL, "%s: factors do not fit", module);
    *f = (Factors){.out = (size_t)u->shape[0], .in = (size_t)(d->count / d->shape[0]),
                   .rank = (size_t)d->shape[0]};
    size_t n;
    float alpha = (float)f->rank;
    if (a && tensorfile_read_f32(tf, a, 0, 1, &alpha, e)) return e->code;
    f->down = golden_read(tf, d, 1, &n, e);
    f->up = golden_read(tf, u, 1, &n, e);
    if (!f->up || !f->down) return e->code;
    for (size_t i = 0; i < n; i++) f->up[i] *= (float)(weight * alpha / (double)f->rank);
    return 0;
}

/* w (out, in) += up @ down */
static void factors_add(double *w, const Factors *f)
{
    for (size_t i = 0; i < f->out; i++)
        for (size_t r = 0; r < f->rank; r++)
            for (size_t j = 0; j < f->in; j++)
                w[i * f->in + j] += (double)f->up[i * f->rank + r] * f->down[r * f->in + j];
}

/* Eigenvalues of a symmetric (n,n) matrix onto its diagonal: cyclic Jacobi rotations,
 * Golub & Van Loan, Matrix Computations, 8.5. */
static void eigenvalues(double *a, size_t n)
{
    for (int sweep = 0, turned = 1; sweep < 30 && turned; sweep++) {
        turned = 0;
        for (size_t p = 0; p + 1 < n; p++)
            for (size_t q = p + 1; q < n; q++) {
                double apq = a[p * n + q];
                if (fabs(apq) <= 1e-14 * a[0]) continue;
                turned = 1;
                double th = (a[q * n + q] - a[p * n + p]) / (2 * apq);
                double t = (th < 0 ? -1 : 1) / (fabs(th) + sqrt(th * th + 1));
                double c = 1 / sqrt(t * t + 1), s = t * c;
                for (size_t k = 0; k < n; k++) {
                    double x = a[k * n + p], y = a[k * n + q];
                    a[k * n + p] = c * x - s * y, a[k * n + q] = s * x + c * y;
                }
                for (size_t k = 0; k < n; k++) {
                    double x = a[p * n + k], y = a[q * n + k];
                    a[p * n + k] = c * x - s * y, a[q * n + k] = s * x + c * y;
                }
            }
    }
}

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* a[i] . a[k] of n rows of m elements into g (n, n). */
static void products(double *g, const double *a, size_t n, size_t m)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = i; k < n; k++) {
            double sum = 0;
            for (size_t j = 0; j < m; j++) sum += a[i * m + j] * a[k * m + j];
            g[i * n + k] = g[k * n + i] = sum;
        }
}

/* The coordinates of w (out, in) in an orthonormal basis of the rows of in[]'s down factors,
 * which w is a sum of: c (n, out), at most `most` of them; n. Gram-Schmidt, twice. */
static size_t coordinates(double *c, const double *w, const Factors in[], size_t most, size_t out,
                          size_t width)
{
    double *q = golden_memory(most * width * sizeof *q);
    size_t n = 0;
    for (size_t f = 0; f < LORAS; f++)
        for (size_t r = 0; r < in[f].rank; r++) {
            double *v = q + n * width, before = 0, after = 0;
            for (size_t j = 0; j < width; j++) v[j] = in[f].down[r * width + j];
            for (size_t j = 0; j < width; j++) before += v[j] * v[j];
            for (size_t pass = 0, i = 0; pass < 2 * n; pass++, i = pass % n) {
                double dot = 0;
                for (size_t j = 0; j < width; j++) dot += v[j] * q[i * width + j];
                for (size_t j = 0; j < width; j++) v[j] -= dot * q[i * width + j];
            }
            for (size_t j = 0; j < width; j++) after += v[j] * v[j];
            if (after <= 1e-20 * before) continue;     /* nothing new */
            for (size_t j = 0; j < width; j++) v[j] /= sqrt(after);
            for (size_t i = 0; i < out; i++)
                for (size_t j = 0; j < width; j++) c[n * out + i] += v[j] * w[i * width + j];
            n++;
        }
    free(q);
    return n;
}

/* Norm of what the best approximation of rank `rank` to w, the sum of in[], leaves: the
 * singular values from there on, roots of eigenvalues. */
static double tail_norm(const double *w, const Factors in[], size_t out, size_t width, size_t rank)
{
    size_t most = 0;
    for (size_t f = 0; f < LORAS; f++) most += in[f].rank;
    double *c = golden_memory(most * out * sizeof *c), *g, s = 0;
    size_t n = coordinates(c, w, in, most, out, width);
    g = golden_memory(n * n * sizeof *g);
    products(g, c, n, out);
    free(c);
    eigenvalues(g, n);
    for (size_t i = 0; i < n; i++) g[i] = g[i * n + i];
    qsort(g, n, sizeof *g, descending);
    for (size_t i = rank; i < n; i++) s += fmax(g[i], 0);
    free(g);
    return sqrt(s);
}

typedef struct {
    TensorFile *in[LORAS], *got;
    double weight[LORAS];
    size_t count, rank;
} LoraFiles;

/* The relative error of one module, whose factors fit each other. */
static double module_error(const LoraFiles *l, const Factors *got, const Factors in[LORAS])
{
    size_t size = got->out * got->in;
    double *w = golden_memory(size * sizeof *w), *g = golden_memory(size * sizeof *g);
    double off = 0, all = 0;
    factors_add(g, got);
    for (size_t i = 0; i < l->count; i++) factors_add(w, &in[i]);
    for (size_t i = 0; i < size; i++) {
        off += (g[i] - w[i]) * (g[i] - w[i]);
        all += w[i] * w[i];
    }
    double err = sqrt(off / all);
    if (l->rank) err = fmax(0, err - tail_norm(w, in, got->out, got->in, l->rank) / sqrt(all));
    free(w);
    free(g);
    return err;
}

static int lora_module(const LoraFiles *l, const char *module, Worst *worst, Err *e)
{
    Factors got, in[LORAS] = {{0}};
    int rc = factors_read(&got, l->got, module, 1, e);
    if (!rc && !got.rank) rc = err_set(e, ERR_FAIL, "output lacks %s", module);
    if (!rc && l->rank && got.rank > l->rank)
        rc = err_set(e, ERR_FAIL, "%s: rank %zu, limit %zu", module, got.rank, l->rank);
    for (size_t i = 0; !rc && i < l->count; i++) {
        rc = factors_read(&in[i], l->in[i], module, l->weight[i], e);
        if (!rc && in[i].rank && (in[i].out != got.out || in[i].in != got.in))
            rc = err_set(e, ERR_FAIL, "%s: wrong shape", module);
    }
    if (!rc) golden_worse(worst, module_error(l, &got, in), module);
    factors_free(&got);
    for (size_t i = 0; i < LORAS; i++) factors_free(&in[i]);
    return rc;
}

static const char down_suffix[] = ".lora_down.weight";

/* The module that tensor t is the down factor of. */
static int module_name(char name[GOLDEN_NAME], const FileTensor *t)
{
    size_t n = strlen(t->name), s = sizeof down_suffix - 1;
    if (n <= s || n - s >= GOLDEN_NAME || strcmp(t->name + n - s, down_suffix)) return 0;
    memcpy(name, t->name, n - s);
    name[n - s] = 0;
    return 1;
}

static int lora_compare(const LoraFiles *l, Worst *w, Err *e)
{
    char name[GOLDEN_NAME];
    for (size_t f = 0; f < l->count; f++)
        for (size_t i = 0; i < tensorfile_count(l->in[f]); i++)
            if (module_name(name, tensorfile_at(l->in[f], i))) TRY(lora_module(l, name, w, e));
    for (size_t i = 0; i < tensorfile_count(l->got); i++) {
        int known = !module_name(name, tensorfile_at(l->got, i));
        for (size_t f = 0; f < l->count; f++) known |= part(l->in[f], name, down_suffix) != NULL;
        if (!known) return err_set(e, ERR_FAIL, "%s comes from no LoRA", name);
    }
    return 0;
}

int golden_merge_lora(const json_t *c, const char *out, Worst *w, Err *e)
{
    LoraFiles l = {.rank = (size_t)golden_number(c, "rank")};
    const json_t *list = json_object_get(c, "loras");
    int rc = tensorfile_open(&l.got, out, e);
    for (size_t i = 0; !rc && i < json_array_size(list) && i < LORAS; i++, l.count++) {
        const json_t *one = json_array_get(list, i);
        rc = golden_open(&l.in[i], json_string_value(json_array_get(one, 0)), e);
        l.weight[i] = json_number_value(json_array_get(one, 1));
    }
    if (!rc) rc = lora_compare(&l, w, e);
    tensorfile_close(l.got);
    for (size_t i = 0; i < LORAS; i++) tensorfile_close(l.in[i]);
    return rc;
}

