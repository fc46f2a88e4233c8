/* zip.h - the central directory of a zip file in memory, and its members.
 *
 * Source: PKWARE APPNOTE.TXT 6.3 (end record 4.3.16, zip64 4.3.14, directory
 * 4.3.12, local header 4.3.7). Only what torch.save and repacking tools write: one
 * disk, no encryption, members stored or deflated. Sizes come from the directory,
 * never from local headers (torch leaves them 0 there). Two members of one name
 * are refused, as is a local header that names another member than its entry.
 */
#ifndef SDC_ENGINE_ZIP_H
#define SDC_ENGINE_ZIP_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

typedef struct {
    const char *name;          /* name_size bytes, no NUL behind; in the file */
    size_t name_size;
    const uint8_t *data;       /* packed_size bytes, in the file */
    uint64_t packed_size, size;
    uint32_t crc;              /* CRC-32 of the unpacked member */
    int deflated;              /* 0: stored, data is the member itself */
} ZipEntry;

typedef struct {
    ZipEntry *entry;           /* sorted bytewise by name */
    size_t count;
} Zip;

/* ERR_INPUT when the file is cut short or breaks a rule above. z holds pointers
 * into data. Memory: 64 bytes per 46 of the directory. */
int zip_open(Zip *z, const uint8_t *data, size_t size, Err *e);
void zip_close(Zip *z);
/* NULL when absent. */
const ZipEntry *zip_find(const Zip *z, const char *name, size_t name_size);
/* ERR_INPUT unless n->size bytes at data have the member's CRC-32. */
int zip_check(const ZipEntry *n, const uint8_t *data, Err *e);
/* Unpacks all of n->size bytes to dst and checks the CRC-32. ERR_INPUT. */
int zip_unpack(const ZipEntry *n, uint8_t *dst, Err *e);

#endif
