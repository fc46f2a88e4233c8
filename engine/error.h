/* error.h - the one error type of sdc.
 *
 * Anything that can fail for the user returns an int: 0, or the ErrCode that
 * was stored together with one line of text in the caller's Err. The line
 * names the file, tensor or option, says what was expected and what to do.
 * ErrCode values are the program's exit codes. Errors are values: no globals,
 * no exit() outside tools/. A bug in the caller is an assert, not an Err.
 */
#ifndef SDC_ENGINE_ERROR_H
#define SDC_ENGINE_ERROR_H

typedef enum {
    ERR_OK = 0,
    ERR_FAIL = 1,      /* anything without a class of its own */
    ERR_USAGE = 2,     /* the command line or a config file is wrong */
    ERR_INPUT = 3,     /* an input file is broken or of the wrong kind */
    ERR_UNSAFE = 4,    /* an input file asks for code to be run */
    ERR_MEMORY = 5,    /* out of memory, or a plan that cannot fit */
    ERR_DISK = 6,      /* no room to write */
    ERR_INT = 130,     /* stopped by SIGINT; work is saved */
    ERR_TERM = 143     /* stopped by SIGTERM; work is saved */
} ErrCode;

typedef struct {
    int code;          /* ErrCode of the first failure, 0 when none */
    char msg[1024];    /* one line of UTF-8, no newline; control bytes are escaped */
} Err;

/* Stores code and the formatted line in *e and returns code, so that
 * `return err_set(e, ERR_INPUT, ...)` is the whole error path. The first error
 * wins: a second call keeps the stored message. Control bytes from hostile
 * names are written as \xNN; a line that is too long is cut with "...". e may
 * be NULL when the caller wants the code only. */
int err_set(Err *e, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the stored message (to add a file name on the way
 * up). Returns e->code. */
int err_prefix(Err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* "file PATH: not enough memory ..." with ERR_MEMORY for a failed mem_alloc of
 * n bytes wanted for `what`. */
int err_nomem(Err *e, unsigned long long n, const char *what);

/* Returns from the calling function when x is not 0. */
#define TRY(x) do { int try_rc_ = (x); if (try_rc_) return try_rc_; } while (0)

#endif
