/* progress.h - one line of progress on stderr, as tqdm's:
 *     steps:  12%|#2        | 120/1000 [00:31<03:46, 3.88it/s, avr_loss=0.0912]
 * On a terminal it is rewritten in place; elsewhere a plain line appears now and
 * then, so that a log stays readable.
 */
#ifndef SDC_TOOLS_PROGRESS_H
#define SDC_TOOLS_PROGRESS_H

#include <stddef.h>

typedef struct {
    const char *what;          /* "steps"; borrowed */
    int terminal;
    size_t first;              /* where a resumed run began: not counted as speed */
    int started;
    double start_ms, last_ms;  /* last: when the line was last shown */
    int shown;                 /* a line is standing on the terminal */
} Progress;

void progress_start(Progress *p, const char *what);
/* done of total are finished; text (may be "") stands behind the speed. */
void progress_show(Progress *p, size_t done, size_t total, const char *text);
/* Moves on to a new line. */
void progress_end(Progress *p);

#endif
