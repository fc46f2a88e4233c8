/* test_tensorfile.c - safetensors in and out, element types, hashes: the
 * conformance files, files made here, failing memory and disks. */
#include <jansson.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "engine/hash.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "engine/tensorfile.h"
#include "tests/fail.h"
#include "tests/test.h"

/* Reads each tensor fully in every way that its type allows. */
static int read_all(const TensorFile *tf)
{
    for (size_t i = 0; i < tensorfile_count(tf); i++) {
        const FileTensor *t = tensorfile_at(tf, i);
        if (tensorfile_find(tf, t->name) != t) return 0;
        if (t->count > 1 << 20) continue;
        double *buf = malloc((size_t)t->count * 8 + 1);
        Err e = {0};
        int rc = tensorfile_read_raw(tf, t, 0, t->count, buf, &e);
        int rf = tensorfile_read_f32(tf, t, 0, t->count, (float *)buf, &e);
        int ri = tensorfile_read_i64(tf, t, 0, t->count, (int64_t *)buf, &e);
        free(buf);
        if ((rc || rf || ri) && !e.msg[0]) return 0;
        if ((rc || rf) != (t->dtype == FD_OTHER)) return 0;
    }
    return 1;
}

/* Opens every file that a list names; returns how many verdicts were right. */
static int conformance(const char *dir, int *total)
{
    char path[300], *text = NULL;
    Err e = {0};
    int right = 0;
    snprintf(path, sizeof path, "%s/expected.tsv", dir);
    if (io_read_text(&text, NULL, path, 1 << 20, &e)) return -1;
    *total = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char *verdict = strchr(line, '\t');
        if (!verdict || !strcmp(verdict, "\texpected")) continue;
        *verdict++ = 0;
        snprintf(path, sizeof path, "%s/%s", dir, line);
        TensorFile *tf = NULL;
        Err e2 = {0};
        int rc = tensorfile_open(&tf, path, &e2);
        int ok = !strcmp(verdict, "accept") ? !rc && read_all(tf)
                                            : (rc == ERR_INPUT || rc == ERR_UNSAFE) && !tf;
        ok = ok && (!rc || !strncmp(e2.msg, path, strlen(path)));
        if (!ok) fprintf(stderr, "%s: %s expected, code %d: %s\n", path, verdict, rc, e2.msg);
        tensorfile_close(tf);
        right += ok;
        ++*total;
    }
    mem_free(text);
    return right;
}

TEST(tensorfile_conformance_safetensors)
{
    int total, right = conformance("tests/data/conformance/safetensors", &total);
    CHECK_INT(total, 52);
    CHECK_INT(right, total);
}

TEST(tensorfile_conformance_ckpt)
{
    int total, right = conformance("tests/data/conformance/ckpt", &total);
    CHECK_INT(total, 6);
    CHECK_INT(right, total);
}

/* ---- headers made here ------------------------------------------------------- */

/* A file in memory from a header and n zero bytes; its code from opening. */
static int open_header(TensorFile **tf, const char *json, size_t n, Err *e)
{
    static uint8_t file[4096];
    uint64_t len = strlen(json);
    memcpy(file, &len, 8);
    memcpy(file + 8, json, len);
    memset(file + 8 + len, 0, n);
    *e = (Err){0};
    return tensorfile_open_memory(tf, "made", file, 8 + len + n, e);
}

TEST(tensorfile_header_verdicts)
{
    static const struct {
        const char *json;
        int bytes, code;
        const char *says;
    } cases[] = {
        {"{}", 0, 0, ""},
        {" \t\n{ } ", 0, 0, ""},
        {"{}", 1, ERR_INPUT, "belong to none"},
        {"{\"__metadata__\":null}", 0, 0, ""},
        {"{\"__metadata__\":{}}", 0, 0, ""},
        {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, ERR_INPUT, "twice"},
        {"{\"\\u005f_metadata__\":{\"a\":\"1\"},\"__metadata__\":{}}", 0, ERR_INPUT, "twice"},
        {"{\"__metadata__\":{\"a\":\"1\\u0000\"}}", 0, ERR_INPUT, "NUL"},
        {"{\"__metadata__\":[]}", 0, ERR_INPUT, "JSON"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,2]}}", 2,
         0, ""},
        {"{\"\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, 0, ""},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},}", 1, ERR_INPUT, "name"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}x", 1, ERR_INPUT, "end"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}", 1, ERR_INPUT, "}"},
        {"{\"a\" {\"dtype\":\"U8\"}}", 0, ERR_INPUT, ":"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-0,1]}}", 1, ERR_INPUT, "-0"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[true],\"data_offsets\":[0,1]}}", 1,
         ERR_INPUT, "shape"},
        {"{\"a\":[\"U8\",[1],[0,1]]}", 1, ERR_INPUT, "object"},
        {"{\"a\":{\"dtype\":\"u8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, ERR_INPUT, "dtype"},
        {"{\"a\":{\"dtype\":\"F64\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}",
         0, ERR_INPUT, "too large"},
        {"{\"a\":{\"dtype\":\"F64\",\"shape\":[0,4611686018427387904,4611686018427387904],"
         "\"data_offsets\":[0,0]}}", 0, 0, ""},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 1,
         ERR_INPUT, "cut short"},
        {"{\"a\":{\"x\":[[[[[[[[1]]]]]]]],\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
         1, ERR_INPUT, "deeper"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        TensorFile *tf;
        Err e;
        int rc = open_header(&tf, cases[i].json, (size_t)cases[i].bytes, &e);
        int ok = !rc && read_all(tf);
        tensorfile_close(tf);
        if (rc != cases[i].code || (!rc && !ok) || (rc && !strstr(e.msg, cases[i].says)))
            test_fail(__FILE__, __LINE__, "%s: code %d: %s", cases[i].json, rc, e.msg);
    }
}

/* jansson skips a NUL that follows a number. */
TEST(tensorfile_refuses_a_nul_byte_in_the_header)
{
    char json[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1?],\"data_offsets\":[0,1]}}";
    uint8_t file[100] = {sizeof json - 1};
    memcpy(file + 8, json, sizeof json);
    *(uint8_t *)memchr(file, '?', sizeof json) = 0;
    Err e = {0};
    TensorFile *tf;
    CHECK_INT(tensorfile_open_memory(&tf, "made", file, 8 + sizeof json, &e), ERR_INPUT);
    CHECK(strstr(e.msg, "NUL") != NULL);
}

TEST(tensorfile_names_the_likely_cause)
{
    static const char *const files[][3] = {
        {"x.safetensors", "<!DOCTYPE html><html>", "web page"},
        {"x.safetensors", "version https://git-lfs.github.com/spec/v1\n", "LFS"},
        {"x.safetensors", "PK\3\4..............", "rename"},
        {"x.ckpt", "PK\3\4..............", "cut short"},
        {"x.ckpt", "\x80\2cposix\nsystem\nX\2\0\0\0", "posix.system"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        Err e = {0};
        TensorFile *tf;
        int rc = tensorfile_open_memory(&tf, files[i][0], files[i][1], strlen(files[i][1]), &e);
        CHECK_INT(rc, i == 4 ? ERR_UNSAFE : ERR_INPUT);
        CHECK(strstr(e.msg, files[i][2]) != NULL);
        CHECK_INT(tensorfile_open_memory(&tf, "x", files[i][1], strlen(files[i][1]), NULL), rc);
    }
    Err e = {0};
    TensorFile *tf;
    CHECK_INT(tensorfile_open(&tf, "tests/data/none", &e), ERR_INPUT);
    CHECK_INT(tensorfile_open_memory(&tf, "empty", NULL, 0, &(Err){0}), ERR_INPUT);
}

TEST(tensorfile_opens_100k_tensors_quickly)
{
    char path[300];
    snprintf(path, sizeof path, "%s/many.safetensors", test_dir());
    Err e = {0};
    TensorWriter *w;
    CHECK_OK(tensorwriter_new(&w, path, &e), &e);
    for (int i = 0; i < 100000; i++) {
        char name[100];
        snprintf(name, sizeof name, "model.diffusion_model.block.%d.weight", i);
        tensorwriter_add(w, name, FD_F16, 2, (int64_t[]){1, 1}, &e);
    }
    CHECK_OK(tensorwriter_begin(w, &e), &e);
    for (; tensorwriter_next(w); ) CHECK_OK(tensorwriter_write_f32(w, &(float){1}, 1, &e), &e);
    CHECK_OK(tensorwriter_commit(w, &e), &e);
    clock_t start = clock();
    TensorFile *tf;
    CHECK_OK(tensorfile_open(&tf, path, &e), &e);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    size_t n = tensorfile_count(tf);
    tensorfile_close(tf);
    CHECK_INT(n, 100000);
    CHECK(seconds < 4);            /* 0.2 s in a release build; sanitizers take longer */
}

/* ---- writing ----------------------------------------------------------------- */

static const char golden_header[] =
    "{\"__metadata__\":{\"a\":\"q\\\"\\\\\\n\\u0001\\u001f/\xc3\xa9\",\"b\":\"2\"},"
    "\"f\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
    "\"m\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[4,20]},"
    "\"empty\":{\"dtype\":\"F16\",\"shape\":[0,3],\"data_offsets\":[20,20]},"
    "\"h\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[20,26]}}";

/* Writes the file of golden_header, declared in one order or another. */
static int write_golden(const char *path, int order, char sha[65], Err *e)
{
    static const struct { const char *name; FileDtype dt; int ndim; int64_t shape[2]; } t[] = {
        {"h", FD_F16, 1, {3}}, {"m", FD_F32, 2, {2, 2}}, {"empty", FD_F16, 2, {0, 3}},
        {"f", FD_F32, 0, {0}},
    };
    TensorWriter *w;
    TRY(tensorwriter_new(&w, path, e));
    int rc = tensorwriter_meta(w, order ? "a" : "b", order ? "old" : "2", e);
    if (!rc) rc = tensorwriter_meta(w, "a", "q\"\\\n\1\x1f/\xc3\xa9", e);
    if (!rc) rc = tensorwriter_meta(w, "b", "2", e);
    for (int i = 0; !rc && i < 4; i++) {
        int k = order ? 3 - i : i;
        rc = tensorwriter_add(w, t[k].name, t[k].dt, t[k].ndim, t[k].shape, e);
    }
    if (!rc) rc = tensorwriter_begin(w, e);
    while (!rc && tensorwriter_next(w)) {
        const char *name = tensorwriter_next(w);
        if (*name == 'f') rc = tensorwriter_write_f32(w, (float[]){-1.5f}, 1, e);
        else if (*name == 'h') rc = tensorwriter_write_f32(w, (float[]){1, 2, 65520}, 3, e);
        else for (int i = 0; !rc && i < 4; i++)
            rc = tensorwriter_write(w, &(float){(float)i}, 4, e);
    }
    if (!rc) tensorwriter_data_sha256(w, sha);
    if (!rc) return tensorwriter_commit(w, e);
    tensorwriter_abort(w);
    return rc;
}

TEST(tensorwriter_writes_the_references_bytes)
{
    char path[300], sha[3][65], whole[2][65], *text;
    size_t size, n = strlen(golden_header);
    snprintf(path, sizeof path, "%s/x.safetensors", test_dir());
    Err e = {0};
    CHECK_OK(write_golden(path, 0, sha[0], &e), &e);
    CHECK_OK(hash_file(whole[0], path, &e), &e);
    CHECK_OK(write_golden(path, 1, sha[1], &e), &e);
    CHECK_OK(hash_file(whole[1], path, &e), &e);
    CHECK_STR(whole[0], whole[1]);
    CHECK_OK(write_golden(NULL, 1, sha[2], &e), &e);
    CHECK_STR(sha[0], sha[2]);
    CHECK_OK(hash_file_data(sha[1], path, &e), &e);
    CHECK_STR(sha[0], sha[1]);
    CHECK_OK(io_read_text(&text, &size, path, 1 << 20, &e), &e);
    size_t padded = (n + 7) / 8 * 8;
    int same = size == 8 + padded + 26 && !memcmp(text + 8, golden_header, n);
    for (size_t i = n; same && i < padded; i++) same = text[8 + i] == ' ';
    same = same && !memcmp(text, &(uint64_t){padded}, 8) &&
           !memcmp(text + 8 + padded + 20, "\0\x3c\0\x40\0\x7c", 6);
    mem_free(text);
    CHECK(same);
}

TEST(tensorwriter_reads_back)
{
    char path[300], sha[65];
    snprintf(path, sizeof path, "%s/x.safetensors", test_dir());
    Err e = {0};
    CHECK_OK(write_golden(path, 0, sha, &e), &e);
    TensorFile *tf;
    CHECK_OK(tensorfile_open(&tf, path, &e), &e);
    CHECK_STR(tensorfile_format(tf), "safetensors");
    CHECK_STR(tensorfile_path(tf), path);
    CHECK_STR(tensorfile_meta(tf, "b"), "2");
    CHECK(tensorfile_meta(tf, "c") == NULL);
    CHECK_INT(tensorfile_count(tf), 4);
    CHECK_STR(tensorfile_at(tf, 1)->name, "m");
    CHECK(tensorfile_find(tf, "x") == NULL);
    const FileTensor *m = tensorfile_find(tf, "m");
    CHECK_INT(m->ndim, 2);
    CHECK_INT(m->shape[1], 2);
    CHECK_INT(m->stride[0], 2);
    CHECK_INT(m->bytes, 16);
    float x[2];
    CHECK_OK(tensorfile_read_f32(tf, m, 1, 2, x, &e), &e);
    CHECK(x[0] == 1 && x[1] == 2);
    CHECK_INT(tensorfile_read_f32(tf, m, 3, 2, x, &(Err){0}), ERR_INPUT);
    CHECK_INT(tensorfile_read_f32(tf, m, -1, 2, x, &(Err){0}), ERR_INPUT);
    CHECK_INT(tensorfile_read_i64(tf, m, 0, 0, NULL, &(Err){0}), ERR_INPUT);
    tensorfile_close(tf);
}

TEST(tensorwriter_refuses)
{
    Err e = {0};
    TensorWriter *w;
    CHECK_OK(tensorwriter_new(&w, NULL, &e), &e);
    CHECK_INT(tensorwriter_add(w, "__metadata__", FD_U8, 0, NULL, &(Err){0}), ERR_FAIL);
    CHECK_INT(tensorwriter_add(w, "\xff", FD_U8, 0, NULL, &(Err){0}), ERR_FAIL);
    CHECK_INT(tensorwriter_add(w, "a", FD_U8, 1, (int64_t[]){-1}, &(Err){0}), ERR_FAIL);
    CHECK_INT(tensorwriter_add(w, "a", FD_F64, 1, (int64_t[]){INT64_MAX}, &(Err){0}), ERR_FAIL);
    CHECK_INT(tensorwriter_meta(w, "a", "\xed\xa0\x80", &(Err){0}), ERR_FAIL);
    CHECK_OK(tensorwriter_add(w, "a", FD_U8, 0, NULL, &e), &e);
    CHECK_OK(tensorwriter_add(w, "a", FD_F16, 0, NULL, &e), &e);
    CHECK_INT(tensorwriter_begin(w, &e), ERR_FAIL);
    CHECK(strstr(e.msg, "twice") != NULL);
    tensorwriter_abort(w);
}

/* ---- hashes ------------------------------------------------------------------ */

TEST(hash_of_files)
{
    char path[300], hex[65];
    Err e = {0};
    snprintf(path, sizeof path, "%s/x", test_dir());
    CHECK_OK(io_write_file(path, "abc", 3, &e), &e);
    CHECK_OK(hash_file(hex, path, &e), &e);
    CHECK_STR(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK_OK(hash_file_legacy(hex, path, &e), &e);
    CHECK_STR(hex, "e3b0c442");                      /* of nothing */
    CHECK_INT(hash_file_data(hex, path, &(Err){0}), ERR_INPUT);
    size_t n = 0x100000 + 3;
    char *big = calloc(1, n);
    memcpy(big + 0x100000, "abc", 3);
    int rc = io_write_file(path, big, n, &e);
    free(big);
    CHECK_OK(rc, &e);
    CHECK_OK(hash_file_legacy(hex, path, &e), &e);
    CHECK_STR(hex, "ba7816bf");
}

TEST(hash_legacy_of_writer_is_that_of_file)
{
    char path[300], dry[9], wet[9];
    enum { N = 300001 };
    float *x = malloc(N * sizeof *x);
    Err e = {0};
    snprintf(path, sizeof path, "%s/x.safetensors", test_dir());
    for (int i = 0; i < N; i++) x[i] = (float)i;
    int rc = 0;
    for (int pass = 0; !rc && pass < 2; pass++) {
        TensorWriter *w;
        rc = tensorwriter_new(&w, pass ? path : NULL, &e);
        if (!rc) rc = tensorwriter_add(w, "x", FD_F32, 1, (int64_t[]){N}, &e);
        if (!rc) rc = tensorwriter_begin(w, &e);
        if (!rc) rc = tensorwriter_write_f32(w, x, N - 40000, &e);
        if (!rc) rc = tensorwriter_write_f32(w, x, 40000, &e);
        if (!rc) tensorwriter_legacy_hash(w, pass ? wet : dry);
        if (!rc) rc = tensorwriter_commit(w, &e);
    }
    free(x);
    CHECK_OK(rc, &e);
    CHECK_STR(dry, wet);
    CHECK_OK(hash_file_legacy(wet, path, &e), &e);
    CHECK_STR(dry, wet);
    CHECK(strcmp(dry, "e3b0c442") != 0);
}

/* ---- failing memory and disks ------------------------------------------------ */

static size_t files_in_dir(void)
{
    char **names;
    size_t n = 99;
    if (!io_list(&names, &n, test_dir(), &(Err){0})) io_list_free(names, n);
    return n;
}

/* jansson takes its own lack of memory for broken JSON: with its allocations
 * failing too, any clean refusal will do. */
TEST(tensorfile_survives_failing_allocations)
{
    const char *files[] = {"tests/data/conformance/safetensors/ok_metadata.safetensors",
                           "tests/data/conformance/safetensors/ok_unsorted_header.safetensors",
                           "tests/data/conformance/ckpt/good.ckpt"};
    for (int i = 0; i < 6; i++) {
        int rc = ERR_MEMORY, wrong = 0;
        if (i >= 3) json_set_alloc_funcs(mem_alloc, mem_free);
        for (long n = 1; rc && n < 1000; n++) {
            TensorFile *tf;
            Err e = {0};
            fail_mem(n);
            rc = tensorfile_open(&tf, files[i % 3], &e);
            fail_mem(0);
            tensorfile_close(tf);
            wrong += rc && ((rc != ERR_MEMORY && i < 3) || e.code != rc || tf);
        }
        json_set_alloc_funcs(malloc, free);
        CHECK_INT(wrong, 0);
        CHECK_INT(rc, 0);
    }
}

TEST(tensorwriter_survives_failing_allocations_and_disks)
{
    char path[300], sha[65];
    snprintf(path, sizeof path, "%s/x.safetensors", test_dir());
    for (int disk = 0; disk < 2; disk++) {
        int rc = 1;
        long n;
        for (n = 1; rc && n < 1000; n++) {
            Err e = {0};
            CHECK_INT(files_in_dir(), 0);
            (disk ? fail_io : fail_mem)(n);
            rc = write_golden(path, 0, sha, &e);
            fail_mem(0);
            fail_io(0);
            CHECK(!rc || e.code == rc);
            if (disk && rc && n == 1) CHECK_INT(rc, ERR_DISK);
        }
        CHECK_INT(rc, 0);
        CHECK(n > 5);
        unlink(path);
    }
}
