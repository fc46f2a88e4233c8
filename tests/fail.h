/* fail.h - failure injection for tests: the n-th allocation (mem_alloc,
 * mem_calloc, mem_realloc) or the n-th write or sync from now on fails once;
 * 0 switches it off. Defined in test_base.c through the linker's --wrap. */
#ifndef SDC_TESTS_FAIL_H
#define SDC_TESTS_FAIL_H

void fail_mem(long n);
void fail_io(long n);

#endif
