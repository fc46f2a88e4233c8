/* checkpoint_files.h - the files of a model; part of checkpoint.c. */
#ifndef SDC_MODELS_CHECKPOINT_FILES_H
#define SDC_MODELS_CHECKPOINT_FILES_H

#include "models/checkpoint.h"

enum { COMPONENT_UNET, COMPONENT_TEXT, COMPONENT_VAE, COMPONENTS };

/* Opens the file, or the files of the three components of the folder,
 * ck->path. What was opened before a failure is closed by checkpoint_close. */
int checkpoint_open_files(Checkpoint *ck, Err *e);

#endif
