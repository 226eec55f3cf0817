/* status.prom: the gauges of a run for a text-file collector, all of them with the label run="NAME".
 *
 *     cudistill_up 1 while the program works on the run       cudistill_epoch, _epochs, _step
 *     cudistill_loss, _loss_term{term="KD"}, _train_top1, _learning_rate, _images_per_second, _phase_share{phase="data"}
 *     cudistill_eval_top1, _best_top1, _teacher_top1          cudistill_nonfinite_updates, _checkpoint_step, _eta_seconds
 *
 * What is not known yet is left out. */
#ifndef CUDISTILL_TRAIN_STATUS_H
#define CUDISTILL_TRAIN_STATUS_H

#include "train/run.h"

/* What the gauges of the interval showed last: between intervals they stay. */
typedef struct {
    bool measured;
    double loss, top1, lr, images_per_s, eta_s; /* eta_s < 0: unknown */
    double parts[OBJECTIVE_MAX_PARTS];
    double phases[METER_PHASES]; /* phases[0] < 0: unknown */
    long checkpoint_step;        /* < 0: none yet */
} Status;

/* Takes run->interval over. */
void status_measure(Status *status, const Run *run, double eta_s);
Err *status_write(const Status *status, const Run *run, bool up);

#endif
