/* test_ckpt.c - torch checkpoints: files that torch.save wrote (tests/data/ckpt,
 * see its README), and hostile ones made here. */
#include <stdlib.h>
#include <unistd.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "engine/tensorfile.h"
#include "tests/fail.h"
#include "tests/make_zip.h"
#include "tests/test.h"

/* ---- what torch wrote -------------------------------------------------------- */

static int has(const TensorFile *tf, const char *name, FileDtype dt, int n, const float *want)
{
    const FileTensor *t = tensorfile_find(tf, name);
    float got[24];
    Err e = {0};
    if (!t || t->dtype != dt || t->count != n) return 0;
    if (tensorfile_read_f32(tf, t, 0, n, got, &e)) return 0;
    return !n || !memcmp(got, want, (size_t)n * sizeof *got);
}

#define HAS(name, dt, ...)                                                      \
    has(tf, name, dt, sizeof (float[]){__VA_ARGS__} / sizeof(float), (float[]){__VA_ARGS__})

static int right_common(const TensorFile *tf)
{
    const FileTensor *t = tensorfile_find(tf, "transposed");
    float part[3];
    if (!t || t->ndim != 2 || t->shape[0] != 6 || t->stride[0] != 1 || t->stride[1] != 6) return 0;
    if (tensorfile_read_f32(tf, t, 9, 3, part, &(Err){0})) return 0;
    return part[0] == 8 && part[1] == 14 && part[2] == 20 &&
           HAS("transposed", FD_F32, 0, 6, 12, 18, 1, 7, 13, 19, 2, 8, 14, 20, 3, 9, 15, 21, 4, 10,
               16, 22, 5, 11, 17, 23) &&
           HAS("slice", FD_F32, 5, 6, 7, 8) && HAS("strided", FD_F32, 4, 6, 16, 18) &&
           HAS("half", FD_F16, 1, -2.5f, 65504) && HAS("bf16", FD_BF16, 1, 3.140625f) &&
           HAS("param", FD_F32, 7, 8) && HAS("ids", FD_I64, 0, 1, 2, 3, 4) &&
           HAS("scalar", FD_I32, 3) && HAS("flag", FD_BOOL, 1, 0) && HAS("f64", FD_F64, 0.1f) &&
           has(tf, "empty", FD_F32, 0, NULL);
}

TEST(ckpt_reads_what_torch_wrote)
{
    TensorFile *tf;
    Err e = {0};
    CHECK_OK(tensorfile_open(&tf, "tests/data/ckpt/torch.ckpt", &e), &e);
    int right = right_common(tf) && HAS("e4m3", FD_F8_E4M3, 1.5f, -448) &&
                HAS("e5m2", FD_F8_E5M2, 1.5f, -57344) && HAS("u16", FD_U16, 1, 65535);
    size_t n = tensorfile_count(tf);
    CHECK_STR(tensorfile_format(tf), "ckpt");
    CHECK_STR(tensorfile_at(tf, 0)->name, "whole");
    tensorfile_close(tf);
    CHECK(right);
    CHECK_INT(n, 15);
}

TEST(ckpt_reads_the_legacy_form)
{
    TensorFile *tf;
    Err e = {0};
    CHECK_OK(tensorfile_open(&tf, "tests/data/ckpt/legacy.pt", &e), &e);
    int right = right_common(tf);
    tensorfile_close(tf);
    CHECK(right);
}

TEST(ckpt_reads_deflated_and_nested)
{
    TensorFile *tf;
    Err e = {0};
    CHECK_OK(tensorfile_open(&tf, "tests/data/ckpt/deflated.ckpt", &e), &e);
    int right = HAS("b", FD_F32, 4, 5);
    tensorfile_close(tf);
    CHECK(right);
    CHECK_OK(tensorfile_open(&tf, "tests/data/ckpt/embedding.pt", &e), &e);
    right = HAS("string_to_param.*", FD_F32, 1, 1, 1, 1, 1, 1, 1, 1);
    tensorfile_close(tf);
    CHECK(right);
}

TEST(ckpt_refuses_code_and_names_it)
{
    static const struct { const char *file; int code; const char *says; } cases[] = {
        {"evil.pt", ERR_UNSAFE, "posix.system"},
        {"evil_legacy.pt", ERR_UNSAFE, "posix.system"},
        {"module.pt", ERR_UNSAFE, "torch.nn.modules.linear.Linear"},
        {"protocol4.pt", ERR_UNSAFE, "protocol 4"},
        {"expanded.pt", ERR_INPUT, "contiguous"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[300];
        TensorFile *tf;
        Err e = {0};
        snprintf(path, sizeof path, "tests/data/ckpt/%s", cases[i].file);
        CHECK_INT(tensorfile_open(&tf, path, &e), cases[i].code);
        CHECK(strstr(e.msg, cases[i].says) != NULL);
    }
}

/* ---- pickles made here ------------------------------------------------------- */

#define STR(len, s) "X" len "\0\0\0" s
#define STORAGE(type, count) "((" STR("\7", "storage") "ctorch\n" type "\n" STR("\1", "0")      \
                             STR("\3", "cpu") "K" count "tQ"
/* One dict with a tensor "a" in storage 0: offset, size and stride are opcodes. */
#define TENSOR(type, count, offset, size, stride)                                             \
    "ctorch._utils\n_rebuild_tensor_v2\n" STORAGE(type, count) offset size stride "\x89}tR"
#define FILE_OF(tensor) "\x80\2}" STR("\1", "a") tensor "s."

/* Opens a zip of this pickle and a storage "0" of 16 bytes. */
static int open_pickle(const void *pickle, size_t n, TensorFile **tf, ZipMaker *z, Err *e)
{
    *z = (ZipMaker){0};
    *e = (Err){0};
    zip_member(z, "m/data.pkl", pickle, n, 0);
    zip_member(z, "m/data/0", "\0\0\0\0\0\0\x80?\0\0\0@\0\0@@", 16, 0);
    zip_end(z);
    return tensorfile_open_memory(tf, "made.ckpt", z->data, z->size, e);
}

TEST(ckpt_pickle_verdicts)
{
#define CASE(code, says, text) {text, sizeof text - 1, code, says}
    static const struct { const char *pickle; size_t n; int code; const char *says; } cases[] = {
        CASE(0, "", FILE_OF(TENSOR("FloatStorage", "\4", "K\0", "K\2K\2\x86", "K\2K\1\x86"))),
        CASE(0, "", FILE_OF(TENSOR("FloatStorage", "\4", "K\3", "K\1\x85",
             "J\xff\xff\xff\x7f\x85"))),
        CASE(0, "", FILE_OF(TENSOR("HalfStorage", "\x8", "K\0", ")", ")")) "trailing"),
        CASE(0, "", FILE_OF("(" STR("\7", "storage") "ctorch.cuda\nByteStorage\n" STR("\1", "0")
             STR("\6", "cuda:0") "K\x10tQ")),
        CASE(ERR_INPUT, "lie", FILE_OF(TENSOR("FloatStorage", "\4", "K\1", "K\4\x85", "K\1\x85"))),
        CASE(ERR_INPUT, "lie", FILE_OF(TENSOR("FloatStorage", "\4", "K\0", "K\2K\2\x86",
             "\x8a\x8\xff\xff\xff\xff\xff\xff\xff\x7fK\1\x86"))),
        CASE(ERR_INPUT, ">= 0", FILE_OF(TENSOR("FloatStorage", "\4", "J\xff\xff\xff\xff",
             ")", ")"))),
        CASE(ERR_INPUT, ">= 0", FILE_OF(TENSOR("FloatStorage", "\4", "K\0", "K\2\x85",
             "J\xff\xff\xff\xff\x85"))),
        CASE(ERR_INPUT, ">= 0", FILE_OF(TENSOR("FloatStorage", "\4", "K\0", "K\2\x85", ")"))),
        CASE(ERR_INPUT, "expanded", FILE_OF(TENSOR("FloatStorage", "\4", "K\0", "K\5\x85",
             "K\0\x85"))),
        CASE(ERR_INPUT, "too large", FILE_OF(TENSOR("FloatStorage", "\4", "K\0",
             "\x8a\5\0\0\0\0\1\x8a\5\0\0\0\0\1\x86", "K\0K\0\x86"))),
        CASE(ERR_INPUT, "described as", FILE_OF(TENSOR("FloatStorage", "\5", "K\0", ")", ")"))),
        CASE(ERR_INPUT, "described as", FILE_OF(TENSOR("HalfStorage", "\4", "K\0", ")", ")"))),
        CASE(ERR_UNSAFE, "torch.load", FILE_OF(TENSOR("load", "\4", "K\0", ")", ")"))),
        CASE(ERR_UNSAFE, "os.system, torch.hub.load", "\x80\2cos\nsystem\nctorch.hub\nload\n\xff"),
        CASE(ERR_UNSAFE, "INST", "\x80\2(" STR("\2", "id") "ios\nsystem\n."),
        CASE(ERR_UNSAFE, "STACK_GLOBAL", "\x80\2" STR("\2", "os") STR("\6", "system") "\x93."),
        CASE(ERR_INPUT, "no dict", "\x80\2K\1."),
        CASE(0, "", "\x80\2}."),
        CASE(0, "", "\x80\2}(" STR("\1", "a") "K\1" STR("\1", "b") "Nu."),
        CASE(0, "", "\x80\2}q\0" STR("\1", "a") "h\0s."),             /* holds itself */
        CASE(0, "", "\x80\2}q\0" STR("\xa", "state_dict") "h\0s."),
        CASE(ERR_INPUT, "key without", "\x80\2}(K\1u."),
        CASE(ERR_INPUT, "no list", "\x80\2}K\1a."),
        CASE(ERR_INPUT, "no dict", "\x80\2](K\1K\2u."),
        CASE(ERR_INPUT, "no mark", "\x80\2K\1t."),
        CASE(ERR_INPUT, "memo", "\x80\2h\0."),
        CASE(ERR_INPUT, "memo", "\x80\2}r\xff\xff\xff\xff."),
        CASE(ERR_INPUT, "cut short", "\x80\2}X\xff\xff\xff\xff" "a"),
        CASE(ERR_INPUT, "left", "\x80\2}}."),
        CASE(ERR_INPUT, "stack", "\x80\2."),
        CASE(ERR_INPUT, "stack", "\x80\2(."),
        CASE(ERR_INPUT, "cut short", "\x80\2}"),
        CASE(ERR_INPUT, "without an end", "\x80\2cos"),
        CASE(ERR_INPUT, "does not write", "\x80\2}\x30."),
        CASE(ERR_INPUT, "twice", "\x80\2}q\0" STR("\1", "a")
             TENSOR("FloatStorage", "\4", "K\0", ")", ")") "q\1s" STR("\1", "a") "h\1s."),
        CASE(ERR_INPUT, "UTF-8", "\x80\2}" STR("\1", "\xff")
             TENSOR("FloatStorage", "\4", "K\0", ")", ")") "s."),
        CASE(ERR_INPUT, "NUL", "\x80\2}" STR("\1", "\0")
             TENSOR("FloatStorage", "\4", "K\0", ")", ")") "s."),
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        TensorFile *tf;
        ZipMaker z;
        Err e;
        int rc = open_pickle(cases[i].pickle, cases[i].n, &tf, &z, &e);
        if (rc != cases[i].code || !strstr(e.msg, cases[i].says))
            test_fail(__FILE__, __LINE__, "case %zu: code %d: %s", i, rc, e.msg);
        tensorfile_close(tf);
        zip_free(&z);
    }
}

/* Much from little: nested, doubled and shared containers stay linear. */
TEST(ckpt_pickle_bombs_end_quickly)
{
    enum { N = 300000 };
    char *p = malloc(N * 16);
    for (int bomb = 0; bomb < 3; bomb++) {
        size_t n = 2;
        memcpy(p, "\x80\2", 2);
        if (bomb == 0) {                 /* {a: {a: {a: ... */
            for (int i = 0; i < N; i++) memcpy(p + n, "}" STR("\1", "a"), 7), n += 7;
            p[n++] = 'N';
            for (int i = 0; i < N; i++) p[n++] = 's';
        } else if (bomb == 1) {          /* each dict holds the one before 60 times */
            memcpy(p + n, "}(K\1}q\0", 7), n += 7;
            for (int i = 0; i < 20; i++) {
                memcpy(p + n, "K\1}(", 4), n += 4;
                for (int k = 0; k < 60; k++) {
                    memcpy(p + n, STR("\1", "a") "h\0", 8), n += 8;
                    p[n - 3] = (char)('A' + k);
                }
                memcpy(p + n, "uq\0", 3), n += 3;
            }
            memcpy(p + n, STR("\1", "x") "h\0u", 9), n += 9;
        } else {                         /* OrderedDict of one long list, many times */
            memcpy(p + n, "ccollections\nOrderedDict\nq\0(]q\1(", 32), n += 32;
            for (int i = 0; i < 1000; i++) memcpy(p + n, "K\1K\1\x86", 5), n += 5;
            memcpy(p + n, "e\x85q\2", 4), n += 4;
            for (int i = 0; i < N; i++) memcpy(p + n, "h\0h\2R", 5), n += 5;
        }
        p[n++] = '.';
        TensorFile *tf;
        ZipMaker z;
        Err e;
        int rc = open_pickle(p, n, &tf, &z, &e);
        if (rc != (bomb == 2 ? ERR_INPUT : 0) || !strstr(e.msg, bomb == 2 ? "too long" : ""))
            test_fail(__FILE__, __LINE__, "bomb %d: %d %s", bomb, rc, e.msg);
        tensorfile_close(tf);
        zip_free(&z);
    }
    free(p);
}

/* ---- zips made here ---------------------------------------------------------- */

TEST(ckpt_zip_verdicts)
{
    static const char good[] =
        FILE_OF(TENSOR("FloatStorage", "\4", "K\0", "K\2K\2\x86", "K\2K\1\x86"));
    static const struct {
        const char *extra, *text;
        int code;
        const char *says;
    } cases[] = {
        {"m/byteorder", "little", 0, ""},
        {"m/byteorder", "big", ERR_INPUT, "little-endian"},
        {"n/data.pkl", "", ERR_UNSAFE, "two pickles"},
        {"data.pkl", "", ERR_UNSAFE, "two pickles"},
        {"m/data/0", "", ERR_INPUT, "twice"},
        {"m/mydata.pkl", "", 0, ""},
        {"n/data/0", "", 0, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ZipMaker z = {0};
        TensorFile *tf;
        Err e = {0};
        zip_member(&z, cases[i].extra, cases[i].text, strlen(cases[i].text), 1);
        zip_member(&z, "m/data.pkl", good, sizeof good - 1, 1);
        zip_member(&z, "m/data/0", "0123456789abcdef", 16, 1);
        zip_end(&z);
        int rc = tensorfile_open_memory(&tf, "made.ckpt", z.data, z.size, &e);
        if (rc != cases[i].code || !strstr(e.msg, cases[i].says))
            test_fail(__FILE__, __LINE__, "case %zu: code %d: %s", i, rc, e.msg);
        tensorfile_close(tf);
        zip_free(&z);
    }
}

TEST(ckpt_zip_bomb_is_refused_before_it_is_unpacked)
{
    static const char pickle[] = FILE_OF("ctorch._utils\n_rebuild_tensor_v2\n"
        "((" STR("\7", "storage") "ctorch\nByteStorage\n" STR("\1", "0") STR("\3", "cpu")
        "J\0\0\0\6tQK\0))\x89}tR");
    size_t n = 6 << 24;
    char *zeros = calloc(1, n);
    ZipMaker z = {0};
    TensorFile *tf;
    Err e = {0};
    zip_member(&z, "m/data.pkl", pickle, sizeof pickle - 1, 0);
    zip_member(&z, "m/data/0", zeros, n, 1);
    zip_end(&z);
    free(zeros);
    int rc = tensorfile_open_memory(&tf, "made.ckpt", z.data, z.size, &e);
    tensorfile_close(tf);
    zip_free(&z);
    CHECK_INT(rc, ERR_INPUT);
    CHECK(strstr(e.msg, "zip bomb") != NULL);
}

/* Opens and reads everything; what it finds does not matter. */
static int open_and_read(const void *data, size_t size)
{
    TensorFile *tf;
    Err e = {0};
    int rc = tensorfile_open_memory(&tf, "made.ckpt", data, size, &e);
    for (size_t i = 0; !rc && i < tensorfile_count(tf); i++) {
        const FileTensor *t = tensorfile_at(tf, i);
        float x[4];
        for (int64_t at = 0; at < t->count; at += 4)
            tensorfile_read_f32(tf, t, at, t->count - at < 4 ? t->count - at : 4, x, &e);
    }
    tensorfile_close(tf);
    return rc;
}

static const char *const written[] = {
    "tests/data/ckpt/torch.ckpt", "tests/data/ckpt/legacy.pt", "tests/data/ckpt/deflated.ckpt",
};

TEST(ckpt_survives_cutting_and_flipping)
{
    for (int i = 0; i < 3; i++) {
        char *text;
        size_t size;
        Err e = {0};
        CHECK_OK(io_read_text(&text, &size, written[i], 1 << 20, &e), &e);
        int accepted = 0;
        for (size_t n = 0; n < size; n++) {
            char *cut = malloc(n + 1);               /* its own, so that asan sees its end */
            memcpy(cut, text, n);
            accepted += open_and_read(cut, n) == 0;
            free(cut);
            text[n] ^= (char)(1 << (n % 8));
            open_and_read(text, size);
            text[n] ^= (char)(1 << (n % 8));
        }
        int whole = open_and_read(text, size);
        mem_free(text);
        CHECK_INT(whole, 0);
        CHECK_INT(accepted, 0);
    }
}

TEST(ckpt_survives_failing_allocations)
{
    for (int i = 0; i < 3; i++) {
        int rc = ERR_MEMORY, wrong = 0;
        for (long n = 1; rc && n < 5000; n++) {
            TensorFile *tf;
            Err e = {0};
            fail_mem(n);
            rc = tensorfile_open(&tf, written[i], &e);
            fail_mem(0);
            tensorfile_close(tf);
            wrong += rc && (rc != ERR_MEMORY || e.code != rc || tf);
        }
        CHECK_INT(wrong, 0);
        CHECK_INT(rc, 0);
    }
}
