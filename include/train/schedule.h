/* Learning-rate schedules as pure functions of the position in training, so that resume needs no state. */
#ifndef CUDISTILL_TRAIN_SCHEDULE_H
#define CUDISTILL_TRAIN_SCHEDULE_H

#include <stdbool.h>

typedef enum {
    SCHEDULE_CONSTANT,
    SCHEDULE_MULTISTEP,
    SCHEDULE_COSINE,
    SCHEDULE_LINEAR
} ScheduleKind;
enum { SCHEDULE_MAX_MILESTONES = 32 };

typedef struct {
    ScheduleKind kind;
    double lr;     /* peak */
    double min_lr; /* end of cosine and linear */
    int epochs;
    int milestones
        [SCHEDULE_MAX_MILESTONES]; /* multistep: the rate falls by gamma after this many whole epochs */
    int n_milestones;
    double gamma;
    int warmup_epochs; /* linear from warmup_start to the schedule's value, per step */
    double warmup_start;
    bool
        per_step; /* cosine and linear move every step (true) or every epoch, as PyTorch's do (false) */
} Schedule;

/* Rate of step `step` (from 0) of `epoch` (from 0) with steps_per_epoch steps. Multistep: lr * gamma^(milestones <= epoch),
 * as PyTorch's MultiStepLR and RepDistiller's drop (first used in epoch milestone+1, counted from 1).
 * Cosine: min + (lr-min)/2 * (1+cos(pi*t)), t = progress over the epochs after warm-up. */
double schedule_lr(const Schedule *schedule, int epoch, int step, int steps_per_epoch);

#endif
