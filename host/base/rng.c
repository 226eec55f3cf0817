/* Philox4x32-10 and the draws made from it. A stream's 128-bit counter holds (block, epoch, sample, purpose) and its
 * key holds the seed, so two streams differ whenever any of these does; nothing is stored between uses.
 * Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11. */
#include "base/rng.h"

#include "base/err.h"

#include <math.h>

enum { PHILOX_ROUNDS = 10, PURPOSE_SHIFT = 24 };

static const uint32_t MULTIPLIER_0 = 0xD2511F53u;
static const uint32_t MULTIPLIER_1 = 0xCD9E8D57u;
static const uint32_t WEYL_0 = 0x9E3779B9u; /* golden ratio */
static const uint32_t WEYL_1 = 0xBB67AE85u; /* sqrt(3) - 1 */

Philox4 philox4x32_10(Philox4 counter, uint32_t key0, uint32_t key1)
{
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        const uint64_t product0 = (uint64_t)MULTIPLIER_0 * counter.v[0];
        const uint64_t product1 = (uint64_t)MULTIPLIER_1 * counter.v[2];
        const Philox4 next = {{(uint32_t)(product1 >> 32) ^ counter.v[1] ^ key0, (uint32_t)product1,
                               (uint32_t)(product0 >> 32) ^ counter.v[3] ^ key1,
                               (uint32_t)product0}};
        counter = next;
        key0 += WEYL_0;
        key1 += WEYL_1;
    }
    return counter;
}

/* The purpose sits in the top byte of the last word, over bits 56 to 63 of the sample: streams are distinct for
 * samples below 2^56, and for all samples of one purpose. */
Rng rng_make(uint64_t seed, uint32_t epoch, uint64_t sample, RngPurpose purpose)
{
    const Rng rng = {
        .counter = {{0, epoch, (uint32_t)sample,
                     (uint32_t)(sample >> 32) ^ ((uint32_t)purpose << PURPOSE_SHIFT)}},
        .key = {(uint32_t)seed, (uint32_t)(seed >> 32)},
        .used = 4,
    };
    return rng;
}

uint32_t rng_u32(Rng *rng)
{
    if (rng->used == 4) {
        rng->block = philox4x32_10(rng->counter, rng->key[0], rng->key[1]);
        rng->counter.v[0]++;
        rng->used = 0;
    }
    return rng->block.v[rng->used++];
}

/* Lemire, "Fast random integer generation in an interval" (2019): the high word of draw * bound is uniform once
 * the draws whose low word lies below 2^32 mod bound are refused. */
uint32_t rng_below(Rng *rng, uint32_t bound)
{
    CHECK(bound > 0, "no number lies in [0, 0)");
    const uint32_t refused = (0u - bound) % bound;
    uint64_t product = (uint64_t)rng_u32(rng) * bound;
    while ((uint32_t)product < refused) {
        product = (uint64_t)rng_u32(rng) * bound;
    }
    return (uint32_t)(product >> 32);
}

float rng_uniform(Rng *rng)
{
    return (float)(rng_u32(rng) >> 8) * 0x1p-24f;
}

double rng_normal(Rng *rng)
{
    const double radius = sqrt(-2.0 * log(((double)rng_u32(rng) + 1.0) * 0x1p-32)); /* of (0, 1] */
    const double turn = (double)rng_u32(rng) * 0x1p-32;
    return radius * cos(2.0 * M_PI * turn);
}

void rng_permutation(uint64_t seed, uint32_t epoch, uint32_t *order, uint32_t n)
{
    Rng rng = rng_make(seed, epoch, 0, RNG_SHUFFLE);
    for (uint32_t i = 0; i < n; i++) {
        order[i] = i;
    }
    for (uint32_t i = n; i > 1; i--) {
        const uint32_t j = rng_below(&rng, i);
        const uint32_t kept = order[i - 1];
        order[i - 1] = order[j];
        order[j] = kept;
    }
}
