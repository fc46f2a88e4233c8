/* toml.h - reads the part of TOML that option files use.
 *
 * Tables ([a], [[a]]) are flattened away, as kohya's --config_file does. Keys
 * are bare or quoted; values are strings (basic, literal, multi-line), numbers,
 * booleans and arrays of these. Dates and inline tables are refused.
 */
#ifndef SDC_TOOLS_TOML_H
#define SDC_TOOLS_TOML_H

#include "engine/error.h"

/* One value as text: index 0 for a single value or the first of an array, and
 * so on upwards. An empty array calls nothing. Not 0 stops the reading. */
typedef int toml_value_fn(void *ctx, const char *key, const char *value, int index, Err *e);

/* The name between brackets, array 1 for [[name]]. */
typedef int toml_table_fn(void *ctx, const char *name, int array, Err *e);

/* The same with the tables as they come, in place of flattening. */
int toml_read_tables(const char *text, const char *path, toml_value_fn *fn, toml_table_fn *table,
                     void *ctx, Err *e);

/* ERR_USAGE "PATH:LINE: ..." for what is not understood. */
int toml_read(const char *text, const char *path, toml_value_fn *fn, void *ctx, Err *e);

#endif
