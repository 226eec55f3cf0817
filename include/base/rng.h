/* Randomness is a function, not a state: Philox4x32-10 keyed by (seed, epoch, sample, purpose).
 * The same numbers come out on host and device, for any number of threads or ranks.
 * Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC'11); checked against Random123. */
#ifndef CUDISTILL_BASE_RNG_H
#define CUDISTILL_BASE_RNG_H

#include <stdint.h>

typedef struct {
    uint32_t v[4];
} Philox4;

/* What a draw is for. Part of the key: never renumber, only append. */
typedef enum {
    RNG_INIT = 1,    /* parameter initialisation: sample = parameter index */
    RNG_SHUFFLE = 2, /* order of samples in an epoch */
    RNG_CROP = 3,
    RNG_FLIP = 4,
    RNG_SYNTH = 5, /* the synthetic data set */
    RNG_MIX = 6,
    RNG_AUGMENT = 7, /* AutoAugment, RandAugment */
    RNG_CUTOUT = 8,
    RNG_TEST = 99
} RngPurpose;

Philox4 philox4x32_10(Philox4 counter, uint32_t key0, uint32_t key1);

/* A stream of draws for one (seed, epoch, sample, purpose); cheap to make, nothing to free. */
typedef struct {
    Philox4 counter;
    uint32_t key[2];
    Philox4 block;
    int used;
} Rng;

Rng rng_make(uint64_t seed, uint32_t epoch, uint64_t sample, RngPurpose purpose);
uint32_t rng_u32(Rng *rng);
uint32_t rng_below(Rng *rng,
                   uint32_t bound); /* uniform in [0, bound), exact (rejection); bound > 0 */
float rng_uniform(Rng *rng);        /* [0, 1), 24 bits */
double rng_normal(Rng *rng);        /* mean 0, deviation 1 (Box-Muller, one of each pair) */

/* order[0..n) becomes a permutation of 0..n-1, a function of (seed, epoch) alone. */
void rng_permutation(uint64_t seed, uint32_t epoch, uint32_t *order, uint32_t n);

#endif
