/* exif.h - the two EXIF fields that matter here: Orientation and UserComment.
 *
 * Exif 2.32 (CIPA DC-008), TIFF 6.0 section 2. Broken EXIF is no error, only
 * absent: the picture around it is still good.
 */
#ifndef SDC_ENGINE_EXIF_H
#define SDC_ENGINE_EXIF_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

typedef struct {
    const uint8_t *data;   /* the TIFF structure, inside the file; NULL when there is none */
    size_t size;
} Exif;

/* Finds it in a JPEG (APP1), PNG (eXIf) or WebP (EXIF chunk) file. */
Exif exif_find(const uint8_t *file, size_t size);

/* 1..8; 1 (upright) when absent or out of range. */
int exif_orientation(Exif x);

/* UserComment as UTF-8 (mem_free), NULL when absent. "UNICODE" text is read as
 * UTF-16 in whichever byte order has more ASCII; programs disagree. ERR_MEMORY. */
int exif_user_comment(char **text, Exif x, Err *e);

/* A JPEG APP1 segment, marker included, with only a UserComment: "UNICODE" and
 * UTF-16 big endian as piexif writes it for A1111. *out owned by the caller.
 * ERR_MEMORY; ERR_FAIL when it exceeds a segment's 64 KiB. */
int exif_app1(uint8_t **out, size_t *size, const char *comment, Err *e);

#endif
