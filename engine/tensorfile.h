/* tensorfile.h - named tensors in a file: safetensors, or a torch .ckpt.
 *
 * One reader interface over both formats. Opening maps the file and checks all
 * of it that can be checked without touching tensor data; afterwards no tensor
 * can point outside the file, and no tensor has more elements than the file has
 * room for. Which format it is, the first bytes tell, not the name, with one
 * exception: a file named .safetensors is never read as a .ckpt. Shapes and
 * element order are PyTorch's (row-major, outermost first). Nothing in a file is
 * ever executed: see pickle.h. Rules: safetensors.h, ckpt.h.
 *
 *   ERR_INPUT  "FILE: ..." broken, truncated, or neither format
 *   ERR_UNSAFE "FILE: ..." a pickle that names anything but tensor data
 *   ERR_MEMORY "FILE: ..." no memory for the list of tensors
 *
 * An open file may be read by several threads at once.
 */
#ifndef SDC_ENGINE_TENSORFILE_H
#define SDC_ENGINE_TENSORFILE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

/* Element types of files; kernels compute in fewer (kernels/ops.h). */
typedef enum {
    FD_BOOL, FD_U8, FD_I8, FD_F8_E5M2, FD_F8_E4M3, FD_I16, FD_U16, FD_F16, FD_BF16,
    FD_I32, FD_U32, FD_F32, FD_F64, FD_I64, FD_U64,
    FD_OTHER            /* known to the format, not to us (F4, F6, C64...): listed, not readable */
} FileDtype;

enum { TENSOR_MAX_DIMS = 64 };  /* as in PyTorch; a file with more is refused */

typedef struct {
    const char *name;                     /* UTF-8, owned by the file */
    FileDtype dtype;
    const char *dtype_name;               /* as safetensors writes it: "F16" */
    int ndim;                             /* 0: scalar */
    const int64_t *shape;                 /* ndim values >= 0, owned by the file */
    const int64_t *stride;                /* in elements, >= 0; contiguous in safetensors */
    int64_t count;                        /* elements, the product of shape */
    uint64_t bytes;                       /* of all elements, packed: for FD_OTHER too */
    const uint8_t *data;                  /* first element, in the mapping (or in the
                                             inflated member of a compressed .ckpt);
                                             not aligned. FD_OTHER: bytes bytes follow */
} FileTensor;

typedef struct TensorFile TensorFile;

int tensorfile_open(TensorFile **tf, const char *path, Err *e);
/* The same for bytes already in memory, which must outlive *tf; label stands
 * for the path in messages. */
int tensorfile_open_memory(TensorFile **tf, const char *label, const void *data, size_t size,
                           Err *e);
void tensorfile_close(TensorFile *tf);    /* NULL ok */

const char *tensorfile_path(const TensorFile *tf);
/* "safetensors" or "ckpt". */
const char *tensorfile_format(const TensorFile *tf);
/* Tensors in file order: of their data in safetensors, of the dict in a .ckpt.
 * Where a .ckpt wraps its tensors in a dict "state_dict", names are those inside
 * it; any other nested dict is flattened to "outer.inner". */
size_t tensorfile_count(const TensorFile *tf);
const FileTensor *tensorfile_at(const TensorFile *tf, size_t i);
/* NULL when absent. O(log n). */
const FileTensor *tensorfile_find(const TensorFile *tf, const char *name);

/* String metadata (safetensors __metadata__; empty for .ckpt), sorted by key. */
size_t tensorfile_meta_count(const TensorFile *tf);
void tensorfile_meta_at(const TensorFile *tf, size_t i, const char **key, const char **value);
const char *tensorfile_meta(const TensorFile *tf, const char *key);   /* NULL when absent */

/* Elements [first, first+count) in row-major order, as f32 (f64 and 64-bit
 * integers are rounded). ERR_INPUT for FD_OTHER. */
int tensorfile_read_f32(const TensorFile *tf, const FileTensor *t, int64_t first,
                        int64_t count, float *dst, Err *e);
/* After reading: these elements need not stay in memory (they are read from the
 * file again when touched), so that loading does not hold a model twice. */
void tensorfile_drop(const TensorFile *tf, const FileTensor *t, int64_t first, int64_t count);
/* The same as 64-bit integers; ERR_INPUT unless the type is an integer or bool.
 * U64 values above INT64_MAX become INT64_MAX. */
int tensorfile_read_i64(const TensorFile *tf, const FileTensor *t, int64_t first,
                        int64_t count, int64_t *dst, Err *e);
/* The same, raw little-endian elements of t->dtype, made contiguous. */
int tensorfile_read_raw(const TensorFile *tf, const FileTensor *t, int64_t first,
                        int64_t count, void *dst, Err *e);

size_t file_dtype_bytes(FileDtype dt);                  /* 0 for FD_OTHER */
const char *file_dtype_name(FileDtype dt);              /* "F16" */
/* The type that safetensors calls name; FD_OTHER when it is none of ours. */
FileDtype file_dtype_by_name(const char *name);
/* f32 values to raw elements of dt, not FD_OTHER; dst need not be aligned. Float
 * types round to nearest even as PyTorch does (E4M3 has no infinity: beyond 464 is
 * NaN); integer types round to nearest even and saturate, NaN is 0; BOOL is x != 0. */
void file_dtype_from_f32(FileDtype dt, void *dst, const float *src, size_t count);
/* The reverse; f64 and 64-bit integers are rounded, the rest is exact. src need
 * not be aligned. */
void file_dtype_to_f32(FileDtype dt, float *dst, const void *src, size_t count);
/* Integer types and BOOL only. */
void file_dtype_to_i64(FileDtype dt, int64_t *dst, const void *src, size_t count);

/* ---- writing safetensors: declare every tensor, then append data in order ---
 *
 * The bytes depend on what is declared only, not on the order of the calls:
 * metadata is sorted by key, tensors as safetensors' own serializer sorts them
 * (dtype descending, then name; safetensors/src/tensor.rs, prepare), and the header
 * is padded with spaces to 8 bytes. After an error only abort is allowed.
 */
typedef struct TensorWriter TensorWriter;

/* Starts an atomic write to path (io_create). path NULL: a dry run that makes
 * no file, for the hashes below. */
int tensorwriter_new(TensorWriter **w, const char *path, Err *e);
/* String metadata, UTF-8; a later value for a key replaces the earlier one. */
int tensorwriter_meta(TensorWriter *w, const char *key, const char *value, Err *e);
/* Declares a tensor. A duplicate name is ERR_FAIL (here or in begin). */
int tensorwriter_add(TensorWriter *w, const char *name, FileDtype dt, int ndim,
                     const int64_t *shape, Err *e);
/* Sorts and writes the header. No more add or meta after it. */
int tensorwriter_begin(TensorWriter *w, Err *e);
/* The tensor whose data is due, or NULL when all are written. Tensors without
 * elements are never due. */
const char *tensorwriter_next(const TensorWriter *w);
/* Appends bytes of the tensor that is due; may be called in pieces, each within
 * one tensor. */
int tensorwriter_write(TensorWriter *w, const void *raw, size_t bytes, Err *e);
/* Appends count elements given as f32, converted to the declared dtype. */
int tensorwriter_write_f32(TensorWriter *w, const float *src, size_t count, Err *e);
/* SHA-256 (64 lower-case hex digits and NUL) of all tensor data, once the last
 * tensor is written: kohya's sshs_model_hash. Since that stands in the header,
 * callers that need it make a dry run first (with ss_* metadata only, as kohya
 * does, for the legacy hash). */
void tensorwriter_data_sha256(const TensorWriter *w, char hex[65]);
/* kohya's sshs_legacy_hash: hash_file_legacy (hash.h) of what was written. */
void tensorwriter_legacy_hash(const TensorWriter *w, char hex[9]);
/* Finishes and renames into place; frees w either way. */
int tensorwriter_commit(TensorWriter *w, Err *e);
void tensorwriter_abort(TensorWriter *w);               /* removes, frees; NULL ok */

#endif
