/* Where a step's time goes, measured: some steps run node by node, with the host waiting for each (exec_run_watched), and
 * every node counts for the teacher, the student (its forward pass, the loss, the gradient), the update (optimizer and
 * packing of the new weights), or the data (uploads, and views that are made on the device). Such a step has the same
 * bits as others and costs a few waits more, so few are clocked: the third of a part of the run, when everything is
 * warm, and the first after each progress line.
 *
 * Life cycle: phases_open when the executors are; per step phases_due; phases_close. One thread. */
#ifndef CUDISTILL_TRAIN_PHASES_H
#define CUDISTILL_TRAIN_PHASES_H

#include "train/run.h"

PhaseClock *phases_open(const Run *run);
void phases_close(PhaseClock *clock); /* accepts NULL */
/* Whether the step about to be submitted is to be clocked. */
bool phases_due(PhaseClock *clock);
/* The next step shall be. */
void phases_ask(PhaseClock *clock);

/* A clocked step: phases_begin, then its runs and transfers through the other calls, then phases_end, which adds the
 * seconds to a meter's phase_s. The device is idle after each call. */
void phases_begin(PhaseClock *clock);
void phases_run(PhaseClock *clock, Exec *exec, const ExecRun *run);
/* What was submitted since the last call, packing or transfers, was for `phase`. */
void phases_lap(PhaseClock *clock, ProgressShare phase);
void phases_end(const PhaseClock *clock, Meter *meter);

#endif
