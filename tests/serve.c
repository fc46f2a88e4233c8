/* serve.c - see serve.h. */
#include "tests/serve.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int serve_start(Serve *s, const char *dir)
{
    const char *bin = getenv("SDC_BIN");
    int out[2];
    char line[200] = "";
    if (pipe(out)) return 0;
    s->pid = fork();
    if (!s->pid) {
        dup2(out[1], 1);
        close(out[0]);
        close(out[1]);
        if (!freopen("/dev/null", "w", stderr)) _exit(126);
        execl(bin ? bin : "./sdc", "sdc", "tags", dir, "serve", "--port", "0", (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    FILE *f = fdopen(out[0], "r");
    int ok = f && fgets(line, sizeof line, f) &&
             sscanf(line, "http://127.0.0.1:%d/", &s->port) == 1;
    if (f) fclose(f);
    if (!ok) serve_stop(s, SIGKILL);
    return ok;
}

int serve_stop(Serve *s, int signal)
{
    int status = 0;
    kill(s->pid, signal);
    waitpid(s->pid, &status, 0);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
