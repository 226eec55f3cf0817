/* The operations on values: look-up tables where a value's result depends on itself (and the histogram), blends in
 * single precision where it depends on its neighbours, as Pillow has them. */
#include "data/pil.h"

#include "base/err.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

enum { VALUES = 256, SOLARIZE_ADD_BELOW = 128 };

typedef struct {
    uint8_t of[3][VALUES];
} Table;

typedef struct {
    uint32_t of[3][VALUES];
} Histogram;

static const char *const names[PIL_KINDS] = {"Identity",  "AutoContrast", "Equalize",    "Invert",
                                             "Posterize", "Solarize",     "SolarizeAdd", "Color",
                                             "Contrast",  "Brightness",   "Sharpness",   "ShearX",
                                             "ShearY",    "TranslateX",   "TranslateY",  "Rotate"};

const char *pil_name(PilKind kind)
{
    return names[kind];
}

static size_t pixels_of(int height, int width)
{
    return (size_t)height * (size_t)width;
}

/* ---- Tables ---- */

static void apply_table(const Table *table, uint8_t *image, size_t pixels)
{
    for (size_t i = 0; i < pixels; i++, image += 3) {
        image[0] = table->of[0][image[0]];
        image[1] = table->of[1][image[1]];
        image[2] = table->of[2][image[2]];
    }
}

/* One table for the three channels. */
static void apply_values(const uint8_t values[VALUES], uint8_t *image, size_t pixels)
{
    for (size_t i = 0; i < 3 * pixels; i++) {
        image[i] = values[image[i]];
    }
}

static void count(const uint8_t *image, size_t pixels, Histogram *out)
{
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < pixels; i++, image += 3) {
        out->of[0][image[0]]++;
        out->of[1][image[1]]++;
        out->of[2][image[2]]++;
    }
}

static uint8_t clip_int(int v)
{
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static void identity_table(uint8_t out[VALUES])
{
    for (int v = 0; v < VALUES; v++) {
        out[v] = (uint8_t)v;
    }
}

/* Smallest and largest value that occur. */
static void range_of(const uint32_t histogram[VALUES], int *low, int *high)
{
    *low = 0;
    while (histogram[*low] == 0) {
        (*low)++;
    }
    *high = VALUES - 1;
    while (histogram[*high] == 0) {
        (*high)--;
    }
}

static void stretch_table(const uint32_t histogram[VALUES], uint8_t out[VALUES])
{
    int low;
    int high;
    range_of(histogram, &low, &high);
    if (high <= low) {
        identity_table(out);
        return;
    }
    const double scale = 255.0 / (high - low);
    const double offset = -low * scale;
    for (int v = 0; v < VALUES; v++) {
        out[v] = clip_int((int)(v * scale + offset));
    }
}

static void equal_table(const uint32_t histogram[VALUES], size_t pixels, uint8_t out[VALUES])
{
    int low;
    int high;
    range_of(histogram, &low, &high);
    const uint32_t step = ((uint32_t)pixels - histogram[high]) / 255;
    if (low == high || step == 0) {
        identity_table(out);
        return;
    }
    uint32_t sum = step / 2;
    for (int v = 0; v < VALUES; v++) {
        const uint32_t value = sum / step;
        out[v] = (uint8_t)(value < 255 ? value : 255);
        sum += histogram[v];
    }
}

static void by_histogram(PilKind kind, uint8_t *image, size_t pixels)
{
    Histogram histogram;
    Table table = {0};
    count(image, pixels, &histogram);
    for (int c = 0; c < 3; c++) {
        if (kind == PIL_EQUALIZE) {
            equal_table(histogram.of[c], pixels, table.of[c]);
        } else {
            stretch_table(histogram.of[c], table.of[c]);
        }
    }
    apply_table(&table, image, pixels);
}

static uint8_t point_value(const PilOp *op, int v)
{
    switch (op->kind) {
    case PIL_INVERT:
        return (uint8_t)(255 - v);
    case PIL_POSTERIZE:
        return (uint8_t)(v & (0xff << (8 - (int)op->value)));
    case PIL_SOLARIZE:
        return (uint8_t)(v < op->value ? v : 255 - v);
    default: /* PIL_SOLARIZE_ADD */
        return v < SOLARIZE_ADD_BELOW ? clip_int(v + (int)op->value) : (uint8_t)v;
    }
}

static void by_point(const PilOp *op, uint8_t *image, size_t pixels)
{
    CHECK(op->kind != PIL_POSTERIZE || (op->value >= 0 && op->value <= 8), "posterize to %g bits",
          op->value);
    uint8_t table[VALUES];
    for (int v = 0; v < VALUES; v++) {
        table[v] = point_value(op, v);
    }
    apply_values(table, image, pixels);
}

/* ---- Blends of the image with a plainer one ---- */

/* Truncated, not rounded. */
static uint8_t blend(int plain, int v, float factor)
{
    const float mixed = (float)plain + factor * (float)(v - plain);
    const float low = mixed > 0.0f ? mixed : 0.0f;
    return (uint8_t)(int)(low < 255.0f ? low : 255.0f);
}

static int grey(const uint8_t *pixel)
{
    return (pixel[0] * 19595 + pixel[1] * 38470 + pixel[2] * 7471 + 0x8000) >> 16;
}

static void blend_constant(int plain, float factor, uint8_t *image, size_t pixels)
{
    uint8_t table[VALUES];
    for (int v = 0; v < VALUES; v++) {
        table[v] = blend(plain, v, factor);
    }
    apply_values(table, image, pixels);
}

static void contrast(float factor, uint8_t *image, size_t pixels)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < pixels; i++) {
        sum += (uint64_t)grey(image + 3 * i);
    }
    blend_constant((int)((double)sum / (double)pixels + 0.5), factor, image, pixels);
}

static void color(float factor, uint8_t *image, size_t pixels)
{
    for (size_t i = 0; i < pixels; i++, image += 3) {
        const int plain = grey(image);
        image[0] = blend(plain, image[0], factor);
        image[1] = blend(plain, image[1], factor);
        image[2] = blend(plain, image[2], factor);
    }
}

/* The plain image is smoothed by [1 1 1; 1 5 1; 1 1 1]/13, rounded (13 is odd: there are no ties), except for the edge,
 * which stays. Images of fewer than three rows or columns are all edge. */
static void sharpness(float factor, uint8_t *image, int height, int width, uint8_t *scratch)
{
    const size_t row = (size_t)width * 3;
    memcpy(scratch, image, (size_t)height * row);
    for (int y = 1; y < height - 1; y++) {
        const uint8_t *above = scratch + (size_t)(y - 1) * row;
        const uint8_t *here = above + row;
        const uint8_t *below = here + row;
        uint8_t *out = image + (size_t)y * row;
        for (size_t i = 3; i + 3 < row; i++) {
            const int sum = above[i - 3] + above[i] + above[i + 3] + here[i - 3] + 5 * here[i] +
                            here[i + 3] + below[i - 3] + below[i] + below[i + 3];
            out[i] = blend((2 * sum + 13) / 26, here[i], factor);
        }
    }
}

/* ---- Geometry ---- */

static void by_matrix(const PilOp *op, uint8_t *image, int height, int width, uint8_t *scratch)
{
    double a[6] = {1, 0, 0, 0, 1, 0};
    switch (op->kind) {
    case PIL_SHEAR_X:
        a[1] = op->value;
        break;
    case PIL_SHEAR_Y:
        a[3] = op->value;
        break;
    case PIL_TRANSLATE_X:
        a[2] = op->value;
        break;
    case PIL_TRANSLATE_Y:
        a[5] = op->value;
        break;
    default: /* PIL_ROTATE */
        if (op->value == 0.0) {
            return;
        }
        pil_rotation(op->value, height, width, a);
        break;
    }
    memcpy(scratch, image, pixels_of(height, width) * 3);
    pil_affine(scratch, height, width, a, op->filter, op->fill, image);
}

void pil_apply(const PilOp *op, uint8_t *image, int height, int width, uint8_t *scratch)
{
    const size_t pixels = pixels_of(height, width);
    const float factor = (float)op->value;
    CHECK(height > 0 && width > 0 && height <= PIL_MAX_SIDE && width <= PIL_MAX_SIDE,
          "an image of %d x %d pixels", width, height);
    switch (op->kind) {
    case PIL_IDENTITY:
    case PIL_KINDS:
        break;
    case PIL_AUTO_CONTRAST:
    case PIL_EQUALIZE:
        by_histogram(op->kind, image, pixels);
        break;
    case PIL_INVERT:
    case PIL_POSTERIZE:
    case PIL_SOLARIZE:
    case PIL_SOLARIZE_ADD:
        by_point(op, image, pixels);
        break;
    case PIL_COLOR:
        color(factor, image, pixels);
        break;
    case PIL_CONTRAST:
        contrast(factor, image, pixels);
        break;
    case PIL_BRIGHTNESS:
        blend_constant(0, factor, image, pixels);
        break;
    case PIL_SHARPNESS:
        sharpness(factor, image, height, width, scratch);
        break;
    case PIL_SHEAR_X:
    case PIL_SHEAR_Y:
    case PIL_TRANSLATE_X:
    case PIL_TRANSLATE_Y:
    case PIL_ROTATE:
        by_matrix(op, image, height, width, scratch);
        break;
    }
}
