/* utf8.h - code points, and the classes of them that the regular expressions of CLIP and
 * A1111 name.
 *
 * Text from outside may be any bytes. As with Python's errors="replace", each maximal
 * ill-formed piece (Unicode 15, section 3.9, D93b) reads as one U+FFFD.
 */
#ifndef SDC_TOKENIZER_UTF8_H
#define SDC_TOKENIZER_UTF8_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    UTF8_OTHER,
    UTF8_SPACE,         /* \s: the property White_Space */
    UTF8_LETTER,        /* \p{L} */
    UTF8_NUMBER         /* \p{N} */
} Utf8Class;

Utf8Class utf8_class(uint32_t c);

/* The code point at *p, *p < end; moves *p past it. */
uint32_t utf8_next(const char **p, const char *end);

/* Writes c (not a surrogate, at most U+10FFFF) as 1..4 bytes; returns how many. */
size_t utf8_put(char *out, uint32_t c);

/* A copy of text (mem_free) in which ill-formed pieces are U+FFFD: at most 3 * len bytes,
 * then a NUL. *size is its length. NULL when there is no memory. */
char *utf8_clean(const char *text, size_t len, size_t *size);

/* The same in normal form C (UAX #15), then each code point lower-cased by itself as Rust and
 * Python do it: by the simple mapping, except that U+0130 becomes "i" U+0307. Linear in len,
 * also for runs of combining marks in the worst order. */
char *utf8_fold(const char *text, size_t len, size_t *size);

#endif
