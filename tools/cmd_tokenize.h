/* cmd_tokenize.h - `sdc tokenize`: what the tokenizer and the prompt grammar make of a text.
 *
 *     sdc tokenize --file prompts.txt    one JSON array of token ids for each line (split at LF)
 *     sdc tokenize --parse "PROMPT"      {"chunks": [[text, weight], ...],
 *                                         "loras": [{"name":, "te":, "unet":}, ...]}
 *
 * Ids are without start and end tokens and without a limit; chunks are PromptPieces. The JSON
 * is on stdout, laid out as Python's json.dumps does, but with UTF-8 as it is.
 */
#ifndef SDC_TOOLS_CMD_TOKENIZE_H
#define SDC_TOOLS_CMD_TOKENIZE_H

#include "engine/error.h"

/* argv[0] is "tokenize". ERR_USAGE for wrong options and prompts, ERR_INPUT for the file,
 * ERR_FAIL when stdout cannot be written. */
int cmd_tokenize(int argc, char **argv, Err *e);

#endif
