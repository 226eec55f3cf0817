/* Sets of tensors on their way from one format to another: weight files (safetensors, .pth), single arrays (.npy) and
 * folders of arrays, one a tensor.
 *
 * Life cycle: tensors_read, any number of the changes in any order, one of the writers, tensors_free. A change that
 * returns an error leaves the set as it was. Not for several threads. Data that needs no change is written from where it
 * lies in the source file. */
#ifndef CUDISTILL_IO_CONVERT_H
#define CUDISTILL_IO_CONVERT_H

#include "io/safetensors.h"
#include "io/weights.h"

#include <stdbool.h>

typedef struct {
    SafeTensor *tensors; /* `name` is owned; the data lies in a file or a buffer */
    size_t count;
    /* private */
    size_t capacity;
    WeightsFile **files;
    size_t file_count;
    size_t file_capacity;
    void **buffers;
    size_t buffer_count;
    size_t buffer_capacity;
} TensorSet;

/* A weight file with its names tidied (io/weights.h), one array, or all *.npy of a folder, in the order of their names.
 * An array takes `name`, or where that is NULL, its file's name without ".npy" (tensors_npy_name undone). What the file
 * is, its content says. EXIT_BAD_DATA, EXIT_NO_INPUT. On error *out is empty. */
Err *tensors_read(const char *path, const char *name, TensorSet *out);
void tensors_free(TensorSet *set);

/* Keeps the named tensors only. EXIT_USAGE_ERR with a suggestion when one is not there. */
Err *tensors_keep(TensorSet *set, const char *const *names, size_t count);
/* Names that begin with `old` begin with `new` instead. EXIT_USAGE_ERR when none does, or when a name becomes empty or
 * that of another tensor. */
Err *tensors_rename(TensorSet *set, const char *old, const char *new);
/* Tensors of F16, BF16, F32 and F64 become `type` (F16, BF16 or F32), rounded once, to nearest even; others stay.
 * EXIT_BAD_DATA when a finite value would become an infinity. */
Err *tensors_cast(TensorSet *set, WeightType type);
/* BF16, for which NumPy has no type, becomes F32. Returns how many tensors there were. */
size_t tensors_widen_bf16(TensorSet *set);

/* metadata: as safetensors_write takes it. */
Err *tensors_write_safetensors(const TensorSet *set, const char *path, const char *const *metadata);
/* A folder of .npy files that appears whole or not at all, beside which nothing is left after an error. Where it exists,
 * EXIT_CANT_CREATE, but with `replace`: the older folder goes, unless it holds anything but .npy files. */
Err *tensors_write_folder(const TensorSet *set, const char *path, bool replace);

/* File name of a tensor: letters, digits, '_', '-' and '.' (not in front) stand for themselves, other bytes as %XX; so
 * no name leaves the folder or hides in it, and no two meet. Caller frees. */
char *tensors_npy_name(const char *tensor);

#endif
