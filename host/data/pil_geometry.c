/* The affine transform in Pillow's three ways of computing it. Nearest: without shear and rotation a running sum of
 * doubles per axis, else 16.16 fixed point. Bilinear and bicubic: doubles per pixel. Each order of operations is
 * Pillow's, since the last bit of a coordinate decides which pixel is taken. */
#include "data/pil.h"

#include "base/err.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIXED_BITS = 16 };
static const double FIXED_ONE = 65536.0;
static const double FIXED_LIMIT = 32768.0;

typedef struct {
    const uint8_t *pixels;
    int height, width;
} Source;

static void put(uint8_t *dst, const uint8_t *pixel)
{
    dst[0] = pixel[0];
    dst[1] = pixel[1];
    dst[2] = pixel[2];
}

static const uint8_t *pixel_at(const Source *src, int y, int x)
{
    return src->pixels + ((size_t)y * (size_t)src->width + (size_t)x) * 3;
}

/* The pixel that a coordinate lies in; -1 left of the image. */
static int whole(double v)
{
    return v < 0.0 ? -1 : (int)v;
}

static void scale_nearest(const Source *src, const double a[6], const uint8_t fill[3], uint8_t *dst)
{
    double y_in = a[5] + a[4] * 0.5;
    for (int y = 0; y < src->height; y++) {
        const int from_y = whole(y_in);
        const bool inside = from_y >= 0 && from_y < src->height;
        double x_in = a[2] + a[0] * 0.5;
        for (int x = 0; x < src->width; x++) {
            const int from_x = whole(x_in);
            put(dst, inside && from_x >= 0 && from_x < src->width ? pixel_at(src, from_y, from_x)
                                                                  : fill);
            dst += 3;
            x_in += a[0];
        }
        y_in += a[4];
    }
}

static int32_t fixed(double v)
{
    return (int32_t)floor(v * FIXED_ONE + 0.5);
}

static void affine_nearest(const Source *src, const double a[6], const uint8_t fill[3],
                           uint8_t *dst)
{
    const int32_t step_x = fixed(a[0]);
    const int32_t step_y = fixed(a[3]);
    int32_t row_x = fixed(a[2] + a[0] * 0.5 + a[1] * 0.5);
    int32_t row_y = fixed(a[5] + a[3] * 0.5 + a[4] * 0.5);
    for (int y = 0; y < src->height; y++) {
        int32_t x_in = row_x;
        int32_t y_in = row_y;
        for (int x = 0; x < src->width; x++, dst += 3) {
            const int from_x = x_in >> FIXED_BITS;
            const int from_y = y_in >> FIXED_BITS;
            const bool inside =
                from_x >= 0 && from_x < src->width && from_y >= 0 && from_y < src->height;
            put(dst, inside ? pixel_at(src, from_y, from_x) : fill);
            x_in += step_x;
            y_in += step_y;
        }
        row_x += fixed(a[1]);
        row_y += fixed(a[4]);
    }
}

static int clip(int v, int size)
{
    return v < 0 ? 0 : v < size ? v : size - 1;
}

/* (x, y) lies in the image; its four neighbours are clipped to the edge. */
static void sample_bilinear(const Source *src, double x, double y, uint8_t *dst)
{
    const int left = (int)floor(x - 0.5);
    const int top = (int)floor(y - 0.5);
    const double dx = x - 0.5 - left;
    const double dy = y - 0.5 - top;
    const int right = clip(left + 1, src->width);
    const uint8_t *upper_left = pixel_at(src, clip(top, src->height), clip(left, src->width));
    const uint8_t *upper_right = pixel_at(src, clip(top, src->height), right);
    const uint8_t *lower_left = pixel_at(src, clip(top + 1, src->height), clip(left, src->width));
    const uint8_t *lower_right = pixel_at(src, clip(top + 1, src->height), right);
    for (int c = 0; c < 3; c++) {
        const double upper = upper_left[c] + (upper_right[c] - upper_left[c]) * dx;
        const double lower = lower_left[c] + (lower_right[c] - lower_left[c]) * dx;
        dst[c] = (uint8_t)(upper + (lower - upper) * dy);
    }
}

/* Keys' cubic with a = -1 through four values at -1, 0, 1, 2. */
static double cubic(double v1, double v2, double v3, double v4, double d)
{
    const double p2 = -v1 + v3;
    const double p3 = 2 * (v1 - v2) + v3 - v4;
    const double p4 = -v1 + v2 - v3 + v4;
    return v2 + d * (p2 + d * (p3 + d * p4));
}

static void sample_bicubic(const Source *src, double x, double y, uint8_t *dst)
{
    const int left = (int)floor(x - 0.5);
    const int top = (int)floor(y - 0.5);
    const double dx = x - 0.5 - left;
    const double dy = y - 0.5 - top;
    int columns[4];
    const uint8_t *rows[4];
    for (int i = 0; i < 4; i++) {
        columns[i] = 3 * clip(left - 1 + i, src->width);
        rows[i] = pixel_at(src, clip(top - 1 + i, src->height), 0);
    }
    for (int c = 0; c < 3; c++) {
        double v[4];
        for (int i = 0; i < 4; i++) {
            const uint8_t *row = rows[i] + c;
            v[i] = cubic(row[columns[0]], row[columns[1]], row[columns[2]], row[columns[3]], dx);
        }
        const double value = cubic(v[0], v[1], v[2], v[3], dy);
        dst[c] = value <= 0.0 ? 0 : value >= 255.0 ? 255 : (uint8_t)value;
    }
}

static void affine_filtered(const Source *src, const double a[6], PilFilter filter,
                            const uint8_t fill[3], uint8_t *dst)
{
    for (int y = 0; y < src->height; y++) {
        for (int x = 0; x < src->width; x++, dst += 3) {
            const double x_in = a[0] * (x + 0.5) + a[1] * (y + 0.5) + a[2];
            const double y_in = a[3] * (x + 0.5) + a[4] * (y + 0.5) + a[5];
            if (!(x_in >= 0.0 && x_in < src->width && y_in >= 0.0 && y_in < src->height)) {
                put(dst, fill);
            } else if (filter == PIL_BILINEAR) {
                sample_bilinear(src, x_in, y_in, dst);
            } else {
                sample_bicubic(src, x_in, y_in, dst);
            }
        }
    }
}

static void check_coordinates(const double a[6], int height, int width)
{
    for (int corner = 0; corner < 4; corner++) {
        const double x = corner & 1 ? width : 0;
        const double y = corner & 2 ? height : 0;
        CHECK(fabs(a[0] * x + a[1] * y + a[2]) < FIXED_LIMIT &&
                  fabs(a[3] * x + a[4] * y + a[5]) < FIXED_LIMIT,
              "the transform of %d x %d pixels reaches beyond %g", width, height, FIXED_LIMIT);
    }
}

void pil_affine(const uint8_t *src, int height, int width, const double a[6], PilFilter filter,
                const uint8_t fill[3], uint8_t *dst)
{
    const Source source = {src, height, width};
    check_coordinates(a, height, width);
    if (filter != PIL_NEAREST) {
        affine_filtered(&source, a, filter, fill, dst);
    } else if (a[1] == 0.0 && a[3] == 0.0) {
        scale_nearest(&source, a, fill, dst);
    } else {
        affine_nearest(&source, a, fill, dst);
    }
}

/* round(v, 15) of Python: the nearest decimal, ties by the exact binary value. */
static double round_15(double v)
{
    char text[32];
    (void)snprintf(text, sizeof text, "%.15f", v);
    return strtod(text, NULL);
}

void pil_rotation(double degrees, int height, int width, double a[6])
{
    CHECK(fabs(degrees) < 90.0, "a rotation by %g degrees", degrees);
    /* Pillow takes the angle modulo 360 first, which rounds it where it is negative. */
    const double turned = degrees < 0.0 ? degrees + 360.0 : degrees;
    const double angle = -(turned * (M_PI / 180.0));
    const double centre_x = width / 2.0;
    const double centre_y = height / 2.0;
    a[0] = round_15(cos(angle));
    a[1] = round_15(sin(angle));
    a[3] = round_15(-sin(angle));
    a[4] = a[0];
    a[2] = a[0] * -centre_x + a[1] * -centre_y + centre_x;
    a[5] = a[3] * -centre_x + a[4] * -centre_y + centre_y;
}

void pil_cutout(uint8_t *image, int height, int width, int x, int y, int side,
                const uint8_t fill[3])
{
    const int top = clip(y - side / 2, height + 1);
    const int bottom = clip(y - side / 2 + side, height + 1);
    const int left = clip(x - side / 2, width + 1);
    const int right = clip(x - side / 2 + side, width + 1);
    for (int row = top; row < bottom; row++) {
        uint8_t *pixel = image + ((size_t)row * (size_t)width + (size_t)left) * 3;
        for (int column = left; column < right; column++, pixel += 3) {
            put(pixel, fill);
        }
    }
}
