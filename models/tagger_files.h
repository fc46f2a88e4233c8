/* tagger_files.h - the files of a tagger, used by tagger.c alone. */
#ifndef SDC_MODELS_TAGGER_FILES_H
#define SDC_MODELS_TAGGER_FILES_H

#include "models/tagger.h"

/* Fills path, file, config, vit, input and tags of a zeroed t. */
int tagger_files_open(Tagger *t, const char *path, Err *e);
/* From config.json alone; tags and vit.classes are left to the caller. */
int tagger_files_new(Tagger *t, const char *config, Err *e);

#endif
