/* What the two networks say of the test set: predictions/{teacher,student}.npy, labels.npy (train/rundir.h), and how often
 * they agree. Logits are kept where settings.log_predictions and their size allow; the predicted classes always. Functions
 * that write return the error of the first file that could not be written; the figures hold all the same. */
#ifndef CUDISTILL_TRAIN_PREDICTIONS_H
#define CUDISTILL_TRAIN_PREDICTIONS_H

#include "train/run.h"

#define PREDICTIONS_MAX_BYTES ((size_t)512 << 20) /* of one network */

typedef struct {
    bool wanted;      /* logits go to files */
    int32_t *teacher; /* [test images] classes that the teacher chose; NULL: unknown */
} Predictions;

/* A resumed run takes the teacher's classes from the file of its earlier part. */
void predictions_open(const Run *run, Predictions *out);
void predictions_close(Predictions *predictions);

/* Evaluates the teacher with `exec` on the test set and leaves off at a signal. energies may be NULL: [test images]. */
Err *predictions_check_teacher(Predictions *predictions, const Run *run, Exec *exec,
                               float *energies, EvalResult *result);
/* Evaluates the student (run->eval, refreshed). *agreement: percent of the test set, < 0 = unknown. */
Err *predictions_evaluate_student(const Predictions *predictions, const Run *run,
                                  EvalResult *result, double *agreement);

#endif
