/* runlog.c - see runlog.h. */
#include "engine/runlog.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/io.h"
#include "engine/mem.h"

/* ---- bytes that grow -------------------------------------------------------- */

enum { RECORD_MAX = 4096 };

/* A record while it is made; what does not fit is left out and told by `full`. */
typedef struct {
    uint8_t b[RECORD_MAX];
    size_t n;
    int full;
} Bytes;

static void put(Bytes *b, const void *data, size_t size)
{
    if (size > sizeof b->b - b->n) b->full = 1;
    else memcpy(b->b + b->n, data, size), b->n += size;
}

static void put_le(Bytes *b, uint64_t v, int bytes)
{
    uint8_t le[8];
    for (int i = 0; i < bytes; i++) le[i] = (uint8_t)(v >> 8 * i);
    put(b, le, (size_t)bytes);
}

/* Protocol buffers: varint, then fields by number. */
static void put_varint(Bytes *b, uint64_t v)
{
    for (; v > 127; v >>= 7) put_le(b, v | 128, 1);
    put_le(b, v, 1);
}

static void put_double(Bytes *b, int field, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_varint(b, (uint64_t)field << 3 | 1);
    put_le(b, bits, 8);
}

static void put_float(Bytes *b, int field, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_varint(b, (uint64_t)field << 3 | 5);
    put_le(b, bits, 4);
}

static void put_bytes(Bytes *b, int field, const void *data, size_t size)
{
    put_varint(b, (uint64_t)field << 3 | 2);
    put_varint(b, size);
    put(b, data, size);
}

/* ---- records ------------------------------------------------------------------ */

uint32_t runlog_crc(const void *data, size_t size)
{
    const uint8_t *p = data;
    uint32_t c = ~0u;
    for (size_t i = 0; i < size; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++) c = c >> 1 ^ (0x82f63b78u & -(c & 1));
    }
    return ~c;
}

static uint32_t masked_crc(const void *data, size_t size)
{
    uint32_t c = runlog_crc(data, size);
    return (c >> 15 | c << 17) + 0xa282ead8u;
}

static int append_record(const char *path, const Bytes *event, Err *e)
{
    Bytes r = {.n = 0};
    put_le(&r, event->n, 8);
    put_le(&r, masked_crc(r.b, 8), 4);
    put(&r, event->b, event->n);
    put_le(&r, masked_crc(event->b, event->n), 4);
    if (r.full || event->full)
        return err_set(e, ERR_FAIL, "%s: too many numbers for one record", path);
    return io_append(path, r.b, r.n, e);
}

/* wall_time and step, the first fields of every event. */
static Bytes event_at(double now, uint32_t step)
{
    Bytes b = {.n = 0};
    put_double(&b, 1, now);
    put_varint(&b, 2 << 3);
    put_varint(&b, step);
    return b;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- lines -------------------------------------------------------------------- */

enum { LINES_MAX = 1 << 30 };

/* The end of the last whole line of a step up to `step`. */
static size_t keep_until(const char *text, uint32_t step)
{
    size_t keep = 0;
    for (const char *at = text, *end; (end = strchr(at, '\n')); at = end + 1) {
        uint32_t have;
        if (sscanf(at, "{\"step\": %" SCNu32 ",", &have) != 1 || have > step) break;
        keep = (size_t)(end + 1 - text);
    }
    return keep;
}

static int cut_lines(const char *path, uint32_t step, Err *e)
{
    char *text;
    size_t size;
    if (io_exists(path) != 1) return 0;
    TRY(io_read_text(&text, &size, path, LINES_MAX, e));
    size_t keep = keep_until(text, step);
    int rc = keep < size ? io_write_file(path, text, keep, e) : 0;
    mem_free(text);
    return rc;
}

static int open_events(RunLog *l, const char *dir, const char *name, uint32_t step, Err *e)
{
    double now = seconds();
    l->events =
        mem_printf("%s/events.out.tfevents.%010.0f.%ld.%s", dir, floor(now), (long)getpid(), name);
    int rc = l->events ? io_mkdirs(dir, e) : err_nomem(e, strlen(dir), "the log");
    Bytes version = event_at(now, 0), start = event_at(now, step + 1);
    put_bytes(&version, 3, "brain.Event:2", 13);
    put_bytes(&start, 7, "\x08\x01", 2);                   /* session_log: status START */
    if (!rc) rc = append_record(l->events, &version, e);
    return !rc && step ? append_record(l->events, &start, e) : rc;
}

int runlog_open(RunLog *l, const char *dir, const char *name, const char *events, uint32_t step,
                Err *e)
{
    *l = (RunLog){.lines = mem_printf("%s/%s.jsonl", dir, name)};
    int rc = l->lines ? io_mkdirs(dir, e) : err_nomem(e, strlen(dir), "the log");
    if (!rc) rc = cut_lines(l->lines, step, e);
    if (!rc && events) rc = open_events(l, events, name, step, e);
    if (rc) runlog_close(l);
    return rc;
}

void runlog_close(RunLog *l)
{
    mem_free(l->lines);
    mem_free(l->events);
    *l = (RunLog){0};
}

int runlog_step(RunLog *l, uint32_t step, const RunScalar *s, size_t count, Err *e)
{
    double now = seconds();
    char line[RECORD_MAX];
    Bytes event = event_at(now, step), summary = {.n = 0};
    int n = snprintf(line, sizeof line, "{\"step\": %" PRIu32 ", \"time\": %.3f", step, now);
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(s[i].value)) continue;
        Bytes value = {.n = 0};
        put_bytes(&value, 1, s[i].tag, strlen(s[i].tag));
        put_float(&value, 2, (float)s[i].value);
        put_bytes(&summary, 1, value.b, value.n);
        size_t room = (size_t)n < sizeof line ? sizeof line - (size_t)n : 0;
        n += snprintf(line + sizeof line - room, room, ", \"%s\": %.9g", s[i].tag, s[i].value);
        event.full |= value.full || (size_t)n + 2 >= sizeof line;
    }
    put_bytes(&event, 5, summary.b, summary.n);
    event.full |= summary.full;
    if (l->events) TRY(append_record(l->events, &event, e));
    memcpy(line + n, "}\n", 2);
    return io_append(l->lines, line, (size_t)n + 2, e);
}
