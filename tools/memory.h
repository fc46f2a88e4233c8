/* memory.h - what a run will need, said before anything is loaded.
 *
 * All of it is known from the plan but the process itself (code, tables, the graph),
 * which is measured: it is what the process holds at the moment of the question.
 */
#ifndef SDC_TOOLS_MEMORY_H
#define SDC_TOOLS_MEMORY_H

#include <stdio.h>

#include "engine/cost.h"
#include "engine/exec.h"
#include "engine/lora.h"

typedef struct {
    size_t weights;            /* of the model: the most that is loaded at a time */
    size_t lora, gradients, optimizer;
    size_t activations;        /* and what ops need for themselves while they run */
    size_t host;               /* pictures, latents, captions; 0 where d has memory of its own */
    size_t process;            /* memory_held() */
    size_t before; /* all that was there while latents were made; 0: there was no such time */
    Plan plan;                 /* of the graph whose activations these are */
    char note[120];            /* about the weights: what is released when */
    double seconds;            /* expected per step; 0: not measured */
} Memory;

/* All of the above but before; and the larger of that and before. */
size_t memory_sum(const Memory *m);
size_t memory_total(const Memory *m);
/* A line on stderr, or the whole account on stdout. */
void memory_line(const Memory *m, FILE *f);
void memory_print(const Memory *m, FILE *f);

/* Bytes of memory that this process holds now; the most it ever held. */
size_t memory_process(void);
size_t memory_peak(void);

/* What counts besides the plan on this device: the process or, where the device has memory of
 * its own, the driver's context, for which a constant stands. */
size_t memory_held(const Dev *d);
/* The same once the initial values of a LoRA under training, which the process holds
 * now, are freed. */
size_t memory_held_later(const Dev *d, const Lora *lora);

/* The larger of what m knows and what this graph needs, which is as large as *x. */
void memory_graph(Memory *m, const Exec *x);

/* "6G", "1500M", "2.5G": bytes (1G = 2^30). ERR_USAGE naming the option. */
int memory_size(size_t *bytes, const char *option, const char *text, Err *e);
enum { MEMORY_ROWS = 16 };        /* budgets in a list */
/* A list of them, "2G,3G,4G"; at most cap. */
int memory_sizes(size_t *bytes, int cap, int *count, const char *option, const char *text, Err *e);
/* "5.25 GB" into s, which is returned. */
const char *memory_text(char *s, size_t cap, size_t bytes);

/* What may be used when nothing is said: what is free, less a reserve. */
size_t memory_default(const Dev *d);

#endif
