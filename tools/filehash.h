/* filehash.h - hashes of large files, remembered between runs.
 *
 * A checkpoint takes seconds to hash. As in A1111 its hash is kept: in
 * $XDG_CACHE_HOME/sdc (else ~/.cache/sdc), one small file for each path, size
 * and time of change. Files below 64 MB are hashed each time; a cache that
 * cannot be read or written is no error.
 */
#ifndef SDC_TOOLS_FILEHASH_H
#define SDC_TOOLS_FILEHASH_H

#include "engine/hash.h"

/* hash_file; with `data` hash_file_data, or hash_file where the file is no safetensors. */
int filehash(char hex[HASH_HEX], const char *path, int data, Err *e);

#endif
