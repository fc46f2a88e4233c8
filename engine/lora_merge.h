/* lora_merge.h - several LoRAs into one.
 *
 * The exact sum of low-rank products is their concatenation:
 *     sum_i w_i s_i U_i D_i = [w_1 s_1 U_1, w_2 s_2 U_2, ...] [D_1; D_2; ...]
 * with alpha = rank, so no cross terms appear and negative weights are fine.
 * LoHa is a plain LoRA of rank r1*r2 (row-wise Kronecker product of the
 * factors), and so is LoKr, (A1 A2) (x) (B1 B2) = (A1 (x) B1) (A2 (x) B2). A rank limit
 * cuts each sum by its singular values.
 */
#ifndef SDC_ENGINE_LORA_MERGE_H
#define SDC_ENGINE_LORA_MERGE_H

#include "engine/lora.h"

/* Merges in[0..n), opened against the same targets, at their weights. rank 0:
 * exact; otherwise modules of a higher rank are cut to it, and *error (NULL ok)
 * is |cut - exact| / |exact| over all modules, in the Frobenius norm. *out is
 * freed with lora_close. ERR_INPUT for DoRA, whose effect depends on the model. */
int lora_merge(Lora *out, const Lora *in, size_t n, const LoraTarget *targets, size_t count,
               int rank, double *error, Err *e);

/* Replaces up (out,r) and down (r,in*k*k), alpha = r, by the best factors of
 * rank at most `rank`; adds the squares of the lost and of all singular values
 * to *lost and *total. */
int lora_truncate(LoraModule *m, int rank, double *lost, double *total, Err *e);

#endif
