/* train.skip_zscore: an update is skipped when its gradient is longer than the mean of the recent ones by more than z of
 * their standard deviations (llm.c's outlier detector). The device decides (HYPER_SKIP_NORM) by a limit from steps that
 * were accounted for when it was sent: for step n the norms of steps n-129 to n-2, always the same ones whatever is in
 * flight, so that a resumed run decides the same. Norms that are not finite are left out; those that were skipped for
 * their length are not, so that a new level is accepted in time. */
#ifndef CUDISTILL_TRAIN_NORM_LIMIT_H
#define CUDISTILL_TRAIN_NORM_LIMIT_H

#include "train/run.h"

/* The limit for step `step` (from 0). 0, no limit: z is 0, or fewer than 64 of the 128 steps have a norm. */
float norm_limit(const float norms[NORM_RING], long step, double z);
/* Notes the norm of a step, sqrt(grad_stats[0]) / loss_scale, as the device computes it. Gives it; 0 when the gradient is
 * not finite. */
double norm_note(float norms[NORM_RING], long step, const float grad_stats[2], float loss_scale);

#endif
