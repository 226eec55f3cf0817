/* 16-bit floating-point storage: conversions, round to nearest even, NaN stays NaN. All arithmetic is fp32. */
#ifndef CUDISTILL_BASE_HALF_H
#define CUDISTILL_BASE_HALF_H

#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;
typedef uint16_t fp16;

static inline float bf16_to_float(bf16 x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

static inline bf16 bf16_from_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t nan =
        (bits >> 16) | 0x40u; /* quiet: truncation could turn a NaN into infinity */
    return (bf16)((bits & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded);
}

float fp16_to_float(fp16 x);
fp16 fp16_from_float(float x);

#endif
