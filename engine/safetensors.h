/* safetensors.h - reads the safetensors format (8-byte length, JSON, tensor data).
 *
 * Rules: safetensors/src/tensor.rs of huggingface/safetensors, whose verdict is
 * ours on every file, with these exceptions, all on the strict side: a tensor
 * name or metadata key that stands twice is refused; so are a NUL in any string,
 * nesting deeper than 8, more than 64 dimensions or one of 2^63 and above, the array
 * form of an entry, a tensor entry of more than 1 MiB of JSON.
 *   - the header is at most 100 000 000 bytes, lies in the file, is UTF-8;
 *   - white space may stand around the JSON; unknown fields of an entry are ignored;
 *   - shape and data_offsets are integers written as such (not 1.6e1, not "16");
 *   - a tensor's size follows from type and shape, without overflow;
 *   - sorted by offset, the tensors fill the data to the last byte without gap
 *     or overlap (no second file can hide in it).
 */
#ifndef SDC_ENGINE_SAFETENSORS_H
#define SDC_ENGINE_SAFETENSORS_H

#include "engine/tensorfile_impl.h"

enum { SAFETENSORS_HEADER_MAX = 100000000 };

/* Adds the tensors (sorted by offset) and metadata of tf->data to tf. ERR_INPUT. */
int safetensors_read(TensorFile *tf, Err *e);

/* Where tensor data starts: 8 + header length, only checked to lie within size.
 * ERR_INPUT with the likely cause (a web page, a Git LFS pointer...). */
int safetensors_data_start(size_t *start, const uint8_t *data, size_t size, Err *e);

#endif
