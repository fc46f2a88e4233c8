/* sweep.h - `sdc train --sweep`, `sdc sweep`: the same training with each combination of
 * some values, in one process.
 *
 *   sweep_axes.c    what is varied: "lr=1e-4,3e-4 dim=8,32", or lists in a TOML file
 *   sweep.c         the runs, in rounds, and a journal that a killed sweep goes on from
 *   sweep_result.c  the table, the grid of samples, the recommended settings
 *
 * A run is named OUTPUT_NAME-01 and so on, and its settings are in OUTPUT_NAME-01.toml; what
 * it writes is what `sdc train --config_file OUTPUT_NAME-01.toml` writes, byte for byte.
 * Successive halving (Jamieson and Talwalkar, arXiv:1502.07943): all runs go to a quarter
 * of their steps, the better half of them, by held-out loss, to a half, the better half
 * of those to the end. The model and the latents are loaded and made once.
 */
#ifndef SDC_TOOLS_SWEEP_H
#define SDC_TOOLS_SWEEP_H

#include "tools/train.h"

enum { SWEEP_AXES = 8, SWEEP_RUNS = 999, SWEEP_ROUNDS = 3 };

typedef struct {
    const char *option;            /* its name in the table */
    char *label;                   /* as the user wrote it */
    OptionList values;
} SweepAxis;

typedef struct {
    SweepAxis axis[SWEEP_AXES];
    size_t count, runs;            /* runs: the product of the numbers of values */
} SweepAxes;

/* text: values of --sweep, and "name=value" from a TOML file. ERR_USAGE with what is wrong. */
int sweep_axes(SweepAxes *a, const OptionList *text, const Options *opt, Err *e);
void sweep_axes_free(SweepAxes *a);
/* The value of axis k in run i; the last axis varies fastest. */
const char *sweep_value(const SweepAxes *a, size_t k, size_t i);
/* "lr=1e-4 dim=8" of the axes [from, to) in run i (mem_free). */
char *sweep_label(const SweepAxes *a, size_t from, size_t to, size_t i);

typedef struct {
    int rounds;                    /* done */
    int done;                      /* it has ended */
    uint32_t step, total, best_step;
    double held_out, best;         /* the last measurement, the lowest */
    double score[SWEEP_ROUNDS];    /* at the end of each round */
} SweepRun;

typedef struct {
    SweepAxes axes;
    SweepRun *run;                 /* (axes.runs) */
    char *dir, *name;              /* output_dir, output_name */
    int halving, until_best;
    int argc;
    char **argv;
    int64_t seed;
    char *prompts;                 /* path of sample prompts that were chosen; NULL: none */
    char *journal;
    TrainShared shared;
    /* of the samples of a run, known when one was open */
    size_t prompt_count;
    char **pictures;               /* (axes.runs * prompt_count) paths */
    char **prompt;                 /* (prompt_count) */
} Sweep;

/* What runs are compared by. */
double sweep_score(const Sweep *s, const SweepRun *r);
/* Prints the table; writes NAME-sweep.txt, NAME-sweep.png, NAME-best.toml. */
int sweep_result(const Sweep *s, Err *e);

/* r was parsed from argc, argv and has something to sweep. */
int sweep_train(const TrainRun *r, Err *e);

#endif
