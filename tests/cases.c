/* cases.c - see cases.h. */
#include "tests/cases.h"

#include <stdlib.h>

void reads(Case *c, int dt, size_t n, KernKind kind)
{
    c->in[c->ins++] = (Arg){.dt = dt, .n = n, .kind = kind};
}

void writes(Case *c, int dt, size_t n, int acc, double ulps, double size, double half)
{
    Arg a = {.dt = dt, .n = n, .acc = acc, .ulps = ulps, .size = size, .half = half};
    c->out[c->outs++] = a;
}

static Dtype real(int dt, Dtype t) { return dt == T ? t : (Dtype)dt; }

/* Inputs as f32 and in their dtype, outputs before, and what is right (f32). */
typedef struct { KernBuf f[ARGS], v[ARGS], old[ARGS], want[ARGS]; } Data;

static void make(const Case *c, Dtype t, Data *b, KernRng *r, Dev *d)
{
    void *in[ARGS] = {0}, *out[ARGS] = {0};
    *b = (Data){0};
    for (int i = 0; i < c->ins; i++) {
        if (!c->in[i].n) continue;
        KernBuf x = kern_tensor(r, real(c->in[i].dt, t), c->in[i].n, c->in[i].kind);
        b->f[i] = kern_as(DT_F32, real(c->in[i].dt, t), x.p, c->in[i].n);
        in[i] = b->f[i].p;
        kern_free(&x);
    }
    if (c->prepare) c->prepare(d, c, in);
    for (int i = 0; i < c->ins; i++) {
        if (!c->in[i].n) continue;
        Dtype dt = real(c->in[i].dt, t);
        b->v[i] = kern_as(dt, DT_F32, in[i], c->in[i].n);
        kern_free(&b->f[i]);
        b->f[i] = kern_as(DT_F32, dt, b->v[i].p, c->in[i].n);
        in[i] = b->f[i].p;
    }
    for (int i = 0; i < c->outs; i++) {
        if (!c->out[i].n) continue;
        b->old[i] = kern_tensor(r, real(c->out[i].dt, t), c->out[i].n, KERN_NORMAL);
        b->want[i] = kern_as(DT_F32, real(c->out[i].dt, t), b->old[i].p, c->out[i].n);
        out[i] = b->want[i].p;
    }
    Case e = *c;
    if (c->exact) e.p = c->exact;
    c->call(kern_ref(c->op, DT_F32)->fn, d, &e, in, out);
}

static int drop(KernBuf *b, int n)
{
    int ok = 1;
    for (int i = 0; i < n; i++) ok &= kern_free(&b[i]);
    return ok;
}

static int close_enough(const Arg *a, Dtype t, const void *got, const float *want)
{
    static const double store[] = {[DT_F32] = 0x1p-24, [DT_BF16] = 0x1p-8, [DT_F16] = 0x1p-11};
    Dtype dt = real(a->dt, t);
    double max = 0;
    for (size_t k = 0; k < a->n; k++) max = fmax(max, fabs((double)want[k]));
    double halves = t == DT_F32 ? 0 : a->half * store[t];
    double abs = a->ulps * 0x1p-24 * (a->size + max) + halves * a->size;
    double tiny = dt == DT_F16 ? 0x1p-25 : 1e-37;          /* half a subnormal of f16 */
    double gap = kern_gap(dt, got, want, a->n, abs + tiny, store[dt] * 1.01);
    if (getenv("KERN_GAPS")) printf("  %.3f of the bound\n", gap);
    return gap <= 1;
}

/* One version with this many threads; its outputs are left in out. NULL when
 * all is well, else what is wrong. */
static const char *run(const Case *c, const KernImpl *im, const Data *b, int threads, KernBuf *out)
{
    KernDev kd = kern_open_for(im, threads);
    const char *bad = NULL;
    void *pi[ARGS] = {0}, *po[ARGS] = {0};
    if (c->scratch) kern_ws(&kd, c->scratch(kd.d, c, im->dt));
    for (int i = 0; i < c->ins; i++) pi[i] = b->v[i].p;
    for (int i = 0; i < c->outs; i++) {
        const Arg *a = c->out + i;
        Dtype dt = real(a->dt, im->dt);
        if (!a->n) continue;
        out[i] = a->acc ? kern_as(dt, dt, b->old[i].p, a->n) : kern_buf(a->n * dtype_bytes(dt));
        po[i] = out[i].p;
    }
    if (c->alias) {
        memcpy(po[0], pi[c->alias - 1], out[0].bytes);
        pi[c->alias - 1] = po[0];
    }
    void *on[ARGS] = {0};
    for (int i = 0; i < c->outs; i++) on[i] = kern_on(&kd, po[i], out[i].bytes);
    for (int i = 0; i < c->ins; i++) pi[i] = kern_on(&kd, pi[i], b->v[i].bytes);
    c->call(im->fn, kd.d, c, pi, on);
    if (!kern_back(&kd)) bad = "guard bytes on the device overwritten, or it failed";
    for (int i = 0; i < c->outs && !bad; i++)
        if (po[i] && !close_enough(c->out + i, im->dt, po[i], b->want[i].p)) bad = "wrong values";
    return kern_close(&kd) ? bad : "guard bytes of the scratch overwritten";
}

/* Checks one version with 1, 2 and 3 threads. */
static int check_version(const Case *c, const KernImpl *im, const Data *b, uint64_t seed)
{
    KernBuf first[ARGS] = {{0}};
    const char *bad = run(c, im, b, 1, first);
    for (int threads = 2; threads <= 3 && !bad && im->isa != DEV_REF; threads++) {
        KernBuf out[ARGS] = {{0}};
        bad = run(c, im, b, threads, out);
        for (int i = 0; i < c->outs && !bad; i++)
            if (out[i].p && memcmp(out[i].p, first[i].p, out[i].bytes)) bad = "threads differ";
        if (!drop(out, ARGS)) bad = "guard bytes overwritten";
    }
    if (!drop(first, ARGS)) bad = "guard bytes overwritten";
    if (bad)
        test_fail(__FILE__, __LINE__, "%s %s %s, case %lu: %s", im->op, kern_dtype(im->dt),
                  im->impl, (unsigned long)seed, bad);
    return !bad;
}

int case_check(const Case *c, uint64_t seed)
{
    KernRng r = {seed};
    KernDev all = kern_open(1, ~0u);
    int ok = 1;
    for (Dtype dt = 0; dt < DT_N; dt++) {
        Data b;
        int made = 0;
        for (const KernImpl *im = NULL; ok && (im = kern_next(c->op, im, all.d));) {
            if (im->dt != dt) continue;
            if (!made++) make(c, dt, &b, &r, all.d);
            ok = check_version(c, im, &b, seed);
        }
        if (!made || (drop(b.f, ARGS) & drop(b.v, ARGS) & drop(b.old, ARGS) & drop(b.want, ARGS)))
            continue;
        test_fail(__FILE__, __LINE__, "%s, case %lu: guard bytes of an input overwritten", c->op,
                  (unsigned long)seed);
        ok = 0;
    }
    kern_close(&all);
    return ok;
}
