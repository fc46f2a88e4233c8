/* keys.h - one parameter, its name in each dialect.
 *
 * The program names parameters by diffusers paths with a component prefix,
 * the canonical names:
 *     unet.down_blocks.0.resnets.0.conv1.weight
 *     text_encoder.text_model.encoder.layers.0.self_attn.q_proj.weight
 *     vae.decoder.up_blocks.0.resnets.0.conv1.weight
 * Files call them differently. The architecture fixes the list of canonical
 * names (layers.h), so this direction, canonical -> file, is the only one
 * needed: what a file holds beyond it is not part of the model.
 *
 * Sources: CompVis/stable-diffusion ldm/modules, openai/CLIP and open_clip
 * model.py, diffusers scripts/convert_original_stable_diffusion_to_diffusers,
 * kohya-ss/sd-scripts library/model_util.py and networks/lora.py.
 */
#ifndef SDC_MODELS_KEYS_H
#define SDC_MODELS_KEYS_H

#include <stddef.h>

typedef enum {
    KEY_LDM,            /* single file, CLIP-L as cond_stage_model.transformer */
    KEY_LDM_OPENCLIP,   /* single file, OpenCLIP as cond_stage_model.model (SD2.x) */
    KEY_DIFFUSERS       /* file of a component in a diffusers folder (no component prefix) */
} KeyDialect;

enum { KEY_MAX = 200 }; /* bytes of the longest name, NUL included */

typedef struct {
    char key[KEY_MAX];
    int part, parts;    /* rows [part/parts, (part+1)/parts) of the tensor: OpenCLIP packs
                           q, k and v into one in_proj; otherwise 0 of 1 */
    int conv1x1;        /* the file has a 1x1 convolution where the canonical parameter is a
                           matrix: attention of the VAE in LDM files */
} KeyRef;

/* The name of a canonical parameter in a dialect. Files of one dialect differ
 * by age; alt = 0, 1, ... enumerates the known spellings, the usual one first.
 * Returns 0 when there is no such alternative. */
int key_ref(KeyRef *r, KeyDialect d, const char *canonical, int alt);

/* kohya's name of a layer: "unet.a.b.0" -> "lora_unet_a_b_0", "text_encoder.a"
 * -> "lora_te_a". Returns 0 when it has none (the VAE) or does not fit. */
int key_kohya(char *buf, size_t cap, const char *layer);

#endif
