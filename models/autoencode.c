/* autoencode.c - see autoencode.h. */
#include "models/autoencode.h"

#include <math.h>
#include <string.h>

#include "engine/mem.h"
#include "engine/rng.h"
#include "models/vae.h"

static const float EDGE_WEIGHT = 0.5f;

static int build(Autoencode *a, Err *e)
{
    const SdConfig *c = &a->m->ck->config;
    Build b = model_graph(a->m);
    if (!b.g) return err_nomem(e, sizeof *b.g, "the graph");
    int n = a->c.batch, s = a->c.crop, one = 1;
    Tensor *x = graph_input(b.g, "image", DT_F32, 4, (int[]){n, s, s, 3});
    Tensor *noise = graph_input(b.g, "noise", DT_F32, 4, (int[]){n, s / 8, s / 8, SD_LATENT});
    Tensor *scale[2] = {graph_input(b.g, "scale", DT_F32, 1, &one),
                        graph_input(b.g, "kl_scale", DT_F32, 1, &one)};
    Tensor *loss[2], *moments = vae_encode_build(&b, c, x);
    Tensor *z = graph_gauss(b.g, moments, noise, &loss[1]);
    loss[0] = graph_recon(b.g, vae_decode_build(&b, c, z), x, EDGE_WEIGHT);
    graph_output(b.g, z, "z");
    graph_output(b.g, loss[0], "loss");
    graph_output(b.g, loss[1], "kl");
    graph_grad(b.g, loss, scale, 2);
    return model_plan(a->m, &a->exec, &b, e);
}

static int load_pictures(Autoencode *a, Err *e)
{
    a->pictures = mem_calloc(a->ds->item_count, sizeof *a->pictures);
    if (!a->pictures) return err_nomem(e, a->ds->item_count * sizeof *a->pictures, "the pictures");
    for (size_t i = 0; i < a->ds->item_count; i++) {
        const DataItem *item = &a->ds->items[i];
        if (!item->repeats) continue;
        TRY(dataset_image(&a->pictures[i], item, 0, e));
        if (a->pictures[i].w < a->c.crop || a->pictures[i].h < a->c.crop)
            return err_set(e, ERR_USAGE,
                           "option --vae_crop: %s is trained at %dx%d, smaller than a crop of %d",
                           item->path, a->pictures[i].w, a->pictures[i].h, a->c.crop);
    }
    return 0;
}

int autoencode_init(Autoencode *a, Model *m, const Dataset *ds, const AutoencodeConfig *c, Err *e)
{
    *a = (Autoencode){.m = m, .ds = ds, .c = *c, .epoch = UINT32_MAX};
    size_t pixels = (size_t)c->batch * (size_t)c->crop * (size_t)c->crop;
    a->order = mem_alloc(ds->entry_count * sizeof *a->order);
    a->crops = mem_alloc(pixels * 3 * sizeof(float));
    a->noise = mem_alloc(pixels / 64 * SD_LATENT * sizeof(float));
    int rc = a->order && a->crops && a->noise ? 0 : err_nomem(e, pixels * 12, "a batch");
    if (!rc) rc = load_pictures(a, e);
    if (!rc) rc = build(a, e);
    if (rc) autoencode_free(a);
    return rc;
}

void autoencode_free(Autoencode *a)
{
    exec_free(&a->exec);
    for (size_t i = 0; a->pictures && i < a->ds->item_count; i++) image_free(&a->pictures[i]);
    mem_free(a->pictures);
    mem_free(a->order);
    mem_free(a->crops);
    mem_free(a->noise);
    *a = (Autoencode){0};
}

/* The picture of sample number k, counted over all steps: each epoch visits
 * every entry once, in an order of its own. */
static const Image *picture(Autoencode *a, uint64_t k)
{
    uint32_t count = a->ds->entry_count, epoch = (uint32_t)(k / count);
    if (epoch != a->epoch) {
        for (uint32_t i = 0; i < count; i++) a->order[i] = i;
        rng_shuffle((RngKey){a->c.seed, epoch, 0, RNG_PURPOSE_CROP}, a->order, count);
        a->epoch = epoch;
    }
    return &a->pictures[a->ds->entries[a->order[k % count]]];
}

/* Crop i of step's batch, as floats in [-1,1]. Half of them have their colour
 * channels shuffled: most pictures differ along one axis of colour (orange to
 * blue, mostly), and the others must not wait for it. */
static void crop(Autoencode *a, uint32_t step, int i)
{
    static const uint8_t ORDER[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                        {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    size_t s = (size_t)a->c.crop;
    const Image *p = picture(a, (uint64_t)step * (uint64_t)a->c.batch + (uint64_t)i);
    RngKey key = {a->c.seed, step, (uint32_t)i + 1, RNG_PURPOSE_CROP};
    size_t x = rng_below(key, 0, (uint32_t)(p->w - (int)s + 1)),
           y = rng_below(key, 1, (uint32_t)(p->h - (int)s + 1));
    float *dst = a->crops + (size_t)i * s * s * 3;
    uint32_t draw = rng_below(key, 2, 10);
    const uint8_t *order = ORDER[draw < 6 ? draw : 0];
    for (size_t r = 0; r < s; r++) {
        const uint8_t *src = p->px + ((y + r) * (size_t)p->w + x) * 3;
        for (size_t k = 0; k < s; k++, src += 3)
            for (int c = 0; c < 3; c++) *dst++ = (float)src[order[c]] / 255 * 2 - 1;
    }
}

int autoencode_run(Autoencode *a, uint32_t step, float *loss, Err *e)
{
    size_t pixels = (size_t)a->c.batch * (size_t)a->c.crop * (size_t)a->c.crop;
    size_t latents = pixels / 64 * SD_LATENT;
    for (int i = 0; i < a->c.batch; i++) crop(a, step, i);
    rng_normal((RngKey){a->c.seed, step, 0, RNG_PURPOSE_LATENT}, 0, a->noise, latents);
    float scale = 1, kl;
    TRY(exec_set(&a->exec, "image", a->crops, pixels * 3, e));
    TRY(exec_set(&a->exec, "noise", a->noise, latents, e));
    TRY(exec_set(&a->exec, "scale", &scale, 1, e));
    TRY(exec_set(&a->exec, "kl_scale", &a->c.kl_weight, 1, e));
    TRY(exec_run(&a->exec, e));
    TRY(exec_get(&a->exec, "loss", loss, 1, e));
    TRY(exec_get(&a->exec, "kl", &kl, 1, e));
    *loss += a->c.kl_weight * kl;
    return 0;
}

/* ---- unit latents -------------------------------------------------------- */

/* p = a * p + b for elements [first, first+count) in file layout. */
static int rescale(Params *ps, const char *name, size_t first, size_t count, float a, float b,
                   Err *e)
{
    Param *p = params_find(ps, name);
    float *v = p ? mem_alloc(p->count * sizeof(float)) : NULL;
    if (!v) return err_nomem(e, 64, name);
    int rc = params_read(ps, p, v, e);
    for (size_t i = 0; !rc && i < count; i++) v[first + i] = a * v[first + i] + b;
    if (!rc) rc = params_set(ps, p, v, e);
    mem_free(v);
    return rc;
}

int autoencode_unit_latents(Autoencode *a, int steps, Err *e)
{
    size_t count =
        (size_t)a->c.batch * (size_t)(a->c.crop / 8) * (size_t)(a->c.crop / 8) * SD_LATENT;
    double sum = 0, squares = 0, n = (double)count * steps;
    for (int k = 0; k < steps; k++) {
        float loss;
        TRY(autoencode_run(a, (uint32_t)k, &loss, e));
        TRY(exec_get(&a->exec, "z", a->noise, count, e));
        for (size_t i = 0; i < count; i++)
            sum += a->noise[i], squares += (double)a->noise[i] * a->noise[i];
    }
    double deviation = sqrt(squares / n - sum / n * (sum / n));
    if (!(deviation > 1e-6))
        return err_set(e, ERR_FAIL,
                       "the latents do not vary: the autoencoder has not learnt anything");
    float s = (float)(1 / (VAE_SCALE * deviation));
    Params *ps = a->m->ps;
    TRY(rescale(ps, "vae.quant_conv.weight", 0, SD_LATENT * 2 * SD_LATENT, s, 0, e));
    TRY(rescale(ps, "vae.quant_conv.bias", 0, SD_LATENT, s, 0, e));
    TRY(rescale(ps, "vae.quant_conv.bias", SD_LATENT, SD_LATENT, 1, 2 * logf(s), e));
    return rescale(ps, "vae.post_quant_conv.weight", 0, SD_LATENT * SD_LATENT, 1 / s, 0, e);
}
