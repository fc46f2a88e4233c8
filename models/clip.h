/* clip.h - the text encoders: CLIP ViT-L/14 (SD 1.x) and OpenCLIP ViT-H (SD 2.x).
 *
 * Radford et al., arXiv:2103.00020; structure as transformers' CLIPTextModel.
 */
#ifndef SDC_MODELS_CLIP_H
#define SDC_MODELS_CLIP_H

#include "models/blocks.h"
#include "models/config.h"

/* The vectors of embeddings (engine/embedding.h), (rows, text_width). */
#define CLIP_ADDED "text_encoder.added_tokens.weight"
#define CLIP_TABLE "text_encoder.text_model.embeddings.token_embedding.weight"
#define CLIP_ROWS "token_rows"

/* ids (N,77) is an input: token ids below c->vocab + b->added_tokens, to be set with
 * model_set_ids. A run needs some hundred of the table's 49,408 rows: where the table is not
 * trained it is no weight, but the rows in use are an input, CLIP_ROWS, too. clip_skip 0 or 1: after the last layer
 * that c names; s: s-1 layers earlier. The final layer norm is applied in
 * every case. Returns hidden states (N,77,text_width). */
Tensor *clip_build(Build *b, const SdConfig *c, Tensor *ids, int clip_skip);

#endif
