/* Whether the disk has room for what a run will write. */
#ifndef CUDISTILL_TRAIN_SPACE_H
#define CUDISTILL_TRAIN_SPACE_H

#include "train/run.h"

/* Bytes that the run's folder will hold at its largest: checkpoints (one more than are kept, while a new one is written),
 * last and best weights, predictions, and a little for logs. */
size_t space_needed(const Run *run);
/* A warning with the numbers where less is free. A resumed run has most of it already and is not asked. */
void space_warn(const Run *run);

#endif
