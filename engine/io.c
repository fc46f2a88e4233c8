/* io.c - see io.h. */
#include "engine/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/mem.h"

static int code_of(int en, int fallback)
{
    if (en == ENOSPC || en == EDQUOT || en == EFBIG) return ERR_DISK;
    return en == ENOMEM ? ERR_MEMORY : fallback;
}

int io_map(IoMap *m, const char *path, Err *e)
{
    *m = (IoMap){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(e, code_of(errno, ERR_INPUT), "%s: cannot open: %s", path, strerror(errno));
    struct stat st;
    int rc = 0;
    if (fstat(fd, &st) != 0) {
        rc = err_set(e, ERR_INPUT, "%s: cannot stat: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        rc = err_set(e, ERR_INPUT, "%s: not a regular file", path);
    } else if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            rc = err_set(e, code_of(errno, ERR_INPUT), "%s: cannot map: %s", path, strerror(errno));
        else
            *m = (IoMap){p, (size_t)st.st_size};
    }
    close(fd);
    return rc;
}

void io_unmap(IoMap *m)
{
    if (m->data) munmap((void *)(uintptr_t)m->data, m->size);
    *m = (IoMap){0};
}

void io_map_drop(const IoMap *m, const uint8_t *p, size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (!m->data || p < m->data || p + size > m->data + m->size) return;
    size_t first = ((size_t)(p - m->data) + page - 1) / page * page,
           last = (size_t)(p + size - m->data) / page * page;
    if (last > first) madvise((void *)(uintptr_t)(m->data + first), last - first, MADV_DONTNEED);
}

int io_read_text(char **text, size_t *size, const char *path, size_t limit, Err *e)
{
    IoMap m;
    *text = NULL;
    TRY(io_map(&m, path, e));
    int rc = 0;
    if (m.size > limit) {
        rc = err_set(e, ERR_INPUT, "%s: %zu bytes; a text of at most %zu was expected",
                     path, m.size, limit);
    } else if (!(*text = mem_alloc(m.size + 1))) {
        rc = err_nomem(e, m.size + 1, path);
    } else {
        if (m.size) memcpy(*text, m.data, m.size);
        (*text)[m.size] = 0;
        if (size) *size = m.size;
    }
    io_unmap(&m);
    return rc;
}

void io_read_small(char *text, size_t cap, const char *path)
{
    size_t n = 0;
    FILE *f = fopen(path, "re");
    if (f) {
        n = fread(text, 1, cap - 1, f);
        fclose(f);
    }
    text[n] = 0;
}

int io_create(IoFile *f, const char *path, Err *e)
{
    *f = (IoFile){.fd = -1};
    f->path = mem_strdup(path);
    f->tmp = mem_printf("%s.tmp.%ld", path, (long)getpid());
    if (!f->path || !f->tmp) {
        io_abort(f);
        return err_nomem(e, strlen(path), "a file name");
    }
    f->fd = open(f->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (f->fd < 0) {
        int en = errno;
        mem_free(f->tmp);
        f->tmp = NULL;             /* not ours to unlink */
        io_abort(f);
        return err_set(e, code_of(en, ERR_FAIL), "%s: cannot create: %s", path, strerror(en));
    }
    return 0;
}

int io_write(IoFile *f, const void *data, size_t size, Err *e)
{
    int en = io_write_all(f->fd, data, size);
    if (en) return err_set(e, code_of(en, ERR_FAIL), "%s: cannot write: %s", f->path, strerror(en));
    f->written += size;
    return 0;
}

/* Makes the rename itself durable. Some file systems refuse to sync folders;
 * the data is complete either way. */
static void sync_folder_of(const char *path)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (n >= sizeof dir) return;
    memcpy(dir, path, n);
    dir[n] = 0;
    int fd = open(!slash ? "." : n ? dir : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    (void)io_sync(fd);
    close(fd);
}

int io_commit(IoFile *f, Err *e)
{
    int en = io_sync(f->fd), rc = 0;
    if (close(f->fd) != 0 && !en) en = errno;
    f->fd = -1;
    if (!en && rename(f->tmp, f->path) != 0) en = errno;
    if (en) {
        rc = err_set(e, code_of(en, ERR_FAIL), "%s: cannot write: %s", f->path, strerror(en));
    } else {
        mem_free(f->tmp);
        f->tmp = NULL;
        sync_folder_of(f->path);
    }
    io_abort(f);
    return rc;
}

void io_abort(IoFile *f)
{
    if (f->path && f->fd >= 0) close(f->fd);
    if (f->tmp) unlink(f->tmp);
    mem_free(f->path);
    mem_free(f->tmp);
    *f = (IoFile){.fd = -1};
}

int io_write_file(const char *path, const void *data, size_t size, Err *e)
{
    IoFile f;
    TRY(io_create(&f, path, e));
    int rc = io_write(&f, data, size, e);
    if (rc) io_abort(&f);
    else rc = io_commit(&f, e);
    return rc;
}

int io_append(const char *path, const void *data, size_t size, Err *e)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    int en = fd < 0 ? errno : io_write_all(fd, data, size);
    if (fd >= 0 && close(fd) != 0 && !en) en = errno;
    if (!en) return 0;
    return err_set(e, code_of(en, ERR_FAIL), "%s: cannot write: %s", path, strerror(en));
}

int io_remove(const char *path, Err *e)
{
    if (!unlink(path) || errno == ENOENT) return 0;
    return err_set(e, ERR_FAIL, "%s: cannot remove: %s", path, strerror(errno));
}

int io_mkdirs(const char *path, Err *e)
{
    char *p = mem_strdup(path);
    if (!p) return err_nomem(e, strlen(path), "a folder name");
    int en = 0;
    for (char *s = p + 1; !en; s++) {
        if (*s != '/' && *s) continue;
        char c = *s;
        *s = 0;
        if (mkdir(p, 0777) != 0 && errno != EEXIST) en = errno;
        *s = c;
        if (!c) break;
    }
    mem_free(p);
    if (!en && io_exists(path) != 2) en = ENOTDIR;
    if (en)
        return err_set(e, code_of(en, ERR_FAIL), "%s: cannot make folder: %s", path, strerror(en));
    return 0;
}

int io_exists(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) return 0;
    return S_ISDIR(st.st_mode) ? 2 : 1;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int io_list(char ***names, size_t *count, const char *dir, Err *e)
{
    *names = NULL;
    *count = 0;
    DIR *d = opendir(dir);
    if (!d) return err_set(e, ERR_INPUT, "%s: cannot open folder: %s", dir, strerror(errno));
    char **a = NULL;
    size_t n = 0, cap = 0;
    int rc = 0;
    for (struct dirent *de; !rc && (de = readdir(d));) {
        if (!strcmp(de->d_name, ".") || !strcmp(de->d_name, "..")) continue;
        char **b = mem_grow(a, n, &cap, sizeof *a);
        char *s = mem_strdup(de->d_name);
        if (b) a = b;
        if (b && s) a[n++] = s;
        else mem_free(s), rc = err_nomem(e, sizeof *a, "a folder listing");
    }
    closedir(d);
    if (rc) {
        io_list_free(a, n);
        return rc;
    }
    if (n) qsort(a, n, sizeof *a, by_name);
    *names = a;
    *count = n;
    return 0;
}

void io_list_free(char **names, size_t count)
{
    for (size_t i = 0; i < count; i++) mem_free(names[i]);
    mem_free(names);
}
