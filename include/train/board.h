/* A run's TensorBoard events: tags
 *     train/{loss,loss_CE,loss_KD...,top1,teacher_top1,agreement,lr,images_per_s}, phase/{data,teacher,student,update}
 *     epoch/{train_loss,train_top1,images_per_s}, eval/{top1,top5,loss,teacher_top1}
 *     weights/NAME (histograms), and by samples.h: samples, teacher/energy.
 * The step of every event is the number of finished optimizer steps. */
#ifndef CUDISTILL_TRAIN_BOARD_H
#define CUDISTILL_TRAIN_BOARD_H

#include "io/events.h"
#include "train/metrics.h"
#include "train/run.h"

enum {
    BOARD_MAX_VALUES = 65536
}; /* of a weight tensor's histogram: every n-th element where it has more */

/* A fresh run replaces what an earlier one left in the folder and begins an HParams session: the settings that were given,
 * method, student, teacher, seed. */
Err *board_open(const Run *run, Events **out);
/* Of run->interval. */
Err *board_step(Events *events, const Run *run);
Err *board_epoch(Events *events, const Run *run, const EpochRecord *record);
/* One histogram for each of the student's parameters. */
Err *board_weights(Events *events, const Run *run);

#endif
