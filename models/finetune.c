/* finetune.c - see finetune.h. */
#include "models/finetune.h"

#include <math.h>
#include <string.h>

#include "engine/mem.h"
#include "engine/rng.h"
#include "models/vae.h"
#include "tokenizer/chunk.h"

/* ---- graphs -------------------------------------------------------------- */

static Denoise *graph_for(Finetune *f, int n, int h, int w)
{
    for (size_t i = 0; i < f->graph_count; i++) {
        Denoise *d = &f->graphs[i];
        if (d->n == n && d->h == h && d->w == w) return d;
    }
    return NULL;
}

static Exec *encoder_for(Finetune *f, int h, int w)
{
    for (size_t i = 0; i < f->encoder_count; i++) {
        const Tensor *t = graph_find(f->encoders[i].g, "image");
        if (t->dim[1] == h && t->dim[2] == w) return &f->encoders[i];
    }
    return NULL;
}

static int add_graph(Finetune *f, int n, int h, int w, Err *e)
{
    if (graph_for(f, n, h, w)) return 0;
    Denoise *a = mem_grow(f->graphs, f->graph_count, &f->graph_cap, sizeof *a);
    if (!a) return err_nomem(e, sizeof *a, "graphs");
    f->graphs = a;
    TRY(denoise_init(&a[f->graph_count], f->m, &f->schedule, &f->c.denoise, n, h, w, f->c.chunks,
                     f->c.masked, f->c.backward, e));
    f->graph_count++;
    return 0;
}

static int add_encoder(Finetune *f, int h, int w, Err *e)
{
    if (encoder_for(f, h, w)) return 0;
    Exec *a = mem_grow(f->encoders, f->encoder_count, &f->encoder_cap, sizeof *a);
    if (!a) return err_nomem(e, sizeof *a, "graphs");
    f->encoders = a;
    Build b = model_graph(f->m);
    if (!b.g) return err_nomem(e, sizeof *b.g, "graphs");
    Tensor *x = graph_input(b.g, "image", DT_F32, 4, (int[]){1, h, w, 3});
    graph_output(b.g, vae_encode_build(&b, &f->m->ck->config, x), "moments");
    Slab *slab = f->varies ? &f->m->slab : &f->slab;
    int rc = model_plan_on(f->m, slab, &a[f->encoder_count], &b, e);
    if (rc) exec_free(&a[f->encoder_count]);
    else f->encoder_count++;
    return rc;
}

/* How many of the `left` pictures of a batch run next. */
static int piece(const Finetune *f, int left)
{
    return f->c.micro && f->c.micro < left ? f->c.micro : left;
}

static int add_batch(Finetune *f, int count, int h, int w, Err *e)
{
    for (int n; count; count -= n) {
        n = piece(f, count);
        TRY(add_graph(f, n, h, w, e));
    }
    return 0;
}

/* Each bucket is cut into full batches and perhaps a short one. */
static int plan_graphs(Finetune *f, Err *e)
{
    for (size_t i = 0; i < f->ds->bucket_count; i++) {
        const DataBucket *b = &f->ds->buckets[i];
        int h = b->h / 8, w = b->w / 8, batch = b->batch, rest = (int)(b->count % (uint32_t)batch);
        TRY(add_encoder(f, b->h, b->w, e));
        if (b->count >= (uint32_t)batch) TRY(add_batch(f, batch, h, w, e));
        TRY(add_batch(f, rest, h, w, e));
    }
    return 0;
}

static int alloc_batch(Finetune *f, Err *e)
{
    size_t n = (size_t)f->ds->cfg.batch_size, k = 0;
    for (size_t i = 0; i < f->graph_count; i++) {
        size_t gk = n * (size_t)f->graphs[i].h * (size_t)f->graphs[i].w * SD_LATENT;
        if (gk > k) k = gk;
    }
    f->latents = mem_alloc(k * sizeof(float));
    f->noise = mem_alloc(k * sizeof(float));
    f->weight = mem_alloc(n * sizeof(float));
    f->per = mem_alloc(n * sizeof(float));
    f->timestep = mem_alloc(n * sizeof(int));
    f->ids = mem_alloc(n * (size_t)f->c.chunks * SD_POSITIONS * sizeof *f->ids);
    f->moments = mem_calloc(2 * f->ds->item_count, sizeof *f->moments);
    if (f->varies) f->use = mem_alloc(2 * k / n * sizeof(float));
    int gamma = f->c.noise.gamma > 0, scales = f->c.noise.iterations > 0, masked = f->c.masked;
    if (gamma) f->input_noise = mem_alloc(k * sizeof(float));
    if (scales) f->scratch = mem_alloc(k / n * sizeof(float));
    if (masked) f->mask = mem_alloc(k / SD_LATENT * sizeof(float));
    if (masked) f->masks = mem_calloc(2 * f->ds->item_count, sizeof *f->masks);
    int ok = f->latents && f->noise && f->weight && f->per && f->timestep && f->ids && f->moments;
    ok &= !f->varies || f->use;
    ok &=
        (!gamma || f->input_noise) && (!scales || f->scratch) && (!masked || (f->mask && f->masks));
    if (ok) return 0;
    return err_nomem(e, 2 * k * sizeof(float), "a batch");
}

int finetune_init(Finetune *f, Model *m, const Dataset *ds, const Tokenizer *tok,
                  const FinetuneConfig *c, Err *e)
{
    *f = (Finetune){.m = m, .ds = ds, .tok = tok, .c = *c, .epoch_index = UINT32_MAX,
                    .varies = dataset_varies(ds)};
    schedule_init(&f->schedule);
    if (c->zero_terminal) schedule_zero_terminal(&f->schedule);
    f->batches = dataset_batches(ds);
    f->steps = dataset_steps(ds, c->accumulation);
    int rc = plan_graphs(f, e);
    if (!rc) rc = alloc_batch(f, e);
    if (rc) finetune_free(f);
    return rc;
}

void finetune_free(Finetune *f)
{
    for (size_t i = 0; i < f->graph_count; i++) denoise_free(&f->graphs[i]);
    for (size_t i = 0; i < f->encoder_count; i++) exec_free(&f->encoders[i]);
    for (size_t i = 0; f->masks && i < 2 * f->ds->item_count; i++) mem_free(f->masks[i]);
    slab_free(&f->slab);
    dataset_epoch_free(&f->epoch);
    latent_cache_close(&f->cache);
    latent_pool_free(&f->own);
    void *owned[] = {f->graphs,      f->encoders, f->moments,  f->latents, f->noise,
                     f->weight,      f->per,      f->timestep, f->ids,     f->masks,
                     f->input_noise, f->mask,     f->scratch,  f->use};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) mem_free(owned[i]);
    *f = (Finetune){0};
}

int finetune_fit(Finetune *f, size_t slab_bytes, Err *e)
{
    for (size_t i = 0; i < f->graph_count; i++) TRY(exec_fit(&f->graphs[i].exec, slab_bytes, e));
    for (size_t i = 0; i < f->encoder_count && f->varies; i++)
        TRY(exec_fit(&f->encoders[i], SIZE_MAX, e));
    return 0;
}

void finetune_update(Finetune *f, int (*update)(void *ctx, Param *p, float *grad, Err *e),
                     void *ctx)
{
    for (size_t i = 0; i < f->graph_count; i++) {
        f->graphs[i].exec.update = update;
        f->graphs[i].exec.update_ctx = ctx;
    }
}

/* Whether its latents are the same in every use, but for mirroring. */
static int kept(const Finetune *f, const DataItem *item)
{
    return item->repeats && !(f->varies && dataset_item_varies(f->ds, item));
}

size_t finetune_bytes(const Finetune *f)
{
    size_t batch = 0, latents = 0, kinds = f->ds->cfg.flip_aug ? 2 : 1;
    for (size_t i = 0; i < f->graph_count; i++) {
        const Denoise *d = &f->graphs[i];
        size_t each = (size_t)d->h * (size_t)d->w * SD_LATENT,
               all = (size_t)f->ds->cfg.batch_size * each;
        batch += 2 * (size_t)d->n * each;      /* of each graph; and two of the largest batch */
        if (all > latents) latents = all;
    }
    batch += 2 * latents;
    latents = 0;
    for (size_t i = 0; i < f->ds->item_count; i++) {
        const DataItem *item = &f->ds->items[i];
        if (kept(f, item))
            latents += (size_t)item->fit.bucket.w * (size_t)item->fit.bucket.h / 64 * 2 * SD_LATENT;
    }
    if (f->c.masked) latents += latents / (2 * SD_LATENT);
    return (batch + kinds * latents) * sizeof(float);
}

/* ---- latents ------------------------------------------------------------- */

static int run_encoder(Finetune *f, const DataItem *item, int flip, float *moments, size_t count,
                       Err *e)
{
    Image im;
    TRY(dataset_image(&im, item, flip, e));
    size_t values = (size_t)im.w * (size_t)im.h * 3;
    Exec *x = encoder_for(f, im.h, im.w);
    float *px = mem_alloc(values * sizeof(float));
    int rc = px ? 0 : err_nomem(e, values * 4, item->path);
    if (!rc) image_to_float(px, &im);
    if (!rc) rc = exec_set(x, "image", px, values, e);
    if (!rc) rc = exec_run(x, e);
    if (!rc) rc = exec_get(x, "moments", moments, count, e);
    for (size_t i = 0; !rc && i < count; i++)
        if (!isfinite(moments[i]))
            rc = err_set(e, ERR_FAIL,
                         "%s: its latents are not finite; the VAE overflows in this dtype, try "
                         "--mixed_precision no",
                         item->path);
    mem_free(px);
    image_free(&im);
    return rc;
}

static LatentPool *pool(Finetune *f) { return f->c.pool ? f->c.pool : &f->own; }

/* The moments of one picture: from the cache on disk, or encoded and put there. */
static int encode(Finetune *f, const DataItem *item, int flip, float *moments, size_t count, Err *e)
{
    int hit = 0;
    if (f->cache.dir) TRY(latent_cache_get(&f->cache, item, flip, moments, count, &hit, e));
    if (hit) return 0;
    TRY(run_encoder(f, item, flip, moments, count, e));
    return f->cache.dir ? latent_cache_put(&f->cache, item, flip, moments, count, e) : 0;
}

/* Encodes it into the pool. */
static int add_moments(Finetune *f, const DataItem *item, int flip, float **moments, Err *e)
{
    size_t count = (size_t)item->fit.bucket.w * (size_t)item->fit.bucket.h / 64 * 2 * SD_LATENT;
    float *made = mem_alloc(count * sizeof(float));
    int rc = made ? encode(f, item, flip, made, count, e) : err_nomem(e, count * 4, item->path);
    if (!rc) rc = latent_pool_add(pool(f), item, flip, made, e);
    if (rc) mem_free(made);
    else *moments = made;
    return rc;
}

static int kinds(const Finetune *f) { return f->ds->cfg.flip_aug ? 2 : 1; }

/* What the pool has; *missing counts the others. */
static int find_all(Finetune *f, size_t *missing, Err *e)
{
    for (size_t i = 0; i < f->ds->item_count; i++)
        for (int flip = 0; flip < kinds(f) && kept(f, &f->ds->items[i]); flip++) {
            float **at = &f->moments[2 * i + (size_t)flip];
            TRY(latent_pool_find(pool(f), &f->ds->items[i], flip, at, e));
            *missing += !*at;
        }
    return 0;
}

static int encode_all(Finetune *f, int (*tick)(void *ctx, size_t done, size_t total), void *ctx,
                      Err *e)
{
    size_t total = f->ds->item_count * (size_t)kinds(f), done = 0;
    for (size_t i = 0; i < f->ds->item_count; i++)
        for (int flip = 0; flip < kinds(f); flip++) {
            float **at = &f->moments[2 * i + (size_t)flip];
            int rc = tick ? tick(ctx, ++done, total) : 0;
            if (rc) return err_set(e, rc, "stopped while encoding pictures");
            if (!kept(f, &f->ds->items[i]) || *at) continue;
            TRY(add_moments(f, &f->ds->items[i], flip, at, e));
        }
    return 0;
}

static int read_masks(Finetune *f, Err *e)
{
    for (size_t i = 0; f->masks && i < f->ds->item_count; i++)
        for (int flip = 0; flip < kinds(f) && kept(f, &f->ds->items[i]); flip++)
            TRY(dataset_mask(&f->masks[2 * i + (size_t)flip], f->ds, &f->ds->items[i], flip, e));
    return 0;
}

int finetune_cache(Finetune *f, int (*tick)(void *ctx, size_t done, size_t total), void *ctx,
                   Err *e)
{
    static const char *const parts[] = {"vae.encoder.", "vae.quant_conv."};
    const Param *first = params_find(f->m->ps, "vae.encoder.conv_in.weight");
    int absent = first && !first->data;
    size_t missing = 0;
    TRY(read_masks(f, e));
    TRY(find_all(f, &missing, e));
    if (!missing && !f->varies) return 0;
    if (f->c.cache_dir) TRY(latent_cache_open(&f->cache, f->c.cache_dir, f->m, e));
    TRY(slab_alloc(f->varies ? &f->m->slab : &f->slab, f->m->dev, e));
    for (int i = 0; absent && i < 2; i++) TRY(model_load_part(f->m, parts[i], e));
    int rc = missing ? encode_all(f, tick, ctx, e) : 0;
    if (f->varies) return rc;
    for (int i = 0; absent && i < 2; i++) model_release(f->m, parts[i]);
    slab_release(&f->slab);
    return rc;
}

/* ---- a batch ------------------------------------------------------------- */

/* A draw from the posterior, scaled: (h,w,4) from (h,w,8). */
static void draw_latents(float *dst, const float *moments, size_t pixels, RngKey key)
{
    rng_normal(key, 0, dst, pixels * SD_LATENT);
    for (size_t i = 0; i < pixels; i++)
        for (size_t c = 0; c < SD_LATENT; c++) {
            float mean = moments[i * 8 + c], logvar = fminf(fmaxf(moments[i * 8 + 4 + c], -30), 20);
            float *v = &dst[i * SD_LATENT + c];
            *v = VAE_SCALE * (mean + expf(0.5f * logvar) * *v);
        }
}

/* The caption of a sample; the caller owns it. */
static int caption_of(char **text, const Finetune *f, const DataSample *s, uint32_t epoch,
                      RngKey key, Err *e)
{
    const char *const *t = f->c.templates;
    uint32_t count = 0;
    if (!t) return dataset_caption(text, f->ds, s, epoch, key.step, e);
    while (t[count]) count++;
    key.purpose = RNG_PURPOSE_TEMPLATE;
    const char *chosen = t[rng_below(key, 0, count)], *at = strstr(chosen, "{}");
    *text = mem_printf("%.*s%s%s", (int)(at - chosen), chosen, f->c.word, at + 2);
    return *text ? 0 : err_nomem(e, 64, "a caption");
}

/* The moments of a sample, and its mask (pixels) if there are any. */
static int latents_of(Finetune *f, const DataSample *s, uint32_t epoch, const float **moments,
                      float *mask, size_t pixels, Err *e)
{
    size_t at = 2 * s->item + (size_t)s->flip;
    *moments = f->moments[at];
    if (*moments) {
        if (mask) memcpy(mask, f->masks[at], pixels * sizeof(float));
        return 0;
    }
    DataItem item = dataset_use(f->ds, s, epoch);
    float *made;
    *moments = f->use;
    TRY(run_encoder(f, &item, s->flip, f->use, pixels * 2 * SD_LATENT, e));
    if (!mask) return 0;
    TRY(dataset_mask(&made, f->ds, &item, s->flip, e));
    memcpy(mask, made, pixels * sizeof(float));
    mem_free(made);
    return 0;
}

/* Fills place i of the batch; key.sample counts the samples of an optimizer step. */
static int fill_sample(Finetune *f, const DataBatch *b, int i, RngKey key, uint32_t epoch, Err *e)
{
    const DataSample *s = &b->samples[i];
    size_t pixels = (size_t)(b->w / 8) * (size_t)(b->h / 8), at = (size_t)i * pixels * SD_LATENT;
    const float *moments;
    float *mask = f->masks ? f->mask + at / SD_LATENT : NULL;
    TRY(latents_of(f, s, epoch, &moments, mask, pixels, e));
    key.purpose = RNG_PURPOSE_LATENT;
    draw_latents(f->latents + at, moments, pixels, key);
    RngKey batch = {key.seed, key.step, key.sample - (uint32_t)i, 0};
    noise_draw(&f->c.noise, f->noise + at, f->latents + at, b->h / 8, b->w / 8, key, batch,
               f->scratch);
    key.purpose = RNG_PURPOSE_TIMESTEP;
    uint32_t span = (uint32_t)(f->c.max_timestep - f->c.min_timestep);
    f->timestep[i] = f->c.min_timestep + (int)rng_below(key, 0, span);
    f->weight[i] = (float)f->ds->items[s->item].weight;
    char *text;
    TRY(caption_of(&text, f, s, epoch, key, e));
    int32_t *ids = f->ids + (size_t)i * (size_t)f->c.chunks * SD_POSITIONS;
    int rc = chunk_caption(ids, (size_t)f->c.chunks, f->tok, text, strlen(text),
                           f->m->ck->config.openclip ? 0 : BPE_EOS, e);
    mem_free(text);
    return rc;
}

static int epoch_of(Finetune *f, uint32_t epoch, Err *e)
{
    if (epoch == f->epoch_index) return 0;
    dataset_epoch_free(&f->epoch);
    f->epoch_index = UINT32_MAX;
    TRY(dataset_epoch(&f->epoch, f->ds, epoch, e));
    f->epoch_index = epoch;
    return 0;
}

int finetune_micros(const Finetune *f, uint32_t step)
{
    size_t first = step % f->steps * (size_t)f->c.accumulation, left = f->batches - first;
    return left < (size_t)f->c.accumulation ? (int)left : f->c.accumulation;
}

static void add_bands(const Finetune *f, int count, FinetuneBands *bands)
{
    int span = f->c.max_timestep - f->c.min_timestep;
    for (int i = 0; i < count; i++) {
        int k = (int)((int64_t)(f->timestep[i] - f->c.min_timestep) * FINETUNE_BANDS / span);
        bands->sum[k] += f->per[i];
        bands->count[k]++;
    }
}

/* The batch that was filled, in pieces; each counts by its share of the pictures. bands: NULL ok. */
static int run_batch(Finetune *f, const DataBatch *b, float grad_scale, float *loss,
                     FinetuneBands *bands, Err *e)
{
    size_t each = (size_t)(b->w / 8) * (size_t)(b->h / 8) * SD_LATENT,
           ids = (size_t)f->c.chunks * SD_POSITIONS;
    double sum = 0;
    for (int at = 0, n; at < b->count; at += n) {
        n = piece(f, b->count - at);
        size_t i = (size_t)at;
        Denoise *d = graph_for(f, n, b->h / 8, b->w / 8);
        DenoiseBatch in = {f->latents + i * each,
                           f->noise + i * each,
                           f->timestep + i,
                           f->ids + i * ids,
                           f->weight + i,
                           f->mask ? f->mask + i * each / SD_LATENT : NULL,
                           f->input_noise ? f->input_noise + i * each : NULL,
                           f->dropout_seed + (uint32_t)at};
        float l, share = (float)n / (float)b->count;
        TRY(denoise_run(d, &in, grad_scale * share, &l, bands ? f->per + i : NULL, e));
        sum += (double)l * share;
    }
    *loss = (float)sum;
    if (bands) add_bands(f, b->count, bands);
    return 0;
}

/* Noise that depends on the whole batch. first: the key of its first sample. */
static void finish_noise(Finetune *f, const DataBatch *b, RngKey first)
{
    size_t each = (size_t)(b->w / 8) * (size_t)(b->h / 8) * SD_LATENT;
    noise_finish(&f->c.noise, f->noise, (size_t)b->count * each);
    for (int i = 0; f->input_noise && i < b->count; i++) {
        RngKey key = first;
        key.sample += (uint32_t)i;
        noise_perturb(&f->c.noise, f->input_noise + (size_t)i * each, f->noise + (size_t)i * each,
                      each, key, first);
    }
}

static int fill_batch(Finetune *f, const DataBatch *b, RngKey first, uint32_t epoch, Err *e)
{
    for (int i = 0; i < b->count; i++) {
        RngKey key = first;
        key.sample += (uint32_t)i;
        TRY(fill_sample(f, b, i, key, epoch, e));
    }
    finish_noise(f, b, first);
    return 0;
}

int finetune_run(Finetune *f, uint32_t step, int micro, float *loss, Err *e)
{
    uint32_t epoch = (uint32_t)(step / f->steps);
    TRY(epoch_of(f, epoch, e));
    const DataBatch *b =
        &f->epoch.batches[step % f->steps * (size_t)f->c.accumulation + (size_t)micro];
    TRY(fill_batch(f, b, (RngKey){f->c.seed, step, (uint32_t)(micro * f->ds->cfg.batch_size), 0},
                   epoch, e));
    f->dropout_seed = rng_u32((RngKey){f->c.seed, step, (uint32_t)micro, RNG_PURPOSE_DROPOUT}, 0);
    return run_batch(f, b, 1.0f / (float)finetune_micros(f, step), loss, f->bands, e);
}

static size_t validate_batches(const Finetune *f, int max_batches)
{
    return max_batches && (size_t)max_batches < f->batches ? (size_t)max_batches : f->batches;
}

size_t finetune_validate_size(const Finetune *f, int max_batches, int times)
{
    return validate_batches(f, max_batches) * (size_t)f->ds->cfg.batch_size * (size_t)times;
}

int finetune_validate(Finetune *f, int max_batches, int times, double *loss, FinetuneBands *bands,
                      Err *e)
{
    double sum = 0;
    size_t count = validate_batches(f, max_batches);
    if (bands) *bands = (FinetuneBands){0};
    TRY(epoch_of(f, 0, e));
    for (size_t k = 0; k < count; k++)
        for (int i = 1; i <= times; i++) {
            const DataBatch *b = &f->epoch.batches[k];
            int span = f->c.max_timestep - f->c.min_timestep;
            float l;
            TRY(fill_batch(f, b,
                           (RngKey){f->c.seed, (uint32_t)(k * (size_t)times) + (uint32_t)i, 0, 0},
                           0, e));
            for (int s = 0; s < b->count; s++)
                f->timestep[s] = f->c.min_timestep + span * i / (times + 1);
            TRY(run_batch(f, b, 1, &l, bands, e));
            sum += l;
        }
    *loss = sum / (double)(count * (size_t)times);
    return 0;
}

int finetune_loss(Finetune *f, int passes, double *loss, Err *e)
{
    double sum = 0;
    size_t count = 0;
    for (uint32_t step = 0; step < (uint32_t)passes * f->steps; step++)
        for (int i = 0; i < finetune_micros(f, step); i++, count++) {
            float l;
            TRY(finetune_run(f, step, i, &l, e));
            sum += l;
        }
    *loss = sum / (double)count;
    return 0;
}
