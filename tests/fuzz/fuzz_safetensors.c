/* fuzz_safetensors.c - libFuzzer target: any bytes as a tensor file. What opens must
 * keep its promises: sizes that the file has room for, names found, elements readable.
 *
 * clang -g -O1 -std=c11 -D_GNU_SOURCE -I. -fsanitize=fuzzer,address,undefined
 *     tests/fuzz/fuzz_safetensors.c
 *     engine/{error,mem,io,io_sys,tensorfile,file_dtype,safetensors,zip,pickle,ckpt}.c
 *     -ljansson -lutf8proc -lz -lm
 * ./a.out CORPUS tests/data/conformance/safetensors
 */
#include <stdlib.h>
#include <string.h>

#include "engine/tensorfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x) do { if (!(x)) abort(); } while (0)

static void check_tensor(const TensorFile *tf, const FileTensor *t, size_t size)
{
    Err e = {0};
    float x[8];
    int64_t n[8];
    MUST(tensorfile_find(tf, t->name) == t);
    MUST(t->count >= 0 && t->bytes <= size);
    for (int i = 0; i < t->ndim; i++) MUST(t->shape[i] >= 0 && t->stride[i] >= 0);
    if (t->dtype == FD_OTHER) {
        MUST(tensorfile_read_f32(tf, t, 0, 0, x, &e) == ERR_INPUT);
        return;
    }
    MUST(t->bytes == (uint64_t)t->count * file_dtype_bytes(t->dtype));
    for (int64_t at = 0; at < t->count && at < 4096; at += 8) {
        int64_t k = t->count - at < 8 ? t->count - at : 8;
        MUST(!tensorfile_read_f32(tf, t, at, k, x, &e));
        MUST(!tensorfile_read_raw(tf, t, t->count - k, k, n, &e));
        tensorfile_read_i64(tf, t, at, k, n, NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    TensorFile *tf;
    Err e = {0};
    int rc = tensorfile_open_memory(&tf, "fuzz.safetensors", data, size, &e);
    MUST(rc == e.code && (rc == 0 || (!tf && e.msg[0])));
    if (rc) return 0;
    for (size_t i = 0; i < tensorfile_count(tf); i++)
        check_tensor(tf, tensorfile_at(tf, i), size);
    for (size_t i = 0; i < tensorfile_meta_count(tf); i++) {
        const char *key, *value;
        tensorfile_meta_at(tf, i, &key, &value);
        MUST(tensorfile_meta(tf, key) == value);
    }
    tensorfile_close(tf);
    return 0;
}
