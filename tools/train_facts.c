/* train_facts.c - what a run and the run that resumes it must have in common: everything
 * that changes the bytes of the result. The state keeps it (engine/train.h, TrainFact).
 */
#include <inttypes.h>
#include <stdint.h>
#include <string.h>

#include "engine/hash.h"
#include "engine/mem.h"
#include "tools/train.h"

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

int train_fact_set(TrainRun *r, const char *key, double value, Err *e)
{
    for (size_t i = 0; i < r->fact_count; i++) {
        if (strcmp(r->facts[i].key, key)) continue;
        char *text = mem_printf("%.17g", value);
        if (!text) return err_nomem(e, 32, "the list of settings");
        mem_free((void *)(uintptr_t)r->facts[i].value);
        r->facts[i].value = text;
        return 0;
    }
    return 0;
}

/* Options whose value as text is a fact. */
static int list_options(TrainRun *r, Err *e)
{
    static const char *const names[] = {"optimizer_args",
                                        "lr_warmup_steps",
                                        "lr_decay_steps",
                                        "lr_scheduler_num_cycles",
                                        "lr_scheduler_power",
                                        "lr_scheduler_min_lr_ratio",
                                        "lr_scheduler_timescale",
                                        "lr_scheduler_args",
                                        "loss_type",
                                        "huber_c",
                                        "huber_schedule",
                                        "huber_scale",
                                        "min_snr_gamma",
                                        "debiased_estimation_loss",
                                        "scale_v_pred_loss_like_noise_pred",
                                        "v_pred_like_loss",
                                        "noise_offset",
                                        "noise_offset_random_strength",
                                        "adaptive_noise_scale",
                                        "multires_noise_iterations",
                                        "multires_noise_discount",
                                        "ip_noise_gamma",
                                        "ip_noise_gamma_random_strength",
                                        "zero_terminal_snr",
                                        "alpha_mask",
                                        "masked_loss",
                                        "prior_loss_weight",
                                        "min_timestep",
                                        "max_timestep",
                                        "flip_aug",
                                        "resize_interpolation",
                                        "random_crop",
                                        "color_aug",
                                        "face_crop_aug_range",
                                        "shuffle_caption",
                                        "keep_tokens",
                                        "keep_tokens_separator",
                                        "caption_separator",
                                        "secondary_separator",
                                        "enable_wildcard",
                                        "caption_dropout_rate",
                                        "caption_dropout_every_n_epochs",
                                        "caption_tag_dropout_rate",
                                        "token_warmup_min",
                                        "token_warmup_step",
                                        "caption_prefix",
                                        "caption_suffix",
                                        "conv_dim",
                                        "conv_alpha",
                                        "network_module",
                                        "network_args",
                                        "network_dropout",
                                        "ti",
                                        "token_string",
                                        "init_word",
                                        "num_vectors_per_token",
                                        "weights",
                                        "use_object_template",
                                        "use_style_template",
                                        "v_parameterization",
                                        "max_token_length",
                                        "clip_skip",
                                        "base_weights",
                                        "base_weights_multiplier",
                                        "validation_split",
                                        "validation_seed",
                                        "auto",
                                        "num_repeats",
                                        "use_ema",
                                        "ema_decay",
                                        "ema_update_after_step"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        TRY(fact(r, names[i], options_text(&r->opt, names[i]), e));
    return 0;
}

/* What is in a file, wherever it lies. */
static int file_fact(TrainRun *r, const char *option, const char *path, Err *e)
{
    char hex[HASH_HEX] = "";
    if (path) TRY(hash_file(hex, path, e));
    return fact(r, option, mem_strdup(hex), e);
}

/* Files of weights by 64 KB of each (hash.h), as kohya names models. */
static int weights_fact(TrainRun *r, const char *option, TensorFile *const *files, size_t count,
                        const char *none, Err *e)
{
    char *all = mem_strdup(count ? "" : none);
    for (size_t i = 0; all && i < count; i++) {
        char hex[HASH_LEGACY_HEX];
        int rc = hash_file_legacy(hex, tensorfile_path(files[i]), e);
        char *more = rc ? NULL : mem_printf("%s%s%s", all, i ? " " : "", hex);
        mem_free(all);
        TRY(rc);
        all = more;
    }
    return fact(r, option, all, e);
}

int train_facts(TrainRun *r, Err *e)
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
    TRY(fact(r, "network_dim", mem_printf("%d", train_is_lora(o) ? o->network_dim : 0), e));
    TRY(fact(r, "network_alpha", mem_printf("%.17g", train_is_lora(o) ? o->network_alpha : 0), e));
    TRY(fact(r, "mixed_precision", mem_printf("%s%s", model_dtype_name(r->m.dtype),
                                                 o->int8_base ? ", int8 base" : ""), e));
    TRY(fact(r, "scale_weight_norms", mem_printf("%.17g", o->scale_weight_norms), e));
    TRY(list_options(r, e));
    TRY(file_fact(r, "dataset_config", o->dataset_config, e));
    TRY(file_fact(r, "in_json", o->in_json, e));
    const Checkpoint *ck = r->m.ck;
    TRY(weights_fact(r, "pretrained_model_name_or_path", ck->files, ck->file_count,
                     "random weights", e));
    TRY(weights_fact(r, "vae", &ck->vae, ck->vae != NULL, "the model's own", e));
    TRY(fact(r, "full_bf16", mem_printf("%d", o->full_bf16), e));
    TRY(fact(r, "train_data_dir",
             mem_printf("%zu pictures, %" PRIu32 " uses", r->ds->item_count, r->ds->entry_count),
             e));
    return 0;
}
