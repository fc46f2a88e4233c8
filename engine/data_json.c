/* data_json.c - pictures and captions from kohya's metadata files.
 *
 *   .json    {"picture": {"caption": "...", "tags": "...", ...}, ...}
 *   .jsonl   {"image_path": "picture", "caption": "...", "tags": "..."} on each line
 * A picture's name is a path, below the folder unless it is absolute, with its extension or
 * without. Source: kohya sd-scripts, library/train_util.py FineTuningDataset.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/data_impl.h"
#include "engine/io.h"
#include "engine/mem.h"

enum { METADATA_MAX = 256 << 20 };

/* The picture's path, NULL when there is none of that name; owned by the caller. */
static char *find_picture(const DataFolder *f, const char *name)
{
    static const char *const ext[] = {"", ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".PNG", ".JPG",
                                      ".JPEG", ".WEBP", ".BMP"};
    for (size_t i = image_has_extension(name) ? 0 : 1; i < sizeof ext / sizeof *ext; i++) {
        char *path = *name == '/' ? mem_printf("%s%s", name, ext[i])
                                  : mem_printf("%s/%s%s", f->path, name, ext[i]);
        if (!path || io_exists(path) == 1) return path;
        mem_free(path);
    }
    return NULL;
}

static const char *text_of(const json_t *entry, const char *key)
{
    const json_t *v = json_object_get(entry, key);
    return json_is_string(v) ? json_string_value(v) : NULL;
}

/* The caption and the tags behind it; with wildcards, behind each of its lines. */
static char *join(const DataSubset *of, const char *caption, const char *tags)
{
    const char *sep = of->caption.separator ? of->caption.separator : ",";
    char *all = mem_strdup("");
    if (!of->wildcards || !tags) {
        int both = *caption && tags && *tags;
        mem_free(all);
        return mem_printf("%s%s%s", caption, both ? sep : "", tags ? tags : "");
    }
    for (const char *at = caption; all && *at; at += strspn(at, "\r\n")) {
        int n = (int)strcspn(at, "\r\n");
        int blank = (int)strspn(at, " \t") >= n;
        char *more =
            blank ? all : mem_printf("%s%s%.*s%s%s", all, *all ? "\n" : "", n, at, sep, tags);
        if (more != all) mem_free(all);
        all = more;
        at += n;
    }
    return all;
}

static int add_entry(Dataset *ds, size_t folder, const char *name, const json_t *entry, Err *e)
{
    const DataFolder *f = &ds->folders[folder];
    const char *caption = text_of(entry, "caption"), *tags = text_of(entry, "tags");
    if (!json_is_object(entry))
        return err_set(e, ERR_INPUT, "%s: \"%.200s\" is not an object with caption and tags",
                       f->of.metadata, name);
    if (*name != '/' && !f->of.dir)
        return err_set(e, ERR_INPUT,
                       "%s: \"%.200s\" is not an absolute path, and image_dir is not given",
                       f->of.metadata, name);
    if (strlen(name) > 4096 || (caption && strlen(caption) > CAPTION_MAX_BYTES) ||
        (tags && strlen(tags) > CAPTION_MAX_BYTES))
        return err_set(e, ERR_INPUT, "%s: the entry of \"%.200s\" is too long", f->of.metadata,
                       name);
    char *path = find_picture(f, name);
    if (!path)
        return err_set(e, ERR_INPUT, "%s: there is no picture \"%.200s\" in %s", f->of.metadata,
                       name, f->path);
    char *text = join(&f->of, caption ? caption : "", tags);
    if (!text) {
        mem_free(path);
        return err_nomem(e, 64, "a caption");
    }
    for (char *p = text; *p && !f->of.wildcards; p++)       /* kohya uses the first line */
        if (*p == '\n') *p = 0, p--;
    return dataset_add_item(ds, folder, path, text, e);
}

static int read_json(Dataset *ds, size_t folder, char *text, Err *e)
{
    const char *file = ds->folders[folder].of.metadata, *name;
    json_error_t why;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &why), *entry;
    int rc = 0;
    if (!json_is_object(root))
        rc = err_set(e, ERR_INPUT, "%s: %s", file, root ? "not an object of pictures" : why.text);
    void *at = rc ? NULL : json_object_iter(root);
    for (; at && !rc; at = json_object_iter_next(root, at)) {
        name = json_object_iter_key(at);
        entry = json_object_iter_value(at);
        rc = add_entry(ds, folder, name, entry, e);
    }
    json_decref(root);
    return rc;
}

static int read_lines(Dataset *ds, size_t folder, char *text, Err *e)
{
    const char *file = ds->folders[folder].of.metadata;
    int rc = 0, line = 1;
    for (char *next; text && !rc; text = next, line++) {
        next = strchr(text, '\n');
        if (next) *next++ = 0;
        if (text[strspn(text, " \t\r")] == 0) continue;
        json_error_t why;
        json_t *entry = json_loads(text, JSON_REJECT_DUPLICATES, &why);
        const char *name = text_of(entry, "image_path");
        if (!name)
            rc = err_set(e, ERR_INPUT, "%s:%d: %s", file, line,
                         entry ? "image_path is missing" : why.text);
        else rc = add_entry(ds, folder, name, entry, e);
        json_decref(entry);
    }
    return rc;
}

int dataset_read_metadata(Dataset *ds, size_t folder, Err *e)
{
    const char *file = ds->folders[folder].of.metadata, *dot = strrchr(file, '.');
    char *text;
    TRY(io_read_text(&text, NULL, file, METADATA_MAX, e));
    int rc = (dot && !strcmp(dot, ".jsonl") ? read_lines : read_json)(ds, folder, text, e);
    mem_free(text);
    return rc;
}
