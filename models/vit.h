/* vit.h - the vision transformer of the WD taggers, as timm builds and names it.
 *
 * Dosovitskiy et al., arXiv:2010.11929; timm/models/vision_transformer.py with class_token
 * False and global_pool "avg": patches as tokens, learned positions, pre-norm blocks with a
 * fused qkv, the mean of all tokens, a linear head. Nothing is fixed to ViT-B/16 at 448.
 *
 * Parameters in memory have the names of the file, but for the qkv matrix, which is three:
 * "blocks.0.attn.q.weight" and so on.
 */
#ifndef SDC_MODELS_VIT_H
#define SDC_MODELS_VIT_H

#include "engine/tensorfile.h"
#include "models/blocks.h"

typedef struct {
    int side, patch;           /* of the square picture and of its patches, in pixels */
    int width, depth, heads, ff, classes;
    ActKind act;
    int fc_norm;               /* the last norm stands behind the mean, not before */
} VitConfig;

/* All zero or out of range values are refused: ERR_INPUT, without a file name. */
int vit_check(const VitConfig *c, Err *e);
/* Takes the sizes from the shapes of the tensors; those that c knows already (not 0) must
 * agree. ERR_INPUT names file and tensor: one that is missing, has another shape, or belongs
 * to no layer of such a model. heads stays. */
int vit_from_tensors(VitConfig *c, const TensorFile *tf, Err *e);

/* Tensor i of the file, in the order in which data flows; 0 when there are no more. */
typedef struct {
    char name[BLOCK_PATH];
    int ndim, fused;           /* fused: qkv, three parameters in memory */
    int64_t shape[4];
} VitTensor;
int vit_tensor(const VitConfig *c, int i, VitTensor *t);
/* The name in memory of part k (0 q, 1 k, 2 v) of a fused tensor. */
Path vit_part(const char *fused, int k);

/* Logits (N,1,classes) of pictures "image" (N,side,side,3) f32. Two more inputs are filled by
 * vit_constants: "positions" and "mean". */
Tensor *vit_build(Build *b, const VitConfig *c, int n);

#endif
