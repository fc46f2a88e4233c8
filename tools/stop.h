/* stop.h - SIGINT and SIGTERM ask for a clean stop; a second one ends at once. */
#ifndef SDC_TOOLS_STOP_H
#define SDC_TOOLS_STOP_H

/* Installs the handlers. */
void stop_install(void);
/* 0, or ERR_INT / ERR_TERM once a signal has come. */
int stop_code(void);

#endif
