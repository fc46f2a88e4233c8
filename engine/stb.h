/* stb.h - stb_image and stb_image_write, cut down to what engine/image.c uses.
 *
 * From the distribution's package, compiled once in stb.c. Only memory buffers,
 * only JPEG, PNG and BMP; memory comes from engine/mem.h within a budget.
 */
#ifndef SDC_ENGINE_STB_H
#define SDC_ENGINE_STB_H

#include <stddef.h>

#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_MAX_DIMENSIONS 16384
#define STBI_WRITE_NO_STDIO

#include <stb/stb_image.h>
#include <stb/stb_image_write.h>

/* How many bytes the calling thread's next decode may allocate, all its
 * allocations together: a small file that unpacks to more is refused as out of
 * memory. stb has no argument to carry this, hence per thread. */
void stb_budget(size_t bytes);

#endif
