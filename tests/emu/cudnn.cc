/* cudnn.cc - cuDNN's convolutions of NHWC tensors: arguments are checked as its API
 * reference says, sums are plain f32.
 *
 * The heuristics rank an algorithm that is not repeatable first where there is
 * one; whoever runs it is told. Workspaces are filled with NaN.
 */
#include "cudnn.h"

#include <stdio.h>
#include <vector>

#include "emu.h"
#include "product.h"

struct cudnnContext { cudaStream_t stream; };
struct cudnnTensorStruct { int set, type, n, c, h, w, nhwc; };
struct cudnnFilterStruct { int set, type, k, c, h, w, nhwc; };
struct cudnnConvolutionStruct { int set, pad_h, pad_w, u, v, groups; cudnnMathType_t math; };

static char reason[200];

static cudnnStatus_t refuse(cudnnStatus_t code, const char *why)
{
    snprintf(reason, sizeof reason, "%s", why);
    fprintf(stderr, "emu: cuDNN: %s (%s)\n", why, cudnnGetErrorString(code));
    return code;
}

size_t cudnnGetVersion(void) { return CUDNN_VERSION; }

const char *cudnnGetErrorString(cudnnStatus_t s)
{
    switch ((int)s / 1000) {
    case 0: return "CUDNN_STATUS_SUCCESS";
    case 1: return "CUDNN_STATUS_NOT_INITIALIZED";
    case 2: return s == CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH
                 ? "CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH"
                 : "CUDNN_STATUS_BAD_PARAM";
    case 3: return "CUDNN_STATUS_NOT_SUPPORTED";
    case 5: return "CUDNN_STATUS_EXECUTION_FAILED";
    default: return "CUDNN_STATUS_INTERNAL_ERROR";
    }
}

void cudnnGetLastErrorString(char *text, size_t cap) { snprintf(text, cap, "%s", reason); }

cudnnStatus_t cudnnCreate(cudnnHandle_t *h)
{
    if (emu_device_ok()) return CUDNN_STATUS_NOT_INITIALIZED;
    *h = new cudnnContext();
    return CUDNN_STATUS_SUCCESS;
}

/* ---- descriptors --------------------------------------------------------- */

#define EMU_OBJECT(Create, Destroy, T)                                                    \
    cudnnStatus_t Create(T *p)                                                            \
    { *p = new std::remove_pointer<T>::type(); return CUDNN_STATUS_SUCCESS; } \
    cudnnStatus_t Destroy(T p) { delete p; return CUDNN_STATUS_SUCCESS; }
EMU_OBJECT(cudnnCreateTensorDescriptor, cudnnDestroyTensorDescriptor, cudnnTensorDescriptor_t)
EMU_OBJECT(cudnnCreateFilterDescriptor, cudnnDestroyFilterDescriptor, cudnnFilterDescriptor_t)
EMU_OBJECT(cudnnCreateConvolutionDescriptor, cudnnDestroyConvolutionDescriptor,
           cudnnConvolutionDescriptor_t)

cudnnStatus_t cudnnDestroy(cudnnHandle_t h)
{
    delete h;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t s)
{
    h->stream = s;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetStream(cudnnHandle_t h, cudaStream_t *s)
{
    *s = h->stream;
    return CUDNN_STATUS_SUCCESS;
}

static int type_of(int t)
{
    return t == CUDNN_DATA_FLOAT ? EMU_F32 : t == CUDNN_DATA_BFLOAT16 ? EMU_BF16
         : t == CUDNN_DATA_HALF ? EMU_F16 : -1;
}

cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t t, cudnnTensorFormat_t format,
                                         cudnnDataType_t type, int n, int c, int h, int w)
{
    if (!t || n < 1 || c < 1 || h < 1 || w < 1)
        return refuse(CUDNN_STATUS_BAD_PARAM, "an empty tensor");
    if (type_of(type) < 0) return refuse(CUDNN_STATUS_NOT_SUPPORTED, "tensor type");
    if ((double)n * c * h * w > 2147483647.0)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "a tensor of more than 2^31 - 1 elements");
    *t = {1, type_of(type), n, c, h, w, format == CUDNN_TENSOR_NHWC};
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetTensor4dDescriptorEx(cudnnTensorDescriptor_t t, cudnnDataType_t type, int n,
                                           int c, int h, int w, int ns, int cs, int hs, int ws)
{
    if (cs != 1 || ws != c || hs != w * c || (n > 1 && ns != h * w * c))
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "strides other than packed NHWC");
    return cudnnSetTensor4dDescriptor(t, CUDNN_TENSOR_NHWC, type, n, c, h, w);
}

cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t f, cudnnDataType_t type,
                                         cudnnTensorFormat_t format, int k, int c, int h, int w)
{
    if (!f || k < 1 || c < 1 || h < 1 || w < 1)
        return refuse(CUDNN_STATUS_BAD_PARAM, "an empty filter");
    if (type_of(type) < 0) return refuse(CUDNN_STATUS_NOT_SUPPORTED, "filter type");
    *f = {1, type_of(type), k, c, h, w, format == CUDNN_TENSOR_NHWC};
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t c, int pad_h, int pad_w,
    int u, int v, int dilation_h, int dilation_w, cudnnConvolutionMode_t mode,
    cudnnDataType_t compute)
{
    if (!c || pad_h < 0 || pad_w < 0 || u < 1 || v < 1 || dilation_h < 1 || dilation_w < 1)
        return refuse(CUDNN_STATUS_BAD_PARAM, "convolution: a value out of range");
    if (mode != CUDNN_CROSS_CORRELATION)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "NHWC convolves by cross-correlation only");
    if (compute != CUDNN_DATA_FLOAT || dilation_h != 1 || dilation_w != 1)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "convolution: compute type or dilation");
    *c = {1, pad_h, pad_w, u, v, 1, CUDNN_DEFAULT_MATH};
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t c, cudnnMathType_t math)
{
    if (!c || (int)math < 0 || math > CUDNN_FMA_MATH)
        return refuse(CUDNN_STATUS_BAD_PARAM, "math type");
    c->math = math;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t c, int groups)
{
    if (groups != 1) return refuse(CUDNN_STATUS_NOT_SUPPORTED, "groups");
    return c ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
}

/* ---- one convolution ----------------------------------------------------- */

typedef struct {
    int type, n, h, w, c, k, r, s, oh, ow, pad_h, pad_w, u, v, tf32;
    size_t pixels, taps;                       /* of an output image; r s c */
} Conv;

static int out_size(int n, int pad, int filter, int stride)
{
    return (n + 2 * pad - filter) / stride + 1;
}

static cudnnStatus_t describe(Conv *q, cudnnHandle_t h, cudnnTensorDescriptor_t x,
                              cudnnFilterDescriptor_t w, cudnnConvolutionDescriptor_t c,
                              cudnnTensorDescriptor_t y)
{
    if (!h || !x || !w || !c || !y || !x->set || !w->set || !c->set || !y->set)
        return refuse(CUDNN_STATUS_BAD_PARAM, "a descriptor is missing or was never set");
    if (!x->nhwc || !w->nhwc || !y->nhwc)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "a tensor is not NHWC");
    if (x->type != w->type || x->type != y->type)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "tensors of different types");
    if (x->type == EMU_BF16 && emu_sm() < 80)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "bf16 before sm_80");
    *q = {x->type, x->n, x->h, x->w, x->c, w->k, w->h, w->w, y->h, y->w, c->pad_h, c->pad_w,
          c->u, c->v,
          x->type == EMU_F32 && c->math != CUDNN_FMA_MATH && emu_sm() >= 80,
          (size_t)y->h * (size_t)y->w, (size_t)w->h * (size_t)w->w * (size_t)w->c};
    if (w->c != x->c || y->c != w->k || y->n != x->n ||
        y->h != out_size(x->h, c->pad_h, w->h, c->u) ||
        y->w != out_size(x->w, c->pad_w, w->w, c->v))
        return refuse(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "shapes do not go together");
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolution2dForwardOutputDim(cudnnConvolutionDescriptor_t c,
    cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t f, int *n, int *k, int *h, int *w)
{
    if (!c || !x || !f || x->c != f->c) return refuse(CUDNN_STATUS_BAD_PARAM, "output size");
    *n = x->n, *k = f->k;
    *h = out_size(x->h, c->pad_h, f->h, c->u), *w = out_size(x->w, c->pad_w, f->w, c->v);
    return CUDNN_STATUS_SUCCESS;
}

/* Algorithms 0 and 1 of each kind run here; 1 wants a workspace. */
static size_t workspace_of(const Conv *q, int algo)
{
    return algo == 1 ? ((size_t)q->k * q->taps * 4 + 255) & ~(size_t)255 : 0;
}

static cudnnStatus_t bytes_of(cudnnStatus_t rc, const Conv *q, int algo, size_t *bytes)
{
    if (rc) return rc;
    if (algo > 1) return refuse(CUDNN_STATUS_NOT_SUPPORTED, "algorithm");
    *bytes = workspace_of(q, algo);
    return CUDNN_STATUS_SUCCESS;
}

/* repeats: whether algorithm 0 does; if not, it is ranked first. */
template <class Perf>
static cudnnStatus_t rank(cudnnStatus_t rc, const Conv *q, cudnnConvolutionDescriptor_t c,
                          int repeats,
                          int wanted, int *got, Perf *results)
{
    if (rc) return rc;
    if (wanted < 1 || !got || !results) return refuse(CUDNN_STATUS_BAD_PARAM, "ranking");
    if (!emu_setting("SDC_EMU_LIBRARIES", 1)) return CUDNN_STATUS_NOT_SUPPORTED;
    *got = wanted < 3 ? wanted : 3;
    for (int i = 0; i < *got; i++) {
        int algo = i == 2 ? 2 : repeats ? 1 - i : i;
        memset(&results[i], 0, sizeof results[i]);
        memcpy(&results[i].algo, &algo, sizeof algo);
        results[i].status = algo == 2 ? CUDNN_STATUS_NOT_SUPPORTED : CUDNN_STATUS_SUCCESS;
        results[i].time = -1;
        results[i].memory = algo == 2 ? 0 : workspace_of(q, algo);
        results[i].determinism = repeats || algo ? CUDNN_DETERMINISTIC : CUDNN_NON_DETERMINISTIC;
        results[i].mathType = q->type == EMU_F32 ? c->math : CUDNN_TENSOR_OP_MATH;
    }
    return CUDNN_STATUS_SUCCESS;
}

#define EMU_COUNT_OF(name)                                                                \
    cudnnStatus_t name(cudnnHandle_t h, int *n)                                           \
    { (void)h; *n = 3; return CUDNN_STATUS_SUCCESS; }
EMU_COUNT_OF(cudnnGetConvolutionForwardAlgorithmMaxCount)
EMU_COUNT_OF(cudnnGetConvolutionBackwardDataAlgorithmMaxCount)
EMU_COUNT_OF(cudnnGetConvolutionBackwardFilterAlgorithmMaxCount)

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t h, cudnnTensorDescriptor_t x,
    cudnnFilterDescriptor_t w, cudnnConvolutionDescriptor_t c, cudnnTensorDescriptor_t y,
    int wanted, int *got, cudnnConvolutionFwdAlgoPerf_t *results)
{
    Conv q = {};
    return rank(describe(&q, h, x, w, c, y), &q, c, 1, wanted, got, results);
}

cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t h,
    cudnnFilterDescriptor_t w, cudnnTensorDescriptor_t dy, cudnnConvolutionDescriptor_t c,
    cudnnTensorDescriptor_t dx, int wanted, int *got, cudnnConvolutionBwdDataAlgoPerf_t *results)
{
    Conv q = {};
    return rank(describe(&q, h, dx, w, c, dy), &q, c, 0, wanted, got, results);
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t h,
    cudnnTensorDescriptor_t x, cudnnTensorDescriptor_t dy, cudnnConvolutionDescriptor_t c,
    cudnnFilterDescriptor_t dw, int wanted, int *got, cudnnConvolutionBwdFilterAlgoPerf_t *results)
{
    Conv q = {};
    return rank(describe(&q, h, x, dw, c, dy), &q, c, 0, wanted, got, results);
}

cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t h, cudnnTensorDescriptor_t x,
    cudnnFilterDescriptor_t w, cudnnConvolutionDescriptor_t c, cudnnTensorDescriptor_t y,
    cudnnConvolutionFwdAlgo_t algo, size_t *bytes)
{
    Conv q = {};
    return bytes_of(describe(&q, h, x, w, c, y), &q, algo, bytes);
}

cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t h,
    cudnnFilterDescriptor_t w, cudnnTensorDescriptor_t dy, cudnnConvolutionDescriptor_t c,
    cudnnTensorDescriptor_t dx, cudnnConvolutionBwdDataAlgo_t algo, size_t *bytes)
{
    Conv q = {};
    return bytes_of(describe(&q, h, dx, w, c, dy), &q, algo, bytes);
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t h,
    cudnnTensorDescriptor_t x, cudnnTensorDescriptor_t dy, cudnnConvolutionDescriptor_t c,
    cudnnFilterDescriptor_t dw, cudnnConvolutionBwdFilterAlgo_t algo, size_t *bytes)
{
    Conv q = {};
    return bytes_of(describe(&q, h, x, dw, c, dy), &q, algo, bytes);
}

/* ---- sums ---------------------------------------------------------------- */

static std::vector<float> load(const Conv *q, const void *p, size_t first, size_t n)
{
    std::vector<float> v(n);
    for (size_t i = 0; i < n; i++) {
        v[i] = emu_load(q->type, p, first + i);
        if (q->tf32) v[i] = __uint_as_float((__float_as_uint(v[i]) + 0x1000u) & ~0x1fffu);
    }
    return v;
}

/* Calls f(column's index, x's index) for every tap of every output pixel that
 * lies in the image. */
template <class F> static void each_tap(const Conv *q, F f)
{
    for (int oy = 0; oy < q->oh; oy++)
        for (int ox = 0; ox < q->ow; ox++)
            for (int r = 0; r < q->r; r++)
                for (int s = 0; s < q->s; s++) {
                    int y = oy * q->u - q->pad_h + r, x = ox * q->v - q->pad_w + s;
                    if (y < 0 || x < 0 || y >= q->h || x >= q->w) continue;
                    size_t tap = (size_t)(r * q->s + s), at = (size_t)(y * q->w + x);
                    size_t column = (size_t)(oy * q->ow + ox) * (size_t)(q->r * q->s) + tap;
                    f(column * (size_t)q->c, at * (size_t)q->c);
                }
}

static std::vector<float> columns(const Conv *q, const std::vector<float> &x)
{
    std::vector<float> v(q->pixels * q->taps);
    each_tap(q, [&](size_t to, size_t from) {
        memcpy(&v[to], &x[from], (size_t)q->c * sizeof(float));
    });
    return v;
}

static std::vector<float> transposed(const std::vector<float> &v, size_t rows, size_t cols)
{
    std::vector<float> t(v.size());
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) t[j * rows + i] = v[i * cols + j];
    return t;
}

/* p = alpha v + beta p, from element `first` on; p is not read when beta is 0. */
static void store(const Conv *q, void *p, size_t first, const std::vector<float> &v, float alpha,
                  float beta)
{
    for (size_t i = 0; i < v.size(); i++) {
        float old = beta == 0 ? 0 : beta * emu_load(q->type, p, first + i);
        emu_store(q->type, p, first + i, alpha * v[i] + old);
    }
}

static void forward(const Conv *q, float alpha, const void *x, const void *w, float beta, void *y)
{
    size_t in = (size_t)q->h * (size_t)q->w * (size_t)q->c, out = q->pixels * (size_t)q->k;
    std::vector<float> wt = transposed(load(q, w, 0,
                                                (size_t)q->k * q->taps), (size_t)q->k, q->taps);
    for (size_t i = 0; i < (size_t)q->n; i++) {
        std::vector<float> cols = columns(q, load(q, x, i * in, in)), v(out);
        emu_product((size_t)q->k, q->pixels, q->taps, wt.data(), cols.data(), v.data());
        store(q, y, i * out, v, alpha, beta);
    }
}

static void backward_data(const Conv *q, float alpha, const void *w, const void *dy, float beta,
                          void *dx)
{
    size_t in = (size_t)q->h * (size_t)q->w * (size_t)q->c, out = q->pixels * (size_t)q->k;
    std::vector<float> wv = load(q, w, 0, (size_t)q->k * q->taps), cols(q->pixels * q->taps);
    for (size_t i = 0; i < (size_t)q->n; i++) {
        std::vector<float> d = load(q, dy, i * out, out), v(in);
        emu_product(q->taps, q->pixels, (size_t)q->k, wv.data(), d.data(), cols.data());
        each_tap(q, [&](size_t from, size_t to) {
            for (int c = 0; c < q->c; c++) v[to + (size_t)c] += cols[from + (size_t)c];
        });
        store(q, dx, i * in, v, alpha, beta);
    }
}

static void backward_filter(const Conv *q, float alpha, const void *x, const void *dy, float beta,
                          void *dw)
{
    size_t in = (size_t)q->h * (size_t)q->w * (size_t)q->c, out = q->pixels * (size_t)q->k;
    std::vector<float> sum((size_t)q->k * q->taps), one(sum.size());
    for (size_t i = 0; i < (size_t)q->n; i++) {
        std::vector<float> cols = columns(q, load(q, x, i * in, in));
        std::vector<float> d = transposed(load(q, dy, i * out, out), q->pixels, (size_t)q->k);
        emu_product(q->taps, (size_t)q->k, q->pixels, cols.data(), d.data(), one.data());
        for (size_t j = 0; j < sum.size(); j++) sum[j] += one[j];
    }
    store(q, dw, 0, sum, alpha, beta);
}

/* ---- the calls ----------------------------------------------------------- */

typedef void Sum(const Conv *q, float alpha, const void *a, const void *b, float beta, void *out);

static cudnnStatus_t check_pointer(const char *name, const void *p, size_t bytes)
{
    if (!p) return refuse(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, name);
    if ((uintptr_t)p % 16) return refuse(CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER, name);
    if (!emu_is_device(p, bytes))
        emu_die("cuDNN: %s: %zu bytes at %p are not in one device allocation",
                                          name, bytes, p);
    return CUDNN_STATUS_SUCCESS;
}

/* na, nb, nout: elements. repeats as in rank(). */
static cudnnStatus_t run(cudnnHandle_t h, const Conv &q, int algo, int repeats, Sum *sum,
                         const void *alpha,
                         const void *a, size_t na, const void *b, size_t nb, const void *beta,
                         void *out,
                         size_t nout, void *workspace, size_t bytes)
{
    EmuLock lock;
    size_t e = emu_type_bytes(q.type), want = workspace_of(&q, algo);
    if (!alpha || !beta) return refuse(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "alpha or beta");
    if (algo > 1) return refuse(CUDNN_STATUS_NOT_SUPPORTED, "algorithm");
    if (!algo && !repeats) emu_die("cuDNN: this algorithm is not repeatable");
    cudnnStatus_t rc = check_pointer("first operand", a, na * e);
    if (!rc) rc = check_pointer("second operand", b, nb * e);
    if (!rc) rc = check_pointer("result", out, nout * e);
    if (!rc && bytes < want) rc = refuse(CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT, "workspace");
    if (!rc && want) rc = check_pointer("workspace", workspace, want);
    if (rc) return rc;
    float scale = *(const float *)alpha, add = *(const float *)beta;
    cudaError_t err = emu_queue(h->stream, "cuDNN", [=] {
        if (want) memset(workspace, 0xff, want);
        sum(&q, scale, a, b, add, out);
    });
    return err ? emu_error(err), CUDNN_STATUS_EXECUTION_FAILED : CUDNN_STATUS_SUCCESS;
}

static size_t count_x(const Conv *q)
{
    return (size_t)q->n * (size_t)q->h * (size_t)q->w * (size_t)q->c;
}
static size_t count_y(const Conv *q) { return (size_t)q->n * q->pixels * (size_t)q->k; }
static size_t count_w(const Conv *q) { return (size_t)q->k * q->taps; }

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t h, const void *alpha,
    cudnnTensorDescriptor_t xd, const void *x, cudnnFilterDescriptor_t wd, const void *w,
    cudnnConvolutionDescriptor_t c, cudnnConvolutionFwdAlgo_t algo, void *workspace, size_t bytes,
    const void *beta, cudnnTensorDescriptor_t yd, void *y)
{
    Conv q = {};
    cudnnStatus_t rc = describe(&q, h, xd, wd, c, yd);
    return rc ? rc : run(h, q, algo, 1, forward, alpha, x, count_x(&q), w, count_w(&q), beta, y,
                         count_y(&q), workspace, bytes);
}

cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t h, const void *alpha,
    cudnnFilterDescriptor_t wd, const void *w, cudnnTensorDescriptor_t dyd, const void *dy,
    cudnnConvolutionDescriptor_t c, cudnnConvolutionBwdDataAlgo_t algo, void *workspace,
    size_t bytes, const void *beta, cudnnTensorDescriptor_t dxd, void *dx)
{
    Conv q = {};
    cudnnStatus_t rc = describe(&q, h, dxd, wd, c, dyd);
    return rc ? rc : run(h, q, algo, 0, backward_data, alpha, w, count_w(&q), dy, count_y(&q), beta,
                         dx, count_x(&q), workspace, bytes);
}

cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t h, const void *alpha,
    cudnnTensorDescriptor_t xd, const void *x, cudnnTensorDescriptor_t dyd, const void *dy,
    cudnnConvolutionDescriptor_t c, cudnnConvolutionBwdFilterAlgo_t algo, void *workspace,
    size_t bytes, const void *beta, cudnnFilterDescriptor_t dwd, void *dw)
{
    Conv q = {};
    cudnnStatus_t rc = describe(&q, h, xd, dwd, c, dyd);
    return rc ? rc : run(h, q, algo, 0, backward_filter, alpha, x, count_x(&q), dy, count_y(&q),
                         beta,
                         dw, count_w(&q), workspace, bytes);
}
