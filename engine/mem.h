/* mem.h - the only caller of malloc outside tests.
 *
 * Small and temporary host memory. Tensors do not live here but in the slab of
 * their device (kernels/dev.h). Each function returns NULL when there is no
 * memory; the caller reports it with err_nomem(). Tests replace mem_alloc,
 * mem_calloc and mem_realloc at link time (-Wl,--wrap) to make the n-th call
 * fail, so nothing here is a macro or inline.
 */
#ifndef SDC_ENGINE_MEM_H
#define SDC_ENGINE_MEM_H

#include <stddef.h>

void *mem_alloc(size_t bytes);                 /* uninitialised, 16-byte aligned */
void *mem_calloc(size_t count, size_t bytes);  /* zeroed; NULL on overflow of count*bytes */
void *mem_realloc(void *p, size_t bytes);      /* NULL leaves p as it was */
void mem_free(void *p);                        /* NULL ok */
/* Gives what was freed back to the system, where the C library can. */
void mem_trim(void);
char *mem_strdup(const char *s);
char *mem_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Makes room for one more item in a growing array: returns the array, perhaps
 * moved, with *cap > count; NULL when there is no memory (array unchanged). */
void *mem_grow(void *array, size_t count, size_t *cap, size_t item_bytes);

#endif
