/* Random crop after zero padding, and horizontal flip, on RGB bytes.
 *
 * Same meaning as torchvision's RandomCrop(size, padding=pad) followed by RandomHorizontalFlip(0.5)
 * on an 8-bit image: the border is black (0) before normalisation; the normalisation itself belongs
 * to the network's graph. Which view a sample gets is a function of (seed, epoch, sample): no
 * state, any thread, any order. Views can be numbered (pad 4 and flip: 162), which is what the
 * teacher's memo uses. Pure functions throughout. */
#ifndef CUDISTILL_DATA_AUGMENT_H
#define CUDISTILL_DATA_AUGMENT_H

#include <stdbool.h>
#include <stdint.h>

enum { AUGMENT_MAX_PAD = 127 };

typedef struct {
    int pad;   /* pixels of zero on each side, 0 .. AUGMENT_MAX_PAD; 0 = no crop */
    bool flip; /* mirror left to right with probability 1/2 */
} AugmentSpec;

typedef struct {
    uint8_t dx, dy; /* left and top edge of the crop in the padded image, 0 .. 2*pad */
    bool flip;      /* mirror after cropping */
} AugmentView;

AugmentView augment_view(uint64_t seed, uint32_t epoch, uint32_t sample, AugmentSpec spec);
AugmentView augment_identity(AugmentSpec spec); /* the view that returns the image itself */

int augment_view_count(AugmentSpec spec); /* (2*pad + 1)^2, twice that with flip */
/* A number in [0, augment_view_count) and back: (flip * (2*pad + 1) + dy) * (2*pad + 1) + dx. */
int augment_view_index(AugmentSpec spec, AugmentView view);
AugmentView augment_view_at(AugmentSpec spec, int index);

/* Writes the view of src (height x width x 3 bytes) to dst (same size); they must not overlap. */
void augment_apply(AugmentSpec spec, AugmentView view, const uint8_t *src, int height, int width,
                   uint8_t *dst);

#endif
