/* test_law.c - the rules of the house that a compiler does not check:
 * who may include whom, which words stay in kernels/, who may end the process, print,
 * allocate or open files, and that every header stands on its own. */
#include <ctype.h>
#include <stdlib.h>

#include "engine/error.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "tests/test.h"

/* kernels <- engine <- models <- tools; the tokenizer lies beside the engine and takes
 * nothing from it but errors and memory. */
static const struct {
    const char *dir, *may_include;
} layers[] = {
    {"kernels", " kernels/ ptx_emu.h "},        /* tests/emu stands in for CUDA's headers */
    {"engine", " kernels/ engine/ "},
    {"tokenizer", " tokenizer/ engine/error.h engine/mem.h "},
    {"models", " kernels/ engine/ tokenizer/ models/ "},
    {"tools", " kernels/ engine/ tokenizer/ models/ tools/ "},
};
enum { LAYERS = sizeof layers / sizeof *layers, SOURCE_MAX = 1 << 20 };

/* text: the file; code: the same with comments and string contents blanked out. */
typedef void source_fn(const char *layer, const char *path, const char *text, const char *code);

static int problems, files;

static void problem(const char *path, const char *what, const char *detail)
{
    test_fail(path, 0, "%s%s", what, detail);
    problems++;
}

/* Blanks comments and what is inside quotes; line ends stay. */
static void strip(char *s)
{
    for (char quote = 0; *s; s++) {
        if (quote) {
            if (*s == '\\' && s[1]) *s++ = ' ', *s = ' ';
            else if (*s == quote) quote = 0;
            else *s = ' ';
        } else if (*s == '"' || *s == '\'') {
            quote = *s;
        } else if (s[0] == '/' && s[1] == '*') {
            for (; *s && !(s[0] == '*' && s[1] == '/'); s++) if (*s != '\n') *s = ' ';
            if (*s) s[0] = s[1] = ' ';
        } else if (s[0] == '/' && s[1] == '/') {
            for (; s[1] && s[1] != '\n'; s++) *s = ' ';
        }
    }
}

static int is_source(const char *name)
{
    size_t n = strlen(name);
    if (n > 3 && !strcmp(name + n - 3, ".cu")) return 1;
    return n > 2 && name[n - 2] == '.' && (name[n - 1] == 'c' || name[n - 1] == 'h');
}

static void walk(const char *layer, const char *dir, source_fn *fn)
{
    char **names = NULL, path[512];
    size_t count = 0;
    Err e = {0};
    if (io_list(&names, &count, dir, &e)) problem(dir, "cannot be read: ", e.msg);
    for (size_t i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        if (io_exists(path) == 2) walk(layer, path, fn);
        if (io_exists(path) != 1 || !is_source(names[i])) continue;
        char *text, *code;
        if (io_read_text(&text, NULL, path, SOURCE_MAX, &e)) continue;
        code = mem_strdup(text);
        strip(code);
        fn(layer, path, text, code);
        files++;
        mem_free(code);
        mem_free(text);
    }
    io_list_free(names, count);
}

/* Runs fn on every source file; each problem was reported by then. */
static void every_source(source_fn *fn)
{
    problems = files = 0;
    for (int i = 0; i < LAYERS; i++) walk(layers[i].dir, layers[i].dir, fn);
    if (files < 100) test_fail("law", 0, "only %d source files found", files);
}

static int word_char(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

/* Is function `name` called in code? A member or a longer name is not it. */
static int calls(const char *code, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = code; (p = strstr(p, name)); p += n)
        if ((p == code || (!word_char(p[-1]) && p[-1] != '.' && p[-1] != '>')) && p[n] == '(')
            return 1;
    return 0;
}

/* ---- the laws ---------------------------------------------------------------- */

static void check_includes(const char *layer, const char *path, const char *text, const char *code)
{
    (void)code;
    const char *may = NULL;
    for (int i = 0; i < LAYERS; i++)
        if (!strcmp(layer, layers[i].dir)) may = layers[i].may_include;
    static const char start[] = "\n#include \"";
    for (const char *p = text; (p = strstr(p, start));) {
        p += sizeof start - 1;
        size_t whole = strcspn(p, "\"\n"), folder = strcspn(p, "/\"\n") + 1;
        char file[256], dir[256];
        snprintf(file, sizeof file, " %.*s ", (int)whole, p);
        snprintf(dir, sizeof dir, " %.*s ", (int)folder, p);
        if (!strstr(may, file) && !strstr(may, dir)) problem(path, "must not include", file);
    }
}

TEST(law_includes_point_downwards)
{
    every_source(check_includes);
}

/* A device has a name in kernels/ only. The one exception is the name of another
 * program's classes in a file format. */
static void check_words(const char *layer, const char *path, const char *text, const char *code)
{
    (void)code;
    static const char *const words[] = {"cuda", "avx"};
    static const char torch[] = "\"torch.";
    const size_t n = sizeof torch - 1;
    if (!strcmp(layer, "kernels")) return;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        for (const char *p = text; (p = strcasestr(p, words[i])); p++)
            if ((size_t)(p - text) < n || strncmp(p - n, torch, n))
                problem(path, "names a device: ", words[i]);
}

TEST(law_devices_are_named_in_kernels_only)
{
    every_source(check_words);
}

static void check_calls(const char *layer, const char *path, const char *text, const char *code)
{
    (void)text;
    static const char *const ends[] = {"exit", "_exit", "abort", "printf", "puts", "perror"};
    static const char *const memory[] = {"malloc", "calloc", "realloc", "strdup", "asprintf"};
    static const char *const opens[] = {"fopen", "open", "creat", "rename", "unlink", "mkdir"};
    int program = !strcmp(layer, "tools") || !strncmp(path, "models/pocket/", 14);
    int kernels = !strcmp(layer, "kernels");        /* below both mem.h and io.h */
    for (size_t i = 0; !program && i < sizeof ends / sizeof *ends; i++)
        if (calls(code, ends[i])) problem(path, "calls ", ends[i]);
    int mem = kernels || !strcmp(path, "engine/mem.c");
    int io = kernels || !strncmp(path, "engine/io", 9);
    for (size_t i = 0; !mem && i < sizeof memory / sizeof *memory; i++)
        if (calls(code, memory[i])) problem(path, "allocates past engine/mem.h: ", memory[i]);
    for (size_t i = 0; !io && i < sizeof opens / sizeof *opens; i++)
        if (calls(code, opens[i])) problem(path, "opens files past engine/io.h: ", opens[i]);
}

TEST(law_only_tools_end_or_print_and_all_use_mem_and_io)
{
    every_source(check_calls);
}

static void check_first_line(const char *layer, const char *path, const char *text,
                             const char *code)
{
    (void)layer, (void)code;
    const char *name = strrchr(path, '/') + 1;
    char start[256];
    snprintf(start, sizeof start, "/* %s - ", name);
    if (strncmp(text, start, strlen(start))) problem(path, "does not start with ", start);
}

TEST(law_every_file_says_what_it_is)
{
    every_source(check_first_line);
}

/* Where the first sum by an atomic operation is, NULL when there is none: an order of
 * additions that differs from run to run changes the last bits of a float. Integers
 * may be or-ed and compared. In text, since instructions are named in strings. */
static const char *atomic_sum(const char *text)
{
    static const char *const sums[] = {"atomicAdd", "atomicSub", "atom.", "red.", "fetch_add"};
    const char *first = NULL;
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++)
        for (const char *p = text; (p = strstr(p, sums[i])); p++) {
            if (p > text && (word_char(p[-1]) || p[-1] == '.' || p[-1] == '>')) continue;
            if (!first || p < first) first = p;
            break;
        }
    return first;
}

static void check_sums(const char *layer, const char *path, const char *text, const char *code)
{
    (void)layer;
    size_t n = strlen(path);
    const char *in = strstr(code, "asm") ? text : code;
    if (strncmp(path, "kernels/cuda/", 13) && strcmp(path + n - 3, ".cu")) return;
    const char *at = atomic_sum(in);
    char line[80] = "";
    if (at) snprintf(line, sizeof line, "%.*s", (int)strcspn(at, "\n"), at);
    if (at) problem(path, "adds in no fixed order: ", line);
}

TEST(law_sums_have_one_order)
{
    every_source(check_sums);
}

/* ---- headers ------------------------------------------------------------------- */

static char headers[1 << 15];

static void list_header(const char *layer, const char *path, const char *text, const char *code)
{
    (void)layer, (void)text, (void)code;
    size_t n = strlen(headers);
    if (path[strlen(path) - 1] != 'h' || !strncmp(path, "kernels/x86/", 12) ||
        !strncmp(path, "kernels/cuda/", 13)) return;
    snprintf(headers + n, sizeof headers - n, " %s", path);
}

TEST(law_headers_compile_alone)
{
    const char *cc = getenv("CC");
    static char cmd[sizeof headers + 200];
    headers[0] = 0;
    every_source(list_header);
    CHECK(strlen(headers) + 1 < sizeof headers);
    snprintf(cmd, sizeof cmd, "%s -std=c11 -fopenmp -D_GNU_SOURCE -I. -Wall -Wextra -Werror "
             "-Wno-unused-function -fsyntax-only -x c %s", cc ? cc : "cc", headers);
    CHECK_INT(system(cmd), 0);
}

/* The checks above can fail. */
TEST(law_checks_can_fail)
{
    char code[] = "a = \"exit(1)\"; /* abort() */ x.open(); my_exit(2); // exit(3)\n";
    strip(code);
    CHECK(!calls(code, "exit") && !calls(code, "abort") && !calls(code, "open"));
    CHECK(calls("  exit(1);", "exit") && calls("exit(1);", "exit"));
    CHECK(calls("if (x) open(p);", "open"));
    CHECK(atomic_sum("  atomicAdd(p, v);") && atomic_sum("asm(\"red.global.add.f32 [%0], %1;\""));
    CHECK(!atomic_sum("atomicOr(p, 1); x.red.a = my_atomicAdd(p);"));
}
