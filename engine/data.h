/* data.h - the pictures and captions of a training run, in batches.
 *
 * dataset_open reads kohya's folders, the captions and the headers of the
 * pictures. After that everything is a pure function of (seed, epoch): batch k
 * of epoch e can be asked for at any time, in any order, so a resumed run needs
 * no state of the data set.
 *
 * Source: kohya sd-scripts, library/train_util.py DreamBoothDataset and
 * BucketManager, library/config_util.py, train_network.py (metadata). Only its
 * random numbers differ: Python's are replaced by counters (rng.h).
 */
#ifndef SDC_ENGINE_DATA_H
#define SDC_ENGINE_DATA_H

#include <stddef.h>
#include <stdint.h>

#include "engine/bucket.h"
#include "engine/caption.h"
#include "engine/error.h"
#include "engine/hash.h"
#include "engine/image.h"
#include "engine/resize.h"

/* One folder, or the pictures of one metadata file, and what is done to them: a subset of
 * kohya's dataset_config. */
typedef struct {
    const char *dir;                 /* NULL: the paths in metadata are absolute */
    const char *metadata; /* .json or .jsonl: {"picture": {"caption":, "tags":}}; NULL: */
                          /* all pictures of dir, with their caption files */
    const char *class_tokens;        /* caption of pictures that have none; NULL: "" */
    const char *caption_extension;   /* NULL: .txt, then .caption */
    const char *mask_dir;            /* masks: folder of pictures named as these; NULL: none */
    int repeats, is_reg;
    int set;                         /* index in DataConfig.sets */
    int wildcards;                   /* captions keep all their lines (CaptionConfig.wildcards) */
    int alpha_mask;                  /* masks are the pictures' opacity */
    int flip_aug;                    /* mirror every second use, at random */
    ResizeMethod resize;             /* --resize_interpolation */
    int random_crop, color_aug;      /* every use is cut, is recoloured at random */
    double face[2];                  /* face_crop_aug_range; 0: off */
    CaptionConfig caption;
} DataSubset;

/* What goes into one batch: a dataset of kohya's dataset_config. */
typedef struct {
    BucketConfig bucket;
    int batch_size;
} DataSet;

/* Strings are borrowed and must outlive the Dataset. */
typedef struct {
    const DataSubset *subsets;       /* these instead of train_dir and reg_dir; what they and */
    size_t subset_count;             /* the sets hold is not read from below; train_dir is only */
    const DataSet *sets;             /* what messages name */
    size_t set_count;
    const char *train_dir;           /* folders N_words: each picture N times an epoch; or */
                                     /* pictures themselves (with a notice) */
    const char *reg_dir;             /* regularisation pictures, same layout; NULL: none */
    const char *caption_extension;   /* NULL: .txt, then .caption */
    int batch_size;
    BucketConfig bucket;
    CaptionConfig caption;
    int wildcards;                   /* captions keep all their lines (CaptionConfig.wildcards) */
    int alpha_mask;                  /* masks are the pictures' opacity */
    const char *mask_dir;            /* masks: folder of pictures named as these; NULL: none */
    int repeats;                     /* of training pictures, whatever their folder says; 0: that */
    int flat_repeats;                /* of pictures that lie in no such folder; 0: once */
    double split;                    /* part of the training pictures that is held out, by folder */
    int split_some; /* instead: a fifth of each folder of two or more, 20 at most */
    uint64_t split_seed;
    int held_out;                    /* 1: only those are here, once each; 0: only the others */
    int flip_aug;                    /* mirror every second use, at random */
    ResizeMethod resize;             /* --resize_interpolation */
    int random_crop, color_aug;      /* every use is cut, is recoloured at random */
    double face[2];                  /* face_crop_aug_range; 0: off */
    double prior_loss_weight;        /* of regularisation pictures */
    uint64_t seed;
    int skip_bad_images;             /* leave out pictures that cannot be read */
    void (*notice)(void *ctx, const char *line);   /* for the user; NULL ok */
    void *ctx;
} DataConfig;

typedef struct {
    char *path, *name;               /* name: the last part of path */
    char *class_tokens;              /* caption of pictures that have none */
    int repeats, is_reg;
    size_t first, count;             /* its items */
    DataSubset of;                   /* its settings */
} DataFolder;

typedef struct {
    double hue, gamma;               /* recolour.h; 0: off */
} DataColour;

typedef struct {
    char *path, *caption;            /* caption: as in the file, before caption_process */
    int folder, is_reg, repeats;     /* repeats 0: not used (left out, or a surplus of reg) */
    int w, h;                        /* of the file, upright */
    BucketFit fit;
    ResizeMethod resize;
    DataColour colour;
    int bucket;                      /* index in Dataset.buckets */
    double weight;                   /* of its loss */
} DataItem;

typedef struct {
    int set, w, h;
    int batch;                       /* how many are cut off at a time */
    uint32_t first, count;           /* its entries */
} DataBucket;

/* An entry is one use of an item per epoch: items by bucket, repeats times. */
typedef struct Dataset {
    DataConfig cfg;
    Buckets *sizes;                  /* of each set */
    size_t set_count;
    DataFolder *folders;
    DataItem *items;
    DataBucket *buckets;             /* those in use, by set, w, then h */
    uint32_t *entries;               /* item of each entry */
    size_t folder_count, folder_cap, item_count, item_cap, bucket_count;
    uint32_t entry_count;
    size_t train_images, reg_images; /* with the repeats of the folders, before balancing */
} Dataset;

/* ERR_INPUT or ERR_USAGE with file, folder or option. Regularisation pictures
 * are repeated or left out until there are as many as training pictures. */
int dataset_open(Dataset **ds, const DataConfig *c, Err *e);
void dataset_close(Dataset *ds);                         /* NULL ok */
/* How long the training is, for captions that grow (token_warmup_step). */
void dataset_set_steps(Dataset *ds, long max_train_steps);
/* 1 when dataset_mask is more than ones. */
int dataset_has_masks(const Dataset *ds);

typedef struct {
    uint32_t item, entry;
    int flip;
} DataSample;

typedef struct {
    int w, h, count;                 /* count <= batch_size: the last of a bucket is short */
    const DataSample *samples;
} DataBatch;

typedef struct {
    DataBatch *batches;
    size_t count;
    DataSample *samples;
} DataEpoch;

/* All batches of an epoch (from 0), in the order in which they are used. Each
 * bucket is shuffled and cut, then the batches are shuffled. ERR_MEMORY. */
int dataset_epoch(DataEpoch *ep, const Dataset *ds, uint32_t epoch, Err *e);
void dataset_epoch_free(DataEpoch *ep);                  /* zeroed ok */

size_t dataset_batches(const Dataset *ds);               /* in each epoch */
/* Optimizer steps of an epoch: batches / accumulation, rounded up. */
size_t dataset_steps(const Dataset *ds, int accumulation);

/* The caption of a sample at its step (from 0). *text: mem_free. */
int dataset_caption(char **text, const Dataset *ds, const DataSample *s, uint32_t epoch,
                    uint32_t step, Err *e);

/* Whether uses of it differ by more than mirroring, which its latents cannot be kept for; of
 * any item; whether the configuration asks for it. */
int dataset_item_varies(const Dataset *ds, const DataItem *item);
int dataset_varies(const Dataset *ds);
int dataset_augments(const Dataset *ds);
/* The item as it is cut and coloured for this use of it; its strings are ds's. */
DataItem dataset_use(const Dataset *ds, const DataSample *s, uint32_t epoch);

/* The picture of an item as it is trained on: RGB without alpha, resized,
 * cropped, mirrored if flip. im is owned by the caller. */
int dataset_image(Image *im, const DataItem *item, int flip, Err *e);

/* The mask of an item in the size of its latents, (h/8,w/8), 0..1, owned by the caller:
 * opacity (1 where a picture has none), or the red of its picture in mask_dir (1 where there
 * is none); means of 8x8 pixels, as kohya's apply_masked_loss. */
int dataset_mask(float **mask, const Dataset *ds, const DataItem *item, int flip, Err *e);

/* A name for what dataset_image(item, flip) gives: SHA-256 over the file's bytes,
 * sizes, crop, resampling and flip, so a cache of latents is never stale. */
int dataset_item_key(char key[HASH_HEX], const DataItem *item, int flip, Err *e);

/* JSON for kohya's metadata, each owned by the caller (mem_free). */
int dataset_tag_frequency(char **json, const Dataset *ds, Err *e);   /* ss_tag_frequency */
int dataset_dirs(char **json, const Dataset *ds, int is_reg, Err *e);
                                     /* ss_dataset_dirs, ss_reg_dataset_dirs */
int dataset_bucket_info(char **json, const Dataset *ds, Err *e);     /* ss_bucket_info */

#endif
