/* cmd_tokenize.c - see cmd_tokenize.h. */
#include "tools/cmd_tokenize.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/io.h"
#include "tokenizer/bpe.h"
#include "tokenizer/prompt.h"

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
    int rc;
    if (argc == 3 && !strcmp(argv[1], "--file")) rc = print_file(argv[2], e);
    else if (argc == 3 && !strcmp(argv[1], "--parse")) rc = print_prompt(argv[2], e);
    else return err_set(e, ERR_USAGE, "tokenize: --file prompts.txt or --parse \"PROMPT\" was "
                        "expected");
    if (fflush(stdout) != 0 && !rc)
        rc = err_set(e, ERR_FAIL, "standard output: cannot write: %s", strerror(errno));
    return rc;
}
