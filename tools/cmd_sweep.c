/* cmd_sweep.c - `sdc sweep FILE.toml`: the options of sdc train from a file, in which a list
 * instead of a value means one run with each; see sweep.h. */
#include <stdio.h>
#include <string.h>

#include "engine/mem.h"
#include "tools/cmd.h"
#include "tools/stop.h"
#include "tools/sweep.h"

static int sweep(int argc, char **argv, Err *e)
{
    TrainRun *r = mem_calloc(1, sizeof *r);
    if (!r) return err_nomem(e, sizeof *r, "the run");
    int help, rc = train_parse(r, argc, argv, &help, e);
    if (!rc && help) {
        printf(
               "sdc sweep FILE.toml [OPTIONS] - sdc train with each combination of the lists in "
               "FILE, or of --sweep\n\n");
        options_help(&r->opt, stdout);
    } else if (!rc) {
        stop_install();
        rc = sweep_train(r, e);
    }
    train_close(r);
    mem_free(r);
    return rc;
}

int cmd_sweep(int argc, char **argv, Err *e)
{
    int named = argc > 1 && argv[1][0] != '-';
    char **list = mem_calloc((size_t)argc + 2, sizeof *list), option[] = "--config_file";
    if (!list) return err_nomem(e, (size_t)argc * sizeof *list, "options");
    int n = 0;
    list[n++] = argv[0];
    if (named) list[n++] = option;
    for (int i = 1; i < argc; i++) list[n++] = argv[i];
    int rc = sweep(n, list, e);
    mem_free(list);
    return rc;
}
