/* hash.h - SHA-256, and the hashes by which Stable Diffusion programs name models.
 *
 *   A1111 "Model hash"      first 10 digits of hash_file (modules/sd_models.py)
 *   kohya ss_new_sd_model_hash, Civitai SHA256     hash_file
 *   kohya ss_sd_model_hash, A1111's old 8 digits   hash_file_legacy
 *   kohya sshs_model_hash, Civitai AutoV3 (first 12), A1111 "Lora hashes" (first 12)
 *                           hash_file_data (library/train_util.py,
 *                           addnet_hash_safetensors)
 *   kohya sshs_legacy_hash  hash_file_legacy of the file with ss_* metadata only
 *
 * Hexadecimal results are lower case with a NUL behind.
 */
#ifndef SDC_ENGINE_HASH_H
#define SDC_ENGINE_HASH_H

#include <stddef.h>

#include "engine/error.h"

enum { HASH_HEX = 65, HASH_LEGACY_HEX = 9 };

/* The bytes [HASH_LEGACY_AT, HASH_LEGACY_AT + HASH_LEGACY_BYTES) of a file make its
 * legacy hash; a file that ends before has fewer, or none. */
enum { HASH_LEGACY_AT = 0x100000, HASH_LEGACY_BYTES = 0x10000 };

typedef struct Hash Hash;

int hash_new(Hash **h, Err *e);
void hash_update(Hash *h, const void *data, size_t size);
/* Once, after the last update. */
void hash_finish(Hash *h, char hex[HASH_HEX]);
void hash_free(Hash *h);                            /* NULL ok */

/* ERR_INPUT "PATH: ..." when the file cannot be read. */
int hash_file(char hex[HASH_HEX], const char *path, Err *e);
/* All bytes behind the header of a safetensors file; ERR_INPUT for any other. */
int hash_file_data(char hex[HASH_HEX], const char *path, Err *e);
int hash_file_legacy(char hex[HASH_LEGACY_HEX], const char *path, Err *e);

#endif
