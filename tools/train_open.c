/* train_open.c - from the options of `sdc train` to a run that is planned: rates and
 * settings that follow from others, the model, the graphs, the trainer. Its pictures are
 * in train_data.c, what a resumed run must have in common with it in train_facts.c.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "tools/machine.h"
#include "tools/train.h"
#include "tools/train_samples.h"

enum { CONFIG_JSON_MAX = 1 << 16 };
enum { AUTO_STEPS = 5000 };        /* where --auto ends when nothing else ends it */

/* ---- options ------------------------------------------------------------- */

/* "512" or "512,768". */
int train_resolution(const TrainOptions *o, int *w, int *h, Err *e)
{
    const char *s = o->resolution;
    char *end;
    long a = strtol(s, &end, 10), b = a;
    int ok = end != s;
    if (ok && (*end == ',' || *end == 'x')) {
        const char *second = end + 1;
        b = strtol(second, &end, 10);
        ok = end != second;
    }
    if (!ok || *end || a < 64 || b < 64 || a > 16384 || b > 16384)
        return err_set(e, ERR_USAGE,
                       "option --resolution: \"%s\" is not a size such as 512 or 512,768", s);
    *w = (int)a;
    *h = (int)b;
    return 0;
}

/* key=value of --lr_scheduler_args: what else the functions of transformers and diffusers take. */
static int lr_args(const TrainOptions *o, LrSched *s, Err *e)
{
    for (size_t i = 0; i < o->lr_arg_list.count; i++) {
        const char *a = o->lr_arg_list.item[i], *eq = strchr(a, '=');
        size_t n = eq ? (size_t)(eq - a) : 0;
        char *end = NULL, rules[200];
        if (n == 10 && !strncmp(a, "step_rules", n) && s->kind == LRSCHED_PIECEWISE_CONSTANT) {
            size_t skip = strspn(eq + 1, "'\"");
            snprintf(rules, sizeof rules, "%s", eq + 1 + skip);
            rules[strcspn(rules, "'\"")] = 0;
            TRY(lrsched_rules(s, rules, e));
            continue;
        }
        double v = eq ? strtod(eq + 1, &end) : 0;
        int ok = eq && end != eq + 1 && !*end && v > 0;
        if (ok && n == 6 && !strncmp(a, "lr_end", n) && s->kind == LRSCHED_POLYNOMIAL)
            s->lr_end = v;
        else if (ok && n == 6 && !strncmp(a, "min_lr", n) && s->kind == LRSCHED_COSINE_WITH_MIN_LR)
            s->min_ratio = v / s->lr;
        else
            return err_set(e, ERR_USAGE,
                           "option --lr_scheduler_args: \"%s\"; known are lr_end=X of polynomial, "
                           "min_lr=X of cosine_with_min_lr and step_rules=F:N,F of "
                           "piecewise_constant", a);
    }
    return 0;
}

/* Joins --optimizer_args into one text. */
static int join_args(TrainOptions *o, Err *e)
{
    mem_free(o->optimizer_args);
    o->optimizer_args = NULL;
    for (size_t i = 0; i < o->optimizer_arg_list.count; i++) {
        char *s = mem_printf("%s%s%s", o->optimizer_args ? o->optimizer_args : "",
                             o->optimizer_args ? "," : "", o->optimizer_arg_list.item[i]);
        if (!s) return err_nomem(e, 64, "options");
        mem_free(o->optimizer_args);
        o->optimizer_args = s;
    }
    return 0;
}

/* kohya's train_util.py verify_training_args, and names of what there is only one of. */
static int check_kohya(const TrainOptions *o, Err *e)
{
    if (o->use_ema && !(o->ema_decay > 0 && o->ema_decay < 1))
        return err_set(e, ERR_USAGE, "option --ema_decay: between 0 and 1 expected");
    if (o->adaptive_noise_scale != 0 && o->noise_offset == 0)
        return err_set(e, ERR_USAGE, "option --adaptive_noise_scale: needs --noise_offset");
    if (strcmp(o->save_model_as, "safetensors"))
        return err_set(e, ERR_USAGE,
                       "option --save_model_as: \"%s\" is not supported; safetensors is",
                       o->save_model_as);
    if (strcmp(o->log_with, "tensorboard") && strcmp(o->log_with, "all"))
        return err_set(e, ERR_USAGE, "option --log_with: \"%s\" is not supported; tensorboard is",
                       o->log_with);
    if (o->scale_weight_norms > 0 && !train_is_lora(o))
        return err_set(e, ERR_USAGE, "option --scale_weight_norms: only for a LoRA");
    if (o->meta_text[6] && strncmp(o->meta_text[6], "data:", 5))
        return err_set(e, ERR_USAGE, "option --metadata_thumbnail: a data: URL is expected");
    if (o->base_multipliers.count > o->base_weights.count)
        return err_set(e, ERR_USAGE,
                       "option --base_weights_multiplier: more of them than --base_weights");
    if (o->validation_dir && o->validation_split > 0)
        return err_set(e, ERR_USAGE,
                       "options --validation_dir and --validation_split exclude each other");
    if (o->until_best && o->train_vae)
        return err_set(e, ERR_USAGE, "option --auto: not with --train_vae");
    int validates = o->validation_dir || o->validation_split > 0 || o->until_best;
    if (!validates && (o->validate_every_n_epochs || o->validate_every_n_steps))
        return err_set(e, ERR_USAGE,
                       "options --validate_every_n_...: need --validation_split or "
                       "--validation_dir");
    if (o->train_vae && validates)
        return err_set(e, ERR_USAGE, "validation is not supported with --train_vae");
    if (o->mask_dir && !o->masked_loss)
        return err_set(e, ERR_USAGE, "option --conditioning_data_dir: needs --masked_loss");
    if (o->masked_loss && !o->mask_dir && !o->alpha_mask)
        fprintf(stderr,
                "note: --masked_loss does nothing without masks: --conditioning_data_dir or "
                "--alpha_mask\n");
    return 0;
}

/* What depends on whether v is predicted, which the model may say. */
static int check_prediction(const TrainOptions *o, Err *e)
{
    if (o->scale_v_loss && !o->v_pred)
        return err_set(e, ERR_USAGE,
                       "option --scale_v_pred_loss_like_noise_pred: needs --v_parameterization");
    if (o->v_pred_like_loss > 0 && o->v_pred)
        return err_set(e, ERR_USAGE, "option --v_pred_like_loss: not with --v_parameterization");
    if (o->zero_terminal_snr && !o->v_pred)
        fprintf(stderr,
                "note: --zero_terminal_snr without --v_parameterization: the last timesteps "
                "cannot be learnt\n");
    return 0;
}

static int check_options(TrainRun *r, Err *e)
{
    TrainOptions *o = &r->o;
    if (!o->model && !o->init)
        return err_set(e, ERR_USAGE, "sdc train: --pretrained_model_name_or_path (-m) is missing");
    if (o->model && o->init)
        return err_set(e, ERR_USAGE, "options --init and --model exclude each other");
    if (o->init && !o->full && !o->train_vae)
        return err_set(e, ERR_USAGE, "option --init needs --full or --train_vae");
    if (o->vae && (o->full || o->train_vae || o->init))
        return err_set(e, ERR_USAGE,
                       "option --vae: only for LoRAs and --ti; a whole model is saved with the "
                       "VAE of its file");
    if (o->full && o->train_vae)
        return err_set(e, ERR_USAGE, "options --full and --train_vae exclude each other");
    if (o->int8_base && (o->full || o->train_vae))
        return err_set(e, ERR_USAGE,
                       "option --int8_base: only for a LoRA; weights under training need their "
                       "precision");
    if (o->full_bf16 && (!o->full || o->accumulation > 1))
        return err_set(e, ERR_USAGE,
                       "option --full_bf16: needs --full, and excludes "
                       "--gradient_accumulation_steps: each gradient is used up as soon as it "
                       "exists");
    if (o->unet_only && o->text_only)
        return err_set(e, ERR_USAGE,
                       "options --network_train_unet_only and --network_train_text_encoder_only "
                       "exclude each other");
    if (o->dataset_config && (o->data_dir || o->reg_data_dir || o->in_json))
        return err_set(e, ERR_USAGE,
                       "option --dataset_config: excludes --train_data_dir, --reg_data_dir and "
                       "--in_json");
    if (!o->data_dir && !o->dataset_config && !o->in_json)
        return err_set(e, ERR_USAGE, "sdc train: --train_data_dir (-d) is missing");
    if (o->in_json && o->reg_data_dir)
        return err_set(e, ERR_USAGE, "option --in_json: excludes --reg_data_dir");
    if (o->max_token_length % 75)
        return err_set(e, ERR_USAGE, "option --max_token_length: 75, 150 or 225 expected");
    if (o->min_timestep >= o->max_timestep)
        return err_set(e, ERR_USAGE, "option --min_timestep: must be below --max_timestep");
    TRY(check_kohya(o, e));
    TRY(train_pictures_check(o, e));
    TRY(train_ti_check(o, e));
    TRY(train_network_parse(&r->network, o, e));
    return join_args(o, e);
}

/* Learning rates: what is not given follows from what is. */
static void choose_rates(TrainOptions *o, const OptimConfig *c)
{
    int free_rate = optim_finds_rate(c);
    int common = !isnan(o->lr);
    if (!common)
        o->lr = free_rate            ? 1
                : !isnan(o->unet_lr) ? o->unet_lr
                : o->full            ? 2e-6
                : o->train_vae       ? 1e-3
                : o->ti              ? 5e-4
                                     : 1e-4;
    if (isnan(o->unet_lr)) o->unet_lr = o->lr;
    if (isnan(o->text_lr)) o->text_lr = common || free_rate ? o->lr : o->unet_lr / 2;
    if (o->ti) o->text_lr = o->lr;
    if (o->unet_only) o->text_lr = 0;
    if (o->text_only) o->unet_lr = 0;
}

/* ---- opening ------------------------------------------------------------- */

/* --base_weights as "FILE:X" each. */
static int base_specs(const TrainOptions *o, OptionList *specs, Err *e)
{
    specs->item = mem_calloc(o->base_weights.count + 1, sizeof *specs->item);
    if (!specs->item) return err_nomem(e, 64, "options");
    for (size_t i = 0; i < o->base_weights.count; i++) {
        const char *x = i < o->base_multipliers.count ? o->base_multipliers.item[i] : "1";
        char *end, *s = mem_printf("%s:%s", o->base_weights.item[i], x);
        strtod(x, &end);
        specs->item[specs->count] = s;
        specs->count += !!s;
        if (!s) return err_nomem(e, 64, "options");
        if (end == x || *end)
            return err_set(e, ERR_USAGE, "option --base_weights_multiplier: \"%s\" is not a number",
                           x);
    }
    return 0;
}

void train_shared_free(TrainShared *s)
{
    model_close(&s->m);
    latent_pool_free(&s->latents);
    mem_free(s->key);
    *s = (TrainShared){0};
}

/* What a model is opened with, as text; NULL: no memory. */
static char *model_key(const ModelOptions *mo)
{
    char *key = mem_printf("%s|%s|%s|%d|%d|%d", mo->path, mo->vae ? mo->vae : "", mo->device,
                           mo->threads, (int)mo->dtype, mo->int8);
    for (size_t i = 0; key && i < mo->lora_count; i++) {
        char *more = mem_printf("%s|%s", key, mo->lora[i]);
        mem_free(key);
        key = more;
    }
    return key;
}

/* The model of the run before, when it is the same; else it and its latents go. */
static int open_shared(TrainRun *r, const ModelOptions *mo, Err *e)
{
    TrainShared *s = r->shared;
    if (!s || !mo->path) return model_open(&r->m, mo, e);
    char *key = model_key(mo);
    if (!key) return err_nomem(e, 64, "the model");
    if (s->key && s->m.ps && !strcmp(s->key, key)) {
        mem_free(key);
        r->m = s->m;
        if (r->m.ps) r->m.ps->ops = &r->m.ops; /* not those of the run before, which is gone */
        s->m = (Model){0};
        embeddings_close(&r->m.embeddings);
        return 0;
    }
    train_shared_free(s);
    s->key = key;
    return model_open(&r->m, mo, e);
}

int train_open_model(TrainRun *r, Err *e)
{
    TrainOptions *o = &r->o;
    char device[64];
    ModelOptions mo = {.path = o->model,
                       .vae = o->vae,
                       .device = machine_device(device, sizeof device, o->device),
                       .threads = o->threads,
                       .dtype = DT_F32,
                       .seed = (uint64_t)o->seed};
    SdConfig config;
    if (o->init) {
        char *text;
        TRY(io_read_text(&text, NULL, o->init, CONFIG_JSON_MAX, e));
        int rc = config_from_json(&config, text, o->init, e);
        mem_free(text);
        TRY(rc);
        mo.config = &config;
    }
    const char *mp = o->mixed_precision;
    if (mp && (!strcmp(mp, "bf16") || !strcmp(mp, "fp16"))) mo.dtype = DT_BF16;
    else if (mp && strcmp(mp, "no"))
        return err_set(e, ERR_USAGE, "option --mixed_precision: \"%s\" is not no or bf16", mp);
    else if (!mp && !o->train_vae && machine_fast_bf16(mo.device, o->threads)) mo.dtype = DT_BF16;
    if (mp && !strcmp(mp, "fp16"))
        fprintf(stderr,
                "note: --mixed_precision fp16 means bf16 here: the same speed, and it does not "
                "overflow\n");
    mo.int8 = o->int8_base;
    OptionList base = {0};
    int rc = base_specs(o, &base, e);
    mo.lora = base.item;
    mo.lora_count = base.count;
    if (!rc) rc = open_shared(r, &mo, e);
    for (size_t i = 0; i < base.count; i++) mem_free(base.item[i]);
    mem_free(base.item);
    return rc;
}

static int open_lora(TrainRun *r, Err *e)
{
    TrainOptions *o = &r->o;
    ModelTraining t = {.full_vae = o->train_vae};
    if (o->full) t = (ModelTraining){.full_unet = o->unet_lr != 0, .full_text = o->text_lr != 0,
                                    .half = o->full_bf16};
    t.tokens = o->ti;
    if (train_is_lora(o)) {
        if (o->network_weights)
            TRY(lora_open(&r->lora, o->network_weights, r->m.targets, r->m.target_count, e));
        else TRY(train_network_new(r, e));
        if (!r->lora.count)
            return err_set(e, ERR_USAGE, "nothing to train: every learning rate is 0");
        const LoraModule *first = &r->lora.list[0];
        if (o->network_weights && (first->rank || first->rank2))
            o->network_dim = first->rank ? first->rank : first->rank2,
            o->network_alpha = first->alpha;
        train_network_train(r, &t);
    }
    model_train(&r->m, &t);
    return 0;
}

static int open_task(TrainRun *r, Err *e)
{
    TrainOptions *o = &r->o;
    if (o->train_vae) {
        AutoencodeConfig c = {o->batch, o->vae_crop, (float)o->kl_weight, (uint64_t)o->seed};
        TRY(autoencode_init(&r->ae, &r->m, r->ds, &c, e));
        r->steps_per_epoch = (r->ds->entry_count + (uint32_t)o->batch - 1) / (uint32_t)o->batch;
        return 0;
    }
    if (r->m.ck->config.v_prediction) o->v_pred = 1;
    TRY(check_prediction(o, e));
    if (!o->micro || o->micro > o->batch) o->micro = o->batch;
    FinetuneConfig *fc = &r->ft_config, *vc = &r->val_config;
    *fc = (FinetuneConfig){.accumulation = o->accumulation,
                           .micro = o->micro,
                           .chunks = o->max_token_length / 75,
                           .masked = dataset_has_masks(r->ds),
                           .zero_terminal = o->zero_terminal_snr,
                           .min_timestep = o->min_timestep,
                           .max_timestep = o->max_timestep,
                           .seed = (uint64_t)o->seed,
                           .backward = 1,
                           .cache_dir = r->cache_dir,
                           .pool = r->shared ? &r->shared->latents : NULL};
    fc->noise = (NoiseConfig){.offset = (float)o->noise_offset,
                              .adaptive = (float)o->adaptive_noise_scale,
                              .offset_random = o->noise_offset_random,
                              .iterations = o->multires_iterations,
                              .discount = (float)o->multires_discount,
                              .gamma = (float)o->ip_noise_gamma,
                              .gamma_random = o->ip_noise_random};
    fc->denoise = (DenoiseConfig){.huber_c = (float)o->huber_c,
                                  .min_snr_gamma = (float)o->min_snr_gamma,
                                  .huber_scale = (float)o->huber_scale,
                                  .debiased = o->debiased,
                                  .scale_v_loss = o->scale_v_loss,
                                  .v_pred_like = (float)o->v_pred_like_loss,
                                  .v_pred = o->v_pred,
                                  .clip_skip = o->clip_skip};
    TRY(denoise_find_loss(&fc->denoise.loss, o->loss_type, e));
    TRY(schedule_find_huber(&fc->denoise.huber, o->huber_schedule, e));
    TRY(bpe_open(&r->tok, e));
    if (o->ti) TRY(train_ti_open(r, e));
    train_ti_captions(o, fc);
    TRY(finetune_init(&r->ft, &r->m, r->ds, r->tok, fc, e));
    r->steps_per_epoch = (uint32_t)r->ft.steps;
    if (r->val_ds) {
        *vc = *fc;
        vc->backward = 0;
        vc->accumulation = vc->micro = 1;
        vc->noise = (NoiseConfig){0};
        if (o->validation_seed >= 0) vc->seed = (uint64_t)o->validation_seed;
        TRY(finetune_init(&r->val, &r->m, r->val_ds, r->tok, vc, e));
    }
    return 0;
}

/* A number of steps, or a part of all of them. */
static int steps_or_part(const TrainRun *r, int *steps, const char *text, const char *option,
                         Err *e)
{
    *steps = 0;
    if (!text) return 0;
    char *end;
    double v = strtod(text, &end);
    if (*end || end == text || !(v >= 0) || v > 1e9)
        return err_set(e, ERR_USAGE, "option --%s: \"%s\" is not a number of steps", option, text);
    *steps = (int)(v < 1 ? v * r->total : v);
    return 0;
}

/* What depends on the number of steps. */
static int follow_total(TrainRun *r, LrSched *s, Err *e)
{
    TrainOptions *o = &r->o;
    s->total = (int)r->total;
    TRY(steps_or_part(r, &s->warmup, o->lr_warmup, "lr_warmup_steps", e));
    TRY(steps_or_part(r, &s->decay, o->lr_decay, "lr_decay_steps", e));
    if (s->kind == LRSCHED_ADAFACTOR) s->warmup = 0;
    if (o->save_n_epoch_ratio) {
        int epochs =
            (int)((r->total + r->steps_per_epoch - 1) / r->steps_per_epoch) / o->save_n_epoch_ratio;
        o->save_every_n_epochs = epochs > 1 ? epochs : 1;
    }
    dataset_set_steps(r->ds, (long)r->total);
    return 0;
}

int train_set_total(TrainRun *r, uint32_t total, Err *e)
{
    r->total = total;
    TRY(follow_total(r, &r->t.c.sched, e));
    return train_fact_set(r, "max_train_steps", total, e);
}

/* kohya's get_scheduler_fix; an optimizer that has its own schedule goes without. */
static int choose_schedule(TrainRun *r, const OptimConfig *oc, LrSched *s, Err *e)
{
    const TrainOptions *o = &r->o;
    int own = optim_has_schedule(oc), given = options_given(&r->opt, "lr_scheduler");
    *s = (LrSched){.cycles = o->lr_cycles, .power = o->lr_power, .lr = o->lr,
                   .timescale = o->lr_timescale, .min_ratio = o->lr_min_ratio};
    TRY(follow_total(r, s, e));
    int warmup = s->warmup;
    TRY(lrsched_find(&s->kind, o->lr_scheduler, e));
    if (s->kind == LRSCHED_ADAFACTOR && !(own && oc->kind == OPTIM_ADAFACTOR))
        return err_set(e, ERR_USAGE,
                       "option --lr_scheduler: adafactor belongs to --optimizer_type Adafactor "
                       "with relative_step=True");
    if (!own) return lr_args(o, s, e);
    if (oc->kind == OPTIM_ADAFACTOR && warmup)
        return err_set(e, ERR_USAGE,
                       "option --lr_warmup_steps: Adafactor with relative_step has its own; "
                       "see warmup_init of --optimizer_args");
    if (given && s->kind != LRSCHED_ADAFACTOR && s->kind != LRSCHED_CONSTANT)
        fprintf(stderr,
                "note: --lr_scheduler %s is not used: this optimizer has its own schedule, as in "
                "kohya\n", o->lr_scheduler);
    if (oc->kind == OPTIM_ADAFACTOR)
        fprintf(stderr,
                "note: learning rates are not used: Adafactor with relative_step has its own\n");
    s->kind = LRSCHED_ADAFACTOR;
    s->warmup = 0;
    return 0;
}

static int open_trainer(TrainRun *r, const OptimConfig *oc, Err *e)
{
    TrainOptions *o = &r->o;
    uint32_t passes = o->epochs       ? (uint32_t)o->epochs
                      : o->until_best ? AUTO_STEPS / r->steps_per_epoch + 1
                                      : 10;
    r->total = o->epochs || !o->steps ? passes * r->steps_per_epoch : (uint32_t)o->steps;
    if (o->epochs && o->steps)
        fprintf(stderr, "note: --max_train_epochs overrides --max_train_steps, as in kohya\n");
    double lr[OPTIM_GROUPS] =
        {[GROUP_TEXT] = o->text_lr, [GROUP_UNET] = o->unet_lr, [GROUP_VAE] = o->lr};
    if (optim_finds_rate(oc))
        for (int i = 0; i < GROUP_COUNT; i++) lr[i] = o->unet_lr != 0 ? o->unet_lr : o->text_lr;
    int groups = train_network_rates(r, lr);
    TrainConfig c = {.optim = *oc,
                     .seed = (uint64_t)o->seed,
                     .lr = lr,
                     .groups = groups,
                     .max_grad_norm = o->max_grad_norm,
                     .loss_window = r->steps_per_epoch};
    TRY(choose_schedule(r, oc, &c.sched, e));
    if (o->use_ema) {
        c.optim.ema_decay = o->ema_decay;
        c.optim.ema_update_after = o->ema_update_after;
    }
    train_watch_init(r);
    return train_init(&r->t, r->m.ps, &c, e);
}

/* ---- the whole ------------------------------------------------------------- */

static int open_run(TrainRun *r, Err *e)
{
    OptimConfig oc;
    TRY(train_preset(r, e));
    TRY(check_options(r, e));
    TRY(optim_parse(&oc, r->o.optimizer, r->o.optimizer_args, e));
    if (r->o.use_ema && optim_has_average(&oc))
        return err_set(e, ERR_USAGE, "option --use_ema: this optimizer averages by itself");
    TRY(train_rates_init(r, &oc, e));
    TRY(train_record_check(r, e));
    choose_rates(&r->o, &oc);
    if (r->o.seed < 0) r->o.seed = machine_random_seed();
    if (r->o.cache_latents_to_disk &&
        !(r->cache_dir =
              mem_printf("%s/.sdc-latents", r->o.data_dir ? r->o.data_dir : r->o.output_dir)))
        return err_nomem(e, 64, "a file name");
    r->state_path = mem_printf("%s/%s-state.safetensors", r->o.output_dir, r->o.output_name);
    if (!r->state_path) return err_nomem(e, 64, "a file name");
    TRY(train_class_missing(r, e));
    TRY(train_open_model(r, e));
    TRY(train_open_data(r, e));
    TRY(open_lora(r, e));
    TRY(open_task(r, e));
    TRY(train_strengths_init(r, e));
    TRY(train_samples_init(r, e));
    TRY(open_trainer(r, &oc, e));
    TRY(train_fit(r, e));
    return train_facts(r, e);
}

/* Class pictures are made when the training itself is known to fit; then they belong to it. */
int train_open(TrainRun *r, Err *e)
{
    TRY(open_run(r, e));
    size_t missing = r->class_missing;
    if (!missing) return 0;
    if (r->o.dry_run) {
        fprintf(stderr,
                "note: %zu class pictures are missing and would be made first; steps are counted "
                "without them\n", missing);
        return 0;
    }
    train_close_parts(r);
    TRY(train_class_images(r, missing, e));
    train_close_parts(r);
    return open_run(r, e);
}
