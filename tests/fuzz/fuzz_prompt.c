/* fuzz_prompt.c - libFuzzer target: tokenizer/prompt.c and tokenizer/chunk.c on any bytes.
 *
 * clang -g -O1 -std=c11 -D_GNU_SOURCE -I. -fsanitize=fuzzer,address,undefined
 *     tests/fuzz/fuzz_prompt.c tokenizer/[a-z]*.c engine/{error,mem}.c -lz -lutf8proc -lm
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/chunk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x) do { if (!(x)) abort(); } while (0)

static void check_chunks(const Prompt *p, int32_t pad)
{
    static Tokenizer *t;
    if (!t) MUST(!bpe_open(&t, NULL));
    ChunkList c;
    MUST(!chunk_prompt(&c, t, p, pad, NULL) && c.count >= 1);
    for (size_t i = 0; i < c.count; i++) {
        const Chunk *k = &c.chunks[i];
        MUST(k->ids[0] == BPE_BOS && k->weights[0] == 1 && k->weights[CHUNK_IDS - 1] == 1);
        int eos = 1;
        while (eos < CHUNK_IDS && k->ids[eos] != BPE_EOS) eos++;
        MUST(eos < CHUNK_IDS);
        if (pad != BPE_EOS)
            for (int j = eos + 1; j < CHUNK_IDS; j++) MUST(k->ids[j] == pad);
    }
    chunk_list_free(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Prompt p;
    Err e = {0};
    int rc = prompt_parse(&p, (const char *)data, size, &e);
    if (rc) {
        MUST(rc == ERR_USAGE && e.msg[0] && !strchr(e.msg, '\n') && !p.text && !p.pieces);
        return 0;
    }
    MUST(p.piece_count >= 1);
    const char *at = p.plain;
    for (size_t i = 0; i < p.piece_count; i++) {
        MUST(isfinite(p.pieces[i].weight) && p.pieces[i].text == at);
        MUST(!i || p.pieces[i].weight != p.pieces[i - 1].weight);
        at += p.pieces[i].len;
    }
    for (size_t i = 0; i < p.lora_count; i++)
        MUST(p.loras[i].name && isfinite(p.loras[i].te) && isfinite(p.loras[i].unet));
    check_chunks(&p, size % 2 ? BPE_EOS : 0);
    prompt_free(&p);
    return 0;
}
