/* options.h - one table of options per subcommand.
 *
 * The table drives parsing, --help, config files and "did you mean". In names
 * `-` and `_` are the same. `--name value`, `--name=value`, `-x value`; a flag
 * takes no value, `--no-name` (or `--name=false`) switches it off. An unknown
 * option is ERR_USAGE with the nearest name.
 */
#ifndef SDC_TOOLS_OPTIONS_H
#define SDC_TOOLS_OPTIONS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/error.h"

typedef enum {
    OPT_FLAG,      /* int: 0 or 1 */
    OPT_INT,       /* int */
    OPT_INT64,     /* int64_t */
    OPT_FLOAT,     /* double; NAN: not given. arg with "...": several may follow, the first
                      counts; with "auto": that word is taken, too, as OPTION_AUTO */
    OPT_TEXT,      /* char *, owned */
    OPT_MAYBE,     /* char *, owned: the value may be missing (then "") */
    OPT_LIST,      /* OptionList: every occurrence is appended */
    OPT_AXES,      /* the same; and where a file gives a list to an option of one value, each is
                      appended as "name=value" */
    OPT_REFUSED,   /* known elsewhere, not here: `help` says why; ERR_USAGE unless it is
                      switched off */
    OPT_IGNORED    /* accepted without effect: `help` says why (noted once on stderr) */
} OptionKind;

#define OPTION_AUTO (-1.0)

typedef struct {
    char **item;
    size_t count, cap;
} OptionList;

typedef struct {
    const char *name;      /* "max_train_steps", with underscores; NULL: a heading in --help */
    char letter;           /* 'm' for -m; 0: none */
    OptionKind kind;
    size_t offset;         /* of the field in the subcommand's struct */
    double min, max;       /* allowed range of numbers; 0, 0: any */
    const char *arg;       /* "FILE", "N": for --help; for OPT_REFUSED and OPT_IGNORED: "" for a
                              flag, else the option takes a value */
    const char *help;      /* one line; the heading's text when name is NULL */
    const char *alias;     /* a second name; NULL: none */
} Option;

typedef struct {
    const Option *table;
    size_t count;
    void *fields;          /* the subcommand's struct, holding the defaults */
    const char *command;   /* "sdc train" */
    const char *summary;   /* one line for --help */
    unsigned char *given;  /* (count) who set it (OPTIONS_COMMAND...), or 0 */
    OptionList *rest;      /* arguments that are no options; NULL: an error */
} Options;

/* Parses argv[1..argc). *help is set when --help or -h was given. */
int options_parse(Options *o, int argc, char **argv, int *help, Err *e);
/* Reads `key = value` lines of a TOML file (sections are flattened, as kohya's
 * --config_file does); the command line wins. */
int options_file(Options *o, const char *path, Err *e);
int options_file_text(Options *o, const char *text, const char *path, Err *e);
/* Who set an option: what a smaller number set stays when a larger one comes. */
enum { OPTIONS_COMMAND = 1, OPTIONS_FILE, OPTIONS_CHOSEN };
/* Sets one option from text. source: one of these. */
int options_set(Options *o, const char *name, const char *value, int source, Err *e);
/* Who set it, 0: nobody. name as in the table. */
int options_given(const Options *o, const char *name);
/* As if it had not been given; its field stays. */
void options_forget(Options *o, const char *name);
/* *to, whose fields hold nothing of their own yet: the same table, values and givers. */
int options_copy(Options *to, const Options *from, Err *e);
/* A row of the table by its name or alias, NULL: none. */
const Option *options_find(const Options *o, const char *name);
/* Its value as it could be given, an empty text when there is none; owned by the caller. */
char *options_text(const Options *o, const char *name);
/* The items of a list with a text between them (mem_free; NULL: no memory). */
char *options_join(const OptionList *l, const char *between);
void options_help(const Options *o, FILE *f);
void options_free(Options *o);          /* owned texts and lists in fields; given */

/* The nearest of count names by edit distance, NULL when none is near.
 * names[i] is read at stride bytes. */
const char *options_nearest(const char *word, const char *const *names, size_t count);

#endif
