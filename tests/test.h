/* test.h - the test harness.
 *
 *     TEST(safetensors_reads_scalar) { CHECK(n == 1); CHECK_NEAR(y, 2.0, 1e-6); }
 *
 * A test registers itself before main() runs; a file in tests/ named
 * test_*.c is picked up by the Makefile without being listed anywhere. A
 * failed CHECK prints file, line and values, marks the test as failed and
 * returns from the test function. build/<config>/test [SUBSTRING...] runs the
 * tests whose name contains one of the substrings; -SUBSTRING leaves tests out
 * (`test -golden/ golden/unet`: all but the golden ones, and those of the U-Net).
 * The last line is "N passed, N failed". $TEST_JOBS tests run at a time (default 1), each
 * in one of as many processes; 0: in this process, for debuggers and the like. With
 * $TEST_TIMES, each test says how much processor time it took.
 */
#ifndef SDC_TESTS_TEST_H
#define SDC_TESTS_TEST_H

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct TestCase {
    const char *name;
    void (*run)(void);
    struct TestCase *next;
} TestCase;

void test_register(TestCase *t);
/* The test that runs now: for tests made from data, which register themselves in a
 * constructor and hold their TestCase as the first member of something larger. */
const TestCase *test_running(void);
void test_fail(const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* A fresh empty folder under build/, removed when the test ends. */
const char *test_dir(void);
/* test_dir()/name, in one of 8 buffers. */
const char *test_path(const char *name);
/* The program under test (./sdc, or $SDC_BIN) run with a shell command line
 * after its name; returns its exit status (128+n when signal n ended it) and
 * fills out/err (each up to cap bytes, NUL-terminated, NULL ok). */
int test_sdc(const char *args, char *out, char *err, size_t cap);

#define TEST(id)                                                              \
    static void test_##id(void);                                              \
    static TestCase test_case_##id = {#id, test_##id, 0};                     \
    __attribute__((constructor)) static void test_reg_##id(void)              \
    { test_register(&test_case_##id); }                                       \
    static void test_##id(void)

#define CHECK(x)                                                              \
    do { if (!(x)) { test_fail(__FILE__, __LINE__, "%s", #x); return; } } while (0)
#define CHECK_INT(a, b)                                                                            \
    do {                                                                                           \
        long long a_ = (long long)(a), b_ = (long long)(b);                                        \
        if (a_ != b_) {                                                                            \
            test_fail(__FILE__, __LINE__, "%s is %lld, not %lld", #a, a_, b_);                     \
            return;                                                                                \
        }                                                                                          \
    } while (0)
#define CHECK_STR(a, b)                                                                            \
    do {                                                                                           \
        const char *a_ = (a), *b_ = (b);                                                           \
        if (strcmp(a_, b_)) {                                                                      \
            test_fail(__FILE__, __LINE__, "%s is \"%s\", not \"%s\"", #a, a_, b_);                 \
            return;                                                                                \
        }                                                                                          \
    } while (0)
#define CHECK_NEAR(a, b, tol)                                                                      \
    do {                                                                                           \
        double a_ = (a), b_ = (b);                                                                 \
        if (!(fabs(a_ - b_) <= (tol))) {                                                           \
            test_fail(__FILE__, __LINE__, "%s is %.9g, not %.9g within %.3g", #a, a_, b_,          \
                      (double)(tol));                                                              \
            return;                                                                                \
        }                                                                                          \
    } while (0)
/* A call that returns an Err code must succeed. */
#define CHECK_OK(call, e)                                                                          \
    do {                                                                                           \
        if ((call) != 0) {                                                                         \
            test_fail(__FILE__, __LINE__, "%s: %s", #call, (e)->msg);                              \
            return;                                                                                \
        }                                                                                          \
    } while (0)

#endif
