/* filehash.c - see filehash.h. */
#include "tools/filehash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/io.h"
#include "engine/mem.h"

#define CACHE_FROM_BYTES (64ll << 20)

/* Folder of the cache (mem_free); NULL when there is none. */
static char *cache_folder(void)
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (xdg && *xdg == '/') return mem_printf("%s/sdc", xdg);
    return home && *home == '/' ? mem_printf("%s/.cache/sdc", home) : NULL;
}

/* The file that remembers path's hash (mem_free); NULL: not to be remembered. */
static char *cache_file(const char *path, int data)
{
    struct stat st;
    char name[HASH_HEX], *full = realpath(path, NULL), *folder = cache_folder(), *key = NULL;
    char *file = NULL;
    Hash *h = NULL;
    if (full && folder && !stat(full, &st) && st.st_size >= CACHE_FROM_BYTES)
        key = mem_printf("%s\n%lld\n%lld.%09ld\n%d", full, (long long)st.st_size,
                         (long long)st.st_mtim.tv_sec, (long)st.st_mtim.tv_nsec, data);
    if (key && !hash_new(&h, NULL)) {
        hash_update(h, key, strlen(key));
        hash_finish(h, name);
        file = mem_printf("%s/%s", folder, name);
    }
    hash_free(h);
    mem_free(key);
    mem_free(folder);
    free(full);
    return file;
}

static int recall(char hex[HASH_HEX], const char *file)
{
    char *text;
    size_t n;
    if (io_exists(file) != 1 || io_read_text(&text, &n, file, HASH_HEX, NULL)) return 0;
    int ok = n == HASH_HEX - 1 && strspn(text, "0123456789abcdef") == n;
    if (ok) memcpy(hex, text, HASH_HEX);
    mem_free(text);
    return ok;
}

static void remember(const char *hex, const char *file)
{
    char *folder = cache_folder();
    if (folder && !io_mkdirs(folder, NULL)) io_write_file(file, hex, HASH_HEX - 1, NULL);
    mem_free(folder);
}

int filehash(char hex[HASH_HEX], const char *path, int data, Err *e)
{
    char *file = cache_file(path, data);
    int rc = 0;
    if (!file || !recall(hex, file)) {
        if (!data || hash_file_data(hex, path, NULL)) rc = hash_file(hex, path, e);
        if (!rc && file) remember(hex, file);
    }
    mem_free(file);
    return rc;
}
