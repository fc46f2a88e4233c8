/* report.h - one HTML file about one run: settings, curves, pictures. It needs nothing
 * besides itself: styles, curves (SVG) and pictures are inside. */
#ifndef SDC_ENGINE_REPORT_H
#define SDC_ENGINE_REPORT_H

#include <stddef.h>

#include "engine/error.h"

typedef struct { const char *name, *value, *reason; } ReportRow;       /* reason: NULL ok */
typedef struct { const char *path, *caption; } ReportPicture;          /* a PNG */

typedef struct {
    const char *title, *command;       /* command: what repeats the run */
    const char *verdict;               /* the first paragraph; NULL ok */
    const ReportRow *rows;
    size_t row_count;
    const char *log;                   /* a runlog's lines; NULL: no curves */
    const ReportPicture *pictures;
    size_t picture_count;
} Report;

/* Writes it atomically. A curve for each part of a tag before its slash ("loss/current"
 * and "loss/average" share one). A picture that is not there is left out. */
int report_write(const char *path, const Report *r, Err *e);

#endif
