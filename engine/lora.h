/* lora.h - low-rank adapter files: read, apply, write.
 *
 * Read: kohya (lora_down/lora_up/alpha, lora_mid), PEFT and diffusers (lora_A/
 * lora_B, .lora.down/.lora.up, attention processors), LyCORIS LoHa and LoKr, with
 * Tucker cores or without, DoRA. Written: kohya's and LyCORIS's names. All factors are
 * f32 in memory.
 *
 *   plain:  dW = s * up @ down
 *   LoHa:   dW = s * (w1_a @ w1_b) o (w2_a @ w2_b)
 *   LoKr:   dW = s * w1 (x) w2, each a matrix or a product w_a @ w_b
 *   s = alpha / rank; 1 for a LoKr of two matrices
 *   DoRA:   dW' = dora * (W + dW) / |row of W + dW|  -  W,   or of each input channel
 *   applied: W + weight * dW      (3x3 convolutions as (out, in*9))
 *
 * Sources: Hu et al. 2021 (LoRA), Hyeon-Woo et al. 2021 (LoHa), Yeh et al. 2023 (LoKr),
 * Liu et al. 2024 (DoRA); kohya-ss/sd-scripts networks/lora.py; KohakuBlueleaf/LyCORIS;
 * huggingface/diffusers loaders/lora_conversion_utils.py.
 */
#ifndef SDC_ENGINE_LORA_H
#define SDC_ENGINE_LORA_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"
#include "engine/tensorfile.h"

/* kohya's sets of modules. */
typedef enum {
    LORA_NONE,
    LORA_DEFAULT,      /* attention and feed-forward: always */
    LORA_CONV,         /* residual blocks and resamplers: only with conv_dim */
    LORA_EDGE          /* in and out of the U-Net, and its time: only in LyCORIS's files */
} LoraSet;

/* One layer that can be adapted (models/layers.h makes the list). */
typedef struct {
    const char *path;  /* canonical: "unet.mid_block.attentions.0.proj_in" */
    const char *name;  /* kohya's: "lora_unet_mid_block_attentions_0_proj_in" */
    int out, in;       /* channels */
    int k, stride;     /* kernel 1 or 3 */
    int conv;          /* the layer is a convolution: its factors are 4-d in files */
    int text;          /* belongs to the text encoder */
    LoraSet set;
} LoraTarget;

void lora_targets_free(LoraTarget *list, size_t count);

/* Targets as LoRA files imply them, sorted by name: for merging LoRAs without
 * a model, of any architecture. Files that disagree on a shape are ERR_INPUT.
 * path is the same as name. The caller owns *list (lora_targets_free). */
int lora_targets_from_files(const char *const *paths, size_t n, LoraTarget **list, size_t *count,
                            Err *e);

typedef enum { LORA_PLAIN, LORA_LOHA, LORA_LOKR } LoraAlgo;

/* What DoRA's magnitudes belong to. */
typedef enum { LORA_NO_DORA, LORA_DORA_OUT, LORA_DORA_IN } LoraDora;

typedef struct {
    const LoraTarget *target;
    LoraAlgo algo;
    int rank, rank2;           /* of up and down, of up2 and down2 */
    float alpha;
    float *up, *down;          /* (out, rank), (rank, in*k*k); LoHa: w1_a, w1_b */
    float *up2, *down2;        /* LoHa: w2_a, w2_b; else NULL */
    /* LoKr: w1 (kron_out, kron_in) is up @ down, w2 (out/kron_out, in/kron_in*k*k) is
     * up2 @ down2; a matrix kept in full is up or up2, its rank 0. */
    int kron_out, kron_in;
    LoraDora dora_of;
    float *dora;               /* (out) or (in); NULL before training: the norms of W */
} LoraModule;

void lora_module_free(LoraModule *m);      /* the factors */

/* One factor: its name behind the module's in files ("lora_up.weight", "dora_scale"),
 * and where its values are. rows x cols x k x k values; dim is its shape in files. */
typedef struct {
    const char *suffix;
    float **values;
    int rows, cols, k;
    int ndim;
    int64_t dim[4];
} LoraFactor;
enum { LORA_FACTORS = 5 };
/* Returns how many there are; alpha is none of them. */
int lora_factors(LoraModule *m, LoraFactor f[LORA_FACTORS]);
size_t lora_factor_count(const LoraFactor *f);
/* Where the name of a factor begins in "path.suffix", NULL when it ends in none. */
const char *lora_factor_in(const char *name);

/* s of above. */
float lora_scale(const LoraModule *m);

typedef struct {
    char *path;
    float unet_weight, text_weight;
    LoraModule *list;          /* sorted by target */
    size_t count;
    char *base;                /* ss_base_model_version ("sd_v1"), NULL when not said */
} Lora;

/* "FILE[:W[:TEW]]": cut at the last colons that are followed by a number. *path
 * is owned by the caller. W defaults to 1, TEW to W. ERR_USAGE when no file
 * name is left. */
int lora_spec(const char *spec, char **path, float *w, float *tew, Err *e);

/* Reads a file and resolves every tensor against the targets, which must
 * outlive the Lora; both weights are 1. ERR_INPUT naming the tensor and the file
 * for a module the model lacks, another shape, an unknown kind of adapter, NaN.
 * On failure *lo is zero. */
int lora_open(Lora *lo, const char *path, const LoraTarget *targets, size_t count, Err *e);
/* lora_spec + lora_open. */
int lora_open_spec(Lora *lo, const char *spec, const LoraTarget *targets, size_t count, Err *e);
void lora_close(Lora *lo);

/* A new LoRA to train, which changes nothing yet. Plain, as kohya's begins: down uniform in
 * +-1/sqrt(in*k*k) (torch's kaiming_uniform_(a=sqrt(5))), up zero. LoHa and LoKr as
 * LyCORIS's: gaussian with deviations 1 and 0.1, w2_a zero; and uniform, w2 or w2_b zero.
 * A rank of 0 leaves modules of that kind out; alpha 0 means the rank. */
typedef struct {
    int dim, conv_dim;             /* ranks of LORA_DEFAULT and of 3x3 convolutions */
    float alpha, conv_alpha;
    int unet, text;                /* which networks get modules */
    uint64_t seed;
    int edge;                      /* LORA_EDGE, too */
    LoraAlgo algo;
    LoraDora dora_of;
    int rs_lora;                   /* s = alpha / sqrt(rank) */
    /* LoKr: the smaller part of the width is at most factor, 0: as near to its root as can
     * be; w1 is a product, too, where that is smaller; w2 is kept in full at any rank. */
    int factor, decompose_both, full_matrix;
    /* Another rank and alpha for a module; NULL ok. */
    void (*choose)(void *ctx, const LoraTarget *t, int *dim, float *alpha);
    void *ctx;
} LoraNew;
int lora_new(Lora *lo, const LoraNew *c, const LoraTarget *targets, size_t count, Err *e);

/* The module of a target, NULL when the file leaves it alone. */
const LoraModule *lora_find(const Lora *lo, const LoraTarget *t);
/* The weight that applies to a target. */
float lora_weight(const Lora *lo, const LoraTarget *t);

/* w (out, in*k*k), PyTorch's layout, += weight * dW. weight 0 leaves w as it
 * is, bit for bit. ERR_MEMORY only. */
int lora_add_delta(const LoraModule *m, float weight, float *w, Err *e);

/* What DoRA's magnitudes begin with: the norms of w's rows, or input channels, n of
 * them. */
void lora_dora_norms(const LoraModule *m, const float *w, float *norm);

/* The Frobenius norm of up (out, rank) @ down (rank, in). */
double lora_norm(const float *up, const float *down, size_t out, size_t rank, size_t in);
/* That of dW, without DoRA. */
int lora_module_norm(const LoraModule *m, double *norm, Err *e);

typedef struct {
    const char *key, *value;
} LoraMeta;

/* Writes a kohya or LyCORIS file: the factors and a scalar alpha per module, all of
 * dtype (F32, F16, BF16), with the given metadata and sshs_model_hash and
 * sshs_legacy_hash. The bytes depend on the arguments alone. */
int lora_save(const char *path, const LoraModule *list, size_t count, FileDtype dtype,
              const LoraMeta *meta, size_t meta_count, Err *e);

#endif
