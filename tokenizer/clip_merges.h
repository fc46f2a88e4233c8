/* clip_merges.h - CLIP's byte-pair merges, built into the program.
 *
 * The file is clip_merges.txt.gz beside this one: bpe_simple_vocab_16e6.txt.gz as OpenAI
 * published it (licence: clip_merges.LICENSE.txt). Gzip of UTF-8 text; line 1 is a header,
 * lines 2..48895 are the merges that CLIP uses, "LEFT RIGHT" each, best first.
 */
#ifndef SDC_TOKENIZER_CLIP_MERGES_H
#define SDC_TOKENIZER_CLIP_MERGES_H

#include <stddef.h>

/* The gzip file's bytes, never freed. */
const unsigned char *clip_merges(size_t *size);

#endif
