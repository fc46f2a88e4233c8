/* lora_norm.c - the size of what a module of a LoRA does (lora.h). */
#include <math.h>

#include "engine/lora.h"
#include "engine/mem.h"

/* |up @ down|^2 = sum over r, s of (up^T up)[r,s] (down down^T)[r,s]: without the product,
 * which is as large as the layer. */
double lora_norm(const float *up, const float *down, size_t out, size_t rank, size_t in)
{
    double square = 0;
    for (size_t r = 0; r < rank; r++)
        for (size_t s = 0; s <= r; s++) {
            double u = 0, d = 0;
            for (size_t i = 0; i < out; i++) u += (double)up[i * rank + r] * up[i * rank + s];
            for (size_t i = 0; i < in; i++) d += (double)down[r * in + i] * down[s * in + i];
            square += (r == s ? 1 : 2) * u * d;
        }
    return square > 0 ? sqrt(square) : 0;
}

static double length(const float *v, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)v[i] * v[i];
    return sqrt(sum);
}

static double matrix_norm(const float *up, const float *down, size_t out, size_t rank, size_t in)
{
    return rank ? lora_norm(up, down, out, rank, in) : length(up, out * in);
}

/* A Kronecker product is as large as both of its matrices; one of elements has to be made. */
int lora_module_norm(const LoraModule *m, double *norm, Err *e)
{
    const LoraTarget *t = m->target;
    size_t out = (size_t)t->out, in = (size_t)t->in * (size_t)t->k * (size_t)t->k;
    if (m->algo == LORA_PLAIN) {
        *norm = lora_norm(m->up, m->down, out, (size_t)m->rank, in);
    } else if (m->algo == LORA_LOKR) {
        size_t rows = (size_t)m->kron_out, cols = (size_t)m->kron_in;
        *norm = matrix_norm(m->up, m->down, rows, (size_t)m->rank, cols) *
                matrix_norm(m->up2, m->down2, out / rows, (size_t)m->rank2, in / cols);
    } else {
        LoraModule bare = *m;
        float *w = mem_calloc(out * in, sizeof *w);
        if (!w) return err_nomem(e, out * in * sizeof *w, t->name);
        bare.dora_of = LORA_NO_DORA;
        int rc = lora_add_delta(&bare, 1, w, e);
        *norm = length(w, out * in);
        mem_free(w);
        return rc;
    }
    *norm *= fabs((double)lora_scale(m));
    return 0;
}
