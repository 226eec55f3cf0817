/* The training loop and its end. */
#ifndef CUDISTILL_TRAIN_TRAIN_H
#define CUDISTILL_TRAIN_TRAIN_H

#include "train/run.h"

/* What a finished (or earlier finished) run is worth. Percent; < 0 = none. */
typedef struct {
    double best_top1, last_top1, last_top5, teacher_top1, teacher_top5;
    double agreement; /* of student and teacher on the test set, in the last evaluation */
    uint32_t best_epoch, epochs;
    double train_seconds, images_per_s;
    long steps, nonfinite; /* nonfinite: updates that were skipped */
    bool resident;         /* batches were made on the device */
    char out[4096];        /* the folder: settings->out, or the one that --resume never chose */
    int recordings; /* kinds of steps that were recorded and replayed by this part of the run */
} RunResult;

/* Opens, prepares, trains to the end, saves, closes. EXIT_PREEMPTED / EXIT_INTERRUPTED after a signal (checkpoint
 * written), EXIT_PREEMPTED too when the time limit came, EXIT_NOT_FINITE after too many skipped updates. result may be
 * NULL. */
Err *train_run(const Settings *settings, Resume resume, RunResult *result);

/* The loop: from the run's state to the last step. */
Err *train(Run *run);

#endif
