/* chunk.c - see chunk.h. */
#include "tokenizer/chunk.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "engine/mem.h"

enum { NO_COMMA = -1 };

/* The chunk being filled: its tokens without BOS and EOS. */
typedef struct {
    int32_t ids[CHUNK_TOKENS];
    float weights[CHUNK_TOKENS];
    int count, comma;           /* comma: index of the last one, or NO_COMMA */
} Open;

/* Appends the first n tokens of o to the list as a chunk and keeps the others in o. */
static int close_chunk(ChunkList *out, Open *o, int n, int32_t pad, Err *e)
{
    Chunk *v = mem_grow(out->chunks, out->count, &out->cap, sizeof *v);
    if (!v) return err_nomem(e, out->cap * 2 * sizeof *v, "the chunks of a prompt");
    out->chunks = v;
    Chunk *c = &v[out->count++];
    for (int i = 0; i < CHUNK_IDS; i++) {
        int inside = i > 0 && i <= n;
        c->ids[i] = inside ? o->ids[i - 1] : i ? BPE_EOS : BPE_BOS;
        c->weights[i] = inside ? o->weights[i - 1] : 1;
    }
    if (pad != BPE_EOS) {
        int first = 0;          /* a prompt may have typed an EOS itself */
        while (c->ids[first] != BPE_EOS) first++;
        while (++first < CHUNK_IDS) c->ids[first] = pad;
    }
    o->count -= n;
    o->comma = NO_COMMA;
    memmove(o->ids, o->ids + n, (size_t)o->count * sizeof *o->ids);
    memmove(o->weights, o->weights + n, (size_t)o->count * sizeof *o->weights);
    return 0;
}

static int add_token(ChunkList *out, Open *o, int32_t id, float weight, int32_t pad, Err *e)
{
    int full = o->count == CHUNK_TOKENS;
    if (id == BPE_COMMA)
        o->comma = o->count;
    else if (full && o->comma != NO_COMMA && o->count - o->comma <= CHUNK_COMMA_REACH)
        TRY(close_chunk(out, o, o->comma + 1, pad, e));
    if (o->count == CHUNK_TOKENS) TRY(close_chunk(out, o, o->count, pad, e));
    o->ids[o->count] = id;
    o->weights[o->count++] = weight;
    return 0;
}

static int add_piece(ChunkList *out, Open *o, const Tokenizer *t, const PromptPiece *p,
                     int32_t pad, Err *e)
{
    if (p->weight == -1 && p->len == 5 && !memcmp(p->text, "BREAK", 5))
        return close_chunk(out, o, o->count, pad, e);
    BpeIds ids = {0};
    int rc = bpe_encode(t, p->text, p->len, &ids, e);
    for (size_t i = 0; !rc && i < ids.count; i++)
        rc = add_token(out, o, ids.ids[i], (float)p->weight, pad, e);
    bpe_ids_free(&ids);
    return rc;
}

int chunk_prompt(ChunkList *out, const Tokenizer *t, const Prompt *p, int32_t pad, Err *e)
{
    *out = (ChunkList){0};
    Open o = {.comma = NO_COMMA};
    int rc = 0;
    for (size_t i = 0; !rc && i < p->piece_count; i++)
        rc = add_piece(out, &o, t, &p->pieces[i], pad, e);
    if (!rc && (o.count || !out->count)) rc = close_chunk(out, &o, o.count, pad, e);
    if (rc) chunk_list_free(out);
    return rc;
}

int chunk_even(ChunkList *const lists[], size_t count, int32_t pad, Err *e)
{
    size_t most = 0;
    for (size_t i = 0; i < count; i++)
        if (lists[i]->count > most) most = lists[i]->count;
    Open empty = {0};
    for (size_t i = 0; i < count; i++)
        while (lists[i]->count < most) TRY(close_chunk(lists[i], &empty, 0, pad, e));
    return 0;
}

void chunk_list_free(ChunkList *c)
{
    mem_free(c->chunks);
    *c = (ChunkList){0};
}

static double sum(const float *x, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += x[i];
    return s;
}

void chunk_emphasize(float *z, size_t batch, size_t width, const Chunk *const chunks[])
{
    const size_t size = batch * CHUNK_IDS * width;
    int plain = 1;
    for (size_t i = 0; i < batch * CHUNK_IDS; i++)
        plain &= chunks[i / CHUNK_IDS]->weights[i % CHUNK_IDS] == 1;
    if (plain) return;
    const double before = sum(z, size);
    for (size_t i = 0; i < batch * CHUNK_IDS; i++) {
        const float w = chunks[i / CHUNK_IDS]->weights[i % CHUNK_IDS];
        for (size_t j = 0; j < width; j++) z[i * width + j] *= w;
    }
    const float ratio = (float)(before / sum(z, size));
    if (!isfinite(ratio)) return;
    for (size_t i = 0; i < size; i++) z[i] *= ratio;
}

/* kohya tokenizes to BOS tokens EOS pad..., 75 * count + 2 ids, and cuts that row into chunks:
 * its first id, the next 75, its last id. With a pad that is not EOS two repairs follow, which
 * go by the value of an id, as here: a "!" that is not the end of a word passes for padding. */
int chunk_caption(int32_t *ids, size_t count, const Tokenizer *t, const char *text, size_t len,
                  int32_t pad, Err *e)
{
    assert(count >= 1);
    BpeIds tokens = {0};
    int rc = bpe_encode(t, text, len, &tokens, e);
    const size_t room = count * CHUNK_TOKENS, n = tokens.count < room ? tokens.count : room;
    for (size_t k = 0; !rc && k < count; k++) {
        int32_t *c = ids + k * CHUNK_IDS;
        c[0] = BPE_BOS;
        for (size_t i = 0; i < CHUNK_TOKENS; i++) {
            const size_t at = k * CHUNK_TOKENS + i;
            c[i + 1] = at < n ? tokens.ids[at] : at == n ? BPE_EOS : pad;
        }
        c[CHUNK_IDS - 1] = n == room ? BPE_EOS : pad;
        if (count == 1 || pad == BPE_EOS) continue;
        if (c[CHUNK_IDS - 2] != BPE_EOS && c[CHUNK_IDS - 2] != pad) c[CHUNK_IDS - 1] = BPE_EOS;
        if (c[1] == pad) c[1] = BPE_EOS;
    }
    bpe_ids_free(&tokens);
    return rc;
}
