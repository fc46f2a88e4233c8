/* sdc.c - main: finds the subcommand, prints the error, sets the exit code. */
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/cmd.h"
#include "tools/options.h"

static const struct { const char *name; cmd_fn *run; const char *what; } commands[] = {
    {"sample", cmd_sample, "pictures from a prompt"},
    {"grid", cmd_grid, "pictures along axes: A1111's X/Y/Z plot"},
    {"train", cmd_train, "train a LoRA or a model on a folder of pictures"},
    {"sweep", cmd_sweep, "train with each combination of some settings, and compare"},
    {"plan", cmd_plan, "what fits in a given memory, and how fast it would be"},
    {"merge", cmd_merge, "add LoRAs to a checkpoint, or to each other"},
    {"tag", cmd_tag, "captions of tags for a folder of pictures, by a tagger"},
    {"tags", cmd_tags, "list and edit the tags of a folder of pictures"},
    {"inspect", cmd_inspect, "what a model file is"},
    {"demo", cmd_demo, "the whole job in small: a LoRA on eight cat faces, before and after"},
    {"bench", cmd_bench, "how long one step takes here, and its memory"},
    {"doctor", cmd_doctor, "what this machine can do"},
    {"tokenize", cmd_tokenize, "token ids of prompts; what a prompt means"},
    {"probe", cmd_probe, "run one network on tensors from a file"},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void usage(FILE *f)
{
    fprintf(f,
            "sdc - Stable Diffusion sampling and training in one program\n\nusage: sdc COMMAND "
            "[OPTIONS]\n\n");
    for (int i = 0; i < COMMANDS; i++)
        fprintf(f, "  %-10s %s\n", commands[i].name, commands[i].what);
    fprintf(f, "\nsdc COMMAND --help lists the options of a command.\n");
}

static int unknown(const char *name, Err *e)
{
    const char *names[COMMANDS];
    for (int i = 0; i < COMMANDS; i++) names[i] = commands[i].name;
    const char *near = options_nearest(name, names, COMMANDS);
    return near ? err_set(e, ERR_USAGE, "unknown command \"%s\"; did you mean %s?", name, near)
                : err_set(e, ERR_USAGE, "unknown command \"%s\"; see sdc --help", name);
}

/* OpenMP's threads spin for milliseconds before they sleep. On a machine that does
 * anything besides, spinning threads keep the working ones from their cores, and
 * everything becomes tens of times slower. The runtime reads its settings when the
 * program is loaded, so they are put into the environment and the program starts
 * again; a user's own settings win. */
static void spin_less(char **argv)
{
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || getenv("KMP_BLOCKTIME")) return;
    setenv("GOMP_SPINCOUNT", "2000", 1);       /* some 50 us: the gap between two operations */
    setenv("KMP_BLOCKTIME", "1", 1);           /* ms; for builds with clang */
    execv("/proc/self/exe", argv);             /* where this fails, the program just goes on */
}

int main(int argc, char **argv)
{
    Err e = {0};
    spin_less(argv);
    signal(SIGPIPE, SIG_IGN);          /* a closed pipe is a write error, not a death */
    if (argc < 2) {
        usage(stderr);
        return ERR_USAGE;
    }
    int rc = -1;
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        usage(stdout);
        rc = 0;
    }
    for (int i = 0; i < COMMANDS && rc < 0; i++)
        if (!strcmp(argv[1], commands[i].name)) rc = commands[i].run(argc - 1, argv + 1, &e);
    if (rc < 0) rc = unknown(argv[1], &e);
    if (rc == 0 && fflush(stdout) != 0)
        rc = err_set(&e, ERR_DISK, "cannot write to standard output");
    if (rc) fprintf(stderr, "sdc: %s\n", e.msg[0] ? e.msg : "failed");
    return rc;
}
