/* test_strips.c - maps done in strips: the same bits as done at once, in less memory. */
#include <string.h>

#include "engine/mem.h"
#include "engine/rng.h"
#include "engine/strips.h"
#include "models/model.h"
#include "models/vae.h"
#include "tests/test.h"

/* ---- the autoencoder ----------------------------------------------------- */

/* Widths that differ, so that there are shortcuts. */
static const SdConfig config = {
    .in_channels = 4, .unet_width = {32, 32, 32, 32}, .unet_heads = {8, 8, 8, 8}, .text_width = 64,
    .text_layers = 1, .text_heads = 1, .text_ff = 256, .vocab = 64, .vae_width = {32, 64, 64, 96}};

enum { W = 10, H = 13, PIXELS = 64 * W * H, LATENTS = 4 * W * H };

typedef struct {
    Model m;
    Exec exec[2];                  /* at once; in strips */
    float *in, *out[2];
} Both;

/* All weights at random: those that start at zero would hide what they are multiplied with. */
static int fill(Params *ps, Err *e)
{
    for (size_t i = 0; i < ps->count; i++) {
        Param *p = ps->list[i];
        float *v = mem_alloc(p->count * sizeof *v), fan = (float)(p->count / (size_t)p->dim[0]);
        if (!v) return err_nomem(e, p->count * 4, "a weight");
        rng_normal((RngKey){7, (uint32_t)i, 0, 0}, 0, v, p->count);
        for (size_t k = 0; k < p->count; k++)
            v[k] = p->ndim == 1 ? 1 + 0.2f * v[k] : v[k] / sqrtf(fan);
        int rc = params_set(ps, p, v, e);
        mem_free(v);
        TRY(rc);
    }
    return 0;
}

static int plan(Both *b, int decode, int strips, Err *e)
{
    Build g = model_graph(&b->m);
    int dim[4] = {1, decode ? H : 8 * H, decode ? W : 8 * W, decode ? 4 : 3};
    Tensor *x = graph_input(g.g, "x", DT_F32, 4, dim);
    graph_output(g.g, decode ? vae_decode_build(&g, &config, x) : vae_encode_build(&g, &config, x),
                 "y");
    if (strips) TRY(strips_cut(g.g, (size_t)1 << 18, &b->m.ops, e));
    return model_plan(&b->m, &b->exec[strips], &g, e);
}

static int run(Both *b, const char *device, Dtype dt, int decode, Err *e)
{
    ModelOptions o = {.config = &config, .seed = 1, .threads = 2, .device = device, .dtype = dt};
    size_t in = decode ? LATENTS : PIXELS * 3, out = decode ? PIXELS * 3 : 2 * LATENTS;
    TRY(model_open(&b->m, &o, e));
    for (int s = 0; s < 2; s++) TRY(plan(b, decode, s, e));
    TRY(model_load(&b->m, e));
    TRY(fill(b->m.ps, e));
    b->in = mem_alloc(in * sizeof(float));
    rng_normal((RngKey){3, 0, 0, 0}, 0, b->in, in);
    for (int s = 0; s < 2; s++) {
        b->out[s] = mem_calloc(out, sizeof(float));
        TRY(exec_set(&b->exec[s], "x", b->in, in, e));
        TRY(exec_run(&b->exec[s], e));
        TRY(exec_get(&b->exec[s], "y", b->out[s], out, e));
    }
    double sum = 0;
    for (size_t i = 0; i < out; i++) sum += fabs((double)b->out[0][i]);
    if (!(sum > 0 && sum < 1e9))
        return err_set(e, ERR_FAIL, "the result says nothing: sum %g", sum);
    size_t differ = 0;
    for (size_t i = 0; i < out; i++)
        differ += memcmp(&b->out[0][i], &b->out[1][i], sizeof(float)) != 0;
    if (differ)
        return err_set(e, ERR_FAIL, "%s, %s: %zu of %zu values differ", device,
                       model_dtype_name(dt), differ, out);
    size_t whole = b->exec[0].plan.slab_bytes, strips = b->exec[1].plan.slab_bytes;
    if (!b->m.ops.strips || strips * 100 < whole * 95) return 0;
    return err_set(e, ERR_FAIL, "%zu bytes at once, %zu in strips", whole, strips);
}

static void check(const char *device, Dtype dt, int decode)
{
    Both b = {0};
    Err e = {0};
    int rc = run(&b, device, dt, decode, &e);
    for (int s = 0; s < 2; s++) {
        mem_free(b.out[s]);
        exec_free(&b.exec[s]);
    }
    mem_free(b.in);
    model_close(&b.m);
    CHECK_OK(rc, &e);
}

TEST(strips_decode_the_same_bits)
{
    check("cpu", DT_F32, 1);
    check("cpu", DT_BF16, 1);
    check("cpu:avx2", DT_BF16, 1);
}

TEST(strips_encode_the_same_bits)
{
    check("cpu", DT_F32, 0);
    check("cpu", DT_BF16, 0);
}

/* ---- one convolution ----------------------------------------------------- */

enum { MAP_H = 80, MAP_W = 21 };

/* Rows 24..48, and the last ones from 48 on, against those of the whole map. */
static int strips_are_equal(Dev *d, const Ops *ops, Dtype dt, int cin, int cout)
{
    static const int rows[][2] = {{24, 48}, {48, MAP_H}};
    size_t es = dtype_bytes(dt), in = (size_t)MAP_H * MAP_W * (size_t)cin,
           out = (size_t)MAP_H * MAP_W * (size_t)cout;
    size_t nw = (size_t)cout * 9 * (size_t)cin;
    Conv2d all = {1, MAP_H, MAP_W, cin, cout, 3, 1, 1, 1, 1, DT_F32, 0, 0}, part[] = {all, all};
    size_t need = ops->conv2d_scratch(d, &all, dt);
    for (int i = 0; i < 2; i++) {
        int to = rows[i][1];
        part[i].above = rows[i][0] - 1, part[i].below = to < MAP_H ? MAP_H - to - 1 : 0;
        part[i].h = MAP_H - part[i].above - part[i].below;
        size_t less = ops->conv2d_scratch(d, &part[i], dt);
        if (less > need) need = less;
    }
    float *v = mem_alloc((in + nw) * sizeof *v), *w = v + in;
    char *x = mem_alloc(in * es), *y = mem_alloc(out * es), *z = mem_alloc(out * es), *ws;
    int ok = v && x && y && z && dev_alloc(d, (void **)&ws, need + 64) == DEV_OK;
    if (ok) {
        rng_normal((RngKey){9, (uint32_t)cin, 0, 0}, 0, v, in + nw);
        ops->cast[dt][DT_F32](d, in, x, v);
        d->ws = ws, d->ws_bytes = need;
        ops->conv2d[dt](d, &all, y, x, w, NULL, NULL, NULL);
        for (int i = 0; i < 2; i++) {
            size_t row = MAP_W * (size_t)cout * es, count = (size_t)(rows[i][1] - rows[i][0]);
            char *from = x + (size_t)part[i].above * MAP_W * (size_t)cin * es;
            ops->conv2d[dt](d, &part[i], z, from, w, NULL, NULL, NULL);
            ok &= conv2d_rows(&part[i]) == (int)count &&
                  !memcmp(z, y + (size_t)rows[i][0] * row, count * row);
        }
        dev_free(d, ws, need + 64);
    }
    mem_free(v), mem_free(x), mem_free(y), mem_free(z);
    return ok;
}

TEST(strips_of_a_convolution)
{
    static const char *const devices[] = {"cpu", "cpu:avx2", "cpu:ref"};
    static const int channels[][2] = {{64, 48}, {3, 32}, {40, 3}, {32, 260}};
    for (int i = 0; i < 3; i++) {
        Dev *d;
        Ops ops;
        if (dev_open(&d, devices[i], 2, ~0u)) continue;
        ops_init(&ops, d);
        int ok = 1, kinds = i < 2 ? 4 : 3;             /* the widest says nothing of plain loops */
        for (Dtype dt = 0; dt < DT_N; dt++)
            for (int c = 0; c < kinds; c++)
                ok &= strips_are_equal(d, &ops, dt, channels[c][0], channels[c][1]);
        dev_close(d);
        CHECK(ok);
    }
}
