/* A data set that the program draws itself: nothing to download, the same bytes on every machine.
 *
 * 32 x 32 RGB. A class is a combination of three attributes, shape (8) x texture (6) x hue (4);
 * every class shares its shape with some classes and its texture or hue with others, so classes
 * have near and far neighbours and a teacher's soft labels say more than the hard label. Into each
 * figure a share of a neighbouring class (one with an attribute in common) is blended, mostly
 * little, now and then half: such images belong to two classes, which the hard label hides.
 * Everything else is nuisance: position, scale, rotation, colours within the hue, background,
 * distractors, occlusion, illumination, noise.
 *
 * Image i of a split is a function of (seed, classes, split, i) alone, drawn with Philox(seed,
 * split, i, RNG_SYNTH): train and test never share a stream, and a longer set begins with the
 * shorter one. Labels are i mod classes. Only + - * /, sqrt and floor are used in single precision
 * (no libm transcendental), so the bytes and the hash do not depend on machine or thread count. */
#ifndef CUDISTILL_DATA_SYNTHETIC_H
#define CUDISTILL_DATA_SYNTHETIC_H

#include "data/dataset.h"

enum {
    SYNTHETIC_SIDE = 32,
    SYNTHETIC_SHAPES = 8,
    SYNTHETIC_TEXTURES = 6,
    SYNTHETIC_HUES = 4,
    SYNTHETIC_MAX_CLASSES = 96,
    SYNTHETIC_MAX_COUNT = 10000000
};

typedef struct {
    int classes;          /* 2 .. SYNTHETIC_MAX_CLASSES */
    uint32_t train, test; /* images, 1 .. SYNTHETIC_MAX_COUNT */
    uint64_t seed;
} SyntheticConfig;

typedef struct {
    int shape, texture, hue;
} SyntheticClass;

SyntheticConfig synthetic_default(void);
/* "classes=20,train=4000,test=2000,seed=1": any subset, any order; empty or NULL = the defaults. */
Err *synthetic_parse(const char *options, SyntheticConfig *out);
Err *synthetic_open(const SyntheticConfig *config, Split split, Dataset **out);

/* The attributes of a class; distinct for distinct classes. */
SyntheticClass synthetic_class(int label);
int synthetic_label(const SyntheticConfig *config, uint32_t sample);
/* Draws one image into rgb[32*32*3], HWC. Thread-safe; `sample` may lie beyond the configured
 * counts. */
void synthetic_draw(const SyntheticConfig *config, Split split, uint32_t sample, uint8_t *rgb);

#endif
