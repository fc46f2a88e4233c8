/* lora_norm.c - the size of what a module of a LoRA does (lora.h). */
#include <math.h>

#include "engine/lora.h"

/* |up @ down|^2 = sum over r, s of (up^T up)[r,s] (down down^T)[r,s]: without the product,
 * which is as large as the layer. */
double lora_norm(const float *up, const float *down, size_t out, size_t rank, size_t in)
{
    double square = 0;
    for (size_t r = 0; r < rank; r++)
        for (size_t s = 0; s <= r; s++) {
            double u = 0, d = 0;
            for (size_t i = 0; i < out; i++) u += (double)up[i * rank + r] * up[i * rank + s];
            for (size_t i = 0; i < in; i++) d += (double)down[r * in + i] * down[s * in + i];
            square += (r == s ? 1 : 2) * u * d;
        }
    return square > 0 ? sqrt(square) : 0;
}
