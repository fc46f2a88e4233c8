/* mem.c - see mem.h. */
#include "engine/mem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

void *mem_alloc(size_t bytes) { return malloc(bytes ? bytes : 1); }

void *mem_calloc(size_t count, size_t bytes)
{
    return calloc(count ? count : 1, bytes ? bytes : 1);
}

void *mem_realloc(void *p, size_t bytes) { return realloc(p, bytes ? bytes : 1); }

void mem_free(void *p) { free(p); }

void mem_trim(void)
{
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

char *mem_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char *r = mem_alloc(n);
    return r ? memcpy(r, s, n) : NULL;
}

char *mem_printf(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *r = n < 0 ? NULL : mem_alloc((size_t)n + 1);
    if (!r) return NULL;
    va_start(ap, fmt);
    vsnprintf(r, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return r;
}

void *mem_grow(void *array, size_t count, size_t *cap, size_t item_bytes)
{
    if (count < *cap) return array;
    size_t want = *cap ? *cap * 2 : 16;
    if (want < *cap || want > SIZE_MAX / item_bytes) return NULL;
    void *r = mem_realloc(array, want * item_bytes);
    if (r) *cap = want;
    return r;
}
