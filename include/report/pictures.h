/* Pictures for pages: cut from a sheet, made small enough, encoded. */
#ifndef CUDISTILL_REPORT_PICTURES_H
#define CUDISTILL_REPORT_PICTURES_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

enum { PICTURE_SIDE_MAX = 96 };

/* The square of side * scale pixels at (left, top) of an RGB sheet `sheet_width` wide, drawn with scale x scale per
 * pixel, as RGB of *out_side: side, or the largest whole part of it up to PICTURE_SIDE_MAX (box means). Caller frees. */
uint8_t *picture_cut(const uint8_t *sheet, int sheet_width, int left, int top, int side, int scale,
                     int *out_side);

#endif
