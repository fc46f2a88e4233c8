/* fuzz_image.c - libFuzzer over pictures: PNG, JPEG, BMP, WebP, EXIF, PNG text, infotext.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -DSDC_WEBP -D_GNU_SOURCE -I. \
 *         tests/fuzz/fuzz_image.c engine/{image,exif,png,stb,infotext,error,mem,io,io_sys}.c \
 *         -lz -lwebp -lutf8proc -lm -o fuzz_image
 *     mkdir corpus && ./fuzz_image -max_total_time=60 corpus tests/data/image
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "engine/image.h"
#include "engine/infotext.h"
#include "engine/mem.h"
#include "engine/png.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What was parsed must be written without trouble, and read back the same from
 * the second time on. */
static void infotext(const char *s, size_t n)
{
    Infotext a, b;
    char *text, *again;
    if (infotext_parse(&a, s, n, NULL)) return;
    if (infotext_format(&text, &a, NULL)) abort();
    if (!infotext_parse(&b, text, strlen(text), NULL)) {
        if (infotext_format(&again, &b, NULL)) abort();
        mem_free(again);
        infotext_free(&b);
    }
    int w, h;
    infotext_get_pair(&a, "Size", &w, &h);
    const char *list = infotext_get(&a, "Lora hashes"), *name, *hash;
    size_t nn, hn;
    while (list && infotext_next_hash(&list, &name, &nn, &hash, &hn))
        if (memchr(name, ':', nn) || memchr(hash, ',', hn)) abort();
    mem_free(text);
    infotext_free(&a);
}

/* Writes the checksums that the chunks of a PNG should have, or no mutation
 * would get past them. */
static void mend(uint8_t *p, size_t n)
{
    PngChunk c;
    for (size_t pos = 0; png_next(&c, p, n, &pos);) {
        uLong crc = crc32_z(0, c.type, c.size + 4);
        for (int i = 0; i < 4; i++) p[pos - 4 + (size_t)i] = (uint8_t)(crc >> (24 - 8 * i));
    }
}

static void picture(const uint8_t *data, size_t size)
{
    int w, h;
    Image im;
    char *text;
    if (!image_size(&w, &h, data, size, NULL) && (int64_t)w * h < 1 << 20) {
        if (!image_decode(&im, data, size, NULL)) {
            if (im.w != w || im.h != h) abort();
            image_drop_alpha(&im);
            image_free(&im);
        } else if (im.px) {
            abort();
        }
    }
    if (!image_parameters(&text, data, size, NULL) && text) {
        infotext(text, strlen(text));
        mem_free(text);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    picture(data, size);
    infotext((const char *)data, size);
    if (png_is(data, size)) {
        uint8_t *copy = malloc(size);
        memcpy(copy, data, size);
        mend(copy, size);
        picture(copy, size);
        free(copy);
    }
    return 0;
}
