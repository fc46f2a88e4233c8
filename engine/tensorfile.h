/* tensorfile.h - named tensors in a file: safetensors, or a torch .ckpt.
 *
 * One reader interface over both formats. Opening maps the file and checks all
 * of it that can be checked without touching tensor data; afterwards no tensor
 * can point outside the file. Which format it is, the first bytes tell, never
 * the name. Shapes and element order are PyTorch's (row-major, outermost
 * first). Nothing in a file is ever executed: see ckpt.c.
 *
 *   ERR_INPUT  "FILE: ..." broken, truncated, or neither format
 *   ERR_UNSAFE "FILE: ..." a pickle that names anything but tensor data
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

enum { TENSOR_MAX_DIMS = 8 };

typedef struct {
    const char *name;                     /* UTF-8, owned by the file */
    FileDtype dtype;
    const char *dtype_name;               /* as safetensors writes it: "F16" */
    int ndim;                             /* 0: scalar */
    int64_t shape[TENSOR_MAX_DIMS];
    int64_t stride[TENSOR_MAX_DIMS];      /* in elements; contiguous in safetensors */
    int64_t count;                        /* elements */
    const uint8_t *data;                  /* first element, in the mapping (or in the
                                             inflated member of a compressed .ckpt) */
} FileTensor;

typedef struct TensorFile TensorFile;

int tensorfile_open(TensorFile **tf, const char *path, Err *e);
void tensorfile_close(TensorFile *tf);    /* NULL ok */

const char *tensorfile_path(const TensorFile *tf);
/* "safetensors" or "ckpt". */
const char *tensorfile_format(const TensorFile *tf);
/* Tensors in file order; a nested dict of a .ckpt ("state_dict") is flattened:
 * names are those inside it. */
size_t tensorfile_count(const TensorFile *tf);
const FileTensor *tensorfile_at(const TensorFile *tf, size_t i);
/* NULL when absent. O(log n). */
const FileTensor *tensorfile_find(const TensorFile *tf, const char *name);

/* String metadata (safetensors __metadata__; empty for .ckpt). */
size_t tensorfile_meta_count(const TensorFile *tf);
void tensorfile_meta_at(const TensorFile *tf, size_t i, const char **key, const char **value);
const char *tensorfile_meta(const TensorFile *tf, const char *key);   /* NULL when absent */

/* Elements [first, first+count) in row-major order, as f32 (f64 and 64-bit
 * integers are rounded). ERR_INPUT for FD_OTHER. */
int tensorfile_read_f32(const TensorFile *tf, const FileTensor *t, int64_t first,
                        int64_t count, float *dst, Err *e);
/* The same as 64-bit integers; ERR_INPUT unless the type is an integer or bool. */
int tensorfile_read_i64(const TensorFile *tf, const FileTensor *t, int64_t first,
                        int64_t count, int64_t *dst, Err *e);
/* The same, raw little-endian elements of t->dtype, made contiguous. */
int tensorfile_read_raw(const TensorFile *tf, const FileTensor *t, int64_t first,
                        int64_t count, void *dst, Err *e);

size_t file_dtype_bytes(FileDtype dt);                  /* 0 for FD_OTHER */
const char *file_dtype_name(FileDtype dt);              /* "F16" */
/* f32 values to raw elements of dt (F32, F16, BF16, F64: round to nearest even;
 * integer types: rounded). */
void file_dtype_from_f32(FileDtype dt, void *dst, const float *src, size_t count);

/* ---- writing safetensors: declare every tensor, then append data in order --- */
typedef struct TensorWriter TensorWriter;

/* Starts an atomic write to path (io_create). */
int tensorwriter_new(TensorWriter **w, const char *path, Err *e);
/* String metadata; a later value for a key replaces the earlier one. */
int tensorwriter_meta(TensorWriter *w, const char *key, const char *value, Err *e);
/* Declares a tensor. Data follows in the order in which safetensors' own
 * serializer stores tensors (dtype descending, then name): tensorwriter_begin
 * sorts, tensorwriter_next tells which tensor is wanted now. A duplicate name
 * is ERR_FAIL. */
int tensorwriter_add(TensorWriter *w, const char *name, FileDtype dt, int ndim,
                     const int64_t *shape, Err *e);
/* Writes the header. No more add or meta after it. */
int tensorwriter_begin(TensorWriter *w, Err *e);
/* The tensor whose data is due, or NULL when all are written. */
const char *tensorwriter_next(const TensorWriter *w);
/* Appends bytes of the tensor that is due; may be called in pieces. */
int tensorwriter_write(TensorWriter *w, const void *raw, size_t bytes, Err *e);
/* Appends count elements given as f32, converted to the declared dtype. */
int tensorwriter_write_f32(TensorWriter *w, const float *src, size_t count, Err *e);
/* SHA-256 (64 lower-case hex digits and NUL) of all tensor data; may be called
 * after the last tensor is written. kohya's sshs_model_hash is this; since it
 * stands in the header, callers that need it write twice. */
void tensorwriter_data_sha256(const TensorWriter *w, char hex[65]);
/* Finishes and renames into place; frees w either way. */
int tensorwriter_commit(TensorWriter *w, Err *e);
void tensorwriter_abort(TensorWriter *w);               /* removes, frees; NULL ok */

#endif
