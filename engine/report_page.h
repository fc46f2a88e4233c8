/* report_page.h - writing HTML, between report.c and report_curves.c. */
#ifndef SDC_ENGINE_REPORT_PAGE_H
#define SDC_ENGINE_REPORT_PAGE_H

#include "engine/io.h"

typedef struct {
    IoFile f;
    Err *e;
    int rc;                            /* the first failure */
} Page;

void page_put(Page *p, const char *text, size_t size);
void page_print(Page *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Text as text: names and captions are not markup. */
void page_text(Page *p, const char *s);

/* The curves of a run's log; nothing when there is no log. */
int page_curves(Page *p, const char *log, Err *e);

#endif
