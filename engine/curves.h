/* curves.h - the numbers of a run log as curves. */
#ifndef SDC_ENGINE_CURVES_H
#define SDC_ENGINE_CURVES_H

#include <stddef.h>

#include "engine/error.h"

typedef struct {
    char *tag;
    double *x, *y;                     /* count points */
    size_t count, cap;
} Curve;

typedef struct {
    Curve *list;
    size_t count, cap;
} Curves;

/* Reads a runlog's lines (engine/runlog.h); lines that are none are passed over. */
int curves_read(Curves *c, const char *path, Err *e);
void curves_free(Curves *c);           /* zeroed c ok */

/* At most `most` points: means of equal parts, so that noise stays visible and files small. */
void curve_thin(Curve *c, size_t most);

#endif
