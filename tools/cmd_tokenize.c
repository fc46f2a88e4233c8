/* cmd_tokenize.c - `sdc tokenize`: what the tokenizer and the prompt grammar make of a text.
 *
 *     sdc tokenize --file prompts.txt    one JSON array of token ids for each line (split at LF)
 *     sdc tokenize --parse "PROMPT"      {"chunks": [[text, weight], ...],
 *                                         "loras": [{"name":, "te":, "unet":}, ...]}
 *
 * Ids are without start and end tokens and without a limit; chunks are PromptPieces. The JSON
 * is on stdout, laid out as Python's json.dumps does, but with UTF-8 as it is.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io.h"
#include "tokenizer/bpe.h"
#include "tokenizer/prompt.h"
#include "tools/cmd.h"
#include "tools/options.h"

typedef struct {
    char *file, *parse;
} TokenizeOptions;

#define AT(field) offsetof(TokenizeOptions, field)
static const Option table[] = {
    {"file", 'f', OPT_TEXT, AT(file), 0, 0, "FILE", "token ids of each line, as JSON", NULL},
    {"parse", 'p', OPT_TEXT, AT(parse), 0, 0, "PROMPT", "parts, weights and LoRAs, as JSON", NULL},
};

static void print_string(const char *s, size_t n)
{
    putchar('"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c < 32) printf("\\u%04x", c);
        else putchar(c);
    }
    putchar('"');
}

/* The shortest decimal that reads back as x, a finite number. */
static void print_number(double x)
{
    char s[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, x);
        if (strtod(s, NULL) == x) break;
    }
    printf("%s%s", s, strpbrk(s, ".e") ? "" : ".0");
}

static int print_prompt(const char *text, Err *e)
{
    Prompt p;
    TRY(prompt_parse(&p, text, strlen(text), e));
    printf("{\"chunks\": [");
    for (size_t i = 0; i < p.piece_count; i++) {
        printf(i ? ", [" : "[");
        print_string(p.pieces[i].text, p.pieces[i].len);
        printf(", ");
        print_number(p.pieces[i].weight);
        printf("]");
    }
    printf("], \"loras\": [");
    for (size_t i = 0; i < p.lora_count; i++) {
        printf(i ? ", {\"name\": " : "{\"name\": ");
        print_string(p.loras[i].name, strlen(p.loras[i].name));
        printf(", \"te\": ");
        print_number(p.loras[i].te);
        printf(", \"unet\": ");
        print_number(p.loras[i].unet);
        printf("}");
    }
    printf("]}\n");
    prompt_free(&p);
    return 0;
}

static int print_lines(const Tokenizer *t, const IoMap *m, const char *path, Err *e)
{
    const char *p = (const char *)m->data, *end = p + m->size;
    BpeIds ids = {0};
    int rc = 0;
    for (long line = 1; !rc && p < end; line++) {
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((eol ? eol : end) - p);
        ids.count = 0;
        rc = bpe_encode(t, p, n, &ids, e);
        if (rc) {
            err_prefix(e, "%s, line %ld", path, line);
            break;
        }
        printf("[");
        for (size_t i = 0; i < ids.count; i++) printf(i ? ", %d" : "%d", (int)ids.ids[i]);
        printf("]\n");
        p += n + (eol != NULL);
    }
    bpe_ids_free(&ids);
    return rc;
}

static int print_file(const char *path, Err *e)
{
    IoMap m;
    Tokenizer *t;
    TRY(bpe_open(&t, e));
    int rc = io_map(&m, path, e);
    if (!rc) {
        rc = print_lines(t, &m, path, e);
        io_unmap(&m);
    }
    bpe_close(t);
    return rc;
}

int cmd_tokenize(int argc, char **argv, Err *e)
{
    TokenizeOptions o = {0};
    Options opt = {.table = table, .count = sizeof table / sizeof *table, .fields = &o,
                   .command = "sdc tokenize",
                   .summary = "token ids of prompts; what a prompt means"};
    int help = 0, rc = options_parse(&opt, argc, argv, &help, e);
    if (!rc && help) options_help(&opt, stdout);
    else if (!rc && !o.file == !o.parse)
        rc =
            err_set(e, ERR_USAGE, "sdc tokenize: either --file FILE or --parse PROMPT is expected");
    else if (!rc) rc = o.file ? print_file(o.file, e) : print_prompt(o.parse, e);
    options_free(&opt);
    return rc;
}
