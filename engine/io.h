/* io.h - the only caller of open, read, write, fsync and rename outside tests.
 *
 * Reading maps whole files read-only; writing goes to a temporary name in the
 * same folder, is synced, and is renamed over the target by io_commit(), so a
 * crash or a full disk never leaves half a file under the real name. Tests
 * replace io_write_all and io_sync at link time (-Wl,--wrap) to make them fail.
 */
#ifndef SDC_ENGINE_IO_H
#define SDC_ENGINE_IO_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

typedef struct {
    const uint8_t *data;   /* size bytes, read-only; NULL when size is 0 */
    size_t size;
} IoMap;

/* Maps a regular file. ERR_INPUT "PATH: ..." when it is missing, a directory,
 * not readable. The file must not shrink while mapped. */
int io_map(IoMap *m, const char *path, Err *e);
void io_unmap(IoMap *m);                       /* m zeroed; zeroed m ok */
/* The pages inside [p, p+size) of the mapping need not stay in memory; they are
 * read again when touched. */
void io_map_drop(const IoMap *m, const uint8_t *p, size_t size);

/* Reads a small text file into a NUL-terminated buffer (mem_free), at most
 * `limit` bytes; ERR_INPUT when it is longer. size may be NULL. */
int io_read_text(char **text, size_t *size, const char *path, size_t limit, Err *e);
/* The first cap - 1 bytes of a file that has no size (below /proc), and a zero; "" when
 * it cannot be read. */
void io_read_small(char *text, size_t cap, const char *path);

typedef struct {
    int fd;
    char *path, *tmp;      /* final and temporary name, owned */
    uint64_t written;
} IoFile;

/* Opens a temporary file beside path. Nothing appears under `path` until
 * io_commit. */
int io_create(IoFile *f, const char *path, Err *e);
/* Appends size bytes. ERR_DISK "PATH: ..." when the disk is full. */
int io_write(IoFile *f, const void *data, size_t size, Err *e);
/* fsync, rename over path, fsync of the folder. Closes f either way; on
 * failure the temporary file is removed. */
int io_commit(IoFile *f, Err *e);
/* Closes and removes the temporary file. Zeroed or committed f ok. */
void io_abort(IoFile *f);

/* Whole-file convenience over the four calls above. */
int io_write_file(const char *path, const void *data, size_t size, Err *e);

/* Adds to the end of a file, which is made when it is not there: for logs, which may
 * end in half a line after a crash. */
int io_append(const char *path, const void *data, size_t size, Err *e);

/* mkdir -p. */
int io_mkdirs(const char *path, Err *e);
/* Removes a file; one that is not there is no error. */
int io_remove(const char *path, Err *e);
int io_exists(const char *path);               /* 1 file, 2 folder, 0 neither */

/* Names in a folder, sorted bytewise, without "." and "..". The array and
 * each name are owned by the caller: io_list_free. */
int io_list(char ***names, size_t *count, const char *dir, Err *e);
void io_list_free(char **names, size_t count);

/* The two primitives below io_write and io_commit: 0, or an errno value. */
int io_write_all(int fd, const void *data, size_t size);
int io_sync(int fd);

#endif
