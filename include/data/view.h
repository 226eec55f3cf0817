/* The picture that training sees of a sample: crop and flip (data/augment.h), then the policy (data/policy.h). The loader
 * makes its batches by it, and whoever shows or writes training pictures makes the same bytes. Pure functions. */
#ifndef CUDISTILL_DATA_VIEW_H
#define CUDISTILL_DATA_VIEW_H

#include "base/text.h"
#include "data/augment.h"
#include "data/policy.h"
#include <stdbool.h>
#include <stdint.h>

/* {0} = the images as they are. */
typedef struct {
    AugmentSpec crop;
    PolicySpec policy;
} ViewSpec;

bool view_is_plain(const ViewSpec *spec);

/* image and dst: [height][width][3], not overlapping. scratch: as many bytes, needed where the policy is not none (else it
 * may be NULL). */
void view_make(const ViewSpec *spec, uint64_t seed, uint32_t epoch, uint32_t sample,
               const uint8_t *image, int height, int width, uint8_t *dst, uint8_t *scratch);

/* Adds what was done to the sample, for people: `"dx":4,"dy":0,"flip":true`, and where the policy is not none
 * `,"policy":"Rotate 27, Posterize 4, cutout at 3,17"`. */
void view_json(Text *out, const ViewSpec *spec, uint64_t seed, uint32_t epoch, uint32_t sample,
               int height, int width);

#endif
