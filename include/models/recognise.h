/* Which network a weight file holds, and why one does not fit. Pure functions of their arguments. */
#ifndef CUDISTILL_MODELS_RECOGNISE_H
#define CUDISTILL_MODELS_RECOGNISE_H

#include "graph/tensor.h"
#include "io/weights.h"
#include "models/models.h"

/* The network of the zoo whose tensors are exactly the file's, and its number of classes; NULL when
 * there is none. */
const ModelInfo *model_recognise(const WeightsFile *file, int *classes);

/* Of a file whose tensors are not the parameters under `prefix` (of those whose arena is not NULL):
 * the likely cause and the cure, in one sentence. In this order: another number of classes, the network that it holds exactly, a prefix
 * or module of another name (with the command that renames it), batch norm without its statistics,
 * the nearest network. Caller frees. */
char *model_cure(const Params *params, const char *prefix, const WeightsFile *file,
                 float *const arena[ARENA_COUNT]);

bool model_same_shape(const Param *p, const WeightEntry *entry);
/* num_batches_tracked, which is no parameter. */
bool model_is_counter(const char *name);

#endif
