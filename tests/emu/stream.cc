/* stream.cc - order: streams, events, copies, captured graphs.
 *
 * Work queued on a stream runs when the host waits for it (or at once with
 * CUDA_LAUNCH_BLOCKING=1, as with CUDA), so results that are read too early
 * are not there.
 */
#include <memory>
#include <vector>

#include "emu.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct { const char *what; std::function<void()> run; } Op;
typedef std::vector<Op> Ops;

struct CUgraph_st { Ops ops; };
struct CUgraphExec_st { std::shared_ptr<Ops> ops; };
struct CUevent_st { cudaStream_t stream; unsigned long long at; int recorded; };
struct CUstream_st {
    Ops queue, captured;
    unsigned long long done, queued;           /* operations so far */
    cudaStreamCaptureStatus capture;
    int blocking;                              /* in order with the default stream */
};

static CUstream_st default_stream = {};
static std::vector<cudaStream_t> streams = {&default_stream};
static int capturing;                          /* streams */

/* A handle that CUDA would refuse or crash on. */
static cudaStream_t stream_of(cudaStream_t s)
{
    if (!s || s == cudaStreamLegacy) return &default_stream;
    for (cudaStream_t i : streams)
        if (i == s) return s;
    return NULL;
}

/* Runs what is queued up to operation number `to`. */
static void flush(cudaStream_t s, unsigned long long to)
{
    if (s->done >= to) return;
    emu_memory_open();
    size_t n = (size_t)(to - s->done);
    Ops ops(s->queue.begin(), s->queue.begin() + (long)n);
    s->queue.erase(s->queue.begin(), s->queue.begin() + (long)n);
    for (Op &op : ops) {
        if (!emu_device_ok()) op.run();
        s->done++;
    }
    emu_memory_close();
}

void emu_flush_all(void)
{
    for (cudaStream_t s : streams) flush(s, s->queued);
}

cudaError_t emu_unsafe_now(void)
{
    if (!capturing) return cudaSuccess;
    for (cudaStream_t s : streams)
        if (s->capture) s->capture = cudaStreamCaptureStatusInvalidated;
    return cudaErrorStreamCaptureUnsupported;
}

cudaError_t emu_queue(cudaStream_t stream, const char *what, std::function<void()> run)
{
    EmuLock lock;
    cudaError_t rc = emu_device_ok();
    if (rc) return rc;
    cudaStream_t s = stream_of(stream);
    if (!s) return cudaErrorInvalidResourceHandle;
    if (s->capture == cudaStreamCaptureStatusInvalidated) return cudaErrorStreamCaptureInvalidated;
    if (s->capture) {
        s->captured.push_back({what, run});
        return cudaSuccess;
    }
    for (cudaStream_t other : streams)
        if (other != s && (s == &default_stream ? other->blocking : other == &default_stream)) {
            if (other->capture) return emu_unsafe_now(), cudaErrorStreamCaptureImplicit;
            if (s->blocking || s == &default_stream) flush(other, other->queued);
        }
    s->queue.push_back({what, run});
    s->queued++;
    if (emu_setting("CUDA_LAUNCH_BLOCKING", 0)) flush(s, s->queued);
    return cudaSuccess;
}

/* ---- streams ------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    EmuLock lock;
    cudaError_t rc = emu_device_ok();
    if (rc) return emu_error(rc);
    if (flags > 1) return emu_error(cudaErrorInvalidValue);
    *s = new CUstream_st();
    (*s)->blocking = flags != cudaStreamNonBlocking;
    streams.push_back(*s);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *s) { return cudaStreamCreateWithFlags(s, 0); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority)
{
    EmuLock lock;
    (void)priority;
    return cudaStreamCreateWithFlags(s, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    EmuLock lock;
    if (!s || s != stream_of(s)) return emu_error(cudaErrorInvalidResourceHandle);
    flush(s, s->queued);
    capturing -= s->capture != cudaStreamCaptureStatusNone;
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == s) streams.erase(streams.begin() + (long)i);
    delete s;
    return cudaSuccess;
}

/* Waits for one stream, or for all (NULL). */
static cudaError_t wait_for(cudaStream_t s)
{
    cudaError_t rc = emu_device_ok();
    if (rc) return emu_error(rc);
    if (s && s->capture) return emu_unsafe_now(), emu_error(cudaErrorStreamCaptureUnsupported);
    if (!s && (rc = emu_unsafe_now())) return emu_error(rc);
    if (s) flush(s, s->queued);
    else emu_flush_all();
    rc = emu_device_ok();
    return rc ? emu_error(rc) : cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    EmuLock lock;
    cudaStream_t s = stream_of(stream);
    return s ? wait_for(s) : emu_error(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaDeviceSynchronize(void) { return wait_for(NULL); }

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    EmuLock lock;
    cudaStream_t s = stream_of(stream);
    if (!s) return emu_error(cudaErrorInvalidResourceHandle);
    if (s->capture) return emu_unsafe_now(), emu_error(cudaErrorStreamCaptureUnsupported);
    flush(s, s->done + (s->done < s->queued));   /* some progress, so that polling ends */
    return s->done < s->queued ? cudaErrorNotReady : emu_device_ok();
}

/* ---- events -------------------------------------------------------------- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags)
{
    EmuLock lock;
    cudaError_t rc = emu_device_ok();
    if (rc) return emu_error(rc);
    if (flags > 3) return emu_error(cudaErrorInvalidValue);
    *e = new CUevent_st();
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    EmuLock lock;
    if (!e) return emu_error(cudaErrorInvalidResourceHandle);
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t stream)
{
    EmuLock lock;
    cudaStream_t s = stream_of(stream);
    if (!e || !s) return emu_error(cudaErrorInvalidResourceHandle);
    cudaError_t rc = emu_queue(stream, "event", [] {});
    if (rc) return emu_error(rc);
    e->stream = s, e->at = s->capture ? 0 : s->queued, e->recorded = 1;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    EmuLock lock;
    if (!e) return emu_error(cudaErrorInvalidResourceHandle);
    cudaError_t rc = emu_device_ok();
    if (!rc) rc = emu_unsafe_now();
    if (!rc && e->recorded && stream_of(e->stream)) flush(e->stream, e->at), rc = emu_device_ok();
    return rc ? emu_error(rc) : cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    EmuLock lock;
    if (!e) return emu_error(cudaErrorInvalidResourceHandle);
    if (!e->recorded || !stream_of(e->stream) || e->stream->done >= e->at) return cudaSuccess;
    flush(e->stream, e->stream->done + 1);
    return e->stream->done >= e->at ? cudaSuccess : cudaErrorNotReady;
}

/* Time means nothing here: always a millisecond. */
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    EmuLock lock;
    if (!ms) return emu_error(cudaErrorInvalidValue);
    if (!start || !end || !start->recorded || !end->recorded)
        return emu_error(cudaErrorInvalidResourceHandle);
    if (stream_of(end->stream) && end->stream->done < end->at) return emu_error(cudaErrorNotReady);
    *ms = 1.0f;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t e, unsigned flags)
{
    EmuLock lock;
    (void)flags;
    cudaStream_t s = stream_of(stream);
    if (!e || !s) return emu_error(cudaErrorInvalidResourceHandle);
    if (!e->recorded || !stream_of(e->stream)) return cudaSuccess;
    if (s->capture && e->stream != s)
        return emu_unsafe_now(), emu_error(cudaErrorStreamCaptureIsolation);
    CUevent_st event = *e;
    cudaError_t rc = emu_queue(stream, "wait for an event", [event] {
        if (stream_of(event.stream)) flush(event.stream, event.at);
    });
    return rc ? emu_error(rc) : cudaSuccess;
}

/* ---- copies -------------------------------------------------------------- */

static const char *region(const void *p)
{
    return emu_device_address(p) ? "a device address" : "a host address";
}

/* One side of a copy of n bytes: on the device or on the host, as `device` says. */
static int side_ok(const char *call, const char *side, const void *p, size_t n, int device)
{
    if (device ? emu_is_device(p, n) : !emu_device_address(p)) return 1;
    fprintf(stderr, "emu: %s: %s %p is %s; %zu bytes %s were expected there\n", call, side, p,
            region(p), n, device ? "of one device allocation" : "of host memory");
    return 0;
}

static enum cudaMemcpyKind kind_of(void *dst, const void *src, enum cudaMemcpyKind kind)
{
    if (kind != cudaMemcpyDefault) return kind;
    int to = emu_device_address(dst), from = emu_device_address(src);
    return (enum cudaMemcpyKind)(to | from << 1);
}

static cudaError_t copy(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind,
                        cudaStream_t stream)
{
    cudaStream_t s = stream_of(stream);
    if (!s) return cudaErrorInvalidResourceHandle;
    if (!n) return cudaSuccess;
    kind = kind_of(dst, src, kind);
    int to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    int from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (!side_ok("cudaMemcpyAsync", "destination", dst, n, to) ||
        !side_ok("cudaMemcpyAsync", "source", src, n, from)) return cudaErrorInvalidValue;
    int host = (!to && !emu_is_pinned(dst, n)) || (!from && !emu_is_pinned(src, n));
    if (s->capture && host) {
        fprintf(stderr, "emu: cudaMemcpyAsync of pageable memory while capturing\n");
        return emu_unsafe_now();
    }
    if (!from && host && to) {                 /* pageable: read before the call returns */
        std::shared_ptr<void> staged(malloc(n), free);
        memcpy(staged.get(), src, n);
        return emu_queue(stream, "copy", [=] { memcpy(dst, staged.get(), n); });
    }
    cudaError_t rc = emu_queue(stream, "copy", [=] { memmove(dst, src, n); });
    if (!rc && host) flush(s, s->queued);
    return rc;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    EmuLock lock;
    cudaError_t rc = emu_device_ok();
    if (!rc) rc = copy(dst, src, n, kind, stream);
    return rc ? emu_error(rc) : cudaSuccess;
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind)
{
    EmuLock lock;
    cudaError_t rc = emu_device_ok();
    if (!rc && capturing) emu_unsafe_now(), rc = cudaErrorStreamCaptureImplicit;
    if (!rc) rc = copy(dst, src, n, kind, NULL);
    if (!rc) flush(&default_stream, default_stream.queued), rc = emu_device_ok();
    return rc ? emu_error(rc) : cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t rows, enum cudaMemcpyKind kind, cudaStream_t s)
{
    EmuLock lock;
    cudaError_t rc = emu_device_ok();
    if (!rc && (width > dst_pitch || width > src_pitch)) rc = cudaErrorInvalidValue;
    for (size_t r = 0; r < rows && !rc; r++)
        rc = copy((char *)dst + r * dst_pitch, (const char *)src + r * src_pitch, width, kind, s);
    return rc ? emu_error(rc) : cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t s)
{
    EmuLock lock;
    cudaError_t rc = emu_device_ok();
    if (!rc && n && !side_ok("cudaMemsetAsync", "destination", p, n, 1)) rc = cudaErrorInvalidValue;
    if (!rc && n) rc = emu_queue(s, "set", [=] { memset(p, value, n); });
    return rc ? emu_error(rc) : cudaSuccess;
}

cudaError_t cudaMemset(void *p, int value, size_t n)
{
    EmuLock lock;
    if (capturing) return emu_unsafe_now(), emu_error(cudaErrorStreamCaptureImplicit);
    return cudaMemsetAsync(p, value, n, NULL);
}

/* ---- graphs -------------------------------------------------------------- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    EmuLock lock;
    (void)mode;
    cudaError_t rc = emu_device_ok();
    cudaStream_t s = stream_of(stream);
    if (rc) return emu_error(rc);
    if (!s) return emu_error(cudaErrorInvalidResourceHandle);
    if (s == &default_stream) return emu_error(cudaErrorStreamCaptureUnsupported);
    if (s->capture) return emu_unsafe_now(), emu_error(cudaErrorStreamCaptureUnsupported);
    s->capture = cudaStreamCaptureStatusActive;
    s->captured.clear();
    capturing++;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *g)
{
    EmuLock lock;
    cudaStream_t s = stream_of(stream);
    if (!s || !g) return emu_error(cudaErrorInvalidValue);
    *g = NULL;
    cudaStreamCaptureStatus was = s->capture;
    if (!was) return emu_error(cudaErrorStreamCaptureUnmatched);
    s->capture = cudaStreamCaptureStatusNone;
    capturing--;
    if (was == cudaStreamCaptureStatusInvalidated)
        return emu_error(cudaErrorStreamCaptureInvalidated);
    *g = new CUgraph_st();
    (*g)->ops.swap(s->captured);
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    EmuLock lock;
    cudaStream_t s = stream_of(stream);
    if (!s || !status) return emu_error(cudaErrorInvalidValue);
    *status = s->capture;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long flags)
{
    EmuLock lock;
    (void)flags;
    if (!x || !g) return emu_error(cudaErrorInvalidValue);
    *x = new CUgraphExec_st{std::make_shared<Ops>(g->ops)};
    return cudaSuccess;
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t x, cudaGraph_t g,
                                cudaGraphExecUpdateResultInfo *info)
{
    EmuLock lock;
    if (!x || !g || !info) return emu_error(cudaErrorInvalidValue);
    info->result = 0;
    x->ops = std::make_shared<Ops>(g->ops);
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t x, cudaStream_t s)
{
    EmuLock lock;
    return x && stream_of(s) ? cudaSuccess : emu_error(cudaErrorInvalidValue);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t stream)
{
    EmuLock lock;
    if (!x) return emu_error(cudaErrorInvalidValue);
    std::shared_ptr<Ops> ops = x->ops;
    cudaError_t rc = emu_queue(stream, "graph", [ops] {
        for (Op &op : *ops)
            if (!emu_device_ok()) op.run();
    });
    return rc ? emu_error(rc) : cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    EmuLock lock;
    delete g;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x)
{
    EmuLock lock;
    delete x;
    return cudaSuccess;
}
