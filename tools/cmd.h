/* cmd.h - the subcommands of sdc, one file each (cmd_<name>.c).
 *
 * argv[0] is the subcommand's name. Returns 0 or the ErrCode stored in *e; main
 * prints the message and makes it the exit code. Results go to stdout, all else
 * to stderr.
 */
#ifndef SDC_TOOLS_CMD_H
#define SDC_TOOLS_CMD_H

#include "engine/error.h"

typedef int cmd_fn(int argc, char **argv, Err *e);

cmd_fn cmd_sample, cmd_train, cmd_merge, cmd_probe, cmd_tokenize, cmd_inspect, cmd_bench,
    cmd_doctor, cmd_demo, cmd_tag, cmd_tags, cmd_plan, cmd_sweep, cmd_grid;

#endif
