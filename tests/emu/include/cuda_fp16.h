/* cuda_fp16.h - in place of CUDA's: see emu_half.h. */
#include "emu_half.h"
