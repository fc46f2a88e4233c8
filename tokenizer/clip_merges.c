/* clip_merges.c - see clip_merges.h.
 *
 * The assembler copies the file in, which gcc and clang do alike on every processor and in no
 * time; it looks for the path from the folder the compiler runs in, the repository's root. For
 * another compiler, write the bytes as a comma-separated list to a file and name that file:
 *     xxd -i < tokenizer/clip_merges.txt.gz > merges.inc
 *     make CC=... CPPFLAGS=-DSDC_CLIP_MERGES_INC='\"merges.inc\"'
 */
#include "tokenizer/clip_merges.h"

#include <stdint.h>

#ifdef SDC_CLIP_MERGES_INC

static const unsigned char merges[] = {
#include SDC_CLIP_MERGES_INC
};

const unsigned char *clip_merges(size_t *size)
{
    *size = sizeof merges;
    return merges;
}

#else

#ifdef __APPLE__
#define SECTION ".const_data"
#define SECTION_END ".text"
#else
#define SECTION ".pushsection .rodata"
#define SECTION_END ".popsection"
#endif
#define STRING_(x) #x
#define STRING(x) STRING_(x)
#define SYMBOL(name) STRING(__USER_LABEL_PREFIX__) name

__asm__(SECTION "\n"
        SYMBOL("sdc_clip_merges_begin") ":\n"
        ".incbin \"tokenizer/clip_merges.txt.gz\"\n"
        SYMBOL("sdc_clip_merges_end") ":\n"
        ".byte 0\n"
        SECTION_END "\n");

extern const unsigned char sdc_clip_merges_begin[], sdc_clip_merges_end[];

const unsigned char *clip_merges(size_t *size)
{
    *size = (size_t)((uintptr_t)sdc_clip_merges_end - (uintptr_t)sdc_clip_merges_begin);
    return sdc_clip_merges_begin;
}

#endif
