/* lora_read.c - the factors of one module, checked against the layer they are for. */
#include "engine/lora_read.h"

#include <math.h>
#include <string.h>

#include "engine/mem.h"

enum { RANK_MAX = 1 << 16 };

static int64_t axis(const FileTensor *t, int i) { return i < t->ndim ? t->shape[i] : 1; }

/* ---- what is there ---------------------------------------------------------------- */

static int is_loha(const LoraGroup *g)
{
    for (int p = PART_W1A; p <= PART_T2; p++)
        if (g->part[p]) return 1;
    return 0;
}

static int is_lokr(const LoraGroup *g)
{
    for (int p = PART_K1; p <= PART_KT2; p++)
        if (g->part[p]) return 1;
    return 0;
}

/* A matrix of LoKr: whole, or two factors. */
static int has_matrix(const LoraGroup *g, LoraPart whole)
{
    int a = g->part[whole + 1] != NULL, b = g->part[whole + 2] != NULL;
    return g->part[whole] ? !a && !b : a && b;
}

int lora_group_check(const LoraGroup *g, Err *e)
{
    const FileTensor *const *p = g->part;
    int loha = is_loha(g), lokr = is_lokr(g), plain = p[PART_UP] || p[PART_DOWN] || p[PART_MID];
    int ok = loha + lokr + plain == 1;
    if (plain) ok = ok && p[PART_UP] && p[PART_DOWN];
    if (loha)
        ok = ok && p[PART_W1A] && p[PART_W1B] && p[PART_W2A] && p[PART_W2B] &&
             !p[PART_T1] == !p[PART_T2];
    if (lokr)
        ok = ok && has_matrix(g, PART_K1) && has_matrix(g, PART_K2) && !(p[PART_K2] && p[PART_KT2]);
    return ok ? 0 : err_set(e, ERR_INPUT, "%s: module %s is incomplete (LoRA needs up and down, "
                            "LoHa w1_a, w1_b, w2_a, w2_b, LoKr w1 and w2 or w2_a, w2_b)",
                            tensorfile_path(g->tf), g->module);
}

/* Rows and columns of a matrix of LoKr; its factors are transposed with a Tucker core. */
static void matrix_shape(const LoraGroup *g, LoraPart whole, int tucker, int64_t *rows,
                         int64_t *cols)
{
    const FileTensor *const *p = g->part;
    *rows = p[whole] ? axis(p[whole], 0) : axis(p[whole + 1], tucker);
    *cols = axis(p[whole] ? p[whole] : p[whole + 2], 1);
}

/* Are factors that were written as matrices those of a 3x3 convolution? The names of such
 * layers say so, in diffusers' words and in those of single files; or DoRA's norms of the
 * input channels do. */
static int is_flat_conv(const LoraGroup *g, int64_t in)
{
    static const char *const ends[] = {"_conv1", "_conv2", "_conv", "_conv_in", "_conv_out",
                                       "_in_layers_2", "_out_layers_3", "_op"};
    const FileTensor *dora = g->part[PART_DORA];
    size_t n = strlen(g->module);
    if (in % 9) return 0;
    if (dora && axis(dora, 0) == 1 && axis(dora, 1) * 9 == in) return 1;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t m = strlen(ends[i]);
        if (n > m && !strcmp(g->module + n - m, ends[i])) return 1;
    }
    return 0;
}

int lora_group_shape(const LoraGroup *g, LoraTarget *t, Err *e)
{
    const FileTensor *const *p = g->part, *space = p[PART_MID] ? p[PART_MID] : p[PART_DOWN];
    int64_t out, in;
    if (is_lokr(g)) {
        int64_t rows, cols;
        space = p[PART_KT2] ? p[PART_KT2] : p[PART_K2] ? p[PART_K2] : p[PART_K2B];
        matrix_shape(g, PART_K1, 0, &out, &in);
        matrix_shape(g, PART_K2, p[PART_KT2] != NULL, &rows, &cols);
        int fits = out > 0 && in > 0 && rows > 0 && cols > 0 && out < 1 << 24 && in < 1 << 24 &&
                   rows < 1 << 24 && cols < 1 << 24;
        out *= fits ? rows : 0;
        in *= fits ? cols : 0;
    } else if (is_loha(g)) {
        space = p[PART_T1] ? p[PART_T1] : p[PART_W1B];
        out = axis(p[PART_W1A], p[PART_T1] != NULL);
        in = axis(p[PART_W1B], 1);
    } else {
        out = axis(p[PART_UP], 0);
        in = axis(p[PART_DOWN], 1);
    }
    int64_t k = axis(space, 2);
    if (out < 1 || in < 1 || out > 1 << 24 || in > 1 << 24 || (k != 1 && k != 3))
        return err_set(e, ERR_INPUT, "%s: tensor %s has an impossible shape",
                       tensorfile_path(g->tf), space->name);
    t->out = (int)out;
    t->in = (int)in;
    t->k = (int)k;
    t->conv = space->ndim == 4;
    if (space->ndim == 2 && (is_loha(g) || is_lokr(g)) && is_flat_conv(g, in)) {
        t->in /= 9;
        t->k = 3;
        t->conv = 1;
    }
    return 0;
}

/* ---- factors ---------------------------------------------------------------------- */

/* A factor as f32, of shape (a, b, k, k), axes of size 1 at the end not counted;
 * flat: (a, b*k*k) will do as well. */
static int read_factor(float **out, const LoraGroup *g, LoraPart part, int64_t a, int64_t b, int k,
                       int flat, Err *e)
{
    const FileTensor *t = g->part[part];
    int64_t n = a * b * k * k;
    int ok = axis(t, 0) == a && t->count == n;
    if (!(flat && axis(t, 1) == b * k * k)) ok = ok && axis(t, 1) == b && axis(t, 2) == k;
    if (!ok)
        return err_set(e, ERR_INPUT, "%s: tensor %s has shape [%lld,%lld%s], which does not fit "
                       "the model's layer (%lld,%lld%s): is it for another model?",
                       tensorfile_path(g->tf), t->name, (long long)axis(t, 0),
                       (long long)axis(t, 1), axis(t, 2) == 3 ? ",3,3" : "", (long long)a,
                       (long long)b, k == 3 ? ",3,3" : "");
    *out = mem_alloc((size_t)n * sizeof **out);
    if (!*out) return err_nomem(e, (size_t)n * sizeof **out, t->name);
    TRY(tensorfile_read_f32(g->tf, t, 0, n, *out, e));
    for (int64_t i = 0; i < n; i++)
        if (!isfinite((*out)[i]))
            return err_set(e, ERR_INPUT, "%s: tensor %s contains NaN or infinity",
                           tensorfile_path(g->tf), t->name);
    return 0;
}

static int rank_of(const LoraGroup *g, LoraPart part, int *rank, Err *e)
{
    int64_t r = axis(g->part[part], 0);
    if (r < 1 || r > RANK_MAX)
        return err_set(e, ERR_INPUT, "%s: tensor %s has rank %lld", tensorfile_path(g->tf),
                       g->part[part]->name, (long long)r);
    *rank = (int)r;
    return 0;
}

/* Tucker form: a core (r, q, k, k) and a factor (q, cols) make (r, cols, k, k). */
static int fold_core(float **down, int *rank, const LoraGroup *g, LoraPart core, LoraPart factor,
                     int cols, int k, Err *e)
{
    int inner;
    size_t kk = (size_t)k * (size_t)k, n = (size_t)cols;
    float *f = NULL, *c = NULL;
    TRY(rank_of(g, factor, &inner, e));
    TRY(rank_of(g, core, rank, e));
    int rc = read_factor(&f, g, factor, inner, cols, 1, 0, e);
    if (!rc) rc = read_factor(&c, g, core, *rank, inner, k, 0, e);
    float *d = *down = rc ? NULL : mem_calloc((size_t)*rank * n * kk, sizeof *d);
    if (!rc && !d) rc = err_nomem(e, (size_t)*rank * n * kk * sizeof *d, g->module);
    for (size_t r = 0; !rc && r < (size_t)*rank; r++)
        for (size_t q = 0; q < (size_t)inner; q++)
            for (size_t i = 0; i < n; i++)
                for (size_t x = 0; x < kk; x++)
                    d[(r * n + i) * kk + x] += c[(r * (size_t)inner + q) * kk + x] * f[q * n + i];
    mem_free(f);
    mem_free(c);
    return rc;
}

/* (rank, rows) in the file, (rows, rank) here. */
static int read_transposed(float **up, const LoraGroup *g, LoraPart part, int rows, int rank,
                           Err *e)
{
    float *t = NULL;
    int rc = read_factor(&t, g, part, rank, rows, 1, 0, e);
    if (!rc && !(*up = mem_alloc((size_t)rows * (size_t)rank * sizeof **up)))
        rc = err_nomem(e, (size_t)rows * (size_t)rank * sizeof **up, g->module);
    for (size_t i = 0; !rc && i < (size_t)rows; i++)
        for (size_t r = 0; r < (size_t)rank; r++)
            (*up)[i * (size_t)rank + r] = t[r * (size_t)rows + i];
    mem_free(t);
    return rc;
}

/* The product of parts a and b, (rows, cols*k*k), with an optional Tucker core. */
typedef struct {
    float **up, **down;
    int *rank;
} Product;

static int read_product(Product p, const LoraGroup *g, LoraPart a, LoraPart b, LoraPart core,
                        int rows, int cols, int k, Err *e)
{
    if (g->part[core]) {
        TRY(fold_core(p.down, p.rank, g, core, b, cols, k, e));
        return read_transposed(p.up, g, a, rows, *p.rank, e);
    }
    TRY(rank_of(g, b, p.rank, e));
    TRY(read_factor(p.down, g, b, *p.rank, cols, k, 1, e));
    return read_factor(p.up, g, a, rows, *p.rank, 1, 0, e);
}

static int read_lokr(LoraModule *m, const LoraGroup *g, Err *e)
{
    const LoraTarget *t = m->target;
    const FileTensor *name = g->part[PART_K1] ? g->part[PART_K1] : g->part[PART_K1A];
    int64_t out, in;
    m->algo = LORA_LOKR;
    matrix_shape(g, PART_K1, 0, &out, &in);
    if (out < 1 || in < 1 || out > t->out || in > t->in || t->out % out || t->in % in)
        return err_set(e, ERR_INPUT,
                       "%s: tensor %s has shape [%lld,%lld], which does not divide "
                       "the model's layer (%d,%d): is it for another model?",
                       tensorfile_path(g->tf), name->name, (long long)out, (long long)in, t->out,
                       t->in);
    m->kron_out = (int)out;
    m->kron_in = (int)in;
    int rows = t->out / m->kron_out, cols = t->in / m->kron_in;
    Product w1 = {&m->up, &m->down, &m->rank}, w2 = {&m->up2, &m->down2, &m->rank2};
    if (g->part[PART_K1]) TRY(read_factor(&m->up, g, PART_K1, out, in, 1, 0, e));
    else TRY(read_product(w1, g, PART_K1A, PART_K1B, PART_MID, m->kron_out, m->kron_in, 1, e));
    if (g->part[PART_K2]) return read_factor(&m->up2, g, PART_K2, rows, cols, t->k, 1, e);
    return read_product(w2, g, PART_K2A, PART_K2B, PART_KT2, rows, cols, t->k, e);
}

static int read_factors(LoraModule *m, const LoraGroup *g, Err *e)
{
    const LoraTarget *t = m->target;
    Product first = {&m->up, &m->down, &m->rank}, second = {&m->up2, &m->down2, &m->rank2};
    if (is_lokr(g)) return read_lokr(m, g, e);
    if (is_loha(g)) {
        m->algo = LORA_LOHA;
        TRY(read_product(first, g, PART_W1A, PART_W1B, PART_T1, t->out, t->in, t->k, e));
        return read_product(second, g, PART_W2A, PART_W2B, PART_T2, t->out, t->in, t->k, e);
    }
    if (g->part[PART_MID] && t->k == 3) {
        TRY(fold_core(&m->down, &m->rank, g, PART_MID, PART_DOWN, t->in, t->k, e));
    } else {
        TRY(rank_of(g, PART_DOWN, &m->rank, e));
        TRY(read_factor(&m->down, g, PART_DOWN, m->rank, t->in, t->k, 0, e));
    }
    return read_factor(&m->up, g, PART_UP, t->out, m->rank, 1, 0, e);
}

/* Without alpha, or with 0 as kohya has it, alpha is the rank. */
static int read_alpha(LoraModule *m, const LoraGroup *g, Err *e)
{
    const FileTensor *t = g->part[PART_ALPHA];
    m->alpha = (float)(m->algo == LORA_LOKR && m->rank2 ? m->rank2 : m->rank);
    if (!t) return 0;
    float v = 0;
    if (t->count != 1)
        return err_set(e, ERR_INPUT, "%s: tensor %s is not a single number",
                       tensorfile_path(g->tf), t->name);
    TRY(tensorfile_read_f32(g->tf, t, 0, 1, &v, e));
    if (!isfinite(v))
        return err_set(e, ERR_INPUT, "%s: tensor %s is not finite", tensorfile_path(g->tf),
                       t->name);
    if (v != 0) m->alpha = v;
    return 0;
}

/* LyCORIS writes (out,1,..) or, for the norms of input channels, (1,in,..); PEFT has
 * (out) or (1,out,1,1). */
static int read_dora(LoraModule *m, const LoraGroup *g, Err *e)
{
    const FileTensor *t = g->part[PART_DORA];
    if (!t) return 0;
    int across = axis(t, 0) == 1 && t->ndim > 1 && m->target->out > 1;
    m->dora_of = across && !g->peft ? LORA_DORA_IN : LORA_DORA_OUT;
    if (!across) return read_factor(&m->dora, g, PART_DORA, m->target->out, 1, 1, 0, e);
    return read_factor(&m->dora, g, PART_DORA, 1, g->peft ? m->target->out : m->target->in, 1, 0,
                       e);
}

int lora_read_module(LoraModule *m, const LoraTarget *t, const LoraGroup *g, Err *e)
{
    *m = (LoraModule){.target = t};
    TRY(read_factors(m, g, e));
    TRY(read_alpha(m, g, e));
    return read_dora(m, g, e);
}
