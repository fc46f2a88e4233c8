/* dataset_config.h - kohya's --dataset_config: a TOML file with [general], [[datasets]] and
 * [[datasets.subsets]], or a .json file of the same content, as data sets of data.h.
 *
 * A setting of a subset wins over its data set's, that over [general]'s, that over the command
 * line's. Source: kohya sd-scripts library/config_util.py.
 */
#ifndef SDC_TOOLS_DATASET_CONFIG_H
#define SDC_TOOLS_DATASET_CONFIG_H

#include "engine/data.h"

typedef struct DatasetFile DatasetFile;

/* flags: PLAIN leaves out what varies from use to use, for measuring; MASKS uses
 * conditioning_data_dir. */
enum { DATASET_PLAIN = 1, DATASET_MASKS = 2 };

/* base: what the command line says; its subsets and sets are filled, borrowed from *out.
 * ERR_USAGE and ERR_INPUT with file, line and key. */
int dataset_file_open(DatasetFile **out, DataConfig *base, const char *path, int flags, Err *e);
/* kohya's --in_json: the pictures of dir (NULL: the file has absolute paths) that the metadata
 * file lists, each `repeats` times. */
int dataset_json_open(DatasetFile **out, DataConfig *base, const char *dir, const char *path,
                      int repeats, int flags, Err *e);
void dataset_file_close(DatasetFile *f);                 /* NULL ok */

#endif
