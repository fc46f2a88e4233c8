/* plans.cu - see plans.h. */
#include "kernels/cuda/plans.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY = 12, TRIES = 8 };

/* What a plan was made for; all ints, so that keys compare as bytes. */
typedef struct { int conv, op, dt, bias, shape[KEY]; } Key;

typedef struct {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
} BlasPlan;

#ifdef SDC_CUDNN
typedef struct {
    cudnnTensorDescriptor_t x, y;
    cudnnFilterDescriptor_t w;
    cudnnConvolutionDescriptor_t conv;
    int algo;
} DnnPlan;
#endif

struct Plan {
    Key key;
    int found;              /* 0: the library refuses this shape */
    size_t bytes;
    BlasPlan blas;
#ifdef SDC_CUDNN
    DnnPlan dnn;
#endif
};

struct CudaPlans { Plan *list; int count, room; };

enum { ALIGN = 256 };           /* of workspaces; scratch has less */

size_t plan_bytes(const Plan *plan) { return plan && plan->bytes ? plan->bytes + ALIGN : 0; }

static void *workspace(const Dev *d, const Plan *plan, size_t used)
{
    assert(used + plan_bytes(plan) <= d->ws_bytes);
    if (!plan->bytes) return NULL;
    return (void *)(((uintptr_t)d->ws + used + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1));
}

/* A new last plan with this key, or NULL: no memory. */
static Plan *plan_add(CudaDev *c, const Key *key)
{
    if (!c->plans) c->plans = (struct CudaPlans *)calloc(1, sizeof *c->plans);
    struct CudaPlans *s = c->plans;
    if (!s) return NULL;
    if (s->count == s->room) {
        int room = s->room ? 2 * s->room : 64;
        Plan *list = (Plan *)realloc(s->list, (size_t)room * sizeof *list);
        if (!list) return NULL;
        s->list = list, s->room = room;
    }
    Plan *p = &s->list[s->count++];
    memset(p, 0, sizeof *p);
    p->key = *key;
    return p;
}

static Plan *plan_find(const CudaDev *c, const Key *key)
{
    for (int i = 0; c->plans && i < c->plans->count; i++)
        if (!memcmp(&c->plans->list[i].key, key, sizeof *key)) return &c->plans->list[i];
    return NULL;
}

/* ---- cuBLASLt ------------------------------------------------------------ */

static cudaDataType data_type(int dt)
{
    return dt == DT_F32 ? CUDA_R_32F : dt == DT_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

/* cuBLASLt's matrices are column-major: ours are their transposes, and so
 *   forward  y^T (N,M) = w (K,N)^T x (K,M)     dx^T (K,M) = w (K,N) dy (N,M)
 *   dw^T (K,N) = x (K,M) dy (N,M)^T
 * with A the factor named first. */
static int blas_describe(BlasPlan *b, const Key *key)
{
    int op = key->op, m = key->shape[0], n = key->shape[1], k = key->shape[2];
    cudaDataType t = data_type(key->dt), t_out = op == PLAN_DW ? CUDA_R_32F : t;
    cublasOperation_t yes = CUBLAS_OP_T;
    uint64_t rows = op == PLAN_FORWARD ? n : k, cols = op == PLAN_DW ? n : m;
    uint64_t b_rows = op == PLAN_FORWARD ? k : n;
    int rc = cublasLtMatmulDescCreate(&b->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (!rc && op != PLAN_DX)
        rc = cublasLtMatmulDescSetAttribute(b->desc, op == PLAN_FORWARD ?
            CUBLASLT_MATMUL_DESC_TRANSA : CUBLASLT_MATMUL_DESC_TRANSB, &yes, sizeof yes);
    if (!rc && key->bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        rc = cublasLtMatmulDescSetAttribute(b->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                            sizeof epilogue);
    }
    if (!rc) rc = cublasLtMatrixLayoutCreate(&b->a, t, k, op == PLAN_DW ? m : n, k);
    if (!rc) rc = cublasLtMatrixLayoutCreate(&b->b, t, b_rows, m, b_rows);
    if (!rc) rc = cublasLtMatrixLayoutCreate(&b->c, t_out, rows, cols, rows);
    return rc;
}

/* The heuristics' first choice. No sums in the output's memory (by atomics), nor
 * partial sums in the output's type. */
static int blas_choose(CudaDev *c, Plan *p)
{
    cublasLtMatmulPreference_t pref;
    cublasLtMatmulHeuristicResult_t best;
    BlasPlan *b = &p->blas;
    uint64_t most = PLAN_MOST;
    uint32_t reduce = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, aligned = 16;
    static const cublasLtMatmulPreferenceAttributes_t of[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    int count = 0, rc = cublasLtMatmulPreferenceCreate(&pref);
    if (rc) return rc;
    rc = cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most,
                                              sizeof most);
    if (!rc) rc = cublasLtMatmulPreferenceSetAttribute(
        pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduce, sizeof reduce);
    for (int i = 0; i < 4 && !rc; i++)
        rc = cublasLtMatmulPreferenceSetAttribute(pref, of[i], &aligned, sizeof aligned);
    if (!rc) rc = cublasLtMatmulAlgoGetHeuristic(c->blas, b->desc, b->a, b->b, b->c, b->c, pref, 1,
                                                 &best, &count);
    cublasLtMatmulPreferenceDestroy(pref);
    if (rc || !count || best.state) return 1;
    b->algo = best.algo;
    p->bytes = best.workspaceSize;
    return 0;
}

static void blas_free(BlasPlan *b)
{
    if (b->desc) cublasLtMatmulDescDestroy(b->desc);
    if (b->a) cublasLtMatrixLayoutDestroy(b->a);
    if (b->b) cublasLtMatrixLayoutDestroy(b->b);
    if (b->c) cublasLtMatrixLayoutDestroy(b->c);
}

const Plan *plan_linear(Dev *d, const Linear *p, Dtype dt, PlanOp op, int bias)
{
    CudaDev *c = cuda_dev(d);
    Key key = {0, (int)op, (int)dt, bias, {p->m, p->n, p->k}};
    Plan *plan = plan_find(c, &key);
    if (!plan) {
        plan = plan_add(c, &key);
        if (plan) plan->found = !blas_describe(&plan->blas, &key) && !blas_choose(c, plan);
    }
    return plan && plan->found ? plan : NULL;
}

void plan_linear_run(Dev *d, const Plan *plan, size_t used, float alpha, void *out, const void *a,
                     const void *b, const float *bias, const void *add)
{
    CudaDev *c = cuda_dev(d);
    const BlasPlan *q = &plan->blas;
    float beta = add ? 1.0f : 0.0f;
    /* cuBLASLt's A is the weight, or x. */
    assert(!bias == !plan->key.bias);
    int rc = 0;
    if (bias) rc = cublasLtMatmulDescSetAttribute(q->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
                                                  sizeof bias);
    if (!rc) rc = cublasLtMatmul(c->blas, q->desc, &alpha, b, q->a, a, q->b, &beta,
                                 add ? add : out, q->c, out, q->c, &q->algo,
                                 workspace(d, plan, used), plan->bytes, c->stream);
    char why[32];
    snprintf(why, sizeof why, "status %d", rc);
    if (rc) cuda_fail(d, "cublasLtMatmul", why);
}

/* ---- cuDNN --------------------------------------------------------------- */

#ifdef SDC_CUDNN

static int dnn_describe(DnnPlan *q, const Conv2d *p, int dt)
{
    cudnnDataType_t t = dt == DT_F32 ? CUDNN_DATA_FLOAT : dt == DT_BF16 ? CUDNN_DATA_BFLOAT16 :
                        CUDNN_DATA_HALF;
    cudnnMathType_t math = dt == DT_F32 ? CUDNN_FMA_MATH : CUDNN_TENSOR_OP_MATH;
    int rc = cudnnCreateTensorDescriptor(&q->x);
    if (!rc) rc = cudnnCreateTensorDescriptor(&q->y);
    if (!rc) rc = cudnnCreateFilterDescriptor(&q->w);
    if (!rc) rc = cudnnCreateConvolutionDescriptor(&q->conv);
    if (!rc) rc = cudnnSetTensor4dDescriptor(q->x, CUDNN_TENSOR_NHWC, t, p->n, p->cin, p->h, p->w);
    if (!rc) rc = cudnnSetTensor4dDescriptor(q->y, CUDNN_TENSOR_NHWC, t, p->n, p->cout,
                                             conv2d_out(p, p->h), conv2d_out(p, p->w));
    if (!rc) rc = cudnnSetFilter4dDescriptor(q->w, t, CUDNN_TENSOR_NHWC, p->cout, p->cin, p->ks,
                                             p->ks);
    if (!rc) rc = cudnnSetConvolution2dDescriptor(q->conv, p->pad_lo, p->pad_lo, p->stride,
                                                  p->stride, 1, 1, CUDNN_CROSS_CORRELATION,
                                                  CUDNN_DATA_FLOAT);
    if (!rc) rc = cudnnSetConvolutionMathType(q->conv, math);
    return rc;
}

/* Takes the first of the algorithms, ranked by the heuristics, that is repeatable,
 * small enough, and sums f32 without tensor cores. */
#define DNN_TAKE(list, count)                                                              \
    for (int i = 0; i < (count); i++) {                                                    \
        if ((list)[i].status || (list)[i].determinism != CUDNN_DETERMINISTIC ||            \
            (list)[i].memory > PLAN_MOST) continue;                                        \
        if (p->key.dt == DT_F32 && (list)[i].mathType != CUDNN_DEFAULT_MATH &&             \
            (list)[i].mathType != CUDNN_FMA_MATH) continue;                                \
        q->algo = (int)(list)[i].algo, p->bytes = (list)[i].memory;                        \
        return cudnnSetConvolutionMathType(q->conv, p->key.dt == DT_F32 ? CUDNN_FMA_MATH : \
                                           (list)[i].mathType);                            \
    }

static int dnn_choose(CudaDev *c, Plan *p)
{
    DnnPlan *q = &p->dnn;
    int count = 0, rc;
    if (p->key.op == PLAN_FORWARD) {
        cudnnConvolutionFwdAlgoPerf_t list[TRIES];
        rc = cudnnGetConvolutionForwardAlgorithm_v7(c->dnn, q->x, q->w, q->conv, q->y, TRIES,
                                                    &count, list);
        if (!rc) DNN_TAKE(list, count)
    } else if (p->key.op == PLAN_DX) {
        cudnnConvolutionBwdDataAlgoPerf_t list[TRIES];
        rc = cudnnGetConvolutionBackwardDataAlgorithm_v7(c->dnn, q->w, q->y, q->conv, q->x, TRIES,
                                                         &count, list);
        if (!rc) DNN_TAKE(list, count)
    } else {
        cudnnConvolutionBwdFilterAlgoPerf_t list[TRIES];
        rc = cudnnGetConvolutionBackwardFilterAlgorithm_v7(c->dnn, q->x, q->y, q->conv, q->w, TRIES,
                                                           &count, list);
        if (!rc) DNN_TAKE(list, count)
    }
    return 1;
}

static void dnn_free(DnnPlan *q)
{
    if (q->x) cudnnDestroyTensorDescriptor(q->x);
    if (q->y) cudnnDestroyTensorDescriptor(q->y);
    if (q->w) cudnnDestroyFilterDescriptor(q->w);
    if (q->conv) cudnnDestroyConvolutionDescriptor(q->conv);
}

const Plan *plan_conv2d(Dev *d, const Conv2d *p, Dtype dt, PlanOp op)
{
    CudaDev *c = cuda_dev(d);
    Key key = {1, (int)op, (int)dt, 0,
               {p->n, p->h, p->w, p->cin, p->cout, p->ks, p->stride, p->pad_lo}};
    Plan *plan = plan_find(c, &key);
    if (!plan) {
        plan = plan_add(c, &key);
        if (plan) plan->found = !dnn_describe(&plan->dnn, p, dt) && !dnn_choose(c, plan);
    }
    return plan && plan->found ? plan : NULL;
}

void plan_conv2d_run(Dev *d, const Plan *plan, size_t used, float alpha, void *out, const void *a,
                     const void *b, int acc)
{
    CudaDev *c = cuda_dev(d);
    const DnnPlan *q = &plan->dnn;
    float beta = acc ? 1.0f : 0.0f;
    void *ws = workspace(d, plan, used);
    int rc;
    if (plan->key.op == PLAN_FORWARD)
        rc = cudnnConvolutionForward(c->dnn, &alpha, q->x, a, q->w, b, q->conv,
                                     (cudnnConvolutionFwdAlgo_t)q->algo, ws, plan->bytes, &beta,
                                     q->y, out);
    else if (plan->key.op == PLAN_DX)
        rc = cudnnConvolutionBackwardData(c->dnn, &alpha, q->w, b, q->y, a, q->conv,
                                          (cudnnConvolutionBwdDataAlgo_t)q->algo, ws, plan->bytes,
                                          &beta, q->x, out);
    else
        rc = cudnnConvolutionBackwardFilter(c->dnn, &alpha, q->x, b, q->y, a, q->conv,
                                            (cudnnConvolutionBwdFilterAlgo_t)q->algo, ws,
                                            plan->bytes, &beta, q->w, out);
    char why[32];
    snprintf(why, sizeof why, "status %d", rc);
    if (rc) cuda_fail(d, "a convolution of cuDNN", why);
}

#else

const Plan *plan_conv2d(Dev *d, const Conv2d *p, Dtype dt, PlanOp op)
{
    (void)d, (void)p, (void)dt, (void)op;
    return NULL;
}

void plan_conv2d_run(Dev *d, const Plan *plan, size_t used, float alpha, void *out, const void *a,
                     const void *b, int acc)
{
    (void)plan, (void)used, (void)alpha, (void)out, (void)a, (void)b, (void)acc;
    cuda_fail(d, "a convolution", "built without cuDNN");
}

#endif

void cuda_plans_free(CudaDev *c)
{
    for (int i = 0; c->plans && i < c->plans->count; i++) {
        blas_free(&c->plans->list[i].blas);
#ifdef SDC_CUDNN
        dnn_free(&c->plans->list[i].dnn);
#endif
    }
    if (c->plans) free(c->plans->list);
    free(c->plans);
    c->plans = NULL;
}
