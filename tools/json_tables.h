/* json_tables.h - reads a JSON file as toml.h reads a TOML file of the same content.
 *
 *   {"general": {"k": 1}, "datasets": [{"k": 2, "subsets": [{"k": [3, 4]}]}]}
 * is [general] k = 1, [[datasets]] k = 2, [[datasets.subsets]] k = [3, 4]; in each object the
 * values come before the tables, wherever they stand.
 */
#ifndef SDC_TOOLS_JSON_TABLES_H
#define SDC_TOOLS_JSON_TABLES_H

#include "tools/toml.h"

/* ERR_USAGE "PATH:LINE: ..." for what is not JSON, and "PATH: ..." for null, lists in lists and
 * whatever else TOML has no place for. */
int json_read_tables(const char *text, const char *path, toml_value_fn *fn, toml_table_fn *table,
                     void *ctx, Err *e);

#endif
