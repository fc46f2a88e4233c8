/* optim_impl.h - what the parts of the optimizer share (optim.h). */
#ifndef SDC_ENGINE_OPTIM_IMPL_H
#define SDC_ENGINE_OPTIM_IMPL_H

#include "engine/optim.h"

/* One array of the state of a tensor, by torch's name. */
typedef struct { const char *name; int slot; size_t bytes; } OptimPart;

/* Fills part, by name, and returns how many there are. */
int optim_parts(const OptimConfig *c, const OptimTensor *t, OptimPart part[OPTIM_SLOTS]);
/* Moments in 8 bits? */
int optim_is_8bit(const OptimConfig *c, size_t count);
/* The device's first failure as ERR_FAIL. */
int optim_check_device(const Optim *o, Err *e);

/* A step of the methods that find their rate: lr is the rate with the schedule's factor. */
void optim_adapt(Optim *o, double lr, double clip);

#endif
