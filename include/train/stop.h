/* Whether a run has been asked to leave: by a signal, or by train.time_limit, which leaves room for what is still to be
 * done: the step, the evaluation of an epoch that ends with it, twice what the last checkpoint took, and a second for
 * the end of the process. */
#ifndef CUDISTILL_TRAIN_STOP_H
#define CUDISTILL_TRAIN_STOP_H

#include "train/run.h"

enum { STOP_NO = 0, STOP_TIME = -1 };

/* STOP_NO, STOP_TIME or the number of the signal. */
int stop_asked(const Run *run);
/* now_s() at which the run must begin to leave; INFINITY without a limit. */
double stop_time(const Run *run);
/* What the process ends with, its checkpoint written. */
Err *stop_error(const Run *run, int stop);

#endif
