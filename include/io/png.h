/* PNG through libpng: 8-bit RGB pictures, and grids of them. */
#ifndef CUDISTILL_IO_PNG_H
#define CUDISTILL_IO_PNG_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

/* rgb: height x width x 3 bytes. *out: the file's bytes, caller frees. EXIT_INTERNAL when libpng refuses. */
Err *png_encode(const uint8_t *rgb, int height, int width, uint8_t **out, size_t *size);
/* Any PNG as 8-bit RGB (grey and palette expanded, alpha dropped, 16 bits reduced); at most max_pixels. EXIT_BAD_DATA.
 * Caller frees *rgb. */
Err *png_decode(const uint8_t *data, size_t size, size_t max_pixels, uint8_t **rgb, int *height,
                int *width);

/* `count` pictures of height x width x 3 in rows of `columns`, `gap` pixels of grey between them, each pixel drawn
 * scale x scale. Caller frees *rgb. */
void picture_grid(const uint8_t *pictures, int count, int height, int width, int columns, int gap,
                  int scale, uint8_t **rgb, int *grid_height, int *grid_width);

#endif
