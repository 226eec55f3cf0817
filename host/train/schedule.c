/* Learning-rate schedules: the value of the bare schedule at a point of training, and the warm-up ramp in front of it. */
#include "train/schedule.h"

#include "base/err.h"

#include <math.h>

static const double PI = 3.14159265358979323846;

/* Share of the epochs after warm-up that lies behind, 0..1: at the start of the epoch, or of the step. */
static double progress(const Schedule *schedule, int epoch, int step, int steps_per_epoch)
{
    const double done = (double)(epoch - schedule->warmup_epochs) +
                        (schedule->per_step ? (double)step / steps_per_epoch : 0.0);
    const double length = (double)(schedule->epochs - schedule->warmup_epochs);
    /* Training longer than planned stays at the end: a cosine would rise again. */
    if (length <= 0.0) {
        return done > 0.0 ? 1.0 : 0.0;
    }
    return fmin(fmax(done / length, 0.0), 1.0);
}

/* Multiplied one by one, not with pow: PyTorch's MultiStepLR chains its factors, and so the rates are equal to the bit. */
static double multistep(const Schedule *schedule, int epoch)
{
    double rate = schedule->lr;
    for (int i = 0; i < schedule->n_milestones; i++) {
        if (schedule->milestones[i] <= epoch) {
            rate *= schedule->gamma;
        }
    }
    return rate;
}

static double without_warmup(const Schedule *schedule, int epoch, int step, int steps_per_epoch)
{
    const double fall = schedule->lr - schedule->min_lr;
    switch (schedule->kind) {
    case SCHEDULE_CONSTANT:
        break;
    case SCHEDULE_MULTISTEP:
        return multistep(schedule, epoch);
    case SCHEDULE_COSINE:
        return schedule->min_lr +
               0.5 * fall * (1.0 + cos(PI * progress(schedule, epoch, step, steps_per_epoch)));
    case SCHEDULE_LINEAR:
        return schedule->lr - fall * progress(schedule, epoch, step, steps_per_epoch);
    }
    return schedule->lr;
}

double schedule_lr(const Schedule *schedule, int epoch, int step, int steps_per_epoch)
{
    CHECK(steps_per_epoch > 0 && epoch >= 0 && step >= 0, "epoch %d, step %d of %d", epoch, step,
          steps_per_epoch);
    CHECK(schedule->n_milestones >= 0 && schedule->n_milestones <= SCHEDULE_MAX_MILESTONES,
          "%d milestones of at most %d", schedule->n_milestones, SCHEDULE_MAX_MILESTONES);
    if (epoch >= schedule->warmup_epochs) {
        return without_warmup(schedule, epoch, step, steps_per_epoch);
    }
    const double target = without_warmup(schedule, schedule->warmup_epochs, 0, steps_per_epoch);
    const double share = (epoch + (double)step / steps_per_epoch) / schedule->warmup_epochs;
    return schedule->warmup_start + (target - schedule->warmup_start) * share;
}
