/* Ends of epochs, progress lines and checkpoints of a run. All steps in flight must have been accounted for, except for
 * epoch_progress. */
#ifndef CUDISTILL_TRAIN_EPOCH_H
#define CUDISTILL_TRAIN_EPOCH_H

#include "train/run.h"
#include "train/teacher_table.h"

/* A line on stderr and one in metrics.jsonl when log.every_s have passed since the last. */
void epoch_progress(Run *run);
/* A line on stderr and the event "memo" in metrics.jsonl on where the teacher's logits of the epoch came from. */
void epoch_note_table(Run *run, const TableFill *fill);
/* Evaluates when due, records the epoch, saves the best weights, and (at its end, not where max_steps cut it short) moves
 * the state to the next epoch. */
void epoch_end(Run *run, bool ended);
bool epoch_save_due(const Run *run, bool epoch_ended);
/* Saves a checkpoint when one is due or when it must be. */
Err *epoch_save(Run *run, bool epoch_ended, bool must);

#endif
