/* train_options.c - the options of `sdc train`: kohya's names and meaning.
 *
 * Where a default differs from kohya's it is because kohya's surprises people
 * (reference: its issues on lr 2e-6, 1600 steps, rank 4); the summary that the
 * run prints first shows every value that matters.
 */
#include <math.h>

#include "engine/mem.h"
#include "tools/train.h"

#define AT(field) offsetof(TrainOptions, field)
#define HEAD(text) {NULL, 0, OPT_FLAG, 0, 0, 0, NULL, text, NULL}
#define TEXT(name, field, arg, help) {name, 0, OPT_TEXT, AT(field), 0, 0, arg, help, NULL}
#define INT(name, field, lo, hi, help) {name, 0, OPT_INT, AT(field), lo, hi, "N", help, NULL}
#define NUM(name, field, lo, hi, help) {name, 0, OPT_FLOAT, AT(field), lo, hi, "X", help, NULL}
#define FLAG(name, field, help) {name, 0, OPT_FLAG, AT(field), 0, 0, NULL, help, NULL}
#define IGNORED(name, arg, why) {name, 0, OPT_IGNORED, 0, 0, 0, arg, why, NULL}
#define REFUSED(name, arg, why) {name, 0, OPT_REFUSED, 0, 0, 0, arg, why, NULL}

static const Option table[] = {
    HEAD("What is trained"),
    {"pretrained_model_name_or_path", 'm', OPT_TEXT, AT(model), 0, 0, "FILE", "checkpoint or diffusers folder", "model"},
    {"vae", 0, OPT_TEXT, AT(vae), 0, 0, "FILE", "the VAE of this file, or folder of diffusers, instead of the model's", NULL},
    {"train_data_dir", 'd', OPT_TEXT, AT(data_dir), 0, 0, "DIR", "folders N_words of pictures with .txt captions, or pictures; also without the name", "data"},
    TEXT("preset", preset, "NAME", "character, style or object: chooses what is not given, and says why"),
    TEXT("trigger", trigger, "WORDS", "the words that call it: put before captions that are without them"),
    TEXT("dataset_config", dataset_config, "FILE", "or: folders with settings of their own, a TOML file as kohya's"),
    TEXT("in_json", in_json, "FILE", "or: captions and tags of pictures of train_data_dir, a .json file as kohya's"),
    {"reg_data_dir", 0, OPT_TEXT, AT(reg_data_dir), 0, 0, "DIR", "regularisation pictures, same layout", "class_data_dir"},
    INT("num_class_images", num_class_images, 1, 1e6, "so many there should be: the model makes those that are missing"),
    TEXT("class_prompt", class_prompt, "TEXT", "what they show"),
    {"output_dir", 'o', OPT_TEXT, AT(output_dir), 0, 0, "DIR", "where results go (.)", NULL},
    TEXT("output_name", output_name, "NAME", "their name (last)"),
    TEXT("config_file", config_file, "FILE", "options from a TOML file; the command line wins"),
    FLAG("full", full, "train the weights themselves instead of a LoRA"),
    FLAG("full_bf16", full_bf16, "with --full: weights in bf16, rounded stochastically; each gradient is used up at once"),
    FLAG("train_vae", train_vae, "train the autoencoder on random crops"),
    TEXT("init", init, "JSON", "start from random weights of this architecture instead of a model"),
    FLAG("network_train_unet_only", unet_only, "leave the text encoder alone"),
    FLAG("network_train_text_encoder_only", text_only, "leave the U-Net alone"),

    HEAD("LoRA"),
    INT("network_dim", network_dim, 1, 4096, "rank (16)"),
    NUM("network_alpha", network_alpha, 0, 1e6, "scale is alpha / rank (half the rank)"),
    INT("conv_dim", conv_dim, 0, 4096, "rank of 3x3 convolutions (0: none)"),
    NUM("conv_alpha", conv_alpha, 0, 1e6, "their alpha (half their rank)"),
    TEXT("network_weights", network_weights, "FILE", "start from this LoRA"),
    {"network_args", 0, OPT_LIST, AT(network_arg_list), 0, 0, "K=V", "conv_dim=N, algo=loha, factor=N, dora_wd=True, rank_dropout=X, down_lr_weight=... and so on", NULL},
    {"base_weights", 0, OPT_LIST, AT(base_weights), 0, 0, "FILE...", "LoRAs merged into the model before training", NULL},
    {"base_weights_multiplier", 0, OPT_LIST, AT(base_multipliers), 0, 0, "X...", "their strengths (1)", NULL},
    NUM("network_dropout", network_dropout, 0, 0.99, "part of the inner product that is left out in each step (off)"),
    NUM("scale_weight_norms", scale_weight_norms, 0, 1e6, "largest norm of a module's product, 1 is usual (off)"),
    TEXT("network_module", network_module, "NAME", "networks.lora, networks.loha, networks.lokr, lycoris.kohya (networks.lora)"),

    HEAD("Textual inversion"),
    FLAG("ti", ti, "train vectors of a new word, the networks stay as they are"),
    TEXT("token_string", token_string, "WORD", "the new word, as it stands in captions"),
    TEXT("init_word", init_word, "TEXT", "words whose vectors it begins with (random)"),
    INT("num_vectors_per_token", num_vectors, 1, 75, "vectors of the word (1)"),
    TEXT("weights", ti_weights, "FILE", "start from this embedding"),
    FLAG("use_object_template", object_template, "captions are \"a photo of a WORD\" and the like"),
    FLAG("use_style_template", style_template, "captions are \"a painting in the style of WORD\" and the like"),

    HEAD("Length and rates"),
    INT("max_train_epochs", epochs, 1, 1e6, "passes over the pictures (10)"),
    INT("max_train_steps", steps, 1, 1e9, "or: optimizer steps"),
    TEXT("time", time, "TIME", "as many steps as fit into 90m or 1h30m, and no more than are given"),
    INT("train_batch_size", batch, 1, 1024, "pictures per step (1)"),
    INT("gradient_accumulation_steps", accumulation, 1, 4096, "batches per optimizer step (1)"),
    {"learning_rate", 0, OPT_FLOAT, AT(lr), 0, 100, "X|auto", "rate of what has none of its own (1e-4); auto: found by short runs", "lr"},
    {"unet_lr", 0, OPT_FLOAT, AT(unet_lr), 0, 100, "X|auto", "rate of the U-Net", NULL},
    {"text_encoder_lr", 0, OPT_FLOAT, AT(text_lr), 0, 100, "X|auto...", "rate of the text encoder (half the U-Net's)", "learning_rate_te"},
    {"optimizer_type", 0, OPT_TEXT, AT(optimizer), 0, 0, "NAME", "AdamW, AdamW8bit, Lion, Lion8bit, SGDNesterov, SGDNesterov8bit, Adafactor, Prodigy, DAdaptAdam and the rest of "
     "its family, AdamWScheduleFree, RAdamScheduleFree, SGDScheduleFree (AdamW)", "optimizer"},
    {"optimizer_args", 0, OPT_LIST, AT(optimizer_arg_list), 0, 0, "K=V", "its arguments", NULL},
    {"lr_scheduler", 0, OPT_TEXT, AT(lr_scheduler), 0, 0, "NAME", "constant, constant_with_warmup, linear, cosine, cosine_with_restarts, cosine_with_min_lr, polynomial, "
     "inverse_sqrt, warmup_stable_decay, piecewise_constant, adafactor", NULL},
    TEXT("lr_warmup_steps", lr_warmup, "N", "warm-up: steps, or a part below 1"),
    TEXT("lr_decay_steps", lr_decay, "N", "of warmup_stable_decay: steps, or a part below 1"),
    INT("lr_scheduler_num_cycles", lr_cycles, 1, 1000, "of the cosines but the plain one (1)"),
    NUM("lr_scheduler_min_lr_ratio", lr_min_ratio, 0, 1, "where cosine_with_min_lr and warmup_stable_decay end"),
    INT("lr_scheduler_timescale", lr_timescale, 1, 1e9, "of inverse_sqrt (the warm-up, or 10000)"),
    {"lr_scheduler_args", 0, OPT_LIST, AT(lr_arg_list), 0, 0, "K=V", "lr_end=X of polynomial, min_lr=X of cosine_with_min_lr, step_rules=F:N,F of piecewise_constant", NULL},
    NUM("lr_scheduler_power", lr_power, 0, 100, "of polynomial (1)"),
    NUM("max_grad_norm", max_grad_norm, 0, 1e9, "gradient clipping, 0: off (1); with --full_bf16 of each tensor by itself"),
    FLAG("use_ema", use_ema, "keep a running average of the weights: it is what is sampled and saved"),
    NUM("ema_decay", ema_decay, 0, 1, "how slowly it follows, at most (0.9999)"),
    INT("ema_update_after_step", ema_update_after, 0, 1e9, "it follows at once until then (0)"),
    {"seed", 0, OPT_INT64, AT(seed), 0, 0, "N", "drawn and recorded when not given", NULL},

    HEAD("Loss"),
    TEXT("loss_type", loss_type, "NAME", "l2, l1, huber, smooth_l1 (l2)"),
    NUM("huber_c", huber_c, 1e-6, 100, "of the huber losses (0.1)"),
    TEXT("huber_schedule", huber_schedule, "NAME", "snr, exponential, constant (snr)"),
    NUM("huber_scale", huber_scale, 1e-6, 1e6, "factor on c in the constant and exponential schedules (1)"),
    NUM("min_snr_gamma", min_snr_gamma, 0, 1000, "min-SNR weighting, 5 is usual (off)"),
    FLAG("debiased_estimation_loss", debiased, "weight by 1 / sqrt(SNR)"),
    FLAG("scale_v_pred_loss_like_noise_pred", scale_v_loss, "weight of v prediction as if noise were predicted"),
    NUM("v_pred_like_loss", v_pred_like_loss, 0, 1000, "adds so much of a loss as of v prediction (off)"),
    NUM("noise_offset", noise_offset, 0, 10, "0.05 to 0.1 is usual (off)"),
    FLAG("noise_offset_random_strength", noise_offset_random, "between 0 and noise_offset in each batch"),
    NUM("adaptive_noise_scale", adaptive_noise_scale, -100, 100, "adds so much of the latents' mean to noise_offset"),
    INT("multires_noise_iterations", multires_iterations, 0, 100, "noise on coarser and coarser scales, 6 to 10 (off)"),
    NUM("multires_noise_discount", multires_discount, 0, 1, "strength from one to the next (0.3)"),
    NUM("ip_noise_gamma", ip_noise_gamma, 0, 10, "more noise in the input than in the target, 0.1 (off)"),
    FLAG("ip_noise_gamma_random_strength", ip_noise_random, "between 0 and ip_noise_gamma in each batch"),
    FLAG("zero_terminal_snr", zero_terminal_snr, "the last timestep is pure noise: for v prediction"),
    FLAG("alpha_mask", alpha_mask, "weigh the loss by the pictures' opacity"),
    FLAG("masked_loss", masked_loss, "weigh the loss by the pictures in conditioning_data_dir"),
    TEXT("conditioning_data_dir", mask_dir, "DIR", "masks, named as the pictures: white counts, black does not"),
    NUM("prior_loss_weight", prior_loss_weight, 0, 1e6, "of regularisation pictures (1)"),
    FLAG("v_parameterization", v_pred, "the model predicts v (found out where the file says so)"),
    INT("min_timestep", min_timestep, 0, 999, "lowest timestep (0)"),
    INT("max_timestep", max_timestep, 1, 1000, "one past the highest (1000)"),
    NUM("kl_weight", kl_weight, 0, 1000, "with --train_vae (3e-4)"),
    INT("vae_crop", vae_crop, 8, 4096, "with --train_vae: side of the crops (64)"),
    FLAG("vae_unit_latents", unit_latents, "with --train_vae: scale latents to unit variance at the end"),

    HEAD("Pictures and captions"),
    TEXT("resolution", resolution, "W[,H]", "training size in pixels (512)"),
    FLAG("enable_bucket", enable_bucket, "keep aspect ratios by size buckets (on)"),
    FLAG("bucket_no_upscale", bucket_no_upscale, "never enlarge a picture"),
    INT("min_bucket_reso", min_bucket_reso, 8, 16384, "shortest side (256)"),
    INT("max_bucket_reso", max_bucket_reso, 8, 16384, "longest side (1024)"),
    INT("bucket_reso_steps", bucket_reso_steps, 8, 1024, "sides are multiples of it (64)"),
    INT("num_repeats", num_repeats, 1, 1e6, "uses of every training picture an epoch, whatever its folder says"),
    INT("dataset_repeats", repeats, 1, 1e6, "uses an epoch of pictures that lie in no folder N_words (1)"),
    FLAG("flip_aug", flip_aug, "mirror every second use"),
    {"caption_extension", 0, OPT_TEXT, AT(caption_extension), 0, 0, ".EXT", "of caption files (.txt, then .caption)", "caption_extention"},
    TEXT("caption_separator", caption_separator, "TEXT", "between tags (,)"),
    TEXT("secondary_separator", secondary_separator, "TEXT", "becomes the separator at the end: tags that stay together"),
    FLAG("enable_wildcard", enable_wildcard, "{a|b} is one of them, and of several lines one is used"),
    FLAG("shuffle_caption", shuffle_caption, "shuffle the tags of a caption"),
    INT("keep_tokens", keep_tokens, 0, 1000, "the first N tags stay in place"),
    TEXT("keep_tokens_separator", keep_tokens_separator, "TEXT", "what stands before it stays in place"),
    NUM("caption_dropout_rate", caption_dropout_rate, 0, 1, "part of empty captions"),
    INT("caption_dropout_every_n_epochs", dropout_every_n_epochs, 0, 1e6, "an epoch without captions"),
    NUM("caption_tag_dropout_rate", tag_dropout_rate, 0, 1, "part of tags left out"),
    INT("token_warmup_min", token_warmup_min, 1, 1000, "tags at the first step (1)"),
    NUM("token_warmup_step", token_warmup_step, 0, 1e9, "steps, or a part below 1, until all tags are there (0)"),
    TEXT("caption_prefix", caption_prefix, "TEXT", "put before every caption"),
    TEXT("caption_suffix", caption_suffix, "TEXT", "put behind it"),
    INT("max_token_length", max_token_length, 75, 225, "75, 150 or 225 (75)"),
    INT("clip_skip", clip_skip, 0, 64, "text encoder layers left out, plus 1"),
    FLAG("cache_latents_to_disk", cache_latents_to_disk, "keep latents in DATA/.sdc-latents for later runs"),
    FLAG("skip_bad_images", skip_bad_images, "leave out pictures that cannot be read"),

    HEAD("Sweep: the same training with each combination of some values"),
    {"sweep", 0, OPT_AXES, AT(sweep), 0, 0, "TEXT", "\"lr=5e-5,1e-4 dim=8,32 optimizer=adamw8bit,lion\"; sdc sweep FILE takes lists from a file", NULL},
    FLAG("sweep_halving", sweep_halving, "hopeless runs end at a quarter and at a half of their steps (on)"),

    HEAD("Validation"),
    FLAG("auto", until_best, "stop when the loss on held-out pictures does not fall any more, and keep the weights of its lowest"),
    TEXT("validation_dir", validation_dir, "DIR", "pictures that are only measured"),
    NUM("validation_split", validation_split, 0, 0.9, "or: this part of the pictures is held out (--auto: a fifth)"),
    {"validation_seed", 0, OPT_INT64, AT(validation_seed), 0, 0, "N", "chooses them and their noise (seed)", NULL},
    INT("validate_every_n_epochs", validate_every_n_epochs, 1, 1e6, "measure after every N epochs (1, or as a tenth of the time allows)"),
    INT("validate_every_n_steps", validate_every_n_steps, 1, 1e9, "and after every N steps"),
    INT("max_validation_steps", max_validation_steps, 1, 1e9, "of at most N pictures"),

    HEAD("Saving"),
    INT("save_every_n_epochs", save_every_n_epochs, 1, 1e6, "NAME-000002.safetensors and so on"),
    INT("save_every_n_steps", save_every_n_steps, 1, 1e9, "NAME-step00000100.safetensors"),
    INT("save_n_epoch_ratio", save_n_epoch_ratio, 1, 1e6, "or: so many in all"),
    INT("save_last_n_epochs", save_last_n_epochs, 1, 1e6, "older ones are removed"),
    INT("save_last_n_steps", save_last_n_steps, 1, 1e9, "those of more than N steps ago are removed"),
    TEXT("save_model_as", save_model_as, "TYPE", "safetensors is the one there is"),
    TEXT("save_precision", save_precision, "TYPE", "float, fp16 or bf16 (fp16)"),
    {"save_state", 0, OPT_FLAG, AT(save_state), 0, 0, NULL, "keep the training state at the end, too", "save_state_on_train_end"},
    INT("save_state_every_n_steps", save_state_every_n_steps, 1, 1e9, "state after every N steps (and every 10 minutes)"),
    {"resume", 0, OPT_MAYBE, AT(resume), 0, 0, "[FILE]", "go on from a state; alone: the newest of this output_name, or start", NULL},
    TEXT("training_comment", comment, "TEXT", "kept in the metadata"),
    TEXT("metadata_title", meta_text[0], "TEXT", "of the metadata (output_name)"),
    TEXT("metadata_author", meta_text[1], "TEXT", "who made it"),
    TEXT("metadata_description", meta_text[2], "TEXT", "what it shows or does"),
    TEXT("metadata_license", meta_text[3], "TEXT", "its licence"),
    TEXT("metadata_tags", meta_text[4], "TEXT", "its tags, with commas"),
    TEXT("metadata_usage_hint", meta_text[5], "TEXT", "how to use it"),
    TEXT("metadata_thumbnail", meta_text[6], "URL", "a data: URL"),
    TEXT("metadata_merged_from", meta_text[7], "TEXT", "what it was made of"),
    TEXT("metadata_trigger_phrase", meta_text[8], "TEXT", "the words that call it"),
    TEXT("metadata_preprocessor", meta_text[9], "TEXT", "what the pictures went through"),
    TEXT("metadata_is_negative_embedding", meta_text[10], "TEXT", "true for one"),
    FLAG("no_metadata", no_metadata, "write only what loaders need"),

    HEAD("Sample pictures"),
    TEXT("sample_prompts", sample_prompts, "FILE", "one prompt a line; --w --h --d --s --l --n --ss as in kohya"),
    INT("sample_every_n_epochs", sample_every_n_epochs, 1, 1e6, "pictures and a growing grid"),
    INT("sample_every_n_steps", sample_every_n_steps, 1, 1e9, "or after every N steps"),
    FLAG("sample_at_first", sample_at_first, "before the first step, too"),
    TEXT("sample_strengths", sample_strengths, "X,...", "at the end, samples at these strengths of the LoRA"),
    TEXT("sample_sampler", sample_sampler, "NAME", "sampler (ddim)"),

    HEAD("Log"),
    TEXT("logging_dir", logging_dir, "DIR", "numbers of each step for TensorBoard, in a folder named by the time"),
    TEXT("log_prefix", log_prefix, "TEXT", "put before that name"),
    TEXT("log_with", log_with, "NAME", "tensorboard is the one there is"),

    HEAD("Machine"),
    TEXT("mixed_precision", mixed_precision, "TYPE", "no, bf16 (bf16 where it is fast)"),
    FLAG("int8_base", int8_base, "frozen weights of U-Net and text encoder in 8 bits: half their memory"),
    TEXT("device", device, "NAME", DEV_NAMES),
    INT("threads", threads, 0, 1024, "0: all cores"),
    INT("stop_after_steps", stop_after_steps, 1, 1e9, "stop after N steps of this session as on Ctrl-C"),
    {"ram", 0, OPT_TEXT, AT(ram), 0, 0, "SIZE", "memory to stay within, such as 4G (what is free, less a reserve); with --dry_run a list", "vram"},
    TEXT("device_memory", ram, "SIZE", "the same, of a device that is not here"),
    INT("micro_batch_size", micro, 1, 1024, "pictures that run at a time (the batch, or what fits)"),
    FLAG("dry_run", dry_run, "plan, print steps, time and memory, and stop"),

#include "tools/train_kohya.inc"
};

int train_options_init(TrainOptions *o, Options *opt, Err *e)
{
    *o = (TrainOptions){.network_dim = 16, .network_alpha = NAN, .conv_alpha = NAN, .lr = NAN, .unet_lr = NAN,
                        .text_lr = NAN, .batch = 1, .accumulation = 1, .lr_cycles = 1, .lr_power = 1,
                        .max_grad_norm = 1, .huber_c = 0.1, .prior_loss_weight = 1, .max_timestep = 1000,
                        .kl_weight = 3e-4, .vae_crop = 64, .enable_bucket = 1, .sweep_halving = 1, .max_token_length = 75,
                        .seed = -1, .save_state_minutes = 10,
                        .validation_seed = -1, .huber_scale = 1, .multires_discount = 0.3, .token_warmup_min = 1,
                        .lr_min_ratio = NAN, .ema_decay = 0.9999, .num_vectors = 1};
    *opt = (Options){table, sizeof table / sizeof *table, o, "sdc train",
                     "train a LoRA (or, with --full, a model) on a folder of pictures", NULL, &o->rest};
    struct { char **field; const char *value; } texts[] = {
        {&o->output_dir, "."}, {&o->output_name, "last"}, {&o->resolution, "512"}, {&o->save_precision, "fp16"},
        {&o->optimizer, "AdamW"}, {&o->lr_scheduler, "constant"}, {&o->loss_type, "l2"},
        {&o->huber_schedule, "snr"}, {&o->sample_sampler, "ddim"},
        {&o->save_model_as, "safetensors"}, {&o->log_with, "tensorboard"}, {&o->caption_separator, ","},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!(*texts[i].field = mem_strdup(texts[i].value))) return err_nomem(e, 16, "options");
    return 0;
}
