/* test.c - runs the registered tests; see test.h. */
#include "tests/kern.h"
#include "tests/test.h"

#include <ftw.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_JOBS = 64 };

static TestCase *first;
static const TestCase *running;
static int failed_now;
static char dir[256];

void test_register(TestCase *t)
{
    TestCase **p = &first;
    while (*p && strcmp((*p)->name, t->name) < 0) p = &(*p)->next;
    t->next = *p;
    *p = t;
}

const TestCase *test_running(void)
{
    return running;
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    failed_now = 1;
}

static int rm(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    (void)st, (void)flag, (void)f;
    return remove(path);
}

const char *test_dir(void)
{
    if (!dir[0]) {
        mkdir("build", 0777);
        snprintf(dir, sizeof dir, "build/test-XXXXXX");
        if (!mkdtemp(dir)) perror(dir), exit(1);
    }
    return dir;
}

const char *test_path(const char *name)
{
    static char path[8][512];
    static int next;
    char *p = path[next++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", test_dir(), name);
    return p;
}

static void slurp(const char *path, char *buf, size_t cap)
{
    if (!buf) return;
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(buf, 1, cap - 1, f) : 0;
    buf[n] = 0;
    if (f) fclose(f);
}

int test_sdc(const char *args, char *out, char *err, size_t cap)
{
    const char *bin = getenv("SDC_BIN");
    char cmd[8192], po[300], pe[300];
    snprintf(po, sizeof po, "%s/.stdout", test_dir());
    snprintf(pe, sizeof pe, "%s/.stderr", test_dir());
    snprintf(cmd, sizeof cmd, "%s %s >%s 2>%s </dev/null", bin ? bin : "./sdc", args, po, pe);
    int st = system(cmd);
    slurp(po, out, cap);
    slurp(pe, err, cap);
    return WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
}

/* The last argument that fits the name decides; without one, the kind of the first. */
static int wanted(const char *name, int argc, char **argv)
{
    int want = argc < 2 || argv[1][0] == '-';
    for (int i = 1; i < argc; i++) {
        int out = argv[i][0] == '-';
        if (strstr(name, argv[i] + out)) want = !out;
    }
    return want;
}

/* What the processes that run tests share. */
typedef struct {
    atomic_int next, passed, failed;
    _Atomic(const TestCase *) running[MAX_JOBS];   /* by each of them; NULL between tests */
} Shared;

/* Seconds of processor time, of this process and of the programs that it ran. */
static double cpu(void)
{
    struct rusage u[2];
    getrusage(RUSAGE_SELF, &u[0]);
    getrusage(RUSAGE_CHILDREN, &u[1]);
    double s = 0;
    for (int i = 0; i < 2; i++)
        s += (double)(u[i].ru_utime.tv_sec + u[i].ru_stime.tv_sec) +
             1e-6 * (double)(u[i].ru_utime.tv_usec + u[i].ru_stime.tv_usec);
    return s;
}

static void run_one(TestCase *t, Shared *s)
{
    double start = cpu();
    failed_now = 0;
    running = t;
    t->run();
    if (getenv("TEST_TIMES")) printf("%8.2f s %s\n", cpu() - start, t->name);
    if (failed_now) printf("FAIL %s\n", t->name);
    failed_now ? s->failed++ : s->passed++;
    if (dir[0]) nftw(dir, rm, 16, FTW_DEPTH | FTW_PHYS);
    dir[0] = 0;
}

/* Takes one test after the other until there is none. */
static void run_rest(Shared *s, int job, int argc, char **argv)
{
    int i = 0, mine = s->next++;
    for (TestCase *t = first; t; t = t->next) {
        if (!wanted(t->name, argc, argv) || i++ != mine) continue;
        s->running[job] = t;
        run_one(t, s);
        s->running[job] = NULL;
        mine = s->next++;
    }
}

/* 1 when a process that takes tests was started, else 0. */
static int start(pid_t *pid, Shared *s, int job, int argc, char **argv)
{
    *pid = fork();
    if (*pid == 0) run_rest(s, job, argc, argv), exit(0);
    if (*pid < 0) perror("fork");
    return *pid > 0;
}

/* In several processes, since most tests keep one core busy. One that dies fails the
 * test it was at, and another takes its place. */
static void run_all(Shared *s, int jobs, int argc, char **argv)
{
    pid_t pid[MAX_JOBS];
    int live = 0;
    for (int i = 0; i < jobs; i++) live += start(&pid[i], s, i, argc, argv);
    while (live) {
        int st = 0, i = 0;
        pid_t ended = wait(&st);
        while (i < jobs - 1 && pid[i] != ended) i++;
        const TestCase *t = s->running[i];
        live--;
        if (!st) continue;
        printf("FAIL %s: the process ended with status 0x%x\n",
               t ? t->name : "(after the last test)", st);
        s->failed++;
        s->running[i] = NULL;
        live += start(&pid[i], s, i, argc, argv);
    }
}

int main(int argc, char **argv)
{
    const char *want = getenv("TEST_JOBS");
    int jobs = want ? atoi(want) : 1;
    jobs = jobs < 0 ? 1 : jobs > MAX_JOBS ? MAX_JOBS : jobs;
    Shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED) perror("mmap"), exit(1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    setenv("SDC_DEVICE", kern_device(), 1);        /* of the commands that tests run */
    if (jobs) run_all(s, jobs, argc, argv);
    else run_rest(s, 0, argc, argv);
    printf("%d passed, %d failed\n", s->passed, s->failed);
    return s->failed || !s->passed;
}
