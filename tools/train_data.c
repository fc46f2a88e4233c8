/* train_data.c - the pictures of a training run: folders, --dataset_config or --in_json, and
 * those that are held out of it.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tools/dataset_config.h"
#include "tools/train.h"

static void notice(void *ctx, const char *line)
{
    (void)ctx;
    fprintf(stderr, "note: %s\n", line);
}

int train_pictures_check(TrainOptions *o, Err *e)
{
    if (o->resize_interpolation && !resize_method(&o->resize, o->resize_interpolation))
        return err_set(e, ERR_USAGE, "option --resize_interpolation: \"%.60s\": expected %s",
                       o->resize_interpolation, RESIZE_NAMES);
    char *end = o->face_crop_aug_range;
    for (int i = 0; i < 2 && end; i++) {
        o->face[i] = strtod(end, &end);
        if (!(o->face[i] > 0) || *end != ",\0"[i] || o->face[1] < o->face[0] * i)
            return err_set(e, ERR_USAGE,
                           "option --face_crop_aug_range: \"%.60s\": two numbers expected, as "
                           "2.0,4.0", o->face_crop_aug_range);
        end += !i;
    }
    if (o->train_vae && (o->random_crop || o->color_aug || o->face[1] > 0))
        return err_set(e, ERR_USAGE,
                       "options --random_crop, --color_aug and --face_crop_aug_range: not with "
                       "--train_vae, which cuts and recolours pictures by itself");
    return 0;
}

static DataConfig data_config(const TrainOptions *o, const char *dir, const char *reg)
{
    DataConfig c = {.train_dir = dir,
                    .reg_dir = reg,
                    .caption_extension = o->caption_extension,
                    .batch_size = o->batch,
                    .flip_aug = o->flip_aug,
                    .resize = o->resize,
                    .random_crop = o->random_crop,
                    .color_aug = o->color_aug,
                    .face = {o->face[0], o->face[1]},
                    .prior_loss_weight = o->prior_loss_weight,
                    .seed = (uint64_t)o->seed,
                    .skip_bad_images = o->skip_bad_images,
                    .notice = notice,
                    .wildcards = o->enable_wildcard,
                    .alpha_mask = o->alpha_mask,
                    .mask_dir = o->mask_dir,
                    .split = o->validation_split,
                    .flat_repeats = o->repeats,
                    .repeats = o->num_repeats,
                    .split_some = o->until_best && !o->validation_dir && !(o->validation_split > 0),
                    .split_seed =
                        (uint64_t)(o->validation_seed >= 0 ? o->validation_seed : o->seed)};
    c.bucket = (BucketConfig){.enable = o->enable_bucket, .no_upscale = o->bucket_no_upscale,
                              .min_reso = o->min_bucket_reso, .max_reso = o->max_bucket_reso,
                              .steps = o->bucket_reso_steps};
    c.caption = (CaptionConfig){.prefix = o->caption_prefix,
                                .suffix = o->caption_suffix,
                                .separator = o->caption_separator,
                                .secondary = o->secondary_separator,
                                .wildcards = o->enable_wildcard,
                                .token_warmup_min = o->token_warmup_min,
                                .token_warmup_step = o->token_warmup_step,
                                .max_train_steps = o->steps,
                                .shuffle = o->shuffle_caption,
                                .keep_tokens = o->keep_tokens,
                                .keep_tokens_separator = o->keep_tokens_separator,
                                .dropout_rate = o->caption_dropout_rate,
                                .dropout_every_n_epochs = o->dropout_every_n_epochs,
                                .tag_dropout_rate = o->tag_dropout_rate};
    return c;
}

int train_dataset(Dataset **ds, const TrainOptions *o, int quiet, Err *e)
{
    DataConfig c = data_config(o, o->data_dir, train_class_none(o) ? NULL : o->reg_data_dir);
    if (quiet) c.notice = NULL;
    TRY(train_resolution(o, &c.bucket.w, &c.bucket.h, e));
    return dataset_open(ds, &c, e);
}

/* --dataset_config, --in_json or folders. plain: for measuring; NULL: for training. */
static int open_pictures(TrainRun *r, Dataset **ds, DatasetFile **file, const DataConfig *plain,
                         Err *e)
{
    const TrainOptions *o = &r->o;
    int flags = (plain ? DATASET_PLAIN : 0) | (o->masked_loss ? DATASET_MASKS : 0);
    if (!o->dataset_config && !o->in_json)
        return plain ? dataset_open(ds, plain, e) : train_dataset(ds, o, 0, e);
    DataConfig c = plain ? *plain : data_config(o, o->data_dir, NULL);
    if (!plain) TRY(train_resolution(o, &c.bucket.w, &c.bucket.h, e));
    if (o->dataset_config) TRY(dataset_file_open(file, &c, o->dataset_config, flags, e));
    else
        TRY(dataset_json_open(file, &c, o->data_dir, o->in_json, o->repeats > 0 ? o->repeats : 1,
                              flags, e));
    return dataset_open(ds, &c, e);
}

int train_open_data(TrainRun *r, Err *e)
{
    TrainOptions *o = &r->o;
    TRY(open_pictures(r, &r->ds, &r->ds_file, NULL, e));
    o->batch = r->ds->cfg.batch_size;
    if ((o->cache_latents || o->cache_latents_to_disk) && dataset_augments(r->ds))
        return err_set(e, ERR_USAGE,
                       "option --cache_latents%s: not with random_crop, color_aug or "
                       "face_crop_aug_range: each use of a picture has other latents",
                       o->cache_latents ? "" : "_to_disk");
    if (!o->validation_dir && !(o->validation_split > 0) && !o->until_best) return 0;
    /* measured as they are: no variation, one picture at a time */
    DataConfig v = data_config(o, o->validation_dir ? o->validation_dir : o->data_dir, NULL);
    v.held_out = 1;
    if (!o->validation_dir) v.notice = NULL;       /* said already */
    v.bucket = r->ds->cfg.bucket;
    v.batch_size = 1;
    v.flip_aug = v.random_crop = v.color_aug = 0;
    v.face[0] = v.face[1] = 0;
    v.caption = (CaptionConfig){.prefix = o->caption_prefix,
                                .suffix = o->caption_suffix,
                                .separator = o->caption_separator,
                                .secondary = o->secondary_separator,
                                .wildcards = o->enable_wildcard};
    if (o->validation_dir) return dataset_open(&r->val_ds, &v, e);
    return open_pictures(r, &r->val_ds, &r->val_file, &v, e);
}
