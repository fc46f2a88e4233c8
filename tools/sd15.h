/* sd15.h - the size of Stable Diffusion 1.5, for work on it without a file of it:
 * `sdc bench` without a model, `sdc doctor`. Text for config_from_json. */
#ifndef SDC_TOOLS_SD15_H
#define SDC_TOOLS_SD15_H

#define SD15_CONFIG                                                                   \
    "{\"type\": \"sd1\", \"unet\": [320,640,1280,1280], \"vae\": [128,256,512,512], " \
    "\"text_width\": 768, \"text_layers\": 12}"

#endif
