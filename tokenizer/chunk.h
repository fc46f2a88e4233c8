/* chunk.h - token ids as the text encoder takes them: chunks of 77.
 *
 * A chunk is [BOS] + 75 tokens + [EOS]. Every chunk goes through the text encoder by itself,
 * with positions 0..76, and the hidden states are laid end to end.
 *
 * `pad` says what fills a chunk that is not full: BPE_EOS for SD1 (CLIP-L); 0 for SD2
 * (OpenCLIP), where everything after the first EOS is 0.
 */
#ifndef SDC_TOKENIZER_CHUNK_H
#define SDC_TOKENIZER_CHUNK_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"
#include "tokenizer/bpe.h"
#include "tokenizer/prompt.h"

enum { CHUNK_TOKENS = 75, CHUNK_IDS = 77, CHUNK_COMMA_REACH = 20 };

typedef struct {
    int32_t ids[CHUNK_IDS];
    float weights[CHUNK_IDS];   /* 1 for BOS, EOS and padding */
} Chunk;

typedef struct {
    Chunk *chunks;              /* owned: chunk_list_free. {0} is an empty list */
    size_t count, cap;
} ChunkList;

/* The chunks of a parsed prompt, at least one, as A1111 makes them (modules/sd_hijack_clip.py,
 * tokenize_line): each piece is tokenized by itself; BREAK ends a chunk; when a chunk is full
 * and there is a comma among its last CHUNK_COMMA_REACH tokens, what follows the comma moves to
 * the next chunk. *out is overwritten. Errors as bpe_encode. */
int chunk_prompt(ChunkList *out, const Tokenizer *t, const Prompt *p, int32_t pad, Err *e);

/* Adds empty chunks to the lists that have fewer than the longest, so that the prompt and the
 * negative prompt (or a batch) give tensors of one shape. ERR_MEMORY. */
int chunk_even(ChunkList *const lists[], size_t count, int32_t pad, Err *e);

void chunk_list_free(ChunkList *c);     /* c zeroed */

/* A1111's emphasis "Original" on the text encoder's output for one chunk of each of `batch`
 * prompts. z (batch,77,width) f32, in place: each token's vector times its weight, then all
 * times mean(z before) / mean(z after), both over the whole tensor. A1111 batches only the
 * variants that prompt editing makes of one prompt, so batch is normally 1, even for a batch
 * of pictures. Nothing changes when all weights are 1. A mean of 0 or a ratio that is not
 * finite leaves out the second step. */
void chunk_emphasize(float *z, size_t batch, size_t width, const Chunk *const chunks[]);

/* Ids of a training caption as kohya sd-scripts makes them (library/strategy_base.py,
 * _get_input_ids): no syntax, no weights, cut off after 75 * count tokens. count is 1, 2 or 3
 * for max_token_length 75 (None), 150, 225.
 *   ids (count,77), written
 * kohya then joins the hidden states of a caption (count,77,W) to (75*count+2,W): row 0 of the
 * first chunk, rows 1..75 of each, row 76 of the last. Errors as bpe_encode. */
int chunk_caption(int32_t *ids, size_t count, const Tokenizer *t, const char *text, size_t len,
                  int32_t pad, Err *e);

#endif
