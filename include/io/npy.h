/* NumPy's .npy files, version 1.0 to 3.0, C order.
 * Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
#ifndef CUDISTILL_IO_NPY_H
#define CUDISTILL_IO_NPY_H

#include "io/weights.h"

/* The array as a weight file of one entry named "array". Little-endian numbers, bool; Fortran order, objects, structures
 * and big-endian arrays are refused by name. EXIT_BAD_DATA. */
Err *npy_open(const char *path, WeightsFile **out);
/* Writes the file atomically, version 1.0. bf16 has no NumPy type and is refused: widen it first. */
Err *npy_write(const char *path, WeightType type, int ndim, const int64_t *shape, const void *data);

#endif
