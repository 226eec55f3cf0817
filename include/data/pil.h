/* Pillow's operations on 8-bit RGB images, the ones that AutoAugment and RandAugment are made of.
 *
 * Results equal Pillow's in every pixel (checked against Pillow 13): its rounding, its fixed-point
 * affine transform, its untouched edge pixels under sharpening, its look-up tables. Images are
 * [height][width][3] bytes, both sides 1 .. PIL_MAX_SIDE. Pure functions: no state, any thread; nothing
 * is allocated. Coordinates: x to the right, y down, pixel centres at .5.
 *
 * Source: the documented behaviour of PIL.ImageOps, PIL.ImageEnhance, Image.transform, Image.rotate. */
#ifndef CUDISTILL_DATA_PIL_H
#define CUDISTILL_DATA_PIL_H

#include <stdint.h>

enum { PIL_MAX_SIDE = 8192 };

typedef enum { PIL_NEAREST, PIL_BILINEAR, PIL_BICUBIC } PilFilter;

/* What an operation's value means. */
typedef enum {
    PIL_IDENTITY,
    PIL_AUTO_CONTRAST, /* ImageOps.autocontrast: each channel stretched to 0..255 */
    PIL_EQUALIZE,      /* ImageOps.equalize */
    PIL_INVERT,        /* 255 - v */
    PIL_POSTERIZE,     /* bits kept, whole, 0 .. 8; 8: unchanged; 0: black (Pillow refuses 0) */
    PIL_SOLARIZE,      /* threshold: values from it on are inverted */
    PIL_SOLARIZE_ADD,  /* whole, >= 0: added to values below 128, up to 255 */
    PIL_COLOR,         /* ImageEnhance's factor of the four: 0 the plain image, 1 unchanged */
    PIL_CONTRAST,
    PIL_BRIGHTNESS,
    PIL_SHARPNESS,
    PIL_SHEAR_X,     /* x_in = x + value y */
    PIL_SHEAR_Y,     /* y_in = y + value x */
    PIL_TRANSLATE_X, /* x_in = x + value, pixels: a positive value moves the picture left */
    PIL_TRANSLATE_Y,
    PIL_ROTATE, /* degrees counterclockwise about the centre, -90 < value < 90 */
    PIL_KINDS
} PilKind;

typedef struct {
    PilKind kind;
    PilFilter filter; /* of the five geometric ones */
    uint8_t fill[3];  /* their pixels from outside the image */
    double value;
} PilOp;

const char *pil_name(PilKind kind); /* "AutoContrast", as the papers write it */

/* In place. scratch: as many bytes as the image has, not overlapping it; holds nothing of use after. */
void pil_apply(const PilOp *op, uint8_t *image, int height, int width, uint8_t *scratch);

/* Image.transform(size, AFFINE, (a[0] .. a[5]), filter, fillcolor=fill): pixel (x, y) of dst is the source at
 * (a0 x + a1 y + a2, a3 x + a4 y + a5). dst must not overlap src. */
void pil_affine(const uint8_t *src, int height, int width, const double a[6], PilFilter filter,
                const uint8_t fill[3], uint8_t *dst);

/* The matrix of Image.rotate. */
void pil_rotation(double degrees, int height, int width, double a[6]);

/* A square of `side` pixels about (x, y), cut off at the edges: rows y - side/2 .. y - side/2 + side - 1. */
void pil_cutout(uint8_t *image, int height, int width, int x, int y, int side,
                const uint8_t fill[3]);

#endif
