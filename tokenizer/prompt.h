/* prompt.h - A1111's prompt grammar: networks and attention weights.
 *
 * Source: AUTOMATIC1111/stable-diffusion-webui modules/extra_networks.py and
 * modules/prompt_parser.py (parse_prompt_attention).
 *   1. Ill-formed UTF-8 becomes U+FFFD.
 *   2. Each <word:args> is cut out (regex <(\w+):([^>]+)>). Those of the word `lora` are
 *      listed: args are split at ":"; an item with exactly one "=" is named (te, unet), the
 *      others are positional: name, te, unet. te defaults to 1, unet to te.
 *   3. (x) weighs 1.1, [x] 1/1.1, (x:1.3) 1.3, nested weights multiply; \( \) \[ \] \\ are the
 *      characters themselves and another backslash is dropped; brackets left open run to the
 *      end; closing ones without an opening one are text; neighbours of equal weight are joined.
 *      BREAK between word boundaries, with the white space around it, is the piece "BREAK" of
 *      weight -1 - times the weights of enclosing brackets, and then it is no break any more
 *      but a word, in A1111 as here.
 * Where A1111 fails with an exception, (a:1.2.3), ":1.2.3" is text here. Prompt editing [a:b:0.5],
 * [a|b] and AND are not interpreted: they pass through these rules as text.
 */
#ifndef SDC_TOKENIZER_PROMPT_H
#define SDC_TOKENIZER_PROMPT_H

#include <stddef.h>

#include "engine/error.h"

enum {
    PROMPT_MAX_BYTES = 1 << 20,
    PROMPT_MAX_OPEN = 1000      /* brackets of one kind open at once */
};

typedef struct {
    const char *text;           /* len bytes of UTF-8 in the prompt's memory; not terminated */
    size_t len;
    double weight;              /* finite; may be 0 or negative */
} PromptPiece;

typedef struct {
    char *name;                 /* as written: a file's base name, perhaps with folders */
    double te, unet;            /* weights for the text encoder and the U-Net */
} PromptLora;

typedef struct {
    PromptPiece *pieces;        /* piece_count >= 1; an empty prompt is one empty piece */
    PromptLora *loras;          /* in the order of the prompt, duplicates kept */
    size_t piece_count, lora_count, ignored_count;
    char *text;                 /* the prompt without its <word:args> */
    char **ignored;             /* the <word:args> that are not loras, to warn about */
    char *plain;                /* what the pieces point into */
} Prompt;

/* Parses len bytes (NULs allowed). Free with prompt_free; on error *p is zeroed. ERR_USAGE for
 * a network without a name or with a weight that is no number, for a prompt over the limits
 * above, and for weights that multiply to infinity; ERR_MEMORY. */
int prompt_parse(Prompt *p, const char *text, size_t len, Err *e);
void prompt_free(Prompt *p);            /* p zeroed; zeroed p ok */

#endif
