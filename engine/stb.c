/* stb.c - the one place where stb_image and stb_image_write are compiled. */
#include <stdlib.h>

#include "engine/mem.h"

static void *stb_alloc(size_t n);
static void *stb_realloc(void *p, size_t n);

#define STBI_MALLOC(n) stb_alloc(n)
#define STBI_REALLOC(p, n) stb_realloc(p, n)
#define STBI_FREE(p) mem_free(p)
#define STBIW_MALLOC(n) mem_alloc(n)
#define STBIW_REALLOC(p, n) mem_realloc(p, n)
#define STBIW_FREE(p) mem_free(p)
/* A broken file must never abort the program. */
#define STBI_ASSERT(x) ((void)sizeof(x))
#define STBIW_ASSERT(x) ((void)sizeof(x))

#pragma GCC diagnostic push
#if defined(__clang__)
#pragma clang diagnostic ignored "-Weverything"
#else
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#endif
/* The packaged versions shift and multiply out of range, stb_image on broken
 * JPEGs, stb_image_write always: the values wrap, no address depends on them.
 * Bounds and addresses stay checked under the sanitizers. */
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((no_sanitize("shift", "signed-integer-overflow"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC optimize("wrapv")
#endif
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include "engine/stb.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#pragma GCC diagnostic pop

static _Thread_local size_t left;

void stb_budget(size_t bytes)
{
    left = bytes;
}

/* Zeroed: a JPEG may use a Huffman table that it never defined, and stb, as
 * packaged, would index with whatever the memory held. */
static void *stb_alloc(size_t n)
{
    if (n > left) return NULL;
    left -= n;
    return mem_calloc(n ? n : 1, 1);
}

static void *stb_realloc(void *p, size_t n)
{
    if (n > left) return NULL;
    left -= n;
    return mem_realloc(p, n ? n : 1);
}
