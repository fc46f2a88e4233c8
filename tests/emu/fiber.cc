/* fiber.cc - stacks to switch between: hand-written for x86-64, ucontext elsewhere. */
#include "emu.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#define EMU_ASAN 1
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif
#ifdef EMU_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifndef __x86_64__
#include <ucontext.h>
#endif

enum { STACK = 256 << 10, GUARD = 64 << 10, FIBERS = 1100 };

struct EmuFiber {
    void *sp;
    void (*entry)(void);
    char *stack;                               /* lowest byte */
    size_t bytes;
    void *fake;                                /* the sanitizer's */
#ifndef __x86_64__
    ucontext_t context;
#endif
};

static EmuFiber fibers[FIBERS], of_main;
static int used;
static EmuFiber *leaving;                      /* the fiber that was left for this one */

#ifdef __x86_64__
/* emu_switch(void **save, void *load): keeps what a call must keep. */
extern "C" void emu_switch(void **save, void *load);
__asm__(".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".size emu_switch,.-emu_switch\n"
        ".section .note.GNU-stack,\"\",@progbits\n.text\n");
#endif

static EmuFiber *entering;

/* The sanitizer learns which stack is in use; also from where the main one is. */
static void arrived(EmuFiber *self)
{
#ifdef EMU_ASAN
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(self->fake, &bottom, &bytes);
    if (leaving == &of_main) of_main.stack = (char *)bottom, of_main.bytes = bytes;
#else
    (void)self;
#endif
}

static void begin(void)
{
    EmuFiber *self = entering;
    arrived(self);
    self->entry();
    abort();
}

EmuFiber *emu_fiber_main(void) { return &of_main; }

EmuFiber *emu_fiber_new(void (*entry)(void))
{
    if (used == FIBERS) {
        fprintf(stderr, "emu: more than %d threads wait at once\n", FIBERS);
        abort();
    }
    EmuFiber *f = &fibers[used++];
    size_t all = (size_t)STACK + GUARD;
    char *m = (char *)mmap(NULL, all, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED || mprotect(m, GUARD, PROT_NONE)) {
        perror("emu: stack");
        abort();
    }
    f->stack = m + GUARD, f->bytes = STACK, f->entry = entry;
#ifdef __x86_64__
    /* Tops at different distances from the page: at one distance, all of them would
     * want the same lines of the cache. */
    void **top = (void **)(f->stack + STACK - (used * 1600 & 0xffc0));
    top[-1] = NULL;                            /* where begin() would return to */
    top[-2] = (void *)begin;
    for (int i = 3; i <= 8; i++) top[-i] = NULL;
    f->sp = top - 8;
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK;
    makecontext(&f->context, begin, 0);
#endif
    return f;
}

void emu_fiber_switch(EmuFiber *from, EmuFiber *to)
{
    leaving = from, entering = to;
#ifdef EMU_ASAN
    __sanitizer_start_switch_fiber(&from->fake, to->stack, to->bytes);
#endif
#ifdef __x86_64__
    emu_switch(&from->sp, to->sp);
#else
    swapcontext(&from->context, &to->context);
#endif
    arrived(from);
}

int emu_fiber_overflow(const void *p)
{
    for (int i = 0; i < used; i++)
        if ((const char *)p < fibers[i].stack && (const char *)p >= fibers[i].stack - GUARD)
            return 1;
    return 0;
}
