/* NumPy's .npy files, version 1.0 to 3.0, C order.
 * Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
#ifndef CUDISTILL_IO_NPY_H
#define CUDISTILL_IO_NPY_H

#include "io/weights.h"

/* The array as a weight file of one entry named "array". Little-endian numbers and bool, rank <= WEIGHT_RANK_MAX; Fortran
 * order, objects, structures, texts and big-endian arrays are refused by name, and so is a size that is not exactly the
 * shape's. EXIT_BAD_DATA. */
Err *npy_open(const char *path, WeightsFile **out);
/* The same from memory, which must live as long as the result. `name` stands for the file in messages. */
Err *npy_open_memory(const char *name, const uint8_t *data, size_t size, WeightsFile **out);
/* Writes the file atomically, version 1.0, byte for byte as numpy.save. bf16 has no NumPy type and is refused
 * (EXIT_BAD_DATA): widen it first. */
Err *npy_write(const char *path, WeightType type, int ndim, const int64_t *shape, const void *data);

#endif
