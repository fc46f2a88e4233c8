/* pocket.h - where the pocket model lies that comes with the program. */
#ifndef SDC_TOOLS_POCKET_H
#define SDC_TOOLS_POCKET_H

#include "engine/error.h"

/* The folder that holds `file`: models/pocket beside the program, or share/sdc/pocket of its
 * prefix, or models/pocket here. *dir: mem_free. ERR_INPUT tells the option to name it with. */
int pocket_find(char **dir, const char *file, const char *option, Err *e);

#endif
