/* error.c - see error.h. */
#include "engine/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Copies src to dst (cap bytes, cap >= 8), escaping control bytes; cuts with
 * "..." on a UTF-8 boundary. dst and src do not overlap. */
static void copy_line(char *dst, size_t cap, const char *src)
{
    size_t o = 0;
    for (; *src; src++) {
        unsigned char c = (unsigned char)*src;
        int bad = c < 32 || c == 127;
        if (o + (bad ? 4 : 1) + 4 > cap) {
            while (o && ((unsigned char)dst[o - 1] & 0xC0) == 0x80) o--;
            if (o && (unsigned char)dst[o - 1] >= 0xC0) o--;
            memcpy(dst + o, "...", 3);
            o += 3;
            break;
        }
        if (bad) o += (size_t)snprintf(dst + o, cap - o, "\\x%02x", c);
        else dst[o++] = (char)c;
    }
    dst[o] = 0;
}

int err_set(Err *e, int code, const char *fmt, ...)
{
    if (!e || e->code) return code;
    char raw[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(raw, sizeof raw, fmt, ap);
    va_end(ap);
    e->code = code;
    copy_line(e->msg, sizeof e->msg, raw);
    return code;
}

int err_prefix(Err *e, const char *fmt, ...)
{
    if (!e || !e->code) return e ? e->code : ERR_FAIL;
    char raw[2048];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(raw, sizeof raw, fmt, ap);
    va_end(ap);
    if (n < 0 || n >= (int)sizeof raw) n = (int)sizeof raw - 1;
    snprintf(raw + n, sizeof raw - (size_t)n, ": %s", e->msg);
    copy_line(e->msg, sizeof e->msg, raw);
    return e->code;
}

int err_nomem(Err *e, unsigned long long n, const char *what)
{
    return err_set(e, ERR_MEMORY, "not enough memory: %llu bytes for %s", n, what);
}
