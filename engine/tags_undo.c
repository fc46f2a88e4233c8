/* tags_undo.c - writing edited captions, and taking an edit back. See tags.h.
 *
 * FOLDER/.sdc_tags_undo.json is a list of steps, the oldest first:
 *   {"what": "replace a b", "files": [{"path": P, "before": TEXT or null, "after": TEXT}]}
 * with paths below the folder. It is written before the captions are, so a step
 * that was killed halfway is undone like a whole one.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/caption.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "engine/tags.h"

#define UNDO_NAME ".sdc_tags_undo.json"
enum { STEPS_MAX = 20, UNDO_MAX_BYTES = 256 << 20 };

static int is_path_below(const char *p)
{
    return *p && *p != '/' && strcmp(p, "..") && strncmp(p, "../", 3) && !strstr(p, "/../");
}

/* The undo file's list; an empty one when there is no file. */
static int load(json_t **steps, const char *path, Err *e)
{
    char *text;
    size_t size;
    json_error_t why;
    *steps = NULL;
    if (io_exists(path) != 1) {
        *steps = json_array();
        return *steps ? 0 : err_nomem(e, 64, "the undo file");
    }
    TRY(io_read_text(&text, &size, path, UNDO_MAX_BYTES, e));
    *steps = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    mem_free(text);
    if (json_is_array(*steps)) return 0;
    json_decref(*steps);
    return err_set(e, ERR_INPUT, "%s: not an undo file of sdc tags; move it away", path);
}

static int store(const json_t *steps, const char *path, Err *e)
{
    char *text = json_dumps(steps, JSON_INDENT(1));
    if (!text) return err_nomem(e, 64, "the undo file");
    int rc = io_write_file(path, text, strlen(text), e);
    free(text);                        /* jansson's */
    return rc;
}

static int note_file(json_t *files, const TagFolder *t, const TagFile *f, Err *e)
{
    char *after = tags_text(f);
    json_t *entry = after ? json_pack("{s:s, s:s?, s:s}", "path", f->path + strlen(t->dir) + 1,
                                      "before", f->before, "after", after) : NULL;
    mem_free(after);
    if (entry && !json_array_append_new(files, entry)) return 0;
    return err_set(e, ERR_INPUT, "%s: cannot be noted for undo: its name is not UTF-8, or memory "
                   "is short", f->path);
}

/* A new step, or more files of the newest one when `more` and it has that name. */
static int add_step(json_t *steps, int more, const char *what, json_t *files)
{
    size_t n = json_array_size(steps);
    json_t *last = more && n ? json_array_get(steps, n - 1) : NULL;
    const char *name = json_string_value(json_object_get(last, "what"));
    if (name && !strcmp(name, what))
        return json_array_extend(json_object_get(last, "files"), files);
    json_t *step = json_pack("{s:s, s:O}", "what", what, "files", files);
    return !step || json_array_append_new(steps, step);
}

static int note(const TagFolder *t, const char *what, const char *path, Err *e)
{
    json_t *steps, *files = json_array();
    int rc = load(&steps, path, e);
    for (size_t i = 0; i < t->count && !rc; i++)
        if (tags_changed(&t->files[i])) rc = note_file(files, t, &t->files[i], e);
    if (!rc && add_step(steps, t->saved, what, files)) rc = err_nomem(e, 64, "the undo file");
    json_decref(files);
    while (!rc && json_array_size(steps) > STEPS_MAX) json_array_remove(steps, 0);
    if (!rc) rc = store(steps, path, e);
    json_decref(steps);
    return rc;
}

static int write_file(TagFile *f, Err *e)
{
    char *text = tags_text(f);
    int rc = text ? io_write_file(f->path, text, strlen(text), e)
                  : err_nomem(e, 64, "a caption");
    if (rc) {
        mem_free(text);
        return rc;
    }
    mem_free(f->before);
    f->before = text;
    return 0;
}

int tags_save(TagFolder *t, const char *what, Err *e)
{
    size_t changed = 0;
    for (size_t i = 0; i < t->count; i++) changed += (size_t)tags_changed(&t->files[i]);
    if (!changed) return 0;
    char *path = mem_printf("%s/" UNDO_NAME, t->dir);
    if (!path) return err_nomem(e, strlen(t->dir), "the undo file");
    int rc = note(t, what, path, e);
    mem_free(path);
    t->saved |= !rc;
    for (size_t i = 0; i < t->count && !rc; i++)
        if (tags_changed(&t->files[i])) rc = write_file(&t->files[i], e);
    return rc;
}

/* ---- undo ---------------------------------------------------------------- */

static int same_text(const char *path, const char *want, int *same, Err *e)
{
    char *now = NULL;
    *same = 0;
    if (io_exists(path) == 1) TRY(io_read_text(&now, NULL, path, 2 * CAPTION_MAX_BYTES, e));
    *same = want && now ? !strcmp(now, want) : !want && !now;
    mem_free(now);
    return 0;
}

static int restore(const char *dir, const json_t *entry, size_t *restored, size_t *skipped, Err *e)
{
    const char *name = json_string_value(json_object_get(entry, "path"));
    const char *before = json_string_value(json_object_get(entry, "before"));
    const char *after = json_string_value(json_object_get(entry, "after"));
    int was, is;
    if (!name || !after || !is_path_below(name))
        return err_set(e, ERR_INPUT, "%s/" UNDO_NAME ": a step names no file below the folder",
                       dir);
    char *path = mem_printf("%s/%s", dir, name);
    if (!path) return err_nomem(e, strlen(name), "the undo file");
    int rc = same_text(path, before, &was, e);
    if (!rc) rc = same_text(path, after, &is, e);
    if (!rc && is && !was) {
        rc = before ? io_write_file(path, before, strlen(before), e) : io_remove(path, e);
        ++*restored;
    } else if (!rc && !was) ++*skipped;
    mem_free(path);
    return rc;
}

static int undo_last(const char *dir, const char *path, json_t *steps, char **what,
                     size_t *restored, size_t *skipped, Err *e)
{
    size_t last = json_array_size(steps), i;
    if (!last--) return err_set(e, ERR_INPUT, "%s: nothing to undo", dir);
    const json_t *step = json_array_get(steps, last), *entry;
    const char *name = json_string_value(json_object_get(step, "what"));
    json_array_foreach(json_object_get(step, "files"), i, entry)
        TRY(restore(dir, entry, restored, skipped, e));
    *what = mem_strdup(name ? name : "edit");
    if (!*what) return err_nomem(e, 64, "the undo file");
    json_array_remove(steps, last);
    return store(steps, path, e);
}

int tags_undo(const char *dir, char **what, size_t *restored, size_t *skipped, Err *e)
{
    json_t *steps;
    *what = NULL;
    *restored = *skipped = 0;
    char *path = mem_printf("%s/" UNDO_NAME, dir);
    if (!path) return err_nomem(e, strlen(dir), "the undo file");
    int rc = load(&steps, path, e);
    if (!rc) {
        rc = undo_last(dir, path, steps, what, restored, skipped, e);
        json_decref(steps);
    }
    mem_free(path);
    return rc;
}
