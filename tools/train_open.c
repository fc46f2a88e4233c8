/* train_open.c - from the options of `sdc train` to a run that is planned: rates and
 * settings that follow from others, the model, the pictures, the graphs, the trainer,
 * and what a resumed run must have in common with it.
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

/* ---- options ------------------------------------------------------------- */

/* "512" or "512,768". */
static int parse_resolution(const char *s, int *w, int *h, Err *e)
{
    char *end;
    long a = strtol(s, &end, 10), b = a;
    int ok = end != s;
    if (ok && (*end == ',' || *end == 'x')) {
        const char *second = end + 1;
        b = strtol(second, &end, 10);
        ok = end != second;
    }
    if (!ok || *end || a < 64 || b < 64 || a > 16384 || b > 16384)
        return err_set(e, ERR_USAGE, "option --resolution: \"%s\" is not a size such as 512 or 512,768", s);
    *w = (int)a;
    *h = (int)b;
    return 0;
}

/* key=value of --network_args */
static int network_args(TrainOptions *o, Err *e)
{
    for (size_t i = 0; i < o->network_arg_list.count; i++) {
        const char *a = o->network_arg_list.item[i], *eq = strchr(a, '=');
        char *end = NULL;
        double v = eq ? strtod(eq + 1, &end) : 0;
        if (eq && end != eq + 1 && !*end && !strncmp(a, "conv_dim=", 9) && v >= 0 && v <= 4096) o->conv_dim = (int)v;
        else if (eq && end != eq + 1 && !*end && !strncmp(a, "conv_alpha=", 11) && v >= 0) o->conv_alpha = v;
        else return err_set(e, ERR_USAGE, "option --network_args: \"%s\"; known are conv_dim=N and conv_alpha=X", a);
    }
    return 0;
}

/* Joins --optimizer_args into one text. */
static int join_args(TrainOptions *o, Err *e)
{
    for (size_t i = 0; i < o->optimizer_arg_list.count; i++) {
        char *s = mem_printf("%s%s%s", o->optimizer_args ? o->optimizer_args : "", o->optimizer_args ? "," : "",
                             o->optimizer_arg_list.item[i]);
        if (!s) return err_nomem(e, 64, "options");
        mem_free(o->optimizer_args);
        o->optimizer_args = s;
    }
    return 0;
}

static int check_options(TrainRun *r, Err *e)
{
    TrainOptions *o = &r->o;
    if (!o->model && !o->init)
        return err_set(e, ERR_USAGE, "sdc train: --pretrained_model_name_or_path (-m) is missing");
    if (o->model && o->init) return err_set(e, ERR_USAGE, "options --init and --model exclude each other");
    if (o->init && !o->full && !o->train_vae)
        return err_set(e, ERR_USAGE, "option --init needs --full or --train_vae");
    if (o->full && o->train_vae) return err_set(e, ERR_USAGE, "options --full and --train_vae exclude each other");
    if (o->int8_base && (o->full || o->train_vae))
        return err_set(e, ERR_USAGE, "option --int8_base: only for a LoRA; weights under training need their precision");
    if (o->full_bf16 && (!o->full || o->accumulation > 1))
        return err_set(e, ERR_USAGE, "option --full_bf16: needs --full, and excludes --gradient_accumulation_steps: "
                       "each gradient is used up as soon as it exists");
    if (o->unet_only && o->text_only)
        return err_set(e, ERR_USAGE, "options --network_train_unet_only and --network_train_text_encoder_only "
                       "exclude each other");
    if (!o->data_dir) return err_set(e, ERR_USAGE, "sdc train: --train_data_dir (-d) is missing");
    if (o->max_token_length % 75) return err_set(e, ERR_USAGE, "option --max_token_length: 75, 150 or 225 expected");
    if (o->network_module && strcmp(o->network_module, "networks.lora"))
        return err_set(e, ERR_USAGE, "option --network_module: \"%s\" is not supported; networks.lora is",
                       o->network_module);
    if (o->min_timestep >= o->max_timestep)
        return err_set(e, ERR_USAGE, "option --min_timestep: must be below --max_timestep");
    TRY(network_args(o, e));
    TRY(join_args(o, e));
    if (isnan(o->network_alpha)) o->network_alpha = o->network_dim / 2.0;
    if (isnan(o->conv_alpha)) o->conv_alpha = o->conv_dim / 2.0;
    return 0;
}

/* Learning rates: what is not given follows from what is. */
static void choose_rates(TrainOptions *o, const OptimConfig *c)
{
    int free_rate = c->kind == OPTIM_DADAPT_ADAM || c->kind == OPTIM_PRODIGY;
    int common = !isnan(o->lr);
    if (!common) o->lr = free_rate ? 1 : !isnan(o->unet_lr) ? o->unet_lr : o->full ? 2e-6 : o->train_vae ? 1e-3 : 1e-4;
    if (isnan(o->unet_lr)) o->unet_lr = o->lr;
    if (isnan(o->text_lr)) o->text_lr = common || free_rate ? o->lr : o->unet_lr / 2;
    if (o->unet_only) o->text_lr = 0;
    if (o->text_only) o->unet_lr = 0;
}

/* ---- opening ------------------------------------------------------------- */

static int open_model(TrainRun *r, Err *e)
{
    TrainOptions *o = &r->o;
    char device[64];
    ModelOptions mo = {.path = o->model, .device = machine_device(device, sizeof device, o->device),
                       .threads = o->threads, .dtype = DT_F32, .seed = (uint64_t)o->seed};
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
        fprintf(stderr, "note: --mixed_precision fp16 means bf16 here: the same speed, and it does not overflow\n");
    mo.int8 = o->int8_base;
    return model_open(&r->m, &mo, e);
}

static void notice(void *ctx, const char *line)
{
    (void)ctx;
    fprintf(stderr, "note: %s\n", line);
}

static DataConfig data_config(const TrainOptions *o, const char *dir, const char *reg)
{
    DataConfig c = {.train_dir = dir, .reg_dir = reg, .caption_extension = o->caption_extension,
                    .batch_size = o->batch, .flip_aug = o->flip_aug, .prior_loss_weight = o->prior_loss_weight,
                    .seed = (uint64_t)o->seed, .skip_bad_images = o->skip_bad_images, .notice = notice};
    c.bucket = (BucketConfig){.enable = o->enable_bucket, .no_upscale = o->bucket_no_upscale,
                              .min_reso = o->min_bucket_reso, .max_reso = o->max_bucket_reso,
                              .steps = o->bucket_reso_steps};
    c.caption = (CaptionConfig){.prefix = o->caption_prefix, .suffix = o->caption_suffix,
                                .shuffle = o->shuffle_caption, .keep_tokens = o->keep_tokens,
                                .keep_tokens_separator = o->keep_tokens_separator,
                                .dropout_rate = o->caption_dropout_rate,
                                .dropout_every_n_epochs = o->dropout_every_n_epochs,
                                .tag_dropout_rate = o->tag_dropout_rate};
    return c;
}

static int open_data(TrainRun *r, Err *e)
{
    TrainOptions *o = &r->o;
    DataConfig c = data_config(o, o->data_dir, o->reg_data_dir);
    TRY(parse_resolution(o->resolution, &c.bucket.w, &c.bucket.h, e));
    TRY(dataset_open(&r->ds, &c, e));
    if (!o->validation_dir) return 0;
    /* measured as they are: no variation, one picture at a time */
    DataConfig v = data_config(o, o->validation_dir, NULL);
    v.bucket = c.bucket;
    v.batch_size = 1;
    v.flip_aug = 0;
    v.caption = (CaptionConfig){.prefix = o->caption_prefix, .suffix = o->caption_suffix};
    return dataset_open(&r->val_ds, &v, e);
}

static int open_lora(TrainRun *r, Err *e)
{
    TrainOptions *o = &r->o;
    ModelTraining t = {.full_vae = o->train_vae};
    if (o->full) t = (ModelTraining){.full_unet = o->unet_lr != 0, .full_text = o->text_lr != 0,
                                    .half = o->full_bf16};
    if (!o->full && !o->train_vae) {
        LoraNew n = {o->network_dim, o->conv_dim, (float)o->network_alpha, (float)o->conv_alpha,
                     o->unet_lr != 0, o->text_lr != 0, (uint64_t)o->seed};
        if (o->network_weights) TRY(lora_open(&r->lora, o->network_weights, r->m.targets, r->m.target_count, e));
        else TRY(lora_new(&r->lora, &n, r->m.targets, r->m.target_count, e));
        if (!r->lora.count) return err_set(e, ERR_USAGE, "nothing to train: every learning rate is 0");
        if (o->network_weights) o->network_dim = r->lora.list[0].rank, o->network_alpha = r->lora.list[0].alpha;
        t.lora = &r->lora;
        t.lora_unet = o->unet_lr != 0;
        t.lora_text = o->text_lr != 0;
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
    if (!o->micro || o->micro > o->batch) o->micro = o->batch;
    FinetuneConfig *fc = &r->ft_config, *vc = &r->val_config;
    *fc = (FinetuneConfig){.accumulation = o->accumulation, .micro = o->micro, .chunks = o->max_token_length / 75,
                        .noise_offset = (float)o->noise_offset, .min_timestep = o->min_timestep,
                        .max_timestep = o->max_timestep, .seed = (uint64_t)o->seed, .backward = 1, .cache_dir = r->cache_dir};
    fc->denoise = (DenoiseConfig){.huber_c = (float)o->huber_c, .min_snr_gamma = (float)o->min_snr_gamma,
                                .v_pred = o->v_pred, .clip_skip = o->clip_skip};
    TRY(denoise_find_loss(&fc->denoise.loss, o->loss_type, e));
    TRY(schedule_find_huber(&fc->denoise.huber, o->huber_schedule, e));
    TRY(bpe_open(&r->tok, e));
    TRY(finetune_init(&r->ft, &r->m, r->ds, r->tok, fc, e));
    r->steps_per_epoch = (uint32_t)r->ft.steps;
    if (r->val_ds) {
        *vc = *fc;
        vc->backward = 0;
        vc->accumulation = vc->micro = 1;
        vc->noise_offset = 0;
        TRY(finetune_init(&r->val, &r->m, r->val_ds, r->tok, vc, e));
    }
    return 0;
}

static int warmup_steps(const TrainRun *r, int *warmup, Err *e)
{
    *warmup = 0;
    if (!r->o.lr_warmup) return 0;
    char *end;
    double v = strtod(r->o.lr_warmup, &end);
    if (*end || end == r->o.lr_warmup || v < 0 || v > 1e9)
        return err_set(e, ERR_USAGE, "option --lr_warmup_steps: \"%s\" is not a number of steps", r->o.lr_warmup);
    *warmup = (int)(v < 1 ? v * r->total : v);
    return 0;
}

static int open_trainer(TrainRun *r, const OptimConfig *oc, Err *e)
{
    TrainOptions *o = &r->o;
    r->total = o->epochs || !o->steps ? (uint32_t)(o->epochs ? o->epochs : 10) * r->steps_per_epoch : (uint32_t)o->steps;
    if (o->epochs && o->steps)
        fprintf(stderr, "note: --max_train_epochs overrides --max_train_steps, as in kohya\n");
    double lr[GROUP_COUNT] = {[GROUP_TEXT] = o->text_lr, [GROUP_UNET] = o->unet_lr, [GROUP_VAE] = o->lr};
    if (oc->kind == OPTIM_DADAPT_ADAM || oc->kind == OPTIM_PRODIGY)
        for (int i = 0; i < GROUP_COUNT; i++) lr[i] = o->unet_lr != 0 ? o->unet_lr : o->text_lr;
    TrainConfig c = {.optim = *oc, .seed = (uint64_t)o->seed, .lr = lr, .groups = GROUP_COUNT, .max_grad_norm = o->max_grad_norm,
                     .loss_window = r->steps_per_epoch};
    c.sched = (LrSched){.total = (int)r->total, .cycles = o->lr_cycles, .power = o->lr_power, .lr = o->lr};
    TRY(lrsched_find(&c.sched.kind, o->lr_scheduler, e));
    TRY(warmup_steps(r, &c.sched.warmup, e));
    return train_init(&r->t, r->m.ps, &c, e);
}

/* ---- facts of the state -------------------------------------------------- */

static int fact(TrainRun *r, const char *key, char *value, Err *e)
{
    size_t cap = r->fact_count;               /* few: one by one */
    TrainFact *a = mem_grow(r->facts, r->fact_count, &cap, sizeof *a);
    if (a) r->facts = a;
    if (!a || !value) {
        mem_free(value);
        return err_nomem(e, 64, "the list of settings");
    }
    r->facts[r->fact_count++] = (TrainFact){key, value};
    return 0;
}

/* Everything that changes the bytes of the result. */
static int list_facts(TrainRun *r, Err *e)
{
    const TrainOptions *o = &r->o;
    TRY(fact(r, "seed", mem_printf("%lld", (long long)o->seed), e));
    TRY(fact(r, "max_train_steps", mem_printf("%" PRIu32, r->total), e));
    TRY(fact(r, "train_batch_size", mem_printf("%d", o->batch), e));
    TRY(fact(r, "micro_batch_size", mem_printf("%d", o->micro), e));
    TRY(fact(r, "gradient_accumulation_steps", mem_printf("%d", o->accumulation), e));
    TRY(fact(r, "resolution", mem_printf("%s", o->resolution), e));
    TRY(fact(r, "unet_lr", mem_printf("%.17g", o->unet_lr), e));
    TRY(fact(r, "text_encoder_lr", mem_printf("%.17g", o->text_lr), e));
    TRY(fact(r, "optimizer_type", mem_printf("%s", o->optimizer), e));
    TRY(fact(r, "lr_scheduler", mem_printf("%s", o->lr_scheduler), e));
    TRY(fact(r, "max_grad_norm", mem_printf("%.17g", o->max_grad_norm), e));
    TRY(fact(r, "network_dim", mem_printf("%d", o->full || o->train_vae ? 0 : o->network_dim), e));
    TRY(fact(r, "network_alpha", mem_printf("%.17g", o->full || o->train_vae ? 0 : o->network_alpha), e));
    TRY(fact(r, "mixed_precision", mem_printf("%s%s", model_dtype_name(r->m.dtype),
                                                 o->int8_base ? ", int8 base" : ""), e));
    TRY(fact(r, "full_bf16", mem_printf("%d", o->full_bf16), e));
    TRY(fact(r, "train_data_dir", mem_printf("%zu pictures, %" PRIu32 " uses", r->ds->item_count, r->ds->entry_count), e));
    return 0;
}

int train_open(TrainRun *r, Err *e)
{
    OptimConfig oc;
    TRY(check_options(r, e));
    TRY(optim_parse(&oc, r->o.optimizer, r->o.optimizer_args, e));
    choose_rates(&r->o, &oc);
    if (r->o.seed < 0) r->o.seed = machine_random_seed();
    if (r->o.cache_latents_to_disk && !(r->cache_dir = mem_printf("%s/.sdc-latents", r->o.data_dir)))
        return err_nomem(e, 64, "a file name");
    r->state_path = mem_printf("%s/%s-state.safetensors", r->o.output_dir, r->o.output_name);
    if (!r->state_path) return err_nomem(e, 64, "a file name");
    TRY(open_model(r, e));
    TRY(open_data(r, e));
    TRY(open_lora(r, e));
    TRY(open_task(r, e));
    TRY(train_samples_init(r, e));
    TRY(open_trainer(r, &oc, e));
    TRY(train_fit(r, e));
    return list_facts(r, e);
}
