/* serve.h - `sdc tags DIR serve` as a child process, for tests. */
#ifndef SDC_TESTS_SERVE_H
#define SDC_TESTS_SERVE_H

#include <sys/types.h>

typedef struct {
    pid_t pid;
    int port;
} Serve;

/* Starts it on a free port and waits until it listens; 1 when it does. */
int serve_start(Serve *s, const char *dir);
/* Sends the signal and waits; its exit status, 128+n when signal n ended it. */
int serve_stop(Serve *s, int signal);

#endif
