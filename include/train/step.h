/* Steps in flight. A step is submitted without waiting; its sums are looked at one step later. */
#ifndef CUDISTILL_TRAIN_STEP_H
#define CUDISTILL_TRAIN_STEP_H

#include "train/run.h"

/* Makes the events; once, after the backend is open. */
void step_open(Run *run);
/* Runs the objective's phases, the update and the packing of new weights on `batch`, which is given back to the loader
 * when the step is accounted for. Advances state.step and state.position. */
void step_submit(Run *run, const Batch *batch);
/* Accounts for the step before the one just submitted: meters, images, non-finite gradients (EXIT_NOT_FINITE after
 * train.max_nonfinite skipped updates in a row). */
Err *step_land_previous(Run *run);
/* The same for every step in flight: before an evaluation, a checkpoint, the end. */
Err *step_land_all(Run *run);

#endif
