/* train_save.c - the results of a training run, with kohya's metadata.
 *
 * Only facts that a rerun would repeat are written: no clock time and no random
 * session id, so that a resumed run and an undisturbed one give the same bytes.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/mem.h"
#include "models/vae.h"
#include "tools/train.h"

enum { META_MAX = 96 };

typedef struct {
    LoraMeta list[META_MAX];
    size_t count;
    Err *e;
} Meta;

static void put(Meta *m, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void put(Meta *m, const char *key, const char *fmt, ...)
{
    char small[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    va_end(ap);
    char *value = n < 0 ? NULL : mem_alloc((size_t)n + 1);
    if (!value || m->count == META_MAX) {
        mem_free(value);
        err_nomem(m->e, (unsigned long long)n, "metadata");
        return;
    }
    va_start(ap, fmt);
    vsnprintf(value, (size_t)n + 1, fmt, ap);
    va_end(ap);
    m->list[m->count++] = (LoraMeta){key, value};
}

typedef int json_fn(char **json, const Dataset *ds, Err *e);

static void put_json(Meta *m, const char *key, json_fn *make, const Dataset *ds)
{
    char *json = NULL;
    if (!make(&json, ds, m->e)) put(m, key, "%s", json);
    mem_free(json);
}

static int train_dirs(char **json, const Dataset *ds, Err *e)
{
    return dataset_dirs(json, ds, 0, e);
}
static int reg_dirs(char **json, const Dataset *ds, Err *e) { return dataset_dirs(json, ds, 1, e); }

static const char *yes(int flag) { return flag ? "True" : "False"; }

/* Python's str() of an optional number. */
static void put_optional(Meta *m, const char *key, double v, double none)
{
    if (v == none) put(m, key, "None");
    else put(m, key, "%g", v);
}

static const char *base_name(const char *path)
{
    const char *s = path ? strrchr(path, '/') : NULL;
    return s ? s + 1 : path ? path : "";
}

static void put_modules(Meta *m, const TrainOptions *o)
{
    put(m, "ss_network_module", "%s", o->network_module ? o->network_module : "networks.lora");
    put(m, "ss_network_dim", "%d", o->network_dim);
    put(m, "ss_network_alpha", "%g", o->network_alpha);
    char *args = o->network_arg_list.count ? train_network_args(o) : NULL;
    if (args) put(m, "ss_network_args", "%s", args);
    else if (o->conv_dim)
        put(m, "ss_network_args", "{\"conv_dim\": \"%d\", \"conv_alpha\": \"%g\"}", o->conv_dim,
            o->conv_alpha);
    mem_free(args);
    put_optional(m, "ss_network_dropout", o->network_dropout, 0);
}

static void put_network(Meta *m, const TrainRun *r)
{
    const TrainOptions *o = &r->o;
    const SdConfig *c = &r->m.ck->config;
    if (train_is_lora(o)) put_modules(m, o);
    put(m, "ss_v2", "%s", yes(c->openclip));
    put(m, "ss_base_model_version", "sd_v%d%s", c->openclip ? 2 : 1, o->v_pred ? "_v" : "");
    put(m, "modelspec.sai_model_spec", "1.0.1");
    put(m, "modelspec.architecture", "stable-diffusion-%s%s",
        !c->openclip ? "v1"
        : o->v_pred  ? "v2-768-v"
                     : "v2-512",
        o->full ? ""
        : o->ti ? "/textual-inversion"
                : "/lora");
    put(m, "modelspec.implementation", "%s",
        o->full ? "https://github.com/Stability-AI/generative-models" : "diffusers");
    static const char *const about[TRAIN_META] = {"modelspec.title",
                                                  "modelspec.author",
                                                  "modelspec.description",
                                                  "modelspec.license",
                                                  "modelspec.tags",
                                                  "modelspec.usage_hint",
                                                  "modelspec.thumbnail",
                                                  "modelspec.merged_from",
                                                  "modelspec.trigger_phrase",
                                                  "modelspec.preprocessor",
                                                  "modelspec.is_negative_embedding"};
    if (!o->meta_text[0]) put(m, "modelspec.title", "%s", o->output_name);
    for (int i = 0; i < TRAIN_META; i++)
        if (o->meta_text[i]) put(m, about[i], "%s", o->meta_text[i]);
    put(m, "modelspec.resolution", "%dx%d", r->ds->cfg.bucket.w, r->ds->cfg.bucket.h);
    put(m, "modelspec.prediction_type", "%s", o->v_pred ? "v" : "epsilon");
}

static void put_data(Meta *m, const TrainRun *r)
{
    const TrainOptions *o = &r->o;
    const Dataset *ds = r->ds;
    put_json(m, "ss_tag_frequency", dataset_tag_frequency, ds);
    put_json(m, "ss_dataset_dirs", train_dirs, ds);
    put_json(m, "ss_reg_dataset_dirs", reg_dirs, ds);
    put_json(m, "ss_bucket_info", dataset_bucket_info, ds);
    put(m, "ss_num_train_images", "%zu", ds->train_images);
    put(m, "ss_num_reg_images", "%zu", ds->reg_images);
    put(m, "ss_num_batches_per_epoch", "%zu", r->ft.batches);
    put(m, "ss_batch_size_per_device", "%d", o->batch);
    put(m, "ss_total_batch_size", "%d", o->batch * o->accumulation);
    put(m, "ss_resolution", "(%d, %d)", ds->cfg.bucket.w, ds->cfg.bucket.h);
    put(m, "ss_enable_bucket", "%s", yes(o->enable_bucket));
    put(m, "ss_bucket_no_upscale", "%s", yes(o->bucket_no_upscale));
    put(m, "ss_min_bucket_reso", "%d", ds->sizes[0].cfg.min_reso);
    put(m, "ss_max_bucket_reso", "%d", ds->sizes[0].cfg.max_reso);
    put(m, "ss_flip_aug", "%s", yes(o->flip_aug));
    put(m, "ss_resize_interpolation", "%s",
        o->resize_interpolation ? o->resize_interpolation : "None");
    put(m, "ss_color_aug", "%s", yes(o->color_aug));
    put(m, "ss_random_crop", "%s", yes(o->random_crop));
    if (o->face[1] > 0) put(m, "ss_face_crop_aug_range", "(%g, %g)", o->face[0], o->face[1]);
    else put(m, "ss_face_crop_aug_range", "None");
    put(m, "ss_shuffle_caption", "%s", yes(o->shuffle_caption));
    put(m, "ss_keep_tokens", "%d", o->keep_tokens);
    put(m, "ss_caption_dropout_rate", "%g", o->caption_dropout_rate);
    put(m, "ss_caption_dropout_every_n_epochs", "%d", o->dropout_every_n_epochs);
    put(m, "ss_caption_tag_dropout_rate", "%g", o->tag_dropout_rate);
    put(m, "ss_cache_latents", "%s", yes(!r->ft.varies));
}

static void put_run(Meta *m, const TrainRun *r)
{
    const TrainOptions *o = &r->o;
    char optimizer[1200];
    optim_describe(&r->t.optim->cfg, optimizer, sizeof optimizer);
    put(m, "ss_output_name", "%s", o->output_name);
    put(m, "ss_learning_rate", "%g", o->lr);
    put(m, "ss_unet_lr", "%g", o->unet_lr);
    put(m, "ss_text_encoder_lr", "%g", o->text_lr);
    put(m, "ss_optimizer", "%s", optimizer);
    put(m, "ss_lr_scheduler", "%s", o->lr_scheduler);
    put(m, "ss_lr_warmup_steps", "%d", r->t.c.sched.warmup);
    put(m, "ss_max_grad_norm", "%g", o->max_grad_norm);
    put(m, "ss_max_train_steps", "%" PRIu32, r->total);
    put(m, "ss_num_epochs", "%" PRIu32, (r->total + r->steps_per_epoch - 1) / r->steps_per_epoch);
    put(m, "ss_gradient_accumulation_steps", "%d", o->accumulation);
    put(m, "ss_gradient_checkpointing", "False");
    put(m, "ss_mixed_precision", "%s", r->m.dtype == DT_BF16 ? "bf16" : "no");
    put(m, "ss_seed", "%lld", (long long)o->seed);
    put_optional(m, "ss_clip_skip", o->clip_skip, 0);
    put_optional(m, "ss_max_token_length", o->max_token_length, 75);
    put_optional(m, "ss_noise_offset", o->noise_offset, 0);
    put_optional(m, "ss_adaptive_noise_scale", o->adaptive_noise_scale, 0);
    put_optional(m, "ss_multires_noise_iterations", o->multires_iterations, 0);
    put(m, "ss_multires_noise_discount", "%g", o->multires_discount);
    put_optional(m, "ss_ip_noise_gamma", o->ip_noise_gamma, 0);
    put(m, "ss_noise_offset_random_strength", "%s", yes(o->noise_offset_random));
    put(m, "ss_ip_noise_gamma_random_strength", "%s", yes(o->ip_noise_random));
    put(m, "ss_zero_terminal_snr", "%s", yes(o->zero_terminal_snr));
    put(m, "ss_debiased_estimation", "%s", yes(o->debiased));
    put_optional(m, "ss_scale_weight_norms", o->scale_weight_norms, 0);
    put_optional(m, "ss_min_snr_gamma", o->min_snr_gamma, 0);
    put(m, "ss_loss_type", "%s", o->loss_type);
    put(m, "ss_huber_schedule", "%s", o->huber_schedule);
    put(m, "ss_huber_c", "%g", o->huber_c);
    put(m, "ss_huber_scale", "%g", o->huber_scale);
    put(m, "ss_masked_loss", "%s", yes(o->masked_loss));
    if (o->validation_split > 0) put(m, "ss_validation_split", "%g", o->validation_split);
    put(m, "ss_prior_loss_weight", "%g", o->prior_loss_weight);
    put(m, "ss_training_comment", "%s", o->comment ? o->comment : "None");
    put(m, "ss_sd_model_name", "%s", base_name(o->model));
    if (o->vae) put(m, "ss_vae_name", "%s", base_name(o->vae));
}

/* The parameter of a factor; NULL: of no layer of this run, it stays as it is. */
static Param *factor(const TrainRun *r, const LoraModule *m, const LoraFactor *f)
{
    char name[KEY_MAX + 32];
    snprintf(name, sizeof name, "%s.%s", m->target->path, f->suffix);
    return params_find(r->m.ps, name);
}

void train_drop_lora(TrainRun *r)
{
    LoraFactor f[LORA_FACTORS];
    for (size_t i = 0; i < r->lora.count; i++)
        for (int k = lora_factors(&r->lora.list[i], f) - 1; k >= 0; k--) {
            if (!factor(r, &r->lora.list[i], &f[k])) continue;
            mem_free(*f[k].values);
            *f[k].values = NULL;
        }
}

/* The trained values back into the Lora. */
static int read_lora(TrainRun *r, Err *e)
{
    LoraFactor f[LORA_FACTORS];
    for (size_t i = 0; i < r->lora.count; i++)
        for (int k = lora_factors(&r->lora.list[i], f) - 1; k >= 0; k--) {
            const Param *p = factor(r, &r->lora.list[i], &f[k]);
            if (!p) continue;
            if (!*f[k].values) *f[k].values = mem_alloc(p->count * sizeof(float));
            if (!*f[k].values) return err_nomem(e, p->count * sizeof(float), p->name);
            TRY(params_read(r->m.ps, p, *f[k].values, e));
        }
    return 0;
}

static int load_lora(TrainRun *r, const char *path, Err *e)
{
    LoraFactor f[LORA_FACTORS];
    Lora lo = {0};
    int rc = lora_open(&lo, path, r->m.targets, r->m.target_count, e);
    for (size_t i = 0; i < lo.count; i++)
        for (int k = lora_factors(&lo.list[i], f) - 1; !rc && k >= 0; k--) {
            Param *p = factor(r, &lo.list[i], &f[k]);
            if (p && lora_factor_count(&f[k]) == p->count)
                rc = params_set(r->m.ps, p, *f[k].values, e);
        }
    lora_close(&lo);
    return rc;
}

/* ParamSource.read */
static int saved_values(void *ctx, const Param *p, size_t first, size_t count, float *dst, Err *e)
{
    const CheckpointEntry *en = checkpoint_find(ctx, p->name);
    if (!en || (size_t)en->count != p->count)
        return err_set(e, ERR_INPUT, "tensor %s: the saved model has none of this shape", p->name);
    int64_t at = en->first + (int64_t)first;
    TRY(tensorfile_read_f32(en->file, en->tensor, at, (int64_t)count, dst, e));
    tensorfile_drop(en->file, en->tensor, at, (int64_t)count);
    return 0;
}

static int in_rows(void *ctx, const Param *p)
{
    (void)ctx, (void)p;
    return 0;
}

static int load_model(TrainRun *r, const char *path, Err *e)
{
    Checkpoint *ck;
    Params *ps = r->m.ps;
    TRY(checkpoint_open(&ck, path, e));
    for (size_t i = 0; i < ps->count; i++)
        if (ps->list[i]->trainable) ps->list[i]->filled = 0;
    const ParamSource source = {saved_values, in_rows, ck};
    int rc = params_fill(ps, &source, e);
    checkpoint_close(ck);
    return rc;
}

int train_load_weights(TrainRun *r, const char *name, Err *e)
{
    char *path = mem_printf("%s/%s.safetensors", r->o.output_dir, name);
    if (!path) return err_nomem(e, 64, "a file name");
    int rc = train_is_lora(&r->o) ? load_lora(r, path, e)
             : r->o.ti            ? train_ti_load(r, path, e)
                                  : load_model(r, path, e);
    mem_free(path);
    return rc;
}

/* checkpoint_values_fn */
static int trained_values(void *ctx, const CheckpointEntry *en, float *values, int *changed, Err *e)
{
    const TrainRun *r = ctx;
    const Param *p = params_find(r->m.ps, en->name);
    if (r->m.ck->path && (!p || !p->trainable)) return 0;      /* the source's bytes */
    *changed = 1;
    return p ? params_read(r->m.ps, p, values, e) : model_initial(&r->m, en, values, e);
}

static int save_precision(const TrainOptions *o, FileDtype *dt, Err *e)
{
    if (!strcmp(o->save_precision, "fp16")) *dt = FD_F16;
    else if (!strcmp(o->save_precision, "bf16")) *dt = FD_BF16;
    else if (!strcmp(o->save_precision, "float") || !strcmp(o->save_precision, "fp32"))
        *dt = FD_F32;
    else
        return err_set(e, ERR_USAGE, "option --save_precision: \"%s\" is not float, fp16 or bf16",
                       o->save_precision);
    return 0;
}

static int write_file(TrainRun *r, const char *path, const Meta *m, Err *e)
{
    FileDtype dt = FD_F16;
    TRY(save_precision(&r->o, &dt, e));
    if (r->o.ti) return train_ti_save(r, path, dt, m->list, m->count, e);
    if (train_is_lora(&r->o)) {
        int rc = read_lora(r, e);
        if (!rc) rc = lora_save(path, r->lora.list, r->lora.count, dt, m->list, m->count, e);
        train_drop_lora(r);
        mem_trim();
        return rc;
    }
    CheckpointSave s = {trained_values, r, 1, dt, m->list, m->count};
    return checkpoint_save(r->m.ck, path, &s, e);
}

/* Nothing runs while files are written: the activations make room for it. */
void train_save_begin(TrainRun *r)
{
    dev_sync(r->m.dev);
    slab_release(&r->m.slab);
}

int train_save_end(TrainRun *r, Err *e) { return slab_alloc(&r->m.slab, r->m.dev, e); }

int train_save_weights(TrainRun *r, const char *name, uint32_t epoch, Err *e)
{
    Meta m = {.e = e};
    if (!r->o.train_vae) put_network(&m, r);
    if (!r->o.no_metadata && !r->o.train_vae) {
        put_data(&m, r);
        put_run(&m, r);
        put(&m, "ss_steps", "%" PRIu32, r->t.step);
        put(&m, "ss_epoch", "%" PRIu32, epoch);
    }
    char *path = mem_printf("%s/%s.safetensors", r->o.output_dir, name);
    train_save_begin(r);
    int rc = path ? e->code : err_nomem(e, 64, "a file name");
    optim_swap(r->t.optim);
    if (!rc) rc = write_file(r, path, &m, e);
    optim_swap(r->t.optim);
    if (!rc) rc = train_save_end(r, e);
    mem_free(path);
    for (size_t i = 0; i < m.count; i++) mem_free((void *)(uintptr_t)m.list[i].value);
    return rc;
}
