/* IEEE 754 half precision in integer arithmetic, so that it needs no F16C instruction and gives the same bits on
 * every processor. The fast conversions of whole arrays belong to the backends. */
#include "base/half.h"

enum { HALF_EXP_BITS = 0x7C00, HALF_QUIET = 0x0200, HALF_MANTISSA = 0x03FF };

/* Smallest float that rounds to infinity: halfway between 65504 and 65536, which ties to even (upwards). */
static const uint32_t OVERFLOW_BITS = 0x477FF000u;
static const uint32_t INF_BITS = 0x7F800000u;
/* 2^-14, the smallest normal half. */
static const uint32_t MIN_NORMAL_BITS = 0x38800000u;
/* Exponent bias of float minus that of half, in the place of the float's exponent. */
static const uint32_t REBIAS = (127u - 15u) << 23;

static float float_of(uint32_t bits)
{
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

float fp16_to_float(fp16 x)
{
    const uint32_t sign = (uint32_t)(x & 0x8000u) << 16;
    const uint32_t exponent = x & HALF_EXP_BITS;
    const uint32_t mantissa = x & HALF_MANTISSA;
    if (exponent == HALF_EXP_BITS) {
        const uint32_t quiet = mantissa != 0 ? (uint32_t)HALF_QUIET << 13 : 0;
        return float_of(sign | INF_BITS | quiet | (mantissa << 13));
    }
    if (exponent == 0) {
        /* Zero or subnormal: mantissa * 2^-24 is exact in float. */
        const float magnitude = (float)mantissa * 0x1p-24f;
        return sign != 0 ? -magnitude : magnitude;
    }
    return float_of(sign | (((exponent | mantissa) << 13) + REBIAS));
}

fp16 fp16_from_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > INF_BITS) {
        return (fp16)(sign | HALF_EXP_BITS | HALF_QUIET | ((magnitude >> 13) & HALF_MANTISSA));
    }
    if (magnitude >= OVERFLOW_BITS) {
        return (fp16)(sign | HALF_EXP_BITS);
    }
    if (magnitude < MIN_NORMAL_BITS) {
        /* In [0.5, 1) one unit in the last place of a float is 2^-24, the spacing of subnormal halves: adding 0.5
         * rounds to nearest even there, and the low bits of the sum are the result. */
        const float sum = float_of(magnitude) + 0.5f;
        uint32_t sum_bits;
        memcpy(&sum_bits, &sum, sizeof sum_bits);
        return (fp16)(sign | (sum_bits - 0x3F000000u));
    }
    const uint32_t odd = (magnitude >> 13) & 1u;
    return (fp16)(sign | ((magnitude - REBIAS + 0x0FFFu + odd) >> 13));
}
