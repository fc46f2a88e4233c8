/* data_impl.h - what the parts of the data set share (data.h). */
#ifndef SDC_ENGINE_DATA_IMPL_H
#define SDC_ENGINE_DATA_IMPL_H

#include "engine/data.h"

/* Takes path (NULL: no memory) and caption (NULL: to be found), also when it fails. */
int dataset_add_item(Dataset *ds, size_t folder, char *path, char *caption, Err *e);
/* The pictures that a folder's metadata lists, with their captions. */
int dataset_read_metadata(Dataset *ds, size_t folder, Err *e);

#endif
