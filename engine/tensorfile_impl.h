/* tensorfile_impl.h - what is inside a TensorFile: for tensorfile.c and the
 * readers of the two formats (safetensors.c, ckpt.c) only.
 *
 * A reader looks at tf->data and adds tensors and metadata; tensorfile.c
 * then sorts for lookup and refuses duplicate names. All that belongs to an
 * open file lies in its blocks and goes with tensorfile_close.
 */
#ifndef SDC_ENGINE_TENSORFILE_IMPL_H
#define SDC_ENGINE_TENSORFILE_IMPL_H

#include "engine/io.h"
#include "engine/tensorfile.h"

typedef struct TensorFileBlock TensorFileBlock;

typedef struct {
    const char *key, *value;
} TensorFileMeta;

struct TensorFile {
    const char *path, *format;
    IoMap map;                        /* zero when opened from memory */
    const uint8_t *data;              /* the whole file */
    size_t size;
    FileTensor *tensors;              /* in file order */
    size_t count, cap;
    const FileTensor **by_name;       /* sorted by name */
    TensorFileMeta *meta;             /* sorted by key once open */
    size_t meta_count, meta_cap;
    TensorFileBlock *blocks;
};

/* Memory that lives as long as tf, 16-byte aligned. NULL with ERR_MEMORY in *e. */
void *tensorfile_alloc(TensorFile *tf, size_t bytes, Err *e);
/* Memory for a large buffer of its own, the same lifetime. */
void *tensorfile_alloc_large(TensorFile *tf, size_t bytes, Err *e);
/* A copy with a NUL behind it. ERR_INPUT unless text is UTF-8 without NUL. */
int tensorfile_text(TensorFile *tf, const char **copy, const char *text, size_t size, Err *e);

/* Fills in *t: shape copied; count; bytes for a known dtype; strides copied, or
 * contiguous when stride is NULL (and where a stride has no effect). ERR_INPUT
 * "tensor NAME: ..." when a dimension is negative or the element count does not fit.
 * name is kept, not copied. */
int tensorfile_shape(TensorFile *tf, FileTensor *t, const char *name, FileDtype dt, int ndim,
                     const int64_t *shape, const int64_t *stride, Err *e);
int tensorfile_add(TensorFile *tf, const FileTensor *t, Err *e);
/* key and value are kept, not copied. */
int tensorfile_add_meta(TensorFile *tf, const char *key, const char *value, Err *e);

#endif
