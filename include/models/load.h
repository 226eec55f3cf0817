/* Network parameters to and from named tensors in the ecosystem's layout: convolution weights are
 * O,I,Kh,Kw in files and O,Kh,Kw,I in arenas; everything else is the same in both. Names in files
 * are the parameters' names without the network's prefix.
 *
 * Life cycle of a save: model_save_entries, safetensors_write, model_entries_free; the arenas and
 * Params must live and stay unchanged in between. Thread rules: functions write to what they are
 * given only.
 *
 * An arena that is NULL leaves its parameters out in both directions: with only ARENA_WEIGHT set
 * (to the momentum, whose layout is the same) the optimizer's state travels by the same names. */
#ifndef CUDISTILL_MODELS_LOAD_H
#define CUDISTILL_MODELS_LOAD_H

#include "base/err.h"
#include "graph/tensor.h"
#include "io/safetensors.h"
#include "io/weights.h"
#include "models/models.h"
#include "models/recognise.h"

/* Fills the parameters under `prefix` from the file. F32, F16, BF16 and F64 are converted to fp32.
 * Strict: every parameter must be there in its shape, and every tensor of the file must be a
 * parameter; num_batches_tracked is ignored, present or not. EXIT_BAD_DATA lists what is missing,
 * unexpected or of another shape or type (the first few of each, with both shapes) and says what is
 * likely to be the cause (models/recognise.h). EXIT_BAD_DATA also names the first tensor with a NaN,
 * an infinity or a value beyond fp32, and its first such element. Nothing has been written after an
 * error. */
Err *model_load_weights(const Params *params, const char *prefix, const WeightsFile *file,
                        float *const arena[ARENA_COUNT]);

typedef struct {
    SafeTensor *tensors; /* in the order of PyTorch's state_dict */
    size_t count;
    /* private */
    float *copies; /* transposed convolution weights */
    char *names;   /* of num_batches_tracked */
    int64_t *batches;
} ModelEntries;

/* The parameters under `prefix` as tensors to write, F32. When the running statistics are among
 * them, each batch norm also gets num_batches_tracked (I64 scalar) with the value `batches`. */
ModelEntries model_save_entries(const Params *params, const char *prefix,
                                float *const arena[ARENA_COUNT], int64_t batches);
void model_entries_free(ModelEntries *entries); /* accepts a zeroed struct */

#endif
