/* test_file_dtype.c - element types of tensor files: every value of the small
 * formats, rounding at the borders, integers. */
#include <stdlib.h>

#include "engine/tensorfile.h"
#include "tests/test.h"

/* The value of a small float from its definition. */
static double value_of(unsigned h, int exponent_bits, int man, int bias, int has_inf)
{
    unsigned e = h >> man & ((1u << exponent_bits) - 1), m = h & ((1u << man) - 1);
    double sign = h >> (exponent_bits + man) & 1 ? -1 : 1;
    if (has_inf && e == (1u << exponent_bits) - 1) return m ? NAN : sign * INFINITY;
    if (!has_inf && (h & 0x7f) == 0x7f) return NAN;
    return sign * (e ? ldexp(1 + ldexp(m, -man), (int)e - bias) : ldexp(m, 1 - bias - man));
}

static const struct Small {
    FileDtype dt;
    int bytes, exponent_bits, man, bias, has_inf;
} smalls[] = {
    {FD_F16, 2, 5, 10, 15, 1}, {FD_BF16, 2, 8, 7, 127, 1},
    {FD_F8_E5M2, 1, 5, 2, 15, 1}, {FD_F8_E4M3, 1, 4, 3, 7, 0},
};

TEST(file_dtype_small_floats_widen_exactly_and_round_trip)
{
    for (size_t k = 0; k < sizeof smalls / sizeof *smalls; k++) {
        const struct Small *s = &smalls[k];
        for (unsigned h = 0; h < 1u << (8 * s->bytes); h++) {
            float x;
            uint16_t back = 0, in = (uint16_t)h;
            double want = value_of(h, s->exponent_bits, s->man, s->bias, s->has_inf);
            file_dtype_to_f32(s->dt, &x, &in, 1);
            CHECK(isnan(want) ? isnan(x) : x == want && !signbit(x) == !signbit(want));
            file_dtype_from_f32(s->dt, &back, &x, 1);
            if (isnan(want)) file_dtype_to_f32(s->dt, &x, &back, 1);
            CHECK(isnan(want) ? isnan(x) : back == h);
        }
    }
}

/* Between two neighbours: the middle goes to the even one, anything nearer to the
 * nearer. Beyond the largest: infinity from its half step on, NaN for E4M3. */
TEST(file_dtype_small_floats_round_to_nearest_even)
{
    for (size_t k = 0; k < sizeof smalls / sizeof *smalls; k++) {
        const struct Small *s = &smalls[k];
        unsigned largest = s->has_inf ? (((1u << s->exponent_bits) - 1) << s->man) - 1 : 0x7e;
        for (unsigned h = 0; h <= largest; h++) {
            double a = value_of(h, s->exponent_bits, s->man, s->bias, s->has_inf);
            double b = h == largest
                ? a + (a - value_of(h - 1, s->exponent_bits, s->man, s->bias, s->has_inf))
                : value_of(h + 1, s->exponent_bits, s->man, s->bias, s->has_inf);
            float mid = (float)((a + b) / 2);
            float x[3] = {nextafterf(mid, 0), mid, nextafterf(mid, INFINITY)};
            unsigned want[3] = {h, h + (h & 1), h + 1};
            for (int i = 0; i < 3; i++) {
                for (int sign = 0; sign < 2; sign++) {
                    uint16_t got = 0;
                    file_dtype_from_f32(s->dt, &got, &(float){sign ? -x[i] : x[i]}, 1);
                    CHECK_INT(got, want[i] | (unsigned)sign << (8 * s->bytes - 1));
                }
            }
        }
        uint16_t got = 0;
        file_dtype_from_f32(s->dt, &got, &(float){1e38f}, 1);
        if (s->dt != FD_BF16) CHECK_INT(got, largest + 1);
        file_dtype_from_f32(s->dt, &got, &(float){INFINITY}, 1);
        CHECK_INT(got, largest + 1);
    }
}

TEST(file_dtype_integers_round_and_saturate)
{
    static const float in[] = {0.5f, 1.5f, -1.5f, 300, -1e30f, 1e30f, NAN};
    int8_t i8[7];
    uint8_t u8[7], flag[7];
    int64_t i64[7];
    uint64_t u64[7];
    file_dtype_from_f32(FD_I8, i8, in, 7);
    file_dtype_from_f32(FD_U8, u8, in, 7);
    file_dtype_from_f32(FD_BOOL, flag, in, 7);
    file_dtype_from_f32(FD_I64, i64, in, 7);
    file_dtype_from_f32(FD_U64, u64, in, 7);
    static const int8_t want_i8[] = {0, 2, -2, 127, -128, 127, 0};
    static const uint8_t want_u8[] = {0, 2, 0, 255, 0, 255, 0};
    CHECK(!memcmp(i8, want_i8, 7));
    CHECK(!memcmp(u8, want_u8, 7));
    CHECK(flag[0] == 1 && flag[6] == 1);
    CHECK(i64[3] == 300 && i64[4] == INT64_MIN && i64[5] == INT64_MAX && i64[6] == 0);
    CHECK(u64[1] == 2 && u64[2] == 0 && u64[5] == UINT64_MAX);
}

TEST(file_dtype_every_integer_type_reads)
{
    static const uint8_t raw[8] = {0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const struct { FileDtype dt; int64_t want; } cases[] = {
        {FD_BOOL, 1}, {FD_U8, 254}, {FD_I8, -2}, {FD_I16, -2}, {FD_U16, 65534}, {FD_I32, -2},
        {FD_U32, 4294967294}, {FD_I64, -2}, {FD_U64, INT64_MAX},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t n;
        float x;
        file_dtype_to_i64(cases[i].dt, &n, raw, 1);
        file_dtype_to_f32(cases[i].dt, &x, raw, 1);
        CHECK_INT(n, cases[i].want);
        CHECK(x == (cases[i].dt == FD_U64 ? 0x1p64f : (float)n));
        CHECK_INT(file_dtype_by_name(file_dtype_name(cases[i].dt)), cases[i].dt);
    }
    CHECK_INT(file_dtype_by_name("C64"), FD_OTHER);
    double d = 0.1;
    float x;
    file_dtype_to_f32(FD_F64, &x, &d, 1);
    CHECK(x == 0.1f);
}
