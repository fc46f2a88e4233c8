/* io_sys.c - the two primitives of io.h, in a file of their own so that the
 * linker can replace them in tests. */
#include <errno.h>
#include <unistd.h>

#include "engine/io.h"

int io_write_all(int fd, const void *data, size_t size)
{
    const char *p = data;
    while (size) {
        ssize_t n = write(fd, p, size > (1u << 30) ? (1u << 30) : size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return errno;
        if (n == 0) return ENOSPC;
        p += n;
        size -= (size_t)n;
    }
    return 0;
}

int io_sync(int fd) { return fsync(fd) == 0 || errno == EINVAL ? 0 : errno; }
