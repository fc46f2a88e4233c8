/* bpe.h - CLIP's tokenizer: text to byte-pair token ids.
 *
 * Source: openai/CLIP simple_tokenizer.py; where implementations differ, the fast tokenizer
 * of Hugging Face (which diffusers, A1111 and kohya end up with) is followed:
 *   1. The texts <|startoftext|> and <|endoftext|>, spelled just so, are 49406 and 49407.
 *   2. Text between them: NFC; white space only separates; each code point is lower-cased by
 *      itself (so a final sigma is the common one); no ftfy, no HTML unescaping.
 *   3. It is split into words by
 *        's|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+
 *   4. A word's UTF-8 bytes, the last one marked </w>, are merged pairwise, best merge first.
 * Ids: 0..255 the bytes in the order of bytes_to_unicode() (33..126, 161..172, 174..255, then
 * the others), 256..511 the same with </w>, 512.. the 48894 merges in order.
 *
 * Ill-formed UTF-8 reads as U+FFFD, see utf8.h. The work grows as n log n in the length of the
 * text, whatever the text is.
 */
#ifndef SDC_TOKENIZER_BPE_H
#define SDC_TOKENIZER_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

enum {
    BPE_BOS = 49406,            /* <|startoftext|> */
    BPE_EOS = 49407,            /* <|endoftext|> */
    BPE_VOCAB = 49408,
    BPE_COMMA = 267,            /* ",</w>" */
    BPE_MAX_TEXT = 1 << 22      /* bytes; a longer text is refused */
};

typedef struct Tokenizer Tokenizer;     /* not changed by bpe_encode: threads may share it */

/* ids is owned by the list: free with bpe_ids_free. {0} is an empty list. */
typedef struct {
    int32_t *ids;               /* count ids, each below BPE_VOCAB, or of an added word */
    size_t count, cap;
} BpeIds;

/* The tokenizer of the built-in vocabulary, about 0.8 MB; a few milliseconds.
 * ERR_MEMORY; ERR_FAIL when the built-in vocabulary is damaged. */
int bpe_open(Tokenizer **t, Err *e);
void bpe_close(Tokenizer *t);           /* NULL ok */

/* From now on the word, where its ids stand in a text, is `count` ids from `first` on: a
 * textual-inversion embedding, found by its ids as in A1111. Of words that begin alike the
 * longest is found. ERR_USAGE for a word without ids. */
int bpe_add(Tokenizer *t, const char *word, int32_t first, int count, Err *e);

/* Appends the ids of text (len bytes, NULs allowed) to *out, without start and end tokens and
 * without a limit on their number. ERR_USAGE when len > BPE_MAX_TEXT, ERR_MEMORY; on error
 * *out may have grown but is still valid. */
int bpe_encode(const Tokenizer *t, const char *text, size_t len, BpeIds *out, Err *e);
void bpe_ids_free(BpeIds *ids);         /* ids zeroed */

#endif
