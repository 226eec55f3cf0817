/* What comes before step 1: the teacher's check and the passes an objective asks for. */
#ifndef CUDISTILL_TRAIN_PREPARE_H
#define CUDISTILL_TRAIN_PREPARE_H

#include "train/run.h"

/* Evaluates the teacher on the test set. EXIT_TEACHER when expect_top1 is given and missed by more than the tolerance;
 * a warning when it is no better than chance. Fills state.teacher_top1. */
Err *prepare_check_teacher(Run *run);
/* The objective's preparations: the teacher over one augmented, shuffled pass of the training set without an incomplete
 * last batch, a column of the row exports collected and turned into what the loss reads (Energy KD: state.theta). */
Err *prepare_passes(Run *run);

/* An evaluation graph of one of the run's networks, bound to its weights, for batches of up to `batch` images. */
Err *run_eval_exec(const Run *run, const NetSpec *net, const char *prefix, int batch, Exec **exec);
/* The activation type for a wanted precision on this backend; EXIT_NO_DEVICE when it cannot be had. */
Err *precision_choose(Backend *backend, Precision wanted, DType *act);

#endif
