/* fuzz_config.c - libFuzzer target: option files and command lines. The first byte
 * says which: the rest is a TOML file for options_file_text, or the arguments of a
 * command line, one per NUL. What is accepted must be in range and printable.
 *
 * `make fuzz` builds and runs it.
 */
#include <stdlib.h>
#include <string.h>

#include "tools/options.h"
#include "tools/toml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x) do { if (!(x)) abort(); } while (0)

typedef struct {
    int flag, steps;
    int64_t seed;
    double rate;
    char *name, *resume;
    OptionList list;
} Fields;

#define AT(f) offsetof(Fields, f)
static const Option table[] = {
    {NULL, 0, OPT_FLAG, 0, 0, 0, NULL, "heading", NULL},
    {"flag", 'f', OPT_FLAG, AT(flag), 0, 0, NULL, "a flag", NULL},
    {"max_steps", 's', OPT_INT, AT(steps), 1, 1000, "N", "a number", "steps"},
    {"seed", 0, OPT_INT64, AT(seed), 0, 0, "N", "a long number", NULL},
    {"rate", 'r', OPT_FLOAT, AT(rate), -2, 2, "X", "a real number", NULL},
    {"name", 'n', OPT_TEXT, AT(name), 0, 0, "TEXT", "a text", NULL},
    {"resume", 0, OPT_MAYBE, AT(resume), 0, 0, "FILE", "perhaps a text", NULL},
    {"arg", 'a', OPT_LIST, AT(list), 0, 0, "K=V", "a list", NULL},
    {"old", 0, OPT_REFUSED, 0, 0, 0, "X", "not here", NULL},
    {"vain", 0, OPT_IGNORED, 0, 0, 0, "", "no effect", NULL},
};

static void check_fields(const Fields *f)
{
    MUST(f->flag == 0 || f->flag == 1);
    MUST(f->steps >= 1 && f->steps <= 1000);
    MUST(f->rate >= -2 && f->rate <= 2);
    for (size_t i = 0; i < f->list.count; i++) MUST(f->list.item[i]);
}

/* A message is one line of printable bytes. */
static void check_error(int rc, const Err *e)
{
    MUST(rc == e->code && e->msg[0]);
    for (const char *p = e->msg; *p; p++) MUST((unsigned char)*p >= 0x20 && *p != 0x7f);
}

static int count_values(void *ctx, const char *key, const char *value, int index, Err *e)
{
    (void)e;
    MUST(key && value && index >= 0);
    ++*(size_t *)ctx;
    return 0;
}

static int parse_line(Options *o, char *text, size_t size, Err *e)
{
    char *argv[64] = {(char *)"sdc"};
    int argc = 1, help;
    for (char *p = text; p < text + size && argc < 64; p += strlen(p) + 1) argv[argc++] = p;
    return options_parse(o, argc, argv, &help, e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size) return 0;
    char *text = malloc(size);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = 0;
    Fields f = {.steps = 1};
    OptionList rest = {0};
    Options o = {.table = table, .count = sizeof table / sizeof *table, .fields = &f,
                 .command = "sdc fuzz", .summary = "fuzzed", .rest = &rest};
    Err e = {0}, e2 = {0};
    int help, rc;
    char *none[] = {(char *)"sdc"};
    MUST(!options_parse(&o, 1, none, &help, &e) && !help);
    if (*data & 1) {
        size_t values = 0;
        if (toml_read(text, "fuzz.toml", count_values, &values, &e2)) check_error(e2.code, &e2);
        MUST(values <= 2 * size);
        rc = options_file_text(&o, text, "fuzz.toml", &e);
        if (e2.code) MUST(rc);               /* what does not parse sets nothing for good */
    } else {
        rc = parse_line(&o, text, size - 1, &e);
    }
    if (rc) check_error(rc, &e);
    check_fields(&f);
    options_free(&o);
    free(text);
    return 0;
}
