/* The executors of a run. In a dry run (run->dry) they are planned and prepared, and take no memory. */
#ifndef CUDISTILL_TRAIN_GRAPHS_H
#define CUDISTILL_TRAIN_GRAPHS_H

#include "train/run.h"

/* Settles scaling, capture and the step's wiring but for `table`, which the caller decides. EXIT_CONFIG_ERR for a switch
 * that this backend cannot have. */
Err *graphs_settle(Run *run);
/* Opens step, update and eval, bound to the store, with one scratch memory for all three. */
Err *graphs_open(Run *run);

#endif
