/* safetensors: 8 bytes little-endian header length, a JSON header, the data.
 * Source: https://github.com/huggingface/safetensors (format description and reference reader). */
#ifndef CUDISTILL_IO_SAFETENSORS_H
#define CUDISTILL_IO_SAFETENSORS_H

#include "io/weights.h"

/* Maps the file and checks it as the reference reader does: header length and JSON, no duplicate key, offsets that
 * follow one another from 0 to the end of the file without hole or overlap, sizes that equal shape x element size,
 * no overflow. Element types beyond WeightType (the 4-, 6- and 8-bit floats, complex) are refused by name. */
Err *safetensors_open(const char *path, WeightsFile **out);
/* The same from memory, which must live as long as the result. `name` stands for the file in messages. */
Err *safetensors_open_memory(const char *name, const uint8_t *data, size_t size, WeightsFile **out);

/* A tensor to write. */
typedef struct {
    const char *name; /* unique, UTF-8 */
    WeightType type;
    int ndim;
    int64_t shape[WEIGHT_RANK_MAX];
    const void *data; /* dense, row-major, of the size that type and shape give */
} SafeTensor;

/* Writes the file atomically, byte for byte as the reference writer would: tensors by descending alignment rank, then
 * by name, header padded with spaces to a multiple of 8. metadata: key, value, ..., NULL; may be NULL. PyTorch's
 * loaders expect "format" = "pt" in it. EXIT_BAD_DATA when a text is not UTF-8. */
Err *safetensors_write(const char *path, const SafeTensor *tensors, size_t count,
                       const char *const *metadata);

#endif
