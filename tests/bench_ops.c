/* bench_ops.c - speed of the products on the layers of SD 1.5, against a peak:
 * the one given, or the fastest product found in the same run, which is some
 * percent below that of the arithmetic units.
 *
 *     bench_ops [-t THREADS] [-i avx2|avx512] [-d f32|bf16] [-w i8] [-p PEAK]
 *               [SUBSTRING]
 *
 * A line: op, shape, milliseconds (best of several), GFLOP/s, percent of peak. The
 * operations are those of the direct product, so Winograd's algorithm can pass 100%.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/half.h"
#include "kernels/int8.h"
#include "kernels/ops.h"

/* With one thread its own time, which other programs do not disturb. */
static double now(int one_thread)
{
    struct timespec t;
    clock_gettime(one_thread ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct {
    Dev *d;
    Ops ops;
    Dtype dt, wdt;          /* wdt DT_I8: layers that int8 does not fit are left out */
    double peak;            /* GFLOP/s */
    const char *only;
} Bench;

static void *fill(Bench *b, Dtype dt, size_t n)
{
    void *p;
    if (dev_alloc(b->d, &p, n * dtype_bytes(dt))) exit(1);
    if (dt == DT_I8) return memset(p, 3, n);       /* scales too: small numbers */
    for (size_t i = 0; i < n; i++) {
        float v = (float)((i * 2654435761u >> 7 & 255) - 128) / 256.0f;
        if (dt == DT_F32) ((float *)p)[i] = v;
        else ((uint16_t *)p)[i] = dt == DT_BF16 ? f32_to_bf16(v) : f32_to_f16(v);
    }
    return p;
}

/* The operands of one layer, as for a product of m x k by n x k. */
typedef struct {
    int conv;
    Linear lin;
    Conv2d c;
    void *x, *y, *w;
    float *dw;
    size_t nx, ny, nw, nfill;           /* nfill: elements, or bytes of an int8 weight */
} Layer;

static void layer_run(Bench *b, const Layer *l, int which)
{
    const Ops *o = &b->ops;
    Dtype t = b->dt;
    if (l->conv) {
        if (which == 0) o->conv2d[t](b->d, &l->c, l->y, l->x, l->w, NULL, NULL, NULL);
        if (which == 1) o->conv2d_dx[t](b->d, &l->c, l->x, l->y, l->w, 0);
        if (which == 2) o->conv2d_dw[t](b->d, &l->c, l->dw, NULL, l->y, l->x);
    } else {
        if (which == 0) o->linear[t](b->d, &l->lin, l->y, l->x, l->w, NULL, NULL);
        if (which == 1) o->linear_dx[t](b->d, &l->lin, l->x, l->y, l->w, 0);
        if (which == 2) o->linear_dw[t](b->d, &l->lin, l->dw, NULL, l->y, l->x);
    }
}

static void layer_time(Bench *b, const Layer *l, const char *name, double flop)
{
    static const char *const what[] = {"", "_dx", "_dw"};
    for (int which = 0; which < (b->wdt == DT_I8 ? 2 : 3); which++) {
        double best = 1e9, spent = 0;
        for (int i = 0; i < 3 || (spent < 0.15 && i < 2000); i++) {
            double t = now(b->d->threads == 1);
            layer_run(b, l, which);
            t = now(b->d->threads == 1) - t;
            spent += t;
            if (t < best) best = t;
        }
        double rate = flop / best * 1e-9;
        printf("%-10s %-34s %9.3f ms %7.1f GFLOP/s %5.1f%%  %6.1f GB/s\n",
               which ? what[which] : l->conv ? "conv2d" : "linear", name, best * 1e3, rate,
               100 * rate / b->peak,
               (double)(l->nx + l->ny + l->nw) * (double)dtype_bytes(b->dt) / best * 1e-9);
        fflush(stdout);
    }
}

static void layer_bench(Bench *b, Layer *l, const char *name, double flop, size_t ws)
{
    if (b->only && !strstr(name, b->only)) return;
    Dtype wdt = l->conv ? l->c.wdt : l->lin.wdt;
    l->x = fill(b, b->dt, l->nx), l->y = fill(b, b->dt, l->ny), l->w = fill(b, wdt, l->nfill);
    l->dw = fill(b, DT_F32, l->nw);
    if (dev_alloc(b->d, &b->d->ws, ws)) exit(1);
    b->d->ws_bytes = ws;
    layer_time(b, l, name, flop);
    dev_free(b->d, l->x, l->nx * dtype_bytes(b->dt));
    dev_free(b->d, l->y, l->ny * dtype_bytes(b->dt));
    dev_free(b->d, l->w, l->nfill * dtype_bytes(wdt));
    dev_free(b->d, l->dw, l->nw * 4);
    dev_free(b->d, b->d->ws, ws);
}

static void linear(Bench *b, int m, int n, int k)
{
    char name[80];
    int i8 = b->wdt == DT_I8;
    Layer l = {.lin = {m, n, k, 1, b->wdt}, .nx = (size_t)m * (size_t)k,
               .ny = (size_t)m * (size_t)n, .nw = (size_t)n * (size_t)k};
    l.nfill = i8 ? i8_bytes((size_t)n, 1, (size_t)k) : l.nw;
    if (i8 && !i8_fits(n, 1, k)) return;
    snprintf(name, sizeof name, "lin m %d n %d k %d", m, n, k);
    layer_bench(b, &l, name, 2.0 * m * n * k, b->ops.linear_scratch(b->d, &l.lin, b->dt));
}

static void conv(Bench *b, int n, int hw, int cin, int cout, int stride)
{
    char name[80];
    int i8 = b->wdt == DT_I8;
    Layer l = {.conv = 1, .c = {n, hw, hw, cin, cout, 3, stride, 1, 1, 1, b->wdt, 0, 0}};
    size_t out = (size_t)n * (size_t)conv2d_out(&l.c, hw) * (size_t)conv2d_out(&l.c, hw);
    l.nx = (size_t)n * (size_t)hw * (size_t)hw * (size_t)cin, l.ny = out * (size_t)cout;
    l.nw = 9 * (size_t)cin * (size_t)cout;
    l.nfill = i8 ? i8_bytes((size_t)cout, 9, (size_t)cin) : l.nw;
    if (i8 && !i8_fits(cout, 9, cin)) return;
    snprintf(name, sizeof name, "conv n %d %dx%d %d>%d s%d", n, hw, hw, cin, cout, stride);
    layer_bench(b, &l, name, 18.0 * (double)out * cin * cout,
                b->ops.conv2d_scratch(b->d, &l.c, b->dt));
}

/* A product of a shape that suits the blocking. */
static void find_peak(Bench *b)
{
    Layer l = {.lin = {1536, 512, 1024, 1, b->dt}, .nx = 1536 * 1024, .ny = 1536 * 512,
               .nw = 512 * 1024};
    const char *only = b->only;
    b->only = NULL;
    double flop = 2.0 * 1536 * 512 * 1024;
    l.x = fill(b, b->dt, l.nx), l.y = fill(b, b->dt, l.ny), l.w = fill(b, b->dt, l.nw);
    size_t ws = b->ops.linear_scratch(b->d, &l.lin, b->dt);
    if (dev_alloc(b->d, &b->d->ws, ws)) exit(1);
    for (int i = 0; i < 20; i++) {
        double t = now(b->d->threads == 1);
        layer_run(b, &l, 0);
        t = now(b->d->threads == 1) - t;
        if (flop / t * 1e-9 > b->peak) b->peak = flop / t * 1e-9;
    }
    b->only = only;
}

int main(int argc, char **argv)
{
    Bench b = {.dt = DT_F32};
    int threads = 0;
    unsigned isa = ~0u;
    int i8 = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-t") && i + 1 < argc) threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "-i") && i + 1 < argc)
            isa = strcmp(argv[++i], "avx2") ? ~0u : DEV_REF | DEV_AVX2;
        else if (!strcmp(argv[i], "-d") && i + 1 < argc)
            b.dt = strcmp(argv[++i], "bf16") ? DT_F32 : DT_BF16;
        else if (!strcmp(argv[i], "-w") && i + 1 < argc)
            i8 = !strcmp(argv[++i], "i8");
        else if (!strcmp(argv[i], "-p") && i + 1 < argc) b.peak = atof(argv[++i]);
        else b.only = argv[i];
    }
    b.wdt = i8 ? DT_I8 : b.dt;
    if (dev_open(&b.d, "cpu", threads, isa)) return 1;
    ops_init(&b.ops, b.d);
    if (b.peak <= 0) find_peak(&b);
    printf("%s, %s, peak %.0f GFLOP/s\n", dev_name(b.d), b.dt == DT_F32 ? "f32" : "bf16", b.peak);
    static const int lin[][3] = {
        {4096, 320, 320}, {4096, 2560, 320}, {4096, 320, 1280}, {4096, 640, 2560}, {1024, 640, 640},
        {1024, 5120, 640}, {1024, 640, 2560}, {256, 1280, 1280}, {256, 10240, 1280},
        {256, 1280, 5120}, {64, 1280, 1280}, {77, 320, 768}, {77, 1280, 768}, {77, 3072, 768},
        {1, 1280, 320}, {1, 1280, 1280}, {2, 1280, 1280}, {16, 768, 192}, {4096, 16, 320},
        {4096, 320, 16}, {4096, 4, 320}, {4096, 320, 4}, {256, 128, 1280}, {256, 1280, 128}};
    for (size_t i = 0; i < sizeof lin / sizeof *lin; i++)
        linear(&b, lin[i][0], lin[i][1], lin[i][2]);
    static const int cv[][5] = {
        {1, 64, 320, 320, 1}, {1, 64, 960, 320, 1}, {1, 32, 640, 640, 1}, {1, 16, 1280, 1280, 1},
        {2, 16, 1280, 1280, 1}, {2, 32, 640, 640, 1}, {2, 64, 320, 320, 1},
        {1, 8, 1280, 1280, 1}, {1, 64, 320, 320, 2}, {1, 64, 4, 320, 1},
        {1, 64, 320, 4, 1}, {1, 64, 512, 512, 1}, {1, 256, 256, 256, 1}, {1, 512, 128, 128, 1},
        {1, 512, 3, 128, 1}, {1, 512, 128, 3, 1}, {16, 16, 64, 64, 1}, {16, 16, 192, 192, 1},
        {16, 8, 192, 192, 1}, {16, 32, 32, 64, 2}};
    for (size_t i = 0; i < sizeof cv / sizeof *cv; i++)
        conv(&b, cv[i][0], cv[i][1], cv[i][2], cv[i][3], cv[i][4]);
    dev_close(b.d);
    return 0;
}
