/* fuzz_ckpt.c - libFuzzer target: torch checkpoints. The first byte says what the
 * rest is: the whole file, or (so that checksums do not stop the fuzzer) the
 * pickle of an otherwise sound zip, stored or deflated, with storages 0, 1 and 2.
 *
 * clang -g -O1 -std=c11 -D_GNU_SOURCE -I. -fsanitize=fuzzer,address,undefined
 *     tests/fuzz/fuzz_ckpt.c
 *     engine/{error,mem,io,io_sys,tensorfile,file_dtype,safetensors,zip,pickle,ckpt}.c
 *     -ljansson -lutf8proc -lz -lm
 */
#include "engine/tensorfile.h"
#include "tests/make_zip.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x) do { if (!(x)) abort(); } while (0)

static void open_and_read(const uint8_t *data, size_t size)
{
    TensorFile *tf;
    Err e = {0};
    int rc = tensorfile_open_memory(&tf, "fuzz.ckpt", data, size, &e);
    MUST(rc == e.code && (rc == 0 || (!tf && e.msg[0])));
    for (size_t i = 0; !rc && i < tensorfile_count(tf); i++) {
        const FileTensor *t = tensorfile_at(tf, i);
        float x[64];
        MUST(tensorfile_find(tf, t->name) == t && t->count >= 0);
        for (int64_t at = 0; t->dtype != FD_OTHER && at < t->count && at < 4096; at += 64) {
            int64_t k = t->count - at < 64 ? t->count - at : 64;
            MUST(!tensorfile_read_f32(tf, t, at, k, x, &e));
            MUST(!tensorfile_read_f32(tf, t, t->count - k, k, x, &e));
        }
    }
    if (!rc) tensorfile_close(tf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t storage[256];
    if (!size) return 0;
    if (data[0] % 4 == 0) {
        open_and_read(data + 1, size - 1);
        return 0;
    }
    ZipMaker z = {0};
    int deflated = data[0] % 4 == 1;
    zip_member(&z, "a/data.pkl", data + 1, size - 1, deflated);
    zip_member(&z, "a/data/0", storage, 96, 0);
    zip_member(&z, "a/data/1", storage, 16, deflated);
    zip_member(&z, "a/data/2", storage, 4, 0);
    zip_end(&z);
    open_and_read(z.data, z.size);
    zip_free(&z);
    return 0;
}
