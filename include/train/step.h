/* Steps in flight. A step is submitted without waiting; its sums are looked at one step later. */
#ifndef CUDISTILL_TRAIN_STEP_H
#define CUDISTILL_TRAIN_STEP_H

#include "train/run.h"

/* Makes the events and the memory of the flights; once, after the backend is open. EXIT_DEVICE_MEMORY. */
Err *step_open(Run *run);
/* Waits for the device and frees the same, recordings included. Before the executors are closed. */
void step_close(Run *run);
/* Runs the objective's phases, the update and the packing of new weights on `batch`, which is given back to the feed
 * when the step is accounted for. A clocked step (train/phases.h) waits. Advances state.step and state.position. With run->capture a step of one kind (rows,
 * flight, phases) runs plainly the first time, is recorded the second time, and from then on replayed. */
void step_submit(Run *run, const Batch *batch);
/* Accounts for the step before the one just submitted: meters, images, loss scale, non-finite gradients (EXIT_NOT_FINITE
 * after train.max_nonfinite updates in a row that were skipped although the loss scale, if there is a dynamic one, could
 * fall no further). */
Err *step_land_previous(Run *run);
/* The same for every step in flight: before an evaluation, a checkpoint, the end. */
Err *step_land_all(Run *run);
/* A step took so many seconds, wait_s of them waiting for its batch; before it, filling the teacher's table took fill_s. */
void step_add_time(Run *run, double fill_s, double seconds, double wait_s);
/* Kinds of steps recorded so far. */
int step_recordings(const Run *run);

#endif
