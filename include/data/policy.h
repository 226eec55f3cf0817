/* Learned and random augmentation policies: AutoAugment, RandAugment and Cutout, on 8-bit RGB after crop and flip.
 *
 * Which operations a sample gets is a function of (seed, epoch, sample) and of the image's size: no state, any thread, any
 * order. A policy's draws and cutout's come from streams of their own, so that switching one changes nothing of the
 * other, nor of crop and flip. Pure functions throughout.
 *
 * The sources, and what they leave open:
 *   AutoAugment   Cubuk et al. 2019, the 25 sub-policies of ImageNet and of CIFAR-10 (also used on CIFAR-100). One is
 *                 drawn; its two operations come in order, each with its own probability; signs are random. Magnitude
 *                 0 .. 9 of: shear 0.3, translation 150/331 of the side in whole pixels, rotation 30 degrees, factors
 *                 1 +- 0.9, posterize 8 .. 4 bits, solarize 256 .. 0. Nearest, grey fill.
 *   RandAugment, timm's convention   n of 15 operations with replacement, each applied with probability 1/2. Magnitude
 *                 0 .. 10, with a normal deviation of mstd per operation, cut to 0 .. 10. Bilinear or bicubic at random,
 *                 grey fill. Without inc (timm's "inc1") Posterize and Solarize grow weaker with the magnitude, and
 *                 the factors go from 0.1 to 1.9. Translation up to 0.45 of the side, fractions of a pixel too.
 *   RandAugment, torchvision's convention   n of 14 operations (Identity, and neither Invert nor SolarizeAdd), all
 *                 applied. Magnitude is one of 31 bins: 9 is 9/30 of the range, about a third of timm's 9. Nearest,
 *                 black fill, translations in whole pixels.
 *   Cutout        DeVries and Taylor 2017: a square about a uniformly drawn pixel, cut off at the edges, in a colour
 *                 that the caller gives (the mean of the normalisation, which is what filling after it with 0 means). */
#ifndef CUDISTILL_DATA_POLICY_H
#define CUDISTILL_DATA_POLICY_H

#include "base/err.h"
#include "data/pil.h"
#include <stdbool.h>
#include <stdint.h>

enum {
    POLICY_MAX_OPS = 16,
    POLICY_MAX_CUTOUT = PIL_MAX_SIDE,
    POLICY_TIMM_LEVELS = 10,        /* the largest magnitude */
    POLICY_TORCHVISION_LEVELS = 30, /* of 31 bins */
    POLICY_UNIFORM_MSTD =
        100 /* mstd from here on: the magnitude is uniform in 0 .. m, as in timm */
};

/* The choices of augment.policy, in the order of PolicyKind. */
#define POLICY_NAMES                                                                               \
    "none|autoaugment_imagenet|autoaugment_cifar10|randaugment_timm|randaugment_torchvision"
typedef enum {
    POLICY_NONE,
    POLICY_AUTOAUGMENT_IMAGENET,
    POLICY_AUTOAUGMENT_CIFAR10,
    POLICY_RANDAUGMENT_TIMM,
    POLICY_RANDAUGMENT_TORCHVISION
} PolicyKind;

/* {0} = leave the image as it is. n, m, mstd and inc belong to RandAugment, the last two to timm's. */
typedef struct {
    PolicyKind kind;
    int n;       /* operations, 1 .. POLICY_MAX_OPS */
    double m;    /* magnitude */
    double mstd; /* >= 0 */
    bool inc;
    int cutout;         /* side of the square, pixels; 0 = none */
    double cutout_prob; /* 0 .. 1 */
    uint8_t cutout_fill[3];
} PolicySpec;

typedef struct {
    PilOp ops[POLICY_MAX_OPS];
    int n; /* operations to apply, in order; those that a probability left out are not among them */
    bool cut;
    int cut_x, cut_y;
} PolicyDraw;

/* Magnitudes out of their scale: EXIT_CONFIG_ERR; *key is the key of [augment] it is about, where key is not NULL. */
Err *policy_check(const PolicySpec *spec, const char **key);
bool policy_is_none(const PolicySpec *spec);

PolicyDraw policy_draw(const PolicySpec *spec, uint64_t seed, uint32_t epoch, uint32_t sample,
                       int height, int width);
/* In place; scratch as in pil_apply. */
void policy_apply(const PolicySpec *spec, const PolicyDraw *draw, uint8_t *image, int height,
                  int width, uint8_t *scratch);

/* The tables and scales behind policy_draw, for tests. */
enum { POLICY_SUBPOLICIES = 25, POLICY_NO_MAGNITUDE = -1 };
typedef struct {
    PilKind kind;
    double probability;
    int magnitude; /* 0 .. 9, or POLICY_NO_MAGNITUDE */
} PolicyStep;
/* kind: one of the two AutoAugments; [POLICY_SUBPOLICIES][2]. */
const PolicyStep (*policy_subpolicies(PolicyKind kind))[2];

#endif
