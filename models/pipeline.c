/* pipeline.c - see pipeline.h. */
#include "models/pipeline.h"

#include <math.h>
#include <string.h>

#include "engine/layout.h"
#include "engine/mem.h"
#include "models/clip.h"
#include "models/unet.h"
#include "models/vae.h"

/* ---- prompts ------------------------------------------------------------- */

static int guided(const Pipeline *p) { return p->c.cfg_scale != 1; }

/* Prompt and negative prompt go through the U-Net as one batch. */
static int paired(const Pipeline *p) { return p->chunks[0].count == p->chunks[1].count; }

/* The context of the prompt (0) or the negative prompt (1). */
static size_t context_floats(const Pipeline *p, int which)
{
    return p->chunks[which].count * CHUNK_IDS * (size_t)p->m->ck->config.text_width;
}

static int parse(Pipeline *p, const Tokenizer *tok, int which, const char *text, int32_t pad,
                 Err *e)
{
    Prompt prompt = {0};
    int vocab = p->m->ck->config.vocab;
    int rc = prompt_parse(&prompt, text, strlen(text), e);
    if (!rc) rc = chunk_prompt(&p->chunks[which], tok, &prompt, pad, e);
    for (size_t i = 0; !rc && i < p->chunks[which].count * CHUNK_IDS; i++) {
        int32_t id = p->chunks[which].chunks[i / CHUNK_IDS].ids[i % CHUNK_IDS];
        if (id >= vocab + p->m->embeddings.rows)
            rc = err_set(e, ERR_INPUT,
                         "the model's vocabulary has %d tokens and lacks number "
                         "%d of the prompt; a model with all %d tokens of CLIP is needed",
                         vocab, (int)id, BPE_VOCAB);
    }
    prompt_free(&prompt);
    return rc;
}

static int parse_prompts(Pipeline *p, const Tokenizer *tok, const PipelineConfig *c, Err *e)
{
    int32_t pad = p->m->ck->config.openclip ? 0 : BPE_EOS;
    ChunkList *both[2] = {&p->chunks[0], &p->chunks[1]};
    TRY(parse(p, tok, 0, c->prompt, pad, e));
    if (!guided(p)) return 0;
    TRY(parse(p, tok, 1, c->negative, pad, e));
    return c->pad_conds ? chunk_even(both, 2, pad, e) : 0;
}

/* ---- graphs -------------------------------------------------------------- */

static int tick(void *ctx, int node, int count)
{
    Pipeline *p = ctx;
    (void)node, (void)count;
    return p->c.poll ? p->c.poll(p->c.ctx, p->done, p->sampler.steps) : 0;
}

static int plan(Pipeline *p, Slab *slab, Exec *x, Build *b, Err *e)
{
    TRY(model_plan_on(p->m, slab, x, b, e));
    x->tick = tick;
    x->ctx = p;
    x->trace = p->c.trace;
    return 0;
}

static int plan_text(Pipeline *p, Err *e)
{
    int n = (int)(p->chunks[0].count + p->chunks[1].count);
    Build b = model_graph(p->m);
    if (b.g) {
        Tensor *ids = graph_input_ids(b.g, "ids", n, CHUNK_IDS);
        graph_output(b.g, clip_build(&b, &p->m->ck->config, ids, p->c.clip_skip), "context");
    }
    return plan(p, &p->m->slab, &p->text, &b, e);
}

/* For n pictures of the same prompt length. */
static int plan_unet(Pipeline *p, Exec *x, int n, size_t chunks, Err *e)
{
    const SdConfig *c = &p->m->ck->config;
    Build b = model_graph(p->m);
    if (b.g) {
        Tensor *in = graph_input(b.g, "x", DT_F32, 4, (int[]){n, p->h, p->w, SD_LATENT});
        Tensor *t = graph_input(b.g, "t", DT_F32, 1, &n);
        Tensor *ctx = graph_input(b.g, "context", DT_F32, 3,
                                  (int[]){n, (int)chunks * CHUNK_IDS, c->text_width});
        graph_output(b.g, unet_build(&b, c, in, t, ctx), "y");
    }
    return plan(p, &p->m->slab, x, &b, e);
}

static int plan_vae(Pipeline *p, Err *e)
{
    Build b = model_graph(p->m);
    if (b.g) {
        Tensor *in = graph_input(b.g, "latents", DT_F32, 4, (int[]){1, p->h, p->w, SD_LATENT});
        graph_output(b.g, vae_decode_build(&b, &p->m->ck->config, in), "picture");
    }
    return plan(p, p->c.swap ? &p->slab : &p->m->slab, &p->vae, &b, e);
}

static int plan_all(Pipeline *p, Err *e)
{
    TRY(plan_text(p, e));
    if (guided(p) && paired(p)) {
        TRY(plan_unet(p, &p->unet[0], 2, p->chunks[0].count, e));
    } else {
        TRY(plan_unet(p, &p->unet[0], 1, p->chunks[0].count, e));
        if (guided(p)) TRY(plan_unet(p, &p->unet[1], 1, p->chunks[1].count, e));
    }
    return plan_vae(p, e);
}

int pipeline_want(Pipeline *p, Err *e)
{
    Exec *all[] = {&p->text, &p->unet[0], &p->unet[1], &p->vae};
    for (int i = 0; i < 4; i++)
        if (all[i]->g) TRY(exec_fit(all[i], SIZE_MAX, e));
    return 0;
}

/* ---- set-up -------------------------------------------------------------- */

static int check_side(const char *option, int side, Err *e)
{
    int below = side / PIPELINE_ALIGN * PIPELINE_ALIGN;
    if (side >= PIPELINE_ALIGN && side <= PIPELINE_MAX_SIDE && side == below) return 0;
    if (side < PIPELINE_ALIGN || side > PIPELINE_MAX_SIDE)
        return err_set(e, ERR_USAGE, "option --%s: %d is not a multiple of %d between %d and %d",
                       option, side, PIPELINE_ALIGN, PIPELINE_ALIGN, PIPELINE_MAX_SIDE);
    return err_set(e, ERR_USAGE, "option --%s: %d is not a multiple of %d; the nearest are %d "
                   "and %d", option, side, PIPELINE_ALIGN, below, below + PIPELINE_ALIGN);
}

static size_t latent_floats(const Pipeline *p) { return (size_t)p->h * (size_t)p->w * SD_LATENT; }

size_t pipeline_bytes(const Pipeline *p)
{
    size_t context = context_floats(p, 0) + context_floats(p, 1);
    size_t picture = (size_t)p->c.height * (size_t)p->c.width * 3;
    return (context + 6 * latent_floats(p) + picture) * sizeof(float) + p->sampler.work_bytes;
}

static int allocate(Pipeline *p, Err *e)
{
    size_t n = latent_floats(p) * sizeof(float);
    p->context = mem_alloc((context_floats(p, 0) + context_floats(p, 1)) * sizeof(float));
    p->x = mem_alloc(n);
    p->nchw = mem_alloc(n);
    p->pair[0] = mem_alloc(2 * n);
    p->pair[1] = mem_alloc(2 * n);
    p->picture = mem_alloc((size_t)p->c.height * (size_t)p->c.width * 3 * sizeof(float));
    int ok = p->context && p->x && p->nchw && p->pair[0] && p->pair[1] && p->picture;
    return ok ? 0 : err_nomem(e, pipeline_bytes(p), "the picture");
}

static int start_sampler(Pipeline *p, const PipelineConfig *c, Err *e)
{
    SamplerConfig sc = {c->sampler, c->schedule, c->steps, c->v_pred, latent_floats(p)};
    return sampler_init(&p->sampler, &sc, &p->schedule, e);
}

static int set_up(Pipeline *p, const Tokenizer *tok, const PipelineConfig *c, Err *e)
{
    const SdConfig *config = &p->m->ck->config;
    if (config->in_channels != SD_LATENT)
        return err_set(e, ERR_INPUT, "%s: an inpainting model (its U-Net takes %d channels) cannot "
                       "make pictures from a prompt alone; use the plain model",
                       p->m->ck->path ? p->m->ck->path : "the model", config->in_channels);
    TRY(check_side("width", c->width, e));
    TRY(check_side("height", c->height, e));
    p->h = c->height / 8;
    p->w = c->width / 8;
    schedule_init(&p->schedule);
    TRY(start_sampler(p, c, e));
    TRY(parse_prompts(p, tok, c, e));
    TRY(plan_all(p, e));
    return allocate(p, e);
}

int pipeline_init(Pipeline *p, Model *m, const Tokenizer *tok, const PipelineConfig *c, Err *e)
{
    *p = (Pipeline){.m = m, .c = *c};
    p->c.prompt = p->c.negative = NULL;
    int rc = set_up(p, tok, c, e);
    if (rc) pipeline_free(p);
    return rc;
}

static int same_graphs(const Pipeline *p, const Pipeline *q)
{
    return p->c.width == q->c.width && p->c.height == q->c.height &&
           p->c.clip_skip == q->c.clip_skip && guided(p) == guided(q) &&
           p->chunks[0].count == q->chunks[0].count && p->chunks[1].count == q->chunks[1].count;
}

int pipeline_reuse(Pipeline *p, const Tokenizer *tok, const PipelineConfig *c, int *fits, Err *e)
{
    Pipeline q = {.m = p->m, .c = *c};
    Sampler old = p->sampler;
    *fits = 0;
    int rc = parse_prompts(&q, tok, c, e);
    if (!rc && same_graphs(p, &q)) {
        rc = start_sampler(p, c, e);
        *fits = !rc;
    }
    if (*fits) {
        ChunkList mine[2] = {p->chunks[0], p->chunks[1]};
        for (int i = 0; i < 2; i++) p->chunks[i] = q.chunks[i], q.chunks[i] = mine[i];
        int swap = p->c.swap;
        p->c = *c;
        p->c.swap = swap;
        p->c.prompt = p->c.negative = NULL;
        p->encoded = 0;
        sampler_free(&old);
    } else {
        p->sampler = old;
    }
    chunk_list_free(&q.chunks[0]);
    chunk_list_free(&q.chunks[1]);
    return rc;
}

void pipeline_free(Pipeline *p)
{
    exec_free(&p->text);
    exec_free(&p->unet[0]);
    exec_free(&p->unet[1]);
    exec_free(&p->vae);
    slab_free(&p->slab);
    chunk_list_free(&p->chunks[0]);
    chunk_list_free(&p->chunks[1]);
    sampler_free(&p->sampler);
    mem_free(p->context);
    mem_free(p->x);
    mem_free(p->nchw);
    mem_free(p->pair[0]);
    mem_free(p->pair[1]);
    mem_free(p->picture);
    *p = (Pipeline){0};
}

/* ---- weights ------------------------------------------------------------- */

static const char *const TEXT = "text_encoder.", *const UNET = "unet.", *const VAE = "vae.";

static size_t weights_of(const Pipeline *p, const char *part)
{
    return params_part(p->m->ps, part).frozen;
}

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

size_t pipeline_weights(const Pipeline *p)
{
    size_t unet = weights_of(p, UNET), vae = weights_of(p, VAE);
    return most(weights_of(p, TEXT), p->c.swap ? most(unet, vae) : unet + vae);
}

size_t pipeline_device_bytes(const Pipeline *p)
{
    size_t first = most(weights_of(p, TEXT), weights_of(p, UNET)) + p->m->slab.bytes;
    if (!p->c.swap) return pipeline_weights(p) + p->m->slab.bytes;
    return most(first, weights_of(p, VAE) + p->slab.bytes);
}

int pipeline_load_text(Pipeline *p, Err *e)
{
    if (!p->m->slab.base) TRY(slab_alloc(&p->m->slab, p->m->dev, e));
    return model_load_part(p->m, TEXT, e);
}

int pipeline_load(Pipeline *p, Err *e)
{
    TRY(pipeline_load_text(p, e));
    TRY(pipeline_encode(p, e));
    return pipeline_load_rest(p, e);
}

int pipeline_load_rest(Pipeline *p, Err *e)
{
    model_release(p->m, TEXT);
    if (p->c.swap) return 0;
    TRY(model_load_part(p->m, UNET, e));
    return model_load_part(p->m, VAE, e);
}

/* With swap: one of the two makes room for the other. */
static int swap(Pipeline *p, const char *out, Slab *from, const char *in, Slab *to, Err *e)
{
    if (!p->c.swap) return 0;
    model_release(p->m, out);
    slab_release(from);
    if (!to->base) TRY(slab_alloc(to, p->m->dev, e));
    return model_load_part(p->m, in, e);
}

/* ---- running ------------------------------------------------------------- */

int pipeline_encode(Pipeline *p, Err *e)
{
    size_t a = p->chunks[0].count, n = a + p->chunks[1].count;
    size_t width = (size_t)p->m->ck->config.text_width;
    int32_t *ids = mem_alloc(n * CHUNK_IDS * sizeof *ids);
    if (!ids) return err_nomem(e, n * CHUNK_IDS * sizeof *ids, "the prompt");
    for (size_t i = 0; i < n; i++) {
        const Chunk *c = i < a ? &p->chunks[0].chunks[i] : &p->chunks[1].chunks[i - a];
        memcpy(ids + i * CHUNK_IDS, c->ids, sizeof c->ids);
    }
    p->done = 0;
    int rc = model_set_ids(p->m, &p->text, "ids", ids, n * CHUNK_IDS, e);
    mem_free(ids);
    if (!rc) rc = exec_run(&p->text, e);
    if (!rc) rc = exec_get(&p->text, "context", p->context, n * CHUNK_IDS * width, e);
    for (size_t i = 0; !rc && i < n; i++) {
        const Chunk *c = i < a ? &p->chunks[0].chunks[i] : &p->chunks[1].chunks[i - a];
        chunk_emphasize(p->context + i * CHUNK_IDS * width, 1, width, &c);
    }
    p->encoded = !rc;
    return rc;
}

static size_t context_bytes(const Pipeline *p)
{
    return (context_floats(p, 0) + context_floats(p, 1)) * sizeof(float);
}

float *pipeline_context(const Pipeline *p)
{
    float *copy = mem_alloc(context_bytes(p));
    return copy ? memcpy(copy, p->context, context_bytes(p)) : NULL;
}

void pipeline_set_context(Pipeline *p, const float *context)
{
    memcpy(p->context, context, context_bytes(p));
    p->encoded = 1;
}

/* One pass of n latents, all at time t. The slab is shared: other graphs may
 * have run since the last step, so every input is set again. */
static int pass(Exec *x, int n, const float *in, size_t each, float t, const float *context,
                size_t context_count, float *out, Err *e)
{
    float times[2] = {t, t};
    TRY(exec_set(x, "x", in, (size_t)n * each, e));
    TRY(exec_set(x, "t", times, (size_t)n, e));
    TRY(exec_set(x, "context", context, context_count, e));
    TRY(exec_run(x, e));
    return exec_get(x, "y", out, (size_t)n * each, e);
}

/* SamplerCallbacks.predict */
static int predict(void *ctx, const float *x, float t, float *out, Err *e)
{
    Pipeline *p = ctx;
    size_t n = latent_floats(p), a = context_floats(p, 0), b = context_floats(p, 1);
    if (!guided(p)) return pass(&p->unet[0], 1, x, n, t, p->context, a, out, e);
    float *y = p->pair[1];
    if (paired(p)) {
        memcpy(p->pair[0], x, n * sizeof *x);
        memcpy(p->pair[0] + n, x, n * sizeof *x);
        TRY(pass(&p->unet[0], 2, p->pair[0], n, t, p->context, a + b, y, e));
    } else {
        TRY(pass(&p->unet[0], 1, x, n, t, p->context, a, y, e));
        TRY(pass(&p->unet[1], 1, x, n, t, p->context + a, b, y + n, e));
    }
    sampler_guide(out, y, y + n, p->c.cfg_scale, n);
    return 0;
}

/* SamplerCallbacks.noise: torch draws (4,h,w). */
static int noise(void *ctx, float *dst, Err *e)
{
    Pipeline *p = ctx;
    (void)e;
    rng_torch_normal(&p->rng, p->nchw, latent_floats(p));
    layout_from_nchw(dst, p->nchw, 1, SD_LATENT, (size_t)p->h * (size_t)p->w);
    return 0;
}

/* SamplerCallbacks.step */
static int step(void *ctx, int done, int total, Err *e)
{
    Pipeline *p = ctx;
    p->done = done;
    int rc = p->c.poll ? p->c.poll(p->c.ctx, done, total) : 0;
    return rc ? err_set(e, rc, "stopped") : 0;
}

static int decode(Pipeline *p, Image *im, Err *e)
{
    size_t n = latent_floats(p), count = (size_t)im->w * (size_t)im->h * 3;
    for (size_t i = 0; i < n; i++) p->x[i] /= VAE_SCALE;
    TRY(exec_set(&p->vae, "latents", p->x, n, e));
    TRY(exec_run(&p->vae, e));
    TRY(exec_get(&p->vae, "picture", p->picture, count, e));
    for (size_t i = 0; i < count; i++)
        if (!isfinite(p->picture[i]))
            return err_set(e, ERR_FAIL, "the VAE's output is not finite; the model is broken, or "
                           "needs --dtype f32");
    image_from_float(im, p->picture);
    return 0;
}

int pipeline_run(Pipeline *p, uint64_t seed, Image *im, Err *e)
{
    if (im->w != p->c.width || im->h != p->c.height || im->c != 3)
        return err_set(e, ERR_FAIL, "the picture is %dx%d, not %dx%d", im->w, im->h, p->c.width,
                       p->c.height);
    if (!p->encoded) TRY(pipeline_encode(p, e));
    p->done = 0;
    rng_torch_init(&p->rng, p->c.rng, seed);
    TRY(noise(p, p->x, e));
    SamplerCallbacks cb = {predict, noise, step, p};
    TRY(swap(p, VAE, &p->slab, UNET, &p->m->slab, e));
    TRY(sampler_run(&p->sampler, p->x, &cb, e));
    TRY(swap(p, UNET, &p->m->slab, VAE, &p->slab, e));
    return decode(p, im, e);
}
