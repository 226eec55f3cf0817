/* Ends of epochs, progress lines and checkpoints of a run. All steps in flight must have been accounted for, except for
 * epoch_progress. */
#ifndef CUDISTILL_TRAIN_EPOCH_H
#define CUDISTILL_TRAIN_EPOCH_H

#include "train/run.h"
#include "train/teacher_table.h"

/* Shows the run's state; when a line is due by log.every_s, the interval is recorded and a new one begins. */
void epoch_progress(Run *run);
/* Records what the interval holds, before a part of the run ends. */
void epoch_flush(Run *run);
/* A line and the event "memo" on where the teacher's logits of the epoch came from. */
void epoch_note_table(Run *run, const TableFill *fill);
/* Evaluates when due, records the epoch, saves the best weights, and (at its end, not where max_steps cut it short) moves
 * the state to the next epoch. */
void epoch_end(Run *run, bool ended);
bool epoch_save_due(const Run *run, bool epoch_ended);
/* Saves a checkpoint when one is due or when it must be. One that is only due waits for the next interval while updates
 * are being skipped because the gradient is not finite: the last checkpoint of sound values stays the newest. */
Err *epoch_save(Run *run, bool epoch_ended, bool must);

#endif
