/* blaslt.cc - cuBLASLt's matrix product: what the cuBLAS library reference says of
 * arguments is checked, and sums are plain f32.
 *
 * A refused call prints why. Products deep enough want a workspace, as split
 * sums do on a GPU; it is filled with NaN.
 */
#include "cublasLt.h"

#include <stdio.h>
#include <vector>

#include "emu.h"
#include "product.h"

struct cublasLtContext { int unused; };

typedef struct {
    uint32_t magic, type, order;
    int32_t batch;
    uint64_t rows, cols;
    int64_t ld, stride;
} Layout;
typedef struct {
    uint32_t magic, compute, scale, pointer_mode, trans[3], epilogue;
    const void *bias;
    int32_t bias_type;                         /* -1: as D */
} Desc;
typedef struct { uint32_t magic, search, reduction, aligned[4]; uint64_t most; } Preference;
typedef struct { uint32_t magic, split, aligned[4]; uint64_t bytes, m, n, k; } Algo;
enum { LAYOUT = 0x4c41, DESC = 0x4445, PREFERENCE = 0x5052, ALGO = 0x414c };
static_assert(sizeof(Layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "fits");
static_assert(sizeof(Desc) <= sizeof(cublasLtMatmulDescOpaque_t), "fits");
static_assert(sizeof(Preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t), "fits");
static_assert(sizeof(Algo) <= sizeof(cublasLtMatmulAlgo_t), "fits");

static cublasStatus_t refuse(cublasStatus_t code, const char *why)
{
    fprintf(stderr, "emu: cuBLASLt: %s (%s)\n", why, cublasLtGetStatusName(code));
    return code;
}
static cublasStatus_t invalid(const char *why) { return refuse(CUBLAS_STATUS_INVALID_VALUE, why); }
static cublasStatus_t unsupported(const char *why)
{ return refuse(CUBLAS_STATUS_NOT_SUPPORTED, why); }

cublasStatus_t cublasLtCreate(cublasLtHandle_t *h)
{
    if (!h) return CUBLAS_STATUS_INVALID_VALUE;
    if (emu_device_ok()) return CUBLAS_STATUS_NOT_INITIALIZED;
    *h = new cublasLtContext();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t h)
{
    delete h;
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void) { return 130000; }

const char *cublasLtGetStatusName(cublasStatus_t s)
{
    switch (s) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    default: return "CUBLAS_STATUS_INTERNAL_ERROR";
    }
}
const char *cublasLtGetStatusString(cublasStatus_t s) { return cublasLtGetStatusName(s); }

/* ---- descriptors --------------------------------------------------------- */

/* What a descriptor's attribute is kept in; NULL when it has no such one. */
static cublasStatus_t set(void *field, size_t size, const void *buf, size_t bytes)
{
    if (!field) return unsupported("no such attribute");
    if (!buf || bytes != size) return invalid("an attribute's size is wrong");
    memcpy(field, buf, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t m, cudaDataType type, uint64_t rows,
                                        uint64_t cols, int64_t ld)
{
    memset(m, 0, sizeof *m);
    *(Layout *)m = {LAYOUT, (uint32_t)type, CUBLASLT_ORDER_COL, 1, rows, cols, ld, 0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *m, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld)
{
    *m = new cublasLtMatrixLayoutOpaque_t();
    return cublasLtMatrixLayoutInit(*m, type, rows, cols, ld);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t m)
{
    delete m;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t m,
                                                cublasLtMatrixLayoutAttribute_t a,
                                                const void *buf, size_t bytes)
{
    Layout *l = (Layout *)m;
    if (!l || l->magic != LAYOUT) return invalid("not a matrix layout");
    switch (a) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE: return set(&l->type, 4, buf, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ORDER: return set(&l->order, 4, buf, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS: return set(&l->rows, 8, buf, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS: return set(&l->cols, 8, buf, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD: return set(&l->ld, 8, buf, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return set(&l->batch, 4, buf, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return set(&l->stride, 8, buf, bytes);
    default: return set(NULL, 0, buf, bytes);
    }
}

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t d, cublasComputeType_t compute,
                                      cudaDataType_t scale)
{
    memset(d, 0, sizeof *d);
    Desc *p = (Desc *)d;
    p->magic = DESC, p->compute = compute, p->scale = scale;
    p->epilogue = CUBLASLT_EPILOGUE_DEFAULT, p->bias_type = -1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    *d = new cublasLtMatmulDescOpaque_t();
    return cublasLtMatmulDescInit(*d, compute, scale);
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
    delete d;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t a, const void *buf,
                                              size_t bytes)
{
    Desc *d = (Desc *)desc;
    if (!d || d->magic != DESC) return invalid("not a product's description");
    switch (a) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE: return set(&d->compute, 4, buf, bytes);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE: return set(&d->scale, 4, buf, bytes);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE: return set(&d->pointer_mode, 4, buf, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSA: return set(&d->trans[0], 4, buf, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return set(&d->trans[1], 4, buf, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSC: return set(&d->trans[2], 4, buf, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return set(&d->epilogue, 4, buf, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return set(&d->bias, 8, buf, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return set(&d->bias_type, 4, buf, bytes);
    default: return set(NULL, 0, buf, bytes);
    }
}

cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t p)
{
    memset(p, 0, sizeof *p);
    *(Preference *)p = {PREFERENCE, 0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}, 0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p)
{
    *p = new cublasLtMatmulPreferenceOpaque_t();
    return cublasLtMatmulPreferenceInit(*p);
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    delete p;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t pref,
                                                    cublasLtMatmulPreferenceAttributes_t a,
                                                    const void *buf, size_t bytes)
{
    Preference *p = (Preference *)pref;
    if (!p || p->magic != PREFERENCE) return invalid("not a preference");
    uint64_t unused;
    switch (a) {
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE: return set(&p->search, 4, buf, bytes);
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return set(&p->most, 8, buf, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return set(&p->reduction, 4, buf, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return set(&p->aligned[0], 4, buf, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return set(&p->aligned[1], 4, buf, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return set(&p->aligned[2], 4, buf, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return set(&p->aligned[3], 4, buf, bytes);
    case CUBLASLT_MATMUL_PREF_MAX_WAVES_COUNT: return set(&unused, 4, buf, bytes);
    case CUBLASLT_MATMUL_PREF_IMPL_MASK: return set(&unused, 8, buf, bytes);
    default: return set(NULL, 0, buf, bytes);
    }
}

/* ---- one product --------------------------------------------------------- */

typedef struct { Desc d; Layout a, b, c, out; uint64_t m, n, k; } Product;

static int type_of(uint32_t t)
{
    return t == CUDA_R_32F ? EMU_F32 : t == CUDA_R_16BF ? EMU_BF16 : t == CUDA_R_16F ? EMU_F16 : -1;
}

/* The table of types for CUBLAS_COMPUTE_32F with scale CUDA_R_32F. */
static int types_go_together(const Product *p)
{
    int a = type_of(p->a.type), out = type_of(p->out.type);
    if (a < 0 || out < 0 || p->a.type != p->b.type || p->c.type != p->out.type) return 0;
    if (a == EMU_BF16 && emu_sm() < 80) return 0;
    return out == a || out == EMU_F32;
}

static cublasStatus_t check_desc(const Desc *d, const Product *p)
{
    switch (d->compute) {
    case CUBLAS_COMPUTE_32F: case CUBLAS_COMPUTE_32F_PEDANTIC: break;
    case CUBLAS_COMPUTE_32F_FAST_TF32: case CUBLAS_COMPUTE_32F_FAST_16F:
    case CUBLAS_COMPUTE_32F_FAST_16BF:
        if (type_of(p->a.type) != EMU_F32)
            return unsupported("fast compute types are for f32 matrices");
        break;
    default: return unsupported("compute type");
    }
    if (d->scale != CUDA_R_32F) return unsupported("scale type");
    if (d->pointer_mode != CUBLASLT_POINTER_MODE_HOST) return unsupported("pointer mode");
    if (d->trans[0] > 1 || d->trans[1] > 1 || d->trans[2]) return unsupported("transposition");
    if (d->epilogue != CUBLASLT_EPILOGUE_DEFAULT && d->epilogue != CUBLASLT_EPILOGUE_BIAS &&
        d->epilogue != CUBLASLT_EPILOGUE_GELU_BIAS && d->epilogue != CUBLASLT_EPILOGUE_GELU)
        return unsupported("epilogue");
    if (d->epilogue & CUBLASLT_EPILOGUE_BIAS && d->bias_type != -1 &&
        (uint32_t)d->bias_type != p->out.type) return unsupported("the bias is not of D's type");
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t check_layout(const Layout *l)
{
    if (l->magic != LAYOUT) return invalid("not a matrix layout");
    if (!l->rows || !l->cols || l->batch < 1) return invalid("an empty matrix");
    if (l->order > 1) return unsupported("order");
    uint64_t least = l->order == CUBLASLT_ORDER_COL ? l->rows : l->cols;
    if (l->ld < (int64_t)least) return invalid("leading dimension is smaller than a column");
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t describe(Product *p, cublasLtHandle_t h, cublasLtMatmulDesc_t d,
                               cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                               cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t out)
{
    if (!h || !d || !a || !b || !c || !out) return invalid("a NULL argument");
    *p = {*(Desc *)d, *(Layout *)a, *(Layout *)b, *(Layout *)c, *(Layout *)out, 0, 0, 0};
    if (p->d.magic != DESC) return invalid("not a product's description");
    const Layout *all[] = {&p->a, &p->b, &p->c, &p->out};
    for (const Layout *l : all) {
        cublasStatus_t rc = check_layout(l);
        if (rc) return rc;
        if (l->batch != p->out.batch) return invalid("batch counts differ");
    }
    if (!types_go_together(p)) return unsupported("these types do not go together on this card");
    cublasStatus_t rc = check_desc(&p->d, p);
    if (rc) return rc;
    p->m = p->d.trans[0] ? p->a.cols : p->a.rows;
    p->k = p->d.trans[0] ? p->a.rows : p->a.cols;
    p->n = p->d.trans[1] ? p->b.rows : p->b.cols;
    if ((p->d.trans[1] ? p->b.cols : p->b.rows) != p->k || p->out.rows != p->m ||
        p->out.cols != p->n || p->c.rows != p->m || p->c.cols != p->n)
        return invalid("shapes do not go together");
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d,
    cublasLtMatrixLayout_t A, cublasLtMatrixLayout_t B, cublasLtMatrixLayout_t C,
    cublasLtMatrixLayout_t D, cublasLtMatmulPreference_t pref, int wanted,
    cublasLtMatmulHeuristicResult_t results[], int *got)
{
    Product p;
    if (!pref || ((Preference *)pref)->magic != PREFERENCE || wanted < 1 || !results || !got)
        return invalid("heuristics: a bad argument");
    *got = 0;
    cublasStatus_t rc = describe(&p, h, d, A, B, C, D);
    if (rc) return rc;
    if (!emu_setting("SDC_EMU_LIBRARIES", 1)) return CUBLAS_STATUS_NOT_SUPPORTED;
    Preference q = *(Preference *)pref;
    uint64_t bytes = 2 * p.m * p.n * sizeof(float);
    int split = p.k >= 2 * (p.m > p.n ? p.m : p.n) && bytes <= q.most &&
                q.reduction & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    memset(results, 0, sizeof *results);
    Algo algo = {ALGO, split ? 2u : 1u, {q.aligned[0], q.aligned[1], q.aligned[2], q.aligned[3]},
                 split ? bytes : 0, p.m, p.n, p.k};
    memcpy(&results[0].algo, &algo, sizeof algo);
    results[0].workspaceSize = algo.bytes;
    results[0].wavesCount = 1;
    *got = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
    cublasLtMatmulAlgoConfigAttributes_t a, void *buf, size_t bytes, size_t *written)
{
    Algo copy, *g = &copy;
    if (algo) memcpy(g, algo, sizeof *g);
    if (!algo || g->magic != ALGO || bytes < 4) return invalid("algorithm's attribute");
    uint32_t v = a == CUBLASLT_ALGO_CONFIG_SPLITK_NUM ? g->split
               : a == CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME && g->split > 1 ?
                 (uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE : 0;
    memcpy(buf, &v, 4);
    if (written) *written = 4;
    return CUBLAS_STATUS_SUCCESS;
}

static size_t at(const Layout *l, uint64_t i, uint64_t j)
{
    return l->order == CUBLASLT_ORDER_COL ? i + j * (uint64_t)l->ld : j + i * (uint64_t)l->ld;
}

static cublasStatus_t check_matrix(const char *name, const Layout *l, const void *p,
                                   uint32_t aligned)
{
    size_t bytes = emu_type_bytes(type_of(l->type));
    size_t last = at(l, l->rows - 1, l->cols - 1) + (size_t)(l->batch - 1) * (size_t)l->stride;
    if ((uintptr_t)p % (aligned < bytes ? bytes : aligned))
        return invalid("a matrix is not aligned as the algorithm wants");
    if (!emu_is_device(p, (last + 1) * bytes))
        emu_die("cublasLtMatmul: %s: %zu bytes at %p are not "
                                                       "in one device allocation", name,
                                                       (last + 1) * bytes, p);
    return CUBLAS_STATUS_SUCCESS;
}

/* f32, rows of `cols`, of op(matrix) or its transpose. */
static std::vector<float> pack(const Layout *l, const void *p, int across, int tf32)
{
    std::vector<float> v(l->rows * l->cols);
    int type = type_of(l->type);
    for (uint64_t j = 0; j < l->cols; j++)
        for (uint64_t i = 0; i < l->rows; i++) {
            float x = emu_load(type, p, at(l, i, j));
            if (tf32) x = __uint_as_float((__float_as_uint(x) + 0x1000u) & ~0x1fffu);
            v[across ? i * l->cols + j : j * l->rows + i] = x;
        }
    return v;
}

static void epilogue(const Product *p, float alpha, float beta, const float *sum, const void *c,
                     void *out)
{
    int type = type_of(p->out.type);
    for (uint64_t j = 0; j < p->n; j++)
        for (uint64_t i = 0; i < p->m; i++) {
            float v = alpha * sum[j * p->m + i];
            if (beta != 0) v += beta * emu_load(type, c, at(&p->c, i, j));
            if (p->d.epilogue & CUBLASLT_EPILOGUE_BIAS) v += emu_load(type, p->d.bias, i);
            if (p->d.epilogue & CUBLASLT_EPILOGUE_GELU)
                v = 0.5f * v * (1 + tanhf(0.79788456f * (v + 0.044715f * v * v * v)));
            emu_store(type, out, at(&p->out, i, j), v);
        }
}

static const char *step(const Layout *l, const void *p, int b)
{
    return (const char *)p + (size_t)b * (size_t)l->stride * emu_type_bytes(type_of(l->type));
}

static void run(const Product *p, float alpha, const void *a, const void *b, float beta,
                const void *c, void *out)
{
    int tf32 = p->d.compute >= CUBLAS_COMPUTE_32F_FAST_16F && emu_sm() >= 80;
    std::vector<float> sum(p->m * p->n);
    for (int i = 0; i < p->out.batch; i++) {
        std::vector<float> av = pack(&p->a, step(&p->a, a, i), p->d.trans[0], tf32);
        std::vector<float> bv = pack(&p->b, step(&p->b, b, i), p->d.trans[1], tf32);
        emu_product(p->m, p->n, p->k, av.data(), bv.data(), sum.data());
        epilogue(p, alpha, beta, sum.data(), step(&p->c, c, i), (void *)step(&p->out, out, i));
    }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t d, const void *alpha,
    const void *A, cublasLtMatrixLayout_t Ad, const void *B, cublasLtMatrixLayout_t Bd,
    const void *beta, const void *C, cublasLtMatrixLayout_t Cd, void *D,
    cublasLtMatrixLayout_t Dd, const cublasLtMatmulAlgo_t *algo, void *workspace,
    size_t workspace_bytes, cudaStream_t stream)
{
    EmuLock lock;
    Product p;
    cublasStatus_t rc = describe(&p, h, d, Ad, Bd, Cd, Dd);
    if (rc) return rc;
    if (!alpha || !beta || !A || !B || !D) return invalid("a NULL argument");
    Algo g = {ALGO, 1, {16, 16, 16, 16}, 0, p.m, p.n, p.k};
    if (algo) memcpy(&g, algo, sizeof g);
    if (g.magic != ALGO || g.m != p.m || g.n != p.n || g.k != p.k)
        return invalid("the algorithm was not chosen for this product");
    if (g.bytes > workspace_bytes || (g.bytes && !workspace))
        return invalid("the workspace is too small");
    if ((uintptr_t)workspace % 256) return invalid("the workspace is not aligned to 256 bytes");
    float scale = *(const float *)alpha, add = *(const float *)beta;
    if (!C && add != 0) return invalid("beta without C");
    if ((rc = check_matrix("A", &p.a, A, g.aligned[0])) ||
        (rc = check_matrix("B", &p.b, B, g.aligned[1])) ||
        (rc = check_matrix("D", &p.out, D, g.aligned[3])) ||
        (add != 0 && (rc = check_matrix("C", &p.c, C, g.aligned[2])))) return rc;
    if (add != 0 && C == D && memcmp(&p.c, &p.out, sizeof p.c))
        return invalid("C is D in another layout");
    if (p.d.epilogue & CUBLASLT_EPILOGUE_BIAS &&
        !emu_is_device(p.d.bias, p.m * emu_type_bytes(type_of(p.out.type))))
        return invalid("the bias is not in device memory");
    if (g.bytes && !emu_is_device(workspace, g.bytes))
        emu_die("cublasLtMatmul: workspace of %zu bytes "
        "at %p is not in one device allocation", (size_t)g.bytes, workspace);
    cudaError_t e = emu_queue(stream, "cublasLtMatmul", [=] {
        if (g.bytes) memset(workspace, 0xff, g.bytes);
        run(&p, scale, A, B, add, C, D);
    });
    return e ? emu_error(e), CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}
