/* train.h - what the parts of `sdc train` share.
 *
 *   train_options.c  the option table, defaults, what kohya has and we have not
 *   train_preset.c   --preset: settings with reasons
 *   train_record.c   those settings in a file, and back
 *   train_kohya.c    command lines as kohya's
 *   train_rates.c    --learning_rate auto
 *   train_time.c     --time
 *   train_network.c  --network_module and --network_args
 *   train_ti.c       --ti
 *   train_open.c     the run before its first step
 *   train_run.c      its steps, and what is done after each
 *   cmd_train.c      the command
 *   train_save.c     LoRA and checkpoint files with kohya's metadata
 *   train_class.c    regularisation pictures that are missing
 *   train_memory.c   what the run needs, and how it is made to fit
 *   train_data.c     the pictures
 *   train_samples.c  sample pictures and the grid
 *   train_judge.c    a tagger's opinion of them
 *   train_watch.c    the loss on pictures held out, and --auto
 *   train_norms.c    --scale_weight_norms
 *   train_strengths.c  samples at other strengths
 *   train_log.c      the log
 *   train_report.c   the report
 */
#ifndef SDC_TOOLS_TRAIN_H
#define SDC_TOOLS_TRAIN_H

#include "engine/runlog.h"
#include "engine/train.h"
#include "models/autoencode.h"
#include "models/finetune.h"
#include "tools/memory.h"
#include "tools/options.h"
#include "tools/progress.h"

enum {
    STRENGTHS_MAX = 12,
    TRAIN_META = 11
}; /* metadata_title and so on, in the order of the table */

typedef struct {
    char *model, *vae, *data_dir, *reg_data_dir, *output_dir, *output_name, *resolution,
        *caption_extension, *mixed_precision, *save_precision, *network_weights, *optimizer,
        *optimizer_args, *lr_scheduler, *lr_warmup, *loss_type, *huber_schedule, *sample_prompts,
        *sample_sampler, *sample_strengths, *time, *resume, *config_file, *init, *device,
        *caption_prefix, *caption_suffix, *keep_tokens_separator, *comment, *network_module,
        *network_args, *validation_dir, *save_model_as, *ram, *lr_decay, *mask_dir,
        *caption_separator, *secondary_separator, *dataset_config, *in_json, *token_string,
        *init_word, *ti_weights, *preset, *trigger, *class_prompt, *logging_dir, *log_prefix,
        *log_with, *meta_text[TRAIN_META], *resize_interpolation,
        *face_crop_aug_range, *tagger;
    double face[2];                /* what it says; 0: nothing */
    ResizeMethod resize;           /* what it says */
    OptionList optimizer_arg_list, network_arg_list, lr_arg_list, base_weights, base_multipliers,
        rest, sweep;
    int network_dim, conv_dim, full, train_vae, unet_only, text_only, batch, accumulation, epochs,
        steps, save_every_n_epochs, save_every_n_steps, save_last_n_epochs, sample_every_n_epochs,
        sample_every_n_steps, sample_at_first, save_state, save_state_every_n_steps,
        shuffle_caption, keep_tokens, flip_aug, enable_bucket, bucket_no_upscale, min_bucket_reso,
        max_bucket_reso, bucket_reso_steps, clip_skip, max_token_length, v_pred, threads, dry_run,
        lr_cycles, min_timestep, max_timestep, dropout_every_n_epochs, skip_bad_images, vae_crop,
        cache_latents_to_disk, no_metadata, stop_after_steps, unit_latents, micro, full_bf16,
        int8_base, lr_timescale, debiased, scale_v_loss, noise_offset_random, multires_iterations,
        ip_noise_random, zero_terminal_snr, alpha_mask, masked_loss, enable_wildcard,
        token_warmup_min, validate_every_n_epochs, validate_every_n_steps, max_validation_steps,
        repeats, num_repeats, sweep_halving, save_n_epoch_ratio, save_last_n_steps, until_best,
        num_class_images, use_ema, ema_update_after, ti, num_vectors, object_template,
        style_template, random_crop, color_aug, cache_latents;
    int64_t seed, validation_seed;
    double network_alpha, conv_alpha, lr, unet_lr, text_lr, max_grad_norm, lr_power, min_snr_gamma,
        huber_c, noise_offset, caption_dropout_rate, tag_dropout_rate, prior_loss_weight, kl_weight,
        save_state_minutes, scale_weight_norms, lr_min_ratio, huber_scale, v_pred_like_loss,
        adaptive_noise_scale, multires_discount, ip_noise_gamma, token_warmup_step,
        validation_split, ema_decay, network_dropout;
} TrainOptions;

/* Defaults and the table. */
int train_options_init(TrainOptions *o, Options *opt, Err *e);

/* What --network_module and --network_args say. */
enum { TRAIN_BLOCKS = 25 };        /* of kohya's, in a U-Net */
typedef struct {
    LoraAlgo algo;
    int lycoris, attn_only;        /* lycoris.kohya: convolutions, too, unless attn_only */
    int dora, wd_on_output, factor, decompose_both, full_matrix, rs_lora;
    double dropout, rank_dropout, module_dropout;
    int has_rates, has_dims, has_alphas, has_conv_dims, has_conv_alphas;
    double rate[TRAIN_BLOCKS], dim[TRAIN_BLOCKS], alpha[TRAIN_BLOCKS], conv_dim[TRAIN_BLOCKS],
        conv_alpha[TRAIN_BLOCKS], zero_threshold;
    double plus, plus_unet, plus_text;      /* LoRA+'s ratios; 0: none */
} TrainNetwork;

/* A setting that the program chose. */
typedef struct { const char *name; char *reason; } TrainChoice;

/* The loss on pictures that are held out (train_watch.c). */
typedef struct {
    uint32_t interval;             /* steps between two measurements */
    int times;                     /* timesteps of each picture */
    uint32_t extra;                /* a step after which it is measured, too; 0: none */
    FinetuneBands training;        /* training loss since the last one */
    char why[300];                 /* --auto: why the run has stopped; "": it has not */
} TrainWatch;

/* What runs of one process share: the model with its frozen weights, and latents. */
typedef struct {
    Model m;                       /* while no run has it */
    char *key;                     /* what it was opened with; NULL: there is none */
    LatentPool latents;
} TrainShared;

void train_shared_free(TrainShared *s);        /* zeroed s ok */

typedef struct {
    TrainOptions o;
    Options opt;
    TrainShared *shared;           /* NULL: nothing is shared */
    Model m;
    Dataset *ds, *val_ds;
    struct DatasetFile *ds_file, *val_file;     /* of --dataset_config and --in_json */
    Tokenizer *tok;
    TrainNetwork network;
    Lora lora;                     /* under training; initial values, later the trained ones */
    FinetuneConfig ft_config, val_config;
    Finetune ft, val;
    Autoencode ae;
    Trainer t;
    Memory memory;
    int table;                     /* --ram was a list: a table was printed, and that is all */
    TrainFact *facts;              /* with owned values */
    size_t fact_count;
    char *state_path, *cache_dir;
    uint32_t steps_per_epoch, total;
    size_t class_missing;          /* regularisation pictures, with --num_class_images */
    double last_state;             /* seconds: when the state was last saved */
    uint32_t first_step;           /* where this session began */
    Progress progress;
    int argc;                      /* the command line, for the report */
    char **argv;
    RunLog log;
    int norms_scaled;              /* by --scale_weight_norms in the last step */
    double norm_mean, norm_max;
    TrainWatch watch;
    TrainChoice *choices;
    size_t choice_count, choice_cap;
    int find[GROUP_COUNT], find_together, find_own;    /* rates that are auto (train_rates.c) */
    int has_result;                /* train_result was called */
    int recalled;                  /* settings are those of the record of the first start */
    char *prompts;                 /* sample prompts that were chosen, to be written; or NULL */
    struct { double start, latents, steps, samples; } spent;    /* seconds; start: when it began */
    double strengths[STRENGTHS_MAX];
    int strength_count;
    struct TrainSamples *samples;  /* train_samples.c; NULL: none */
} TrainRun;

/* A run, in this order; *r is zeroed before the first. train_close whatever happened. */
/* The command line, and the --config_file that it names. */
int train_parse(TrainRun *r, int argc, char **argv, int *help, Err *e);
/* From parsed options to everything planned; nothing is loaded or written but class
 * pictures that are missing (train_class.c). */
int train_open(TrainRun *r, Err *e);
/* Latents, weights, what --resume continues, the log: ready for the first step. */
int train_start(TrainRun *r, Err *e);
/* Steps until `end` of them are done (0: all), and what follows each. A stop that the
 * user asked for has saved the run: ERR_INT, ERR_TERM. */
int train_steps(TrainRun *r, uint32_t end, Err *e);
/* Saves the state, for a run that another process, or this one later, goes on with. */
int train_pause(TrainRun *r, Err *e);
/* After the last step: the trained file and the report. */
int train_finish(TrainRun *r, Err *e);
void train_close(TrainRun *r);
/* Frees everything but the options: train_open may follow. */
void train_close_parts(TrainRun *r);

/* Its parts that others use: the model, and --resolution. */
int train_open_model(TrainRun *r, Err *e);
int train_resolution(const TrainOptions *o, int *w, int *h, Err *e);

/* Parses both, and sets conv_dim and the alphas that follow. */
int train_network_parse(TrainNetwork *n, TrainOptions *o, Err *e);
int train_network_new(TrainRun *r, Err *e);                    /* r->lora */
void train_network_train(TrainRun *r, ModelTraining *t);
/* The rates of all optimizer groups, lr (OPTIM_GROUPS), from those of GROUP_TEXT and
 * GROUP_UNET; returns how many groups there are. */
int train_network_rates(const TrainRun *r, double *lr);
int train_block(const char *name);                             /* of a U-Net module, 0..24 */
const char *train_network_name(const TrainNetwork *n);         /* "LoKr with DoRA" */
char *train_network_args(const TrainOptions *o);               /* JSON; mem_free */

/* --ti: its options; the captions that its templates make; the new word's vectors, before the
 * first graph; the file. */
int train_ti_check(const TrainOptions *o, Err *e);
void train_ti_captions(const TrainOptions *o, FinetuneConfig *c);
int train_ti_open(TrainRun *r, Err *e);
int train_ti_load(TrainRun *r, const char *path, Err *e);
int train_ti_save(const TrainRun *r, const char *path, FileDtype dtype, const LoraMeta *meta,
                  size_t count, Err *e);
static inline int train_is_lora(const TrainOptions *o)
{
    return !o->full && !o->train_vae && !o->ti;
}

/* --num_class_images: whether there is none yet; how many are missing; makes these in a run
 * of which nothing is open, and leaves the model open. */
int train_class_none(const TrainOptions *o);
int train_class_missing(TrainRun *r, Err *e);
int train_class_images(TrainRun *r, size_t missing, Err *e);

/* --preset and --trigger: sets options that were not given. */
int train_preset(TrainRun *r, Err *e);
/* Its choice of where results go, which is known before anything else. */
int train_preset_names(TrainRun *r, Err *e);
/* Sets an option because of reason, unless the user set it. value, reason: owned by the run. */
int train_choice(TrainRun *r, const char *name, char *value, char *reason, Err *e);
const char *train_reason(const TrainRun *r, const char *name);    /* NULL: not chosen */
void train_print_choices(const TrainRun *r);

/* --learning_rate auto: notes what is to be found, and gives it a value for the time being;
 * then, with everything loaded, finds it; what that needs besides the rest of the run. */
int train_rates_init(TrainRun *r, const OptimConfig *c, Err *e);
int train_rates(TrainRun *r, Err *e);
size_t train_rates_bytes(const TrainRun *r);
/* --time, with everything loaded: how many steps there are. */
int train_time_seconds(double *seconds, const char *text, Err *e);
int train_time(TrainRun *r, Err *e);
/* Everything that follows from the number of steps. */
int train_set_total(TrainRun *r, uint32_t total, Err *e);
/* What a run that resumes this one must share; a setting of it has another value now. */
int train_facts(TrainRun *r, Err *e);
int train_fact_set(TrainRun *r, const char *key, double value, Err *e);

/* A batch of a step; how many batches that has (TrainTask). */
int train_micro(TrainRun *r, uint32_t step, int micro, float *loss, Err *e);
int train_micros(const TrainRun *r, uint32_t step);

/* OUTPUT_DIR/OUTPUT_NAME.toml: all settings of a run with choices, for --config_file. When
 * such a run is resumed, it reads them from there and chooses nothing again. */
int train_recall(TrainRun *r, Err *e);
int train_record_check(const TrainRun *r, Err *e);     /* ERR_USAGE: another file is in its place */
int train_record(const TrainRun *r, Err *e);
int train_record_write(const TrainRun *r, const char *path,
                       Err *e); /* all settings, chosen or given */

/* What stands before the options in a command line for kohya's scripts is passed over: *skip
 * arguments. ERR_USAGE for scripts of other models. */
int train_kohya_command(TrainRun *r, int argc, char **argv, int *skip, Err *e);
/* What was not given and is not as it would be there. */
void train_print_defaults(const TrainRun *r);

/* The pictures under training as the options say; quiet: without notices. */
int train_dataset(Dataset **ds, const TrainOptions *o, int quiet, Err *e);
/* r->ds, and r->val_ds where pictures are held out. */
int train_open_data(TrainRun *r, Err *e);
/* Options of pictures: how they are resized and cut. */
int train_pictures_check(TrainOptions *o, Err *e);

/* After everything is planned: makes the run fit into --ram (or what is free) by smaller
 * pieces of a batch and by recomputing; ERR_MEMORY with what would fit. */
int train_fit(TrainRun *r, Err *e);
/* For --dry_run: the whole account. */
int train_print_memory(TrainRun *r, Err *e);

/* Frees the host's copy of a LoRA under training: its values are on the device. */
void train_drop_lora(TrainRun *r);
/* Around everything that writes a model or a state: gives the activations' memory back
 * meanwhile. */
void train_save_begin(TrainRun *r);
int train_save_end(TrainRun *r, Err *e);

/* After each step. */
int train_scale_norms(TrainRun *r, Err *e);

/* When the loss on pictures held out is measured, after everything is planned; measured
 * before the first step, and after step done where it is time. */
void train_watch_init(TrainRun *r);
int train_watch_start(TrainRun *r, Err *e);
int train_watch_after(TrainRun *r, uint32_t done, Err *e);
/* The first step from `done` on after which it is measured. */
uint32_t train_watch_next(const TrainRun *r, uint32_t done);
/* The point with the lowest loss, NULL: none. */
const TrainPoint *train_watch_best(const TrainRun *r);

/* The log, from the step that the run is at; a line per step; a line for a measurement of
 * held-out loss, with training and held-out loss by timestep; and the report at the end. */
int train_log_open(TrainRun *r, Err *e);
int train_log_step(TrainRun *r, uint32_t done, Err *e);
int train_log_validation(TrainRun *r, const TrainPoint *p, const FinetuneBands *held,
                         const FinetuneBands *training, Err *e);
char *train_verdict(const TrainRun *r);                /* a sentence or two (mem_free) */
int train_report(const TrainRun *r, Err *e);

/* The trained weights under output_dir/name.safetensors. epoch and step are for
 * the metadata. */
int train_save_weights(TrainRun *r, const char *name, uint32_t epoch, Err *e);
/* What this run has saved under a name, back into the parameters under training. */
int train_load_weights(TrainRun *r, const char *name, Err *e);
/* When no step follows: writes the trained file (save: unless --auto has kept a better one),
 * and makes the parameters what the file has: the kept ones, or the averages of --use_ema.
 * A second call does nothing. */
int train_result(TrainRun *r, int save, Err *e);
/* The step that the file is of, as far as the run has come. */
uint32_t train_result_step(const TrainRun *r);

#endif
