/* lora_merge.c - concatenates the factors of several LoRAs. */
#include "engine/lora_merge.h"

#include <math.h>
#include <string.h>

#include "engine/mem.h"

enum { MERGED_RANK_MAX = 1 << 16 };

/* A matrix as a product of rank r: what is kept in full is itself times the unit
 * matrix, on the side that makes r smaller. */
typedef struct {
    const float *up, *down;    /* NULL: the unit matrix */
    size_t rows, cols, r;
} Factors;

static Factors factors_of(const float *up, const float *down, int rank, size_t rows, size_t cols)
{
    if (rank) return (Factors){up, down, rows, cols, (size_t)rank};
    return rows < cols ? (Factors){NULL, up, rows, cols, rows}
                       : (Factors){up, NULL, rows, cols, cols};
}

/* The two matrices of a LoKr. */
static void kron_factors(const LoraModule *m, Factors *a, Factors *b)
{
    const LoraTarget *t = m->target;
    *a = factors_of(m->up, m->down, m->rank, (size_t)m->kron_out, (size_t)m->kron_in);
    *b = factors_of(m->up2, m->down2, m->rank2, (size_t)(t->out / m->kron_out),
                    (size_t)(t->in / m->kron_in) * (size_t)t->k * (size_t)t->k);
}

/* Rank of a module as a plain product. */
static long plain_rank(const LoraModule *m)
{
    Factors a, b;
    if (m->algo == LORA_PLAIN) return m->rank;
    if (m->algo == LORA_LOHA) return (long)m->rank * m->rank2;
    kron_factors(m, &a, &b);
    return (long)(a.r * b.r);
}

static float up_at(const Factors *f, size_t i, size_t r)
{
    return f->up ? f->up[i * f->r + r] : i == r;
}

static float down_at(const Factors *f, size_t r, size_t j)
{
    return f->down ? f->down[r * f->cols + j] : j == r;
}

/* put_rank of a LoKr: (A1 A2) (x) (B1 B2) = (A1 (x) B1) (A2 (x) B2). */
static void put_kron(const LoraModule *m, int r, float scale, float *up, int up_stride, float *down)
{
    Factors a, b;
    kron_factors(m, &a, &b);
    size_t ra = (size_t)r / b.r, rb = (size_t)r % b.r;
    for (size_t i = 0; i < a.rows; i++)
        for (size_t o = 0; o < b.rows; o++)
            up[(i * b.rows + o) * (size_t)up_stride] = scale * up_at(&a, i, ra) * up_at(&b, o, rb);
    for (size_t i = 0; i < a.cols; i++)
        for (size_t j = 0; j < b.cols; j++)
            down[i * b.cols + j] = down_at(&a, ra, i) * down_at(&b, rb, j);
}

/* Column r of up and row r of down of the plain form. */
static void put_rank(const LoraModule *m, int r, float scale, float *up, int up_stride, float *down)
{
    const LoraTarget *t = m->target;
    size_t n = (size_t)t->in * (size_t)t->k * (size_t)t->k;
    int hada = m->algo == LORA_LOHA, r1 = hada ? r / m->rank2 : r, r2 = hada ? r % m->rank2 : 0;
    if (m->algo == LORA_LOKR) {
        put_kron(m, r, scale, up, up_stride, down);
        return;
    }
    for (int o = 0; o < t->out; o++) {
        float u = scale * m->up[(size_t)o * (size_t)m->rank + (size_t)r1];
        if (hada) u *= m->up2[(size_t)o * (size_t)m->rank2 + (size_t)r2];
        up[(size_t)o * (size_t)up_stride] = u;
    }
    memcpy(down, m->down + (size_t)r1 * n, n * sizeof *down);
    for (size_t j = 0; hada && j < n; j++) down[j] *= m->down2[(size_t)r2 * n + j];
}

static int concat(LoraModule *m, const Lora *in, size_t n, Err *e)
{
    const LoraTarget *t = m->target;
    size_t width = (size_t)t->in * (size_t)t->k * (size_t)t->k;
    m->alpha = (float)m->rank;
    m->up = mem_alloc((size_t)t->out * (size_t)m->rank * sizeof *m->up);
    m->down = mem_alloc((size_t)m->rank * width * sizeof *m->down);
    if (!m->up || !m->down) return err_nomem(e, (size_t)m->rank * width * sizeof(float), t->name);
    int at = 0;
    for (size_t i = 0; i < n; i++) {
        const LoraModule *src = lora_find(&in[i], t);
        if (!src) continue;
        float scale = lora_weight(&in[i], t) * lora_scale(src);
        for (int r = 0; r < plain_rank(src); r++, at++)
            put_rank(src, r, scale, m->up + at, m->rank, m->down + (size_t)at * width);
    }
    return 0;
}

/* The merged module of one target; *present is 0 when no LoRA has it. */
static int merge_target(LoraModule *m, const LoraTarget *t, const Lora *in, size_t n, int *present,
                        Err *e)
{
    long rank = 0;
    *present = 0;
    for (size_t i = 0; i < n; i++) {
        const LoraModule *src = lora_find(&in[i], t);
        if (!src) continue;
        if (src->dora_of)
            return err_set(e, ERR_INPUT, "%s: module %s is DoRA, which cannot be merged without a "
                           "model; give --model", in[i].path, t->name);
        rank += plain_rank(src);
    }
    if (!rank) return 0;
    if (rank > MERGED_RANK_MAX)
        return err_set(e, ERR_INPUT, "module %s would have rank %ld; at most %d is possible",
                       t->name, rank, MERGED_RANK_MAX);
    *m = (LoraModule){.target = t, .rank = (int)rank};
    *present = 1;
    return concat(m, in, n, e);
}

/* kohya's ss_base_model_version where all say the same. */
static int common_base(Lora *out, const Lora *in, size_t n, Err *e)
{
    const char *base = n ? in[0].base : NULL;
    for (size_t i = 1; i < n; i++)
        if (!base || !in[i].base || strcmp(base, in[i].base)) base = NULL;
    if (base && !(out->base = mem_strdup(base))) return err_nomem(e, 16, "a LoRA");
    return 0;
}

static int merge_all(Lora *out, const Lora *in, size_t n, const LoraTarget *targets, size_t count,
                     int rank, double *error, Err *e)
{
    double lost = 0, total = 0;
    out->list = mem_calloc(count, sizeof *out->list);
    if (!out->list) return err_nomem(e, count * sizeof *out->list, "the modules of a LoRA");
    for (size_t i = 0; i < count; i++) {
        int present;
        LoraModule *m = &out->list[out->count];
        int rc = merge_target(m, &targets[i], in, n, &present, e);
        out->count += (size_t)present;
        TRY(rc);
        if (present && rank) TRY(lora_truncate(m, rank, &lost, &total, e));
    }
    if (error) *error = total > 0 ? sqrt(lost / total) : 0;
    return common_base(out, in, n, e);
}

int lora_merge(Lora *out, const Lora *in, size_t n, const LoraTarget *targets, size_t count,
               int rank, double *error, Err *e)
{
    *out = (Lora){.unet_weight = 1, .text_weight = 1};
    int rc = merge_all(out, in, n, targets, count, rank, error, e);
    if (rc) lora_close(out);
    return rc;
}
