/* fuzz_tokenizer.c - libFuzzer target: tokenizer/bpe.c and captions on any bytes.
 *
 * clang -g -O1 -std=c11 -D_GNU_SOURCE -I. -fsanitize=fuzzer,address,undefined
 *     tests/fuzz/fuzz_tokenizer.c tokenizer/[a-z]*.c engine/{error,mem}.c -lz -lutf8proc
 */
#include <stdlib.h>

#include "engine/mem.h"
#include "tokenizer/chunk.h"
#include "tokenizer/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x) do { if (!(x)) abort(); } while (0)

static Tokenizer *tokenizer(void)
{
    static Tokenizer *t;
    if (!t) MUST(!bpe_open(&t, NULL));
    return t;
}

/* Cleaning text first must change nothing, and every id must be in the vocabulary. */
static void encode(const char *text, size_t size)
{
    BpeIds a = {0}, b = {0};
    size_t n = 0;
    char *clean = utf8_clean(text, size, &n);
    MUST(clean && n <= 3 * size);
    MUST(!bpe_encode(tokenizer(), text, size, &a, NULL));
    MUST(!bpe_encode(tokenizer(), clean, n, &b, NULL));
    MUST(a.count == b.count && a.count <= 3 * n);
    for (size_t i = 0; i < a.count; i++)
        MUST(a.ids[i] == b.ids[i] && a.ids[i] >= 0 && a.ids[i] < BPE_VOCAB);
    bpe_ids_free(&a);
    bpe_ids_free(&b);
    mem_free(clean);
}

static void caption(const char *text, size_t size, int32_t pad)
{
    int32_t ids[3 * CHUNK_IDS];
    MUST(!chunk_caption(ids, 3, tokenizer(), text, size, pad, NULL));
    for (int i = 0; i < 3 * CHUNK_IDS; i++) MUST(ids[i] >= 0 && ids[i] < BPE_VOCAB);
    for (int k = 0; k < 3; k++) MUST(ids[k * CHUNK_IDS] == BPE_BOS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    encode((const char *)data, size);
    caption((const char *)data, size, size % 2 ? BPE_EOS : 0);
    return 0;
}
