/* report.h - one HTML file about one run: its figures, pictures, curves, data, settings. It
 * needs nothing besides itself: styles, curves (SVG) and pictures (JPEG) are inside. */
#ifndef SDC_ENGINE_REPORT_H
#define SDC_ENGINE_REPORT_H

#include <stddef.h>

#include "engine/error.h"
#include "engine/image.h"

typedef struct { const char *name, *value, *reason; } ReportRow;       /* reason: NULL ok */
typedef struct { const char *name; size_t count; } ReportBar;

/* Pictures in rows and columns; paths (row_count * col_count), row by row. One that cannot
 * be read leaves its place empty. */
typedef struct {
    const char *heading, *note;
    const char *const *rows, *const *cols, *const *paths;
    size_t row_count, col_count;
} ReportGrid;

typedef struct { Image image; const char *caption; } ReportThumb;      /* RGB, small */

typedef struct {
    const char *title, *command;       /* command: what repeats the run */
    const char *verdict;               /* the first paragraph; NULL ok */
    const ReportRow *figures;          /* the few numbers at the top */
    size_t figure_count;
    const ReportGrid *grids;
    size_t grid_count;
    const char *log;                   /* a runlog's lines; NULL: no curves */
    const char *data;                  /* a sentence about the data set; NULL: no such part */
    const ReportThumb *thumbs;
    size_t thumb_count;
    const ReportBar *tags, *sizes;     /* how often tags occur; pictures of each training size */
    size_t tag_count, size_count;
    const ReportRow *rows;             /* settings; the last `unset` of them were not given */
    size_t row_count, unset;
    const ReportRow *machine;          /* time and memory */
    size_t machine_count;
} Report;

/* Writes it atomically. A curve for each part of a tag before its slash ("loss/current"
 * and "loss/average" share one). */
int report_write(const char *path, const Report *r, Err *e);

#endif
