/* params.h - the weights of a model on a device.
 *
 * A Params is a list of named tensors. Models declare what they need while
 * their graphs are built (params_get); then the sizes are known, params_alloc
 * takes one block for all of them, and params_fill loads values. Several graphs
 * (text encoder, U-Net, VAE; sampling and training) share one Params.
 *
 * Names are canonical (models/keys.h): diffusers paths with a component prefix,
 * "unet.conv_in.weight". Layouts: linear (N,K); convolution (COUT,kh,kw,CIN) in
 * memory, (COUT,CIN,kh,kw) in files and in params_fill's source. 1x1
 * convolutions are linear. Matrices and convolutions are stored in Params.wdt
 * unless trainable (f32, or as params_stream says); vectors (biases, norms) always in f32.
 * Those that params_set_int8 names and whose shape allows it are DT_I8 (kernels/int8.h).
 */
#ifndef SDC_ENGINE_PARAMS_H
#define SDC_ENGINE_PARAMS_H

#include <stddef.h>

#include "engine/error.h"
#include "kernels/ops.h"

typedef struct Param {
    char *name;
    int ndim, dim[4];      /* engine layout */
    size_t count;
    Dtype dt;
    int trainable;
    int streamed;          /* trainable, and its gradient lives in the slab, not here */
    int group;             /* optimizer group of a trainable parameter */
    void *data;            /* on the device, in dt; NULL: no memory yet, or released */
    int block;             /* which of Params.blocks holds it */
    float *grad;           /* on the device, count f32; NULL unless trainable, or when streamed */
    int filled;            /* data holds values */
} Param;

/* One device allocation: weights or gradients of a part of the model. */
typedef struct {
    void *base;
    size_t bytes;
    size_t users;          /* parameters in it that were not released */
    int gradients;
} ParamBlock;

typedef struct Params {
    Dev *dev;
    const Ops *ops;
    Dtype wdt;             /* storage of frozen matrices */
    Dtype trained;         /* of trainable ones: f32 unless streamed */
    int streamed;
    Param **list;
    size_t count, cap;
    Param **index;         /* the same, sorted by name */
    int (*int8)(const char *name);
    int (*group)(void *ctx, const char *name);
    void *group_ctx;
    ParamBlock *blocks;
    size_t block_count, block_cap;
    Param *spare;          /* what params_get returns when there is no memory */
    Err err;               /* sticky, as in Graph */
} Params;

Params *params_new(Dev *dev, const Ops *ops, Dtype wdt);     /* NULL: no memory */
void params_free(Params *ps);                                /* NULL ok */

/* Which declared parameters are trainable is decided when they are declared:
 * the callback is asked once per name; group < 0 means frozen. Parameters of an earlier
 * training are forgotten: those that were trainable, and those that will be; no graph may
 * hold them. Nothing is streamed until params_stream says so again. */
typedef int params_group_fn(void *ctx, const char *name);
void params_set_trainable(Params *ps, params_group_fn *group, void *ctx);
/* Would a parameter of this name be trainable? */
int params_trains(const Params *ps, const char *name);
/* Frozen matrices for which the callback says 1 are stored in 8 bits. Before the first
 * declaration. */
typedef int params_int8_fn(const char *name);
void params_set_int8(Params *ps, params_int8_fn *which);
/* Trainable matrices are stored in dt, and no gradient has memory of its own: each one
 * is used up by an update as soon as it is complete (graph.h, OP_update). Before the
 * first declaration. */
void params_stream(Params *ps, Dtype dt);

/* Finds or declares. A second declaration with other dims is an error in
 * ps->err naming the parameter. Never NULL. */
Param *params_get(Params *ps, const char *name, int ndim, const int *dim);
Param *params_find(const Params *ps, const char *name);      /* NULL when absent */

/* Bytes of the parameters whose names begin with prefix (NULL: all), with memory or
 * without. */
typedef struct { size_t frozen, trained, gradients; } ParamBytes;
ParamBytes params_part(const Params *ps, const char *prefix);
/* All bytes that params_alloc has still to take, weights and gradients. */
size_t params_bytes(const Params *ps);
/* Memory for the parameters whose names begin with prefix (NULL: all) and that have
 * none yet; gradients are zero. */
int params_alloc(Params *ps, const char *prefix, Err *e);
/* Bytes that it has taken and that were not given back. */
size_t params_held(const Params *ps);
/* Gives back the values of those parameters. The memory is free when everything that
 * was allocated with them is released. They can be allocated and filled again. */
void params_release(Params *ps, const char *prefix);

/* Where values come from. read writes elements [first, first+count) of p in
 * file layout, whole rows of the first axis; it is called from several threads
 * at once. whole(ctx, p) is asked first: 1 makes it one read of all of p. */
typedef struct {
    int (*read)(void *ctx, const Param *p, size_t first, size_t count, float *dst, Err *e);
    int (*whole)(void *ctx, const Param *p);
    void *ctx;
} ParamSource;

/* Loads every parameter that has memory and was not filled yet. */
int params_fill(Params *ps, const ParamSource *source, Err *e);
int params_set(Params *ps, Param *p, const float *file_layout, Err *e);
/* Reads values (or the gradient) back, in file layout. */
int params_read(const Params *ps, const Param *p, float *file_layout, Err *e);
int params_read_grad(const Params *ps, const Param *p, float *file_layout, Err *e);
void params_zero_grad(Params *ps);

#endif
