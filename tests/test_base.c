/* test_base.c - errors, memory, files. */
#include <stdlib.h>

#include "engine/error.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "tests/fail.h"
#include "tests/test.h"

/* Failure injection: fail_mem(n) makes the n-th allocation from now fail (0:
 * never), fail_io(n) the n-th write or sync. */
static long mem_left, io_left;
void fail_mem(long n) { mem_left = n; }
void fail_io(long n) { io_left = n; }
static int hit(long *left) { return *left > 0 && --*left == 0; }

void *__real_mem_alloc(size_t n);
void *__wrap_mem_alloc(size_t n);
void *__real_mem_calloc(size_t n, size_t s);
void *__wrap_mem_calloc(size_t n, size_t s);
void *__real_mem_realloc(void *p, size_t n);
void *__wrap_mem_realloc(void *p, size_t n);
int __real_io_write_all(int fd, const void *p, size_t n);
int __wrap_io_write_all(int fd, const void *p, size_t n);
int __real_io_sync(int fd);
int __wrap_io_sync(int fd);

void *__wrap_mem_alloc(size_t n) { return hit(&mem_left) ? NULL : __real_mem_alloc(n); }
void *__wrap_mem_calloc(size_t n, size_t s)
{
    return hit(&mem_left) ? NULL : __real_mem_calloc(n, s);
}
void *__wrap_mem_realloc(void *p, size_t n)
{
    return hit(&mem_left) ? NULL : __real_mem_realloc(p, n);
}
int __wrap_io_write_all(int fd, const void *p, size_t n)
{
    return hit(&io_left) ? 28 /* ENOSPC */ : __real_io_write_all(fd, p, n);
}
int __wrap_io_sync(int fd) { return hit(&io_left) ? 5 /* EIO */ : __real_io_sync(fd); }

TEST(error_keeps_first_and_escapes)
{
    Err e = {0};
    CHECK_INT(err_set(&e, ERR_INPUT, "tensor %s", "a\nb"), ERR_INPUT);
    err_set(&e, ERR_FAIL, "later");
    CHECK_STR(e.msg, "tensor a\\x0ab");
    CHECK_INT(err_prefix(&e, "%s", "x.safetensors"), ERR_INPUT);
    CHECK_STR(e.msg, "x.safetensors: tensor a\\x0ab");
}

TEST(error_cuts_long_lines)
{
    char big[3000];
    memset(big, 'a', sizeof big);
    big[sizeof big - 1] = 0;
    Err e = {0};
    err_set(&e, ERR_FAIL, "%s", big);
    CHECK(strlen(e.msg) < sizeof e.msg);
    CHECK_STR(e.msg + strlen(e.msg) - 3, "...");
}

TEST(io_write_is_atomic)
{
    char path[300];
    snprintf(path, sizeof path, "%s/x", test_dir());
    Err e = {0};
    CHECK_OK(io_write_file(path, "old", 3, &e), &e);
    for (long n = 1; n <= 2; n++) {
        Err e2 = {0};
        fail_io(n);
        CHECK(io_write_file(path, "newer", 5, &e2) != 0);
        fail_io(0);
        if (n == 1) CHECK_INT(e2.code, ERR_DISK);
        char *t;
        CHECK_OK(io_read_text(&t, NULL, path, 100, &e), &e);
        int same = !strcmp(t, "old");
        mem_free(t);
        CHECK(same);
        char **names;
        size_t count;
        CHECK_OK(io_list(&names, &count, test_dir(), &e), &e);
        io_list_free(names, count);
        CHECK_INT(count, 1);      /* no temporary file left */
    }
}
