/* cmd_tags.c - `sdc tags`: the captions of many pictures at once.
 *
 *     sdc tags DIR list                      sdc tags DIR add TAG...
 *     sdc tags DIR remove TAG...             sdc tags DIR replace OLD NEW
 *     sdc tags DIR first TAG...              sdc tags DIR dedupe | sort | undo | serve
 */
#include <stdio.h>
#include <string.h>

#include "engine/mem.h"
#include "engine/tags.h"
#include "tools/cmd.h"
#include "tools/options.h"
#include "tools/tags_serve.h"

typedef struct {
    char *extension, *having, *lacking, *tag_list;
    int recursive, dry_run, at_start, by_count, keep, port;
    OptionList rest;
} Fields;

static const Option table[] = {
    {"dry_run", 'n', OPT_FLAG, offsetof(Fields, dry_run), 0, 0, NULL,
     "show what would change, write nothing", NULL},
    {"recursive", 'r', OPT_FLAG, offsetof(Fields, recursive), 0, 0, NULL,
     "folders below DIR as well (10_name and the like)", NULL},
    {"having", 0, OPT_TEXT, offsetof(Fields, having), 0, 0, "TAG",
     "only pictures that have this tag", NULL},
    {"lacking", 0, OPT_TEXT, offsetof(Fields, lacking), 0, 0, "TAG",
     "only pictures that have it not", NULL},
    {"at_start", 0, OPT_FLAG, offsetof(Fields, at_start), 0, 0, NULL,
     "add: in front, not behind", NULL},
    {"by_count", 0, OPT_FLAG, offsetof(Fields, by_count), 0, 0, NULL,
     "sort: the folder's commonest tags first, not by alphabet", NULL},
    {"keep_tokens", 0, OPT_INT, offsetof(Fields, keep), 0, 1000, "N",
     "sort: the first N tags of each picture stay", NULL},
    {"port", 0, OPT_INT, offsetof(Fields, port), 0, 65535, "N",
     "serve: where the page is found (default 7801; 0: any free port)", NULL},
    {"tag_list", 0, OPT_TEXT, offsetof(Fields, tag_list), 0, 0, "FILE",
     "serve: tags to offer while typing, as a tagger's selected_tags.csv", NULL},
    {"caption_extension", 0, OPT_TEXT, offsetof(Fields, extension), 0, 0, ".txt",
     "of the caption files", NULL},
};

static const struct {
    const char *name;
    TagEditKind kind;
    size_t least, most;      /* words */
} edits[] = {
    {"add", TAGS_ADD, 1, SIZE_MAX},     {"remove", TAGS_REMOVE, 1, SIZE_MAX},
    {"replace", TAGS_REPLACE, 2, 2},    {"first", TAGS_FIRST, 1, SIZE_MAX},
    {"dedupe", TAGS_DEDUPE, 0, 0},      {"sort", TAGS_SORT, 0, 0},
};
enum { EDITS = sizeof edits / sizeof *edits };

static int list(const TagFolder *t, Err *e)
{
    TagCount *c;
    size_t n, bare = 0;
    int rc = tags_count(t, &c, &n, e);
    for (size_t i = 0; i < n && !rc; i++) printf("%6zu  %s\n", c[i].count, c[i].tag);
    mem_free(c);
    for (size_t i = 0; i < t->count; i++) bare += !t->files[i].count;
    if (!rc) fprintf(stderr, "%zu tags, %zu pictures, %zu without any\n", n, t->count, bare);
    return rc;
}

/* "replace a b": what the undo file and the last line call the edit. */
static char *wording(const OptionList *rest)
{
    char *all = mem_strdup(rest->item[1]);
    for (size_t i = 2; i < rest->count && all; i++) {
        char *more = mem_printf("%s \"%s\"", all, rest->item[i]);
        mem_free(all);
        all = more;
    }
    return all;
}

static void show(const TagFolder *t)
{
    for (size_t i = 0; i < t->count; i++) {
        const TagFile *f = &t->files[i];
        char *text = tags_changed(f) ? tags_text(f) : NULL;
        if (!text) continue;
        const char *old = f->before ? f->before : "";
        printf("%s\n  - %.*s\n  + %.*s\n", f->path, (int)strcspn(old, "\r\n"), old,
               (int)strcspn(text, "\r\n"), text);
        mem_free(text);
    }
}

static int edit(TagFolder *t, const Fields *f, TagEdit *d, Err *e)
{
    size_t changed;
    d->words = (const char *const *)(f->rest.item + 2);
    d->word_count = f->rest.count - 2;
    d->having = f->having, d->lacking = f->lacking;
    d->at_start = f->at_start, d->by_count = f->by_count, d->keep = (size_t)f->keep;
    TRY(tags_edit(t, d, &changed, e));
    if (f->dry_run) show(t);
    char *what = wording(&f->rest);
    if (!what) return err_nomem(e, 64, "the undo file");
    int rc = f->dry_run ? 0 : tags_save(t, what, e);
    mem_free(what);
    if (!rc)
        fprintf(stderr, "%zu of %zu captions %s\n", changed, t->count,
                f->dry_run ? "would change (nothing was written)" : "changed");
    return rc;
}

static int undo(const char *dir, Err *e)
{
    char *what;
    size_t restored, skipped;
    TRY(tags_undo(dir, &what, &restored, &skipped, e));
    fprintf(stderr, "undone: %s (%zu captions)\n", what, restored);
    if (skipped) fprintf(stderr, "%zu captions were edited since and stay as they are\n", skipped);
    mem_free(what);
    return 0;
}

static int unknown(const char *action, Err *e)
{
    const char *names[EDITS + 3] = {"list", "undo", "serve"};
    for (int i = 0; i < EDITS; i++) names[i + 3] = edits[i].name;
    const char *near = options_nearest(action, names, EDITS + 3);
    return err_set(e, ERR_USAGE,
                   "\"%s\": expected list, add, remove, replace, first, dedupe, sort, "
                   "undo or serve%s%s%s",
                   action, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

static int run(const Fields *f, Err *e)
{
    TagEdit d = {0};
    TagFolder t;
    if (f->rest.count < 2)
        return err_set(e, ERR_USAGE, "expected a folder and what to do, as sdc tags DIR list; see "
                       "sdc tags --help");
    const char *dir = f->rest.item[0], *action = f->rest.item[1];
    size_t words = f->rest.count - 2;
    int at = 0, serve = !strcmp(action, "serve");
    int other = serve || !strcmp(action, "list") || !strcmp(action, "undo");
    while (at < EDITS && strcmp(action, edits[at].name)) at++;
    if (at == EDITS && !other) return unknown(action, e);
    if (other ? words > 0 : words < edits[at].least || words > edits[at].most)
        return err_set(e, ERR_USAGE, "%s: %zu tags given, expected %s", action, words,
                       other || !edits[at].most ? "none" : edits[at].most == 2 ? "two: old and new"
                                                                               : "at least one");
    if (!strcmp(action, "undo")) return undo(dir, e);
    TRY(tags_open(&t, dir, f->extension, f->recursive, e));
    if (!other) d.kind = edits[at].kind;
    TagsServe page = {.port = f->port, .tag_list = f->tag_list};
    int rc = serve ? tags_serve(&t, &page, e) : other ? list(&t, e) : edit(&t, f, &d, e);
    tags_close(&t);
    return rc;
}

int cmd_tags(int argc, char **argv, Err *e)
{
    Fields f = {.port = 7801};
    Options o = {.table = table,
                 .count = sizeof table / sizeof *table,
                 .fields = &f,
                 .command =
                     "sdc tags DIR list|add|remove|replace|first|dedupe|sort|undo|serve [TAG...]",
                 .summary = "the tags of a folder of pictures, many captions at once",
                 .rest = &f.rest};
    int help = 0;
    int rc = options_parse(&o, argc, argv, &help, e);
    if (!rc && help) options_help(&o, stdout);
    else if (!rc) rc = run(&f, e);
    options_free(&o);
    return rc;
}
