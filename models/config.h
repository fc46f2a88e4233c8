/* config.h - the architecture of one checkpoint.
 *
 * Everything comes from the shapes of its tensors; what shapes cannot say
 * (heads of a diffusers folder, prediction type) comes from the folder's
 * config.json files or the single file's metadata. Fixed by the architecture
 * and not in the struct: 4 levels, 2 residual blocks a level, attention on the
 * first three, 32 norm groups, time embedding 4 x unet_width[0], 4 latent
 * channels, GEGLU of 4 x the width, 77 positions.
 */
#ifndef SDC_MODELS_CONFIG_H
#define SDC_MODELS_CONFIG_H

#include "engine/error.h"
#include "engine/tensorfile.h"

enum { SD_LEVELS = 4, SD_POSITIONS = 77, SD_LATENT = 4, SD_TEXT_LAYERS_MAX = 64 };

typedef struct SdConfig {
    int in_channels;               /* of the U-Net: 4, or 9 for inpainting */
    int unet_width[SD_LEVELS];     /* channels of each level, multiples of 32 */
    int unet_heads[SD_LEVELS];     /* attention heads; SD1.x 8 everywhere, SD2.x width/64 */
    int linear_proj;               /* proj_in, proj_out are Linear (SD2.x), not 1x1 convolutions */
    int text_width;                /* = width of the U-Net's cross-attention context */
    int text_layers;               /* layers that run; SD2.x files store one more */
    int text_heads, text_ff, vocab;
    int text_gelu;                 /* 0: quick_gelu (CLIP-L), 1: exact gelu (OpenCLIP) */
    int openclip;                  /* text encoder of SD2.x; names it in single files */
    int vae_width[SD_LEVELS];      /* multiples of 32 */
    int v_prediction;              /* the U-Net predicts v, not the noise */
} SdConfig;

/* The tensor of a canonical parameter name (keys.h), NULL when absent. */
typedef const FileTensor *config_find_fn(void *ctx, const char *canonical);

/* Fills c from shapes. stored_extra_layer: the text encoder has one layer more
 * than runs (OpenCLIP in a single file), which also sets openclip; otherwise
 * openclip follows linear_proj. ERR_INPUT when this is not SD1.x or SD2.x. */
int config_from_tensors(SdConfig *c, config_find_fn *find, void *ctx, int stored_extra_layer,
                        Err *e);

/* Refuses what is recognisably something else (SDXL, SD3, Flux, a LoRA, a VAE,
 * an embedding, ControlNet, a lone diffusers U-Net...) with a line that says
 * what it is and what to do; 0 when nothing was recognised. path is named in
 * the message. */
int config_refuse_other(const TensorFile *tf, Err *e);

/* What config_refuse_other would call the file ("a LoRA", "an SDXL
 * checkpoint"), or NULL. */
const char *config_other_kind(const TensorFile *tf);

/* Corrections from a diffusers folder; any of the paths may be missing on
 * disk. Reads unet/config.json (attention_head_dim, which is the number of
 * heads), text_encoder/config.json (hidden_act, num_attention_heads) and
 * scheduler/scheduler_config.json (prediction_type). */
int config_from_diffusers(SdConfig *c, const char *folder, Err *e);

/* Prediction type from a single file's metadata or its marker tensor "v_pred". */
void config_from_metadata(SdConfig *c, const TensorFile *tf);

/* A configuration for random weights from JSON text:
 *   {"type": "sd1", "unet": [64,128,128,128], "vae": [32,64,96,128],
 *    "text_width": 128, "text_layers": 3,
 *    "vocab": 49408, "in_channels": 4, "prediction_type": "epsilon"}
 * type is sd1 or sd2; the last three are optional. name is for messages. */
int config_from_json(SdConfig *c, const char *text, const char *name, Err *e);

/* Heads as the widths imply them: text and SD2.x 64 channels a head, SD1.x 8 heads. */
void config_default_heads(SdConfig *c);

/* Refuses widths that the architecture cannot have. */
int config_check(const SdConfig *c, Err *e);

/* "SD 1.x", "SD 1.x inpainting", "SD 2.x"... */
const char *config_name(const SdConfig *c);

#endif
