/* The teacher's logits by sample, in place of the teacher in the step.
 *
 * The view of a sample in an epoch is a function of (seed, epoch, sample), so before an epoch begins its logits can be
 * looked up in the memo (distill/memo.h); what is missing is computed by the teacher's inference graph in batches of one
 * fixed size, the last one filled up by repeating a sample. The result goes into the step's input "teacher_table", and the
 * step gathers from it by sample id. With teacher.memo_batch equal to train.batch the logits are the bits that the step
 * would have computed, wherever a row's logits do not depend on its place in the batch: that is tried out when the table
 * is opened, and said where it does not hold. They may depend on the batch's size (oneDNN's convolutions in fp32 do), so
 * the samples of an epoch's last, smaller batch are always computed, in a batch of that size.
 *
 * Life cycle: teacher_table_open when the weights are loaded; the step's graph is then wired for a table; a fill before
 * the first step of every epoch and of a resumed one; teacher_table_close. Not for several threads. */
#ifndef CUDISTILL_TRAIN_TEACHER_TABLE_H
#define CUDISTILL_TRAIN_TEACHER_TABLE_H

#include "train/run.h"

typedef struct {
    long known, computed; /* views found in the memo, views that the teacher computed */
    double seconds;
    bool stopped; /* a signal or `until` came before all was done: nothing was uploaded */
} TableFill;

/* *out NULL: the teacher runs in every step (teacher.memo = off, or auto and not worth it, or no teacher). */
Err *teacher_table_open(const Run *run, TeacherTable **out);
/* What teacher_table_open would decide, for a dry run; touches nothing. */
bool teacher_table_wanted(const Run *run);
/* The executor that fills the table, of a dry run; the caller closes it. */
Err *teacher_table_plan(const Run *run, Exec **fill);
void teacher_table_close(TeacherTable *table); /* accepts NULL */
/* Logits of the samples of `epoch` from `position` on, into `step`'s table. No step may be in flight. until: now_s() at
 * which to leave off. */
TableFill teacher_table_fill(TeacherTable *table, Exec *step, uint32_t epoch, uint32_t position,
                             double until);

#endif
